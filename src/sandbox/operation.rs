//! The operations of the API.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

/// The operations of the API, as named in rules and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// `GET /v1/organization/projects`
    ListProjects,
    /// `GET /v1/organization/projects/{project}`
    GetProject,
    /// `POST …/service_accounts`
    CreateServiceAccount,
    /// `GET …/service_accounts`
    ListServiceAccounts,
    /// `GET …/service_accounts/{account}`
    GetServiceAccount,
    /// `DELETE …/service_accounts/{account}`
    DeleteServiceAccount,
    /// `POST …/service_accounts/{account}/api_keys`
    CreateServiceAccountKey,
    /// `GET …/api_keys`
    ListKeys,
    /// `GET …/api_keys/{key}`
    GetKey,
    /// `DELETE …/api_keys/{key}`
    DeleteKey,
    /// `GET /v1/models`, the data call that validates a key.
    ListModels,
    /// `POST /v1/chat/completions`, the data call that uses something.
    Complete,
    /// `GET /v1/organization/usage/completions`
    GetCompletionsUsage,
    /// `GET /v1/organization/usage/embeddings`
    GetEmbeddingsUsage,
    /// `GET /v1/organization/costs`
    GetCosts,
    /// OpenRouter: `GET /api/v1/workspaces/{workspace}`
    GetWorkspace,
    /// OpenRouter: `POST /api/v1/keys`
    CreateRouterKey,
    /// OpenRouter: `GET /api/v1/keys`
    ListRouterKeys,
    /// OpenRouter: `GET /api/v1/keys/{hash}`
    GetRouterKey,
    /// OpenRouter: `PATCH /api/v1/keys/{hash}`
    UpdateRouterKey,
    /// OpenRouter: `DELETE /api/v1/keys/{hash}`
    DeleteRouterKey,
    /// OpenRouter: `GET /api/v1/key`, the data call that validates a key.
    CheckRouterKey,
    /// OpenRouter: `POST /api/v1/chat/completions`
    CompleteRouter,
    /// LiteLLM: `GET /team/info`
    GetTeam,
    /// LiteLLM: `POST /key/generate`
    GenerateProxyKey,
    /// LiteLLM: `GET /key/list`
    ListProxyKeys,
    /// LiteLLM: `GET /key/info?key=`
    LookUpProxyKey,
    /// LiteLLM: `POST /key/delete`
    DeleteProxyKeys,
    /// LiteLLM: `POST /key/block` and `POST /key/unblock`
    BlockProxyKey,
    /// LiteLLM: `GET /key/info`, the data call that validates a key.
    CheckProxyKey,
    /// LiteLLM: `GET /v1/models`, the one for keys that may not ask about themselves.
    ListProxyModels,
    /// LiteLLM: `POST /v1/chat/completions`
    CompleteProxy,
    /// Azure: `POST /{tenant}/oauth2/v2.0/token`
    RequestToken,
    /// Azure: `POST …/accounts/{account}/listKeys`
    ListSlots,
    /// Azure: `POST …/accounts/{account}/regenerateKey`
    RenewSlot,
    /// Azure: `GET /openai/models`, the data call that validates a key.
    ListDeployedModels,
    /// Google: `POST /token`, by an assertion that a service account's key has signed.
    ExchangeAssertion,
    /// Google: `POST /v1/token`, by a token of the cluster.
    ExchangeSubject,
    /// Google: `POST …/serviceAccounts/{email}:generateAccessToken`
    Impersonate,
    /// Google: `POST …/keys?keyId=`
    CreateApiKey,
    /// Google: `GET /v2/operations/{operation}`
    GetOperation,
    /// Google: `GET …/keys`
    ListApiKeys,
    /// Google: `GET …/keys/{key}`
    GetApiKey,
    /// Google: `GET …/keys/{key}/keyString`
    GetKeyString,
    /// Google: `DELETE …/keys/{key}`
    DeleteApiKey,
    /// Google: `POST …/keys/{key}:undelete`
    UndeleteApiKey,
    /// Google: `GET /v1beta/models`, the data call that validates a key.
    ListGeminiModels,
    /// IAM: `GetUser`
    GetUser,
    /// IAM: `CreateServiceSpecificCredential`
    CreateCredential,
    /// IAM: `ListServiceSpecificCredentials`
    ListCredentials,
    /// IAM: `UpdateServiceSpecificCredential`
    UpdateCredential,
    /// IAM: `DeleteServiceSpecificCredential`
    DeleteCredential,
    /// STS: `AssumeRoleWithWebIdentity`
    TakeRole,
    /// Bedrock: `GET /foundation-models`, the data call that validates a key.
    ListFoundationModels,
    /// Anthropic: `GET /v1/organizations/api_keys`
    ListConsoleKeys,
    /// Anthropic: `GET /v1/organizations/api_keys/{key}`
    GetConsoleKey,
    /// Anthropic: `POST /v1/organizations/api_keys/{key}`
    UpdateConsoleKey,
    /// Anthropic: `GET /v1/organizations/usage_report/messages`
    GetMessagesUsage,
    /// Anthropic: `GET /v1/models`, the data call that validates a key.
    ListClaudeModels,
    /// xAI: `POST /auth/teams/{team}/api-keys`
    CreateTeamKey,
    /// xAI: `GET /auth/teams/{team}/api-keys`
    ListTeamKeys,
    /// xAI: `PUT /auth/api-keys/{key}`
    UpdateTeamKey,
    /// xAI: `DELETE /auth/api-keys/{key}`
    DeleteTeamKey,
    /// xAI: `GET /auth/api-keys/{key}/propagation`
    GetPropagation,
    /// xAI: `GET /v1/api-key`, the data call that validates a key.
    CheckTeamKey,
    /// Mistral: `POST …/api-keys`
    CreateWorkspaceKey,
    /// Mistral: `GET …/api-keys`
    ListWorkspaceKeys,
    /// Mistral: `DELETE …/api-keys/{key}`, which is not documented.
    DeleteWorkspaceKey,
    /// Mistral: `GET /v1/whoami`, the data call that validates a key.
    WhoAmI,
}

