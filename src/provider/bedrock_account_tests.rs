use super::*;
use crate::api::{Ownership, ProviderType};

pub(in crate::provider) const ACCOUNT: &str = "111122223333";
pub(in crate::provider) const USER: &str = "llm-Keys";

fn block() -> BedrockAccount {
    BedrockAccount {
        region: "eu-central-1".into(),
        account_id: ACCOUNT.into(),
        user_name: USER.into(),
        ownership: Ownership::Exclusive,
        credential_age_days: None,
        iam_url: None,
        sts_url: None,
    }
}

fn account(block: &BedrockAccount, entries: &[(&str, &str)]) -> Result<Account, AccountError> {
    let endpoint = Endpoint::local(ProviderType::Bedrock, "https://bedrock.eu-central-1.amazonaws.com");
    let data = entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    Account::of_bedrock(&endpoint, block, &data)
}

const KEYS: [(&str, &str); 3] = [
    ("host", "iam.amazonaws.com"),
    ("accessKeyID", "AKIAIOSFODNN7EXAMPLE\n"),
    ("secretAccessKey", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
];

/// With access keys.
pub(in crate::provider) fn account_with_keys(age_days: Option<i32>) -> Account {
    account(&BedrockAccount { credential_age_days: age_days, ..block() }, &KEYS).unwrap()
}

/// With a role.
pub(in crate::provider) fn account_with_role() -> Account {
    let role = format!("arn:aws:iam::{ACCOUNT}:role/operators/llmkey");
    let entries =
        [("host", "iam.amazonaws.com"), ("stsHost", "sts.eu-central-1.amazonaws.com"), ("roleARN", &role)];
    account(&block(), &entries).unwrap()
}

#[test]
fn a_user_is_named_with_its_account_and_managed_at_iam() {
    let of = account_with_keys(None);
    assert_eq!((of.project(), of.authority().as_str()), ("111122223333/llm-keys", "iam.amazonaws.com:443"));
    assert!(of.in_project("111122223333/llm-keys").is_ok());
    for other in ["444455556666/llm-keys", "111122223333/other", "llm-keys", ""] {
        assert_eq!(of.in_project(other).err(), Some(AccountError::BadProject), "{other}");
    }
    let access = of.bedrock().unwrap();
    let Signer::Keys(keys) = &access.signer else { panic!("no keys") };
    assert_eq!(keys.id, "AKIAIOSFODNN7EXAMPLE");
    assert_eq!(access.sts.base_url(), "https://sts.eu-central-1.amazonaws.com");
}

#[test]
fn a_credential_for_another_host_or_account_is_refused() {
    let with = |name: &'static str, value: &'static str| {
        let mut entries: BTreeMap<&str, &str> = KEYS.into();
        entries.insert(name, value);
        account(&block(), &entries.into_iter().collect::<Vec<_>>()).err()
    };
    assert!(matches!(with("host", "iam.evil.example"), Some(AccountError::HostMismatch { .. })));
    assert_eq!(with("accessKeyID", "AKIA IOSFODNN7EXAMPLE"), Some(AccountError::BadCredential));
    assert_eq!(with("secretAccessKey", "short"), Some(AccountError::BadCredential));
    assert_eq!(with("sessionToken", "two words of it"), Some(AccountError::BadCredential));
    assert_eq!(
        with("roleARN", "arn:aws:iam::111122223333:role/x"),
        Some(AccountError::BadHost),
        "no stsHost"
    );
    let role = |role: &str| {
        let entries =
            [("host", "iam.amazonaws.com"), ("stsHost", "sts.eu-central-1.amazonaws.com"), ("roleARN", role)];
        account(&block(), &entries).err()
    };
    assert_eq!(role("arn:aws:iam::111122223333:role/path/name"), None);
    for bad in [
        "arn:aws:iam::444455556666:role/name",
        "arn:aws:iam::111122223333:user/name",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::111122223333:role/a b",
        "arn:aws:iam::1111222233334:role/name",
    ] {
        assert_eq!(role(bad), Some(AccountError::BadRole), "{bad}");
    }
    assert_eq!(account(&block(), &KEYS[..2]).err(), Some(AccountError::Missing("secretAccessKey")));
}
