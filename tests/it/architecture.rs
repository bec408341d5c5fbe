//! The arrows between modules, and what decides stays pure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use llmkey_operator::testbed::source_dir;

/// Module → the modules it may use. docs/architecture.md draws it.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("crypto", &[]),
    ("domain", &["api", "crypto"]),
    ("ledger", &["api", "crypto", "domain"]),
    ("provider", &["api", "crypto", "domain"]),
    ("kube_ext", &["api"]),
    ("telemetry", &["api", "domain", "kube_ext"]),
    ("cli", &["api", "telemetry"]),
    ("audit", &["api", "cli", "kube_ext", "ledger"]),
    ("drain", &["api", "cli", "domain", "kube_ext", "ledger"]),
    // The exploration, which is no part of the operator's program, replays traces.
    ("controller", &["api", "crypto", "domain", "kube_ext", "ledger", "provider", "telemetry", "trace"]),
    (
        "runtime",
        &[
            "api",
            "audit",
            "cli",
            "controller",
            "crypto",
            "domain",
            "kube_ext",
            "ledger",
            "provider",
            "telemetry",
        ],
    ),
    ("main", &["audit", "cli", "drain", "kube_ext", "runtime", "telemetry"]),
    ("plugin", &["api", "audit", "cli", "controller", "crypto", "domain", "kube_ext", "ledger", "provider"]),
    ("sandbox", &[]),
    ("testbed", &["api"]),
    ("trace", &[]),
];

/// What a pure file does not name: waiting, clients, clocks, chance.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio::",
    "reqwest::",
    "kube::Client",
    "Utc::now",
    "SystemTime",
    "Instant",
    "Clock",
    "getrandom",
    "rand::",
    "SystemEntropy",
    "std::env",
    "std::fs",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The program's own lines: no comments, nothing from the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let program = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    program.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// `domain` of `src/domain/schedule/parse.rs`, `runtime` of `src/runtime.rs`; none for programs of their own.
fn module(path: &Path) -> Option<String> {
    let inner = path.strip_prefix(source_dir().join("src")).ok()?;
    let first = inner.iter().next()?.to_str()?;
    let name = first.trim_end_matches(".rs").to_owned();
    (name != "bin" && name != "lib").then_some(name)
}

fn test_only(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name == "tests" || name.ends_with("_tests") || name == "vectors"
}

/// Modules named after `crate::` (or the library's name, for programs), in braces too.
fn used(code: &str, root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    for rest in code.split(root).skip(1) {
        match rest.strip_prefix('{') {
            None => drop(names.insert(word(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '}' if depth == 0 => break,
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            names.insert(word(&group[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// Whether the code has the word, and not as the beginning of a longer one.
fn names(code: &str, word: &str) -> bool {
    let whole = |rest: &&str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let ends_open = !word.ends_with(|c: char| c.is_ascii_alphanumeric());
    code.split(word).skip(1).any(|rest| ends_open || whole(&rest))
}

#[test]
fn modules_use_only_what_the_arrows_allow() {
    for path in sources(&source_dir().join("src")) {
        let Some(module) = module(&path) else { continue };
        if test_only(&path) {
            continue;
        }
        let (_, allowed) = ARROWS.iter().find(|(name, _)| *name == module).unwrap_or_else(|| {
            panic!("{module} is a new module: give it a place in docs/architecture.md and here")
        });
        let root = if module == "main" { "llmkey_operator::" } else { "crate::" };
        for name in used(&code(&path), root) {
            let known = ARROWS.iter().any(|(module, _)| *module == name);
            assert!(
                !known || name == module || allowed.contains(&name.as_str()),
                "{}: {module} must not use {name}",
                path.display()
            );
        }
    }
}

#[test]
fn what_decides_knows_no_waiting_no_client_no_clock_and_no_chance() {
    let src = source_dir().join("src");
    let controllers = sources(&src.join("controller"));
    let mut pure = sources(&src.join("domain"));
    pure.extend(controllers.into_iter().filter(|path| {
        let inner = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        inner.contains("decide")
            || ["status.rs", "model.rs", "plan.rs", "fold.rs"].iter().any(|end| inner.ends_with(end))
    }));
    assert!(pure.len() > 15, "{pure:?}");
    for path in pure.iter().filter(|path| !test_only(path)) {
        let code = code(path);
        for word in IMPURE {
            assert!(!names(&code, word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn used_modules_are_found_in_every_spelling() {
    let text = "use crate::api::X; use crate::{crypto::{a, b}, domain}; fn f() { crate::ledger::g() }";
    assert_eq!(used(text, "crate::"), ["api", "crypto", "domain", "ledger"].map(str::to_owned).into());
}

#[test]
fn the_page_names_every_module() {
    let page = fs::read_to_string(source_dir().join("docs/architecture.md")).unwrap();
    for (module, _) in ARROWS {
        assert!(page.contains(&format!("`{module}")), "{module}");
    }
}
