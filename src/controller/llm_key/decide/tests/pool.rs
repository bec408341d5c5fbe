//! `spec.source.pool`: members in order, each value once.

use serde_json::json;

use super::deliver::{after, plan, ready, says, states};
use super::driver::Run;
use super::world::{World, at, every, pool};
use crate::api::{ConditionType, GoDuration, PAUSED, PoolStatus, Reason, RotationMode};
use crate::controller::llm_key::decide::decide;
use crate::controller::llm_key::model::{Effect, LedgerView, Look, Memory, Observed, SourceView, TargetView};
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RotationReason;
use crate::domain::lifecycle::VersionState::{Current, Overlap, Retained, Revoked};
use crate::ledger::Summary;

const DAY: i64 = 24 * 3600;

fn three() -> World {
    World::pooling(&[("a", "sk-pool-a1"), ("b", "sk-pool-b1"), ("c", "sk-pool-c1")])
}

fn daily(mut world: World) -> World {
    world.policy = every(24);
    world
}

fn target(run: &Run) -> &str {
    run.world.target.as_ref().map_or("", |t| t.bytes.as_str())
}

/// The member that is in use, and why its turn came.
fn in_use(run: &Run) -> (String, RotationReason) {
    let delivered = run.world.record().delivered().unwrap();
    (delivered.member.clone().unwrap(), delivered.reason)
}

fn told(run: &Run) -> PoolStatus {
    run.world.key.as_ref().unwrap().status.as_ref().unwrap().pool.clone().unwrap()
}

fn rotation_due(run: &Run) -> (String, String) {
    let status = run.world.key.as_ref().unwrap().status.as_ref().unwrap();
    let found = status.conditions.iter().find(|c| c.type_ == "RotationDue").unwrap();
    (format!("{} {}", found.status, found.reason), found.message.clone())
}

fn source(run: &mut Run, source: &serde_json::Value) {
    run.world.edit(|key| key.spec.source = serde_json::from_value(source.clone()).unwrap());
}

#[test]
fn each_key_is_used_once_in_order_and_a_person_is_asked_when_none_is_left() {
    let mut run = after(daily(three()), 600);
    assert_eq!((target(&run), in_use(&run)), ("sk-pool-a1", ("a".into(), RotationReason::Initial)));
    assert_eq!(run.world.history.writes, 3, "as few as for any supplied key: {}", run.story());
    let (due, message) = rotation_due(&run);
    assert_eq!(due, "False NotDue");
    assert!(message.contains("b is next; unused: 2 of 3"), "{message}");
    run.until(&[], DAY + 60).unwrap();
    assert_eq!((target(&run), in_use(&run)), ("sk-pool-b1", ("b".into(), RotationReason::Schedule)));
    assert_eq!(states(&run.world), [Retained, Current], "{}", run.story());
    let (_, message) = rotation_due(&run);
    assert!(message.contains("delete the key of version 1 (pool member a, it ends in l-a1)"), "{message}");
    run.until(&[], 2 * DAY + 120).unwrap();
    let (due, message) = rotation_due(&run);
    assert_eq!((in_use(&run).0.as_str(), due.as_str()), ("c", "False LastPoolMember"));
    assert!(message.contains("put a new key into Secret team-a/a (pool member a)"), "{message}");
    assert_eq!((told(&run).unused, told(&run).total, told(&run).next), (0, 3, None));
    run.until(&[], 3 * DAY + 180).unwrap();
    let (due, message) = rotation_due(&run);
    assert_eq!((in_use(&run).0.as_str(), due.as_str()), ("c", "True SupplyNextKey"));
    assert!(message.contains("used up: put a new key into Secret team-a/a"), "{message}");
    assert_eq!(ready(&run.world), "True KeyValid", "what is delivered stays");
    run.world.fill("a", "sk-pool-a2", Verdict::Valid);
    run.until(&[], 3 * DAY + 600).unwrap();
    assert_eq!((target(&run), in_use(&run).0.as_str()), ("sk-pool-a2", "a"), "{}", run.story());
    assert_eq!(rotation_due(&run).0, "False LastPoolMember");
}

