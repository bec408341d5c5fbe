//! Which key of the account a supplied one is: asked for once it is delivered and accepted, put on record, and never guessed.
//!
//! Only a key that the provider accepts is matched: who makes up a value that resembles another team's key gains no hold on that one.

use chrono::{DateTime, Utc};

use super::flight::carried;
use super::gate::delta;
use super::rotate::fold_delivery;
use super::successor;
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan};
use crate::domain::lifecycle::{Origin, VersionState};
use crate::ledger::{Record, Version};
use crate::provider::NoMatch;

/// One step towards the delivered key's id.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let Some(version) = missing(o, record) else { return };
    if let Some((number, id)) = o.pass.matched.as_ref().filter(|(number, _)| *number == version.version) {
        let mut next = successor(record, env);
        fold_delivery(record, &mut next);
        if let Some(matched) = next.version_mut(*number) {
            matched.provider_key_id = Some(id.clone());
            matched.account.clone_from(&o.provider.account);
        }
        plan.effects.push(Effect::SwapLedger(Box::new(next)));
        return;
    }
    let shown = version.key.as_ref().map_or("", |key| key.shown.as_str());
    match next_try(o, shown, env) {
        Some(at) if env.now < at => plan.wake_at(at),
        Some(_) => plan.effects.push(Effect::Match { version: version.version }),
        None => {}
    }
}

/// Only the summary is known: when the id is to be asked for; none where it is known, or cannot be.
pub(super) fn due(o: &Observed, env: &Env) -> Option<DateTime<Utc>> {
    let shown = &o.memory.health.as_ref()?.fingerprint;
    (can_match(o) && o.key.id_shown.is_none()).then(|| next_try(o, shown, env)).flatten()
}

/// The delivered version, if it was supplied and its key's id is not known and can be.
pub(super) fn missing<'a>(o: &Observed, record: &'a Record) -> Option<&'a Version> {
    let out =
        |v: &Version| v.state == VersionState::Current || record.versions.len() == 1 && carried(o, v.version);
    let unknown = |v: &&Version| v.origin == Origin::Supplied && v.provider_key_id.is_none() && out(v);
    record.delivered().filter(unknown).filter(|_| can_match(o))
}

/// Why the id is not known, in words.
pub(super) fn why(o: &Observed) -> &'static str {
    o.memory
        .unmatched
        .as_ref()
        .map_or("the account has not been asked yet", |unmatched| unmatched.why.words())
}

fn can_match(o: &Observed) -> bool {
    o.provider.matches && !o.key.minted && o.provider.account.is_some() && o.provider.problem.is_none()
}

/// When the key with this fingerprint is to be asked for; none before the provider has accepted it.
fn next_try(o: &Observed, shown: &str, env: &Env) -> Option<DateTime<Utc>> {
    let accepted = o.memory.health.as_ref().filter(|h| h.fingerprint == shown && h.accepted == Some(true));
    accepted?;
    let Some(unmatched) = o.memory.unmatched.as_ref().filter(|u| u.fingerprint == shown) else {
        return Some(env.now);
    };
    let pause = match unmatched.why {
        NoMatch::Unanswered => env.timings.provider_check_interval,
        NoMatch::Nothing | NoMatch::Several => env.timings.usage_interval,
    };
    Some(unmatched.at + delta(pause))
}
