//! `LLMProvider`: an account or endpoint at a provider.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What stands at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Which provider's API stands at the URL.")]
pub enum ProviderType {
    /// OpenAI.
    OpenAI,
    /// Anthropic.
    Anthropic,
    /// Google Gemini API.
    Google,
    /// Mistral.
    Mistral,
    /// OpenRouter.
    OpenRouter,
    /// xAI.
    XAI,
    /// Groq.
    Groq,
    /// Cohere.
    Cohere,
    /// DeepSeek.
    DeepSeek,
    /// Together.
    Together,
    /// Hugging Face.
    HuggingFace,
    /// A LiteLLM proxy.
    LiteLLM,
    /// An account of Azure OpenAI (Cognitive Services).
    AzureOpenAI,
    /// AWS Bedrock, by its API keys.
    Bedrock,
    /// Any server that speaks OpenAI's data API, such as vLLM.
    OpenAICompatible,
}

impl ProviderType {
    /// The type as the API spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAI => "OpenAI",
            Self::Anthropic => "Anthropic",
            Self::Google => "Google",
            Self::Mistral => "Mistral",
            Self::OpenRouter => "OpenRouter",
            Self::XAI => "XAI",
            Self::Groq => "Groq",
            Self::Cohere => "Cohere",
            Self::DeepSeek => "DeepSeek",
            Self::Together => "Together",
            Self::HuggingFace => "HuggingFace",
            Self::LiteLLM => "LiteLLM",
            Self::AzureOpenAI => "AzureOpenAI",
            Self::Bedrock => "Bedrock",
            Self::OpenAICompatible => "OpenAICompatible",
        }
    }

    /// Whether its place is the account itself, so that what is known of one says nothing of another one.
    pub const fn is_one_account(self) -> bool {
        matches!(self, Self::AzureOpenAI | Self::Bedrock)
    }

    /// What a provider calls the part of an account that keys are made in.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Anthropic | Self::Mistral | Self::OpenRouter => "workspace",
            Self::LiteLLM | Self::XAI => "team",
            Self::AzureOpenAI => "account",
            Self::Bedrock => "IAM user",
            _ => "project",
        }
    }
}

