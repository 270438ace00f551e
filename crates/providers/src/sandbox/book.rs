//! The book of sales behind the sandbox: in a file of this process, or in PostgreSQL, where all nodes of a platform
//! see one world.

use super::error::SandboxError;
use super::group::Executor;
use super::postgres::PostgresBook;
use super::profile_state::ProfileState;
use super::world::{self, Change, Life, StoredSale};
use domain::time::Timestamp;

/// What the book says about a purchase.
pub(super) enum Placed {
    Sold { first_profile: i64 },
    Duplicate,
    Busy,
}

/// The book, wherever it lies.
#[derive(Debug)]
pub(super) enum Book {
    Sqlite(Executor),
    Postgres(PostgresBook),
}

/// A sale of a list, with the time its last profile was taken back if all of them were.
pub(super) type ListedSale = (StoredSale, Option<Timestamp>);

impl Book {
    /// Records a sale; first it turns its reference away as often as is asked for.
    pub async fn place(&self, sale: StoredSale, turn_away: Option<u32>) -> Result<Placed, SandboxError> {
        match self {
            Self::Sqlite(executor) => {
                let placed = executor.write(move |world| {
                    if let Some(most) = turn_away
                        && world::find(world, &sale.reference)?.is_none()
                        && world::turn_away(world, &sale.reference, most)?
                    {
                        return Ok(Placed::Busy);
                    }
                    let first_profile = world::record(world, &sale)?;
                    Ok(first_profile.map_or(Placed::Duplicate, |first_profile| Placed::Sold { first_profile }))
                });
                placed.await
            }
            Self::Postgres(book) => book.place(sale, turn_away).await,
        }
    }

    /// The sale under a reference.
    pub async fn find(&self, reference: String) -> Result<Option<StoredSale>, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.read(move |world| world::find(world, &reference)).await,
            Self::Postgres(book) => book.find(&reference).await,
        }
    }

    /// Up to `limit` sales whose reference begins with `prefix`, highest reference first.
    pub async fn list(&self, prefix: String, now: Timestamp, limit: u32) -> Result<Vec<ListedSale>, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.read(move |world| world::list(world, &prefix, now, limit)).await,
            Self::Postgres(book) => book.list(&prefix, now, limit).await,
        }
    }

    /// The sale a profile belongs to.
    pub async fn sale_of(&self, number: i64) -> Result<Option<StoredSale>, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.read(move |world| world::sale_of(world, number)).await,
            Self::Postgres(book) => book.sale_of(number).await,
        }
    }

    /// The state of a sold profile; `None` when the number was never sold.
    pub async fn state(&self, number: i64) -> Result<Option<ProfileState>, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.read(move |world| world::state(world, number)).await,
            Self::Postgres(book) => book.state(number).await,
        }
    }

    /// Where a sold profile is in its life; `None` when the number was never sold.
    pub async fn life(&self, number: i64) -> Result<Option<Life>, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.read(move |world| world::life(world, number)).await,
            Self::Postgres(book) => book.life(number).await,
        }
    }

    /// Moves a sold profile to another state; done when it is there already.
    pub async fn change(&self, number: i64, to: ProfileState, now: Timestamp) -> Result<Change, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.write(move |world| world::change(world, number, to, now)).await,
            Self::Postgres(book) => book.change(number, to, now).await,
        }
    }

    /// Takes a profile of the sale under `reference` back, unless its plan keeps what it sold.
    pub async fn cancel(&self, reference: String, number: i64, now: Timestamp) -> Result<Change, SandboxError> {
        match self {
            Self::Sqlite(executor) => executor.write(move |world| world::cancel(world, &reference, number, now)).await,
            Self::Postgres(book) => book.cancel(&reference, number, now).await,
        }
    }

    /// Does what is queued and lets go of the storage.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(executor) => executor.close().await,
            Self::Postgres(_) => {}
        }
    }
}
