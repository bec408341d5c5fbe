//! Kubeconfig files and the client configuration that they stand for.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::BASE64;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::Error;
use super::pki::Identity;

/// Who the file speaks for.
pub(super) enum User<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

/// One cluster, one user, one context with its namespace, as kubectl reads it.
pub(super) fn document(url: &str, authority: &str, user: &User<'_>, namespace: &str) -> Value {
    let user = match user {
        User::Certificate(identity) => json!({
            "client-certificate-data": BASE64.encode(identity.certificate.as_bytes()),
            "client-key-data": BASE64.encode(identity.key.as_bytes()),
        }),
        User::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "testbed", "cluster": {
            "server": url,
            "certificate-authority-data": BASE64.encode(authority.as_bytes()),
        }}],
        "users": [{ "name": "testbed", "user": user }],
        "contexts": [{ "name": "testbed", "context": {
            "cluster": "testbed", "user": "testbed", "namespace": namespace,
        }}],
        "current-context": "testbed",
    })
}

/// Writes the document so that only this user can read it.
pub(super) fn write(path: &Path, document: &Value) -> Result<(), Error> {
    let text =
        serde_saphyr::to_string(document).map_err(Error::format(format!("write {}", path.display())))?;
    write_private(path, text.as_bytes())
}

/// Writes a file of mode 0600, replacing one that is there.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(Error::path("write", path))
}

/// The client configuration of a kubeconfig file.
pub(super) async fn config(path: &Path) -> Result<Config, Error> {
    let what = || format!("read {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).map_err(Error::format(what()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(Error::format(what()))?;
    // The server is on loopback; a proxy of the environment is not for it.
    config.proxy_url = None;
    Ok(config)
}
