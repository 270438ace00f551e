//! Floor 2: the store. A command is a transaction written once; a read is one snapshot. One file
//! per noun: its commands above, its reads below.

pub mod access;
pub mod audit;
pub mod catalogue;
pub mod checkout;
pub mod connection;
pub mod contact;
pub mod difference;
pub mod esim;
pub mod fulfilment;
pub mod index;
pub mod job;
pub mod ledger;
pub mod markup;
pub mod moving;
pub mod notice;
pub mod offer;
pub mod order;
pub mod plan;
pub mod port;
pub mod postgres;
pub mod pricing;
pub mod rate;
pub mod retention;
pub mod routing;
pub mod secret_key;
pub mod sqlite;
pub mod tenant;
pub mod top_up;
pub mod usage;

mod migrations;
mod queue;
mod random;
mod waiting;

use port::{Decision, Failure, Fault, Needs, Snapshot, Tx};
use postgres::Postgres;
use queue::Turn;
use sqlite::Sqlite;
use std::sync::Arc;
use tokio::sync::oneshot;
use waiting::Length;
pub use waiting::{Listener, Now, OpenError};

/// One of the two databases, open.
#[derive(Debug)]
pub enum Database {
    /// The embedded one: one process, one file.
    Sqlite(Box<Sqlite>),
    /// The one that many processes share.
    Postgres(Box<Postgres>),
}

impl From<Sqlite> for Database {
    fn from(sqlite: Sqlite) -> Self {
        Self::Sqlite(Box::new(sqlite))
    }
}

impl From<Postgres> for Database {
    fn from(postgres: Postgres) -> Self {
        Self::Postgres(Box::new(postgres))
    }
}

/// A handle on the database; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<Database>,
}

/// A database that ended before it decided.
fn lost<T, R>() -> Decision<T, R> {
    Err(Failure::Fault(Fault::Unavailable("the database has stopped".to_owned())))
}

impl Store {
    /// A store over an open database.
    #[must_use]
    pub fn new(database: impl Into<Database>) -> Self {
        Self { database: Arc::new(database.into()) }
    }

    /// Whether other processes may work on this database, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(*self.database, Database::Postgres(_))
    }

    /// What a shared database is called, without user and password.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match &*self.database {
            Database::Sqlite(_) => None,
            Database::Postgres(postgres) => Some(format!("PostgreSQL, {}", postgres.name())),
        }
    }

    /// Lets other processes start on this database: what a first start makes is there.
    pub fn started(&self) {
        if let Database::Postgres(postgres) = &*self.database {
            postgres.started();
        }
    }

    /// Adds somebody who is told what became durable, before its caller is answered, and what other processes told of
    /// theirs: be quick there.
    pub fn listen(&self, listener: Listener) {
        match &*self.database {
            Database::Sqlite(sqlite) => sqlite.listen(listener),
            Database::Postgres(postgres) => postgres.listen(listener),
        }
    }

    fn submit<T, R, C>(&self, turn: Turn, needs: Needs, command: C) -> oneshot::Receiver<Decision<T, R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        match &*self.database {
            Database::Sqlite(sqlite) => sqlite.submit(turn, command),
            Database::Postgres(postgres) => postgres.submit(turn, needs, command),
        }
    }

    /// Runs a command and returns its decision once it is durable. A caller that goes away leaves
    /// the command to finish by itself.
    ///
    /// # Errors
    /// The command's refusal, or a [`Fault`].
    pub async fn write<T, R, C>(&self, command: C) -> Decision<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        self.write_needing(Needs::default(), command).await
    }

    /// The same for a command on the hot path, which says beforehand what it needs: it shares its transaction with
    /// others that did.
    ///
    /// # Errors
    /// The command's refusal, or a [`Fault`].
    pub async fn write_needing<T, R, C>(&self, needs: Needs, command: C) -> Decision<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        self.submit(Turn::Caller, needs, command).await.unwrap_or_else(|_| lost())
    }

    /// The same for work behind the scenes, fulfilment: while callers wait for the database,
    /// it gets a share, so that a flood of checkouts is answered soon, and nothing starves.
    ///
    /// # Errors
    /// The command's refusal, or a [`Fault`].
    pub async fn write_behind<T, R, C>(&self, needs: Needs, command: C) -> Decision<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        self.submit(Turn::Behind, needs, command).await.unwrap_or_else(|_| lost())
    }

    /// Takes the oldest part of the ledger's tail into the search index. Returns how many entries it took, and whether
    /// there may be more; for one caller at a time.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn fill_index(&self) -> Result<(usize, bool), Fault> {
        // Elsewhere each transaction keeps the index itself.
        let Database::Sqlite(sqlite) = &*self.database else { return Ok((0, false)) };
        let portion = self.read_for(Length::Index, index::Portion::read).await?;
        let (entries, more, last) = (portion.entries, portion.more, portion.last);
        sqlite.take(portion).await?;
        last.into_iter().for_each(|last| sqlite.indexed(last));
        sqlite.settle_index().await?;
        Ok((entries, more))
    }

    /// Runs a read on one snapshot.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn read<T, C>(&self, read: C) -> Result<T, Fault>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        self.read_for(Length::Short, read).await
    }

    /// The same for lists, exports and checks: however many of them queue up, short reads go on.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn scan<T, C>(&self, read: C) -> Result<T, Fault>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        self.read_for(Length::Long, read).await
    }

    async fn read_for<T, C>(&self, length: Length, read: C) -> Result<T, Fault>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        let stopped = || Err(Fault::Unavailable("the readers have stopped".to_owned()));
        let answer = match &*self.database {
            Database::Sqlite(sqlite) => sqlite.submit_read(length, read),
            Database::Postgres(postgres) => postgres.submit_read(length, read),
        };
        answer.await.unwrap_or_else(|_| stopped())
    }
}
