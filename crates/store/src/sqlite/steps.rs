//! The embedded database without threads: each part does its next step when it is told to. A driver that rolls dice
//! about the order makes every interleaving of writer, disk, index and readers, and the same one again from its seed.

use super::sync::{Syncer, unflushed};
use super::transaction::{Shared, fault};
use super::writer::{Finished, PORTION, Writer};
use super::{Read, Works, checkpoint_once, index_once, read_once, reader};
use crate::queue::Queue;
use crate::waiting::Waiting;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;
use tokio::sync::Notify;

/// The parts of an open database that do the work, in the hands of whoever drives them. Each step returns whether there
/// was anything to do.
pub struct Steps {
    writer: Writer,
    commands: Queue<Box<dyn Waiting>>,
    syncer: Syncer,
    /// Groups that are committed, and not flushed.
    unflushed: Vec<Finished>,
    index: Writer,
    portions: Receiver<Box<dyn Waiting>>,
    checkpointer: Connection,
    reset_log: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    shared: Shared,
    reader: Connection,
    reads: [Receiver<Read>; 3],
    bell: Arc<Notify>,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").field("unflushed", &self.unflushed.len()).finish_non_exhaustive()
    }
}

impl Steps {
    pub(super) fn new(works: Works, path: &Path) -> rusqlite::Result<Self> {
        let Works { writer, commands, syncer, index, portions, checkpointer, reset_log, broken, shared, .. } = works;
        Ok(Self {
            writer,
            commands,
            syncer,
            unflushed: Vec::new(),
            index,
            portions,
            checkpointer,
            reset_log,
            broken,
            shared,
            reader: reader(path)?,
            reads: [works.reads, works.scans, works.index_reads],
            bell: Arc::default(),
        })
    }

    pub(super) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Returns when something was submitted since the last time.
    pub async fn asked(&mut self) {
        self.bell.notified().await;
    }

    /// The writer runs and commits the next group; nobody is answered yet.
    pub fn write(&mut self) -> bool {
        let group = self.commands.next_group(Some(Instant::now())).unwrap_or_default();
        if group.is_empty() {
            return false;
        }
        if self.broken.load(Ordering::Acquire) {
            group.into_iter().for_each(|waiting| waiting.answer(Err(unflushed())));
        } else {
            self.unflushed.push(self.writer.step(group));
        }
        true
    }

    /// The disk takes what was committed, and the commands are answered.
    pub fn flush(&mut self) -> bool {
        let groups = std::mem::take(&mut self.unflushed);
        let any = !groups.is_empty();
        if any {
            self.syncer.step(groups);
        }
        any
    }

    /// The oldest read of each kind is answered.
    pub fn read(&mut self) -> bool {
        let mut any = false;
        for reads in &self.reads {
            if let Ok(read) = reads.try_recv() {
                read_once(&self.reader, Some(&self.shared), read);
                any = true;
            }
        }
        any
    }

    /// The search index takes a portion.
    pub fn index(&mut self) -> bool {
        let portion = self.portions.try_recv();
        portion.map(|portion| index_once(&mut self.index, portion)).is_ok()
    }

    /// The writer's own work: surplus idempotency keys go to disk, and rows of balances are brought up to the ledger.
    ///
    /// # Errors
    /// A [`crate::port::Fault`] of the storage.
    pub fn tidy(&mut self) -> Result<bool, crate::port::Fault> {
        if self.broken.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.writer.spill_keys()?;
        self.writer.write_balances(PORTION)
    }

    /// What is in the log is copied into the database, and the log begins anew with the next group. This flushes the
    /// log first, as far as it was written. Returns whether it was done: never once a flush has failed.
    pub fn checkpoint(&mut self) -> bool {
        let is_done = !self.broken.load(Ordering::Acquire);
        if is_done {
            checkpoint_once(&self.checkpointer, &self.reset_log);
            self.reset_log.store(true, Ordering::Relaxed);
        }
        is_done
    }

    /// The disk has no room for another page of the database, or has again.
    ///
    /// # Errors
    /// A [`crate::port::Fault`] of the storage.
    pub fn fill_disk(&mut self, is_full: bool) -> Result<(), crate::port::Fault> {
        /// The most SQLite ever takes.
        const ALL: i64 = 4_294_967_294;
        let connection = &self.writer.connection;
        let pages = if is_full {
            connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))
        } else {
            Ok(ALL)
        };
        let set = pages.and_then(|pages| connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())));
        set.map_err(|error| fault(&error))
    }

    /// The end in good order: nothing lags behind any more.
    ///
    /// # Errors
    /// A [`crate::port::Fault`] of the storage; then the next start does it.
    pub fn close(mut self) -> Result<(), crate::port::Fault> {
        while self.write() {}
        self.flush();
        self.writer.close()
    }
}
