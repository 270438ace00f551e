//! The port: the few things a transaction can do. Commands are plain synchronous functions of
//! `(&mut dyn Tx, input)`: nothing can be awaited inside one, so no network call can hide in it, and
//! a command may be run again after a serialisation failure.

use crate::index::TailEntry;
use crate::ledger::{Credit, World};
use domain::id::{OrderId, TenantId};
use domain::tenant::Mode;
use domain::time::Timestamp;
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// A value bound to a statement. Statements use `$1`, `$2`, ... in order of first appearance.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// SQL null.
    Null,
    /// A 64-bit integer: counts, money in minor units, time in milliseconds, 0 and 1 for no and yes.
    Int(i64),
    /// Text.
    Text(&'a str),
    /// Bytes: ids and hashes.
    Bytes(&'a [u8]),
}

impl<'a> From<i64> for Value<'a> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<u32> for Value<'a> {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

impl<'a> From<bool> for Value<'a> {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}

impl<'a> From<Timestamp> for Value<'a> {
    fn from(value: Timestamp) -> Self {
        Self::Int(value.millis())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Bytes(value)
    }
}

impl<'a, T> From<Option<T>> for Value<'a>
where
    Value<'a>: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

/// Why the storage could not do what was asked. None of these is the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The transaction collided with another; run the command again.
    Retry,
    /// The database does not answer, or the process is stopping.
    Unavailable(String),
    /// The disk is full.
    StorageFull,
    /// Something that cannot be: a broken row, a statement that does not fit.
    Bug(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("the transaction collided with another"),
            Self::Unavailable(reason) => write!(f, "the database is not available: {reason}"),
            Self::StorageFull => f.write_str("the disk is full"),
            Self::Bug(reason) => write!(f, "bug: {reason}"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<domain::words::UnknownWord> for Fault {
    fn from(word: domain::words::UnknownWord) -> Self {
        Self::Bug(format!("unknown word {:?} in the database", word.0))
    }
}

impl From<domain::id::InvalidId> for Fault {
    fn from(_: domain::id::InvalidId) -> Self {
        Self::Bug("malformed id in the database".to_owned())
    }
}

impl From<domain::money::UnknownCurrency> for Fault {
    fn from(_: domain::money::UnknownCurrency) -> Self {
        Self::Bug("unknown currency in the database".to_owned())
    }
}

impl From<domain::money::MoneyError> for Fault {
    fn from(error: domain::money::MoneyError) -> Self {
        Self::Bug(format!("money out of range: {error:?}"))
    }
}

/// How a command fails: by a rule, or because of the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure<R> {
    /// The rules refuse it; nothing was changed.
    Refused(R),
    /// The storage failed; nothing was changed, or nobody knows and the caller must not be told "done".
    Fault(Fault),
}

macro_rules! fails_with {
    ($($error:ty),+ $(,)?) => {$(
        impl<R> From<$error> for Failure<R> {
            fn from(error: $error) -> Self {
                Self::Fault(Fault::from(error))
            }
        }
    )+};
}

fails_with!(
    Fault,
    domain::words::UnknownWord,
    domain::id::InvalidId,
    domain::money::UnknownCurrency,
    domain::money::MoneyError,
);

/// What a command returns.
pub type Decision<T, R> = Result<T, Failure<R>>;

/// Refuses a command.
///
/// # Errors
/// Always: the refusal.
pub fn refuse<T, R>(refusal: R) -> Decision<T, R> {
    Err(Failure::Refused(refusal))
}

/// One row of an answer. Columns count from 0.
pub trait Row {
    /// An integer.
    ///
    /// # Errors
    /// [`Fault::Bug`] when the column is null or holds something else; likewise below.
    fn int(&self, column: usize) -> Result<i64, Fault>;
    /// An integer or null.
    ///
    /// # Errors
    /// [`Fault::Bug`].
    fn opt_int(&self, column: usize) -> Result<Option<i64>, Fault>;
    /// A text.
    ///
    /// # Errors
    /// [`Fault::Bug`].
    fn text(&self, column: usize) -> Result<&str, Fault>;
    /// A text or null.
    ///
    /// # Errors
    /// [`Fault::Bug`].
    fn opt_text(&self, column: usize) -> Result<Option<&str>, Fault>;
    /// Bytes.
    ///
    /// # Errors
    /// [`Fault::Bug`].
    fn bytes(&self, column: usize) -> Result<&[u8], Fault>;
    /// Bytes or null.
    ///
    /// # Errors
    /// [`Fault::Bug`].
    fn opt_bytes(&self, column: usize) -> Result<Option<&[u8]>, Fault>;
}

/// A consistent view of the database.
pub trait Snapshot {
    /// Runs a query and hands every row to `each`.
    ///
    /// # Errors
    /// [`Fault`] of the database, or of `each`.
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Row) -> Result<(), Fault>,
    ) -> Result<(), Fault>;

    /// A tenant's credit in one mode, with everything that was answered before this call; `None` where there
    /// is no such tenant.
    ///
    /// # Errors
    /// [`Fault`].
    fn credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault>;

    /// The oldest `most` ledger entries that the search index does not have yet, of one tenant and mode or of all.
    ///
    /// # Errors
    /// [`Fault`].
    fn tail(&mut self, of: Option<(TenantId, Mode)>, most: usize) -> Result<Vec<Arc<TailEntry>>, Fault>;
}

