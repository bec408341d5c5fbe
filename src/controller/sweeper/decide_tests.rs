use serde_json::json;

use super::*;
use crate::domain::names::{AttemptId, lineage_code};
use crate::domain::timings::Timings;

const INSTALL: &str = "install-1";
const LINEAGE: &str = "00000000-0000-4000-8000-000000000001";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn env() -> Env {
    Env { now: at(0), timings: Timings::default(), install: INSTALL.into(), nonce: 7 }
}

fn name(version: u32, attempt: u32) -> MintName {
    MintName::new(INSTALL, LINEAGE, version, AttemptId::new(attempt, 5).unwrap()).unwrap()
}

/// A key that was made an hour ago.
fn key(id: &str, version: u32, attempt: u32) -> Key {
    Key { id: id.into(), name: name(version, attempt), created: Some(at(-3600)) }
}

/// A version whose state and id are given; each has the attempt of its number.
fn version(number: i32, state: &str, id: Option<&str>) -> serde_json::Value {
    let account =
        json!({"provider": "acme", "type": "OpenAI", "host": "api.openai.com", "project": "proj_1"});
    let attempt = u32::try_from(number).unwrap();
    let mut version = json!({
        "version": number, "state": state, "origin": "Minted", "reason": "Initial", "createdAt": at(-7200),
        "account": account, "mintName": name(attempt, attempt).to_string(),
    });
    if let Some(id) = id {
        version["providerKeyID"] = id.into();
        version["key"] = json!({"fingerprint": id, "shown": id, "lastFour": "1234"});
    }
    version
}

fn record(attempt: u32, versions: &[serde_json::Value]) -> Record {
    serde_json::from_value(json!({
        "format": 1, "install": INSTALL, "namespace": "team", "name": "chat", "lineage": LINEAGE,
        "owner": "uid", "epoch": 9, "writer": "w", "attempt": attempt, "versions": versions,
    }))
    .unwrap()
}

fn ledger(record: Record) -> Sight {
    Sight::Present(Box::new(Ledger { record, resource_version: "1".into(), uid: "u".into() }))
}

/// A look at the keys that the sweep before has seen as well.
fn look(keys: Vec<Key>, sight: Option<Sight>) -> Observed {
    Observed {
        total: keys.len(),
        before: keys.iter().map(|key| key.id.clone()).collect(),
        keys,
        provider_now: Some(at(0)),
        ledgers: sight.map(|sight| (lineage_code(LINEAGE), sight)).into_iter().collect(),
        ..Observed::default()
    }
}

fn current() -> Record {
    record(2, &[version(1, "Revoked", Some("svc_1/key_1")), version(2, "Current", Some("svc_2/key_2"))])
}

fn revoked(plan: &Plan) -> Vec<&str> {
    let effects = plan.chains.iter().flatten();
    effects.filter_map(|e| if let Effect::Revoke { id } = e { Some(id.as_str()) } else { None }).collect()
}

fn freezes(plan: &Plan) -> bool {
    plan.chains.iter().flatten().any(|effect| matches!(effect, Effect::Freeze { .. }))
}

#[test]
fn every_state_of_a_version_says_whether_its_key_is_needed() {
    for (state, verdict) in [
        ("Pending", Verdict::Held),
        ("Publishing", Verdict::Held),
        ("Current", Verdict::Held),
        ("Overlap", Verdict::Held),
        ("Retiring", Verdict::Held),
        ("Retained", Verdict::Held),
        // Confirmed as gone, and listed again.
        ("Revoked", Verdict::Orphan),
        ("Abandoned", Verdict::Orphan),
    ] {
        let versions = [version(1, state, Some("svc_1/key_1")), version(2, "Current", Some("svc_2/key_2"))];
        assert_eq!(judge("svc_1", &name(1, 1), &record(2, &versions)), verdict, "{state}");
    }
}

/// Mutant M18: judged by its attempt alone, the second key of one attempt would be taken for the recorded one.
#[test]
fn a_mint_that_was_carried_out_twice_leaves_an_orphan_under_a_good_name() {
    assert_eq!(judge("svc_2", &name(2, 2), &current()), Verdict::Held);
    assert_eq!(judge("svc_9", &name(2, 2), &current()), Verdict::Orphan);
}

#[test]
fn an_open_attempt_keeps_the_whole_lineage_for_its_llmkey() {
    let open = record(3, &[version(2, "Current", Some("svc_2/key_2")), version(3, "Intent", None)]);
    assert_eq!(judge("svc_3", &name(3, 3), &open), Verdict::Owned);
    assert_eq!(judge("svc_9", &name(2, 2), &open), Verdict::Owned, "its own search revokes it");
    let mut closed = open;
    closed.versions[1].account = None;
    assert_eq!(judge("svc_3", &name(3, 3), &closed), Verdict::Orphan, "the provider refused that attempt");
}

