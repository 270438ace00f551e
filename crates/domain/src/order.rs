//! Orders: one line of a checkout. Its status is derived from its eSIMs and its placements.

use crate::esim::EsimState;
use crate::id::{OrderId, PlanId};
use crate::words;

words! {
    /// Where an order is.
    pub enum OrderStatus {
        /// Paid, being fulfilled.
        Processing = "processing",
        /// All eSIMs were delivered.
        Completed = "completed",
        /// Some were; the others are refunded.
        PartiallyCompleted = "partially_completed",
        /// None was; all is refunded.
        Failed = "failed",
        /// All that was delivered was taken back.
        Cancelled = "cancelled",
    }
}

impl OrderStatus {
    /// Whether fulfilment is over.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Processing)
    }
}

/// How many of an order's eSIMs are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Not there yet.
    pub pending: u32,
    /// Delivered, or being taken back.
    pub delivered: u32,
    /// Never came.
    pub failed: u32,
    /// Taken back.
    pub cancelled: u32,
}

impl FromIterator<EsimState> for Tally {
    fn from_iter<I: IntoIterator<Item = EsimState>>(states: I) -> Self {
        let mut tally = Self::default();
        for state in states {
            let count = match state {
                EsimState::Pending => &mut tally.pending,
                EsimState::Delivered | EsimState::Cancelling => &mut tally.delivered,
                EsimState::Failed => &mut tally.failed,
                EsimState::Cancelled => &mut tally.cancelled,
            };
            *count = count.saturating_add(1);
        }
        tally
    }
}

/// The status of an order whose eSIMs are in these states.
#[must_use]
pub const fn status(tally: Tally) -> OrderStatus {
    match tally {
        Tally { pending: 1.., .. } => OrderStatus::Processing,
        Tally { delivered: 0, cancelled: 0, .. } => OrderStatus::Failed,
        Tally { delivered: 0, .. } => OrderStatus::Cancelled,
        Tally { failed: 0, .. } => OrderStatus::Completed,
        Tally { .. } => OrderStatus::PartiallyCompleted,
    }
}

/// The number a person reads out: the tenant's number and the order's within the tenant, with a
/// `T` before it in test mode, as in `1001-000042` and `T1001-000042`.
#[must_use]
pub fn order_number(tenant_number: i64, mode: crate::tenant::Mode, order: i64) -> String {
    let prefix = match mode {
        crate::tenant::Mode::Live => "",
        crate::tenant::Mode::Test => "T",
    };
    format!("{prefix}{tenant_number}-{order:06}")
}

/// The reference under which the `k`-th placement (from 1) of an order is known upstream.
#[must_use]
pub fn placement_reference(order: OrderId, k: u32) -> String {
    format!("{order}-{k}")
}

/// The order and the number of the placement that a reference names.
#[must_use]
pub fn of_reference(reference: &str) -> Option<(OrderId, u32)> {
    let (order, k) = reference.split_at_checked(36)?;
    Some((order.parse().ok()?, k.strip_prefix('-')?.parse().ok()?))
}

/// What a list of orders is asked for. Empty fields do not filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrderFilter {
    /// Exactly this status.
    pub status: Option<OrderStatus>,
    /// Created at or after.
    pub from: Option<crate::time::Timestamp>,
    /// Created before.
    pub to: Option<crate::time::Timestamp>,
    /// Exactly this e-mail address, in any case.
    pub email: Option<String>,
    /// One of the eSIMs has this ICCID.
    pub iccid: Option<String>,
    /// Exactly this reference of the partner, in any case.
    pub reference: Option<String>,
    /// This plan.
    pub plan: Option<PlanId>,
    /// The beginning of order number, reference, ICCID or e-mail address, in any case.
    pub query: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Mode;

    #[test]
    fn status_of_every_small_order() {
        let states = EsimState::ALL;
        for a in states {
            for b in states {
                for c in states {
                    let all = [*a, *b, *c];
                    let has = |state| all.contains(&state);
                    let delivered = has(EsimState::Delivered) || has(EsimState::Cancelling);
                    let expected = if has(EsimState::Pending) {
                        OrderStatus::Processing
                    } else if delivered && has(EsimState::Failed) {
                        OrderStatus::PartiallyCompleted
                    } else if delivered {
                        OrderStatus::Completed
                    } else if has(EsimState::Cancelled) {
                        OrderStatus::Cancelled
                    } else {
                        OrderStatus::Failed
                    };
                    assert_eq!(status(all.into_iter().collect()), expected, "{all:?}");
                }
            }
        }
    }

    #[test]
    fn numbers_and_references() {
        assert_eq!(order_number(1001, Mode::Live, 42), "1001-000042");
        assert_eq!(order_number(1001, Mode::Test, 1_234_567), "T1001-1234567");
        let order = OrderId::from_fresh(uuid::Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0001_0000));
        let reference = placement_reference(order, 3);
        assert_eq!(of_reference(&reference), Some((order, 3)));
        assert_eq!(of_reference("x"), None);
    }
}
