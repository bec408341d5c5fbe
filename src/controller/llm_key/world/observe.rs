//! What a replica reads of the world.

use super::{Held, World, carried, facts, texts, version_of};
use crate::api::Reason;
use crate::controller::llm_key::model::{
    LedgerView, Memory, Observed, Pass, ProviderView, SourceView, TargetView,
};
use crate::controller::llm_key::observe::resume_health;
use crate::controller::llm_key::views::key_view;
use crate::controller::released::observed;

impl World {
    /// Everything, as a full read gives it.
    pub fn observe(&self, memory: &Memory) -> (Observed, Held) {
        let key = self.key.as_ref().expect("there is an LLMKey");
        let mut view = key_view(key, &texts(), &self.timings);
        view.namespace_terminating = view.deleting && self.namespace_terminating;
        let mut memory = memory.clone();
        memory.started.get_or_insert(self.now);
        resume_health(key, &mut memory, self.now);
        let mut held = Held { key_version: version_of(key), ..Held::default() };
        let mut observed = Observed {
            former: self.former(),
            policy: self.policy.clone(),
            provider: ProviderView {
                shown: "OpenAI (openai)".into(),
                problem: self.provider_problem.clone(),
                account: self.account(),
                account_problem: self.account_problem.clone().or_else(|| self.leased()),
                reports_last_use: true,
                reports_usage: true,
                can_disable: self.provider.switches,
                matches: self.provider.matches,
                ends_supplied: self.provider.ends_supplied,
                mint: self.provider.mint,
                tenancy: self.tenancy(),
            },
            source: SourceView::None,
            ledger: LedgerView::Absent,
            target: TargetView::Absent,
            memory,
            pass: Pass::default(),
            edits: format!("{}/{:?}/{}", view.generation, view.rotate, self.edits),
            supplied_by: self.supplied_by.clone(),
            turn: Some(self.turn),
            usage: self.usage.clone(),
            key: view,
        };
        self.look(&mut observed, &mut held);
        (observed, held)
    }

    /// A ledger whose LLMKey is gone.
    pub fn observe_released(&self, memory: &Memory) -> (Observed, Held) {
        let provider = ProviderView {
            shown: String::new(),
            problem: None,
            account: self.account(),
            account_problem: self.account_problem.clone().or_else(|| self.leased()),
            reports_last_use: false,
            reports_usage: false,
            can_disable: self.provider.switches,
            matches: self.provider.matches,
            ends_supplied: self.provider.ends_supplied,
            mint: self.provider.mint,
            tenancy: self.tenancy(),
        };
        let mut observed = observed(self.record(), provider, memory.clone());
        observed.ledger = LedgerView::Present(Box::new(self.ledger.clone().unwrap()));
        (observed, Held::default())
    }

    /// Reads ledger, source and target again.
    pub fn look(&self, o: &mut Observed, held: &mut Held) {
        o.ledger =
            self.ledger.clone().map_or(LedgerView::Absent, |ledger| LedgerView::Present(Box::new(ledger)));
        o.recall_failures(&self.timings);
        if self.key.as_ref().is_some_and(|k| k.spec.source.secret_ref.is_some()) {
            held.source.clone_from(&self.source);
            o.source = self.source.as_ref().map_or_else(
                || SourceView::Problem(Reason::SourceNotFound, "Secret source does not exist".into()),
                |bytes| SourceView::Value(facts(bytes)),
            );
        }
        held.target_version = self.target.as_ref().map(|t| t.resource_version);
        o.target = match &self.target {
            None => TargetView::Absent,
            Some(target) if target.owner.as_ref() == Some(&o.key.uid) => {
                let carries = self.ledger.as_ref().and_then(|l| carried(&l.record, target));
                TargetView::Ours { carries, since: Some(target.written), changed: carries.is_none() }
            }
            Some(target) if target.owner.is_some() => TargetView::PreviousOwner,
            Some(target) if target.adoptable => TargetView::Offered,
            Some(_) => TargetView::Foreign(Reason::TargetForeign, "not the operator's".into()),
        };
    }
}
