//! The operator's effects, as the proxy recognises them in its requests.

use std::fmt;

use data_encoding::BASE64;
use http::Method;
use serde_json::Value;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The finalizer is set or taken off.
    Finalizer,
    /// The first write of a ledger.
    LedgerCreate,
    /// A later write of a ledger.
    LedgerSwap,
    /// An empty ledger goes.
    LedgerDelete,
    /// The target Secret is made.
    TargetCreate,
    /// The target Secret is replaced.
    TargetUpdate,
    /// The target Secret is deleted.
    TargetDelete,
    /// The status is written.
    Status,
    /// A key is made at the provider.
    Mint,
    /// A key is revoked at the provider.
    Revoke,
    /// The provider is asked whether it accepts a key.
    Validate,
    /// The provider's keys are listed.
    List,
    /// The provider is asked when a key was used last.
    LastUse,
    /// The provider is asked for a key by its id.
    LookUp,
}

impl Kind {
    /// Nothing changes by it.
    pub const fn only_reads(self) -> bool {
        matches!(self, Self::Validate | Self::List | Self::LastUse | Self::LookUp)
    }

    /// A call to the provider.
    pub const fn is_at_the_provider(self) -> bool {
        matches!(self, Self::Mint | Self::Revoke) || self.only_reads()
    }

    /// As effects are told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finalizer => "finalizer",
            Self::LedgerCreate => "ledger:create",
            Self::LedgerSwap => "ledger:swap",
            Self::LedgerDelete => "ledger:delete",
            Self::TargetCreate => "target:create",
            Self::TargetUpdate => "target:update",
            Self::TargetDelete => "target:delete",
            Self::Status => "status",
            Self::Mint => "provider:mint",
            Self::Revoke => "provider:revoke",
            Self::Validate => "provider:validate",
            Self::List => "provider:list",
            Self::LastUse => "provider:last-use",
            Self::LookUp => "provider:look-up",
        }
    }
}

/// One effect by its canonical signature: what stays the same in every run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Effect {
    /// What it is for.
    pub kind: Kind,
    /// What it says, without anything random: the states of versions in a ledger, `on` or `off` of a finalizer.
    pub detail: String,
}

impl Effect {
    /// Whether the provider's keys are listed next, to find what this one is about: a lost key, one that is being revoked, or
    /// none any more.
    pub fn asks_for_a_list(&self) -> bool {
        let says = |state: &str| self.detail.contains(state);
        match self.kind {
            Kind::Revoke => true,
            Kind::LedgerCreate | Kind::LedgerSwap => says("Intent") || says("Retiring") || says("released"),
            _ => false,
        }
    }

    /// A list of the provider's keys after an intent. An undisturbed run searches for no lost key: there it is a sweep that came at
    /// this moment by the operator's own clock.
    pub fn searches(&self) -> bool {
        self.kind == Kind::List && self.detail.contains("Intent")
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " {}", self.detail) }
    }
}

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of the key in this namespace.
    Namespace(String),
    /// Of the key with this ledger.
    Ledger(String),
}

/// Recognises a request to the API server. None: it reads, or it is not about one key's life. Leases and events are left
/// alone on purpose (docs/evidence/README.md).
pub fn of_cluster(
    method: &Method,
    path: &str,
    body: &[u8],
    operator_namespace: &str,
) -> Option<(Whose, Effect)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "v1", "namespaces", namespace, "secrets", name @ ..] if *namespace == operator_namespace => {
            ledger(method, name, body)
        }
        ["api", "v1", "namespaces", namespace, "secrets", ..] => {
            let kind = match *method {
                Method::POST => Kind::TargetCreate,
                Method::PUT => Kind::TargetUpdate,
                Method::DELETE => Kind::TargetDelete,
                _ => return None,
            };
            Some((Whose::Namespace((*namespace).to_owned()), plain(kind)))
        }
        ["apis", "llmkeys.dev", _, "namespaces", namespace, "llmkeys", _, rest @ ..]
            if *method == Method::PATCH =>
        {
            let effect = if rest == ["status"] { plain(Kind::Status) } else { finalizer(body) };
            Some((Whose::Namespace((*namespace).to_owned()), effect))
        }
        _ => None,
    }
}

fn plain(kind: Kind) -> Effect {
    Effect { kind, detail: String::new() }
}

