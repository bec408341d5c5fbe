//! Arguments of `kubectl llmkey`.

mod examples;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Styles;
use clap::{Args, ColorChoice, Parser, Subcommand};

use super::usage::By;
pub use examples::examples;
use examples::{
    APPROVE_EXAMPLES, BUNDLE_EXAMPLES, BURN_EXAMPLES, COMPLETION_EXAMPLES, DESCRIBE_EXAMPLES,
    DOCTOR_EXAMPLES, EXAMPLES, IMPORT_EXAMPLES, PIN_EXAMPLES, PLAN_EXAMPLES, ROTATE_EXAMPLES,
    STATUS_EXAMPLES, USAGE_EXAMPLES, VERIFY_EXAMPLES, WHO_EXAMPLES,
};

use super::{Output, WideOutput};
use crate::api::PublicProvider;
use crate::cli::{VerifyArgs, duration};

const EXIT_CODES: &str = "\
Exit codes: 0 answered or done; 1 it was not done in time, or what was checked is not as it should be; 2 there is no answer (wrong arguments, an unreadable file, no access).";

/// Asks about LLM provider keys in a cluster, and asks for what a person decides. `rotate`, `approve`, `burn` and `pin` change an `LLMKey`,
/// `import --apply` makes one; nothing else writes.
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
    /// All keys: what works, what does not, and what is next.
    #[command(before_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// What keys have used, as their providers report it.
    #[command(before_help = USAGE_EXAMPLES)]
    Usage(UsageArgs),
    /// One key: what it waits for, who has which version, and what happened when.
    #[command(before_help = DESCRIBE_EXAMPLES)]
    Describe(KeyArgs),
    /// Asks for another key now.
    #[command(before_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
    /// Approves the revocation that waits for it.
    #[command(before_help = APPROVE_EXAMPLES)]
    Approve(RotateArgs),
    /// Break-glass: revokes versions now, without an overlap; the one in use is replaced first.
    #[command(before_help = BURN_EXAMPLES)]
    Burn(BurnArgs),
    /// Keeps the key of one version.
    #[command(before_help = PIN_EXAMPLES)]
    Pin(PinArgs),
    /// The rotations to come: when, by whom, why, and what stands in their way.
    #[command(before_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Which workloads and pods have which version of a key.
    #[command(before_help = WHO_EXAMPLES)]
    Who(KeyArgs),
    /// The operator's audit trail.
    #[command(subcommand)]
    Audit(AuditCommands),
    /// Makes an LLMKey of a Secret that is there, or of a .env file. Without --apply it only tells what it would do.
    #[command(before_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// Whether the installation works, and what to do where it does not.
    #[command(before_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Writes what somebody needs who helps with an installation into one file: objects, events, log lines, without keys and data of
    /// Secrets.
    #[command(before_help = BUNDLE_EXAMPLES)]
    SupportBundle(BundleArgs),
    /// Prints the program by which kubectl completes this command.
    #[command(before_help = COMPLETION_EXAMPLES)]
    Completion,
    /// For the program that `completion` prints.
    #[command(name = "__complete", hide = true, disable_help_flag = true)]
    Complete(CompleteArgs),
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

/// Of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: WideOutput,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `usage`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct UsageArgs {
    /// One LLMKey [default: all].
    #[arg(conflicts_with = "all_namespaces")]
    pub name: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// What a row is about.
    #[arg(long, value_enum, default_value_t)]
    pub by: By,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: WideOutput,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// The operator's namespace.
    #[arg(long, default_value = "llmkey-system")]
    pub operator_namespace: String,
    /// LLMKeys of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// How the answer looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `support-bundle`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BundleArgs {
    /// A file that ends in .tar.gz, or a directory; it must not exist [default: llmkey-support-TIME.tar.gz].
    #[arg(long, value_name = "PATH")]
    pub to: Option<PathBuf>,
    /// The operator's namespace.
    #[arg(long, default_value = "llmkey-system")]
    pub operator_namespace: String,
    /// LLMKeys, policies and events of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Log lines of each of the operator's pods, the last ones.
    #[arg(long, value_name = "LINES", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub log_lines: u32,
    /// A file with the operator's log lines, instead of asking its pods for them.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `import`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ImportArgs {
    /// A Secret that is there. Under its own name it is taken over with nothing but the key in it.
    #[arg(required_unless_present = "env_file", conflicts_with = "env_file")]
    pub secret: Option<String>,
    /// The entry of the Secret that is the key [default: its only one].
    #[arg(long, requires = "secret")]
    pub entry: Option<String>,
    /// A file of NAME=value lines; - is standard input. Each variable that a provider's SDK reads becomes an LLMKey.
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Name of the LLMKey, and of the Secret that it delivers to [default: that of the Secret, or the variable's in small letters].
    #[arg(long)]
    pub name: Option<String>,
    /// Whose key it is, where it has a public endpoint, for example OpenAI [default: told by the entry's or variable's name].
    #[arg(long, value_parser = provider)]
    pub provider: Option<PublicProvider>,
    /// The LLMProvider of the key, for an account or an endpoint of your own.
    #[arg(long, value_name = "NAME", conflicts_with = "provider")]
    pub provider_ref: Option<String>,
    /// The RotationPolicy to follow.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Does it.
    #[arg(long)]
    pub apply: bool,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// A provider by the name that `spec.provider` has for it.
fn provider(name: &str) -> Result<PublicProvider, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// Of `rotate` and `approve`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RotateArgs {
    /// The LLMKey.
    pub name: String,
    /// Whether it is waited for.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `burn`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BurnArgs {
    /// The LLMKey.
    pub name: String,
    /// Versions [default: the one in use].
    pub versions: Vec<i32>,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Whether it is waited for.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Of `pin`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PinArgs {
    /// The LLMKey.
    pub name: String,
    /// The version whose key is kept.
    #[arg(required_unless_present = "off")]
    pub version: Option<i32>,
    /// Keeps none any more.
    #[arg(long, conflicts_with = "version")]
    pub off: bool,
    /// Whether it is waited for.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Whether what was asked for is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct WaitArgs {
    /// Waits until it is done, with a line for each change.
    #[arg(short, long)]
    pub wait: bool,
    /// How long, as kubectl has it: 90s, 15m, 1h30m.
    #[arg(long, default_value = "15m", requires = "wait", value_parser = duration)]
    pub timeout: Duration,
}

/// Of `__complete`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CompleteArgs {
    /// The words after `kubectl llmkey`, the last one to be completed.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Of `who` and `describe`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct KeyArgs {
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
        assert_eq!(examples.len(), 40, "{examples:?}");
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
        for words in [
            &["plan", "-A", "-n", "team"][..],
            &["who"],
            &["usage", "chat", "-A"],
            &["usage", "--by", "mood"],
            &["plan", "--days", "0"],
            &["rotate"],
            &["rotate", "chat", "--timeout", "1m"],
            &["rotate", "chat", "--wait", "--timeout", "-1m"],
            &["pin", "chat"],
            &["pin", "chat", "3", "--off"],
            &["burn", "chat", "three"],
            &["support-bundle", "--log-lines", "0"],
            &["import"],
            &["import", "chat", "--env-file", ".env"],
            &["import", "chat", "--provider", "Nobody"],
            &["import", "chat", "--provider", "OpenAI", "--provider-ref", "mine"],
            &[],
        ] {
            assert_eq!(parse(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
