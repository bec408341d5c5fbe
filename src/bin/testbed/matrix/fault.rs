//! The faults, and the only reasons for which one is not tried at an effect.

use super::effect::{Effect, Kind};
use super::scenario::Scenario;

/// What is done to one request of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process is killed before the request is sent on.
    CrashBefore,
    /// The request takes effect; the process is killed before it reads the reply.
    CrashAfter,
    /// The connection breaks before the request is sent on.
    LostBefore,
    /// The request takes effect; the connection breaks before the reply.
    LostAfter,
    /// The request takes effect twice; the second reply is the one that arrives.
    Duplicate,
    /// 409 without effect.
    Conflict,
    /// 429 without effect.
    Throttled,
    /// 500 without effect.
    ServerError,
    /// 503 without effect.
    Unavailable,
    /// The request takes effect; 500 is answered.
    ErrorAfter,
    /// The request takes effect; its reply comes when nobody waits for it any more.
    Slow,
    /// The request takes effect only when nobody waits for its reply any more.
    Late,
    /// The request takes effect; its reply is cut in the middle of its body.
    Truncated,
    /// A second replica without an election works beside the first while the request is held.
    Two,
    /// The request takes effect; the process is stopped until another one leads and has worked, then goes on.
    Pause,
    /// From here on the watches show nothing of this key for a while, then everything in order.
    Stale,
    /// The same, but of each object only its last state is shown then.
    Missed,
    /// A person writes another value into the target Secret just before.
    Edited,
    /// A person deletes the target Secret just before.
    Deleted,
}

use Fault::{
    Conflict, CrashAfter, CrashBefore, Deleted, Duplicate, Edited, ErrorAfter, Late, LostAfter, LostBefore,
    Missed, Pause, ServerError, Slow, Stale, Throttled, Truncated, Two, Unavailable,
};

impl Fault {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 19] = [
        CrashBefore,
        CrashAfter,
        LostBefore,
        LostAfter,
        Duplicate,
        Conflict,
        Throttled,
        ServerError,
        Unavailable,
        ErrorAfter,
        Slow,
        Late,
        Truncated,
        Two,
        Pause,
        Stale,
        Missed,
        Edited,
        Deleted,
    ];

    /// The column's head, and the last part of a cell's name.
    pub const fn code(self) -> &'static str {
        match self {
            CrashBefore => "CB",
            CrashAfter => "CA",
            LostBefore => "LB",
            LostAfter => "LA",
            Duplicate => "DUP",
            Conflict => "R409",
            Throttled => "R429",
            ServerError => "R500",
            Unavailable => "R503",
            ErrorAfter => "R500E",
            Slow => "SLOW",
            Late => "LATE",
            Truncated => "TRUNC",
            Two => "TWO",
            Pause => "PAUSE",
            Stale => "STALE",
            Missed => "MISS",
            Edited => "EDIT",
            Deleted => "DEL",
        }
    }

    /// What it does, for the legend.
    pub const fn meaning(self) -> &'static str {
        match self {
            CrashBefore => "`kill -9` of the operator before the request is sent on",
            CrashAfter => "the request takes effect; `kill -9` before its reply arrives",
            LostBefore => "the connection is reset, the request has no effect",
            LostAfter => "the request takes effect, then the connection is reset",
            Duplicate => "the request takes effect twice; the second reply arrives",
            Conflict => "409, no effect",
            Throttled => "429 with `Retry-After: 1`, no effect",
            ServerError => "500, no effect",
            Unavailable => "503, no effect",
            ErrorAfter => "the request takes effect; 500 arrives",
            Slow => "the request takes effect; the reply comes after the operator's deadline for it",
            Late => "the request takes effect only after the operator's deadline for it",
            Truncated => "the request takes effect; the reply breaks off in the middle of its body",
            Two => {
                "a second operator *without an election* starts and works beside the first while the request is held; both go on"
            }
            Pause => {
                "the request takes effect; the operator is stopped (SIGSTOP) until another has taken the Lease and worked, then continued"
            }
            Stale => "the watches show nothing about the key for a while, then all of it in order",
            Missed => "the same, but of each object only the last state is shown",
            Edited => "a person overwrites the target Secret's value just before the request",
            Deleted => "a person deletes the target Secret just before the request",
        }
    }

    /// By its code.
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.code() == code)
    }

    /// Strikes the whole process: its cells wait for each other, so that one blow serves all.
    pub const fn strikes_the_process(self) -> bool {
        matches!(self, CrashBefore | CrashAfter | Two | Pause)
    }

    /// Takes as long as the operator waits for a reply.
    pub const fn is_slow(self) -> bool {
        matches!(self, Slow | Late)
    }

    /// A person changed the target Secret, so what stands there may be wrong for a while.
    pub const fn is_by_hand(self) -> bool {
        matches!(self, Edited | Deleted)
    }

    /// How many keys more than usual there may be at one time: one for a crash, a lost or a doubled reply.
    pub const fn extra_keys(self) -> usize {
        match self {
            CrashBefore | CrashAfter | LostBefore | LostAfter | Duplicate | ErrorAfter | Slow | Late
            | Truncated | Two | Pause | ServerError | Unavailable => 1,
            Conflict | Throttled | Stale | Missed | Edited | Deleted => 0,
        }
    }
}

