//! `kubectl llmkey plan`: the rotations to come, by the operator's own functions. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kube::ResourceExt;
use serde::Serialize;

use super::objects::Objects;
use super::story::condition;
use super::table::{notes, span, table};
use crate::api::{
    ConditionType, DesiredState, LLMKey, PAUSED, PolicyKind, RotationMode, RotationPolicySpec, parse_rfc3339,
    rfc3339,
};
use crate::controller::llm_key::model::PolicyView;
use crate::controller::llm_key::policy;
use crate::domain::schedule;
use crate::domain::timings::Timings;
use crate::domain::upcoming::{self, Cause, Terms, Upcoming};

/// Rotations of one key that are looked for at most: hourly ones for a year.
const MOST: usize = 9000;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When it was made, RFC 3339.
    pub now: String,
    /// How far it looks, RFC 3339.
    pub until: String,
    /// Rotations to come, soonest first.
    pub rotations: Vec<Rotation>,
    /// Keys that are due now, and what they wait for.
    pub due: Vec<Told>,
    /// Keys that go on with nothing until a person acts.
    pub stalled: Vec<Told>,
    /// Keys without a rotation in that time, and why.
    pub none: Vec<Told>,
    /// What else the reader should know.
    pub notes: Vec<String>,
}

/// A rotation to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// When it may begin, RFC 3339.
    pub time: String,
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who does it: `Operator`, or `Person` for keys that somebody has to supply or to ask for.
    pub by: &'static str,
    /// What decides the time: Schedule, Window or Expiry.
    pub reason: &'static str,
    /// The same in words.
    pub why: String,
    /// Where the time comes from: `Calculated`, or `Status`, the operator's own word.
    pub source: &'static str,
}

/// A key, and something about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Namespace of the LLMKey.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A reason of a condition, or a word of this command's.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What a key's policy says, if it can be known.
enum Found {
    /// It follows none.
    None,
    /// It may not be read.
    Hidden,
    /// It follows one that is not there.
    Missing(String),
    /// It follows this one.
    Policy(Box<PolicyView>, String),
}

/// Plans.
pub fn plan(objects: &Objects, now: DateTime<Utc>, horizon: TimeDelta, timings: &Timings) -> Report {
    let end = now + horizon;
    let mut report = Report {
        now: rfc3339(now),
        until: rfc3339(end),
        rotations: Vec::new(),
        due: Vec::new(),
        stalled: Vec::new(),
        none: Vec::new(),
        notes: objects.notes.clone(),
    };
    let mut rotations: Vec<(DateTime<Utc>, Rotation)> = Vec::new();
    let mut unseen = Unseen::default();
    for key in &objects.keys {
        if key.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Some((reason, message)) = holds(key, ConditionType::Stalled).filter(|_| objects.live) {
            report.stalled.push(told(key, reason, message));
        }
        match one(objects, key, now, end, timings, &mut unseen) {
            Outcome::Rotations(found) => rotations.extend(found),
            Outcome::Due(told) => report.due.push(told),
            Outcome::None(told) => report.none.push(told),
        }
    }
    rotations.sort_by(|(a, one), (b, other)| {
        (a, &one.namespace, &one.name).cmp(&(b, &other.namespace, &other.name))
    });
    report.rotations = rotations.into_iter().map(|(_, rotation)| rotation).collect();
    report.notes.extend(unseen.notes());
    report
}

/// What is not known of keys, told once for all of them.
#[derive(Default)]
struct Unseen {
    /// Not published: counted from now.
    unpublished: Vec<String>,
    /// Without a uid: jitter left out.
    without_uid: Vec<String>,
    /// What they use may make a rotation due at any time.
    by_usage: Vec<String>,
}

impl Unseen {
    fn notes(self) -> Vec<String> {
        let told = |keys: Vec<String>, what: &str| {
            let first: Vec<&str> = keys.iter().take(3).map(String::as_str).collect();
            let more = if keys.len() > 3 { format!(" and {} more", keys.len() - 3) } else { String::new() };
            (!keys.is_empty()).then(|| format!("{}{more}: {what}", first.join(", ")))
        };
        let notes = [
            told(self.unpublished, "nothing is published yet, so times are counted from now"),
            told(self.without_uid, "without jitter, which depends on the uid that the cluster gives"),
            told(
                self.by_usage,
                "the policy's trigger Usage may make a rotation due at any time; that cannot be foreseen",
            ),
        ];
        notes.into_iter().flatten().collect()
    }
}

enum Outcome {
    Rotations(Vec<(DateTime<Utc>, Rotation)>),
    Due(Told),
    None(Told),
}

