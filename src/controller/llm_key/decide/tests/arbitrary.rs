//! The planner on observations that no run would come to: total, deterministic, and careful all the same.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::world::{World, at, every};
use crate::api::{ConditionType, Reason, ValidationMode};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{
    Effect, Env, LedgerView, Memory, Minted, Observed, Plan, SourceView, TargetView,
};
use crate::controller::released;
use crate::domain::health::{Health, Verdict};
use crate::domain::lifecycle::{Origin, RotationReason, VersionState};
use crate::ledger::{Record, Version};

const STATES: [VersionState; 11] = [
    VersionState::Intent,
    VersionState::Pending,
    VersionState::Publishing,
    VersionState::Current,
    VersionState::Overlap,
    VersionState::Retiring,
    VersionState::Revoked,
    VersionState::Retained,
    VersionState::Abandoned,
    VersionState::Republished,
    VersionState::Spare,
];

/// Versions with keys of other ones, as pins and reverted values make them.
fn share_keys(record: &mut Record, seeds: &[u8]) {
    let Some(first) = record.versions.first().cloned() else { return };
    for (version, seed) in record.versions.iter_mut().zip(seeds).skip(1) {
        if seed.is_multiple_of(3) {
            version.key.clone_from(&first.key);
        }
    }
    if seeds[0].is_multiple_of(2) {
        record.versions.push(Version {
            version: record.next_number(),
            state: STATES[usize::from(seeds[1]) % STATES.len()],
            reason: RotationReason::Pinned,
            key_of: Some(first.version),
            ..first
        });
    }
}

/// Rule 1: no plan leads to the end of a key that another version needs.
fn broken_rule(record: &Record, plan: &Plan) -> Option<String> {
    let needed = |record: &Record, version: &Version| {
        let fingerprint = version.key.as_ref().map(|k| k.fingerprint.clone())?;
        let other =
            |v: &&Version| v.version != version.version && v.state.protects_key() && v.has_key(&fingerprint);
        record
            .versions
            .iter()
            .find(other)
            .map(|v| format!("{} needs the key of {}", v.version, version.version))
    };
    plan.effects.iter().find_map(|effect| match effect {
        Effect::SwapLedger(next) => next.versions.iter().find_map(|v| {
            let was = record.version(v.version).map(|was| was.state);
            let begins = v.state == VersionState::Retiring && was != Some(VersionState::Retiring);
            let again = was.is_none()
                && v.reason == RotationReason::Pinned
                && v.key.as_ref().is_some_and(|k| record.was_retired(&k.fingerprint));
            let needed = needed(next, v).filter(|_| begins);
            needed.or_else(|| again.then(|| format!("{} has a key on which L4 was recorded", v.version)))
        }),
        Effect::Revoke { version } => needed(record, record.version(*version)?),
        _ => None,
    })
}

/// Versions in states that no life may lead to.
fn disarrange(record: &mut Record, seeds: &[u8]) {
    for (version, seed) in record.versions.iter_mut().zip(seeds) {
        if !seed.is_multiple_of(3) {
            version.state = STATES[usize::from(*seed) % STATES.len()];
        }
        if seed.is_multiple_of(7) {
            version.origin = Origin::Supplied;
        }
        if seed.is_multiple_of(11) {
            version.account = None;
        }
        if seed.is_multiple_of(5) {
            version.reason = RotationReason::Spare;
        }
    }
}