#[test]
fn a_member_without_a_usable_key_is_passed_over_and_tried_again_when_it_changes() {
    let mut world = daily(World::pooling(&[("a", "sk-pool-a1"), ("d", "sk-pool-d1")]));
    world.edit(|key| key.spec.source = serde_json::from_value(pool(&["a", "b", "c", "d"])).unwrap());
    world.fill("c", "sk-pool-bad", Verdict::Rejected);
    let mut run = after(world, 600);
    let skipped = |run: &Run| {
        told(run).skipped.iter().map(|s| format!("{} {}", s.name, s.reason)).collect::<Vec<_>>().join(", ")
    };
    assert_eq!((skipped(&run).as_str(), told(&run).next.as_deref()), ("b SourceNotFound", Some("c")));
    run.until(&[], DAY + 60).unwrap();
    assert_eq!(in_use(&run), ("d".into(), RotationReason::Schedule), "{}", run.story());
    assert_eq!(skipped(&run), "b SourceNotFound, c RejectedNotPublished");
    assert_eq!(rotation_due(&run).0, "False LastPoolMember", "neither counts as unused");
    assert_eq!(ready(&run.world), "True KeyValid");
    let mut restarted = Run::new(run.world.clone());
    restarted.until(&[], DAY + 120).unwrap();
    assert_eq!((told(&restarted), restarted.world.history.writes), (told(&run), run.world.history.writes));
    run.until(&[], 2 * DAY + 600).unwrap();
    let (due, message) = rotation_due(&run);
    assert_eq!(due, "True SupplyNextKey");
    assert!(message.contains("passed over: b (SourceNotFound), c (RejectedNotPublished)"), "{message}");
    run.world.fill("b", "sk-pool-b1", Verdict::Valid);
    run.until(&[], 2 * DAY + 1200).unwrap();
    assert_eq!(in_use(&run).0, "b", "{}", run.story());
    // The provider comes to accept the other one after all: asked again every few minutes while a key is due.
    run.until(&[], 3 * DAY + 1800).unwrap();
    assert_eq!(rotation_due(&run).0, "True SupplyNextKey");
    run.world.provider.supplied.insert("sk-pool-bad".into(), Verdict::Valid);
    run.until(&[], 3 * DAY + 2400).unwrap();
    assert_eq!(in_use(&run).0, "c", "{}", run.story());
}

#[test]
fn a_pool_without_any_usable_key_says_so_and_delivers_the_first_that_comes() {
    let mut world = World::pooling(&[]);
    world.edit(|key| key.spec.source = serde_json::from_value(pool(&["a", "b"])).unwrap());
    world.fill("b", "sk-pool-bad", Verdict::Rejected);
    let mut run = after(world, 600);
    assert!(run.world.ledger.is_none() && run.world.target.is_none());
    assert_eq!(ready(&run.world), "False SupplyNextKey");
    assert!(
        says(&plan(&run.world), ConditionType::Stalled, Reason::SupplyNextKey)
            || !plan(&run.world).effects.is_empty()
    );
    run.world.fill("a", "sk-pool-a1", Verdict::Valid);
    run.until(&[], 1200).unwrap();
    assert_eq!(
        (target(&run), ready(&run.world).as_str()),
        ("sk-pool-a1", "True KeyValid"),
        "{}",
        run.story()
    );
}

#[test]
fn an_outage_neither_passes_a_member_over_nor_uses_it() {
    let mut run = after(daily(three()), 600);
    run.world.provider.answers = Some(Verdict::ProviderDown);
    run.until(&[], DAY + 3600).unwrap();
    assert_eq!((in_use(&run).0.as_str(), told(&run).next.as_deref()), ("a", Some("b")));
    assert_eq!((told(&run).skipped.len(), rotation_due(&run).0.as_str()), (0, "True Rotating"));
    run.world.provider.answers = None;
    run.until(&[], DAY + 7200).unwrap();
    assert_eq!(in_use(&run).0, "b", "{}", run.story());
}

