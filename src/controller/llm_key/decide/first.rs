//! No ledger: the first version, or the discovery that one was lost.

use super::gate::{Gate, gate};
use super::rotate::{before_intent, intent, supplied};
use crate::api::Reason;
use crate::controller::llm_key::model::{Effect, Env, Observed, Plan, SourceView, Subject, TargetView};
use crate::domain::lifecycle::RotationReason;
use crate::ledger::{FORMAT, Record};

pub(super) fn first(o: &Observed, env: &Env, plan: &mut Plan) {
    let delivered = matches!(o.target, TargetView::Ours { .. } | TargetView::PreviousOwner);
    if o.key.had_versions || delivered {
        plan.findings.clear();
        plan.stall(
            Reason::LedgerMissing,
            format!(
                "there are versions of this key, but its ledger is gone; nothing is minted or revoked and the Secret {} \
                 stays. Restore the operator's namespace from a backup, or delete this LLMKey and its Secret to start anew, and \
                 the keys at the provider by hand",
                o.key.target_name
            ),
        );
        return;
    }
    if plan.stalled() {
        return;
    }
    if o.key.revoke_all {
        return;
    }
    let record = empty(o, env);
    if o.key.minted {
        mint_first(o, &record, env, plan);
    } else if !o.key.pool.is_empty() {
        super::pool::start(o, &record, env, plan);
    } else {
        supply_first(o, &record, env, plan);
    }
}

fn mint_first(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    if o.key.paused {
        plan.progress(
            Reason::Paused,
            "the annotation llmkeys.dev/paused keeps the first key from being made",
        );
        return;
    }
    plan.progress(Reason::Progressing, "the first key is being made");
    if !o.key.finalizer && !o.key.retain_on_delete {
        plan.effects.push(Effect::SetFinalizer(true));
        return;
    }
    if before_intent(o, record, env, plan) {
        // Planned, or told.
    } else if let Some(record) = intent(o, record, RotationReason::Initial, env) {
        plan.effects.push(Effect::CreateLedger(Box::new(record)));
    }
}

fn supply_first(o: &Observed, record: &Record, env: &Env, plan: &mut Plan) {
    let SourceView::Value(facts) = &o.source else { return };
    match gate(o, &facts.shown, None, false, env, plan) {
        Gate::Ask => plan.effects.push(Effect::Validate(Subject::Source)),
        Gate::Hold => {}
        Gate::Publish => {
            let record = supplied(o, record, facts, RotationReason::Initial, env);
            let version = record.versions.last().map_or(1, |v| v.version);
            plan.effects.push(Effect::CreateLedger(Box::new(record)));
            plan.effects.push(Effect::WriteTarget { version });
        }
    }
}

/// A record without versions, as the first write will raise it.
fn empty(o: &Observed, env: &Env) -> Record {
    Record {
        format: FORMAT,
        install: env.install.clone(),
        namespace: o.key.namespace.clone(),
        name: o.key.name.clone(),
        lineage: o.key.uid.clone(),
        owner: Some(o.key.uid.clone()),
        epoch: 0,
        writer: String::new(),
        released: None,
        retain_on_delete: o.key.retain_on_delete,
        deletion_grace_seconds: Some(o.key.grace.as_secs()),
        attempt: 0,
        mints: Vec::new(),
        // A token that is there from the beginning asks for nothing: the first version is new.
        handled_rotate: o.key.rotate.clone(),
        awaiting_supply: false,
        revoked_by_spec: false,
        audit_head: None,
        versions: Vec::new(),
        rotations: Vec::new(),
        used: Vec::new(),
    }
}
