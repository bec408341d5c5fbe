//! What is known of a pool's members, and which must be read to know more.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::super::gate::delta;
use crate::api::{PoolMember, Reason, SkippedMember};
use crate::controller::llm_key::model::{Env, Observed, SourceView};
use crate::domain::lifecycle::Origin;
use crate::ledger::{KeyFacts, Record, Version};

/// A member whose key may be published.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) place: usize,
    pub(super) member: &'a PoolMember,
    pub(super) facts: &'a KeyFacts,
}

/// What is known of a pool.
#[derive(Default)]
pub(super) struct Survey<'a> {
    /// The member that the delivered version came from.
    pub(super) in_use: Option<&'a PoolMember>,
    /// That member's new key, if it has one that was never published.
    pub(super) changed: Option<Offer<'a>>,
    /// The first in order with such a key.
    pub(super) next: Option<Offer<'a>>,
    /// The first of those that the provider refused a while ago: asked again if there is no other.
    pub(super) again: Option<Offer<'a>>,
    /// When a refused key is asked again.
    pub(super) retry: Option<DateTime<Utc>>,
    /// Members whose turn may still come.
    pub(super) unused: usize,
    /// Members to fill again, the one that was used longest ago first.
    pub(super) used: Vec<&'a PoolMember>,
    pub(super) skipped: Vec<SkippedMember>,
}

/// A supplied version that came from no pool, before the spec named one: it may be the key of a member. Which, is not known
/// before all are read.
pub(super) fn unknown_holder(o: &Observed, delivered: Option<&Version>) -> Option<Vec<String>> {
    let delivered = delivered.filter(|v| v.origin == Origin::Supplied && v.member.is_none())?;
    let unread: Vec<String> =
        o.key.pool.iter().map(|m| m.name.clone()).filter(|m| !o.pass.members.contains_key(m)).collect();
    (!unread.is_empty() && holder(o, delivered).is_none()).then_some(unread)
}

/// The member that has the version's key, as far as members were read.
pub(super) fn holder<'a>(o: &'a Observed, version: &Version) -> Option<&'a PoolMember> {
    let fingerprint = &version.key.as_ref()?.fingerprint;
    o.key.pool.iter().find(|member| {
        matches!(o.pass.members.get(&member.name), Some(SourceView::Value(facts)) if facts.fingerprint == *fingerprint)
    })
}

/// Looks at the members: the one in use, and in order until one has a key that can be published. Else the members that must
/// be read first; more at a time the more were read in vain.
pub(super) fn survey<'a>(o: &'a Observed, record: &Record, env: &Env) -> Result<Survey<'a>, Vec<String>> {
    let members = &o.key.pool;
    let in_use = record.delivered().and_then(|v| v.member.as_ref());
    let in_use = in_use.and_then(|name| members.iter().position(|m| m.name == *name));
    let start = in_use.map_or(0, |place| place + 1);
    let others = (start..start + members.len()).map(|n| n % members.len()).filter(|n| Some(*n) != in_use);
    let order: Vec<usize> = in_use.into_iter().chain(others).collect();
    let mut survey = Survey { in_use: in_use.map(|place| &members[place]), ..Survey::default() };
    let mut values = BTreeSet::new();
    for (n, place) in order.iter().copied().enumerate() {
        let member = &members[place];
        let is_in_use = Some(place) == in_use;
        let facts = match o.pass.members.get(&member.name) {
            None if is_in_use || survey.next.is_none() => {
                let unread = order[n..].iter().map(|place| members[*place].name.clone());
                let unread = unread.filter(|name| !o.pass.members.contains_key(name));
                return Err(unread.take(o.pass.members.len().saturating_sub(2).max(1)).collect());
            }
            Some(SourceView::Value(facts)) => facts,
            Some(SourceView::Problem(reason, message)) => {
                survey.skip(member, *reason, message, None);
                continue;
            }
            // Behind the next one, nobody has to look.
            _ => {
                if record.used_member(&member.name) {
                    survey.used.push(member);
                } else {
                    survey.unused += 1;
                }
                continue;
            }
        };
        if record.was_used(&facts.fingerprint) {
            survey.used.extend((!is_in_use).then_some(member));
            continue;
        }
        let offer = Offer { place, member, facts };
        if let Some(asked) = o.memory.refused.get(&facts.shown) {
            let retry = *asked + delta(env.timings.retry_max);
            let message = format!(
                "the provider rejects the key in Secret {}; put a working one into it",
                member.secret_ref.name
            );
            survey.skip(member, Reason::RejectedNotPublished, &message, Some(facts));
            if env.now < retry {
                survey.retry = Some(survey.retry.map_or(retry, |at| at.min(retry)));
            } else if is_in_use {
                survey.changed = Some(offer);
            } else {
                survey.again.get_or_insert(offer);
            }
        } else if is_in_use {
            survey.changed = Some(offer);
        } else if values.insert(&facts.fingerprint) {
            survey.unused += 1;
            survey.next.get_or_insert(offer);
        }
    }
    // The one in use is the last to be filled again.
    survey.used.extend(survey.in_use);
    Ok(survey)
}

impl<'a> Survey<'a> {
    fn skip(&mut self, member: &'a PoolMember, reason: Reason, message: &str, refused: Option<&KeyFacts>) {
        self.skipped.push(SkippedMember {
            name: member.name.clone(),
            reason: reason.as_str().to_owned(),
            message: format!("pool member {} is passed over: {message}", member.name),
            fingerprint: refused.map(|facts| facts.shown.clone()),
        });
    }

    /// The members that are passed over, for the end of a sentence.
    pub(super) fn passed_over(&self) -> String {
        let names: Vec<String> = self.skipped.iter().map(|s| format!("{} ({})", s.name, s.reason)).collect();
        if names.is_empty() { String::new() } else { format!("; passed over: {}", names.join(", ")) }
    }

    /// What a person does to fill the pool.
    pub(super) fn refill(&self, o: &Observed) -> String {
        match self.used.first() {
            Some(member) => format!(
                "put a new key into Secret {}/{} (pool member {}), or add a member",
                o.key.namespace, member.secret_ref.name, member.name
            ),
            None => "mend the members that are passed over, or add one".to_owned(),
        }
    }
}
