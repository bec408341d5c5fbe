//! The history of rotations: what each was for, who asked for it, and how it went. It is part of the record and changes only
//! in writes that happen anyway; status shows it, and can be rebuilt from it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::record::{KeyFacts, Record, Version};
use crate::api::FIELD_MANAGER;
use crate::domain::backoff::Class;
use crate::domain::lifecycle::{Origin, RevocationBasis, RotationReason, VersionState};

/// Rotations that a record keeps at most; the oldest go first.
pub const MAX_ROTATIONS: usize = 20;

/// One rotation: the way of one version to its publishing, and what became of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// The version that it makes.
    pub version: i32,
    /// Why.
    pub reason: RotationReason,
    /// How the version gets its key.
    pub method: Method,
    /// Who asked for it; none if nobody did, or if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<Requester>,
    /// Its first record.
    pub started_at: DateTime<Utc>,
    /// When it ended; for one that failed, when its last try did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// How it stands.
    #[serde(default)]
    pub outcome: Outcome,
    /// Attempts to make a key that were begun.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// What may be shown of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ShownKey>,
    /// The version that was delivered when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Superseded>,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RotationFailure>,
    /// While a key is being made: when it may be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How a version gets its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Method {
    /// The operator makes it at the provider.
    Minted,
    /// A person supplies it.
    Supplied,
    /// It is the key of an earlier version.
    Reused,
}

impl Method {
    /// The method as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minted => "Minted",
            Self::Supplied => "Supplied",
            Self::Reused => "Reused",
        }
    }
}

/// How a rotation stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Under way.
    #[default]
    InProgress,
    /// The version was published.
    Succeeded,
    /// All tries that the policy allows have failed. It goes on being tried, at the longest intervals.
    Failed,
    /// The version was given up before it was published.
    GivenUp,
}

impl Outcome {
    /// The outcome as status shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "InProgress",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::GivenUp => "GivenUp",
        }
    }

    /// Nothing more comes of it.
    const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::GivenUp)
    }
}

/// Who changed what asked for a rotation: a field manager, as its client named itself. Any client can name itself anything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requester {
    /// The field manager.
    pub manager: String,
    /// When it last changed what it owns, by the API server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
}

/// What may be shown of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownKey {
    /// Its last four characters.
    pub last_four: String,
    /// Keyed hash within the namespace, 12 hex digits.
    pub fingerprint: String,
}

impl From<&KeyFacts> for ShownKey {
    fn from(facts: &KeyFacts) -> Self {
        Self { last_four: facts.last_four.clone(), fingerprint: facts.shown.clone() }
    }
}

/// The version that a rotation takes the place of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Superseded {
    /// Its number.
    pub version: i32,
    /// What may be shown of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<ShownKey>,
    /// What its revocation rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<RevocationBasis>,
    /// L5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A failure of a rotation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationFailure {
    /// What failed, as conditions tell it.
    pub reason: String,
    /// Who can make the next try succeed.
    pub class: Class,
    /// When.
    pub at: DateTime<Utc>,
}