fn one(
    objects: &Objects,
    key: &LLMKey,
    now: DateTime<Utc>,
    end: DateTime<Utc>,
    timings: &Timings,
    unseen: &mut Unseen,
) -> Outcome {
    if let Some((reason, message)) = holds(key, ConditionType::RotationDue).filter(|_| objects.live) {
        return Outcome::Due(told(key, reason, message));
    }
    if key.spec.desired_state == DesiredState::Revoked {
        return Outcome::None(told(key, "Revoked", "its desiredState is Revoked"));
    }
    let found = policy_of(objects, key, timings);
    let (policy, described) = match &found {
        Found::Policy(policy, described) => (Some(&**policy), described.as_str()),
        Found::None => (None, "it follows no policy"),
        Found::Hidden => {
            let message = "its status tells of none, and its policy may not be read";
            return Outcome::of(key, shown(key, None, end), "Hidden", message);
        }
        Found::Missing(name) => {
            let message = format!("{name} does not exist; create it, or name another policy");
            return Outcome::None(told(key, "PolicyNotFound", &message));
        }
    };
    if let Some((reason, message)) = policy.and_then(|p| p.problem.as_ref()) {
        return Outcome::None(told(key, reason.as_str(), message));
    }
    if key.spec.source.mint.is_some() && policy.is_some_and(|policy| policy.usage.any()) {
        unseen.by_usage.push(place(key));
    }
    let schedule = schedule_of(key, policy, unseen);
    // Without a policy the default of the trigger Expiry counts all the same.
    let default = timings.expiry_before.saturating_mul(timings.divisor);
    let before = policy.map_or(Some(default), |p| p.expiry_before);
    let seed = key.uid().unwrap_or_default();
    let terms = Terms {
        schedule: schedule.as_ref(),
        expiry: upcoming::expiry(key.spec.expires_at.as_deref().and_then(parse_rfc3339), before, timings),
        minted: key.spec.source.is_made(),
        seed: &seed,
    };
    let since = published(key).unwrap_or(now);
    let Some(next) = upcoming::next(&terms, since, now, timings) else {
        let message = format!("{described}; the annotation llmkeys.dev/rotate asks for one at any time");
        return Outcome::None(told(key, "ByHand", &message));
    };
    let operators = key.status.as_ref().and_then(|s| s.next_rotation_time.as_deref());
    if objects.live && operators.is_some_and(|time| time != rfc3339(next.at)) {
        // The operator knows better: the share of jitter, for example, of a key that was created again under its name.
        return Outcome::of(key, shown(key, policy, end), "Later", "its status tells of none before that");
    }
    if next.at > end {
        let message = format!("the next one is at {}: {}", rfc3339(next.at), why(&next, described));
        return Outcome::None(told(key, "Later", &message));
    }
    if published(key).is_none() {
        unseen.unpublished.push(place(key));
    }
    if next.at <= now {
        return Outcome::Due(told(key, "Due", &format!("it has been due since {}", rfc3339(next.due))));
    }
    let (by, todo) = by(key, policy);
    let all = upcoming::all(&terms, since, now, end, MOST, timings);
    let each = |next: &Upcoming| {
        let why = format!("{}{todo}", why(next, described));
        (next.at, rotation(key, (next.at, next.cause), by, why, "Calculated"))
    };
    Outcome::Rotations(all.iter().map(each).collect())
}

/// The policy's schedule. Without a uid a key's share of jitter is not known.
fn schedule_of(key: &LLMKey, policy: Option<&PolicyView>, unseen: &mut Unseen) -> Option<schedule::Plan> {
    let mut schedule = policy?.schedule.clone()?;
    if key.metadata.uid.is_none() {
        let spread = schedule.jitter.is_none_or(|jitter| !jitter.is_zero());
        if spread && schedule.rule != schedule::Rule::ByHand {
            unseen.without_uid.push(place(key));
        }
        schedule.jitter = Some(Duration::ZERO);
    }
    Some(schedule)
}

impl Outcome {
    fn of(key: &LLMKey, found: Vec<(DateTime<Utc>, Rotation)>, reason: &str, message: &str) -> Self {
        if found.is_empty() { Self::None(told(key, reason, message)) } else { Self::Rotations(found) }
    }
}

fn rotation(
    key: &LLMKey,
    (at, cause): (DateTime<Utc>, Cause),
    by: &'static str,
    why: String,
    source: &'static str,
) -> Rotation {
    Rotation {
        time: rfc3339(at),
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        by,
        reason: cause.as_str(),
        why,
        source,
    }
}

/// What status tells of the rotations to come.
fn shown(key: &LLMKey, policy: Option<&PolicyView>, end: DateTime<Utc>) -> Vec<(DateTime<Utc>, Rotation)> {
    let (by, todo) = by(key, policy);
    let told = key.status.iter().flat_map(|status| &status.upcoming);
    told.filter_map(|next| {
        let at = parse_rfc3339(&next.time).filter(|at| *at <= end)?;
        let causes = [Cause::Schedule, Cause::Window, Cause::Expiry];
        let cause = causes.into_iter().find(|cause| cause.as_str() == next.reason)?;
        Some((at, rotation(key, (at, cause), by, format!("as its status says{todo}"), "Status")))
    })
    .collect()
}

