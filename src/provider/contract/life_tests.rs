//! The life of a key at the sandbox, by the real client over TLS: the same steps for each provider whose API the sandbox speaks.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::DateTime;
use serde_json::json;

use super::Tally;
use crate::{
    api::ProviderType,
    crypto::{SecretBytes, SystemEntropy},
    domain::health::Verdict,
    provider::{
        Account, Admin, AdminCredential, Capabilities, Capability, Endpoint, MintError, MintKind, Named,
        ProviderKeyId, Providers, ProvidersConfig, Revocation, UsageQuestion, WallClock, choose, dialect,
    },
    sandbox::{Clock, Fault, FaultRule, KeyDelete, Sandbox, SandboxOptions, Settings},
};

/// Whose APIs the sandbox speaks.
pub(super) const SPOKEN: [ProviderType; 5] = [
    ProviderType::OpenAI,
    ProviderType::OpenRouter,
    ProviderType::LiteLLM,
    ProviderType::Google,
    ProviderType::AzureOpenAI,
];

/// Where a deleted key is still accepted, and a new one refused.
const LAG_MILLIS: u32 = 5_000;
const LAG_SECONDS: i64 = 6;

/// A new key, by its id.
type Made = (ProviderKeyId, SecretBytes);

struct Stand {
    provider: ProviderType,
    sandbox: Sandbox,
    providers: Providers,
    account: Account,
    /// The project, workspace, team or account.
    place: String,
    seconds: Arc<AtomicI64>,
}