/// Whose API is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's: projects, service accounts and their keys.
    OpenAI,
    /// OpenRouter's: workspaces and keys.
    OpenRouter,
    /// A LiteLLM proxy's: teams and virtual keys.
    LiteLLM,
    /// Azure's: accounts with two slots.
    Azure,
    /// Google's: projects and keys, whose ids their makers choose.
    Google,
    /// AWS's: users and their credentials for Bedrock.
    Bedrock,
    /// Anthropic's: workspaces, and keys that people make.
    Anthropic,
    /// xAI's: teams and keys.
    Xai,
    /// Mistral's: workspaces and keys.
    Mistral,
}

impl Operation {
    /// Method and path in the short form that people read.
    pub fn path(self) -> &'static str {
        match self {
            Self::ListProjects => "GET projects",
            Self::GetProject => "GET project",
            Self::CreateServiceAccount => "POST service_accounts",
            Self::ListServiceAccounts => "GET service_accounts",
            Self::GetServiceAccount => "GET service_account",
            Self::DeleteServiceAccount => "DELETE service_account",
            Self::CreateServiceAccountKey => "POST service_account/api_keys",
            Self::ListKeys => "GET api_keys",
            Self::GetKey => "GET api_key",
            Self::DeleteKey => "DELETE api_key",
            Self::ListModels => "GET models",
            Self::Complete => "POST chat/completions",
            Self::GetCompletionsUsage => "GET usage/completions",
            Self::GetEmbeddingsUsage => "GET usage/embeddings",
            Self::GetCosts => "GET costs",
            Self::GetWorkspace => "GET workspace",
            Self::CreateRouterKey => "POST keys",
            Self::ListRouterKeys => "GET keys",
            Self::GetRouterKey => "GET keys/hash",
            Self::UpdateRouterKey => "PATCH keys/hash",
            Self::DeleteRouterKey => "DELETE keys/hash",
            Self::CheckRouterKey => "GET key",
            Self::CompleteRouter => "POST chat/completions of the router",
            Self::GetTeam => "GET team/info",
            Self::GenerateProxyKey => "POST key/generate",
            Self::ListProxyKeys => "GET key/list",
            Self::LookUpProxyKey => "GET key/info of another",
            Self::DeleteProxyKeys => "POST key/delete",
            Self::BlockProxyKey => "POST key/block",
            Self::CheckProxyKey => "GET key/info",
            Self::ListProxyModels => "GET models of the proxy",
            Self::CompleteProxy => "POST chat/completions of the proxy",
            Self::RequestToken => "POST token",
            Self::ListSlots => "POST listKeys",
            Self::RenewSlot => "POST regenerateKey",
            Self::ListDeployedModels => "GET openai/models",
            Self::ExchangeAssertion => "POST token by assertion",
            Self::ExchangeSubject => "POST token by token",
            Self::Impersonate => "POST generateAccessToken",
            Self::CreateApiKey => "POST keys?keyId",
            Self::GetOperation => "GET operation",
            Self::ListApiKeys => "GET keys of a project",
            Self::GetApiKey => "GET keys/id",
            Self::GetKeyString => "GET keys/id/keyString",
            Self::DeleteApiKey => "DELETE keys/id",
            Self::UndeleteApiKey => "POST keys/id:undelete",
            Self::ListGeminiModels => "GET v1beta/models",
            Self::GetUser => "GetUser",
            Self::CreateCredential => "CreateServiceSpecificCredential",
            Self::ListCredentials => "ListServiceSpecificCredentials",
            Self::UpdateCredential => "UpdateServiceSpecificCredential",
            Self::DeleteCredential => "DeleteServiceSpecificCredential",
            Self::TakeRole => "AssumeRoleWithWebIdentity",
            Self::ListFoundationModels => "GET foundation-models",
            Self::ListConsoleKeys => "GET organizations/api_keys",
            Self::GetConsoleKey => "GET organizations/api_keys/id",
            Self::UpdateConsoleKey => "POST organizations/api_keys/id",
            Self::GetMessagesUsage => "GET usage_report/messages",
            Self::ListClaudeModels => "GET models of Claude",
            Self::CreateTeamKey => "POST team/api-keys",
            Self::ListTeamKeys => "GET team/api-keys",
            Self::UpdateTeamKey => "PUT api-keys/id",
            Self::DeleteTeamKey => "DELETE api-keys/id",
            Self::GetPropagation => "GET api-keys/id/propagation",
            Self::CheckTeamKey => "GET api-key",
            Self::CreateWorkspaceKey => "POST admin/api-keys",
            Self::ListWorkspaceKeys => "GET admin/api-keys",
            Self::DeleteWorkspaceKey => "DELETE admin/api-keys/id",
            Self::WhoAmI => "GET whoami",
        }
    }

    /// Whether a key is used by the call, not administered.
    pub(super) fn is_data_call(self) -> bool {
        matches!(
            self,
            Self::ListModels
                | Self::Complete
                | Self::CheckRouterKey
                | Self::CompleteRouter
                | Self::CheckProxyKey
                | Self::ListProxyModels
                | Self::CompleteProxy
                | Self::ListDeployedModels
                | Self::ListGeminiModels
                | Self::ListFoundationModels
                | Self::ListClaudeModels
                | Self::CheckTeamKey
                | Self::WhoAmI
        )
    }

    /// Whose API it belongs to.
    pub(super) fn dialect(self) -> Dialect {
        match self {
            Self::GetWorkspace
            | Self::CreateRouterKey
            | Self::ListRouterKeys
            | Self::GetRouterKey
            | Self::UpdateRouterKey
            | Self::DeleteRouterKey
            | Self::CheckRouterKey
            | Self::CompleteRouter => Dialect::OpenRouter,
            Self::GetTeam
            | Self::GenerateProxyKey
            | Self::ListProxyKeys
            | Self::LookUpProxyKey
            | Self::DeleteProxyKeys
            | Self::BlockProxyKey
            | Self::CheckProxyKey
            | Self::ListProxyModels
            | Self::CompleteProxy => Dialect::LiteLLM,
            Self::RequestToken | Self::ListSlots | Self::RenewSlot | Self::ListDeployedModels => {
                Dialect::Azure
            }
            Self::ExchangeAssertion
            | Self::ExchangeSubject
            | Self::Impersonate
            | Self::CreateApiKey
            | Self::GetOperation
            | Self::ListApiKeys
            | Self::GetApiKey
            | Self::GetKeyString
            | Self::DeleteApiKey
            | Self::UndeleteApiKey
            | Self::ListGeminiModels => Dialect::Google,
            Self::GetUser
            | Self::CreateCredential
            | Self::ListCredentials
            | Self::UpdateCredential
            | Self::DeleteCredential
            | Self::TakeRole
            | Self::ListFoundationModels => Dialect::Bedrock,
            Self::ListConsoleKeys
            | Self::GetConsoleKey
            | Self::UpdateConsoleKey
            | Self::GetMessagesUsage
            | Self::ListClaudeModels => Dialect::Anthropic,
            Self::CreateTeamKey
            | Self::ListTeamKeys
            | Self::UpdateTeamKey
            | Self::DeleteTeamKey
            | Self::GetPropagation
            | Self::CheckTeamKey => Dialect::Xai,
            Self::CreateWorkspaceKey | Self::ListWorkspaceKeys | Self::DeleteWorkspaceKey | Self::WhoAmI => {
                Dialect::Mistral
            }
            _ => Dialect::OpenAI,
        }
    }

    /// The status of its success.
    pub(super) fn success(self) -> StatusCode {
        if self == Self::CreateRouterKey { StatusCode::CREATED } else { StatusCode::OK }
    }
}
