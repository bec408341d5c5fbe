//! The life of a key at the sandbox, by the real client over TLS: the same steps for each provider whose API the sandbox speaks.

use std::fmt::Debug;

use super::{Tally, stand_tests::Stand};
use crate::{
    api::ProviderType,
    crypto::SecretBytes,
    domain::health::Verdict,
    provider::{
        Admin, Capability, ErrorClass, ListedKey, MintError, MintKind, Named, NoMatch, ProviderKeyId,
        Revocation, UsageQuestion, dialect,
    },
    sandbox::{Fault, FaultRule, KeyDelete, KeyUse, OwnerAccess, Settings},
};

/// Whose keys the sandbox makes.
pub(super) const SPOKEN: [ProviderType; 8] = [
    ProviderType::OpenAI,
    ProviderType::OpenRouter,
    ProviderType::LiteLLM,
    ProviderType::Google,
    ProviderType::AzureOpenAI,
    ProviderType::XAI,
    ProviderType::Mistral,
    ProviderType::Bedrock,
];

/// Where a deleted key is still accepted, and a new one refused; [`Stand::later`] is later than that.
const LAG_MILLIS: u32 = 5_000;

pub(super) async fn play(tally: &mut Tally) {
    for provider in SPOKEN {
        let stand = Stand::start(provider).await;
        stand.live(tally).await;
    }
    the_older_way_of_deleting(tally).await;
    keys_that_people_made(tally).await;
    Stand::start(ProviderType::XAI).await.spreads(tally).await;
}

/// `DELETE …/api_keys/{id}` of a service account's key is refused by one document and allowed by another: neither matters.
async fn the_older_way_of_deleting(tally: &mut Tally) {
    for way in [KeyDelete::Refused, KeyDelete::Deleted] {
        let stand = Stand::start(ProviderType::OpenAI).await;
        stand.set(Settings { service_account_key_delete: way, ..Settings::default() });
        let made = stand.mint("lk1-a").await.ok();
        let ended = match &made {
            Some((id, _)) => stand.providers.revoke(&stand.account, id).await.ok(),
            None => None,
        };
        let right = ended == Some(Revocation::Revoked) && stand.sandbox.live_keys(&stand.place).is_empty();
        if tally.check(right, || format!("OpenAI, {way:?}: {ended:?}")) {
            tally.points.insert((6, ProviderType::OpenAI));
        }
    }
}

