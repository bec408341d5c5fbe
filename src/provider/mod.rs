//! Providers: capability sets, requests and the classification of replies.
//!
//! One file for each provider, with nothing but pure functions from a key to a request and from a reply to a meaning; one
//! shared way of sending. A provider's text never leaves this module: errors and verdicts carry our own words only.

mod account;
mod address;
mod admin_reply;
mod anthropic;
mod anthropic_admin;
mod anthropic_usage;
mod aws_reply;
mod aws_session;
mod azure;
mod azure_account;
mod azure_admin;
mod bedrock;
mod bedrock_account;
mod bedrock_admin;
mod capability;
mod chosen;
mod classification;
mod client;
mod cohere;
mod config;
#[cfg(test)]
mod contract;
mod deepseek;
mod endpoint;
mod error;
mod exchange;
mod facts;
mod google;
mod google_account;
mod google_admin;
mod google_tokens;
mod http;
mod huggingface;
mod litellm;
mod litellm_admin;
mod matching;
mod mistral;
mod mistral_admin;
mod named;
mod openai;
mod openai_admin;
mod openai_compatible;
mod openai_usage;
mod openrouter;
mod openrouter_admin;
mod shape;
mod slots;
mod together;
mod tokens;
mod usage;
mod variables;
mod xai;
mod xai_admin;

use std::time::Duration;

use serde_json::{Map, Value};

pub use account::{Account, AccountError, AdminCredential, BadKeyId, ProviderKeyId};
pub use azure_account::{AUTHORITY, AzureAccess, RESOURCE_MANAGER, azure_path};
pub use bedrock_account::{BedrockAccess, IAM, bedrock_user};
pub use capability::{Capabilities, Capability, MintKind};
pub use chosen::choose;
pub use client::{LastUsed, ListedKey, Listing, Minted, Providers, Revocation, Validation};
pub use config::{Answered, CallWatch, ProvidersConfig, Ticks, WallClock};
pub use endpoint::{Endpoint, EndpointError, PRIVATE_ADDRESS, PRIVATE_NAME, default_base_url};
pub use error::{CallError, ErrorClass, MintError};
pub use facts::{support_sources, with_support_matrix};
pub use google_account::{API_KEYS, GoogleAccess};
pub use litellm_admin::NO_TEAM;
pub use matching::NoMatch;
pub use mistral_admin::MISTRAL_ADMIN;
pub use named::Named;
pub use shape::{ShapeError, check_shape};
pub use slots::{SlotKey, slot_key_id, slot_of};
pub use usage::UsageQuestion;
pub use variables::default_data;
pub use xai_admin::XAI_MANAGEMENT;

use self::{
    classification::Finding,
    client::Page,
    exchange::{Reply, Request, Unsendable},
    facts::Fact,
    usage::UsageReports,
};
use crate::{
    api::ProviderType,
    crypto::{Entropy, EntropyError, SecretBytes},
};

/// What every provider has: a call that costs nothing and tells whether a key is accepted.
trait Dialect: Sync {
    /// The validation call.
    fn validation_request(&self, endpoint: &Endpoint, key: &SecretBytes) -> Result<Request, Unsendable>;

    /// What a 2xx or 4xx (but 429) reply with a JSON object says of the key; none if it is no known answer.
    /// Only an answer that speaks of this key alone may refuse it.
    fn judge(&self, status: u16, body: &Map<String, Value>) -> Option<Finding>;

    /// Whether a 429 is about money, not about pace.
    fn is_out_of_credit(&self, _body: &Map<String, Value>) -> bool {
        false
    }

    /// How long a 429's body asks us to wait.
    fn retry_after(&self, _body: &Map<String, Value>) -> Option<Duration> {
        None
    }

    /// Another call that tells whether the key is accepted, where this status of the first one says only that it may not make that.
    fn second_request(
        &self,
        _endpoint: &Endpoint,
        _key: &SecretBytes,
        _status: u16,
    ) -> Option<Result<Request, Unsendable>> {
        None
    }

    /// The validation call without a key, for servers that may accept anybody.
    fn keyless_request(&self, _endpoint: &Endpoint) -> Option<Request> {
        None
    }

    /// What is known of the API, with sources: once for each feature.
    fn facts(&self) -> &'static [Fact] {
        &[]
    }

    /// The admin API, where keys can be made and ended.
    fn admin(&self) -> Option<&'static dyn Admin> {
        None
    }
}

