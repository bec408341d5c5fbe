use serde_json::{Value, json};

use super::*;
use crate::api::ProviderType;

/// A key and a signature of another program's.
fn vector(name: &str) -> String {
    let file: Value = serde_json::from_str(include_str!("../../tests/vectors/rs256.json")).unwrap();
    file[name].as_str().unwrap().to_owned()
}

fn pem(name: &str) -> String {
    let body = vector(name);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

/// The file of a service account's key, as Google's tools write it.
fn key_file() -> Value {
    json!({
        "type": "service_account", "project_id": "contoso-llm", "private_key_id": "0123456789abcdef0123456789abcdef01234567",
        "private_key": pem("rsa_pkcs8"), "client_email": "minter@contoso-llm.iam.gserviceaccount.com", "client_id": "1",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": "https://oauth2.googleapis.com/token",
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
        "client_x509_cert_url": "https://www.googleapis.com/robot/v1/metadata/x509/minter", "universe_domain": "googleapis.com",
    })
}

fn federation_file() -> Value {
    json!({
        "universe_domain": "googleapis.com", "type": "external_account",
        "audience": "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/cluster",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": "https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/minter@contoso-llm.iam.gserviceaccount.com:generateAccessToken",
        "credential_source": {"file": "/etc/shadow", "format": {"type": "text"}},
    })
}

fn of(block: &Value, data: &[(&str, &str)]) -> Result<Account, AccountError> {
    let endpoint = Endpoint::public(ProviderType::Google).map_err(|_| AccountError::BadUrl)?;
    let block: GoogleAccount = serde_json::from_value(block.clone()).map_err(|_| AccountError::BadProject)?;
    let data = data.iter().map(|(name, value)| ((*name).to_owned(), SecretBytes::from(*value))).collect();
    Account::of_google(&endpoint, &block, &data)
}

fn block() -> Value {
    json!({"project": "contoso-llm", "serviceAccountEmail": "gemini@contoso-llm.iam.gserviceaccount.com"})
}

fn with_file(file: &Value) -> Result<Account, AccountError> {
    of(&block(), &[("host", "apikeys.googleapis.com"), ("credential", &file.to_string())])
}

/// For tests of requests.
pub(in crate::provider) fn account_with_key() -> Account {
    with_file(&key_file()).unwrap()
}

pub(in crate::provider) fn account_with_federation() -> Account {
    with_file(&federation_file()).unwrap()
}

#[test]
fn both_files_of_googles_are_read_and_lead_to_googles_hosts_alone() {
    for account in [account_with_key(), account_with_federation()] {
        assert_eq!(
            (account.authority().as_str(), account.project()),
            ("apikeys.googleapis.com:443", "contoso-llm")
        );
        let google = account.google().unwrap();
        let hosts = [&google.tokens, &google.exchange, &google.impersonation].map(Endpoint::authority);
        let wanted = ["oauth2", "sts", "iamcredentials"].map(|name| format!("{name}.googleapis.com:443"));
        assert_eq!(hosts, wanted);
        assert_eq!(google.bound_to, "gemini@contoso-llm.iam.gserviceaccount.com");
    }
    let account = account_with_federation();
    let Identity::Federation(federation) = &account.google().unwrap().identity else {
        panic!("no federation")
    };
    assert_eq!(federation.impersonates.as_deref(), Some("minter@contoso-llm.iam.gserviceaccount.com"));
    assert!(federation.audience.ends_with("/providers/cluster"));
    let mut alone = federation_file();
    alone.as_object_mut().unwrap().remove("service_account_impersonation_url");
    let account = with_file(&alone).unwrap();
    let Identity::Federation(federation) = &account.google().unwrap().identity else {
        panic!("no federation")
    };
    assert_eq!(federation.impersonates, None);
}

#[test]
fn the_host_is_bound_and_a_gateway_stands_for_all_of_them() {
    let gateway = json!({
        "project": "contoso-llm", "serviceAccountEmail": "gemini@contoso-llm.iam.gserviceaccount.com",
        "apiURL": "https://gw.example:8443/google",
    });
    let file = key_file().to_string();
    let called = |block: &Value, host: &str| of(block, &[("host", host), ("credential", &file)]);
    let account = called(&gateway, "gw.example:8443").unwrap();
    let google = account.google().unwrap();
    for endpoint in [&google.manager, &google.tokens, &google.exchange, &google.impersonation] {
        assert_eq!(endpoint.base_url(), "https://gw.example:8443/google");
    }
    for (block, host) in [(&gateway, "apikeys.googleapis.com"), (&block(), "gw.example:8443")] {
        let refused = called(block, host).err().unwrap();
        assert!(matches!(refused, AccountError::HostMismatch { .. }), "{refused}");
    }
    let without = of(&block(), &[("credential", &file)]).err().unwrap();
    assert_eq!(without, AccountError::BadHost);
}

#[test]
fn a_file_that_names_another_place_or_is_no_key_is_refused_without_being_quoted() {
    let changed = |mut file: Value, field: &str, value: Value| {
        file[field] = value;
        file
    };
    let key = |field: &str, value: &str| changed(key_file(), field, json!(value));
    let federation = |field: &str, value: &str| changed(federation_file(), field, json!(value));
    let impersonation = "service_account_impersonation_url";
    for (file, word) in [
        (key("token_uri", "https://evil.example/token"), "token_uri"),
        (key("token_uri", "https://oauth2.googleapis.com.evil.example/token"), "token_uri"),
        (key("universe_domain", "evil.example"), "universe_domain"),
        (key("client_email", "a b@c"), "client_email"),
        (key("client_email", "no-email"), "client_email"),
        (key("private_key_id", "../x"), "private_key_id"),
        (key("private_key", "TOP-SECRET"), "private_key"),
        (key("private_key", &pem("ec_pkcs8")), "private_key"),
        (key("type", "authorized_user"), "type"),
        (federation("token_url", "https://evil.example/v1/token"), "token_url"),
        (
            federation("subject_token_type", "urn:ietf:params:aws:token-type:aws4_request"),
            "subject_token_type",
        ),
        (federation("audience", "https://evil.example"), "audience"),
        (
            federation(
                impersonation,
                "https://evil.example/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
            ),
            "impersonation",
        ),
        (
            federation(
                impersonation,
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@b/../x:generateAccessToken",
            ),
            "impersonation",
        ),
        (changed(federation_file(), "token_url", Value::Null), "token_url"),
    ] {
        let refused = with_file(&file).err().unwrap();
        let AccountError::BadCredentialFile(why) = &refused else { panic!("{refused}") };
        assert!(why.contains(word), "{word}: {why}");
        assert!(
            !refused.to_string().contains("evil") && !refused.to_string().contains("SECRET"),
            "{refused}"
        );
    }
    for text in ["", "AIza-key", "{}", "[1]", &"x".repeat(20_000)] {
        let refused =
            of(&block(), &[("host", "apikeys.googleapis.com"), ("credential", text)]).err().unwrap();
        assert!(matches!(refused, AccountError::BadCredentialFile(_)), "{refused}");
    }
}

#[test]
fn signatures_are_those_of_another_program() {
    let account = account_with_key();
    let Identity::Key(key) = &account.google().unwrap().identity else { panic!("no key") };
    let signature = key.sign(&vector("text")).unwrap();
    assert_eq!(BASE64.encode(&signature), vector("signature"));
}
