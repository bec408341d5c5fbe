//! Where the APIs of OpenRouter, LiteLLM, Azure and Google are at a sandbox, who may manage keys there, and what people can do. The other providers'
//! doors stand beside their calls.

use std::collections::BTreeMap;

use super::{Azure, Sandbox, SandboxError, google_office};

impl Sandbox {
    /// Base URL of OpenRouter's API, as `https://openrouter.ai/api/v1` is OpenRouter's.
    pub fn router_url(&self) -> String {
        format!("https://{}/api/v1", self.address)
    }

    /// Base URL of the LiteLLM proxy.
    pub fn proxy_url(&self) -> String {
        format!("https://{}/proxy", self.address)
    }

    /// Base URL of the data side of Azure's accounts, all of them.
    pub fn azure_url(&self) -> String {
        format!("https://{}/azure/data", self.address)
    }

    /// Base URL of Azure's management API.
    pub fn azure_manager_url(&self) -> String {
        format!("https://{}/azure/arm", self.address)
    }

    /// Base URL of where Azure's tokens come from.
    pub fn azure_authority_url(&self) -> String {
        format!("https://{}/azure/login", self.address)
    }

    /// Base URL of the Gemini API.
    pub fn gemini_url(&self) -> String {
        format!("https://{}/google/data", self.address)
    }

    /// Base URL of all other APIs of Google's.
    pub fn google_url(&self) -> String {
        format!("https://{}/google/api", self.address)
    }

    /// OpenRouter's management key.
    pub fn management_key(&self) -> &str {
        &self.management_key
    }

    /// The LiteLLM proxy's master key.
    pub fn master_key(&self) -> &str {
        &self.master_key
    }

    /// Where Azure's accounts are, and who may manage them.
    pub fn azure(&self) -> Azure<'_> {
        Azure::of(&self.azure_secret)
    }

    /// The JSON of the key of the service account that manages keys at Google, as Google's tools write it.
    pub fn google_key_file(&self) -> Result<String, SandboxError> {
        Ok(self.handle.google_key_file()?)
    }

    /// The JSON of workload identity federation at Google; whether a service account is acted as.
    pub fn google_federation_file(impersonates: bool) -> String {
        google_office::federation_file(impersonates)
    }

    /// Makes a workspace at OpenRouter and returns its id; wherever a project is asked for, it is one. The first is the default one.
    pub fn create_workspace(&self, name: &str) -> String {
        self.handle.create_workspace(name)
    }

    /// Makes a team at the LiteLLM proxy and returns its id; wherever a project is asked for, it is one. `-` is the place of keys
    /// without a team, once there is any team.
    pub fn create_team(&self, name: &str) -> String {
        self.handle.create_team(name)
    }

    /// Makes an account at Azure, with a key in each of its two slots, and returns its name in lower case; wherever a project is asked
    /// for, it is one.
    pub fn create_azure_account(&self, name: &str) -> String {
        self.handle.create_azure_account(name)
    }

    /// Makes a project at Google and returns its id, which is its name; wherever a project is asked for, it is one.
    pub fn create_google_project(&self, name: &str) -> String {
        self.handle.create_google_project(name)
    }

    /// Takes a deletion at Google back, as a person can for 30 days. False: no such key.
    pub fn undelete_key(&self, project: &str, id: &str) -> bool {
        self.handle.undelete_key(project, id)
    }

    /// From now on every token of Google's is an expired one.
    pub fn expire_google_tokens(&self) {
        self.handle.expire_google_tokens();
    }

    /// What the slots of an Azure account hold, as a person sees it.
    pub fn slot_values(&self, account: &str) -> BTreeMap<String, String> {
        self.handle.slot_values(account)
    }

    /// Makes a slot's key anew, as a person does on the provider's site. False: no such account or slot.
    pub fn renew_slot(&self, account: &str, slot: &str) -> bool {
        self.handle.renew_slot(account, slot)
    }

    /// From now on every token of Azure's is an expired one.
    pub fn expire_azure_tokens(&self) {
        self.handle.expire_azure_tokens();
    }
}
