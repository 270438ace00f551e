//! The embedded database: one writer with group commit, readers on their own read-only connections,
//! checkpoints off the writer.

mod credits;
mod index_file;
mod keys;
mod levels;
mod steps;
mod sync;
mod tail;
mod transaction;
mod writer;

use crate::index::Portion;
use crate::migrations;
use crate::port::{Decision, Event, Failure, Fault, Snapshot, Tx};
use crate::queue::{Queue, Turn};
use crate::random::Random;
use crate::waiting::{Length, Listener, Now, OpenError, Submitted, Waiting};
use domain::id::{EntryId, IdSequence};
use domain::time::Timestamp;
pub use index_file::index_path;
use index_file::{attach_index, index_writer};
pub(crate) use levels::leave_each_once;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
pub use steps::Steps;
use sync::{Flush, MOST_WAITING, Syncer, flush_log, unflushed};
use tail::Tail;
use tokio::sync::{Notify, oneshot};
use transaction::{Memory, Shared, SqliteSnapshot, fault};
use uuid::Uuid;
use writer::{Finished, PORTION, Writer};

/// Threads for short reads: logins, single rows.
const READERS: usize = 2;
/// Threads for long reads: lists, exports, checks. They may queue up without holding a login up.
const SCANNERS: usize = 2;
/// Frames in the write-ahead log beyond which the writer pauses to reset it (4 KiB each).
const MOST_LOG_FRAMES: i64 = 24_576;
/// Between two checkpoints.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(1_000);

type Read = Box<dyn FnOnce(&Connection, Option<&Shared>) + Send>;

/// The open database. Dropping it ends the threads after the work they have.
pub struct Sqlite {
    writer: Option<Sender<(Turn, Box<dyn Waiting>)>>,
    index: Option<Sender<Box<dyn Waiting>>>,
    readers: Option<Sender<Read>>,
    scanners: Option<Sender<Read>>,
    index_reads: Option<Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
    listeners: Arc<RwLock<Vec<Listener>>>,
    tail: Tail,
    /// Whether the disk failed to take what was written.
    broken: Arc<AtomicBool>,
    /// Rung with everything that is submitted, where no thread waits for it.
    bell: Option<Arc<Notify>>,
    path: PathBuf,
}

/// All that works on an open database, and what it waits for, before it is given to threads or to whoever steps it.
struct Works {
    writer: Writer,
    commands: Queue<Box<dyn Waiting>>,
    syncer: Syncer,
    index: Writer,
    portions: Receiver<Box<dyn Waiting>>,
    checkpointer: Connection,
    reset_log: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    shared: Shared,
    reads: Receiver<Read>,
    scans: Receiver<Read>,
    index_reads: Receiver<Read>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

fn cannot_open(path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!("the database {} cannot be opened: {error}", path.display()))
}

/// How long a connection waits for another's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(256);
    // Otherwise SQLite plans a join or a range anew each time other values are bound to its statement.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn connect_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -12_288)?;
    Ok(connection)
}

fn connect_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    Ok(connection)
}

/// Copies the database at `from`, as of one moment, into the empty file `to`; beside a running process, which goes on.
///
/// # Errors
/// [`OpenError`] when one of them cannot be used.
pub fn copy(from: &Path, to: &Path) -> Result<(), OpenError> {
    let connection = connect_for_reading(from).map_err(|error| cannot_open(from, &error))?;
    connection
        .execute("vacuum into ?1", [to.to_string_lossy()])
        .map(|_| ())
        .map_err(|error| OpenError(format!("the database cannot be copied to {}: {error}", to.display())))
}

impl Sqlite {
    /// Opens the database at `path`, makes or migrates it, and starts its threads. `seed` feeds ids
    /// and jitter; `now` is the clock.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, or was written by a newer version.
    pub fn open(path: &Path, seed: u64, now: Now) -> Result<Self, OpenError> {
        let (mut sqlite, works) = Self::assemble(path, seed, now, None).map_err(|error| cannot_open(path, &error))?;
        sqlite.threads = threads(works, path).map_err(|error| cannot_open(path, &error))?;
        Ok(sqlite)
    }

