//! What keys have used, as their providers report it. Money is a whole number of millionths of a US dollar: sums are exact, but for
//! the rounding of what a provider tells in finer parts.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};

use crate::api::UsageAmounts;

/// Millionths in a dollar.
const PER_DOLLAR: i64 = 1_000_000;

/// More dollars than this are no amount.
const MOST_DOLLARS: f64 = 1e12;

/// Millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

impl Micros {
    /// Reads a decimal of dollars, such as `50` or `0.25`, with at most six decimals and no sign.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || part.len() > 6 || !digits(whole) || !digits(part) {
            return None;
        }
        let whole: i64 = whole.parse().ok()?;
        let part: i64 = format!("{part:0<6}").parse().ok()?;
        Some(Self(whole.checked_mul(PER_DOLLAR)?.checked_add(part)?))
    }

    /// Reads what [`Display`](fmt::Display) writes: the same with a sign.
    pub fn read(text: &str) -> Option<Self> {
        match text.strip_prefix('-') {
            Some(text) => Some(Self(Self::parse(text)?.0.checked_neg()?)),
            None => Self::parse(text),
        }
    }

    /// Takes a provider's number of dollars, rounded to the nearest millionth.
    pub fn of_dollars(dollars: f64) -> Option<Self> {
        if !dollars.is_finite() || dollars.abs() > MOST_DOLLARS {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
        Some(Self((dollars * 1e6).round() as i64))
    }

    /// As a number of dollars, for programs that know nothing else.
    pub fn dollars(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "exact below nine thousand million dollars")]
        let micros = self.0 as f64;
        micros / 1e6
    }
}

impl fmt::Display for Micros {
    /// Dollars with two decimals, or as many more as it has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = self.0.unsigned_abs();
        let (whole, part) = (all / PER_DOLLAR.unsigned_abs(), all % PER_DOLLAR.unsigned_abs());
        let part = format!("{part:06}");
        let cents = part.get(..2).unwrap_or_default();
        let rest = part.get(2..).unwrap_or_default().trim_end_matches('0');
        write!(f, "{sign}{whole}.{cents}{rest}")
    }
}

/// What was used. What is not reported is none, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    /// Requests to models.
    pub requests: Option<i64>,
    /// Tokens that were sent.
    pub input_tokens: Option<i64>,
    /// Tokens that came back.
    pub output_tokens: Option<i64>,
    /// Cost.
    pub cost: Option<Micros>,
}

impl From<&UsageAmounts> for Amounts {
    /// As status tells them.
    fn from(shown: &UsageAmounts) -> Self {
        Self {
            requests: shown.requests,
            input_tokens: shown.input_tokens,
            output_tokens: shown.output_tokens,
            cost: shown.cost_usd.as_deref().and_then(Micros::read),
        }
    }
}

impl Amounts {
    /// Tokens both ways, as far as they are reported.
    pub fn tokens(&self) -> Option<i64> {
        match (self.input_tokens, self.output_tokens) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or_default().saturating_add(output.unwrap_or_default())),
        }
    }

    /// Whether nothing of it is reported as used.
    pub fn is_idle(&self) -> bool {
        let counts = [self.requests, self.input_tokens, self.output_tokens, self.cost.map(|cost| cost.0)];
        counts.into_iter().all(|count| count.is_none_or(|count| count == 0))
    }
}

/// What was used in the current period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// When it began, where the provider tells it.
    pub start: Option<DateTime<Utc>>,
    /// How much.
    pub amounts: Amounts,
}

/// What one key has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyUsage {
    /// Since it was made, as far back as the provider is asked.
    pub total: Amounts,
    /// In the current period, if anything was used in it.
    pub window: Option<Window>,
}

impl KeyUsage {
    /// Whether nothing of it is reported as used.
    pub fn is_idle(&self) -> bool {
        self.total.is_idle() && self.window.is_none_or(|window| window.amounts.is_idle())
    }
}

/// What a provider told at one time: by the key's id, for keys of which it told anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Before it was asked: what it tells is at least as new.
    pub as_of: DateTime<Utc>,
    /// By id.
    pub keys: BTreeMap<Box<str>, KeyUsage>,
}

