//! Faults: which calls go wrong, how, and how often.

use serde::{Deserialize, Serialize};

use super::operation::Operation;

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Whether the call takes effect. Default: `before`, it does not.
    #[serde(default)]
    pub phase: Phase,
    /// How long the call is held before anything else happens, in milliseconds. It then goes on even if the
    /// client has given up: a slow provider commits too.
    #[serde(default)]
    pub delay_millis: u64,
    /// What the client gets.
    pub answer: Answer,
}

/// When the fault strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Before the effect: nothing changes at the provider.
    #[default]
    Before,
    /// After the effect: it is committed, only the answer is wrong.
    After,
}

/// What the client gets instead of the genuine answer. Error bodies have OpenAI's documented shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Answer {
    /// The genuine answer: only the delay is the fault. Always takes effect.
    Genuine,
    /// A connection reset (HTTP/1.1) or a reset stream (HTTP/2), no answer at all.
    Drop,
    /// No answer until the rule is cleared, then a reset.
    Hang,
    /// The genuine status and headers and half of the body, then the connection breaks. Always takes effect.
    CutBody,
    /// A complete HTTP answer whose JSON ends in the middle. Always takes effect.
    HalfBody,
    /// An HTML page, as a proxy on the way sends it.
    Html {
        /// HTTP status, 200..=599.
        status: u16,
    },
    /// 401 `invalid_api_key`.
    InvalidApiKey,
    /// 401 that is not about the key: the caller is not a member of an organization.
    NotInOrganization,
    /// "Missing scopes": the key is valid but restricted. OpenAI has been seen to send 403 and 401.
    MissingScopes {
        /// HTTP status.
        status: u16,
    },
    /// 403: country, region or territory not supported.
    UnsupportedCountry,
    /// 404.
    NotFound,
    /// 429 for the rate of requests.
    RateLimited {
        /// Value of `Retry-After` in seconds; without it the header is left out.
        #[serde(default)]
        retry_after_seconds: Option<u32>,
    },
    /// 429 `insufficient_quota`.
    InsufficientQuota,
    /// 500.
    InternalError,
    /// 503.
    Unavailable {
        /// Value of `Retry-After` in seconds; without it the header is left out.
        #[serde(default)]
        retry_after_seconds: Option<u32>,
    },
}

impl Fault {
    /// Nothing happens and no answer comes: a reset before the effect.
    pub const fn drop_before() -> Self {
        Self { phase: Phase::Before, delay_millis: 0, answer: Answer::Drop }
    }

    /// The effect is committed, the answer lost: a reset after the effect.
    pub const fn drop_reply() -> Self {
        Self { phase: Phase::After, delay_millis: 0, answer: Answer::Drop }
    }

    /// The call is refused with `answer`; nothing changes.
    pub const fn refuse(answer: Answer) -> Self {
        Self { phase: Phase::Before, delay_millis: 0, answer }
    }

    /// The effect is committed, then `answer` is sent.
    pub const fn after_effect(answer: Answer) -> Self {
        Self { phase: Phase::After, delay_millis: 0, answer }
    }

    /// The genuine effect and answer, `millis` milliseconds late.
    pub const fn slow(millis: u64) -> Self {
        Self { phase: Phase::After, delay_millis: millis, answer: Answer::Genuine }
    }

    /// Whether the call takes effect under this fault.
    pub fn takes_effect(&self) -> bool {
        self.phase == Phase::After
            || matches!(self.answer, Answer::Genuine | Answer::CutBody | Answer::HalfBody)
    }

    /// The fault's name in the log.
    pub(super) fn label(&self) -> &'static str {
        match (self.takes_effect(), self.answer) {
            (true, Answer::Genuine) => "slow",
            (true, Answer::Drop) => "dropReply",
            (false, Answer::Drop) => "dropBefore",
            (true, Answer::Hang) => "hangAfter",
            (_, Answer::Genuine) => "genuine",
            (_, Answer::Hang) => "hang",
            (_, Answer::CutBody) => "cutBody",
            (_, Answer::HalfBody) => "halfBody",
            (_, Answer::Html { .. }) => "html",
            (_, Answer::InvalidApiKey) => "invalidApiKey",
            (_, Answer::NotInOrganization) => "notInOrganization",
            (_, Answer::MissingScopes { .. }) => "missingScopes",
            (_, Answer::UnsupportedCountry) => "unsupportedCountry",
            (_, Answer::NotFound) => "notFound",
            (_, Answer::RateLimited { .. }) => "rateLimited",
            (_, Answer::InsufficientQuota) => "insufficientQuota",
            (_, Answer::InternalError) => "internalError",
            (_, Answer::Unavailable { .. }) => "unavailable",
        }
    }
}

/// Which calls a fault strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultRule {
    /// The operation, or every operation.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// The project's id, or every project. A data call belongs to the project of its key.
    #[serde(default)]
    pub project: Option<String>,
    /// Beginning of the name of the service account that the call, or its key, is about (of a person's key, its
    /// own name), or any name.
    #[serde(default)]
    pub name_prefix: Option<String>,
    /// How many matching calls are let through first. Default 0.
    #[serde(default)]
    pub skip: u32,
    /// How many calls are struck; without it, all until the rule is cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// What goes wrong.
    pub fault: Fault,
}

impl FaultRule {
    /// A rule that strikes every call of `operation` until it is cleared.
    pub const fn on(operation: Operation, fault: Fault) -> Self {
        Self { operation: Some(operation), project: None, name_prefix: None, skip: 0, times: None, fault }
    }

