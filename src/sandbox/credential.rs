//! Key values: how they are made, recognised and masked.
//!
//! The sandbox remembers a key only by its SHA-256 digest, as a provider does: a value is shown once, in the
//! answer that creates it.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// SHA-256 of a key's value.
pub(super) type Digest = [u8; 32];

/// The digest under which a key's value is stored and looked up.
pub(super) fn digest(value: &str) -> Digest {
    Sha256::digest(value.as_bytes()).into()
}

/// Twelve hexadecimal digits that name a key in the log without telling its value.
pub(super) fn fingerprint(digest: &Digest) -> String {
    let mut hex = HEXLOWER.encode(digest);
    hex.truncate(12);
    hex
}

/// The last four characters of a value, or nothing when the value is too short to tell so much of it.
pub(super) fn last_four(value: &str) -> String {
    let count = value.chars().count();
    if count < 16 { String::new() } else { value.chars().skip(count - 4).collect() }
}

/// `redacted_value` of a project key, in the documented form `sk-abc...def`.
pub(super) fn redacted(value: &str) -> String {
    let head: String = value.chars().take(6).collect();
    format!("{head}...{}", last_four(value))
}

/// The form in which a 401 body echoes the key it refuses: both ends survive, the middle is starred.
pub(super) fn masked(value: &str) -> String {
    let count = value.chars().count();
    if count < 16 {
        return "*".repeat(count.max(1));
    }
    let head: String = value.chars().take(8).collect();
    format!("{head}{}{}", "*".repeat(count - 12), last_four(value))
}

/// The credential of one request.
pub(super) enum Credential {
    /// No usable `Authorization` header.
    Missing,
    /// A bearer token.
    Bearer(Presented),
}

impl Credential {
    /// Reads the value of an `Authorization` header.
    pub(super) fn from_header(header: Option<&str>) -> Self {
        let Some((scheme, token)) = header.and_then(|text| text.split_once(' ')) else {
            return Self::Missing;
        };
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
            return Self::Missing;
        }
        Self::Bearer(Presented { digest: digest(token), value: Zeroizing::new(token.to_owned()) })
    }

    /// A key that came in a header of its own, or in a form.
    pub(super) fn of_key(key: &str) -> Self {
        Self::Bearer(Presented { digest: digest(key), value: Zeroizing::new(key.to_owned()) })
    }

    /// The token's digest, if there is a token.
    pub(super) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Missing => None,
            Self::Bearer(presented) => Some(&presented.digest),
        }
    }
}

/// A bearer token as presented. Has no `Debug`, so that it cannot slip into a log.
pub(super) struct Presented {
    /// SHA-256 of the value.
    pub(super) digest: Digest,
    /// The value itself, for the masked echo and for prefix patterns.
    pub(super) value: Zeroizing<String>,
}

/// A deterministic source of ids and key values: SHA-256 in counter mode over a seed.
///
/// One seed drawn at start makes every later draw infallible, and a fixed seed makes a test repeatable.
pub(super) struct Mint {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl Mint {
    /// A source that starts from `seed`.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), counter: 0 }
    }

    fn block(&mut self) -> Digest {
        self.counter += 1;
        let mut hash = Sha256::new();
        hash.update(self.seed.as_slice());
        hash.update(self.counter.to_be_bytes());
        hash.finalize().into()
    }