/// How much a key may use before the next one takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Requests.
    pub requests: Option<i64>,
    /// Tokens both ways.
    pub tokens: Option<i64>,
    /// Cost.
    pub cost: Option<Micros>,
}

impl Thresholds {
    /// Whether any is set.
    pub fn any(&self) -> bool {
        self.requests.is_some() || self.tokens.is_some() || self.cost.is_some()
    }

    /// Whether any of them is reached. What is not reported reaches none.
    pub fn reached_by(&self, used: &Amounts) -> bool {
        fn at_least<T: PartialOrd>(used: Option<T>, threshold: Option<T>) -> bool {
            used.zip(threshold).is_some_and(|(used, threshold)| used >= threshold)
        }
        at_least(used.requests, self.requests)
            || at_least(used.tokens(), self.tokens)
            || at_least(used.cost, self.cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_and_told_to_the_millionth() {
        for (text, micros, told) in [
            ("50", 50_000_000, "50.00"),
            ("0.25", 250_000, "0.25"),
            ("0.000001", 1, "0.000001"),
            ("1.5", 1_500_000, "1.50"),
            ("12.345", 12_345_000, "12.345"),
            ("007", 7_000_000, "7.00"),
        ] {
            assert_eq!(Micros::parse(text), Some(Micros(micros)), "{text}");
            assert_eq!(Micros(micros).to_string(), told);
        }
        for bad in ["", ".5", "-1", "1e3", "1.2345678", "1.2.3", "a", "99999999999999999999", " 1"] {
            assert_eq!(Micros::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Micros(-100_000).to_string(), "-0.10");
        for micros in [0, 1, -1, 123_456_789, -7_000_000] {
            assert_eq!(Micros::read(&Micros(micros).to_string()), Some(Micros(micros)));
        }
        assert_eq!(Micros(i64::MIN).to_string(), "-9223372036854.775808");
    }

    #[test]
    fn a_providers_number_is_rounded_and_what_is_none_is_refused() {
        assert_eq!(Micros::of_dollars(0.06), Some(Micros(60_000)));
        assert_eq!(Micros::of_dollars(1.000_000_4), Some(Micros(1_000_000)));
        assert_eq!(Micros::of_dollars(-0.5), Some(Micros(-500_000)));
        assert_eq!(Micros::of_dollars(0.1 + 0.2), Some(Micros(300_000)));
        for bad in [f64::NAN, f64::INFINITY, 1e13] {
            assert_eq!(Micros::of_dollars(bad), None);
        }
    }

    #[test]
    fn the_first_threshold_counts_and_what_is_not_reported_reaches_none() {
        let used = Amounts { input_tokens: Some(70), output_tokens: Some(30), ..Amounts::default() };
        let tokens = |n| Thresholds { tokens: Some(n), ..Thresholds::default() };
        assert!(tokens(100).reached_by(&used) && !tokens(101).reached_by(&used));
        assert!(tokens(30).reached_by(&Amounts { input_tokens: None, ..used }), "at least so many");
        let requests = Thresholds { requests: Some(1), ..tokens(1000) };
        assert!(!requests.reached_by(&used), "requests are not reported");
        assert!(requests.reached_by(&Amounts { requests: Some(1), ..used }));
        let cost = Thresholds { cost: Some(Micros(10)), ..tokens(1000) };
        assert!(!cost.reached_by(&used) && cost.reached_by(&Amounts { cost: Some(Micros(10)), ..used }));
        assert!(!Thresholds::default().any() && !Thresholds::default().reached_by(&used));
        assert!(cost.any());
    }

    #[test]
    fn nothing_reported_and_zero_are_idle() {
        assert!(Amounts::default().is_idle());
        assert!(Amounts { requests: Some(0), cost: Some(Micros(0)), ..Amounts::default() }.is_idle());
        assert!(!Amounts { cost: Some(Micros(1)), ..Amounts::default() }.is_idle());
        assert_eq!(Amounts::default().tokens(), None);
    }
}
