//! The stories that are disturbed: what they are called, and how each ends.

use std::time::Duration;

use serde_json::Value;

use super::effect::Kind;

/// How long the provider answers nothing but 503 in S14.
pub const OUTAGE: Duration = Duration::from_secs(4);

/// A story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scenario {
    /// S1.
    CreateMinted,
    /// S1, supplied.
    CreateSupplied,
    /// S1, at a provider that lets the operator choose the key.
    CreateChosen,
    /// S2 and S3, by a person's word.
    Rotate,
    /// S2, by the policy's schedule.
    Schedule,
    /// S2, at a provider that lets the operator choose the key.
    RotateChosen,
    /// S4, all keys.
    RevokeAll,
    /// S4, one version.
    RevokeVersion,
    /// S5.
    DeleteKey,
    /// S6.
    DeleteNamespace,
    /// S7, what is delivered.
    ChangeTarget,
    /// S7, where keys are made.
    ChangeProject,
    /// S8, deleted.
    LoseTarget,
    /// S8, edited.
    OverwriteTarget,
    /// S9.
    LoseKey,
    /// S10.
    RenewKeyring,
    /// S11.
    EditPolicy,
    /// S12.
    Upgrade,
    /// S13.
    RestoreLedger,
    /// S13, and a person says how to go on.
    Acknowledge,
    /// S14.
    Outage,
    /// S15.
    BarePods,
}

impl Scenario {
    /// All.
    pub const ALL: [Self; 22] = [
        Self::CreateMinted,
        Self::CreateSupplied,
        Self::CreateChosen,
        Self::Rotate,
        Self::Schedule,
        Self::RotateChosen,
        Self::RevokeAll,
        Self::RevokeVersion,
        Self::DeleteKey,
        Self::DeleteNamespace,
        Self::ChangeTarget,
        Self::ChangeProject,
        Self::LoseTarget,
        Self::OverwriteTarget,
        Self::LoseKey,
        Self::RenewKeyring,
        Self::EditPolicy,
        Self::Upgrade,
        Self::RestoreLedger,
        Self::Acknowledge,
        Self::Outage,
        Self::BarePods,
    ];

