use super::*;
use crate::domain::health::HealthState;
use crate::domain::lifecycle::RevocationBasis;
use crate::domain::usage::{Amounts, Micros};
use std::collections::{BTreeMap, BTreeSet};

const SECOND: Duration = Duration::from_secs(1);
const KEY: KeyGauges = KeyGauges {
    state: HealthState::Valid.as_str(),
    ready: Some(true),
    next_rotation: Some(1_800_000_000),
    expiry: Some(1_900_000_000),
    last_probe: Some(1_700_000_000),
    published: Some(1_600_000_000),
    spare: Some(true),
    problems: [None, None, None, Some(Reason::RotationFailed)],
    usage: None,
};

/// Every metric, with at least one series each.
fn all() -> Metrics {
    let metrics = Metrics::new("1.2.3", true);
    metrics.reconciled(Controller::LLMKey, Outcome::Applied, SECOND);
    metrics.effect("write_target", Outcome::Failed);
    metrics.validated(ProviderType::OpenAI, Verdict::Rejected, SECOND);
    metrics.validated(ProviderType::OpenAI, Verdict::Valid, SECOND);
    metrics.rotated(Completion::Succeeded);
    metrics.revoked(RevocationBasis::ProviderQuiet.as_str(), Completion::Succeeded);
    metrics.requested(ProviderType::OpenAI, "mint", "ok", SECOND);
    metrics.set_leader(true);
    metrics.swept(SweepResult::Clean);
    metrics.orphans_revoked(1);
    metrics.set_frozen(&[(Reason::ClonedCluster, 1)]);
    metrics.set_provider_problems(&[(Reason::AdminCredentialInvalid, 1)]);
    metrics.released_waits(None, Some(Reason::KeyShared));
    metrics.set_ledgers(&BTreeMap::from([("k2u5xq7a".to_owned(), 2)]), 0);
    metrics.usage_read(ProviderType::OpenAI, ReadResult::Read);
    let used = Amounts {
        requests: Some(3),
        input_tokens: Some(70),
        output_tokens: Some(30),
        cost: Some(Micros(1_250_000)),
    };
    metrics.set_key("team-a", "chat", KeyGauges { usage: Some(Box::new(used)), ..KEY });
    metrics.set_key(
        "team-b",
        "chat",
        KeyGauges { state: HealthState::Unknown.as_str(), next_rotation: None, ..KEY },
    );
    metrics
}

