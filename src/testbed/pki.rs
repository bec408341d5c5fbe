//! The certificates and keys of one control plane, made for it and thrown away with it.

use std::net::Ipv4Addr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

use super::Error;
use super::control_plane::SERVICE_ADDRESS;

/// Name of the only node.
pub const NODE: &str = "node";

/// A certificate and its key, both PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// The authority that the API server and its clients trust, and what it signed.
pub(super) struct Pki {
    pub(super) authority: String,
    pub(super) server: Identity,
    pub(super) admin: Identity,
    pub(super) controllers: Identity,
    pub(super) scheduler: Identity,
    pub(super) kubelet: Identity,
    /// Signs service account tokens.
    pub(super) service_account_key: String,
    /// Checks them.
    pub(super) service_account_public_key: String,
}

impl Pki {
    /// `address` is one more of the API server.
    pub(super) fn generate(address: Option<Ipv4Addr>) -> Result<Self, Error> {
        let fail = |what| move |error| Error::Certificate(what, error);
        let mut params = CertificateParams::default();
        params.distinguished_name = name("testbed", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = KeyPair::generate()
            .and_then(|key| CertifiedIssuer::self_signed(params, key))
            .map_err(fail("the authority"))?;
        let sign = |what, subject, names: Vec<String>, usage| {
            let issue = || {
                let mut params = CertificateParams::new(names)?;
                params.distinguished_name = subject;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = vec![usage];
                let key = KeyPair::generate()?;
                let certificate = params.signed_by(&key, &authority)?.pem();
                Ok(Identity { certificate, key: key.serialize_pem() })
            };
            issue().map_err(fail(what))
        };
        let client = |what, subject| sign(what, subject, Vec::new(), ExtendedKeyUsagePurpose::ClientAuth);
        let tokens = KeyPair::generate().map_err(fail("service account tokens"))?;
        Ok(Self {
            authority: authority.pem(),
            server: sign(
                "the API server",
                name("kube-apiserver", None),
                ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain([SERVICE_ADDRESS].into_iter().chain(address).map(|address| address.to_string()))
                    .collect(),
                ExtendedKeyUsagePurpose::ServerAuth,
            )?,
            admin: client("the administrator", name("admin", Some("system:masters")))?,
            controllers: client("the controller manager", name("system:kube-controller-manager", None))?,
            scheduler: client("the scheduler", name("system:kube-scheduler", None))?,
            kubelet: client("the kubelet", name(&format!("system:node:{NODE}"), Some("system:nodes")))?,
            service_account_key: tokens.serialize_pem(),
            service_account_public_key: tokens.public_key_pem(),
        })
    }
}

fn name(common: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
