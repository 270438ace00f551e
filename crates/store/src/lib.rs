//! Floor 2: the store. A command is a transaction written once; a read is one snapshot. One file
//! per noun: its commands above, its reads below.

pub mod access;
pub mod audit;
pub mod checkout;
pub mod contact;
pub mod esim;
pub mod fulfilment;
pub mod index;
pub mod job;
pub mod ledger;
pub mod order;
pub mod plan;
pub mod port;
pub mod retention;
pub mod secret_key;
pub mod sqlite;
pub mod tenant;
pub mod top_up;

mod migrations;

use port::{Decision, Failure, Fault, Snapshot, Tx};
use sqlite::{Length, Listener, Sqlite, Turn};
use std::sync::Arc;

/// A handle on the database; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    sqlite: Arc<Sqlite>,
}

impl Store {
    /// A store over an open database.
    #[must_use]
    pub fn new(sqlite: Sqlite) -> Self {
        Self { sqlite: Arc::new(sqlite) }
    }

    /// Adds somebody who is told what became durable, before its caller is answered: be quick there.
    pub fn listen(&self, listener: Listener) {
        self.sqlite.listen(listener);
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
        self.sqlite.submit(Turn::Caller, command).await.unwrap_or_else(|_| sqlite::lost())
    }

    /// The same for work behind the scenes, fulfilment: while callers wait for the database,
    /// it gets a share, so that a flood of checkouts is answered soon, and nothing starves.
    ///
    /// # Errors
    /// The command's refusal, or a [`Fault`].
    pub async fn write_behind<T, R, C>(&self, command: C) -> Decision<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        self.sqlite.submit(Turn::Behind, command).await.unwrap_or_else(|_| sqlite::lost())
    }

    /// Takes the oldest part of the ledger's tail into the search index. Returns how many entries it took, and whether
    /// there may be more; for one caller at a time.
    ///
    /// # Errors
    /// A [`Fault`].
    pub async fn fill_index(&self) -> Result<(usize, bool), Fault> {
        let portion = self.read_for(Length::Index, index::Portion::read).await?;
        let (entries, more, last) = (portion.entries, portion.more, portion.last);
        let taken = self.sqlite.submit_to_index(move |tx| index::take(tx, &portion)).await;
        match taken.unwrap_or_else(|_| sqlite::lost()) {
            Ok(()) => {}
            Err(Failure::Fault(fault)) => return Err(fault),
            Err(Failure::Refused(never)) => match never {},
        }
        last.into_iter().for_each(|last| self.sqlite.indexed(last));
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
        self.sqlite.submit_read(length, read).await.unwrap_or_else(|_| stopped())
    }
}
