//! What the checks are for: every column of every row of a small ledger is changed behind the program's
//! back, rows are taken out, put in and cut off, and the check names where. Likewise the audit log.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::ledger::Damage;
use domain::tenant::{Mode, TenantStatus};
use rusqlite::Connection;
use rusqlite::types::Value;
use store::Store;
use store::checkout::SANDBOX;
use store::fulfilment::{Heard, OperatorRefund, record_answer, refund_by_operator};
use store::ledger::Finding;
use store::sqlite::Sqlite;
use store::top_up::NewTopUp;
use world::*;

/// A closed database with some of everything, to be changed by hand.
struct Books {
    folder: Folder,
    raw: Connection,
}

impl Books {
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
        let (anna, bert) = (tenant(&db, "anna", 10_000), tenant(&db, "bert", 0));
        let (sand, threes) = (on_sale(&db, SANDBOX, "sand", 450), on_sale(&db, IN_THREES, "threes", 600));
        credit(&db, bert, 20_000);
        let new = NewTopUp { scope: scope(bert, Mode::Live), amount: usd(5_000), expires_in_ms: 1_000, key: None };
        let top_up = db.write(move |tx| store::top_up::begin(tx, &new)).unwrap().0.id;
        db.write(move |tx| store::top_up::approve(tx, &act(), top_up, None, None)).unwrap();
        let order = buy(&db, anna, Mode::Test, &[(sand, 3), (sand, 1)]).orders[0].id;
        buy(&db, bert, Mode::Live, &[(threes, 2)]);
        clock.advance(1_000);
        for leased in db.write(|tx| claim_any(tx, 2, LEASE_MS)).unwrap() {
            // One of three comes, and one of one.
            let profiles = vec![profile("8944100000000000001")];
            let heard = Heard::Place(domain::fulfilment::Outcome::Done { profiles });
            db.write(move |tx| record_answer(tx, &leased, &heard, "raw", None, PATIENCE)).unwrap();
        }
        let refund = OperatorRefund::Amount(usd(100));
        db.write(move |tx| refund_by_operator(tx, &act(), order, &refund, "late", None)).unwrap();
        credit(&db, bert, -300);
        db.write(move |tx| store::tenant::set_status(tx, &act(), bert, TenantStatus::Suspended, "why")).unwrap();
        assert_eq!(db.check(), Ok(()));
        drop(db);
        let raw = Connection::open(folder.file()).unwrap();
        raw.pragma_update(None, "synchronous", "off").unwrap();
        Self { folder, raw }
    }

    /// As the command line reads; damage is never a fault, which would end the test.
    fn read(&self) -> Db {
        Db::new(Store::new(Sqlite::open_to_read(&self.folder.file()).unwrap()))
    }

    fn check(&self) -> Result<(), Finding> {
        self.read().read(check_ledger)
    }

    fn check_audit(&self) -> Option<String> {
        self.read().read(store::audit::check)
    }

    fn columns(&self, table: &str) -> Vec<String> {
        let statement = self.raw.prepare(&format!("select * from {table}")).unwrap();
        statement.column_names().map(str::to_owned).collect()
    }

    /// All rows in order of their keys, as they lie there.
    fn rows(&self, table: &str) -> Vec<Vec<Value>> {
        let mut statement = self.raw.prepare(&format!("select * from {table} order by 1, 2")).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get(column)).collect();
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    fn set(&self, table: &str, column: &str, value: &Value, first_two: (&Value, &Value)) {
        let columns = self.columns(table);
        let sql = format!("update {table} set {column} = ?1 where {} = ?2 and {} = ?3", columns[0], columns[1]);
        assert_eq!(self.raw.execute(&sql, [value, first_two.0, first_two.1]).unwrap(), 1);
    }

    fn insert(&self, table: &str, row: &[Value]) {
        let places: Vec<String> = (1..=row.len()).map(|place| format!("?{place}")).collect();
        let sql = format!("insert into {table} values ({})", places.join(", "));
        self.raw.execute(&sql, rusqlite::params_from_iter(row)).unwrap();
    }

    fn delete(&self, table: &str, row: &[Value]) {
        let key = &self.columns(table)[0];
        assert_eq!(self.raw.execute(&format!("delete from {table} where {key} = ?1"), [&row[0]]).unwrap(), 1);
    }

    /// Changes one value, looks, and puts it back.
    fn with<T>(&self, table: &str, row: &[Value], column: usize, value: &Value, look: impl FnOnce() -> T) -> T {
        let name = &self.columns(table)[column];
        let mut changed = row.to_vec();
        changed[column] = value.clone();
        self.set(table, name, value, (&row[0], &row[1]));
        let seen = look();
        self.set(table, name, &row[column], (&changed[0], &changed[1]));
        seen
    }
}

