//! The store against the model in `domain::oracle`: seeded random commands go to both, and their
//! answers, refusals, balances and lists must be the same at every step. A failing run prints its seed;
//! `STORE_SEED` runs it again.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod world;

use domain::checkout::CheckoutRefusal;
use domain::fulfilment::{Cancellation, LookUp, NotYet, Outcome, Profile};
use domain::id::{CheckoutId, EntryId, EsimId, JobId, OrderId, PlanId, TenantId, TopUpId};
use domain::job::{JobKind, JobState};
use domain::ledger::{Account, EntryKind};
use domain::oracle::{Back, Basket, Deposit, GiveBack, Key, Moved, Offer, Oracle, Receipt, Refusal, Said, Work, World};
use domain::order::{OrderFilter, OrderStatus};
use domain::tenant::{Mode, NotAllowed, TenantStatus};
use domain::time::Timestamp;
use domain::top_up::TopUpStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Debug;
use store::checkout::{Placed, SANDBOX, place_orders};
use store::fulfilment::{
    CancelRefusal, Heard, LeaseLost, Leased, OperatorRefund, RefundRefusal, ResolveRefusal, Task, record_answer,
    record_cancellations, refund_by_operator, resolve,
};
use store::job::JobRefusal;
use store::ledger::TransactionFilter;
use store::order::Traveller;
use store::plan::PlanRefusal;
use store::port::{Decision, Failure, KeyHash};
use store::tenant::{RegisterRefusal, TenantRefusal};
use store::top_up::{NewTopUp, TopUpRefusal};
use uuid::Uuid;
use world::*;

/// Worlds of one test, each a database of its own.
const WORLDS: u64 = 5;
/// The same where every statement crosses a network.
const WORLDS_ON_POSTGRES: u64 = 2;
/// Sequences of one world.
const SEQUENCES: usize = 10;
/// Commands of one sequence.
const COMMANDS: usize = 80;
/// More than any balance can take.
const TOO_LARGE: i64 = 1_000_001_000_000_000;

fn play(open: Open, own_seed: u64, worlds: u64) {
    for world in 0..worlds {
        let seed = seed(own_seed * 1_000 + world);
        println!("STORE_SEED={seed}");
        let mut game = Game::new(open, seed);
        for _ in 0..SEQUENCES {
            game.newcomers();
            for _ in 0..COMMANDS {
                game.command();
                game.check_money();
            }
            game.check_all();
        }
        if std::env::var_os("STORE_SEED").is_some() {
            return;
        }
    }
}

#[test]
fn random_commands_mean_the_same_in_sqlite_1() {
    play(sqlite, 1, WORLDS);
}

#[test]
fn random_commands_mean_the_same_in_sqlite_2() {
    play(sqlite, 2, WORLDS);
}

#[test]
fn random_commands_mean_the_same_in_sqlite_3() {
    play(sqlite, 3, WORLDS);
}

#[test]
fn random_commands_mean_the_same_in_sqlite_4() {
    play(sqlite, 4, WORLDS);
}

#[test]
fn random_commands_mean_the_same_in_postgres_1() {
    play(postgres, 1, WORLDS_ON_POSTGRES);
}

#[test]
fn random_commands_mean_the_same_in_postgres_2() {
    play(postgres, 2, WORLDS_ON_POSTGRES);
}

#[test]
fn random_commands_mean_the_same_in_postgres_3() {
    play(postgres, 3, WORLDS_ON_POSTGRES);
}

#[test]
fn random_commands_mean_the_same_in_postgres_4() {
    play(postgres, 4, WORLDS_ON_POSTGRES);
}

#[test]
#[ignore = "long: some minutes of random commands"]
fn many_random_commands_mean_the_same_in_postgres() {
    play(postgres, 9, 40);
}

/// A refusal of the store in the words of the model.
trait InWords {
    fn in_words(self) -> Refusal;
}

impl InWords for Infallible {
    fn in_words(self) -> Refusal {
        match self {}
    }
}

impl InWords for NotAllowed {
    fn in_words(self) -> Refusal {
        match self {
            Self::Pending => Refusal::TenantPending,
            Self::Suspended => Refusal::TenantSuspended,
        }
    }
}

impl InWords for LeaseLost {
    fn in_words(self) -> Refusal {
        Refusal::LeaseLost
    }
}

impl InWords for CheckoutRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotAllowed(refusal) => refusal.in_words(),
            Self::IdempotencyKeyReused => Refusal::KeyReused,
            Self::QuoteOutdated => panic!("no plan of these tests lives from offers"),
            Self::PlanUnavailable(lines) => Refusal::PlanUnavailable(lines),
            Self::PriceChanged { total, max_total } => Refusal::PriceChanged(total.minor(), max_total.minor()),
            Self::InsufficientBalance { required, credit_balance } => {
                Refusal::InsufficientBalance(required.minor(), credit_balance.minor())
            }
        }
    }
}

impl InWords for RegisterRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::EmailTaken => Refusal::EmailTaken,
            Self::SubdomainTaken => Refusal::SubdomainTaken,
        }
    }
}

impl InWords for TenantRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::AlreadyDecided => Refusal::AlreadyDecided,
            Self::IdempotencyKeyReused => Refusal::KeyReused,
            Self::TooLarge => Refusal::TooLarge,
        }
    }
}

impl InWords for PlanRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::AlreadyDecided => Refusal::AlreadyDecided,
            Self::HasNoOffers => panic!("no plan of these tests is given back to rules"),
        }
    }
}

