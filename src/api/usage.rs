//! What keys use: in the status of an `LLMKey`, and the thresholds of a policy. Money is text, since Kubernetes has no decimals.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the published key has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// Reported; or NotReported: the provider does not tell it by key, or the operator does not know the key's id there because a
    /// person supplied it.
    #[schemars(length(max = 32))]
    pub reason: String,
    /// When the provider was asked that first told these amounts, RFC 3339. It is asked every hour, and amounts that it tells
    /// again are not written again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub as_of: Option<String>,
    /// What was used of it in the current period; absent if nothing was, or the provider does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<UsageWindow>,
    /// What was used since the key was made, or within 180 days if that is longer ago and the provider tells it by the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<UsageAmounts>,
}

/// Amounts. What the provider does not report is absent, which is not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageAmounts {
    /// Requests to models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<i64>,
    /// Tokens that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// Tokens that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Cost in US dollars, for example 12.50.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub cost_usd: Option<String>,
}

/// Amounts of one period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageWindow {
    /// When it began, RFC 3339: midnight, UTC. Absent where the provider does not tell: at a LiteLLM proxy whose keys have a
    /// budgetDuration it is the current period of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub start: Option<String>,
    /// Requests to models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<i64>,
    /// Tokens that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<i64>,
    /// Tokens that came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<i64>,
    /// Cost in US dollars.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub cost_usd: Option<String>,
}

/// How much a key may use, in all, before the next one takes its place. The first that is reached counts; one that the provider
/// does not report is never reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.requests) || has(self.tokens) || has(self.costUSD)").message("set at least one of requests, tokens, costUSD"))]
pub struct UsageThresholds {
    /// Requests to models. Reported by OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub requests: Option<i64>,
    /// Tokens, sent and received together. Reported by OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub tokens: Option<i64>,
    /// Cost in US dollars as text, more than 0, at most six decimals, for example "50" or "0.25". Reported by OpenAI, OpenRouter and LiteLLM.
    #[serde(default, rename = "costUSD", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"))]
    #[x_kube(validation = Rule::new("self.matches('[1-9]')").message("more than 0"))]
    pub cost_usd: Option<String>,
}

impl UsageWindow {
    /// Its amounts.
    pub fn amounts(&self) -> UsageAmounts {
        UsageAmounts {
            requests: self.requests,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost_usd: self.cost_usd.clone(),
        }
    }
}
