//! A path through the states as a story: who did what, and what there was then.

use super::actions::{Action, Machine, Next, all};
use super::fate::Fate;
use super::parts::{Place, Replica};
use super::search::{Breach, LINGERS};
use super::space::{NONE, State};
use crate::controller::llm_key::model::Effect;
use crate::controller::llm_key::world::{facts, sentence};

/// The way to a breach in numbered sentences: the trail to the state before it, by codes, and what the breach has.
pub fn story(machine: &mut Machine, begin: &State, trail: &[u8], breach: &Breach) -> String {
    let actions = all();
    let action = |code: u8| actions.get(usize::from(code & !LINGERS)).copied();
    let trail = trail.iter().filter_map(|code| Some((action(*code)?, code & LINGERS != 0)));
    let path = trail.chain(breach.then.iter().map(|action| (*action, false)));
    let mut teller = Teller { lines: Vec::new(), names: ["Replica A", "Replica B"] };
    let mut state = machine.numbered_anew(begin).0;
    teller.lines.push(format!("    In the beginning: {}", describe(&machine.space.places.get(state.place))));
    for (action, lingers) in path {
        let Some(next) = apply(machine, &state, action, lingers) else {
            teller.lines.push("    (the story cannot be told further)".into());
            break;
        };
        teller.tell(machine, &state, action);
        if next.state.place != state.place && action != Action::Time {
            teller.lines.push(format!("       {}", describe(&machine.space.places.get(next.state.place))));
        }
        if lingers {
            teller.lines.push("       (A reconcile will see the LLMKey as it was before this.)".into());
        }
        let (anew, swapped) = machine.numbered_anew(&next.state);
        if next.swapped != swapped {
            teller.names.swap(0, 1);
        }
        if anew.place != next.state.place {
            let place = describe(&machine.space.places.get(anew.place));
            teller
                .lines
                .push(format!("       (Attempts that count no more are not counted from here: {place})"));
        }
        state = anew;
    }
    teller.lines.push(format!("    => {}", breach.what));
    teller.lines.join("\n")
}

fn apply(machine: &mut Machine, state: &State, action: Action, lingers: bool) -> Option<Next> {
    let next = machine.apply(state, action)?;
    if lingers { machine.linger(state, next) } else { Some(next) }
}

struct Teller {
    lines: Vec<String>,
    /// Who stands where in the state.
    names: [&'static str; 2],
}

impl Teller {
    fn tell(&mut self, machine: &mut Machine, state: &State, action: Action) {
        let name = |who: usize| self.names[who];
        let text = match action {
            Action::Begin(who) => format!("{} begins a reconcile.", name(who)),
            Action::BeginStale(who) => {
                format!("{} begins a reconcile, and sees an older LLMKey.", name(who))
            }
            Action::Step(who, fate) => {
                let effect = next_effect(machine, state, who);
                let fate = match fate {
                    Fate::Told => ".",
                    Fate::ReplyLost => "; it happens, and the answer is lost.",
                    Fate::NotDone => "; it does not happen, and an error comes back.",
                    Fate::Twice => "; the request is delivered twice.",
                    Fate::Refused => "; it is refused.",
                    Fate::TwiceLater => "; a copy of the request stays in the network.",
                };
                format!("{}: {effect}{fate}", name(who))
            }
            Action::DecideLate(who) => {
                format!("{} was held up, and decides on what it saw before.", name(who))
            }
            Action::Crash(who) => format!("{} dies; a new process starts.", name(who)),
            Action::Edit(edit) => edit.sentence().to_owned(),
            Action::Arrive => "The copy of the request arrives at the provider.".to_owned(),
            Action::Garbage => "The garbage collector deletes the target.".to_owned(),
            Action::Time => "Time goes on.".to_owned(),
        };
        let number = self.lines.iter().filter(|line| !line.starts_with("       ")).count();
        self.lines.push(format!("    {number}. {text}"));
    }
}

fn next_effect(machine: &Machine, state: &State, who: usize) -> String {
    if state.replicas[who] == NONE {
        return "nothing".into();
    }
    match &machine.space.replicas.get(state.replicas[who]) {
        Replica::Working(work) if work.tell.is_some() => "status".into(),
        Replica::Working(work) => work.queue.first().map_or_else(|| "nothing".into(), in_words),
        Replica::Idle { .. } => "nothing".into(),
    }
}

/// Epochs are relative in a model, and would mislead.
fn in_words(effect: &Effect) -> String {
    match effect {
        Effect::CreateLedger(record) | Effect::SwapLedger(record) => {
            let states: Vec<String> =
                record.versions.iter().map(|v| format!("{}={:?}", v.version, v.state)).collect();
            let verb = if matches!(effect, Effect::CreateLedger(_)) { "create" } else { "swap" };
            format!("{verb} the ledger: attempt {}, {}", record.attempt, states.join(" "))
        }
        effect => sentence(effect),
    }
}

fn describe(place: &Place) -> String {
    let ledger = place.ledger.as_ref().map_or_else(
        || "no ledger".to_owned(),
        |ledger| {
            let record = &ledger.record;
            let versions: Vec<String> =
                record.versions.iter().map(|v| format!("{}={:?}", v.version, v.state)).collect();
            let owner = if record.owner.is_some() { "" } else { ", released" };
            format!("ledger: attempt {}, {}{owner}", record.attempt, versions.join(" "))
        },
    );
    let keys: Vec<String> = place
        .keys
        .iter()
        .map(|key| {
            format!("{}{}", short(&key.name, &key.id), if key.revoked.is_some() { " (revoked)" } else { "" })
        })
        .collect();
    let provider = if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") };
    let target = place.target.as_ref().map_or_else(
        || "no target".to_owned(),
        |target| {
            let record = place.ledger.as_ref().map(|l| &l.record);
            let version = record.and_then(|record| {
                let held = |v: &&crate::ledger::Version| v.key.as_ref() == Some(&facts(&target.bytes));
                record.versions.iter().find(held).map(|v| v.version)
            });
            version
                .map_or_else(|| "target: a key of no version".to_owned(), |v| format!("target: version {v}"))
        },
    );
    let key = match place.key.as_ref().map(|key| &key.value) {
        None => "no LLMKey; ",
        Some(key) if key.metadata.deletion_timestamp.is_some() => "the LLMKey is being deleted; ",
        Some(_) => "",
    };
    format!("[{key}{ledger}; provider: {provider}; {target}]")
}

/// `version 1, attempt 2` of a mint name.
fn short(name: &str, id: &str) -> String {
    let copy = if id.ends_with("-2") { ", second copy" } else { "" };
    name.parse::<crate::domain::names::MintName>().map_or_else(
        |_| name.to_owned(),
        |name| format!("key of version {} attempt {}{copy}", name.version, name.attempt_number()),
    )
}
