//! Plays case files: through the pure functions, and through the client.

use std::collections::BTreeMap;

use futures::future::join_all;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{
    Tally,
    call::{Call, NOT_TOLD, is_unclear},
    case::{AnswerCase, Awkward, CallCase, CaseFile},
    rig::Rig,
    variant::{Wanted, variants},
    wire::{Script, Wire},
};
use crate::{
    api::ProviderType,
    provider::{
        MintError,
        exchange::{Reply, Request},
        facts::Feature,
    },
};

pub(super) struct Player {
    awkward: Vec<Awkward>,
    wire: Wire,
}

/// An answer as it is sent.
struct Sent<'a> {
    status: u16,
    headers: &'a BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Sent<'_> {
    fn reply(&self) -> Option<Reply> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.insert(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?);
        }
        Some(Reply { status: self.status, headers, body: Zeroizing::new(self.body.clone()) })
    }

    fn script(&self, in_pieces: bool) -> Script {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers = headers.collect::<Vec<_>>().concat();
        let head = format!("HTTP/1.1 {} X\r\n{headers}", self.status);
        Script::Answer { head, body: self.body.clone(), in_pieces }
    }
}

/// Method, host-relative target, headers and body of a request in one text.
fn letter(request: &Request) -> String {
    let mut headers: Vec<String> = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
        .collect();
    headers.sort();
    let query = request.url.query().map_or(String::new(), |query| format!("?{query}"));
    let body = request.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    format!("{} {}{query} | {} | {body}", request.method, request.url.path(), headers.join(" | "))
}

fn wanted_letter(case: &CallCase) -> String {
    let mut headers: Vec<String> =
        case.request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if !case.request.headers.contains_key("accept") {
        headers.push("accept: application/json".to_owned());
    }
    headers.sort();
    let text = || case.request.text.clone();
    let body = case.request.body.as_ref().map_or_else(text, ToString::to_string);
    format!("{} | {} | {body}", case.request.line, headers.join(" | "))
}

impl Player {
    pub(super) fn new(awkward: Vec<Awkward>) -> Self {
        Self { awkward, wire: Wire::new() }
    }

    pub(super) async fn play(&self, provider: ProviderType, file: &CaseFile, tally: &mut Tally) {
        match Rig::new(provider, &file.head) {
            Ok(rig) => {
                for case in &file.calls {
                    self.call(&rig, case, tally).await;
                }
            }
            Err(error) => tally.failures.push(format!("{provider:?}: the head of its file: {error}")),
        }
    }

    async fn call(&self, rig: &Rig, case: &CallCase, tally: &mut Tally) {
        let what = format!("{:?} {:?}", rig.provider, case.call);
        let Some(Ok(request)) = case.call.request(rig, &case.with) else {
            tally.failures.push(format!("{what}: there is no such request"));
            return;
        };
        let right = tally.equal(&format!("{what}: the request"), &letter(&request), &wanted_letter(case));
        let hidden = hides_its_credentials(rig, &request);
        tally
            .check(hidden, || format!("{what}: a credential is in the URL, or in a header that traces show"));
        tally.points.extend(case.point.map(|point| (point, rig.provider)));
        for answer in &case.answers {
            let means = self.answer(rig, case, &request, answer, tally).await;
            let mut features = means.map_or(Vec::new(), |means| case.call.features(&means));
            if case.expires && features.contains(&Feature::Mint) {
                features.push(Feature::Expiry);
            }
            remember(rig, tally, right, &features);
        }
        for awkward in &self.awkward {
            self.awkward(rig, case, &request, awkward, right, tally).await;
        }
    }

    /// One answer of the file, what is made of it, and both over a connection.
    async fn answer(
        &self,
        rig: &Rig,
        case: &CallCase,
        request: &Request,
        answer: &AnswerCase,
        tally: &mut Tally,
    ) -> Option<String> {
        let what = format!("{:?} {:?}, {}", rig.provider, case.call, answer.name);
        let sent = Sent { status: answer.status, headers: &answer.headers, body: answer.bytes() };
        let means = pure(rig, case, &sent);
        let right = tally.equal(&what, &means, &answer.means);
        for in_pieces in [false, true] {
            let how = format!("{what}, over a connection");
            self.over_the_wire(rig, case, request, &sent, in_pieces, (&how, &answer.means), tally).await;
        }
        for (name, body, wanted) in variants(answer) {
            let sent = Sent { body, ..sent_like(&sent) };
            let means = pure(rig, case, &sent);
            let what = format!("{what}, {name}");
            match wanted {
                Wanted::TheSame => tally.equal(&what, &means, &answer.means),
                Wanted::Unclear if case.status_only => tally.equal(&what, &means, &answer.means),
                Wanted::Unclear => {
                    tally.check(is_unclear(case.call, &means), || format!("{what}: read as {means}"))
                }
                Wanted::Mistake => tally.check(false, || format!("{what}: there is no such field")),
            };
        }
        tally.points.extend(answer.point.filter(|_| right).map(|point| (point, rig.provider)));
        right.then_some(means)
    }

