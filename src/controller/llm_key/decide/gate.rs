//! Whether a key may be delivered: what validation has to say before it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::due;
use crate::api::{Reason, ValidationMode};
use crate::controller::llm_key::model::{Env, Observed, Plan};
use crate::domain::health::Verdict;
use crate::provider::PRIVATE_NAME;

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Deliver it.
    Publish,
    /// Ask the provider now.
    Ask,
    /// Wait; the plan says for what and until when.
    Hold,
}

/// `fresh_since`: when a minted key was made; it may be refused for a while and is then pending, not bad.
/// `over_good`: a delivered key is not known to be bad.
pub(super) fn gate(
    o: &Observed,
    shown: &str,
    fresh_since: Option<DateTime<Utc>>,
    over_good: bool,
    env: &Env,
    plan: &mut Plan,
) -> Gate {
    if o.key.validation != ValidationMode::Required {
        return Gate::Publish;
    }
    if o.provider.problem.is_some() {
        return Gate::Hold;
    }
    let Some(health) = o.memory.before_delivery(shown) else {
        return Gate::Ask;
    };
    let Some((verdict, asked)) = health.last else { return Gate::Ask };
    if verdict.accepts() {
        return if env.now - asked < delta(env.timings.candidate_fresh) { Gate::Publish } else { Gate::Ask };
    }
    if verdict.refuses() {
        return refused(o, (health.rejections, asked), fresh_since, over_good, env, plan);
    }
    if verdict == Verdict::AddressRefused {
        plan.stall(Reason::AddressRefused, format!("{}: {PRIVATE_NAME}", o.provider.shown));
        return again(asked, env.timings.recheck, env, plan);
    }
    let first_asked = health.first_asked.unwrap_or(asked);
    if !over_good
        && health.rejections == 0
        && env.now >= first_asked + delta(env.timings.publish_unknown_after)
    {
        return Gate::Publish;
    }
    let (reason, message) = match verdict {
        Verdict::RateLimited { .. } => {
            (Reason::RateLimited, "the provider throttles us; the key is checked again")
        }
        Verdict::ProviderDown => {
            (Reason::ProviderDown, "the provider cannot be reached; the key is checked again")
        }
        _ => {
            (Reason::UnknownAnswer, "the provider's answer could not be understood; the key is checked again")
        }
    };
    let pause = match verdict {
        Verdict::RateLimited { retry_after: Some(after) } => after.max(env.timings.recheck),
        _ => env.timings.recheck,
    };
    if !over_good {
        plan.progress(reason, message);
    }
    again(asked, pause, env, plan)
}

/// `last`: rejections in a row, and when the last one was.
fn refused(
    o: &Observed,
    last: (i32, DateTime<Utc>),
    fresh_since: Option<DateTime<Utc>>,
    over_good: bool,
    env: &Env,
    plan: &mut Plan,
) -> Gate {
    let (rejections, asked) = last;
    if let Some(since) = fresh_since {
        let message = "the new key is not accepted yet; it may still be spreading at the provider";
        if over_good {
            // Nobody has to wait: the older key works.
            due(plan, Reason::WaitingForProvider, message);
        } else {
            plan.progress(Reason::WaitingForProvider, message);
        }
        let pause = if asked < since + delta(env.timings.new_key_deadline) {
            env.timings.new_key_recheck
        } else {
            env.timings.retry_max
        };
        return again(asked, pause, env, plan);
    }
    plan.stall(
        Reason::RejectedNotPublished,
        format!(
            "the provider rejects the supplied key, so it is not delivered to Secret {}; put a working key into the source \
             Secret, or set validation.mode to Advisory to deliver it all the same",
            o.key.target_name
        ),
    );
    let doublings = u32::try_from(rejections.clamp(1, 8)).unwrap_or(1) - 1;
    let pause =
        env.timings.rejection_confirmation_gap.saturating_mul(1 << doublings).min(env.timings.retry_max);
    again(asked, pause, env, plan)
}

pub(super) fn again(asked: DateTime<Utc>, pause: Duration, env: &Env, plan: &mut Plan) -> Gate {
    let at = asked + delta(pause);
    if env.now >= at {
        return Gate::Ask;
    }
    plan.wake_at(at);
    Gate::Hold
}

/// A duration as chrono has it.
pub(super) fn delta(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}