    /// A rule that strikes every call until it is cleared.
    pub const fn on_all(fault: Fault) -> Self {
        Self { operation: None, project: None, name_prefix: None, skip: 0, times: None, fault }
    }

    /// Limits the rule to one project.
    #[must_use]
    pub fn project(mut self, id: impl Into<String>) -> Self {
        self.project = Some(id.into());
        self
    }

    /// Limits the rule to names that begin with `prefix`.
    #[must_use]
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = Some(prefix.into());
        self
    }

    /// Lets the first `count` matching calls through.
    #[must_use]
    pub fn skip(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }

    /// Strikes `count` calls only.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.times = Some(count);
        self
    }

    fn matches(&self, operation: Operation, project: Option<&str>, name: Option<&str>) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.project.as_deref().is_none_or(|wanted| project == Some(wanted))
            && self
                .name_prefix
                .as_deref()
                .is_none_or(|prefix| name.is_some_and(|name| name.starts_with(prefix)))
    }
}

/// A rule and what it did so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReport {
    /// The rule's number.
    pub id: u64,
    /// The rule.
    pub rule: FaultRule,
    /// Calls that matched, skipped ones included.
    pub matched: u32,
    /// Calls that were struck. A test that planned a fault asserts that this is not zero.
    pub fired: u32,
}

/// All rules, oldest first: the first one that matches and still has strokes left wins.
#[derive(Default)]
pub(super) struct FaultTable {
    next: u64,
    rules: Vec<FaultReport>,
}

impl FaultTable {
    /// Adds a rule and returns its number.
    pub(super) fn add(&mut self, rule: FaultRule) -> u64 {
        self.next += 1;
        self.rules.push(FaultReport { id: self.next, rule, matched: 0, fired: 0 });
        self.next
    }

    /// Removes one rule. False if there is none of this number.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|armed| armed.id != id);
        before != self.rules.len()
    }

    /// Removes the rules limited to `project`, or all rules.
    pub(super) fn clear(&mut self, project: Option<&str>) {
        self.rules.retain(|armed| project.is_some() && armed.rule.project.as_deref() != project);
    }

    /// Whether the rule is still there.
    pub(super) fn contains(&self, id: u64) -> bool {
        self.rules.iter().any(|armed| armed.id == id)
    }

    /// What each rule did.
    pub(super) fn reports(&self) -> Vec<FaultReport> {
        self.rules.clone()
    }

    /// The fault that strikes this call, with its rule's number; counts the call.
    pub(super) fn take(
        &mut self,
        operation: Operation,
        project: Option<&str>,
        name: Option<&str>,
    ) -> Option<(u64, Fault)> {
        for armed in &mut self.rules {
            if !armed.rule.matches(operation, project, name)
                || armed.rule.times.is_some_and(|times| armed.fired >= times)
            {
                continue;
            }
            armed.matched += 1;
            if armed.matched > armed.rule.skip {
                armed.fired += 1;
                return Some((armed.id, armed.rule.fault.clone()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_limited_by_operation_project_name_skip_and_times() {
        let mut table = FaultTable::default();
        let id = table.add(
            FaultRule::on(Operation::CreateServiceAccount, Fault::drop_reply())
                .project("proj_a")
                .name_prefix("lk1-")
                .skip(1)
                .times(2),
        );
        let create = Operation::CreateServiceAccount;
        assert_eq!(table.take(Operation::ListModels, Some("proj_a"), Some("lk1-x")), None);
        assert_eq!(table.take(create, Some("proj_b"), Some("lk1-x")), None);
        assert_eq!(table.take(create, Some("proj_a"), Some("other")), None);
        assert_eq!(table.take(create, Some("proj_a"), None), None);
        let strokes: Vec<bool> =
            (0..5).map(|_| table.take(create, Some("proj_a"), Some("lk1-x")).is_some()).collect();
        assert_eq!(strokes, [false, true, true, false, false]);
        assert_eq!((table.reports()[0].id, table.reports()[0].fired), (id, 2));
    }

    #[test]
    fn clearing_one_project_leaves_the_rules_of_others() {
        let mut table = FaultTable::default();
        table.add(FaultRule::on_all(Fault::drop_before()).project("proj_a"));
        let other = table.add(FaultRule::on_all(Fault::drop_before()).project("proj_b"));
        table.clear(Some("proj_a"));
        assert_eq!(table.reports().len(), 1);
        assert!(table.contains(other));
        table.clear(None);
        assert!(table.reports().is_empty());
    }

    #[test]
    fn rules_are_written_in_json() {
        let rule: FaultRule = serde_json::from_str(
            r#"{"operation":"createServiceAccount","times":1,"fault":{"phase":"after","answer":{"kind":"drop"}}}"#,
        )
        .unwrap();
        assert_eq!(rule, FaultRule::on(Operation::CreateServiceAccount, Fault::drop_reply()).times(1));
        let limited: FaultRule =
            serde_json::from_str(r#"{"fault":{"answer":{"kind":"rateLimited","retryAfterSeconds":3}}}"#)
                .unwrap();
        assert_eq!(limited.fault.answer, Answer::RateLimited { retry_after_seconds: Some(3) });
        assert!(serde_json::from_str::<FaultRule>(r#"{"fault":{"answer":{"kind":"nonsense"}}}"#).is_err());
    }

    #[test]
    fn a_cut_body_needs_an_effect_to_have_a_body() {
        assert!(Fault::refuse(Answer::CutBody).takes_effect());
        assert!(!Fault::refuse(Answer::InternalError).takes_effect());
        assert!(Fault::after_effect(Answer::InternalError).takes_effect());
    }
}
