//! The sandbox: an upstream inside the process that sells nothing real. It is a world of its own,
//! with its own file, so that what the platform believes can be compared with what was really sold.

mod book;
mod catalogue;
mod countries;
mod error;
mod group;
mod operator;
mod postgres;
mod profile_state;
pub(crate) mod profiles;
pub(crate) mod special;
mod upstream;
mod world;

pub(crate) use catalogue::large_catalogue;
pub use catalogue::{CataloguePlan, Network, catalogue};
pub(crate) use countries::place;
pub use error::SandboxError;
pub use operator::Sale;
pub use profile_state::ProfileState;
pub use special::{ANSWER_LOST, BUSY, DELIVERS, KEEPS, LATE_SALE, PARTIAL, REFUSES, SLOW, UNKNOWN};

use book::Book;
use group::Executor;
use postgres::PostgresBook;
use profiles::Profiles;
use std::path::Path;
use std::sync::Arc;

/// How a world behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxOptions {
    /// What ICCIDs and the rest of the profiles are worked out of. Counts when the world is made; a
    /// world that exists keeps the seed it was made with, or its ICCIDs would change.
    pub seed: u64,
    /// Milliseconds from sale to delivery; 0 or less delivers at once.
    pub delay_ms: i64,
}

/// A handle to a sandbox world; cloning it gives another handle to the same world. The world's
/// thread ends, and its file is closed, with the last handle or with [`Sandbox::close`].
#[derive(Debug, Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    book: Book,
    profiles: Profiles,
    delay_ms: i64,
}

impl Sandbox {
    /// Opens the world in a file, making it (readable by its owner only) if there is none. What was
    /// answered to survives a crash at any moment.
    ///
    /// # Errors
    /// [`SandboxError::Storage`] when the file cannot be made or read.
    pub fn open(path: impl AsRef<Path>, options: SandboxOptions) -> Result<Self, SandboxError> {
        let (connection, seed) = world::open(path.as_ref(), options.seed)?;
        Ok(Self::new(Book::Sqlite(Executor::on_thread(connection)?), seed, options))
    }

    /// Opens the world in PostgreSQL, on the first of these hosts that lets us in, in the schema `sandbox`, making it if there is none; while several processes
    /// start, one at a time may do so. All of them see one world.
    ///
    /// # Errors
    /// [`SandboxError::Storage`] when the database cannot be used.
    pub async fn on_postgres(
        hosts: Vec<tokio_postgres::Config>,
        tls: tokio_postgres_rustls::MakeRustlsConnect,
        options: SandboxOptions,
    ) -> Result<Self, SandboxError> {
        let (book, seed) = PostgresBook::open(hosts, tls, options.seed).await?;
        Ok(Self::new(Book::Postgres(book), seed, options))
    }

    /// A world in memory, without a thread: every call is done when its future is first polled.
    ///
    /// # Errors
    /// [`SandboxError::Storage`] when there is no memory for it.
    pub fn in_memory(options: SandboxOptions) -> Result<Self, SandboxError> {
        let (connection, seed) = world::open_in_memory(options.seed)?;
        Ok(Self::new(Book::Sqlite(Executor::Caller(connection.into())), seed, options))
    }

    fn new(book: Book, seed: u64, options: SandboxOptions) -> Self {
        let shared = Shared { book, profiles: Profiles::new(seed), delay_ms: options.delay_ms.max(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Does what is queued, closes the file and ends the thread, whatever handles there are. What is
    /// asked later is refused. Does nothing to a world in memory.
    pub async fn close(&self) {
        self.shared.book.close().await;
    }
}
