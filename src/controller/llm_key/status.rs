//! The status: a pure projection of what was observed, written only when it differs.

mod pool;
mod usage;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::decide::{consumers, pin, spare, upcoming};
use super::model::{Env, LedgerView, Observed, Plan, TargetView};
use super::rotations;
use crate::api::{
    ConditionStatus, ConditionType, Conditions, ConsumerStatus, KeyHealth, LLMKeyStatus, ObservedVersions,
    PastHealth, Reason, UpcomingRotation, ValidationMode, VersionStatus, rfc3339,
};
use crate::domain::evidence::Judged;
use crate::domain::health::{Health, HealthState, Verdict};
use crate::domain::lifecycle::{RevocationBasis, RotationReason, VersionState};
use crate::domain::upcoming::Upcoming;
use crate::kube_ext::events::EventKind;
use crate::ledger::{MAX_VERSIONS, Record, Rotation, Version};
use crate::provider::{MintKind, PRIVATE_NAME};

/// What a person is told of by an event when it begins: the key does not work any more, somebody has to act, or the next
/// key has to be supplied. What goes on was told before.
pub fn news<'a>(before: &LLMKeyStatus, after: &'a LLMKeyStatus) -> Vec<(EventKind, Reason, &'a str)> {
    let told = |c: &Condition| {
        before.conditions.iter().any(|b| b.type_ == c.type_ && b.status == c.status && b.reason == c.reason)
    };
    let kind = |c: &Condition| match (c.type_.as_str(), c.status.as_str(), c.reason.as_str()) {
        ("Healthy", "False", _)
        | ("Stalled", "True", _)
        | ("RotationDue", "True", "RotationFailed")
        | (_, _, "LastPoolMember") => Some(EventKind::Warning),
        ("RotationDue", "True", "SupplyNextKey" | "RemindOnly") => Some(EventKind::Normal),
        _ => None,
    };
    let begun = after.conditions.iter().filter(|c| !told(c));
    begun
        .filter_map(|c| {
            let reason = Reason::named(&c.reason)?;
            Some((kind(c)?, reason, c.message.as_str()))
        })
        .chain(pool::news(before, after))
        .collect()
}

/// The delivered version as far as it is known without reading the ledger.
struct Delivered {
    version: i32,
    last_four: Option<String>,
    fingerprint: Option<String>,
}

/// The status after a reconcile. `before` is the stored one; `plan` the last decision, whose effects are not done.
pub fn status(
    o: &Observed,
    plan: &Plan,
    before: &LLMKeyStatus,
    observed: ObservedVersions,
    env: &Env,
) -> LLMKeyStatus {
    let record = match &o.ledger {
        // An older copy of it tells less than status does.
        LedgerView::Present(ledger) if !o.key.is_newer_than(&ledger.record) => Some(&ledger.record),
        _ => None,
    };
    let unread = record.is_none() && !matches!(o.ledger, LedgerView::Absent);
    let delivered = match record {
        Some(record) => delivered_version(o, record).map(of_version),
        None if unread => before.current_version.map(|version| Delivered {
            version,
            last_four: before.last_four.clone(),
            fingerprint: before.fingerprint.clone(),
        }),
        None => None,
    };
    let health = delivered
        .as_ref()
        .and_then(|d| o.memory.health.as_ref().filter(|h| Some(&h.fingerprint) == d.fingerprint.as_ref()));
    let mut conditions = Conditions::new(&before.conditions, o.key.generation, env.now);
    base(&mut conditions);
    found(&mut conditions, plan);
    consumers_at_rest(&mut conditions, o, plan, before);
    pool::at_rest(&mut conditions, o, plan, before);
    let due = plan.findings.iter().any(|f| f.condition == ConditionType::RotationDue);
    if let Some(message) = spare::at_rest(o, before).filter(|_| !due) {
        let (kind, status) = (ConditionType::RotationDue, ConditionStatus::False);
        conditions.set(kind, status, Reason::NotDue, &message);
    }
    ready(&mut conditions, o, plan, delivered.is_some(), health);
    healthy(&mut conditions, o, delivered.is_some(), health);
    let mut versions: Vec<VersionStatus> = record.map_or_else(
        || if unread || o.key.had_versions { before.versions.clone() } else { Vec::new() },
        |r| r.versions.iter().rev().take(MAX_VERSIONS).map(|v| version(o, r, v)).collect(),
    );
    for version in &mut versions {
        version.usage = usage::of_version(o, version, before);
    }
    let used = usage::shown(o, delivered.as_ref().map(|d| d.version), &versions, before);
    LLMKeyStatus {
        observed_generation: Some(o.key.generation),
        conditions: conditions.finish(),
        provider: (!o.provider.shown.is_empty()).then(|| o.provider.shown.clone()),
        health: shown_health(o, delivered.is_some(), health, before),
        current_version: delivered.as_ref().map(|d| d.version),
        last_four: delivered.as_ref().and_then(|d| d.last_four.clone()).filter(|l| !l.is_empty()),
        fingerprint: delivered.as_ref().and_then(|d| d.fingerprint.clone()),
        secret_name: Some(o.key.target_name.clone()),
        rotation_policy: o.policy.shown.clone(),
        next_rotation_time: plan.next_rotation.map(rfc3339),
        last_rotation: record.map_or_else(|| before.last_rotation.clone(), |r| rotations::last(o, r, env)),
        last_handled_rotate: record
            .map_or_else(|| before.last_handled_rotate.clone(), |r| r.handled_rotate.clone()),
        versions,
        consumers: plan.consumers.iter().take(MAX_CONSUMERS).map(consumer).collect(),
        consumers_total: (!plan.consumers.is_empty())
            .then(|| i32::try_from(plan.consumers.len()).unwrap_or(i32::MAX)),
        observed: Some(found_right(o, before, observed)),
        rotations: record.map_or_else(
            || if unread || o.key.had_versions { before.rotations.clone() } else { Vec::new() },
            |r| rotations::shown(o, r, env),
        ),
        pool: pool::status(o, plan, before),
        upcoming: upcoming(o, env).into_iter().map(shown_upcoming).collect(),
        usage: used,
    }
}

