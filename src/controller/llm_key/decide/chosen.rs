//! Keys whose bytes are chosen here ([`MintKind::CallerChosen`]): an intent has them sealed, with the id that the provider will know
//! the key by. So an attempt that follows another one finds the same key made, or makes it, and what is given up is revoked by its
//! id, whether it was made or not.
//!
//! **Where only the id is chosen** ([`MintKind::CallerNamed`]), all this holds as well: an intent has the id and no key, and whoever finds the
//! key made reads its bytes. The id is the name of the version's first attempt, so nothing has to be drawn. One thing is added: an id of a key
//! that was deleted is never free again. An intent that finds its id spent is given up, and the next version has another id.
//!
//! **Attempts share a key**, so a fence does not tell one from another: a replica that gave an attempt up and was held up before it
//! revoked would end a key that a later attempt has delivered. Giving up is an L4 therefore: once it is on record, no attempt can
//! take the key into use.

use super::{retire, successor};
use crate::controller::llm_key::model::{Chosen, Effect, Env, Minted, Observed, Plan};
use crate::domain::lifecycle::VersionState;
use crate::ledger::{Record, Version};
use crate::provider::MintKind;

/// Whether the next attempt needs a key that is not chosen yet.
pub(super) const fn is_missing(o: &Observed) -> bool {
    matches!(o.provider.mint, MintKind::CallerChosen) && o.pass.chosen.is_none()
}

/// Whether the version is an intent whose key an attempt after a lost answer comes to again: it is known before it is made, or is
/// found in its slot.
pub(super) fn recovers(version: &Version) -> bool {
    is(version) || super::slots::is(version)
}

/// Whether the version is an intent whose key is known before it is made.
pub(super) const fn is(version: &Version) -> bool {
    matches!(version.state, VersionState::Intent) && version.provider_key_id.is_some()
}

/// What an intent knows of its key before that is made.
#[derive(Clone, Copy)]
pub(super) enum Fresh<'a> {
    /// Nothing.
    Unknown,
    /// All.
    Chosen(&'a Chosen),
    /// Its id: the attempt's name.
    Named,
}

impl<'a> Fresh<'a> {
    /// As the account makes keys.
    pub(super) fn of(o: &'a Observed) -> Self {
        match (o.provider.mint, &o.pass.chosen) {
            (MintKind::CallerNamed, _) => Self::Named,
            (_, Some(chosen)) => Self::Chosen(chosen),
            (_, None) => Self::Unknown,
        }
    }
}

/// Puts it into an intent that has none.
pub(super) fn put(version: &mut Version, fresh: Fresh<'_>) {
    if version.provider_key_id.is_some() {
        return;
    }
    match fresh {
        Fresh::Unknown => {}
        Fresh::Chosen(chosen) => {
            version.provider_key_id = Some(chosen.id.clone());
            version.key = Some(chosen.facts.clone());
        }
        Fresh::Named => version.provider_key_id = version.mint_name.clone(),
    }
}

/// Whether the provider had a key of the intent's id, and it was deleted.
pub(super) fn is_spent(o: &Observed, record: &Record, version: &Version) -> bool {
    is(version) && o.pass.spent == Some(record.attempt)
}

/// Takes it out: the provider refused to make the key. If an earlier attempt's comes late, it is a stray by its name.
pub(super) fn take_out(version: &mut Version) {
    version.provider_key_id = None;
    version.key = None;
    version.sealed = None;
}

/// The key that this reconcile made, or found made, for the intent. Of an older attempt it counts no more: what another replica
/// has fenced since, that one goes on with.
pub(super) fn made<'a>(o: &'a Observed, record: &Record, version: &Version) -> Option<&'a Minted> {
    super::slots::made(o, record, version).filter(|minted| {
        version.provider_key_id.as_ref().is_none_or(|id| *id == minted.id && minted.attempt == record.attempt)
    })
}

/// After the fence: whether the account does not have the key. False while that is to be asked; found, it is as good as made.
pub(super) fn is_absent(o: &Observed, record: &Record, version: &Version, plan: &mut Plan) -> bool {
    let absent = o.pass.absent == Some(record.attempt);
    if !absent {
        plan.effects.push(Effect::LookUp { version: version.version });
    }
    absent
}

/// An attempt that is given up. Nothing of it is revoked in a slot. Keys that are chosen are never another version's: where a ledger says so, that one keeps it.
pub(super) fn given_up(record: &Record, number: i32, env: &Env) -> Option<Record> {
    if !record.version(number).is_some_and(super::slots::is) && !retire::is_needed(record, number) {
        return retire::never_published(record, number, env);
    }
    let mut next = successor(record, env);
    take_out(next.version_mut(number)?);
    next.advance(number, VersionState::Abandoned).then_some(next)
}
