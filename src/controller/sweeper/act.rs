//! The effects of a sweep, one after the other.

use super::decide::{Effect, Plan};
use crate::api::Reason;
use crate::controller::context::Ctx;
use crate::ledger::{AccountId, LedgerError};
use crate::provider::{Account, ProviderKeyId};
use crate::telemetry::metrics::Outcome;

/// What a sweep has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Keys that were revoked.
    pub revoked: usize,
    /// Something did not work and is left to the next sweep.
    pub failed: bool,
    /// The account was frozen.
    pub froze: bool,
}

/// Carries the plan out. A chain ends with its first failure: what is not fenced is not revoked.
pub async fn act(ctx: &Ctx, id: &AccountId, account: &Account, plan: Plan) -> Done {
    let mut done = Done::default();
    for chain in plan.chains {
        for effect in chain {
            if !ctx.leader.is_leader() {
                done.failed = true;
                return done;
            }
            let name = effect.name();
            let acted = one(ctx, id, account, effect, &mut done).await;
            ctx.metrics.effect(name, if acted { Outcome::Applied } else { Outcome::Failed });
            if !acted {
                done.failed = true;
                break;
            }
        }
    }
    done
}

async fn one(ctx: &Ctx, id: &AccountId, account: &Account, effect: Effect, done: &mut Done) -> bool {
    match effect {
        Effect::Freeze { reason, count, keys } => match ctx.freeze_account(id, reason, count, keys).await {
            Ok(froze) => {
                done.froze |= froze;
                true
            }
            Err(error) => {
                tracing::warn!(project = id.project, %error, "the account could not be frozen");
                false
            }
        },
        Effect::Fence { read, next } => match ctx.ledgers.swap(&read, &next).await {
            Ok(_) => true,
            Err(LedgerError::Conflict) => {
                // Somebody works on it: the next sweep judges by what stands there then.
                tracing::debug!(namespace = next.namespace, name = next.name, "the ledger moved on");
                false
            }
            Err(error) => {
                tracing::warn!(namespace = next.namespace, name = next.name, %error, "no fence, so nothing is revoked");
                false
            }
        },
        Effect::Revoke { id: key } => revoke(ctx, account, &key, done).await,
    }
}

async fn revoke(ctx: &Ctx, account: &Account, key: &str, done: &mut Done) -> bool {
    let Ok(id) = ProviderKeyId::parse(key) else { return false };
    match ctx.providers.revoke(account, &id).await {
        Ok(_) => {
            tracing::warn!(
                project = account.project(),
                key,
                reason = Reason::StrayRevoked.as_str(),
                "a key of this installation that no ledger holds was revoked"
            );
            done.revoked += 1;
            true
        }
        Err(error) => {
            error.log();
            tracing::warn!(project = account.project(), key, %error, "a key that no ledger holds was not revoked");
            false
        }
    }
}

impl Effect {
    /// The effect's name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Freeze { .. } => "freeze",
            Self::Fence { .. } => "fence",
            Self::Revoke { .. } => "revoke_orphan",
        }
    }
}
