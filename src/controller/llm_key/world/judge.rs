//! The invariants: what must hold at every moment, and before each write of the ledger.

use super::perform::{Undone, broken};
use super::{ProviderKey, World, delta, facts};
use crate::api::{ConditionType, DesiredState, LLMKeyStatus, OnReplacementFailure, ValidationMode};
use crate::controller::llm_key::model::Plan;
use crate::domain::evidence::{PodUse, Reads};
use crate::domain::lifecycle::{Origin, RevocationBasis, VersionState};
use crate::domain::names::{MintName, lineage_code};
use crate::ledger::{Record, Version};
use crate::provider::MintKind;

impl World {
    /// Legal moves only; L4 once, and on evidence.
    pub fn judge_ledger(&mut self, next: &Record) -> Result<(), Undone> {
        let before = self.ledger.as_ref().map(|l| l.record.clone());
        for version in &next.versions {
            if let Some(name) = &version.mint_name {
                self.history.names.insert(name.clone());
            }
            let was = before.as_ref().and_then(|b| b.version(version.version));
            if let (None, Some(member), Some(key)) = (was, &version.member, &version.key)
                && !self.history.taken.insert(key.fingerprint.clone())
            {
                return broken(format!(
                    "version {}: the key of pool member {member} is used again",
                    version.version
                ));
            }
            if let Some(was) = was
                && was.state != version.state
                && !was.state.may_become(version.state)
            {
                return broken(format!(
                    "version {}: {:?} -> {:?}",
                    version.version, was.state, version.state
                ));
            }
            let delivered = version.state == VersionState::Current
                && was.is_some_and(|w| w.state != VersionState::Current);
            if delivered && version.origin == Origin::Minted && self.history.published < version.version {
                return broken(format!("L3 before S1: version {} was never in the target", version.version));
            }
            let began = version.state == VersionState::Retiring
                && was.is_some_and(|w| w.state != VersionState::Retiring);
            if began {
                // Of a key that was only named, the id is all that is known.
                let fingerprint = version.key.as_ref().map(|k| k.fingerprint.clone());
                let fingerprint = fingerprint.or_else(|| version.provider_key_id.clone()).unwrap_or_default();
                if let Some(other) = next.versions.iter().find(|v| {
                    v.version != version.version && v.state.protects_key() && v.has_key(&fingerprint)
                }) {
                    return broken(format!(
                        "rule 1: L4 for version {}, and version {} needs its key",
                        version.version, other.version
                    ));
                }
                if self.history.retired.iter().any(|(n, (_, f))| *n != version.version && *f == fingerprint) {
                    return broken(format!("I9: L4 for version {}, whose key had its L4", version.version));
                }
                let entry = self.history.retired.entry(version.version).or_insert((0, fingerprint));
                entry.0 += 1;
                if entry.0 > 1 {
                    return broken(format!("I9: L4 twice for version {}", version.version));
                }
                match version.basis {
                    Some(
                        RevocationBasis::ProviderQuiet
                        | RevocationBasis::MinimumElapsed
                        | RevocationBasis::ConsumersProven
                        | RevocationBasis::Presumed,
                    ) => self.judge_evidence(next, version.version)?,
                    Some(RevocationBasis::NeverPublished) if version.published_at.is_some() => {
                        return broken(format!("I4: version {} was published", version.version));
                    }
                    _ => {}
                }
                if version.basis == Some(RevocationBasis::Explicit) {
                    self.judge_wish(next, version.version)?;
                }
            }
        }
        let newest = |record: &Record| record.versions.iter().map(|v| v.version).max().unwrap_or(0);
        if before.is_some_and(|b| newest(&b) > newest(next)) {
            return broken("I7: version numbers fall");
        }
        Ok(())
    }

