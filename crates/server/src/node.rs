//! A node: the platform and its workers, before anybody listens. It has no clock, disk or upstream but those it is
//! given, so that a simulation can run it whole.

use crate::StartError;
use crate::clock::Clock;
use crate::config::{Config, MasterKey};
use crate::entrance::Entrance;
use crate::keyring::Keyring;
use crate::limits::RateLimits;
use crate::password::Hasher;
use crate::platform::Platform;
use crate::stop::Stop;
use crate::upstreams::Upstreams;
use crate::waiters::Waiters;
use crate::workers;
use crate::workers::fulfilment::Bells;
use crate::workers::indexer::Tail;
use crate::workers::lifecycle::News;
use domain::money::Currency;
use providers::Upstream;
use providers::sandbox::Sandbox;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use store::Store;
use store::port::{Event, Tx};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a node is made of.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// All links begin with it; no slash at its end.
    pub base_url: String,
    /// The database, after a first start was prepared.
    pub store: Store,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The platform's own keys.
    pub keyring: Arc<RwLock<Keyring>>,
    /// What the platform's own keys are wrapped with.
    pub master: MasterKey,
    /// Passwords.
    pub hasher: Hasher,
    /// The sandbox's world, for the operator.
    pub sandbox: Sandbox,
    /// The upstreams inside the process, by name.
    pub upstreams: BTreeMap<String, Arc<dyn Upstream>>,
    /// The billing currency of new tenants.
    pub currency: Currency,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// A node at work.
#[derive(Debug)]
pub struct Node {
    platform: Arc<Platform>,
    stop: Stop,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Takes up the jobs an earlier process left, and starts the workers.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { config, base_url, store, clock, keyring, master, hasher, sandbox, upstreams, currency } = parts;
        if !store.is_shared() {
            let void = |tx: &mut dyn Tx| {
                store::catalogue::void_leases(tx)?;
                store::job::void_leases(tx)
            };
            let voided = store.write(void).await;
            voided.map_err(|failure| StartError(format!("the jobs cannot be taken up: {failure:?}")))?;
        }
        store.started();
        let stop = Stop::default();
        let most_calls = config.fulfilment.in_flight_per_upstream;
        let upstreams = Arc::new(Upstreams::new(upstreams, &clock, most_calls));
        let platform = Arc::new(Platform {
            base_url,
            entrance: Entrance::new(store.clone(), Arc::clone(&keyring)),
            limits: RateLimits::new(&config.limits, config.rate_limit.is_on()),
            waiters: Arc::new(Waiters::default()),
            catalogue: Default::default(),
            price_lists: Default::default(),
            metrics: Default::default(),
            questions: Default::default(),
            asked: Default::default(),
            config,
            store,
            clock,
            keyring,
            master,
            hasher,
            sandbox,
            upstreams,
            stopping: stop.stopping(),
            currency,
        });
        // Orders under way are asked for at once.
        let read = platform.upstreams.reload(&platform).await;
        read.map_err(|fault| StartError(format!("the connections cannot be read: {fault}")))?;
        let mut node = Self { platform, stop, tasks: Vec::new() };
        node.work();
        Ok(node)
    }

    /// Starts the workers and lets them hear what becomes durable.
    fn work(&mut self) {
        let bells = Arc::new(Bells::default());
        let tail = Arc::new(Tail::default());
        // What an earlier process left unindexed is not counted; one entry makes the indexer look.
        tail.appended(1);
        let news = Arc::new(News::default());
        let of_esims = Arc::clone(&news);
        let connections_changed = Arc::new(Notify::new());
        let changed = Arc::clone(&connections_changed);
        let (ready, grown, platform) = (Arc::clone(&bells), Arc::clone(&tail), Arc::downgrade(&self.platform));
        self.platform.store.listen(Arc::new(move |events: &[Event]| {
            let Some(platform) = platform.upgrade() else { return };
            let mut appended = 0;
            for event in events {
                match event {
                    Event::JobReady(lane) => ready.ring(lane),
                    Event::OrderChanged(order) => platform.waiters.changed(*order),
                    Event::Appended(_) => appended += 1,
                    Event::AccessChanged => platform.entrance.access_changed(),
                    Event::PlansChanged => platform.catalogue.changed(),
                    Event::ConnectionsChanged => changed.notify_one(),
                    Event::EsimsDue(upstream) => of_esims.ring(upstream),
                }
            }
            if appended > 0 {
                grown.appended(appended);
            }
        }));
        let platform = || Arc::clone(&self.platform);
        self.tasks.push(tokio::spawn(workers::fulfilment::run(platform(), bells)));
        self.tasks.push(tokio::spawn(workers::indexer::run(platform(), tail)));
        self.tasks.push(tokio::spawn(workers::connections::run(platform(), connections_changed)));
        self.tasks.push(tokio::spawn(workers::catalogue::run(platform())));
        self.tasks.push(tokio::spawn(workers::reconciliation::run(platform())));
        self.tasks.push(tokio::spawn(workers::sync::run(platform())));
        self.tasks.push(tokio::spawn(workers::lifecycle::run(platform(), news)));
        self.tasks.push(tokio::spawn(workers::housekeeping::run(platform())));
        if self.platform.store.is_shared() {
            self.tasks.push(tokio::spawn(workers::neighbours::run(platform())));
        }
    }

    /// What requests and workers share.
    #[must_use]
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// Adds a task that ends by itself when the node stops; [`Node::stop`] waits for it.
    pub fn keep(&mut self, task: JoinHandle<()>) {
        self.tasks.push(task);
    }

    /// Lets requests and steps under way finish for some seconds, and closes the database.
    pub async fn stop(self) {
        let Self { platform, stop, tasks } = self;
        stop.begin();
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        // Steps under way may wait for an upstream; what is not recorded is asked again at the next start.
        if tokio::time::timeout(std::time::Duration::from_secs(8), all).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        platform.sandbox.close().await;
        drop(platform);
    }
}
