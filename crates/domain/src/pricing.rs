//! How a price comes about: the upstream's cost, times a rate, times a markup. It is computed exactly and rounded
//! once per unit, up to the billing currency's minor unit, so that no price is ever below its cost by a rounding.

use crate::id::{MarkupId, PlanId, TenantId};
use crate::money::{Currency, LARGEST_MINOR, Money, MoneyError};
use crate::offer::Cost;
use crate::time::Timestamp;
use crate::words;
use std::collections::{HashMap, HashSet};

/// Most decimals a rate has.
const MOST_RATE_DECIMALS: usize = 8;
/// The largest rate, in whole units: the weakest currency is worth less than a millionth of the strongest, and beyond
/// a hundred million somebody has lost the decimal point.
const LARGEST_RATE: i64 = 100_000_000;
/// The whole cost, in hundredths of a percent.
const WHOLE: i64 = 10_000;
/// Decimals of a number of hundredths of a percent.
const PERCENT_DECIMALS: u32 = 4;
/// The largest markup in hundredths of a percent: ten times the cost on top of it.
const LARGEST_PERCENT: i64 = 100_000;

/// What one currency costs in another, from a point in time on: one `from` costs `units / 10^decimals` of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// The currency of the upstream's costs, ISO 4217.
    pub from: String,
    /// The currency of the prices.
    pub to: Currency,
    /// The rate in units of its last decimal.
    pub units: i64,
    /// How many decimals that is.
    pub decimals: u32,
    /// The first moment it holds; it holds until a newer one does.
    pub valid_from: Timestamp,
}

/// Why a text is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateFault {
    /// `from` is no ISO 4217 currency.
    UnknownCurrency,
    /// From a currency to itself: that needs no rate.
    SameCurrency,
    /// Not a plain decimal number such as `1.0842`.
    NotANumber,
    /// More than 8 decimals.
    TooManyDecimals,
    /// Zero.
    NotPositive,
    /// More than 100,000,000.
    TooLarge,
}

impl Rate {
    /// Reads a rate from a plain decimal number of at most 8 decimals, such as `1.0842` or `150`. Zeros at its end do
    /// not count.
    ///
    /// # Errors
    /// [`RateFault`].
    pub fn parse(text: &str, from: &str, to: Currency, valid_from: Timestamp) -> Result<Self, RateFault> {
        let from = known(from).ok_or(RateFault::UnknownCurrency)?;
        if from == to {
            return Err(RateFault::SameCurrency);
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(RateFault::NotANumber);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > MOST_RATE_DECIMALS {
            return Err(RateFault::TooManyDecimals);
        }
        let decimals = u32::try_from(fraction.len()).map_err(|_| RateFault::TooManyDecimals)?;
        let units: i64 = format!("{whole}{fraction}").parse().map_err(|_| RateFault::TooLarge)?;
        let largest = 10_i64.checked_pow(decimals).and_then(|scale| scale.checked_mul(LARGEST_RATE));
        match units {
            0 => Err(RateFault::NotPositive),
            units if largest.is_none_or(|largest| units > largest) => Err(RateFault::TooLarge),
            units => Ok(Self { from: from.code().to_owned(), to, units, decimals, valid_from }),
        }
    }
}

impl Rate {
    /// The rate as a decimal number, `1.0842`.
    #[must_use]
    pub fn decimal(&self) -> String {
        Cost { units: self.units, decimals: self.decimals, currency: String::new() }.decimal()
    }
}

/// The currency an upstream names. Some write codes in small letters.
fn known(code: &str) -> Option<Currency> {
    code.to_ascii_uppercase().parse().ok()
}

/// The rate that holds at `now`: the newest that has begun; of two that began together, the later one of the list.
/// A currency needs no rate to itself, and has none.
#[must_use]
pub fn rate_at<'a>(rates: &'a [Rate], from: &str, to: Currency, now: Timestamp) -> Option<&'a Rate> {
    rates
        .iter()
        .filter(|rate| rate.from.eq_ignore_ascii_case(from) && rate.to == to && rate.valid_from <= now)
        .max_by_key(|rate| rate.valid_from)
}

/// The rates into one currency that hold at one moment, and how long that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    to: Currency,
    holding: Vec<Rate>,
    until: Option<Timestamp>,
}

impl Rates {
    /// Those of a list that hold at `now`.
    #[must_use]
    pub fn at(rates: &[Rate], to: Currency, now: Timestamp) -> Self {
        let mut from: Vec<&str> = rates.iter().filter(|rate| rate.to == to).map(|rate| rate.from.as_str()).collect();
        from.sort_unstable();
        from.dedup();
        let holding = from.into_iter().filter_map(|from| rate_at(rates, from, to, now)).cloned().collect();
        let next = rates.iter().filter(|rate| rate.to == to && rate.valid_from > now).map(|rate| rate.valid_from);
        Self { to, holding, until: next.min() }
    }

    /// The currency of the prices.
    #[must_use]
    pub const fn to(&self) -> Currency {
        self.to
    }

    /// The rate from this currency.
    #[must_use]
    pub fn from(&self, currency: &str) -> Option<&Rate> {
        self.holding.iter().find(|rate| rate.from.eq_ignore_ascii_case(currency))
    }

    /// The first moment at which another rate begins; prices made of these are good until then.
    #[must_use]
    pub const fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

words! {
    /// To which amounts prices are rounded, always up; an amount that already ends right stays. The endings are those
    /// of currencies with two decimals. With three or more they are scaled (`.490`, `.990`); with fewer there is
    /// nothing behind the point to end in, and all but `up_to_five` are `none`.
    pub enum Rounding {
        /// The price stays as computed.
        None = "none",
        /// The next amount that ends in .49 or .99.
        UpTo49 = "up_to_49",
        /// The next amount that ends in .99.
        UpTo99 = "up_to_99",
        /// The next whole major unit.
        UpToWhole = "up_to_whole",
        /// The next multiple of five minor units, in every currency: 5 cents, 5 yen.
        UpToFive = "up_to_five",
    }
}

impl Rounding {
    /// The smallest amount that is not below `amount` and ends right.
    ///
    /// # Errors
    /// [`PricingError::Overflow`] when that is beyond [`LARGEST_MINOR`].
    pub fn up(self, amount: Money) -> Result<Money, PricingError> {
        let (ending, every) = self.ending(amount.currency().decimals()).ok_or(PricingError::Overflow)?;
        let minor = i128::from(amount.minor());
        let missing = ending.checked_sub(minor).and_then(|distance| distance.checked_rem_euclid(every));
        within(missing.and_then(|missing| minor.checked_add(missing)), amount.currency())
    }

