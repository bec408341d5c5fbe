//! Effects on the world, with the invariants that each must keep.

use super::{Held, Target, World, delta, facts};
use crate::api::{FINALIZER, LLMKey, Reason};
use crate::controller::llm_key::decide::{strays, unnamed_strays};
use crate::controller::llm_key::fold::{Failure, Learned};
use crate::controller::llm_key::model::{Effect, LedgerView, Observed, RestartOrder, SourceView, Subject};
use crate::crypto::Envelope;
use crate::domain::backoff::Class;
use crate::domain::evidence::{Census, Look};
use crate::domain::lifecycle::{RevocationBasis, VersionState};
use crate::ledger::{Ledger, Record, Switch};
use crate::provider::{MintKind, NoMatch, ProviderKeyId};

/// Why an effect did not happen, or seems not to have happened.
#[derive(Debug)]
pub enum Undone {
    /// Another hand wrote first.
    Changed,
    /// The provider did not do it.
    Failed(Failure),
    /// The API server did not answer.
    Lost,
    /// An invariant is broken.
    Broken(String),
}

pub fn broken<T>(what: impl Into<String>) -> Result<T, Undone> {
    Err(Undone::Broken(what.into()))
}

pub fn failed(reason: Reason) -> Undone {
    Undone::Failed(Failure {
        reason,
        message: "it failed".into(),
        class: Class::Transient,
        retry_after: None,
    })
}

/// Whether an effect goes to the provider; the others go to the API server.
pub fn at_provider(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Mint { .. }
            | Effect::ReadSlots
            | Effect::ListKeys
            | Effect::LookUp { .. }
            | Effect::FindStrays { .. }
            | Effect::RevokeStray { .. }
            | Effect::ReadLastUse { .. }
            | Effect::Switch { .. }
            | Effect::Match { .. }
            | Effect::Revoke { .. }
            | Effect::ConfirmRevoked { .. }
    )
}

pub fn record(o: &Observed) -> Result<&Record, Undone> {
    match &o.ledger {
        LedgerView::Present(ledger) => Ok(&ledger.record),
        _ => Err(Undone::Changed),
    }
}

impl World {
    pub fn perform(&mut self, o: &Observed, held: &mut Held, effect: &Effect) -> Result<Learned, Undone> {
        match effect {
            Effect::SetFinalizer(on) => self.set_finalizer(o, held, *on),
            Effect::CreateLedger(record) => {
                if self.ledger.is_some() {
                    return Err(Undone::Changed);
                }
                self.write_ledger(held, record)
            }
            Effect::SwapLedger(next) => {
                let LedgerView::Present(read) = &o.ledger else { return Err(Undone::Changed) };
                if next.epoch <= read.record.epoch {
                    return broken("a compare-and-swap that does not raise the epoch");
                }
                if self.ledger.as_ref().map(|l| &l.resource_version) != Some(&read.resource_version) {
                    return Err(Undone::Changed);
                }
                self.write_ledger(held, next)
            }
            Effect::DeleteLedger => self.delete_ledger(o),
            Effect::TakeLease => Ok(self.take_lease(o)),
            Effect::ReturnLease => Ok(self.return_lease()),
            Effect::Choose => Ok(self.choose(o, held)),
            Effect::ReadSlots => Ok(self.read_slots()),
            Effect::ListKeys => {
                Ok(Learned::Listed(self.listed(&self.project).into_iter().map(|(id, _)| id).collect()))
            }
            Effect::LookUp { version } if self.in_slots() => self.look_into_slot(o, held, *version),
            Effect::LookUp { version } if self.provider.mint == MintKind::CallerNamed => {
                self.look_for_named(o, held, *version)
            }
            Effect::LookUp { version } => {
                let id = Self::id_of(o, *version)?;
                Ok(Learned::LookedUp(self.live_keys().any(|key| key.id == id)))
            }
            Effect::Mint { .. } | Effect::Revoke { .. } | Effect::RevokeStray { .. } => {
                self.only_tenant(o)?;
                self.call(o, held, effect)
            }
            Effect::FindStrays { project, below } => self.find_strays(o, project, *below),
            Effect::Validate(subject) => self.validate(o, held, *subject),
            Effect::WriteTarget { version } => self.write_target(o, held, *version),
            Effect::DeleteTarget => self.delete_target(held),
            Effect::CheckShared { version } => {
                let key = record(o)?.version(*version).and_then(|v| v.key.clone()).ok_or(Undone::Changed)?;
                let holder = self.elsewhere.contains(&key.fingerprint).then(|| "another".to_owned());
                Ok(Learned::Shared { version: *version, holder })
            }
            Effect::ReadLastUse { version } => self.read_last_use(o, *version),
            Effect::LookAtConsumers { .. } => Ok(Learned::Consumers(self.look_at_consumers())),
            Effect::Restart(order) => self.restart(order),
            Effect::Switch { version, on } => self.switch(o, *version, *on),
            Effect::Match { version } => self.match_key(o, *version),
            Effect::ConfirmRevoked { version } => self.confirm_revoked(o, *version),
            Effect::NoteReminder { .. } => Ok(Learned::Reminded),
            Effect::ReadMembers { members } => Ok(self.read_members(o, held, members)),
            Effect::Announce { .. } => Ok(Learned::Nothing),
        }
    }

