//! What lags behind the ledger catches up with it: the rows of `balances`, which are written now and then, and the
//! search index, which lies in a file of its own and may be missing, foreign, or of an older program.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::fulfilment::Outcome;
use domain::id::{OrderId, PlanId, TenantId};
use domain::ledger::Damage;
use domain::order::{OrderFilter, OrderStatus};
use domain::tenant::Mode;
use rusqlite::Connection;
use std::path::PathBuf;
use store::Store;
use store::checkout::SANDBOX;
use store::fulfilment::{Heard, record_answer};
use store::sqlite::Sqlite;
use world::*;

struct Shop {
    folder: Folder,
    clock: Clock,
    tenant: TenantId,
    plan: PlanId,
    orders: Vec<OrderId>,
}

impl Shop {
    /// A closed database with some orders, newest first, of which all but the newest are completed.
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
        let (tenant, plan) = (tenant(&db, "acme", 10_000), on_sale(&db, SANDBOX, "sand", 450));
        let mut orders = Vec::new();
        for number in 0..5_u8 {
            clock.advance(1_000);
            orders.push(buy(&db, tenant, Mode::Test, &[(plan, 2)]).orders[0].id);
            if number < 4 {
                for leased in db.write(|tx| claim_any(tx, 9, LEASE_MS)).unwrap() {
                    let profiles = vec![profile(&format!("894410000000000000{number}"))];
                    let heard = Heard::Place(Outcome::Done { profiles });
                    db.write(move |tx| record_answer(tx, &leased, &heard, "raw", None, PATIENCE)).unwrap();
                }
            }
        }
        orders.reverse();
        db.index_all();
        Self { folder, clock, tenant, plan, orders }
    }

    fn open(&self) -> Db {
        Db::new(sqlite(&self.folder, 2, self.clock.as_now()).unwrap())
    }

    fn raw(&self) -> Connection {
        Connection::open(self.folder.file()).unwrap()
    }

    fn index(&self) -> PathBuf {
        self.folder.file().with_extension("index.db")
    }

    fn find(&self, db: &Db, filter: OrderFilter) -> Vec<OrderId> {
        let tenant = self.tenant;
        let list = db.read(move |snapshot| store::order::list(snapshot, tenant, Mode::Test, &filter, None, 100));
        list.orders.iter().map(|order| order.id).collect()
    }

    /// Every way to search finds what it should.
    fn assert_found(&self, db: &Db) {
        let all = OrderFilter::default;
        assert_eq!(self.find(db, all()), self.orders);
        assert_eq!(self.find(db, OrderFilter { plan: Some(self.plan), ..all() }), self.orders);
        let status = |status| self.find(db, OrderFilter { status: Some(status), ..all() });
        assert_eq!(status(OrderStatus::Processing), self.orders[..1]);
        assert_eq!(status(OrderStatus::PartiallyCompleted), self.orders[1..]);
        assert_eq!(status(OrderStatus::Completed), []);
        let second = db.order(self.orders[3]);
        let iccid = second.esims[0].iccid.clone();
        assert_eq!(self.find(db, OrderFilter { iccid: iccid.clone(), ..all() }), [second.id]);
        for query in [Some(second.number.to_lowercase()), iccid] {
            assert_eq!(self.find(db, OrderFilter { query, ..all() }), [second.id]);
        }
    }
}