/// Anthropic: a key is told by its hint, switched, asked about, and ended in two steps, of which the second cannot be taken back; none can be made.
async fn keys_that_people_made(tally: &mut Tally) {
    let who = ProviderType::Anthropic;
    let stand = Stand::start(who).await;
    let (providers, account) = (&stand.providers, &stand.account);
    let checked = providers.check_account(account).await;
    tally.check(checked.is_ok(), || format!("{who:?}: the account at the sandbox: {checked:?}"));
    let value = |part: &str| format!("sk-ant-api03-{part}-0123456789abcdef-igAA");
    let registered = |part: &str| {
        stand.sandbox.register_key(&value(part), &stand.place, part, OwnerAccess::Active).unwrap_or_default()
    };
    let ids = ["R1D", "R2D", "R3D"].map(registered);
    stand.set(Settings { max_page_size: 2, ..Settings::default() });
    let count = providers.list(account).await.map(|keys| keys.len());
    let key: SecretBytes = value("R3D").as_str().into();
    let found = providers.find(account, &key).await;
    let told = matches!(&found, Ok(Ok(id)) if id.as_str() == ids[2]);
    let right =
        tally.check(count == Ok(3) && told, || format!("{who:?}: by pages of two: {count:?}, {found:?}"));
    let other = providers.find(account, &value("R9D").as_str().into()).await;
    let nothing = other == Ok(Err(NoMatch::Nothing));
    if tally.check(nothing, || format!("{who:?}: a key of somebody else: {other:?}")) && right {
        tally.points.insert((4, who));
    }
    let Ok(Ok(id)) = found else { return };
    for on in [false, true] {
        let switched = providers.switch(account, &id, on).await;
        let verdict = stand.verdict(&key).await;
        let right = switched.is_ok() && verdict == if on { Verdict::Valid } else { Verdict::Rejected };
        tally.check(right, || format!("{who:?}: switched to {on}: {switched:?}, {verdict:?}"));
    }
    let used = KeyUse { requests: 1, input_tokens: 7, output_tokens: 5, ..KeyUse::default() };
    stand.sandbox.note_use(&stand.place, id.as_str(), used);
    let now = stand.now();
    let question = UsageQuestion { now, since: now, keys: [id.in_reports().into()].into() };
    let read = providers.usage(account, &question).await;
    let amounts = read.as_ref().ok().and_then(|read| read.keys.values().next().map(|used| used.total));
    let counted = amounts.as_ref().map(|total| (total.input_tokens, total.output_tokens));
    tally.check(counted == Some((Some(7), Some(5))), || format!("{who:?}: what it has used: {read:?}"));
    let made = stand.mint("lk1-a").await;
    let never = matches!(&made, Err(MintError::NotSent(error)) if error.code == "NotSupported");
    tally.check(never, || format!("{who:?}: a key was made, or asked for"));
    let (off, closed) = (providers.revoke(account, &id).await, providers.close(account, &id).await);
    let again = (providers.revoke(account, &id).await, providers.close(account, &id).await);
    let ended =
        (off, closed) == (Ok(Revocation::Revoked), Ok(())) && again == (Ok(Revocation::AlreadyGone), Ok(()));
    let verdict = stand.verdict(&key).await;
    tally.check(ended && verdict.refuses(), || {
        format!("{who:?}: ended, and once more: {again:?}, {verdict:?}")
    });
    let back = providers.switch(account, &id, true).await;
    let stays = back.as_ref().is_err_and(|error| error.class == ErrorClass::BadRequest);
    if tally.check(stays, || format!("{who:?}: an archived key was switched on: {back:?}")) && never {
        tally.points.insert((8, who));
    }
}

impl Stand {
    /// xAI tells how far a new key has spread.
    async fn spreads(&self, tally: &mut Tally) {
        let who = self.provider;
        self.set(Settings { propagation_lag_millis: LAG_MILLIS, ..Settings::default() });
        let Ok((id, _)) = self.mint("lk1-spreads").await else {
            tally.failures.push(format!("{who:?}: no key was made that spreads slowly"));
            return;
        };
        let at_first = self.providers.has_spread(&self.account, &id).await;
        self.later();
        let then = self.providers.has_spread(&self.account, &id).await;
        let right = (at_first, then) == (Some(false), Some(true));
        tally.check(right, || format!("{who:?}: how far it has spread: {at_first:?}, {then:?}"));
    }

    async fn live(&self, tally: &mut Tally) {
        let who = self.provider;
        let checked = self.providers.check_account(&self.account).await;
        tally.check(checked.is_ok(), || format!("{who:?}: the account at the sandbox: {checked:?}"));
        self.loses_an_answer(tally).await;
        self.takes_a_name_twice(tally).await;
        self.lags(tally).await;
        self.ends(tally).await;
    }

    /// Point 1: the key is there, and the operator finds out.
    async fn loses_an_answer(&self, tally: &mut Tally) {
        let who = self.provider;
        let before = self.sandbox.slot_values(&self.place);
        let listed_before = self.listed().await;
        self.sandbox.add_fault(FaultRule::on_all(Fault::drop_reply()).project(&self.place).times(1));
        let lost = self.mint("lk1-lost").await.err();
        let unknown = matches!(lost, Some(MintError::UnknownOutcome(_)));
        tally.check(unknown, || format!("{who:?}: an answer was lost, and the mint is {lost:?}"));
        let found = match self.kind() {
            MintKind::Slots => self.sandbox.slot_values(&self.place) != before,
            MintKind::CallerNamed => {
                let id = ProviderKeyId::parse("lk1-lost").unwrap();
                matches!(self.providers.named(&self.account, &id).await, Ok(Named::There(_)))
            }
            _ => {
                let listed = self.providers.list(&self.account).await.unwrap_or_default();
                // Where keys have no names: what was not there before.
                let is_ours = |key: &ListedKey| match self.kind() {
                    MintKind::Unnamed => !listed_before.contains(&key.id),
                    _ => key.name == "lk1-lost",
                };
                let id = listed.into_iter().find(is_ours).map(|key| key.id);
                let there = match (&id, self.kind()) {
                    (Some(id), MintKind::CallerChosen) => {
                        self.providers.exists(&self.account, id).await == Ok(Some(true))
                    }
                    (id, _) => id.is_some(),
                };
                if let Some(id) = id {
                    let ended = self.providers.revoke(&self.account, &id).await;
                    tally.check(ended == Ok(Revocation::Revoked), || format!("{who:?}: a stray: {ended:?}"));
                }
                there
            }
        };
        if tally.check(found, || format!("{who:?}: what was made while the answer was lost is not found")) {
            tally.points.insert((1, who));
        }
    }

