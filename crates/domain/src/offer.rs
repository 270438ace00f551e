//! Offers: what upstreams sell, in common words, and what it costs us in their own currency and precision.

use crate::plan::{Activation, Network};
use std::cmp::Ordering;
use std::fmt;

/// An amount in an upstream's own currency and precision: `minor / 10^decimals`. Upstreams price finer than any
/// currency's minor unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// The amount in units of its last decimal.
    pub units: i64,
    /// How many decimals that is.
    pub decimals: u32,
    /// ISO 4217, as the upstream says.
    pub currency: String,
}

/// Most decimals a cost keeps; what an upstream says beyond is cut off, which no price list has.
pub const MOST_DECIMALS: u32 = 8;

impl Cost {
    /// Reads a decimal number such as `1.25` or `3`.
    #[must_use]
    pub fn parse(text: &str, currency: &str) -> Option<Self> {
        let text = text.trim();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(usize::try_from(MOST_DECIMALS).ok()?)];
        let units = format!("{whole}{fraction}").parse().ok()?;
        Some(Self { units, decimals: u32::try_from(fraction.len()).ok()?, currency: currency.to_owned() })
    }

    /// The amount as a decimal number with all its decimals, `1.2500`.
    #[must_use]
    pub fn decimal(&self) -> String {
        let decimals = usize::try_from(self.decimals).unwrap_or(usize::MAX).min(30);
        let digits = format!("{:0>width$}", self.units.unsigned_abs(), width = decimals.saturating_add(1));
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(decimals));
        let sign = if self.units < 0 { "-" } else { "" };
        if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
    }

    /// Which of two costs is higher, whatever their decimals; `None` where they are of two currencies, or beyond what
    /// can be compared.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if self.currency != other.currency {
            return None;
        }
        let decimals = self.decimals.max(other.decimals);
        let scaled = |cost: &Self| {
            let factor = 10_i128.checked_pow(decimals.checked_sub(cost.decimals)?)?;
            i128::from(cost.units).checked_mul(factor)
        };
        Some(scaled(self)?.cmp(&scaled(other)?))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decimal(), self.currency)
    }
}

/// How much data a plan has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// So many megabytes (1,048,576 bytes) over the whole term.
    Total(i64),
    /// So many megabytes each day.
    Daily(i64),
    /// No limit, or none that is told.
    Unlimited,
}

/// A plan as an upstream offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The upstream's own plan id, to be named in a purchase.
    pub upstream_plan_id: String,
    /// The upstream's name for it.
    pub name: String,
    /// What one costs us.
    pub cost: Cost,
    /// Where it works, ISO 3166-1 alpha-2, sorted, each once.
    pub countries: Vec<String>,
    /// How much data.
    pub data: Data,
    /// Term in days.
    pub validity_days: i64,
    /// Networks, where they are told.
    pub networks: Vec<Network>,
    /// Best technology or speed, as the upstream says it.
    pub speed: Option<String>,
    /// When the term begins, where it is told.
    pub activation: Option<Activation>,
    /// Whether data can be added to its eSIMs.
    pub add_on_supported: bool,
    /// Access point name, where it is told.
    pub apn: Option<String>,
    /// The upstream's remarks for travellers: fair use, throttling.
    pub remark: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_compared_as_amounts_and_shown_with_their_digits() {
        let cost = |text| Cost::parse(text, "USD").unwrap();
        assert_eq!(cost("1.5").compare(&cost("1.500")), Some(Ordering::Equal));
        assert_eq!(cost("1.4999").compare(&cost("1.5")), Some(Ordering::Less));
        assert_eq!(cost("92233720368547758").compare(&cost("0.00000001")), Some(Ordering::Greater));
        assert_eq!(cost("1").compare(&Cost::parse("1", "EUR").unwrap()), None);
        let absurd = Cost { units: i64::MAX, decimals: 0, currency: "USD".to_owned() };
        assert_eq!(absurd.compare(&Cost { units: 1, decimals: 40, ..absurd.clone() }), None);
        for text in ["3", "1.50", "0.0001", "0.10"] {
            assert_eq!(cost(text).to_string(), format!("{text} USD"));
        }
        assert_eq!(Cost { units: -5, decimals: 2, ..absurd }.to_string(), "-0.05 USD");
    }

    #[test]
    fn a_cost_keeps_its_digits() {
        let cost = |text| Cost::parse(text, "USD").map(|cost| (cost.units, cost.decimals));
        assert_eq!(cost("1.25"), Some((125, 2)));
        assert_eq!(cost("3"), Some((3, 0)));
        assert_eq!(cost("0.0001"), Some((1, 4)));
        for text in ["1.25", "3", "0.0001", "12.3400"] {
            assert_eq!(Cost::parse(text, "USD").unwrap().decimal(), text);
        }
        for text in ["", ".5", "-1", "1,5", "1e3", "NaN", "99999999999999999999"] {
            assert_eq!(cost(text), None, "{text}");
        }
    }
}
