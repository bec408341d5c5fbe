//! What may become of an effect, and what the replica makes of it.

use super::local::record;
use crate::api::Reason;
use crate::controller::llm_key::fold::Learned;
use crate::controller::llm_key::model::{Effect, Observed, Subject};
use crate::controller::llm_key::world::perform::{Undone, at_provider, failed};
use crate::domain::health::Verdict;

/// What becomes of an effect. That the process dies before it is told is no fate of its own: it is told, and dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// It happens, and the replica is told.
    Told,
    /// It happens, and the answer is lost.
    ReplyLost,
    /// It does not happen, and the replica is told of an error.
    NotDone,
    /// It is delivered twice at once.
    Twice,
    /// It is delivered, and a copy of it arrives later.
    TwiceLater,
    /// It does not happen, and the replica is told just that: a conflict, or a mint that is refused. No budget buys it; traces of
    /// the program have it.
    Refused,
}

impl Fate {
    /// All that are explored.
    pub const ALL: [Self; 5] = [Self::Told, Self::ReplyLost, Self::NotDone, Self::Twice, Self::TwiceLater];

    /// Whether the effect happens.
    pub const fn happens(self) -> bool {
        !matches!(self, Self::NotDone | Self::Refused)
    }
}

/// What the replica is told of an effect that went so.
pub fn told(
    o: &Observed,
    effect: &Effect,
    fate: Fate,
    done: Result<Learned, Undone>,
) -> Result<Learned, Undone> {
    let failed_call = || if at_provider(effect) { failed(reason(effect)) } else { Undone::Lost };
    match (fate, done?) {
        (Fate::Told | Fate::TwiceLater, learned) => Ok(learned),
        (Fate::Twice, learned) if matches!(effect, Effect::Mint { .. }) => Ok(learned),
        // The second delivery finds what the first one wrote.
        (Fate::Twice, _) => Err(Undone::Changed),
        (Fate::Refused, _) => match (effect, failed_call()) {
            (Effect::Mint { .. }, Undone::Failed(failure)) => Ok(Learned::MintRefused(failure)),
            (_, Undone::Lost) => Err(Undone::Changed),
            (_, failed) => Err(failed),
        },
        (Fate::ReplyLost | Fate::NotDone, _) => unanswered(o, effect).map_or_else(|| Err(failed_call()), Ok),
    }
}

/// What a replica learns where no answer comes and yet nothing fails.
fn unanswered(o: &Observed, effect: &Effect) -> Option<Learned> {
    let Effect::Validate(subject) = effect else { return None };
    let number = match subject {
        Subject::Source | Subject::Member(_) => return None,
        Subject::Candidate(number)
        | Subject::Delivered(number)
        | Subject::Spare(number)
        | Subject::Pinned(number) => *number,
    };
    let fingerprint = record(o)?.version(number)?.key.as_ref()?.shown.clone();
    Some(Learned::Answer { subject: *subject, fingerprint, verdict: Verdict::ProviderDown })
}

/// Whether nobody but the replica's user notices: it happens with the effect before it.
pub const fn is_silent(effect: &Effect) -> bool {
    matches!(effect, Effect::Announce { .. } | Effect::NoteReminder { .. })
}

/// Whether the fate makes a difference to the effect.
pub fn befalls(effect: &Effect, fate: Fate) -> bool {
    // Nobody is asked for a random number.
    let silent = is_silent(effect) || matches!(effect, Effect::Choose);
    let reads = silent
        || matches!(
            effect,
            Effect::Validate(_)
                | Effect::CheckShared { .. }
                | Effect::ReadSlots
                | Effect::LookUp { .. }
                | Effect::FindStrays { .. }
                | Effect::ReadLastUse { .. }
                | Effect::ConfirmRevoked { .. }
                | Effect::ReadMembers { .. }
        );
    match fate {
        Fate::Told => true,
        Fate::NotDone | Fate::Refused => !silent,
        Fate::ReplyLost => !reads,
        Fate::Twice => {
            matches!(effect, Effect::Mint { .. } | Effect::CreateLedger(_) | Effect::WriteTarget { .. })
        }
        Fate::TwiceLater => matches!(effect, Effect::Mint { .. }),
    }
}

fn reason(effect: &Effect) -> Reason {
    match effect {
        Effect::Mint { .. } | Effect::ReadSlots | Effect::LookUp { .. } | Effect::FindStrays { .. } => {
            Reason::MintFailed
        }
        Effect::Switch { .. } => Reason::SwitchFailed,
        _ => Reason::RevokeFailed,
    }
}
