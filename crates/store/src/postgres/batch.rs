//! Statements put off: what a group of commands writes is kept until it must be there, and equal statements then become
//! one, over arrays of their values. Each must change exactly one row, so all of them together as many as they are.

use super::link::{Ask, Link};
use crate::port::{Fault, Owned, Value};
use std::collections::HashMap;
use tokio_postgres::types::{ToSql, Type};

/// Whether equal statements of several commands may become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joining {
    /// All of them: they are about different rows, which the count of changed rows proves.
    Together,
    /// Only inserts, which are always about different rows; the rest goes one by one, in order.
    OneByOne,
}

/// Equal statements with the values of each.
#[derive(Debug)]
struct Batch {
    sql: String,
    rows: Vec<Vec<Owned>>,
}

/// What is put off.
#[derive(Debug, Default)]
pub(super) struct Batches(Vec<Batch>);

/// The table a statement is about. None of the schema's tables has a trigger or a foreign key, so statements about
/// different tables may change places.
fn table(sql: &str) -> &str {
    let mut words = sql.split_whitespace();
    match words.next() {
        Some("update") => words.next().unwrap_or_default(),
        _ => words.nth(1).unwrap_or_default(),
    }
}

impl Batches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn put_off(&mut self, joining: Joining, sql: &str, values: &[Value<'_>]) {
        self.add(joining, sql, values.iter().map(Owned::from).collect());
    }

    fn add(&mut self, joining: Joining, sql: &str, values: Vec<Owned>) {
        let table = table(sql);
        let last = self.0.iter_mut().rev().find(|batch| self::table(&batch.sql) == table);
        match last {
            Some(batch) if batch.sql == sql && (joining == Joining::Together || sql.starts_with("insert")) => {
                batch.rows.push(values);
            }
            _ => self.0.push(Batch { sql: sql.to_owned(), rows: vec![values] }),
        }
    }

    /// Takes over what one command of a group put off.
    pub(super) fn append(&mut self, joining: Joining, more: &mut Self) {
        for Batch { sql, rows } in more.0.drain(..) {
            rows.into_iter().for_each(|row| self.add(joining, &sql, row));
        }
    }

    /// Sends everything that was put off.
    ///
    /// # Errors
    /// [`Fault::Bug`] when a statement did not change exactly one row; or another [`Fault`].
    pub(super) fn run(&mut self, link: &mut Link, joined: &mut Joined) -> Result<(), Fault> {
        let batches = std::mem::take(&mut self.0);
        let mut columns: Vec<Vec<Vec<Owned>>> = Vec::with_capacity(batches.len());
        for batch in &batches {
            if batch.rows.len() > 1 {
                joined.prepare(link, &batch.sql)?;
                let width = batch.rows.first().map_or(0, Vec::len);
                let column =
                    |at: usize| batch.rows.iter().map(|row| row.get(at).cloned().unwrap_or(Owned::Null)).collect();
                columns.push((0..width).map(column).collect());
            } else {
                columns.push(Vec::new());
            }
        }
        let mut asks = Vec::with_capacity(batches.len());
        for (batch, columns) in batches.iter().zip(&columns) {
            asks.push(match batch.rows.as_slice() {
                [row] => {
                    Ask { sql: &batch.sql, values: row.iter().map(|value| value as &(dyn ToSql + Sync)).collect() }
                }
                _ => Ask {
                    sql: joined.sql(&batch.sql)?,
                    values: columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect(),
                },
            });
        }
        let changed = link.execute_all(&asks)?;
        for (batch, changed) in batches.iter().zip(changed) {
            if u64::try_from(batch.rows.len()) != Ok(changed) {
                let wanted = batch.rows.len();
                return Err(Fault::Bug(format!("{wanted} guarded changes met {changed} rows: {}", batch.sql)));
            }
        }
        Ok(())
    }
}

/// The joined forms of statements, worked out once per connection.
#[derive(Debug, Default)]
pub(super) struct Joined(HashMap<String, String>);

impl Joined {
    fn prepare(&mut self, link: &mut Link, sql: &str) -> Result<(), Fault> {
        if !self.0.contains_key(sql) {
            let types = link.types(sql)?;
            let joined = join(sql, &types).ok_or_else(|| Fault::Bug(format!("cannot be joined: {sql}")))?;
            self.0.insert(sql.to_owned(), joined);
        }
        Ok(())
    }

    fn sql(&self, sql: &str) -> Result<&str, Fault> {
        self.0.get(sql).map(String::as_str).ok_or_else(|| Fault::Bug(format!("was not joined: {sql}")))
    }
}

/// The statement for many rows of values, each column of them an array: `values ($1, 0)` becomes a selection from them,
/// `where id = $1` a join with them.
fn join(sql: &str, types: &[Type]) -> Option<String> {
    let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    let arrays: Vec<_> = types.iter().enumerate().map(|(at, kind)| format!("${}::{}[]", at + 1, kind.name())).collect();
    let names: Vec<_> = (1..=types.len()).map(|at| format!("c{at}")).collect();
    let given = format!("unnest({}) as given({})", arrays.join(", "), names.join(", "));
    if sql.starts_with("insert") {
        let (into, values) = sql.split_once(" values (")?;
        let values = values.strip_suffix(')')?;
        return Some(format!("{into} select {} from {given}", by_name(values)));
    }
    let (change, found) = sql.split_once(" where ")?;
    let clause = if sql.starts_with("update") { "from" } else { "using" };
    Some(format!("{} {clause} {given} where {}", by_name(change), by_name(found)))
}

/// `$1` as a column of what is given.
fn by_name(text: &str) -> String {
    text.replace('$', "given.c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_joined_over_arrays() {
        let types = [Type::BYTEA, Type::INT8];
        assert_eq!(
            join("insert into t (a, b, c)\n   values ($1, 0, $2)", &types).unwrap(),
            "insert into t (a, b, c) select given.c1, 0, given.c2 from unnest($1::bytea[], $2::int8[]) as given(c1, c2)"
        );
        assert_eq!(
            join("update t set b = b + $1 where a = $2 and b = 'x'", &types).unwrap(),
            "update t set b = b + given.c1 from unnest($1::bytea[], $2::int8[]) as given(c1, c2) \
             where a = given.c2 and b = 'x'"
        );
        assert_eq!(
            join("delete from t where a = $1 and b = $2", &types).unwrap(),
            "delete from t using unnest($1::bytea[], $2::int8[]) as given(c1, c2) where a = given.c1 and b = given.c2"
        );
        assert_eq!(join("insert into t (a) select $1", &types), None);
    }

    fn order(joining: Joining, statements: &[&str]) -> Vec<(String, usize)> {
        let mut batches = Batches::default();
        for sql in statements {
            batches.put_off(joining, sql, &[]);
        }
        batches.0.into_iter().map(|batch| (batch.sql, batch.rows.len())).collect()
    }

    #[test]
    fn statements_about_one_table_keep_their_order() {
        let (insert, update, other) = ("insert into t values ()", "update t set a = 1", "delete from u where a = 1");
        let together = order(Joining::Together, &[insert, other, insert, update, other, insert, update]);
        let expected = [(insert, 2), (other, 2), (update, 1), (insert, 1), (update, 1)];
        assert_eq!(together, expected.map(|(sql, rows)| (sql.to_owned(), rows)));
        let alone = order(Joining::OneByOne, &[insert, insert, update, update, other, other]);
        let expected = [(insert, 2), (update, 1), (update, 1), (other, 1), (other, 1)];
        assert_eq!(alone, expected.map(|(sql, rows)| (sql.to_owned(), rows)));
    }
}
