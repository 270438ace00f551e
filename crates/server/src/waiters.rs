//! Who waits for orders. A waiter subscribes, then reads, then sleeps: what happens in between wakes
//! it. It holds no thread and no connection, only an entry here.

use domain::id::OrderId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The waiters of one process.
#[derive(Debug, Default)]
pub struct Waiters {
    by_order: Mutex<HashMap<OrderId, Vec<Arc<Notify>>>>,
}

/// A waiter's place; leaving it takes the waiter off the list.
#[derive(Debug)]
pub struct Subscription {
    waiters: Arc<Waiters>,
    orders: Box<[OrderId]>,
    bell: Arc<Notify>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<OrderId, Vec<Arc<Notify>>>> {
        self.by_order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for a change of any of these orders.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, orders: &[OrderId]) -> Subscription {
        let bell = Arc::new(Notify::new());
        let mut by_order = self.lock();
        for order in orders {
            by_order.entry(*order).or_default().push(Arc::clone(&bell));
        }
        drop(by_order);
        Subscription { waiters: Arc::clone(self), orders: orders.into(), bell }
    }

    /// Wakes who waits for this order.
    pub fn changed(&self, order: OrderId) {
        if let Some(bells) = self.lock().get(&order) {
            for bell in bells {
                // A bell that nobody listens to yet remembers one ring.
                bell.notify_one();
            }
        }
    }

    /// The orders that are waited for.
    #[must_use]
    pub fn orders(&self) -> Vec<OrderId> {
        self.lock().keys().copied().collect()
    }

    /// How many orders are waited for.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}

impl Subscription {
    /// Sleeps until one of the orders changes, or has changed since the last time.
    pub async fn changed(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut by_order = self.waiters.lock();
        for order in &self.orders {
            if let Entry::Occupied(mut entry) = by_order.entry(*order) {
                entry.get_mut().retain(|bell| !Arc::ptr_eq(bell, &self.bell));
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_between_subscribing_and_sleeping_is_not_lost() {
        let waiters = Arc::new(Waiters::default());
        let order = OrderId::from_fresh(uuid::Uuid::from_u128(7 << 80));
        let subscription = waiters.subscribe(&[order]);
        waiters.changed(order);
        subscription.changed().await;
        drop(subscription);
        assert_eq!(waiters.count(), 0);
    }
}
