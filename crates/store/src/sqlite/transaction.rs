//! The port over one SQLite connection.

use super::credits::{Committed, Credits};
use super::keys::Keys;
use super::tail::{Tail, View};
use crate::index::{self, TailEntry};
use crate::ledger::{self, Credit, World};
use crate::port::{Event, Fault, KeyHash, Lock, Remembered, Row, Snapshot, Tx, Value};
use crate::random::Random;
use domain::id::{IdSequence, TenantId};
use domain::tenant::Mode;
use domain::time::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Statement};
use std::sync::Arc;
use uuid::Uuid;

/// Translates an error of SQLite.
pub(super) fn fault(error: &rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Fault::StorageFull,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Retry,
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::OperationInterrupted
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::OutOfMemory,
        ) => Fault::Unavailable(error.to_string()),
        _ => Fault::Bug(error.to_string()),
    }
}

struct SqliteRow<'r>(&'r rusqlite::Row<'r>);

impl SqliteRow<'_> {
    fn value(&self, column: usize) -> Result<ValueRef<'_>, Fault> {
        self.0.get_ref(column).map_err(|error| fault(&error))
    }
}

fn unexpected(column: usize) -> Fault {
    Fault::Bug(format!("column {column} holds an unexpected type"))
}

impl Row for SqliteRow<'_> {
    fn int(&self, column: usize) -> Result<i64, Fault> {
        self.opt_int(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_int(&self, column: usize) -> Result<Option<i64>, Fault> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(value) => Ok(Some(value)),
            _ => Err(unexpected(column)),
        }
    }

    fn text(&self, column: usize) -> Result<&str, Fault> {
        self.opt_text(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_text(&self, column: usize) -> Result<Option<&str>, Fault> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(value) => std::str::from_utf8(value).map(Some).map_err(|_| unexpected(column)),
            _ => Err(unexpected(column)),
        }
    }

    fn bytes(&self, column: usize) -> Result<&[u8], Fault> {
        self.opt_bytes(column)?.ok_or_else(|| unexpected(column))
    }

    fn opt_bytes(&self, column: usize) -> Result<Option<&[u8]>, Fault> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Blob(value) => Ok(Some(value)),
            _ => Err(unexpected(column)),
        }
    }
}

fn bind(statement: &mut Statement<'_>, values: &[Value<'_>]) -> Result<(), Fault> {
    if statement.parameter_count() != values.len() {
        return Err(Fault::Bug(format!("{} values for {} places", values.len(), statement.parameter_count())));
    }
    for (index, value) in values.iter().enumerate() {
        let place = index + 1;
        debug_assert_eq!(statement.parameter_name(place), Some(format!("${place}").as_str()), "places out of order");
        match value {
            Value::Null => statement.raw_bind_parameter(place, rusqlite::types::Null),
            Value::Int(value) => statement.raw_bind_parameter(place, value),
            Value::Text(value) => statement.raw_bind_parameter(place, value),
            Value::Bytes(value) => statement.raw_bind_parameter(place, value),
        }
        .map_err(|error| fault(&error))?;
    }
    Ok(())
}

fn query(
    connection: &Connection,
    sql: &str,
    values: &[Value<'_>],
    each: &mut dyn FnMut(&dyn Row) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(sql).map_err(|error| fault(&error))?;
    bind(&mut statement, values)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(|error| fault(&error))? {
        each(&SqliteRow(row))?;
    }
    Ok(())
}

/// A read on its own read-only connection.
pub(super) struct SqliteSnapshot<'c> {
    pub(super) connection: &'c Connection,
    /// None beside the process that writes, which has it in its memory.
    pub(super) shared: Option<&'c Shared>,
    /// The tail as it was when the database was first looked at.
    pub(super) tail: Option<Arc<View>>,
}

/// What the writer has in memory for all to read.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    /// What the rows of `balances` lag behind of.
    pub(super) credits: Committed,
    /// What the search index lags behind of.
    pub(super) tail: Tail,
}

/// The most entries behind the index that a list reads from the ledger, while the index is made anew.
const MOST_UNREAD: usize = 262_144;

fn tail(
    snapshot: &mut dyn Snapshot,
    view: Option<&View>,
    of: Option<World>,
    most: usize,
) -> Result<Vec<Arc<TailEntry>>, Fault> {
    let after = index::watermark(snapshot)?;
    let Some(view) = view else { return index::read_tail(snapshot, &after, &[0xFF; 16], of, most) };
    let mut found = Vec::new();
    if after < view.base {
        if most > MOST_UNREAD && index::is_longer(snapshot, &after, &view.base, MOST_UNREAD)? {
            return Err(Fault::Unavailable("the search index is being made anew".to_owned()));
        }
        found = index::read_tail(snapshot, &after, &view.base, of, most)?;
    }
    let wanted = |entry: &&Arc<TailEntry>| of.is_none_or(|of| of == (entry.tenant, entry.mode));
    let more = most.saturating_sub(found.len());
    found.extend(view.after(&after).filter(wanted).take(more).cloned());
    Ok(found)
}

