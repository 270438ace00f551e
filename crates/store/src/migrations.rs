//! The schema's versions, applied in order and once.

use rusqlite::Connection;

const SQLITE: &[&str] = &[
    include_str!("../migrations/sqlite/0001_first.sql"),
    include_str!("../migrations/sqlite/0002_index_apart.sql"),
    include_str!("../migrations/sqlite/0003_lease_token.sql"),
    include_str!("../migrations/sqlite/0004_upstream_names.sql"),
    include_str!("../migrations/sqlite/0005_connections.sql"),
    include_str!("../migrations/sqlite/0006_catalogue.sql"),
    include_str!("../migrations/sqlite/0007_pricing.sql"),
    include_str!("../migrations/sqlite/0008_lanes.sql"),
    include_str!("../migrations/sqlite/0009_catalogue_syncs.sql"),
    include_str!("../migrations/sqlite/0010_usage.sql"),
    include_str!("../migrations/sqlite/0011_differences.sql"),
];

/// The schema of the search index's own file, and its version: another version is made anew.
pub(crate) const SQLITE_INDEX: (&str, i64) = (include_str!("../migrations/sqlite/index.sql"), 2);

/// Brings a SQLite database to this program's schema.
///
/// # Errors
/// A line for the operator, also when the schema is newer than the program.
pub(crate) fn migrate_sqlite(connection: &mut Connection) -> Result<(), String> {
    let known = SQLITE.len();
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| error.to_string())?;
    let applied = usize::try_from(version).unwrap_or(usize::MAX);
    if applied > known {
        return Err(format!(
            "its schema is version {version}, this program knows up to {known}; start the newer esimd again"
        ));
    }
    for (index, migration) in SQLITE.iter().enumerate().skip(applied) {
        let transaction = connection.transaction().map_err(|error| error.to_string())?;
        transaction.execute_batch(migration).map_err(|error| error.to_string())?;
        transaction
            .pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))
            .map_err(|error| error.to_string())?;
        transaction.commit().map_err(|error| error.to_string())?;
    }
    Ok(())
}
