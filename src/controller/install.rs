//! The install's identity and keyring: found, or made once at the very first start.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Client, ResourceExt};

use super::{brief, context::Install, sight::Sight};
use crate::api::{LEDGER_TYPE, LLMKey, MANAGED_BY, MANAGED_BY_LABEL};
use crate::crypto::{
    EntropyError, InstallKey, InstallKeyError, Keyring, KeyringError, SecretBytes, SharedKeyring,
    SystemEntropy,
};

/// Name of the Secret with the install's id and the key of fingerprints.
pub const INSTALL_SECRET: &str = "llmkey-install";
/// Name of the Secret with the key-encryption keys, unless they come from a directory.
pub const KEYRING_SECRET: &str = "llmkey-keyring";

const ID: &str = "id";
const FINGERPRINT_KEY: &str = "fingerprint-key";

/// Why the operator cannot start. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server did not answer.
    #[error("{what} could not be read or written: {}", brief(.source))]
    Kube {
        /// Which object.
        what: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// Ledgers without the Secret that they need.
    #[error(
        "Secret {secret} in namespace {namespace} is gone, but keys exist that were sealed with it: restore it from a \
         backup; nothing is done until then"
    )]
    Lost {
        /// Its name.
        secret: &'static str,
        /// Its namespace.
        namespace: String,
    },
    /// The Secret does not have what it must.
    #[error("Secret {secret} in namespace {namespace} is damaged: restore it from a backup")]
    Damaged {
        /// Its name.
        secret: &'static str,
        /// Its namespace.
        namespace: String,
    },
    /// The API server does not say which cluster this is.
    #[error("namespace {namespace} has no uid, so this cluster cannot be told from a copy")]
    Anonymous {
        /// The namespace.
        namespace: &'static str,
    },
    /// No usable keyring.
    #[error("the keyring cannot be used: {0}")]
    Keyring(#[from] KeyringError),
    /// No usable fingerprint key.
    #[error("the key of fingerprints cannot be used: {0}")]
    InstallKey(#[from] InstallKeyError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// Finds or makes both.
pub async fn load(
    client: &Client,
    namespace: &str,
    sight: &Sight,
    keyring_dir: Option<&Path>,
) -> Result<(Install, SharedKeyring), InstallError> {
    let install = secret(client, namespace, sight, INSTALL_SECRET, || {
        let mut id = [0_u8; 10];
        crate::crypto::Entropy::fill(&mut SystemEntropy, &mut id)?;
        Ok(BTreeMap::from([
            (ID.to_owned(), SecretBytes::from_string(data_encoding::HEXLOWER.encode(&id))),
            (FINGERPRINT_KEY.to_owned(), InstallKey::generate(&mut SystemEntropy)?),
        ]))
    })
    .await?;
    let damaged = || InstallError::Damaged { secret: INSTALL_SECRET, namespace: namespace.to_owned() };
    let id = install.get(ID).and_then(SecretBytes::expose_str).ok_or_else(damaged)?.to_owned();
    let key = InstallKey::new(install.get(FINGERPRINT_KEY).ok_or_else(damaged)?)?;
    let keyring = if let Some(dir) = keyring_dir {
        Keyring::from_dir(dir)?
    } else {
        let data = secret(client, namespace, sight, KEYRING_SECRET, || Keyring::generate(&mut SystemEntropy))
            .await?;
        Keyring::from_secret_data(&data)?
    };
    Ok((Install { id, key }, SharedKeyring::new(keyring)))
}

/// The keyring's Secret as it stands there now: what it holds, and its version.
pub async fn stored_keyring(
    client: &Client,
    namespace: &str,
) -> Result<(Result<Keyring, KeyringError>, String), InstallError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(KEYRING_SECRET).await.map_err(|source| InstallError::Kube {
        what: format!("Secret {KEYRING_SECRET} in namespace {namespace}"),
        source: Box::new(source),
    })?;
    let lost = || InstallError::Lost { secret: KEYRING_SECRET, namespace: namespace.to_owned() };
    let found = found.ok_or_else(lost)?;
    let resource_version = found.resource_version().unwrap_or_default();
    Ok((Keyring::from_secret_data(&contents(found)), resource_version))
}

fn contents(secret: Secret) -> BTreeMap<String, SecretBytes> {
    secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, SecretBytes::new(v.0))).collect()
}

async fn secret(
    client: &Client,
    namespace: &str,
    sight: &Sight,
    name: &'static str,
    generate: impl Fn() -> Result<BTreeMap<String, SecretBytes>, EntropyError>,
) -> Result<BTreeMap<String, SecretBytes>, InstallError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |source: kube::Error| InstallError::Kube {
        what: format!("Secret {name} in namespace {namespace}"),
        source: Box::new(source),
    };
    loop {
        if let Some(found) = api.get_opt(name).await.map_err(failed)? {
            return Ok(contents(found));
        }
        if in_use(client, namespace, sight).await? {
            return Err(InstallError::Lost { secret: name, namespace: namespace.to_owned() });
        }
        let fresh = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(generate()?.into_iter().map(|(k, v)| (k, ByteString(v.expose().to_vec()))).collect()),
            ..Secret::default()
        };
        match api.create(&PostParams::default(), &fresh).await {
            // Read back, so that two replicas that start together end with the same one.
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The cluster's identity: uid of its namespace `kube-system`, which a copy restored elsewhere does not have.
pub async fn cluster(client: &Client) -> Result<String, InstallError> {
    const NAMESPACE: &str = "kube-system";
    let failed = |source: kube::Error| InstallError::Kube {
        what: format!("namespace {NAMESPACE}"),
        source: Box::new(source),
    };
    let found = Api::<Namespace>::all(client.clone()).get_metadata(NAMESPACE).await.map_err(failed)?;
    found.metadata.uid.ok_or_else(|| InstallError::Anonymous { namespace: NAMESPACE })
}

/// Whether anything was ever sealed: a ledger, or an LLMKey in sight whose status has versions.
async fn in_use(client: &Client, namespace: &str, sight: &Sight) -> Result<bool, InstallError> {
    let failed = |what: &str, source: kube::Error| InstallError::Kube {
        what: what.to_owned(),
        source: Box::new(source),
    };
    let ledgers: Api<PartialObjectMeta<Secret>> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().fields(&format!("type={LEDGER_TYPE}")).limit(1);
    if !ledgers.list(&params).await.map_err(|e| failed("ledgers", e))?.items.is_empty() {
        return Ok(true);
    }
    let apis: Vec<Api<DeserializeGuard<LLMKey>>> = match sight.namespaces() {
        None => vec![Api::all(client.clone())],
        Some(served) => served.iter().map(|served| Api::namespaced(client.clone(), served)).collect(),
    };
    for keys in apis {
        let had_versions = match have_versions(&keys).await {
            // What may not be looked at is left alone, and told when it is watched.
            Err(kube::Error::Api(status)) if status.code == 403 && !sight.is_whole() => false,
            answer => answer.map_err(|e| failed("LLMKeys", e))?,
        };
        if had_versions {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the status of any of them has versions.
async fn have_versions(keys: &Api<DeserializeGuard<LLMKey>>) -> Result<bool, kube::Error> {
    let mut params = ListParams::default().limit(500);
    loop {
        let page = keys.list(&params).await?;
        let used = |key: &DeserializeGuard<LLMKey>| {
            key.0.as_ref().is_ok_and(|k| k.status.as_ref().is_some_and(|s| !s.versions.is_empty()))
        };
        if page.items.iter().any(used) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(false),
        }
    }
}
