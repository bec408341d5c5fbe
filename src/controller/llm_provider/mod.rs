//! The controller of `LLMProvider`s: says whether the account answers, and what can be done there.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::ReconcileError;
use super::account::{AccountError, told};
use super::context::Ctx;
use crate::api::{
    ACKNOWLEDGE, ConditionStatus, ConditionType, Conditions, FIELD_MANAGER, FrozenAccount, LLMProvider,
    LLMProviderStatus, ProviderType, Reason, rfc3339,
};
use crate::ledger::{AccountId, Freeze, LedgerError};
use crate::provider::{Capabilities, Endpoint, ErrorClass, PRIVATE_ADDRESS};
use crate::telemetry::metrics::{Controller, Outcome};

/// What a reconcile knows.
struct Observed {
    generation: i64,
    base_url: Option<String>,
    capabilities: Vec<String>,
    keys: usize,
    orphans: usize,
    frozen: Option<(String, Freeze)>,
    finding: Finding,
}

enum Finding {
    /// The account answers.
    Reachable,
    /// There is no admin credential, on purpose.
    ValidationOnly,
    /// A person must act.
    Stalled(Reason, String),
    /// It will be tried again.
    Unknown(Reason, String),
}

/// One reconcile.
pub async fn reconcile(
    provider: Arc<DeserializeGuard<LLMProvider>>,
    ctx: Arc<Ctx>,
) -> Result<Action, ReconcileError> {
    if !ctx.leader.is_leader() {
        return Err(ReconcileError::NotLeader);
    }
    if !ctx.is_loaded() {
        return Ok(Action::requeue(super::LOADING));
    }
    let pass = ctx.metrics.begin(Controller::LLMProvider, ctx.clock);
    let observed = observe(&ctx, &provider).await?;
    let before = provider.0.as_ref().ok().and_then(|p| p.status.clone()).unwrap_or_default();
    let status = status(&observed, &before.conditions, ctx.clock.now());
    let wait = ctx.timings.provider_check_interval;
    if status == before {
        pass.finish(Outcome::Skipped);
        return Ok(Action::requeue(wait));
    }
    let patch = json!({
        "apiVersion": LLMProvider::api_version(&()), "kind": LLMProvider::kind(&()), "status": status,
    });
    let api: Api<PartialObjectMeta<LLMProvider>> = Api::all(ctx.client.clone());
    api.patch_status(&provider.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch))
        .await?;
    pass.finish(Outcome::Applied);
    Ok(Action::requeue(wait))
}

async fn observe(ctx: &Ctx, guarded: &DeserializeGuard<LLMProvider>) -> Result<Observed, ReconcileError> {
    let name = guarded.name_any();
    let uses = |key: &crate::api::LLMKey| key.spec.provider_ref.as_ref().is_some_and(|r| r.name == name);
    let mut observed = Observed {
        generation: guarded.meta().generation.unwrap_or_default(),
        base_url: None,
        capabilities: Vec::new(),
        orphans: 0,
        frozen: None,
        keys: ctx.stores.keys.state().iter().filter(|k| k.0.as_ref().is_ok_and(uses)).count(),
        finding: Finding::Stalled(
            Reason::Malformed,
            "the resource as it is stored does not have the CRD's form; apply it again".into(),
        ),
    };
    let Ok(provider) = &guarded.0 else { return Ok(observed) };
    let endpoint = match Endpoint::from_spec(&provider.spec) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            observed.finding = Finding::Stalled(Reason::AddressRefused, format!("spec.baseURL: {error}"));
            return Ok(observed);
        }
    };
    if endpoint.refuses_its_address() {
        observed.finding = Finding::Stalled(Reason::AddressRefused, PRIVATE_ADDRESS.into());
        return Ok(observed);
    }
    observed.base_url = Some(endpoint.base_url().to_owned());
    if provider.spec.admin_credential_ref.is_none() {
        observed.capabilities = capabilities(provider, false);
        observed.finding = Finding::ValidationOnly;
        return Ok(observed);
    }
    let account = match ctx.account(provider, &endpoint).await? {
        Ok(account) => account,
        Err((reason, message)) => {
            observed.capabilities = capabilities(provider, false);
            observed.finding = Finding::Stalled(reason, message);
            return Ok(observed);
        }
    };
    observed.capabilities = capabilities(provider, true);
    let id = AccountId {
        r#type: provider.spec.r#type,
        host: account.authority(),
        project: account.project().to_owned(),
    };
    observed.orphans = ctx.account_states.orphans(&id);
    match frozen(ctx, &id, provider).await? {
        Ok(freeze) => observed.frozen = freeze.map(|freeze| (name, freeze)),
        Err(message) => {
            observed.finding = Finding::Stalled(Reason::LedgerUnreadable, message);
            return Ok(observed);
        }
    }
    observed.finding = match ctx.providers.check_account(&account).await {
        Ok(()) => Finding::Reachable,
        Err(error) => {
            error.log();
            let r#type = provider.spec.r#type;
            let message = format!("{} {}: {error}", r#type.place(), account.project());
            match error.class {
                ErrorClass::CredentialInvalid | ErrorClass::Forbidden => {
                    Finding::Stalled(Reason::AdminCredentialInvalid, message)
                }
                ErrorClass::NotFound => {
                    let remedy = remedy(r#type);
                    Finding::Stalled(Reason::ProjectNotFound, format!("{message}; {remedy}"))
                }
                ErrorClass::BadRequest => Finding::Stalled(Reason::NotSupported, message),
                ErrorClass::RefusedAddress => Finding::Stalled(
                    Reason::AddressRefused,
                    format!("{message}; set spec.addresses to AllowPrivate if the server is in your network"),
                ),
                ErrorClass::RateLimited { .. } => Finding::Unknown(Reason::RateLimited, message),
                _ => Finding::Unknown(Reason::ProviderDown, message),
            }
        }
    };
    Ok(observed)
}

/// What to do where the provider knows no such place.
const fn remedy(r#type: ProviderType) -> &'static str {
    match r#type {
        ProviderType::OpenRouter => {
            "set openRouter.workspace to the id of one that the management key reaches"
        }
        ProviderType::AzureOpenAI => {
            "set azureOpenAI to the subscription, the resource group and the name of an account that the credential reaches"
        }
        ProviderType::Bedrock => {
            "set bedrock to the name of a user, and to the AWS account that it is in and the credential belongs to"
        }
        ProviderType::Google => "set google.project to the id of a project that the credential reaches",
        ProviderType::Anthropic => {
            "set anthropic.workspace to the id of a workspace of the Admin API key's organization"
        }
        ProviderType::XAI => "set xAI.team to the id of the team that the management key is for",
        ProviderType::Mistral => "set mistral.adminURL to where Mistral's Admin API is for your organization",
        ProviderType::LiteLLM => "set liteLLM.teamID to the id of a team of the proxy",
        _ => "set openAI.project to a project of the admin credential's organization",
    }
}

