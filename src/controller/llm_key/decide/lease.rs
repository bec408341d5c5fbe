//! An account whose keys are fixed in number is one LLMKey's alone: it is taken before the first key, confirmed when there is a
//! ledger, and given back when nothing is left there.

use crate::controller::llm_key::model::{Effect, Env, LedgerView, Observed, Plan};
use crate::domain::lifecycle::Origin;
use crate::ledger::{Record, Tenancy};

/// Whether the account is to be taken, or confirmed, before anything is made or ended there.
pub(crate) fn is_missing(o: &Observed) -> bool {
    match &o.provider.tenancy {
        Tenancy::Shared => false,
        Tenancy::Vacant => true,
        Tenancy::Own(confirmed) => match &o.ledger {
            LedgerView::Present(ledger) => confirmed.as_ref() != Some(&ledger.uid),
            _ => false,
        },
    }
}

/// What is done about it.
pub(crate) fn missing(o: &Observed) -> Option<Effect> {
    is_missing(o).then_some(Effect::TakeLease)
}

/// Whether this LLMKey has the account.
pub(crate) const fn is_held(o: &Observed) -> bool {
    matches!(o.provider.tenancy, Tenancy::Own(_))
}

/// Nothing that was made there may work, and nothing is to be made: somebody else may have it.
pub(super) fn give_back(o: &Observed, record: &Record, _: &Env, plan: &mut Plan) {
    let needed = |v: &crate::ledger::Version| v.origin == Origin::Minted && v.state.key_may_work();
    if is_held(o) && !o.key.minted && !record.versions.iter().any(needed) {
        plan.effects.push(Effect::ReturnLease);
    }
}