/// Puts the rows back to where they were when the `last` entry was the newest, as a process leaves them that is
/// killed before it wrote them again.
fn put_back(raw: &Connection, last: i64) {
    let sql = "select id, balance_after, hash from ledger_entries where mode = 'test' and position = ?1";
    let (id, balance, hash): ([u8; 16], i64, Vec<u8>) =
        raw.query_row(sql, [last], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let orders = "select count(*) from ledger_entries where mode = 'test' and position <= ?1 and kind = 'purchase'";
    let orders: i64 = raw.query_row(orders, [last], |row| row.get(0)).unwrap();
    raw.execute(
        "update balances set balance = ?1, entry_count = ?2, entry_hash = ?3, order_count = ?4 where mode = 'test'",
        (balance, last, hash, orders),
    )
    .unwrap();
    let id = uuid::Uuid::from_bytes(id).to_string();
    raw.execute("insert or replace into settings (name, value) values ('balances_watermark', ?1)", [id]).unwrap();
}

fn row(raw: &Connection) -> (i64, i64, Vec<u8>, i64) {
    let sql = "select balance, entry_count, entry_hash, order_count from balances where mode = 'test'";
    raw.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap()
}

#[test]
fn balances_that_lag_are_what_the_ledger_says_at_the_next_start() {
    let shop = Shop::new();
    let raw = shop.raw();
    let whole = row(&raw);
    let entries = whole.1;
    for last in 1..=entries {
        put_back(&raw, last);
        // Beside the process, the check follows the tail.
        let beside = Db::new(Store::new(Sqlite::open_to_read(&shop.folder.file()).unwrap()));
        assert_eq!(beside.check(), Ok(()), "entry {last}");
        assert_eq!(beside.balance(shop.tenant, Mode::Test), whole.0, "entry {last}");
        drop(beside);
        let db = shop.open();
        assert_eq!(db.balance(shop.tenant, Mode::Test), whole.0, "entry {last}");
        assert_eq!(db.check(), Ok(()), "entry {last}");
        drop(db);
        assert_eq!(row(&raw), whole, "entry {last}");
    }
    // The chain and the numbers of orders go on where they ended.
    put_back(&raw, 1);
    let db = shop.open();
    let next = buy(&db, shop.tenant, Mode::Test, &[(shop.plan, 1)]);
    assert_eq!(next.orders[0].number, "T1001-000006");
    assert_eq!(next.credit_balance.minor(), whole.0 - 450);
    assert_eq!(db.check(), Ok(()));
}

#[test]
fn entries_behind_the_end_of_a_stopped_ledger_are_no_tail() {
    let shop = Shop::new();
    let raw = shop.raw();
    let watermarks: i64 =
        raw.query_row("select count(*) from settings where name = 'balances_watermark'", [], |row| row.get(0)).unwrap();
    assert_eq!(watermarks, 0, "stopped in good order");
    raw.execute("update balances set entry_count = entry_count - 1 where mode = 'test'", []).unwrap();
    let beside = Db::new(Store::new(Sqlite::open_to_read(&shop.folder.file()).unwrap()));
    assert_eq!(beside.check().unwrap_err().damage, Damage::WrongCount);
}

#[test]
fn while_it_works_the_balance_is_the_newest_for_every_reader() {
    let shop = Shop::new();
    let db = shop.open();
    let mut balance = db.balance(shop.tenant, Mode::Test);
    for _ in 0..5 {
        balance -= 450;
        assert_eq!(buy(&db, shop.tenant, Mode::Test, &[(shop.plan, 1)]).credit_balance.minor(), balance);
        assert_eq!(db.balance(shop.tenant, Mode::Test), balance);
        assert_eq!(db.check(), Ok(()));
    }
    drop(db);
    assert_eq!(row(&shop.raw()).0, balance);
}

#[test]
fn a_missing_or_useless_index_is_made_anew() {
    let shop = Shop::new();
    let spoil: [(&str, &dyn Fn()); 5] = [
        ("missing", &|| std::fs::remove_file(shop.index()).unwrap()),
        ("not a database", &|| std::fs::write(shop.index(), vec![b'x'; 8_192]).unwrap()),
        ("of another version", &|| {
            Connection::open(shop.index()).unwrap().pragma_update(None, "user_version", 99).unwrap();
        }),
        ("of another ledger", &|| {
            let index = Connection::open(shop.index()).unwrap();
            index.execute("update index_watermark set entry_id = ?1", [[0xEE_u8; 16]]).unwrap();
        }),
        ("without its tables", &|| {
            Connection::open(shop.index()).unwrap().execute_batch("drop table index_watermark").unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        spoil();
        let db = shop.open();
        shop.assert_found(&db);
        db.index_all();
        shop.assert_found(&db);
        drop(db);
        let db = shop.open();
        assert_eq!(db.take_tail(), 0, "{what}: all is indexed");
        shop.assert_found(&db);
    }
}

#[test]
fn what_the_index_has_in_two_places_is_listed_once() {
    let shop = Shop::new();
    let index = Connection::open(shop.index()).unwrap();
    let copied = index.execute("insert into index_level_2 (entry) select entry from index_level_0", []).unwrap();
    assert!(copied > 0);
    shop.assert_found(&shop.open());
}

#[test]
fn the_index_of_the_first_schema_is_made_anew() {
    let shop = Shop::new();
    let raw = shop.raw();
    // As the first version left it: the index inside, and no table of early ICCIDs.
    raw.execute_batch(
        "drop index jobs_due; create index jobs_due on jobs (run_at) where state <> 'dead';
         alter table jobs drop column upstream; alter table placements drop column cost_units;
         alter table placements drop column cost_decimals; alter table placements drop column cost_currency;
         alter table placements drop column cost;
         drop table rates; drop table markup_rules; alter table tenants drop column tier;
         delete from settings where name = 'pricing_version';
         drop table connections; drop table notices; drop table differences; drop table early_iccids; alter table jobs drop column lease;
         alter table placements drop column upstream_order; alter table esims drop column upstream_handle;
         drop table offers; drop table offer_changes; drop table catalogue_syncs; drop index plans_by_revision;
         drop table esim_usage; drop table esim_watches;
         alter table plans drop column priced_by; alter table plans drop column withdrawn_by;
         alter table plans drop column revision; delete from settings where name = 'plans_revision';
         create table index_entries (tenant_id blob not null, mode text not null, kind text not null, key text not null,
             id blob not null, primary key (tenant_id, mode, kind, key, id)) without rowid;
         insert into index_entries values (x'01', 'live', 'o', '', x'02');
         insert into settings values ('index_watermark', '00000000-0000-7000-8000-000000000000');",
    )
    .unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    std::fs::remove_file(shop.index()).unwrap();
    let db = shop.open();
    shop.assert_found(&db);
    db.index_all();
    shop.assert_found(&db);
    drop(db);
    let gone: bool =
        raw.prepare("select 1 from sqlite_master where name = 'index_entries'").unwrap().exists([]).unwrap();
    assert!(!gone, "the table inside is gone");
}

#[test]
fn orders_with_many_iccids_are_indexed_in_bounded_portions() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "many", 0), on_sale(&db, SANDBOX, "for nothing", 0));
    // More ICCIDs than one portion holds rows.
    let iccid = |order: u32, esim: u32| format!("89441{order:06}{esim:07}");
    for order in 0..2_700 {
        buy(&db, tenant, Mode::Test, &[(plan, 100)]);
        let profiles = (0..100).map(|esim| profile(&iccid(order, esim))).collect();
        answer_next(&db, &Outcome::Done { profiles });
    }
    let mut portions = Vec::new();
    loop {
        match db.take_tail() {
            0 => break,
            entries => portions.push(entries),
        }
    }
    assert_eq!(portions.iter().sum::<usize>(), 5_400, "{portions:?}");
    assert!(portions.len() > 1, "{portions:?}");
    for order in [0, 1_350, 2_699] {
        let filter = OrderFilter { iccid: Some(iccid(order, 99)), ..OrderFilter::default() };
        let found = db.read(move |snapshot| store::order::list(snapshot, tenant, Mode::Test, &filter, None, 10));
        assert_eq!(found.orders.len(), 1, "{order}");
    }
}

#[cfg(unix)]
#[test]
fn the_index_is_as_private_as_the_database() {
    use std::os::unix::fs::PermissionsExt;
    let shop = Shop::new();
    std::fs::remove_file(shop.index()).unwrap();
    std::fs::set_permissions(shop.folder.file(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let _db = shop.open();
    assert_eq!(std::fs::metadata(shop.index()).unwrap().permissions().mode() & 0o777, 0o600);
}
