//! The one writer: it takes all commands that wait, runs them in one transaction that a refused one leaves
//! no trace in, commits them together, and answers only then. A step is driven from outside; a thread is one driver.

use super::transaction::{Memory, SqliteTx, fault};
use crate::port::{Decision, Event, Failure, Fault, Tx};
use domain::time::Timestamp;
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// What a command came to, before the commit.
pub(super) enum Verdict {
    Done,
    Refused,
    Failed(Fault),
}

/// A command waiting for the writer.
pub(super) trait Waiting: Send {
    fn run(&mut self, tx: &mut dyn Tx) -> Verdict;
    /// Hands the decision out; `commit` is what became of the group.
    fn answer(self: Box<Self>, commit: Result<(), Fault>);
}

/// A command with the place its decision goes to.
pub(super) struct Submitted<T, R, C> {
    command: C,
    decision: Option<Decision<T, R>>,
    reply: oneshot::Sender<Decision<T, R>>,
}

impl<T, R, C> Submitted<T, R, C>
where
    C: FnMut(&mut dyn Tx) -> Decision<T, R>,
{
    pub(super) fn new(command: C) -> (Self, oneshot::Receiver<Decision<T, R>>) {
        let (reply, answer) = oneshot::channel();
        (Self { command, decision: None, reply }, answer)
    }
}

impl<T, R, C> Waiting for Submitted<T, R, C>
where
    T: Send,
    R: Send,
    C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send,
{
    fn run(&mut self, tx: &mut dyn Tx) -> Verdict {
        let decision = catch_unwind(AssertUnwindSafe(|| (self.command)(tx)))
            .unwrap_or_else(|_| Err(Failure::Fault(Fault::Bug("a command panicked".to_owned()))));
        let verdict = match &decision {
            Ok(_) => Verdict::Done,
            Err(Failure::Refused(_)) => Verdict::Refused,
            Err(Failure::Fault(fault)) => Verdict::Failed(fault.clone()),
        };
        self.decision = Some(decision);
        verdict
    }

    fn answer(self: Box<Self>, commit: Result<(), Fault>) {
        let decision = match (commit, self.decision) {
            (Ok(()), Some(decision)) => decision,
            (Ok(()), None) => Err(Failure::Fault(Fault::Bug("a command was not run".to_owned()))),
            // A refusal, too, was decided on what the lost group had changed.
            (Err(fault), _) => Err(Failure::Fault(fault)),
        };
        let _ = self.reply.send(decision);
    }
}

/// Tells the rest of the process what became durable.
pub type Listener = Arc<dyn Fn(&[Event]) + Send + Sync>;

/// The clock of the writer, injected.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How the changes of a command that is refused are undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// By rolling the group back; the group then runs again.
    WithTheGroup,
    /// By a savepoint of its own.
    Alone,
}

/// What became of a group's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ran {
    /// It is durable.
    Committed,
    /// A command wrote before it was refused.
    MustBeUndoneAlone,
}

/// The writer's step and all it holds.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) memory: Memory,
    pub(super) now: Now,
    pub(super) listener: Listener,
    /// Set by the checkpointer when the log has grown so far that the writer must pause and reset it.
    pub(super) reset_log: Arc<AtomicBool>,
}

impl Writer {
    /// Runs one group and answers it.
    pub(super) fn step(&mut self, mut group: Vec<Box<dyn Waiting>>) {
        let commit = self.run_group(&mut group);
        match &commit {
            Ok(()) => {
                self.memory.keys.commit();
                let events = std::mem::take(&mut self.memory.events);
                if !events.is_empty() {
                    (self.listener)(&events);
                }
                for waiting in group {
                    waiting.answer(Ok(()));
                }
            }
            Err(fault) => {
                tracing::error!(%fault, commands = group.len(), "a group of commands was rolled back");
                for waiting in group {
                    waiting.answer(Err(fault.clone()));
                }
            }
        }
        if self.reset_log.swap(false, Ordering::Relaxed) {
            self.reset();
        }
    }

