//! The sandbox's book of sales, in a database of its own: what it sold must outlive a crash of the
//! platform and be readable without the platform's word for it. Append-only, one row per sale.

use super::error::SandboxError;
use super::profile_state::ProfileState;
use super::special::{KEEPS, LATE_SALE};
use domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::Path;
use std::time::Duration;

/// How long to wait for another process that reads or copies the file.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// `first_profile` numbers the sale's profiles and keys the row: numbers only grow, so the table only
/// appends, and a profile's number finds its sale. A sale without profiles uses a number up too.
const SCHEMA: &str = "
    create table if not exists world (seed integer not null) strict;
    create table if not exists sales (
        first_profile integer primary key,
        reference text not null unique,
        upstream_plan_id text not null,
        quantity integer not null,
        sold_at integer not null,
        ready_at integer not null
    ) strict;
    create table if not exists changed_profiles (
        number integer primary key,
        state text not null,
        changed_at integer not null
    ) strict;
    create table if not exists turned_away (
        reference text primary key,
        times integer not null
    ) strict, without rowid;
";

const SALE_COLUMNS: &str = "first_profile, reference, upstream_plan_id, quantity, sold_at, ready_at";

/// One sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredSale {
    pub first_profile: i64,
    pub reference: String,
    pub upstream_plan_id: String,
    /// Profiles sold, which may be none.
    pub quantity: u32,
    pub sold_at: Timestamp,
    /// When the profiles can be handed out.
    pub ready_at: Timestamp,
}

impl StoredSale {
    /// Whether the sale is known yet. Only a late sale can be unknown: a clock that steps back must
    /// not make the others disappear.
    pub fn is_sold(&self, now: Timestamp) -> bool {
        self.upstream_plan_id != LATE_SALE || now >= self.sold_at
    }

    /// The numbers of its profiles.
    pub fn numbers(&self) -> std::ops::Range<i64> {
        self.first_profile..self.first_profile.saturating_add(i64::from(self.quantity))
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first_profile: row.get(0)?,
            reference: row.get(1)?,
            upstream_plan_id: row.get(2)?,
            quantity: row.get(3)?,
            sold_at: Timestamp::from_millis(row.get(4)?),
            ready_at: Timestamp::from_millis(row.get(5)?),
        })
    }
}

/// A sold profile in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    /// The sale it belongs to.
    pub sale: StoredSale,
    pub state: ProfileState,
    /// When it came into this state, if it ever changed.
    pub since: Option<Timestamp>,
}

/// What came of changing a profile's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It is in the wanted state, now or since before.
    Done,
    /// Its state does not allow it.
    Impossible { from: ProfileState },
    /// The sale's plan does not allow it.
    Kept,
    /// There is no such profile, or not under this reference.
    NotFound,
}

/// Opens the file, making it with permissions for its owner only. The seed counts for a new world; a
/// world that exists keeps its own. Returns the connection and the world's seed.
pub(super) fn open(path: &Path, seed: u64) -> Result<(Connection, u64), SandboxError> {
    make_private_file(path).map_err(|error| SandboxError::Storage(format!("{}: {error}", path.display())))?;
    prepare(Connection::open(path)?, seed)
}

/// A world that is gone with its connection.
pub(super) fn open_in_memory(seed: u64) -> Result<(Connection, u64), SandboxError> {
    prepare(Connection::open_in_memory()?, seed)
}

fn make_private_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn prepare(connection: Connection, seed: u64) -> Result<(Connection, u64), SandboxError> {
    connection.busy_timeout(LOCK_WAIT)?;
    // A power cut may take the last moments of a game with it; waiting for the disk would slow the real orders down.
    connection.execute_batch(
        "pragma journal_mode = wal;
         pragma synchronous = normal;
         pragma journal_size_limit = 67108864;
         pragma wal_autocheckpoint = 4000;
         begin immediate;",
    )?;
    connection.execute_batch(SCHEMA)?;
    connection
        .execute("insert into world (seed) select ?1 where not exists (select 1 from world)", [seed.cast_signed()])?;
    let kept: i64 = connection.query_row("select seed from world", [], |row| row.get(0))?;
    connection.execute_batch("commit")?;
    Ok((connection, kept.cast_unsigned()))
}

/// Records a sale and returns the number of its first profile; `None` when the reference was sold
/// before. `sale.first_profile` is not looked at.
pub(super) fn record(connection: &Connection, sale: &StoredSale) -> Result<Option<i64>, SandboxError> {
    let mut statement = connection.prepare_cached(
        "insert into sales (first_profile, reference, upstream_plan_id, quantity, sold_at, ready_at)
         values (
            coalesce((select first_profile + max(quantity, 1) from sales order by first_profile desc limit 1), 1),
            ?1, ?2, ?3, ?4, ?5
         )
         on conflict (reference) do nothing
         returning first_profile",
    )?;
    let row =
        params![sale.reference, sale.upstream_plan_id, sale.quantity, sale.sold_at.millis(), sale.ready_at.millis(),];
    Ok(statement.query_row(row, |row| row.get(0)).optional()?)
}

