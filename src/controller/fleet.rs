//! How many keys of a policy rotate at the same time: who may begin, and who is woken when there is room. Counted from what this
//! process saw; after a restart first from the ledgers' summaries. A hint: whoever was leader before may have begun others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::context::Ctx;
use super::index::{Name, name};
use super::llm_key::decide::standing;
use super::llm_key::{Env, Observed, Plan};
use crate::api::{LLMKey, PolicyKind};
use crate::domain::names::ledger_name;
use crate::domain::turns::{Place, Standing, Turn, Turns};
use crate::ledger::Summary;

/// The policy that an LLMKey follows: its kind, namespace (none for the cluster's) and name.
type PolicyId = (PolicyKind, Box<str>, Box<str>);

fn policy_of(key: &LLMKey) -> PolicyId {
    match &key.spec.rotation_policy_ref {
        Some(r) if r.kind == PolicyKind::RotationPolicy => {
            (r.kind, key.namespace().unwrap_or_default().into(), r.name.as_str().into())
        }
        Some(r) => (r.kind, "".into(), r.name.as_str().into()),
        None => (PolicyKind::ClusterRotationPolicy, "".into(), "default".into()),
    }
}

#[derive(Default)]
struct Inner {
    policies: HashMap<PolicyId, Turns<Name>>,
    /// Under which policy a key rotates or waits.
    of: HashMap<Name, PolicyId>,
}

/// All policies whose keys rotate or wait.
#[derive(Default)]
pub struct Fleet(Mutex<Inner>);

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, policy: PolicyId, key: &Name, place: Place, limit: usize) -> Turn {
        let mut inner = self.lock();
        let turns = inner.policies.entry(policy.clone()).or_insert_with(|| Turns::new(limit));
        turns.set_limit(limit);
        let turn = turns.ask(key, place);
        inner.of.insert(key.clone(), policy);
        turn
    }

    /// Takes in what a look showed. Returns those whose turn it is then.
    fn tell(&self, policy: PolicyId, key: &Name, standing: Standing, limit: usize) -> Vec<Name> {
        let mut inner = self.lock();
        let mut woken = Vec::new();
        if inner.of.get(key).is_some_and(|known| *known != policy) {
            woken = inner.forget(key);
        }
        if standing == Standing::Aside {
            woken.extend(inner.forget(key));
            return woken;
        }
        let turns = inner.policies.entry(policy.clone()).or_insert_with(|| Turns::new(limit));
        turns.set_limit(limit);
        if turns.tell(key, standing) {
            woken.extend(turns.next().cloned());
        }
        inner.of.insert(key.clone(), policy);
        woken
    }
}

impl Inner {
    fn forget(&mut self, key: &Name) -> Vec<Name> {
        let Some(policy) = self.of.remove(key) else { return Vec::new() };
        let Some(turns) = self.policies.get_mut(&policy) else { return Vec::new() };
        let woken = if turns.forget(key) { turns.next().cloned().collect() } else { Vec::new() };
        if turns.is_empty() {
            self.policies.remove(&policy);
        }
        woken
    }
}

fn wake(ctx: &Ctx, keys: &[Name]) {
    for key in keys {
        ctx.woken_by.key(key);
    }
}

fn name_of(key: &LLMKey) -> Name {
    name(&key.namespace().unwrap_or_default(), &key.name_any())
}

/// Asks for the turn that the plan needs, if it was not asked for yet. Whether it was asked for now: then decide again.
pub fn ask(ctx: &Ctx, key: &LLMKey, o: &mut Observed, plan: &Plan) -> bool {
    let (Some(place), None) = (plan.in_line, o.turn) else { return false };
    o.turn = Some(ctx.fleet.ask(policy_of(key), &name_of(key), place, o.policy.max_concurrent));
    true
}

/// Takes in where a key stands at the end of a reconcile, and wakes whoever has a turn by that.
pub fn report(ctx: &Ctx, key: &LLMKey, o: &Observed, plan: &Plan, env: &Env) {
    let standing = standing(o, plan, env);
    wake(ctx, &ctx.fleet.tell(policy_of(key), &name_of(key), standing, o.policy.max_concurrent));
}

