//! `spec.pinnedVersion`: one version's key goes on being published, and no rotation takes its place.
//!
//! A version is one act of publishing, so the pin of an older one makes a new version with the same key. Until that one is
//! current, the older version answers for the key: what is given up on the way leaves it as it was. From then on the new one
//! does, and the older one is closed, so that a key is always retired through one version alone.

use chrono::{DateTime, Utc};

use super::gate::{Gate, delta, gate};
use super::rotate::{self, fold_delivery, next_number};
use super::{due, retire, successor};
use crate::api::{Reason, ValidationMode};
use crate::controller::llm_key::model::{
    Effect, Env, KeyView, LedgerView, Observed, Plan, SourceView, Subject, TargetView,
};
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};
use crate::ledger::{KeyFacts, Record, Version};

/// Whether a version can be pinned; if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Possible,
    /// The revocation of its key was begun.
    Revoked,
    /// Its key stands in `spec.revokedVersions`.
    Listed,
    /// The ledger does not hold its key any more.
    Forgotten,
    /// Its key was never delivered as this version.
    NeverPublished,
}

impl Standing {
    /// As status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Possible => "Possible",
            Self::Revoked => "Revoked",
            Self::Listed => "Listed",
            Self::Forgotten => "Forgotten",
            Self::NeverPublished => "NeverPublished",
        }
    }

    const fn because(self) -> &'static str {
        match self {
            Self::Possible => "it can be",
            Self::Revoked => "the revocation of its key was begun",
            Self::Listed => "its key stands in spec.revokedVersions",
            Self::Forgotten => "the ledger holds its key no more (the policy's retention)",
            Self::NeverPublished => "it was never published",
        }
    }
}

/// Whether a version can be pinned. None: it is on its way.
pub fn standing(key: &KeyView, record: &Record, version: &Version) -> Option<Standing> {
    match (version.state, &version.key) {
        (VersionState::Intent | VersionState::Pending, _) => None,
        (VersionState::Abandoned | VersionState::Spare, _) | (_, None) => Some(Standing::NeverPublished),
        (_, Some(facts)) => Some(of_key(key, record, facts)),
    }
}

fn of_key(key: &KeyView, record: &Record, facts: &KeyFacts) -> Standing {
    if record.was_retired(&facts.fingerprint) {
        Standing::Revoked
    } else if rotate::listed(key, record, facts) {
        Standing::Listed
    } else if sealed(record, facts).is_some() {
        Standing::Possible
    } else {
        Standing::Forgotten
    }
}

/// A version that holds the key sealed.
fn sealed<'a>(record: &'a Record, facts: &KeyFacts) -> Option<&'a Version> {
    record.versions.iter().rev().find(|v| v.sealed.is_some() && v.has_key(&facts.fingerprint))
}

/// What the pin comes to.
enum Pin<'a> {
    /// There is none.
    Nothing,
    /// The version, or another one with its key, is on its way.
    Underway,
    /// Its key is the one that workloads have.
    Delivered,
    /// Its key is to be published again; this version holds it.
    Again(&'a Version),
    /// It cannot be published; none: there is no such version.
    Never(Option<Standing>),
}

/// The key that is pinned, if the record tells. A version that is not on record any more is known by who took over its key.
fn pinned_key<'a>(key: &KeyView, record: &'a Record) -> Option<&'a KeyFacts> {
    let number = key.pinned?;
    let version = match record.version(number) {
        // Nor a spare, which was never delivered.
        Some(version) => {
            Some(version).filter(|v| v.state != VersionState::Abandoned && v.reason != RotationReason::Spare)
        }
        None => record.versions.iter().rev().find(|v| v.key_of == Some(number)),
    };
    version?.key.as_ref()
}

