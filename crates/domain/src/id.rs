//! Typed identifiers. Every id is a UUID version 7, so tables that are keyed by id only ever append,
//! and an id of one noun can never be passed where another noun's id is meant.

use crate::time::Timestamp;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The text is not a UUID in its canonical, hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that is known to name this noun.
            #[must_use]
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The wrapped UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The sixteen bytes as stored.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// When this id was made: the noun's creation.
            #[must_use]
            pub fn created_at(self) -> Timestamp {
                made_at(self.0)
            }

            /// Reads the sixteen stored bytes.
            ///
            /// # Errors
            /// [`InvalidId`] when there are not exactly sixteen.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| InvalidId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if text.len() != 36 {
                    return Err(InvalidId);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
            }
        }
    )+};
}

ids! {
    /// A partner.
    TenantId,
    /// A person who logs in for a tenant.
    UserId,
    /// A person who logs in for the operator.
    OperatorId,
    /// One login of a user or an operator (`jti` of the token).
    SessionId,
    /// A key for the partner API.
    ApiKeyId,
    /// A plan that partners can buy.
    PlanId,
    /// One checkout: the orders that were paid together.
    CheckoutId,
    /// One line of a checkout. Its last sixteen bits are zero: they number the order's eSIMs.
    OrderId,
    /// One eSIM of an order.
    EsimId,
    /// One entry of the ledger.
    EntryId,
    /// A top-up of the credit balance (the contract calls it `orderId` of the top-up).
    TopUpId,
    /// A unit of work written with the change that needs it.
    JobId,
    /// A message from the contact form.
    InquiryId,
    /// A record of an operator's change.
    AuditId,
    /// An account at an upstream.
    ConnectionId,
    /// Where our books and an upstream's view differ.
    DifferenceId,
    /// Something an upstream told by itself.
    NoticeId,
    /// A rule of what is put on top of a cost.
    MarkupId,
    /// A record of what happened to an upstream's offer.
    OfferChangeId,
}

const POSITION_MASK: u128 = 0xFFFF;

impl OrderId {
    /// Makes an order id of a fresh UUID by clearing the bits that number the eSIMs.
    #[must_use]
    pub fn from_fresh(id: Uuid) -> Self {
        Self(Uuid::from_u128(id.as_u128() & !POSITION_MASK))
    }

    /// The id of the eSIM at `position` (0-based). eSIM ids are their order's id plus position + 1,
    /// so an order's eSIMs lie next to each other and need neither a row nor an index to be named.
    #[must_use]
    pub fn esim(self, position: u16) -> EsimId {
        let number = u128::from(position).saturating_add(1) & POSITION_MASK;
        EsimId(Uuid::from_u128(self.0.as_u128() | number))
    }

    /// The largest id an eSIM of this order can have: the upper end of the range scan.
    #[must_use]
    pub fn last_esim(self) -> EsimId {
        EsimId(Uuid::from_u128(self.0.as_u128() | POSITION_MASK))
    }
}

impl EsimId {
    /// The order this eSIM belongs to.
    #[must_use]
    pub fn order(self) -> OrderId {
        OrderId(Uuid::from_u128(self.0.as_u128() & !POSITION_MASK))
    }

    /// The 0-based position in its order, or `None` for an id that names no eSIM.
    #[must_use]
    pub fn position(self) -> Option<u16> {
        let number = self.0.as_u128() & POSITION_MASK;
        u16::try_from(number).ok().and_then(|number| number.checked_sub(1))
    }
}

const COUNTER_MAX: u32 = (1 << 26) - 1;

/// Makes strictly increasing version 7 UUIDs (RFC 9562 section 6.2, method 1: a 26-bit counter
/// behind the millisecond), so that the order of ids is the order of making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdSequence {
    last_ms: u64,
    counter: u32,
}

impl IdSequence {
    /// The sequence whose last id was `last`: it goes on above it, whatever the clock says.
    #[must_use]
    pub fn after(last: Uuid) -> Self {
        let bits = last.as_u128();
        let part = |shift: u32, mask: u32| {
            u32::try_from(bits.checked_shr(shift).unwrap_or(0) & u128::from(mask)).unwrap_or(mask)
        };
        let counter = (part(64, 0xFFF) << 14) | part(48, 0x3FFF);
        Self { last_ms: u64::try_from(bits >> 80).unwrap_or(u64::MAX), counter }
    }

