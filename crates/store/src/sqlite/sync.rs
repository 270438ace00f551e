//! Makes what the writer committed durable, and answers only then. It waits for the disk while the writer runs the
//! next group; one wait makes durable all that was committed before it began.

use super::writer::Finished;
use crate::port::Fault;
use crate::waiting::Listener;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

/// Groups that may wait for the disk before the writer does, too.
pub(super) const MOST_WAITING: usize = 8;

/// Waits until everything that was written to the write-ahead log is on the disk.
pub(super) type Flush = Box<dyn FnMut() -> std::io::Result<()> + Send>;

/// Flushes the write-ahead log of the database at `path`, which is there as long as a connection is open.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn flush_log(path: &Path) -> std::io::Result<Flush> {
    // SQLite puts the log beside the file itself, not beside a link to it.
    let mut log = path.canonicalize()?.into_os_string();
    log.push("-wal");
    let log = File::options().read(true).write(true).open(log)?;
    Ok(Box::new(move || log.sync_data()))
}

/// The step and all it holds.
pub(super) struct Syncer {
    pub(super) flush: Flush,
    pub(super) listener: Listener,
    /// Set when a flush failed: what is on the disk is unknown from there on, and nothing is answered any more
    /// until a new start has read what is there.
    pub(super) broken: Arc<AtomicBool>,
}

impl Syncer {
    /// Flushes once for these groups, in the order of their commits, and answers them.
    pub(super) fn step(&mut self, groups: Vec<Finished>) {
        if groups.iter().any(|group| group.wrote)
            && !self.broken.load(Ordering::Acquire)
            && let Err(error) = (self.flush)()
        {
            tracing::error!(%error, "the write-ahead log could not be flushed; esimd must be started again");
            self.broken.store(true, Ordering::Release);
        }
        let broken = self.broken.load(Ordering::Acquire);
        for Finished { group, events, outcome, .. } in groups {
            let outcome = if broken { Err(unflushed()) } else { outcome };
            if outcome.is_ok() && !events.is_empty() {
                (self.listener)(&events);
            }
            for waiting in group {
                waiting.answer(outcome.clone());
            }
        }
    }

    pub(super) fn run_until_closed(mut self, finished: &Receiver<Finished>) {
        while let Ok(first) = finished.recv() {
            let mut groups = vec![first];
            groups.extend(finished.try_iter());
            self.step(groups);
        }
    }
}

/// What is answered once a flush has failed.
pub(super) fn unflushed() -> Fault {
    Fault::Unavailable("the disk did not take what was written; esimd must be started again".to_owned())
}
