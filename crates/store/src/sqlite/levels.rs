//! The rows of the search index in levels. Most keys fall anywhere, so in one large table nearly every new row would
//! change a page of its own, and the larger the table, the less the index keeps up with the checkouts. In a small table
//! many new rows share a page; when it is full, its rows are moved on in the order of keys, and share pages there.

use crate::index::{Portion, watermark};
use crate::port::{Decision, Fault, Tx, row};
use rusqlite::Connection;
use std::convert::Infallible;

/// A level that is moved to the next one when it has more than `most` rows.
#[derive(Debug, Clone, Copy)]
struct Level {
    number: i64,
    most: i64,
    insert: &'static str,
    last_of_portion: &'static str,
    /// `or ignore`, for all constraints: with another word SQLite would keep every page it changes in memory, to take the
    /// statement back alone.
    copy: &'static str,
    delete: &'static str,
}

/// The last level takes all that is left.
const LEVELS: [Level; 2] = [
    Level {
        number: 0,
        most: 262_144,
        insert: "insert into index_level_0 (entry) values ($1) on conflict do nothing",
        last_of_portion: "select entry from index_level_0 where entry > $1 order by entry limit 1 offset $2",
        copy: "insert or ignore into index_level_1 (entry) select entry from index_level_0
               where entry > $1 and entry <= $2 order by entry",
        delete: "delete from index_level_0 where entry > $1 and entry <= $2",
    },
    Level {
        number: 1,
        most: 4_194_304,
        insert: "insert into index_level_1 (entry) values ($1) on conflict do nothing",
        last_of_portion: "select entry from index_level_1 where entry > $1 order by entry limit 1 offset $2",
        copy: "insert or ignore into index_level_2 (entry) select entry from index_level_1
               where entry > $1 and entry <= $2 order by entry",
        delete: "delete from index_level_1 where entry > $1 and entry <= $2",
    },
];

/// Wherever a row lies.
const FORGET: [&str; 3] = [
    "delete from index_level_0 where entry = $1",
    "delete from index_level_1 where entry = $1",
    "delete from index_level_2 where entry = $1",
];

/// Rows that are moved in one transaction: at least as many as a portion of the tail brings, so that a level cannot
/// grow while it is moved.
const MOVED_AT_ONCE: u32 = 262_144;

/// No row is as large.
const END: &[u8] = &[0xFF; 17];

/// Makes the changes of a portion, and moves the watermark behind it.
///
/// # Errors
/// [`Fault::Bug`] when another portion was taken in since it was read.
pub(super) fn take(tx: &mut dyn Tx, portion: &Portion) -> Decision<(), Infallible> {
    let Some(last) = portion.last else { return Ok(()) };
    if watermark(tx)? != portion.after {
        return Err(Fault::Bug("the index was filled from two sides".to_owned()).into());
    }
    let [first, ..] = &LEVELS;
    let mut come = 0;
    for (entry, comes) in &portion.changes {
        if *comes {
            come += tx.execute(first.insert, &[entry.as_slice().into()])?;
        } else {
            for (table, forget) in FORGET.iter().enumerate() {
                let gone = tx.execute(forget, &[entry.as_slice().into()])?;
                if let Some(level) = LEVELS.get(table).filter(|_| gone > 0) {
                    count(tx, level.number, -1)?;
                }
            }
        }
    }
    count(tx, first.number, i64::try_from(come).unwrap_or(i64::MAX))?;
    if tx.execute("update index_watermark set entry_id = $1", &[last.as_bytes().into()])? == 0 {
        tx.execute("insert into index_watermark (entry_id) values ($1)", &[last.as_bytes().into()])?;
    }
    Ok(())
}

fn count(tx: &mut dyn Tx, level: i64, more: i64) -> Result<(), Fault> {
    tx.change("update index_levels set entries = max(entries + $1, 0) where level = $2", &[more.into(), level.into()])
}

/// Moves some rows on of every level that is full.
///
/// # Errors
/// [`Fault`].
pub(super) fn settle(tx: &mut dyn Tx) -> Decision<(), Infallible> {
    Ok(settle_levels(tx, &LEVELS, MOVED_AT_ONCE)?)
}

fn settle_levels(tx: &mut dyn Tx, levels: &[Level], at_once: u32) -> Result<(), Fault> {
    levels.iter().try_for_each(|level| settle_level(tx, level, at_once))
}

