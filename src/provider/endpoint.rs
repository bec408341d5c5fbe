//! Where a provider's API stands, and how URLs below it are built.

use reqwest::Url;

use super::{address::AddressPolicy, azure_account, bedrock_account};
use crate::api::{Addresses, LLMProviderSpec, ProviderType};

/// The public API of a provider type; none for a type that has no public one.
///
/// Sources: the base URLs of the providers' own SDKs and API references.
pub const fn default_base_url(provider: ProviderType) -> Option<&'static str> {
    match provider {
        ProviderType::OpenAI => Some("https://api.openai.com/v1"),
        ProviderType::Anthropic => Some("https://api.anthropic.com"),
        ProviderType::Google => Some("https://generativelanguage.googleapis.com"),
        ProviderType::Mistral => Some("https://api.mistral.ai"),
        ProviderType::OpenRouter => Some("https://openrouter.ai/api/v1"),
        ProviderType::XAI => Some("https://api.x.ai/v1"),
        ProviderType::Groq => Some("https://api.groq.com/openai/v1"),
        ProviderType::Cohere => Some("https://api.cohere.com"),
        ProviderType::DeepSeek => Some("https://api.deepseek.com"),
        ProviderType::Together => Some("https://api.together.ai"),
        ProviderType::HuggingFace => Some("https://huggingface.co"),
        // Each account of Azure, and each region of Bedrock, has a host of its own.
        ProviderType::LiteLLM
        | ProviderType::AzureOpenAI
        | ProviderType::Bedrock
        | ProviderType::OpenAICompatible => None,
    }
}

/// Why a URL cannot be a provider's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EndpointError {
    /// The type has no public API and no URL was given.
    #[error("this provider type has no public URL: set baseURL")]
    NoBaseUrl,
    /// The text is no URL, or has characters that URL parsers drop or rewrite.
    #[error("baseURL is not a plain https URL")]
    NotAUrl,
    /// Another scheme than https.
    #[error("baseURL must use https")]
    NotHttps,
    /// A user, password, query or fragment in the URL.
    #[error("baseURL must have no user, password, query or fragment")]
    ExtraParts,
}

/// What is wrong with calling a private address.
pub const PRIVATE_ADDRESS: &str = "spec.baseURL: the address is not a public one and may not be called; set spec.addresses to AllowPrivate if the server is in your network";

/// What is wrong with a name that resolves to private addresses only.
pub const PRIVATE_NAME: &str = "the URL's host resolves to no public address, and others may not be called; set spec.addresses of the LLMProvider to AllowPrivate if the server is in your network";

/// A provider's API: its type, URL and what is trusted and allowed on the way there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    provider: ProviderType,
    base_url: Url,
    ca_bundle: Option<String>,
    addresses: Addresses,
    region: Option<String>,
}

impl Endpoint {
    /// The type's public API.
    ///
    /// # Errors
    /// [`EndpointError::NoBaseUrl`] for a type without one.
    pub fn public(provider: ProviderType) -> Result<Self, EndpointError> {
        let url = default_base_url(provider).ok_or(EndpointError::NoBaseUrl)?;
        Ok(Self {
            provider,
            base_url: parse(url)?,
            ca_bundle: None,
            addresses: Addresses::PublicOnly,
            region: None,
        })
    }