/// An account or endpoint at a provider, written by the platform's administrators.
///
/// A namespace may use it only if `allowedNamespaces` lists it. Without `adminCredentialRef` it serves for
/// validation only: nothing is minted or revoked.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[kube(
    group = "llmkeys.dev",
    version = "v1alpha1",
    kind = "LLMProvider",
    plural = "llmproviders",
    status = "LLMProviderStatus",
    derive = "PartialEq",
    shortname = "lpr",
    category = "llm",
    doc = "A provider account or endpoint, written by the platform's administrators.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.baseURL", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == oldSelf.type").message("type: a provider's type does not change; create another LLMProvider"),
    validation = Rule::new("self.type != 'OpenAICompatible' || has(self.baseURL)").message("baseURL: OpenAICompatible has no public endpoint of its own; set the server's URL"),
    validation = Rule::new("self.type != 'LiteLLM' || has(self.baseURL)").message("baseURL: a LiteLLM proxy has no public endpoint; set its URL"),
    validation = Rule::new("self.type != 'LiteLLM' || !has(self.baseURL) || !self.baseURL.matches('/v1/?$')").message("baseURL: the URL of the LiteLLM proxy itself, without /v1: its API for keys is not below that"),
    validation = Rule::new("!has(self.liteLLM) || self.type == 'LiteLLM'").message("liteLLM: only for type LiteLLM"),
    validation = Rule::new("self.type != 'AzureOpenAI' || has(self.azureOpenAI) || has(self.baseURL)").message("azureOpenAI: names the account; without it keys are checked only, and baseURL says where"),
    validation = Rule::new("self.type != 'AzureOpenAI' || !has(self.adminCredentialRef) || has(self.azureOpenAI)").message("azureOpenAI: an admin credential of Azure needs azureOpenAI, the account whose keys are made anew"),
    validation = Rule::new("!has(self.azureOpenAI) || self.type == 'AzureOpenAI'").message("azureOpenAI: only for type AzureOpenAI"),
    validation = Rule::new("!has(oldSelf.azureOpenAI) || has(self.azureOpenAI) && self.azureOpenAI.subscription == oldSelf.azureOpenAI.subscription && self.azureOpenAI.resourceGroup == oldSelf.azureOpenAI.resourceGroup && self.azureOpenAI.account == oldSelf.azureOpenAI.account").message("azureOpenAI: the account does not change; create another LLMProvider"),
    validation = Rule::new("self.type != 'Bedrock' || has(self.bedrock) || has(self.baseURL)").message("bedrock: names region, AWS account and user; without it keys are checked only, and baseURL says where"),
    validation = Rule::new("self.type != 'Bedrock' || !has(self.adminCredentialRef) || has(self.bedrock)").message("bedrock: an admin credential of AWS needs bedrock, the IAM user whose credentials the keys are"),
    validation = Rule::new("!has(self.bedrock) || self.type == 'Bedrock'").message("bedrock: only for type Bedrock"),
    validation = Rule::new("!has(oldSelf.bedrock) || has(self.bedrock) && self.bedrock.accountID == oldSelf.bedrock.accountID && self.bedrock.userName == oldSelf.bedrock.userName").message("bedrock: the user does not change; create another LLMProvider"),
    validation = Rule::new("!has(self.google) || self.type == 'Google'").message("google: only for type Google"),
    validation = Rule::new("self.type != 'Google' || !has(self.adminCredentialRef) || has(self.google)").message("google: an admin credential of Google needs google.project and google.serviceAccountEmail, where keys are made and what they are bound to"),
    validation = Rule::new("!has(self.anthropic) || self.type == 'Anthropic'").message("anthropic: only for type Anthropic"),
    validation = Rule::new("self.type != 'Anthropic' || !has(self.adminCredentialRef) || has(self.anthropic)").message("anthropic: an Admin API key of Anthropic needs anthropic.workspace, the workspace that keys are in"),
    validation = Rule::new("!has(self.xAI) || self.type == 'XAI'").message("xAI: only for type XAI"),
    validation = Rule::new("self.type != 'XAI' || !has(self.adminCredentialRef) || has(self.xAI)").message("xAI: a management key of xAI needs xAI.team, the team that keys are made in"),
    validation = Rule::new("!has(self.mistral) || self.type == 'Mistral'").message("mistral: only for type Mistral"),
    validation = Rule::new("self.type != 'Mistral' || !has(self.adminCredentialRef) || has(self.mistral)").message("mistral: an Admin API key of Mistral needs mistral.workspace, the workspace that keys are made in"),
    validation = Rule::new("!has(self.openAI) || self.type == 'OpenAI'").message("openAI: only for type OpenAI"),
    validation = Rule::new("!has(self.openRouter) || self.type == 'OpenRouter'").message("openRouter: only for type OpenRouter"),
    validation = Rule::new("self.type != 'OpenAI' || !has(self.adminCredentialRef) || has(self.openAI)").message("openAI: an admin credential of OpenAI needs openAI.project, the project that keys are made in"),
    validation = Rule::new("self.type != 'OpenRouter' || !has(self.adminCredentialRef) || has(self.openRouter)").message("openRouter: a management key of OpenRouter needs openRouter.workspace, the workspace that keys are made in")
)]
pub struct LLMProviderSpec {
    /// Which provider's API stands at the URL. Immutable.
    pub r#type: ProviderType,
    /// URL of the API, https only, for example `https://api.openai.com/v1`. Default: the type's public one.
    #[serde(default, rename = "baseURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub base_url: Option<String>,
    /// Certificate authorities (PEM) to trust for this URL, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Which addresses the URL's host may resolve to. `PublicOnly` (default) refuses private, loopback and link-local ones;
    /// `AllowPrivate` is for servers inside your network.
    #[serde(default)]
    pub addresses: Addresses,
    /// OpenAI: where keys are made.
    #[serde(default, rename = "openAI", skip_serializing_if = "Option::is_none")]
    pub open_ai: Option<OpenAIAccount>,
    /// OpenRouter: where keys are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_router: Option<OpenRouterAccount>,
    /// LiteLLM: where keys are made, and what they may do.
    #[serde(default, rename = "liteLLM", skip_serializing_if = "Option::is_none")]
    pub lite_llm: Option<LiteLLMAccount>,
    /// Azure OpenAI: the account whose two keys are made anew in turn.
    #[serde(default, rename = "azureOpenAI", skip_serializing_if = "Option::is_none")]
    pub azure_open_ai: Option<AzureOpenAIAccount>,
    /// Google: where keys are made, and what they are bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub google: Option<GoogleAccount>,
    /// Anthropic: where keys are, and whether older ones are ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anthropic: Option<AnthropicAccount>,
    /// xAI: where keys are made.
    #[serde(default, rename = "xAI", skip_serializing_if = "Option::is_none")]
    pub x_ai: Option<XAIAccount>,
    /// Mistral: where keys are made, and whether they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mistral: Option<MistralAccount>,
    /// Bedrock: the IAM user whose service-specific credentials the keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bedrock: Option<BedrockAccount>,
    /// The Secret with the admin credential, in the operator's namespace, labelled `llmkeys.dev/admin-credential=true`.
    /// Its data has `credential` and `host`; `host` must equal the URL's host, so that the credential cannot be sent elsewhere
    /// by a change of the URL. For AzureOpenAI it has `tenantID`, `clientID`, `clientSecret` (left out: workload identity), `host`, the one
    /// of the management API, and `authorityHost`, the one that tokens come from. For XAI and Mistral `host` is that of the management or Admin API. For Google `credential` is the JSON of a service account's key or of
    /// workload identity federation, and `host` the API Keys API's. For Bedrock it has `accessKeyID`, `secretAccessKey`, perhaps `sessionToken`, and
    /// `host`, the one of IAM; or, for web identity, `roleARN`, `host` and `stsHost`, the one that temporary keys come from. Without it:
    /// validation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_credential_ref: Option<SecretName>,
    /// How many keys are made here at most. Default: no limit but the operator's own, five an hour for one LLMKey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ProviderLimits>,
    /// Namespaces whose LLMKeys may use this provider: exact names. An empty list allows nobody; `"*"`, written out, allows all.
    #[schemars(length(max = 1024), inner(length(max = 63)))]
    // Not a set: a server-side apply that takes the last item of a set away leaves null, which no required field may be.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = Rule::new("self.all(n, n == '*' || n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))").message("must be exact namespace names or \"*\""))]
    pub allowed_namespaces: Vec<String>,
}