/// Who acts when it is time, and what a person has to do.
fn by(key: &LLMKey, policy: Option<&PolicyView>) -> (&'static str, &'static str) {
    let paused = key.annotations().get(PAUSED).is_some_and(|value| value == "true");
    let reminds = policy.is_some_and(|policy| policy.mode == RotationMode::RemindOnly);
    if !key.spec.source.is_made() {
        ("Person", "; put the next key into the source Secret")
    } else if reminds {
        ("Person", "; the policy only reminds: set llmkeys.dev/rotate")
    } else if key.spec.pinned_version.is_some() {
        ("Person", "; pinned: take spec.pinnedVersion away")
    } else if paused {
        ("Person", "; paused: take llmkeys.dev/paused away")
    } else {
        ("Operator", "")
    }
}

fn why(next: &Upcoming, described: &str) -> String {
    let jitter = TimeDelta::from_std(next.jitter).unwrap_or_default();
    let scheduled =
        if jitter.is_zero() { described.to_owned() } else { format!("{described}, jitter {}", span(jitter)) };
    match next.cause {
        Cause::Expiry => "its expiresAt comes near".to_owned(),
        Cause::Schedule => scheduled,
        Cause::Window => format!("{scheduled}; due at {}, then the policy's next window", rfc3339(next.due)),
    }
}

fn published(key: &LLMKey) -> Option<DateTime<Utc>> {
    let status = key.status.as_ref()?;
    let current = status.versions.iter().find(|v| Some(v.version) == status.current_version)?;
    parse_rfc3339(current.published_at.as_deref()?)
}

/// Reason and message of a condition that is True.
fn holds(key: &LLMKey, kind: ConditionType) -> Option<(&str, &str)> {
    condition(key, kind, "True").map(|condition| (&*condition.reason, &*condition.message))
}

fn policy_of(objects: &Objects, key: &LLMKey, timings: &Timings) -> Found {
    let found = |spec: &RotationPolicySpec, shown: String, defaulted| {
        let view = policy(spec, shown.clone(), defaulted, timings);
        let described = view.schedule.as_ref().map_or_else(String::new, schedule::describe);
        Found::Policy(Box::new(view), format!("{shown}: {described}"))
    };
    let cluster = |name: &str| {
        let all = objects.cluster_policies.as_ref()?;
        Some(all.iter().find(|p| p.name_any() == name).map(|p| &p.spec.policy))
    };
    let Some(reference) = &key.spec.rotation_policy_ref else {
        return match cluster("default") {
            Some(Some(spec)) => found(spec, "ClusterRotationPolicy/default".to_owned(), true),
            Some(None) => Found::None,
            None => Found::Hidden,
        };
    };
    let shown = format!("{}/{}", reference.kind.as_str(), reference.name);
    let spec = match reference.kind {
        PolicyKind::RotationPolicy => {
            let own = |p: &&crate::api::RotationPolicy| {
                p.namespace() == key.namespace() && p.name_any() == reference.name
            };
            Some(objects.policies.iter().find(own).map(|p| &p.spec))
        }
        PolicyKind::ClusterRotationPolicy => cluster(&reference.name),
    };
    match spec {
        Some(Some(spec)) => found(spec, shown, false),
        Some(None) => Found::Missing(shown),
        None => Found::Hidden,
    }
}

fn place(key: &LLMKey) -> String {
    format!("{}/{}", key.namespace().unwrap_or_default(), key.name_any())
}

fn told(key: &LLMKey, reason: &str, message: &str) -> Told {
    Told {
        namespace: key.namespace().unwrap_or_default(),
        name: key.name_any(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// The answer for people.
pub fn text(report: &Report) -> String {
    let now = parse_rfc3339(&report.now).unwrap_or_default();
    let mut blocks = Vec::new();
    if report.rotations.is_empty() {
        blocks.push(format!("No rotation until {}.\n", report.until));
    } else {
        let row = |r: &Rotation| {
            let wait = parse_rfc3339(&r.time).map_or_else(String::new, |at| span(at - now));
            [r.time.clone(), wait, r.namespace.clone(), r.name.clone(), r.by.to_owned(), r.why.clone()]
        };
        let rows: Vec<[String; 6]> = report.rotations.iter().map(row).collect();
        blocks.push(table(["TIME", "IN", "NAMESPACE", "NAME", "BY", "WHY"], &rows));
    }
    for (heading, rows) in [
        ("Due now:", &report.due),
        ("Stalled, a person has to act:", &report.stalled),
        ("Without a rotation in that time:", &report.none),
    ] {
        if rows.is_empty() {
            continue;
        }
        let row = |t: &Told| [t.namespace.clone(), t.name.clone(), t.reason.clone(), t.message.clone()];
        let rows: Vec<[String; 4]> = rows.iter().map(row).collect();
        blocks.push(format!("{heading}\n{}", table(["NAMESPACE", "NAME", "REASON", "MESSAGE"], &rows)));
    }
    blocks.extend(notes(&report.notes));
    blocks.join("\n")
}

#[cfg(test)]
mod tests;