/// A reader that takes what the `OpenMetrics` specification demands, and nothing else, of the parts
/// that we use: family name → (type, labels).
fn read(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut family = String::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (keyword, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            match keyword {
                "HELP" => {
                    assert!(!families.contains_key(name), "{name} is in two places");
                    assert!(rest.ends_with('.') && !rest.ends_with(".."), "{line}");
                    family = name.to_owned();
                }
                "TYPE" => {
                    assert_eq!(name, family);
                    families.insert(family.clone(), (rest.to_owned(), BTreeSet::new()));
                }
                "UNIT" => assert!(name == family && name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (id, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.insert(id.to_owned()), "twice: {id}");
        let (name, labels) = id.split_once('{').map_or((id, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
        let (kind, known) = families.get_mut(&family).unwrap();
        let suffixes: &[&str] = match kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            other => panic!("{other}"),
        };
        assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line}");
        assert!(name.starts_with("llmkey_"), "{line}");
        for label in labels.split(',').filter(|l| !l.is_empty()) {
            let (label, value) = label.split_once('=').unwrap();
            assert!(value.starts_with('"') && value.ends_with('"') && value.len() > 2, "{line}");
            if label != "le" {
                known.insert(label.to_owned());
            }
        }
    }
    families
}

#[test]
fn the_text_is_valid() {
    assert_eq!(read(&all().encode().unwrap()).len(), 31);
    assert_eq!(read(&Metrics::new("1.2.3", true).encode().unwrap()).len(), 4);
}

#[test]
fn the_documentation_lists_every_metric_with_its_labels() {
    let shown = |(family, (kind, labels)): (String, (String, BTreeSet<String>))| {
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<String> = labels.iter().map(|l| format!("`{l}`")).collect();
        format!("| `{family}{suffix}` | {kind} | {} |", labels.join(", "))
    };
    let expected: BTreeSet<String> = read(&all().encode().unwrap()).into_iter().map(shown).collect();
    let documented: BTreeSet<String> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `llmkey_"))
        .map(|line| line.split('|').take(4).collect::<Vec<_>>().join("|") + "|")
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn what_a_provider_does_not_report_has_no_series_and_money_is_in_dollars() {
    let text = all().encode().unwrap();
    assert!(text.contains("llmkey_key_usage_cost_usd{namespace=\"team-a\",name=\"chat\"} 1.25\n"), "{text}");
    assert!(
        text.contains(r#"llmkey_key_usage_tokens{namespace="team-a",name="chat",direction="output"} 30"#)
    );
    assert!(!text.contains(r#"llmkey_key_usage_requests{namespace="team-b""#), "{text}");
}

#[test]
fn a_key_that_is_gone_has_no_series() {
    let metrics = all();
    assert!(metrics.encode().unwrap().contains(r#"namespace="team-a",name="chat",state="Valid"} 1"#));
    metrics.set_key("team-a", "chat", KeyGauges { state: HealthState::Invalid.as_str(), ..KEY });
    let text = metrics.encode().unwrap();
    assert!(text.contains(r#"state="Invalid"} 1"#) && !text.contains(r#"state="Valid"}"#), "{text}");
    metrics.forget_key("team-a", "chat");
    assert!(!metrics.encode().unwrap().contains("team-a"));
}

#[test]
fn a_reason_for_which_no_ledger_waits_has_no_series() {
    let metrics = all();
    let told = |reason: &str, count: i64| {
        let line = format!("llmkey_released_waiting{{reason=\"{reason}\"}} {count}\n");
        metrics.encode().unwrap().contains(&line)
    };
    metrics.released_waits(None, Some(Reason::KeyShared));
    assert!(told("KeyShared", 2));
    metrics.released_waits(Some(Reason::KeyShared), Some(Reason::LedgerUnreadable));
    assert!(told("KeyShared", 1) && told("LedgerUnreadable", 1));
    metrics.released_waits(Some(Reason::KeyShared), Some(Reason::KeyShared));
    assert!(told("KeyShared", 1));
    metrics.released_waits(Some(Reason::KeyShared), None);
    metrics.released_waits(Some(Reason::LedgerUnreadable), None);
    assert!(!metrics.encode().unwrap().contains("llmkey_released_waiting{"));
}

#[test]
fn a_key_encryption_key_that_is_gone_has_no_series() {
    let metrics = all();
    metrics.set_ledgers(&BTreeMap::from([("old".to_owned(), 0), ("new".to_owned(), 3)]), 1);
    let text = metrics.encode().unwrap();
    for line in [r#"{kek="old"} 0"#, r#"{kek="new"} 3"#, r#"{kek="(unknown)"} 1"#] {
        assert!(text.contains(&format!("llmkey_ledgers{line}\n")), "{text}");
    }
    metrics.set_ledgers(&BTreeMap::from([("new".to_owned(), 4)]), 0);
    let text = metrics.encode().unwrap();
    assert!(text.contains(r#"{kek="new"} 4"#) && text.matches("{kek=").count() == 1, "{text}");
}

#[test]
fn names_of_keys_can_be_kept_out() {
    let metrics = Metrics::new("1.2.3", false);
    metrics.set_key("team-a", "chat", KEY);
    assert!(!metrics.encode().unwrap().contains("team-a"));
}

#[test]
fn only_a_key_that_works_is_no_failure() {
    let text = all().encode().unwrap();
    assert!(text.contains(r#"validation_failures_total{provider="OpenAI",verdict="rejected"} 1"#));
    assert!(!text.contains(r#"validation_failures_total{provider="OpenAI",verdict="valid"}"#), "{text}");
}

#[test]
fn a_dropped_pass_counts_as_abandoned() {
    let metrics = Metrics::new("1.2.3", true);
    let clock = Clock::start();
    metrics.begin(Controller::Sweeper, clock).finish(Outcome::Skipped);
    drop(metrics.begin(Controller::Sweeper, clock));
    let text = metrics.encode().unwrap();
    assert!(text.contains(r#"{controller="sweeper",outcome="skipped"} 1"#), "{text}");
    assert!(text.contains(r#"{controller="sweeper",outcome="abandoned"} 1"#), "{text}");
}
