//! Effects in words, for the story of a run.

use crate::controller::llm_key::model::{Effect, Subject};

/// An effect in words.
pub fn sentence(effect: &Effect) -> String {
    match effect {
        Effect::SetFinalizer(on) => format!("finalizer {}", if *on { "on" } else { "off" }),
        Effect::CreateLedger(r) | Effect::SwapLedger(r) => {
            let states: Vec<String> =
                r.versions.iter().map(|v| format!("{}={:?}", v.version, v.state)).collect();
            format!("ledger: epoch {}, attempt {}, {}", r.epoch, r.attempt, states.join(" "))
        }
        Effect::DeleteLedger => "delete the ledger".into(),
        Effect::TakeLease => "take the account".into(),
        Effect::ReturnLease => "give the account back".into(),
        Effect::Choose => "choose a key".into(),
        Effect::ListKeys => "list the keys".into(),
        Effect::ReadSlots => "read the slots".into(),
        Effect::LookUp { version } => format!("is the key of version {version} there?"),
        Effect::Mint { version } => format!("mint version {version}"),
        Effect::FindStrays { project, below } => format!("find strays below attempt {below} in {project}"),
        Effect::RevokeStray { id, .. } => format!("revoke the stray {id}"),
        Effect::Validate(Subject::Source) => "validate the source".into(),
        Effect::Validate(Subject::Candidate(n)) => format!("validate version {n} before delivery"),
        Effect::Validate(Subject::Pinned(n)) => format!("validate the pinned version {n} before delivery"),
        Effect::Validate(Subject::Delivered(n)) => format!("validate the delivered version {n}"),
        Effect::Validate(Subject::Spare(n)) => format!("validate version {n}, the spare"),
        Effect::WriteTarget { version } => format!("write version {version} to the target"),
        Effect::DeleteTarget => "delete the target".into(),
        Effect::CheckShared { version } => format!("is version {version} shared?"),
        Effect::ReadLastUse { version } => format!("when was version {version} used?"),
        Effect::LookAtConsumers { .. } => "look at the consumers".into(),
        Effect::Restart(order) => format!("restart {} for {}", order.workload, order.mark),
        Effect::Switch { version, on } => {
            format!("switch version {version} {}", if *on { "on" } else { "off" })
        }
        Effect::Match { version } => format!("which key is version {version}?"),
        Effect::Revoke { version } => format!("revoke version {version}"),
        Effect::ConfirmRevoked { version } => format!("confirm the revocation of version {version}"),
        Effect::Validate(Subject::Member(n)) => format!("validate the key of pool member {n}"),
        Effect::ReadMembers { members } => format!("read pool members {}", members.join(", ")),
        Effect::NoteReminder { .. } => "note the reminder".into(),
        Effect::Announce { reason, .. } => format!("event {reason:?}"),
    }
}