fn shown_upcoming(next: Upcoming) -> UpcomingRotation {
    UpcomingRotation { time: rfc3339(next.at), reason: next.cause.as_str().to_owned() }
}

/// An older copy of the ledger that was put back is not found right: nobody may take what status tells for the ledger's word.
fn found_right(o: &Observed, before: &LLMKeyStatus, observed: ObservedVersions) -> ObservedVersions {
    match &o.ledger {
        LedgerView::Present(ledger) if o.key.is_newer_than(&ledger.record) => {
            let ledger = before.observed.as_ref().and_then(|observed| observed.ledger.clone());
            ObservedVersions { ledger, ..observed }
        }
        _ => observed,
    }
}

/// Workloads that status names.
const MAX_CONSUMERS: usize = 50;

fn consumer(judged: &Judged) -> ConsumerStatus {
    ConsumerStatus {
        kind: judged.workload.kind.to_string(),
        name: judged.workload.name.clone(),
        state: judged.standing.as_str().to_owned(),
        reason: judged.standing.reason().map(str::to_owned),
        stale_pods: i32::try_from(judged.stale).unwrap_or(i32::MAX),
    }
}

/// What the consumers were when the older key was revoked: pods that began since then have the version, too.
fn consumers_at_rest(conditions: &mut Conditions, o: &Observed, plan: &Plan, before: &LLMKeyStatus) {
    let kind = ConditionType::ConsumersCurrent;
    if plan.findings.iter().any(|f| f.condition == kind) {
        return;
    }
    match &o.ledger {
        LedgerView::Present(ledger) => {
            let record = &ledger.record;
            let Some(current) = record.current() else { return };
            let last = record.versions.iter().rev().find(|v| {
                let delivered = v.basis.is_some_and(|basis| basis != RevocationBasis::NeverPublished);
                v.version < current.version && delivered
            });
            let open = record.versions.iter().any(|v| v.state == VersionState::Overlap);
            let (reason, message) = match last.and_then(|v| v.basis).filter(|_| !open) {
                Some(RevocationBasis::ConsumersProven) => {
                    (Reason::AllCurrent, consumers::proven_message(current.version))
                }
                Some(RevocationBasis::Presumed) => {
                    (Reason::PresumedCurrent, consumers::presumed_message(current.version))
                }
                _ => return,
            };
            conditions.set(kind, ConditionStatus::True, reason, &message);
        }
        LedgerView::Unread(_) => {
            let told = before.conditions.iter().find(|c| c.type_ == kind.as_str());
            let same = |reason: &Reason| told.is_some_and(|c| c.reason == reason.as_str());
            if let Some(reason) = [Reason::AllCurrent, Reason::PresumedCurrent].into_iter().find(same) {
                let message = told.map(|c| c.message.clone()).unwrap_or_default();
                conditions.set(kind, ConditionStatus::True, reason, &message);
            }
        }
        _ => {}
    }
}

/// The version that workloads have: the ledger's, as long as there is a target of ours. It stays while another hand has
/// changed what the target holds: pods that read it before have that key, and it is put back within seconds. `Ready` tells.
fn delivered_version<'a>(o: &Observed, record: &'a Record) -> Option<&'a Version> {
    match o.target {
        TargetView::Unread => record.delivered(),
        TargetView::Ours { carries, .. } => {
            let newest = record.delivered()?;
            // A replacement that is on record and not yet written has replaced nothing.
            if carries == Some(newest.version) { Some(newest) } else { record.current().or(Some(newest)) }
        }
        _ => None,
    }
}

