//! The custom resources, group `llmkeys.dev`.