#[test]
fn a_policy_that_only_reminds_or_that_nobody_named_waits_for_a_person() {
    for defaulted in [false, true] {
        let mut world = daily(three());
        world.policy.defaulted = defaulted;
        world.policy.mode = if defaulted { RotationMode::Automatic } else { RotationMode::RemindOnly };
        let mut run = after(world, 2 * DAY);
        let (due, message) = rotation_due(&run);
        assert_eq!((in_use(&run).0.as_str(), due.as_str()), ("a", "True RemindOnly"));
        assert!(message.contains("pool member b") && message.contains("default") == defaulted, "{message}");
        run.world.rotate("now");
        run.until(&[], 2 * DAY + 60).unwrap();
        assert_eq!(in_use(&run), ("b".into(), RotationReason::Requested), "{}", run.story());
        assert_eq!(run.world.record().handled_rotate.as_deref(), Some("now"));
        run.until(&[], 2 * DAY + 600).unwrap();
        assert_eq!(in_use(&run).0, "b", "one token, one turn");
    }
}

#[test]
fn a_pause_and_a_window_hold_a_turn() {
    let mut run = after(daily(three()), 600);
    run.world.annotate(PAUSED, "true");
    run.until(&[], DAY + 60).unwrap();
    assert_eq!((in_use(&run).0.as_str(), rotation_due(&run).0.as_str()), ("a", "True Paused"));
    run.world.fill("a", "sk-pool-a2", Verdict::Valid);
    run.until(&[], DAY + 120).unwrap();
    assert_eq!((target(&run), rotation_due(&run).0.as_str()), ("sk-pool-a1", "True Paused"));
    run.world.edit(|key| key.metadata.annotations = None);
    run.until(&[], DAY + 180).unwrap();
    assert_eq!(target(&run), "sk-pool-a2");

    let mut world = three();
    // The window opens twelve hours after the key is due.
    let opens = at(36 * 3600).format("%M %H * * *").to_string();
    let windows = json!([{"name": "daily", "cron": opens, "duration": "1h"}]);
    let spec = json!({"schedule": {"interval": "24h"}, "jitter": "0s", "windows": windows});
    world.policy.schedule =
        Some(crate::domain::schedule::parse(&serde_json::from_value(spec).unwrap()).unwrap());
    let mut run = after(world, 30 * 3600);
    assert!(says(&plan(&run.world), ConditionType::RotationDue, Reason::WaitingForWindow));
    assert_eq!(in_use(&run).0, "a");
    run.until(&[], 37 * 3600).unwrap();
    assert_eq!(in_use(&run).0, "b", "{}", run.story());
}

#[test]
fn a_refused_key_is_replaced_only_where_the_policy_says_so() {
    for replace in [false, true] {
        let mut world = three();
        world.policy.replace_invalid = replace;
        let mut run = after(world, 600);
        run.world
            .edit(|key| key.spec.validation.interval = Some(GoDuration(std::time::Duration::from_secs(600))));
        run.world.provider.answers = Some(Verdict::Rejected);
        let health =
            |run: &Run| run.world.key.as_ref().unwrap().status.as_ref().unwrap().health.clone().unwrap();
        let confirmed = (600..1900).find(|second| {
            run.until(&[], *second).unwrap();
            health(&run).state == "Invalid"
        });
        let confirmed = confirmed.unwrap();
        run.world.provider.answers = None;
        run.until(&[], confirmed + 119).unwrap();
        assert_eq!(in_use(&run).0, "a", "two minutes");
        run.until(&[], confirmed + 125).unwrap();
        let wanted = if replace {
            ("b".into(), RotationReason::Invalid)
        } else {
            ("a".into(), RotationReason::Initial)
        };
        assert_eq!(in_use(&run), wanted, "{}", run.story());
        assert_eq!(ready(&run.world), if replace { "True KeyValid" } else { "False KeyInvalid" });
    }
}

