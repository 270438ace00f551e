//! The embedded database: one writer with group commit, readers on their own read-only connections,
//! checkpoints off the writer.

mod keys;
mod queue;
mod transaction;
mod writer;

use crate::migrations;
use crate::port::{Decision, Event, Failure, Fault, Snapshot, Tx};
use domain::id::IdSequence;
use domain::time::Timestamp;
use queue::Queue;
pub(crate) use queue::Turn;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use transaction::{Memory, Random, SqliteSnapshot, fault};
use uuid::Uuid;
pub use writer::{Listener, Now};
use writer::{Submitted, Waiting, Writer};

/// Threads for short reads: logins, single rows.
const READERS: usize = 2;
/// Threads for long reads: lists, exports, checks. They may queue up without holding a login up.
const SCANNERS: usize = 2;
/// Frames in the write-ahead log beyond which the writer pauses to reset it (4 KiB each).
const MOST_LOG_FRAMES: i64 = 24_576;
/// Between two checkpoints.
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(1_000);

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// How long a read may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Some rows.
    Short,
    /// A page of a list, or more.
    Long,
}

/// The open database. Dropping it ends the threads after the work they have.
pub struct Sqlite {
    writer: Option<Sender<(Turn, Box<dyn Waiting>)>>,
    readers: Option<Sender<Read>>,
    scanners: Option<Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
    listeners: Arc<RwLock<Vec<Listener>>>,
    path: PathBuf,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A failed start of the database: one line that says what to do.
#[derive(Debug)]
pub struct OpenError(pub String);

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

fn cannot_open(path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!("the database {} cannot be opened: {error}", path.display()))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(256);
    // Otherwise SQLite plans a join or a range anew each time other values are bound to its statement.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

fn connect_for_writing(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -24_576)?;
    Ok(connection)
}

fn connect_for_reading(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "cache_size", -4_096)?;
    Ok(connection)
}

