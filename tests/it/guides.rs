//! The quickstart and the guides, as a reader follows them: each block is applied or run in its order, and what a command answers is
//! compared with what the page shows. The sandbox stands in for the provider's address.
//!
//! A block's language says what it is: `yaml` is applied, `console` is run, `text` is neither. In what a command answers, `…` stands
//! for anything: within a word, in place of words, or, alone on a line, in place of lines.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use llmkey_operator::testbed::{source_dir, tools};
use serde_json::{Value, json};

use super::common::PATIENCE;
use super::consumers::Kubelet;
use super::examples::apply;
use super::stage::{DIVISOR, Tenant};

const QUICKSTART: &str = "quickstart.md";
/// A guide with a link to this heading takes the quickstart's account for granted.
const ACCOUNT: &str = "(../quickstart.md#the-account)";
const ANYTHING: &str = "…";

/// A fenced block.
struct Block {
    language: String,
    /// Its first line's number in the page.
    line: usize,
    text: String,
}

/// Every page that is followed, and the test that does it.
macro_rules! followed {
    ($($test:ident $page:literal)*) => {
        const FOLLOWED: &[&str] = &[$($page),*];
        $(#[tokio::test]
        async fn $test() {
            follow($page).await;
        })*
    };
}

followed! {
    the_quickstart "quickstart.md"
    a_key_that_is_there_already "guides/adopt-a-key.md"
    rotation_every_30_days "guides/rotate-every-30-days.md"
    a_pool_of_supplied_keys "guides/pool.md"
    a_leaked_key "guides/leaked-key.md"
    back_to_an_older_key "guides/pin-a-version.md"
    rotation_by_a_persons_word "guides/approvals.md"
    several_teams "guides/teams.md"
    watching "guides/watch.md"
}

fn page(name: &str) -> String {
    fs::read_to_string(source_dir().join("docs").join(name)).unwrap()
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let within: Vec<&str> =
                lines.by_ref().map(|(line, _)| line).take_while(|line| *line != "```").collect();
            blocks.push(Block { language: language.to_owned(), line: number + 1, text: within.join("\n") });
        }
    }
    blocks
}

/// Commands, each with the lines that it is shown to answer.
fn commands(block: &Block) -> Vec<(String, Vec<&str>)> {
    let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
    let mut continued = false;
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), Vec::new()));
            continued = command.ends_with('\\');
        } else {
            let (command, shown) = commands.last_mut().expect("a console begins with a command");
            if continued {
                *command = format!("{command}\n{line}");
                continued = line.ends_with('\\');
            } else {
                shown.push(line);
            }
        }
    }
    commands
}

/// Whether they are the same, where `…` among the wanted ones stands for any number of others.
fn same<T: AsRef<str>>(wanted: &[T], found: &[T], one: &impl Fn(&str, &str) -> bool) -> bool {
    match (wanted.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first.as_ref() == ANYTHING => {
            (0..=found.len()).any(|skipped| same(rest, &found[skipped..], one))
        }
        (Some((first, rest)), Some((next, others))) => {
            one(first.as_ref(), next.as_ref()) && same(rest, others, one)
        }
        _ => false,
    }
}

fn same_word(wanted: &str, found: &str) -> bool {
    match wanted.split_once(ANYTHING) {
        Some((begin, end)) => {
            found.len() >= begin.len() + end.len() && found.starts_with(begin) && found.ends_with(end)
        }
        None => wanted == found,
    }
}

/// Widths of columns differ with names: words are compared.
fn same_line(wanted: &str, found: &str) -> bool {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    wanted.trim() == ANYTHING || same(&words(wanted), &words(found), &same_word)
}

