//! Connections: the operator's accounts at upstreams. What lets one in is sealed before it comes here; this floor
//! keeps it and cannot read it.

use crate::audit::{self, Act};
use crate::port::{Decision, Event, Fault, Lock, Row, Snapshot, Tx, collect, refuse, row};
use crate::pricing::Change;
use domain::connection::Provider;
use domain::id::ConnectionId;
use domain::offer::Cost;
use domain::time::Timestamp;
use std::convert::Infallible;

/// What lets one in at an upstream, encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The version of the key it is sealed under.
    pub key_version: i64,
    /// Nonce and ciphertext.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("key_version", &self.key_version).finish_non_exhaustive()
    }
}

/// What the operator may change of a connection, beside what lets one in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where its paths begin.
    pub base_url: String,
    /// Smaller goes first, where several connections offer a plan.
    pub priority: i64,
    /// Calls it takes per second; `None` for what its adapter declares.
    pub calls_per_second: Option<u32>,
    /// Calls in flight at the same time, on each node.
    pub calls_in_flight: u32,
    /// How long a call may take, milliseconds.
    pub time_limit_ms: i64,
    /// Below this balance there, in the upstream's currency, the operator is warned.
    pub low_balance: Option<String>,
}

/// What came of trying a connection out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// When.
    pub at: Timestamp,
    /// Whether it let us in.
    pub let_in: bool,
    /// What was seen, for the operator.
    pub detail: String,
    /// Our balance there, where it is told.
    pub balance: Option<Cost>,
}

/// One account at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// What placements and offers call it; never changes.
    pub name: String,
    /// Whose wire it speaks.
    pub provider: Provider,
    /// What lets one in.
    pub sealed: Sealed,
    /// Whether it sells.
    pub enabled: bool,
    /// What the operator may change.
    pub settings: Settings,
    /// The last trial.
    pub verification: Option<Verification>,
}

/// Why a connection is not made or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// There is no such connection.
    NotFound,
    /// There is one of this name.
    NameTaken,
    /// It was enabled, or disabled, before.
    AlreadyDecided,
}

impl Connection {
    /// Whether our balance there was below what the operator wants to be warned of when it was last asked for.
    #[must_use]
    pub fn balance_is_low(&self) -> bool {
        let balance = self.verification.as_ref().and_then(|verification| verification.balance.as_ref());
        let (Some(balance), Some(low)) = (balance, &self.settings.low_balance) else { return false };
        let low = Cost::parse(low, &balance.currency);
        low.is_some_and(|low| balance.compare(&low) == Some(std::cmp::Ordering::Less))
    }
}

/// Makes a connection, disabled. `id` is the caller's, because what lets one in is sealed together with it.
///
/// # Errors
/// [`ConnectionRefusal::NameTaken`].
pub fn create(
    tx: &mut dyn Tx,
    act: &Act,
    id: ConnectionId,
    name: &str,
    provider: Provider,
    settings: &Settings,
    sealed: &Sealed,
) -> Decision<Connection, ConnectionRefusal> {
    // One operator after the other: of two of one name the second is refused.
    tx.lock(Lock::Audit)?;
    let taken = row(tx, "select 1 from connections where name = $1", &[name.into()], |_| Ok(()))?;
    if taken.is_some() {
        return refuse(ConnectionRefusal::NameTaken);
    }
    tx.change(
        "insert into connections (id, name, provider, base_url, sealed, key_version, enabled, priority,
             calls_per_second, calls_in_flight, time_limit_ms, low_balance)
         values ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10, $11)",
        &[
            id.as_bytes().into(),
            name.into(),
            provider.word().into(),
            (&settings.base_url).into(),
            sealed.bytes.as_slice().into(),
            sealed.key_version.into(),
            settings.priority.into(),
            settings.calls_per_second.into(),
            settings.calls_in_flight.into(),
            settings.time_limit_ms.into(),
            settings.low_balance.as_deref().into(),
        ],
    )?;
    audit::write(tx, act, "connection.created", &id.to_string(), &format!("{name}, {provider}"), None)?;
    tx.after_commit(Event::ConnectionsChanged);
    must_find(tx, id)
}

fn must_find(tx: &mut dyn Tx, id: ConnectionId) -> Decision<Connection, ConnectionRefusal> {
    match find(tx, id)? {
        Some(connection) => Ok(connection),
        None => refuse(ConnectionRefusal::NotFound),
    }
}

/// Changes a connection's settings, and what lets one in where it is given.
///
/// # Errors
/// [`ConnectionRefusal::NotFound`].
pub fn change(
    tx: &mut dyn Tx,
    act: &Act,
    id: ConnectionId,
    settings: &Settings,
    sealed: Option<&Sealed>,
) -> Decision<Connection, ConnectionRefusal> {
    tx.lock(Lock::Audit)?;
    let before = must_find(tx, id)?;
    let kept = sealed.unwrap_or(&before.sealed);
    tx.change(
        "update connections set base_url = $1, priority = $2, calls_per_second = $3, calls_in_flight = $4,
             time_limit_ms = $5, sealed = $6, key_version = $7, low_balance = $8 where id = $9",
        &[
            (&settings.base_url).into(),
            settings.priority.into(),
            settings.calls_per_second.into(),
            settings.calls_in_flight.into(),
            settings.time_limit_ms.into(),
            kept.bytes.as_slice().into(),
            kept.key_version.into(),
            settings.low_balance.as_deref().into(),
            id.as_bytes().into(),
        ],
    )?;
    let what = if sealed.is_some() { "settings and credentials" } else { "settings" };
    audit::write(tx, act, "connection.changed", &id.to_string(), what, None)?;
    tx.after_commit(Event::ConnectionsChanged);
    must_find(tx, id)
}

