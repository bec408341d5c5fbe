//! Command line and configuration. Nothing else reads flags or the environment.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::telemetry::log::LogFormat;

/// Where Kubernetes tells a pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// The operator's namespace outside of a cluster.
const DEFAULT_NAMESPACE: &str = "llmkey-system";
/// Longest name of a namespace.
const MAX_NAMESPACE: usize = 63;

/// Why the process cannot begin; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments are wrong.
    #[error("{0}; see llmkey-operator --help")]
    Usage(String),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The CRDs cannot be written as YAML.
    #[error("cannot write the CRDs as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// Owns the whole life of LLM provider keys in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "llmkey-operator", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Runs the operator.
    Run(Box<RunArgs>),
    /// Prints the custom resource definitions as YAML.
    Crds,
    /// Waits before an uninstallation until nothing is being made or revoked, and tells what is left.
    Drain(DrainArgs),
    /// The audit trail.
    #[command(subcommand)]
    Audit(AuditCommands),
}

#[derive(Debug, Subcommand)]
enum AuditCommands {
    /// Checks that an audit trail is whole: nothing taken out, nothing put in, nothing edited.
    ///
    /// kubectl logs -n llmkey-system deploy/llmkey-operator --since=24h | llmkey-operator audit verify
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
}

/// How the operator notices that a Secret outside of its namespace has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecretsMode {
    /// A watch of all their metadata: at once.
    Watch,
    /// Each that an `LLMKey` names is asked for once a minute.
    Poll,
}

/// How long `drain` waits, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DrainArgs {
    /// Namespace of the operator's own Secrets [default: `POD_NAMESPACE`, or llmkey-system].
    #[arg(long, env = "POD_NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = namespace)]
    pub operator_namespace: String,
    /// Kubeconfig file [default: the pod's service account, else KUBECONFIG, else ~/.kube/config].
    #[arg(long, env = "LLMKEY_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces that the operator serves, with commas between them [default: all].
    #[arg(long, env = "LLMKEY_WATCH_NAMESPACES", value_delimiter = ',', value_parser = namespace)]
    pub watch_namespaces: Vec<String>,
    /// How long at most, as kubectl has it: 90s, 15m, 1h30m.
    #[arg(long, default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
    /// Ends with an error while there are LLMKeys: for a release that takes the CRDs with it.
    #[arg(long)]
    pub refuse_while_keys_exist: bool,
}

/// What `audit verify` reads.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct VerifyArgs {
    /// Files with log lines, oldest first [default: standard input].
    pub files: Vec<PathBuf>,
    /// Compares the end of each chain with its ledger in the cluster: only that shows an end that was cut off.
    #[arg(long)]
    pub ledgers: bool,
    /// Namespace of the ledgers.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_parser = namespace)]
    pub operator_namespace: String,
    /// Kubeconfig file for --ledgers [default: KUBECONFIG, else ~/.kube/config].
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig for --ledgers [default: its current one].
    #[arg(long)]
    pub context: Option<String>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Args)]