/// Other values for a place: one byte or one unit away, of another length, of another type.
fn others(value: &Value, nullable: bool, in_use: &[Value]) -> Vec<Value> {
    let mut others = match value {
        Value::Null => vec![Value::Blob(vec![1; 16]), Value::Blob(Vec::new())],
        Value::Integer(number) => {
            vec![
                Value::Integer(number + 1),
                Value::Integer(number - 1),
                Value::Integer(-number - 7),
                Value::Text("x".into()),
            ]
        }
        Value::Text(text) if text.is_empty() => vec![Value::Text("x".into())],
        Value::Text(text) => {
            let last = text.len() - 1;
            vec![
                Value::Text(format!("{}~", &text[..last])),
                Value::Text(format!("{text} ")),
                Value::Text(String::new()),
            ]
        }
        Value::Blob(bytes) => {
            let flipped = |at: usize| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                Value::Blob(bytes)
            };
            let mut flips: Vec<Value> = [0, 7, bytes.len() / 2, bytes.len() - 1].map(flipped).to_vec();
            flips.push(Value::Blob(bytes[1..].to_vec()));
            flips.push(Value::Text("x".into()));
            flips
        }
        Value::Real(_) => Vec::new(),
    };
    if nullable && *value != Value::Null {
        others.push(Value::Null);
    }
    // What other rows hold is the likeliest forgery.
    others.extend(in_use.iter().filter(|other| *other != value && **other != Value::Null).take(4).cloned());
    others.dedup();
    others
}

fn hex(value: &Value) -> String {
    match value {
        Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => "no id".to_owned(),
    }
}

fn plain(text: &str) -> String {
    text.replace('-', "")
}

/// Whether the finding leads to this row: its entry by its old or new id, or its tenant.
fn leads_to(finding: &Finding, row: &[Value], changed: Option<&Value>) -> bool {
    let entry = finding.entry.as_deref().map(plain);
    let named = |id: &Value| entry == Some(hex(id));
    named(&row[0]) || changed.is_some_and(named) || plain(&finding.subject).contains(&hex(&row[1]))
}

#[test]
fn every_column_of_every_entry_is_guarded() {
    let books = Books::new();
    assert_eq!(books.check(), Ok(()));
    let (columns, rows) = (books.columns("ledger_entries"), books.rows("ledger_entries"));
    assert!(rows.len() >= 10, "{}", rows.len());
    let mut changes = 0;
    for row in &rows {
        for (index, column) in columns.iter().enumerate() {
            let in_use: Vec<Value> =
                if index == 0 { Vec::new() } else { rows.iter().map(|row| row[index].clone()).collect() };
            let nullable = column == "order_id" || column == "top_up_id";
            for other in others(&row[index], nullable, &in_use) {
                let finding = books.with("ledger_entries", row, index, &other, || books.check());
                let finding = finding.expect_err(&format!("{column} {:?} -> {other:?}", row[index]));
                assert!(
                    leads_to(&finding, row, (index == 0).then_some(&other)),
                    "{column} {row:?} -> {other:?}: {finding:?}"
                );
                // What keeps the entry in its place is named exactly.
                if !["id", "tenant_id", "mode", "position"].contains(&column.as_str()) {
                    assert_eq!(finding.entry.as_deref().map(plain), Some(hex(&row[0])), "{column} -> {other:?}");
                }
                changes += 1;
            }
        }
    }
    assert!(changes > 500, "{changes}");
    assert_eq!(books.check(), Ok(()));
}

#[test]
fn the_balances_are_guarded() {
    let books = Books::new();
    let columns = books.columns("balances");
    for row in &books.rows("balances") {
        for name in ["balance", "entry_count", "entry_hash"] {
            let index = columns.iter().position(|column| column == name).unwrap();
            for other in others(&row[index], false, &[]) {
                let finding = books.with("balances", row, index, &other, || books.check());
                let finding = finding.expect_err(&format!("{name} {:?} -> {other:?}", row[index]));
                let Value::Text(mode) = &row[1] else { unreachable!("a mode is a word") };
                assert!(plain(&finding.subject).contains(&hex(&row[0])), "{finding:?}");
                assert!(finding.subject.ends_with(&format!("({mode})")), "{finding:?}");
            }
        }
    }
    assert_eq!(books.check(), Ok(()));
}

#[test]
fn a_credited_top_up_is_guarded() {
    let books = Books::new();
    let columns = books.columns("top_ups");
    let [row] = books.rows("top_ups").try_into().unwrap();
    let open = ["pending", "under_review", "expired", "rejected"].map(|word| Value::Text(word.into()));
    let wrong = [
        ("credited", vec![Value::Integer(4_999), Value::Null]),
        ("status", open.to_vec()),
        ("tenant_id", vec![Value::Blob(vec![1; 16])]),
    ];
    for (name, others) in wrong {
        let index = columns.iter().position(|column| column == name).unwrap();
        for other in others {
            let finding = books.with("top_ups", &row, index, &other, || books.check()).unwrap_err();
            assert_eq!(finding.damage, Damage::TopUpMismatch, "{name} -> {other:?}");
        }
    }
    assert_eq!(books.check(), Ok(()));
}

