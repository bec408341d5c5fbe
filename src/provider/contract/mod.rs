//! One contract for every provider: what we send, to the letter, and what each answer means.
//!
//! The cases are files, `tests/contract/<type>.yaml`; what any server may answer is in `awkward.yaml`. Each case goes through the
//! functions that build requests and read replies, and once more through the real client, over a connection to a server that
//! plays the case. Where the sandbox speaks the provider's API, the life of a key follows against it. In the end everything that the
//! support matrix calls done must have had a request and an answer. `make contract` runs it.

mod call;
mod case;
#[cfg(feature = "testbed")]
mod life_tests;
mod play;
mod rig;
#[cfg(feature = "testbed")]
mod stand_tests;
mod variant;
mod wire;

use std::{collections::BTreeSet, path::PathBuf};

use self::{
    call::named,
    case::{Awkward, CaseFile},
    play::Player,
};
use super::{
    ALL, Capabilities, Capability,
    facts::{Feature, fact},
};
use crate::api::ProviderType;

/// What was checked, and what of it was wrong.
#[derive(Default)]
struct Tally {
    passed: usize,
    failures: Vec<String>,
    /// Features that a request, and an answer, were played of.
    requests: BTreeSet<(ProviderType, Feature)>,
    answers: BTreeSet<(ProviderType, Feature)>,
    /// Points of [`wanted_points`] that were played.
    points: BTreeSet<(u8, ProviderType)>,
}

impl Tally {
    fn check(&mut self, right: bool, failure: impl FnOnce() -> String) -> bool {
        if right {
            self.passed += 1;
        } else {
            self.failures.push(failure());
        }
        right
    }

    fn equal(&mut self, what: &str, found: &str, wanted: &str) -> bool {
        self.check(found == wanted, || format!("{what}\n    found:  {found}\n    wanted: {wanted}"))
    }
}

fn text_of(name: &str) -> Result<String, String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name);
    std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

fn file_of(provider: ProviderType) -> Result<CaseFile, String> {
    let name = format!("{}.yaml", provider.as_str().to_ascii_lowercase());
    CaseFile::parse(&text_of(&name)?).map_err(|error| format!("{name}: {error}"))
}

fn awkward() -> Result<Vec<Awkward>, String> {
    serde_saphyr::from_str(&text_of("awkward.yaml")?).map_err(|error| format!("awkward.yaml: {error}"))
}

/// What servers do that clients get wrong, by its number, and the providers that do it.
///
/// 1: a key is made and the answer is lost. 2: no later answer shows a key. 3: a name is taken twice, or refused the second time. 4: lists have
/// pages. 5: new keys are refused for a while, and ended ones accepted. 6: both documented ends of a key of a service account.
/// 7: lists leave out what was not asked for. 8: keys that cannot be made, and what cannot be undone. 9: no third key. 10: throttling,
/// failures, slow, cut and foreign answers, echoes of keys. 11: a server that accepts anybody.
fn wanted_points() -> BTreeSet<(u8, ProviderType)> {
    let can = |provider, capability| Capabilities::of(provider, true).has(capability);
    let mints = |provider: &ProviderType| can(*provider, Capability::Mint);
    let lists = |provider: &ProviderType| can(*provider, Capability::List);
    let of = |names: &[&str]| names.iter().filter_map(|name| named(name)).collect::<Vec<_>>();
    let mut wanted: BTreeSet<(u8, ProviderType)> = ALL.into_iter().map(|provider| (10, provider)).collect();
    wanted.extend(ALL.into_iter().filter(mints).map(|provider| (1, provider)));
    wanted.extend(ALL.into_iter().filter(lists).map(|provider| (4, provider)));
    let taken = of(&["OpenAI", "OpenRouter", "XAI", "Mistral", "LiteLLM", "Google"]);
    wanted.extend(taken.into_iter().filter(mints).map(|provider| (3, provider)));
    wanted.extend(of(&["OpenAI"]).into_iter().map(|provider| (6, provider)));
    wanted.extend(of(&["OpenRouter"]).into_iter().map(|provider| (7, provider)));
    wanted.extend(of(&["Anthropic"]).into_iter().filter(lists).map(|provider| (8, provider)));
    wanted.extend(of(&["Bedrock"]).into_iter().filter(mints).map(|provider| (9, provider)));
    wanted.extend(of(&["OpenAICompatible"]).into_iter().map(|provider| (11, provider)));
    wanted.extend(of(&["Google"]).into_iter().map(|provider| (5, provider)));
    #[cfg(feature = "testbed")]
    for provider in life_tests::SPOKEN {
        wanted.extend([(2, provider), (5, provider)]);
    }
    wanted
}

/// Everything that the support matrix calls done was played, and every point.
fn guard(tally: &mut Tally) {
    for (provider, feature) in ALL.into_iter().flat_map(|p| Feature::ALL.map(|feature| (p, feature))) {
        let done = fact(provider, feature).is_some_and(|fact| fact.done);
        let cell = (provider, feature);
        if done {
            let asked = tally.requests.contains(&cell);
            tally.check(asked, || format!("{provider:?} {feature:?} is done, and no case has its request"));
            let answered = tally.answers.contains(&cell);
            tally.check(answered, || {
                format!("{provider:?} {feature:?} is done, and no case has an answer to it")
            });
        } else if feature == Feature::Credit {
            let shown = tally.answers.contains(&cell);
            tally
                .check(!shown, || format!("{provider:?} {feature:?} has a case, and its fact says not done"));
        }
    }
    for (point, provider) in wanted_points() {
        let played = tally.points.contains(&(point, provider));
        tally.check(played, || format!("{provider:?}: no case has point {point}"));
    }
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the summary is what `make contract` shows")]
async fn every_provider_keeps_the_contract() {
    let player = Player::new(awkward().unwrap());
    let mut tally = Tally::default();
    let mut files = Vec::new();
    for provider in ALL {
        match file_of(provider) {
            Ok(file) => files.push((provider, file)),
            Err(error) => tally.failures.push(error),
        }
    }
    for (provider, file) in &files {
        player.play(*provider, file, &mut tally).await;
    }
    player.lose(&files, &mut tally).await;
    #[cfg(feature = "testbed")]
    life_tests::play(&mut tally).await;
    guard(&mut tally);
    for failure in &tally.failures {
        println!("FAIL {failure}");
    }
    // On a line of its own, whatever the test harness has written before.
    println!("\n{} passed, {} failed", tally.passed, tally.failures.len());
    assert!(tally.failures.is_empty(), "{} checks of the contract failed", tally.failures.len());
}

/// The suite must be able to fail: a case file that differs from the program in one place does not pass.
#[tokio::test]
async fn one_wrong_word_in_a_case_file_is_found() {
    let player = Player::new(Vec::new());
    let right = text_of("openrouter.yaml").unwrap();
    for (is, was) in [
        ("include_disabled=true", "include_disabled=false"),
        ("Bearer $CREDENTIAL", "Basic $CREDENTIAL"),
        (r#"{"name": "lk1-a", "workspace_id""#, r#"{"name": "lk1-a", "workspace""#),
        ("means: revoked", "means: already gone"),
        ("DELETE /", "POST /"),
    ] {
        assert!(right.contains(is), "openrouter.yaml has lost {is}");
        let file = CaseFile::parse(&right.replace(is, was)).unwrap();
        let mut tally = Tally::default();
        player.play(ProviderType::OpenRouter, &file, &mut tally).await;
        assert!(!tally.failures.is_empty(), "{was} was not found");
    }
}
