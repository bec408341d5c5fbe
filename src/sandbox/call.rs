//! The calls of all APIs, and who carries them out.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{
    azure::{RenewSlot, TokenForm},
    bedrock::AwsForm,
    credential::Credential,
    google::{ApiKeyPage, CreateApiKey},
    google_office::GrantForm,
    litellm::{self, BlockKey, DeleteKeys, GenerateKey, ProxyPage},
    log::Effect,
    openai::{CreateAccount, CreateKey, PageQuery},
    openrouter::{CreateRouterKey, RouterPage, UpdateRouterKey},
    operation::{Dialect, Operation},
    records::Project,
    usage::{Completion, UsageQuery},
    wire::ApiError,
    world::{Verdict, World},
};

/// One call, parsed. A body or query that cannot be read is refused only after the caller was identified.
pub(super) struct Call {
    /// Which operation.
    pub(super) operation: Operation,
    /// The project's id from the path.
    pub(super) project: Option<String>,
    /// The service account's or key's id from the path.
    pub(super) object: Option<String>,
    /// What else came.
    pub(super) input: Result<Input, ApiError>,
}

/// Query or body of a call.
pub(super) enum Input {
    /// Neither.
    Empty,
    /// A list's query.
    Page(PageQuery),
    /// A service account to create.
    Account(CreateAccount),
    /// A key to create.
    Key(CreateKey),
    /// A call of a model.
    Completion(Completion),
    /// A report's query.
    Usage(UsageQuery),
    /// OpenRouter: a list's query.
    RouterPage(RouterPage),
    /// OpenRouter: a key to create.
    RouterKey(CreateRouterKey),
    /// OpenRouter: what to change of a key.
    RouterUpdate(UpdateRouterKey),
    /// LiteLLM: a list's query.
    ProxyPage(ProxyPage),
    /// LiteLLM: a key to make.
    GenerateKey(GenerateKey),
    /// LiteLLM: keys to delete.
    DeleteKeys(DeleteKeys),
    /// LiteLLM: a key to block or unblock.
    BlockKey(BlockKey),
    /// Azure: who asks for a token.
    TokenForm(TokenForm),
    /// Azure: the slot that is made anew.
    RenewSlot(RenewSlot),
    /// Anthropic, xAI, Mistral: a body.
    Json(Value),
    /// Anthropic, xAI, Mistral: a query's pairs.
    Pairs(Vec<(String, String)>),
    /// Google: who asks for a token.
    Grant(GrantForm),
    /// Google: a list's query.
    ApiKeyPage(ApiKeyPage),
    /// Google: a key to make.
    CreateApiKey(CreateApiKey),
    /// AWS: a form of the Query protocol.
    AwsForm(AwsForm),
}

/// What a call is about, known before it takes effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    /// The project's id.
    pub(super) project: Option<String>,
    /// The name of the account, or of the key if a person owns it.
    pub(super) name: Option<String>,
    /// The id of the object.
    pub(super) object: Option<String>,
}

/// What a call did.
pub(super) struct Outcome {
    /// Effect on the state.
    pub(super) effect: Effect,
    /// Id of an object created.
    pub(super) created: Option<String>,
    /// Keys created, killed or used.
    pub(super) keys: Vec<String>,
    /// The answer; none stands for the fixed list of models.
    pub(super) answer: Result<Option<Value>, ApiError>,
}

impl Outcome {
    pub(super) fn read(body: Value) -> Self {
        Self { effect: Effect::None, created: None, keys: Vec::new(), answer: Ok(Some(body)) }
    }

    pub(super) fn committed(body: Value, created: Option<String>, keys: Vec<String>) -> Self {
        Self { effect: Effect::Committed, created, keys, answer: Ok(Some(body)) }
    }
}

impl From<ApiError> for Outcome {
    fn from(error: ApiError) -> Self {
        Self { effect: Effect::Refused, created: None, keys: Vec::new(), answer: Err(error) }
    }
}

impl World {
    /// What the call is about, for matching faults and for the log.
    pub(super) fn subject(&self, call: &Call, credential: &Credential) -> Subject {
        if call.operation.is_data_call() {
            let place = credential.digest().and_then(|digest| self.place(digest));
            let Some(place) = place else {
                return Subject { project: self.pattern_project(credential), ..Subject::default() };
            };
            let project = self.projects().get(place.project);
            let key = self.key_at(place);
            return Subject {
                project: project.map(|project| project.id.clone()),
                name: project.zip(key).map(|(project, key)| project.name_of(key).to_owned()),
                object: key.map(|key| key.id.clone()),
            };
        }
        if let Some(subject) = self.keyed_subject(call) {
            return subject;
        }
        if call.operation.dialect() == Dialect::OpenRouter {
            return self.router_subject(call);
        }
        if call.operation.dialect() == Dialect::LiteLLM {
            return self.proxy_subject(call);
        }
        if call.operation.dialect() == Dialect::Azure {
            return Self::azure_subject(call);
        }
        if call.operation.dialect() == Dialect::Google {
            return Self::google_subject(call);
        }
        if call.operation.dialect() == Dialect::Bedrock {
            return Self::bedrock_subject(call);
        }
        let known = self.project_index_of(call).and_then(|index| self.projects().get(index));
        let name = match &call.input {
            Ok(Input::Account(body)) => Some(body.name.clone()),
            Ok(Input::Key(CreateKey { name: Some(name), .. })) => Some(name.clone()),
            _ => known.zip(call.object.as_deref()).and_then(|(project, id)| name_of(project, id)),
        };
        Subject { project: call.project.clone(), name, object: call.object.clone() }
    }

    fn pattern_project(&self, credential: &Credential) -> Option<String> {
        let Credential::Bearer(presented) = credential else {
            return None;
        };
        match self.judge(presented, DateTime::UNIX_EPOCH) {
            Verdict::Pattern(index) => self.projects().get(index).map(|project| project.id.clone()),
            _ => None,
        }
    }

    pub(super) fn project_index_of(&self, call: &Call) -> Option<usize> {
        call.project.as_deref().and_then(|id| self.index_in(Dialect::OpenAI, id))
    }

    /// Does what the call asks for, if the caller may.
    pub(super) fn execute(&mut self, call: &Call, credential: &Credential, now: DateTime<Utc>) -> Outcome {
        if call.operation.dialect() == Dialect::Azure {
            return self.execute_azure(call, credential, now);
        }
        if call.operation.dialect() == Dialect::Google {
            return self.execute_google(call, credential, now);
        }
        if call.operation.dialect() == Dialect::Bedrock {
            return self.execute_bedrock(call, credential, now);
        }
        if let Some(outcome) = self.execute_keyed(call, credential, now) {
            return outcome;
        }
        let Credential::Bearer(presented) = credential else {
            return match call.operation.dialect() {
                Dialect::LiteLLM => litellm::no_key().into(),
                _ => ApiError::missing_credential().into(),
            };
        };
        let verdict = self.judge(presented, now);
        if call.operation.dialect() == Dialect::OpenRouter {
            return self.execute_router(call, verdict, presented, now);
        }
        if call.operation.dialect() == Dialect::LiteLLM {
            return self.execute_proxy(call, &verdict, presented, now);
        }
        self.execute_openai(call, verdict, presented, now)
    }
}

fn name_of(project: &Project, id: &str) -> Option<String> {
    let ordinal = project.ordinal(id)?;
    let account = project.accounts.get(&ordinal).map(|account| account.name.as_str());
    account.or_else(|| project.keys.get(&ordinal).map(|key| project.name_of(key))).map(str::to_owned)
}