/// Nobody has changed what was delivered. What only waits to be rendered anew still is it.
fn as_delivered(o: &Observed) -> bool {
    matches!(o.target, TargetView::Unread | TargetView::Ours { changed: false, .. })
}

fn of_version(version: &Version) -> Delivered {
    Delivered {
        version: version.version,
        last_four: version.key.as_ref().map(|k| k.last_four.clone()),
        fingerprint: version.key.as_ref().map(|k| k.shown.clone()),
    }
}

/// All known types from the first write, as they are when nothing is found.
fn base(conditions: &mut Conditions) {
    use ConditionStatus::{False, Unknown};
    conditions.set(ConditionType::Ready, Unknown, Reason::Progressing, "the key is not delivered yet");
    conditions.set(ConditionType::Reconciling, False, Reason::Idle, "");
    conditions.set(ConditionType::Stalled, False, Reason::NotStalled, "");
    conditions.set(ConditionType::Healthy, Unknown, Reason::NotYetValidated, "");
    conditions.set(ConditionType::RotationDue, False, Reason::NotDue, "");
    conditions.set(
        ConditionType::ConsumersCurrent,
        Unknown,
        Reason::NotObserved,
        "workloads are looked at only while an older key works",
    );
    conditions.set(ConditionType::OverlapActive, False, Reason::NoOverlap, "");
}

/// The plan's findings; the first for a condition wins.
fn found(conditions: &mut Conditions, plan: &Plan) {
    let mut seen = Vec::new();
    for finding in &plan.findings {
        if !seen.contains(&finding.condition) {
            seen.push(finding.condition);
            conditions.set(finding.condition, finding.status, finding.reason, &finding.message);
        }
    }
}

fn ready(conditions: &mut Conditions, o: &Observed, plan: &Plan, delivered: bool, health: Option<&Health>) {
    use ConditionStatus::{False, True, Unknown};
    let kind = ConditionType::Ready;
    let found = |kind| plan.findings.iter().find(|f| f.condition == kind);
    if let Some(stall) = found(ConditionType::Stalled) {
        conditions.set(kind, False, stall.reason, &stall.message);
        return;
    }
    if found(kind).is_some() {
        return;
    }
    if o.key.revoke_all {
        let gone = match &o.ledger {
            LedgerView::Present(ledger) => ledger.record.minted_alive().next().is_none(),
            LedgerView::Absent => true,
            _ => false,
        };
        let message =
            if gone { "all keys are revoked, as the spec asks" } else { "the keys are being revoked" };
        conditions.set(kind, False, if gone { Reason::Revoked } else { Reason::Revoking }, message);
        return;
    }
    if !delivered {
        if let Some(wait) = found(ConditionType::Reconciling) {
            conditions.set(kind, Unknown, wait.reason, &wait.message);
        }
        return;
    }
    let secret = &o.key.target_name;
    if !as_delivered(o) {
        let message = format!("another hand changed Secret {secret}, so it does not hold what was delivered");
        conditions.set(kind, False, Reason::TargetContested, &message);
        return;
    }
    if o.key.validation != ValidationMode::Disabled && health.is_some_and(address_refused) {
        let message = refused_address(o);
        conditions.set(kind, False, Reason::AddressRefused, &message);
        conditions.set(ConditionType::Stalled, True, Reason::AddressRefused, &message);
        return;
    }
    match (o.key.validation, health.and_then(|h| h.accepted)) {
        (ValidationMode::Disabled, _) => {
            conditions.set(
                kind,
                True,
                Reason::ValidationDisabled,
                &format!("Secret {secret} has the key; it is not checked"),
            );
        }
        (ValidationMode::Advisory | ValidationMode::Required, Some(true)) => {
            conditions.set(
                kind,
                True,
                Reason::KeyValid,
                &format!("Secret {secret} has a key that the provider accepts"),
            );
        }
        (ValidationMode::Advisory, _) => {
            conditions.set(
                kind,
                True,
                Reason::PublishedUnchecked,
                &format!("Secret {secret} has the key; its check only reports"),
            );
        }
        (ValidationMode::Required, Some(false)) => {
            let remedy = if o.key.pinned.is_some() {
                "spec.pinnedVersion keeps it: take that out, or pin another version"
            } else if o.key.minted && o.provider.mint == MintKind::Slots {
                "another hand may have made its slot's key anew; set the annotation llmkeys.dev/rotate to have it made anew"
            } else if o.key.minted {
                "set the annotation llmkeys.dev/rotate to have another made"
            } else if o.key.pool.is_empty() {
                "put a working key into the source Secret"
            } else {
                "set the annotation llmkeys.dev/rotate to go on to the next member of the pool"
            };
            let message = format!("the provider rejects the key in Secret {secret}; {remedy}");
            conditions.set(kind, False, Reason::KeyInvalid, &message);
            conditions.set(ConditionType::Stalled, True, Reason::KeyInvalid, &message);
        }
        (ValidationMode::Required, None) => {
            conditions.set(
                kind,
                Unknown,
                Reason::NotYetValidated,
                &format!("Secret {secret} has the key; the provider has not answered for it yet"),
            );
        }
    }
}

