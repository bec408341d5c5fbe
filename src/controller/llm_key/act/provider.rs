//! Effects at the provider.

use chrono::Timelike;
use kube::runtime::reflector::ObjectRef;

use super::{Actor, NotDone, failure, record};
use crate::api::{Reason, rfc3339};
use crate::controller::llm_key::decide::{strays, unnamed_strays};
use crate::controller::llm_key::fold::{Failure, Learned};
use crate::controller::llm_key::model::{Chosen, Minted, Observed, Subject};
use crate::controller::llm_key::observe::facts;
use crate::crypto::{SecretBytes, SystemEntropy};
use crate::domain::backoff::Class;
use crate::domain::health::Verdict;
use crate::domain::lifecycle::RotationReason;
use crate::ledger::{AccountId, KeyFacts, Slot, Version};
use crate::provider::{
    self, Account, CallError, Endpoint, ErrorClass, ListedKey, MintError, Named, ProviderKeyId, Validation,
};
use crate::telemetry::metrics::Completion;

/// A key's id and what may be known of it, or why there is none.
pub(super) type Made = Result<(ProviderKeyId, KeyFacts), MintError>;

impl Actor<'_> {
    /// The account in the given project of it: the one at hand, or the former one if versions there are at this project.
    fn account_in(&self, o: &Observed, project: &str) -> Result<Account, NotDone> {
        let former = self.held.former.as_ref().filter(|(provider, _)| {
            let at = |v: &Version| {
                v.account.as_ref().is_some_and(|a| a.provider == *provider && a.project == project)
            };
            record(o).is_ok_and(|r| r.versions.iter().any(at))
        });
        let account = former.map(|(_, account)| account).or(self.held.account.as_ref());
        account.ok_or_else(no_account)?.in_project(project).map_err(|_| NotDone::Changed)
    }

    /// The account that a version's key is at: the decision made sure that it is the one at hand but for the project.
    fn account_of(&self, o: &Observed, version: i32) -> Result<Account, NotDone> {
        let of = record(o)?.version(version).and_then(|v| v.account.as_ref()).ok_or(NotDone::Changed)?;
        // By its LLMProvider: two of them may have a project of the same name, or none.
        let former = self.held.former.as_ref().filter(|(provider, _)| *provider == of.provider);
        let account = former.map(|(_, account)| account).or(self.held.account.as_ref());
        account.ok_or_else(no_account)?.in_project(&of.project).map_err(|_| NotDone::Changed)
    }

    /// The keys in a project. One that the LLMProvider does not name any more may be gone: then it holds none.
    async fn list(&self, account: &Account) -> Result<Vec<ListedKey>, CallError> {
        let former = self.held.former.as_ref().map(|(_, former)| former);
        let named = [self.held.account.as_ref(), former]
            .into_iter()
            .flatten()
            .any(|named| named.project() == account.project());
        match self.ctx.providers.list(account).await {
            Err(error) if error.class == ErrorClass::NotFound && !named => Ok(Vec::new()),
            listed => listed,
        }
    }

    /// Chooses the next key. It is of no use before it is sealed in a ledger.
    pub(super) fn choose(&mut self, o: &Observed) -> Result<Learned, NotDone> {
        let account = self.held.account.as_ref().ok_or(NotDone::Changed)?;
        let chosen = provider::choose(account.endpoint().provider(), &mut SystemEntropy)
            .map_err(|error| {
                NotDone::Failed(failure(Reason::MintFailed, error.to_string(), Class::Transient))
            })?
            .ok_or(NotDone::Changed)?;
        let facts = facts(self.ctx, &o.key.namespace, &chosen.secret);
        self.held.chosen = Some(chosen.secret);
        Ok(Learned::Chosen(Chosen { id: chosen.id.as_str().to_owned(), facts }))
    }

    pub(super) async fn look_up(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let account = self.account_of(o, version)?;
        if let Some((of, slot)) = in_slot(o, version)? {
            return self.look_into_slot(o, &account, of, slot).await;
        }
        let id = Self::key_id(o, version)?;
        let found = if is_named(o, version)? {
            self.ctx.providers.named(&account, &id).await.map(|found| self.found(o, &id, found))
        } else {
            let there = self.ctx.providers.exists(&account, &id).await;
            there.map(|there| Ok(Learned::LookedUp(there == Some(true))))
        };
        found.unwrap_or_else(|error| {
            let message = format!("the key of version {version} could not be asked for: {error}");
            Err(NotDone::Failed(call_failure(o.waits_for_strays(), message, &error)))
        })
    }

    /// A key that an intent has named: found, it is as good as just made.
    fn found(&mut self, o: &Observed, id: &ProviderKeyId, found: Named) -> Result<Learned, NotDone> {
        let record = record(o)?;
        Ok(match found {
            Named::There(secret) => {
                let facts = facts(self.ctx, &record.namespace, &secret);
                self.held.minted = Some(secret);
                Learned::Minted(Minted { attempt: record.attempt, id: id.as_str().to_owned(), facts })
            }
            Named::Absent => Learned::LookedUp(false),
            Named::Deleted => Learned::Spent,
        })
    }

    /// The key that the intent has sealed or named, or one that the provider chooses.
    async fn make(&mut self, o: &Observed, version: i32, name: &str) -> Result<Made, NotDone> {
        let record = record(o)?;
        let account = self.account_of(o, version)?;
        if let Some((_, slot)) = in_slot(o, version)? {
            return self.renew(o, &account, slot).await;
        }
        let Some(known) = record.version(version).filter(|v| v.provider_key_id.is_some()) else {
            return Ok(self.ctx.providers.mint(&account, name).await.map(|made| {
                let facts = facts(self.ctx, &record.namespace, &made.secret);
                self.held.minted = Some(made.secret);
                (made.id, facts)
            }));
        };
        let Some(facts) = known.key.clone() else {
            let id = Self::key_id(o, version)?;
            return Ok(self.ctx.providers.mint_named(&account, &id).await.map(|secret| {
                let facts = facts(self.ctx, &record.namespace, &secret);
                self.held.minted = Some(secret);
                (id, facts)
            }));
        };
        let Some(key) = self.key_of(o, version) else {
            let message = "the sealed key does not open; restore the keyring that it was sealed with";
            return Err(NotDone::Failed(failure(Reason::KeyringMissing, message.to_owned(), Class::User)));
        };
        Ok(self.ctx.providers.mint_chosen(&account, name, &key).await.map(|id| (id, facts)))
    }

    pub(super) async fn mint(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let record = record(o)?;
        let known = record.version(version).is_some_and(|v| v.provider_key_id.is_some());
        let name = record.version(version).and_then(|v| v.mint_name.clone()).ok_or(NotDone::Changed)?;
        self.only_tenant(o, version).await?;
        if let Some(failure) = self.over_limit(o, version).await? {
            return Ok(Learned::MintRefused(failure));
        }
        match self.make(o, version, &name).await? {
            Ok((id, facts)) => {
                let id = id.as_str().to_owned();
                Ok(Learned::Minted(Minted { attempt: record.attempt, id, facts }))
            }
            Err(error) if error.call().class == ErrorClass::IdSpent => Ok(Learned::Spent),
            Err(error) => {
                if record.version(version).is_none_or(|v| v.reason != RotationReason::Spare) {
                    self.ctx.metrics.rotated(Completion::Failed);
                }
                let message = format!("version {version} could not be made: {error}");
                self.announce(true, Reason::MintFailed, &message).await;
                let mut failure = call_failure(Reason::MintFailed, message, error.call());
                if matches!(error, MintError::UnknownOutcome(_)) {
                    // The key may be there and not yet listed: looked for too early, it would be missed. One that is known by
                    // its id is asked for by that.
                    let lag = Some(self.ctx.timings.list_visibility_lag).filter(|_| !known);
                    failure.retry_after = failure.retry_after.max(lag);
                    return Err(NotDone::Failed(failure));
                }
                tracing::warn!(
                    namespace = record.namespace,
                    name = record.name,
                    reason = failure.reason.as_str(),
                    "{}",
                    failure.message
                );
                Ok(Learned::MintRefused(failure))
            }
        }
    }

    /// The LLMProvider's limit on keys within an hour is used up: as if the provider had refused.
    async fn over_limit(&self, o: &Observed, version: i32) -> Result<Option<Failure>, NotDone> {
        let record = record(o)?;
        let of = record.version(version).and_then(|v| v.account.as_ref()).ok_or(NotDone::Changed)?;
        let provider = self.ctx.stores.providers.get(&ObjectRef::new(&of.provider));
        let limits = provider.as_ref().and_then(|p| p.0.as_ref().ok()?.spec.limits);
        let Some(limit) = limits.and_then(|limits| limits.mints_per_hour) else { return Ok(None) };
        let key = format!("{}/{}", record.namespace, record.name);
        let most = usize::try_from(limit).unwrap_or_default();
        let Some(free) = self.ctx.take_mint(&AccountId::of(of), most, &key).await? else { return Ok(None) };
        let message = format!(
            "LLMProvider {} makes {limit} key(s) an hour; the next one for this LLMKey is made at {}",
            of.provider,
            rfc3339(free)
        );
        let retry_after = (free - self.ctx.clock.now()).to_std().ok();
        Ok(Some(Failure { reason: Reason::MintBudget, message, class: Class::Transient, retry_after }))
    }

    pub(super) async fn list_keys(&self) -> Result<Learned, NotDone> {
        let account = self.held.account.as_ref().ok_or(NotDone::Changed)?;
        let listed = self.list(account).await.map_err(|error| {
            let message = format!("the account's keys could not be listed: {error}");
            NotDone::Failed(call_failure(Reason::MintFailed, message, &error))
        })?;
        Ok(Learned::Listed(listed.into_iter().map(|key| key.id.as_str().to_owned()).collect()))
    }

    pub(super) async fn find_strays(
        &mut self,
        o: &Observed,
        project: &str,
        below: u32,
    ) -> Result<Learned, NotDone> {
        let account = self.account_in(o, project)?;
        let reason = o.waits_for_strays();
        let listed = self.list(&account).await.map_err(|error| {
            let message = format!("the account's keys could not be listed: {error}");
            NotDone::Failed(call_failure(reason, message, &error))
        })?;
        let record = record(o)?;
        if record.before(project).is_some() {
            let ids: Vec<String> = listed.into_iter().map(|key| key.id.as_str().to_owned()).collect();
            return Ok(Learned::Strays(unnamed_strays(o, record, project, &ids)));
        }
        let listed = listed.into_iter().map(|key| (key.id, key.name));
        Ok(Learned::Strays(strays(record, listed, below, o.key.revoke_all)))
    }

    pub(super) async fn revoke_stray(
        &mut self,
        o: &Observed,
        project: &str,
        id: &str,
    ) -> Result<Learned, NotDone> {
        let account = self.account_in(o, project)?;
        let key = ProviderKeyId::parse(id).map_err(|_| NotDone::Changed)?;
        self.only_tenant_in(o, project).await?;
        match self.ctx.providers.revoke(&account, &key).await {
            Ok(_) => {
                let note = format!("the key {id} of an attempt whose answer was lost is revoked");
                self.announce(false, Reason::StrayRevoked, &note).await;
                Ok(Learned::StrayRevoked(id.to_owned()))
            }
            Err(error) => {
                let message = format!("the key {id} of a lost attempt could not be revoked: {error}");
                Err(NotDone::Failed(call_failure(o.waits_for_strays(), message, &error)))
            }
        }
    }

    pub(super) async fn validate(&mut self, o: &Observed, subject: Subject) -> Result<Learned, NotDone> {
        let Some(endpoint) = self.held.endpoint.clone() else { return Err(NotDone::Changed) };
        let key = match subject {
            Subject::Source => self.held.source.clone(),
            Subject::Member(place) => Some(self.member_key(o, place)?),
            Subject::Candidate(version)
            | Subject::Delivered(version)
            | Subject::Spare(version)
            | Subject::Pinned(version) => self.key_of(o, version),
        };
        if let (None, Subject::Spare(version)) = (&key, subject) {
            // Nobody has it, so nothing is told of it but that it is not known to work.
            let facts = record(o)?.version(version).and_then(|v| v.key.as_ref()).ok_or(NotDone::Changed)?;
            let fingerprint = facts.shown.clone();
            return Ok(Learned::Answer { subject, fingerprint, verdict: Verdict::Unknown });
        }
        let Some(key) = key else {
            let message =
                "the sealed key does not open; restore the keyring that it was sealed with".to_owned();
            return Err(NotDone::Failed(failure(Reason::KeyringMissing, message, Class::User)));
        };
        let mut verdict = self.ask(&endpoint, &key).await.verdict;
        if verdict.accepts() && self.is_spreading(o, subject).await {
            verdict = Verdict::Unknown;
        }
        let fingerprint = self.ctx.install.key.status_fingerprint(&o.key.namespace, &key);
        Ok(Learned::Answer { subject, fingerprint, verdict })
    }

    async fn ask(&self, endpoint: &Endpoint, key: &SecretBytes) -> Validation {
        let begin = self.ctx.clock.monotonic();
        let answer = self.ctx.providers.validate(endpoint, key).await;
        let took = self.ctx.clock.monotonic().saturating_sub(begin);
        self.ctx.metrics.validated(endpoint.provider(), answer.verdict, took);
        if !answer.verdict.accepts() {
            tracing::info!(
                provider = endpoint.provider().as_str(),
                code = answer.code,
                status = answer.http_status,
                request_id = answer.request_id,
                "a key was not accepted"
            );
        }
        answer
    }

    fn key_id(o: &Observed, version: i32) -> Result<ProviderKeyId, NotDone> {
        let id =
            record(o)?.version(version).and_then(|v| v.provider_key_id.clone()).ok_or(NotDone::Changed)?;
        ProviderKeyId::parse(&id).map_err(|_| NotDone::Changed)
    }

    pub(super) async fn read_last_use(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let account = self.account_of(o, version)?;
        match self.ctx.providers.last_used(&account, &Self::key_id(o, version)?).await {
            Ok(answer) if answer.exists => {
                let second = chrono::Duration::seconds(1);
                let used = answer.at.map(|t| t.with_nanosecond(0).unwrap_or(t));
                Ok(Learned::LastUse {
                    version,
                    used: used.map(|t| t.checked_add_signed(second).unwrap_or(t)),
                })
            }
            Ok(_) => self.unknown_there(o, &account, version).await,
            Err(error) if error.class == ErrorClass::NotFound => {
                self.unknown_there(o, &account, version).await
            }
            Err(error) => {
                let message = format!("the last use of version {version} could not be read: {error}");
                Err(NotDone::Failed(call_failure(Reason::RevokeFailed, message, &error)))
            }
        }
    }

    /// The account does not know the key. If it is refused, somebody has deleted it, and nobody uses it. If not, this is not the
    /// account that it was made in, and its word on last use is worth nothing.
    async fn unknown_there(
        &mut self,
        o: &Observed,
        account: &Account,
        version: i32,
    ) -> Result<Learned, NotDone> {
        let answer = match self.key_of(o, version) {
            Some(key) => Some(self.ask(account.endpoint(), &key).await),
            None => None,
        };
        if answer.is_some_and(|answer| answer.verdict.refuses() && !answer.let_in) {
            return Ok(Learned::LastUse { version, used: None });
        }
        let message = format!(
            "the last use of version {version} is not known: the account at hand does not have its key, and the provider does not \
             refuse it; restore the admin credential of the account that it was made in"
        );
        Err(NotDone::Failed(failure(Reason::RevokeFailed, message, Class::User)))
    }

    pub(super) async fn revoke(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let account = self.account_of(o, version)?;
        self.only_tenant(o, version).await?;
        let ended = match in_slot(o, version)? {
            Some((of, slot)) => self.end_in_slot(&account, of, slot).await,
            None => self.ctx.providers.revoke(&account, &Self::key_id(o, version)?).await,
        };
        match ended {
            Ok(_) => Ok(Learned::RevokeAnswered(version)),
            Err(error) => {
                let message = format!("version {version} could not be revoked: {error}");
                self.announce(true, Reason::RevokeFailed, &message).await;
                Err(NotDone::Failed(call_failure(Reason::RevokeFailed, message, &error)))
            }
        }
    }

    /// A key that is gone is as off as can be, and no call makes it work again.
    pub(super) async fn switch(&mut self, o: &Observed, version: i32, on: bool) -> Result<Learned, NotDone> {
        let account = self.account_of(o, version)?;
        match self.ctx.providers.switch(&account, &Self::key_id(o, version)?, on).await {
            Ok(()) => Ok(Learned::Switched(version)),
            Err(error) if error.class == ErrorClass::NotFound => Ok(Learned::Switched(version)),
            Err(error) => {
                let way = if on { "on" } else { "off" };
                let message = format!("the key of version {version} could not be switched {way}: {error}");
                Err(NotDone::Failed(call_failure(Reason::SwitchFailed, message, &error)))
            }
        }
    }

    async fn is_there(&self, account: &Account, id: &ProviderKeyId) -> Result<bool, CallError> {
        match self.ctx.providers.exists(account, id).await? {
            Some(there) => Ok(there),
            None => Ok(self.list(account).await?.iter().any(|key| key.id.same_handle(id))),
        }
    }

    /// Gone from the list, and refused: only both together are a revocation.
    pub(super) async fn confirm_revoked(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let account = self.account_of(o, version)?;
        let there = match in_slot(o, version)? {
            Some((of, slot)) => self.is_in_slot(&account, of, slot).await,
            None => self.is_there(&account, &Self::key_id(o, version)?).await,
        };
        let there = there.map_err(|error| {
            let message = format!("the revocation of version {version} could not be confirmed: {error}");
            NotDone::Failed(call_failure(Reason::RevokeFailed, message, &error))
        })?;
        if there {
            return Ok(Learned::Confirmed { version, gone: false });
        }
        let gone = match self.key_of(o, version) {
            Some(key) => {
                let answer = self.ask(account.endpoint(), &key).await;
                answer.verdict.refuses() && !answer.let_in
            }
            // Its bytes cannot be had: the list is all the evidence there is.
            None => true,
        };
        if gone {
            self.close(o, &account, version).await?;
            let basis = record(o)?.version(version).and_then(|v| v.basis).map_or("none", |b| b.as_str());
            self.ctx.metrics.revoked(basis, Completion::Succeeded);
        }
        Ok(Learned::Confirmed { version, gone })
    }
}