    /// The same without threads: nothing is done that [`Steps`] is not told to do. `flush` stands for the disk.
    ///
    /// # Errors
    /// As [`Sqlite::open`].
    pub fn open_in_steps(
        path: &Path,
        seed: u64,
        now: Now,
        flush: impl FnMut() -> std::io::Result<()> + Send + 'static,
    ) -> Result<(Self, Steps), OpenError> {
        let assembled = Self::assemble(path, seed, now, Some(Box::new(flush)));
        let (mut sqlite, works) = assembled.map_err(|error| cannot_open(path, &error))?;
        let steps = Steps::new(works, path).map_err(|error| cannot_open(path, &error))?;
        sqlite.bell = Some(steps.bell());
        Ok((sqlite, steps))
    }

    fn assemble(
        path: &Path,
        seed: u64,
        now: Now,
        flush: Option<Flush>,
    ) -> Result<(Self, Works), Box<dyn std::error::Error>> {
        let mut connection = connect_for_writing(path)?;
        migrations::migrate_sqlite(&mut connection)?;
        let listeners: Arc<RwLock<Vec<Listener>>> = Arc::default();
        let reset_log = Arc::new(AtomicBool::new(false));
        let memory = recall_memory(&connection, seed)?;
        let newest =
            connection.query_row("select max(id) from ledger_entries", [], |row| row.get::<_, Option<Vec<u8>>>(0))?;
        let tail = Tail::above(newest.unwrap_or_default());
        let shared = Shared { credits: memory.credits.committed.clone(), tail: tail.clone() };
        let to_listeners = Arc::clone(&listeners);
        let mut writer = Writer { connection, memory, now, tail: tail.clone(), reset_log: Arc::clone(&reset_log) };
        // What a process left that was killed before its flush is flushed now: from here on it is answered.
        writer.connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
        // A checkpoint flushes by itself in the order that keeps the file whole; the log is flushed by the syncer.
        writer.connection.pragma_update(None, "synchronous", "normal")?;
        writer.open()?;
        let broken = Arc::new(AtomicBool::new(false));
        let mut flush = match flush {
            Some(flush) => flush,
            None => flush_log(path)?,
        };
        flush()?;
        let syncer = Syncer {
            flush,
            listener: Arc::new(move |events: &[Event]| {
                for listener in to_listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
                    listener(events);
                }
            }),
            broken: Arc::clone(&broken),
        };
        let checkpointer = connect_for_writing(path)?;
        let index = index_writer(path, &writer)?;
        let (to_writer, commands) = channel();
        let (to_index, portions) = channel();
        let (to_readers, reads) = channel();
        let (to_scanners, scans) = channel();
        let (to_index_reader, index_reads) = channel();
        let sqlite = Self {
            writer: Some(to_writer),
            index: Some(to_index),
            readers: Some(to_readers),
            scanners: Some(to_scanners),
            index_reads: Some(to_index_reader),
            threads: Vec::new(),
            listeners,
            tail,
            broken: Arc::clone(&broken),
            bell: None,
            path: path.to_owned(),
        };
        let commands = Queue::new(commands);
        let works = Works {
            writer,
            commands,
            syncer,
            index,
            portions,
            checkpointer,
            reset_log,
            broken,
            shared,
            reads,
            scans,
            index_reads,
        };
        Ok((sqlite, works))
    }

    /// Opens the database at `path` for reading alone, as the command line does beside a running process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_read(path: &Path) -> Result<Self, OpenError> {
        let connection = connect_for_reading(path).map_err(|error| cannot_open(path, &error))?;
        let (reads, to_read) = channel();
        let reader = spawn("store-reader", move || read_until_closed(&connection, None, &Mutex::new(to_read)))
            .map_err(|error| cannot_open(path, &error))?;
        Ok(Self {
            writer: None,
            index: None,
            readers: Some(reads.clone()),
            scanners: Some(reads.clone()),
            index_reads: Some(reads),
            threads: vec![reader],
            listeners: Arc::default(),
            tail: Tail::default(),
            broken: Arc::default(),
            bell: None,
            path: path.to_owned(),
        })
    }

    /// Adds somebody who is told what became durable.
    pub fn listen(&self, listener: Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Submits a command; the receiver gets the decision after the commit.
    pub(crate) fn submit<T, R, C>(&self, turn: Turn, command: C) -> oneshot::Receiver<Decision<T, R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        let (submitted, answer) = Submitted::new(command);
        if let Some(writer) = &self.writer {
            // A writer that is gone drops the command, and the receiver learns it.
            let _ = writer.send((turn, Box::new(submitted)));
            self.ring();
        }
        answer
    }

    /// Makes the changes of a portion in the search index.
    pub(crate) async fn take(&self, portion: Portion) -> Result<(), Fault> {
        self.write_index(move |tx| levels::take(tx, &portion)).await
    }

    /// Moves rows of the search index to where they stay.
    pub(crate) async fn settle_index(&self) -> Result<(), Fault> {
        self.write_index(levels::settle).await
    }

    async fn write_index<C>(&self, command: C) -> Result<(), Fault>
    where
        C: FnMut(&mut dyn Tx) -> Decision<(), Infallible> + Send + 'static,
    {
        let (submitted, answer) = Submitted::new(command);
        if let Some(index) = &self.index {
            let _ = index.send(Box::new(submitted));
            self.ring();
        }
        let stopped = || Err(Failure::Fault(Fault::Unavailable("the search index has stopped".to_owned())));
        match answer.await.unwrap_or_else(|_| stopped()) {
            Ok(()) => Ok(()),
            Err(Failure::Fault(fault)) => Err(fault),
            Err(Failure::Refused(never)) => match never {},
        }
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.notify_one();
        }
    }

    /// The search index has all entries up to `last` now.
    pub(crate) fn indexed(&self, last: EntryId) {
        self.tail.forget(last.as_bytes());
    }

    /// Submits a read of one snapshot.
    pub(crate) fn submit_read<T, C>(&self, length: Length, read: C) -> oneshot::Receiver<Result<T, Fault>>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        if self.broken.load(Ordering::Acquire) {
            let _ = reply.send(Err(unflushed()));
            return answer;
        }
        let read: Read = Box::new(move |connection, shared| {
            let _ = reply.send(read_snapshot(connection, shared, read));
        });
        let threads = match length {
            Length::Short => &self.readers,
            Length::Long => &self.scanners,
            Length::Index => &self.index_reads,
        };
        if let Some(threads) = threads {
            let _ = threads.send(read);
            self.ring();
        }
        answer
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.writer = None;
        self.index = None;
        self.readers = None;
        self.scanners = None;
        self.index_reads = None;
        // The last handle may be dropped by a listener on one of these very threads, which the others wait for.
        let current = std::thread::current().id();
        if self.threads.iter().all(|thread| thread.thread().id() != current) {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Starts the threads that do all the work.
fn threads(works: Works, path: &Path) -> Result<Vec<JoinHandle<()>>, Box<dyn std::error::Error>> {
    let Works { writer, commands, syncer, index, portions, checkpointer, reset_log, broken, shared, .. } = works;
    let (dirty, to_checkpoint) = sync_channel(1);
    let (finished, to_sync) = sync_channel(MOST_WAITING);
    let after = After { finished, dirty, broken: Arc::clone(&broken) };
    let mut threads = vec![
        spawn("store-index", move || index_until_closed(index, &portions))?,
        spawn("store-writer", move || write_until_closed(writer, commands, after))?,
        spawn("store-syncer", move || syncer.run_until_closed(&to_sync))?,
        spawn("store-checkpoint", move || {
            checkpoint_until_closed(&checkpointer, &to_checkpoint, &reset_log, &broken);
        })?,
    ];
    for (reads, readers) in [(works.reads, READERS), (works.scans, SCANNERS), (works.index_reads, 1)] {
        let reads = Arc::new(Mutex::new(reads));
        for _ in 0..readers {
            let (connection, reads, shared) = (reader(path)?, Arc::clone(&reads), shared.clone());
            threads.push(spawn("store-reader", move || read_until_closed(&connection, Some(&shared), &reads))?);
        }
    }
    Ok(threads)
}

/// A connection that reads the database and its index.
fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect_for_reading(path)?;
    attach_index(&connection, path)?;
    Ok(connection)
}

