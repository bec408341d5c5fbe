//! Every effect of a reconcile, one function for each. What it teaches goes back into the observation.

mod consumers;
mod lease;
mod pool;
mod provider;
mod silence;
mod slots;
mod supplied;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};

use super::fold::{Failure, Learned};
use super::memory::{Remember, Seen, newest};
use super::model::{Effect, LedgerView, Observed};
use super::observe::{open, owner_reference, unreadable, written_at};
use super::views::Texts;
use crate::api::{FINALIZER, KEY_LABEL, LLMKey, MANAGED_BY, MANAGED_BY_LABEL, Reason};
use crate::controller::context::Ctx;
use crate::crypto::{self, SecretBytes, SystemEntropy};
use crate::domain::backoff::Class;
use crate::domain::lifecycle::VersionState;
use crate::domain::names::ledger_name;
use crate::domain::template;
use crate::kube_ext::events::EventKind;
use crate::ledger::{Ledger, LedgerError, Record};
use crate::provider::{Account, Endpoint};
use crate::telemetry::metrics::Completion;

/// Key material and object versions of one reconcile. No `Debug`.
#[derive(Default)]
pub struct Held {
    /// The value of the source Secret.
    pub source: Option<SecretBytes>,
    /// Keys of versions.
    pub keys: BTreeMap<i32, SecretBytes>,
    /// The key that was just made.
    pub minted: Option<SecretBytes>,
    /// The key that was chosen for the next intent.
    pub chosen: Option<SecretBytes>,
    /// Version and uid of the target Secret.
    pub target: Option<(String, String)>,
    /// What the target is rendered with.
    pub texts: Texts,
    /// Where keys are checked.
    pub endpoint: Option<Endpoint>,
    /// What can make and revoke.
    pub account: Option<Arc<Account>>,
    /// The account of another LLMProvider, by its name, at which older keys are to be revoked.
    pub former: Option<(String, Arc<Account>)>,
    /// The watches are not to be trusted in this reconcile.
    pub look_again: bool,
    /// Keys of the pool's members that were read, by the member's name.
    pub members: BTreeMap<String, SecretBytes>,
}

/// Why an effect did not happen.
#[derive(Debug)]
pub enum NotDone {
    /// Another hand wrote first: look again, decide again.
    Changed,
    /// It failed; the next try waits.
    Failed(Failure),
    /// The API server cannot be reached, or this process may not work any more.
    Kube(Box<kube::Error>),
    /// This replica is not the leader any more.
    NotLeader,
}

impl From<LedgerError> for NotDone {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Conflict => Self::Changed,
            LedgerError::Kube(error) => Self::Kube(error),
            other => Self::Failed(Failure {
                reason: unreadable(&other),
                message: other.to_string(),
                class: Class::User,
                retry_after: None,
            }),
        }
    }
}

/// One LLMKey's effects.
pub struct Actor<'a> {
    /// Shared.
    pub ctx: &'a Ctx,
    /// The LLMKey; none for a ledger whose LLMKey is gone.
    pub key: Option<&'a LLMKey>,
    /// Key material.
    pub held: &'a mut Held,
    /// Object versions.
    pub remember: &'a mut Remember,
}