    /// Goes on above `id`, which somebody else made, if it is the larger one.
    pub fn go_above(&mut self, id: Uuid) {
        let other = Self::after(id);
        if (other.last_ms, other.counter) > (self.last_ms, self.counter) {
            *self = other;
        }
    }

    /// The time of the next id: `now`, or the last id's time when the clock has stepped back.
    #[must_use]
    pub fn not_before_last(&self, now: Timestamp) -> Timestamp {
        let last = Timestamp::from_millis(i64::try_from(self.last_ms).unwrap_or(i64::MAX));
        now.max(last)
    }

    /// The next id. A clock that steps back does not break the order. `random` fills the 48 random bits.
    pub fn next(&mut self, now: Timestamp, random: u64) -> Uuid {
        let now_ms = u64::try_from(now.millis()).unwrap_or(0);
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            self.counter = 0;
        } else if self.counter >= COUNTER_MAX {
            self.last_ms = self.last_ms.saturating_add(1);
            self.counter = 0;
        } else {
            self.counter = self.counter.saturating_add(1);
        }
        let high = (u128::from(self.last_ms) & 0xFFFF_FFFF_FFFF) << 80;
        let version = 0x7_u128 << 76;
        let counter_high = u128::from(self.counter >> 14) << 64;
        let variant = 0b10_u128 << 62;
        let counter_low = u128::from(self.counter & 0x3FFF) << 48;
        let random = u128::from(random) & 0xFFFF_FFFF_FFFF;
        Uuid::from_u128(high | version | counter_high | variant | counter_low | random)
    }
}

/// The smallest id that can be made at `time`: the bound of a keyset scan that starts there.
#[must_use]
pub fn first_at(time: Timestamp) -> Uuid {
    let ms = u128::from(u64::try_from(time.millis()).unwrap_or(0)) & 0xFFFF_FFFF_FFFF;
    Uuid::from_u128(ms << 80)
}

/// The time in a version 7 id, milliseconds.
#[must_use]
pub fn made_at(id: Uuid) -> Timestamp {
    Timestamp::from_millis(i64::try_from(id.as_u128() >> 80).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_even_when_the_clock_steps_back() {
        let mut sequence = IdSequence::default();
        let mut last = sequence.next(Timestamp::from_millis(1_000), u64::MAX);
        for step in 0..10_000_i64 {
            let next = sequence.next(Timestamp::from_millis(1_000 - step % 7), step.unsigned_abs());
            assert!(next > last);
            assert_eq!(next.get_version_num(), 7);
            assert_eq!(made_at(next), Timestamp::from_millis(1_000));
            last = next;
        }
    }

    #[test]
    fn a_sequence_goes_on_after_the_last_id_of_another() {
        let mut sequence = IdSequence::default();
        for step in 0..50_000 {
            let last = sequence.next(Timestamp::from_millis(1_000 + step / 20_000), u64::MAX);
            assert_eq!(IdSequence::after(last), sequence);
        }
        let last = sequence.next(Timestamp::from_millis(2_000), u64::MAX);
        assert!(IdSequence::after(last).next(Timestamp::from_millis(0), 0) > last);
    }

    #[test]
    fn a_sequence_goes_on_above_what_another_made_by_its_own_clock() {
        let (mut ahead, mut behind) = (IdSequence::default(), IdSequence::default());
        let theirs = ahead.next(Timestamp::from_millis(5_000), u64::MAX);
        behind.go_above(theirs);
        let ours = behind.next(Timestamp::from_millis(1_000), 0);
        assert!(ours > theirs);
        ahead.next(Timestamp::from_millis(6_000), 0);
        let before = ahead;
        ahead.go_above(ours);
        assert_eq!(ahead, before, "what is smaller changes nothing");
    }

    #[test]
    fn an_esim_id_names_its_order_and_position() {
        let order = OrderId::from_fresh(IdSequence::default().next(Timestamp::from_millis(5), 0x1234_5678_9ABC));
        let esim = order.esim(41);
        assert_eq!(esim.order(), order);
        assert_eq!(esim.position(), Some(41));
        assert!(esim <= order.last_esim());
        assert_eq!(EsimId::new(order.uuid()).position(), None);
    }

    #[test]
    fn only_the_hyphenated_form_is_an_id() {
        assert!(TenantId::from_str("0192f0c1-0000-7000-8000-000000000000").is_ok());
        assert_eq!(TenantId::from_str("0192f0c1000070008000000000000000"), Err(InvalidId));
        assert_eq!(TenantId::from_str("x"), Err(InvalidId));
    }
}
