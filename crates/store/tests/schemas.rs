//! The two schemas say the same, and every statement of the store means something on both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
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
