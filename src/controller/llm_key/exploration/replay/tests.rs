//! Recorded traces of the program pass; falsified ones do not.

use super::{Stage, Verdict};
use crate::trace::{Entry, Event, Request, Trace};

/// Some runs of the crash matrix, as they were recorded.
const RECORDED: &str = include_str!("../../../../../tests/vectors/traces.jsonl");

fn recorded() -> Vec<Trace> {
    RECORDED.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn trace(cell: &str) -> Trace {
    recorded().into_iter().find(|trace| trace.cell == cell).unwrap()
}

fn request(entry: &Entry) -> Option<&Request> {
    match entry {
        Entry::Request(request) => Some(request),
        Entry::Event { .. } => None,
    }
}

/// Position of the first request for an effect that says this.
fn position(trace: &Trace, effect: &str, says: &str) -> usize {
    let is = |request: &Request| request.effect == effect && request.says == says;
    trace.entries.iter().position(|entry| request(entry).is_some_and(is)).unwrap()
}

/// Lists of sweeps and words of status beside the model's prove nothing by their place.
fn tells(entry: &Entry) -> bool {
    request(entry).is_some_and(|request| !["provider:list", "status"].contains(&request.effect.as_str()))
}

fn fails(stage: &mut Stage, trace: &Trace) -> bool {
    matches!(stage.judge(trace), Verdict::Failed(_))
}

#[test]
fn what_the_program_did_the_model_can_do() {
    let mut stage = Stage::default();
    for trace in recorded() {
        assert_eq!(stage.judge(&trace), Verdict::Passed, "{}", trace.cell);
    }
}

#[test]
fn a_trace_without_one_of_its_effects_fails() {
    let mut stage = Stage::default();
    for cell in ["S1", "S2"] {
        let whole = trace(cell);
        for place in (0..whole.entries.len()).filter(|place| tells(&whole.entries[*place])) {
            let mut less = whole.clone();
            let removed = less.entries.remove(place);
            assert!(fails(&mut stage, &less), "{cell} without {removed:?}");
        }
    }
}

#[test]
fn a_trace_with_two_effects_in_the_other_order_fails() {
    let mut stage = Stage::default();
    for cell in ["S1", "S2"] {
        let whole = trace(cell);
        let telling: Vec<usize> =
            (0..whole.entries.len()).filter(|place| tells(&whole.entries[*place])).collect();
        for pair in telling.windows(2) {
            let mut other = whole.clone();
            other.entries.swap(pair[0], pair[1]);
            assert!(
                fails(&mut stage, &other),
                "{cell}: {:?} before {:?}",
                other.entries[pair[0]],
                other.entries[pair[1]]
            );
        }
    }
}

#[test]
fn a_revocation_before_its_record_or_of_another_key_fails() {
    let mut stage = Stage::default();
    let mut early = trace("S2");
    let revocation = early.entries.remove(position(&early, "provider:revoke", ""));
    let record = position(&early, "ledger:swap", "1:Retiring 2:Current");
    early.entries.insert(record, revocation);
    assert!(fails(&mut stage, &early));
    let mut wrong = trace("S2");
    let place = position(&wrong, "provider:revoke", "");
    if let Entry::Request(request) = &mut wrong.entries[place] {
        request.key = Some("2/2".to_owned());
    }
    assert!(fails(&mut stage, &wrong));
}

#[test]
fn a_mint_after_a_lost_one_without_a_new_attempt_or_a_search_fails() {
    let mut stage = Stage::default();
    let whole = trace("S2:2:CA");
    let killed =
        whole.entries.iter().position(|entry| *entry == Entry::Event { event: Event::Killed }).unwrap();
    let is = |entry: &Entry, effect: &str| request(entry).is_some_and(|request| request.effect == effect);
    let next =
        |effect: &str| killed + whole.entries[killed..].iter().position(|entry| is(entry, effect)).unwrap();
    let mint = next("provider:mint");
    let mut unsearched = whole.clone();
    let sought = |place: usize| (killed..mint).contains(&place) && is(&whole.entries[place], "provider:list");
    unsearched.entries = (0..whole.entries.len())
        .filter(|place| !sought(*place))
        .map(|place| whole.entries[place].clone())
        .collect();
    assert!(fails(&mut stage, &unsearched), "without a search");
    let mut unfenced = whole.clone();
    unfenced.entries.remove(next("ledger:swap"));
    assert!(fails(&mut stage, &unfenced), "without a new attempt");
    let mut kept = whole.clone();
    kept.entries.remove(next("provider:revoke"));
    assert!(fails(&mut stage, &kept), "the stray is left");
}

#[test]
fn an_answer_that_the_world_would_not_give_fails() {
    let mut stage = Stage::default();
    let mut accepted = trace("S2");
    let place = accepted
        .entries
        .iter()
        .rposition(|entry| request(entry).is_some_and(|r| r.effect == "provider:validate"))
        .unwrap();
    if let Entry::Request(request) = &mut accepted.entries[place] {
        (request.server, request.heard) = (vec![200], Some(200));
    }
    assert!(fails(&mut stage, &accepted), "the revoked key works, and its revocation is confirmed");
    let mut refused = trace("S2");
    let place = position(&refused, "target:update", "");
    if let Entry::Request(request) = &mut refused.entries[place] {
        (request.server, request.heard) = (vec![409], Some(409));
    }
    assert!(fails(&mut stage, &refused), "the target was not written, and the program goes on as if it were");
}

#[test]
fn a_failure_names_the_next_entry_and_what_the_model_has_instead() {
    let mut less = trace("S2");
    less.entries.remove(position(&less, "ledger:swap", "1:Retiring 2:Current"));
    let Verdict::Failed(told) = Stage::default().judge(&less) else { unreachable!() };
    assert!(told.contains("with: provider:revoke 1/1"), "{told}");
    assert!(told.contains("it has: ") && told.contains("ledger:swap 1:Retiring 2:Current"), "{told}");
}

#[test]
fn what_the_model_lacks_is_told_and_not_replayed() {
    let mut stage = Stage::default();
    let supplied = Trace { scenario: "S1s".to_owned(), ..trace("S1") };
    assert!(matches!(stage.judge(&supplied), Verdict::NotApplicable(reason) if reason.contains("supply")));
    let unknown = Trace { scenario: "S99".to_owned(), ..trace("S1") };
    assert!(fails(&mut stage, &unknown));
}