/// What other parts of the process may want to know once a change is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is a job to do now, in the lane of this upstream.
    JobReady(String),
    /// An order changed; it may have become final.
    OrderChanged(OrderId),
    /// A ledger entry was written, which the search index does not have yet.
    Appended(Arc<TailEntry>),
    /// Somebody's access changed: tokens, keys or a tenant's status.
    AccessChanged,
    /// The price list changed.
    PlansChanged,
    /// A connection to an upstream was made or changed.
    ConnectionsChanged,
    /// The upstream of this name has news of eSIMs it sold: they are asked for.
    EsimsDue(String),
}

/// SHA-256 of an idempotency key in its scope (tenant, mode, route), cut to 128 bits.
pub type KeyHash = [u8; 16];

/// What an idempotency key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// SHA-256 of the parsed body, cut to 128 bits.
    pub body_hash: [u8; 16],
    /// The id of what was made: a checkout, a top-up, an entry.
    pub result: Uuid,
    /// How many things were made.
    pub count: u32,
}

/// What only one transaction may do at a time, beside the credit of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Append to the audit log.
    Audit,
    /// Number a new tenant.
    Registration,
    /// Change plans or offers. Whoever needs the audit log's lock, too, takes this one first.
    Plans,
    /// Change what prices follow from. It comes after that of the plans, and before that of the audit log.
    Pricing,
}

/// A value that outlives the call it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owned {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Value<'_>> for Owned {
    fn from(value: &Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Int(value) => Self::Int(*value),
            Value::Text(value) => Self::Text((*value).to_owned()),
            Value::Bytes(value) => Self::Bytes(value.to_vec()),
        }
    }
}

impl<'a> From<&'a Owned> for Value<'a> {
    fn from(value: &'a Owned) -> Self {
        match value {
            Owned::Null => Self::Null,
            Owned::Int(value) => Self::Int(*value),
            Owned::Text(value) => Self::Text(value),
            Owned::Bytes(value) => Self::Bytes(value),
        }
    }
}

/// A query with its values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Query {
    pub(crate) sql: &'static str,
    pub(crate) values: Vec<Owned>,
}

/// What a command is going to lock, look up and read first. A database across a network is then asked once for all that
/// a whole group of commands needs. It is a hint: what is missing here is asked when the command comes to it.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    pub(crate) credits: Vec<World>,
    pub(crate) keys: Vec<KeyHash>,
    pub(crate) reads: Vec<Query>,
}

impl Needs {
    /// The credit of this tenant, which the command locks.
    #[must_use]
    pub fn credit(tenant: TenantId, mode: Mode) -> Self {
        Self { credits: vec![(tenant, mode)], ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.credits.is_empty() && self.keys.is_empty() && self.reads.is_empty()
    }

    /// Whose command it is.
    pub(crate) fn tenant(&self) -> Option<TenantId> {
        self.credits.first().map(|(tenant, _)| *tenant)
    }

    /// And what this idempotency key stands for.
    #[must_use]
    pub fn key(mut self, key: Option<KeyHash>) -> Self {
        self.keys.extend(key);
        self
    }

    /// And the rows of this query.
    #[must_use]
    pub fn read(mut self, sql: &'static str, values: &[Value<'_>]) -> Self {
        self.reads.push(Query { sql, values: values.iter().map(Owned::from).collect() });
        self
    }
}