#[test]
fn a_listed_version_is_replaced_at_once_even_if_paused_or_only_reminded() {
    let mut world = daily(three());
    world.policy.mode = RotationMode::RemindOnly;
    let mut run = after(world, 600);
    run.world.annotate(PAUSED, "true");
    run.world.edit(|key| key.spec.revoked_versions = vec![1]);
    run.until(&[], 660).unwrap();
    assert_eq!(in_use(&run), ("b".into(), RotationReason::BreakGlass), "{}", run.story());
    assert_eq!((states(&run.world), ready(&run.world)), (vec![Retained, Current], "True KeyValid".into()));
    run.world.edit(|key| key.spec.revoked_versions = vec![1, 2, 3]);
    run.until(&[], 720).unwrap();
    // c's version has the number 4, above every listed one; then the list goes on to it.
    assert_eq!(run.world.record().delivered().unwrap().version, 4);
    run.world.edit(|key| key.spec.revoked_versions = vec![4]);
    run.until(&[], 780).unwrap();
    assert_eq!(in_use(&run).0, "c", "nothing is left");
    assert_eq!(ready(&run.world), "False NotSupported");
    assert_eq!(rotation_due(&run).0, "True SupplyNextKey");
}

#[test]
fn another_key_of_the_member_in_use_is_published_and_a_used_one_is_not() {
    let mut run = after(three(), 600);
    run.world.fill("a", "sk-pool-bad", Verdict::Rejected);
    run.until(&[], 660).unwrap();
    assert_eq!((target(&run), ready(&run.world).as_str()), ("sk-pool-a1", "True KeyValid"));
    assert_eq!(told(&run).skipped[0].reason, "RejectedNotPublished");
    run.world.provider.supplied.insert("sk-pool-bad".into(), Verdict::Valid);
    run.until(&[], 1200).unwrap();
    assert_eq!(target(&run), "sk-pool-bad", "asked again: {}", run.story());
    run.world.fill("a", "sk-pool-a2", Verdict::Valid);
    run.until(&[], 1260).unwrap();
    assert_eq!((target(&run), in_use(&run)), ("sk-pool-a2", ("a".into(), RotationReason::SourceChanged)));
    run.world.fill("a", "sk-pool-a1", Verdict::Valid);
    run.until(&[], 1320).unwrap();
    assert_eq!(target(&run), "sk-pool-a2", "each value once");
    run.world.rotate("now");
    run.until(&[], 1380).unwrap();
    assert_eq!(in_use(&run).0, "b");
}

#[test]
fn removing_reordering_and_renaming_members_leaves_the_key_in_use() {
    let mut run = after(three(), 600);
    run.world.rotate("1");
    run.until(&[], 660).unwrap();
    assert_eq!(in_use(&run).0, "b");
    let before = run.world.history.published;
    source(&mut run, &pool(&["c", "b", "a"]));
    run.until(&[], 720).unwrap();
    source(&mut run, &pool(&["a", "c"]));
    run.until(&[], 780).unwrap();
    assert_eq!((target(&run), run.world.history.published), ("sk-pool-b1", before), "{}", run.story());
    assert!(rotation_due(&run).1.contains("came from a member that the pool has no more"));
    assert_eq!(told(&run).next.as_deref(), Some("c"), "from the beginning, and a's key was used");
    let renamed = json!({"pool": {"members": [
        {"name": "x", "secretRef": {"name": "b", "key": "key"}},
        {"name": "c", "secretRef": {"name": "c", "key": "key"}},
    ]}});
    source(&mut run, &renamed);
    run.until(&[], 840).unwrap();
    assert_eq!((in_use(&run).0.as_str(), run.world.history.published), ("x", before), "{}", run.story());
}