/// How many keys are made at an account at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderLimits {
    /// LLMKeys of one namespace for which keys are made here; who has one keeps it, then the oldest are next. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub keys_per_namespace: Option<i32>,
    /// Keys that are made at the account within an hour; whoever has waited longest is next. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub mints_per_hour: Option<i32>,
}

/// Which addresses may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "PublicOnly or AllowPrivate.")]
pub enum Addresses {
    /// Public addresses only.
    #[default]
    PublicOnly,
    /// Private, loopback and link-local addresses too.
    AllowPrivate,
}

/// The OpenAI account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct OpenAIAccount {
    /// Project id, for example `proj_abc123`: service accounts are made in it.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub project: String,
}

/// The OpenRouter account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct OpenRouterAccount {
    /// Id (UUID in lower case, not the slug) of the workspace that keys are made in, as `GET /workspaces` tells it to the
    /// management key; the default workspace has one too.
    #[schemars(
        length(min = 36, max = 36),
        regex(pattern = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
    )]
    pub workspace: String,
}

/// Where keys are made at a LiteLLM proxy, and what each of them may do. A change is for keys that are made from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.budgetDuration) || has(self.maxBudget)").message("budgetDuration: only with maxBudget, which it renews"))]
pub struct LiteLLMAccount {
    /// Id of the team that keys belong to; its own limits hold as well. Default: keys belong to no team. Keys that were made in
    /// another team stay there until they are rotated.
    #[serde(default, rename = "teamID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]*[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub team_id: Option<String>,
    /// Models that a key may call, by the proxy's names. Default: all that the proxy, or the team, allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
    /// US dollars that a key may spend, as a decimal number, for example `"25.50"`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"))]
    pub max_budget: Option<String>,
    /// After this time a key may spend `maxBudget` again, for example `30d`; s, m, h, d or mo. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^[1-9][0-9]{0,4}(s|m|h|d|mo)$"))]
    pub budget_duration: Option<String>,
    /// Tokens within a minute. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub tpm_limit: Option<i32>,
    /// Requests within a minute. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub rpm_limit: Option<i32>,
}