#[test]
fn where_the_ledger_delivers_nothing_the_target_may_hold_the_key() {
    let mut nothing = record(2, &[version(2, "Overlap", Some("svc_2/key_2"))]);
    assert_eq!(judge("svc_9", &name(1, 1), &nothing), Verdict::Owned);
    let revoked =
        record(2, &[version(1, "Revoked", Some("svc_9/key_9")), version(2, "Revoked", Some("svc_2/key_2"))]);
    assert_eq!(
        judge("svc_9", &name(1, 1), &revoked),
        Verdict::Orphan,
        "a request that came late made it once more"
    );
    let mut ended = nothing.clone();
    ended.revoked_by_spec = true;
    assert_eq!(
        judge("svc_9", &name(1, 1), &ended),
        Verdict::Orphan,
        "the target is gone, and nobody searches"
    );
    nothing.owner = None;
    assert_eq!(judge("svc_9", &name(1, 1), &nothing), Verdict::Orphan, "no LLMKey, no target");
}

/// Mutant M17: the fence comes first, it changes the record, and names the version that was read.
#[test]
fn an_orphan_is_fenced_before_it_is_revoked() {
    let plan = decide(&look(vec![key("svc_9", 1, 1)], Some(ledger(current()))), &env());
    let [chain] = plan.chains.as_slice() else { panic!("{plan:?}") };
    let [Effect::Fence { read, next }, Effect::Revoke { id }] = chain.as_slice() else { panic!("{chain:?}") };
    assert_eq!((id.as_str(), read.resource_version.as_str()), ("svc_9", "1"));
    assert!(next.epoch > read.record.epoch && next.writer != read.record.writer);
    assert_eq!(next.versions, read.record.versions, "the fence says nothing of versions");
}

#[test]
fn a_young_key_is_left_alone_and_so_is_one_that_is_seen_for_the_first_time() {
    let seen = |change: fn(&mut Observed)| {
        let mut o = look(vec![key("svc_9", 1, 1)], Some(ledger(current())));
        change(&mut o);
        let plan = decide(&o, &env());
        assert!(plan.orphans.contains("svc_9"), "it counts as seen for the next sweep");
        revoked(&plan).len()
    };
    assert_eq!(seen(|_| {}), 1);
    assert_eq!(seen(|o| o.before.clear()), 0);
    assert_eq!(seen(|o| o.keys[0].created = Some(at(-899))), 0);
    assert_eq!(seen(|o| o.keys[0].created = Some(at(-900))), 1);
    assert_eq!(seen(|o| o.keys[0].created = None), 0, "its age is not known");
    // The provider's clock counts, not ours.
    assert_eq!(seen(|o| o.provider_now = Some(at(-3600 + 60))), 0);
    assert_eq!(seen(|o| o.provider_now = None), 0);
    assert_eq!(seen(|o| o.frozen = true), 0);
}

#[test]
fn without_a_ledger_a_key_goes_unless_ledgers_may_have_been_lost() {
    let seen = |change: fn(&mut Observed)| {
        let mut o = look(vec![key("svc_9", 1, 1)], None);
        change(&mut o);
        decide(&o, &env()).chains
    };
    assert_eq!(seen(|_| {}), [[Effect::Revoke { id: "svc_9".into() }]]);
    assert!(seen(|o| o.blind = true).is_empty());
    assert!(seen(|o| o.claimed.extend(["svc_9/key_9".to_owned()])).is_empty());
    assert!(seen(|o| o.living.extend([lineage_code(LINEAGE)])).is_empty());
    assert!(seen(|o| o.before.clear()).is_empty());
    assert!(seen(|o| o.frozen = true).is_empty());
    assert!(decide(&look(vec![key("svc_9", 1, 1)], Some(Sight::Unreadable)), &env()).chains.is_empty());
}

#[test]
fn many_keys_without_ledgers_freeze_the_account_instead() {
    let lost = |count: usize, total: usize| {
        let keys = (0..count).map(|n| key(&format!("svc_{n}"), 1, 1)).collect();
        Observed { total, ..look(keys, None) }
    };
    let plan = |o: &Observed| decide(o, &env());
    assert_eq!(revoked(&plan(&lost(3, 3))).len(), 3);
    assert!(freezes(&plan(&lost(4, 19))) && revoked(&plan(&lost(4, 19))).is_empty());
    assert_eq!(revoked(&plan(&lost(4, 20))).len(), 4);
    let mut known = lost(4, 4);
    known.acknowledged = known.keys.iter().map(|key| key.id.clone()).collect();
    assert_eq!(revoked(&plan(&known)).len(), 4, "a person has looked into it");
}

#[test]
fn what_happens_to_many_llmkeys_at_once_freezes_the_account() {
    let crowd = |total, deleted, invalid| Crowd { total, deleted, invalid }.suspicion();
    assert_eq!(crowd(3, 3, 0), None);
    assert_eq!(crowd(4, 4, 0), Some((FreezeReason::MassDeletion, 4)));
    assert_eq!(crowd(25, 5, 5), None);
    assert_eq!(crowd(25, 0, 6), Some((FreezeReason::ProviderSuspect, 6)));
    let mut o = look(vec![key("svc_9", 1, 1)], Some(ledger(current())));
    o.crowd = Crowd { total: 10, deleted: 4, invalid: 0 };
    let plan = decide(&o, &env());
    assert!(freezes(&plan) && revoked(&plan).is_empty(), "{plan:?}");
    o.frozen = true;
    assert!(decide(&o, &env()).chains.is_empty(), "once");
}

