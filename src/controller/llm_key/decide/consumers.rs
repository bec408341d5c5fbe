//! The workloads that use the target: looked at, restarted, waited for.

use chrono::{DateTime, Utc};

use super::gate::delta;
use super::overlap::Terms;
use super::successor;
use crate::api::{ConditionStatus, ConditionType, Reason, rfc3339};
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan, RestartOrder};
use crate::domain::evidence::{
    Census, Judged, Look, Question, Standing, Waits, judge, looks_from, mark, next_restarts, tried_again,
    tries,
};
use crate::domain::lifecycle::RevocationBasis;
use crate::ledger::{Record, Version};

/// Workloads that a message names.
const NAMED: usize = 5;

/// What is known of the consumers.
pub(super) enum Evidence {
    /// The policy does not ask.
    NotAsked,
    /// No pod uses the Secret.
    Nobody,
    /// Every pod that uses it is newer.
    Proven,
    /// Every pod that uses it is newer, or says that it reads the file anew.
    Presumed,
    /// Some may have the older version, or nobody knows.
    Missing(String),
}

impl Evidence {
    /// Whether workloads count.
    pub(super) const fn asked(&self) -> bool {
        !matches!(self, Self::NotAsked)
    }

    /// What a revocation would rest on; none where consumers say nothing.
    pub(super) const fn basis(&self) -> Option<RevocationBasis> {
        match self {
            Self::Proven => Some(RevocationBasis::ConsumersProven),
            Self::Presumed => Some(RevocationBasis::Presumed),
            Self::NotAsked | Self::Nobody | Self::Missing(_) => None,
        }
    }
}

/// Looks at the consumers and restarts those that need it. None: an effect comes first.
pub(super) fn advance(
    o: &Observed,
    record: &Record,
    delivered: &Version,
    since: DateTime<Utc>,
    terms: &Terms,
    env: &Env,
    plan: &mut Plan,
) -> Option<Evidence> {
    if !terms.consumers {
        return Some(Evidence::NotAsked);
    }
    let begin = looks_from(since, &env.timings);
    if env.now < begin {
        plan.wake_at(begin);
        let message = format!("workloads are looked at from {} on", rfc3339(begin));
        return Some(missing(plan, ConditionStatus::Unknown, message));
    }
    // An earlier look knows nothing of pods that began with the older version after it.
    let Some(look) = o.memory.consumers.as_ref().filter(|look| look.at >= begin) else {
        plan.effects.push(Effect::LookAtConsumers { since: Some(begin) });
        return None;
    };
    let again = look.at + delta(pause(look, since, o, delivered, env));
    let census = match &look.found {
        Ok(census) => census,
        Err(why) => {
            if env.now >= again {
                plan.effects.push(Effect::LookAtConsumers { since: Some(begin) });
                return None;
            }
            plan.wake_at(again);
            return Some(missing(plan, ConditionStatus::Unknown, format!("{why}; tried again")));
        }
    };
    let judged = judge(census, &question(o, delivered, since, env), &env.timings);
    plan.consumers.clone_from(&judged);
    if judged.iter().all(|one| one.standing.is_current()) {
        return Some(current(&judged, delivered, plan));
    }
    if restart(o, record, delivered, (look, census), (&judged, begin), env, plan) {
        return None;
    }
    if env.now >= again {
        plan.effects.push(Effect::LookAtConsumers { since: Some(begin) });
        return None;
    }
    plan.wake_at(again);
    Some(missing(plan, ConditionStatus::False, behind(&judged, delivered.version)))
}

fn question<'a>(o: &'a Observed, delivered: &'a Version, since: DateTime<Utc>, env: &Env) -> Question<'a> {
    Question {
        key: &o.key.name,
        version: delivered.version,
        since,
        restarts: &delivered.restarts,
        refused: &o.memory.restart_refused,
        automatic: o.key.restarts,
        now: env.now,
    }
}

/// Time between two looks. What waits for a person is looked at ever more seldom.
fn pause(
    look: &Look,
    since: DateTime<Utc>,
    o: &Observed,
    delivered: &Version,
    env: &Env,
) -> std::time::Duration {
    let shortest = env.timings.consumer_look;
    let moves = look.found.as_ref().is_ok_and(|census| {
        let judged = judge(census, &question(o, delivered, since, env), &env.timings);
        judged.iter().any(|one| matches!(one.standing, Standing::Stale(_)))
    });
    if moves {
        return shortest;
    }
    let elapsed = (look.at - since).to_std().unwrap_or_default();
    (elapsed / 8).clamp(shortest, env.timings.provider_check_interval.max(shortest))
}

