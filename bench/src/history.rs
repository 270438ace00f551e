//! What was sold before the measurement begins: each order is worked out of a seed and its number, so that whoever
//! measures knows what can be found without having kept any of it.

use crate::random::Random;

/// A past, as long as is wanted.
#[derive(Debug, Clone, Copy)]
pub struct History {
    /// Tells it apart from others.
    pub seed: u64,
    /// Who bought.
    pub tenants: u32,
}

/// One order of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bought {
    /// The buyer, counted from 0.
    pub tenant: u32,
    /// How many eSIMs.
    pub quantity: u32,
    /// Which of so many plans is the caller's to say; here it is a share of them, in thousandths, the first most often.
    pub plan_thousandth: u32,
    /// The partner's own order number.
    pub reference: String,
    /// The traveller's address, where the partner told it.
    pub email: Option<String>,
    /// The idempotency key and the body, hashed.
    pub key: ([u8; 16], [u8; 16]),
}

impl History {
    /// The tenant that has a tenth of all orders; the others share the rest.
    pub const LARGE: u32 = 0;

    /// The order of this number.
    pub fn order(self, number: u32) -> Bought {
        let mut random = Random(self.seed ^ (u64::from(number) << 24));
        let mut below = |end: u32| u32::try_from(random.next() % u64::from(end.max(1))).unwrap_or(0);
        let tenant = if below(10) == 0 { Self::LARGE } else { 1 + below(self.tenants.saturating_sub(1)) };
        let quantity = match below(100) {
            0..88 => 1,
            88..95 => 2,
            95..99 => 3 + below(3),
            _ => 10,
        };
        // Some plans sell far better than others.
        let plan_thousandth = below(1_000) * below(1_000) / 1_000;
        let tells_email = below(4) > 0;
        let (name, high, low) = (random.next(), random.next(), random.next());
        Bought {
            tenant: tenant.min(self.tenants.saturating_sub(1)),
            quantity,
            plan_thousandth,
            reference: format!("order-{:016x}", random.next()),
            email: tells_email.then(|| format!("traveller-{name:016x}@example.com")),
            key: (bytes(high, low), bytes(low, high)),
        }
    }
}

fn bytes(high: u64, low: u64) -> [u8; 16] {
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_tenant_has_a_tenth_and_no_two_orders_have_one_reference() {
        let history = History { seed: 7, tenants: 100 };
        let orders: Vec<Bought> = (0..10_000).map(|number| history.order(number)).collect();
        let large = orders.iter().filter(|order| order.tenant == History::LARGE).count();
        assert!((900..1_100).contains(&large), "{large}");
        let references: std::collections::HashSet<&String> = orders.iter().map(|order| &order.reference).collect();
        assert_eq!(references.len(), orders.len());
        assert!(orders.iter().all(|order| order.tenant < 100 && (1..=10).contains(&order.quantity)));
    }
}
