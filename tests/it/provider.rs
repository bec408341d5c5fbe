//! The provider client against the sandbox provider: over TLS, with its certificate authority, with its faults.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use llmkey_operator::{
    crypto::SecretBytes,
    domain::health::Verdict,
    provider::{
        Account, AdminCredential, CallError, Endpoint, ErrorClass, MintError, Providers, ProvidersConfig,
        Revocation,
    },
    sandbox::{Answer, Fault, FaultRule, Operation, Sandbox, SandboxOptions, Settings},
};
use serde_json::json;

/// Every wait of these tests ends here.
const DEADLINE: Duration = Duration::from_secs(10);

/// A sandbox, a client that may call loopback only, and an account at the sandbox's first project.
struct Rig {
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
}

impl Rig {
    async fn start(http2: bool) -> Self {
        let mut options =
            SandboxOptions::new(Arc::new(|| DateTime::from_timestamp(1_800_000_000, 0).unwrap()));
        options.http2 = http2;
        let sandbox = Sandbox::start(options).await.unwrap();
        let providers = Providers::new(ProvidersConfig {
            read_timeout: Duration::from_secs(1),
            total_timeout: Duration::from_secs(3),
            loopback_only: true,
            ..ProvidersConfig::default()
        });
        let account = account(&sandbox, sandbox.admin_key(), sandbox.project_id());
        Self { sandbox, providers, account }
    }

    async fn mint(&self, name: &str) -> Result<(String, SecretBytes), MintError> {
        let minted = self.providers.mint(&self.account, name).await?;
        Ok((minted.id.as_str().to_owned(), minted.secret))
    }

    async fn verdict(&self, key: &SecretBytes) -> Verdict {
        self.providers.validate(self.account.endpoint(), key).await.verdict
    }

    async fn names(&self) -> Result<Vec<String>, CallError> {
        let listed = self.providers.list(&self.account).await?;
        Ok(listed.into_iter().map(|key| key.name).collect())
    }
}

/// An endpoint of the sandbox, in one of its dialects.
pub(crate) fn endpoint_at(sandbox: &Sandbox, kind: &str, url: &str, trusted: bool) -> Endpoint {
    let spec = json!({
        "type": kind, "baseURL": url, "caBundle": trusted.then(|| sandbox.ca_pem()), "addresses": "AllowPrivate",
        "allowedNamespaces": [],
    });
    Endpoint::from_spec(&serde_json::from_value(spec).unwrap()).unwrap()
}

/// An account there: a project, a workspace or a team.
pub(crate) fn account_at(sandbox: &Sandbox, kind: &str, url: &str, credential: &str, place: &str) -> Account {
    let host = sandbox.addr().to_string();
    let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
    Account::new(endpoint_at(sandbox, kind, url, true), place, credential).unwrap()
}

fn endpoint(sandbox: &Sandbox, trusted: bool) -> Endpoint {
    endpoint_at(sandbox, "OpenAI", &sandbox.base_url(), trusted)
}

fn account(sandbox: &Sandbox, credential: &str, project: &str) -> Account {
    account_at(sandbox, "OpenAI", &sandbox.base_url(), credential, project)
}

