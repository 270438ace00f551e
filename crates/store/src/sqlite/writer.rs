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

#[cfg(test)]
mod tests {
    use super::super::keys::Keys;
    use super::super::transaction::Random;
    use super::*;
    use crate::port::{refuse, row};
    use domain::id::IdSequence;

    fn writer() -> Writer {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("create table notes (note text primary key)").unwrap();
        let memory =
            Memory { ids: IdSequence::default(), random: Random(1), keys: Keys::default(), events: Vec::new() };
        let now: Now = Arc::new(|| Timestamp::from_millis(1));
        Writer { connection, memory, now, listener: Arc::new(|_| ()), reset_log: Arc::default() }
    }

    fn note(tx: &mut dyn Tx, note: &str) -> Decision<(), &'static str> {
        tx.execute("insert into notes (note) values ($1)", &[note.into()])?;
        Ok(())
    }

    fn notes(writer: &Writer) -> Vec<String> {
        let mut notes = writer.connection.prepare("select note from notes order by note").unwrap();
        notes.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_command_refused_after_it_wrote_takes_back_its_own_changes_only() {
        let mut writer = writer();
        let (first, mut first_answer) = Submitted::new(|tx: &mut dyn Tx| note(tx, "first"));
        let (refused, mut refused_answer) = Submitted::new(|tx: &mut dyn Tx| {
            note(tx, "refused")?;
            refuse::<(), _>("too late")
        });
        let (broken, mut broken_answer) = Submitted::new(|tx: &mut dyn Tx| note(tx, "first"));
        let (last, mut last_answer) = Submitted::new(|tx: &mut dyn Tx| {
            let seen = row(tx, "select count(*) from notes", &[], |row| row.int(0))?;
            note(tx, "last")?;
            Decision::<_, &'static str>::Ok(seen)
        });
        writer.step(vec![Box::new(first), Box::new(refused), Box::new(broken), Box::new(last)]);
        assert_eq!(first_answer.try_recv().unwrap(), Ok(()));
        assert_eq!(refused_answer.try_recv().unwrap(), Err(Failure::Refused("too late")));
        assert!(matches!(broken_answer.try_recv().unwrap(), Err(Failure::Fault(Fault::Bug(_)))));
        assert_eq!(last_answer.try_recv().unwrap(), Ok(Some(1)));
        assert_eq!(notes(&writer), ["first", "last"]);
    }

    #[test]
    fn a_refusal_that_wrote_nothing_lets_the_group_commit_at_once() {
        let mut writer = writer();
        let mut runs = 0;
        let (counted, mut answer) = Submitted::new(move |tx: &mut dyn Tx| {
            runs += 1;
            note(tx, "counted").map(|()| runs)
        });
        let (refused, _) = Submitted::new(|_: &mut dyn Tx| refuse::<(), _>("no"));
        writer.step(vec![Box::new(counted), Box::new(refused)]);
        assert_eq!(answer.try_recv().unwrap(), Ok(1));
        assert_eq!(notes(&writer), ["counted"]);
    }
}