    /// A call that makes or ends a key.
    fn call(&mut self, o: &Observed, held: &mut Held, effect: &Effect) -> Result<Learned, Undone> {
        match effect {
            Effect::Mint { version } => self.mint(o, held, *version),
            Effect::RevokeStray { project, id } => self.revoke_stray(o, project, id),
            Effect::Revoke { version } => self.revoke(o, *version),
            _ => Err(Undone::Changed),
        }
    }

    fn read_members(&mut self, o: &Observed, held: &mut Held, members: &[String]) -> Learned {
        let mut found = Vec::new();
        for member in o.key.pool.iter().filter(|m| members.contains(&m.name)) {
            self.history.members_read += 1;
            let secret = &member.secret_ref.name;
            let view = match self.pool.get(secret) {
                Some(bytes) => {
                    held.members.insert(member.name.clone(), bytes.clone());
                    SourceView::Value(facts(bytes))
                }
                None => {
                    SourceView::Problem(Reason::SourceNotFound, format!("Secret {secret} does not exist"))
                }
            };
            found.push((member.name.clone(), view));
        }
        Learned::Members(found)
    }

    /// The LLMKey is read again for it: only its uid must be the one that was observed.
    fn set_finalizer(&mut self, o: &Observed, held: &mut Held, on: bool) -> Result<Learned, Undone> {
        let same = |key: &&mut LLMKey| key.metadata.uid.as_ref() == Some(&o.key.uid);
        let Some(key) = self.key.as_mut().filter(same) else { return Ok(Learned::Finalizer(on)) };
        if on && key.metadata.deletion_timestamp.is_some() {
            // The API server lets nobody hold up a deletion that has begun.
            return Err(Undone::Lost);
        }
        let finalizers = key.metadata.finalizers.get_or_insert_default();
        finalizers.retain(|f| f != FINALIZER);
        if on {
            finalizers.push(FINALIZER.to_owned());
        }
        held.key_version = self.key_written();
        self.collect();
        Ok(Learned::Finalizer(on))
    }

    pub fn key_written(&mut self) -> u64 {
        self.history.writes += 1;
        let n = self.next();
        if let Some(key) = &mut self.key {
            key.metadata.resource_version = Some(n.to_string());
        }
        n
    }

    /// Seals what is held and not sealed yet, and writes.
    fn write_ledger(&mut self, held: &Held, next: &Record) -> Result<Learned, Undone> {
        let mut next = next.clone();
        for version in &mut next.versions {
            let Some(key) = version.key.as_ref().filter(|_| version.sealed.is_none()) else { continue };
            if !version.state.protects_key() && version.state != VersionState::Intent {
                continue;
            }
            let older =
                self.ledger.iter().flat_map(|l| l.record.versions.iter().map(|v| (&l.record, v.version)));
            let older = older.filter_map(|(record, number)| Self::bytes_of(record, number));
            let given =
                [&held.source, &held.minted, &held.chosen].into_iter().flatten().chain(held.members.values());
            let all = given.cloned().chain(older);
            let Some(bytes) = { all }.find(|b| facts(b) == *key) else { return Err(Undone::Changed) };
            version.sealed = Some(Envelope {
                kek: "kek".into(),
                info: [0; 32],
                nonce: [0; 12],
                ciphertext: bytes.into_bytes(),
            });
        }
        self.judge_ledger(&next)?;
        let n = self.next();
        let fresh = || if self.concurrent { "ledger".to_owned() } else { format!("ledger-{n}") };
        let uid = self.ledger.as_ref().map_or_else(fresh, |l| l.uid.clone());
        let ledger = Ledger { record: next, resource_version: n.to_string(), uid };
        self.ledger = Some(ledger.clone());
        self.history.writes += 1;
        Ok(Learned::Ledger(Box::new(ledger)))
    }