/// An account of Azure OpenAI, and that it is the operator's to change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureOpenAIAccount {
    /// Id (UUID) of the subscription. Immutable, like `resourceGroup` and `account`.
    #[schemars(
        length(min = 36, max = 36),
        regex(pattern = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")
    )]
    pub subscription: String,
    /// Name of the resource group.
    #[schemars(length(min = 1, max = 90), regex(pattern = r"^[A-Za-z0-9_().-]*[A-Za-z0-9_()-]$"))]
    pub resource_group: String,
    /// Name of the account (Cognitive Services). Without `baseURL`, its keys are checked at `https://<account>.openai.azure.com`.
    #[schemars(length(min = 2, max = 64), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"))]
    pub account: String,
    /// `Exclusive`, the only value, and to be written out: from now on both keys of the account are the operator's. When the
    /// first LLMKey comes, `Key2` is made anew and whoever has it is refused from then on; at the first rotation `Key1` is as well. Nothing
    /// but that LLMKey's workloads may use either.
    pub ownership: Ownership,
    /// URL of Azure's management API. Default: `https://management.azure.com`.
    #[serde(default, rename = "resourceManagerURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub resource_manager_url: Option<String>,
    /// URL that tokens come from. Default: `https://login.microsoftonline.com`.
    #[serde(default, rename = "authorityURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub authority_url: Option<String>,
}

/// Where keys are made at Google Cloud, and what each of them is bound to. A change is for keys that are made from then on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoogleAccount {
    /// Id (not the number) of the Google Cloud project that keys are made in. Gemini API and API Keys API must be enabled in it.
    #[schemars(length(min = 6, max = 30), regex(pattern = r"^[a-z][a-z0-9-]*[a-z0-9]$"))]
    pub project: String,
    /// Email of the service account that keys are bound to: requests with them are its requests. The Gemini API takes no keys that are not
    /// bound to one.
    #[schemars(
        length(min = 6, max = 128),
        regex(pattern = r"^[a-z0-9][a-z0-9._-]*@[a-z0-9][a-z0-9.-]*[a-z0-9]$")
    )]
    pub service_account_email: String,
    /// URL that stands for all of Google's APIs but Gemini's: that of keys and those that tokens come from. For a gateway before them;
    /// `host` of the admin credential must be its host. Default: each API's own host at googleapis.com.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub api_url: Option<String>,
}

/// The IAM user whose service-specific credentials for Bedrock are keys, and that it is the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BedrockAccount {
    /// Region whose models are called, for example `eu-central-1`: keys are checked there, and workloads are told it as `AWS_REGION`. Regions of
    /// AWS's commercial partition only.
    #[schemars(length(min = 9, max = 32), regex(pattern = r"^[a-z]{2}-[a-z]+(-[a-z]+)?-[0-9]{1,2}$"))]
    #[x_kube(validation = Rule::new("!self.startsWith('cn-') && !self.startsWith('us-gov-') && !self.startsWith('us-iso')").message("must be a region of AWS's commercial partition"))]
    pub region: String,
    /// Number of the AWS account, 12 digits: nothing is done with a credential that is another one's. Immutable, like `userName`.
    #[serde(rename = "accountID")]
    #[schemars(length(min = 12, max = 12), regex(pattern = r"^[0-9]{12}$"))]
    pub account_id: String,
    /// Name of the IAM user that the credentials belong to, without its path. IAM gives it two at most for Bedrock, so one LLMKey has it for itself.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9_+=,.@-]+$"))]
    pub user_name: String,
    /// `Exclusive`, the only value, and to be written out: from now on credentials for Bedrock that come to this user are the operator's, and one
    /// that it has not on record is deleted. What is there when the first key is made is left alone.
    pub ownership: Ownership,
    /// Days after which a new key ends by itself, whatever becomes of the operator: well more than a key is in use. Nothing is rotated because
    /// of it. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36600))]
    pub credential_age_days: Option<i32>,
    /// URL of IAM. Default: `https://iam.amazonaws.com`.
    #[serde(default, rename = "iamURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub iam_url: Option<String>,
    /// URL of STS, for web identity. Default: `https://sts.<region>.amazonaws.com`.
    #[serde(default, rename = "stsURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub sts_url: Option<String>,
}

