//! The provider's state: projects, service accounts and keys, and the rules that decide on a key.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::HEXLOWER;

use super::{
    anthropic::hint,
    aws::Keyholders,
    azure::{Directory, Slot},
    credential::{self, Digest, Mint, Presented},
    google::ApiKey,
    google_office::Office,
    litellm::NO_TEAM,
    operation::Dialect,
    records::{Account, Deletion, Key, KeyPlace, NewKey, Owner, Project},
    settings::Settings,
    usage::Uses,
};

/// Every key that begins with `prefix` is a key of `project`.
struct Pattern {
    prefix: String,
    project: usize,
}

/// What the provider thinks of a presented token.
pub(super) enum Verdict {
    /// The credential that manages keys at the dialect's API.
    Admin(Dialect),
    /// A key that is accepted.
    Key(KeyPlace),
    /// Accepted by a pattern, as a key of the project with this index.
    Pattern(usize),
    /// Not accepted.
    Unknown,
}

/// Everything the provider knows.
pub(super) struct World {
    pub(super) mint: Mint,
    admin: Digest,
    management: Digest,
    master: Digest,
    /// Who else may manage keys, and at whose API.
    pub(super) officers: HashMap<Digest, Dialect>,
    pub(super) directory: Directory,
    pub(super) office: Office,
    pub(super) keyholders: Keyholders,
    projects: Vec<Project>,
    by_id: HashMap<String, usize>,
    by_digest: HashMap<Digest, KeyPlace>,
    patterns: Vec<Pattern>,
    refused: HashSet<Digest>,
    settings: Settings,
    ordinal: u64,
}

impl World {
    /// An organization without projects.
    pub(super) fn new(
        mint: Mint,
        admin_key: &str,
        management_key: &str,
        master_key: &str,
        azure_secret: &str,
        aws_secret: &str,
    ) -> Self {
        Self {
            mint,
            admin: credential::digest(admin_key),
            management: credential::digest(management_key),
            master: credential::digest(master_key),
            officers: HashMap::new(),
            directory: Directory::new(azure_secret),
            office: Office::default(),
            keyholders: Keyholders::new(aws_secret),
            projects: Vec::new(),
            by_id: HashMap::new(),
            by_digest: HashMap::new(),
            patterns: Vec::new(),
            refused: HashSet::new(),
            settings: Settings::default(),
            ordinal: 0,
        }
    }

    /// All projects, oldest first.
    pub(super) fn projects(&self) -> &[Project] {
        &self.projects
    }

