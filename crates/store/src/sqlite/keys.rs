//! The idempotency keys the writer holds in memory: a random-order index on disk would dirty a page
//! with every checkout. What a group adds becomes visible to later groups only after its commit;
//! what is older than memory holds lies in the on-disk index.

use crate::port::{KeyHash, Remembered};
use std::collections::{HashMap, VecDeque};
use uuid::Uuid;

/// How many keys stay in memory (about 25 MiB with their order of age).
pub(super) const MOST_IN_MEMORY: usize = 262_144;

#[derive(Debug, Default)]
pub(super) struct Keys {
    committed: HashMap<KeyHash, Uuid>,
    oldest_first: VecDeque<KeyHash>,
    group: HashMap<KeyHash, Remembered>,
    group_order: Vec<KeyHash>,
    spilled: bool,
}

impl Keys {
    /// Takes a key that is durable already, newer than all before it.
    pub(super) fn load(&mut self, key: KeyHash, result: Uuid) {
        if self.committed.insert(key, result).is_none() {
            self.oldest_first.push_back(key);
        }
    }

    pub(super) fn set_spilled(&mut self, spilled: bool) {
        self.spilled = spilled;
    }

    /// Whether some keys are only on disk.
    pub(super) fn has_spilled(&self) -> bool {
        self.spilled
    }

    pub(super) fn in_group(&self, key: &KeyHash) -> Option<Remembered> {
        self.group.get(key).copied()
    }

    pub(super) fn committed(&self, key: &KeyHash) -> Option<Uuid> {
        self.committed.get(key).copied()
    }

    pub(super) fn add(&mut self, key: KeyHash, remembered: Remembered) {
        self.group.insert(key, remembered);
        self.group_order.push(key);
    }

    /// Where the group stands, for [`Keys::forget_since`].
    pub(super) fn mark(&self) -> usize {
        self.group_order.len()
    }

    /// Forgets what the group added since `mark`: the command was refused.
    pub(super) fn forget_since(&mut self, mark: usize) {
        for key in self.group_order.drain(mark..) {
            self.group.remove(&key);
        }
    }

    /// The group is durable.
    pub(super) fn commit(&mut self) {
        for key in std::mem::take(&mut self.group_order) {
            if let Some(remembered) = self.group.remove(&key) {
                self.load(key, remembered.result);
            }
        }
    }

    /// The group is lost: nothing of it ever was.
    pub(super) fn abort(&mut self) {
        self.group.clear();
        self.group_order.clear();
    }

    /// The oldest keys beyond the limit with their results, to be moved to disk; empty while there is room.
    pub(super) fn overflow(&self) -> Vec<(KeyHash, Uuid)> {
        if self.committed.len() <= MOST_IN_MEMORY {
            return Vec::new();
        }
        let surplus = self.committed.len() - MOST_IN_MEMORY * 3 / 4;
        self.oldest_first
            .iter()
            .take(surplus)
            .filter_map(|key| self.committed.get(key).map(|result| (*key, *result)))
            .collect()
    }

    /// Drops keys that are on disk now.
    pub(super) fn moved_to_disk(&mut self, keys: &[(KeyHash, Uuid)]) {
        for (key, _) in keys {
            self.committed.remove(key);
        }
        self.oldest_first.drain(..keys.len().min(self.oldest_first.len()));
        self.spilled = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(result: u128) -> Remembered {
        Remembered { body_hash: [0; 16], result: Uuid::from_u128(result), count: 1 }
    }

    #[test]
    fn a_lost_group_leaves_no_trace() {
        let mut keys = Keys::default();
        keys.add([1; 16], remembered(1));
        assert!(keys.in_group(&[1; 16]).is_some());
        keys.abort();
        assert!(keys.in_group(&[1; 16]).is_none() && keys.committed(&[1; 16]).is_none());
    }

    #[test]
    fn a_refused_command_takes_back_only_its_own_keys() {
        let mut keys = Keys::default();
        keys.add([1; 16], remembered(1));
        let mark = keys.mark();
        keys.add([2; 16], remembered(2));
        keys.forget_since(mark);
        keys.commit();
        assert_eq!(keys.committed(&[1; 16]), Some(Uuid::from_u128(1)));
        assert_eq!(keys.committed(&[2; 16]), None);
    }
}