/// Where supplied keys are at Anthropic. Its API makes none: they are made by a person, and told by their hints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnthropicAccount {
    /// Id of the workspace that keys are in, for example `wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ`; `default` for the default workspace.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9_-]+$"))]
    pub workspace: String,
    /// Whether a supplied key that a newer one has replaced is ended at Anthropic, on the evidence that a made key needs: it is switched
    /// off, and once it is refused it is archived, which nobody can take back. Only a key that is told by its hint alone is ended. Default:
    /// false; whoever made it ends it.
    #[serde(default)]
    pub end_supplied_keys: bool,
}

/// Where keys are made at xAI.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct XAIAccount {
    /// Id of the team that keys are made in. They may use all its models and endpoints.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._-]*[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub team: String,
    /// URL of xAI's management API; `host` of the admin credential must be its host. Default: `https://management-api.x.ai`.
    #[serde(default, rename = "managementURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub management_url: Option<String>,
}

/// Where keys are made at Mistral, and whether they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MistralAccount {
    /// Id (UUID) of the workspace that keys are made in.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub workspace: String,
    /// Id of the user that keys are made for. Default: none is named.
    #[serde(default, rename = "userID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub user_id: Option<String>,
    /// URL of Mistral's Admin API; `host` of the admin credential must be its host. Mistral's documentation has it at more than one
    /// place. Default: `https://api.mistral.ai/v1/admin`.
    #[serde(default, rename = "adminURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("isURL(self) && url(self).getScheme() == 'https' && url(self).getHost() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')").message("must be an https URL with a host and without user, query and fragment"))]
    pub admin_url: Option<String>,
    /// Whether keys are made, though Mistral documents no call that ends one: if the undocumented one does not work, an older key, or one
    /// whose answer was lost, is told of until a person deletes it. Default: false; supply keys instead.
    #[serde(default)]
    pub allow_unrecoverable_mint: bool,
}

/// Whose the keys of an account, or of a user, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Exclusive: the keys are the operator's, and nothing else uses or makes any.")]
pub enum Ownership {
    /// They are the operator's.
    Exclusive,
}

/// Names a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SecretName {
    /// Name of the Secret.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = super::OBJECT_NAME)
    )]
    pub name: String,
}

/// Why nothing is made or revoked at an account, and what ends it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct FrozenAccount {
    /// ClonedCluster, LedgerRolledBack, MassDeletion or ProviderSuspect.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What the annotation `llmkeys.dev/acknowledge` must say.
    #[schemars(length(max = 64))]
    pub token: String,
    /// Since when, RFC 3339.
    #[schemars(length(max = 64))]
    pub since: String,
    /// Keys, or LLMKeys, that it is about.
    pub count: i32,
}

/// What the operator observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LLMProviderStatus {
    /// Generation of the spec that this status speaks of; -1 before the first visit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The URL in use.
    #[serde(default, rename = "baseURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub base_url: Option<String>,
    /// What this account can do here, sorted: Disable, LastUsed, List, Match, Mint, Revoke, Usage, Validate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub capabilities: Vec<String>,
    /// LLMKeys that refer to this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i32>,
    /// Keys at the account that bear this installation's names and that no ledger holds; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphans: Option<i32>,
    /// No key is made or revoked at the account until a person sets the annotation `llmkeys.dev/acknowledge` to the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenAccount>,
}
