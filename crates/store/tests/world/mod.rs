//! A small world for tests of the store: a folder of its own, a clock that is moved by hand, a seeded
//! generator, and the shortest way to a tenant, a plan and an order.

#![allow(dead_code, reason = "every test file uses its own part of this")]

use domain::fulfilment::{Capabilities, Outcome, Patience, Profile};
use domain::id::{OperatorId, OrderId, PlanId, SessionId, TenantId, UserId};
use domain::money::{Currency, Money};
use domain::plan::{Activation, Plan, PlanType};
use domain::tenant::{Actor, Mode, Permissions, Scope, TenantStatus};
use domain::time::Timestamp;
use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::audit::Act;
use store::checkout::{Checkout, Placed, SANDBOX, place_orders};
use store::fulfilment::{Heard, Leased, Providers, claim_jobs, record_answer};
use store::order::{Order, Traveller};
use store::port::{Decision, Fault, Snapshot, Tx};
use store::postgres::{Postgres, Settings};
use store::routing::{Connections, Standing, route_jobs};
use store::sqlite::Sqlite;
use store::tenant::{Registration, register};
use store::{Now, OpenError, Store};
use testing::FreshDatabase;
use uuid::Uuid;

/// When every test begins.
pub const START: i64 = 1_795_000_000_000;
/// The provider that sells three at a time.
pub const IN_THREES: &str = "in-threes";
/// How long a worker may keep a job.
pub const LEASE_MS: i64 = 15_000;

/// US cents.
pub const fn usd(minor: i64) -> Money {
    Money::new(minor, Currency::USD)
}

/// A folder of its own, removed with its contents.
pub struct Folder {
    path: PathBuf,
    /// A database on PostgreSQL, made when it is first opened.
    database: OnceLock<FreshDatabase>,
}

impl Folder {
    /// A fresh one.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("store-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self { path, database: OnceLock::new() }
    }

    /// Its database on PostgreSQL, empty until one is opened.
    pub fn make_database(&self) -> &FreshDatabase {
        self.database.get_or_init(FreshDatabase::new)
    }

    /// Its database on PostgreSQL, once one was opened.
    pub fn database(&self) -> &FreshDatabase {
        self.database.get().unwrap()
    }

    /// Where the database lies.
    pub fn file(&self) -> PathBuf {
        self.path.join("esimd.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// A clock at [`START`].
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }

    /// Moves it.
    pub fn advance(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }

    /// As the store takes it.
    pub fn as_now(&self) -> Now {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }
}

/// How a database under test is opened: a folder, a seed, a clock.
pub type Open = fn(&Folder, u64, Now) -> Result<Store, OpenError>;

/// The embedded database.
pub fn sqlite(folder: &Folder, seed: u64, now: Now) -> Result<Store, OpenError> {
    Sqlite::open(&folder.file(), seed, now).map(Store::new)
}

/// How the folder's database on PostgreSQL is reached.
pub fn settings(folder: &Folder) -> Settings {
    Settings {
        url: folder.make_database().url(),
        connections: 5,
        statement_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
    }
}

/// The database many nodes share.
pub fn postgres(folder: &Folder, seed: u64, now: Now) -> Result<Store, OpenError> {
    let postgres = Postgres::open(&settings(folder), seed, now)?;
    postgres.started();
    Ok(Store::new(postgres))
}

/// The database of a test that is run on both: a link with another name makes two test programs of the same file.
pub fn database(folder: &Folder, seed: u64, now: Now) -> Result<Store, OpenError> {
    let open = if env!("CARGO_CRATE_NAME").ends_with("_on_postgres") { postgres } else { sqlite };
    open(folder, seed, now)
}

/// A seeded generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A small number below `end`.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    /// A signed number from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())].clone()
    }
}

/// The seed of a randomised test: `STORE_SEED`, a number, or the test's own.
pub fn seed(own: u64) -> u64 {
    std::env::var("STORE_SEED").ok().map_or(own, |text| text.parse().unwrap())
}