/// A provider's admin API: requests out of, and meanings into, plain data. What is about single keys is asked for only where an
/// account has keys that are told apart by their ids, and no [`Slots`].
trait Admin: Sync {
    fn capabilities(&self) -> Capabilities;
    /// How it makes keys.
    fn minting(&'static self) -> Minting;

    fn account_request(&self, _account: &Account) -> Result<Request, Unsendable> {
        Err(Unsendable)
    }

    fn read_account(&self, _account: &Account, reply: &Reply) -> Result<(), CallError> {
        Err(reply.error(ErrorClass::BadRequest, "NotSupported"))
    }

    fn list_request(&self, _account: &Account, _after: Option<&str>) -> Result<Request, Unsendable> {
        Err(Unsendable)
    }

    /// `after` is where the page was asked to start.
    fn read_list(&self, _account: &Account, _after: Option<&str>, reply: &Reply) -> Result<Page, CallError> {
        Err(reply.error(ErrorClass::BadRequest, "NotSupported"))
    }

    fn revoke_request(&self, _account: &Account, _id: &ProviderKeyId) -> Result<Request, Unsendable> {
        Err(Unsendable)
    }

    fn read_revocation(&self, _id: &ProviderKeyId, reply: &Reply) -> Result<Revocation, CallError> {
        Err(reply.error(ErrorClass::BadRequest, "NotSupported"))
    }

    /// Where it can switch keys off, and on again.
    fn switch(&self) -> Option<&'static dyn Switch> {
        None
    }

    /// Where it tells of single keys when they were last used.
    fn last_use(&self) -> Option<&'static dyn LastUse> {
        None
    }

    /// Where it tells of a supplied key which of its keys that is.
    fn matching(&self) -> Option<&'static dyn Matching> {
        None
    }

    /// Where a key that was told to be ended is only switched off until its refusal is confirmed.
    fn closing(&self) -> Option<&'static dyn Closing> {
        None
    }

    /// Where it tells how far a new key has spread.
    fn spread(&self) -> Option<&'static dyn Spread> {
        None
    }

    /// Whether nothing documents how keys are ended, so that the list alone is believed.
    fn revocation_is_unverified(&self) -> bool {
        false
    }

    /// Where it reports what keys have used.
    fn usage(&self) -> Option<&'static dyn UsageReports> {
        None
    }
}

