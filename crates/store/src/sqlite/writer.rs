//! The one writer: it takes all commands that wait, runs them in one transaction that a refused one leaves
//! no trace in, and commits them together; they are answered when that is durable. A step is driven from outside;
//! a thread is one driver.

use super::tail::Tail;
use super::transaction::{Memory, SqliteTx, fault};
use crate::index::TailEntry;
use crate::ledger;
use crate::port::{Event, Fault, KeyHash, Tx};
use crate::waiting::{Now, Verdict, Waiting};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

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
    /// It is in the log.
    Committed,
    /// A command wrote before it was refused.
    MustBeUndoneAlone,
}

/// A group that was run, to be answered once it is durable.
pub(super) struct Finished {
    pub(super) group: Vec<Box<dyn Waiting>>,
    pub(super) events: Vec<Event>,
    pub(super) outcome: Result<(), Fault>,
    /// Whether it changed anything.
    pub(super) wrote: bool,
}

/// The writer's step and all it holds.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) memory: Memory,
    pub(super) now: Now,
    pub(super) tail: Tail,
    /// Set by the checkpointer when the log has grown so far that the writer must pause and reset it.
    pub(super) reset_log: Arc<AtomicBool>,
}

impl Writer {
    /// Runs one group and commits it.
    pub(super) fn step(&mut self, mut group: Vec<Box<dyn Waiting>>) -> Finished {
        self.memory.wrote = false;
        let outcome = self.run_group(&mut group);
        match &outcome {
            Ok(()) => {
                self.memory.keys.commit();
                self.memory.credits.commit();
                let appended: Vec<_> = self.memory.events.iter().filter_map(appended).collect();
                if !appended.is_empty() {
                    self.tail.append(appended);
                }
            }
            Err(fault) => tracing::error!(%fault, commands = group.len(), "a group of commands was rolled back"),
        }
        if self.reset_log.swap(false, Ordering::Relaxed) {
            self.reset();
        }
        Finished { group, events: std::mem::take(&mut self.memory.events), outcome, wrote: self.memory.wrote }
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
            self.memory.credits.abort();
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
            let (keys, credits) = (self.memory.keys.mark(), self.memory.credits.mark());
            let events = self.memory.events.len();
            let now = self.memory.ids.not_before_last((self.now)());
            let mut tx = SqliteTx { connection: &self.connection, memory: &mut self.memory, now, wrote: false };
            let verdict = waiting.run(&mut tx);
            let wrote = tx.wrote;
            self.memory.wrote |= wrote;
            match verdict {
                Verdict::Done => {}
                Verdict::Refused | Verdict::Failed(Fault::Bug(_)) => {
                    match undo {
                        Undo::Alone => self.statement("rollback to command")?,
                        Undo::WithTheGroup if wrote => return Ok(Ran::MustBeUndoneAlone),
                        Undo::WithTheGroup => {}
                    }
                    self.memory.keys.forget_since(keys);
                    self.memory.credits.forget_since(credits);
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
        // A long read, say a backup, keeps the log as it is: nobody waits for that, the next try comes soon.
        let impatient = self.connection.busy_timeout(Duration::ZERO);
        let reset =
            impatient.and_then(|()| self.connection.query_row("pragma wal_checkpoint(restart)", [], |_| Ok(())));
        let reset = self.connection.busy_timeout(super::LOCK_WAIT).and(reset);
        if let Err(error) = reset {
            tracing::warn!(%error, "the write-ahead log could not be reset");
        }
    }

    /// A transaction of the writer's own, which belongs to no caller.
    fn alone<T>(&mut self, work: impl FnOnce(&mut SqliteTx<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.statement("begin immediate")?;
        let now = self.memory.ids.not_before_last((self.now)());
        let mut tx = SqliteTx { connection: &self.connection, memory: &mut self.memory, now, wrote: false };
        let done = work(&mut tx).and_then(|done| self.statement("commit").map(|()| done));
        if done.is_err() && !self.connection.is_autocommit() {
            let _ = self.statement("rollback");
        }
        done
    }

    /// Moves some surplus idempotency keys to the on-disk index.
    ///
    /// # Errors
    /// [`Fault`]; then they are moved another time.
    pub(super) fn spill_keys(&mut self) -> Result<(), Fault> {
        let portion = self.memory.keys.next_to_disk(PORTION).to_vec();
        if portion.is_empty() {
            return Ok(());
        }
        let watermark = self.memory.keys.all_on_disk_after(portion.len());
        self.alone(|tx| {
            portion.iter().try_for_each(|(key, result)| move_to_disk(tx, key, *result))?;
            watermark.iter().try_for_each(|watermark| set_keys_watermark(tx, *watermark))
        })?;
        self.memory.keys.moved_to_disk(portion.len());
        Ok(())
    }

    /// Brings some rows of `balances` up to the ledger. Returns whether more of this round are left.
    ///
    /// # Errors
    /// [`Fault`]; then they are written another time.
    pub(super) fn write_balances(&mut self, most: usize) -> Result<bool, Fault> {
        if !self.memory.credits.lag() {
            return Ok(false);
        }
        if self.memory.credits.due.is_empty() {
            let newest = self.alone(|tx| ledger::newest(tx))?;
            self.memory.credits.begin_round(newest);
        }
        let credits = &self.memory.credits;
        let portion: Vec<_> = credits.due.iter().take(most).copied().collect();
        let rows: Vec<_> = portion.iter().filter_map(|world| credits.committed.get(world)).collect();
        let end = (portion.len() == credits.due.len()).then(|| credits.round.clone());
        self.alone(|tx| {
            rows.iter().try_for_each(|credit| credit.write(tx))?;
            end.iter().try_for_each(|end| ledger::set_tail(tx, Some(end)))
        })?;
        for world in &portion {
            self.memory.credits.due.remove(world);
        }
        Ok(!self.memory.credits.due.is_empty())
    }

    /// The start: brings the rows up to where the last process ended, and says that they lag from here on.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn open(&mut self) -> Result<(), Fault> {
        self.alone(|tx| {
            ledger::unwritten(tx)?.values().try_for_each(|credit| credit.write(tx))?;
            let newest = ledger::newest(tx)?;
            ledger::set_tail(tx, Some(&newest))
        })
    }

    /// The end: nothing lags behind any more.
    ///
    /// # Errors
    /// [`Fault`]; then the next start brings the rows up to the ledger.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        while self.memory.credits.lag() {
            self.write_balances(usize::MAX)?;
        }
        self.alone(|tx| ledger::set_tail(tx, None))
    }
}

