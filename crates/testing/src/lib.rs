//! What tests of several floors share: a database of its own for each test, on the PostgreSQL that `./test` started.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot have its database has failed")]

mod proxy;

pub use proxy::Proxy;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::NoTls;

/// The environment variable with the address of the server whose databases tests may make and drop.
pub const SERVER: &str = "TEST_POSTGRES";

/// A database of its own, dropped with this.
#[derive(Debug)]
pub struct FreshDatabase {
    server: String,
    name: String,
}

impl FreshDatabase {
    /// An empty one.
    ///
    /// # Panics
    /// Without a server to make it on: a test of PostgreSQL is red without PostgreSQL.
    #[must_use]
    pub fn new() -> Self {
        let server = std::env::var(SERVER).unwrap_or_else(|_| {
            panic!(
                "{SERVER} is not set: run the tests by ./test, or start a server with scripts/postgres (CONTRIBUTING.md)"
            )
        });
        Self::on(&server)
    }

    /// An empty one on this server, `postgres://user@host:port`.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn on(server: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        run(
            server,
            "postgres",
            &[&format!("drop database if exists {name} with (force)"), &format!("create database {name}")],
        );
        Self { server: server.to_owned(), name }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        address(&self.server, &self.name)
    }

    /// Runs statements on it, beside whoever uses it.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn run(&self, statements: &[&str]) {
        run(&self.server, &self.name, statements);
    }

    /// The rows of a query, as texts.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        rows(&self.url(), query)
    }
}

impl Default for FreshDatabase {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FreshDatabase {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run(&self.server, "postgres", &[&format!("drop database if exists {} with (force)", self.name)]);
        }
    }
}

/// The server's address with another database: `postgres://user@host:port/` and the name.
fn address(server: &str, database: &str) -> String {
    format!("{}/{database}", server.trim_end_matches('/'))
}

fn run(server: &str, database: &str, statements: &[&str]) {
    let statements: Vec<String> = statements.iter().map(|statement| (*statement).to_owned()).collect();
    with_client(address(server, database), async move |client| {
        for statement in statements {
            client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    });
}

/// The rows of a query on the database at this address, as texts.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn rows(url: &str, query: &str) -> Vec<Vec<Option<String>>> {
    let query = query.to_owned();
    with_client(url.to_owned(), async move |client| {
        let rows = client.simple_query(&query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect()
    })
}

/// On a thread of its own, so that a test may be asynchronous or not.
fn with_client<T: Send + 'static>(
    url: String,
    work: impl AsyncFnOnce(tokio_postgres::Client) -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls)
                .await
                .unwrap_or_else(|error| panic!("the test server at {url} does not answer: {error:?}"));
            tokio::spawn(connection);
            work(client).await
        })
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