#[test]
fn two_members_with_one_key_count_once() {
    let mut run = after(
        daily(World::pooling(&[
            ("a", "sk-pool-1"),
            ("b", "sk-pool-1"),
            ("c", "sk-pool-2"),
            ("d", "sk-pool-2"),
        ])),
        600,
    );
    run.until(&[], DAY + 60).unwrap();
    assert_eq!((in_use(&run).0.as_str(), target(&run)), ("c", "sk-pool-2"));
    assert_eq!((told(&run).unused, rotation_due(&run).0.as_str()), (0, "False LastPoolMember"));
    run.until(&[], 3 * DAY).unwrap();
    assert_eq!((in_use(&run).0.as_str(), rotation_due(&run).0.as_str()), ("c", "True SupplyNextKey"));
}

#[test]
fn a_used_key_does_not_come_back_after_pruning() {
    let mut run = after(daily(World::pooling(&[("a", "sk-pool-0"), ("b", "sk-pool-1")])), 600);
    for day in 1..30 {
        let free = if in_use(&run).0 == "a" { "b" } else { "a" };
        run.world.fill(free, &format!("sk-pool-{day}"), Verdict::Valid);
        run.until(&[], day * (DAY + 60) + 600).unwrap();
        assert_eq!(target(&run), format!("sk-pool-{day}"));
    }
    assert!(run.world.record().version(1).is_none(), "pruned");
    let free = if in_use(&run).0 == "a" { "b" } else { "a" };
    run.world.fill(free, "sk-pool-0", Verdict::Valid);
    run.until(&[], 32 * DAY).unwrap();
    assert_eq!((target(&run), rotation_due(&run).0.as_str()), ("sk-pool-29", "True SupplyNextKey"));
}

#[test]
fn created_again_the_llmkey_goes_on_where_it_was() {
    let spec = json!({"providerRef": {"name": "openai"}, "source": pool(&["a", "b", "c"])});
    let mut run = after(three(), 600);
    run.world.delete();
    run.until(&[], 660).unwrap();
    run.world.create(&spec);
    run.until(&[], 720).unwrap();
    assert_eq!((target(&run), run.world.history.published), ("sk-pool-a1", 1), "in time: {}", run.story());
    run.world.delete();
    run.until(&[], 5 * DAY).unwrap();
    assert!(run.world.record().versions.iter().all(|v| v.sealed.is_none()), "the keys serve nobody");
    run.world.create(&spec);
    run.until(&[], 5 * DAY + 60).unwrap();
    assert_eq!(target(&run), "sk-pool-b1", "too late for the key, not for what was used: {}", run.story());
}

#[test]
fn from_a_single_source_to_a_pool_and_back_versions_go_on() {
    let single = json!({"secretRef": {"name": "source", "key": "key"}});
    let mut world = World::supplying("sk-pool-b1");
    for (member, key) in [("a", "sk-pool-a1"), ("b", "sk-pool-b1"), ("c", "sk-pool-c1")] {
        world.fill(member, key, Verdict::Valid);
    }
    let mut run = after(world, 600);
    source(&mut run, &pool(&["a", "b", "c"]));
    run.until(&[], 660).unwrap();
    assert_eq!((in_use(&run).0.as_str(), run.world.history.published), ("b", 1), "it stays: {}", run.story());
    assert_eq!(told(&run).next.as_deref(), Some("c"));
    run.world.supply("sk-single", Verdict::Valid);
    source(&mut run, &single);
    run.until(&[], 720).unwrap();
    assert_eq!(target(&run), "sk-single");
    assert!(run.world.key.as_ref().unwrap().status.as_ref().unwrap().pool.is_none());
    source(&mut run, &pool(&["a", "b", "c"]));
    run.until(&[], 780).unwrap();
    assert_eq!((target(&run), in_use(&run)), ("sk-pool-a1", ("a".into(), RotationReason::SourceChanged)));
    assert_eq!(states(&run.world), [Retained, Retained, Current]);
}

