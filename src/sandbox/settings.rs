//! Switches of behaviour that is not an error.

use serde::{Deserialize, Serialize};

/// Switches of behaviour that is not an error, for all projects or for one.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// How long a new key is refused with 401, in milliseconds.
    pub new_key_lag_millis: u32,
    /// How long a deleted key is still accepted, in milliseconds.
    pub deleted_key_lag_millis: u32,
    /// How long a new object is missing from lists, in milliseconds.
    pub list_lag_millis: u32,
    /// How long a deleted object is still listed, in milliseconds.
    pub unlist_lag_millis: u32,
    /// Greatest page that lists return, whatever `limit` asks for; 1..=100.
    pub max_page_size: u32,
    /// How long an operation is told of as under way, in milliseconds; Google only.
    pub operation_lag_millis: u32,
    /// How long a new key is missing where it is asked for by its id, in milliseconds; LiteLLM and Google only.
    pub lookup_lag_millis: u32,
    /// How long a new key is told of as missing in a part of the provider, in milliseconds; xAI only.
    pub propagation_lag_millis: u32,
    /// Whether there is no call that deletes a key; Mistral only.
    pub deletion_is_missing: bool,
    /// Whether a deleted key is still told of where it is asked for by its id, as deleted; LiteLLM only.
    pub deleted_keys_shown: bool,
    /// Whether keys whose value the caller chose are refused; LiteLLM only.
    pub custom_keys_refused: bool,
    /// Whether reports of usage leave the number of requests out, as null; OpenAI only.
    pub usage_without_requests: bool,
    /// What deleting a service account's key through the project's key list does.
    pub service_account_key_delete: KeyDelete,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            new_key_lag_millis: 0,
            deleted_key_lag_millis: 0,
            list_lag_millis: 0,
            unlist_lag_millis: 0,
            max_page_size: 100,
            operation_lag_millis: 0,
            lookup_lag_millis: 0,
            propagation_lag_millis: 0,
            deletion_is_missing: false,
            deleted_keys_shown: false,
            custom_keys_refused: false,
            usage_without_requests: false,
            service_account_key_delete: KeyDelete::Deleted,
        }
    }
}

/// The two documented behaviours of `DELETE …/api_keys/{id}` on a service account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyDelete {
    /// 200: the key goes, the account and its other keys stay (newer documentation).
    Deleted,
    /// 400: only deleting the account deletes its keys (older documentation).
    Refused,
}

/// `owner_project_access`: whether the key's owner can reach the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerAccess {
    /// The owner is a member.
    #[default]
    Active,
    /// The owner is no member any more; such keys are missing from a list that does not ask for them.
    Inactive,
}