    /// The amounts to round to, as `ending + n * every` minor units.
    fn ending(self, decimals: u32) -> Option<(i128, i128)> {
        let cents = |cents: i128| match decimals.checked_sub(2) {
            Some(finer) => 10_i128.checked_pow(finer).and_then(|cent| cents.checked_mul(cent)),
            None => Some(1),
        };
        Some(match self {
            Self::UpTo49 if decimals >= 2 => (cents(49)?, cents(50)?),
            Self::UpTo99 if decimals >= 2 => (cents(99)?, cents(100)?),
            Self::UpToWhole => (0, cents(100)?),
            Self::UpToFive => (0, 5),
            Self::None | Self::UpTo49 | Self::UpTo99 => (0, 1),
        })
    }
}

/// What is put on top of a cost, in this order: percent, fixed, floor, rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Markup {
    /// Share of the cost put on top of it, in hundredths of a percent, 0 to 100,000 (2,500 is 25 %).
    pub percent: i64,
    /// Minor units put on top of that, not negative.
    pub fixed: i64,
    /// Minor units below which it is never sold, not negative.
    pub floor: Option<i64>,
    /// To which amounts the price is rounded up.
    pub rounding: Rounding,
}

/// What is wrong with a markup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkupFault {
    /// The percentage is not between 0 and 100,000 hundredths of a percent.
    Percent,
    /// The fixed part is negative or beyond [`LARGEST_MINOR`].
    Fixed,
    /// The floor is negative or beyond [`LARGEST_MINOR`].
    Floor,
}

impl Markup {
    /// No markup: sold at cost.
    pub const NONE: Self = Self { percent: 0, fixed: 0, floor: None, rounding: Rounding::None };

    /// Checks the bounds of all parts; within them no price is below its cost.
    ///
    /// # Errors
    /// [`MarkupFault`] of the first part that is out of bounds.
    pub fn check(&self) -> Result<(), MarkupFault> {
        let amount = |minor: i64| (0..=LARGEST_MINOR).contains(&minor);
        if !(0..=LARGEST_PERCENT).contains(&self.percent) {
            return Err(MarkupFault::Percent);
        }
        if !amount(self.fixed) {
            return Err(MarkupFault::Fixed);
        }
        if !self.floor.is_none_or(amount) {
            return Err(MarkupFault::Floor);
        }
        Ok(())
    }
}

/// What a markup rule is for. Everything named has to match; what is not named matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkupScope {
    /// Offers of this connection.
    pub connection: Option<String>,
    /// Plans of this region.
    pub region: Option<String>,
    /// Plans that work in exactly this one country, ISO 3166-1 alpha-2: a regional plan is no country's.
    pub country: Option<String>,
    /// This plan.
    pub plan: Option<PlanId>,
    /// Tenants of this tier.
    pub tier: Option<String>,
    /// This tenant.
    pub tenant: Option<TenantId>,
}

/// A markup and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkupRule {
    /// Its id.
    pub id: MarkupId,
    /// What it is for.
    pub scope: MarkupScope,
    /// What is put on top.
    pub markup: Markup,
    /// The currency of the fixed part and the floor. The rule is for prices in this currency only.
    pub currency: Currency,
}

/// What is to be priced, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The connection whose offer it is.
    pub connection: &'a str,
    /// The plan's region, where it has one.
    pub region: Option<&'a str>,
    /// The plan's countries, ISO 3166-1 alpha-2, each once.
    pub countries: &'a [String],
    /// The plan.
    pub plan: PlanId,
    /// The tenant's tier, where it has one.
    pub tier: Option<&'a str>,
    /// The tenant.
    pub tenant: TenantId,
    /// The currency of the price.
    pub currency: Currency,
}

impl MarkupScope {
    /// Whether everything that this scope names matches the subject.
    #[must_use]
    pub fn covers(&self, subject: &Subject<'_>) -> bool {
        let is = |named: &Option<String>, is: Option<&str>| named.is_none() || named.as_deref() == is;
        let only_country = match subject.countries {
            [country] => Some(country.as_str()),
            _ => None,
        };
        is(&self.connection, Some(subject.connection))
            && is(&self.region, subject.region)
            && is(&self.country, only_country)
            && self.plan.is_none_or(|plan| plan == subject.plan)
            && is(&self.tier, subject.tier)
            && self.tenant.is_none_or(|tenant| tenant == subject.tenant)
    }

    /// How specific it is: first for whom, then for what; of each, its most specific part counts.
    fn specificity(&self) -> (u8, u8) {
        let whom = match (&self.tenant, &self.tier) {
            (Some(_), _) => 2,
            (None, Some(_)) => 1,
            (None, None) => 0,
        };
        let what = match (&self.plan, &self.country, &self.region, &self.connection) {
            (Some(_), ..) => 4,
            (_, Some(_), ..) => 3,
            (_, _, Some(_), _) => 2,
            (.., Some(_)) => 1,
            _ => 0,
        };
        (whom, what)
    }
}

/// The rule that prices the subject, of those that cover it in its currency: the most specific by whom it is for
/// (tenant, tier, everybody), then by what it is for (plan, country, region, connection, everything), then the newest.
/// Exactly one rule prices; rules are never added up.
#[must_use]
pub fn choose<'a>(rules: &'a [MarkupRule], subject: &Subject<'_>) -> Option<&'a MarkupRule> {
    rules
        .iter()
        .filter(|rule| rule.currency == subject.currency && rule.scope.covers(subject))
        .max_by_key(|rule| (rule.scope.specificity(), rule.id))
}

/// Rules, arranged so that the one that prices is found without a look at all of them.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    newest_first: Vec<MarkupRule>,
    of_tenants: HashMap<TenantId, Shelf>,
    of_tiers: HashMap<String, Shelf>,
    of_everybody: Shelf,
    /// All tiers that a rule names.
    tiers: HashSet<String>,
}