impl InWords for TopUpRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::NotAllowed(refusal) => refusal.in_words(),
            Self::IdempotencyKeyReused => Refusal::KeyReused,
            Self::AlreadyDecided => Refusal::AlreadyDecided,
            Self::TooLarge => Refusal::TooLarge,
            Self::NotABankTransfer => panic!("every top-up of this test is a bank transfer"),
        }
    }
}

impl InWords for CancelRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::NotAllowed(refusal) => refusal.in_words(),
            Self::UnknownEsims(esims) => Refusal::UnknownEsims(esims),
            Self::NotCancellable => Refusal::NotCancellable,
        }
    }
}

impl InWords for RefundRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::Processing => Refusal::Processing,
            Self::UnknownEsims(esims) => Refusal::UnknownEsims(esims),
            Self::AlreadyRefunded => Refusal::AlreadyRefunded,
            Self::TooMuch { left } => Refusal::TooMuch(left.minor()),
            Self::IdempotencyKeyReused => Refusal::KeyReused,
        }
    }
}

impl InWords for ResolveRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::NotUnknown => Refusal::NotUnknown,
            Self::EsimsNeeded => Refusal::EsimsNeeded,
            Self::TooManyEsims => Refusal::TooManyEsims,
        }
    }
}

impl InWords for JobRefusal {
    fn in_words(self) -> Refusal {
        match self {
            Self::NotFound => Refusal::NotFound,
            Self::NotDead => Refusal::NotDead,
            Self::OutcomeUnknown => Refusal::OutcomeUnknown,
        }
    }
}

/// The store's decision with the model's refusals; a fault is never an answer.
fn decided<T, R: InWords>(decision: Decision<T, R>) -> Result<T, Refusal> {
    decision.map_err(|failure| match failure {
        Failure::Refused(refusal) => refusal.in_words(),
        Failure::Fault(fault) => panic!("{fault}"),
    })
}

fn stored(key: Key) -> (KeyHash, [u8; 16]) {
    (key.name.to_be_bytes(), key.body.to_be_bytes())
}

fn receipt(placed: &Placed) -> Receipt {
    let line = |order: &store::order::Order| (order.id, order.number.clone(), order.total().expect("in range").minor());
    Receipt {
        checkout: placed.checkout,
        orders: placed.orders.iter().map(line).collect(),
        total: placed.total.minor(),
        balance: placed.credit_balance.minor(),
        replayed: placed.replayed,
    }
}

const fn signed(entry: &store::ledger::Transaction) -> Moved {
    let movement = &entry.entry.movement;
    let amount = movement.amount.minor();
    let takes = matches!(movement.source, Account::TenantCredit);
    Moved {
        kind: movement.kind,
        amount: if takes { -amount } else { amount },
        balance_after: entry.entry.balance_after.minor(),
        order: movement.order,
        top_up: movement.top_up,
        at: Timestamp::from_millis(0),
    }
}

fn moved(transaction: &store::ledger::Transaction) -> Moved {
    Moved { at: transaction.entry.id.created_at(), ..signed(transaction) }
}

/// A claimed job that nobody has answered yet.
struct Held {
    leased: Leased,
    ticket: u64,
    work: Work,
}

/// Whose list of orders.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Tenant(World),
    Operator(Option<Mode>),
}

struct Game {
    folder: Folder,
    open: Open,
    seed: u64,
    clock: Clock,
    db: Option<Db>,
    random: Random,
    oracle: Oracle,
    tenants: Vec<TenantId>,
    plans: Vec<PlanId>,
    orders: Vec<OrderId>,
    top_ups: Vec<TopUpId>,
    held: Vec<Held>,
    last_entry: Timestamp,
    entries: BTreeSet<EntryId>,
    accounts: BTreeMap<(Mode, Account), i64>,
    balances: BTreeMap<World, i64>,
    step: usize,
}

const EMAILS: [&str; 5] =
    ["ann@example.com", "Ann@Example.com", "anna@example.com", "bob@example.com", "bo.Ströß@example.com"];
const REFERENCES: [&str; 5] = ["PO-1", "po-1", "PO-12", "1001-0", "ÄÖ-7"];

