//! The end of the ledger that the search index does not have yet, in memory: every list reads it, and the larger the
//! portions are in which the index takes it, the cheaper the index is.

use crate::index::TailEntry;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

/// Entries of one piece, so that adding to what somebody reads copies little.
const PIECE: usize = 512;
/// The most keys in memory (some 60 bytes each); an index that lags further reads the ledger.
const MOST: usize = 393_216;

/// The tail as of some moment. It is taken after the database was first looked at and before the index is, so what the
/// index takes meanwhile is in one of them, or in both.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Entries up to here are not in memory.
    pub(super) base: Vec<u8>,
    pieces: VecDeque<Arc<Vec<Arc<TailEntry>>>>,
    weight: usize,
}

fn weight(entries: &[Arc<TailEntry>]) -> usize {
    entries.iter().map(|entry| entry.weight()).sum()
}

impl View {
    /// The entries above `after`, oldest first.
    pub(super) fn after<'v>(&'v self, after: &'v [u8]) -> impl Iterator<Item = &'v Arc<TailEntry>> {
        self.pieces.iter().flat_map(|piece| piece.iter()).filter(move |entry| entry.id.as_bytes().as_slice() > after)
    }

    fn append(&mut self, entries: Vec<Arc<TailEntry>>) {
        self.weight += weight(&entries);
        match self.pieces.back_mut().filter(|last| last.len() < PIECE).and_then(Arc::get_mut) {
            Some(last) => last.extend(entries),
            None => self.pieces.push_back(Arc::new(entries)),
        }
        while self.weight > MOST && self.pieces.len() > 1 {
            self.drop_oldest_piece();
        }
    }

    fn drop_oldest_piece(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.weight -= weight(&piece);
            if let Some(last) = piece.last() {
                self.base = last.id.as_bytes().to_vec();
            }
        }
    }

    /// Forgets what the index has, up to and including `last`.
    fn forget(&mut self, last: &[u8]) {
        while self
            .pieces
            .front()
            .and_then(|piece| piece.last())
            .is_some_and(|newest| newest.id.as_bytes().as_slice() <= last)
        {
            self.drop_oldest_piece();
        }
    }
}

/// The tail, shared by the writer, the index and all readers.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<RwLock<Arc<View>>>);

impl Tail {
    /// A tail in whose memory nothing is of what lies in the ledger up to `base`.
    pub(super) fn above(base: Vec<u8>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(View { base, ..View::default() }))))
    }

    pub(super) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn append(&self, entries: Vec<Arc<TailEntry>>) {
        Arc::make_mut(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)).append(entries);
    }

    pub(super) fn forget(&self, last: &[u8]) {
        Arc::make_mut(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)).forget(last);
    }
}
