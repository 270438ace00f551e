//! The life of one node: the real platform, its workers and its HTTP over a database whose every step is driven from
//! here, in one thread, until it is stopped, killed, or loses its power.

use crate::clock::{SimulatedClock, pause};
use crate::disk::{Disk, End, config};
use crate::partners::Caller;
use crate::upstream::Network;
use crate::world::World;
use domain::money::Currency;
use providers::Upstream;
use server::clock::Clock;
use server::data_dir::DataDir;
use server::keyring::Keyring;
use server::node::{Node, Parts};
use server::password::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use store::Store;
use store::port::Fault;
use store::sqlite::{Sqlite, Steps};
use tokio::sync::oneshot;

/// Drives the database: what waits is done a moment later, each part in its turn or out of it.
async fn drive(
    world: Arc<World>,
    mut steps: Steps,
    flushed: impl Fn(),
    clock: SimulatedClock,
    mut stop: oneshot::Receiver<()>,
) -> Steps {
    let dice = &world.dice;
    let mut log_begins_anew = false;
    let mut tidied = clock.now();
    let mut disk_is_full_until = None;
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => return steps,
            () = steps.asked() => {}
        }
        // Now and then the disk is full for a moment.
        let full = disk_is_full_until.is_some_and(|end| clock.now() < end);
        if disk_is_full_until.is_some() && !full {
            disk_is_full_until = None;
            steps.fill_disk(false).unwrap();
        } else if !full && !world.is_calm() && dice.once_in(150) {
            disk_is_full_until = Some(clock.now().plus_millis(i64::try_from(dice.below(3_000)).unwrap()));
            steps.fill_disk(true).unwrap();
        }
        // Now and then the disk is slow.
        pause(if dice.once_in(50) { dice.below(2_000) } else { dice.below(3) }).await;
        let mut idle = 0;
        while idle < 4 {
            let busy = match dice.below(4) {
                0 => {
                    let wrote = steps.write();
                    if wrote && std::mem::take(&mut log_begins_anew) {
                        flushed();
                    }
                    wrote
                }
                1 => steps.flush(),
                2 => steps.read(),
                _ => steps.index(),
            };
            idle = if busy { 0 } else { idle + 1 };
            if busy && dice.once_in(4) {
                pause(dice.below(3)).await;
            }
        }
        // Nothing may be left that nobody comes back for.
        while steps.write() | steps.flush() | steps.read() | steps.index() {
            log_begins_anew = false;
        }
        if clock.now().since(tidied) > 1_000 {
            tidied = clock.now();
            match steps.tidy() {
                Ok(_) | Err(Fault::StorageFull) => {}
                Err(fault) => world.wrong(fault.to_string()),
            }
            // It flushes the log before it copies it, and so does the writer before the log begins anew.
            if dice.once_in(4) && steps.checkpoint() {
                flushed();
                log_begins_anew = true;
            }
        }
    }
}

/// Nobody logs in, so one is enough for all.
fn hasher() -> Hasher {
    static HASHER: OnceLock<Hasher> = OnceLock::new();
    HASHER.get_or_init(|| Hasher::new(1).expect("a hasher")).clone()
}

/// Runs one node from the disk it finds, for as long as `life` takes. Returns the disk it leaves.
pub fn live<F>(world: &Arc<World>, disk: Disk, end: End, life: impl FnOnce(Caller, SimulatedClock) -> F) -> Disk
where
    F: Future<Output = ()>,
{
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let left = runtime.block_on(async {
        let clock = SimulatedClock::showing(*world.time.lock().unwrap());
        world.note(clock.now(), "a node starts");
        // Once in a while a disk fails for good at some flush.
        let dice = &world.dice;
        let fails_after = if end == End::Stopped || !dice.once_in(8) { u64::MAX } else { 5 + dice.below(60) };
        let (remember, flushes) = (disk.flush(end == End::PowerLost), AtomicU64::new(0));
        let flushed = remember.clone();
        let flush = move || {
            if flushes.fetch_add(1, Ordering::Relaxed) >= fails_after {
                return Err(std::io::Error::other("the disk failed"));
            }
            remember();
            Ok(())
        };
        let now: store::Now = Arc::new(move || clock.now());
        let (sqlite, steps) = Sqlite::open_in_steps(&disk.database(), dice.roll(), now, flush).unwrap();
        let (stop, stopped) = oneshot::channel();
        let driver = tokio::spawn(drive(Arc::clone(world), steps, flushed, clock, stopped));

        let config = config(disk.path());
        let data_dir = DataDir::lock(disk.path()).unwrap();
        let master = data_dir.master_key(&config).unwrap();
        let store = Store::new(sqlite);
        let network = Network { world: Arc::clone(world), clock: Arc::new(clock) };
        network.go_on();
        let upstreams: std::collections::BTreeMap<_, _> =
            [(store::checkout::SANDBOX.to_owned(), Arc::new(network) as Arc<dyn Upstream>)].into();
        let keyring = Keyring::load(&store, &master).await.expect("the keys of the first start");
        let parts = Parts {
            base_url: "http://simulated".to_owned(),
            hasher: hasher(),
            config,
            store,
            clock: Arc::new(clock),
            keyring: Arc::new(RwLock::new(keyring)),
            master,
            sandbox: world.sandbox.clone(),
            upstreams,
            currency: Currency::USD,
        };
        let node = Node::start(parts).await.expect("a node");
        life(Caller { world: Arc::clone(world), platform: Arc::clone(node.platform()) }, clock).await;
        world.note(clock.now(), &format!("{end:?}"));
        world.count(match end {
            End::Stopped => "stopped",
            End::Killed => "killed",
            End::PowerLost => "power lost",
        });
        if end == End::Stopped {
            node.stop().await;
            let _ = stop.send(());
            driver.await.unwrap().close().unwrap();
        }
        // The next one comes a moment later, perhaps by a clock that was set back.
        let later = i64::try_from(dice.below(30_000)).unwrap() - 2_000;
        *world.time.lock().unwrap() = clock.now().plus_millis(later);
        disk.after(end, dice)
    });
    drop(runtime);
    left
}
