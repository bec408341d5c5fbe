//! The only reasons for which a fault is not tried at an effect.

use super::effect::{Effect, Kind};
use super::fault::Fault;
use super::scenario::Scenario;

use Fault::{
    Conflict, CrashAfter, CrashBefore, Deleted, Duplicate, Edited, ErrorAfter, Late, LostAfter, NoProvider,
    Stale,
};

/// Why a pair may come to nothing.
pub const SHORTER: &str =
    "the first fault struck, and in each of four runs the way back from it was over before";

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

    /// Whether the provider is called here or later.
    fn calls_the_provider(&self) -> bool {
        self.effects[self.index..].iter().any(|effect| effect.kind.is_at_the_provider())
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
        faults: &[CrashBefore, CrashAfter, LostAfter, Stale, Edited],
        at: "second faults, at effects that do not come every time",
        reason: SHORTER,
        applies: |_| false,
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "S13",
        reason: "the ledger that was put back does not hold the key that would have to be delivered again",
        applies: |place| place.scenario == Scenario::RestoreLedger,
    },
    Rule {
        faults: &[NoProvider],
        at: "after the last call to the provider",
        reason: "nothing would go there",
        applies: |place| !place.calls_the_provider(),
    },
    Rule {
        faults: &[Edited, Deleted],
        at: "S4, after the target's deletion",
        reason: "there is no target Secret any more",
        applies: |place| place.scenario == Scenario::RevokeAll && !place.not_after(Kind::TargetDelete),
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
    fn a_write_has_every_fault_and_a_read_those_that_differ() {
        use Kind::{LedgerSwap, TargetCreate, TargetUpdate, Validate};
        assert_eq!(
            skipped(Scenario::Rotate, &[LedgerSwap, TargetUpdate, Validate], 0),
            Vec::<&str>::new(),
            "a rotation has its target from the beginning"
        );
        assert_eq!(skipped(Scenario::Rotate, &[Validate], 0), ["CA", "LA", "DUP", "R409", "R500E", "LATE"]);
        let create = [Validate, TargetCreate, LedgerSwap];
        assert_eq!(skipped(Scenario::CreateMinted, &create[1..], 0), ["EDIT", "DEL", "PARTP"]);
        assert_eq!(skipped(Scenario::CreateMinted, &create, 1), ["EDIT", "DEL", "PARTP"]);
        assert_eq!(skipped(Scenario::CreateMinted, &create, 2), ["PARTP"], "no call to the provider comes");
    }

    #[test]
    fn a_deleted_keys_target_is_nobodys() {
        use Kind::{Finalizer, LedgerSwap, Revoke};
        let delete = [LedgerSwap, Finalizer, LedgerSwap, Revoke];
        assert_eq!(skipped(Scenario::DeleteKey, &delete, 1), Vec::<&str>::new());
        assert_eq!(skipped(Scenario::DeleteKey, &delete, 3), ["EDIT", "DEL"]);
        assert_eq!(skipped(Scenario::DeleteNamespace, &delete, 0), ["EDIT", "DEL"]);
        assert_eq!(skipped(Scenario::RestoreLedger, &delete, 0), ["EDIT", "DEL"]);
    }
}