    /// `prefix` followed by 24 characters, for ids.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        let block = self.block();
        let mut tail = HEXLOWER.encode(&block);
        tail.truncate(24);
        format!("{prefix}{tail}")
    }

    /// An id in the form of a UUID, for workspaces.
    pub(super) fn uuid(&mut self) -> String {
        let hex = HEXLOWER.encode(&self.block());
        let (head, rest) = hex.split_at(8);
        let parts = [rest.get(..4), rest.get(4..8), rest.get(8..12), rest.get(12..24)];
        parts.into_iter().flatten().fold(head.to_owned(), |id, part| format!("{id}-{part}"))
    }

    /// A key with the shape of OpenRouter's: `sk-or-v1-` and 64 hexadecimal digits.
    pub(super) fn router_key(&mut self) -> Zeroizing<String> {
        Zeroizing::new(format!("sk-or-v1-{}", HEXLOWER.encode(&self.block())))
    }

    /// A key with the shape of LiteLLM's: `sk-` and 64 hexadecimal digits.
    pub(super) fn proxy_key(&mut self) -> Zeroizing<String> {
        Zeroizing::new(format!("sk-{}", HEXLOWER.encode(&self.block())))
    }

    /// A key with the shape of xAI's: `xai-` and 80 characters.
    pub(super) fn team_key(&mut self) -> Zeroizing<String> {
        let mut hex = HEXLOWER.encode(&self.block());
        hex.push_str(&HEXLOWER.encode(&self.block()));
        hex.truncate(80);
        Zeroizing::new(format!("xai-{hex}"))
    }

    /// A key with the shape of Mistral's: 32 characters.
    pub(super) fn workspace_key(&mut self) -> Zeroizing<String> {
        self.azure_key()
    }

    /// A key with the shape of Azure's: 32 hexadecimal digits.
    pub(super) fn azure_key(&mut self) -> Zeroizing<String> {
        let mut key = HEXLOWER.encode(&self.block());
        key.truncate(32);
        Zeroizing::new(key)
    }

    /// A key with the shape of those of Google's that are bound to a service account: `AQ.` and 50 characters.
    pub(super) fn google_key(&mut self) -> Zeroizing<String> {
        let text = self.text();
        Zeroizing::new(format!("AQ.{}", text.get(..50).unwrap_or_default()))
    }

    /// A key with the shape of Bedrock's long-term ones: `ABSK` and Base64.
    pub(super) fn bedrock_key(&mut self) -> Zeroizing<String> {
        let text = self.text();
        let whole =
            Zeroizing::new(format!("BedrockAPIKey-{}:{}", text.get(..12).unwrap_or_default(), text.as_str()));
        Zeroizing::new(format!("ABSK{}", BASE64.encode(whole.as_bytes())))
    }

    /// A key with the shape of OpenAI's: `prefix`, 74 characters, the marker `T3BlbkFJ`, 74 characters.
    pub(super) fn key(&mut self, prefix: &str) -> Zeroizing<String> {
        let (head, tail) = (self.text(), self.text());
        Zeroizing::new(format!("{prefix}{}T3BlbkFJ{}", head.as_str(), tail.as_str()))
    }

    fn text(&mut self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(64));
        bytes.extend_from_slice(&self.block());
        bytes.extend_from_slice(&self.block());
        Zeroizing::new(BASE64URL_NOPAD.encode(&bytes[..55]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_shape_that_scanners_look_for() {
        let mut mint = Mint::new([7; 32]);
        let key = mint.key("sk-svcacct-");
        assert_eq!(key.len(), "sk-svcacct-".len() + 74 + 8 + 74);
        assert!(key.contains("T3BlbkFJ"));
        assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
        assert_ne!(*key, *mint.key("sk-svcacct-"));
        let router = mint.router_key();
        assert_eq!((router.len(), router.starts_with("sk-or-v1-")), (9 + 64, true));
        let lengths: Vec<usize> = mint.uuid().split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn masks_tell_both_ends_and_nothing_of_a_short_value() {
        let value = "sk-abcdefghijklmnop";
        assert_eq!(redacted(value), "sk-abc...mnop");
        assert_eq!(masked(value), "sk-abcde*******mnop");
        assert_eq!(masked("short"), "*****");
        assert_eq!(last_four("short"), "");
    }

    #[test]
    fn only_a_bearer_token_is_a_credential() {
        assert!(matches!(Credential::from_header(None), Credential::Missing));
        assert!(matches!(Credential::from_header(Some("Basic abc")), Credential::Missing));
        assert!(matches!(Credential::from_header(Some("Bearer ")), Credential::Missing));
        let Credential::Bearer(presented) = Credential::from_header(Some("bearer sk-x")) else {
            panic!("a bearer token")
        };
        assert_eq!(presented.value.as_str(), "sk-x");
    }
}