/// A key that could not be looked at holds up nobody, unless its rotation is under way.
pub fn falter(ctx: &Ctx, key: &LLMKey) {
    let name = name_of(key);
    let ledger = ctx.index.secret(&ctx.operator_namespace, &ledger_name(&name.0, &name.1));
    let summary = ledger.and_then(|l| serde_json::from_str::<Summary>(&l.summary?).ok());
    if !summary.is_some_and(|summary| summary.rotating) {
        forget(ctx, &name.0, &name.1);
    }
}

/// Forgets an LLMKey that is gone, or cannot be read.
pub fn forget(ctx: &Ctx, namespace: &str, key: &str) {
    let woken = ctx.fleet.lock().forget(&name(namespace, key));
    wake(ctx, &woken);
}

/// Once everything is listed, and before anybody asks: rotations that an earlier process began.
pub fn seed(ctx: &Ctx) {
    for summary in ctx.index.summaries(&ctx.operator_namespace) {
        if !summary.rotating {
            continue;
        }
        let shown = ctx.stores.keys.get(&ObjectRef::new(&summary.name).within(&summary.namespace));
        if let Some(Ok(key)) = shown.as_ref().map(|key| &key.0) {
            // The limit is known when somebody asks.
            drop(ctx.fleet.tell(policy_of(key), &name_of(key), Standing::Rotating, 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;

    fn policy(of: &str) -> PolicyId {
        (PolicyKind::RotationPolicy, "team".into(), of.into())
    }

    fn place(seconds: i64) -> Place {
        Place { scheduled: true, due: DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap() }
    }

    fn key(of: &str) -> Name {
        name("team", of)
    }

    #[test]
    fn a_turn_that_ends_wakes_the_next_one_and_nobody_else() {
        let fleet = Fleet::default();
        assert!(fleet.tell(policy("one"), &key("a"), Standing::Rotating, 0).is_empty(), "as after a restart");
        for (of, seconds) in [("c", 3), ("b", 2)] {
            assert_ne!(fleet.ask(policy("one"), &key(of), place(seconds), 1), Turn::Now);
        }
        assert_eq!(fleet.ask(policy("two"), &key("x"), place(9), 1), Turn::Now, "another policy");
        assert_eq!(fleet.tell(policy("one"), &key("a"), Standing::Aside, 1), [key("b")]);
        assert_eq!(fleet.ask(policy("one"), &key("b"), place(2), 1), Turn::Now);
        assert!(fleet.tell(policy("one"), &key("b"), Standing::Rotating, 1).is_empty());
        assert!(fleet.tell(policy("one"), &key("z"), Standing::Aside, 1).is_empty(), "it had no turn");
    }

    #[test]
    fn who_changes_its_policy_leaves_its_turn_there() {
        let fleet = Fleet::default();
        assert_eq!(fleet.ask(policy("one"), &key("a"), place(1), 1), Turn::Now);
        assert_ne!(fleet.ask(policy("one"), &key("b"), place(2), 1), Turn::Now);
        assert_eq!(fleet.tell(policy("two"), &key("a"), Standing::Rotating, 1), [key("b")]);
        assert_eq!(fleet.lock().forget(&key("b")), Vec::<Name>::new());
        fleet.lock().forget(&key("a"));
        let inner = fleet.lock();
        assert!(inner.policies.is_empty() && inner.of.is_empty(), "nothing is left behind");
    }

    #[test]
    fn keys_of_one_cluster_policy_count_together_and_those_of_two_namespaces_do_not() {
        let of = |namespace: &str, reference: serde_json::Value| {
            let key: LLMKey = serde_json::from_value(json!({
                "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
                "metadata": {"name": "chat", "namespace": namespace},
                "spec": {"providerRef": {"name": "acme"}, "source": {"mint": {}}, "rotationPolicyRef": reference},
            }))
            .unwrap();
            policy_of(&key)
        };
        let cluster = || json!({"kind": "ClusterRotationPolicy", "name": "default"});
        assert_eq!(of("a", cluster()), of("b", cluster()));
        assert_eq!(of("a", cluster()), of("a", json!(null)));
        assert_ne!(of("a", json!({"name": "x"})), of("b", json!({"name": "x"})));
    }
}
