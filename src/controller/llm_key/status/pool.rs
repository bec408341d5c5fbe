//! What status says of a pool.

use crate::api::{ConditionStatus, ConditionType, Conditions, LLMKeyStatus, PoolStatus, Reason};
use crate::controller::llm_key::model::{Observed, Plan};
use crate::kube_ext::events::EventKind;

/// How far the pool is used: as it was found, else as it was told before.
pub(super) fn status(o: &Observed, plan: &Plan, before: &LLMKeyStatus) -> Option<PoolStatus> {
    if o.key.pool.is_empty() {
        return None;
    }
    plan.pool.clone().or_else(|| before.pool.clone())
}

/// Members were not looked at, since nothing has changed: what was told of them when nothing was due still holds.
pub(super) fn at_rest(conditions: &mut Conditions, o: &Observed, plan: &Plan, before: &LLMKeyStatus) {
    let kind = ConditionType::RotationDue;
    if o.key.pool.is_empty() || plan.pool.is_some() || plan.findings.iter().any(|f| f.condition == kind) {
        return;
    }
    let told = before.conditions.iter().find(|c| c.type_ == kind.as_str() && c.status == "False");
    let Some(told) = told else { return };
    let mut reasons = [Reason::NotDue, Reason::LastPoolMember].into_iter();
    if let Some(reason) = reasons.find(|reason| reason.as_str() == told.reason) {
        conditions.set(kind, ConditionStatus::False, reason, &told.message);
    }
}

/// Members that are passed over and were not before, or for another reason.
pub(super) fn news<'a>(
    before: &LLMKeyStatus,
    after: &'a LLMKeyStatus,
) -> impl Iterator<Item = (EventKind, Reason, &'a str)> {
    let told: Vec<(String, String)> =
        before.pool.iter().flat_map(|p| &p.skipped).map(|s| (s.name.clone(), s.reason.clone())).collect();
    let skipped = after.pool.iter().flat_map(|pool| &pool.skipped);
    skipped.filter_map(move |s| {
        let reason = Reason::named(&s.reason)?;
        let new = !told.iter().any(|(name, reason)| *name == s.name && *reason == s.reason);
        new.then_some((EventKind::Warning, reason, s.message.as_str()))
    })
}
