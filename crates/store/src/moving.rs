//! Moves a platform from the embedded database to PostgreSQL: table by table in the order of keys, so that a move that
//! was broken off goes on where it was, and compared afterwards, count by count and sum by sum.

use crate::port::{Fault, Owned, Row, Value};
use crate::postgres::{Found, Link, Moving};
use crate::sqlite::leave_each_once;
use crate::waiting::OpenError;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// A table with its primary key and the column that is summed up.
struct Table {
    name: &'static str,
    key: &'static [&'static str],
    sum: Option<&'static str>,
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key, sum: None }
}

const fn money(name: &'static str, key: &'static [&'static str], sum: &'static str) -> Table {
    Table { name, key, sum: Some(sum) }
}

/// All tables but those that only one of the databases has, and the settings, which each has its own of.
const TABLES: &[Table] = &[
    table("tenants", &["id"]),
    money("balances", &["tenant_id", "mode"], "balance"),
    table("users", &["id"]),
    table("operators", &["id"]),
    table("sessions", &["id"]),
    table("api_keys", &["id"]),
    table("login_failures", &["subject", "at", "n"]),
    table("plans", &["id"]),
    table("offers", &["connection", "upstream_plan_id"]),
    table("offer_changes", &["id"]),
    table("catalogue_syncs", &["connection"]),
    money("orders", &["id"], "quantity * unit_price - refunded"),
    table("travellers", &["order_id"]),
    money("esims", &["id"], "refunded"),
    table("esim_usage", &["esim_id"]),
    table("esim_watches", &["esim_id"]),
    table("placements", &["order_id", "k"]),
    table("jobs", &["id"]),
    money("ledger_entries", &["id"], "amount"),
    table("entry_notes", &["entry_id"]),
    money("top_ups", &["id"], "amount"),
    table("inquiries", &["id"]),
    table("audit_log", &["id"]),
    table("audit_reasons", &["audit_id"]),
    table("idempotency_keys", &["result_id"]),
    table("connections", &["id"]),
    table("rates", &["currency_from", "currency_to", "valid_from"]),
    table("markup_rules", &["id"]),
    table("notices", &["id"]),
    table("differences", &["id"]),
    table("secret_keys", &["purpose", "version"]),
    table("early_iccids", &["tenant_id", "mode", "iccid", "order_id"]),
    table("index_entries", &["entry"]),
];

/// The sandbox's own tables, in its file and in its schema.
const SANDBOX: &[Table] =
    &[table("sales", &["first_profile"]), table("changed_profiles", &["number"]), table("turned_away", &["reference"])];

/// Rows of one transaction.
const PORTION: usize = 2_000;

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Rows that were there already, from a move that was broken off.
    pub before: i64,
    /// All rows.
    pub rows: i64,
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> OpenError {
    OpenError(format!("{what}: {error}"))
}

/// Moves everything in the database at `from`, whose index is complete and which nobody uses, to `to`; and the sandbox's
/// world at `sandbox`. What is there of an earlier try stays. Nothing is taken away from `from`.
///
/// # Errors
/// [`OpenError`] when one of them cannot be used, `to` holds another platform, or something differs afterwards.
pub fn move_all(from: &Path, index: &Path, sandbox: &Path, to: &mut Moving) -> Result<Moved, OpenError> {
    Connection::open(index)
        .and_then(|index| leave_each_once(&index))
        .map_err(|error| failed(&format!("the search index {} cannot be read", index.display()), &error))?;
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|source| source.execute("attach ?1 as derived", [index.to_string_lossy()]).map(|_| source))
        .map_err(|error| failed(&format!("the database {} cannot be read", from.display()), &error))?;
    to.begin(&fingerprint(&source)?)?;
    let mut moved = Moved::default();
    for table in TABLES {
        move_table(&source, table, "", &mut to.link, &mut moved)?;
    }
    move_settings(&source, &mut to.link)?;
    if sandbox.exists() {
        let world = Connection::open_with_flags(sandbox, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| failed(&format!("the sandbox's world {} cannot be read", sandbox.display()), &error))?;
        for table in SANDBOX {
            move_table(&world, table, "sandbox.", &mut to.link, &mut moved)?;
        }
        let seed = sqlite_text(&world, "select seed from world")?;
        to.finish_sandbox(&seed)?;
    }
    to.finish()?;
    Ok(moved)
}

/// Tells one platform from another: its first tenant and its first entry.
fn fingerprint(source: &Connection) -> Result<String, OpenError> {
    sqlite_text(
        source,
        "select coalesce((select hex(min(id)) from tenants), '') || ' ' ||
         coalesce((select hex(min(id)) from ledger_entries), '')",
    )
}

fn sqlite_text(source: &Connection, sql: &str) -> Result<String, OpenError> {
    let text = source.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Null => "0".to_owned(),
            ValueRef::Integer(value) => value.to_string(),
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        })
    });
    text.map_err(|error| failed("the embedded database cannot be read", &error))
}

fn postgres_text(link: &mut Link, sql: &str) -> Result<String, OpenError> {
    let rows = link.query(sql, &[]).map_err(|fault| failed("the new database cannot be read", &fault))?;
    let text = rows.first().map(|row| Found(row).opt_text(0).map(|text| text.unwrap_or("0").to_owned()));
    text.transpose().map(Option::unwrap_or_default).map_err(|fault| failed("the new database cannot be read", &fault))
}

