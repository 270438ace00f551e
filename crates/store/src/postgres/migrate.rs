//! The schema's versions on PostgreSQL: one node migrates while the others wait; an older program goes on as long as
//! the schema says that it may.

use super::link::{Found, Link};
use super::moving::UNFINISHED;
use crate::port::{Fault, Row, Value};

/// A step of the schema, and the oldest version whose programs can work with what it leaves. A step that only adds
/// leaves that as it was; one that takes something away comes when no node needs it any more.
struct Step {
    sql: &'static str,
    oldest: i64,
}

const STEPS: &[Step] = &[
    Step { sql: include_str!("../../migrations/postgres/0001_first.sql"), oldest: 1 },
    Step { sql: include_str!("../../migrations/postgres/0002_upstream_names.sql"), oldest: 1 },
    Step { sql: include_str!("../../migrations/postgres/0003_connections.sql"), oldest: 1 },
    // An older program would sell plans that rules price at what lies in their row, nothing, and number no changes.
    Step { sql: include_str!("../../migrations/postgres/0004_catalogue.sql"), oldest: 4 },
    // An older program would enable and disable connections without a word that prices changed.
    Step { sql: include_str!("../../migrations/postgres/0005_pricing.sql"), oldest: 5 },
    Step { sql: include_str!("../../migrations/postgres/0006_lanes.sql"), oldest: 1 },
    Step { sql: include_str!("../../migrations/postgres/0007_catalogue_syncs.sql"), oldest: 1 },
    Step { sql: include_str!("../../migrations/postgres/0008_usage.sql"), oldest: 1 },
    Step { sql: include_str!("../../migrations/postgres/0009_differences.sql"), oldest: 1 },
];

/// The oldest server this schema and its statements work on.
const OLDEST_SERVER: i64 = 150_000;

/// The advisory lock of whoever makes or first fills a database; a number nobody else uses.
const START_LOCK: i64 = 5_023_471_196_388_210;

fn say(fault: &Fault) -> String {
    match fault {
        Fault::Unavailable(reason) | Fault::Bug(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn number(link: &mut Link, sql: &str) -> Result<Option<i64>, Fault> {
    let rows = link.query(sql, &[])?;
    rows.first().map(|row| Found(row).opt_int(0)).transpose().map(Option::flatten)
}

/// Waits until no other node starts on this database. The lock goes with the connection.
///
/// # Errors
/// A line for the operator.
pub(super) fn lock_start(link: &mut Link) -> Result<(), String> {
    // Another node may take its time: this is no statement of a request.
    link.take_your_time();
    link.simple("set statement_timeout = 0; set lock_timeout = 0").map_err(|fault| say(&fault))?;
    for _ in 0..MOST_TRIES {
        let rows = link.query("select pg_try_advisory_lock($1)::int", &[Value::Int(START_LOCK)]);
        let rows = rows.map_err(|fault| say(&fault))?;
        if rows.first().is_some_and(|row| Found(row).int(0) == Ok(1)) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Err("another esimd has been starting on it for two minutes".to_owned())
}

const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
const MOST_TRIES: u32 = 1_200;

/// Brings the database to this program's schema; `link` holds the start lock.
///
/// # Errors
/// A line for the operator, also when the schema is too new for this program.
pub(super) fn migrate(link: &mut Link) -> Result<(), String> {
    look_at_server(link)?;
    let applied = version(link)?;
    for (index, step) in STEPS.iter().enumerate() {
        let number = i64::try_from(index + 1).unwrap_or(i64::MAX);
        if number <= applied {
            continue;
        }
        let Step { sql, oldest } = step;
        let bookkeeping = format!(
            "create table if not exists schema_version (version bigint not null, oldest bigint not null);
             delete from schema_version;
             insert into schema_version (version, oldest) values ({number}, {oldest});"
        );
        let done = take_step(link, &format!("begin; {STEP_PATIENCE} {sql} {bookkeeping} commit;"));
        done.map_err(|fault| format!("its schema cannot be brought to version {number}: {}", say(&fault)))?;
    }
    Ok(())
}

/// Whoever waits for a table's lock makes all others wait behind him, and other nodes are serving.
const STEP_PATIENCE: &str = "set local lock_timeout = '1s';";
const STEP_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
const MOST_STEP_TRIES: u32 = 60;

/// Takes a step of the schema, once more after a moment where somebody reads a table for long, say for a backup.
fn take_step(link: &mut Link, step: &str) -> Result<(), Fault> {
    let mut tries = 1;
    loop {
        match link.simple(step) {
            Err(Fault::Unavailable(_)) if tries < MOST_STEP_TRIES && link.simple("rollback").is_ok() => {
                tries += 1;
                std::thread::sleep(STEP_PAUSE);
            }
            done => return done,
        }
    }
}

/// Looks whether this program can work with the schema as it is.
///
/// # Errors
/// A line for the operator.
pub(super) fn look(link: &mut Link) -> Result<(), String> {
    look_at_server(link)?;
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    match version(link)? {
        0 => Err("it holds no platform yet; start `esimd serve` on it first".to_owned()),
        version if version < known => Err(format!(
            "its schema is version {version}, and this program needs {known}; start `esimd serve` on it first"
        )),
        _ => Ok(()),
    }
}

fn look_at_server(link: &mut Link) -> Result<(), String> {
    let server = number(link, "select current_setting('server_version_num')::bigint").map_err(|fault| say(&fault))?;
    if server.is_some_and(|server| server < OLDEST_SERVER) {
        return Err("it is older than PostgreSQL 15; upgrade it first".to_owned());
    }
    let read_only = number(link, "select (current_setting('transaction_read_only') = 'on')::int");
    if read_only.map_err(|fault| say(&fault))? == Some(1) {
        return Err(
            "it can only be read, as a replica is; name the primary, or all hosts (postgres://...@one,other/name)"
                .to_owned(),
        );
    }
    let encoding = link.query("select current_setting('server_encoding')", &[]).map_err(|fault| say(&fault))?;
    if encoding.first().is_some_and(|row| Found(row).text(0) != Ok("UTF8")) {
        return Err("its encoding is not UTF8; create the database with `encoding 'UTF8'`".to_owned());
    }
    Ok(())
}

/// Looks whether everything is there: a platform is not served while it is moved.
///
/// # Errors
/// A line for the operator.
pub(super) fn look_for_move(link: &mut Link) -> Result<(), String> {
    let unfinished = link.query("select 1 from settings where name = $1", &[UNFINISHED.into()]);
    match unfinished.map_err(|fault| say(&fault))?.is_empty() {
        true => Ok(()),
        false => Err("a move into it was not finished; run `esimd move` again".to_owned()),
    }
}

/// The schema's version; 0 where there is none yet.
fn version(link: &mut Link) -> Result<i64, String> {
    let there = number(link, "select (to_regclass('schema_version') is not null)::int").map_err(|fault| say(&fault))?;
    if there != Some(1) {
        return Ok(0);
    }
    let rows = link.query("select version, oldest from schema_version", &[]).map_err(|fault| say(&fault))?;
    let Some(row) = rows.first() else { return Ok(0) };
    let (version, oldest) = (Found(row).int(0), Found(row).int(1));
    let (version, oldest) = (version.map_err(|fault| say(&fault))?, oldest.map_err(|fault| say(&fault))?);
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    if oldest > known {
        return Err(format!(
            "its schema is version {version}, which programs that know less than version {oldest} cannot use, and this \
             one knows {known}; start a newer esimd"
        ));
    }
    Ok(version)
}