/// What the next process must know of tries that failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Failures in a row, as far as they are on record.
    #[serde(default)]
    pub failures: u32,
    /// Not again before.
    pub not_before: DateTime<Utc>,
    /// When the try that is on record was begun, if its end is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<DateTime<Utc>>,
    /// What people had edited by then: if that is another now, nothing waits.
    pub edits: String,
    /// The last failure in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Rotation {
    /// The beginning of a version's way, if this write is that.
    fn begun(
        version: &Version,
        before: Option<&Record>,
        now: DateTime<Utc>,
        requester: impl Fn(&Version) -> Option<Requester>,
    ) -> Option<Self> {
        let was = before.and_then(|b| b.version(version.version));
        let delivered =
            was.is_some_and(|w| matches!(w.state, VersionState::Current | VersionState::Publishing));
        let begins = version.state.in_flight() || version.state == VersionState::Current && !delivered;
        // A first version that a person supplies takes nobody's place, and nothing can fail on its way. A spare is for a rotation
        // that has not begun.
        let spare = version.reason == RotationReason::Spare;
        if !begins || spare || version.reason == RotationReason::Initial && version.origin == Origin::Supplied
        {
            return None;
        }
        // What was kept ready before begins its way now.
        let waited = was.is_some_and(|w| !w.state.in_flight() || w.reason == RotationReason::Spare);
        let other = before.and_then(Record::delivered).filter(|v| v.version != version.version);
        let known = |key: &KeyFacts| {
            before.iter().flat_map(|b| &b.versions).any(|v| {
                v.version != version.version
                    && v.key.as_ref().is_some_and(|other| other.fingerprint == key.fingerprint)
            })
        };
        Some(Self {
            version: version.version,
            reason: version.reason,
            method: match version.origin {
                _ if version.key.as_ref().is_some_and(known) => Method::Reused,
                Origin::Minted => Method::Minted,
                Origin::Supplied => Method::Supplied,
            },
            requested_by: requester(version),
            started_at: if waited { now } else { version.created_at },
            ended_at: None,
            outcome: Outcome::InProgress,
            attempts: 0,
            key: None,
            from: other.map(|v| Superseded {
                version: v.version,
                key: v.key.as_ref().map(ShownKey::from),
                basis: None,
                revoked_at: None,
            }),
            failure: None,
            retry: None,
        })
    }

    /// Takes in where the versions stand.
    fn follow(&mut self, versions: &[Version], now: DateTime<Utc>) {
        if !self.outcome.is_final() {
            let version = versions.iter().find(|v| v.version == self.version);
            let published = version.and_then(|v| v.published_at);
            if let Some(key) = version.and_then(|v| v.key.as_ref()) {
                self.key = Some(key.into());
            }
            match version.map(|v| v.state) {
                Some(VersionState::Intent | VersionState::Spare) => {}
                Some(VersionState::Pending | VersionState::Publishing) => {
                    self.outcome = Outcome::InProgress;
                    self.ended_at = None;
                    self.retry = None;
                }
                Some(
                    VersionState::Current
                    | VersionState::Overlap
                    | VersionState::Retained
                    | VersionState::Republished,
                ) => {
                    self.end(Outcome::Succeeded, published.unwrap_or(now));
                }
                Some(VersionState::Retiring | VersionState::Revoked) => match published {
                    Some(at) => self.end(Outcome::Succeeded, at),
                    None => self.end(Outcome::GivenUp, now),
                },
                Some(VersionState::Abandoned) | None => self.end(Outcome::GivenUp, now),
            }
        }
        if self.outcome == Outcome::Succeeded
            && let Some(from) = &mut self.from
            && let Some(old) = versions.iter().find(|v| v.version == from.version)
        {
            from.basis = old.basis;
            from.revoked_at = old.revoked_at;
        }
    }

    fn end(&mut self, outcome: Outcome, at: DateTime<Utc>) {
        self.outcome = outcome;
        self.ended_at = Some(at);
        self.retry = None;
    }

    /// Who asked for it, in words.
    pub fn asked_by(&self) -> String {
        use RotationReason::{Initial, Invalid, Replaced, Schedule, Usage};
        match (&self.requested_by, self.reason) {
            (Some(requester), _) => format!("{} (unverified)", requester.manager),
            (None, Initial | Schedule | Replaced | Invalid | Usage) => FIELD_MANAGER.to_owned(),
            (None, _) => "unknown".to_owned(),
        }
    }
}

impl Record {
    /// The rotation that makes, or made, a version.
    pub fn rotation(&self, version: i32) -> Option<&Rotation> {
        self.rotations.iter().find(|r| r.version == version)
    }

