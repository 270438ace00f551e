//! The two schemas say the same, and every statement of the store means something on both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::catalogue::{Sifted, diff};
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use std::collections::{BTreeMap, BTreeSet};
use store::offer::{Source, apply_changes};
use store::postgres::Moving;
use store::sqlite::index_path;
use testing::FreshDatabase;
use world::*;

/// A column: its kind, and whether it must not be null.
type Columns = BTreeMap<String, (String, bool)>;

/// A table: its columns and its primary key.
type Tables = BTreeMap<String, (Columns, Vec<String>)>;

fn of_sqlite(folder: &Folder) -> Tables {
    let raw = rusqlite::Connection::open(folder.file()).unwrap();
    let names: Vec<String> = raw
        .prepare("select name from sqlite_master where type = 'table'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let table = |name: &String| {
        let mut statement = raw.prepare(&format!("pragma table_info({name})")).unwrap();
        let columns: Vec<(String, String, bool, u32)> = statement
            .query_map([], |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?, row.get(5)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let mut key: Vec<_> = columns.iter().filter(|column| column.3 > 0).collect();
        key.sort_by_key(|column| column.3);
        let key: Vec<String> = key.into_iter().map(|column| column.0.clone()).collect();
        let columns = columns.iter().map(|(column, kind, not_null, place)| {
            // A primary key without rowid is never null, whether it says so or not.
            (column.clone(), (kind.to_lowercase(), *not_null || *place > 0))
        });
        (name.clone(), (columns.collect(), key))
    };
    names.iter().map(table).collect()
}

fn of_postgres(database: &FreshDatabase) -> Tables {
    let mut tables = Tables::new();
    let text = |cell: &Option<String>| cell.clone().unwrap();
    let columns = "select table_name, column_name, data_type, is_nullable, coalesce(collation_name, '')
         from information_schema.columns where table_schema = 'public'";
    for row in database.rows(columns) {
        let kind = match text(&row[2]).as_str() {
            "bigint" => "integer",
            "bytea" => "blob",
            "text" => {
                assert_eq!(text(&row[4]), "C", "{row:?} must be compared byte by byte");
                "text"
            }
            other => panic!("{row:?}: {other}"),
        };
        let column = (kind.to_owned(), text(&row[3]) == "NO");
        tables.entry(text(&row[0])).or_default().0.insert(text(&row[1]), column);
    }
    let keys = "select c.table_name, k.column_name from information_schema.table_constraints c
         join information_schema.key_column_usage k using (constraint_schema, constraint_name)
         where c.constraint_type = 'PRIMARY KEY' and c.table_schema = 'public' order by 1, k.ordinal_position";
    for row in database.rows(keys) {
        tables.get_mut(&text(&row[0])).unwrap().1.push(text(&row[1]));
    }
    tables
}

#[test]
fn the_schemas_differ_where_they_must_and_nowhere_else() {
    let (folder, clock) = (Folder::new(), Clock::new());
    drop(sqlite(&folder, 1, clock.as_now()).unwrap());
    drop(postgres(&folder, 1, clock.as_now()).unwrap());
    let (sqlite, mut postgres) = (of_sqlite(&folder), of_postgres(folder.database()));
    // The schema's version lies in the header of the file; nobody but its process can lose an answer to a commit.
    for only in ["schema_version", "commits"] {
        assert!(postgres.remove(only).is_some(), "{only}");
    }
    // In a file of its own on SQLite.
    assert!(postgres.remove("index_entries").is_some());
    // The nodes' clocks may differ.
    assert!(postgres.get_mut("balances").unwrap().0.remove("last_entry").is_some());
    for (name, table) in &sqlite {
        assert_eq!(postgres.get(name), Some(table), "{name}");
    }
    assert_eq!(sqlite.keys().collect::<Vec<_>>(), postgres.keys().collect::<Vec<_>>());
}

/// The texts of the store's statements: string literals that begin as statements do.
fn statements() -> BTreeSet<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeSet::new();
    // What moves a platform speaks to each database in its own words.
    let is_portable = |path: &std::path::PathBuf| path.is_file() && !path.ends_with("moving.rs");
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(is_portable) {
        // What comes after are tests.
        let source = std::fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap();
        for literal in source.split('"').skip(1).step_by(2) {
            let sql = literal.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
            if ["select ", "insert ", "update ", "delete "].iter().any(|verb| sql.starts_with(verb)) {
                found.insert(sql);
            }
        }
    }
    found
}

