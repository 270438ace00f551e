//! Money: whole minor units of one currency. There is no `+`: every operation is checked, and no
//! floating point comes near an amount, neither on the way in nor on the way out.

use std::fmt;
use std::str::FromStr;

/// The largest amount the platform handles, in minor units: beyond it an input is absurd.
pub const LARGEST_MINOR: i64 = 1_000_000_000_000_000;

/// The largest balance that top-ups and corrections may lead to, either way, in minor units: what is
/// beyond it, up to [`LARGEST_MINOR`], is kept for refunds, which must never fail.
pub const LARGEST_CREDIT_MINOR: i64 = LARGEST_MINOR / 2;

/// An ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency(iso_currency::Currency);

/// The text names no ISO 4217 currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownCurrency;

impl Currency {
    /// The US dollar, the default billing currency.
    pub const USD: Self = Self(iso_currency::Currency::USD);

    /// The three-letter code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Digits behind the decimal point, by ISO 4217 (2 for USD, 0 for JPY, 3 for KWD).
    #[must_use]
    pub fn decimals(self) -> u32 {
        u32::from(self.0.exponent().unwrap_or(2))
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        iso_currency::Currency::from_code(text).map(Self).ok_or(UnknownCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in minor units of a currency; may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// Why an operation on money has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoneyError {
    /// The result is beyond [`LARGEST_MINOR`].
    TooLarge,
    /// Two currencies met.
    CurrencyMismatch,
    /// The text is no decimal number.
    NotANumber,
    /// More decimals than the currency has.
    TooManyDecimals,
}

impl Money {
    /// An amount in minor units (cents for USD).
    #[must_use]
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Nothing.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    /// Minor units.
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Whether the amount is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.minor < 0
    }

    fn within(minor: Option<i64>, currency: Currency) -> Result<Self, MoneyError> {
        match minor {
            Some(minor) if minor.unsigned_abs() <= LARGEST_MINOR.unsigned_abs() => Ok(Self { minor, currency }),
            _ => Err(MoneyError::TooLarge),
        }
    }

    fn same_currency(self, other: Self) -> Result<(), MoneyError> {
        if self.currency == other.currency { Ok(()) } else { Err(MoneyError::CurrencyMismatch) }
    }

    /// The sum.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`], [`MoneyError::TooLarge`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        Self::within(self.minor.checked_add(other.minor), self.currency)
    }

    /// The difference.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`], [`MoneyError::TooLarge`].
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.same_currency(other)?;
        Self::within(self.minor.checked_sub(other.minor), self.currency)
    }

    /// This unit price times a quantity; a line is never rounded.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`].
    pub fn times(self, quantity: u32) -> Result<Self, MoneyError> {
        Self::within(self.minor.checked_mul(i64::from(quantity)), self.currency)
    }

    /// The amount with its sign turned.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self { minor: self.minor.saturating_neg(), currency: self.currency }
    }

    /// Reads a decimal number of major units exactly from its text, as JSON writes numbers
    /// (`300`, `4.5`, `-0.10`, `1e2`).
    ///
    /// # Errors
    /// [`MoneyError::NotANumber`], [`MoneyError::TooManyDecimals`] when the value needs more
    /// decimals than the currency has, [`MoneyError::TooLarge`].
    pub fn parse(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| MoneyError::NotANumber)?),
            None => (text, 0),
        };
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits_only(whole) || !digits_only(fraction) {
            return Err(MoneyError::NotANumber);
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self::zero(currency));
        }
        let fraction_digits = i32::try_from(fraction.len()).map_err(|_| MoneyError::TooManyDecimals)?;
        let decimals = i32::try_from(currency.decimals()).map_err(|_| MoneyError::TooLarge)?;
        let shift = exponent
            .checked_add(decimals)
            .and_then(|shift| shift.checked_sub(fraction_digits))
            .ok_or(MoneyError::TooLarge)?;
        let trailing = digits.len().saturating_sub(digits.trim_end_matches('0').len());
        let dropped = usize::try_from(shift.min(0).unsigned_abs()).unwrap_or(usize::MAX);
        if dropped > trailing {
            return Err(MoneyError::TooManyDecimals);
        }
        let kept = digits.get(..digits.len().saturating_sub(dropped)).ok_or(MoneyError::NotANumber)?;
        let value = kept.parse::<i64>().map_err(|_| MoneyError::TooLarge)?;
        let factor = 10_i64.checked_pow(shift.max(0).unsigned_abs()).ok_or(MoneyError::TooLarge)?;
        let minor = value.checked_mul(factor).ok_or(MoneyError::TooLarge)?;
        Self::within(Some(if negative { minor.saturating_neg() } else { minor }), currency)
    }
}