/// An observation in the middle of a life, with its parts replaced at random.
fn observed(seeds: &[u8]) -> (Observed, Env) {
    let world = match seeds[0] % 3 {
        0 => World::minting(),
        1 => World::supplying("sk-1"),
        _ => World::pooling(&[("a", "sk-1"), ("b", "sk-2"), ("c", "sk-9")]),
    };
    let mut run = super::deliver::after(world, 600);
    run.world.rotate("now");
    run.world.policy = if seeds[1].is_multiple_of(3) { every(24) } else { run.world.policy.clone() };
    run.until(&[], 700 + i64::from(seeds[2]) * 30).unwrap();
    let (mut o, _) = run.world.observe(&Memory::default());
    let mut env = run.world.env();
    env.now = at(600 + i64::from(seeds[3]) * 400);
    if let LedgerView::Present(ledger) = &mut o.ledger {
        disarrange(&mut ledger.record, &seeds[4..8]);
        if seeds[8].is_multiple_of(5) {
            ledger.record.owner = None;
        }
        share_keys(&mut ledger.record, &seeds[16..20]);
        // So much holds of every record: nobody supplies a spare.
        let spares = ledger.record.versions.iter_mut().filter(|v| v.state == VersionState::Spare);
        spares.for_each(|spare| spare.origin = Origin::Minted);
        let retiring = ledger.record.versions.iter().filter(|v| v.state == VersionState::Retiring);
        if seeds[20].is_multiple_of(2) {
            o.pass.checked_after_l4.extend(retiring.map(|v| v.version));
            o.pass.searched.insert("proj_1".into());
        }
        if seeds[20].is_multiple_of(3) {
            o.pass.shared.extend(ledger.record.versions.iter().map(|v| (v.version, None)));
            o.pass.checked_delivered = true;
            o.pass.looked_for_l4 = true;
        }
        if seeds[8].is_multiple_of(6) {
            o.pass.fenced = Some(ledger.record.attempt);
            if seeds[8].is_multiple_of(4) {
                o.pass.searched.insert("proj_1".into());
            }
        }
    }
    match seeds[9] % 8 {
        0 => o.target = TargetView::Absent,
        1 => o.target = TargetView::PreviousOwner,
        2 => o.target = TargetView::Offered,
        3 => o.target = TargetView::Foreign(Reason::TargetForeign, "theirs".into()),
        4 => {
            let carries = Some(i32::from(seeds[9] % 3));
            o.target = TargetView::Ours { carries, since: Some(env.now), changed: false };
        }
        _ => (),
    }
    match seeds[10] % 9 {
        0 => o.ledger = LedgerView::Absent,
        1 => o.ledger = LedgerView::Unreadable(Reason::LedgerUnreadable, "garbled".into()),
        2 => o.source = SourceView::Value(super::world::facts("sk-9")),
        3 => o.source = SourceView::Unchanged,
        4 => {
            o.provider.account = None;
            o.provider.account_problem = Some((Reason::AdminCredentialMissing, "gone".into()));
        }
        5 => o.provider.problem = Some((Reason::ProviderNotFound, "gone".into())),
        _ => (),
    }
    o.policy.spares = i32::from(seeds[10].is_multiple_of(2));
    o.key.revoke_all = seeds[11].is_multiple_of(5);
    o.key.revoked_versions = (1..=3).filter(|n| seeds[13].is_multiple_of(*n + 4)).map(i32::from).collect();
    o.key.paused = seeds[11].is_multiple_of(7);
    o.key.pinned = [None, Some(1), Some(2), Some(3), Some(4), Some(9)][usize::from(seeds[21] % 6)];
    o.key.deleting = seeds[12].is_multiple_of(9);
    o.key.minted = !seeds[12].is_multiple_of(4);
    o.key.finalizer = seeds[12].is_multiple_of(3);
    o.key.validation = [ValidationMode::Required, ValidationMode::Advisory, ValidationMode::Disabled]
        [usize::from(seeds[13] % 3)];
    for (member, seed) in o.key.pool.iter().zip(&seeds[4..7]) {
        let view = match seed % 5 {
            0 => SourceView::Problem(Reason::SourceNotFound, "gone".into()),
            1 => SourceView::Value(super::world::facts("sk-9")),
            2 => SourceView::Value(super::world::facts("sk-1")),
            3 => SourceView::Value(super::world::facts(&format!("sk-new-{seed}"))),
            _ => continue,
        };
        o.pass.members.insert(member.name.clone(), view);
    }
    if seeds[7].is_multiple_of(4) {
        let asked = env.now - chrono::Duration::seconds(i64::from(seeds[7]) * 3);
        o.memory.refused.insert(super::world::facts("sk-9").shown, asked);
    }
    if seeds[14].is_multiple_of(3) {
        let mut health = Health::unknown(&super::world::facts("sk-9").shown, env.now);
        let verdict =
            [Verdict::Valid, Verdict::Rejected, Verdict::ProviderDown][usize::from(seeds[14] / 3 % 3)];
        health.observe(verdict, env.now, 3);
        o.memory.candidate = Some(health);
    }
    if seeds[15].is_multiple_of(6) {
        let minted = Minted { attempt: 1, id: "svc_late".into(), facts: super::world::facts("late") };
        o.pass.minted = Some(minted);
    }
    (o, env)
}