fn read_snapshot<T>(
    connection: &Connection,
    shared: Option<&Shared>,
    read: impl FnOnce(&mut dyn Snapshot) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let statement = |sql| -> Result<(), Fault> {
        let mut statement = connection.prepare_cached(sql).map_err(|error| fault(&error))?;
        statement.raw_execute().map(|_| ()).map_err(|error| fault(&error))
    };
    statement("begin")?;
    // First the moment of the database, then the tail, then that of the index: what the index takes meanwhile is in one
    // of them.
    let moment = connection.prepare_cached("select 1 from settings limit 1").and_then(|mut moment| moment.exists([]));
    let found = moment.map_err(|error| fault(&error)).and_then(|_| {
        let tail = shared.map(|shared| shared.tail.view());
        read(&mut SqliteSnapshot { connection, shared, tail })
    });
    statement("commit")?;
    found
}

/// The largest id of all tables that are keyed by an id made here.
const LAST_ID: &str = "select max(id) from (
    select max(id) as id from tenants union all select max(id) from users union all select max(id) from operators
    union all select max(id) from sessions union all select max(id) from api_keys union all select max(id) from plans
    union all select max(id) from orders union all select max(id) from jobs union all select max(id) from ledger_entries
    union all select max(id) from top_ups union all select max(id) from inquiries union all select max(id) from audit_log
    union all select max(result_id) from idempotency_keys)";