/// What a reader's account, cluster and keys are called here.
struct Reader<'a> {
    t: &'a Tenant,
    /// Names of the cluster's scope, of the operator's Secrets and of namespaces, which tests share.
    own: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(t: &'a Tenant, blocks: &[Block]) -> Self {
        let mut own = BTreeSet::new();
        for manifest in blocks.iter().filter(|b| b.language == "yaml").flat_map(manifests) {
            let name = manifest["metadata"]["name"].as_str().unwrap().to_owned();
            match manifest["metadata"]["namespace"].as_str() {
                None | Some("llmkey-system") => own.insert(name),
                Some("default") => false,
                Some(namespace) => own.insert(namespace.to_owned()),
            };
        }
        Self { t, own }
    }

    fn word(&self, word: &str) -> String {
        let t = self.t;
        match word {
            "default" => t.namespace.clone(),
            "sk-admin-REPLACE-ME" => t.admin_key.to_owned(),
            "proj_REPLACE_ME" => t.project.clone(),
            "api.openai.com" => t.sandbox().addr().to_string(),
            _ if word.starts_with("sk-proj-REPLACE-ME") => t.person_key(&word["sk-proj-".len()..]),
            _ if self.own.contains(word) => format!("{}-{word}", t.namespace),
            _ => word.to_owned(),
        }
    }

    /// The text with each of its words as it is here.
    fn here(&self, text: &str) -> String {
        let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let mut here = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let word = &rest[..rest.find(|c: char| !inner(c)).unwrap_or(rest.len())];
            here += &self.word(word);
            rest = &rest[word.len()..];
            let between = rest.find(inner).unwrap_or(rest.len());
            here += &rest[..between];
            rest = &rest[between..];
        }
        here
    }

    /// Applies what the block says, at the sandbox.
    async fn apply(&self, place: &str, block: &Block) {
        for mut manifest in tools::manifests(&self.here(&block.text)).unwrap() {
            let kind = manifest["kind"].as_str().unwrap().to_owned();
            let sandbox = self.t.sandbox();
            if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
                if kind == "LLMProvider" {
                    spec.insert("baseURL".to_owned(), json!(sandbox.base_url()));
                    spec.insert("caBundle".to_owned(), json!(sandbox.ca_pem()));
                    spec.insert("addresses".to_owned(), json!("AllowPrivate"));
                }
                if kind == "LLMKey" && spec.remove("provider").is_some() {
                    spec.insert("providerRef".to_owned(), json!({"name": self.t.provider}));
                }
            }
            let applied = apply(&self.t.client, &manifest, false).await;
            assert!(applied.is_ok(), "{place}: {kind}: {}", applied.unwrap_err());
        }
    }

    /// Runs the block's commands, each to its end, and compares what they answer.
    async fn run(&self, place: &str, block: &Block) {
        for (command, shown) in commands(block) {
            let wanted: Vec<String> = shown.iter().map(|line| self.here(line)).collect();
            let (code, answer, complaint) = self.shell(&stand_in(&self.here(&command))).await;
            let told = format!(
                "{place}: {command}\nanswered {code:?}:\n{answer}{complaint}\nshown:\n{}",
                wanted.join("\n")
            );
            if wanted.is_empty() {
                assert!(code == Some(0), "{told}");
                continue;
            }
            // Who refuses says so on standard error.
            let said = if answer.is_empty() { &complaint } else { &answer };
            let found: Vec<String> = said.lines().map(str::to_owned).collect();
            assert!(same(&wanted, &found, &same_line), "{told}");
        }
    }

    async fn shell(&self, command: &str) -> (Option<i32>, String, String) {
        let cluster = self.t.stage.cluster;
        let desk = cluster.dir().join(format!("desk-{}", self.t.namespace));
        let config = desk.join("kubeconfig");
        let plugin = PathBuf::from(env!("CARGO_BIN_EXE_kubectl-llmkey"));
        let programs = [
            tools::binaries().unwrap().kubectl.expect("the tests need kubectl"),
            tools::helm().unwrap(),
            plugin,
        ];
        let places = programs.iter().map(|program| program.parent().unwrap().to_owned());
        let path = env::join_paths(places.chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
        if !config.exists() {
            fs::create_dir_all(&desk).unwrap();
            let text = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
            let mut document: Value = serde_saphyr::from_str(&text).unwrap();
            document["contexts"][0]["context"]["namespace"] = json!(self.t.namespace);
            fs::write(&config, serde_saphyr::to_string(&document).unwrap()).unwrap();
        }
        let child = tokio::process::Command::new("sh")
            .args(["-c", command])
            .current_dir(source_dir())
            .env("PATH", path)
            .env("KUBECONFIG", config)
            .env("HOME", desk)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(2 * PATIENCE, child).await;
        let output = ended.unwrap_or_else(|_| panic!("not within {:?}: {command}", 2 * PATIENCE)).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// The chart is installed here by other means, and time is divided.
fn stand_in(command: &str) -> String {
    let command =
        command.replace("helm install ", "helm template ").replace("helm upgrade ", "helm template ");
    let divided =
        ["kubectl llmkey plan", "kubectl llmkey who"].iter().any(|begin| command.starts_with(begin));
    if divided { format!("{command} --test-time-divisor={DIVISOR}") } else { command }
}

fn manifests(block: &Block) -> Vec<Value> {
    tools::manifests(&block.text).unwrap()
}

async fn follow(name: &str) {
    let text = page(name);
    let prefix = name.trim_start_matches("guides/").trim_end_matches(".md");
    let t = Tenant::new(&format!("guide-{prefix}")).await;
    let _kubelet = Kubelet::start(&t);
    let mut todo: Vec<(String, Block)> = Vec::new();
    if text.contains(ACCOUNT) {
        let account = blocks(&page(QUICKSTART)).into_iter().find(|block| block.language == "yaml").unwrap();
        todo.push((QUICKSTART.to_owned(), account));
    }
    todo.extend(blocks(&text).into_iter().map(|block| (format!("docs/{name}:{}", block.line), block)));
    let (places, blocks): (Vec<String>, Vec<Block>) = todo.into_iter().unzip();
    let reader = Reader::new(&t, &blocks);
    let mut done = BTreeMap::from([("yaml", 0), ("console", 0)]);
    for (place, block) in places.iter().zip(&blocks) {
        match block.language.as_str() {
            "yaml" => reader.apply(place, block).await,
            "console" => reader.run(place, block).await,
            "text" => {
                let hidden = block.text.lines().any(|line| line.starts_with("$ "));
                assert!(
                    !hidden,
                    "{place}: commands belong into a block of the kind console, so that they are run"
                );
            }
            other => panic!("{place}: a block of the kind {other:?}: only yaml, console and text are known"),
        }
        done.entry(block.language.as_str()).and_modify(|count| *count += 1);
    }
    assert!(done.values().all(|count| *count > 0), "{name}: nothing is applied, or nothing is run: {done:?}");
}

#[test]
fn every_guide_is_followed_and_listed() {
    let dir = fs::read_dir(source_dir().join("docs/guides")).unwrap();
    let names: BTreeSet<String> = dir
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    let followed: BTreeSet<String> =
        FOLLOWED.iter().filter_map(|page| page.strip_prefix("guides/")).map(str::to_owned).collect();
    assert_eq!(followed, names);
    let index = page("guides/README.md");
    for name in names {
        assert!(index.contains(&format!("]({name})")), "docs/guides/README.md does not list {name}");
    }
}

#[test]
fn what_is_shown_is_compared_word_by_word() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let good = |wanted: &str, found: &str| same(&lines(wanted), &lines(found), &same_line);
    assert!(good("NAME   STATE\nchat   Ready …", "NAME  STATE\nchat  Ready  rotates in 8d"));
    assert!(good("…\nversion 2 (...…) is delivered", "0s\n1s\nversion 2 (...Qw3e) is delivered"));
    assert!(!good("chat   Ready", "chat   Ready   …"));
    assert!(!good("…\nversion 2 …", "version 3 is delivered"));
    assert!(!good("chat Ready", "chat NotReady"));
}
