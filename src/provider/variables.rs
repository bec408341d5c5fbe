//! What a target Secret holds if nothing else is asked for: the variables that the provider's own SDK reads.

use std::collections::BTreeMap;

use crate::api::ProviderType;

/// Default `target.data`: names of variables and their templates, `$(KEY)` and `$(BASE_URL)`.
///
/// `region` is delivered as it is, where there is one.
/// `public_url` is whether the endpoint is the provider's public one; a URL is delivered only if it is not, and only where
/// an SDK reads one from the environment.
///
/// Sources: `openai` (Python) `OPENAI_API_KEY`, `OPENAI_BASE_URL`; `anthropic` (Python) `ANTHROPIC_API_KEY`,
/// `ANTHROPIC_BASE_URL`; `google-genai` (Python) `GOOGLE_API_KEY` (preferred) and `GEMINI_API_KEY`; the quickstarts of
/// Mistral, `OpenRouter`, xAI and `DeepSeek` `MISTRAL_API_KEY`, `OPENROUTER_API_KEY`, `XAI_API_KEY`, `DEEPSEEK_API_KEY`;
/// `groq` 1.7 (Python) `GROQ_API_KEY` (its `GROQ_BASE_URL` lacks the `/openai/v1` of ours, so it is not delivered);
/// `cohere` (Python) `CO_API_KEY`, `CO_API_URL`; `together` 3.1 (Python) `TOGETHER_API_KEY`, `TOGETHER_BASE_URL`;
/// `huggingface_hub` (Python) `HF_TOKEN`, `HF_ENDPOINT`; `openai` (Python) for Azure `AZURE_OPENAI_API_KEY`, `AZURE_OPENAI_ENDPOINT`;
/// `aws-bedrock-token-generator` 1.1 `AWS_BEARER_TOKEN_BEDROCK`, which all of AWS's SDKs read, and `AWS_REGION`.
pub fn default_data(
    provider: ProviderType,
    public_url: bool,
    region: Option<&str>,
) -> BTreeMap<String, String> {
    let (keys, url): (&[&str], Option<&str>) = match provider {
        // A LiteLLM proxy speaks OpenAI's data API at its root as well as below `/v1`.
        ProviderType::OpenAI | ProviderType::LiteLLM | ProviderType::OpenAICompatible => {
            (&["OPENAI_API_KEY"], Some("OPENAI_BASE_URL"))
        }
        ProviderType::Anthropic => (&["ANTHROPIC_API_KEY"], Some("ANTHROPIC_BASE_URL")),
        ProviderType::Google => (&["GEMINI_API_KEY", "GOOGLE_API_KEY"], None),
        ProviderType::Mistral => (&["MISTRAL_API_KEY"], None),
        ProviderType::OpenRouter => (&["OPENROUTER_API_KEY"], None),
        ProviderType::XAI => (&["XAI_API_KEY"], None),
        ProviderType::Groq => (&["GROQ_API_KEY"], None),
        ProviderType::Cohere => (&["CO_API_KEY"], Some("CO_API_URL")),
        ProviderType::DeepSeek => (&["DEEPSEEK_API_KEY"], None),
        ProviderType::Together => (&["TOGETHER_API_KEY"], Some("TOGETHER_BASE_URL")),
        ProviderType::AzureOpenAI => (&["AZURE_OPENAI_API_KEY"], Some("AZURE_OPENAI_ENDPOINT")),
        ProviderType::Bedrock => (&["AWS_BEARER_TOKEN_BEDROCK"], None),
        ProviderType::HuggingFace => (&["HF_TOKEN"], Some("HF_ENDPOINT")),
    };
    let keys = keys.iter().map(|name| ((*name).to_owned(), "$(KEY)".to_owned()));
    let url = url.filter(|_| !public_url).map(|name| (name.to_owned(), "$(BASE_URL)".to_owned()));
    let region = region.map(|region| ("AWS_REGION".to_owned(), region.to_owned()));
    keys.chain(url).chain(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_comes_along_only_where_it_is_not_the_public_one() {
        let names =
            |provider, public| default_data(provider, public, None).into_keys().collect::<Vec<_>>().join(" ");
        assert_eq!(names(ProviderType::OpenAI, true), "OPENAI_API_KEY");
        assert_eq!(names(ProviderType::OpenAI, false), "OPENAI_API_KEY OPENAI_BASE_URL");
        assert_eq!(names(ProviderType::OpenAICompatible, false), "OPENAI_API_KEY OPENAI_BASE_URL");
        assert_eq!(names(ProviderType::Google, true), "GEMINI_API_KEY GOOGLE_API_KEY");
        let data = default_data(ProviderType::Bedrock, false, Some("eu-central-1"));
        let found: Vec<_> = data.iter().map(|(name, text)| format!("{name}={text}")).collect();
        assert_eq!(found, ["AWS_BEARER_TOKEN_BEDROCK=$(KEY)", "AWS_REGION=eu-central-1"]);
        for provider in crate::provider::ALL {
            let data = default_data(provider, true, None);
            assert!(!data.is_empty() && data.values().all(|value| value == "$(KEY)"));
        }
    }
}
