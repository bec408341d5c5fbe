//! Arguments of `kubectl llmkey`.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::{Args, ColorChoice, Parser, Subcommand};

use super::Output;
use crate::cli::VerifyArgs;

/// Each is run by a test.
const EXAMPLES: &str = "\
Examples:
  # What is rotated in the next 30 days in this namespace: when, by whom and why
  kubectl llmkey plan

  # Which pods still have an older key of the LLMKey chat
  kubectl llmkey who chat

  # Whether the operator's audit trail is whole
  kubectl logs -n llmkey-system deploy/llmkey-operator | kubectl llmkey audit verify
";

const PLAN_EXAMPLES: &str = "\
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

const WHO_EXAMPLES: &str = "\
Examples:
  # Which workloads have which version of the LLMKey chat
  kubectl llmkey who chat

  # Each pod, for a program
  kubectl llmkey who chat -n team-a -o json
";

const VERIFY_EXAMPLES: &str = "\
Examples:
  # The trail of a day, as far as it goes
  kubectl logs -n llmkey-system deploy/llmkey-operator --since=24h | kubectl llmkey audit verify

  # Whole files, and whether their end is the ledgers' (needs rights to read the operator's Secrets)
  kubectl llmkey audit verify --ledgers monday.log tuesday.log
";

const EXIT_CODES: &str = "\
Exit codes: 0 answered; 1 the audit trail is not whole; 2 there is no answer (wrong arguments, an unreadable file, no access).";

/// Asks about LLM provider keys in a cluster. Nothing is ever written.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl llmkey",
    bin_name = "kubectl llmkey",
    version,
    before_help = EXAMPLES,
    after_help = EXIT_CODES,
    color = ColorChoice::Never,
    styles = Styles::plain(),
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The rotations to come: when, by whom, why, and what stands in their way.
    #[command(before_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Which workloads and pods have which version of a key.
    #[command(before_help = WHO_EXAMPLES)]
    Who(WhoArgs),
    /// The operator's audit trail.
    #[command(subcommand)]
    Audit(AuditCommands),
}

/// Of the audit trail.
#[derive(Debug, Subcommand)]
pub enum AuditCommands {
    /// Checks that an audit trail is whole: nothing taken out, nothing put in, nothing edited.
    #[command(before_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
}

/// Which cluster, and where in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ClusterArgs {
    /// Kubeconfig file [default: KUBECONFIG, else ~/.kube/config].
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long)]
    pub context: Option<String>,
    /// Namespace [default: the context's].
    #[arg(long, short)]
    pub namespace: Option<String>,
}

/// Of `plan`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PlanArgs {
    /// Reads LLMKeys and policies from a file of YAML documents instead of the cluster; - is standard input. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How many days ahead.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
    pub days: u16,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// For tests only: that of the operator.
    #[arg(long, default_value_t = 1, hide = true)]
    pub test_time_divisor: u32,
}

impl PlanArgs {
    /// The one namespace that was asked for, of files.
    pub fn scope(&self) -> Option<&str> {
        self.cluster.namespace.as_deref()
    }
}

/// Of `who`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct WhoArgs {
    /// The LLMKey.
    pub name: String,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// For tests only: that of the operator.
    #[arg(long, default_value_t = 1, hide = true)]
    pub test_time_divisor: u32,
}

/// The commands of all help texts, each as its words after `kubectl llmkey`.
pub fn examples() -> Vec<Vec<&'static str>> {
    let texts = [EXAMPLES, PLAN_EXAMPLES, WHO_EXAMPLES, VERIFY_EXAMPLES];
    let lines = texts.into_iter().flat_map(str::lines);
    lines
        .filter_map(|line| line.split_once("kubectl llmkey "))
        .map(|(_, words)| words.split_whitespace().collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["kubectl-llmkey"].iter().chain(words))
    }

    #[test]
    fn the_definition_is_sound_and_every_example_can_be_typed() {
        Cli::command().debug_assert();
        let examples = examples();
        assert_eq!(examples.len(), 11, "{examples:?}");
        for example in examples {
            assert!(parse(&example).is_ok(), "{example:?}: {}", parse(&example).unwrap_err());
        }
    }

    #[test]
    fn help_begins_with_examples_and_has_no_colour() {
        for words in [&["--help"][..], &["plan", "--help"], &["who", "-h"], &["audit", "verify", "--help"]] {
            let help = parse(words).unwrap_err();
            assert_eq!(help.exit_code(), 0);
            let help = help.render().ansi().to_string();
            assert!(help.starts_with("Examples:\n") && !help.contains('\u{1b}'), "{help}");
            assert!(!help.contains("test-time-divisor"));
        }
        assert!(parse(&["--help"]).unwrap_err().to_string().contains("Exit codes: 0 "));
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_exit_code_2() {
        for words in [&["plan", "-A", "-n", "team"][..], &["who"], &["plan", "--days", "0"], &["rotate"], &[]]
        {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
