//! Floor 4: the process. Configuration, routes, pages, workers, command line.

pub mod answer;
pub mod api;
pub mod backup;
pub mod call;
pub mod catalogue;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod database;
pub mod entrance;
pub mod fields;
pub mod first_start;
pub mod gate;
pub mod json;
pub mod keyring;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod operator;
pub mod pages;
pub mod password;
pub mod platform;
pub mod price_list;
pub mod problem;
pub mod routes;
pub mod serve;
pub mod simulate;
pub mod stop;
pub mod token;
pub mod trusted_proxies;
pub mod upstreams;
pub mod usage;
pub mod waiters;
pub mod workers;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::first_start::Made;
use crate::keyring::Keyring;
use crate::node::{Node, Parts};
use crate::password::Hasher;
use crate::platform::Platform;
use crate::routes::{Route, Router, Side};
use domain::money::{Currency, Money};
use providers::Upstream;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use tokio::net::TcpListener;

/// What the process runs on: the clock, and the seed of ids and jitter.
#[derive(Clone)]
pub struct Runtime {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Feeds what is random but no secret.
    pub seed: u64,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Runtime {
    /// The system's clock, and a seed of its randomness.
    #[must_use]
    pub fn system() -> Self {
        let mut random = [0_u8; 8];
        // Without randomness the keyring refuses to start; ids only need to differ.
        let _ = aws_lc_rs::rand::fill(&mut random);
        Self { clock: Arc::new(SystemClock), seed: u64::from_be_bytes(random) }
    }
}

/// A start that failed: one line that says what to do.
#[derive(Debug)]
pub struct StartError(pub String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// A running platform.
#[derive(Debug)]
pub struct App {
    node: Node,
    address: SocketAddr,
    admin_address: Option<SocketAddr>,
    made: Made,
    data_dir: DataDir,
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let cannot = |error: std::io::Error| {
        StartError(format!("cannot listen on {address}: {error}; choose another with --listen"))
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    Ok((listener, address))
}

fn router(side: Side, more: &'static [Route]) -> Result<&'static Router, StartError> {
    // One or two per process, for as long as it runs.
    Router::new(side, more).map(|router| &*Box::leak(Box::new(router))).map_err(StartError)
}

impl App {
    /// Opens the database, prepares a first start, and listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, runtime: Runtime) -> Result<Self, StartError> {
        Self::start_with(config, runtime, &[]).await
    }

    /// The same with some more routes: the bench measures an empty one.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with(config: Config, runtime: Runtime, more: &'static [Route]) -> Result<Self, StartError> {
        let currency: Currency = config.billing.currency.parse().map_err(|_| {
            StartError(format!("billing.currency: {} is no ISO 4217 currency", config.billing.currency))
        })?;
        let bound = |key: &str, text: &str| {
            Money::parse(text, currency)
                .map_err(|_| StartError(format!("top_up.{key}: {text} is no amount of {currency}")))
        };
        bound("min", &config.top_up.min)?;
        bound("max", &config.top_up.max)?;
        let data_dir = DataDir::lock(&config.data_dir).map_err(StartError)?;
        let master = data_dir.master_key(&config).map_err(StartError)?;
        let clock = Arc::clone(&runtime.clock);
        let (store, sandbox) = database::open(&config, &data_dir, &runtime).await?;
        let keyring = Keyring::load(&store, &master).await.map_err(|error| StartError(error.0))?;
        let keyring = Arc::new(RwLock::new(keyring));
        // Before the first start makes accounts: their passwords are shown once, by a start that succeeds.
        let (listener, address) = listen(config.listen).await?;
        let admin = match config.admin_listen {
            None => None,
            Some(admin) => Some(listen(admin).await?),
        };
        let hasher = Hasher::new(config.auth.hashing_threads).map_err(|problem| StartError(problem.message.clone()))?;
        let made =
            first_start::prepare(&config, &store, &hasher, currency).await.map_err(|error| StartError(error.0))?;
        let upstreams: BTreeMap<_, _> =
            [(store::checkout::SANDBOX.to_owned(), Arc::new(sandbox.clone()) as Arc<dyn Upstream>)].into();
        let base_url = config.base_url(address);
        let parts = Parts { config, base_url, store, clock, keyring, master, hasher, sandbox, upstreams, currency };
        let node = Node::start(parts).await?;
        let admin_address = admin.as_ref().map(|(_, address)| *address);
        let mut app = Self { node, address, admin_address, made, data_dir };
        let side = if admin.is_some() { Side::Public } else { Side::Both };
        app.serve(router(side, more)?, listener);
        if let Some((listener, _)) = admin {
            app.serve(router(Side::Operator, &[])?, listener);
        }
        Ok(app)
    }

    fn serve(&mut self, router: &'static Router, listener: TcpListener) {
        let platform = Arc::clone(self.node.platform());
        self.node.keep(tokio::spawn(serve::serve(platform, router, listener)));
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the operator's side listens, if that is elsewhere.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// What requests and workers share.
    #[must_use]
    pub fn platform(&self) -> &Arc<Platform> {
        self.node.platform()
    }

    /// What a person reads at the start.
    #[must_use]
    pub fn welcome(&self) -> String {
        let platform = self.platform();
        let data = platform.store.name();
        first_start::welcome(
            &self.made,
            &platform.base_url,
            &data.unwrap_or_else(|| self.data_dir.path().display().to_string()),
        )
    }

    /// Takes no new requests, answers waiters with what is there, lets requests and steps under way
    /// finish for some seconds, and closes the database.
    pub async fn stop(self) {
        let Self { node, data_dir, .. } = self;
        node.stop().await;
        drop(data_dir);
    }
}