#[test]
fn a_pool_after_a_made_key_is_a_rotation_with_an_overlap_that_holds_the_next_turn() {
    let mut run = after(World::minting(), 600);
    for (member, key) in [("a", "sk-pool-a1"), ("b", "sk-pool-b1")] {
        run.world.fill(member, key, Verdict::Valid);
    }
    source(&mut run, &pool(&["a", "b"]));
    run.until(&[], 660).unwrap();
    assert_eq!((states(&run.world), target(&run)), (vec![Overlap, Current], "sk-pool-a1"), "{}", run.story());
    run.world.rotate("now");
    run.until(&[], 720).unwrap();
    assert_eq!((in_use(&run).0.as_str(), rotation_due(&run).0.as_str()), ("a", "True OverlapActive"));
    run.until(&[], 3 * 3600).unwrap();
    assert_eq!(states(&run.world), [Revoked, Retained, Current], "{}", run.story());
}

#[test]
fn of_many_members_only_those_that_are_needed_are_read() {
    let names: Vec<String> = (0..32).map(|n| format!("m{n}")).collect();
    let keys: Vec<String> = (0..32).map(|n| format!("sk-pool-{n}")).collect();
    let members: Vec<(&str, &str)> = names.iter().zip(&keys).map(|(n, k)| (n.as_str(), k.as_str())).collect();
    let mut run = after(daily(World::pooling(&members)), 3600);
    assert_eq!(run.world.history.members_read, 2, "the first, and the next in line: {}", run.story());
    run.until(&[], DAY + 30).unwrap();
    // Two at the time of the turn, one more after it; each pass of the driver is a full one.
    let passes = run.story.iter().filter(|line| line.contains("read pool members")).count();
    assert_eq!(run.world.history.members_read, passes, "one at a time: {}", run.story());
    // All but the last are missing: read in few steps, within one pass.
    run.world.pool.retain(|name, _| name == "m1" || name == "m31");
    let before = run.world.history.members_read;
    run.world.rotate("now");
    run.until(&[], DAY + 60).unwrap();
    assert_eq!(in_use(&run).0, "m31", "{}", run.story());
    assert!(run.world.history.members_read <= before + 3 * 32, "{}", run.world.history.members_read - before);
}

/// What a glance sees: the ledger's summary, and that nothing has changed.
fn glance(run: &Run) -> (Observed, crate::controller::llm_key::model::Env) {
    let mut world = run.world.clone();
    let (mut o, _) = world.observe(&Memory::default());
    o.ledger = LedgerView::Unread(Summary::of(run.world.record()));
    o.source = SourceView::Unchanged;
    o.target = TargetView::Unread;
    let env = world.env();
    (o, env)
}

#[test]
fn at_rest_a_glance_is_enough() {
    let mut run = after(daily(three()), 2 * DAY + 600);
    let (o, env) = glance(&run);
    assert_eq!(decide(&o, &env).look, Look::Nothing, "nothing is due");
    run.until(&[], 3 * DAY + 600).unwrap();
    let (mut o, env) = glance(&run);
    let plan = decide(&o, &env);
    assert_eq!(plan.look, Look::Nothing, "only a person can do anything, and the watch tells of it");
    assert!(says(&plan, ConditionType::RotationDue, Reason::SupplyNextKey));
    o.key.pool_told.as_mut().unwrap().settled = false;
    assert_eq!(decide(&o, &env).look, Look::Everything, "a refused key is asked again");
    let (mut o, env) = glance(&run);
    o.policy.schedule = None;
    assert_eq!(decide(&o, &env).look, Look::Everything, "status says what is so no more");
    let mut run = after(daily(three()), 600);
    run.world.now = at(DAY + 600);
    let (o, env) = glance(&run);
    assert_eq!(decide(&o, &env).look, Look::Everything, "a turn is due");
    // The ledger alone was read, to check the key: what the members hold is not asked for.
    let run = after(three(), 600);
    let (mut o, _) = run.world.observe(&Memory::default());
    o.source = SourceView::Unchanged;
    o.target = TargetView::Unread;
    let plan = decide(&o, &env);
    assert!(!plan.effects.iter().any(|e| matches!(e, Effect::ReadMembers { .. })), "{:?}", plan.effects);
}
