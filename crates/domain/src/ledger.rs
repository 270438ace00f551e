//! The ledger's rules. Every movement of money is one entry that takes an amount from one account
//! and gives it to another, so its two postings sum to zero by construction. A tenant's entries of
//! one mode form a hash chain: a changed, missing or cut-off entry is found.

use crate::id::{EntryId, OrderId, TenantId, TopUpId};
use crate::money::{Currency, Money, MoneyError};
use crate::tenant::Mode;
use crate::words;
use sha2::{Digest, Sha256};

words! {
    /// The accounts. `tenant_credit` is one per tenant and mode, the others one per platform and mode.
    pub enum Account {
        /// What the platform owes the tenant: the prepaid balance.
        TenantCredit = "tenant_credit",
        /// Paid by the tenant, not yet delivered.
        SalesHeld = "sales_held",
        /// Earned.
        Sales = "sales",
        /// Came in by bank transfer.
        BankTransferClearing = "bank_transfer_clearing",
        /// Came in through Stripe.
        StripeClearing = "stripe_clearing",
        /// The operator's corrections.
        Adjustments = "adjustments",
    }
}

words! {
    /// What an entry is for. All but `sale` touch the tenant's credit and are its transactions.
    pub enum EntryKind {
        /// A top-up was paid.
        TopUp = "top_up",
        /// An order was paid.
        Purchase = "purchase",
        /// An order was not delivered, or taken back.
        Refund = "refund",
        /// The operator's correction.
        Adjustment = "adjustment",
        /// A top-up was given back.
        TopUpRefund = "top_up_refund",
        /// A top-up was taken back by the payer's bank.
        TopUpReversal = "top_up_reversal",
        /// What was held for an order is earned.
        Sale = "sale",
    }
}

/// What moves, before it has a place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// What it is for.
    pub kind: EntryKind,
    /// The account that gives.
    pub source: Account,
    /// The account that takes.
    pub target: Account,
    /// How much; never negative.
    pub amount: Money,
    /// The order it belongs to.
    pub order: Option<OrderId>,
    /// The top-up it belongs to.
    pub top_up: Option<TopUpId>,
}

impl Movement {
    const fn of_order(kind: EntryKind, source: Account, target: Account, amount: Money, order: OrderId) -> Self {
        Self { kind, source, target, amount, order: Some(order), top_up: None }
    }

    /// An order is paid: the price is held until delivery.
    #[must_use]
    pub const fn purchase(order: OrderId, amount: Money) -> Self {
        Self::of_order(EntryKind::Purchase, Account::TenantCredit, Account::SalesHeld, amount, order)
    }

    /// What was held for delivered eSIMs is earned.
    #[must_use]
    pub const fn sale(order: OrderId, amount: Money) -> Self {
        Self::of_order(EntryKind::Sale, Account::SalesHeld, Account::Sales, amount, order)
    }

    /// What was held for eSIMs that did not come goes back.
    #[must_use]
    pub const fn refund_of_undelivered(order: OrderId, amount: Money) -> Self {
        Self::of_order(EntryKind::Refund, Account::SalesHeld, Account::TenantCredit, amount, order)
    }

    /// The price of delivered eSIMs goes back: cancelled, or by the operator's decision.
    #[must_use]
    pub const fn refund_of_delivered(order: OrderId, amount: Money) -> Self {
        Self::of_order(EntryKind::Refund, Account::Sales, Account::TenantCredit, amount, order)
    }

    /// A top-up is paid.
    #[must_use]
    pub const fn top_up(top_up: TopUpId, clearing: Account, amount: Money) -> Self {
        Self {
            kind: EntryKind::TopUp,
            source: clearing,
            target: Account::TenantCredit,
            amount,
            order: None,
            top_up: Some(top_up),
        }
    }

    /// The operator corrects the balance; a negative amount takes credit away.
    #[must_use]
    pub const fn adjustment(signed: Money) -> Self {
        let (source, target) = if signed.is_negative() {
            (Account::TenantCredit, Account::Adjustments)
        } else {
            (Account::Adjustments, Account::TenantCredit)
        };
        let amount = if signed.is_negative() { signed.negated() } else { signed };
        Self { kind: EntryKind::Adjustment, source, target, amount, order: None, top_up: None }
    }