    /// The first part of a cell's name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::CreateMinted => "S1",
            Self::CreateSupplied => "S1s",
            Self::CreateChosen => "S1c",
            Self::Rotate => "S2",
            Self::Schedule => "S2s",
            Self::RotateChosen => "S2c",
            Self::RevokeAll => "S4",
            Self::RevokeVersion => "S4v",
            Self::DeleteKey => "S5",
            Self::DeleteNamespace => "S6",
            Self::ChangeTarget => "S7",
            Self::ChangeProject => "S7p",
            Self::LoseTarget => "S8",
            Self::OverwriteTarget => "S8e",
            Self::LoseKey => "S9",
            Self::RenewKeyring => "S10",
            Self::EditPolicy => "S11",
            Self::Upgrade => "S12",
            Self::RestoreLedger => "S13",
            Self::Acknowledge => "S13a",
            Self::Outage => "S14",
            Self::BarePods => "S15",
        }
    }

    /// What happens.
    pub const fn story(self) -> &'static str {
        match self {
            Self::CreateMinted => "an LLMKey whose key the operator makes is created",
            Self::CreateSupplied => "an LLMKey whose key a person supplies is created",
            Self::CreateChosen => {
                "an LLMKey whose key the operator chooses and a LiteLLM proxy makes is created"
            }
            Self::Rotate => "a made key is rotated by annotation; the overlap lasts 10m (2 s here)",
            Self::Schedule => "the same by the policy's schedule",
            Self::RotateChosen => "such a key is rotated by annotation",
            Self::RevokeAll => "all keys of an LLMKey are revoked by `desiredState: Revoked`",
            Self::RevokeVersion => "the version in use is listed in `revokedVersions`",
            Self::DeleteKey => "an LLMKey with a made key is deleted, without grace",
            Self::DeleteNamespace => "the namespace of an LLMKey with a made key is deleted, without grace",
            Self::ChangeTarget => "`target.data` of a made key gets another entry",
            Self::ChangeProject => {
                "the LLMProvider names another project, then the key is rotated by annotation"
            }
            Self::LoseTarget => "a person deletes the target Secret of a made key",
            Self::OverwriteTarget => "a person overwrites the target Secret of a made key",
            Self::LoseKey => {
                "a made key is deleted at the provider; the policy has the trigger `Invalid`, so it is replaced once that is confirmed"
            }
            Self::RenewKeyring => {
                "a key-encryption key is added to the keyring while a made key is delivered: its ledger is written anew under it"
            }
            Self::EditPolicy => {
                "a ClusterRotationPolicy that three made keys of three namespaces follow gets a schedule by which all are due; one \
                 rotates at a time, and one of them is struck"
            }
            Self::Upgrade => {
                "the ledger of a made key is one of the first format, as an operator of before left it; the key is rotated by annotation"
            }
            Self::RestoreLedger => {
                "after a rotation an older copy of the ledger is put back: nothing is made, revoked or delivered"
            }
            Self::Acknowledge => "the same, and then a person acknowledges the freeze: another key is made",
            Self::Outage => "a rotation is due while the provider answers 503 for 4 s",
            Self::BarePods => {
                "a made key is rotated, and a bare Pod that nothing restarts has the older key: it is not revoked"
            }
        }
    }

    /// By its code.
    pub fn of(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.code() == code)
    }

    /// Whether the story begins with a key that is ready.
    pub const fn begins_ready(self) -> bool {
        !matches!(self, Self::CreateMinted | Self::CreateSupplied | Self::CreateChosen)
    }

    /// Whether its keys are made at a LiteLLM proxy, not at OpenAI.
    pub const fn at_litellm(self) -> bool {
        matches!(self, Self::CreateChosen | Self::RotateChosen)
    }

    /// Whether more has to happen before it begins, so that it begins late.
    pub const fn begins_late(self) -> bool {
        matches!(
            self,
            Self::Schedule | Self::EditPolicy | Self::Upgrade | Self::RestoreLedger | Self::Acknowledge
        )
    }

    /// Whether an effect belongs to the story in every run. While a namespace ends, Kubernetes may delete the target before
    /// the LLMKey: then it is written once more, which is refused. What status says of an outage comes as often as the
    /// provider is asked, and of a place in the line as often as that changes.
    pub const fn counts(self, kind: Kind) -> bool {
        !matches!(
            (self, kind),
            (Self::DeleteNamespace, Kind::TargetCreate | Kind::TargetUpdate | Kind::Status)
                | (Self::Outage | Self::EditPolicy, Kind::Status)
        )
    }

    /// Whether it changes what all cells share: then only cells of the same story run beside it.
    pub const fn is_everybodys(self) -> bool {
        matches!(self, Self::RenewKeyring)
    }

    /// How many other keys follow the same policy, each in a namespace and at an account of its own. They are looked after like
    /// the one that is struck, but not struck themselves.
    pub const fn others(self) -> usize {
        if matches!(self, Self::EditPolicy) { 2 } else { 0 }
    }

    /// Whether the same effect comes again and again, as often as time allows: each try to make a key is on record first, and is
    /// searched for after it. Then the first of those that follow each other counts, and no such search.
    pub const fn repeats(self) -> bool {
        matches!(self, Self::Outage)
    }

    /// How long after its beginning the provider answers nothing but 503.
    pub fn outage(self) -> Duration {
        if self == Self::Outage { OUTAGE } else { Duration::ZERO }
    }

    /// Whether a state is the story's end, by what anybody can see. Only the undisturbed run is judged so; the others must
    /// come to the same state as it.
    pub fn ended(self, state: &Value) -> bool {
        let condition = |name: &str, begins: &str| {
            state["key"]["conditions"][name].as_str().is_some_and(|told| told.starts_with(begins))
        };
        let ready = condition("Ready", "True");
        let versions = &state["key"]["versions"];
        let begins = |index: usize, what: &str| {
            versions[index].as_str().is_some_and(|version| version.starts_with(what))
        };
        let replaced = ready && begins(0, "2 Current") && begins(1, "1 Revoked") && state["live"] == 1;
        let delivers = ready && state["delivered"] == true && state["live"] == 1;
        let gone = state["key"].is_null() && state["ledger"].is_null() && state["live"] == 0;
        match self {
            Self::CreateMinted | Self::CreateSupplied | Self::CreateChosen => {
                ready && state["live"] == 1 && !versions[0].is_null()
            }
            Self::Rotate
            | Self::Schedule
            | Self::RotateChosen
            | Self::RevokeVersion
            | Self::ChangeProject
            | Self::Outage => replaced,
            Self::RenewKeyring => delivers && state["ledger"]["newest"] == true,
            Self::EditPolicy => {
                let others = state["others"].as_array();
                replaced && others.is_some_and(|all| all.iter().all(|other| Self::Rotate.ended(other)))
            }
            Self::Upgrade => replaced && state["ledger"]["format"] == llmkey_operator::ledger::FORMAT,
            Self::RevokeAll => begins(0, "1 Revoked") && state["target"].is_null() && state["live"] == 0,
            Self::DeleteKey | Self::DeleteNamespace => gone,
            Self::ChangeTarget => {
                delivers && state["target"]["entries"].as_array().is_some_and(|all| all.len() == 3)
            }
            Self::LoseTarget | Self::OverwriteTarget => delivers,
            Self::LoseKey => delivers && begins(0, "2 Current") && begins(1, "1 Revoked"),
            Self::RestoreLedger => {
                condition("Stalled", "True LedgerRolledBack") && state["frozen"] == "LedgerRolledBack"
            }
            Self::Acknowledge => {
                delivers && begins(0, "3 Current") && begins(2, "1 Revoked") && state["frozen"].is_null()
            }
            Self::BarePods => {
                ready
                    && begins(0, "2 Current")
                    && condition("OverlapActive", "True WaitingForConsumers")
                    && state["key"]["consumers"][0] == "Pod app Straggler BarePod"
                    && state["live"] == 2
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rotation_ends_when_the_older_key_is_revoked() {
        let state = |first: &str| json!({"key": {"conditions": {"Ready": "True Published"}, "versions": ["2 Current", first]}, "live": 1});
        assert!(Scenario::Rotate.ended(&state("1 Revoked Minted")));
        assert!(!Scenario::Rotate.ended(&state("1 Retiring Minted")));
        assert!(!Scenario::DeleteKey.ended(&state("1 Revoked Minted")));
    }

    #[test]
    fn codes_are_distinct_and_found() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::of(scenario.code()), Some(scenario));
        }
    }
}