#[tokio::test]
async fn a_key_lives_from_mint_to_revocation() {
    for http2 in [false, true] {
        let rig = Rig::start(http2).await;
        rig.providers.check_account(&rig.account).await.unwrap();
        let minted = rig.providers.mint(&rig.account, "lk1-a-1").await.ok().unwrap();
        let unused = rig.providers.last_used(&rig.account, &minted.id).await.unwrap();
        assert!(unused.exists && unused.at.is_none());
        assert_eq!(rig.verdict(&minted.secret).await, Verdict::Valid);
        let used = rig.providers.last_used(&rig.account, &minted.id).await.unwrap();
        assert_eq!(used.at.map(|at| at.timestamp()), Some(1_800_000_000));

        let listed = rig.providers.list(&rig.account).await.unwrap();
        assert!(listed.iter().any(|key| key.name == "lk1-a-1" && key.id.same_handle(&minted.id)));
        assert_eq!(rig.providers.revoke(&rig.account, &minted.id).await, Ok(Revocation::Revoked));
        assert_eq!(rig.providers.revoke(&rig.account, &minted.id).await, Ok(Revocation::AlreadyGone));
        assert_eq!(rig.verdict(&minted.secret).await, Verdict::Rejected);
        assert!(!rig.providers.last_used(&rig.account, &minted.id).await.unwrap().exists);
        assert!(rig.names().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn every_lost_answer_of_a_mint_leaves_the_outcome_unknown_and_the_stray_in_the_list() {
    for http2 in [false, true] {
        let rig = Rig::start(http2).await;
        // A pooled connection, on which HTTP libraries are tempted to repeat.
        rig.providers.check_account(&rig.account).await.unwrap();
        let lost = [
            Fault::drop_reply(),
            Fault::after_effect(Answer::CutBody),
            Fault::after_effect(Answer::HalfBody),
            Fault::after_effect(Answer::Html { status: 200 }),
            Fault::after_effect(Answer::Html { status: 403 }),
            Fault::after_effect(Answer::Html { status: 502 }),
            Fault::after_effect(Answer::InternalError),
            Fault::after_effect(Answer::Hang),
            Fault::slow(2_000),
        ];
        for (number, fault) in lost.into_iter().enumerate() {
            let name = format!("lk1-a-{number}");
            let rule = rig.sandbox.add_fault(FaultRule::on(Operation::CreateServiceAccount, fault.clone()));
            let failed = rig.mint(&name).await.err().unwrap();
            rig.sandbox.remove_fault(rule);
            assert!(matches!(failed, MintError::UnknownOutcome(_)), "{fault:?}: {failed}");
            let written = rig.sandbox.wait_for_entry(|entry| entry.name.as_deref() == Some(&name));
            tokio::time::timeout(DEADLINE, written).await.unwrap();
            let log = rig.sandbox.log();
            let calls = log.iter().filter(|entry| entry.operation == Operation::CreateServiceAccount);
            assert_eq!(calls.filter(|entry| entry.name.as_deref() == Some(&name)).count(), 1, "{fault:?}");
            assert!(rig.names().await.unwrap().contains(&name), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn openais_own_no_is_a_refused_mint_without_a_key() {
    let rig = Rig::start(true).await;
    for (answer, class) in [
        (Answer::InvalidApiKey, ErrorClass::CredentialInvalid),
        (Answer::NotInOrganization, ErrorClass::Forbidden),
        (
            Answer::RateLimited { retry_after_seconds: Some(7) },
            ErrorClass::RateLimited { retry_after: Some(Duration::from_secs(7)) },
        ),
    ] {
        let rule = FaultRule::on(Operation::CreateServiceAccount, Fault::refuse(answer));
        let rule = rig.sandbox.add_fault(rule);
        let failed = rig.mint("lk1-a-1").await.err().unwrap();
        rig.sandbox.remove_fault(rule);
        assert!(matches!(&failed, MintError::Refused(error) if error.class == class), "{failed}");
    }
    assert!(rig.names().await.unwrap().is_empty());

    let project = rig.sandbox.create_project("old");
    rig.sandbox.archive_project(&project);
    let archived = account(&rig.sandbox, rig.sandbox.admin_key(), &project);
    assert_eq!(rig.providers.check_account(&archived).await.unwrap_err().code, "ProjectArchived");
    let failed = rig.providers.mint(&archived, "lk1-a-1").await.err().unwrap();
    assert!(matches!(failed, MintError::Refused(_)), "{failed}");
}

#[tokio::test]
async fn wrong_credentials_and_unknown_authorities_are_told_apart() {
    let rig = Rig::start(true).await;
    let wrong = account(&rig.sandbox, "sk-admin-0123456789abcdef", rig.sandbox.project_id());
    let failed = rig.providers.check_account(&wrong).await.unwrap_err();
    assert_eq!(failed.class, ErrorClass::CredentialInvalid);
    let absent = account(&rig.sandbox, rig.sandbox.admin_key(), "proj_absent");
    assert_eq!(rig.providers.check_account(&absent).await.unwrap_err().class, ErrorClass::NotFound);

    let untrusted = endpoint(&rig.sandbox, false);
    let validation = rig.providers.validate(&untrusted, &"sk-proj-0123456789abcdef".into()).await;
    assert_eq!((validation.verdict, validation.code), (Verdict::ProviderDown, "NotReached"));
    let admin = rig.sandbox.admin_key();
    assert_eq!(rig.verdict(&admin.into()).await, Verdict::RestrictedScope);
}

#[tokio::test]
async fn no_fault_of_the_provider_refuses_a_good_key() {
    let rig = Rig::start(true).await;
    let (_, key) = rig.mint("lk1-a-1").await.ok().unwrap();
    for (answer, expected) in [
        (Answer::Drop, Verdict::ProviderDown),
        (Answer::Html { status: 401 }, Verdict::Unknown),
        (Answer::Html { status: 200 }, Verdict::Unknown),
        (Answer::NotInOrganization, Verdict::Unknown),
        (Answer::UnsupportedCountry, Verdict::Unknown),
        (Answer::NotFound, Verdict::Unknown),
        (Answer::MissingScopes { status: 401 }, Verdict::RestrictedScope),
        (Answer::MissingScopes { status: 403 }, Verdict::RestrictedScope),
        (Answer::InsufficientQuota, Verdict::OutOfCredit),
        (Answer::RateLimited { retry_after_seconds: None }, Verdict::RateLimited { retry_after: None }),
        (Answer::InternalError, Verdict::ProviderDown),
        (Answer::Unavailable { retry_after_seconds: None }, Verdict::ProviderDown),
        (Answer::InvalidApiKey, Verdict::Rejected),
    ] {
        let rule = rig.sandbox.add_fault(FaultRule::on(Operation::ListModels, Fault::refuse(answer)));
        assert_eq!(rig.verdict(&key).await, expected, "{answer:?}");
        rig.sandbox.remove_fault(rule);
    }
    assert_eq!(rig.verdict(&key).await, Verdict::Valid);
}

#[tokio::test]
async fn a_list_spans_pages_and_fails_as_a_whole() {
    let rig = Rig::start(true).await;
    rig.sandbox.set_settings(None, Settings { max_page_size: 2, ..Settings::default() });
    for number in 0..5 {
        rig.mint(&format!("lk1-a-{number}")).await.ok().unwrap();
    }
    let mut names = rig.names().await.unwrap();
    names.sort();
    assert_eq!(names, ["lk1-a-0", "lk1-a-1", "lk1-a-2", "lk1-a-3", "lk1-a-4"]);
    let rule = FaultRule::on(Operation::ListServiceAccounts, Fault::refuse(Answer::InternalError)).skip(1);
    rig.sandbox.add_fault(rule);
    assert_eq!(rig.names().await.unwrap_err().class, ErrorClass::Server);
}

#[tokio::test]
async fn a_lost_answer_of_a_revocation_is_safe_to_repeat() {
    let rig = Rig::start(true).await;
    let minted = rig.providers.mint(&rig.account, "lk1-a-1").await.ok().unwrap();
    let rule = FaultRule::on(Operation::DeleteServiceAccount, Fault::drop_reply()).times(1);
    rig.sandbox.add_fault(rule);
    assert_eq!(rig.providers.revoke(&rig.account, &minted.id).await.unwrap_err().class, ErrorClass::Garbled);
    assert_eq!(rig.providers.revoke(&rig.account, &minted.id).await, Ok(Revocation::AlreadyGone));
    assert!(rig.names().await.unwrap().is_empty());
}
