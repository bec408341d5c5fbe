//! Which ledgers are to be written anew, and which key-encryption keys nobody needs: a pure function of what is known.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::index::Name;

/// A ledger, as far as anything tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Name of its Secret.
    pub secret: Box<str>,
    /// The LLMKey that it was written for; none for an account's.
    pub key: Option<Name>,
    /// The key-encryption keys that it needs; none if it does not tell, because nobody has written it since it would.
    pub sealed_by: Option<BTreeSet<String>>,
    /// It was tried and could not be used: it waits for a person, or for its time.
    pub held_back: bool,
}

/// One look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Observed {
    /// The keys of the keyring.
    pub ids: BTreeSet<String>,
    /// The newest of them.
    pub primary: String,
    /// All ledgers.
    pub ledgers: Vec<Ledger>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Ledgers to be taken to the newest key, in order.
    pub rewrap: Vec<(Box<str>, Option<Name>)>,
    /// How many ledgers need each key: those of the keyring, and others that are missing in it.
    pub users: BTreeMap<String, usize>,
    /// Ledgers that do not tell what they need.
    pub unknown: usize,
    /// Older keys that no ledger needs any more.
    pub unneeded: BTreeSet<String>,
    /// Keys that ledgers need and the keyring does not have.
    pub missing: BTreeSet<String>,
}

/// Plans what is to be done by now.
pub fn decide(o: &Observed) -> Plan {
    let mut plan = Plan { users: o.ids.iter().map(|id| (id.clone(), 0)).collect(), ..Plan::default() };
    for ledger in &o.ledgers {
        match &ledger.sealed_by {
            Some(needs) => {
                for id in needs {
                    *plan.users.entry(id.clone()).or_default() += 1;
                }
            }
            None => plan.unknown += 1,
        }
        if !ledger.held_back && is_due(ledger, o) {
            plan.rewrap.push((ledger.secret.clone(), ledger.key.clone()));
        }
    }
    plan.rewrap.sort();
    plan.missing = plan.users.keys().filter(|id| !o.ids.contains(*id)).cloned().collect();
    if plan.unknown == 0 {
        let older = plan.users.iter().filter(|(id, users)| **users == 0 && **id != o.primary);
        plan.unneeded = older.map(|(id, _)| id.clone()).collect();
    }
    plan
}

/// Whether a look at the ledger can make it need the newest key alone. With one key in the keyring there is nothing to gain.
fn is_due(ledger: &Ledger, o: &Observed) -> bool {
    match &ledger.sealed_by {
        Some(needs) => needs.iter().any(|id| *id != o.primary && o.ids.contains(id)),
        None => o.ids.len() > 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::index::name;

    fn ids(text: &str) -> BTreeSet<String> {
        text.split_terminator(',').map(str::to_owned).collect()
    }

    /// A keyring, the newest key first, and what each ledger needs.
    fn plan(keyring: &str, ledgers: &[Option<&str>]) -> Plan {
        let ledger = |(n, needs): (usize, Option<&str>)| Ledger {
            secret: format!("llmkey-{n}").into(),
            key: Some(name("team-a", &n.to_string())),
            sealed_by: needs.map(ids),
            held_back: false,
        };
        let primary = keyring.split(',').next().unwrap().to_owned();
        let ledgers = ledgers.iter().copied().enumerate().map(ledger).collect();
        decide(&Observed { ids: ids(keyring), primary, ledgers })
    }

    fn due(plan: &Plan) -> Vec<&str> {
        plan.rewrap.iter().map(|(secret, _)| &**secret).collect()
    }

    #[test]
    fn at_rest_nothing_is_done() {
        let plan = plan("a", &[Some("a"), Some("a"), None]);
        assert_eq!((due(&plan), plan.users["a"], plan.unknown), (vec![], 2, 1));
        assert!(plan.unneeded.is_empty() && plan.missing.is_empty());
    }

    #[test]
    fn every_ledger_that_needs_an_older_key_is_due_until_none_does() {
        let before = plan("b,a", &[Some("a"), Some("a,b"), Some("b"), None]);
        assert_eq!(due(&before), ["llmkey-0", "llmkey-1", "llmkey-3"]);
        assert_eq!((before.users["a"], before.users["b"]), (2, 2));
        let untold = plan("b,a", &[Some("b"), None]);
        assert!(untold.unneeded.is_empty(), "what does not tell may need it");
        let after = plan("b,a", &[Some("b"), Some("b")]);
        assert_eq!((due(&after), &after.unneeded), (vec![], &ids("a")));
    }

    #[test]
    fn what_needs_a_key_that_is_gone_waits_for_it() {
        let plan = plan("b", &[Some("a"), Some("a,b"), Some("b")]);
        assert_eq!((due(&plan), &plan.missing, plan.users["a"]), (vec![], &ids("a"), 2));
        assert!(plan.unneeded.is_empty());
    }

    #[test]
    fn the_newest_key_is_always_needed() {
        assert!(plan("b", &[]).unneeded.is_empty());
        assert_eq!(plan("b,a", &[]).unneeded, ids("a"));
    }

    #[test]
    fn what_is_held_back_is_counted_and_left_alone() {
        let ledger = Ledger {
            secret: "llmkey-account-1".into(),
            key: None,
            sealed_by: Some(ids("a")),
            held_back: true,
        };
        let o = Observed { ids: ids("a,b"), primary: "b".into(), ledgers: vec![ledger] };
        let plan = decide(&o);
        assert_eq!((due(&plan), plan.users["a"]), (vec![], 1));
        assert!(plan.unneeded.is_empty());
    }
}