/// Lets a connection sell, or no more. What it sold goes on being asked for and taken back.
///
/// # Errors
/// [`ConnectionRefusal`].
pub fn set_enabled(
    tx: &mut dyn Tx,
    act: &Act,
    id: ConnectionId,
    enabled: bool,
) -> Decision<Connection, ConnectionRefusal> {
    let change = Change::begin(tx)?;
    let before = must_find(tx, id)?;
    if before.enabled == enabled {
        return refuse(ConnectionRefusal::AlreadyDecided);
    }
    tx.change("update connections set enabled = $1 where id = $2", &[enabled.into(), id.as_bytes().into()])?;
    // What it offers comes on sale with it, or goes.
    change.end(tx)?;
    let action = if enabled { "connection.enabled" } else { "connection.disabled" };
    audit::write(tx, act, action, &id.to_string(), &before.name, None)?;
    tx.after_commit(Event::ConnectionsChanged);
    Ok(Connection { enabled, ..before })
}

/// Keeps what came of trying a connection out.
///
/// # Errors
/// [`ConnectionRefusal::NotFound`].
pub fn record_verification(
    tx: &mut dyn Tx,
    id: ConnectionId,
    verification: &Verification,
) -> Decision<Connection, ConnectionRefusal> {
    let Verification { at, let_in, detail, balance } = verification;
    tx.execute(
        "update connections set verified_at = $1, verified = $2, verification = $3, balance_units = $4,
             balance_decimals = $5, balance_currency = $6 where id = $7",
        &[
            (*at).into(),
            (*let_in).into(),
            detail.into(),
            balance.as_ref().map(|balance| balance.units).into(),
            balance.as_ref().map(|balance| balance.decimals).into(),
            balance.as_ref().map(|balance| balance.currency.as_str()).into(),
            id.as_bytes().into(),
        ],
    )?;
    tx.after_commit(Event::ConnectionsChanged);
    must_find(tx, id)
}

/// Replaces what lets one in, sealed under a newer key; one that was changed meanwhile is left as it is.
///
/// # Errors
/// [`Fault`].
pub fn reseal(tx: &mut dyn Tx, id: ConnectionId, from: &Sealed, to: &Sealed) -> Decision<bool, Infallible> {
    let changed = tx.execute(
        "update connections set sealed = $1, key_version = $2 where id = $3 and sealed = $4",
        &[to.bytes.as_slice().into(), to.key_version.into(), id.as_bytes().into(), from.bytes.as_slice().into()],
    )?;
    tx.after_commit(Event::ConnectionsChanged);
    Ok(changed == 1)
}

const CONNECTION: &str = "id, name, provider, base_url, sealed, key_version, enabled, priority, calls_per_second, \
     calls_in_flight, time_limit_ms, verified_at, verified, verification, balance_units, balance_decimals, \
     balance_currency, low_balance from connections";

fn small(value: i64) -> Result<u32, Fault> {
    u32::try_from(value).map_err(|_| Fault::Bug("a count is out of range".to_owned()))
}

fn connection(row: &dyn Row) -> Result<Connection, Fault> {
    let balance = match (row.opt_int(14)?, row.opt_int(15)?, row.opt_text(16)?) {
        (Some(units), Some(decimals), Some(currency)) => {
            Some(Cost { units, decimals: small(decimals)?, currency: currency.to_owned() })
        }
        _ => None,
    };
    let verification = match row.opt_int(11)? {
        None => None,
        Some(at) => Some(Verification {
            at: Timestamp::from_millis(at),
            let_in: row.opt_int(12)? == Some(1),
            detail: row.opt_text(13)?.unwrap_or_default().to_owned(),
            balance,
        }),
    };
    Ok(Connection {
        id: ConnectionId::from_slice(row.bytes(0)?)?,
        name: row.text(1)?.to_owned(),
        provider: row.text(2)?.parse()?,
        sealed: Sealed { key_version: row.int(5)?, bytes: row.bytes(4)?.to_vec() },
        enabled: row.int(6)? != 0,
        settings: Settings {
            base_url: row.text(3)?.to_owned(),
            priority: row.int(7)?,
            calls_per_second: row.opt_int(8)?.map(small).transpose()?,
            calls_in_flight: small(row.int(9)?)?,
            time_limit_ms: row.int(10)?,
            low_balance: row.opt_text(17)?.map(str::to_owned),
        },
        verification,
    })
}

/// One connection.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: ConnectionId) -> Result<Option<Connection>, Fault> {
    row(snapshot, &format!("select {CONNECTION} where id = $1"), &[id.as_bytes().into()], connection)
}

/// All connections, oldest first: there are few.
///
/// # Errors
/// [`Fault`].
pub fn all(snapshot: &mut dyn Snapshot) -> Result<Vec<Connection>, Fault> {
    collect(snapshot, &format!("select {CONNECTION} order by id"), &[], connection)
}
