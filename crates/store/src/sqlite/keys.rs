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
    /// Every key with what it stood for when it was used; a key that was swept and used again comes twice.
    oldest_first: VecDeque<(KeyHash, Uuid)>,
    group: HashMap<KeyHash, Remembered>,
    group_order: Vec<KeyHash>,
    /// The keys on their way to disk, in the index's own order; those at the end go first.
    moving: Vec<(KeyHash, Uuid)>,
    /// The newest result of those on their way.
    moving_up_to: Uuid,
    spilled: bool,
}

impl Keys {
    /// Takes a key that is durable already, newer than all before it.
    pub(super) fn load(&mut self, key: KeyHash, result: Uuid) {
        self.committed.insert(key, result);
        self.oldest_first.push_back((key, result));
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

    /// The group is committed.
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

    /// The next keys to be moved to disk with their results, `most` at a time; empty while there is room.
    pub(super) fn next_to_disk(&mut self, most: usize) -> &[(KeyHash, Uuid)] {
        if self.moving.is_empty() && self.committed.len() > MOST_IN_MEMORY {
            let surplus = self.committed.len() - MOST_IN_MEMORY * 3 / 4;
            while self.moving.len() < surplus
                && let Some((key, result)) = self.oldest_first.pop_front()
            {
                self.moving_up_to = result;
                if self.committed.get(&key) == Some(&result) {
                    self.moving.push((key, result));
                }
            }
            // Neighbours are moved together, so that a page of the index is written once.
            self.moving.sort_unstable();
        }
        self.moving.get(self.moving.len().saturating_sub(most)..).unwrap_or_default()
    }

    /// The result up to which all keys are on disk once the last `count` of those on their way are.
    pub(super) fn all_on_disk_after(&self, count: usize) -> Option<Uuid> {
        (count == self.moving.len()).then_some(self.moving_up_to)
    }

    /// Drops the last `count` keys of those on their way: they are on disk now.
    pub(super) fn moved_to_disk(&mut self, count: usize) {
        for (key, result) in self.moving.drain(self.moving.len().saturating_sub(count)..) {
            // A key that was used again meanwhile stands for something newer, which is not on disk.
            if self.committed.get(&key) == Some(&result) {
                self.committed.remove(&key);
            }
        }
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

    #[test]
    fn surplus_keys_move_in_portions_and_are_known_all_the_while() {
        let mut keys = Keys::default();
        let key = |number: usize| u128::try_from(number).unwrap().to_be_bytes();
        for number in 0..=MOST_IN_MEMORY {
            keys.load(key(number), Uuid::from_u128(1));
        }
        let mut moved = Vec::new();
        loop {
            let portion = keys.next_to_disk(10_000).to_vec();
            assert!(portion.iter().all(|(key, _)| keys.committed(key).is_some()));
            if portion.is_empty() {
                break;
            }
            keys.moved_to_disk(portion.len());
            moved.extend(portion);
        }
        assert_eq!(moved.len(), MOST_IN_MEMORY / 4 + 1);
        assert!(moved.iter().all(|(moved, _)| *moved <= key(MOST_IN_MEMORY / 4)), "the oldest go first");
        assert!(keys.has_spilled() && keys.committed(&key(MOST_IN_MEMORY)).is_some());
    }

    #[test]
    fn a_key_used_again_while_it_moves_is_not_forgotten() {
        let mut keys = Keys::default();
        let key = |number: usize| u128::try_from(number).unwrap().to_be_bytes();
        for number in 0..=MOST_IN_MEMORY {
            keys.load(key(number), Uuid::from_u128(u128::try_from(number).unwrap()));
        }
        // The newest of those that move: their rows were swept, and it is used again before it is gone.
        let again = MOST_IN_MEMORY / 4;
        keys.next_to_disk(1);
        let newer = Uuid::from_u128(u128::MAX);
        keys.load(key(again), newer);
        let mut up_to = None;
        loop {
            let count = keys.next_to_disk(10_000).len();
            if count == 0 {
                break;
            }
            up_to = keys.all_on_disk_after(count).or(up_to);
            keys.moved_to_disk(count);
        }
        assert_eq!(keys.committed(&key(again)), Some(newer));
        assert_eq!(up_to, Some(Uuid::from_u128(u128::try_from(again).unwrap())), "no key behind it is believed moved");
        // The same when it was used again before the round began.
        let mut keys = Keys::default();
        for number in 0..=MOST_IN_MEMORY {
            keys.load(key(number), Uuid::from_u128(u128::try_from(number).unwrap()));
        }
        keys.load(key(0), newer);
        let moving = keys.next_to_disk(usize::MAX).to_vec();
        assert!(moving.iter().all(|(moved, _)| *moved != key(0)));
        assert_eq!(keys.all_on_disk_after(moving.len()), moving.iter().map(|(_, result)| *result).max());
    }
}