fn finalizer(body: &[u8]) -> Effect {
    let patch: Value = serde_json::from_slice(body).unwrap_or_default();
    let set = patch["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    Effect { kind: Kind::Finalizer, detail: if set { "on" } else { "off" }.to_owned() }
}

fn ledger(method: &Method, name: &[&str], body: &[u8]) -> Option<(Whose, Effect)> {
    if *method == Method::DELETE {
        let [name] = name else { return None };
        return Some((Whose::Ledger((*name).to_owned()), plain(Kind::LedgerDelete)));
    }
    let kind = match *method {
        Method::POST => Kind::LedgerCreate,
        Method::PUT => Kind::LedgerSwap,
        _ => return None,
    };
    let secret: Value = serde_json::from_slice(body).ok()?;
    if secret["type"] != llmkey_operator::api::LEDGER_TYPE {
        return None;
    }
    let name = secret["metadata"]["name"].as_str()?.to_owned();
    Some((Whose::Ledger(name), Effect { kind, detail: states(&secret).unwrap_or_default() }))
}

/// The states of a ledger's versions, for example `1:Overlap 2:Current`; `released` once the LLMKey is gone.
fn states(ledger: &Value) -> Option<String> {
    let bytes = BASE64.decode(ledger["data"]["record"].as_str()?.as_bytes()).ok()?;
    let record: Value = serde_json::from_slice(&bytes).ok()?;
    let versions = record["versions"].as_array()?.iter();
    let mut states: Vec<String> = versions
        .map(|version| format!("{}:{}", version["version"], version["state"].as_str().unwrap_or("?")))
        .collect();
    if record["released"].is_object() {
        states.push("released".to_owned());
    }
    Some(states.join(" "))
}

/// Recognises a call to the provider by its path and query. None: it is not about one key (the account's own check).
pub fn of_provider(method: &Method, target: &str) -> Option<Effect> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let kind = match (method.as_str(), parts.as_slice()) {
        ("GET", ["proxy", "key", "info"]) if !query.is_empty() => Kind::LookUp,
        ("GET", ["v1", "models"] | ["proxy", "key", "info"]) => Kind::Validate,
        ("POST", [.., "service_accounts"] | ["proxy", "key", "generate"]) => Kind::Mint,
        ("GET", [.., "service_accounts"] | ["proxy", "key", "list"]) => Kind::List,
        ("DELETE", [.., "service_accounts", _]) | ("POST", ["proxy", "key", "delete"]) => Kind::Revoke,
        ("GET", [.., "api_keys", _]) => Kind::LastUse,
        _ => return None,
    };
    Some(plain(kind))
}

/// The key in a target Secret's body, as it is sent.
pub fn delivered(body: &[u8], entry: &str) -> Option<Vec<u8>> {
    let secret: Value = serde_json::from_slice(body).ok()?;
    BASE64.decode(secret["data"][entry].as_str()?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(method: &Method, path: &str, body: &Value) -> Option<(Whose, String)> {
        let (whose, effect) = of_cluster(method, path, body.to_string().as_bytes(), "ops")?;
        Some((whose, effect.to_string()))
    }

    #[test]
    fn a_ledger_is_known_by_its_type_and_told_by_its_states() {
        let record =
            json!({"versions": [{"version": 1, "state": "Overlap"}, {"version": 2, "state": "Current"}]});
        let ledger = |kind: &str| {
            json!({"type": kind, "metadata": {"name": "llmkey-x"},
                   "data": {"record": BASE64.encode(record.to_string().as_bytes())}})
        };
        let whose = Whose::Ledger("llmkey-x".to_owned());
        assert_eq!(
            cluster(&Method::PUT, "/api/v1/namespaces/ops/secrets/llmkey-x", &ledger("llmkeys.dev/ledger")),
            Some((whose.clone(), "ledger:swap 1:Overlap 2:Current".to_owned()))
        );
        let other = cluster(&Method::POST, "/api/v1/namespaces/ops/secrets", &ledger("Opaque"));
        assert_eq!(other, None, "the keyring and the install");
        assert_eq!(
            cluster(&Method::DELETE, "/api/v1/namespaces/ops/secrets/llmkey-x", &Value::Null),
            Some((whose, "ledger:delete".to_owned()))
        );
    }

    #[test]
    fn a_keys_own_requests_are_told_apart_and_others_left_alone() {
        let told =
            |method: Method, path: &str, body: Value| cluster(&method, path, &body).map(|(_, effect)| effect);
        let key = "/apis/llmkeys.dev/v1alpha1/namespaces/a/llmkeys/chat";
        let finalizer = |list: Value| json!({"metadata": {"finalizers": list}});
        assert_eq!(told(Method::PATCH, key, finalizer(json!(["x"]))).as_deref(), Some("finalizer on"));
        assert_eq!(told(Method::PATCH, key, finalizer(json!([]))).as_deref(), Some("finalizer off"));
        assert_eq!(told(Method::PATCH, &format!("{key}/status"), json!({})).as_deref(), Some("status"));
        assert_eq!(told(Method::GET, key, json!({})), None);
        let secrets = "/api/v1/namespaces/a/secrets";
        assert_eq!(told(Method::POST, secrets, json!({})).as_deref(), Some("target:create"));
        assert_eq!(told(Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", json!({})), None);
    }

    #[test]
    fn calls_to_the_provider_are_told_by_operation() {
        let told = |method: Method, path: &str| of_provider(&method, path).map(|effect| effect.kind);
        let project = "/v1/organization/projects/p";
        assert_eq!(told(Method::GET, "/v1/models"), Some(Kind::Validate));
        assert_eq!(told(Method::POST, &format!("{project}/service_accounts")), Some(Kind::Mint));
        assert_eq!(told(Method::GET, &format!("{project}/service_accounts")), Some(Kind::List));
        assert_eq!(told(Method::DELETE, &format!("{project}/service_accounts/s")), Some(Kind::Revoke));
        assert_eq!(told(Method::GET, &format!("{project}/api_keys/k")), Some(Kind::LastUse));
        assert_eq!(told(Method::GET, project), None);
        assert_eq!(told(Method::GET, "/proxy/key/info"), Some(Kind::Validate));
        assert_eq!(told(Method::POST, "/proxy/key/generate"), Some(Kind::Mint));
        assert_eq!(told(Method::POST, "/proxy/key/delete"), Some(Kind::Revoke));
        assert_eq!(told(Method::GET, "/proxy/team/info"), None);
        assert_eq!(told(Method::GET, "/proxy/key/info?key=a1"), Some(Kind::LookUp));
    }
}