/// An open database, and the thread that waits for it.
pub struct Db {
    /// The database.
    pub store: Store,
    runtime: tokio::runtime::Runtime,
}

impl Db {
    /// Around an open store.
    pub fn new(store: Store) -> Self {
        Self { store, runtime: tokio::runtime::Builder::new_current_thread().build().unwrap() }
    }

    /// Waits for something of the store.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Runs a command.
    pub fn write<T, R, C>(&self, command: C) -> Decision<T, R>
    where
        T: Send + 'static,
        R: Send + 'static,
        C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send + 'static,
    {
        self.wait(self.store.write(command))
    }

    /// Runs a read.
    pub fn read<T, C>(&self, read: C) -> T
    where
        T: Send + 'static,
        C: FnOnce(&mut dyn Snapshot) -> Result<T, Fault> + Send + 'static,
    {
        self.wait(self.store.read(read)).unwrap()
    }

    /// An order as it is.
    pub fn order(&self, id: OrderId) -> Order {
        self.read(move |snapshot| store::order::find(snapshot, id)).unwrap()
    }

    /// A balance, in cents.
    pub fn balance(&self, tenant: TenantId, mode: Mode) -> i64 {
        self.read(move |snapshot| snapshot.credit(tenant, mode)).unwrap().head.balance.minor()
    }

    /// What the check of the ledger finds.
    pub fn check(&self) -> Result<(), store::ledger::Finding> {
        self.read(check_ledger)
    }

    /// Takes the whole tail, or one batch of it, into the index. Returns how many entries it took.
    pub fn take_tail(&self) -> usize {
        self.wait(self.store.fill_index()).unwrap().0
    }

    /// Takes the whole tail into the index.
    pub fn index_all(&self) {
        while self.take_tail() > 0 {}
    }
}

/// Walks the whole ledger.
pub fn check_ledger(snapshot: &mut dyn Snapshot) -> Result<Result<(), store::ledger::Finding>, Fault> {
    let mut check = store::ledger::Check::begin(snapshot)?;
    loop {
        match check.page(snapshot)? {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(finding) => return Ok(Err(finding)),
        }
    }
}

/// An operator at work.
pub fn act() -> Act {
    Act { operator: OperatorId::new(Uuid::from_u128(7 << 80)), address: "192.0.2.1".to_owned() }
}

/// The scope of a tenant's user.
pub fn scope(tenant: TenantId, mode: Mode) -> Scope {
    let actor = Actor::User(UserId::new(Uuid::nil()), SessionId::new(Uuid::nil()));
    Scope { tenant, mode, actor, permissions: Permissions::ALL }
}

/// A registration that is told apart by `name`.
pub fn registration(name: &str, test_credit: i64) -> Registration {
    Registration {
        name: name.to_owned(),
        subdomain: name.to_owned(),
        contact_email: format!("{name}@example.com"),
        password_hash: "x".to_owned(),
        status: TenantStatus::Active,
        currency: Currency::USD,
        test_credit: usd(test_credit),
    }
}

/// A plan of `provider`, told apart by `name`.
pub fn plan(provider: &str, name: &str, price: i64) -> Plan {
    Plan {
        id: PlanId::new(Uuid::nil()),
        provider: provider.to_owned(),
        upstream_plan_id: name.to_owned(),
        name: name.to_owned(),
        plan_type: PlanType::Local,
        countries: vec!["FR".to_owned()],
        region: None,
        data_mb: Some(1_024),
        daily_data_mb: None,
        unlimited: false,
        validity_days: 7,
        price: usd(price),
        speed: None,
        networks: Vec::new(),
        activation: Activation::OnInstall,
        top_up_supported: false,
        description: None,
        fair_use: None,
    }
}

/// What all upstreams of these tests can do.
pub const ABLE: Capabilities = Capabilities {
    quantity_per_call: 100,
    idempotent_create: false,
    look_up_by_reference: true,
    cancel: true,
    settle_after_ms: 0,
};

/// How long they are borne with.
pub const PATIENCE: Patience = Patience { capabilities: ABLE, most_failures: 3, longest_ms: i64::MAX };