    /// Takes the history along: `before` is the record that this one takes the place of.
    pub fn follow_rotations(
        &mut self,
        before: Option<&Self>,
        now: DateTime<Utc>,
        requester: impl Fn(&Version) -> Option<Requester>,
    ) {
        let begun: Vec<Rotation> = self
            .versions
            .iter()
            .filter(|v| self.rotation(v.version).is_none())
            .filter_map(|v| Rotation::begun(v, before, now, &requester))
            .collect();
        self.rotations.extend(begun);
        for rotation in &mut self.rotations {
            rotation.follow(&self.versions, now);
        }
        let surplus = self.rotations.len().saturating_sub(MAX_ROTATIONS);
        self.rotations.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{at, record, version};
    use super::*;

    fn nobody(_: &Version) -> Option<Requester> {
        None
    }

    fn next(before: &Record, change: impl FnOnce(&mut Record)) -> Record {
        let mut next = before.clone();
        change(&mut next);
        next.follow_rotations(Some(before), at(1000), nobody);
        next
    }

    fn begun(number: i32, state: VersionState, origin: Origin, reason: RotationReason) -> Version {
        Version::begun(number, state, origin, reason, at(500))
    }

    #[test]
    fn a_rotation_is_followed_from_its_intent_to_the_revocation_of_the_one_before() {
        let first = record(vec![version(1, VersionState::Current, Origin::Minted)]);
        let schedule = begun(2, VersionState::Intent, Origin::Minted, RotationReason::Schedule);
        let intent = next(&first, |r| r.versions.push(schedule));
        let [rotation] = &intent.rotations[..] else { panic!("{:?}", intent.rotations) };
        assert_eq!(
            (rotation.version, rotation.outcome, rotation.started_at),
            (2, Outcome::InProgress, at(500))
        );
        assert_eq!((rotation.method, rotation.asked_by().as_str()), (Method::Minted, FIELD_MANAGER));
        let from = rotation.from.as_ref().unwrap();
        let shown = ShownKey { last_four: "WXYZ".into(), fingerprint: format!("{:012}", 1) };
        assert_eq!((from.version, from.key.as_ref()), (1, Some(&shown)));

        let published = next(&intent, |r| {
            assert!(r.advance(2, VersionState::Pending) && r.advance(2, VersionState::Current));
            assert!(r.advance(1, VersionState::Overlap));
            r.version_mut(2).unwrap().published_at = Some(at(700));
            r.version_mut(2).unwrap().key = version(2, VersionState::Current, Origin::Minted).key;
        });
        let rotation = published.rotation(2).unwrap();
        assert_eq!((rotation.outcome, rotation.ended_at), (Outcome::Succeeded, Some(at(700))));
        assert_eq!(rotation.key.as_ref().unwrap().fingerprint, format!("{:012}", 2));
        assert_eq!(rotation.from.as_ref().unwrap().basis, None);

        let revoked = next(&published, |r| {
            assert!(r.advance(1, VersionState::Retiring) && r.advance(1, VersionState::Revoked));
            let old = r.version_mut(1).unwrap();
            old.basis = Some(RevocationBasis::ConsumersProven);
            old.revoked_at = Some(at(900));
        });
        let from = revoked.rotation(2).unwrap().from.clone().unwrap();
        assert_eq!((from.basis, from.revoked_at), (Some(RevocationBasis::ConsumersProven), Some(at(900))));
        let text = serde_json::to_string(&revoked.rotations).unwrap();
        assert!(!text.contains(&format!("{:064}", 2)), "the fingerprint over the whole install stays out");
        assert!(text.len() < 600, "{} bytes: {text}", text.len());
        assert_eq!(serde_json::from_str::<Vec<Rotation>>(&text).unwrap(), revoked.rotations);
    }

    #[test]
    fn what_was_never_published_was_given_up() {
        let first = record(vec![version(1, VersionState::Current, Origin::Minted)]);
        for (on_its_way, end) in
            [(VersionState::Intent, VersionState::Abandoned), (VersionState::Pending, VersionState::Retiring)]
        {
            let asked = begun(2, on_its_way, Origin::Minted, RotationReason::Requested);
            let begun = next(&first, |r| r.versions.push(asked));
            assert_eq!(begun.rotation(2).unwrap().asked_by(), "unknown");
            let given_up = next(&begun, |r| assert!(r.advance(2, end)));
            let rotation = given_up.rotation(2).unwrap();
            assert_eq!((rotation.outcome, rotation.ended_at), (Outcome::GivenUp, Some(at(1000))), "{end:?}");
        }
    }

    #[test]
    fn a_value_that_comes_back_is_a_key_reused() {
        let first = record(vec![
            version(1, VersionState::Retained, Origin::Supplied),
            version(2, VersionState::Current, Origin::Supplied),
        ]);
        let back = Version {
            key: first.versions[0].key.clone(),
            ..begun(3, VersionState::Publishing, Origin::Supplied, RotationReason::SourceChanged)
        };
        let next = next(&first, |r| r.versions.push(back));
        assert_eq!(next.rotation(3).unwrap().method, Method::Reused);
        assert_eq!(next.rotation(3).unwrap().from.as_ref().unwrap().version, 2);
    }

    #[test]
    fn a_first_version_that_was_supplied_is_no_rotation_nor_is_what_an_earlier_program_left() {
        let mut first = record(Vec::new());
        first.versions.push(begun(1, VersionState::Publishing, Origin::Supplied, RotationReason::Initial));
        first.follow_rotations(None, at(1000), nobody);
        assert!(first.rotations.is_empty());
        let old = record(vec![version(1, VersionState::Current, Origin::Minted)]);
        assert!(next(&old, |r| r.handled_rotate = Some("1".into())).rotations.is_empty());
        let on_its_way =
            record(vec![begun(1, VersionState::Pending, Origin::Minted, RotationReason::Initial)]);
        let followed = next(&on_its_way, |r| assert!(r.advance(1, VersionState::Current)));
        assert_eq!(followed.rotation(1).unwrap().outcome, Outcome::Succeeded);
    }

    #[test]
    fn a_record_of_an_earlier_program_has_no_history_and_stays_as_it_is() {
        let old = record(vec![version(1, VersionState::Current, Origin::Minted)]);
        let text = serde_json::to_value(&old).unwrap();
        assert!(text.get("rotations").is_none());
        assert_eq!(serde_json::from_value::<Record>(text).unwrap(), old);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut record = record(Vec::new());
        for number in 1..=30 {
            let reason = RotationReason::Schedule;
            record.versions.push(begun(number, VersionState::Intent, Origin::Minted, reason));
            record.follow_rotations(None, at(1000), nobody);
            assert!(record.advance(number, VersionState::Abandoned));
        }
        assert_eq!(record.rotations.len(), MAX_ROTATIONS);
        assert_eq!(record.rotations.first().map(|r| r.version), Some(11));
    }
}