/// Rules for the same buyers, each where the most specific part of what it is for says; the newest first.
#[derive(Debug, Clone, Default)]
struct Shelf {
    plans: HashMap<PlanId, Vec<usize>>,
    countries: HashMap<String, Vec<usize>>,
    regions: HashMap<String, Vec<usize>>,
    connections: HashMap<String, Vec<usize>>,
    everything: Vec<usize>,
}

impl Shelf {
    fn place(&mut self, scope: &MarkupScope) -> &mut Vec<usize> {
        match (scope.plan, &scope.country, &scope.region, &scope.connection) {
            (Some(plan), ..) => self.plans.entry(plan).or_default(),
            (_, Some(country), ..) => self.countries.entry(country.clone()).or_default(),
            (_, _, Some(region), _) => self.regions.entry(region.clone()).or_default(),
            (.., Some(connection)) => self.connections.entry(connection.clone()).or_default(),
            _ => &mut self.everything,
        }
    }

    /// The places where rules for the subject may be, the most specific first.
    fn places<'a>(&'a self, subject: &Subject<'_>) -> impl Iterator<Item = &'a Vec<usize>> {
        let country = match subject.countries {
            [country] => self.countries.get(country),
            _ => None,
        };
        [
            self.plans.get(&subject.plan),
            country,
            subject.region.and_then(|region| self.regions.get(region)),
            self.connections.get(subject.connection),
            Some(&self.everything),
        ]
        .into_iter()
        .flatten()
    }
}

impl Rules {
    /// Arranges rules; of two of one id either counts.
    #[must_use]
    pub fn new(mut rules: Vec<MarkupRule>) -> Self {
        rules.sort_unstable_by_key(|rule| std::cmp::Reverse(rule.id));
        let mut arranged = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let shelf = match (rule.scope.tenant, &rule.scope.tier) {
                (Some(tenant), _) => arranged.of_tenants.entry(tenant).or_default(),
                (None, Some(tier)) => arranged.of_tiers.entry(tier.clone()).or_default(),
                (None, None) => &mut arranged.of_everybody,
            };
            shelf.place(&rule.scope).push(index);
        }
        arranged.tiers = rules.iter().filter_map(|rule| rule.scope.tier.clone()).collect();
        arranged.newest_first = rules;
        arranged
    }

    /// The rule that prices the subject: the one that [`choose`] would take.
    #[must_use]
    pub fn choose(&self, subject: &Subject<'_>) -> Option<&MarkupRule> {
        let fits = |rule: &&MarkupRule| rule.currency == subject.currency && rule.scope.covers(subject);
        let of = |place: &Vec<usize>| place.iter().filter_map(|index| self.newest_first.get(*index)).find(fits);
        [
            self.of_tenants.get(&subject.tenant),
            subject.tier.and_then(|tier| self.of_tiers.get(tier)),
            Some(&self.of_everybody),
        ]
        .into_iter()
        .flatten()
        .find_map(|shelf| shelf.places(subject).find_map(of))
    }

    /// Whether prices of this tenant may differ from those of others in its tier.
    #[must_use]
    pub fn name_tenant(&self, tenant: TenantId) -> bool {
        self.of_tenants.contains_key(&tenant)
    }

    /// Whether prices of this tier may differ from those of tenants without one.
    #[must_use]
    pub fn name_tier(&self, tier: &str) -> bool {
        self.tiers.contains(tier)
    }
}

/// What an offer is sold for, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferPrice<'a> {
    /// Every step of it.
    pub priced: Priced,
    /// The rule.
    pub rule: &'a MarkupRule,
    /// The rate, where cost and price have different currencies.
    pub rate: Option<&'a Rate>,
}

/// Why an offer has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpriced {
    /// No rule covers it.
    NoRule,
    /// It cannot be computed.
    Error(PricingError),
}

/// Prices an offer of the subject's connection by the rules, into the currency of the rates.
///
/// # Errors
/// [`Unpriced`].
pub fn price_offer<'a>(
    cost: &Cost,
    subject: &Subject<'_>,
    rules: &'a Rules,
    rates: &'a Rates,
) -> Result<OfferPrice<'a>, Unpriced> {
    let rule = rules.choose(subject).ok_or(Unpriced::NoRule)?;
    let is_foreign = !cost.currency.eq_ignore_ascii_case(rates.to().code());
    let rate = rates.from(&cost.currency).filter(|_| is_foreign);
    let priced = price(cost, rate, &rule.markup, rates.to()).map_err(Unpriced::Error)?;
    Ok(OfferPrice { priced, rule, rate })
}

/// A price and every step to it, so that it can be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// What the upstream asks.
    pub cost: Cost,
    /// The rate, in units of its last decimal; 1 with no decimals where cost and price have the same currency.
    pub rate_units: i64,
    /// How many decimals that is.
    pub rate_decimals: u32,
    /// What was put on top.
    pub markup: Markup,
    /// The cost in the price's currency, rounded up. The next step does not start from it, but from the exact value.
    pub cost_minor: Money,
    /// Exact cost times rate times percentage, rounded up.
    pub after_percent: Money,
    /// With the fixed part.
    pub after_fixed: Money,
    /// Not below the floor.
    pub after_floor: Money,
    /// Rounded up to an amount that ends right: the price of one.
    pub price: Money,
}

/// Why something has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PricingError {
    /// A step is beyond [`LARGEST_MINOR`], or beyond what can be computed exactly.
    Overflow,
    /// The cost's currency is none of ISO 4217.
    UnknownCurrency,
    /// Cost and price have different currencies, and there is no rate.
    NoRate,
    /// The rate is of other currencies, or not above zero.
    WrongRate,
    /// The cost is below zero.
    NegativeCost,
    /// The markup is out of bounds.
    Markup(MarkupFault),
}

