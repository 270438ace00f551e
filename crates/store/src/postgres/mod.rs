//! The database that many nodes share: commands in groups on a few lanes, reads on connections of their own, and hints
//! to the other nodes.

mod address;
mod batch;
mod lane;
mod link;
mod migrate;
mod moving;
mod notify;
mod transaction;

use crate::port::{Decision, Event, Fault, Needs, Snapshot, Tx};
use crate::queue::{Queue, Turn};
use crate::random::Random;
use crate::waiting::{Length, Listener, Now, OpenError, Submitted};
use address::Address;
pub use address::{LEAST_CONNECTIONS, Settings};
use domain::id::TenantId;
use lane::{Command, Connector, Lane, Tell};
pub(crate) use link::{Found, Link};
pub use moving::Moving;
use notify::Neighbours;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use transaction::{Memory, PostgresSnapshot};

type Read = Box<dyn FnOnce(&mut Connector) + Send>;

/// The open database. Dropping it ends the threads after the work they have.
pub struct Postgres {
    /// Commands that said what they need, by tenant.
    lanes: Vec<Sender<(Turn, Command)>>,
    /// All others, one by one: those somebody waits for,
    singles: Option<Sender<Command>>,
    /// and those behind the scenes, which must not wait for them: leases are renewed here.
    behind: Option<Sender<Command>>,
    readers: Option<Sender<Read>>,
    scanners: Option<Sender<Read>>,
    listeners: Arc<RwLock<Vec<Listener>>>,
    threads: Vec<JoinHandle<()>>,
    /// Holds the other nodes' starts up.
    starting: Mutex<Option<Link>>,
    name: String,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How the connections are shared out.
struct Shares {
    lanes: usize,
    singles: usize,
    behind: usize,
    readers: usize,
    scanners: usize,
}

impl Shares {
    fn of(connections: usize) -> Self {
        let connections = connections.max(LEAST_CONNECTIONS);
        // Few lanes make large groups, which cost the server less than many small ones.
        let lanes = (connections / 8).max(1);
        let singles = (connections / 8).max(1);
        let behind = (connections / 8).max(1);
        let scanners = (connections / 4).max(1);
        Self { lanes, singles, behind, scanners, readers: connections - lanes - singles - behind - scanners }
    }
}

impl Postgres {
    /// Opens the database, makes or migrates it while other nodes' starts wait, and starts the threads. They wait until
    /// [`Postgres::started`]. `seed` feeds ids and jitter; `now` is the clock.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be reached or used, or was made by a newer version.
    pub fn open(settings: &Settings, seed: u64, now: Now) -> Result<Self, OpenError> {
        let (address, mut link) = connect(settings)?;
        let cannot = |reason: String| unusable(&address, &reason);
        migrate::lock_start(&mut link).map_err(cannot)?;
        migrate::migrate(&mut link).map_err(cannot)?;
        migrate::look_for_move(&mut link).map_err(cannot)?;
        let open = Self::start(settings, &address, seed, now).map_err(|error| cannot(error.to_string()))?;
        *open.starting.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        Ok(open)
    }

    /// Opens a database that is there, as the command line does beside running nodes.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be reached or used, or is not of this version.
    pub fn open_as_it_is(settings: &Settings, seed: u64, now: Now) -> Result<Self, OpenError> {
        let (address, mut link) = connect(settings)?;
        let cannot = |reason: String| unusable(&address, &reason);
        migrate::look(&mut link).map_err(cannot)?;
        migrate::look_for_move(&mut link).map_err(cannot)?;
        Self::start(settings, &address, seed, now).map_err(|error| cannot(error.to_string()))
    }