impl fmt::Display for Money {
    /// Major units with no more decimals than needed: `300`, `4.5`, `-0.07`. No currency.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = usize::try_from(self.currency.decimals()).unwrap_or(2);
        let sign = if self.minor < 0 { "-" } else { "" };
        let scale = 10_u64.saturating_pow(self.currency.decimals());
        let absolute = self.minor.unsigned_abs();
        let whole = absolute.checked_div(scale).unwrap_or(absolute);
        let rest = absolute.checked_rem(scale).unwrap_or(0);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{rest:0decimals$}");
        write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> Result<i64, MoneyError> {
        Money::parse(text, Currency::USD).map(Money::minor)
    }

    #[test]
    fn reads_amounts_exactly() {
        assert_eq!(usd("300"), Ok(30_000));
        assert_eq!(usd("4.5"), Ok(450));
        assert_eq!(usd("0.29"), Ok(29));
        assert_eq!(usd("-0.07"), Ok(-7));
        assert_eq!(usd("10.000"), Ok(1_000));
        assert_eq!(usd("1e2"), Ok(10_000));
        assert_eq!(usd("1.25E1"), Ok(1_250));
        assert_eq!(usd("1200e-2"), Ok(1_200));
        assert_eq!(usd("0e999999"), Ok(0));
        assert_eq!(Money::parse("5", "JPY".parse().unwrap()).map(Money::minor), Ok(5));
        assert_eq!(Money::parse("1.234", "KWD".parse().unwrap()).map(Money::minor), Ok(1_234));
    }

    #[test]
    fn refuses_what_is_no_amount() {
        assert_eq!(usd("0.001"), Err(MoneyError::TooManyDecimals));
        assert_eq!(usd("1e-3"), Err(MoneyError::TooManyDecimals));
        assert_eq!(Money::parse("5.5", "JPY".parse().unwrap()), Err(MoneyError::TooManyDecimals));
        assert_eq!(usd("99999999999999999999"), Err(MoneyError::TooLarge));
        assert_eq!(usd("1e400"), Err(MoneyError::TooLarge));
        for text in ["", "-", ".5", "1.", "+1", "1,5", "NaN", "0x1", "1e", "--1", " 1"] {
            assert_eq!(usd(text), Err(MoneyError::NotANumber), "{text:?}");
        }
    }

    #[test]
    fn writes_no_more_decimals_than_needed() {
        for (minor, text) in [(30_000, "300"), (450, "4.5"), (-7, "-0.07"), (0, "0"), (101, "1.01")] {
            assert_eq!(Money::new(minor, Currency::USD).to_string(), text);
        }
        assert_eq!(Money::new(5, "JPY".parse().unwrap()).to_string(), "5");
    }

    #[test]
    fn currencies_never_mix() {
        let dollars = Money::new(1, Currency::USD);
        let euros = Money::new(1, "EUR".parse().unwrap());
        assert_eq!(dollars.plus(euros), Err(MoneyError::CurrencyMismatch));
        assert_eq!(dollars.minus(euros), Err(MoneyError::CurrencyMismatch));
        assert_eq!(Money::new(LARGEST_MINOR, Currency::USD).plus(dollars), Err(MoneyError::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(minor in -LARGEST_MINOR..=LARGEST_MINOR) {
            let money = Money::new(minor, Currency::USD);
            proptest::prop_assert_eq!(Money::parse(&money.to_string(), Currency::USD), Ok(money));
        }
    }
}