/// The price of one unit in `currency`: cost times rate times (1 + percentage), exact, rounded up once to the minor
/// unit; then the fixed part is added, the floor is kept and the rounding applied. `rate` is not looked at where cost
/// and price have the same currency.
///
/// # Errors
/// [`PricingError`].
pub fn price(cost: &Cost, rate: Option<&Rate>, markup: &Markup, currency: Currency) -> Result<Priced, PricingError> {
    markup.check().map_err(PricingError::Markup)?;
    if cost.units < 0 {
        return Err(PricingError::NegativeCost);
    }
    let (rate_units, rate_decimals) = used(cost, rate, currency)?;
    let overflow = PricingError::Overflow;
    let converted = i128::from(cost.units).checked_mul(i128::from(rate_units)).ok_or(overflow)?;
    let decimals = cost.decimals.checked_add(rate_decimals).ok_or(overflow)?;
    let cost_minor = rounded_up(converted, decimals, currency)?;

    let share = i128::from(WHOLE).checked_add(i128::from(markup.percent)).ok_or(overflow)?;
    let marked_up = converted.checked_mul(share).ok_or(overflow)?;
    let decimals = decimals.checked_add(PERCENT_DECIMALS).ok_or(overflow)?;
    let after_percent = rounded_up(marked_up, decimals, currency)?;

    let after_fixed = after_percent.plus(Money::new(markup.fixed, currency)).map_err(|_| overflow)?;
    let floor = markup.floor.unwrap_or(0);
    let after_floor = Money::new(after_fixed.minor().max(floor), currency);
    let price = markup.rounding.up(after_floor)?;
    Ok(Priced {
        cost: cost.clone(),
        rate_units,
        rate_decimals,
        markup: *markup,
        cost_minor,
        after_percent,
        after_fixed,
        after_floor,
        price,
    })
}

/// The rate from the cost's currency to the price's, as units and decimals.
fn used(cost: &Cost, rate: Option<&Rate>, currency: Currency) -> Result<(i64, u32), PricingError> {
    let from = known(&cost.currency).ok_or(PricingError::UnknownCurrency)?;
    if from == currency {
        return Ok((1, 0));
    }
    let rate = rate.ok_or(PricingError::NoRate)?;
    if known(&rate.from) != Some(from) || rate.to != currency || rate.units <= 0 {
        return Err(PricingError::WrongRate);
    }
    Ok((rate.units, rate.decimals))
}

/// `units / 10^decimals` major units of the currency, not negative, rounded up to its minor unit.
fn rounded_up(units: i128, decimals: u32, currency: Currency) -> Result<Money, PricingError> {
    let power = |exponent: u32| 10_i128.checked_pow(exponent).ok_or(PricingError::Overflow);
    let shift = decimals.min(currency.decimals());
    let multiplier = power(currency.decimals().saturating_sub(shift))?;
    let divisor = power(decimals.saturating_sub(shift))?;
    let units = units.checked_mul(multiplier).ok_or(PricingError::Overflow)?;
    let rest = units.checked_rem(divisor);
    let whole = units.checked_div(divisor).and_then(|whole| whole.checked_add(i128::from(rest != Some(0))));
    within(whole, currency)
}

/// The amount, where there is one that the platform handles.
fn within(minor: Option<i128>, currency: Currency) -> Result<Money, PricingError> {
    match minor.map(i64::try_from) {
        Some(Ok(minor)) if minor.unsigned_abs() <= LARGEST_MINOR.unsigned_abs() => Ok(Money::new(minor, currency)),
        _ => Err(PricingError::Overflow),
    }
}

