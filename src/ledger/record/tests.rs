use super::*;

pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

/// A version whose key has the fingerprint of its number.
pub fn version(number: i32, state: VersionState, origin: Origin) -> Version {
    let key = KeyFacts {
        fingerprint: format!("{number:064}"),
        shown: format!("{number:012}"),
        last_four: "WXYZ".into(),
    };
    let begun = Version::begun(number, state, origin, RotationReason::Initial, at(i64::from(number)));
    Version { key: Some(key), ..begun }
}

pub fn record(versions: Vec<Version>) -> Record {
    Record {
        format: FORMAT,
        install: "install".into(),
        namespace: "team-a".into(),
        name: "chat".into(),
        lineage: "uid-1".into(),
        owner: Some("uid-1".into()),
        epoch: 1,
        writer: "w".into(),
        released: None,
        retain_on_delete: false,
        deletion_grace_seconds: None,
        attempt: 0,
        mints: Vec::new(),
        handled_rotate: None,
        awaiting_supply: false,
        revoked_by_spec: false,
        audit_head: None,
        versions,
        rotations: Vec::new(),
        used: Vec::new(),
    }
}

#[test]
fn what_is_being_published_is_delivered_before_what_was_current() {
    use VersionState::{Current, Intent, Overlap, Pending, Publishing};
    for (states, delivered) in [
        (vec![Publishing], Some(1)),
        (vec![Current, Publishing], Some(2)),
        (vec![Current, Pending], Some(1)),
        (vec![Overlap, Current], Some(2)),
        (vec![Intent], None),
    ] {
        let versions =
            states.iter().zip(1..).map(|(s, n)| version(n, *s, Origin::Minted)).collect::<Vec<_>>();
        assert_eq!(record(versions).delivered().map(|v| v.version), delivered, "{states:?}");
    }
}

#[test]
fn keys_that_may_work_are_told_to_other_ledgers_and_dead_ones_are_not() {
    use VersionState::{Abandoned, Current, Overlap, Retained, Retiring, Revoked};
    let states = [Revoked, Abandoned, Retained, Retiring, Overlap, Current];
    let versions = states.iter().zip(1..).map(|(s, n)| version(n, *s, Origin::Minted)).collect();
    let record = record(versions);
    let live: Vec<&str> = record.live_fingerprints().collect();
    assert_eq!(live.len(), 4);
    assert!(!live.contains(&record.versions[0].key.as_ref().unwrap().fingerprint.as_str()));
    let mine: Vec<i32> = record.minted_alive().map(|v| v.version).collect();
    assert_eq!(mine, [4, 5, 6], "a retained key is not the operator's to revoke");
}

#[test]
fn a_key_is_retired_from_l4_on() {
    let record = record(vec![
        version(1, VersionState::Revoked, Origin::Minted),
        version(2, VersionState::Retiring, Origin::Minted),
        version(3, VersionState::Current, Origin::Minted),
    ]);
    let retired: Vec<bool> =
        record.versions.iter().map(|v| record.was_retired(&v.key.as_ref().unwrap().fingerprint)).collect();
    assert_eq!(retired, [true, true, false]);
}

#[test]
fn a_spare_is_told_apart_from_a_version_on_its_way() {
    use VersionState::{Current, Intent, Pending, Spare};
    for state in [Intent, Pending, Spare] {
        let mut record = record(vec![
            version(1, Current, Origin::Minted),
            Version { reason: RotationReason::Spare, ..version(2, state, Origin::Minted) },
        ]);
        assert!(record.in_flight().is_none(), "{state:?}");
        assert_eq!(record.spare().map(|v| v.version), Some(2), "{state:?}");
        assert_eq!(record.delivered().map(|v| v.version), Some(1), "{state:?}");
        record.versions[1].reason = RotationReason::Schedule;
        assert_eq!(record.in_flight().is_some(), state != Spare, "{state:?}");
    }
}

#[test]
fn terms_of_an_earlier_program_read_without_what_it_did_not_know() {
    let old = serde_json::json!({"policy": "RotationPolicy/x", "minimumSeconds": 60, "quietForSeconds": 0});
    let terms: OverlapTerms = serde_json::from_value(old.clone()).unwrap();
    assert_eq!((terms.maximum_seconds, terms.consumers), (None, None));
    assert_eq!((terms.revoke_when_stuck, terms.manual), (None, None));
    assert_eq!(serde_json::to_value(&terms).unwrap(), old);
}

#[test]
fn an_illegal_move_changes_nothing() {
    let mut record = record(vec![version(1, VersionState::Revoked, Origin::Minted)]);
    assert!(!record.advance(1, VersionState::Current));
    assert!(!record.advance(2, VersionState::Current));
    assert_eq!(record.versions[0].state, VersionState::Revoked);
}

#[test]
fn pruning_keeps_the_record_bounded_and_every_key_that_may_work() {
    let mut versions: Vec<Version> =
        (1..=40).map(|n| version(n, VersionState::Revoked, Origin::Minted)).collect();
    versions[0].state = VersionState::Overlap;
    versions[39].state = VersionState::Current;
    // Nothing but the record says that this one is alive on purpose; that one is who supplied it to look after.
    versions[1].state = VersionState::Retained;
    versions[2] = version(3, VersionState::Retained, Origin::Supplied);
    let mut record = record(versions);
    record.prune();
    assert_eq!(record.versions.len(), MAX_VERSIONS);
    assert!([1, 2, 40].iter().all(|kept| record.version(*kept).is_some()));
    assert!(record.version(3).is_none());
    assert_eq!(record.next_number(), 41);
}
