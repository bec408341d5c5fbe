//! What conditions tell of a key that is delivered while something is wrong.

use super::deliver::{after, ready};
use super::driver::Run;
use super::world::World;
use crate::api::{ConditionType, LLMKeyStatus, ObservedVersions, Reason};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Effect, LedgerView, Memory, Observed, TargetView};
use crate::controller::llm_key::status::status;
use crate::domain::health::Verdict;
use crate::ledger::Ledger;

fn shown(status: &LLMKeyStatus, kind: ConditionType) -> String {
    let found = status.conditions.iter().find(|c| c.type_ == kind.as_str()).unwrap();
    format!("{} {}", found.status, found.reason)
}

fn of(run: &Run, kind: ConditionType) -> String {
    shown(run.world.key.as_ref().unwrap().status.as_ref().unwrap(), kind)
}

/// The status of an observation that nobody acts on.
fn told(world: &mut World, o: &Observed) -> LLMKeyStatus {
    let env = world.env();
    let before = world.key.as_ref().unwrap().status.clone().unwrap();
    status(o, &decide(o, &env), &before, ObservedVersions::default(), &env)
}

#[test]
fn what_waits_for_a_person_is_not_ready_while_the_key_is_healthy() {
    let mut run = after(World::minting(), 60);
    let missing = Some((Reason::PolicyNotFound, "it does not exist".to_owned()));
    run.world.policy.problem = missing;
    run.until(&[], 120).unwrap();
    assert_eq!(ready(&run.world), "False PolicyNotFound", "{}", run.story());
    assert_eq!(of(&run, ConditionType::Stalled), "True PolicyNotFound");
    assert_eq!(of(&run, ConditionType::Healthy), "True KeyValid");
    run.world.policy.problem = None;
    run.world.account_problem = Some((Reason::AdminCredentialMissing, "gone".into()));
    run.until(&[], 180).unwrap();
    assert_eq!(ready(&run.world), "False AdminCredentialMissing");
    assert_eq!(of(&run, ConditionType::Stalled), "True AdminCredentialMissing");
    assert_eq!(of(&run, ConditionType::Healthy), "True KeyValid");
}

#[test]
fn what_waits_for_a_person_before_the_first_delivery_is_not_ready() {
    let mut world = World::minting();
    world.provider_problem = Some((Reason::ProviderNotFound, "it does not exist".into()));
    let run = after(world, 60);
    assert_eq!(ready(&run.world), "False ProviderNotFound");
    assert_eq!(of(&run, ConditionType::Stalled), "True ProviderNotFound");
}

#[test]
fn a_target_that_another_hand_changed_is_not_ready() {
    let mut world = after(World::minting(), 60).world;
    world.target.as_mut().unwrap().bytes = "garbage".into();
    let (o, _) = world.observe(&Memory { repaired: Some(world.now), ..Memory::default() });
    let status = told(&mut world, &o);
    assert_eq!(shown(&status, ConditionType::Ready), "False TargetContested");
    assert_eq!(shown(&status, ConditionType::Reconciling), "True TargetContested");
    assert_eq!(status.current_version, Some(1));
}

#[test]
fn other_texts_are_rendered_at_once_and_are_no_repair() {
    let mut world = after(World::minting(), 60).world;
    let (mut o, _) = world.observe(&Memory { repaired: Some(world.now), ..Memory::default() });
    for changed in [false, true] {
        o.target = TargetView::Ours { carries: None, since: Some(world.now), changed };
        let plan = decide(&o, &world.env());
        let writes = [Effect::WriteTarget { version: 1 }];
        assert_eq!(plan.effects == writes, !changed, "{:?}", plan.effects);
        let ready = if changed { "False TargetContested" } else { "True KeyValid" };
        assert_eq!(shown(&told(&mut world, &o), ConditionType::Ready), ready);
    }
    for changed in [false, true] {
        o.memory.repaired = None;
        o.target = TargetView::Ours { carries: None, since: Some(world.now), changed };
        let env = world.env();
        o.learn(
            &Effect::WriteTarget { version: 1 },
            Learned::TargetWritten { version: 1, since: None },
            &env,
        );
        assert_eq!(o.memory.repaired.is_some(), changed);
    }
}

#[test]
fn a_replacement_that_could_not_be_written_has_replaced_nothing() {
    let mut run = after(World::supplying("sk-1"), 60);
    run.world.supply("sk-2", Verdict::Valid);
    run.until(&[], 120).unwrap();
    run.world.supply("sk-3", Verdict::Valid);
    let (mut o, _) = run.world.observe(&Memory::default());
    o.learn(
        &Effect::Validate(crate::controller::llm_key::model::Subject::Source),
        Learned::Answer {
            subject: crate::controller::llm_key::model::Subject::Source,
            fingerprint: super::world::facts("sk-3").shown,
            verdict: Verdict::Valid,
        },
        &run.world.env(),
    );
    let plan = decide(&o, &run.world.env());
    let Some(Effect::SwapLedger(record)) = plan.effects.first() else { panic!("{:?}", plan.effects) };
    let read = run.world.ledger.clone().unwrap();
    o.ledger = LedgerView::Present(Box::new(Ledger { record: (**record).clone(), ..read }));
    o.target = TargetView::Ours { carries: Some(2), since: Some(run.world.now), changed: false };
    assert_eq!(told(&mut run.world, &o).current_version, Some(2));
    o.target = TargetView::Ours { carries: Some(3), since: Some(run.world.now), changed: false };
    assert_eq!(told(&mut run.world, &o).current_version, Some(3));
}

#[test]
fn a_name_that_leads_to_private_addresses_is_told_as_refused() {
    let mut world = World::supplying("sk-1");
    world.provider.answers = Some(Verdict::AddressRefused);
    let mut run = after(world, 600);
    assert!(run.world.target.is_none(), "{}", run.story());
    assert_eq!(ready(&run.world), "False AddressRefused");
    assert_eq!(of(&run, ConditionType::Stalled), "True AddressRefused");
    run.world.provider.answers = None;
    run.until(&[], 700).unwrap();
    assert_eq!(ready(&run.world), "True KeyValid", "{}", run.story());

    run.world.provider.answers = Some(Verdict::AddressRefused);
    run.until(&[], 90_000).unwrap();
    assert_eq!(of(&run, ConditionType::Healthy), "Unknown AddressRefused", "{}", run.story());
    assert_eq!(of(&run, ConditionType::Stalled), "True AddressRefused");
    assert_eq!(ready(&run.world), "False AddressRefused");
    run.world.provider.answers = None;
    run.until(&[], 91_000).unwrap();
    assert_eq!(of(&run, ConditionType::Healthy), "True KeyValid", "{}", run.story());
    assert_eq!(of(&run, ConditionType::Stalled), "False NotStalled");
}