    /// A ledger may go only if it says of every key that it is revoked or not the operator's.
    fn delete_ledger(&mut self, o: &Observed) -> Result<Learned, Undone> {
        let LedgerView::Present(read) = &o.ledger else { return Err(Undone::Changed) };
        if self.ledger.as_ref().map(|l| &l.resource_version) != Some(&read.resource_version) {
            return Err(Undone::Changed);
        }
        for key in self.ours() {
            let kept =
                read.record.versions.iter().any(|v| {
                    v.provider_key_id.as_deref() == Some(&key.id) && v.state == VersionState::Retained
                });
            // What a slot has is nobody's.
            if !kept && !self.in_slots() {
                return broken(format!("I2: the ledger goes and {} lives", key.id));
            }
        }
        self.ledger = None;
        self.history.writes += 1;
        Ok(Learned::LedgerDeleted)
    }

    fn listed(&self, project: &str) -> Vec<(String, String)> {
        self.live_keys()
            .filter(|k| {
                k.project == project
                    && k.host == self.host
                    && self.now >= k.made + delta(self.provider.list_lag)
            })
            .map(|k| (k.id.clone(), k.name.clone()))
            .collect()
    }

    fn find_strays(&self, o: &Observed, project: &str, below: u32) -> Result<Learned, Undone> {
        self.account().ok_or_else(|| failed(Reason::AdminCredentialMissing))?;
        if self.provider.mint == MintKind::Unnamed {
            let ids: Vec<String> = self.listed(project).into_iter().map(|(id, _)| id).collect();
            return Ok(Learned::Strays(unnamed_strays(o, record(o)?, project, &ids)));
        }
        let listed =
            self.listed(project).into_iter().map(|(id, name)| (ProviderKeyId::parse(&id).unwrap(), name));
        Ok(Learned::Strays(strays(record(o)?, listed, below, o.key.revoke_all)))
    }

    fn revoke_stray(&mut self, o: &Observed, project: &str, id: &str) -> Result<Learned, Undone> {
        let versions = self.ledger.iter().flat_map(|l| &l.record.versions);
        let name = self.provider.keys.iter().find(|k| k.id == id).map(|k| &k.name);
        let own = o.pass.minted.as_ref().is_some_and(|minted| minted.id == id);
        for version in versions {
            if version.provider_key_id.as_deref() == Some(id) && version.state.key_may_work() {
                return broken(format!("I4: {id} is revoked as a stray and stands in the ledger"));
            }
            if version.state == VersionState::Intent && version.mint_name.as_ref() == name && !own {
                return broken(format!("I9: {id} is revoked as a stray and its attempt is not fenced"));
            }
        }
        self.end(project, id)?;
        Ok(Learned::StrayRevoked(id.to_owned()))
    }

    fn end(&mut self, project: &str, id: &str) -> Result<(), Undone> {
        self.history.writes += 1;
        let (now, host) = (self.now, self.host.clone());
        let carried = self.target.as_ref().map(|t| t.bytes.clone());
        let Some(key) =
            self.provider.keys.iter_mut().find(|k| k.id == id && k.project == project && k.host == host)
        else {
            return Ok(());
        };
        if key.name.is_empty() {
            return broken(format!("{id} is ended, and another hand has made it"));
        }
        let explicit = self.ledger.as_ref().is_some_and(|l| {
            l.record.versions.iter().any(|v| {
                v.provider_key_id.as_deref() == Some(id) && v.basis == Some(RevocationBasis::Explicit)
            })
        });
        if key.revoked.is_none() && Some(&key.bytes) == carried.as_ref() && !explicit {
            return broken(format!("I4: {id} is revoked and stands in the target"));
        }
        key.revoked.get_or_insert(now);
        Ok(())
    }