/// The columns of a table and how PostgreSQL calls their types.
fn columns(source: &Connection, table: &str) -> rusqlite::Result<Vec<(String, &'static str)>> {
    let mut statement = source.prepare(&format!("pragma table_info({table})"))?;
    let columns = statement.query_map([], |row| {
        let kind = match row.get::<_, String>(2)?.to_lowercase().as_str() {
            "integer" => "int8",
            "blob" => "bytea",
            _ => "text",
        };
        Ok((row.get(1)?, kind))
    })?;
    columns.collect()
}

fn owned(value: ValueRef<'_>) -> Owned {
    match value {
        ValueRef::Null => Owned::Null,
        ValueRef::Integer(value) => Owned::Int(value),
        ValueRef::Text(text) => Owned::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Owned::Bytes(bytes.to_vec()),
        // No column of the schema is one.
        ValueRef::Real(value) => Owned::Text(value.to_string()),
    }
}

fn move_table(
    source: &Connection,
    table: &Table,
    schema: &str,
    link: &mut Link,
    moved: &mut Moved,
) -> Result<(), OpenError> {
    let name = table.name;
    let reading = |error: rusqlite::Error| failed(&format!("{name} cannot be read"), &error);
    let writing = |fault: Fault| failed(&format!("{name} cannot be written"), &fault);
    let columns = columns(source, name).map_err(reading)?;
    let names = columns.iter().map(|(column, _)| column.as_str()).collect::<Vec<_>>().join(", ");
    let key = table.key.join(", ");
    // Where an earlier try came to.
    let newest_first = table.key.iter().map(|column| format!("{column} desc")).collect::<Vec<_>>().join(", ");
    let last = link.query(&format!("select {key} from {schema}{name} order by {newest_first} limit 1"), &[]);
    let last = last.map_err(writing)?;
    let mut after: Option<Vec<Owned>> = match last.first() {
        None => None,
        Some(row) => {
            let found = Found(row);
            Some((0..table.key.len()).map(|column| found.owned(column)).collect::<Result<_, _>>().map_err(writing)?)
        }
    };
    moved.before += count(postgres_text(link, &format!("select count(*)::text from {schema}{name}"))?)?;
    let places = (1..=table.key.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
    let insert = {
        let arrays =
            columns.iter().enumerate().map(|(at, (_, kind))| format!("${}::{kind}[]", at + 1)).collect::<Vec<_>>();
        format!("insert into {schema}{name} ({names}) select * from unnest({})", arrays.join(", "))
    };
    loop {
        let condition = if after.is_some() { format!("where ({key}) > ({places})") } else { String::new() };
        let sql = format!("select {names} from {name} {condition} order by {key} limit {PORTION}");
        let mut statement = source.prepare_cached(&sql).map_err(reading)?;
        let bound: Vec<rusqlite::types::Value> = after.iter().flatten().map(bound).collect();
        let mut rows = statement.query(rusqlite::params_from_iter(bound)).map_err(reading)?;
        let mut portion: Vec<Vec<Owned>> = vec![Vec::with_capacity(PORTION); columns.len()];
        while let Some(row) = rows.next().map_err(reading)? {
            for (column, values) in portion.iter_mut().enumerate() {
                values.push(owned(row.get_ref(column).map_err(reading)?));
            }
        }
        let taken = portion.first().map_or(0, Vec::len);
        if taken == 0 {
            break;
        }
        let at = |name: &str| columns.iter().position(|(column, _)| column == name);
        after = table.key.iter().map(|name| portion.get(at(name)?)?.last().cloned()).collect();
        link.insert_columns(&insert, &portion).map_err(writing)?;
        if taken < PORTION {
            break;
        }
    }
    compare(source, table, schema, link, moved)
}

fn bound(value: &Owned) -> rusqlite::types::Value {
    match value {
        Owned::Null => rusqlite::types::Value::Null,
        Owned::Int(value) => rusqlite::types::Value::Integer(*value),
        Owned::Text(text) => rusqlite::types::Value::Text(text.clone()),
        Owned::Bytes(bytes) => rusqlite::types::Value::Blob(bytes.clone()),
    }
}

fn count(text: String) -> Result<i64, OpenError> {
    text.parse().map_err(|_| OpenError(format!("{text:?} is no number of rows")))
}

fn compare(
    source: &Connection,
    table: &Table,
    schema: &str,
    link: &mut Link,
    moved: &mut Moved,
) -> Result<(), OpenError> {
    let name = table.name;
    let rows = sqlite_text(source, &format!("select count(*) from {name}"))?;
    let there = postgres_text(link, &format!("select count(*)::text from {schema}{name}"))?;
    if rows != there {
        return Err(OpenError(format!(
            "{name}: {there} rows of {rows} are there; empty the new database and start again"
        )));
    }
    moved.rows += count(rows)?;
    if let Some(sum) = table.sum {
        let one = sqlite_text(source, &format!("select sum({sum}) from {name}"))?;
        let other = postgres_text(link, &format!("select sum({sum})::text from {schema}{name}"))?;
        if one != other {
            return Err(OpenError(format!("{name}: the sum of {sum} was {one} and is {other}")));
        }
    }
    Ok(())
}

/// The settings that mean the same on both: not the marks of what is in memory here and locks there.
fn move_settings(source: &Connection, link: &mut Link) -> Result<(), OpenError> {
    let reading = |error: rusqlite::Error| failed("settings cannot be read", &error);
    let mut statement = source
        .prepare("select name, value from settings where name in ('audit_head', 'plans_revision', 'pricing_version')")
        .map_err(reading)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    for row in rows.map_err(reading)? {
        let (name, value) = row.map_err(reading)?;
        let sql = "insert into settings (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value";
        let values = [Value::from(&name), Value::from(&value)];
        link.execute(sql, &values).map_err(|fault| failed("settings cannot be written", &fault))?;
    }
    Ok(())
}