    /// What this does to the tenant's credit: positive adds.
    #[must_use]
    pub fn credit_change(&self) -> Money {
        match (self.source, self.target) {
            (Account::TenantCredit, _) => self.amount.negated(),
            (_, Account::TenantCredit) => self.amount,
            _ => Money::zero(self.amount.currency()),
        }
    }
}

/// A SHA-256 link of the chain.
pub type Hash = [u8; 32];

/// Where a tenant's chain of one mode stands; lies in the locked balance row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The tenant.
    pub tenant: TenantId,
    /// The world.
    pub mode: Mode,
    /// How many entries there are.
    pub count: i64,
    /// The hash of the last entry; zeros before the first.
    pub hash: Hash,
    /// The balance: the sum of all credit changes.
    pub balance: Money,
}

impl Head {
    /// The head of an empty chain.
    #[must_use]
    pub const fn empty(tenant: TenantId, mode: Mode, currency: Currency) -> Self {
        Self { tenant, mode, count: 0, hash: [0; 32], balance: Money::zero(currency) }
    }
}

/// One entry of the ledger, written once and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its id; made with it, so its creation time too. A purchase has the id of its order, which
    /// makes a second purchase of one order impossible.
    pub id: EntryId,
    /// The tenant.
    pub tenant: TenantId,
    /// The world.
    pub mode: Mode,
    /// Its place in the chain, from 1.
    pub position: i64,
    /// What moved.
    pub movement: Movement,
    /// The tenant's credit after it.
    pub balance_after: Money,
    /// The link: SHA-256 over the previous link and everything above.
    pub hash: Hash,
}

impl Entry {
    /// The head of its chain when this was its last entry.
    #[must_use]
    pub const fn head(&self) -> Head {
        let Self { tenant, mode, position, balance_after, hash, .. } = *self;
        Head { tenant, mode, count: position, hash, balance: balance_after }
    }
}

/// Writes one movement behind the head: the entry to append, and the new head.
///
/// # Errors
/// [`MoneyError`] when the balance would leave the range or the currencies differ.
pub fn append(head: &Head, id: EntryId, movement: Movement) -> Result<(Entry, Head), MoneyError> {
    let balance = head.balance.plus(movement.credit_change())?;
    let mut entry = Entry {
        id,
        tenant: head.tenant,
        mode: head.mode,
        position: head.count.saturating_add(1),
        movement,
        balance_after: balance,
        hash: [0; 32],
    };
    entry.hash = link(&head.hash, &entry);
    Ok((entry, entry.head()))
}

/// The hash of an entry behind `previous`: SHA-256 over length-prefixed fields in a fixed order.
#[must_use]
pub fn link(previous: &Hash, entry: &Entry) -> Hash {
    let mut hasher = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        hasher.update(bytes);
    };
    let movement = &entry.movement;
    field(previous);
    field(entry.id.as_bytes());
    field(entry.tenant.as_bytes());
    field(entry.mode.word().as_bytes());
    field(&entry.position.to_be_bytes());
    field(movement.kind.word().as_bytes());
    field(movement.source.word().as_bytes());
    field(movement.target.word().as_bytes());
    field(&movement.amount.minor().to_be_bytes());
    field(movement.amount.currency().code().as_bytes());
    field(&entry.balance_after.minor().to_be_bytes());
    field(movement.order.as_ref().map_or(&[][..], |id| id.as_bytes()));
    field(movement.top_up.as_ref().map_or(&[][..], |id| id.as_bytes()));
    hasher.finalize().into()
}

