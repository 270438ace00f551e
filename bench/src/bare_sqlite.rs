//! The limit below: one loop that writes the rows of checkouts into SQLite with the same schema and the same
//! durability, 64 to a commit, and does nothing else: no HTTP, no JSON, no hash chain, no fulfilment. As in the server
//! the balances are in memory, and their rows are not written with every checkout.

use crate::Outcome;
use crate::figures::per_second;
use crate::random::Random;
use rusqlite::{Connection, params};
use std::path::Path;
use std::time::{Duration, Instant};

/// Checkouts of one commit.
const GROUP: u32 = 64;

const SCHEMA: [&str; 2] = [
    include_str!("../../crates/store/migrations/sqlite/0001_first.sql"),
    include_str!("../../crates/store/migrations/sqlite/0002_index_apart.sql"),
];

type Bytes16 = [u8; 16];

fn id(at: u64, number: u64) -> Bytes16 {
    // Like version 7: the time first, so that the tables append.
    ((u128::from(at) << 80) | u128::from(number)).to_be_bytes()
}

fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

/// Checkouts per second.
pub fn run(path: &Path, duration: Duration, tenants: u32, seed: u64) -> Outcome<f64> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -24_576)?;
    connection.set_prepared_statement_cache_capacity(64);
    SCHEMA.iter().try_for_each(|migration| connection.execute_batch(migration))?;
    let mut tenants = prepare(&connection, tenants)?;
    let mut random = Random(seed);
    let mut checkouts = 0;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        connection.prepare_cached("begin immediate")?.execute([])?;
        for _ in 0..GROUP {
            let tenant = random.below(tenants.len());
            let tenant = tenants.get_mut(tenant).ok_or("there are no tenants")?;
            checkout(&connection, tenant, &mut random)?;
        }
        connection.prepare_cached("commit")?.execute([])?;
        checkouts += GROUP;
    }
    Ok(per_second(checkouts, begun.elapsed()))
}

struct Tenant {
    id: Bytes16,
    number: usize,
    balance: i64,
    position: i64,
}

fn prepare(connection: &Connection, tenants: u32) -> Outcome<Vec<Tenant>> {
    let now = unix_millis();
    connection.execute_batch("begin")?;
    connection.execute(
        "insert into plans (id, provider, upstream_plan_id, name, plan_type, countries, unlimited, validity_days, price,
             currency, networks, activation, top_up_supported)
         values (?1, 'sandbox', 'sandbox-delivers', 'Sandbox: delivers', 'local', 'FR', 0, 30, 450, 'USD', '[]',
             'on_install', 0)",
        params![id(0, 0)],
    )?;
    let tenants: Vec<Bytes16> = (0..u64::from(tenants)).map(|number| id(now, number)).collect();
    for (number, tenant) in tenants.iter().enumerate() {
        connection.execute(
            "insert into tenants (id, number, name, subdomain, contact_email, status, currency)
             values (?1, ?2, 'Bench', ?3, 'bench@example.com', 'active', 'USD')",
            params![tenant, i64::try_from(number)?, format!("bench-{number}")],
        )?;
        connection.execute(
            "insert into balances (tenant_id, mode, balance, credit_limit, entry_count, entry_hash, order_count)
             values (?1, 'live', 1000000000, 0, 0, zeroblob(32), 0)",
            params![tenant],
        )?;
    }
    connection.execute_batch("commit")?;
    let tenant = |(number, id)| Tenant { id, number, balance: 1_000_000_000, position: 0 };
    Ok(tenants.into_iter().enumerate().map(tenant).collect())
}

/// The statements of a checkout of one line, in their order.
fn checkout(connection: &Connection, tenant: &mut Tenant, random: &mut Random) -> Outcome<()> {
    let (name, price): (String, i64) = connection
        .prepare_cached("select name, price from plans where id = ?1 and withdrawn_at is null")?
        .query_row([id(0, 0)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    tenant.balance -= price;
    tenant.position += 1;
    let Tenant { id: tenant, number, balance, position } = *tenant;
    let now = unix_millis();
    let order = id(now, random.next());
    let (made_of, key) = (id(now, random.next()), random.next());
    let hash = [random.next().to_be_bytes(); 4].concat();
    connection
        .prepare_cached(
            "insert into orders (id, tenant_id, mode, checkout_id, number, plan_id, plan_name, quantity, unit_price,
                 refunded, currency, status, timeline)
             values (?1, ?2, 'live', ?3, ?4, ?5, ?6, 1, ?7, 0, 'USD', 'processing', '')",
        )?
        .execute(params![order, tenant, made_of, format!("{number}-{position:06}"), id(0, 0), name, price])?;
    connection
        .prepare_cached("insert into travellers (order_id, tenant_id, email, reference) values (?1, ?2, ?3, ?4)")?
        .execute(params![
            order,
            tenant,
            format!("traveller-{key:016x}@example.com"),
            format!("order-{:016x}", random.next())
        ])?;
    connection
        .prepare_cached(
            "insert into jobs (id, kind, order_id, tenant_id, state, attempts, run_at)
             values (?1, 'fulfil', ?1, ?2, 'ready', 0, ?3)",
        )?
        .execute(params![order, tenant, i64::try_from(now)?])?;
    connection
        .prepare_cached(
            "insert into ledger_entries (id, tenant_id, mode, position, kind, source, target, amount, currency,
                 balance_after, order_id, hash)
             values (?1, ?2, 'live', ?3, 'purchase', 'tenant_credit', 'sales_held', ?4, 'USD', ?5, ?1, ?6)",
        )?
        .execute(params![order, tenant, position, price, balance, hash])?;
    connection
        .prepare_cached("insert into idempotency_keys (result_id, key_hash, body_hash, made) values (?1, ?2, ?3, 1)")?
        .execute(params![made_of, id(key, random.next()), id(random.next(), key)])?;
    Ok(())
}