impl Game {
    fn new(open: Open, seed: u64) -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(open(&folder, seed, clock.as_now()).unwrap());
        let mut oracle = Oracle::default();
        let mut plans = Vec::new();
        for (provider, name, price, per_call) in [
            (IN_THREES, "threes", 450, 3),
            (IN_THREES, "dear threes", 99_999, 3),
            (IN_THREES, "for nothing", 0, 3),
            (SANDBOX, "sand", 450, 100),
            (SANDBOX, "dear sand", 5_000, 100),
        ] {
            let id = on_sale(&db, provider, name, price);
            oracle.offer(id, Offer { price, sandbox: provider == SANDBOX, per_call, withdrawn: false });
            plans.push(id);
        }
        Self {
            folder,
            open,
            seed,
            clock,
            db: Some(db),
            random: Random(seed),
            oracle,
            tenants: Vec::new(),
            plans,
            orders: Vec::new(),
            top_ups: Vec::new(),
            held: Vec::new(),
            last_entry: Timestamp::from_millis(0),
            entries: BTreeSet::new(),
            accounts: BTreeMap::new(),
            balances: BTreeMap::new(),
            step: 0,
        }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("open")
    }

    #[track_caller]
    fn same<T: PartialEq + Debug>(&self, what: &str, store: &T, oracle: &T) {
        assert_eq!(store, oracle, "store and model differ: {what}, step {}, STORE_SEED={}", self.step, self.seed);
    }

    fn newcomers(&mut self) {
        for _ in 0..2 {
            self.register();
        }
    }

    fn command(&mut self) {
        self.step += 1;
        if self.random.chance(70) {
            self.clock.advance(self.random.between(1, 2_000));
        }
        match self.random.below(100) {
            0..22 => self.checkout(),
            22..50 => self.work(),
            50..55 => self.answer_late(),
            55..62 => self.ask_cancel(),
            62..67 => self.refund(),
            67..71 => self.begin_top_up(),
            71..74 => self.prove(),
            74..78 => self.decide_top_up(),
            78..83 => self.adjust(),
            83..86 => self.status_or_limit(),
            86..88 => self.change_plan(),
            88..91 => self.resolve(),
            91..94 => self.decide_job(),
            94..95 => self.register(),
            95..96 => self.void_leases(),
            96..97 => self.reopen(),
            _ => self.take_tail(),
        }
    }

    fn tenant(&mut self) -> TenantId {
        if self.random.chance(2) {
            return TenantId::new(Uuid::from_u128(1));
        }
        // Mostly the newest: the older ones have said what they had to say.
        let from = if self.random.chance(80) { self.tenants.len().saturating_sub(3) } else { 0 };
        self.random.pick(&self.tenants[from..])
    }

    fn mode(&mut self) -> Mode {
        self.random.pick(Mode::ALL)
    }

    fn known_world(&mut self) -> World {
        loop {
            let tenant = self.tenant();
            if self.tenants.contains(&tenant) {
                return (tenant, self.mode());
            }
        }
    }

    fn key(&mut self, route: u128, of: Uuid) -> Option<Key> {
        self.random.chance(40).then(|| {
            let name = of.as_u128().rotate_left(17) ^ (route << 100) ^ u128::from(self.random.below(5));
            Key { name, body: u128::from(self.random.below(10) / 8) }
        })
    }

    fn key_of_world(&mut self, route: u128, (tenant, mode): World) -> Option<Key> {
        self.key(route + if mode == Mode::Live { 0 } else { 64 }, tenant.uuid())
    }

    fn known_order(&mut self) -> OrderId {
        match self.orders.len() {
            0 => OrderId::from_fresh(Uuid::from_u128(99 << 64)),
            _ if self.random.chance(1) => OrderId::from_fresh(Uuid::from_u128(98 << 64)),
            many => {
                let from = if self.random.chance(70) { many.saturating_sub(20) } else { 0 };
                self.random.pick(&self.orders[from..])
            }
        }
    }

    fn iccids(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| format!("89441000000000{:05}", self.random.below(400))).collect()
    }

    fn register(&mut self) {
        let name = format!("t{:03}", self.random.below(500));
        let (email, subdomain) = (format!("{name}@example.com"), format!("s{:03}", self.random.below(500)));
        let status = if self.random.chance(10) { TenantStatus::Pending } else { TenantStatus::Active };
        let test_credit = self.random.pick(&[0, 20_000, 100_000]);
        let mut registration = registration(&subdomain, test_credit);
        registration.contact_email = email.clone();
        registration.status = status;
        let made = decided(self.db().write(move |tx| store::tenant::register(tx, &registration)));
        let id = made.as_ref().map_or(TenantId::new(Uuid::nil()), |tenant| tenant.id);
        let expected = self.oracle.register(self.clock.now(), id, &email, &subdomain, status, test_credit);
        self.same("register", &made.map(|tenant| tenant.number), &expected);
        if expected.is_ok() {
            self.tenants.push(id);
        }
    }

    fn checkout(&mut self) {
        let world = self.known_world();
        let key = self.key_of_world(1, world);
        let lines = 1 + self.random.index(3);
        let items: Vec<(PlanId, u32)> = (0..lines)
            .map(|_| {
                let quantity = u32::try_from(1 + self.random.below(8)).unwrap();
                let unknown = self.random.chance(2);
                let fitting: Vec<PlanId> = match world.1 {
                    Mode::Live => self.plans[..3].to_vec(),
                    Mode::Test => self.plans[3..].to_vec(),
                };
                let any = self.random.chance(3);
                let plan = if any { self.random.pick(&self.plans) } else { self.random.pick(&fitting) };
                (if unknown { PlanId::new(Uuid::from_u128(5)) } else { plan }, quantity)
            })
            .collect();
        let max_total = self.random.chance(15).then(|| self.random.between(0, 10_000));
        let email = self.random.chance(60).then(|| self.random.pick(&EMAILS).to_owned());
        let reference = self.random.chance(60).then(|| self.random.pick(&REFERENCES).to_owned());
        let mut wish = checkout(world.0, world.1, &items);
        wish.max_total = max_total.map(usd);
        wish.traveller = Traveller { email: email.clone(), reference: reference.clone(), ..Traveller::default() };
        wish.key = key.map(stored);
        let placed = decided(self.db().write(move |tx| place_orders(tx, &wish)));
        let placed = placed.map(|placed| receipt(&placed));
        let (id, made) = match &placed {
            Ok(receipt) => (receipt.checkout, receipt.orders.iter().map(|order| order.0).collect()),
            Err(_) => (CheckoutId::new(Uuid::nil()), Vec::new()),
        };
        let basket = Basket { items, max_total, email, reference, key };
        let expected = self.oracle.place_orders(self.clock.now(), world, &basket, id, &made);
        self.same("checkout", &placed, &expected);
        if expected.is_ok_and(|receipt| !receipt.replayed) {
            self.orders.extend(made);
        }
    }

    fn work(&mut self) {
        let all = self.random.chance(30);
        // Long enough for every lease and every pause to be over.
        self.clock.advance(if all { 400_000 } else { self.random.between(0, 5_000) });
        let limit = if all { 100_000 } else { self.random.pick(&[1, 2, 5]) };
        let claimed = decided(self.db().write(move |tx| claim_any(tx, limit, LEASE_MS))).unwrap();
        if all {
            let jobs: BTreeSet<JobId> = claimed.iter().map(|leased| leased.job).collect();
            self.same("due jobs", &jobs, &self.oracle.living_jobs().collect());
        }
        // All were claimed before the first is answered.
        let mut works = Vec::with_capacity(claimed.len());
        for leased in claimed {
            let (ticket, work) = self.oracle.claim(leased.job).expect("the model has this job, too");
            works.push(Held { leased, ticket, work });
        }
        for held in works {
            let task = match &held.leased.task {
                Task::Fulfil { placement, step: domain::fulfilment::Step::Place } => {
                    Work::Place(placement.k, placement.quantity)
                }
                Task::Fulfil { placement, .. } => Work::LookUp(placement.k, placement.quantity),
                Task::TakeBack(list) => Work::TakeBack(list.iter().map(|take_back| take_back.esim).collect()),
                Task::Finish => Work::Finish,
            };
            self.same("task", &task, &held.work);
            match self.random.below(100) {
                0..80 => self.answer(held),
                80..85 => self.postpone(&held),
                85..95 => self.held.push(held),
                // The worker dies.
                _ => {}
            }
        }
    }

    fn answer_late(&mut self) {
        if !self.held.is_empty() {
            let index = self.random.index(self.held.len());
            let held = self.held.swap_remove(index);
            self.answer(held);
        }
    }

    fn postpone(&mut self, held: &Held) {
        let leased = held.leased.clone();
        let decision = decided(self.db().write(move |tx| store::fulfilment::postpone(tx, &leased, "stopping", 1_000)));
        self.same("postpone", &decision, &self.oracle.clone().postpone(held.leased.job, held.ticket));
        let _ = self.oracle.postpone(held.leased.job, held.ticket);
    }

    fn answer(&mut self, Held { leased, ticket, work }: Held) {
        let job = leased.job;
        let (decision, expected) = match work {
            Work::Place(_, quantity) => {
                let said = match self.random.below(100) {
                    0..55 => {
                        let short = if self.random.chance(25) { self.random.below(u64::from(quantity) + 1) } else { 0 };
                        let extra = usize::from(self.random.chance(3));
                        let count = usize::try_from(u64::from(quantity) - short).unwrap() + extra;
                        Said::Delivered(self.iccids(count))
                    }
                    55..65 => Said::Refused,
                    65..75 => Said::Later,
                    75..85 => Said::Accepted,
                    _ => Said::Lost,
                };
                self.hear(leased, ticket, said, true)
            }
            Work::LookUp(_, quantity) => {
                let said = match self.random.below(100) {
                    0..40 => {
                        let count = self.random.below(u64::from(quantity) + 1);
                        Said::Delivered(self.iccids(usize::try_from(count).unwrap()))
                    }
                    40..50 => Said::Refused,
                    50..60 => Said::Accepted,
                    60..70 => Said::NoAnswer,
                    70..80 => Said::CannotTell,
                    _ => Said::NotFound,
                };
                self.hear(leased, ticket, said, false)
            }
            Work::TakeBack(esims) => {
                let said: Vec<(EsimId, Back)> = esims
                    .into_iter()
                    .map(|esim| (esim, self.random.pick(&[Back::Taken, Back::Taken, Back::Kept, Back::Later])))
                    .collect();
                let answers: Vec<(EsimId, Cancellation)> = said
                    .iter()
                    .map(|(esim, back)| {
                        let reason = || "installed".to_owned();
                        let answer = match back {
                            Back::Taken => Cancellation::Cancelled,
                            Back::Kept => Cancellation::Refused { reason: reason() },
                            Back::Later => Cancellation::TryLater { reason: reason() },
                        };
                        (*esim, answer)
                    })
                    .collect();
                let decision =
                    decided(self.db().write(move |tx| record_cancellations(tx, &leased, &answers, 1_000_000)));
                (decision, self.oracle.taken_back(self.clock.now(), job, ticket, &said))
            }
            Work::Finish => {
                let decision = decided(self.db().write(move |tx| store::fulfilment::end_job(tx, &leased)));
                (decision, self.oracle.end_job(job, ticket))
            }
        };
        self.same("answer", &decision, &expected);
    }

    fn hear(
        &mut self,
        leased: Leased,
        ticket: u64,
        said: Said,
        place: bool,
    ) -> (Result<(), Refusal>, Result<(), Refusal>) {
        let reason = || "?".to_owned();
        let poll_at = self.clock.now().plus_millis(self.random.between(0, 60_000));
        let profiles = |iccids: &[String]| iccids.iter().map(|iccid| profile(iccid)).collect::<Vec<Profile>>();
        let heard = match (&said, place) {
            (Said::Delivered(iccids), true) => Heard::Place(Outcome::Done { profiles: profiles(iccids) }),
            (Said::Delivered(iccids), false) => Heard::LookUp(LookUp::Delivered { profiles: profiles(iccids) }),
            (Said::Refused, true) => Heard::Place(Outcome::Refused { code: reason(), message: reason() }),
            (Said::Refused, false) => Heard::LookUp(LookUp::Refused { code: reason(), message: reason() }),
            (Said::Accepted, true) => Heard::Place(Outcome::NotYet(NotYet::Provisioning { poll_at })),
            (Said::Accepted, false) => Heard::LookUp(LookUp::Provisioning { poll_at }),
            (Said::Later, _) => Heard::Place(Outcome::NotYet(NotYet::TryLater { retry_at: None, reason: reason() })),
            (Said::Lost, _) => Heard::Place(Outcome::Unknown { reason: reason() }),
            (Said::NoAnswer, _) => Heard::LookUp(LookUp::NoAnswer { reason: reason() }),
            (Said::CannotTell, _) => Heard::LookUp(LookUp::CannotTell { reason: reason() }),
            (Said::NotFound, _) => Heard::LookUp(LookUp::NotFound),
        };
        let job = leased.job;
        let decision = decided(self.db().write(move |tx| record_answer(tx, &leased, &heard, "raw", None, PATIENCE)));
        let expected = self.oracle.hear(self.clock.now(), job, ticket, said);
        (decision, expected)
    }

    fn esims(&mut self, order: OrderId) -> Vec<EsimId> {
        let count = self.random.below(4);
        (0..count)
            .map(|_| {
                let foreign = self.random.chance(3);
                let of = if foreign { self.known_order() } else { order };
                of.esim(u16::try_from(self.random.below(8)).unwrap())
            })
            .collect()
    }

    fn ask_cancel(&mut self) {
        let order = self.known_order();
        let world = match self.oracle.order(order) {
            Some(order) if !self.random.chance(5) => order.world,
            _ => self.known_world(),
        };
        let esims = self.random.chance(50).then(|| self.esims(order));
        let (scope, asked) = (scope(world.0, world.1), esims.clone());
        let decision =
            decided(self.db().write(move |tx| store::fulfilment::ask_cancel(tx, scope, order, asked.as_deref())));
        let newest = self.db().read(|snapshot| store::job::list(snapshot, Some(JobState::Ready), None, 1));
        let job = newest.first().map_or(JobId::new(Uuid::nil()), |job| job.id);
        let expected = self.oracle.ask_cancel(world, order, esims.as_deref(), job);
        self.same("cancel", &decision.map(|_| ()), &expected);
    }

    fn refund(&mut self) {
        let order = self.known_order();
        let key = self.key(3, order.uuid());
        let what = match self.random.below(3) {
            0 => GiveBack::Rest,
            1 => GiveBack::Amount(self.random.between(-1, 1_500)),
            _ => GiveBack::Esims(self.esims(order)),
        };
        let asked = match &what {
            GiveBack::Rest => OperatorRefund::Rest,
            GiveBack::Amount(amount) => OperatorRefund::Amount(usd(*amount)),
            GiveBack::Esims(esims) => OperatorRefund::Esims(esims.clone()),
        };
        let stored = key.map(stored);
        let decision =
            decided(self.db().write(move |tx| refund_by_operator(tx, &act(), order, &asked, "reason", stored)));
        let expected = self.oracle.refund(self.clock.now(), order, &what, key);
        self.same("refund", &decision.map(|(_, replayed)| replayed), &expected);
    }

    fn begin_top_up(&mut self) {
        let world = self.known_world();
        let key = self.key_of_world(4, world);
        let amount = self.random.between(1_000, 100_000);
        let expires_in_ms = self.random.between(0, 600_000);
        let new = NewTopUp { scope: scope(world.0, world.1), amount: usd(amount), expires_in_ms, key: key.map(stored) };
        let decision = decided(self.db().write(move |tx| store::top_up::begin(tx, &new)));
        let decision = decision.map(|(top_up, replayed)| (top_up.id, replayed));
        let id = decision.as_ref().map_or(TopUpId::new(Uuid::nil()), |(id, _)| *id);
        let expires_at = self.clock.now().plus_millis(expires_in_ms);
        let expected = self.oracle.begin_top_up(world, id, amount, expires_at, key);
        self.same("begin a top-up", &decision, &expected);
        if expected.is_ok_and(|(_, replayed)| !replayed) {
            self.top_ups.push(id);
        }
    }

    fn known_top_up(&mut self) -> TopUpId {
        match self.top_ups.len() {
            0 => TopUpId::new(Uuid::from_u128(3)),
            many => self.random.pick(&self.top_ups[many.saturating_sub(12)..]),
        }
    }

    fn deposit(top_up: &store::top_up::TopUp) -> Deposit {
        Deposit {
            world: (top_up.tenant, top_up.mode),
            amount: top_up.amount.minor(),
            credited: top_up.credited.map(domain::money::Money::minor),
            status: top_up.status,
            expires_at: top_up.expires_at,
        }
    }

    fn prove(&mut self) {
        let id = self.known_top_up();
        let world = match self.oracle.top_up(id) {
            Some(deposit) if !self.random.chance(10) => deposit.world,
            _ => self.known_world(),
        };
        let scope = scope(world.0, world.1);
        let decision = decided(self.db().write(move |tx| store::top_up::prove(tx, scope, id, "https://example.com")));
        let expected = self.oracle.prove(self.clock.now(), world, id);
        self.same("prove", &decision.map(|top_up| Self::deposit(&top_up)), &expected);
    }

    fn decide_top_up(&mut self) {
        let id = self.known_top_up();
        match self.random.below(4) {
            0 => {
                let decision = decided(self.db().write(store::top_up::expire_due)).unwrap();
                let expected = self.oracle.expire_due(self.clock.now());
                self.same("expire", &decision, &expected);
            }
            1 => {
                let decision = decided(self.db().write(move |tx| store::top_up::reject(tx, &act(), id, "no")));
                let expected = self.oracle.reject(self.clock.now(), id);
                self.same("reject", &decision.map(|top_up| Self::deposit(&top_up)), &expected);
            }
            _ => {
                let key = self.key(5, id.uuid());
                let received = self.random.chance(40).then(|| self.random.pick(&[1, 5_000, TOO_LARGE]));
                let (amount, stored) = (received.map(usd), key.map(stored));
                let decision =
                    decided(self.db().write(move |tx| store::top_up::approve(tx, &act(), id, amount, stored)));
                let expected = self.oracle.approve(self.clock.now(), id, received, key);
                let decision = decision.map(|(top_up, replayed)| (Self::deposit(&top_up), replayed));
                self.same("approve", &decision, &expected);
            }
        }
    }

    fn adjust(&mut self) {
        let world = (self.tenant(), self.mode());
        let key = self.key_of_world(6, world);
        let amount = match self.random.below(10) {
            0 => TOO_LARGE,
            1 => -TOO_LARGE,
            2 => -500,
            _ => 30_000,
        };
        let stored = key.map(stored);
        let decision = decided(
            self.db()
                .write(move |tx| store::tenant::adjust(tx, &act(), world.0, world.1, usd(amount), "reason", stored)),
        );
        let expected = self.oracle.adjust(self.clock.now(), world, amount, key);
        let decision = decision.map(|(transaction, replayed)| (moved(&transaction), replayed));
        self.same("adjust", &decision, &expected);
    }

    fn status_or_limit(&mut self) {
        let tenant = self.tenant();
        if self.random.chance(40) {
            let limit = self.random.pick(&[0, 1_000, 20_000]);
            let decision =
                decided(self.db().write(move |tx| store::tenant::set_credit_limit(tx, &act(), tenant, usd(limit))));
            let expected = self.oracle.set_credit_limit(tenant, limit);
            self.same("credit limit", &decision.map(|_| ()), &expected);
            return;
        }
        let status = self.random.pick(&[TenantStatus::Active, TenantStatus::Active, TenantStatus::Suspended]);
        let decision =
            decided(self.db().write(move |tx| store::tenant::set_status(tx, &act(), tenant, status, "reason")));
        let expected = self.oracle.set_status(tenant, status);
        self.same("status", &decision.map(|_| ()), &expected);
    }

    fn change_plan(&mut self) {
        let index = self.random.index(self.plans.len());
        let id = if self.random.chance(10) { PlanId::new(Uuid::from_u128(4)) } else { self.plans[index] };
        match self.random.below(3) {
            0 => {
                let decision = decided(self.db().write(move |tx| store::plan::withdraw(tx, &act(), id)));
                self.same("withdraw", &decision.map(|_| ()), &self.oracle.clone().withdraw(id));
                let _ = self.oracle.withdraw(id);
            }
            1 => {
                let price = self.random.between(1, 2_000);
                let decision = decided(self.db().write(move |tx| store::plan::set_price(tx, &act(), id, usd(price))));
                self.same("price", &decision.map(|_| ()), &self.oracle.clone().set_price(id, price));
                let _ = self.oracle.set_price(id, price);
            }
            _ => {
                // An import brings a known plan up to date, and back on sale.
                let id = self.plans[index];
                let listed = self.db().read(move |snapshot| store::plan::find(snapshot, id)).unwrap();
                let price = self.random.between(1, 2_000);
                let plan = domain::plan::Plan { price: usd(price), ..listed.plan };
                let (sandbox, per_call) = if plan.provider == SANDBOX { (true, 100) } else { (false, 3) };
                self.db().write(move |tx| store::plan::import(tx, None, std::slice::from_ref(&plan))).unwrap();
                self.oracle.offer(id, Offer { price, sandbox, per_call, withdrawn: false });
            }
        }
    }

    fn resolve(&mut self) {
        let order = self.known_order();
        let sold = self.random.chance(60).then(|| {
            let count = self.random.index(5);
            self.iccids(count)
        });
        let profiles: Option<Vec<Profile>> =
            sold.as_ref().map(|iccids| iccids.iter().map(|iccid| profile(iccid)).collect());
        let decision = decided(self.db().write(move |tx| resolve(tx, &act(), order, profiles.as_deref(), "reason")));
        let expected = self.oracle.resolve(self.clock.now(), order, sold);
        self.same("resolve", &decision, &expected);
    }

    fn decide_job(&mut self) {
        let stored: Vec<JobId> = self
            .db()
            .read(|snapshot| store::job::list(snapshot, Some(JobState::Dead), None, 1_000))
            .iter()
            .map(|job| job.id)
            .collect();
        let mut dead: Vec<JobId> = self.oracle.dead_jobs().collect();
        dead.reverse();
        self.same("dead jobs", &stored, &dead);
        let id = match dead.len() {
            _ if self.random.chance(15) => JobId::new(self.known_order().uuid()),
            0 => JobId::new(Uuid::from_u128(6)),
            many => dead[self.random.index(many)],
        };
        if self.random.chance(50) {
            let decision = decided(self.db().write(move |tx| store::job::retry(tx, &act(), id)));
            let expected = self.oracle.retry(id);
            self.same("retry", &decision.map(|_| ()), &expected);
        } else {
            let decision = decided(self.db().write(move |tx| store::job::abandon(tx, &act(), id)));
            let expected = self.oracle.abandon(self.clock.now(), id);
            self.same("abandon", &decision.map(|_| ()), &expected);
        }
    }

    fn void_leases(&mut self) {
        self.db().write(store::job::void_leases).unwrap();
        self.oracle.void_leases();
    }

    fn reopen(&mut self) {
        self.db = None;
        let again = self.random.next();
        self.db = Some(Db::new((self.open)(&self.folder, again, self.clock.as_now()).unwrap()));
        self.void_leases();
    }

    fn take_tail(&mut self) {
        self.db().take_tail();
    }

    /// The balance is the fold of the entries and what the model says; all accounts sum to zero.
    fn check_money(&mut self) {
        // Within a millisecond, ids of different tenants go by no order where several lanes make them.
        let after = domain::id::first_at(self.last_entry).as_bytes().to_vec();
        let (entries, balances, touched) = self.db().read(move |snapshot| {
            let entries = store::ledger::after(snapshot, &after, u32::MAX)?;
            let mut touched = Vec::new();
            for id in entries.iter().filter_map(|entry| entry.movement.order) {
                touched.extend(store::order::find(snapshot, id)?);
            }
            let worlds = store::port::collect(snapshot, "select tenant_id, mode from balances", &[], |row| {
                let world: World = (TenantId::from_slice(row.bytes(0)?)?, row.text(1)?.parse()?);
                Ok(world)
            })?;
            let mut balances = Vec::new();
            for (tenant, mode) in worlds {
                let credit = snapshot.credit(tenant, mode)?;
                balances.extend(credit.map(|credit| ((tenant, mode), credit.head.balance.minor())));
            }
            Ok((entries, balances, touched))
        });
        for order in touched {
            assert!((0..=order.total().unwrap().minor()).contains(&order.refunded.minor()), "{order:?}");
        }
        for entry in entries.into_iter().filter(|entry| self.entries.insert(entry.id)).collect::<Vec<_>>() {
            let (movement, world) = (entry.movement, (entry.tenant, entry.mode));
            *self.accounts.entry((entry.mode, movement.source)).or_default() -= movement.amount.minor();
            *self.accounts.entry((entry.mode, movement.target)).or_default() += movement.amount.minor();
            let balance = self.balances.entry(world).or_default();
            *balance += movement.credit_change().minor();
            let folded = *balance;
            self.same("balance after an entry", &entry.balance_after.minor(), &folded);
            self.last_entry = entry.id.created_at();
        }
        self.same("worlds", &balances.len(), &self.oracle.worlds().count());
        for (world, balance) in balances {
            let folded = self.balances.get(&world).copied().unwrap_or(0);
            self.same("cached balance and fold", &balance, &folded);
            self.same("balance", &balance, &self.oracle.balance(world));
        }
        let sum: i64 = self.accounts.values().sum();
        self.same("sum of all accounts", &sum, &0);
        let folded: BTreeMap<_, _> =
            self.accounts.iter().filter(|(_, sum)| **sum != 0).map(|(key, sum)| (*key, *sum)).collect();
        let expected: BTreeMap<_, _> =
            self.oracle.accounts().iter().filter(|(_, sum)| **sum != 0).map(|(key, sum)| (*key, *sum)).collect();
        self.same("accounts", &folded, &expected);
        for mode in Mode::ALL {
            let held = self.accounts.get(&(*mode, Account::SalesHeld)).copied().unwrap_or(0);
            self.same("held", &held, &self.oracle.held(*mode));
        }
    }

    /// The ledger is sound, and every list is the model's, with the index where it is and complete.
    fn check_all(&mut self) {
        self.same("ledger check", &self.db().check(), &Ok(()));
        let audit = self.db().read(store::audit::check);
        self.same("audit check", &audit, &None);
        let mut worlds: Vec<World> = self.oracle.worlds().collect();
        // The newest are the busy ones; the others are asked by turns.
        while worlds.len() > 8 {
            let older = self.random.index(worlds.len() - 4);
            worlds.remove(older);
        }
        let mut questions: Vec<(World, OrderFilter)> = Vec::new();
        for world in &worlds {
            questions.push((*world, OrderFilter::default()));
            for _ in 0..5 {
                let filter = self.filter(*world);
                questions.push((*world, filter));
            }
        }
        for complete in [false, true] {
            if complete {
                self.db().index_all();
            }
            for (world, filter) in &questions {
                self.check_orders(Asked::Tenant(*world), filter);
            }
            for (_, filter) in questions.iter().rev().take(8) {
                let mode = self.random.pick(&[None, Some(Mode::Live), Some(Mode::Test)]);
                self.check_orders(Asked::Operator(mode), filter);
            }
            for world in &worlds {
                self.check_transactions(*world);
                self.check_top_ups(*world);
            }
        }
    }

    fn time(&mut self) -> Timestamp {
        let elapsed = self.clock.now().millis() - START;
        Timestamp::from_millis(START + self.random.between(0, elapsed + 1))
    }

    /// A filter that has good chances to find something in this world.
    fn filter(&mut self, world: World) -> OrderFilter {
        let mut filter = OrderFilter::default();
        let orders = self.oracle.orders(Some(world), &filter);
        let sample = (!orders.is_empty()).then(|| self.random.pick(&orders));
        let sample = sample.and_then(|id| self.oracle.order(id).cloned());
        let came = sample.as_ref().and_then(|order| order.came.first()).map(|came| came.iccid.clone());
        for _ in 0..=self.random.below(2) {
            match self.random.below(8) {
                0 => filter.status = Some(self.random.pick(OrderStatus::ALL)),
                1 => {
                    let at = sample.as_ref().map(|order| order.at).filter(|_| self.random.chance(50));
                    filter.from = Some(at.unwrap_or_else(|| self.time()));
                }
                2 => {
                    let at = sample.as_ref().map(|order| order.at).filter(|_| self.random.chance(50));
                    filter.to = Some(at.unwrap_or_else(|| self.time()));
                }
                3 => filter.email = Some(self.random.pick(&EMAILS).to_uppercase()),
                4 => filter.reference = Some(self.random.pick(&REFERENCES).to_owned()),
                5 => filter.plan = Some(self.random.pick(&self.plans)),
                6 => filter.iccid = came.clone(),
                _ => {
                    let number = sample.as_ref().map(|order| order.number.clone());
                    let texts = [
                        number.unwrap_or_default(),
                        came.clone().unwrap_or_default(),
                        self.random.pick(&EMAILS).to_owned(),
                        self.random.pick(&REFERENCES).to_owned(),
                    ];
                    let text = self.random.pick(&texts);
                    let letters = self.random.index(text.chars().count() + 1);
                    let beginning: String = text.chars().take(letters).collect();
                    filter.query = Some(if self.random.chance(50) { beginning } else { text });
                }
            }
        }
        filter
    }

    fn check_orders(&mut self, who: Asked, filter: &OrderFilter) {
        let expected = match who {
            Asked::Tenant(world) => self.oracle.orders(Some(world), filter),
            Asked::Operator(mode) => {
                let mut all = self.oracle.orders(None, filter);
                let of_mode = |id: &OrderId| self.oracle.order(*id).is_some_and(|order| mode == Some(order.world.1));
                all.retain(|id| mode.is_none() || of_mode(id));
                all
            }
        };
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let limit = 1 + self.random.index(25);
            let asked = filter.clone();
            let page = self.db().read(move |snapshot| match who {
                Asked::Tenant((tenant, mode)) => store::order::list(snapshot, tenant, mode, &asked, cursor, limit),
                Asked::Operator(mode) => store::order::list_all(snapshot, mode, &asked, cursor, limit),
            });
            assert!(page.orders.len() <= limit);
            found.extend(page.orders);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let ids: Vec<OrderId> = found.iter().map(|order| order.id).collect();
        self.same(&format!("orders of {who:?} by {filter:?}"), &ids, &expected);
        for order in found {
            let known = self.oracle.order(order.id).expect("known");
            self.same("order's status", &order.status, &known.status);
            self.same("order's refunds", &order.refunded.minor(), &known.refunded);
            self.same("order's number", &order.number, &known.number);
            let total = order.total().expect("in range").minor();
            self.same("order's total", &total, &known.total());
            self.same("order's eSIMs", &order.esims.len(), &usize::try_from(known.quantity).unwrap());
            for (index, esim) in order.esims.iter().enumerate() {
                let missing = match known.status {
                    OrderStatus::Processing => domain::esim::EsimState::Pending,
                    _ => domain::esim::EsimState::Failed,
                };
                let came = known.came.get(index);
                self.same("eSIM's state", &esim.state, &came.map_or(missing, |came| came.state));
                self.same("eSIM's ICCID", &esim.iccid.as_ref(), &came.map(|came| &came.iccid));
                self.same("eSIM's refund", &esim.refunded, &came.map_or(0, |came| came.refunded));
            }
        }
    }

    fn check_transactions(&mut self, world: World) {
        let kinds = [
            None,
            Some(EntryKind::Purchase),
            Some(EntryKind::Refund),
            Some(EntryKind::Adjustment),
            Some(EntryKind::TopUp),
            Some(EntryKind::Sale),
        ];
        for kind in kinds {
            let from = self.random.chance(30).then(|| self.time());
            let to = self.random.chance(30).then(|| self.time());
            let filter = TransactionFilter { kind, from, to };
            let mut found = Vec::new();
            let mut cursor: Option<EntryId> = None;
            loop {
                let limit = 1 + self.random.index(12);
                let (page, next) = self.db().read(move |snapshot| {
                    store::ledger::transactions(snapshot, world.0, world.1, &filter, cursor, limit)
                });
                assert!(page.len() <= limit);
                found.extend(page.iter().map(moved));
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            self.same(&format!("{filter:?}"), &found, &self.oracle.transactions(world, kind, from, to));
        }
    }

    fn check_top_ups(&mut self, world: World) {
        let status = self.random.pick(&[None, Some(TopUpStatus::Pending), Some(TopUpStatus::Paid)]);
        let limit = 1 + self.random.below(5);
        let mut found: Vec<TopUpId> = Vec::new();
        let now = self.clock.now();
        loop {
            let cursor = found.last().copied();
            let page = self.db().read(move |snapshot| {
                store::top_up::list(snapshot, now, world.0, world.1, status, cursor, u32::try_from(limit).unwrap())
            });
            if page.is_empty() {
                break;
            }
            for top_up in page {
                self.same("top-up", &Some(&Self::deposit(&top_up)), &self.oracle.top_up(top_up.id));
                found.push(top_up.id);
            }
        }
        self.same("top-ups", &found, &self.oracle.top_ups(now, world, status));
    }
}

#[test]
fn jobs_name_what_they_do() {
    // The model knows jobs by their ids alone: a fulfilment has its order's, a cancellation one of its own.
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "acme", 10_000), on_sale(&db, SANDBOX, "sand", 450));
    let order = buy(&db, tenant, Mode::Test, &[(plan, 1)]).orders[0].id;
    let jobs = db.read(|snapshot| store::job::list(snapshot, None, None, 10));
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].kind, jobs[0].id), (JobKind::Fulfil, JobId::new(order.uuid())));
}
