//! After the campaign: keys and admin credentials are nowhere but in the Secrets that are made for them.

use std::collections::BTreeSet;
use std::fs;

use llmkey_operator::testbed::etcd::Entry;
use llmkey_operator::testbed::needles::Needles;

use super::Failure;
use super::bed::Bed;

/// What every key of the provider begins with.
const KEYS: [&str; 3] = ["sk-svcacct-", "sk-proj-", "sk-admin-"];
/// Characters after that, by which a key is told from a word about keys.
const LENGTH: usize = 20;

/// Keys that the operator chose, and a LiteLLM proxy's master key: so little is told by how they begin that they are known by
/// their length, and only where keys may be.
const CHOSEN: (&str, usize) = ("sk-", 43);

/// What was searched, and what was found.
pub struct Searched {
    /// Keys and credentials that were searched for in every encoding.
    pub keys: usize,
    /// Bytes of logs.
    pub logs: usize,
    /// Revisions of objects in etcd.
    pub revisions: usize,
    /// Where one was found, without it.
    pub leaks: Vec<String>,
}

impl Searched {
    /// In one line.
    pub fn sentence(&self) -> String {
        let Self { keys, logs, revisions, leaks } = self;
        let found = if leaks.is_empty() { "none found".to_owned() } else { leaks.join("; ") };
        format!(
            "I5: {keys} keys, searched for in {} MiB of logs at trace level and in {revisions} revisions of objects in etcd: \
             {found}",
            logs / 1024 / 1024
        )
    }
}

/// Searches every operator's log, the audit log, and every revision of every object in etcd.
pub async fn search(bed: &Bed) -> Result<Searched, Failure> {
    let entries = bed.cluster.etcd_get_all().await?;
    let (home, ours) =
        (bed.installation.namespace.as_str(), |entry: &Entry| may_hold(entry, &bed.installation.namespace));
    let mut keys: BTreeSet<String> =
        entries.iter().filter(|entry| ours(entry)).flat_map(|e| held(&e.value)).collect();
    keys.insert(bed.sandbox.admin_key().to_owned());
    let mut needles = Needles::default();
    for (number, key) in keys.iter().enumerate() {
        if !needles.add(&format!("key {number}"), key) {
            return Err(format!("a key of namespace {home} is too short to be searched for").into());
        }
    }
    let mut searched = Searched { keys: keys.len(), logs: 0, revisions: entries.len(), leaks: Vec::new() };
    for entry in entries.iter().filter(|entry| !ours(entry)) {
        note(
            &mut searched.leaks,
            &needles,
            &format!("etcd {} at revision {}", entry.key, entry.revision),
            &entry.value,
        );
    }
    for file in fs::read_dir(bed.cluster.dir())? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("operator-") || path == bed.cluster.audit_log() {
            let bytes = fs::read(&path)?;
            searched.logs += bytes.len();
            note(&mut searched.leaks, &needles, &name, &bytes);
        }
    }
    Ok(searched)
}

/// A key that was searched for, or anything else that looks like one: what was minted and never delivered is unknown here.
fn note(leaks: &mut Vec<String>, needles: &Needles, place: &str, bytes: &[u8]) {
    let found = needles.found_in(bytes);
    let unknown = told(bytes).len();
    if !found.is_empty() || unknown > 0 {
        leaks.push(format!("{place}: {} known, {unknown} as they are", found.len()));
    }
}

/// Sources and targets in tenants' namespaces, admin credentials in the operator's own.
fn may_hold(entry: &Entry, home: &str) -> bool {
    let Some((namespace, name)) =
        entry.key.strip_prefix("/registry/secrets/").and_then(|place| place.split_once('/'))
    else {
        return false;
    };
    namespace != home || !name.starts_with("llmkey-")
}

/// Everything in the bytes that looks like a key.
fn told(bytes: &[u8]) -> Vec<String> {
    KEYS.iter().flat_map(|prefix| beginning(bytes, prefix, LENGTH)).collect()
}

/// The same of a Secret that may hold keys.
fn held(bytes: &[u8]) -> Vec<String> {
    let (prefix, length) = CHOSEN;
    [told(bytes), beginning(bytes, prefix, length)].concat()
}

/// What begins so and goes on for at least so many characters.
fn beginning(bytes: &[u8], prefix: &str, length: usize) -> Vec<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let mut found = Vec::new();
    for (at, window) in bytes.windows(prefix.len()).enumerate() {
        if window == prefix.as_bytes() {
            let rest = bytes[at + prefix.len()..].iter().take_while(|byte| plain(byte)).count();
            if rest >= length {
                found.push(String::from_utf8_lossy(&bytes[at..at + prefix.len() + rest]).into_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_words_about_keys() {
        let key = "sk-svcacct-0123456789abcdefghij_-X";
        assert_eq!(told(format!("\0\n\x04{key}\"sk-proj-, sk-admin-short").as_bytes()), [key]);
        let chosen = format!("sk-{}", "aB3_-".repeat(9));
        assert_eq!(held(format!("\0{chosen}\n sk-a-word-about-keys").as_bytes()), [chosen]);
    }

    #[test]
    fn ledgers_may_hold_no_key_and_targets_may() {
        let entry = |key: &str| Entry { key: key.to_owned(), value: Vec::new(), revision: 1 };
        for (key, may) in [
            ("/registry/secrets/team/chat", true),
            ("/registry/secrets/home/acme-admin", true),
            ("/registry/secrets/home/llmkey-abc", false),
            ("/registry/llmkeys.dev/llmkeys/team/chat", false),
            ("/registry/events/team/chat", false),
        ] {
            assert_eq!(may_hold(&entry(key), "home"), may, "{key}");
        }
    }
}