/// Observations with which a rule was once broken.
const ONCE_BROKEN: &[[u8; 22]] = &[
    // An LLMKey came back; a version in its overlap stayed, and another one with its key did not.
    [93, 0, 0, 0, 232, 54, 0, 0, 135, 0, 2, 0, 12, 0, 0, 1, 0, 144, 0, 0, 0, 0],
];

/// The same observations in each run, so that a run says something of the change that it is for. A search for more takes others:
/// `PROPTEST_CASES=400000 PROPTEST_RNG_SEED=7 cargo test --lib arbitrary`.
fn as_asked() -> ProptestConfig {
    let asked = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let seeded = matches!(asked.rng_seed, RngSeed::Fixed(_));
    if seeded { asked } else { ProptestConfig { cases: 4000, rng_seed: RngSeed::Fixed(1), ..asked } }
}

proptest! {
    #![proptest_config(as_asked())]
    #[test]
    fn plans_are_total_and_deterministic_and_touch_the_provider_only_from_the_right_state(
        seeds in prop_oneof![
            1 => prop::sample::select(ONCE_BROKEN).prop_map(|seeds| seeds.to_vec()),
            99 => prop::collection::vec(any::<u8>(), 22),
        ],
    ) {
        let (o, env) = observed(&seeds);
        let plan = decide(&o, &env);
        if let LedgerView::Present(ledger) = &o.ledger {
            prop_assert_eq!(broken_rule(&ledger.record, &plan), None);
            let released = released::decide::decide(&o, &env);
            prop_assert_eq!(broken_rule(&ledger.record, &released), None);
        }
        prop_assert_eq!(&plan, &decide(&o, &env));
        let record = match &o.ledger { LedgerView::Present(ledger) => Some(&ledger.record), _ => None };
        let state = |number: &i32| record.and_then(|r| r.version(*number)).map(|v| v.state);
        for effect in &plan.effects {
            match effect {
                Effect::Mint { version } => {
                    prop_assert_eq!(state(version), Some(VersionState::Intent));
                    prop_assert!(o.pass.fenced == record.map(|r| r.attempt) && o.pass.searched.contains("proj_1"));
                    prop_assert!(o.key.minted && !o.key.deleting && !o.key.revoke_all);
                }
                Effect::Revoke { version } => prop_assert_eq!(state(version), Some(VersionState::Retiring)),
                Effect::RevokeStray { id, .. } => {
                    let held = record.is_some_and(|r| {
                        r.versions.iter().any(|v| v.provider_key_id.as_ref() == Some(id))
                    });
                    prop_assert!(!held);
                }
                Effect::WriteTarget { version } => {
                    let foreign = matches!(o.target, TargetView::Foreign(..));
                    let after_l4 = matches!(state(version), Some(VersionState::Retiring | VersionState::Revoked));
                    prop_assert!(!foreign && !after_l4);
                }
                Effect::SwapLedger(next) => {
                    let before = record.unwrap();
                    prop_assert_eq!(next.epoch, before.epoch + 1);
                    for version in &next.versions {
                        if let Some(was) = before.version(version.version).map(|v| v.state) {
                            prop_assert!(
                                was == version.state || was.may_become(version.state),
                                "{}: {:?} -> {:?}", version.version, was, version.state
                            );
                        }
                    }
                }
                _ => (),
            }
        }
        if let Some(wake) = plan.wake && plan.effects.is_empty() {
            prop_assert!(wake > env.now, "wakes at once for nothing: {:?}", plan);
        }
        // Whoever waits is told why.
        let told = |kind| plan.findings.iter().any(|f| f.condition == kind);
        let undelivered = record.is_some_and(|r| r.delivered().is_none());
        if undelivered && plan.effects.is_empty() && plan.wake.is_none() && !o.key.deleting && !o.key.revoke_all {
            let waits = o.key.paused || matches!(o.source, SourceView::Unchanged | SourceView::None);
            prop_assert!(told(ConditionType::Stalled) || told(ConditionType::RotationDue) || waits, "{:?}", plan);
        }
    }
}