    /// Points 2, 3, 4 and 7: a name twice, lists by small pages, and no key in any of them.
    async fn takes_a_name_twice(&self, tally: &mut Tally) {
        let who = self.provider;
        let Ok((id, secret)) = self.mint("lk1-a").await else {
            tally.failures.push(format!("{who:?}: no key was made at the sandbox"));
            return;
        };
        tally.passed += 1;
        let again = self.mint("lk1-a").await;
        let told = again.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let right = match (self.kind(), &again) {
            // Another key under the same name.
            (MintKind::ShownOnce | MintKind::Unnamed, Ok((other, _))) => *other != id,
            // The proxy says that the name is taken: whoever asked may have been us.
            (MintKind::CallerChosen, Err(MintError::UnknownOutcome(_))) => told.contains("NameTaken"),
            // The same key.
            (MintKind::CallerNamed, Ok((other, value))) => *other == id && value.expose() == secret.expose(),
            (MintKind::Slots, Ok((_, value))) => value.expose() != secret.expose(),
            _ => false,
        };
        if tally.check(right, || format!("{who:?}: a name was taken twice: {told}")) {
            tally.points.insert((3, who));
        }
        if !self.can(Capability::List) {
            tally.points.insert((2, who));
            return;
        }
        let of_two = self.kind() == MintKind::Unnamed;
        if of_two {
            self.has_no_third_key(tally).await;
        } else {
            for name in ["lk1-b", "lk1-c", "lk1-d"] {
                let made = self.mint(name).await;
                tally.check(made.is_ok(), || format!("{who:?}: {name}: {:?}", made.as_ref().err()));
            }
        }
        // Two are the least that a page of OpenRouter's and Mistral's may have, whose pages overlap by a key.
        let max_page_size = if of_two { 1 } else { 2 };
        self.set(Settings { max_page_size, ..Settings::default() });
        let listed = self.providers.list(&self.account).await;
        let wanted = self.sandbox.live_keys(&self.place).len();
        let count = listed.as_ref().map(Vec::len);
        if tally.check(count == Ok(wanted), || format!("{who:?}: {wanted} keys by small pages: {count:?}")) {
            tally.points.insert((4, who));
        }
        self.set(Settings::default());
        let admin = dialect(who).admin().unwrap();
        let shown = self.shows(admin, &id, &secret).await;
        if tally.check(!shown, || format!("{who:?}: the list or the key's entry shows the key")) {
            tally.points.insert((2, who));
        }
        // Makes room.
        if let (true, Ok((other, _))) = (of_two, &again) {
            let ended = self.end(other).await;
            tally.check(ended.starts_with("Ok"), || format!("{who:?}: the second of two keys: {ended}"));
        }
    }

    /// Point 9: the user has two.
    async fn has_no_third_key(&self, tally: &mut Tally) {
        let who = self.provider;
        let third = self.mint("lk1-c").await;
        let refused = matches!(&third, Err(MintError::Refused(error)) if error.code == "LimitExceeded");
        if tally.check(refused, || format!("{who:?}: a third key: {:?}", third.as_ref().err())) {
            tally.points.insert((9, who));
        }
    }

    async fn listed(&self) -> Vec<ProviderKeyId> {
        let listed = self.providers.list(&self.account).await.unwrap_or_default();
        listed.into_iter().map(|key| key.id).collect()
    }

