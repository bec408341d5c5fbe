//! Everything outside the operator: API server, provider and clock, in memory. It reads and writes as `observe.rs` and
//! `act.rs` do, and keeps the history that the invariants speak of. The planner's tests and the model share it.

mod judge;
mod lease;
mod making;
mod observe;
pub mod perform;
mod sentence;
mod slots;

pub use lease::Holder;
pub use making::Request;
pub use sentence::sentence;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api::{
    FINALIZER, GoDuration, LLMKey, ProviderType, ROTATE, Reason, RotationMode, RotationPolicySpec, Schedule,
    to_k8s,
};
use crate::controller::llm_key::model::{Env, Former, PolicyView};
use crate::controller::llm_key::views::Texts;
use crate::domain::evidence::Consumer;
use crate::domain::health::Verdict;
use crate::domain::lifecycle::VersionState;
use crate::domain::schedule;
use crate::domain::timings::Timings;
use crate::domain::turns::Turn;
use crate::domain::usage::{Reading, Thresholds};
use crate::ledger::{AccountRef, KeyFacts, Ledger, Record, Requester};
use crate::provider::MintKind;

pub const INSTALL: &str = "install-1";

pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

pub fn delta(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap()
}

/// A key that exists at the provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderKey {
    pub name: String,
    pub id: String,
    pub bytes: String,
    pub project: String,
    pub host: String,
    pub made: DateTime<Utc>,
    pub revoked: Option<DateTime<Utc>>,
    pub used: Option<DateTime<Utc>>,
}

/// The provider, with its faults.
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fault or ability")]
#[derive(Clone, Debug, Default)]
pub struct Provider {
    pub keys: Vec<ProviderKey>,
    /// What it says of keys that people supply.
    pub supplied: BTreeMap<String, Verdict>,
    /// It fails to make keys, and does not say whether it made one.
    pub full: bool,
    /// Projects in which it refuses to make keys.
    pub refuses: BTreeSet<String>,
    /// What it says of every key instead of the truth.
    pub answers: Option<Verdict>,
    /// Whether it or we choose the keys, or their ids.
    pub mint: MintKind,
    /// It can switch keys off.
    pub switches: bool,
    /// It tells which of its keys a supplied one is.
    pub matches: bool,
    /// Older supplied keys are ended there.
    pub ends_supplied: bool,
    /// Its account is for one LLMKey alone.
    pub for_one: bool,
    /// Ids of keys that are switched off.
    pub off: BTreeSet<String>,
    /// What each slot has, where there are slots.
    pub slots: BTreeMap<String, String>,
    /// New keys are refused for so long.
    pub spreading: Duration,
    /// Revoked keys work on for so long.
    pub lingering: Duration,
    /// New keys are missing from the list for so long.
    pub list_lag: Duration,
}

/// A target Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub owner: Option<String>,
    pub bytes: String,
    pub written: DateTime<Utc>,
    pub resource_version: u64,
    pub adoptable: bool,
}

/// What happened, for the invariants.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Names of mint attempts that ever stood in the ledger.
    pub names: BTreeSet<String>,
    /// Names that a mint was called with.
    pub minted: BTreeMap<String, usize>,
    /// Versions on which L4 was recorded, how often, and their fingerprints.
    pub retired: BTreeMap<i32, (usize, String)>,
    /// The newest version that was ever written to the target.
    pub published: i32,
    /// Restarts of workloads, by what they were marked with.
    pub restarts: BTreeMap<(String, String), usize>,
    /// Crashes and lost replies so far.
    pub faults: usize,
    /// Writes to the API server and the provider.
    pub writes: usize,
    /// Keys that were taken from a pool.
    pub taken: BTreeSet<String>,
    /// Secrets of a pool that were read.
    pub members_read: usize,
}

