//! What tests see and switch: the same handle serves tests in the process and the control API.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    backend::Backend,
    credential::{Presented, digest, fingerprint},
    fault::{FaultReport, FaultRule},
    log::LogEntry,
    operation::Dialect,
    records::{Key, NewKey, Owner, Project},
    settings::{OwnerAccess, Settings},
    usage::KeyUse,
    world::Verdict,
};

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyState {
    /// Made, not yet accepted: the lag of new keys.
    Pending,
    /// Accepted.
    Live,
    /// Switched off, or blocked; not at OpenAI.
    Disabled,
    /// Past its expiry.
    Expired,
    /// Deleted, still accepted: the lag of deleted keys.
    Lingering,
    /// Deleted and refused.
    Deleted,
}

impl KeyState {
    /// Whether nobody deleted the key and it has not expired. A pending key counts, and one that is switched off: it exists.
    pub fn exists(self) -> bool {
        matches!(self, Self::Pending | Self::Live | Self::Disabled)
    }

    /// The word for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::Lingering => "lingering",
            Self::Deleted => "deleted",
        }
    }
}

/// A key as the sandbox knows it: never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// `key_…`; at OpenRouter and LiteLLM the hash; at Google what its maker chose.
    pub id: String,
    /// Its own name; a service account's first key is named "Secret Key".
    pub name: String,
    /// The project's id.
    pub project: String,
    /// Id of the service account that owns it; none for a key supplied by a person.
    pub service_account_id: Option<String>,
    /// Name of that service account.
    pub service_account_name: Option<String>,
    /// First twelve hexadecimal digits of the SHA-256 of the value.
    pub fingerprint: String,
    /// Last four characters of the value.
    pub last_four: String,
    /// Where it is in its life, at the time of the call.
    pub state: KeyState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last accepted on a data call.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A service account as the sandbox knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountRecord {
    /// `svc_acct_…`
    pub id: String,
    /// Its name.
    pub name: String,
    /// `member` or `none`.
    pub role: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A project with all that was ever in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectRecord {
    /// `proj_…`; of a workspace at OpenRouter, a UUID; `team_…` of a team at LiteLLM; of an account at Azure, or a project at Google, its name; of an IAM user, its name in lower
    /// case.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it is archived.
    pub archived: bool,
    /// Its service accounts, oldest first.
    pub service_accounts: Vec<AccountRecord>,
    /// Its keys, oldest first.
    pub keys: Vec<KeyRecord>,
}

/// The switches and the truth.
pub(super) struct Handle {
    pub(super) backend: Arc<Backend>,
}

impl Handle {
    pub(super) fn create_project(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_project(name, now)
    }

    pub(super) fn create_workspace(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_workspace(name, now)
    }

    pub(super) fn create_team(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_team(name, now)
    }

    pub(super) fn create_place(&self, dialect: Dialect, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_place(dialect, name, now)
    }

    pub(super) fn create_azure_account(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_azure_account(name, now)
    }

    pub(super) fn slot_values(&self, account: &str) -> BTreeMap<String, String> {
        self.backend.state().world.slot_values(account)
    }

    pub(super) fn renew_slot(&self, account: &str, slot: &str) -> bool {
        let now = self.backend.now();
        self.backend.state().world.renew(account, slot, now).is_some()
    }

    pub(super) fn expire_azure_tokens(&self) {
        self.backend.state().world.directory.expire();
    }

    pub(super) fn create_iam_user(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_iam_user(name, now)
    }

    pub(super) fn expire_aws_sessions(&self) {
        self.backend.state().world.keyholders.expire();
    }

    pub(super) fn create_google_project(&self, name: &str) -> String {
        let now = self.backend.now();
        self.backend.state().world.add_google_project(name, now)
    }

    pub(super) fn google_key_file(&self) -> Result<String, rcgen::Error> {
        self.backend.state().world.office.key_file()
    }

    pub(super) fn undelete_key(&self, project: &str, id: &str) -> bool {
        self.backend.state().world.undelete_by_id(project, id).is_some()
    }

    pub(super) fn expire_google_tokens(&self) {
        self.backend.state().world.office.expire();
    }

    pub(super) fn archive_project(&self, id: &str) -> bool {
        let now = self.backend.now();
        self.backend.state().world.archive_project(id, now)
    }

    pub(super) fn set_settings(&self, project: Option<&str>, settings: Settings) -> bool {
        self.backend.state().world.set_settings(project, settings)
    }

    pub(super) fn register_key(
        &self,
        value: &str,
        project: &str,
        name: &str,
        access: OwnerAccess,
    ) -> Option<String> {
        let now = self.backend.now();
        let mut state = self.backend.state();
        let index = state.world.project_index(project)?;
        let new = NewKey { value, name: name.to_owned(), owner: Owner::User, access, lifetime: None };
        let place = state.world.add_key(index, new, now)?;
        state.world.key_at(place).map(|key| key.id.clone())
    }

    pub(super) fn note_use(&self, project: &str, key: &str, used: KeyUse) -> bool {
        let now = self.backend.now();
        self.backend.state().world.note_use(project, key, used, now)
    }

    pub(super) fn withdraw_key(&self, value: &str) {
        let now = self.backend.now();
        self.backend.state().world.withdraw(value, now);
    }

    pub(super) fn accept_pattern(&self, prefix: &str, project: &str) -> bool {
        self.backend.state().world.accept_pattern(prefix, project)
    }

    pub(super) fn accepts(&self, value: &str) -> bool {
        let presented = Presented { digest: digest(value), value: Zeroizing::new(value.to_owned()) };
        let verdict = self.backend.state().world.judge(&presented, self.backend.now());
        matches!(verdict, Verdict::Key(_) | Verdict::Pattern(_))
    }

    pub(super) fn add_fault(&self, rule: FaultRule) -> u64 {
        self.backend.state().faults.add(rule)
    }

    pub(super) fn remove_fault(&self, id: u64) -> bool {
        let removed = self.backend.state().faults.remove(id);
        self.backend.faults_changed();
        removed
    }

    pub(super) fn clear_faults(&self, project: Option<&str>) {
        self.backend.state().faults.clear(project);
        self.backend.faults_changed();
    }

    pub(super) fn faults(&self) -> Vec<FaultReport> {
        self.backend.state().faults.reports()
    }

    pub(super) fn log(&self) -> Vec<LogEntry> {
        self.backend.state().log.after(0).cloned().collect()
    }

    pub(super) fn keys(&self, project: &str) -> Vec<KeyRecord> {
        let now = self.backend.now();
        let state = self.backend.state();
        let index = state.world.project_index(project);
        index.and_then(|index| state.world.projects().get(index)).map_or_else(Vec::new, |project| {
            project.keys.values().map(|key| key_record(project, key, now)).collect()
        })
    }

    pub(super) fn projects(&self) -> Vec<ProjectRecord> {
        let now = self.backend.now();
        self.backend.state().world.projects().iter().map(|project| project_record(project, now)).collect()
    }

    /// The newest entries of the log, newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<LogEntry> {
        self.backend.state().log.newest().take(count).cloned().collect()
    }
}