pub(super) async fn play(tally: &mut Tally) {
    for provider in SPOKEN {
        let stand = Stand::start(provider).await;
        stand.live(tally).await;
    }
    the_older_way_of_deleting(tally).await;
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

impl Stand {
    async fn start(provider: ProviderType) -> Self {
        let seconds = Arc::new(AtomicI64::new(1_800_000_000));
        let clock: Clock = {
            let seconds = Arc::clone(&seconds);
            Arc::new(move || DateTime::from_timestamp(seconds.load(Ordering::SeqCst), 0).unwrap_or_default())
        };
        let sandbox = Sandbox::start(SandboxOptions::new(Arc::clone(&clock))).await.unwrap();
        let providers = Providers::new(ProvidersConfig {
            read_timeout: Duration::from_secs(20),
            total_timeout: Duration::from_secs(30),
            loopback_only: true,
            wall: WallClock::new(move || clock()),
            ..ProvidersConfig::default()
        });
        let (account, place) = account(provider, &sandbox);
        Self { provider, sandbox, providers, account, place, seconds }
    }

    fn set(&self, settings: Settings) {
        self.sandbox.set_settings(Some(&self.place), settings);
    }

    fn kind(&self) -> MintKind {
        Capabilities::of(self.provider, true).mint_kind()
    }

    fn can(&self, capability: Capability) -> bool {
        Capabilities::of(self.provider, true).has(capability)
    }

    async fn mint(&self, name: &str) -> Result<Made, MintError> {
        let (providers, account) = (&self.providers, &self.account);
        match self.kind() {
            MintKind::ShownOnce | MintKind::Unnamed => {
                providers.mint(account, name).await.map(|made| (made.id, made.secret))
            }
            MintKind::CallerChosen => {
                let chosen = choose(self.provider, &mut SystemEntropy).ok().flatten().unwrap();
                let id = providers.mint_chosen(account, name, &chosen.secret).await?;
                Ok((id, chosen.secret))
            }
            MintKind::CallerNamed => {
                let id = ProviderKeyId::parse(name).unwrap();
                providers.mint_named(account, &id).await.map(|secret| (id, secret))
            }
            MintKind::Slots => {
                providers.renew_slot(account, "Key2").await?;
                let slots = providers.slots(account).await.map_err(MintError::UnknownOutcome)?;
                let slot = slots.into_iter().find(|slot| slot.slot == "Key2").unwrap();
                Ok((ProviderKeyId::parse("Key2-0123456789ab").unwrap(), slot.secret))
            }
        }
    }

    async fn verdict(&self, key: &SecretBytes) -> Verdict {
        self.providers.validate(self.account.endpoint(), key).await.verdict
    }

    fn later(&self) {
        self.seconds.fetch_add(LAG_SECONDS, Ordering::SeqCst);
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
                let stray = listed.into_iter().find(|key| key.name == "lk1-lost");
                let id = stray.map(|key| key.id);
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
            (MintKind::ShownOnce, Ok((other, _))) => *other != id,
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
        for name in ["lk1-b", "lk1-c", "lk1-d"] {
            let made = self.mint(name).await;
            tally.check(made.is_ok(), || format!("{who:?}: {name}: {:?}", made.as_ref().err()));
        }
        // The least that a page of OpenRouter's may have, whose pages overlap by a key.
        self.set(Settings { max_page_size: 2, ..Settings::default() });
        let listed = self.providers.list(&self.account).await;
        let wanted = self.sandbox.live_keys(&self.place).len();
        let count = listed.as_ref().map(Vec::len);
        if tally.check(count == Ok(wanted), || format!("{who:?}: {wanted} keys by pages of two: {count:?}")) {
            tally.points.insert((4, who));
        }
        self.set(Settings::default());
        let admin = dialect(who).admin().unwrap();
        let shown = self.shows(admin, &id, &secret).await;
        if tally.check(!shown, || format!("{who:?}: the list or the key's entry shows the key")) {
            tally.points.insert((2, who));
        }
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
        fn told<T: Debug, E: Debug>(result: Result<T, E>) -> String {
            format!("{result:?}")
        }
        match self.kind() {
            MintKind::Slots => told(self.providers.renew_slot(&self.account, "Key2").await),
            _ => told(self.providers.revoke(&self.account, id).await),
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
            let now = DateTime::from_timestamp(self.seconds.load(Ordering::SeqCst), 0).unwrap_or_default();
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

/// The account at the sandbox, and its project, workspace, team or name there.
fn account(provider: ProviderType, sandbox: &Sandbox) -> (Account, String) {
    let host = sandbox.addr().to_string();
    let simple = |url: &str, credential: &str, place: String| {
        let credential = AdminCredential::from_secret_data(host.as_bytes(), &credential.into()).unwrap();
        (Account::new(endpoint(provider, sandbox, url), &place, credential).unwrap(), place)
    };
    let data = |entries: &[(&str, &str)]| -> BTreeMap<String, SecretBytes> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), SecretBytes::from(*value))).collect()
    };
    match provider {
        ProviderType::OpenRouter => {
            // The first workspace is the default one: a list that names none would tell of it.
            let _ = sandbox.create_workspace("default");
            simple(&sandbox.router_url(), sandbox.management_key(), sandbox.create_workspace("other"))
        }
        ProviderType::LiteLLM => {
            simple(&sandbox.proxy_url(), sandbox.master_key(), sandbox.create_team("team"))
        }
        ProviderType::Google => {
            let place = sandbox.create_google_project("contoso-llm");
            let block = serde_json::from_value(json!({
                "project": place, "serviceAccountEmail": "gemini@sandbox-llm.iam.gserviceaccount.com",
                "apiURL": sandbox.google_url(),
            }))
            .unwrap();
            let file = sandbox.google_key_file().unwrap();
            let data = data(&[("host", host.as_str()), ("credential", file.as_str())]);
            let endpoint = endpoint(provider, sandbox, &sandbox.gemini_url());
            (Account::of_google(&endpoint, &block, &data).unwrap(), place)
        }
        ProviderType::AzureOpenAI => {
            let (place, azure) = (sandbox.create_azure_account("contoso"), sandbox.azure());
            let block = serde_json::from_value(json!({
                "subscription": azure.subscription, "resourceGroup": azure.group, "account": place,
                "ownership": "Exclusive",
                "resourceManagerURL": sandbox.azure_manager_url(), "authorityURL": sandbox.azure_authority_url(),
            }))
            .unwrap();
            let data = data(&[
                ("host", host.as_str()),
                ("authorityHost", host.as_str()),
                ("tenantID", azure.tenant),
                ("clientID", azure.client),
                ("clientSecret", azure.secret),
            ]);
            let endpoint = endpoint(provider, sandbox, &sandbox.azure_url());
            (Account::of_azure(&endpoint, &block, &data).unwrap(), place)
        }
        _ => simple(&sandbox.base_url(), sandbox.admin_key(), sandbox.project_id().to_owned()),
    }
}

fn endpoint(provider: ProviderType, sandbox: &Sandbox, url: &str) -> Endpoint {
    let spec = json!({
        "type": provider.as_str(), "baseURL": url, "caBundle": sandbox.ca_pem(), "addresses": "AllowPrivate",
        "allowedNamespaces": [],
    });
    Endpoint::from_spec(&serde_json::from_value(spec).unwrap()).unwrap()
}