#[derive(Clone, Debug)]
pub struct World {
    pub now: DateTime<Utc>,
    pub timings: Timings,
    pub key: Option<LLMKey>,
    pub namespace_terminating: bool,
    pub policy: PolicyView,
    pub provider_problem: Option<(Reason, String)>,
    pub account_problem: Option<(Reason, String)>,
    pub project: String,
    /// Another host is another account.
    pub host: String,
    /// Name of the LLMProvider that the LLMKey refers to.
    pub llm_provider: String,
    pub source: Option<String>,
    pub ledger: Option<Ledger>,
    /// Fingerprints that other ledgers hold.
    pub elsewhere: BTreeSet<String>,
    pub target: Option<Target>,
    pub provider: Provider,
    /// Who uses the target.
    pub consumers: Vec<Consumer>,
    /// Another hand takes every restart back.
    pub restarts_are_reverted: bool,
    pub history: History,
    /// Replicas may be held up between what they read and what they write, so that evidence is judged by what the ledger and
    /// the provider say at the write, not by a target that a person may have taken away a moment before.
    pub concurrent: bool,
    pub count: u64,
    /// Edits of what the LLMKey refers to.
    pub edits: u64,
    /// Who put the value into the source Secret.
    pub supplied_by: Option<Requester>,
    /// Secrets of a pool: name and value.
    pub pool: BTreeMap<String, String>,
    /// Whether the policy has room for another rotation.
    pub turn: Turn,
    /// What the provider reported of keys, as it was last read.
    pub usage: Option<Reading>,
    /// Which LLMKey has the account for itself, where it is for one.
    pub holder: Option<Holder>,
}

/// Key material and object versions of one reconcile.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub source: Option<String>,
    pub minted: Option<String>,
    pub chosen: Option<String>,
    pub key_version: u64,
    pub target_version: Option<u64>,
    pub members: BTreeMap<String, String>,
}

pub fn facts(bytes: &str) -> KeyFacts {
    let digits = |text: &str| data_encoding::HEXLOWER.encode(&Sha256::digest(text));
    KeyFacts {
        fingerprint: digits(bytes),
        shown: digits(&format!("team-a/{bytes}"))[..12].to_owned(),
        last_four: bytes[bytes.len().saturating_sub(4)..].to_owned(),
    }
}

/// What is delivered: the key alone.
fn texts() -> Texts {
    Texts { data: BTreeMap::from([("OPENAI_API_KEY".into(), "$(KEY)".into())]), ..Texts::default() }
}

/// A policy without a schedule: one hour of overlap, half an hour of quiet.
pub fn by_hand() -> PolicyView {
    PolicyView {
        shown: Some("RotationPolicy/tests".into()),
        defaulted: false,
        schedule: None,
        problem: None,
        mode: RotationMode::Automatic,
        expiry_before: Some(hours(168)),
        replace_invalid: false,
        usage: Thresholds::default(),
        timeout: hours(1),
        overlap_minimum: hours(1),
        overlap_maximum: hours(168),
        consumers: true,
        manual: false,
        revoke_when_stuck: false,
        quiet_for: Duration::from_secs(1800),
        retry_attempts: 8,
        retain_versions: 3,
        retain_for: hours(720),
        spares: 0,
        max_concurrent: 10,
    }
}

/// A pool as a source; each member's Secret has its name.
pub fn pool(names: &[&str]) -> serde_json::Value {
    let member = |name: &&str| json!({"name": name, "secretRef": {"name": name, "key": "key"}});
    json!({"pool": {"members": names.iter().map(member).collect::<Vec<_>>()}})
}

/// The same with a schedule of so many hours, without jitter.
pub fn every(n: u64) -> PolicyView {
    let spec = RotationPolicySpec {
        schedule: Some(Schedule { interval: Some(GoDuration(hours(n))), ..Schedule::default() }),
        jitter: Some(GoDuration(Duration::ZERO)),
        ..RotationPolicySpec::default()
    };
    PolicyView { schedule: Some(schedule::parse(&spec).unwrap()), ..by_hand() }
}

