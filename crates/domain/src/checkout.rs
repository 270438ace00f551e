//! Checkout: whether a basket can be paid, and what it costs. All lines or none.

use crate::ledger::Head;
use crate::money::Money;
use crate::tenant::{NotAllowed, TenantStatus};

/// The most lines of one checkout.
pub const MOST_LINES: usize = 50;
/// The most eSIMs of one line.
pub const MOST_PER_LINE: u32 = 100;
/// The most eSIMs of one checkout.
pub const MOST_ESIMS: u32 = 500;

/// One line as it was asked for, with the price of its plan, if the plan can be bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// How many eSIMs.
    pub quantity: u32,
    /// Price of one, or `None` where the plan is unknown or withdrawn.
    pub unit_price: Option<Money>,
}

/// A line that can be sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricedLine {
    /// How many eSIMs.
    pub quantity: u32,
    /// Price of one.
    pub unit_price: Money,
    /// Quantity times unit price.
    pub total: Money,
}

/// A basket that can be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// The lines, in the order asked for.
    pub lines: Vec<PricedLine>,
    /// Their sum.
    pub total: Money,
}

/// Why a checkout is refused, in the order of precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckoutRefusal {
    /// The tenant may not buy.
    NotAllowed(NotAllowed),
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
    /// A price that rules make was worked out of what is not so any more: work it out again.
    QuoteOutdated,
    /// These lines (0-based) name a plan that cannot be bought.
    PlanUnavailable(Vec<usize>),
    /// Dearer than the caller's `maxTotal`.
    PriceChanged {
        /// What it costs.
        total: Money,
        /// What the caller was ready to pay.
        max_total: Money,
    },
    /// More than the balance and the credit limit allow.
    InsufficientBalance {
        /// What it costs.
        required: Money,
        /// What is there.
        credit_balance: Money,
    },
}

/// Decides a checkout against the tenant's status, balance and credit limit.
///
/// # Errors
/// The first [`CheckoutRefusal`] by precedence.
pub fn decide(
    status: TenantStatus,
    head: &Head,
    credit_limit: Money,
    lines: &[Line],
    max_total: Option<Money>,
) -> Result<Priced, CheckoutRefusal> {
    status.may_change().map_err(CheckoutRefusal::NotAllowed)?;
    let credit_balance = head.balance;
    let mut total = Money::zero(credit_balance.currency());
    let mut priced = Vec::with_capacity(lines.len());
    let mut unavailable = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let line = line.unit_price.and_then(|unit_price| {
            let line_total = unit_price.times(line.quantity).ok()?;
            total = total.plus(line_total).ok()?;
            Some(PricedLine { quantity: line.quantity, unit_price, total: line_total })
        });
        match line {
            Some(line) => priced.push(line),
            None => unavailable.push(index),
        }
    }
    if !unavailable.is_empty() {
        return Err(CheckoutRefusal::PlanUnavailable(unavailable));
    }
    if let Some(max_total) = max_total
        && total.minor() > max_total.minor()
    {
        return Err(CheckoutRefusal::PriceChanged { total, max_total });
    }
    let left = credit_balance.minus(total).map(Money::minor).unwrap_or(i64::MIN);
    if left < credit_limit.negated().minor() {
        return Err(CheckoutRefusal::InsufficientBalance { required: total, credit_balance });
    }
    Ok(Priced { lines: priced, total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;
    use crate::money::Currency;
    use crate::tenant::Mode;

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn head(balance: i64) -> Head {
        Head { balance: usd(balance), ..Head::empty(TenantId::new(uuid::Uuid::nil()), Mode::Live, Currency::USD) }
    }

    const ONE: Line = Line { quantity: 2, unit_price: Some(Money::new(450, Currency::USD)) };
    const GONE: Line = Line { quantity: 1, unit_price: None };

    #[test]
    fn exactly_enough_is_enough() {
        let priced = decide(TenantStatus::Active, &head(900), usd(0), &[ONE], Some(usd(900))).unwrap();
        assert_eq!(priced.total, usd(900));
        assert!(decide(TenantStatus::Active, &head(800), usd(100), &[ONE], None).is_ok());
    }

    #[test]
    fn refusals_come_in_the_order_of_precedence() {
        let poor = head(0);
        let decide = |status, lines: &[Line], max| decide(status, &poor, usd(0), lines, max).unwrap_err();
        assert_eq!(decide(TenantStatus::Suspended, &[GONE], None), CheckoutRefusal::NotAllowed(NotAllowed::Suspended));
        assert_eq!(
            decide(TenantStatus::Active, &[ONE, GONE, ONE, GONE], Some(usd(1))),
            CheckoutRefusal::PlanUnavailable(vec![1, 3])
        );
        assert_eq!(
            decide(TenantStatus::Active, &[ONE], Some(usd(899))),
            CheckoutRefusal::PriceChanged { total: usd(900), max_total: usd(899) }
        );
        assert_eq!(
            decide(TenantStatus::Active, &[ONE], None),
            CheckoutRefusal::InsufficientBalance { required: usd(900), credit_balance: usd(0) }
        );
    }
}