fn resolve<'a>(key: &KeyView, record: &'a Record) -> Pin<'a> {
    let Some(number) = key.pinned else { return Pin::Nothing };
    let in_flight = record.in_flight();
    if in_flight.is_some_and(|v| v.version == number && v.key.is_none()) {
        return Pin::Underway;
    }
    let Some(facts) = pinned_key(key, record) else {
        return Pin::Never(record.version(number).map(|_| Standing::NeverPublished));
    };
    let standing = of_key(key, record, facts);
    if standing != Standing::Possible {
        return Pin::Never(Some(standing));
    }
    if in_flight.is_some_and(|v| v.has_key(&facts.fingerprint)) {
        return Pin::Underway;
    }
    if record.current().is_some_and(|v| v.has_key(&facts.fingerprint)) {
        return Pin::Delivered;
    }
    sealed(record, facts).map_or(Pin::Never(Some(Standing::Forgotten)), Pin::Again)
}

/// Whether the pin wants the version's key to go on working: it is neither revoked nor forgotten unasked.
pub(super) fn keeps(key: &KeyView, record: &Record, version: &Version) -> bool {
    pinned_key(key, record).is_some_and(|facts| version.has_key(&facts.fingerprint))
}

/// One step: what is on its way and not pinned is given up, and the pinned key is published again.
pub(super) fn advance(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.revoke_all {
        return;
    }
    if let Some(version) = record.in_flight()
        && version.state != VersionState::Intent
        && unwanted(o, record, version, env)
    {
        if !super::flight::carried(o, version.version) {
            plan.effects.push(Effect::SwapLedger(Box::new(given_up(o, record, version, env))));
        }
        return;
    }
    let Pin::Again(base) = resolve(&o.key, record) else { return };
    let delivering = record.in_flight().is_some_and(|v| v.state != VersionState::Intent);
    if delivering || held(o, record, base, plan) {
        return;
    }
    match checked(o, record, base, env, plan) {
        Gate::Ask => plan.effects.push(Effect::Validate(Subject::Pinned(base.version))),
        Gate::Hold => {}
        Gate::Publish if record.in_flight().is_some() => {
            // The attempt to make another key is given up first.
        }
        Gate::Publish if base.origin == Origin::Minted && !o.key.finalizer && !o.key.retain_on_delete => {
            plan.effects.push(Effect::SetFinalizer(true));
        }
        Gate::Publish => {
            plan.effects.push(Effect::SwapLedger(Box::new(again(o, record, base, env))));
        }
    }
}

/// What keeps the pinned key from being published now. What a person must mend is told as a stall elsewhere.
fn held(o: &Observed, record: &Record, base: &Version, plan: &mut Plan) -> bool {
    let number = o.key.pinned.unwrap_or_default();
    let problem = o.provider.problem.is_some()
        || o.policy.problem.is_some()
        || o.key.template_problem.is_some()
        || matches!(o.target, TargetView::Foreign(..))
        || !super::at_home(o, base);
    if o.key.paused {
        let message = format!(
            "the key of version {number} is to be published again; the annotation llmkeys.dev/paused holds it"
        );
        if record.delivered().is_none() {
            plan.progress(Reason::Paused, message.clone());
        }
        due(plan, Reason::Paused, message);
    } else if problem {
        due(
            plan,
            Reason::Pinned,
            format!("the key of version {number} is to be published again and cannot be: see Stalled"),
        );
    }
    o.key.paused || problem
}

/// What validation says of the pinned key. A refusal is told at the end: it must not keep anything else from going on.
fn checked(o: &Observed, record: &Record, base: &Version, env: &Env, plan: &mut Plan) -> Gate {
    let Some(facts) = &base.key else { return Gate::Hold };
    let mut asked = Plan::default();
    let gate = gate(o, &facts.shown, None, super::flight::over_good(o, record), env, &mut asked);
    if let Some(wake) = asked.wake {
        plan.wake_at(wake);
    }
    plan.findings.extend(asked.findings.into_iter().filter(|f| f.reason != Reason::RejectedNotPublished));
    if gate != Gate::Publish && !refused(o, facts) {
        let number = o.key.pinned.unwrap_or_default();
        due(
            plan,
            Reason::Rotating,
            format!("the key of version {number} is published again once the provider accepts it"),
        );
    }
    gate
}

/// The provider's last word on a key that is to be published again was a refusal.
pub(super) fn refused(o: &Observed, facts: &KeyFacts) -> bool {
    let last = o.memory.before_delivery(&facts.shown).and_then(|h| h.last);
    o.key.validation == ValidationMode::Required && last.is_some_and(|(verdict, _)| verdict.refuses())
}