/// Loads what the writer keeps in memory: the newest idempotency keys, and the last id.
fn recall_memory(connection: &Connection, seed: u64) -> rusqlite::Result<Memory> {
    let mut keys = keys::Keys::default();
    // Up to the watermark all keys are in the on-disk index; behind it, some may be there, too.
    let after: Option<String> = connection
        .query_row("select value from settings where name = 'keys_watermark'", [], |row| row.get(0))
        .optional()?;
    let after = after.and_then(|id| id.parse::<Uuid>().ok()).unwrap_or_default();
    let mut statement = connection
        .prepare("select key_hash, result_id from idempotency_keys where result_id > ?1 order by result_id")?;
    let mut rows = statement.query([after.as_bytes()])?;
    while let Some(row) = rows.next()? {
        keys.load(row.get(0)?, Uuid::from_bytes(row.get(1)?));
    }
    let spilled = connection.query_row("select exists (select 1 from idempotency_index)", [], |row| row.get(0))?;
    keys.set_spilled(spilled);
    // The ledger and its index go by the order of ids: it must hold over a restart with the clock set back, too.
    let last: Option<[u8; 16]> = connection.query_row(LAST_ID, [], |row| row.get(0))?;
    let ids = last.map_or_else(IdSequence::default, |last| IdSequence::after(Uuid::from_bytes(last)));
    Ok(Memory { ids, random: Random(seed), keys, ..Memory::default() })
}

/// Between two rounds in which the rows of `balances` are brought up to the ledger.
const BALANCES_PAUSE: Duration = Duration::from_millis(1_000);

/// Who goes on with what the writer did.
struct After {
    /// The syncer, with each group.
    finished: SyncSender<Finished>,
    /// The checkpointer, once for many groups.
    dirty: SyncSender<()>,
    /// Whether the syncer has given up.
    broken: Arc<AtomicBool>,
}