/// A transaction under way.
pub trait Tx: Snapshot {
    /// The time of this transaction by this node's clock; on the embedded database never earlier than that of the one
    /// before.
    fn now(&self) -> Timestamp;

    /// A fresh id, larger than every id made before.
    fn fresh_id(&mut self) -> Uuid;

    /// 64 random bits, not for secrets.
    fn random(&mut self) -> u64;

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    /// [`Fault`].
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<usize, Fault>;

    /// Runs a guarded statement that must change exactly one row. A database across a network may run it later, with
    /// others, before anything else is read or committed; the transaction fails if it then met none or several.
    ///
    /// # Errors
    /// [`Fault::Bug`] when it is known to have changed none or several: a guard that was checked before does not hold.
    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Fault>;

    /// Changes the one row that `look` finds, and returns whether there is one; both take the same values.
    ///
    /// # Errors
    /// [`Fault`].
    fn change_if_found(&mut self, look: &str, sql: &str, values: &[Value<'_>]) -> Result<bool, Fault>;

    /// Waits until no other transaction holds this lock, and holds it to the end of this one.
    ///
    /// # Errors
    /// [`Fault`].
    fn lock(&mut self, lock: Lock) -> Result<(), Fault>;

    /// The clause of a query that locks the rows of `table` it finds, leaving those out that others hold.
    fn locking_free_rows_of(&self, table: &str) -> String;

    /// Makes the ids from here on larger than `id`, which another node may have made by a clock of its own.
    fn go_above(&mut self, id: Uuid);

    /// Locks a tenant's credit until the end of the transaction and returns it; `None` where there is no such
    /// tenant. Every command that moves a tenant's money does this first.
    ///
    /// # Errors
    /// [`Fault`].
    fn lock_credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault>;

    /// Stores a locked credit with its moved head. The entries of the ledger that moved it are written by then.
    ///
    /// # Errors
    /// [`Fault::Bug`] when it is not the one that was locked.
    fn store_credit(&mut self, credit: &Credit) -> Result<(), Fault>;

    /// Looks an idempotency key up.
    ///
    /// # Errors
    /// [`Fault`].
    fn recall(&mut self, key: &KeyHash) -> Result<Option<Remembered>, Fault>;

    /// Remembers an idempotency key with its effect, in this transaction.
    ///
    /// # Errors
    /// [`Fault`].
    fn remember(&mut self, key: KeyHash, remembered: Remembered) -> Result<(), Fault>;

    /// Tells the rest of the process, after the commit and only then.
    fn after_commit(&mut self, event: Event);
}

/// Runs a query that has one row at most.
///
/// # Errors
/// [`Fault`] of the database or of `read`.
pub fn row<T>(
    snapshot: &mut dyn Snapshot,
    sql: &str,
    values: &[Value<'_>],
    read: impl Fn(&dyn Row) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut found = None;
    snapshot.rows(sql, values, &mut |row| {
        found = Some(read(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// Runs a query and collects its rows.
///
/// # Errors
/// [`Fault`] of the database or of `read`.
pub fn collect<T>(
    snapshot: &mut dyn Snapshot,
    sql: &str,
    values: &[Value<'_>],
    read: impl Fn(&dyn Row) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut found = Vec::new();
    snapshot.rows(sql, values, &mut |row| {
        found.push(read(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// Keys of one statement.
const KEYS_TOGETHER: usize = 50;

/// Runs a query for the rows with these keys, many keys at a time: their places are put where it says `{keys}`, behind
/// those of the `first` values.
///
/// # Errors
/// [`Fault`] of the database or of `each`.
pub(crate) fn rows_of(
    snapshot: &mut dyn Snapshot,
    sql: &str,
    first: &[Value<'_>],
    keys: &[Value<'_>],
    each: &mut dyn FnMut(&dyn Row) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for keys in keys.chunks(KEYS_TOGETHER) {
        // Always one of the same two texts, so that they are prepared once; a key that is named twice is found once.
        let width = if keys.len() == 1 { 1 } else { KEYS_TOGETHER };
        let padded = keys.iter().cycle().take(width);
        let values: Vec<Value<'_>> = first.iter().chain(padded).copied().collect();
        let places = (first.len()..values.len()).map(|place| format!("${}", place + 1)).collect::<Vec<_>>().join(", ");
        snapshot.rows(&sql.replace("{keys}", &places), &values, each)?;
    }
    Ok(())
}