impl Sqlite {
    /// Opens the database at `path`, makes or migrates it, and starts its threads. `seed` feeds ids
    /// and jitter; `now` is the clock.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be used, or was written by a newer version.
    pub fn open(path: &Path, seed: u64, now: Now) -> Result<Self, OpenError> {
        let mut connection = connect_for_writing(path).map_err(|error| cannot_open(path, &error))?;
        migrations::migrate_sqlite(&mut connection).map_err(|error| cannot_open(path, &error))?;
        let listeners: Arc<RwLock<Vec<Listener>>> = Arc::default();
        let reset_log = Arc::new(AtomicBool::new(false));
        let memory = recall_memory(&connection, seed).map_err(|error| cannot_open(path, &error))?;
        let to_listeners = Arc::clone(&listeners);
        let writer = Writer {
            connection,
            memory,
            now,
            listener: Arc::new(move |events: &[Event]| {
                for listener in to_listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
                    listener(events);
                }
            }),
            reset_log: Arc::clone(&reset_log),
        };
        let checkpointer = connect_for_writing(path).map_err(|error| cannot_open(path, &error))?;
        let (dirty, to_checkpoint) = sync_channel(1);
        let (commands, waiting) = channel();
        let (reads, to_read) = channel();
        let (scans, to_scan) = channel();
        let mut threads = vec![
            spawn("store-writer", move || write_until_closed(writer, Queue::new(waiting), &dirty)),
            spawn("store-checkpoint", move || checkpoint_until_closed(&checkpointer, &to_checkpoint, &reset_log)),
        ];
        let (to_read, to_scan) = (Arc::new(Mutex::new(to_read)), Arc::new(Mutex::new(to_scan)));
        for to_read in [&to_read; READERS].into_iter().chain([&to_scan; SCANNERS]) {
            let connection = connect_for_reading(path).map_err(|error| cannot_open(path, &error))?;
            let to_read = Arc::clone(to_read);
            threads.push(spawn("store-reader", move || read_until_closed(&connection, &to_read)));
        }
        let threads =
            threads.into_iter().collect::<std::io::Result<Vec<_>>>().map_err(|error| cannot_open(path, &error))?;
        Ok(Self {
            writer: Some(commands),
            readers: Some(reads),
            scanners: Some(scans),
            threads,
            listeners,
            path: path.to_owned(),
        })
    }

    /// Opens the database at `path` for reading alone, as the command line does beside a running process.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_read(path: &Path) -> Result<Self, OpenError> {
        let connection = connect_for_reading(path).map_err(|error| cannot_open(path, &error))?;
        let (reads, to_read) = channel();
        let reader = spawn("store-reader", move || read_until_closed(&connection, &Mutex::new(to_read)))
            .map_err(|error| cannot_open(path, &error))?;
        Ok(Self {
            writer: None,
            readers: Some(reads.clone()),
            scanners: Some(reads),
            threads: vec![reader],
            listeners: Arc::default(),
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
        }
        answer
    }

    /// Submits a read of one snapshot.
    pub(crate) fn submit_read<T, C>(&self, length: Length, read: C) -> oneshot::Receiver<Result<T, Fault>>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = reply.send(read_snapshot(connection, read));
        });
        let threads = match length {
            Length::Short => &self.readers,
            Length::Long => &self.scanners,
        };
        if let Some(threads) = threads {
            let _ = threads.send(read);
        }
        answer
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.writer = None;
        self.readers = None;
        self.scanners = None;
        for thread in self.threads.drain(..) {
            // The last handle may be dropped by a listener on one of these very threads.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn read_snapshot<T>(
    connection: &Connection,
    read: impl FnOnce(&mut dyn Snapshot) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let statement = |sql| -> Result<(), Fault> {
        let mut statement = connection.prepare_cached(sql).map_err(|error| fault(&error))?;
        statement.raw_execute().map(|_| ()).map_err(|error| fault(&error))
    };
    statement("begin")?;
    let found = read(&mut SqliteSnapshot(connection));
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
    let mut statement =
        connection.prepare("select key_hash, result_id from idempotency_keys order by result_id desc")?;
    let mut on_disk = connection.prepare("select 1 from idempotency_index where key_hash = ?1")?;
    let mut newest: Vec<([u8; 16], [u8; 16])> = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (key, result) = (row.get(0)?, row.get(1)?);
        // The oldest keys are moved to disk first, so from here on all are there. Beyond the limit there are
        // keys that are not, when the process ended before it moved them.
        if newest.len() >= keys::MOST_IN_MEMORY && on_disk.exists([&key])? {
            break;
        }
        newest.push((key, result));
    }
    newest.reverse();
    for (key, result) in newest {
        keys.load(key, Uuid::from_bytes(result));
    }
    let spilled = connection.query_row("select exists (select 1 from idempotency_index)", [], |row| row.get(0))?;
    keys.set_spilled(spilled);
    // The ledger and its index go by the order of ids: it must hold over a restart with the clock set back, too.
    let last: Option<[u8; 16]> = connection.query_row(LAST_ID, [], |row| row.get(0))?;
    let ids = last.map_or_else(IdSequence::default, |last| IdSequence::after(Uuid::from_bytes(last)));
    Ok(Memory { ids, random: Random(seed), keys, events: Vec::new() })
}

fn write_until_closed(mut writer: Writer, mut waiting: Queue, dirty: &SyncSender<()>) {
    while let Some(group) = waiting.next_group() {
        writer.step(group);
        if let Err(fault) = writer.spill_keys() {
            tracing::warn!(%fault, "idempotency keys could not be moved to disk");
        }
        // A full channel means that the checkpointer knows already.
        if let Err(TrySendError::Disconnected(())) = dirty.try_send(()) {
            return;
        }
    }
}

fn read_until_closed(connection: &Connection, reads: &Mutex<Receiver<Read>>) {
    loop {
        let read = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match read {
            Ok(read) => {
                let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(connection)));
                if finished.is_err() && !connection.is_autocommit() {
                    let _ = connection.execute_batch("rollback");
                }
            }
            Err(_) => return,
        }
    }
}

fn checkpoint_until_closed(connection: &Connection, dirty: &Receiver<()>, reset_log: &AtomicBool) {
    let mut again = false;
    while again || dirty.recv().is_ok() {
        let frames = connection.query_row("pragma wal_checkpoint(passive)", [], |row| row.get::<_, i64>(1));
        match frames {
            Ok(frames) if frames > MOST_LOG_FRAMES => reset_log.store(true, Ordering::Relaxed),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a checkpoint failed"),
        }
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

pub(crate) fn lost<T, R>() -> Decision<T, R> {
    Err(Failure::Fault(Fault::Unavailable("the writer has stopped".to_owned())))
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