/// What a sale leaves: the price minus the converted cost of the same unit; negative for a loss.
///
/// # Errors
/// [`MoneyError::CurrencyMismatch`], [`MoneyError::TooLarge`].
pub fn margin(price: Money, cost: Money) -> Result<Money, MoneyError> {
    price.minus(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn currency(code: &str) -> Currency {
        code.parse().unwrap()
    }

    fn rate(text: &str, from: &str, to: &str) -> Rate {
        Rate::parse(text, from, currency(to), START).unwrap()
    }

    fn percent(percent: i64) -> Markup {
        Markup { percent, ..Markup::NONE }
    }

    fn in_dollars(cost: &str, from: &str, rate: Option<&Rate>, markup: Markup) -> Result<i64, PricingError> {
        price(&Cost::parse(cost, from).unwrap(), rate, &markup, Currency::USD).map(|priced| priced.price.minor())
    }

    #[test]
    fn a_rate_is_read_exactly() {
        let read = |text| Rate::parse(text, "EUR", Currency::USD, START).map(|rate| (rate.units, rate.decimals));
        assert_eq!(read("1.0842"), Ok((10_842, 4)));
        assert_eq!(read("1.10"), Ok((11, 1)));
        assert_eq!(read("150"), Ok((150, 0)));
        assert_eq!(read("0.00000001"), Ok((1, 8)));
        assert_eq!(read("1.2000000000"), Ok((12, 1)));
        assert_eq!(read("100000000"), Ok((100_000_000, 0)));
        assert_eq!(read("100000000.1"), Err(RateFault::TooLarge));
        assert_eq!(read("99999999999999999999"), Err(RateFault::TooLarge));
        assert_eq!(read("0.000000001"), Err(RateFault::TooManyDecimals));
        assert_eq!(read("0.00"), Err(RateFault::NotPositive));
        for text in ["", ".5", "1.", "-1", "+1", "1,5", "1e3", "NaN", " 1"] {
            assert_eq!(read(text), Err(RateFault::NotANumber), "{text:?}");
        }
        assert_eq!(Rate::parse("1", "RMB", Currency::USD, START), Err(RateFault::UnknownCurrency));
        assert_eq!(Rate::parse("1", "usd", Currency::USD, START), Err(RateFault::SameCurrency));
        assert_eq!(Rate::parse("7", "gbp", Currency::USD, START).unwrap().from, "GBP");
    }

    #[test]
    fn the_newest_rate_that_has_begun_holds() {
        let from = |minutes: i64, text: &str| Rate {
            valid_from: START.plus_millis(minutes * 60_000),
            ..rate(text, "EUR", "USD")
        };
        let rates = [from(10, "1.2"), from(0, "1.1"), rate("1.3", "GBP", "USD"), from(10, "1.25"), from(30, "9")];
        let at = |minutes: i64| rate_at(&rates, "eur", Currency::USD, START.plus_millis(minutes * 60_000));
        assert_eq!(at(-1), None);
        assert_eq!(at(9), Some(&rates[1]));
        assert_eq!(at(10), Some(&rates[3]), "of two from the same moment, the later one corrects");
        assert_eq!(at(31), Some(&rates[4]));
        assert_eq!(rate_at(&rates, "EUR", currency("GBP"), START), None);
        assert_eq!(rate_at(&rates, "USD", Currency::USD, START), None);
    }

    #[test]
    fn a_price_is_explained_step_by_step() {
        let cost = Cost::parse("1.005", "EUR").unwrap();
        let markup = Markup { percent: 2_500, fixed: 30, floor: Some(150), rounding: Rounding::UpTo49 };
        let priced = price(&cost, Some(&rate("1.1", "EUR", "USD")), &markup, Currency::USD).unwrap();
        assert_eq!((priced.rate_units, priced.rate_decimals), (11, 1));
        assert_eq!(priced.cost_minor.minor(), 111, "1.1055");
        assert_eq!(priced.after_percent.minor(), 139, "1.381875: from the exact cost, not from 1.11");
        assert_eq!(priced.after_fixed.minor(), 169);
        assert_eq!(priced.after_floor.minor(), 169);
        assert_eq!(priced.price.minor(), 199);
        assert_eq!((priced.cost, priced.markup), (cost, markup));
        assert_eq!(margin(priced.price, priced.cost_minor).map(Money::minor), Ok(88));
    }

    #[test]
    fn only_one_rounding_comes_between_cost_and_price() {
        // A cost rounded up to 0.34 and then marked up by half would be 0.51.
        assert_eq!(in_dollars("0.331", "USD", None, percent(5_000)), Ok(50));
        // A thousandth of a cent still becomes a cent, and nothing stays nothing.
        assert_eq!(in_dollars("0.00001", "USD", None, percent(3)), Ok(1));
        assert_eq!(in_dollars("0", "USD", None, percent(3)), Ok(0));
        assert_eq!(in_dollars("2.50", "usd", None, percent(0)), Ok(250), "what is exact stays");
    }

    #[test]
    fn nothing_is_sold_below_its_floor() {
        let floor = |floor| Markup { percent: 1_000, fixed: 20, floor: Some(floor), rounding: Rounding::None };
        assert_eq!(in_dollars("1", "USD", None, floor(129)), Ok(130));
        assert_eq!(in_dollars("1", "USD", None, floor(131)), Ok(131));
        let rounded = Markup { rounding: Rounding::UpTo99, ..floor(131) };
        assert_eq!(in_dollars("1", "USD", None, rounded), Ok(199));
    }

    #[test]
    fn prices_keep_to_the_decimals_of_their_currency() {
        let priced = |cost, from, text, to| {
            let cost = Cost::parse(cost, from).unwrap();
            price(&cost, Some(&rate(text, from, to)), &Markup::NONE, currency(to)).unwrap().price.minor()
        };
        assert_eq!(priced("1.25", "USD", "150.2", "JPY"), 188, "187.75 yen");
        assert_eq!(priced("1.25", "USD", "0.3071", "KWD"), 384, "0.383875 dinars");
        assert_eq!(priced("3", "USD", "2", "EUR"), 600, "fewer decimals than the currency has");
    }

    #[test]
    fn without_a_fitting_rate_there_is_no_price() {
        assert_eq!(in_dollars("1", "EUR", None, Markup::NONE), Err(PricingError::NoRate));
        assert_eq!(in_dollars("1", "credits", None, Markup::NONE), Err(PricingError::UnknownCurrency));
        for wrong in [rate("1.3", "GBP", "USD"), rate("1.3", "EUR", "GBP")] {
            assert_eq!(in_dollars("1", "EUR", Some(&wrong), Markup::NONE), Err(PricingError::WrongRate));
        }
        let nothing = Rate { units: 0, ..rate("1.3", "EUR", "USD") };
        assert_eq!(in_dollars("1", "EUR", Some(&nothing), Markup::NONE), Err(PricingError::WrongRate));
        let wrong = rate("1.3", "GBP", "USD");
        assert_eq!(in_dollars("1", "USD", Some(&wrong), Markup::NONE), Ok(100), "not needed, not looked at");
    }

    #[test]
    fn a_markup_out_of_bounds_prices_nothing() {
        let faults = [
            (percent(-1), MarkupFault::Percent),
            (percent(100_001), MarkupFault::Percent),
            (Markup { fixed: -1, ..Markup::NONE }, MarkupFault::Fixed),
            (Markup { fixed: LARGEST_MINOR + 1, ..Markup::NONE }, MarkupFault::Fixed),
            (Markup { floor: Some(-1), ..Markup::NONE }, MarkupFault::Floor),
        ];
        for (markup, fault) in faults {
            assert_eq!(in_dollars("1", "USD", None, markup), Err(PricingError::Markup(fault)));
        }
        assert_eq!(in_dollars("1", "USD", None, percent(100_000)), Ok(1_100));
        let cost = Cost { units: -1, decimals: 2, currency: "USD".to_owned() };
        assert_eq!(price(&cost, None, &Markup::NONE, Currency::USD), Err(PricingError::NegativeCost));
    }

    #[test]
    fn prices_are_rounded_up_to_amounts_that_sell() {
        use Rounding::{None, UpTo49, UpTo99, UpToFive, UpToWhole};
        let table = [
            ("USD", None, &[(0, 0), (101, 101)][..]),
            ("USD", UpTo49, &[(0, 49), (49, 49), (50, 99), (99, 99), (100, 149), (149, 149), (150, 199)]),
            ("USD", UpTo99, &[(0, 99), (49, 99), (99, 99), (100, 199)]),
            ("USD", UpToWhole, &[(0, 0), (1, 100), (100, 100), (101, 200)]),
            ("USD", UpToFive, &[(0, 0), (1, 5), (5, 5), (101, 105)]),
            ("KWD", UpTo49, &[(0, 490), (490, 490), (491, 990), (991, 1_490)]),
            ("KWD", UpTo99, &[(0, 990), (990, 990), (991, 1_990)]),
            ("KWD", UpToWhole, &[(0, 0), (1, 1_000), (1_001, 2_000)]),
            ("KWD", UpToFive, &[(1_001, 1_005)]),
            ("JPY", UpTo49, &[(101, 101)]),
            ("JPY", UpTo99, &[(101, 101)]),
            ("JPY", UpToWhole, &[(101, 101)]),
            ("JPY", UpToFive, &[(101, 105)]),
        ];
        for (code, rounding, amounts) in table {
            for (amount, rounded) in amounts {
                let up = rounding.up(Money::new(*amount, currency(code))).map(Money::minor);
                assert_eq!(up, Ok(*rounded), "{amount} {code} {rounding}");
            }
        }
        assert_eq!(UpTo99.up(Money::new(LARGEST_MINOR, Currency::USD)), Err(PricingError::Overflow));
    }

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn rule(number: u128, scope: MarkupScope) -> MarkupRule {
        MarkupRule { id: MarkupId::new(id(number)), scope, markup: Markup::NONE, currency: Currency::USD }
    }

    fn named(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn chosen(rules: &[MarkupRule], countries: &[&str], tier: Option<&str>) -> Option<u128> {
        let countries: Vec<_> = countries.iter().map(|&country| country.to_owned()).collect();
        let subject = Subject {
            connection: "airalo",
            region: Some("Europe"),
            countries: &countries,
            plan: PlanId::new(id(70)),
            tier,
            tenant: TenantId::new(id(80)),
            currency: Currency::USD,
        };
        choose(rules, &subject).map(|rule| rule.id.uuid().as_u128())
    }

    #[test]
    fn the_most_specific_rule_wins_first_by_whom_and_then_by_what() {
        let what = [
            MarkupScope::default(),
            MarkupScope { connection: named("airalo"), ..MarkupScope::default() },
            MarkupScope { region: named("Europe"), ..MarkupScope::default() },
            MarkupScope { country: named("FR"), ..MarkupScope::default() },
            MarkupScope { plan: Some(PlanId::new(id(70))), ..MarkupScope::default() },
        ];
        let whom = |scope: &MarkupScope| {
            [
                scope.clone(),
                MarkupScope { tier: named("gold"), ..scope.clone() },
                MarkupScope { tenant: Some(TenantId::new(id(80))), ..scope.clone() },
            ]
        };
        let scopes: Vec<_> = (0..3).flat_map(|who| what.iter().map(move |scope| whom(scope)[who].clone())).collect();
        // The more specific a rule, the older it is, so that age cannot be the reason.
        let mut rules: Vec<_> = scopes.into_iter().zip((1..=15).rev()).map(|(scope, age)| rule(age, scope)).collect();
        for winner in 1..=15 {
            assert_eq!(chosen(&rules, &["FR"], Some("gold")), Some(winner));
            rules.retain(|rule| rule.id.uuid().as_u128() != winner);
        }
        assert_eq!(chosen(&rules, &["FR"], Some("gold")), None);
    }

    #[test]
    fn rates_that_hold_tell_until_when() {
        let from = |minutes: i64, text: &str, from: &str, to: &str| Rate {
            valid_from: START.plus_millis(minutes * 60_000),
            ..rate(text, from, to)
        };
        let rates = [
            from(0, "1.1", "EUR", "USD"),
            from(10, "1.2", "EUR", "USD"),
            from(20, "1.3", "GBP", "USD"),
            from(5, "0.9", "USD", "EUR"),
        ];
        let at = |minutes: i64| Rates::at(&rates, Currency::USD, START.plus_millis(minutes * 60_000));
        let minute = |minutes: i64| Some(START.plus_millis(minutes * 60_000));
        assert_eq!((at(-1).from("EUR"), at(-1).until()), (None, minute(0)));
        assert_eq!((at(0).from("eur"), at(0).until()), (Some(&rates[0]), minute(10)));
        assert_eq!((at(10).from("EUR"), at(10).from("GBP"), at(10).until()), (Some(&rates[1]), None, minute(20)));
        assert_eq!((at(20).from("GBP"), at(20).until()), (Some(&rates[2]), None));
        assert_eq!(Rates::at(&[], Currency::USD, START).until(), None);
    }

    #[test]
    fn an_offer_is_priced_by_its_rule_or_tells_why_not() {
        let rates = Rates::at(&[rate("1.1", "EUR", "USD")], Currency::USD, START);
        let countries = ["FR".to_owned()];
        let subject = Subject {
            connection: "airalo",
            region: None,
            countries: &countries,
            plan: PlanId::new(id(70)),
            tier: None,
            tenant: TenantId::new(id(80)),
            currency: Currency::USD,
        };
        let dear = MarkupScope { connection: named("airalo"), ..MarkupScope::default() };
        let dear = MarkupRule { markup: percent(5_000), ..rule(1, dear) };
        let rules = Rules::new(vec![dear.clone(), rule(2, MarkupScope::default())]);
        let euros = |text| Cost::parse(text, "EUR").unwrap();
        let sold = price_offer(&euros("2"), &subject, &rules, &rates).unwrap();
        assert_eq!((sold.priced.price.minor(), sold.rule, sold.rate.is_some()), (330, &dear, true));
        let dollars = Cost::parse("2", "usd").unwrap();
        let sold = price_offer(&dollars, &subject, &rules, &rates).unwrap();
        assert_eq!((sold.priced.price.minor(), sold.rate), (300, None));
        assert_eq!(price_offer(&dollars, &subject, &Rules::default(), &rates), Err(Unpriced::NoRule));
        let pounds = Cost::parse("2", "GBP").unwrap();
        assert_eq!(price_offer(&pounds, &subject, &rules, &rates), Err(Unpriced::Error(PricingError::NoRate)));
    }

    fn scopes() -> impl Strategy<Value = MarkupScope> {
        let name = |names: &'static [&'static str]| {
            proptest::option::of(proptest::sample::select(names).prop_map(str::to_owned))
        };
        let number = || proptest::option::of(1..3_u128);
        (
            name(&["airalo", "tgt"]),
            name(&["Europe", "Asia"]),
            name(&["FR", "DE"]),
            number(),
            name(&["gold", "new"]),
            number(),
        )
            .prop_map(|(connection, region, country, plan, tier, tenant)| MarkupScope {
                connection,
                region,
                country,
                plan: plan.map(|plan| PlanId::new(id(plan))),
                tier,
                tenant: tenant.map(|tenant| TenantId::new(id(tenant))),
            })
    }

    proptest! {
        #[test]
        fn arranged_rules_choose_alike(
            rules in proptest::collection::vec((scopes(), 0..2_u8), 0..12), scope in scopes(), is_local: bool,
        ) {
            let in_currency = |other: u8| if other == 0 { Currency::USD } else { currency("EUR") };
            let rules: Vec<_> = (1..).zip(rules).map(|(number, (scope, other))| MarkupRule {
                currency: in_currency(other), ..rule(number, scope)
            }).collect();
            let countries = if is_local { vec!["FR".to_owned()] } else { vec!["DE".to_owned(), "FR".to_owned()] };
            let tenant = scope.tenant.unwrap_or(TenantId::new(id(9)));
            let subject = Subject {
                connection: scope.connection.as_deref().unwrap_or("tsim"),
                region: scope.region.as_deref(),
                countries: &countries,
                plan: scope.plan.unwrap_or(PlanId::new(id(9))),
                tier: scope.tier.as_deref(),
                tenant,
                currency: Currency::USD,
            };
            let arranged = Rules::new(rules.clone());
            prop_assert_eq!(arranged.choose(&subject), choose(&rules, &subject));
            // Who is named by no rule pays what everybody pays.
            let anybody = Subject { tenant: TenantId::new(id(99)), ..subject };
            if !arranged.name_tenant(tenant) {
                prop_assert_eq!(arranged.choose(&subject), arranged.choose(&anybody));
            }
            if subject.tier.is_some_and(|tier| !arranged.name_tier(tier)) {
                prop_assert_eq!(arranged.choose(&subject), arranged.choose(&Subject { tier: None, ..subject }));
            }
        }
    }

    #[test]
    fn everything_a_rule_names_has_to_match() {
        let elsewhere = [
            MarkupScope { connection: named("tgt"), plan: Some(PlanId::new(id(70))), ..MarkupScope::default() },
            MarkupScope { region: named("Asia"), country: named("FR"), ..MarkupScope::default() },
            MarkupScope { plan: Some(PlanId::new(id(71))), ..MarkupScope::default() },
            MarkupScope { tenant: Some(TenantId::new(id(81))), ..MarkupScope::default() },
            MarkupScope { tenant: Some(TenantId::new(id(80))), tier: named("silver"), ..MarkupScope::default() },
        ];
        for scope in elsewhere {
            assert_eq!(chosen(&[rule(1, scope.clone())], &["FR"], Some("gold")), None, "{scope:?}");
        }
        let two = MarkupScope { connection: named("airalo"), region: named("Europe"), ..MarkupScope::default() };
        let one = MarkupScope { region: named("Europe"), ..MarkupScope::default() };
        assert_eq!(
            chosen(&[rule(1, two.clone()), rule(2, one.clone())], &["FR"], None),
            Some(2),
            "the newer of equals"
        );
        assert_eq!(chosen(&[rule(2, two), rule(1, one)], &["FR"], None), Some(2), "wherever it stands in the list");
        let tier = MarkupScope { tier: named("gold"), ..MarkupScope::default() };
        assert_eq!(chosen(&[rule(1, tier)], &["FR"], None), None, "a tenant without a tier is in none");
    }

    #[test]
    fn a_rule_by_country_is_for_local_plans() {
        let rules = [
            rule(1, MarkupScope { country: named("FR"), ..MarkupScope::default() }),
            rule(2, MarkupScope { region: named("Europe"), ..MarkupScope::default() }),
        ];
        assert_eq!(chosen(&rules, &["FR"], None), Some(1));
        assert_eq!(chosen(&rules, &["DE"], None), Some(2));
        assert_eq!(chosen(&rules, &["DE", "FR"], None), Some(2));
        assert_eq!(chosen(&rules, &[], None), Some(2));
    }

    #[test]
    fn a_rule_is_for_prices_in_its_own_currency() {
        let euros = MarkupRule { currency: currency("EUR"), ..rule(2, MarkupScope::default()) };
        assert_eq!(chosen(&[rule(1, MarkupScope::default()), euros.clone()], &["FR"], None), Some(1));
        assert_eq!(chosen(&[euros], &["FR"], None), None);
    }

    /// A natural number of any size, as limbs of nine decimal digits, the smallest first: the oracle of the exactness.
    fn product(factors: &[u128]) -> Vec<u128> {
        const LIMB: u128 = 1_000_000_000;
        let mut limbs = vec![1];
        for factor in factors {
            let mut carry = 0;
            for limb in &mut limbs {
                let sum = *limb * factor + carry;
                (*limb, carry) = (sum % LIMB, sum / LIMB);
            }
            while carry > 0 {
                limbs.push(carry % LIMB);
                carry /= LIMB;
            }
        }
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
        limbs
    }

    fn less(left: &[u128], right: &[u128]) -> bool {
        (left.len(), left.iter().rev().collect::<Vec<_>>()) < (right.len(), right.iter().rev().collect::<Vec<_>>())
    }

    #[test]
    fn the_oracle_multiplies() {
        assert_eq!(product(&[999_999_999, 999_999_999, 10]), [10, 999_999_980, 9]);
        assert_eq!(product(&[7, 0, 3]), Vec::<u128>::new());
        assert!(less(&product(&[2_000_000_000]), &product(&[2_000_000_001])));
        assert!(!less(&product(&[3_000_000_000]), &product(&[2_000_000_001])));
    }

    fn up_to(largest: u128, factors: &[u128], decimals: u32) -> bool {
        let powers = vec![10; usize::try_from(decimals).unwrap()];
        !less(&product(&[&powers[..], &[largest]].concat()), &product(factors))
    }

    /// Whether `minor / 10^scale` is the least that is not below `factors / 10^decimals`.
    fn is_rounded_up_once(minor: i64, factors: &[i64], decimals: u32, scale: u32) -> bool {
        let minor = u128::try_from(minor).unwrap();
        let mut factors: Vec<_> = factors.iter().map(|factor| u128::try_from(*factor).unwrap()).collect();
        factors.extend(vec![10; usize::try_from(scale).unwrap()]);
        up_to(minor, &factors, decimals) && (minor == 0 || !up_to(minor - 1, &factors, decimals))
    }

    fn costs() -> impl Strategy<Value = (i64, u32)> {
        prop_oneof![(0..100_000_i64, 0..5_u32), (0..=100_000_000_000_000_i64, 0..=8_u32)]
    }

    fn rates() -> impl Strategy<Value = (i64, u32)> {
        (0..=8_u32).prop_flat_map(|decimals| {
            let largest = LARGEST_RATE * 10_i64.pow(decimals);
            (prop_oneof![1..=largest.min(1_000_000), 1..=largest], Just(decimals))
        })
    }

    fn markups() -> impl Strategy<Value = Markup> {
        let floor = prop_oneof![Just(Option::None), (0..100_000_i64).prop_map(Some)];
        (0..=LARGEST_PERCENT, 0..100_000_i64, floor, proptest::sample::select(Rounding::ALL))
            .prop_map(|(percent, fixed, floor, rounding)| Markup { percent, fixed, floor, rounding })
    }

    fn currencies() -> impl Strategy<Value = Currency> {
        proptest::sample::select(&["USD", "JPY", "KWD", "CLF"][..]).prop_map(currency)
    }

    fn priced(
        (units, decimals): (i64, u32),
        (rate_units, rate_decimals): (i64, u32),
        markup: &Markup,
        to: Currency,
    ) -> Result<Priced, PricingError> {
        let rate = Rate { from: "EUR".to_owned(), to, units: rate_units, decimals: rate_decimals, valid_from: START };
        price(&Cost { units, decimals, currency: "EUR".to_owned() }, Some(&rate), markup, to)
    }

    proptest! {
        #[test]
        fn prices_are_exact_and_never_below_cost(
            cost in costs(), rate in rates(), markup in markups(), to in currencies(),
        ) {
            let factors = [cost.0, rate.0, WHOLE + markup.percent];
            let (decimals, scale) = (cost.1 + rate.1, to.decimals());
            match priced(cost, rate, &markup, to) {
                Ok(priced) => {
                    prop_assert!(is_rounded_up_once(priced.cost_minor.minor(), &factors[..2], decimals, scale));
                    prop_assert!(is_rounded_up_once(priced.after_percent.minor(), &factors, decimals + 4, scale));
                    prop_assert!(priced.after_percent.minor() >= priced.cost_minor.minor());
                    prop_assert_eq!(priced.after_fixed.minor(), priced.after_percent.minor() + markup.fixed);
                    prop_assert_eq!(
                        priced.after_floor.minor(),
                        priced.after_fixed.minor().max(markup.floor.unwrap_or(0)),
                    );
                    prop_assert!(!margin(priced.price, priced.cost_minor).unwrap().is_negative());
                }
                Err(error) => {
                    // A rate of at most 10^8 and a cost of at most 10^14 units overflow by their result alone.
                    prop_assert_eq!(error, PricingError::Overflow);
                    let least = u128::try_from(LARGEST_MINOR - 200_000 - 10_000).unwrap();
                    let mut factors = factors.map(|factor| u128::try_from(factor).unwrap()).to_vec();
                    factors.extend(vec![10; usize::try_from(scale).unwrap()]);
                    prop_assert!(!up_to(least, &factors, decimals + 4));
                }
            }
        }

        #[test]
        fn what_costs_more_is_not_sold_for_less(
            cost in (0..10_000_000_i64, 0..=8_u32), rate in rates(), markup in markups(), to in currencies(),
            more in (0..1_000_i64, 0..1_000_i64, 0..=LARGEST_PERCENT),
        ) {
            let dearer = [
                priced((cost.0 + more.0, cost.1), rate, &markup, to),
                priced(cost, (rate.0 + more.1, rate.1), &markup, to),
                priced(cost, rate, &Markup { percent: markup.percent.max(more.2), ..markup }, to),
            ];
            let base = priced(cost, rate, &markup, to);
            for dearer in dearer {
                match (&base, &dearer) {
                    (Ok(base), Ok(dearer)) => prop_assert!(dearer.price.minor() >= base.price.minor()),
                    (Err(_), Ok(_)) => prop_assert!(false, "{base:?} {dearer:?}"),
                    (_, Err(_)) => {}
                }
            }
        }

        #[test]
        fn rounding_never_lowers_and_ends_right(
            minor in -1_000_000..LARGEST_MINOR - 10_000, rounding in proptest::sample::select(Rounding::ALL),
            to in currencies(),
        ) {
            let up = rounding.up(Money::new(minor, to)).unwrap().minor();
            prop_assert!(up >= minor);
            prop_assert_eq!(rounding.up(Money::new(up, to)).unwrap().minor(), up);
            let cent = match to.decimals() {
                0 => None,
                decimals => Some(10_i64.pow(decimals - 2)),
            };
            let (ends, distance) = match (rounding, cent) {
                (Rounding::UpTo49, Some(cent)) => {
                    (matches!(up.rem_euclid(100 * cent), rest if rest == 49 * cent || rest == 99 * cent), 50 * cent)
                }
                (Rounding::UpTo99, Some(cent)) => (up.rem_euclid(100 * cent) == 99 * cent, 100 * cent),
                (Rounding::UpToWhole, Some(cent)) => (up.rem_euclid(100 * cent) == 0, 100 * cent),
                (Rounding::UpToFive, _) => (up.rem_euclid(5) == 0, 5),
                _ => (true, 1),
            };
            prop_assert!(ends && up - minor < distance, "{minor} {rounding} {up}");
        }

        #[test]
        fn no_extreme_value_panics(
            cost: (i64, u32), rate: (i64, u32), small in (0..64_u32, 0..64_u32),
            markup in (any::<i64>(), any::<i64>(), any::<Option<i64>>(), proptest::sample::select(Rounding::ALL)),
            to in currencies(),
        ) {
            let (percent, fixed, floor, rounding) = markup;
            for markup in [Markup { percent, fixed, floor, rounding }, Markup { rounding, ..Markup::NONE }] {
                for (cost, rate) in [(cost, rate), ((cost.0.saturating_abs(), small.0), (rate.0, small.1))] {
                    if let Ok(priced) = priced(cost, rate, &markup, to) {
                        prop_assert!(!margin(priced.price, priced.cost_minor).unwrap().is_negative());
                    }
                }
            }
            let _ = rounding.up(Money::new(fixed, to));
        }
    }
}