fn project_record(project: &Project, now: DateTime<Utc>) -> ProjectRecord {
    let account = |account: &super::records::Account| AccountRecord {
        id: account.id.clone(),
        name: account.name.clone(),
        role: account.role.to_owned(),
        created_at: account.created_at,
        deleted_at: account.deletion.map(|deletion| deletion.at),
    };
    ProjectRecord {
        id: project.id.clone(),
        name: project.name.clone(),
        archived: project.archived_at.is_some(),
        service_accounts: project.accounts.values().map(account).collect(),
        keys: project.keys.values().map(|key| key_record(project, key, now)).collect(),
    }
}

fn key_record(project: &Project, key: &Key, now: DateTime<Utc>) -> KeyRecord {
    let owner = project.owner_of(key);
    let state = match key.deletion {
        Some(_) if key.accepted(now) => KeyState::Lingering,
        Some(_) => KeyState::Deleted,
        None if key.expires_at.is_some_and(|expiry| expiry <= now) => KeyState::Expired,
        None if key.disabled => KeyState::Disabled,
        None if now < key.accepted_from => KeyState::Pending,
        None => KeyState::Live,
    };
    KeyRecord {
        id: key.id.clone(),
        name: key.name.clone(),
        project: project.id.clone(),
        service_account_id: owner.map(|account| account.id.clone()),
        service_account_name: owner.map(|account| account.name.clone()),
        fingerprint: fingerprint(&key.digest),
        last_four: key.last_four.clone(),
        state,
        created_at: key.created_at,
        last_used_at: key.last_used_at,
        expires_at: key.expires_at,
        deleted_at: key.deletion.map(|deletion| deletion.at),
    }
}
