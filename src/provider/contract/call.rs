//! The calls that case files are about: how each request is built, and what a reply to it means, in one line of text.

use chrono::SecondsFormat;
use serde::Deserialize;

use super::rig::Rig;
use crate::{
    api::ProviderType,
    domain::{
        health::Verdict,
        usage::{Amounts, KeyUsage},
    },
    provider::{
        CallError, Dialect, ErrorClass, Making, MintError, Minting, Presence, ProviderKeyId, Revocation,
        aws_session::{read_role, signature},
        bedrock_admin::{read_user, user_request},
        classification::{Finding, classify},
        client::Page,
        dialect,
        exchange::{Reply, Request, Unsendable},
        facts::Feature,
        usage::{At, Report, Sums, UsageReports},
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Call {
    Validate,
    /// The second validation call, where the first may be forbidden to a good key.
    ValidateAgain,
    /// The validation call without a key.
    ValidateKeyless,
    Account,
    Mint,
    /// Asks how far the making of a key is.
    Operation,
    /// Asks for a key by its id.
    Look,
    /// Reads a key's value.
    Value,
    /// Reads what slots hold.
    Slots,
    /// Makes a slot's key anew.
    Renew,
    List,
    Revoke,
    SwitchOff,
    SwitchOn,
    LastUsed,
    Usage,
    /// Asks which key a supplied one is.
    Match,
    /// Ends a key for good that is switched off.
    Close,
    /// Asks how far a new key has spread.
    Spread,
    /// Asks in which AWS account the user is.
    User,
    /// Exchanges a token of the cluster for the keys of a role.
    Role,
}

/// What a call is given beside the rig.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct With {
    /// Where a page begins.
    pub(super) after: Option<String>,
    pub(super) operation: Option<String>,
    pub(super) slot: Option<String>,
    /// Which report of usage: completions, embeddings, costs, messages or keys.
    pub(super) report: Option<String>,
    /// Status of the call before.
    pub(super) status: Option<u16>,
}

impl With {
    fn report(&self) -> Option<Report> {
        match self.report.as_deref()? {
            "completions" => Some(Report::Completions),
            "embeddings" => Some(Report::Embeddings),
            "costs" => Some(Report::Costs),
            "messages" => Some(Report::Messages),
            "keys" => Some(Report::Keys),
            _ => None,
        }
    }
}

/// What an answer means from which it cannot be told how far a key has spread, failures included: it holds nothing up.
pub(super) const NOT_TOLD: &str = "not told";

/// Days that are asked for on a page of a report.
const DAYS: u16 = 3;

impl Call {
    /// Whether it checks a key.
    pub(super) const fn checks(self) -> bool {
        matches!(self, Self::Validate | Self::ValidateAgain | Self::ValidateKeyless)
    }

    /// Whether it makes a key, or leads there: then a lost answer leaves the outcome unknown.
    pub(super) const fn mints(self) -> bool {
        matches!(self, Self::Mint | Self::Operation | Self::Renew)
    }

    /// What the support matrix has it for, if the reply means this.
    pub(super) fn features(self, means: &str) -> Vec<Feature> {
        let failed = ["error", "unknown", "refused"].iter().any(|word| means.starts_with(word));
        let mut features: Vec<Feature> = match self {
            _ if means.contains("RateLimited after") => vec![Feature::RetryAfter],
            Self::Validate if means.starts_with("OutOfCredit") => vec![Feature::Credit],
            Self::Validate if means.starts_with("Valid") => vec![Feature::Validate],
            _ if failed => Vec::new(),
            Self::Validate
            | Self::ValidateAgain
            | Self::ValidateKeyless
            | Self::Account
            | Self::Usage
            | Self::Spread
            | Self::User
            | Self::Role => Vec::new(),
            Self::Match => vec![Feature::Match],
            Self::Mint | Self::Operation | Self::Value => vec![Feature::Mint],
            Self::Renew => vec![Feature::Mint, Feature::Revoke],
            Self::Look | Self::Slots => vec![Feature::Confirm],
            Self::List => vec![Feature::List, Feature::Confirm],
            Self::Revoke | Self::Close => vec![Feature::Revoke],
            Self::SwitchOff | Self::SwitchOn => vec![Feature::Disable],
            Self::LastUsed => vec![Feature::LastUsed],
        };
        if self == Self::Usage && !failed {
            let told = [" requests ", " in ", " out "].iter().any(|amount| means.contains(amount));
            features.extend(told.then_some(Feature::Usage));
            features.extend(means.contains("cost").then_some(Feature::Cost));
        }
        features
    }

    /// The request; none: the provider has no such call.
    pub(super) fn request(self, rig: &Rig, with: &With) -> Option<Result<Request, Unsendable>> {
        let dialect = dialect(rig.provider);
        let (endpoint, key) = (&rig.endpoint, &rig.key);
        match self {
            Self::Validate => return Some(dialect.validation_request(endpoint, key)),
            Self::ValidateAgain => return dialect.second_request(endpoint, key, with.status?),
            Self::ValidateKeyless => return dialect.keyless_request(endpoint).map(Ok),
            Self::Role => return rig.role.as_ref()?.request().map(Ok),
            _ => {}
        }
        let built = self.managing(rig, with)?;
        Some(match rig.signer() {
            Some(keys) => {
                built.and_then(|request| signature(request, keys, rig.question.now).map_err(|_| Unsendable))
            }
            None => built,
        })
    }

    /// The request to an API that manages keys, not signed.
    fn managing(self, rig: &Rig, with: &With) -> Option<Result<Request, Unsendable>> {
        let (admin, account) = (dialect(rig.provider).admin()?, rig.account.as_ref()?);
        let (key, id) = (&rig.key, rig.id.as_ref());
        Some(match (self, admin.minting()) {
            (Self::Account, _) => admin.account_request(account),
            (Self::User, _) => Ok(user_request(account.bedrock()?)),
            (Self::Match, _) => admin.matching()?.hints_request(account, with.after.as_deref()),
            (Self::Look, Minting::Never) => admin.closing()?.look_request(account, id?),
            (Self::Close, _) => admin.closing()?.close_request(account, id?),
            (Self::Spread, _) => admin.spread()?.spread_request(account, id?),
            (Self::List, _) => admin.list_request(account, with.after.as_deref()),
            (Self::Revoke, _) => admin.revoke_request(account, id?),
            (Self::SwitchOff | Self::SwitchOn, _) => {
                admin.switch()?.switch_request(account, id?, self == Self::SwitchOn)
            }
            (Self::LastUsed, _) => admin.last_use()?.last_used_request(account, id?.key()?),
            (Self::Usage, _) => {
                let at = At { question: &rig.question, days: DAYS, after: with.after.as_deref() };
                admin.usage()?.usage_request(account, with.report()?, at)
            }
            (Self::Mint, Minting::ShownOnce(calls) | Minting::Unnamed(calls)) => {
                calls.mint_request(account, &rig.name)
            }
            (Self::Mint, Minting::CallerChosen(calls)) => calls.mint_request(account, &rig.name, key),
            (Self::Mint, Minting::CallerNamed(calls)) => calls.mint_request(account, id?),
            (Self::Operation, Minting::CallerNamed(calls)) => {
                calls.operation_request(account, with.operation.as_deref()?)
            }
            (Self::Value, Minting::CallerNamed(calls)) => calls.value_request(account, id?),
            (Self::Look, Minting::CallerNamed(calls)) => calls.look_request(account, id?),
            (Self::Look, Minting::CallerChosen(calls)) => calls.look_request(account, id?),
            (Self::Slots, Minting::Slots(calls)) => {
                calls.read_request(account.azure()?, account.project(), &rig.credential)
            }
            (Self::Renew, Minting::Slots(calls)) => calls.renew_request(
                account.azure()?,
                account.project(),
                with.slot.as_deref()?,
                &rig.credential,
            ),
            _ => return None,
        })
    }

    /// What a reply to it means; none: the provider has no such call.
    pub(super) fn meaning(self, rig: &Rig, with: &With, reply: &Reply) -> Option<String> {
        let dialect: &dyn Dialect = dialect(rig.provider);
        if self.checks() {
            return Some(of_finding(classify(dialect, reply)));
        }
        if self == Self::Role {
            return Some(told(read_role(reply), |keys| format!("keys of {}", keys.id)));
        }
        let (admin, account) = (dialect.admin()?, rig.account.as_ref()?);
        let id = rig.id.as_ref();
        Some(match (self, admin.minting()) {
            (Self::Account, _) => told(admin.read_account(account, reply), |()| "ok".to_owned()),
            (Self::User, _) => told(read_user(account.bedrock()?, reply), |()| "the user".to_owned()),
            (Self::Match, _) => told(admin.matching()?.read_hints(account, &rig.key, reply), of_matches),
            (Self::Look, Minting::Never) => told(admin.closing()?.read_look(id?, reply), |works| {
                if works { "works".to_owned() } else { "works no more".to_owned() }
            }),
            (Self::Close, _) => told(admin.closing()?.read_closed(id?, reply), |()| "ended".to_owned()),
            (Self::Spread, _) => match admin.spread()?.read_spread(reply) {
                Some(true) => "everywhere".to_owned(),
                Some(false) => "not everywhere".to_owned(),
                None => NOT_TOLD.to_owned(),
            },
            (Self::List, _) => told(admin.read_list(account, with.after.as_deref(), reply), of_page),
            (Self::Revoke, _) => told(admin.read_revocation(id?, reply), |revocation| match revocation {
                Revocation::Revoked => "revoked".to_owned(),
                Revocation::AlreadyGone => "already gone".to_owned(),
            }),
            (Self::SwitchOff | Self::SwitchOn, _) => {
                let on = self == Self::SwitchOn;
                told(admin.switch()?.read_switched(id?, on, reply), |()| "switched".to_owned())
            }
            (Self::LastUsed, _) => told(admin.last_use()?.read_last_used(id?.key()?, reply), |used| {
                match (used.exists, used.at) {
                    (false, _) => "no such key".to_owned(),
                    (true, None) => "never used".to_owned(),
                    (true, Some(at)) => format!("used at {}", at.to_rfc3339_opts(SecondsFormat::Secs, true)),
                }
            }),
            (Self::Usage, _) => usage(rig, with, admin.usage()?, reply)?,
            (Self::Mint, Minting::ShownOnce(calls) | Minting::Unnamed(calls)) => {
                made(calls.read_minted(account, &rig.name, reply), |minted| {
                    format!("made {} {}", minted.id, minted.secret.expose_str().unwrap_or_default())
                })
            }
            (Self::Mint, Minting::CallerChosen(calls)) => {
                made(calls.read_minted(id?, &rig.key, reply), |()| "made".to_owned())
            }
            (Self::Mint, Minting::CallerNamed(calls)) => made(calls.read_making(reply), of_making),
            (Self::Operation, Minting::CallerNamed(calls)) => made(calls.read_operation(reply), of_making),
            (Self::Value, Minting::CallerNamed(calls)) => told(calls.read_value(reply), |secret| {
                format!("the key {}", secret.expose_str().unwrap_or_default())
            }),
            (Self::Look, Minting::CallerNamed(calls)) => {
                told(calls.read_look(id?, reply), |presence| match presence {
                    Presence::Absent => "absent".to_owned(),
                    Presence::There => "there".to_owned(),
                    Presence::Deleted => "deleted".to_owned(),
                })
            }
            (Self::Look, Minting::CallerChosen(calls)) => told(calls.read_look(id?, reply), |there| {
                if there { "there".to_owned() } else { "absent".to_owned() }
            }),
            (Self::Slots, Minting::Slots(calls)) => told(calls.read_slots(reply), |slots| {
                let slots = slots
                    .iter()
                    .map(|slot| format!("{} {}", slot.slot, slot.secret.expose_str().unwrap_or_default()));
                slots.collect::<Vec<_>>().join(", ")
            }),
            (Self::Renew, Minting::Slots(calls)) => {
                made(calls.read_renewed(reply), |()| "made anew".to_owned())
            }
            _ => return None,
        })
    }
}

fn usage(rig: &Rig, with: &With, reports: &dyn UsageReports, reply: &Reply) -> Option<String> {
    let account = rig.account.as_ref()?;
    let at = At { question: &rig.question, days: DAYS, after: with.after.as_deref() };
    let mut sums = Sums::new(&rig.question.keys);
    let next = match reports.read_usage(account, with.report()?, at, reply, &mut sums) {
        Ok(next) => next.map_or(String::new(), |next| format!("; next {next}")),
        Err(error) => return Some(of_error(&error)),
    };
    let reading = sums.told(rig.question.now);
    let keys: Vec<String> =
        reading.keys.iter().map(|(key, used)| format!("{key}:{}", of_usage(used))).collect();
    Some(if keys.is_empty() { format!("no use{next}") } else { format!("{}{next}", keys.join(", ")) })
}

fn of_finding(finding: Finding) -> String {
    let let_in = if finding.let_in { " (let in)" } else { "" };
    match finding.verdict {
        Verdict::RateLimited { retry_after: None } => "RateLimited".to_owned(),
        Verdict::RateLimited { retry_after: Some(wait) } => format!("RateLimited after {wait:?}"),
        verdict => format!("{verdict:?} {}{let_in}", finding.code),
    }
}

fn of_error(error: &CallError) -> String {
    format!("error: {}", of_class(error))
}

fn of_class(error: &CallError) -> String {
    match error.class {
        ErrorClass::RateLimited { retry_after: None } => "RateLimited".to_owned(),
        ErrorClass::RateLimited { retry_after: Some(wait) } => format!("RateLimited after {wait:?}"),
        class => format!("{class:?} {}", error.code),
    }
}

fn told<T>(read: Result<T, CallError>, means: impl FnOnce(T) -> String) -> String {
    read.map_or_else(|error| of_error(&error), means)
}

fn made<T>(read: Result<T, MintError>, means: impl FnOnce(T) -> String) -> String {
    match read {
        Ok(made) => means(made),
        Err(MintError::NotSent(error)) => format!("not sent: {}", of_class(&error)),
        Err(MintError::Refused(error)) => format!("refused: {}", of_class(&error)),
        Err(MintError::UnknownOutcome(error)) => format!("unknown: {}", of_class(&error)),
    }
}

fn of_making(making: Making) -> String {
    match making {
        Making::UnderWay(operation) => format!("under way: {operation}"),
        Making::Over => "over".to_owned(),
    }
}

fn of_page(page: Page) -> String {
    let keys = page.keys.iter().map(|key| {
        let at = key
            .created_at
            .map_or(String::new(), |at| format!("@{}", at.to_rfc3339_opts(SecondsFormat::Secs, true)));
        format!("{}={}{at}", key.name, key.id)
    });
    let keys: Vec<String> = keys.collect();
    let keys = if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") };
    keys + &page.next.map_or(String::new(), |next| format!("; next {next}"))
}

fn of_matches((ids, next): (Vec<ProviderKeyId>, Option<String>)) -> String {
    let ids: Vec<&str> = ids.iter().map(ProviderKeyId::as_str).collect();
    let ids = if ids.is_empty() { "none".to_owned() } else { ids.join(" or ") };
    ids + &next.map_or(String::new(), |next| format!("; next {next}"))
}

fn of_usage(used: &KeyUsage) -> String {
    let window = used.window.as_ref().map_or(String::new(), |window| {
        let since = window.start.map_or("?".to_owned(), |at| at.date_naive().to_string());
        format!("; since {since}:{}", of_amounts(&window.amounts))
    });
    format!("{}{window}", of_amounts(&used.total))
}

fn of_amounts(amounts: &Amounts) -> String {
    [
        ("requests", amounts.requests),
        ("in", amounts.input_tokens),
        ("out", amounts.output_tokens),
        ("cost", amounts.cost.map(|micros| micros.0)),
    ]
    .into_iter()
    .filter_map(|(name, number)| number.map(|number| format!(" {name} {number}")))
    .collect()
}

/// Whether a text says that nothing was understood, which is what a broken answer must come to.
pub(super) fn is_unclear(call: Call, means: &str) -> bool {
    let wanted = if call == Call::Spread {
        NOT_TOLD
    } else if call.checks() {
        "Unknown "
    } else if call.mints() {
        "unknown: Garbled "
    } else {
        "error: Garbled "
    };
    means.starts_with(wanted)
}

/// A provider that the sandbox, or a list of points, speaks of by its name.
pub(super) fn named(name: &str) -> Option<ProviderType> {
    super::ALL.into_iter().find(|provider| provider.as_str() == name)
}