/// A row of the table of what is not tried.
pub struct Rule {
    /// Which faults.
    pub faults: &'static [Fault],
    /// At which effects, in words.
    pub at: &'static str,
    /// Why.
    pub reason: &'static str,
    applies: fn(&Place<'_>) -> bool,
}

/// An effect in its scenario.
pub struct Place<'a> {
    /// The scenario.
    pub scenario: Scenario,
    /// Its effects in order.
    pub effects: &'a [Effect],
    /// Which of them, from 0.
    pub index: usize,
}

impl Place<'_> {
    fn kind(&self) -> Kind {
        self.effects[self.index].kind
    }

    /// Whether the effect of a kind comes later in the scenario, or is this one.
    fn not_after(&self, kind: Kind) -> bool {
        self.effects[self.index..].iter().any(|effect| effect.kind == kind)
    }
}

/// Everything that is not tried. A cell that no rule names is run.
pub const RULES: &[Rule] = &[
    Rule {
        faults: &[CrashAfter],
        at: "calls that only read",
        reason: "a read changes nothing: the same as CB",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[LostAfter],
        at: "calls that only read",
        reason: "a read changes nothing: the same as LB",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[ErrorAfter],
        at: "calls that only read",
        reason: "a read changes nothing: the same as R500",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[Late],
        at: "calls that only read",
        reason: "a read changes nothing: the same as SLOW",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[Duplicate],
        at: "calls that only read",
        reason: "a question that is asked twice changes nothing",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[Conflict],
        at: "calls that only read",
        reason: "nobody answers a question with a conflict",
        applies: |place| place.kind().only_reads(),
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "effects up to the target's creation",
        reason: "there is no target Secret yet",
        applies: |place| place.not_after(Kind::TargetCreate),
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "S4, after the target's deletion",
        reason: "there is no target Secret any more",
        applies: |place| place.scenario == Scenario::RevokeNow && !place.not_after(Kind::TargetDelete),
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "S5, after the finalizer went",
        reason: "the target goes with its LLMKey: nobody delivers it any more",
        applies: |place| place.scenario == Scenario::DeleteKey && !place.not_after(Kind::Finalizer),
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "S6",
        reason: "the target goes with its namespace: nobody delivers it any more",
        applies: |place| place.scenario == Scenario::DeleteNamespace,
    },
];

/// The rule for which a fault is not tried, if any.
pub fn not_applicable(place: &Place<'_>, fault: Fault) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.faults.contains(&fault) && (rule.applies)(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(kinds: &[Kind]) -> Vec<Effect> {
        kinds.iter().map(|kind| Effect { kind: *kind, detail: String::new() }).collect()
    }

    fn skipped(scenario: Scenario, kinds: &[Kind], index: usize) -> Vec<&'static str> {
        let effects = effects(kinds);
        let place = Place { scenario, effects: &effects, index };
        let skipped = Fault::ALL.into_iter().filter(|fault| not_applicable(&place, *fault).is_some());
        skipped.map(Fault::code).collect()
    }

    #[test]
    fn codes_are_distinct_and_found() {
        for fault in Fault::ALL {
            assert_eq!(Fault::of(fault.code()), Some(fault));
        }
        assert_eq!(Fault::of("NONE"), None);
    }

    #[test]
    fn a_write_has_every_fault_and_a_read_those_that_differ() {
        use Kind::{LedgerSwap, TargetCreate, TargetUpdate, Validate};
        assert_eq!(
            skipped(Scenario::Rotate, &[LedgerSwap, TargetUpdate], 0),
            Vec::<&str>::new(),
            "a rotation has its target from the beginning"
        );
        assert_eq!(skipped(Scenario::Rotate, &[Validate], 0), ["CA", "LA", "DUP", "R409", "R500E", "LATE"]);
        let create = [LedgerSwap, TargetCreate, LedgerSwap];
        assert_eq!(skipped(Scenario::CreateMinted, &create, 0), ["EDIT", "DEL"]);
        assert_eq!(skipped(Scenario::CreateMinted, &create, 1), ["EDIT", "DEL"]);
        assert_eq!(skipped(Scenario::CreateMinted, &create, 2), Vec::<&str>::new());
    }

    #[test]
    fn a_deleted_keys_target_is_nobodys() {
        use Kind::{Finalizer, LedgerSwap, Revoke};
        let delete = [LedgerSwap, Finalizer, LedgerSwap, Revoke];
        assert_eq!(skipped(Scenario::DeleteKey, &delete, 1), Vec::<&str>::new());
        assert_eq!(skipped(Scenario::DeleteKey, &delete, 3), ["EDIT", "DEL"]);
        assert_eq!(skipped(Scenario::DeleteNamespace, &delete, 0), ["EDIT", "DEL"]);
    }
}