    fn start(settings: &Settings, address: &Address, seed: u64, now: Now) -> std::io::Result<Self> {
        let shares = Shares::of(settings.connections);
        let listeners: Arc<RwLock<Vec<Listener>>> = Arc::default();
        let (news, to_tell) = mpsc::unbounded_channel();
        let here = {
            let listeners = Arc::clone(&listeners);
            move |events: &[Event]| {
                for listener in listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
                    // A lane outlives whoever listens to it.
                    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(events)));
                    if told.is_err() {
                        tracing::error!("somebody who was told of a commit panicked");
                    }
                }
            }
        };
        let here: Tell = Arc::new(here);
        let tell_here = Arc::clone(&here);
        let tell: Tell = Arc::new(move |events| {
            tell_here(events);
            let told: Vec<Event> =
                events.iter().filter(|event| !matches!(event, Event::Appended(_))).cloned().collect();
            if !told.is_empty() {
                let _ = news.send(told);
            }
        });
        let mut random = Random(seed);
        let node = format!("{:016x}", random.next());
        let mut lane = || Lane {
            connector: Connector::for_commands(address.clone()),
            memory: Memory { random: Random(random.next()), ..Memory::default() },
            now: Arc::clone(&now),
            tell: Arc::clone(&tell),
        };
        let mut threads = Vec::new();
        let mut lanes = Vec::new();
        for _ in 0..shares.lanes {
            let (commands, waiting) = channel();
            let lane = lane();
            threads.push(spawn("store-lane", move || lane.run_until_closed(Queue::new(waiting)))?);
            lanes.push(commands);
        }
        let (singles, waiting) = channel();
        let (behind, waiting_behind) = channel();
        for (waiting, count) in [(waiting, shares.singles), (waiting_behind, shares.behind)] {
            let waiting: Arc<Mutex<Receiver<Command>>> = Arc::new(Mutex::new(waiting));
            for _ in 0..count {
                let (mut lane, waiting) = (lane(), Arc::clone(&waiting));
                threads.push(spawn("store-single", move || {
                    while let Some(command) = next(&waiting) {
                        lane.run(vec![command]);
                    }
                })?);
            }
        }
        let (readers, to_read) = channel();
        let (scanners, to_scan) = channel();
        for (reads, count) in [(to_read, shares.readers), (to_scan, shares.scanners)] {
            let reads: Arc<Mutex<Receiver<Read>>> = Arc::new(Mutex::new(reads));
            for _ in 0..count {
                let (mut connector, reads) = (Connector::for_reads(address.clone()), Arc::clone(&reads));
                threads.push(spawn("store-reader", move || {
                    while let Some(read) = next(&reads) {
                        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&mut connector)));
                        if finished.is_err() {
                            connector.forget();
                        }
                    }
                })?);
            }
        }
        let neighbours = Neighbours { address: address.clone(), node, news: to_tell, tell: here, now };
        threads.push(spawn("store-notify", move || neighbours.run_until_closed())?);
        Ok(Self {
            lanes,
            singles: Some(singles),
            behind: Some(behind),
            readers: Some(readers),
            scanners: Some(scanners),
            listeners,
            threads,
            starting: Mutex::new(None),
            name: name(address),
        })
    }

    /// The database and its hosts.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Lets other nodes start.
    pub fn started(&self) {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Adds somebody who is told what became durable.
    pub(crate) fn listen(&self, listener: Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    /// Submits a command; the receiver gets the decision after the commit.
    pub(crate) fn submit<T, R, C>(&self, turn: Turn, needs: Needs, command: C) -> oneshot::Receiver<Decision<T, R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        let (submitted, answer) = Submitted::new(command);
        let command = Command { waiting: Box::new(submitted), needs };
        // A lane that is gone drops the command, and the receiver learns it.
        match command.needs.tenant().and_then(|tenant| self.lanes.get(lane_of(tenant, self.lanes.len()))) {
            Some(lane) => drop(lane.send((turn, command))),
            None => {
                let singles = if turn == Turn::Caller { &self.singles } else { &self.behind };
                drop(singles.as_ref().map(|singles| singles.send(command)));
            }
        }
        answer
    }

    /// Submits a read of one snapshot.
    pub(crate) fn submit_read<T, C>(&self, length: Length, read: C) -> oneshot::Receiver<Result<T, Fault>>
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |connector| read_snapshot(connector, read, reply));
        let threads = match length {
            Length::Short => &self.readers,
            Length::Long | Length::Index => &self.scanners,
        };
        drop(threads.as_ref().map(|threads| threads.send(read)));
        answer
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.lanes.clear();
        self.singles = None;
        self.behind = None;
        self.readers = None;
        self.scanners = None;
        // The last handle may be dropped by a listener on one of these very threads, which the others wait for.
        let current = std::thread::current().id();
        if self.threads.iter().all(|thread| thread.thread().id() != current) {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

fn read_snapshot<T>(
    connector: &mut Connector,
    read: impl FnOnce(&mut dyn Snapshot) -> Result<T, Fault>,
    reply: oneshot::Sender<Result<T, Fault>>,
) {
    let link = match connector.usable() {
        Ok(link) => link,
        Err(fault) => {
            let _ = reply.send(Err(fault));
            return;
        }
    };
    link.before("begin transaction isolation level repeatable read read only");
    let found = read(&mut PostgresSnapshot { link });
    // The answer does not wait for the end of its transaction.
    let _ = reply.send(found);
    if link.is_untouched() {
        link.nothing_before();
    } else if !link.lost && link.simple("rollback").is_err() {
        link.lost = true;
    }
}

fn next<T>(waiting: &Mutex<Receiver<T>>) -> Option<T> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn lane_of(tenant: TenantId, lanes: usize) -> usize {
    // The last bytes of an id are random.
    let random = tenant.as_bytes().last_chunk::<4>().map_or(0, |last| u32::from_be_bytes(*last));
    usize::try_from(random).unwrap_or(0) % lanes.max(1)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// The first connection to a database that is opened.
fn connect(settings: &Settings) -> Result<(Address, Link), OpenError> {
    let address = Address::new(settings)?;
    match Link::connect(&address) {
        Ok(link) => Ok((address, link)),
        Err(fault) => Err(unusable(&address, &say(fault))),
    }
}

fn unusable(address: &Address, reason: &str) -> OpenError {
    OpenError(format!("the database {} cannot be used: {reason}", name(address)))
}

fn say(fault: Fault) -> String {
    match fault {
        Fault::Unavailable(reason) | Fault::Bug(reason) => reason,
        other => other.to_string(),
    }
}

/// The database as it is told to a person: without user and password.
fn name(address: &Address) -> String {
    let hosts = address.config.get_hosts().iter().map(|host| match host {
        tokio_postgres::config::Host::Tcp(host) => host.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    format!("{} at {hosts}", address.config.get_dbname().unwrap_or_default())
}
