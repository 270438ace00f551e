//! A platform with a past: orders that were bought, paid and delivered over the last months, made by the store's own
//! commands and the sandbox, so that what lies there is what a server would have written. Only the clock is ours.

use crate::Outcome;
use crate::history::{Bought, History};
use crate::serving::make_tenants;
use domain::fulfilment::{Capabilities, Outcome as Sale, Patience, Step};
use domain::id::PlanId;
use domain::tenant::Scope;
use providers::sandbox::{DELIVERS, Sandbox};
use providers::{Purchase, Upstream};
use server::clock::{Clock, SystemClock, TestClock};
use server::config::Config;
use server::data_dir::DataDir;
use server::entrance::api_key_hash;
use server::{App, Runtime, database};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use store::access::api_key_by_secret;
use store::checkout::{Checkout, SANDBOX, place_orders};
use store::fulfilment::{Heard, Leased, Providers, Task, claim_jobs, needs_of_answer, record_answer};
use store::order::Traveller;
use store::port::Tx;
use store::{Store, retention};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long ago the first order was bought, milliseconds.
const SPAN_MS: i64 = 90 * 86_400_000;
/// Checkouts under way at once: they share commits.
const BUYERS: u32 = 512;
/// Who takes jobs up.
const DELIVERERS: u32 = 4;
/// Jobs taken up at once.
const CLAIM: u32 = 64;
/// Orders that may wait for their delivery, so that it does not fall back behind the checkouts.
const MOST_OPEN: usize = 2_048;
/// Orders that may wait for the search index: as many as the store holds in memory for it.
const MOST_UNINDEXED: usize = 45_000;
/// Between two looks of those who wait for something to do.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two rounds of throwing away what is over.
const SWEEP_PAUSE: Duration = Duration::from_millis(200);
/// Between two portions of the index: the larger they are, the fewer pages are written for each.
const INDEX_PAUSE: Duration = Duration::from_millis(500);

/// A plan that is sold: its id, and its price list's own name for it.
type Plans = Vec<PlanId>;

struct Able(Capabilities);

impl Providers for Able {
    fn capabilities(&self, provider: &str) -> Option<Capabilities> {
        (provider == SANDBOX).then_some(self.0)
    }
}

struct Filling {
    store: Store,
    sandbox: Sandbox,
    clock: TestClock,
    history: History,
    buyers: Vec<Scope>,
    plans: Plans,
    orders: u32,
    /// What the clock moves on between two orders.
    step_ms: i64,
    keep_keys_ms: i64,
    most_failures: u32,
    next: AtomicU32,
    delivered: AtomicU32,
    may_open: Semaphore,
    may_be_unindexed: Semaphore,
}

/// Makes the tenants and their past. `told` hears now and then how many orders are there.
pub async fn fill(
    config: Config,
    history: History,
    orders: u32,
    told: impl FnMut(u32) + Send + 'static,
) -> Outcome<()> {
    let begins = SystemClock.now().plus_millis(-SPAN_MS);
    let clock = TestClock::at(begins.millis());
    let runtime = Runtime { clock: Arc::new(clock.clone()), seed: history.seed };
    let app = App::start_with(config.clone(), runtime.clone(), &[]).await?;
    let keys = make_tenants(&app.platform().store, history.tenants, history.seed).await?;
    app.stop().await;

    // Without the platform's own workers: their leases end by a clock that here moves by days in a minute.
    let data_dir = DataDir::lock(&config.data_dir)?;
    let (store, sandbox) = database::open(&config, &data_dir, &runtime).await?;
    let mut buyers = Vec::with_capacity(keys.len());
    for key in keys {
        let access = store.read(move |snapshot| api_key_by_secret(snapshot, &api_key_hash(&key))).await?;
        buyers.push(access.ok_or("a tenant without a key")?.scope);
    }
    let plans = store.read(|snapshot| store::plan::list(snapshot, None, 5_000)).await?.into_iter();
    // The other plans of this prefix do what a measurement does not ask for.
    let sold = |id: &str| id == DELIVERS || !id.starts_with("sandbox-");
    let plans = plans.filter(|listed| sold(&listed.plan.upstream_plan_id)).map(|listed| listed.plan.id).collect();
    let filling = Arc::new(Filling {
        store,
        sandbox,
        clock,
        history,
        buyers,
        plans,
        orders,
        step_ms: (SPAN_MS - 60_000) / i64::from(orders.max(1)),
        keep_keys_ms: i64::from(config.idempotency.keep_hours) * 3_600_000,
        most_failures: config.fulfilment.max_attempts,
        next: AtomicU32::new(0),
        delivered: AtomicU32::new(0),
        may_open: Semaphore::new(MOST_OPEN),
        may_be_unindexed: Semaphore::new(MOST_UNINDEXED),
    });
    let mut work = JoinSet::new();
    for _ in 0..BUYERS {
        work.spawn(Arc::clone(&filling).buy());
    }
    for _ in 0..DELIVERERS {
        work.spawn(Arc::clone(&filling).deliver());
    }
    work.spawn(Arc::clone(&filling).index());
    work.spawn(Arc::clone(&filling).sweep());
    work.spawn(Arc::clone(&filling).tell(told));
    while let Some(done) = work.join_next().await {
        done??;
    }
    filling.sandbox.close().await;
    Ok(())
}

