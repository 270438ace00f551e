//! The credits the writer holds in memory: a row per tenant, updated in place, would dirty a page of its own
//! with nearly every checkout. Each ledger entry carries the balance and the place in the chain it leads to, so
//! the rows may lag behind the ledger by a short tail. What a group changes is seen by others only after its commit.

use crate::ledger::{Credit, World};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// The credits as of the last commit, for the writer and all readers.
#[derive(Debug, Clone, Default)]
pub(super) struct Committed(Arc<RwLock<HashMap<World, Credit>>>);

impl Committed {
    pub(super) fn get(&self, world: &World) -> Option<Credit> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(world).copied()
    }

    fn insert(&self, credits: impl Iterator<Item = (World, Credit)>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(credits);
    }
}

#[derive(Debug, Default)]
pub(super) struct Credits {
    pub(super) committed: Committed,
    group: HashMap<World, Credit>,
    /// What the group's changes replaced, in their order.
    replaced: Vec<(World, Option<Credit>)>,
    /// Whose rows lag behind the ledger.
    unwritten: BTreeSet<World>,
    /// Whose rows are being written in this round, in the order of the table.
    pub(super) due: BTreeSet<World>,
    /// The newest entry when the round began.
    pub(super) round: Vec<u8>,
}

impl Credits {
    pub(super) fn get(&self, world: &World) -> Option<Credit> {
        self.group.get(world).copied().or_else(|| self.committed.get(world))
    }

    pub(super) fn set(&mut self, credit: Credit) {
        let world = world(&credit);
        self.replaced.push((world, self.group.insert(world, credit)));
    }

    /// Where the group stands, for [`Credits::forget_since`].
    pub(super) fn mark(&self) -> usize {
        self.replaced.len()
    }

    /// Takes back what the group changed since `mark`: the command was refused.
    pub(super) fn forget_since(&mut self, mark: usize) {
        for (world, replaced) in self.replaced.drain(mark..).rev() {
            match replaced {
                Some(credit) => self.group.insert(world, credit),
                None => self.group.remove(&world),
            };
        }
    }

    /// The group is committed.
    pub(super) fn commit(&mut self) {
        self.replaced.clear();
        if !self.group.is_empty() {
            self.unwritten.extend(self.group.keys());
            self.committed.insert(self.group.drain());
        }
    }

    /// The group is lost: nothing of it ever was.
    pub(super) fn abort(&mut self) {
        self.replaced.clear();
        self.group.clear();
    }

    /// Whether some rows lag behind.
    pub(super) fn lag(&self) -> bool {
        !(self.unwritten.is_empty() && self.due.is_empty())
    }

    /// Begins a round in which every row that lags now is written; `newest` is the newest entry of the ledger.
    pub(super) fn begin_round(&mut self, newest: Vec<u8>) {
        self.due = std::mem::take(&mut self.unwritten);
        self.round = newest;
    }
}

fn world(credit: &Credit) -> World {
    (credit.head.tenant, credit.head.mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::id::TenantId;
    use domain::ledger::Head;
    use domain::money::{Currency, Money};
    use domain::tenant::{Mode, TenantStatus};
    use uuid::Uuid;

    fn credit(tenant: u128, balance: i64) -> Credit {
        let tenant = TenantId::new(Uuid::from_u128(tenant));
        let head = Head::empty(tenant, Mode::Live, Currency::USD);
        Credit {
            head: Head { balance: Money::new(balance, Currency::USD), ..head },
            limit: Money::zero(Currency::USD),
            order_count: 0,
            tenant_number: 1_001,
            status: TenantStatus::Active,
            locked_at: 0,
        }
    }

    fn balance(credits: &Credits, tenant: u128) -> Option<i64> {
        credits.get(&world(&credit(tenant, 0))).map(|credit| credit.head.balance.minor())
    }

    #[test]
    fn a_lost_group_leaves_no_trace() {
        let mut credits = Credits::default();
        credits.set(credit(1, 10));
        credits.commit();
        credits.set(credit(1, 5));
        credits.set(credit(2, 5));
        assert_eq!(balance(&credits, 1), Some(5));
        credits.abort();
        assert_eq!((balance(&credits, 1), balance(&credits, 2)), (Some(10), None));
    }

    #[test]
    fn a_refused_command_takes_back_only_its_own_changes() {
        let mut credits = Credits::default();
        credits.set(credit(1, 9));
        let mark = credits.mark();
        credits.set(credit(1, 8));
        credits.set(credit(1, 7));
        credits.set(credit(2, 7));
        credits.forget_since(mark);
        credits.commit();
        assert_eq!((balance(&credits, 1), balance(&credits, 2)), (Some(9), None));
    }

    #[test]
    fn others_see_a_change_after_the_commit() {
        let mut credits = Credits::default();
        let readers = credits.committed.clone();
        credits.set(credit(1, 9));
        assert!(readers.get(&world(&credit(1, 0))).is_none());
        credits.commit();
        assert_eq!(readers.get(&world(&credit(1, 0))), Some(credit(1, 9)));
        assert!(credits.lag());
    }
}