/// Whether the version has an id and no key yet.
fn is_named(o: &Observed, version: i32) -> Result<bool, NotDone> {
    record(o)?.version(version).map(|v| v.key.is_none()).ok_or(NotDone::Changed)
}

fn no_account() -> NotDone {
    let message = "the account cannot be used".to_owned();
    NotDone::Failed(failure(Reason::AdminCredentialMissing, message, Class::User))
}

/// A version of an account with slots, and its slot.
fn in_slot(o: &Observed, version: i32) -> Result<Option<(&Version, &Slot)>, NotDone> {
    let version = record(o)?.version(version).ok_or(NotDone::Changed)?;
    Ok(version.slot.as_ref().map(|slot| (version, slot)))
}

pub(super) fn call_failure(reason: Reason, message: String, error: &CallError) -> Failure {
    error.log();
    let (reason, class) = match error.class {
        ErrorClass::CredentialInvalid | ErrorClass::Forbidden => {
            (Reason::AdminCredentialInvalid, Class::User)
        }
        ErrorClass::NotFound if reason == Reason::MintFailed => (Reason::ProjectNotFound, Class::User),
        ErrorClass::CustomKeysDisabled => (Reason::CustomKeysDisabled, Class::User),
        ErrorClass::RefusedAddress => (Reason::AddressRefused, Class::User),
        _ => (reason, Class::Transient),
    };
    Failure { reason, message, class, retry_after: error.retry_after() }
}