fn appended(event: &Event) -> Option<Arc<TailEntry>> {
    match event {
        Event::Appended(entry) => Some(Arc::clone(entry)),
        _ => None,
    }
}

/// Rows of one transaction of the writer's own, between which callers take their turn.
pub(super) const PORTION: usize = 512;

fn move_to_disk(tx: &mut SqliteTx<'_>, key: &KeyHash, result: Uuid) -> Result<(), Fault> {
    tx.execute(
        "insert into idempotency_index (key_hash, result_id)
         select $1, $2 where exists (select 1 from idempotency_keys where result_id = $2)
         on conflict (key_hash) do update set result_id = excluded.result_id",
        &[key.into(), result.as_bytes().into()],
    )?;
    Ok(())
}

fn set_keys_watermark(tx: &mut SqliteTx<'_>, watermark: Uuid) -> Result<(), Fault> {
    tx.execute(
        "insert into settings (name, value) values ('keys_watermark', $1)
         on conflict (name) do update set value = excluded.value",
        &[(&watermark.to_string()).into()],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sync::{Flush, Syncer};
    use super::*;
    use crate::port::{Decision, Failure};
    use crate::port::{refuse, row};
    use crate::random::Random;
    use crate::waiting::Submitted;
    use domain::time::Timestamp;

    fn writer() -> Writer {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("create table notes (note text primary key)").unwrap();
        let memory = Memory { random: Random(1), ..Memory::default() };
        let now: Now = Arc::new(|| Timestamp::from_millis(1));
        Writer { connection, memory, now, tail: Tail::default(), reset_log: Arc::default() }
    }

    fn syncer(flush: Flush) -> Syncer {
        Syncer { flush, listener: Arc::new(|_| ()), broken: Arc::default() }
    }

    fn run(writer: &mut Writer, group: Vec<Box<dyn Waiting>>) {
        syncer(Box::new(|| Ok(()))).step(vec![writer.step(group)]);
    }

    #[test]
    fn nothing_is_answered_before_it_is_flushed_and_nothing_ever_after_a_flush_failed() {
        let mut writer = writer();
        let (first, mut first_answer) = Submitted::new(|tx: &mut dyn Tx| note(tx, "first"));
        let (second, mut second_answer) = Submitted::new(|tx: &mut dyn Tx| note(tx, "second"));
        let (looks, mut looks_answer) = Submitted::new(|_: &mut dyn Tx| Decision::<_, &'static str>::Ok(()));
        let finished = vec![writer.step(vec![Box::new(first)]), writer.step(vec![Box::new(second)])];
        assert!(first_answer.try_recv().is_err(), "committed, and not flushed");
        let mut flushes = 0;
        let fails_then = move || {
            flushes += 1;
            if flushes == 1 { Ok(()) } else { Err(std::io::Error::other("gone")) }
        };
        let mut syncer = syncer(Box::new(fails_then));
        syncer.step(finished);
        assert_eq!((first_answer.try_recv().unwrap(), second_answer.try_recv().unwrap()), (Ok(()), Ok(())));
        let (third, mut third_answer) = Submitted::new(|tx: &mut dyn Tx| note(tx, "third"));
        syncer.step(vec![writer.step(vec![Box::new(third)])]);
        assert!(matches!(third_answer.try_recv().unwrap(), Err(Failure::Fault(Fault::Unavailable(_)))));
        // It may rest on what was not flushed.
        syncer.step(vec![writer.step(vec![Box::new(looks)])]);
        assert!(matches!(looks_answer.try_recv().unwrap(), Err(Failure::Fault(Fault::Unavailable(_)))));
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
        run(&mut writer, vec![Box::new(first), Box::new(refused), Box::new(broken), Box::new(last)]);
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
        run(&mut writer, vec![Box::new(counted), Box::new(refused)]);
        assert_eq!(answer.try_recv().unwrap(), Ok(1));
        assert_eq!(notes(&writer), ["counted"]);
    }
}