    fn run_group(&mut self, group: &mut [Box<dyn Waiting>]) -> Result<(), Fault> {
        // A savepoint makes SQLite copy every page a command changes. Nearly all refusals are decided before
        // anything is written, so the group runs without, and again with savepoints if one was not.
        match self.transaction(group, Undo::WithTheGroup)? {
            Ran::Committed => Ok(()),
            Ran::MustBeUndoneAlone => self.transaction(group, Undo::Alone).map(|_| ()),
        }
    }

    fn transaction(&mut self, group: &mut [Box<dyn Waiting>], undo: Undo) -> Result<Ran, Fault> {
        self.statement("begin immediate")?;
        let outcome = match self.run_commands(group, undo) {
            Ok(Ran::Committed) => self.statement("commit").map(|()| Ran::Committed),
            other => other,
        };
        if !matches!(outcome, Ok(Ran::Committed)) {
            self.memory.keys.abort();
            self.memory.events.clear();
            if !self.connection.is_autocommit() {
                // The transaction may have been rolled back by SQLite itself; a second time does no harm.
                let _ = self.statement("rollback");
            }
        }
        outcome
    }

    fn run_commands(&mut self, group: &mut [Box<dyn Waiting>], undo: Undo) -> Result<Ran, Fault> {
        for waiting in group {
            if undo == Undo::Alone {
                self.statement("savepoint command")?;
            }
            let keys = self.memory.keys.mark();
            let events = self.memory.events.len();
            let now = self.memory.ids.not_before_last((self.now)());
            let mut tx = SqliteTx { connection: &self.connection, memory: &mut self.memory, now, wrote: false };
            let verdict = waiting.run(&mut tx);
            let wrote = tx.wrote;
            match verdict {
                Verdict::Done => {}
                Verdict::Refused | Verdict::Failed(Fault::Bug(_)) => {
                    match undo {
                        Undo::Alone => self.statement("rollback to command")?,
                        Undo::WithTheGroup if wrote => return Ok(Ran::MustBeUndoneAlone),
                        Undo::WithTheGroup => {}
                    }
                    self.memory.keys.forget_since(keys);
                    self.memory.events.truncate(events);
                }
                Verdict::Failed(fault) => return Err(fault),
            }
            if undo == Undo::Alone {
                self.statement("release command")?;
            }
        }
        Ok(Ran::Committed)
    }

    fn statement(&self, sql: &str) -> Result<(), Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| fault(&error))?;
        statement.raw_execute().map(|_| ()).map_err(|error| fault(&error))
    }

    /// Brings the log back to its beginning. Most of it was copied already, so this is short.
    fn reset(&self) {
        if let Err(error) = self.connection.query_row("pragma wal_checkpoint(restart)", [], |_| Ok(())) {
            tracing::warn!(%error, "the write-ahead log could not be reset");
        }
    }

    /// Moves surplus idempotency keys to the on-disk index.
    pub(super) fn spill_keys(&mut self) -> Result<(), Fault> {
        let mut surplus = self.memory.keys.overflow();
        if surplus.is_empty() {
            return Ok(());
        }
        let in_order_of_age = surplus.clone();
        surplus.sort_unstable();
        self.statement("begin immediate")?;
        let moved = self.move_to_disk(&surplus).and_then(|()| self.statement("commit"));
        match moved {
            Ok(()) => self.memory.keys.moved_to_disk(&in_order_of_age),
            Err(_) => {
                let _ = self.statement("rollback");
            }
        }
        moved
    }

    fn move_to_disk(&mut self, keys: &[(crate::port::KeyHash, uuid::Uuid)]) -> Result<(), Fault> {
        let now = (self.now)();
        let mut tx = SqliteTx { connection: &self.connection, memory: &mut self.memory, now, wrote: false };
        for (key, result) in keys {
            tx.execute(
                "insert into idempotency_index (key_hash, result_id)
                 select $1, $2 where exists (select 1 from idempotency_keys where result_id = $2)
                 on conflict (key_hash) do update set result_id = excluded.result_id",
                &[key.into(), result.as_bytes().into()],
            )?;
        }
        Ok(())
    }
}