impl Actor<'_> {
    /// Carries one effect out.
    pub async fn act(&mut self, o: &Observed, effect: &Effect) -> Result<Learned, NotDone> {
        if !self.ctx.leader.is_leader() {
            return Err(NotDone::NotLeader);
        }
        match effect {
            Effect::SetFinalizer(on) => self.set_finalizer(*on).await,
            Effect::CreateLedger(record) => self.create_ledger(record).await,
            Effect::SwapLedger(record) => self.swap_ledger(o, record).await,
            Effect::DeleteLedger => self.delete_ledger(o).await,
            Effect::TakeLease => self.take_lease(o).await,
            Effect::ReturnLease => self.return_lease(o).await,
            Effect::Choose => self.choose(o),
            Effect::ReadSlots => self.read_slots(o).await,
            Effect::ListKeys => self.list_keys().await,
            Effect::LookUp { version } => self.look_up(o, *version).await,
            Effect::Mint { version } => self.mint(o, *version).await,
            Effect::FindStrays { project, below } => self.find_strays(o, project, *below).await,
            Effect::RevokeStray { project, id } => self.revoke_stray(o, project, id).await,
            Effect::Validate(subject) => self.validate(o, *subject).await,
            Effect::WriteTarget { version } => self.write_target(o, *version).await,
            Effect::DeleteTarget => self.delete_target(o).await,
            Effect::CheckShared { version } => self.check_shared(o, *version).await,
            Effect::ReadLastUse { version } => self.read_last_use(o, *version).await,
            Effect::LookAtConsumers { since } => Ok(self.look_at_consumers(o, *since).await),
            Effect::Restart(order) => self.restart(o, order).await,
            Effect::Switch { version, on } => self.switch(o, *version, *on).await,
            Effect::Match { version } => self.match_key(o, *version).await,
            Effect::Revoke { version } => self.revoke(o, *version).await,
            Effect::ConfirmRevoked { version } => self.confirm_revoked(o, *version).await,
            Effect::ReadMembers { members } => self.read_members(o, members).await,
            Effect::NoteReminder { .. } => Ok(Learned::Reminded),
            Effect::Announce { warning, reason, note } => {
                self.announce(*warning, *reason, note).await;
                Ok(Learned::Nothing)
            }
        }
    }

    async fn set_finalizer(&mut self, on: bool) -> Result<Learned, NotDone> {
        let Some(key) = self.key else { return Ok(Learned::Nothing) };
        let api: Api<PartialObjectMeta<LLMKey>> =
            Api::namespaced(self.ctx.client.clone(), &key.namespace().unwrap_or_default());
        // The whole list is written, so it must be the one that stands there: others have finalizers too.
        let found = match api.get_metadata(&key.name_any()).await {
            Ok(found) if found.uid() == key.uid() => found,
            Ok(_) => return Ok(Learned::Finalizer(on)),
            Err(error) if gone(&error) => return Ok(Learned::Finalizer(on)),
            Err(error) => return Err(conflict_or(error)),
        };
        let finalizers: Vec<String> = found
            .finalizers()
            .iter()
            .filter(|f| *f != FINALIZER)
            .cloned()
            .chain(on.then(|| FINALIZER.to_owned()))
            .collect();
        let patch = serde_json::json!({"metadata": {
            "resourceVersion": found.resource_version(), "uid": found.uid(), "finalizers": finalizers,
        }});
        match api.patch_metadata(&key.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(written) => {
                let seen = newest(self.remember.resource_version.as_deref(), key.resource_version());
                // What another hand wrote between our view and this is not in our view: no status made of it may go through.
                let ours = found.resource_version() == seen;
                self.remember.resource_version =
                    written.resource_version().filter(|_| ours).map(String::into_boxed_str);
                Ok(Learned::Finalizer(on))
            }
            Err(error) if gone(&error) => Ok(Learned::Finalizer(on)),
            Err(error) => {
                // Another hand wrote since, a deletion included: the watch shows what stands there now.
                self.remember.resource_version = None;
                Err(conflict_or(error))
            }
        }
    }

    async fn create_ledger(&mut self, record: &Record) -> Result<Learned, NotDone> {
        let record = self.sealed(record)?;
        let written = self.ctx.ledgers.create(&record).await;
        self.written(written)
    }

    async fn swap_ledger(&mut self, o: &Observed, record: &Record) -> Result<Learned, NotDone> {
        let LedgerView::Present(read) = &o.ledger else { return Err(NotDone::Changed) };
        self.open_once_more(read, record)?;
        let record = self.sealed(record)?;
        let written = self.ctx.ledgers.swap(read, &record).await;
        self.written(written)
    }

    async fn delete_ledger(&mut self, o: &Observed) -> Result<Learned, NotDone> {
        let LedgerView::Present(read) = &o.ledger else { return Ok(Learned::LedgerDeleted) };
        self.ctx.ledgers.delete(read).await?;
        self.remember.ledger = None;
        Ok(Learned::LedgerDeleted)
    }

    fn written(&mut self, written: Result<Ledger, LedgerError>) -> Result<Learned, NotDone> {
        if written.is_err() {
            // What was sealed for the write is no version's key now: another replica may have recorded another key.
            self.held.keys.clear();
        }
        Ok(self.wrote(written?))
    }

    fn wrote(&mut self, ledger: Ledger) -> Learned {
        self.remember.ledger =
            Some(Seen { resource_version: ledger.resource_version.as_str().into(), first_hand: true });
        Learned::Ledger(Box::new(ledger))
    }

    /// Opens the keys that a new version has from an older one: they are sealed anew for its number.
    fn open_once_more(&mut self, read: &Ledger, record: &Record) -> Result<(), NotDone> {
        let unsealed = record.versions.iter().filter(|v| v.sealed.is_none() && v.key_of.is_some());
        for key in unsealed.filter(|v| v.state.protects_key()).filter_map(|v| v.key.as_ref()) {
            let mut older = read.record.versions.iter().filter(|v| v.has_key(&key.fingerprint));
            if !older.any(|v| open(self.ctx, read, v.version, self.held)) {
                let message = "the sealed key does not open; restore the keyring that it was sealed with";
                return Err(NotDone::Failed(failure(
                    Reason::KeyringMissing,
                    message.to_owned(),
                    Class::User,
                )));
            }
        }
        Ok(())
    }

    /// Seals what the record names and does not carry yet, if it is held.
    fn sealed(&mut self, record: &Record) -> Result<Record, NotDone> {
        let mut record = record.clone();
        let unsealed: Vec<(i32, String)> = record
            .versions
            .iter()
            .filter(|v| v.sealed.is_none())
            .filter(|v| v.state.protects_key() || v.state == VersionState::Intent)
            .filter_map(|v| Some((v.version, v.key.as_ref()?.fingerprint.clone())))
            .collect();
        for (number, fingerprint) in unsealed {
            let held = [&self.held.source, &self.held.minted, &self.held.chosen]
                .into_iter()
                .flatten()
                .chain(self.held.keys.values())
                .chain(self.held.members.values())
                .find(|k| self.ctx.install.key.fingerprint(k).as_str() == fingerprint)
                .cloned()
                .ok_or(NotDone::Changed)?;
            let envelope =
                crypto::seal(&self.ctx.keyring.now(), &record.identity(number), &held, &mut SystemEntropy)
                    .map_err(|error| {
                        NotDone::Failed(failure(Reason::KeyringMissing, error.to_string(), Class::Transient))
                    })?;
            if let Some(version) = record.version_mut(number) {
                version.sealed = Some(envelope);
            }
            self.held.keys.insert(number, held);
        }
        Ok(record)
    }

    fn key_of(&mut self, o: &Observed, version: i32) -> Option<SecretBytes> {
        let LedgerView::Present(ledger) = &o.ledger else { return None };
        open(self.ctx, ledger, version, self.held);
        self.held.keys.get(&version).cloned()
    }

    async fn write_target(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let Some(owner) = self.key else { return Ok(Learned::Nothing) };
        let Some(key) = self.key_of(o, version) else {
            let message =
                "the sealed key does not open; restore the keyring that it was sealed with".to_owned();
            return Err(NotDone::Failed(failure(Reason::KeyringMissing, message, Class::User)));
        };
        let rendered = template::render(&self.held.texts.data, &key, &self.held.texts.values(version))
            .map_err(|error| {
                NotDone::Failed(failure(Reason::TargetTemplateInvalid, error.to_string(), Class::User))
            })?;
        let texts: Vec<SecretBytes> = rendered.values().cloned().collect();
        let name = &o.key.target_name;
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(o.key.namespace.clone()),
                labels: Some(BTreeMap::from([
                    (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
                    (KEY_LABEL.to_owned(), o.key.name.clone()),
                ])),
                owner_references: owner_reference(owner).map(|r| vec![r]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(rendered.into_iter().map(|(k, v)| (k, ByteString(v.expose().to_vec()))).collect()),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.ctx.client.clone(), &o.key.namespace);
        let params =
            PostParams { field_manager: Some(crate::api::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match &self.held.target {
            None => api.create(&params, &secret).await,
            Some((resource_version, uid)) => {
                secret.metadata.resource_version = Some(resource_version.clone());
                secret.metadata.uid = Some(uid.clone());
                api.replace(name, &params, &secret).await
            }
        };
        wipe(&mut secret);
        match written {
            Ok(mut written) => {
                wipe(&mut written);
                let resource_version = written.resource_version().unwrap_or_default();
                self.remember.target =
                    Some(Seen { resource_version: resource_version.as_str().into(), first_hand: true });
                self.held.target = Some((resource_version, written.uid().unwrap_or_default()));
                Ok(Learned::TargetWritten { version, since: written_at(&written) })
            }
            Err(error) => {
                let what = format!("Secret {name} could not be written");
                Err(Self::refused(silence::silenced(error, &texts), &what))
            }
        }
    }

    fn refused(error: kube::Error, what: &str) -> NotDone {
        match conflict_or(error) {
            NotDone::Kube(error) => match &*error {
                kube::Error::Api(status) if (400..600).contains(&status.code) => {
                    let said: String = status.message.chars().take(300).collect();
                    NotDone::Failed(failure(
                        Reason::RefusedByKubernetes,
                        format!("{what}: {said}"),
                        // A quota or a policy of the cluster: nothing that a watch would show.
                        Class::Transient,
                    ))
                }
                _ => NotDone::Kube(error),
            },
            other => other,
        }
    }

    async fn delete_target(&mut self, o: &Observed) -> Result<Learned, NotDone> {
        let Some((resource_version, uid)) = self.held.target.clone() else {
            return Ok(Learned::TargetDeleted);
        };
        let api: Api<Secret> = Api::namespaced(self.ctx.client.clone(), &o.key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid), resource_version: Some(resource_version) }),
            ..DeleteParams::default()
        };
        match api.delete(&o.key.target_name, &params).await {
            Ok(_) => {
                self.held.target = None;
                self.remember.target = None;
                Ok(Learned::TargetDeleted)
            }
            Err(error) if gone(&error) => Ok(Learned::TargetDeleted),
            Err(error) => Err(conflict_or(error)),
        }
    }

    async fn check_shared(&mut self, o: &Observed, version: i32) -> Result<Learned, NotDone> {
        let record = record(o)?;
        let own = ledger_name(&record.namespace, &record.name);
        let key = record.version(version).and_then(|v| v.key.as_ref()).ok_or(NotDone::Changed)?;
        let holders = self.ctx.ledgers.holders(&key.fingerprint).await?;
        let holder = holders.into_iter().find(|holder| holder.ledger != own).map(|holder| {
            tracing::warn!(
                namespace = record.namespace,
                name = record.name,
                version,
                ledger = holder.ledger,
                holder = holder.key.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
                "a key is not revoked: another LLMKey has the same"
            );
            match holder.key {
                // What other namespaces hold is told to administrators, in the log.
                Some((namespace, name)) if namespace == record.namespace => {
                    format!("LLMKey {namespace}/{name}")
                }
                Some(_) => "an LLMKey of another namespace".to_owned(),
                None => "a ledger that cannot be read".to_owned(),
            }
        });
        Ok(Learned::Shared { version, holder })
    }

    async fn announce(&self, warning: bool, reason: Reason, note: &str) {
        let Some(key) = self.key else {
            tracing::info!(reason = reason.as_str(), note, "without an LLMKey");
            return;
        };
        if reason == Reason::Rotated {
            self.ctx.metrics.rotated(Completion::Succeeded);
        }
        let kind = if warning { EventKind::Warning } else { EventKind::Normal };
        self.ctx.events.publish(&reference(key), kind, reason, note).await;
    }
}

/// The LLMKey as events name it.
pub fn reference(key: &LLMKey) -> ObjectReference {
    key.object_ref(&())
}

fn record(o: &Observed) -> Result<&Record, NotDone> {
    match &o.ledger {
        LedgerView::Present(ledger) => Ok(&ledger.record),
        _ => Err(NotDone::Changed),
    }
}

fn failure(reason: Reason, message: String, class: Class) -> Failure {
    Failure { reason, message, class, retry_after: None }
}

fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

fn conflict_or(error: kube::Error) -> NotDone {
    match &error {
        kube::Error::Api(status)
            if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
        {
            NotDone::Changed
        }
        _ => NotDone::Kube(Box::new(error)),
    }
}

/// The API's own type holds a copy of the key: it is wiped as far as it can be.
fn wipe(secret: &mut Secret) {
    for value in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        zeroize::Zeroize::zeroize(&mut value.0);
    }
}