/// What a folder holds, in bytes.
pub fn size_of(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

impl Filling {
    fn is_done(&self) -> bool {
        self.delivered.load(Ordering::Acquire) >= self.orders
    }

    fn checkout(&self, bought: Bought) -> Outcome<Checkout> {
        let index = |number: u32, end: usize| usize::try_from(number).unwrap_or(0).min(end.saturating_sub(1));
        let place = u64::from(bought.plan_thousandth) * u64::try_from(self.plans.len())? / 1_000;
        let plan = self.plans.get(index(u32::try_from(place)?, self.plans.len())).ok_or("nothing is sold")?;
        let scope = self.buyers.get(index(bought.tenant, self.buyers.len())).ok_or("there are no tenants")?;
        Ok(Checkout {
            scope: *scope,
            items: vec![(*plan, bought.quantity)],
            max_total: None,
            traveller: Traveller { email: bought.email, reference: Some(bought.reference), ..Traveller::default() },
            key: Some(bought.key),
            quotes: None,
            sandbox_in_live: true,
        })
    }

    async fn buy(self: Arc<Self>) -> Outcome<()> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.orders {
                return Ok(());
            }
            self.may_open.acquire().await?.forget();
            self.may_be_unindexed.acquire().await?.forget();
            self.clock.advance(self.step_ms);
            let checkout = self.checkout(self.history.order(number))?;
            let placed = self.store.write_needing(checkout.needs(), move |tx| place_orders(tx, &checkout)).await;
            placed.map_err(|failure| format!("order {number} was not bought: {failure:?}"))?;
        }
    }

    async fn deliver(self: Arc<Self>) -> Outcome<()> {
        let able = self.sandbox.capabilities();
        while !self.is_done() {
            let claim = move |tx: &mut dyn Tx| claim_jobs(tx, &Able(able), SANDBOX, CLAIM, 2 * SPAN_MS);
            let claimed = self.store.write(claim).await;
            let leased = claimed.map_err(|failure| format!("no jobs were taken up: {failure:?}"))?;
            if leased.is_empty() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let mut sales = JoinSet::new();
            for leased in leased {
                sales.spawn(Arc::clone(&self).deliver_one(leased));
            }
            while let Some(sold) = sales.join_next().await {
                sold??;
                self.delivered.fetch_add(1, Ordering::Release);
                self.may_open.add_permits(1);
            }
        }
        Ok(())
    }

    async fn deliver_one(self: Arc<Self>, leased: Leased) -> Outcome<()> {
        let Task::Fulfil { placement, step: Step::Place } = &leased.task else {
            return Err(format!("order {} is to be something else than placed: {:?}", leased.order, leased.task).into());
        };
        let purchase = Purchase {
            reference: placement.reference(),
            order: None,
            upstream_plan_id: placement.upstream_plan_id.clone(),
            quantity: placement.quantity,
        };
        let sale = self.sandbox.place(self.clock.now(), purchase).await;
        if !matches!(sale.meaning, Sale::Done { .. }) {
            return Err(format!("order {} was not delivered: {}", leased.order, sale.raw).into());
        }
        let patience = Patience {
            capabilities: self.sandbox.capabilities(),
            most_failures: self.most_failures,
            longest_ms: i64::MAX,
        };
        let (heard, needs) = (Heard::Place(sale.meaning), needs_of_answer(&leased));
        let record = move |tx: &mut dyn Tx| record_answer(tx, &leased, &heard, &sale.raw, None, patience);
        let recorded = self.store.write_needing(needs, record).await;
        recorded.map_err(|failure| format!("a delivery was not recorded: {failure:?}").into())
    }

    async fn index(self: Arc<Self>) -> Outcome<()> {
        let mut indexed = 0;
        loop {
            // Before the last look, so that it sees all.
            let last = self.is_done();
            let (entries, more) = self.store.fill_index().await?;
            indexed += entries;
            // An order is two entries: its purchase and its sale.
            self.may_be_unindexed.add_permits(indexed / 2);
            indexed %= 2;
            if last && entries == 0 {
                return Ok(());
            }
            if !more && !last {
                tokio::time::sleep(INDEX_PAUSE).await;
            }
        }
    }

    async fn sweep(self: Arc<Self>) -> Outcome<()> {
        loop {
            let last = self.is_done();
            let now = self.clock.now();
            let keys_before = now.plus_millis(-self.keep_keys_ms);
            let sweep = move |tx: &mut dyn Tx| retention::sweep(tx, keys_before, now, now, now);
            while self.store.write(sweep).await.map_err(|failure| format!("nothing was swept: {failure:?}"))? {}
            if last {
                return Ok(());
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    async fn tell(self: Arc<Self>, mut told: impl FnMut(u32)) -> Outcome<()> {
        while !self.is_done() {
            tokio::time::sleep(SWEEP_PAUSE).await;
            told(self.delivered.load(Ordering::Relaxed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_process::settings;
    use domain::order::{OrderFilter, OrderStatus};
    use server::config::Overrides;
    use server::operator::ledger;
    use store::order;

    #[test]
    fn a_filled_platform_is_whole_and_its_orders_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let overrides = Overrides { data_dir: Some(folder.path().to_owned()), ..Overrides::default() };
        let config = Config::load(&overrides, settings("", 5).into_iter()).unwrap();
        let (history, orders) = (History { seed: 5, tenants: 5 }, 300);
        let async_runtime = tokio::runtime::Runtime::new().unwrap();
        async_runtime.block_on(async {
            fill(config.clone(), history, orders, |_| ()).await.unwrap();
            let data_dir = DataDir::lock(&config.data_dir).unwrap();
            let (store, sandbox) = database::open(&config, &data_dir, &Runtime::system()).await.unwrap();
            let (entries, finding) = ledger::check(&store).await.unwrap();
            // A purchase and a sale each, and what the tenants and the demo partner got to begin with.
            assert!(finding.is_none(), "{finding:?}");
            assert!(entries >= u64::from(2 * orders), "{entries}");
            let keys = crate::serving::api_keys(history.tenants, history.seed);
            let mut found = 0;
            for (tenant, key) in (0..).zip(keys) {
                let hash = api_key_hash(&key);
                let access = store.read(move |snapshot| api_key_by_secret(snapshot, &hash)).await.unwrap().unwrap();
                let scope = access.scope;
                let list = |filter: OrderFilter| {
                    store.read(move |snapshot| order::list(snapshot, scope.tenant, scope.mode, &filter, None, 1_000))
                };
                let all = list(OrderFilter::default()).await.unwrap().orders;
                found += all.len();
                let theirs: Vec<_> =
                    (0..orders).map(|number| history.order(number)).filter(|order| order.tenant == tenant).collect();
                assert_eq!(all.len(), theirs.len());
                let wanted = &theirs[0];
                let filter = OrderFilter { reference: Some(wanted.reference.clone()), ..OrderFilter::default() };
                let by_reference = list(filter).await.unwrap().orders;
                assert_eq!(by_reference.len(), 1);
                assert_eq!(by_reference[0].traveller.email, wanted.email);
                assert_eq!(by_reference[0].esims.len(), usize::try_from(wanted.quantity).unwrap());
                assert_eq!(by_reference[0].status, OrderStatus::Completed);
                let filter = OrderFilter { iccid: by_reference[0].esims[0].iccid.clone(), ..OrderFilter::default() };
                assert_eq!(list(filter).await.unwrap().orders, by_reference);
            }
            assert_eq!(found, usize::try_from(orders).unwrap());
            sandbox.close().await;
        });
    }
}