/// Nobody could be asked about the key, because the name of the provider's host leads to private addresses.
fn address_refused(health: &Health) -> bool {
    matches!(health.last, Some((Verdict::AddressRefused, _)))
}

fn refused_address(o: &Observed) -> String {
    format!("{}: {PRIVATE_NAME}", o.provider.shown)
}

fn healthy(conditions: &mut Conditions, o: &Observed, delivered: bool, health: Option<&Health>) {
    use ConditionStatus::{False, True, Unknown};
    let kind = ConditionType::Healthy;
    if o.key.validation == ValidationMode::Disabled {
        conditions.set(kind, Unknown, Reason::ValidationDisabled, "validation.mode is Disabled");
        return;
    }
    let Some(health) = health.filter(|_| delivered) else { return };
    if address_refused(health) {
        conditions.set(kind, Unknown, Reason::AddressRefused, &refused_address(o));
        return;
    }
    if health.confirming(o.key.threshold) {
        let message =
            format!("the provider rejected the key; it is asked again, {} times in all", o.key.threshold);
        conditions.set(kind, Unknown, Reason::ConfirmingRejection, &message);
        return;
    }
    let (status, reason, message) = match health.state {
        HealthState::Valid => (True, Reason::KeyValid, "the provider accepts the key"),
        HealthState::RestrictedScope => {
            (True, Reason::RestrictedScope, "the key works, but may not use the call that checks it")
        }
        HealthState::OutOfCredit => {
            (False, Reason::OutOfCredit, "the key is accepted; its account has no credit left")
        }
        HealthState::Invalid => (False, Reason::KeyInvalid, "the provider rejects the key"),
        HealthState::Disabled => {
            (False, Reason::KeyDisabled, "the provider says that the key is switched off")
        }
        HealthState::Expired => (False, Reason::KeyExpired, "the provider says that the key has expired"),
        HealthState::RateLimited => (Unknown, Reason::RateLimited, "the provider throttles the check"),
        HealthState::ProviderDown => {
            (Unknown, Reason::ProviderDown, "the provider cannot be reached or fails")
        }
        HealthState::Unknown => {
            (Unknown, Reason::UnknownAnswer, "the provider's answer could not be understood")
        }
    };
    conditions.set(kind, status, reason, message);
}

fn shown_health(
    o: &Observed,
    delivered: bool,
    health: Option<&Health>,
    before: &LLMKeyStatus,
) -> Option<KeyHealth> {
    if o.key.validation == ValidationMode::Disabled || !delivered {
        return None;
    }
    let Some(health) = health else { return before.health.clone() };
    let time = |t: DateTime<Utc>| rfc3339(t);
    Some(KeyHealth {
        state: health.state.as_str().to_owned(),
        since: time(health.since),
        history: health
            .history
            .iter()
            .map(|(state, since)| PastHealth { state: state.as_str().to_owned(), since: time(*since) })
            .collect(),
    })
}

fn version(o: &Observed, record: &Record, version: &Version) -> VersionStatus {
    VersionStatus {
        version: version.version,
        state: version.state.as_str().to_owned(),
        origin: version.origin.as_str().to_owned(),
        reason: version.reason.as_str().to_owned(),
        last_four: version.key.as_ref().map(|k| k.last_four.clone()).filter(|l| !l.is_empty()),
        fingerprint: version.key.as_ref().map(|k| k.shown.clone()),
        provider_key_id: version.provider_key_id.clone(),
        published_at: version.published_at.or(shown_publishing(version)).map(rfc3339),
        revoked_at: version.revoked_at.map(rfc3339),
        revocation_basis: version.basis.map(|b| b.as_str().to_owned()),
        requested_by: record
            .rotation(version.version)
            .filter(|r| r.reason != RotationReason::Initial)
            .map(Rotation::asked_by),
        pin: pin::standing(&o.key, record, version).map(|standing| standing.as_str().to_owned()),
        member: version.member.clone(),
        usage: None,
    }
}

/// A first version whose L3 is folded into the next write was published when it was begun.
fn shown_publishing(version: &Version) -> Option<DateTime<Utc>> {
    (version.state == VersionState::Publishing).then_some(version.created_at)
}