/// The account's freeze, after the acknowledgement that may be there. An error in words says why it cannot be told.
async fn frozen(
    ctx: &Ctx,
    id: &AccountId,
    provider: &LLMProvider,
) -> Result<Result<Option<Freeze>, String>, ReconcileError> {
    let known = async || match ctx.account_record(id).await {
        Ok(record) => Ok(Ok(record.frozen)),
        Err(AccountError::Kube(error)) => Err(ReconcileError::Kube(error)),
        Err(AccountError::Unusable(_, message)) => Ok(Err(message)),
    };
    let frozen = known().await?;
    let token = provider.annotations().get(ACKNOWLEDGE);
    let (Ok(Some(freeze)), Some(token)) = (&frozen, token) else { return Ok(frozen) };
    if freeze.token != *token {
        return Ok(frozen);
    }
    match ctx.acknowledge(id, token).await {
        Ok(_) => {}
        Err(LedgerError::Kube(error)) => return Err(ReconcileError::Kube(error)),
        Err(error) => return Ok(Err(error.to_string())),
    }
    ctx.woken_by.account(&ctx.stores, &provider.name_any());
    known().await
}

fn capabilities(provider: &LLMProvider, with_account: bool) -> Vec<String> {
    Capabilities::of_spec(&provider.spec, with_account).names().map(str::to_owned).collect()
}

/// A provider has no effects: its decision is its status.
fn status(o: &Observed, before: &[Condition], now: DateTime<Utc>) -> LLMProviderStatus {
    use ConditionStatus::{False, True, Unknown};
    let mut conditions = Conditions::new(before, o.generation, now);
    conditions.set(ConditionType::Reconciling, False, Reason::Idle, "");
    conditions.set(ConditionType::Stalled, False, Reason::NotStalled, "");
    let frozen = o.frozen.as_ref().map(|(name, freeze)| (freeze.reason.reason(), told(freeze, name)));
    match &o.finding {
        Finding::Reachable | Finding::Unknown(..) if let Some((reason, message)) = &frozen => {
            conditions.set(ConditionType::Ready, False, *reason, message);
            conditions.set(ConditionType::Stalled, True, *reason, message);
        }
        Finding::Reachable => {
            conditions.set(ConditionType::Ready, True, Reason::AccountReachable, "the account answers");
        }
        Finding::ValidationOnly => {
            let message = "without adminCredentialRef keys are checked, not made or revoked";
            conditions.set(ConditionType::Ready, True, Reason::ValidationOnly, message);
        }
        Finding::Stalled(reason, message) => {
            conditions.set(ConditionType::Ready, False, *reason, message);
            conditions.set(ConditionType::Stalled, True, *reason, message);
        }
        Finding::Unknown(reason, message) => {
            conditions.set(ConditionType::Ready, Unknown, *reason, message);
        }
    }
    LLMProviderStatus {
        observed_generation: Some(o.generation),
        conditions: conditions.finish(),
        base_url: o.base_url.clone(),
        capabilities: o.capabilities.clone(),
        keys: i32::try_from(o.keys).ok(),
        orphans: i32::try_from(o.orphans).ok().filter(|count| *count > 0),
        frozen: o.frozen.as_ref().map(|(_, freeze)| FrozenAccount {
            reason: freeze.reason.reason().as_str().to_owned(),
            token: freeze.token.clone(),
            since: rfc3339(freeze.since),
            count: i32::try_from(freeze.count).unwrap_or(i32::MAX),
        }),
    }
}
