//! The operations of the API.

use serde::{Deserialize, Serialize};

/// The operations of the API, as named in rules and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// `GET /v1/organization/projects`
    ListProjects,
    /// `GET /v1/organization/projects/{project}`
    GetProject,
    /// `POST …/service_accounts`
    CreateServiceAccount,
    /// `GET …/service_accounts`
    ListServiceAccounts,
    /// `GET …/service_accounts/{account}`
    GetServiceAccount,
    /// `DELETE …/service_accounts/{account}`
    DeleteServiceAccount,
    /// `POST …/service_accounts/{account}/api_keys`
    CreateServiceAccountKey,
    /// `GET …/api_keys`
    ListKeys,
    /// `GET …/api_keys/{key}`
    GetKey,
    /// `DELETE …/api_keys/{key}`
    DeleteKey,
    /// `GET /v1/models`, the data call that validates a key.
    ListModels,
}

impl Operation {
    /// Method and path in the short form that people read.
    pub fn path(self) -> &'static str {
        match self {
            Self::ListProjects => "GET projects",
            Self::GetProject => "GET project",
            Self::CreateServiceAccount => "POST service_accounts",
            Self::ListServiceAccounts => "GET service_accounts",
            Self::GetServiceAccount => "GET service_account",
            Self::DeleteServiceAccount => "DELETE service_account",
            Self::CreateServiceAccountKey => "POST service_account/api_keys",
            Self::ListKeys => "GET api_keys",
            Self::GetKey => "GET api_key",
            Self::DeleteKey => "DELETE api_key",
            Self::ListModels => "GET models",
        }
    }
}
