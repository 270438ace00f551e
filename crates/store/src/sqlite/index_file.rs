//! The search index in a file of its own beside the database: it has its own writer, so that filling it takes nothing
//! from the checkouts, and it is made anew from the ledger when it is missing or does not fit.

use super::tail::Tail;
use super::transaction::Memory;
use super::writer::Writer;
use crate::migrations::SQLITE_INDEX;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the index of the database at `path` lies.
pub fn index_path(path: &Path) -> PathBuf {
    path.with_extension("index.db")
}

/// Lets a reader of the database read the index, too.
pub(super) fn attach_index(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    connection.execute("attach database ?1 as search", [index_path(path).to_string_lossy()]).map(|_| ())
}

/// The writer of the index that belongs to the database `of` writes.
pub(super) fn index_writer(path: &Path, of: &Writer) -> rusqlite::Result<Writer> {
    let database = path;
    let path = index_path(path);
    make_like(&path, database);
    let connection = match open(&path) {
        Ok(connection) if fits(&connection, &of.connection)? => connection,
        unfit => {
            drop(unfit);
            tracing::info!(path = %path.display(), "the search index is made anew");
            remove(&path);
            make_like(&path, database);
            open(&path)?
        }
    };
    let (memory, now) = (Memory::default(), Arc::clone(&of.now));
    Ok(Writer { connection, memory, now, tail: Tail::default(), reset_log: Arc::default() })
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = super::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", 32_000)?;
    connection.pragma_update(None, "cache_size", -8_192)?;
    let (schema, version) = SQLITE_INDEX;
    if connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? == 0 {
        let transaction = connection.transaction()?;
        transaction.execute_batch(schema)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Whether an index is of this version and of this ledger: one of another, say after a restored backup, stands behind
/// an entry that the ledger does not have.
fn fits(index: &Connection, ledger: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = index.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != SQLITE_INDEX.1 {
        return Ok(false);
    }
    let watermark =
        index.query_row("select entry_id from index_watermark", [], |row| row.get::<_, Vec<u8>>(0)).optional();
    match watermark {
        Ok(None) => Ok(true),
        Ok(Some(entry)) => ledger.prepare("select 1 from ledger_entries where id = ?1")?.exists([entry]),
        Err(_) => Ok(false),
    }
}

/// Makes the file, for the same eyes as the database: it holds addresses, too.
fn make_like(path: &Path, database: &Path) {
    let made = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
    if let (Ok(file), Ok(database)) = (made, std::fs::metadata(database)) {
        // Where this fails, opening the database fails and tells why.
        let _ = file.set_permissions(database.permissions());
    }
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        // What cannot be removed cannot be opened anew either, and that is told.
        let _ = std::fs::remove_file(file);
    }
}
