//! Completion, as kubectl has it for plugins: a program of the name `kubectl_complete-llmkey` on the `PATH` is given the words and
//! prints what may follow, one a line, and in the end what the shell should do.
//! <https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/#using-the-cli-runtime-package> and `kubectl help plugin`.

use clap::{ArgAction, Command, CommandFactory, Parser};
use kube::ResourceExt;

use super::args::{Cli, ClusterArgs};
use super::cluster;

/// The program.
pub const PROGRAM: &str = "#!/bin/sh\nexec kubectl llmkey __complete -- \"$@\"\n";

/// The shell is to complete no file names: cobra's `ShellCompDirectiveNoFileComp`.
const NO_FILES: &str = ":4\n";

/// What may stand in the place of the last word.
pub async fn complete(words: &[String]) -> String {
    let (last, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let candidates = match place(before, last) {
        Place::Words(words) => words,
        Place::Key => keys(before).await,
    };
    let fitting = candidates.into_iter().filter(|candidate| candidate.starts_with(last));
    fitting.map(|candidate| candidate + "\n").collect::<String>() + NO_FILES
}

/// What stands there.
enum Place {
    /// One of these.
    Words(Vec<String>),
    /// The name of an `LLMKey`.
    Key,
}

fn place(before: &[String], last: &str) -> Place {
    let root = Cli::command();
    let mut command = &root;
    let mut given = 0;
    let mut words = before.iter();
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix('-') {
            if takes_a_value(command, flag) {
                words.next();
            }
        } else if let Some(found) = command.find_subcommand(word) {
            command = found;
        } else {
            given += 1;
        }
    }
    if last.starts_with('-') {
        let flags = command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long());
        return Place::Words(flags.map(|flag| format!("--{flag}")).chain(["--help".to_owned()]).collect());
    }
    let names = command.get_positionals().next().is_some_and(|arg| arg.get_id() == "name");
    if names && given == 0 {
        return Place::Key;
    }
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    Place::Words(commands.map(|command| command.get_name().to_owned()).collect())
}

fn takes_a_value(command: &Command, flag: &str) -> bool {
    let long = flag.strip_prefix('-');
    command.get_arguments().any(|arg| {
        let named = match long {
            Some(long) => arg.get_long() == Some(long),
            None => flag.chars().count() == 1 && arg.get_short() == flag.chars().next(),
        };
        named && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
    })
}

/// Which cluster the words before say.
#[derive(Parser)]
struct Cluster {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Of words, those that say which cluster.
fn cluster_words(before: &[String]) -> Vec<&str> {
    const FLAGS: [&str; 4] = ["-n", "--namespace", "--context", "--kubeconfig"];
    let mut words = before.iter().map(String::as_str);
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if FLAGS.contains(&word) {
            kept.push(word);
            kept.extend(words.next());
        } else if word.split_once('=').is_some_and(|(flag, _)| FLAGS.contains(&flag)) {
            kept.push(word);
        }
    }
    kept
}

/// Names of LLMKeys; none if the cluster does not answer.
async fn keys(before: &[String]) -> Vec<String> {
    let words = std::iter::once("kubectl-llmkey").chain(cluster_words(before));
    let Ok(Cluster { cluster }) = Cluster::try_parse_from(words) else { return Vec::new() };
    let found = cluster::keys(&cluster, false).await;
    found.map(|objects| objects.keys.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(words: &[&str]) -> Option<Vec<String>> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let (last, before) = words.split_last()?;
        match place(before, last) {
            Place::Words(words) => Some(words),
            Place::Key => None,
        }
    }

    #[test]
    fn commands_flags_and_names_are_told_apart() {
        let commands = at(&[""]).unwrap();
        assert!(commands.contains(&"rotate".to_owned()) && !commands.contains(&"__complete".to_owned()));
        assert_eq!(at(&["audit", ""]).unwrap(), ["verify"]);
        assert!(at(&["rotate", "--w"]).unwrap().contains(&"--wait".to_owned()));
        assert!(!at(&["who", "-"]).unwrap().contains(&"--test-time-divisor".to_owned()));
        assert!(at(&["rotate", ""]).is_none() && at(&["pin", "-n", "team", "ch"]).is_none());
        assert!(at(&["rotate", "--timeout", "1m", "ch"]).is_none(), "a flag's value is no name");
        assert_eq!(at(&["rotate", "chat", ""]).unwrap(), Vec::<String>::new());
        let words = ["who", "--wait", "-n", "a", "--context=b"].map(str::to_owned);
        assert_eq!(cluster_words(&words), ["-n", "a", "--context=b"]);
    }
}