/// How a provider makes keys.
enum Minting {
    /// Not at all.
    Never,
    ShownOnce(&'static dyn ShownOnce),
    Unnamed(&'static dyn ShownOnce),
    CallerChosen(&'static dyn CallerChosen),
    CallerNamed(&'static dyn CallerNamed),
    Slots(&'static dyn Slots),
}

/// A fixed number of slots, each with a key that can be read again and made anew.
trait Slots: Sync {
    fn read_request(
        &self,
        access: &AzureAccess,
        project: &str,
        token: &SecretBytes,
    ) -> Result<Request, Unsendable>;
    fn read_slots(&self, reply: &Reply) -> Result<Vec<SlotKey>, CallError>;
    fn renew_request(
        &self,
        access: &AzureAccess,
        project: &str,
        slot: &str,
        token: &SecretBytes,
    ) -> Result<Request, Unsendable>;
    fn read_renewed(&self, reply: &Reply) -> Result<(), MintError>;
}

/// The provider chooses the key and shows it in the one answer: lost, it is a stray. Where keys have no names, the one that was asked for is
/// left out.
trait ShownOnce: Sync {
    fn mint_request(&self, account: &Account, name: &str) -> Result<Request, Unsendable>;
    fn read_minted(&self, account: &Account, name: &str, reply: &Reply) -> Result<Minted, MintError>;
}

/// We choose the key: its id is known before it is made, and a lost answer loses nothing.
trait CallerChosen: Sync {
    fn choose(&self, entropy: &mut dyn Entropy) -> Result<SecretBytes, EntropyError>;
    fn id_of(&self, secret: &SecretBytes) -> Result<ProviderKeyId, BadKeyId>;
    fn mint_request(
        &self,
        account: &Account,
        name: &str,
        secret: &SecretBytes,
    ) -> Result<Request, Unsendable>;
    fn read_minted(&self, id: &ProviderKeyId, secret: &SecretBytes, reply: &Reply) -> Result<(), MintError>;
    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    /// Whether the key is there.
    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<bool, CallError>;
}

/// We choose the key's id; the provider chooses the key, and shows it as long as it is there. A lost answer loses nothing.
trait CallerNamed: Sync {
    fn mint_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    fn read_making(&self, reply: &Reply) -> Result<Making, MintError>;
    /// Asks how far the making of a key is.
    fn operation_request(&self, account: &Account, operation: &str) -> Result<Request, Unsendable>;
    fn read_operation(&self, reply: &Reply) -> Result<Making, MintError>;
    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<Presence, CallError>;
    fn value_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    fn read_value(&self, reply: &Reply) -> Result<SecretBytes, CallError>;
}

/// How far the making of a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Making {
    /// It goes on, under this name.
    UnderWay(String),
    /// It is over, or the id had a key before: what there is can be read.
    Over,
}

/// What there is under an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Nothing.
    Absent,
    /// A key.
    There,
    /// A key that was deleted.
    Deleted,
}

/// Keys that can be switched off, and on again. Safe to repeat.
trait Switch: Sync {
    fn switch_request(&self, account: &Account, id: &ProviderKeyId, on: bool) -> Result<Request, Unsendable>;
    /// `on`: what was asked for.
    fn read_switched(&self, id: &ProviderKeyId, on: bool, reply: &Reply) -> Result<(), CallError>;
}

/// Keys of which a part is shown, by which a supplied one is recognised.
trait Matching: Sync {
    fn hints_request(&self, account: &Account, after: Option<&str>) -> Result<Request, Unsendable>;
    /// The keys on the page that `key` may be, and where the next page starts, if there is one.
    fn read_hints(
        &self,
        account: &Account,
        key: &SecretBytes,
        reply: &Reply,
    ) -> Result<(Vec<ProviderKeyId>, Option<String>), CallError>;
}

/// Keys that are ended in two steps: [`Admin::revoke_request`] switches one off, and what is here ends it for good. Safe to repeat.
trait Closing: Sync {
    fn look_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    /// Whether the key is there and works.
    fn read_look(&self, id: &ProviderKeyId, reply: &Reply) -> Result<bool, CallError>;
    fn close_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    /// Also of a look: that the key is ended for good, or not there.
    fn read_closed(&self, id: &ProviderKeyId, reply: &Reply) -> Result<(), CallError>;
}

/// A provider's word on how far a new key has spread.
trait Spread: Sync {
    fn spread_request(&self, account: &Account, id: &ProviderKeyId) -> Result<Request, Unsendable>;
    /// Whether every part of the provider has the key; none if the answer is not understood.
    fn read_spread(&self, reply: &Reply) -> Option<bool>;
}

/// A provider's word on the last use of a key.
trait LastUse: Sync {
    fn last_used_request(&self, account: &Account, key: &str) -> Result<Request, Unsendable>;
    fn read_last_used(&self, key: &str, reply: &Reply) -> Result<LastUsed, CallError>;
}

fn dialect(provider: ProviderType) -> &'static dyn Dialect {
    match provider {
        ProviderType::OpenAI => &openai::OpenAI,
        ProviderType::Anthropic => &anthropic::Anthropic,
        ProviderType::Google => &google::Google,
        ProviderType::Mistral => &mistral::Mistral,
        ProviderType::OpenRouter => &openrouter::OpenRouter,
        ProviderType::XAI => &xai::Xai,
        ProviderType::Groq => &openai_compatible::GROQ,
        ProviderType::Cohere => &cohere::Cohere,
        ProviderType::DeepSeek => &deepseek::DeepSeek,
        ProviderType::Together => &together::Together,
        ProviderType::HuggingFace => &huggingface::HuggingFace,
        ProviderType::LiteLLM => &litellm::LiteLLM,
        ProviderType::AzureOpenAI => &azure::Azure,
        ProviderType::Bedrock => &bedrock::Bedrock,
        ProviderType::OpenAICompatible => &openai_compatible::ANY,
    }
}

const ALL: [ProviderType; 15] = [
    ProviderType::OpenAI,
    ProviderType::Anthropic,
    ProviderType::Google,
    ProviderType::Mistral,
    ProviderType::OpenRouter,
    ProviderType::XAI,
    ProviderType::Groq,
    ProviderType::Cohere,
    ProviderType::DeepSeek,
    ProviderType::Together,
    ProviderType::HuggingFace,
    ProviderType::LiteLLM,
    ProviderType::AzureOpenAI,
    ProviderType::Bedrock,
    ProviderType::OpenAICompatible,
];