struct RunArgs {
    /// Namespace of the operator's own Secrets and Lease [default: `POD_NAMESPACE`, the service
    /// account's, or llmkey-system].
    #[arg(long, env = "LLMKEY_OPERATOR_NAMESPACE", value_parser = namespace)]
    operator_namespace: Option<String>,
    /// Namespaces whose `LLMKey`s and `RotationPolicy`s are served, with commas between them; others are left alone
    /// [default: all].
    #[arg(long, env = "LLMKEY_WATCH_NAMESPACES", value_delimiter = ',', value_parser = namespace)]
    watch_namespaces: Vec<String>,
    /// How changed Secrets outside of the operator's namespace are noticed; poll needs no right to list them.
    #[arg(long, env = "LLMKEY_SECRETS", default_value = "watch")]
    secrets: SecretsMode,
    /// Kubeconfig file [default: the pod's service account, else KUBECONFIG, else ~/.kube/config].
    #[arg(long, env = "LLMKEY_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Directory with the key-encryption keys [default: a Secret in the operator's namespace].
    #[arg(long, env = "LLMKEY_KEYRING_DIR")]
    keyring_dir: Option<PathBuf>,
    /// File with the cluster's token that Azure exchanges for one of its own, as workload identity mounts it.
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE")]
    azure_federated_token_file: Option<PathBuf>,
    /// File with the cluster's token that Google exchanges for one of its own (workload identity federation).
    #[arg(long, env = "LLMKEY_GOOGLE_TOKEN_FILE")]
    google_token_file: Option<PathBuf>,
    /// File with the cluster's token that AWS exchanges for temporary keys (web identity), as EKS mounts it.
    #[arg(long, env = "AWS_WEB_IDENTITY_TOKEN_FILE")]
    aws_token_file: Option<PathBuf>,
    /// Address of /metrics, /healthz, /readyz and /log-level.
    #[arg(long, env = "LLMKEY_METRICS_LISTEN", default_value = "0.0.0.0:8080")]
    metrics_listen: SocketAddr,
    /// Exports gauges that carry the namespace and name of each key.
    #[arg(long, env = "LLMKEY_PER_KEY_METRICS", default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    per_key_metrics: bool,
    /// Takes part in an election, so that one of several replicas works.
    #[arg(long, env = "LLMKEY_LEADER_ELECT", default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: bool,
    /// Name of the election's Lease.
    #[arg(long, env = "LLMKEY_LEASE_NAME", default_value = "llmkey-operator")]
    lease_name: String,
    /// Name of this process in the Lease and in events [default: `POD_NAME`, or host name and process id].
    #[arg(long, env = "LLMKEY_IDENTITY")]
    identity: Option<String>,
    /// Reconciles at the same time, for each kind; of LLMKeys, for each provider.
    #[arg(long, env = "LLMKEY_CONCURRENCY", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Level (error, warn, info, debug, trace) or list of target=level; dependencies stay at warn.
    #[arg(long, env = "LLMKEY_LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// How log lines look.
    #[arg(long, env = "LLMKEY_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
    /// File to which the audit trail is appended; - is standard output, among the log lines.
    #[arg(long, env = "LLMKEY_AUDIT_LOG", default_value = "-")]
    audit_log: PathBuf,
    /// Asks the API server for streaming lists; false for servers that cannot.
    #[arg(long, env = "LLMKEY_STREAMING_LISTS", default_value_t = true, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    streaming_lists: bool,
    /// Restarts workloads that use a rotated key, where their `LLMKey` does not say otherwise; needs rights that the chart gives
    /// with `rollout.enabled`.
    #[arg(long, env = "LLMKEY_ROLLOUT", default_value_t = false, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rollout: bool,
    /// For tests only: divides every duration; the operator then refuses providers that are not on loopback.
    #[arg(long, env = "LLMKEY_TEST_TIME_DIVISOR", default_value_t = 1, hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    test_time_divisor: u32,
}

/// What the process was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `llmkey-operator run`.
    Run(Box<Config>),
    /// `llmkey-operator crds`.
    Crds,
    /// `llmkey-operator drain`.
    Drain(DrainArgs),
    /// `llmkey-operator audit verify`.
    Verify(VerifyArgs),
}

/// Everything that can be set from outside, with defaults filled in.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Namespace of the operator's own Secrets and Lease.
    pub operator_namespace: String,
    /// The namespaces that are served; none named: all.
    pub watch_namespaces: Vec<String>,
    /// How changed Secrets are noticed.
    pub secrets: SecretsMode,
    /// Kubeconfig file; `None` = the service account, else the usual places.
    pub kubeconfig: Option<PathBuf>,
    /// Directory with the key-encryption keys; `None` = a Secret in the operator's namespace.
    pub keyring_dir: Option<PathBuf>,
    /// The cluster's token that Azure exchanges for one of its own.
    pub federated_token_file: Option<PathBuf>,
    /// The cluster's token that Google exchanges for one of its own.
    pub google_token_file: Option<PathBuf>,
    /// The cluster's token that AWS exchanges for temporary keys.
    pub aws_token_file: Option<PathBuf>,
    /// Address of the HTTP endpoints.
    pub metrics_listen: SocketAddr,
    /// Whether metrics carry the names of keys.
    pub per_key_metrics: bool,
    /// Whether an election decides who works.
    pub leader_elect: bool,
    /// Name of the election's Lease.
    pub lease_name: String,
    /// Name of this process in the Lease and in events.
    pub identity: String,
    /// Reconciles at the same time, for each kind; of LLMKeys, for each provider. at least 1.
    pub concurrency: u16,
    /// Log filter at the start.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where the audit trail goes; `-` is standard output.
    pub audit_log: PathBuf,
    /// Whether watches use streaming lists.
    pub streaming_lists: bool,
    /// Whether workloads are restarted.
    pub rollout: bool,
    /// Divisor of every duration; 1 except in tests.
    pub test_time_divisor: u32,
}