    /// I4, at L4: another key has been in the target for the minimum, works, and the old one was quiet.
    fn judge_evidence(&self, next: &Record, number: i32) -> Result<(), Undone> {
        if self.concurrent {
            return self.judge_recorded_evidence(next, number);
        }
        let Some(target) = &self.target else { return broken("I4: L4 without a target") };
        let current = next.current().map(|v| v.version);
        let carried = current.and_then(|n| Self::bytes_of(next, n));
        if carried.as_ref() != Some(&target.bytes) {
            return broken(format!("I4: L4 for version {number}, but the target does not carry the current"));
        }
        if self.now < target.written + delta(self.policy.overlap_minimum) {
            return broken(format!("I4: L4 for version {number} before the overlap's minimum"));
        }
        if self.key.as_ref().is_some_and(|k| k.spec.validation.mode != ValidationMode::Disabled)
            && !self.verdict(&target.bytes).accepts()
        {
            return broken(format!("I4: L4 for version {number} while the current key does not work"));
        }
        let newer = target.written + delta(self.timings.consumer_margin);
        let reread = self.now >= target.written + delta(self.timings.reload_presumed);
        let current = |pod: &PodUse| pod.created >= newer || (pod.reads == Reads::Anew && reread);
        if self.policy.consumers && !self.consumers.iter().flat_map(|c| &c.pods).all(current) {
            return broken(format!("I4: L4 for version {number}, which a pod may have"));
        }
        let id = next.version(number).and_then(|v| v.provider_key_id.clone());
        let used = self.provider.keys.iter().find(|k| Some(&k.id) == id.as_ref()).and_then(|k| k.used);
        let quiet = used.is_none_or(|at| {
            self.now + delta(self.timings.last_use_fresh) >= at + delta(self.policy.quiet_for)
        });
        if quiet { Ok(()) } else { broken(format!("I4: L4 for version {number}, which is in use")) }
    }

    /// I4, at an explicit L4 of one version: what workloads have goes only if the spec says so.
    fn judge_wish(&self, next: &Record, number: i32) -> Result<(), Undone> {
        let Some(key) = self.key.as_ref().filter(|k| k.metadata.deletion_timestamp.is_none()) else {
            return Ok(());
        };
        let taken_over = self.ledger.as_ref().is_none_or(|l| l.record.owner != next.owner);
        if key.spec.desired_state == DesiredState::Revoked || taken_over || next.owner.is_none() {
            return Ok(());
        }
        let listed = next.version(number).and_then(|v| v.key.as_ref()).is_some_and(|key_of| {
            let same = |v: &&Version| v.version == number || v.has_key(&key_of.fingerprint);
            next.versions.iter().filter(same).any(|v| key.spec.revoked_versions.contains(&v.version))
        });
        if !listed {
            return broken(format!("I4: nobody asked for the revocation of version {number}"));
        }
        let bytes = Self::bytes_of(next, number);
        let in_use = self.target.as_ref().is_some_and(|target| Some(&target.bytes) == bytes.as_ref());
        if in_use && key.spec.on_replacement_failure.unwrap_or_default() == OnReplacementFailure::Hold {
            return broken(format!("I4: version {number} is revoked while workloads have it"));
        }
        Ok(())
    }

    /// The same where a replica may have been held up since it looked: another key was published for the minimum, works,
    /// and the target does not hold the old one.
    fn judge_recorded_evidence(&self, next: &Record, number: i32) -> Result<(), Undone> {
        let Some((current, since)) = next.current().and_then(|v| Some((v, v.published_at?))) else {
            return broken(format!("I4: L4 for version {number} without a newer one that was published"));
        };
        let asked = self.policy.overlap_minimum.max(self.policy.quiet_for);
        if self.now < since + delta(asked) {
            return broken(format!("I4: L4 for version {number} before its overlap is over"));
        }
        let works = |bytes: String| self.verdict(&bytes).accepts();
        if !Self::bytes_of(next, current.version).is_some_and(works) {
            return broken(format!("I4: L4 for version {number} while the current key does not work"));
        }
        let old = next.version(number).and_then(|v| v.key.as_ref());
        let carried = self.target.as_ref().map(|t| facts(&t.bytes));
        if carried.is_some() && carried.as_ref() == old {
            return broken(format!("I4: L4 for version {number}, which stands in the target"));
        }
        Ok(())
    }