/// The providers by name: one sells three at a time.
pub struct Upstreams;

impl Providers for Upstreams {
    fn capabilities(&self, provider: &str) -> Option<Capabilities> {
        match provider {
            IN_THREES => Some(Capabilities { quantity_per_call: 3, ..ABLE }),
            SANDBOX => Some(ABLE),
            _ => None,
        }
    }
}

/// Takes up due jobs, in whichever lane they stand: those of the sandbox first.
pub fn claim_any(tx: &mut dyn Tx, limit: u32, lease_ms: i64) -> Decision<Vec<Leased>, Infallible> {
    let routed = route_jobs(tx, &Upstreams, 1_000)?;
    assert_eq!(routed.unsold, [], "every plan of these tests has a provider");
    let mut claimed = Vec::new();
    for upstream in [SANDBOX, IN_THREES] {
        let left = limit - u32::try_from(claimed.len()).unwrap();
        if left > 0 {
            claimed.extend(claim_jobs(tx, &Upstreams, upstream, left, lease_ms)?);
        }
    }
    Ok(claimed)
}

/// When the next job of any lane is due.
pub fn next_due(snapshot: &mut dyn Snapshot) -> Result<Option<Timestamp>, Fault> {
    let lanes = ["", SANDBOX, IN_THREES].map(|lane| store::job::next_due(snapshot, lane));
    Ok(lanes.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().min())
}

impl Connections for Upstreams {
    fn standing(&self, _: &str) -> Option<Standing> {
        None
    }

    fn least_margin(&self) -> i64 {
        0
    }
}

/// A profile with this ICCID.
pub fn profile(iccid: &str) -> Profile {
    Profile {
        iccid: iccid.to_owned(),
        smdp_address: "smdp.example".to_owned(),
        matching_id: format!("M-{iccid}"),
        activation_code: format!("LPA:1$smdp.example$M-{iccid}"),
        ..Profile::default()
    }
}

/// Registers a tenant with this test credit.
pub fn tenant(db: &Db, name: &str, test_credit: i64) -> TenantId {
    let registration = registration(name, test_credit);
    db.write(move |tx| register(tx, &registration)).unwrap().id
}

/// Puts a plan on sale.
pub fn on_sale(db: &Db, provider: &str, name: &str, price: i64) -> PlanId {
    let plan = plan(provider, name, price);
    db.write(move |tx| store::plan::import(tx, None, std::slice::from_ref(&plan))).unwrap();
    let name = name.to_owned();
    let listed = db.read(|snapshot| store::plan::list(snapshot, None, 1_000));
    listed.into_iter().find(|listed| listed.plan.name == name).unwrap().plan.id
}

/// A checkout of these lines, without a traveller.
pub fn checkout(tenant: TenantId, mode: Mode, items: &[(PlanId, u32)]) -> Checkout {
    Checkout {
        scope: scope(tenant, mode),
        items: items.to_vec(),
        max_total: None,
        traveller: Traveller::default(),
        key: None,
        quotes: None,
        sandbox_in_live: false,
    }
}

/// Buys.
pub fn buy(db: &Db, tenant: TenantId, mode: Mode, items: &[(PlanId, u32)]) -> Placed {
    let checkout = checkout(tenant, mode, items);
    db.write(move |tx| place_orders(tx, &checkout)).unwrap()
}

/// Gives a tenant live credit.
pub fn credit(db: &Db, tenant: TenantId, minor: i64) {
    db.write(move |tx| store::tenant::adjust(tx, &act(), tenant, Mode::Live, usd(minor), "credit", None)).unwrap();
}

/// Has one due job done, with this outcome.
pub fn answer_next(db: &Db, outcome: &Outcome) {
    for leased in db.write(|tx| claim_any(tx, 1, LEASE_MS)).unwrap() {
        let heard = Heard::Place(outcome.clone());
        db.write(move |tx| record_answer(tx, &leased, &heard, "raw", None, PATIENCE)).unwrap();
    }
}