    fn validate(&mut self, o: &Observed, held: &Held, subject: Subject) -> Result<Learned, Undone> {
        let bytes = match subject {
            Subject::Source => held.source.clone(),
            Subject::Member(place) => o.key.pool.get(place).and_then(|m| held.members.get(&m.name)).cloned(),
            Subject::Candidate(n) | Subject::Delivered(n) | Subject::Spare(n) | Subject::Pinned(n) => {
                Self::bytes_of(record(o)?, n)
            }
        };
        let Some(bytes) = bytes else { return Err(Undone::Changed) };
        let now = self.now;
        if let Some(key) = self.provider.keys.iter_mut().find(|k| k.bytes == bytes) {
            key.used = key.used.max(Some(now));
        }
        Ok(Learned::Answer { subject, fingerprint: facts(&bytes).shown, verdict: self.verdict(&bytes) })
    }

    /// A hint tells as much as the bytes do here: those of two keys may be the same.
    fn match_key(&self, o: &Observed, version: i32) -> Result<Learned, Undone> {
        let Some(bytes) = Self::bytes_of(record(o)?, version) else { return Err(Undone::Changed) };
        let mut alike = self.provider.keys.iter().filter(|k| k.bytes == bytes && k.project == self.project);
        let found = match (alike.next(), alike.next()) {
            (Some(one), None) => Ok(one.id.clone()),
            (None, _) => Err(NoMatch::Nothing),
            (Some(_), Some(_)) => Err(NoMatch::Several),
        };
        Ok(Learned::Matched { version, fingerprint: facts(&bytes).shown, found })
    }

    fn switch(&mut self, o: &Observed, version: i32, on: bool) -> Result<Learned, Undone> {
        let id = Self::id_of(o, version)?;
        let wish = if on { Switch::TurningOn } else { Switch::TurningOff };
        if record(o)?.version(version).and_then(|v| v.switch) != Some(wish) {
            return broken(format!("I9: {id} is switched and the ledger does not say so"));
        }
        if on {
            self.provider.off.remove(&id);
        } else {
            self.provider.off.insert(id);
        }
        Ok(Learned::Switched(version))
    }

    fn write_target(&mut self, o: &Observed, held: &mut Held, version: i32) -> Result<Learned, Undone> {
        let record = record(o)?;
        let Some(bytes) = Self::bytes_of(record, version) else { return Err(Undone::Changed) };
        if self.target.as_ref().map(|t| t.resource_version) != held.target_version {
            return Err(Undone::Changed);
        }
        if self.target.as_ref().is_some_and(|t| t.owner.is_none() && !t.adoptable) {
            return broken("somebody else's Secret is overwritten");
        }
        let newest = self.newest_delivered();
        if version < newest {
            return broken(format!("I7: version {version} after {newest}"));
        }
        let fingerprint = facts(&bytes).fingerprint;
        if self.history.retired.values().any(|(_, retired)| *retired == fingerprint) {
            return broken(format!("I7: version {version} is published after its L4"));
        }
        self.history.published = self.history.published.max(version);
        self.history.writes += 1;
        // Whoever has the old key uses it until now.
        let (old, now) = (self.target.as_ref().map(|t| t.bytes.clone()), self.now);
        if let Some(key) = self.provider.keys.iter_mut().find(|k| Some(&k.bytes) == old.as_ref()) {
            key.used = Some(now);
        }
        let n = self.next();
        let written = self.now + chrono::Duration::seconds(1);
        self.target = Some(Target {
            owner: Some(o.key.uid.clone()),
            bytes,
            written,
            resource_version: n,
            adoptable: false,
        });
        held.target_version = Some(n);
        Ok(Learned::TargetWritten { version, since: Some(written) })
    }

