//! Which namespaces the operator serves. What lies outside of its sight is left alone: that an `LLMKey` is not seen there
//! says nothing about whether it exists.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// All namespaces, or those that were listed; of each of these, whether its `LLMKey`s are known yet.
#[derive(Debug, Default)]
pub struct Sight {
    only: Option<BTreeMap<Box<str>, AtomicBool>>,
}

impl Sight {
    /// The namespaces by name; none named: all.
    pub fn of(namespaces: &[String]) -> Self {
        let only = namespaces.iter().map(|namespace| (namespace.as_str().into(), AtomicBool::new(false)));
        Self { only: (!namespaces.is_empty()).then(|| only.collect()) }
    }

    /// The namespaces that need a watch of their own; none: one watch shows all.
    pub fn namespaces(&self) -> Option<Vec<Box<str>>> {
        self.only.as_ref().map(|only| only.keys().cloned().collect())
    }

    /// Whether every `LLMKey` of the namespace is known, so that one which is not known does not exist.
    pub fn sees(&self, namespace: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.get(namespace).is_some_and(|known| known.load(Ordering::Acquire)))
    }

    /// The `LLMKey`s of the namespace were listed.
    pub fn open(&self, namespace: &str) {
        if let Some(known) = self.only.as_ref().and_then(|only| only.get(namespace)) {
            known.store(true, Ordering::Release);
        }
    }

    /// Whether no namespace is left out.
    pub fn is_whole(&self) -> bool {
        self.only.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_never_seen_and_what_is_only_when_its_keys_are_known() {
        let all = Sight::of(&[]);
        assert!(all.is_whole() && all.sees("anywhere") && all.namespaces().is_none());
        let some = Sight::of(&["team-b".into(), "team-a".into()]);
        assert!(!some.is_whole() && !some.sees("team-a"));
        some.open("team-a");
        some.open("elsewhere");
        assert!(some.sees("team-a") && !some.sees("team-b") && !some.sees("elsewhere"));
        let listed: [Box<str>; 2] = ["team-a".into(), "team-b".into()];
        assert_eq!(some.namespaces().unwrap(), listed);
    }
}
