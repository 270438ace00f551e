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
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use transaction::{Memory, Random, SqliteSnapshot, fault};
use uuid::Uuid;
pub use writer::{Listener, Now};
use writer::{Submitted, Waiting, Writer};

/// Threads that read.
const READERS: usize = 3;
/// Frames in the write-ahead log beyond which the writer pauses to reset it (4 KiB each).
const MOST_LOG_FRAMES: i64 = 24_576;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The open database. Dropping it ends the threads after the work they have.
pub struct Sqlite {
    writer: Option<Sender<(Turn, Box<dyn Waiting>)>>,
    readers: Option<Sender<Read>>,
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
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
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
        let mut threads = vec![
            spawn("store-writer", move || write_until_closed(writer, Queue::new(waiting), &dirty)),
            spawn("store-checkpoint", move || checkpoint_until_closed(&checkpointer, &to_checkpoint, &reset_log)),
        ];
        let to_read = Arc::new(Mutex::new(to_read));
        for _ in 0..READERS {
            let connection = connect_for_reading(path).map_err(|error| cannot_open(path, &error))?;
            let to_read = Arc::clone(&to_read);
            threads.push(spawn("store-reader", move || read_until_closed(&connection, &to_read)));
        }
        let threads =
            threads.into_iter().collect::<std::io::Result<Vec<_>>>().map_err(|error| cannot_open(path, &error))?;
        Ok(Self { writer: Some(commands), readers: Some(reads), threads, listeners, path: path.to_owned() })
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
            readers: Some(reads),
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
    pub(crate) fn submit_read<T, C>(&self, read: C) -> oneshot::Receiver<Result<T, Fault>>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = reply.send(read_snapshot(connection, read));
        });
        if let Some(readers) = &self.readers {
            let _ = readers.send(read);
        }
        answer
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.writer = None;
        self.readers = None;
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

/// Loads what the writer keeps in memory: the newest idempotency keys, and the last id.
fn recall_memory(connection: &Connection, seed: u64) -> rusqlite::Result<Memory> {
    let mut keys = keys::Keys::default();
    let limit = i64::try_from(keys::MOST_IN_MEMORY).unwrap_or(i64::MAX);
    let mut statement =
        connection.prepare("select key_hash, result_id from idempotency_keys order by result_id desc limit ?1")?;
    let mut newest = statement
        .query_map([limit], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, [u8; 16]>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    newest.reverse();
    for (key, result) in newest {
        keys.load(key, Uuid::from_bytes(result));
    }
    let spilled = connection.query_row("select exists (select 1 from idempotency_index)", [], |row| row.get(0))?;
    keys.set_spilled(spilled);
    Ok(Memory { ids: IdSequence::default(), random: Random(seed), keys, events: Vec::new() })
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
    while dirty.recv().is_ok() {
        let frames = connection.query_row("pragma wal_checkpoint(passive)", [], |row| row.get::<_, i64>(1));
        match frames {
            Ok(frames) if frames > MOST_LOG_FRAMES => reset_log.store(true, Ordering::Relaxed),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a checkpoint failed"),
        }
        // Copying pages in larger portions writes a page that changed often only once.
        std::thread::sleep(std::time::Duration::from_millis(200));
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