impl Snapshot for SqliteSnapshot<'_> {
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Row) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        query(self.connection, sql, values, each)
    }

    fn credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        let unwritten = match self.shared {
            Some(shared) => shared.credits.get(&(tenant, mode)),
            None => ledger::unwritten(self)?.remove(&(tenant, mode)),
        };
        match unwritten {
            Some(credit) => Ok(Some(credit)),
            None => Credit::read(self, tenant, mode),
        }
    }

    fn tail(&mut self, of: Option<World>, most: usize) -> Result<Vec<Arc<TailEntry>>, Fault> {
        let view = self.tail.clone();
        tail(self, view.as_deref(), of, most)
    }
}

/// What the writer keeps between transactions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) ids: IdSequence,
    pub(super) random: Random,
    pub(super) keys: Keys,
    pub(super) credits: Credits,
    pub(super) events: Vec<Event>,
    /// Whether the group changed anything.
    pub(super) wrote: bool,
}

/// A command's view of the group's transaction.
pub(super) struct SqliteTx<'c> {
    pub(super) connection: &'c Connection,
    pub(super) memory: &'c mut Memory,
    pub(super) now: Timestamp,
    /// Whether it ran a statement that may have changed something.
    pub(super) wrote: bool,
}

impl Snapshot for SqliteTx<'_> {
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Row) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        query(self.connection, sql, values, each)
    }

    fn credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        if let Some(credit) = self.memory.credits.get(&(tenant, mode)) {
            return Ok(Some(credit));
        }
        let credit = Credit::read(self, tenant, mode)?;
        // The row may be one that this very group made: others see it after the commit.
        if let Some(credit) = credit {
            self.memory.credits.set(credit);
        }
        Ok(credit)
    }

    fn tail(&mut self, _: Option<World>, _: usize) -> Result<Vec<Arc<TailEntry>>, Fault> {
        // The index is in another file, with a writer of its own.
        Err(Fault::Bug("lists are read in a snapshot, not in a command".to_owned()))
    }
}

impl Tx for SqliteTx<'_> {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn fresh_id(&mut self) -> Uuid {
        let random = self.memory.random.next();
        self.memory.ids.next(self.now, random)
    }

    fn random(&mut self) -> u64 {
        self.memory.random.next()
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<usize, Fault> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| fault(&error))?;
        bind(&mut statement, values)?;
        // What fails has changed nothing: SQLite takes a statement back alone.
        let changed = statement.raw_execute().map_err(|error| fault(&error))?;
        self.wrote |= changed > 0;
        Ok(changed)
    }

    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Fault> {
        match self.execute(sql, values)? {
            1 => Ok(()),
            changed => Err(Fault::Bug(format!("a guarded change met {changed} rows: {sql}"))),
        }
    }

    fn change_if_found(&mut self, _: &str, sql: &str, values: &[Value<'_>]) -> Result<bool, Fault> {
        Ok(self.execute(sql, values)? == 1)
    }

    fn lock(&mut self, _: Lock) -> Result<(), Fault> {
        // There is one writer.
        Ok(())
    }

    fn locking_free_rows_of(&self, _: &str) -> String {
        String::new()
    }

    fn go_above(&mut self, _: Uuid) {
        // All ids are made here.
    }

    fn lock_credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        let credit = self.credit(tenant, mode)?;
        Ok(credit.map(|credit| Credit { locked_at: credit.head.count, ..credit }))
    }

    fn store_credit(&mut self, credit: &Credit) -> Result<(), Fault> {
        let (tenant, mode) = (credit.head.tenant, credit.head.mode);
        let now = self.credit(tenant, mode)?.map(|credit| credit.head.count);
        if now != Some(credit.locked_at) {
            return Err(Fault::Bug(format!("the {mode} credit of tenant {tenant} was not the one that was locked")));
        }
        self.wrote = true;
        self.memory.credits.set(*credit);
        Ok(())
    }

    fn recall(&mut self, key: &KeyHash) -> Result<Option<Remembered>, Fault> {
        if let Some(remembered) = self.memory.keys.in_group(key) {
            return Ok(Some(remembered));
        }
        let result = match self.memory.keys.committed(key) {
            Some(result) => result,
            None if self.memory.keys.has_spilled() => {
                let found = crate::port::row(
                    self,
                    "select result_id from idempotency_index where key_hash = $1",
                    &[key.into()],
                    |row| Uuid::from_slice(row.bytes(0)?).map_err(|_| unexpected(0)),
                )?;
                match found {
                    Some(result) => result,
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        crate::port::row(
            self,
            "select body_hash, made from idempotency_keys where result_id = $1",
            &[result.as_bytes().into()],
            |row| {
                Ok(Remembered {
                    body_hash: row.bytes(0)?.try_into().map_err(|_| unexpected(0))?,
                    result,
                    count: u32::try_from(row.int(1)?).map_err(|_| unexpected(1))?,
                })
            },
        )
    }

    fn remember(&mut self, key: KeyHash, remembered: Remembered) -> Result<(), Fault> {
        self.execute(
            "insert into idempotency_keys (result_id, key_hash, body_hash, made) values ($1, $2, $3, $4)",
            &[
                remembered.result.as_bytes().into(),
                (&key).into(),
                (&remembered.body_hash).into(),
                remembered.count.into(),
            ],
        )?;
        self.memory.keys.add(key, remembered);
        Ok(())
    }

    fn after_commit(&mut self, event: Event) {
        self.memory.events.push(event);
    }
}
