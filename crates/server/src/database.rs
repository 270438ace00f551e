//! Which database, as the configuration says, and the sandbox's world beside it.

use crate::config::{Config, Database, Secret};
use crate::data_dir::{DataDir, database_in};
use crate::operator::ledger::check;
use crate::{Runtime, StartError};
use providers::sandbox::{Sandbox, SandboxOptions};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use store::ledger::Finding;
use store::moving::{Moved, move_all};
use store::postgres::{Moving, Postgres, Settings};
use store::sqlite::{Sqlite, index_path};
use store::{Now, Store};

impl Config {
    /// How PostgreSQL at this address is used.
    #[must_use]
    pub fn postgres_settings(&self, url: &Secret) -> Settings {
        let millis = Duration::from_millis;
        Settings {
            url: url.expose().to_owned(),
            connections: self.postgres.connections,
            statement_timeout: millis(self.postgres.statement_timeout_ms),
            lock_timeout: millis(self.postgres.lock_timeout_ms),
            connect_timeout: millis(self.postgres.connect_timeout_ms),
        }
    }
}

fn failed(error: &dyn Display) -> StartError {
    StartError(error.to_string())
}

fn now(runtime: &Runtime) -> Now {
    let clock = Arc::clone(&runtime.clock);
    Arc::new(move || clock.now())
}

/// Runs what waits for a connection.
async fn wait<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, store::OpenError> + Send + 'static,
) -> Result<T, StartError> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

/// Opens the database to serve it, and the sandbox's world. Other processes' starts on a shared database wait until
/// [`Store::started`].
///
/// # Errors
/// [`StartError`].
pub async fn open(config: &Config, data_dir: &DataDir, runtime: &Runtime) -> Result<(Store, Sandbox), StartError> {
    let delay_ms = i64::try_from(config.sandbox.delay_ms).unwrap_or(i64::MAX);
    let options = SandboxOptions { seed: config.sandbox.seed, delay_ms };
    let (seed, now) = (runtime.seed, now(runtime));
    match &config.database {
        Database::Sqlite => {
            let sqlite = Sqlite::open(&data_dir.database(), seed, now).map_err(|error| failed(&error))?;
            let sandbox = Sandbox::open(data_dir.sandbox(), options).map_err(|error| failed(&error))?;
            Ok((Store::new(sqlite), sandbox))
        }
        Database::Postgres(url) => {
            let settings = config.postgres_settings(url);
            let (hosts, tls) = settings.connection().map_err(|error| failed(&error))?;
            let postgres = wait(move || Postgres::open(&settings, seed, now)).await?;
            let sandbox = Sandbox::on_postgres(hosts, tls, options).await.map_err(|error| failed(&error))?;
            Ok((Store::new(postgres), sandbox))
        }
    }
}

/// Opens the database for a command that changes something: the embedded one while nobody serves it, the shared one
/// beside those who do, or before them.
///
/// # Errors
/// A line that says what to do.
pub async fn open_for_command(config: &Config, runtime: &Runtime) -> Result<(Store, Option<DataDir>), StartError> {
    let (seed, now) = (runtime.seed, now(runtime));
    match &config.database {
        Database::Sqlite => {
            let data_dir = DataDir::lock(&config.data_dir).map_err(StartError)?;
            let sqlite = Sqlite::open(&data_dir.database(), seed, now).map_err(|error| failed(&error))?;
            Ok((Store::new(sqlite), Some(data_dir)))
        }
        Database::Postgres(url) => {
            let settings = config.postgres_settings(url);
            let store = Store::new(wait(move || Postgres::open(&settings, seed, now)).await?);
            store.started();
            Ok((store, None))
        }
    }
}

/// Opens the database for a command that only reads, beside whoever serves it.
///
/// # Errors
/// A line that says what to do.
pub async fn open_to_read(config: &Config, runtime: &Runtime) -> Result<Store, StartError> {
    match &config.database {
        Database::Sqlite => {
            let path = database_in(&config.data_dir);
            if !path.exists() {
                return Err(StartError(format!("there is no database at {}", path.display())));
            }
            Sqlite::open_to_read(&path).map(Store::new).map_err(|error| failed(&error))
        }
        Database::Postgres(url) => {
            let (settings, seed, now) = (config.postgres_settings(url), runtime.seed, now(runtime));
            wait(move || Postgres::open_as_it_is(&settings, seed, now)).await.map(Store::new)
        }
    }
}

/// What a move did.
#[derive(Debug)]
pub struct MovedPlatform {
    /// Rows.
    pub rows: Moved,
    /// Entries of the ledger, walked where they are now.
    pub entries: u64,
    /// What is wrong with the ledger there.
    pub finding: Option<Finding>,
}

/// Moves the platform in the data folder, which nobody serves, to PostgreSQL at `to`, and walks its ledger there.
///
/// # Errors
/// A line that says what to do.
pub async fn move_to_postgres(config: &Config, runtime: &Runtime, to: String) -> Result<MovedPlatform, StartError> {
    let data_dir = DataDir::lock(&config.data_dir).map_err(StartError)?;
    let (from, sandbox) = (database_in(data_dir.path()), data_dir.sandbox());
    if !from.exists() {
        return Err(StartError(format!("there is no database at {}", from.display())));
    }
    let target = Config::parse_database(to).map_err(|reason| StartError(format!("--to {reason}")))?;
    let settings = config.postgres_settings(&target);
    // Opened and closed once in good order, it lags behind nothing; and its index is to be complete.
    let sqlite = Sqlite::open(&from, runtime.seed, now(runtime)).map_err(|error| failed(&error))?;
    let index = index_path(&from);
    let store = Store::new(sqlite);
    while store.fill_index().await.map_err(|fault| failed(&fault))?.0 > 0 {}
    drop(store);
    let (address, tls) = settings.connection().map_err(|error| failed(&error))?;
    let settings_of_move = settings.clone();
    let mut moving = wait(move || Moving::open(&settings_of_move)).await?;
    let options = SandboxOptions { seed: config.sandbox.seed, delay_ms: 0 };
    drop(Sandbox::on_postgres(address, tls, options).await.map_err(|error| failed(&error))?);
    let rows = wait(move || move_all(&from, &index, &sandbox, &mut moving)).await?;
    let (seed, now) = (runtime.seed, now(runtime));
    let store = wait(move || Postgres::open_as_it_is(&settings, seed, now)).await.map(Store::new)?;
    let (entries, finding) = check(&store).await.map_err(|fault| failed(&fault))?;
    Ok(MovedPlatform { rows, entries, finding })
}