    /// What must hold at every moment.
    pub fn judge(&self) -> Result<(), String> {
        // What a deleted ledger left behind was judged when it went.
        let Some(record) = self.ledger.as_ref().map(|l| &l.record) else { return Ok(()) };
        for key in self.ours() {
            let by_id = record.versions.iter().any(|v| v.provider_key_id.as_deref() == Some(&key.id));
            let persons = key.name.parse::<MintName>().is_err();
            if !by_id && !persons && !self.named(key) {
                return Err(format!("I2: {} ({}) is not in the ledger", key.id, key.name));
            }
        }
        let live = self.ours().count();
        let spares = usize::try_from(self.policy.spares).unwrap_or_default();
        if live > 3 + spares + self.history.faults {
            return Err(format!("I3: {live} keys live after {} faults", self.history.faults));
        }
        Ok(())
    }

    /// The key is one that a search would find: by its name, or since it was not there before.
    pub fn named(&self, key: &ProviderKey) -> bool {
        let Some(record) = self.ledger.as_ref().map(|l| &l.record) else { return false };
        if self.provider.mint == MintKind::Unnamed {
            return record.before(&key.project).is_some_and(|before| !before.ids.contains(&key.id));
        }
        key.name.parse::<MintName>().is_ok_and(|name| {
            name.lineage == lineage_code(&record.lineage) && name.attempt_number() <= record.attempt
        })
    }

    /// Live keys that no version of the ledger points to.
    pub fn unaccounted(&self) -> Vec<String> {
        let versions = self.ledger.as_ref().map(|l| l.record.versions.clone()).unwrap_or_default();
        self.ours()
            .filter(|k| {
                !versions
                    .iter()
                    .any(|v| v.provider_key_id.as_deref() == Some(&k.id) && v.state.key_may_work())
            })
            .map(|k| k.id.clone())
            .collect()
    }

    /// I11 and I5: what status says is true, of this generation, and without key material.
    pub fn judge_status(&self, status: &LLMKeyStatus, plan: &Plan) -> Result<(), String> {
        let key = self.key.as_ref().ok_or("there is no LLMKey")?;
        if status.observed_generation != key.metadata.generation
            || status.conditions.len() != ConditionType::ALL.len()
            || status.conditions.iter().any(|c| c.observed_generation != key.metadata.generation)
        {
            return Err("I11: a condition is missing or of another generation".into());
        }
        if status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
            let Some(target) = &self.target else { return Err("I11: Ready without a target".into()) };
            // While the answer to a write is lost, status is one version behind; it is never ahead of the ledger.
            let held = facts(&target.bytes);
            let record = self.ledger.as_ref().map(|l| &l.record);
            if !record.is_some_and(|r| r.versions.iter().any(|v| v.key.as_ref() == Some(&held))) {
                return Err("I11: Ready, and the target holds a key of no version".into());
            }
            let judged = key.spec.validation.mode == ValidationMode::Required
                && self.provider.answers.is_none()
                && self.provider.spreading.is_zero();
            if judged && !self.verdict(&target.bytes).accepts() {
                return Err("I11: Ready, and the provider refuses the key".into());
            }
        }
        for version in status.versions.iter().filter(|v| v.state == "Revoked") {
            if self.live_keys().any(|k| Some(&k.id) == version.provider_key_id.as_ref()) {
                return Err(format!("I11: version {} is called revoked and lives", version.version));
            }
        }
        let said = format!("{status:?} {plan:?}");
        let bytes = self.provider.keys.iter().map(|k| &k.bytes).chain(self.source.as_ref());
        let bytes = bytes.chain(self.pool.values());
        match bytes.into_iter().find(|bytes| bytes.len() > 8 && said.contains(*bytes)) {
            Some(_) => Err("I5: status or plan holds key material".into()),
            None => Ok(()),
        }
    }
}