    async fn awkward(
        &self,
        rig: &Rig,
        case: &CallCase,
        request: &Request,
        awkward: &Awkward,
        right: bool,
        tally: &mut Tally,
    ) {
        let what = format!("{:?} {:?}, {}", rig.provider, case.call, awkward.name);
        let by_status = case.status_only && (200..300).contains(&awkward.status);
        let as_documented = case.answers.first().filter(|_| by_status).map(|answer| &answer.means);
        let not_told = NOT_TOLD.to_owned();
        let wanted = case.awkward.get(&awkward.name).or(as_documented).unwrap_or({
            if case.call == Call::Spread {
                &not_told
            } else if case.call.checks() {
                &awkward.check
            } else if case.call.mints() {
                &awkward.mint
            } else {
                &awkward.other
            }
        });
        let text = awkward
            .text
            .replace("$KEY", rig.key.expose_str().unwrap_or_default())
            .replace("$CREDENTIAL", rig.credential.expose_str().unwrap_or_default());
        let sent = Sent { status: awkward.status, headers: &awkward.headers, body: text.into_bytes() };
        let means = pure(rig, case, &sent);
        let as_wanted = means.starts_with(wanted.as_str());
        tally.check(as_wanted, || format!("{what}\n    found:  {means}\n    wanted: {wanted}…"));
        let clean = !says_a_secret(rig, &means);
        tally.check(clean, || format!("{what}: what was read quotes the answer"));
        self.over_the_wire(rig, case, request, &sent, false, (&what, &means), tally).await;
        if as_wanted {
            tally.points.insert((10, rig.provider));
            remember(rig, tally, right, &case.call.features(&means));
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one place in a table")]
    async fn over_the_wire(
        &self,
        rig: &Rig,
        case: &CallCase,
        request: &Request,
        sent: &Sent<'_>,
        in_pieces: bool,
        (what, wanted): (&str, &str),
        tally: &mut Tally,
    ) {
        let played = self.wire.play(rig, request.clone(), sent.script(in_pieces)).await;
        let Ok(played) = played else {
            tally.failures.push(format!("{what}: no server"));
            return;
        };
        tally.equal(&format!("{what}: what was sent"), &played.seen.join(" AND "), &letter(request));
        let means = match &played.reply {
            Ok(reply) => case.call.meaning(rig, &case.with, reply).unwrap_or_default(),
            Err(lost) => format!("lost: {}", lost.error),
        };
        tally.equal(what, &means, wanted);
    }

    /// Every call is done and nobody hears of it, or hears too late, or half of it: sent once, and known as maybe done. All at the same
    /// time, since some of it takes as long as a call may.
    pub(super) async fn lose(&self, files: &[(ProviderType, CaseFile)], tally: &mut Tally) {
        let rigs: Vec<(Rig, &CaseFile)> = files
            .iter()
            .filter_map(|(provider, file)| Rig::new(*provider, &file.head).ok().map(|rig| (rig, file)))
            .collect();
        let calls = rigs.iter().flat_map(|(rig, file)| file.calls.iter().map(move |case| (rig, case)));
        let lost = calls.flat_map(|(rig, case)| LOSSES.map(|loss| self.lost(rig, case, loss)));
        for (provider, mints, what, came) in join_all(lost).await {
            let right = tally.check(came.is_ok(), || format!("{what}: {}", came.err().unwrap_or_default()));
            if right && mints {
                tally.points.insert((1, provider));
            }
        }
    }

    async fn lost(
        &self,
        rig: &Rig,
        case: &CallCase,
        (name, script): (&str, Script),
    ) -> (ProviderType, bool, String, Result<(), String>) {
        let what = format!("{:?} {:?}, {name}", rig.provider, case.call);
        let outcome = async {
            let Some(Ok(request)) = case.call.request(rig, &case.with) else {
                return Err("no request".to_owned());
            };
            let wanted = letter(&request);
            let played = self.wire.play(rig, request, script).await.map_err(|error| error.to_string())?;
            if played.seen != [wanted] {
                return Err(format!("sent {:?}", played.seen));
            }
            let lost = played.reply.err().ok_or("taken for an answer")?;
            match MintError::from(lost) {
                MintError::UnknownOutcome(_) => Ok(()),
                other => Err(format!("taken for: {other}")),
            }
        };
        (rig.provider, case.call.mints(), what, outcome.await)
    }
}

/// How an answer does not come.
const LOSSES: [(&str, Script); 4] = [
    ("no answer, the connection closed", Script::Drop),
    ("silence", Script::Silence),
    ("a byte from time to time", Script::Drip),
    ("less than was promised", Script::Cut),
];

/// What the pure functions make of it.
fn pure(rig: &Rig, case: &CallCase, sent: &Sent<'_>) -> String {
    let read = sent.reply().and_then(|reply| case.call.meaning(rig, &case.with, &reply));
    read.unwrap_or_else(|| "nothing: the provider has no such call".to_owned())
}

fn sent_like<'a>(sent: &Sent<'a>) -> Sent<'a> {
    Sent { status: sent.status, headers: sent.headers, body: Vec::new() }
}

fn remember(rig: &Rig, tally: &mut Tally, right: bool, features: &[Feature]) {
    for feature in features {
        tally.answers.insert((rig.provider, *feature));
        if right {
            tally.requests.insert((rig.provider, *feature));
        }
    }
}

/// Whether credentials stand in headers only, and only in such as no trace shows.
fn hides_its_credentials(rig: &Rig, request: &Request) -> bool {
    let secrets: Vec<&str> = [&rig.key, &rig.credential]
        .into_iter()
        .filter_map(|secret| secret.expose_str())
        .filter(|secret| !secret.is_empty())
        .collect();
    let in_headers = request.headers.values().filter(|value| {
        value.to_str().is_ok_and(|value| secrets.iter().any(|secret| value.contains(secret)))
    });
    let in_url = secrets.iter().any(|secret| request.url.as_str().contains(secret));
    !in_url && in_headers.into_iter().all(HeaderValue::is_sensitive)
}

/// Whether a text has a part of the key, or of the credential.
fn says_a_secret(rig: &Rig, text: &str) -> bool {
    let mut secrets = [&rig.key, &rig.credential].into_iter();
    secrets.any(|secret| {
        secret.expose().windows(8).any(|part| text.as_bytes().windows(8).any(|window| window == part))
    })
}
