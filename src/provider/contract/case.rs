//! The form of a case file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::call::{Call, With};

/// Who asks whom. `$KEY`, `$CREDENTIAL`, `$ID` and `$NAME` anywhere below it stand for its texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Head {
    /// Where the data side stands, for a type without a public URL.
    pub(super) base_url: Option<String>,
    /// The workload's key.
    pub(super) key: String,
    /// What the admin API is called with: an admin key, or a token.
    #[serde(default)]
    pub(super) credential: String,
    /// Project, workspace, team or account.
    #[serde(default)]
    pub(super) project: String,
    /// The name of a key that is to be made.
    #[serde(default)]
    pub(super) name: String,
    /// The id of the key that calls are about.
    #[serde(default)]
    pub(super) id: String,
    /// After so many days new keys end by themselves.
    pub(super) age_days: Option<i32>,
}

/// `tests/contract/<type>.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseFile {
    pub(super) head: Head,
    pub(super) calls: Vec<CallCase>,
}

/// One call: the request, and what may be answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CallCase {
    pub(super) call: Call,
    /// What the call is given beside what the head says.
    #[serde(default)]
    pub(super) with: With,
    pub(super) request: RequestCase,
    /// The call goes by the status alone, whatever the body is.
    #[serde(default)]
    pub(super) status_only: bool,
    /// The key that is asked for ends by itself.
    #[serde(default)]
    pub(super) expires: bool,
    /// Point of the list that the request itself meets.
    pub(super) point: Option<u8>,
    /// What an answer of `awkward.yaml` means here, by its name, where that is another thing than elsewhere.
    #[serde(default)]
    pub(super) awkward: BTreeMap<String, String>,
    pub(super) answers: Vec<AnswerCase>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestCase {
    /// Method and host-relative target, as they are sent.
    pub(super) line: String,
    /// All headers but `accept: application/json`, which every request has that names no other.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// JSON.
    pub(super) body: Option<Value>,
    /// Anything else.
    #[serde(default)]
    pub(super) text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerCase {
    pub(super) name: String,
    /// Point of the list of what a server must be able to do to us.
    pub(super) point: Option<u8>,
    #[serde(default = "ok")]
    pub(super) status: u16,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// JSON.
    pub(super) body: Option<Value>,
    /// XML, without white space between its elements.
    pub(super) xml: Option<String>,
    /// Anything else.
    #[serde(default)]
    pub(super) text: String,
    /// What it means, as [`Call::meaning`] puts it.
    pub(super) means: String,
    /// JSON pointers, or names of XML's elements, of what may be missing without changing that.
    #[serde(default)]
    pub(super) optional: Vec<String>,
    /// The same of what may not be missing: without any of them the answer is not understood.
    #[serde(default)]
    pub(super) required: Vec<String>,
    /// The answer counts only as it stands: a field more makes it another one.
    #[serde(default)]
    pub(super) exact: bool,
}

const fn ok() -> u16 {
    200
}

/// `awkward.yaml`: what any server may answer to any call. The three meanings are beginnings of what [`Call::meaning`] says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Awkward {
    pub(super) name: String,
    pub(super) status: u16,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) text: String,
    /// Of a key that is checked.
    pub(super) check: String,
    /// Of a call that makes a key.
    pub(super) mint: String,
    /// Of any other call.
    pub(super) other: String,
}

impl CaseFile {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Beginning {
            head: Head,
        }
        let read = |error: serde_saphyr::Error| error.to_string();
        let Beginning { head } = serde_saphyr::from_str(text).map_err(read)?;
        let text = text
            .replace("$KEY", &head.key)
            .replace("$CREDENTIAL", &head.credential)
            .replace("$ID", &head.id)
            .replace("$NAME", &head.name);
        serde_saphyr::from_str(&text).map_err(read)
    }
}

impl AnswerCase {
    /// The body's bytes as they are sent.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let text = || self.xml.clone().unwrap_or_else(|| self.text.clone());
        self.body.as_ref().map_or_else(text, Value::to_string).into_bytes()
    }
}