words! {
    /// What a check of the ledger can find wrong with an entry or a balance.
    pub enum Damage {
        /// The entry's position does not follow its predecessor's: one is missing or was put in.
        Gap = "gap",
        /// The entry's hash does not match its content and its predecessor.
        Altered = "altered",
        /// The entry's balance is not the fold up to it.
        WrongBalance = "wrong_balance",
        /// The balance row's count differs: entries were cut off or added at the end.
        WrongCount = "wrong_count",
        /// The balance row's hash is not the last entry's.
        WrongHead = "wrong_head",
        /// The cached balance is not the sum of the entries.
        WrongCachedBalance = "wrong_cached_balance",
        /// There are entries without a balance row, or a row cannot be read at all.
        Unreadable = "unreadable",
        /// An order's total and refunds are not what the ledger says.
        OrderMismatch = "order_mismatch",
        /// A top-up's status or credited amount is not what the ledger says.
        TopUpMismatch = "top_up_mismatch",
    }
}

/// Checks that `entry` follows `head`, and moves the head on.
///
/// # Errors
/// The first [`Damage`] found.
pub fn verify(head: &Head, entry: &Entry) -> Result<Head, Damage> {
    if entry.position != head.count.saturating_add(1) {
        return Err(Damage::Gap);
    }
    if link(&head.hash, entry) != entry.hash {
        return Err(Damage::Altered);
    }
    let balance = head.balance.plus(entry.movement.credit_change()).map_err(|_| Damage::WrongBalance)?;
    if balance != entry.balance_after || entry.movement.amount.is_negative() {
        return Err(Damage::WrongBalance);
    }
    Ok(Head { count: entry.position, hash: entry.hash, balance, ..*head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::IdSequence;
    use crate::time::Timestamp;

    fn chain(amounts: &[i64]) -> (Head, Vec<Entry>) {
        let mut ids = IdSequence::default();
        let mut id = || ids.next(Timestamp::from_millis(1), 7);
        let mut head = Head::empty(TenantId::new(id()), Mode::Live, Currency::USD);
        let mut entries = Vec::new();
        for minor in amounts {
            let movement = Movement::adjustment(Money::new(*minor, Currency::USD));
            let (entry, next) = append(&head, EntryId::new(id()), movement).unwrap();
            entries.push(entry);
            head = next;
        }
        (head, entries)
    }

    fn check(entries: &[Entry]) -> Result<Head, Damage> {
        let first = &entries[0];
        let empty = Head::empty(first.tenant, first.mode, Currency::USD);
        entries.iter().try_fold(empty, |head, entry| verify(&head, entry))
    }

    #[test]
    fn a_chain_checks_out_and_ends_in_its_head() {
        let (head, entries) = chain(&[500, -200, 1]);
        assert_eq!(check(&entries), Ok(head));
        assert_eq!(head.balance.minor(), 301);
    }

    #[test]
    fn every_tampering_is_found() {
        let (_, entries) = chain(&[500, -200, 1]);
        let with = |change: fn(&mut Entry)| {
            let mut entries = entries.clone();
            change(&mut entries[1]);
            check(&entries)
        };
        assert_eq!(with(|entry| entry.movement.amount = Money::new(100, Currency::USD)), Err(Damage::Altered));
        assert_eq!(with(|entry| entry.movement.kind = EntryKind::Refund), Err(Damage::Altered));
        assert_eq!(with(|entry| entry.balance_after = Money::new(9, Currency::USD)), Err(Damage::Altered));
        assert_eq!(with(|entry| entry.hash[0] ^= 1), Err(Damage::Altered));
        assert_eq!(with(|entry| entry.position = 3), Err(Damage::Gap));
        let mut missing = entries.clone();
        missing.remove(1);
        assert_eq!(check(&missing), Err(Damage::Gap));
    }

    #[test]
    fn movements_say_what_they_do_to_the_credit() {
        let order = OrderId::from_fresh(uuid::Uuid::from_u128(1 << 80));
        let amount = Money::new(450, Currency::USD);
        assert_eq!(Movement::purchase(order, amount).credit_change().minor(), -450);
        assert_eq!(Movement::sale(order, amount).credit_change().minor(), 0);
        assert_eq!(Movement::refund_of_undelivered(order, amount).credit_change().minor(), 450);
        assert_eq!(Movement::refund_of_delivered(order, amount).credit_change().minor(), 450);
        assert_eq!(Movement::adjustment(amount.negated()).credit_change().minor(), -450);
    }
}