    /// The index of a project.
    pub(super) fn project_index(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The index of a project or workspace, if the API spoken knows it.
    pub(super) fn index_in(&self, dialect: Dialect, id: &str) -> Option<usize> {
        self.project_index(id).filter(|index| self.speaks(*index, dialect))
    }

    /// Whether what is there belongs to the API spoken.
    pub(super) fn speaks(&self, index: usize, dialect: Dialect) -> bool {
        self.projects.get(index).is_some_and(|project| project.dialect == dialect)
    }

    /// The key at a place, to be changed.
    pub(super) fn key_mut(&mut self, place: KeyPlace) -> Option<&mut Key> {
        self.projects.get_mut(place.project)?.keys.get_mut(&place.ordinal)
    }

    /// The key at a place.
    pub(super) fn key_at(&self, place: KeyPlace) -> Option<&Key> {
        self.projects.get(place.project)?.keys.get(&place.ordinal)
    }

    /// The switches that hold for a project, or those of the sandbox.
    pub(super) fn settings(&self, project: Option<usize>) -> &Settings {
        project
            .and_then(|index| self.projects.get(index))
            .and_then(|project| project.settings.as_ref())
            .unwrap_or(&self.settings)
    }

    /// Sets the switches of one project, or those of all projects without own ones. False: no such project.
    pub(super) fn set_settings(&mut self, project: Option<&str>, settings: Settings) -> bool {
        let Some(id) = project else {
            self.settings = settings;
            return true;
        };
        let Some(project) = self.by_id.get(id).and_then(|index| self.projects.get_mut(*index)) else {
            return false;
        };
        project.settings = Some(settings);
        true
    }

    /// Makes a project and returns its id.
    pub(super) fn add_project(&mut self, name: &str, now: DateTime<Utc>) -> String {
        let id = self.mint.id("proj_");
        self.add(id, Dialect::OpenAI, name, now)
    }

    /// Makes a workspace and returns its id. The first one is the default one.
    pub(super) fn add_workspace(&mut self, name: &str, now: DateTime<Utc>) -> String {
        let id = self.mint.uuid();
        self.add(id, Dialect::OpenRouter, name, now)
    }

    /// Makes a team and returns its id; with the first one, the place of keys without a team.
    pub(super) fn add_team(&mut self, name: &str, now: DateTime<Utc>) -> String {
        if self.project_index(NO_TEAM).is_none() {
            self.add(NO_TEAM.to_owned(), Dialect::LiteLLM, "no team", now);
        }
        let id = self.mint.id("team_");
        self.add(id, Dialect::LiteLLM, name, now)
    }

    pub(super) fn slots_mut(&mut self, project: usize) -> Option<&mut BTreeMap<String, Slot>> {
        self.projects.get_mut(project).map(|project| &mut project.slots)
    }

    pub(super) fn api_keys_mut(&mut self, project: usize) -> Option<&mut BTreeMap<u64, ApiKey>> {
        self.projects.get_mut(project).map(|project| &mut project.api_keys)
    }

    pub(super) fn add(&mut self, id: String, dialect: Dialect, name: &str, now: DateTime<Utc>) -> String {
        self.by_id.insert(id.clone(), self.projects.len());
        self.projects.push(Project {
            id: id.clone(),
            dialect,
            name: name.to_owned(),
            created_at: now,
            archived_at: None,
            settings: None,
            accounts: BTreeMap::new(),
            keys: BTreeMap::new(),
            ordinals: HashMap::new(),
            slots: BTreeMap::new(),
            api_keys: BTreeMap::new(),
        });
        id
    }

    /// Archives a project: its keys stop working. False: no such project.
    pub(super) fn archive_project(&mut self, id: &str, now: DateTime<Utc>) -> bool {
        let Some(project) = self.by_id.get(id).and_then(|index| self.projects.get_mut(*index)) else {
            return false;
        };
        project.archived_at.get_or_insert(now);
        true
    }

    /// What the provider thinks of a token at `now`.
    pub(super) fn judge(&self, presented: &Presented, now: DateTime<Utc>) -> Verdict {
        if presented.digest == self.admin {
            return Verdict::Admin(Dialect::OpenAI);
        }
        if presented.digest == self.management {
            return Verdict::Admin(Dialect::OpenRouter);
        }
        if presented.digest == self.master {
            return Verdict::Admin(Dialect::LiteLLM);
        }
        if let Some(dialect) = self.officers.get(&presented.digest) {
            return Verdict::Admin(*dialect);
        }
        if let Some(place) = self.by_digest.get(&presented.digest) {
            let archived =
                self.projects.get(place.project).is_none_or(|project| project.archived_at.is_some());
            let accepted = self.key_at(*place).is_some_and(|key| key.accepted(now));
            return if accepted && !archived { Verdict::Key(*place) } else { Verdict::Unknown };
        }
        if self.refused.contains(&presented.digest) {
            return Verdict::Unknown;
        }
        self.patterns
            .iter()
            .find(|pattern| presented.value.starts_with(&pattern.prefix))
            .map_or(Verdict::Unknown, |pattern| Verdict::Pattern(pattern.project))
    }

    /// Where the key with this digest is, whatever its state.
    pub(super) fn place(&self, digest: &Digest) -> Option<KeyPlace> {
        self.by_digest.get(digest).copied()
    }

    /// Notes a use of a key.
    pub(super) fn touch(&mut self, place: KeyPlace, now: DateTime<Utc>) {
        let key =
            self.projects.get_mut(place.project).and_then(|project| project.keys.get_mut(&place.ordinal));
        if let Some(key) = key {
            key.last_used_at = Some(now);
        }
    }

    fn next_ordinal(&mut self) -> u64 {
        self.ordinal += 1;
        self.ordinal
    }

    /// Makes a service account and returns its ordinal.
    pub(super) fn add_account(
        &mut self,
        project: usize,
        name: &str,
        role: &'static str,
        now: DateTime<Utc>,
    ) -> Option<u64> {
        let listed_from = now + millis(self.settings(Some(project)).list_lag_millis);
        let (id, ordinal) = (self.mint.id("svc_acct_"), self.next_ordinal());
        let project = self.projects.get_mut(project)?;
        project.ordinals.insert(id.clone(), ordinal);
        let name = name.to_owned();
        project
            .accounts
            .insert(ordinal, Account { id, name, role, created_at: now, listed_from, deletion: None });
        Some(ordinal)
    }

    /// Makes a key and returns its place.
    pub(super) fn add_key(
        &mut self,
        project: usize,
        new: NewKey<'_>,
        now: DateTime<Utc>,
    ) -> Option<KeyPlace> {
        let settings = self.settings(Some(project));
        let accepted_from = now + millis(settings.new_key_lag_millis);
        let listed_from = now + millis(settings.list_lag_millis);
        let digest = credential::digest(new.value);
        let id = match self.projects.get(project)?.dialect {
            Dialect::OpenAI | Dialect::Azure => self.mint.id("key_"),
            Dialect::OpenRouter | Dialect::LiteLLM => HEXLOWER.encode(&digest),
            Dialect::Google => new.name.clone(),
            Dialect::Bedrock => self.mint.id("ACCA").to_ascii_uppercase(),
            Dialect::Anthropic => self.mint.id("apikey_"),
            Dialect::Xai | Dialect::Mistral => self.mint.uuid(),
        };
        let hinted = self.speaks(project, Dialect::Anthropic);
        let ordinal = self.next_ordinal();
        let place = KeyPlace { project, ordinal };
        let project = self.projects.get_mut(project)?;
        project.ordinals.insert(id.clone(), ordinal);
        project.keys.insert(
            ordinal,
            Key {
                id,
                name: new.name,
                digest,
                redacted: if hinted { hint(new.value) } else { credential::redacted(new.value) },
                last_four: credential::last_four(new.value),
                owner: new.owner,
                access: new.access,
                created_at: now,
                expires_at: new.lifetime.and_then(|lifetime| now.checked_add_signed(lifetime)),
                last_used_at: None,
                uses: Uses::default(),
                budget_duration: None,
                disabled: false,
                models_only: false,
                updated_at: None,
                accepted_from,
                listed_from,
                deletion: None,
            },
        );
        self.by_digest.insert(digest, place);
        self.refused.remove(&digest);
        Some(place)
    }

    /// Deletes a service account and its keys; returns the ids of the keys that died, or none if there is no
    /// such account.
    pub(super) fn delete_account(
        &mut self,
        project: usize,
        id: &str,
        now: DateTime<Utc>,
    ) -> Option<Vec<String>> {
        let deletion = self.deletion(project, now);
        let project = self.projects.get_mut(project)?;
        let ordinal = project.ordinal(id)?;
        let account = project.accounts.get_mut(&ordinal).filter(|account| account.deletion.is_none())?;
        account.deletion = Some(deletion);
        let mut died = Vec::new();
        for key in project.keys.values_mut() {
            if key.owner == Owner::ServiceAccount(ordinal) && key.deletion.is_none() {
                key.deletion = Some(deletion);
                died.push(key.id.clone());
            }
        }
        Some(died)
    }

    /// Deletes a key. False: it is gone already.
    pub(super) fn delete_key(&mut self, place: KeyPlace, now: DateTime<Utc>) -> bool {
        let deletion = self.deletion(place.project, now);
        let key =
            self.projects.get_mut(place.project).and_then(|project| project.keys.get_mut(&place.ordinal));
        let Some(key) = key.filter(|key| key.deletion.is_none()) else {
            return false;
        };
        key.deletion = Some(deletion);
        true
    }

    fn deletion(&self, project: usize, now: DateTime<Utc>) -> Deletion {
        let settings = self.settings(Some(project));
        Deletion {
            at: now,
            accepted_until: now + millis(settings.deleted_key_lag_millis),
            listed_until: now + millis(settings.unlist_lag_millis),
        }
    }

    /// From now on every value that begins with `prefix` is accepted as a key of the project.
    pub(super) fn accept_pattern(&mut self, prefix: &str, project: &str) -> bool {
        let Some(project) = self.project_index(project) else {
            return false;
        };
        self.patterns.push(Pattern { prefix: prefix.to_owned(), project });
        true
    }

    /// Withdraws a value: a known key is deleted, any other value is refused even where a pattern accepts it.
    pub(super) fn withdraw(&mut self, value: &str, now: DateTime<Utc>) {
        let digest = credential::digest(value);
        match self.place(&digest) {
            Some(place) => {
                self.delete_key(place, now);
            }
            None => {
                self.refused.insert(digest);
            }
        }
    }
}

fn millis(count: u32) -> TimeDelta {
    TimeDelta::milliseconds(i64::from(count))
}

#[cfg(test)]
mod tests;