fn settle_level(tx: &mut dyn Tx, level: &Level, at_once: u32) -> Result<(), Fault> {
    let state = "select entries, moved from index_levels where level = $1";
    let state = row(tx, state, &[level.number.into()], |row| Ok((row.int(0)?, row.opt_bytes(1)?.map(<[u8]>::to_vec))))?;
    let (entries, moved) = state.ok_or_else(|| Fault::Bug("a level of the index is not counted".to_owned()))?;
    // A level is moved to its end once it was begun: rows of the whole range share more pages than those of its front.
    if moved.is_none() && entries <= level.most {
        return Ok(());
    }
    let after = moved.unwrap_or_default();
    let portion = [after.as_slice().into(), (at_once - 1).into()];
    let last = row(tx, level.last_of_portion, &portion, |row| row.bytes(0).map(<[u8]>::to_vec))?;
    let end = last.as_deref().unwrap_or(END);
    let range = [after.as_slice().into(), end.into()];
    let copied = tx.execute(level.copy, &range)?;
    let deleted = tx.execute(level.delete, &range)?;
    tx.change("update index_levels set moved = $1 where level = $2", &[last.as_deref().into(), level.number.into()])?;
    count(tx, level.number, -i64::try_from(deleted).unwrap_or(i64::MAX))?;
    if let Some(next) = LEVELS.iter().find(|next| next.number == level.number + 1) {
        count(tx, next.number, i64::try_from(copied).unwrap_or(i64::MAX))?;
    }
    Ok(())
}

/// Leaves each row in one place, for whoever counts them.
///
/// # Errors
/// The database's.
pub(crate) fn leave_each_once(index: &Connection) -> rusqlite::Result<()> {
    index.execute_batch(
        "begin immediate;
         delete from index_level_0 where exists (select 1 from index_level_1 as more where more.entry = index_level_0.entry)
             or exists (select 1 from index_level_2 as more where more.entry = index_level_0.entry);
         delete from index_level_1 where exists (select 1 from index_level_2 as more where more.entry = index_level_1.entry);
         commit;",
    )
}

#[cfg(test)]
mod tests {
    use super::super::transaction::{Memory, SqliteTx};
    use super::*;
    use crate::migrations::SQLITE_INDEX;
    use crate::random::Random;
    use domain::id::EntryId;
    use domain::time::Timestamp;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    fn rows(connection: &Connection, of: &str) -> Vec<Vec<u8>> {
        let mut rows = connection.prepare(&format!("select entry from {of} order by entry")).unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn whatever_is_moved_where_the_index_has_what_came_and_did_not_go() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SQLITE_INDEX.0).unwrap();
        let mut memory = Memory { random: Random(1), ..Memory::default() };
        let mut random = Random(2);
        let small = [Level { most: 50, ..LEVELS[0] }, Level { most: 300, ..LEVELS[1] }];
        let (mut expected, mut last, mut filled) = (BTreeSet::new(), Vec::new(), [false; 3]);
        for round in 1..=200_u64 {
            let changes: Vec<(Vec<u8>, bool)> = (0..20)
                .map(|_| {
                    // From a range that is small enough for some to go, and to come again.
                    let key = u8::try_from(random.next() % 40).unwrap();
                    (vec![b'k', key, u8::try_from(random.next() % 50).unwrap()], !random.next().is_multiple_of(4))
                })
                .collect();
            for (entry, comes) in &changes {
                if *comes {
                    expected.insert(entry.clone())
                } else {
                    expected.remove(entry)
                };
            }
            let entry = EntryId::new(Uuid::from_u128(round.into()));
            let portion = Portion { after: last, last: Some(entry), changes, ..Portion::default() };
            last = entry.as_bytes().to_vec();
            let now = Timestamp::from_millis(1);
            let mut tx = SqliteTx { connection: &connection, memory: &mut memory, now, wrote: false };
            take(&mut tx, &portion).unwrap();
            settle_levels(&mut tx, &small, 30).unwrap();
            let mut found = rows(&connection, "index_entries");
            found.dedup();
            assert_eq!(found, expected.iter().cloned().collect::<Vec<_>>(), "round {round}");
            for (level, filled) in filled.iter_mut().enumerate() {
                *filled |= !rows(&connection, &format!("index_level_{level}")).is_empty();
            }
            for Level { number, .. } in LEVELS {
                let counted = "select entries from index_levels where level = ?1";
                let counted: i64 = connection.query_row(counted, [number], |row| row.get(0)).unwrap();
                let rows = rows(&connection, &format!("index_level_{number}")).len();
                assert_eq!(counted, i64::try_from(rows).unwrap(), "round {round}, level {number}");
            }
            let most = rows(&connection, "index_level_0").len();
            assert!(most <= 90, "round {round}: {most} rows are in the first level");
        }
        assert_eq!(filled, [true; 3]);
        let twice = rows(&connection, "index_entries").len();
        assert!(twice > expected.len(), "some rows are in two levels");
        leave_each_once(&connection).unwrap();
        assert_eq!(rows(&connection, "index_entries"), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_list_is_read_from_all_levels_in_order_without_sorting() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SQLITE_INDEX.0).unwrap();
        let list = "explain query plan
            select entry from index_entries where entry >= ?1 and entry < ?2 order by entry desc limit ?3";
        let mut plan = connection.prepare(list).unwrap();
        let steps: Vec<String> = plan.query_map([1, 2, 3], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        let searched = steps.iter().filter(|step| step.starts_with("SEARCH")).count();
        assert_eq!(searched, 3, "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("SCAN") || step.contains("TEMP B-TREE")), "{steps:?}");
    }
}