/// The new version of the pinned key. Who writes it seals the key for its number.
fn again(o: &Observed, record: &Record, base: &Version, env: &Env) -> Record {
    let mut next = successor(record, env);
    super::on_deletion(o, &mut next);
    let number = next_number(o, record);
    next.versions.push(Version {
        account: base.account.clone(),
        mint_name: base.mint_name.clone(),
        provider_key_id: base.provider_key_id.clone(),
        key: base.key.clone(),
        key_of: o.key.pinned,
        member: base.member.clone(),
        slot: base.slot.clone(),
        ..Version::begun(number, VersionState::Pending, base.origin, RotationReason::Pinned, env.now)
    });
    fold_delivery(record, &mut next);
    next
}

/// Whether what is on its way is not what the spec pins, or was pinned and is not any more.
///
/// While nothing is delivered, and while a listed key has to be replaced, another key is welcome: there an attempt to make
/// one is given up only once the pinned one is known to work.
pub(super) fn unwanted(o: &Observed, record: &Record, version: &Version, env: &Env) -> bool {
    match resolve(&o.key, record) {
        Pin::Underway => false,
        Pin::Delivered => true,
        Pin::Again(base) => {
            let spare = record.current().is_some() && version.reason != RotationReason::BreakGlass;
            let attempt = version.state == VersionState::Intent;
            version.reason == RotationReason::Pinned || spare || attempt && works(o, base, env)
        }
        Pin::Nothing | Pin::Never(_) => version.reason == RotationReason::Pinned,
    }
}

fn works(o: &Observed, base: &Version, env: &Env) -> bool {
    let answer = base.key.as_ref().and_then(|key| o.memory.before_delivery(&key.shown));
    let fresh = |at: DateTime<Utc>| env.now - at < delta(env.timings.candidate_fresh);
    let accepted = answer.and_then(|h| h.last).is_some_and(|(verdict, at)| verdict.accepts() && fresh(at));
    !o.key.paused && super::at_home(o, base) && (o.key.validation != ValidationMode::Required || accepted)
}

/// A version on its way that the Secret does not have. Its key goes with it only if no other version has it.
fn given_up(o: &Observed, record: &Record, version: &Version, env: &Env) -> Record {
    let mut next = successor(record, env);
    let revoke = version.origin == Origin::Minted && !borrowed(o, record, version);
    let to = if revoke { VersionState::Retiring } else { VersionState::Abandoned };
    if next.advance(version.version, to)
        && let Some(v) = next.version_mut(version.version).filter(|_| revoke)
    {
        v.retiring_at = Some(env.now);
        v.basis = Some(RevocationBasis::NeverPublished);
    }
    asks_again(version, &mut next);
    next.prune();
    next
}

/// Whether the key of a version on its way is another one's: giving the version up ends nothing at the provider.
pub(super) fn borrowed(o: &Observed, record: &Record, version: &Version) -> bool {
    version.reason == RotationReason::Pinned || retire::holder(&o.pass, record, version).is_some()
}

/// What was asked for has not happened: the token asks again.
pub(super) fn asks_again(version: &Version, next: &mut Record) {
    if version.reason == RotationReason::Requested {
        next.handled_rotate = None;
    }
}

/// Ends an attempt to make a key that the spec leaves no room for.
pub(super) fn abandon_attempt(o: &Observed, record: &Record, version: &Version, env: &Env, plan: &mut Plan) {
    retire::abandon_intents(&super::view(o, record), env, plan);
    for effect in &mut plan.effects {
        if let Effect::SwapLedger(next) = effect
            && next
                .version(version.version)
                .is_some_and(|v| matches!(v.state, VersionState::Abandoned | VersionState::Retiring))
        {
            asks_again(version, next);
        }
    }
}