    /// Whether the list has the key itself. A key that can be read again is shown by the one call that is for that.
    async fn shows(&self, admin: &'static dyn Admin, id: &ProviderKeyId, secret: &SecretBytes) -> bool {
        let list =
            self.providers.call("list", &self.account, |account| admin.list_request(account, None)).await;
        let body = list.map(|reply| reply.body).unwrap_or_default();
        let has = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
        // The list was read at all: it has the id.
        has(secret.expose()) || !has(id.handle().as_bytes())
    }

    /// Point 5: refused at first, and accepted after the end.
    async fn lags(&self, tally: &mut Tally) {
        let who = self.provider;
        let lags = Settings {
            new_key_lag_millis: LAG_MILLIS,
            deleted_key_lag_millis: LAG_MILLIS,
            ..Settings::default()
        };
        self.set(lags);
        let Ok((id, secret)) = self.mint("lk1-lags").await else {
            tally.failures.push(format!("{who:?}: no key was made at the sandbox that lags"));
            return;
        };
        let at_first = self.verdict(&secret).await;
        self.later();
        let then = self.verdict(&secret).await;
        let right = !at_first.accepts() && then == Verdict::Valid;
        tally.check(right, || format!("{who:?}: a new key that spreads slowly: {at_first:?}, {then:?}"));
        let ended = self.end(&id).await;
        let still = self.providers.validate(self.account.endpoint(), &secret).await;
        self.later();
        let over = self.verdict(&secret).await;
        // LiteLLM lets such a key in, and says what it is.
        let gone = (still.verdict.accepts() || still.let_in) && over.refuses();
        if tally.check(gone && right, || format!("{who:?}: an ended key ({ended:?}): {still:?}, {over:?}")) {
            tally.points.insert((5, who));
        }
        self.set(Settings::default());
    }

    async fn end(&self, id: &ProviderKeyId) -> String {
        fn told<T: Debug, E: Debug>(result: &Result<T, E>) -> String {
            format!("{result:?}")
        }
        match self.kind() {
            MintKind::Slots => told(&self.providers.renew_slot(&self.account, "Key2").await),
            _ => told(&self.providers.revoke(&self.account, id).await),
        }
    }

    /// Switched off and on, asked about, and revoked, which is confirmed.
    async fn ends(&self, tally: &mut Tally) {
        let who = self.provider;
        let Ok((id, secret)) = self.mint("lk1-ends").await else {
            tally.failures.push(format!("{who:?}: no second key was made at the sandbox"));
            return;
        };
        let valid = self.verdict(&secret).await;
        tally.check(valid == Verdict::Valid, || format!("{who:?}: a new key is {valid:?}"));
        if self.can(Capability::Disable) {
            for on in [false, true] {
                let switched = self.providers.switch(&self.account, &id, on).await;
                let verdict = self.verdict(&secret).await;
                let right = switched.is_ok() && (verdict == Verdict::Valid) == on;
                tally.check(right, || format!("{who:?}: switched to {on}: {switched:?}, {verdict:?}"));
            }
        }
        if self.can(Capability::LastUsed) {
            let used = self.providers.last_used(&self.account, &id).await;
            let right = used.as_ref().is_ok_and(|used| used.exists && used.at.is_some());
            tally.check(right, || format!("{who:?}: its last use: {used:?}"));
        }
        if self.can(Capability::Usage) {
            let now = self.now();
            let question = UsageQuestion { now, since: now, keys: [id.in_reports().into()].into() };
            let read = self.providers.usage(&self.account, &question).await;
            tally.check(read.is_ok(), || format!("{who:?}: what it has used: {read:?}"));
        }
        let _ = self.end(&id).await;
        let refused = self.verdict(&secret).await;
        tally.check(refused.refuses(), || format!("{who:?}: a revoked key is {refused:?}"));
        if self.kind() != MintKind::Slots {
            let again = self.providers.revoke(&self.account, &id).await;
            tally
                .check(again == Ok(Revocation::AlreadyGone), || format!("{who:?}: revoked twice: {again:?}"));
            let listed = self.providers.list(&self.account).await.unwrap_or_default();
            let there = listed.iter().any(|key| key.id.same_handle(&id));
            tally.check(!there, || format!("{who:?}: a revoked key is listed"));
        }
    }
}