#[test]
fn every_statement_is_understood_by_both() {
    let (folder, clock) = (Folder::new(), Clock::new());
    drop(sqlite(&folder, 1, clock.as_now()).unwrap());
    drop(postgres(&folder, 1, clock.as_now()).unwrap());
    let raw = rusqlite::Connection::open(folder.file()).unwrap();
    raw.execute_batch(include_str!("../migrations/sqlite/index.sql")).unwrap();
    folder.database().run(&["create table index_watermark (entry_id bytea not null)"]);
    // Parts that are put into others where they are used; those are run by the other tests on both.
    let whole: Vec<String> = statements().into_iter().filter(|sql| !sql.contains('{')).collect();
    assert!(whole.len() > 80, "{} statements", whole.len());
    for (number, sql) in whole.iter().enumerate() {
        raw.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        folder.database().run(&[&format!("prepare statement_{number} as {sql}")]);
    }
}

/// What there is of upstreams' offers: plans, offers and their changes.
fn catalogue(db: &Db) -> impl PartialEq + std::fmt::Debug + use<> {
    db.read(|snapshot| {
        let plans = store::plan::changed_since(snapshot, 0, 1_000)?;
        let offers = store::offer::list(snapshot, "tsim-1", None, 1_000)?;
        let changes = store::offer::changes(snapshot, None, None, None, 1_000)?;
        Ok((plans, offers, changes, store::catalogue::all(snapshot)?))
    })
}

#[test]
fn what_upstreams_offer_is_moved_with_the_number_of_the_last_change() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
    let offer = |days: i64| Offer {
        upstream_plan_id: format!("{days}"),
        name: format!("{days} days"),
        cost: Cost { units: 15, decimals: 1, currency: "USD".to_owned() },
        countries: vec!["FR".to_owned()],
        data: Data::Daily(512),
        validity_days: days,
        networks: Vec::new(),
        speed: None,
        activation: None,
        add_on_supported: false,
        apn: None,
        remark: None,
    };
    let connection = "tsim-1".to_owned();
    let source = Source { siblings: vec![connection.clone()], connection, currency: Currency::USD };
    for days in [1..9, 3..11] {
        let fetched = Sifted::new(days.map(offer).collect());
        let known = db.read(|snapshot| store::offer::known(snapshot, "tsim-1"));
        let (source, changes) = (source.clone(), diff(&known, &fetched, false).unwrap());
        db.write(move |tx| apply_changes(tx, &source, &changes)).unwrap();
    }
    db.write(|tx| store::catalogue::begin_due(tx, "tsim-1", 0, 1_000)).unwrap();
    let before = catalogue(&db);
    db.index_all();
    drop(db);
    let mut moving = Moving::open(&settings(&folder)).unwrap();
    let nowhere = folder.file().with_extension("none");
    store::moving::move_all(&folder.file(), &index_path(&folder.file()), &nowhere, &mut moving).unwrap();
    drop(moving);
    let db = Db::new(postgres(&folder, 1, clock.as_now()).unwrap());
    assert_eq!(catalogue(&db), before);
    let plans = db.read(|snapshot| store::plan::changed_since(snapshot, 0, 1_000));
    let (id, last) = (plans[0].plan.id, plans.last().unwrap().revision);
    let priced = db.write(move |tx| store::plan::set_price(tx, &act(), id, usd(5))).unwrap();
    assert_eq!(priced.revision, last + 1);
}