impl World {
    /// An LLMKey that was just created, and nothing else.
    pub fn minting() -> Self {
        Self::with(json!({"providerRef": {"name": "openai"}, "source": {"mint": {}}}))
    }

    /// An LLMKey whose source Secret holds a good key.
    pub fn supplying(bytes: &str) -> Self {
        let mut world = Self::with(json!({
            "providerRef": {"name": "openai"}, "source": {"secretRef": {"name": "source", "key": "key"}},
        }));
        world.supply(bytes, Verdict::Valid);
        world
    }

    /// An LLMKey with a pool of these members, each with a good key.
    pub fn pooling(members: &[(&str, &str)]) -> Self {
        let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let mut world = Self::with(json!({"providerRef": {"name": "openai"}, "source": pool(&names)}));
        for (name, bytes) in members {
            world.fill(name, bytes, Verdict::Valid);
        }
        world
    }

    /// Puts a key into the Secret of a pool's member; the provider says so of it.
    pub fn fill(&mut self, member: &str, bytes: &str, verdict: Verdict) {
        self.pool.insert(member.to_owned(), bytes.to_owned());
        self.provider.supplied.insert(bytes.to_owned(), verdict);
    }

    fn with(spec: serde_json::Value) -> Self {
        let mut world = Self {
            now: at(0),
            timings: Timings::default(),
            key: None,
            namespace_terminating: false,
            policy: by_hand(),
            provider_problem: None,
            account_problem: None,
            project: "proj_1".into(),
            host: "api.openai.com".into(),
            llm_provider: "openai".into(),
            source: None,
            ledger: None,
            elsewhere: BTreeSet::new(),
            target: None,
            provider: Provider::default(),
            consumers: Vec::new(),
            restarts_are_reverted: false,
            history: History::default(),
            concurrent: false,
            count: 0,
            edits: 0,
            supplied_by: None,
            pool: BTreeMap::new(),
            turn: Turn::Now,
            usage: None,
            holder: None,
        };
        let mut spec = spec;
        spec["validation"] = json!({"interval": "12h"});
        world.create(&spec);
        world
    }

    pub fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Creates the LLMKey, as a new object.
    pub fn create(&mut self, spec: &serde_json::Value) {
        let n = self.next();
        let key = json!({
            "apiVersion": "llmkeys.dev/v1alpha1", "kind": "LLMKey",
            "metadata": {
                "name": "chat", "namespace": "team-a", "uid": format!("00000000-0000-4000-8000-{n:012}"),
                "generation": 1, "resourceVersion": n.to_string(),
                "creationTimestamp": crate::api::rfc3339(self.now),
            },
            "spec": spec,
        });
        self.key = Some(serde_json::from_value(key).unwrap());
    }

    /// Changes the LLMKey as a person does.
    pub fn edit(&mut self, change: impl FnOnce(&mut LLMKey)) {
        let n = self.next();
        if let Some(key) = &mut self.key {
            change(key);
            key.metadata.resource_version = Some(n.to_string());
            key.metadata.generation = key.metadata.generation.map(|g| g + 1);
        }
    }

    pub fn annotate(&mut self, name: &str, value: &str) {
        self.edit(|key| {
            key.metadata.annotations.get_or_insert_default().insert(name.to_owned(), value.to_owned());
        });
    }

    pub fn rotate(&mut self, token: &str) {
        self.annotate(ROTATE, token);
    }

    /// Puts a key into the source Secret; the provider says so of it.
    pub fn supply(&mut self, bytes: &str, verdict: Verdict) {
        self.source = Some(bytes.to_owned());
        self.provider.supplied.insert(bytes.to_owned(), verdict);
    }

    /// Deletes the LLMKey; it stays as long as it has our finalizer.
    pub fn delete(&mut self) {
        let now = to_k8s(self.now);
        self.edit(|key| key.metadata.deletion_timestamp = Some(now));
        self.collect();
    }

