//! The examples that each help text begins with.

/// Each is run by a test.
pub(super) const EXAMPLES: &str = "\
Examples:
  # What is rotated in the next 30 days in this namespace: when, by whom and why
  kubectl llmkey plan

  # Which pods still have an older key of the LLMKey chat
  kubectl llmkey who chat

  # All keys of this namespace: what works, what does not, and what is next
  kubectl llmkey status

  # What the LLMKey chat waits for, who has which version, and what happened when
  kubectl llmkey describe chat

  # What the keys of this namespace have used: requests, tokens and cost, as their providers report it
  kubectl llmkey usage

  # Another key now, and a line for each step until it is delivered
  kubectl llmkey rotate chat --wait

  # What would be made of Secret openai, whose one entry is a key; nothing is changed
  kubectl llmkey import openai

  # Whether the operator's audit trail is whole
  kubectl logs -n llmkey-system deploy/llmkey-operator | kubectl llmkey audit verify
";

pub(super) const STATUS_EXAMPLES: &str = "\
Examples:
  # This namespace
  kubectl llmkey status

  # All namespaces, with providers, policies and Secrets
  kubectl llmkey status -A -o wide
";

pub(super) const USAGE_EXAMPLES: &str = "\
Examples:
  # This namespace, a line for each key
  kubectl llmkey usage

  # One key, with what its published version alone has used
  kubectl llmkey usage chat -o wide

  # All namespaces, summed up by namespace, or by provider for a program
  kubectl llmkey usage -A --by namespace
  kubectl llmkey usage -A --by provider -o json
";

pub(super) const DESCRIBE_EXAMPLES: &str = "\
Examples:
  # What the LLMKey chat waits for, who has which version, and what happened when
  kubectl llmkey describe chat
";

pub(super) const ROTATE_EXAMPLES: &str = "\
Examples:
  # Another key for the LLMKey chat
  kubectl llmkey rotate chat

  # The same, and a line for each step until it is delivered, or an hour has passed
  kubectl llmkey rotate chat --wait --timeout 1h
";

pub(super) const APPROVE_EXAMPLES: &str = "\
Examples:
  # The older key of the LLMKey chat may be revoked (the policy says approval: Manual)
  kubectl llmkey approve chat
";

pub(super) const BURN_EXAMPLES: &str = "\
Examples:
  # The key in use has leaked: it is replaced and revoked, without an overlap
  kubectl llmkey burn chat

  # Two older versions, without being asked, until they are revoked
  kubectl llmkey burn chat 3 4 --yes --wait
";

pub(super) const PIN_EXAMPLES: &str = "\
Examples:
  # Back to the key of version 3, and no rotation
  kubectl llmkey pin chat 3

  # Rotations go on
  kubectl llmkey pin chat --off
";

pub(super) const IMPORT_EXAMPLES: &str = "\
Examples:
  # What would be made of Secret openai, whose one entry is a key; nothing is changed
  kubectl llmkey import openai

  # The same, done: workloads go on using Secret openai, and the operator watches over it
  kubectl llmkey import openai --apply

  # One entry of a Secret that holds more: it stays, and the key is delivered to Secret groq besides
  kubectl llmkey import app --entry GROQ_API_KEY --name groq --apply

  # All keys of a .env file
  kubectl llmkey import --env-file .env
";

pub(super) const DOCTOR_EXAMPLES: &str = "\
Examples:
  # Whether the installation works, and the keys of all namespaces
  kubectl llmkey doctor -A

  # An operator in a namespace of another name
  kubectl llmkey doctor --operator-namespace keys
";

pub(super) const BUNDLE_EXAMPLES: &str = "\
Examples:
  # All that helps to find out what is wrong, of all namespaces
  kubectl llmkey support-bundle -A

  # One team's LLMKeys, as a directory to look through
  kubectl llmkey support-bundle -n team-a --to bundle

  # With log lines that were saved before the pods were gone
  kubectl llmkey support-bundle -A --log-file operator.log --to incident.tar.gz
";

pub(super) const COMPLETION_EXAMPLES: &str = "\
Examples:
  # Names of commands, flags and LLMKeys after the tabulator, wherever kubectl completes
  kubectl llmkey completion > ~/.local/bin/kubectl_complete-llmkey
  chmod +x ~/.local/bin/kubectl_complete-llmkey
";

pub(super) const PLAN_EXAMPLES: &str = "\
Examples:
  # The next 30 days in this namespace
  kubectl llmkey plan

  # The next week in all namespaces, for a program
  kubectl llmkey plan -A --days 7 -o json

  # What a policy would do, before it is applied; no cluster is asked
  kubectl llmkey plan -f policy.yaml -f keys.yaml

  # The same with the keys as they are
  kubectl get llmkeys -o yaml | kubectl llmkey plan -f policy.yaml -f -
";

pub(super) const WHO_EXAMPLES: &str = "\
Examples:
  # Which workloads have which version of the LLMKey chat
  kubectl llmkey who chat

  # Each pod, for a program
  kubectl llmkey who chat -n team-a -o json
";

pub(super) const VERIFY_EXAMPLES: &str = "\
Examples:
  # The trail of a day, as far as it goes
  kubectl logs -n llmkey-system deploy/llmkey-operator --since=24h | kubectl llmkey audit verify

  # Whole files, and whether their end is the ledgers' (needs rights to read the operator's Secrets)
  kubectl llmkey audit verify --ledgers monday.log tuesday.log
";

/// The commands of all help texts, each as its words after `kubectl llmkey`.
pub fn examples() -> Vec<Vec<&'static str>> {
    let texts = [
        EXAMPLES,
        STATUS_EXAMPLES,
        USAGE_EXAMPLES,
        DESCRIBE_EXAMPLES,
        ROTATE_EXAMPLES,
        APPROVE_EXAMPLES,
        BURN_EXAMPLES,
        PIN_EXAMPLES,
        PLAN_EXAMPLES,
        WHO_EXAMPLES,
        VERIFY_EXAMPLES,
        IMPORT_EXAMPLES,
        DOCTOR_EXAMPLES,
        BUNDLE_EXAMPLES,
        COMPLETION_EXAMPLES,
    ];
    let lines = texts.into_iter().flat_map(str::lines);
    lines
        .filter_map(|line| line.split_once("kubectl llmkey "))
        .map(|(_, words)| words.split_whitespace().take_while(|word| *word != ">").collect())
        .collect()
}