/// What the surroundings say where no flag does.
#[derive(Debug, Default)]
struct Surroundings {
    pod_namespace: Option<String>,
    account_namespace: Option<String>,
    pod_name: Option<String>,
    host_name: Option<String>,
    process_id: u32,
}

impl Surroundings {
    fn read() -> Self {
        let file = |path| fs::read_to_string(path).ok();
        Self {
            pod_namespace: env::var("POD_NAMESPACE").ok(),
            account_namespace: file(NAMESPACE_FILE),
            pod_name: env::var("POD_NAME").ok(),
            host_name: file("/proc/sys/kernel/hostname"),
            process_id: std::process::id(),
        }
    }
}

impl Config {
    fn resolve(args: RunArgs, around: Surroundings) -> Self {
        let filled = |text: Option<String>| text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        let operator_namespace = args
            .operator_namespace
            .or_else(|| filled(around.pod_namespace))
            .or_else(|| filled(around.account_namespace))
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let identity = filled(args.identity).or_else(|| filled(around.pod_name)).unwrap_or_else(|| {
            format!("{}-{}", filled(around.host_name).as_deref().unwrap_or("unknown"), around.process_id)
        });
        Self {
            operator_namespace,
            watch_namespaces: args.watch_namespaces,
            secrets: args.secrets,
            kubeconfig: args.kubeconfig,
            keyring_dir: args.keyring_dir,
            federated_token_file: args.azure_federated_token_file,
            google_token_file: args.google_token_file,
            aws_token_file: args.aws_token_file,
            metrics_listen: args.metrics_listen,
            per_key_metrics: args.per_key_metrics,
            leader_elect: args.leader_elect,
            lease_name: args.lease_name,
            identity,
            concurrency: args.concurrency,
            log_level: args.log_level,
            log_format: args.log_format,
            audit_log: args.audit_log,
            streaming_lists: args.streaming_lists,
            rollout: args.rollout,
            test_time_divisor: args.test_time_divisor,
        }
    }
}

/// Reads the command line and the environment. Help and version are printed, and `None` returned.
pub fn parse() -> Result<Option<Command>, CliError> {
    parse_from(env::args_os(), Surroundings::read())
}

fn parse_from<I>(args: I, around: Surroundings) -> Result<Option<Command>, CliError>
where
    I: IntoIterator<Item: Into<std::ffi::OsString> + Clone>,
{
    match Cli::try_parse_from(args) {
        Ok(Cli { command: Subcommands::Run(args) }) => {
            Ok(Some(Command::Run(Box::new(Config::resolve(*args, around)))))
        }
        Ok(Cli { command: Subcommands::Crds }) => Ok(Some(Command::Crds)),
        Ok(Cli { command: Subcommands::Drain(args) }) => Ok(Some(Command::Drain(args))),
        Ok(Cli { command: Subcommands::Audit(AuditCommands::Verify(args)) }) => {
            Ok(Some(Command::Verify(args)))
        }
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print()?;
            Ok(None)
        }
        Err(error) => Err(CliError::Usage(one_sentence(&error))),
    }
}

/// clap's errors go on with a usage text; the first paragraph says what is wrong.
fn one_sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is needed: run, crds, drain or audit".to_owned();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