#[test]
fn a_key_above_its_ledger_freezes_the_account_at_once() {
    for newer in [key("svc_3", 3, 3), key("svc_3", 2, 3), key("svc_3", 3, 2)] {
        let mut o = look(vec![newer, key("svc_9", 1, 1)], Some(ledger(current())));
        o.before.remove("svc_3");
        o.keys[0].created = Some(at(0));
        let plan = decide(&o, &env());
        assert!(freezes(&plan) && revoked(&plan).is_empty(), "{plan:?}");
        o.frozen = true;
        assert!(decide(&o, &env()).chains.is_empty(), "once");
    }
}

#[test]
fn after_the_acknowledgement_the_ledger_goes_on_above_the_keys_that_it_does_not_know() {
    let mut o = look(vec![key("svc_5", 4, 6)], Some(ledger(current())));
    o.acknowledged.insert("svc_5".into());
    let plan = decide(&o, &env());
    let [chain] = plan.chains.as_slice() else { panic!("{plan:?}") };
    let [Effect::Fence { next, .. }] = chain.as_slice() else { panic!("it is not revoked yet: {chain:?}") };
    assert_eq!((next.attempt, next.next_number()), (6, 5));
    assert_eq!(next.version(2).unwrap().state, VersionState::Overlap);
    assert!(next.delivered().is_none(), "another one is made before the target is written again");
    // From then on it is judged like any other.
    assert_eq!(judge("svc_5", &name(4, 6), next), Verdict::Owned);
}

#[test]
fn what_is_held_is_remembered_with_its_ledgers_version() {
    let plan = decide(&look(vec![key("svc_2", 2, 2)], Some(ledger(current()))), &env());
    assert!(plan.chains.is_empty() && plan.orphans.is_empty());
    assert_eq!(plan.right["svc_2"], ("team".into(), "chat".into(), "1".into()));
}

/// The steps of a mint, and the two reads of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    L1,
    P1,
    L2,
    List,
    Read,
}

/// What a sweep says of the minted key, when the two orders are mixed; none if it was not listed.
fn mixed(order: &[Step]) -> Option<Verdict> {
    let before = record(2, &[version(2, "Current", Some("svc_2/key_2"))]);
    let (mut now, mut listed, mut read) = (before, false, None);
    let (mut made, mut seen) = (false, false);
    for step in order {
        match step {
            Step::L1 => {
                let versions = [version(2, "Current", Some("svc_2/key_2")), version(3, "Intent", None)];
                now = record(3, &versions);
            }
            Step::P1 => made = true,
            Step::L2 => {
                let versions =
                    [version(2, "Current", Some("svc_2/key_2")), version(3, "Pending", Some("svc_3/key_3"))];
                now = record(3, &versions);
            }
            Step::List => {
                listed = true;
                seen = made;
            }
            Step::Read => read = Some(now.clone()),
        }
    }
    assert!(listed);
    seen.then(|| judge("svc_3", &name(3, 3), &read.unwrap()))
}

fn mixtures(mint: &[Step], sweep: &[Step]) -> Vec<Vec<Step>> {
    match (mint.split_first(), sweep.split_first()) {
        (None, _) => vec![sweep.to_vec()],
        (_, None) => vec![mint.to_vec()],
        (Some((m, mint_left)), Some((s, sweep_left))) => {
            let first = |step: &Step, left: Vec<Vec<Step>>| {
                left.into_iter().map(|rest| [vec![*step], rest].concat()).collect::<Vec<_>>()
            };
            let minting = first(m, mixtures(mint_left, sweep));
            [minting, first(s, mixtures(mint, sweep_left))].concat()
        }
    }
}

/// Mutant M10: in the wrong order a key that was minted between the two reads looks like nobody's, or like a sign of an old
/// ledger. In the right order no mixture does.
#[test]
fn a_list_before_the_ledgers_never_shows_a_live_key_as_nobodys() {
    let mint = [Step::L1, Step::P1, Step::L2];
    let good = |verdict| matches!(verdict, None | Some(Verdict::Held | Verdict::Owned));
    let right = mixtures(&mint, &[Step::List, Step::Read]);
    assert_eq!(right.len(), 10);
    for order in right {
        assert!(good(mixed(&order)), "{order:?}");
    }
    let wrong = mixtures(&mint, &[Step::Read, Step::List]);
    assert!(
        wrong.iter().any(|order| !good(mixed(order))),
        "the other order is not safe, and this test sees it"
    );
}

#[test]
fn a_number_that_the_ledger_gave_to_another_name_was_given_before_by_a_newer_ledger() {
    let record = record(2, &[version(1, "Overlap", Some("k1")), version(2, "Current", Some("k2"))]);
    assert_eq!(judge("k9", &name(2, 2), &record), Verdict::Orphan, "one attempt, carried out twice");
    let other = MintName::new(INSTALL, LINEAGE, 2, AttemptId::new(2, 6).unwrap()).unwrap();
    assert_eq!(judge("k9", &other, &record), Verdict::Ahead);
}