/// At L3 of a version with an older one's key: from here on it alone answers for the key.
pub(super) fn close_older(next: &mut Record, number: i32) {
    let Some(facts) =
        next.version(number).filter(|v| v.reason == RotationReason::Pinned).and_then(|v| v.key.clone())
    else {
        return;
    };
    let older: Vec<i32> = next
        .versions
        .iter()
        .filter(|v| v.version != number && v.has_key(&facts.fingerprint))
        .map(|v| v.version)
        .collect();
    for older in older {
        // What is closed already stays as it is.
        let _closed = next.advance(older, VersionState::Republished);
    }
}

/// Since when workloads can have had the version. The Secret may have held the same bytes by another hand before, and a
/// write that changes nothing bears no new time.
pub(super) fn published(
    version: Option<&Version>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    match version {
        Some(v) if v.reason == RotationReason::Pinned && since < v.created_at => now,
        _ => since,
    }
}

/// Whether the pin holds what would otherwise begin; tells of it. A listed key is replaced all the same, and where nothing is
/// delivered a key is made.
pub(super) fn holds(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) -> bool {
    let (Some(number), Some(delivered)) = (o.key.pinned, record.delivered()) else { return false };
    if delivered.key.as_ref().is_some_and(|key| rotate::listed(&o.key, record, key)) {
        return false;
    }
    if let Some(what) = wanted(o, record, delivered, env, plan) {
        due(plan, Reason::Pinned, format!("{what}; spec.pinnedVersion ({number}) holds it"));
    }
    true
}

/// What would begin without the pin.
fn wanted(
    o: &Observed,
    record: &Record,
    delivered: &Version,
    env: &Env,
    plan: &mut Plan,
) -> Option<&'static str> {
    let published = delivered.published_at.unwrap_or(delivered.created_at);
    let at = rotate::when(o, &record.lineage, published, env);
    if let Some(at) = at.filter(|at| env.now < *at) {
        plan.wake_at(at);
    }
    let shown = delivered.key.as_ref().map(|k| k.shown.as_str());
    let other = matches!(&o.source, SourceView::Value(facts) if !delivered.has_key(&facts.fingerprint));
    if rotate::refused(o, shown, false, env, plan) {
        Some("the provider refuses the key, and it is not replaced")
    } else if o.key.rotate.is_some() && o.key.rotate != record.handled_rotate {
        Some("a rotation is asked for")
    } else if other {
        Some("the source Secret holds another key")
    } else if o.key.minted && delivered.origin == Origin::Supplied {
        Some("a key is to be made")
    } else if record.awaiting_supply || at.is_some_and(|at| env.now >= at) {
        Some("a rotation is due")
    } else {
        None
    }
}

/// Told last: a pin that cannot be carried out holds rotations, and nothing else.
pub(super) fn tell(o: &Observed, plan: &mut Plan) {
    let (Some(number), LedgerView::Present(ledger)) = (o.key.pinned, &o.ledger) else { return };
    let record = &ledger.record;
    if o.key.revoke_all || o.key.deleting || o.key.is_newer_than(record) {
        return;
    }
    let why = match resolve(&o.key, record) {
        Pin::Never(None) => "there is no such version".to_owned(),
        Pin::Never(Some(standing)) => standing.because().to_owned(),
        Pin::Again(base) if !super::at_home(o, base) && o.provider.account_problem.is_none() => {
            plan.stall(Reason::AccountChanged, retire::elsewhere(base));
            return;
        }
        Pin::Again(base) if base.key.as_ref().is_some_and(|facts| refused(o, facts)) => {
            "the provider refuses its key".to_owned()
        }
        _ => return,
    };
    plan.stall(
        Reason::PinImpossible,
        format!(
            "spec.pinnedVersion: version {number} cannot be published: {why}. {}; or take pinnedVersion out",
            others(o, record, number)
        ),
    );
}

/// What can be pinned instead.
fn others(o: &Observed, record: &Record, number: i32) -> String {
    let can = |v: &&Version| v.version != number && standing(&o.key, record, v) == Some(Standing::Possible);
    let numbers: Vec<String> = record.versions.iter().filter(can).map(|v| v.version.to_string()).collect();
    match numbers.as_slice() {
        [] => "No version can be pinned".to_owned(),
        [one] => format!("Version {one} can be pinned"),
        many => format!("Versions {} can be pinned", many.join(", ")),
    }
}