/// Restarts what may be restarted now. First the ledger says so: nobody restarts a workload more often than it tells.
fn restart(
    o: &Observed,
    record: &Record,
    delivered: &Version,
    (look, census): (&Look, &Census),
    (judged, begin): (&[Judged], DateTime<Utc>),
    env: &Env,
    plan: &mut Plan,
) -> bool {
    let next = next_restarts(census, judged, &delivered.restarts);
    if next.is_empty() || refused(o, delivered) {
        return false;
    }
    if env.now >= look.at + delta(env.timings.consumer_look) {
        plan.effects.push(Effect::LookAtConsumers { since: Some(begin) });
        return true;
    }
    let restarts = tried_again(&delivered.restarts, next.iter().map(|(workload, _)| *workload), env.now);
    let orders: Vec<RestartOrder> = next
        .iter()
        .map(|(workload, rollout)| RestartOrder {
            workload: (*workload).clone(),
            uid: rollout.uid.clone(),
            before: rollout.restarted_for.clone(),
            mark: mark(&o.key.name, delivered.version, tries(&restarts, workload)),
        })
        .collect();
    let mut record = successor(record, env);
    if let Some(version) = record.version_mut(delivered.version) {
        version.restarts = restarts;
    }
    plan.effects.push(Effect::SwapLedger(Box::new(record)));
    let names: Vec<String> = orders.iter().map(|order| order.workload.to_string()).collect();
    plan.effects.extend(orders.into_iter().map(|order| Effect::Restart(Box::new(order))));
    plan.effects.push(Effect::Announce {
        warning: false,
        reason: Reason::WorkloadRestarted,
        note: format!("restarts {} for version {}", names.join(", "), delivered.version),
    });
    true
}

/// Whether the provider's last word on the delivered key is a refusal: what works with the older one is not restarted for it.
fn refused(o: &Observed, delivered: &Version) -> bool {
    let shown = delivered.key.as_ref().map(|key| &key.shown);
    let health = o.memory.health.as_ref().filter(|health| Some(&health.fingerprint) == shown);
    health.is_some_and(|h| h.accepted == Some(false) || h.last.is_some_and(|(verdict, _)| verdict.refuses()))
}

/// Everybody has the current version.
fn current(judged: &[Judged], delivered: &Version, plan: &mut Plan) -> Evidence {
    let version = delivered.version;
    let presumed = judged.iter().any(|one| one.standing == Standing::Presumed);
    let (reason, message, evidence) = if judged.is_empty() {
        (Reason::NoConsumers, "no pod uses the Secret".to_owned(), Evidence::Nobody)
    } else if presumed {
        (Reason::PresumedCurrent, presumed_message(version), Evidence::Presumed)
    } else {
        (Reason::AllCurrent, proven_message(version), Evidence::Proven)
    };
    plan.find(ConditionType::ConsumersCurrent, ConditionStatus::True, reason, message);
    evidence
}

/// What `ConsumersCurrent` says when all pods are newer.
pub fn proven_message(version: i32) -> String {
    format!("every pod that uses the Secret began with version {version} or a later one")
}

/// What `ConsumersCurrent` says when some pods read the file anew.
pub fn presumed_message(version: i32) -> String {
    format!(
        "every pod that uses the Secret began with version {version} or a later one, or says that it reads the file anew"
    )
}

fn missing(plan: &mut Plan, status: ConditionStatus, message: String) -> Evidence {
    let reason =
        if status == ConditionStatus::Unknown { Reason::NotObserved } else { Reason::WaitingForConsumers };
    plan.find(ConditionType::ConsumersCurrent, status, reason, message.clone());
    Evidence::Missing(message)
}

/// Who does not have the version, those first that need a person.
fn behind(judged: &[Judged], version: i32) -> String {
    let late: Vec<&Judged> = judged.iter().filter(|one| !one.standing.is_current()).collect();
    let pods = |n: usize| if n == 1 { "1 pod".to_owned() } else { format!("{n} pods") };
    let mut named: Vec<String> = late
        .iter()
        .take(NAMED)
        .map(|one| {
            format!("{} ({}, {})", one.workload, pods(one.stale), one.standing.reason().unwrap_or_default())
        })
        .collect();
    if late.len() > NAMED {
        named.push(format!("{} more", late.len() - NAMED));
    }
    let waits = |one: &&Judged| one.standing == Standing::Stale(Waits::Restarting);
    let person = late.iter().any(|one| matches!(one.standing, Standing::Straggler(_)));
    let advice = if person {
        "; restart the stragglers, or let them end"
    } else if late.iter().all(waits) {
        "; they are being restarted"
    } else {
        ""
    };
    format!(
        "{} of {} workloads may not have version {version}: {}{advice}",
        late.len(),
        judged.len(),
        named.join(", ")
    )
}