    /// No write may put an older version into the target: the newest one that was written there, or, if another hand has deleted
    /// or changed that since, the newest one that the ledger calls delivered. What a process wrote and did not live to record is
    /// not known to the next one, and a key that works must not be kept from workloads for it.
    fn newest_delivered(&self) -> i32 {
        let Some(record) = self.ledger.as_ref().map(|l| &l.record) else { return self.history.published };
        let newest = Self::bytes_of(record, self.history.published);
        if self.target.as_ref().is_some_and(|t| newest.is_none_or(|bytes| bytes == t.bytes)) {
            return self.history.published;
        }
        let delivered = record.versions.iter().filter(|v| v.published_at.is_some());
        delivered.map(|v| v.version).max().unwrap_or_default()
    }

    fn delete_target(&mut self, held: &Held) -> Result<Learned, Undone> {
        if self.target.as_ref().map(|t| t.resource_version) != held.target_version {
            return Err(Undone::Changed);
        }
        self.target = None;
        self.history.writes += 1;
        Ok(Learned::TargetDeleted)
    }

    fn id_of(o: &Observed, version: i32) -> Result<String, Undone> {
        record(o)?.version(version).and_then(|v| v.provider_key_id.clone()).ok_or(Undone::Changed)
    }

    fn read_last_use(&self, o: &Observed, version: i32) -> Result<Learned, Undone> {
        let id = Self::id_of(o, version)?;
        let key = self.provider.keys.iter().find(|k| k.id == id && k.host == self.host);
        let used = key.and_then(|k| k.used).map(|at| at + chrono::Duration::seconds(1));
        Ok(Learned::LastUse { version, used })
    }

    fn look_at_consumers(&self) -> Look {
        let census = Census { consumers: self.consumers.clone(), restarting: 0, may_restart: true };
        Look { at: self.now, found: Ok(census) }
    }

    /// The pods are replaced at once.
    fn restart(&mut self, order: &RestartOrder) -> Result<Learned, Undone> {
        let name = order.workload.to_string();
        let version = order.mark.split('/').take(2).collect::<Vec<_>>().join("/");
        let tries = self.history.restarts.entry((name.clone(), version)).or_insert(0);
        *tries += 1;
        if *tries > 2 {
            return broken(format!("{name} is restarted a third time for {}", order.mark));
        }
        self.history.writes += 1;
        let (now, reverted) = (self.now, self.restarts_are_reverted);
        let found = self.consumers.iter_mut().find(|c| c.workload == order.workload);
        if let Some((consumer, false)) = found.map(|consumer| (consumer, reverted)) {
            if let Some(rollout) = &mut consumer.rollout {
                rollout.restarted_for = Some(order.mark.clone());
            }
            for pod in &mut consumer.pods {
                pod.created = now;
            }
        }
        Ok(Learned::Restarted { refused: false })
    }

    fn revoke(&mut self, o: &Observed, version: i32) -> Result<Learned, Undone> {
        let id = Self::id_of(o, version)?;
        if !self.history.retired.contains_key(&version) {
            return broken(format!("I9: version {version} is revoked without L4"));
        }
        let account = record(o)?.version(version).and_then(|v| v.account.clone()).ok_or(Undone::Changed)?;
        if account.host != self.host {
            return broken(format!("version {version} is revoked at another account than it was made at"));
        }
        if self.in_slots() {
            self.end_in_slot(o, version)?;
        } else {
            self.end(&account.project, &id)?;
        }
        Ok(Learned::RevokeAnswered(version))
    }

    fn confirm_revoked(&mut self, o: &Observed, version: i32) -> Result<Learned, Undone> {
        let id = Self::id_of(o, version)?;
        let account = record(o)?.version(version).and_then(|v| v.account.clone()).ok_or(Undone::Changed)?;
        let listed = match self.provider.mint {
            MintKind::ShownOnce | MintKind::Unnamed => {
                self.listed(&account.project).iter().any(|(listed, _)| *listed == id)
            }
            MintKind::CallerChosen | MintKind::CallerNamed => self.live_keys().any(|key| key.id == id),
            MintKind::Slots => self.is_in_slot(o, version)?,
        };
        let refused = Self::bytes_of(record(o)?, version).is_none_or(|bytes| self.verdict(&bytes).refuses());
        Ok(Learned::Confirmed { version, gone: !listed && refused })
    }
}
