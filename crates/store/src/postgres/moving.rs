//! The database that a platform is moved into: nobody serves it before the move is finished.

use super::address::Settings;
use super::link::{Found, Link};
use super::{connect, migrate, name, say, unusable};
use crate::port::{Row, Value};
use crate::waiting::OpenError;

/// A database under a move; other processes' starts wait.
pub struct Moving {
    pub(crate) link: Link,
    name: String,
}

impl std::fmt::Debug for Moving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Moving").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The setting that is there while a move is not finished: what it moves.
pub(super) const UNFINISHED: &str = "move_from";

impl Moving {
    /// Connects, and brings the database to this program's schema.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be reached or used.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let (address, mut link) = connect(settings)?;
        let cannot = |reason: String| unusable(&address, &reason);
        migrate::lock_start(&mut link).map_err(cannot)?;
        migrate::migrate(&mut link).map_err(cannot)?;
        Ok(Self { link, name: name(&address) })
    }

    fn run(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), OpenError> {
        let done = self.link.execute(sql, values);
        done.map(|_| ())
            .map_err(|fault| OpenError(format!("the database {} cannot be written: {}", self.name, say(fault))))
    }

    /// Begins, or goes on with a move of the same platform.
    pub(crate) fn begin(&mut self, source: &str) -> Result<(), OpenError> {
        let cannot = |reason: &str| OpenError(format!("the database {} cannot be used: {reason}", self.name));
        let found = self.link.query("select value from settings where name = $1", &[UNFINISHED.into()]);
        let found = found.map_err(|fault| cannot(&say(fault)))?;
        match found.first().map(|row| Found(row).text(0).map(str::to_owned)) {
            Some(Ok(moved)) if moved == source => return Ok(()),
            Some(_) => {
                return Err(cannot("a move of another platform into it was begun; give this one an empty database"));
            }
            None => {}
        }
        let used = self.link.query("select 1 from operators limit 1", &[]).map_err(|fault| cannot(&say(fault)))?;
        if !used.is_empty() {
            return Err(cannot("it holds a platform already; give the move an empty database"));
        }
        self.run("insert into settings (name, value) values ($1, $2)", &[UNFINISHED.into(), source.into()])
    }

    /// What the sandbox needs beside its rows: its seed, and numbers above those that were given out.
    pub(crate) fn finish_sandbox(&mut self, seed: &str) -> Result<(), OpenError> {
        let seed: i64 = seed.parse().map_err(|_| OpenError("the sandbox's seed is no number".to_owned()))?;
        self.run("delete from sandbox.world", &[])?;
        self.run("insert into sandbox.world (seed) values ($1)", &[seed.into()])?;
        self.run(
            "select setval('sandbox.numbers', 1 + 100 * (select coalesce(max(first_profile + quantity), 0) / 100 + 1
                 from sandbox.sales))",
            &[],
        )
    }

    /// Everything is there: it may be served.
    pub(crate) fn finish(&mut self) -> Result<(), OpenError> {
        self.run(
            "update balances b set last_entry = newest.id from (
                 select distinct on (tenant_id, mode) tenant_id, mode, id from ledger_entries
                 order by tenant_id, mode, id desc) newest
             where newest.tenant_id = b.tenant_id and newest.mode = b.mode",
            &[],
        )?;
        self.run("analyze", &[])?;
        self.run("delete from settings where name = $1", &[UNFINISHED.into()])
    }
}