/// Prints the CRDs as one YAML stream.
pub fn print_crds() -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    for crd in crate::api::crds() {
        write!(out, "---\n{}", serde_saphyr::to_string(&crd)?)?;
    }
    Ok(out.flush()?)
}

/// A duration as kubectl has it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration like 90s, 15m or 1h30m".to_owned();
    kube::core::Duration::from_str(text)
        .ok()
        .filter(|d| !d.is_negative())
        .map(Duration::from)
        .ok_or_else(wrong)
}

fn namespace(text: &str) -> Result<String, &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    if (1..=MAX_NAMESPACE).contains(&text.len()) && text.chars().all(inner) && edges {
        Ok(text.to_owned())
    } else {
        Err("not a namespace's name: lower-case letters, digits and inner dashes, at most 63")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(args: &[&str], around: Surroundings) -> Result<Config, String> {
        let args = ["llmkey-operator", "run"].iter().chain(args);
        match parse_from(args, around) {
            Ok(Some(Command::Run(config))) => Ok(*config),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_fit_a_pod() {
        let pod = Surroundings {
            pod_namespace: Some("keys".into()),
            account_namespace: Some("other".into()),
            pod_name: Some("operator-abc".into()),
            ..Surroundings::default()
        };
        let config = run(&[], pod).unwrap();
        assert_eq!((config.operator_namespace.as_str(), config.identity.as_str()), ("keys", "operator-abc"));
        assert!(config.leader_elect && config.streaming_lists && config.per_key_metrics);
        assert_eq!((config.concurrency, config.test_time_divisor, config.rollout), (16, 1, false));
        assert!(config.watch_namespaces.is_empty() && config.secrets == SecretsMode::Watch);
    }

    #[test]
    fn defaults_fit_a_desk() {
        let desk = || Surroundings { host_name: Some("desk\n".into()), process_id: 7, ..Default::default() };
        let config = run(&[], desk()).unwrap();
        assert_eq!(
            (config.operator_namespace.as_str(), config.identity.as_str()),
            ("llmkey-system", "desk-7")
        );
        let file = Surroundings { account_namespace: Some("mounted\n".into()), ..desk() };
        assert_eq!(run(&[], file).unwrap().operator_namespace, "mounted");
    }

    #[test]
    fn flags_win() {
        let pod = Surroundings { pod_namespace: Some("keys".into()), ..Surroundings::default() };
        let args = [
            "--operator-namespace=ops",
            "--identity=me",
            "--leader-elect=false",
            "--per-key-metrics",
            "--log-format=text",
            "--metrics-listen=127.0.0.1:0",
            "--watch-namespaces=team-a,team-b",
            "--secrets=poll",
        ];
        let config = run(&args, pod).unwrap();
        assert_eq!((config.operator_namespace.as_str(), config.identity.as_str()), ("ops", "me"));
        assert!(!config.leader_elect && config.per_key_metrics);
        assert_eq!(config.log_format, LogFormat::Text);
        assert_eq!(
            (config.watch_namespaces.join(" "), config.secrets),
            ("team-a team-b".to_owned(), SecretsMode::Poll)
        );
    }

    #[test]
    fn mistakes_are_told_in_one_sentence() {
        for args in [
            &["--concurrency=0"][..],
            &["--test-time-divisor=0"],
            &["--no-such-flag"],
            &["--watch-namespaces=team-a,"],
            &["--secrets=never"],
            &["--metrics-listen=everywhere"],
        ] {
            let error = run(args, Surroundings::default()).unwrap_err();
            assert!(error.lines().count() == 1 && !error.starts_with("error"), "{error}");
        }
        let bare = parse_from(["llmkey-operator"], Surroundings::default()).unwrap_err();
        assert!(bare.to_string().starts_with("a command is needed"), "{bare}");
    }

    #[test]
    fn the_test_divisor_is_no_part_of_the_short_help() {
        let mut cli = Cli::command();
        let run = cli.find_subcommand_mut("run").unwrap();
        assert!(!run.render_help().to_string().contains("test-time-divisor"));
        assert!(run.render_long_help().to_string().contains("test-time-divisor"));
    }
}