    /// What the API server does with a deleted object that nothing holds any more.
    pub fn collect(&mut self) {
        let gone = self.key.as_ref().is_some_and(|k| {
            k.metadata.deletion_timestamp.is_some()
                && k.metadata.finalizers.as_ref().is_none_or(|f| !f.iter().any(|f| f == FINALIZER))
        });
        if gone {
            self.key = None;
        }
    }

    /// The garbage collector deletes what a deleted LLMKey owned.
    pub fn collect_garbage(&mut self) {
        let uid = self.key.as_ref().and_then(|k| k.metadata.uid.clone());
        if self.target.as_ref().is_some_and(|t| t.owner.is_some() && t.owner != uid) {
            self.target = None;
        }
    }

    pub fn account(&self) -> Option<AccountRef> {
        let usable = self.provider_problem.is_none() && self.account_problem.is_none();
        usable.then(|| AccountRef {
            provider: self.llm_provider.clone(),
            r#type: ProviderType::OpenAI,
            host: self.host.clone(),
            project: self.project.clone(),
        })
    }

    /// Every other LLMProvider is there and works.
    fn former(&self) -> Option<Former> {
        let versions = self.ledger.as_ref().map(|l| &l.record.versions)?;
        let leaving =
            versions.iter().filter(|v| matches!(v.state, VersionState::Retiring | VersionState::Intent));
        let mut accounts = leaving.filter_map(|v| v.account.clone());
        let account = accounts.find(|a| a.provider != self.llm_provider)?;
        Some(Former { provider: account.provider.clone(), account: Ok(account) })
    }

    pub fn env(&mut self) -> Env {
        Env { now: self.now, timings: self.timings.clone(), install: INSTALL.into(), nonce: self.next() }
    }

    pub fn record(&self) -> &Record {
        &self.ledger.as_ref().expect("there is a ledger").record
    }

    pub fn bytes_of(record: &Record, number: i32) -> Option<String> {
        let sealed = record.version(number)?.sealed.as_ref()?;
        Some(String::from_utf8(sealed.ciphertext.clone()).unwrap())
    }

    pub fn live_keys(&self) -> impl Iterator<Item = &ProviderKey> {
        self.provider.keys.iter().filter(|k| k.revoked.is_none())
    }

    /// The same without those that another hand has made: these have no name here.
    pub fn ours(&self) -> impl Iterator<Item = &ProviderKey> {
        self.live_keys().filter(|k| !k.name.is_empty())
    }

    /// What the provider says of a key.
    pub fn verdict(&self, bytes: &str) -> Verdict {
        if let Some(answer) = self.provider.answers {
            return answer;
        }
        if let Some(verdict) = self.provider.supplied.get(bytes) {
            return *verdict;
        }
        let Some(key) = self.provider.keys.iter().find(|k| k.bytes == bytes) else {
            return Verdict::Rejected;
        };
        if self.provider.off.contains(&key.id) && key.revoked.is_none() {
            return Verdict::Disabled;
        }
        let spread = self.now >= key.made + delta(self.provider.spreading);
        let works = key.revoked.is_none_or(|at| self.now < at + delta(self.provider.lingering));
        if spread && works { Verdict::Valid } else { Verdict::Rejected }
    }
}

pub fn version_of(key: &LLMKey) -> u64 {
    key.metadata.resource_version.as_ref().and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// The version whose key the target holds, of those that it may hold.
fn carried(record: &Record, target: &Target) -> Option<i32> {
    let sealed = record.in_flight().filter(|v| v.sealed.is_some());
    sealed
        .into_iter()
        .chain(record.delivered())
        .chain(record.current())
        .chain(record.spare().filter(|v| v.sealed.is_some()))
        .map(|v| v.version)
        .find(|number| World::bytes_of(record, *number).as_ref() == Some(&target.bytes))
}