fn write_until_closed(mut writer: Writer, mut waiting: Queue<Box<dyn Waiting>>, after: After) {
    let mut next_round = Instant::now() + BALANCES_PAUSE;
    loop {
        let broken = after.broken.load(Ordering::Acquire);
        let deadline = (writer.memory.credits.lag() && !broken).then_some(next_round);
        let Some(group) = waiting.next_group(deadline) else { break };
        if after.broken.load(Ordering::Acquire) {
            group.into_iter().for_each(|waiting| waiting.answer(Err(unflushed())));
            continue;
        }
        if !group.is_empty() && after.finished.send(writer.step(group)).is_err() {
            return;
        }
        if let Err(fault) = writer.spill_keys() {
            tracing::warn!(%fault, "idempotency keys could not be moved to disk");
        }
        if Instant::now() >= next_round {
            match writer.write_balances(PORTION) {
                Ok(true) => {}
                Ok(false) => next_round = Instant::now() + BALANCES_PAUSE,
                Err(fault) => {
                    tracing::warn!(%fault, "the balances could not be written");
                    next_round = Instant::now() + BALANCES_PAUSE;
                }
            }
        }
        // A full channel means that the checkpointer knows already.
        if let Err(TrySendError::Disconnected(())) = after.dirty.try_send(()) {
            return;
        }
    }
    if after.broken.load(Ordering::Acquire) {
        // Nothing of a log that may have holes gets into the database: the next start reads it as far as it is whole.
        let _ = writer.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        return;
    }
    if let Err(fault) = writer.close() {
        tracing::warn!(%fault, "the balances could not be written; the next start does it");
    }
}

fn index_until_closed(mut writer: Writer, portions: &Receiver<Box<dyn Waiting>>) {
    while let Ok(portion) = portions.recv() {
        index_once(&mut writer, portion);
    }
}

fn index_once(writer: &mut Writer, portion: Box<dyn Waiting>) {
    let Finished { group, outcome, .. } = writer.step(vec![portion]);
    // The index is made anew from the ledger if need be, so nobody waits for the disk.
    group.into_iter().for_each(|portion| portion.answer(outcome.clone()));
}

fn read_until_closed(connection: &Connection, shared: Option<&Shared>, reads: &Mutex<Receiver<Read>>) {
    loop {
        let read = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = read else { return };
        read_once(connection, shared, read);
    }
}

fn read_once(connection: &Connection, shared: Option<&Shared>, read: Read) {
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(connection, shared)));
    if finished.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("rollback");
    }
}

fn checkpoint_until_closed(connection: &Connection, dirty: &Receiver<()>, reset_log: &AtomicBool, broken: &AtomicBool) {
    let mut again = false;
    while again || dirty.recv().is_ok() {
        if broken.load(Ordering::Acquire) {
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            return;
        }
        checkpoint_once(connection, reset_log);
        // Copying pages in larger portions writes a page that changed often only once. The end of the
        // writer ends the pause, too: nobody waits for it at a stop.
        let pause_ends = Instant::now() + CHECKPOINT_PAUSE;
        again = false;
        loop {
            match dirty.recv_timeout(pause_ends.saturating_duration_since(Instant::now())) {
                Ok(()) => again = true,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn checkpoint_once(connection: &Connection, reset_log: &AtomicBool) {
    let frames = connection.query_row("pragma wal_checkpoint(passive)", [], |row| row.get::<_, i64>(1));
    match frames {
        Ok(frames) if frames > MOST_LOG_FRAMES => reset_log.store(true, Ordering::Relaxed),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "a checkpoint failed"),
    }
}

/// Unix time from the system's clock.
#[must_use]
pub fn system_now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_planned_once_whatever_is_bound_to_it() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = connect(Path::new(":memory:"), flags).unwrap();
        connection
            .execute_batch("create table a (id integer primary key); create table b (id integer primary key)")
            .unwrap();
        let mut join =
            connection.prepare("select 1 from a join b on b.id = a.id where a.id = $1 order by a.id").unwrap();
        for value in 0..3 {
            assert!(!join.exists([value]).unwrap());
        }
        assert_eq!(join.get_status(rusqlite::StatementStatus::RePrepare), 0);
    }
}