/// Counts one more refusal of a reference that is to be turned away `most` times; `false` when it
/// has been turned away often enough.
pub(super) fn turn_away(connection: &Connection, reference: &str, most: u32) -> Result<bool, SandboxError> {
    let mut statement = connection.prepare_cached(
        "insert into turned_away (reference, times) values (?1, 1)
         on conflict (reference) do update set times = times + 1 where times < ?2
         returning times",
    )?;
    let times: Option<u32> = statement.query_row(params![reference, most], |row| row.get(0)).optional()?;
    Ok(times.is_some())
}

/// The sale under a reference.
pub(super) fn find(connection: &Connection, reference: &str) -> Result<Option<StoredSale>, SandboxError> {
    let mut statement = connection.prepare_cached(&format!("select {SALE_COLUMNS} from sales where reference = ?1"))?;
    Ok(statement.query_row([reference], StoredSale::read).optional()?)
}

/// Up to `limit` sales whose reference begins with `prefix`, highest reference first, each with the
/// time its last profile was taken back if all of them were. Late sales appear when they are sold.
pub(super) fn list(
    connection: &Connection,
    prefix: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<(StoredSale, Option<Timestamp>)>, SandboxError> {
    let mut statement = connection.prepare_cached(&format!(
        "select {SALE_COLUMNS}, (
            select case when count(*) = quantity then max(changed_at) end from changed_profiles
            where number >= first_profile and number < first_profile + quantity and state = ?1
         )
         from sales
         where reference >= ?2 and reference < ?2 || char(1114111) and (upstream_plan_id <> ?3 or sold_at <= ?4)
         order by reference desc limit ?5"
    ))?;
    let filter = params![ProfileState::Cancelled.as_str(), prefix, LATE_SALE, now.millis(), limit];
    let rows = statement.query_map(filter, |row| {
        let cancelled_at: Option<i64> = row.get(6)?;
        Ok((StoredSale::read(row)?, cancelled_at.map(Timestamp::from_millis)))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The state of a sold profile; `None` when the number was never sold.
pub(super) fn state(connection: &Connection, number: i64) -> Result<Option<ProfileState>, SandboxError> {
    match sale_of(connection, number)? {
        Some(_) => Ok(Some(changed_state(connection, number)?)),
        None => Ok(None),
    }
}

/// A sold profile's sale and state, and when it came into that, if it ever changed.
pub(super) fn life(connection: &Connection, number: i64) -> Result<Option<Life>, SandboxError> {
    let Some(sale) = sale_of(connection, number)? else { return Ok(None) };
    let mut statement = connection.prepare_cached("select changed_at from changed_profiles where number = ?1")?;
    let changed_at: Option<i64> = statement.query_row([number], |row| row.get(0)).optional()?;
    Ok(Some(Life { sale, state: changed_state(connection, number)?, since: changed_at.map(Timestamp::from_millis) }))
}

/// Moves a sold profile to another state; done when it is there already.
pub(super) fn change(
    connection: &Connection,
    number: i64,
    to: ProfileState,
    now: Timestamp,
) -> Result<Change, SandboxError> {
    match sale_of(connection, number)? {
        Some(sale) if sale.is_sold(now) => move_on(connection, number, to, now),
        _ => Ok(Change::NotFound),
    }
}

/// Takes a profile of the sale under `reference` back, unless its plan keeps what it sold.
pub(super) fn cancel(
    connection: &Connection,
    reference: &str,
    number: i64,
    now: Timestamp,
) -> Result<Change, SandboxError> {
    match sale_of(connection, number)? {
        Some(sale) if sale.reference != reference || !sale.is_sold(now) => Ok(Change::NotFound),
        Some(sale) if sale.upstream_plan_id == KEEPS => Ok(Change::Kept),
        Some(_) => move_on(connection, number, ProfileState::Cancelled, now),
        None => Ok(Change::NotFound),
    }
}

fn move_on(connection: &Connection, number: i64, to: ProfileState, now: Timestamp) -> Result<Change, SandboxError> {
    let from = changed_state(connection, number)?;
    if from == to {
        return Ok(Change::Done);
    }
    if !from.may_become(to) {
        return Ok(Change::Impossible { from });
    }
    let mut statement = connection.prepare_cached(
        "insert into changed_profiles (number, state, changed_at) values (?1, ?2, ?3)
         on conflict (number) do update set state = excluded.state, changed_at = excluded.changed_at",
    )?;
    statement.execute(params![number, to.as_str(), now.millis()])?;
    Ok(Change::Done)
}

pub(super) fn sale_of(connection: &Connection, number: i64) -> Result<Option<StoredSale>, SandboxError> {
    let mut statement = connection.prepare_cached(&format!(
        "select {SALE_COLUMNS} from sales where first_profile <= ?1 order by first_profile desc limit 1"
    ))?;
    let sale = statement.query_row([number], StoredSale::read).optional()?;
    Ok(sale.filter(|sale| sale.numbers().contains(&number)))
}

fn changed_state(connection: &Connection, number: i64) -> Result<ProfileState, SandboxError> {
    let mut statement = connection.prepare_cached("select state from changed_profiles where number = ?1")?;
    let word: Option<String> = statement.query_row([number], |row| row.get(0)).optional()?;
    match word {
        None => Ok(ProfileState::Released),
        Some(word) => ProfileState::parse(&word)
            .ok_or_else(|| SandboxError::Storage(format!("profile {number} is in an unknown state"))),
    }
}