    /// The endpoint that an `LLMProvider` describes.
    pub fn from_spec(spec: &LLMProviderSpec) -> Result<Self, EndpointError> {
        let of_account = || spec.azure_open_ai.as_ref().map(|block| azure_account::data_url(&block.account));
        let of_region = || spec.bedrock.as_ref().map(|block| bedrock_account::data_url(&block.region));
        let url = match &spec.base_url {
            Some(url) => url.clone(),
            None => default_base_url(spec.r#type)
                .map(str::to_owned)
                .or_else(of_account)
                .or_else(of_region)
                .ok_or(EndpointError::NoBaseUrl)?,
        };
        Ok(Self {
            provider: spec.r#type,
            base_url: parse(&url)?,
            ca_bundle: spec.ca_bundle.clone(),
            addresses: spec.addresses,
            region: spec.bedrock.as_ref().map(|block| block.region.clone()),
        })
    }

    /// Another API of the same provider's, reached and trusted alike.
    pub(super) fn beside(&self, url: &str) -> Result<Self, EndpointError> {
        Ok(Self { base_url: parse(url)?, ..self.clone() })
    }

    /// The provider's type.
    pub const fn provider(&self) -> ProviderType {
        self.provider
    }

    /// The region that it is for; Bedrock only.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The URL, without a slash at its end.
    pub fn base_url(&self) -> &str {
        self.base_url.as_str().trim_end_matches('/')
    }

    /// Whether this is the URL that the provider's SDK uses unasked.
    pub fn is_public_default(&self) -> bool {
        default_base_url(self.provider) == Some(self.base_url())
    }

    /// Host and port, for example `api.openai.com:443`; the port is always written.
    pub fn authority(&self) -> String {
        let host = self.base_url.host_str().unwrap_or_default();
        format!("{host}:{}", self.base_url.port_or_known_default().unwrap_or(443))
    }

    /// Certificate authorities (PEM) trusted beside the system's.
    pub(super) fn ca_bundle(&self) -> Option<&str> {
        self.ca_bundle.as_deref()
    }

    /// Which addresses may be called.
    pub(super) const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Whether the URL's host is an address that may not be called. What a name resolves to is checked at each call.
    pub fn refuses_its_address(&self) -> bool {
        let policy = AddressPolicy { addresses: self.addresses, loopback_only: false };
        !policy.allows_literal(&self.base_url)
    }

    /// The base URL with the segments appended, each percent-encoded, and the query's pairs. The caller has checked that
    /// no segment is empty or made of dots.
    pub(super) fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base_url.clone();
        // An https URL always has path segments: `parse` refuses those without a host.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// An endpoint of a local server without TLS.
    #[cfg(test)]
    pub(super) fn local(provider: ProviderType, url: &str) -> Self {
        Self {
            provider,
            base_url: Url::parse(url).unwrap(),
            ca_bundle: None,
            addresses: Addresses::AllowPrivate,
            region: None,
        }
    }
}

fn parse(text: &str) -> Result<Url, EndpointError> {
    // The URL standard silently drops tabs and line breaks and turns backslashes into slashes.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\<>\"{}|^`".contains(&byte))
    {
        return Err(EndpointError::NotAUrl);
    }
    let mut url = Url::parse(text).map_err(|_| EndpointError::NotAUrl)?;
    if url.scheme() != "https" {
        return Err(EndpointError::NotHttps);
    }
    if !url.has_host() {
        return Err(EndpointError::NotAUrl);
    }
    let extra = text.contains(['@', '?', '#']) || !url.username().is_empty() || url.password().is_some();
    if extra {
        return Err(EndpointError::ExtraParts);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if path.contains("//") {
        return Err(EndpointError::NotAUrl);
    }
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(provider: ProviderType, base_url: Option<&str>) -> LLMProviderSpec {
        LLMProviderSpec {
            r#type: provider,
            base_url: base_url.map(str::to_owned),
            ca_bundle: None,
            addresses: Addresses::PublicOnly,
            open_ai: None,
            open_router: None,
            lite_llm: None,
            azure_open_ai: None,
            google: None,
            bedrock: None,
            anthropic: None,
            x_ai: None,
            mistral: None,
            admin_credential_ref: None,
            limits: None,
            allowed_namespaces: vec![],
        }
    }

    fn endpoint(url: &str) -> Result<Endpoint, EndpointError> {
        Endpoint::from_spec(&spec(ProviderType::OpenAI, Some(url)))
    }

    #[test]
    fn the_default_url_is_the_public_one_with_or_without_a_slash() {
        for url in [None, Some("https://api.openai.com/v1"), Some("https://api.openai.com:443/v1/")] {
            let endpoint = Endpoint::from_spec(&spec(ProviderType::OpenAI, url)).unwrap();
            assert!(endpoint.is_public_default());
            assert_eq!(endpoint, Endpoint::public(ProviderType::OpenAI).unwrap());
            assert_eq!(endpoint.authority(), "api.openai.com:443");
        }
        assert!(!endpoint("https://api.openai.com:8443/v1").unwrap().is_public_default());
        assert_eq!(
            Endpoint::from_spec(&spec(ProviderType::OpenAICompatible, None)).unwrap_err(),
            EndpointError::NoBaseUrl
        );
    }

    #[test]
    fn every_default_url_is_plain_https() {
        for provider in crate::provider::ALL {
            if default_base_url(provider).is_some() {
                assert!(Endpoint::public(provider).unwrap().is_public_default());
            }
        }
    }

    #[test]
    fn urls_that_parsers_read_differently_are_refused() {
        for url in [
            "http://api.openai.com/v1",
            "ftp://api.openai.com",
            "https://a@b.example/v1",
            "https://a:b@c.example/v1",
            "https://api.openai.com\\@evil.example/v1",
            "https://api.openai.com/v1\t",
            "https://api.openai.com/\nv1",
            " https://api.openai.com/v1",
            "https://api.openai.com/v1?x=y",
            "https://api.openai.com/v1#x",
            "https://api.openai.com//v1",
            "https://",
            "https:///v1",
            "api.openai.com/v1",
            "https://[::1%25eth0]/v1",
            "https://ex ample/",
            "",
        ] {
            match endpoint(url) {
                Err(_) => {}
                // The URL standard takes any number of slashes after the scheme; the host is then `v1`, not the expected one.
                Ok(endpoint) => assert_eq!(endpoint.authority(), "v1:443", "{url}"),
            }
        }
    }

    #[test]
    fn segments_are_encoded_and_the_base_path_kept() {
        let endpoint = endpoint("https://gw.example/openai/v1/").unwrap();
        let url = endpoint.url(&["projects", "a/b?c#d%2e e"], &[("after", "x&y=z")]);
        assert_eq!(
            url.as_str(),
            "https://gw.example/openai/v1/projects/a%2Fb%3Fc%23d%252e%20e?after=x%26y%3Dz"
        );
        let bare = super::parse("https://api.anthropic.com").unwrap();
        assert_eq!(bare.as_str(), "https://api.anthropic.com/");
    }
}
