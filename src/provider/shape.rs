//! The look of a key: what can be told to be wrong before any call.

use crate::{api::ProviderType, crypto::SecretBytes};

/// What is wrong with a key's look. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ShapeError {
    /// No bytes.
    #[error("the value is empty")]
    Empty,
    /// A line break or space at one end, the usual slip with files and `echo`.
    #[error("the value begins or ends with white space (a line break of the file it came from?)")]
    OuterWhitespace,
    /// A space, control or non-ASCII character inside.
    #[error("the value has characters that no key has (only printable ASCII without spaces is possible)")]
    NotPrintable,
    /// Fewer characters than any key of the provider.
    #[error("the value is shorter than {0} characters")]
    TooShort(usize),
    /// More characters than any key of the provider.
    #[error("the value is longer than 512 characters")]
    TooLong,
    /// The provider's keys begin differently.
    #[error("keys of {} begin with {expected}", provider.as_str())]
    OtherPrefix {
        /// The provider.
        provider: ProviderType,
        /// How its keys begin.
        expected: &'static str,
    },
    /// An admin or management key, which must never be delivered to a workload.
    #[error("the value is an admin key of {}: it must not be delivered to workloads", provider.as_str())]
    AdminKey {
        /// The provider.
        provider: ProviderType,
    },
}

/// Prefixes of keys and of admin keys, where the provider documents them or its own examples show nothing else.
///
/// Sources: the providers' API references and the detectors of trufflehog (`pkg/detectors/<provider>`). Mistral, Cohere and
/// Together document no prefix.
const fn prefixes(provider: ProviderType) -> (Option<&'static str>, Option<&'static str>) {
    match provider {
        ProviderType::OpenAI => (Some("sk-"), Some("sk-admin-")),
        ProviderType::Anthropic => (Some("sk-ant-api"), Some("sk-ant-admin")),
        ProviderType::OpenRouter => (Some("sk-or-v1-"), None),
        ProviderType::XAI => (Some("xai-"), None),
        ProviderType::Groq => (Some("gsk_"), None),
        ProviderType::HuggingFace => (Some("hf_"), None),
        // LiteLLM tells keys from their hashes by it. Its master key looks the same.
        ProviderType::DeepSeek | ProviderType::LiteLLM => (Some("sk-"), None),
        // Google hands out keys of a second form, `AQ.`, beside `AIza`: no prefix can be required.
        ProviderType::Google
        | ProviderType::Mistral
        | ProviderType::Cohere
        | ProviderType::Together
        | ProviderType::AzureOpenAI
        // Long-term keys and short-term ones begin differently, and AWS documents neither.
        | ProviderType::Bedrock
        | ProviderType::OpenAICompatible => (None, None),
    }
}

/// Whether the bytes can be a key of the provider.
///
/// # Errors
/// The first thing that is wrong, in words that hold nothing of the value.
pub fn check_shape(provider: ProviderType, key: &SecretBytes) -> Result<(), ShapeError> {
    let bytes = key.expose();
    if bytes.is_empty() {
        return Err(ShapeError::Empty);
    }
    if bytes.trim_ascii().len() != bytes.len() {
        return Err(ShapeError::OuterWhitespace);
    }
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(ShapeError::NotPrintable);
    }
    let (expected, admin) = prefixes(provider);
    if admin.is_some_and(|prefix| bytes.starts_with(prefix.as_bytes())) {
        return Err(ShapeError::AdminKey { provider });
    }
    if let Some(expected) = expected.filter(|prefix| !bytes.starts_with(prefix.as_bytes())) {
        return Err(ShapeError::OtherPrefix { provider, expected });
    }
    let shortest = match provider {
        ProviderType::OpenAICompatible => 8,
        ProviderType::LiteLLM => 16,
        _ => 20,
    };
    if bytes.len() < shortest {
        return Err(ShapeError::TooShort(shortest));
    }
    if bytes.len() > 512 {
        return Err(ShapeError::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(provider: ProviderType, key: &str) -> Result<(), ShapeError> {
        check_shape(provider, &key.into())
    }

    #[test]
    fn keys_as_providers_hand_them_out_pass() {
        for (provider, key) in [
            (ProviderType::OpenAI, "sk-proj-0123456789abcdef"),
            (ProviderType::OpenAI, "sk-svcacct-0123456789abcdef"),
            (ProviderType::OpenAI, "sk-0123456789abcdefT3BlbkFJ"),
            (ProviderType::Anthropic, "sk-ant-api03-0123456789"),
            (ProviderType::Google, "AIzaSy0123456789abcdef"),
            (ProviderType::OpenRouter, "sk-or-v1-0123456789abcdef"),
            (ProviderType::XAI, "xai-0123456789abcdef"),
            (ProviderType::Groq, "gsk_0123456789abcdef"),
            (ProviderType::HuggingFace, "hf_0123456789abcdefgh"),
            (ProviderType::Mistral, "0123456789abcdef0123456789abcdef"),
            (ProviderType::LiteLLM, "sk-0123456789abc"),
            (ProviderType::OpenAICompatible, "12345678"),
        ] {
            assert_eq!(check(provider, key), Ok(()), "{key}");
        }
    }

    #[test]
    fn every_slip_has_its_own_word_and_no_value() {
        let openai = ProviderType::OpenAI;
        let other = ShapeError::OtherPrefix { provider: openai, expected: "sk-" };
        for (provider, key, error) in [
            (openai, "", ShapeError::Empty),
            (openai, "sk-proj-0123456789abcdef\n", ShapeError::OuterWhitespace),
            (openai, " sk-proj-0123456789abcdef", ShapeError::OuterWhitespace),
            (openai, "sk-proj-0123 456789abcdef", ShapeError::NotPrintable),
            (openai, "sk-proj-0123456789äbcdef", ShapeError::NotPrintable),
            (openai, "sk-admin-0123456789abcdef", ShapeError::AdminKey { provider: openai }),
            (openai, "gsk_0123456789abcdef0123", other),
            (openai, "sk-short", ShapeError::TooShort(20)),
            (
                ProviderType::Anthropic,
                "sk-ant-admin01-012345",
                ShapeError::AdminKey { provider: ProviderType::Anthropic },
            ),
            (ProviderType::OpenAICompatible, "1234567", ShapeError::TooShort(8)),
        ] {
            let found = check(provider, key).unwrap_err();
            assert_eq!(found, error, "{key}");
            assert!(key.is_empty() || !found.to_string().contains(key.trim()));
        }
        assert_eq!(check(openai, &format!("sk-{}", "a".repeat(510))), Err(ShapeError::TooLong));
    }
}