#[test]
fn missing_entries_are_missed() {
    let books = Books::new();
    let rows = books.rows("ledger_entries");
    for row in &rows {
        books.delete("ledger_entries", row);
        let finding = books.check().unwrap_err();
        assert!(leads_to(&finding, row, None), "{row:?}: {finding:?}");
        books.insert("ledger_entries", row);
    }
    assert_eq!(books.check(), Ok(()));
    // From the last one alone to all of them.
    for from in (0..rows.len()).rev() {
        books.delete("ledger_entries", &rows[from]);
        let finding = books.check().unwrap_err();
        assert!(rows[from..].iter().any(|row| leads_to(&finding, row, None)), "{finding:?}");
    }
}

#[test]
fn copied_entries_are_noticed() {
    let books = Books::new();
    for row in &books.rows("ledger_entries") {
        let Value::Blob(id) = &row[0] else { unreachable!("an id is a blob") };
        let behind = {
            let mut id = id.clone();
            id[15] ^= 1;
            id
        };
        let at_the_end = vec![0xFE; 16];
        for id in [behind, at_the_end] {
            let mut copy = row.clone();
            copy[0] = Value::Blob(id);
            books.insert("ledger_entries", &copy);
            let finding = books.check().unwrap_err();
            assert!(leads_to(&finding, &copy, None), "{finding:?}");
            books.delete("ledger_entries", &copy);
        }
    }
    assert_eq!(books.check(), Ok(()));
}

#[test]
fn orders_that_say_something_else_are_named() {
    let books = Books::new();
    let orders = books.columns("orders");
    let refunded = orders.iter().position(|column| column == "refunded").unwrap();
    let row = books.rows("orders").into_iter().find(|row| row[refunded] != Value::Integer(0)).unwrap();
    for other in [Value::Integer(0), Value::Integer(901)] {
        let finding = books.with("orders", &row, refunded, &other, || books.check()).unwrap_err();
        assert!(plain(&finding.subject).contains(&hex(&row[0])), "{finding:?}");
    }
    books.delete("orders", &row);
    let finding = books.check().unwrap_err();
    assert!(plain(&finding.subject).contains(&hex(&row[0])), "{finding:?}");
}

#[test]
fn an_order_of_another_size_or_price_is_named() {
    let books = Books::new();
    let columns = books.columns("orders");
    for row in books.rows("orders") {
        for name in ["quantity", "unit_price", "refunded"] {
            let column = columns.iter().position(|column| column == name).unwrap();
            let Value::Integer(stored) = row[column] else { panic!("{name} is no number") };
            let other = Value::Integer(stored + 1);
            let finding = books.with("orders", &row, column, &other, || books.check()).unwrap_err();
            assert!(plain(&finding.subject).contains(&hex(&row[0])), "{name}: {finding:?}");
        }
    }
}

#[test]
fn every_column_of_the_audit_log_is_guarded() {
    let books = Books::new();
    assert_eq!(books.check_audit(), None);
    let (columns, rows) = (books.columns("audit_log"), books.rows("audit_log"));
    assert!(rows.len() >= 4, "{}", rows.len());
    for row in &rows {
        for (index, column) in columns.iter().enumerate() {
            let in_use: Vec<Value> =
                if index == 0 { Vec::new() } else { rows.iter().map(|row| row[index].clone()).collect() };
            for other in others(&row[index], false, &in_use) {
                let named = books.with("audit_log", row, index, &other, || books.check_audit());
                let named =
                    named.unwrap_or_else(|| unreachable!("{column} {:?} -> {other:?} was not noticed", row[index]));
                assert!(column == "id" || plain(&named) == hex(&row[0]), "{column} -> {other:?}: {named}");
            }
        }
    }
    assert_eq!(books.check_audit(), None);
}

#[test]
fn missing_and_copied_audit_records_are_noticed() {
    let books = Books::new();
    let rows = books.rows("audit_log");
    for (index, row) in rows.iter().enumerate() {
        books.delete("audit_log", row);
        let next = rows.get(index + 1).map_or("head".to_owned(), |next| hex(&next[0]));
        assert_eq!(books.check_audit().as_deref().map(plain), Some(next));
        books.insert("audit_log", row);
        let mut copy = row.clone();
        copy[0] = Value::Blob(vec![0xFE; 16]);
        books.insert("audit_log", &copy);
        assert_eq!(books.check_audit().as_deref().map(plain), Some(hex(&copy[0])));
        books.delete("audit_log", &copy);
    }
    assert_eq!(books.check_audit(), None);
    for row in rows.iter().rev() {
        books.delete("audit_log", row);
        assert_eq!(books.check_audit().as_deref(), Some("head"));
    }
}
