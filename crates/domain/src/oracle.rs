//! The platform's money and orders once more, in memory and written from the contract instead of from
//! the SQL. Random commands are given to a store and to this model; where their answers differ, one of
//! them is wrong. It shares words with the rules (states, kinds, ids), and decides everything itself.

use crate::esim::EsimState;
use crate::id::{CheckoutId, EsimId, JobId, OrderId, PlanId, TenantId, TopUpId};
use crate::ledger::{Account, EntryKind};
use crate::order::{OrderFilter, OrderStatus};
use crate::tenant::{Mode, TenantStatus};
use crate::time::Timestamp;
use crate::top_up::TopUpStatus;
use std::collections::{BTreeMap, BTreeSet};

/// A tenant in one of its two worlds.
pub type World = (TenantId, Mode);

/// The largest balance, in minor units.
const LARGEST: i64 = 1_000_000_000_000_000;
/// Failed tries in a row after which a job is left to the operator.
const MOST_FAILURES: u32 = 3;
/// Look-ups in a row that cannot tell, after which a job is left to the operator.
const MOST_CANNOT_TELL: u32 = 3;
/// Look-ups in a row that must say "not found" before a purchase is made again.
const AGREEING: u32 = 2;

/// Why the model refuses a command; one list for all commands. Amounts are in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing in this world.
    NotFound,
    /// The tenant waits for approval.
    TenantPending,
    /// The tenant is suspended.
    TenantSuspended,
    /// The idempotency key was used with another body.
    KeyReused,
    /// The address has an account.
    EmailTaken,
    /// The subdomain is somebody's.
    SubdomainTaken,
    /// These lines (0-based) cannot be bought.
    PlanUnavailable(Vec<usize>),
    /// Total and the caller's limit.
    PriceChanged(i64, i64),
    /// What is required and what is there.
    InsufficientBalance(i64, i64),
    /// A second decision about the same thing.
    AlreadyDecided,
    /// Out of the range of money.
    TooLarge,
    /// Nothing that could be given back.
    NotCancellable,
    /// These eSIMs (0-based) are not the order's, or did not come.
    UnknownEsims(Vec<usize>),
    /// The order is still being fulfilled.
    Processing,
    /// Nothing is left to give back.
    AlreadyRefunded,
    /// More than this, which is left.
    TooMuch(i64),
    /// Nothing about the order is unknown.
    NotUnknown,
    /// Sold, and no eSIM is given.
    EsimsNeeded,
    /// More eSIMs than were asked for.
    TooManyEsims,
    /// The job is not dead.
    NotDead,
    /// Whether the order was sold is unknown.
    OutcomeUnknown,
    /// Somebody else has the job now.
    LeaseLost,
}

/// A plan on sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Minor units.
    pub price: i64,
    /// Whether it is the sandbox's: sold in test mode, and only there.
    pub sandbox: bool,
    /// How many eSIMs its provider sells at once.
    pub per_call: u32,
    /// Taken off sale.
    pub withdrawn: bool,
}

/// An idempotency key within its route and scope, and the body it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The key.
    pub name: u128,
    /// The body.
    pub body: u128,
}

/// A basket.
#[derive(Debug, Clone)]
pub struct Basket {
    /// Plan and quantity of each line.
    pub items: Vec<(PlanId, u32)>,
    /// The most the caller will pay.
    pub max_total: Option<i64>,
    /// The traveller's address.
    pub email: Option<String>,
    /// The partner's own order number.
    pub reference: Option<String>,
    /// The idempotency key.
    pub key: Option<Key>,
}

/// What a checkout answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Its id.
    pub checkout: CheckoutId,
    /// Its orders with their numbers and totals.
    pub orders: Vec<(OrderId, String, i64)>,
    /// Their sum.
    pub total: i64,
    /// The balance afterwards.
    pub balance: i64,
    /// Whether it is the answer of an earlier request.
    pub replayed: bool,
}

/// One eSIM that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// What became of it.
    pub state: EsimState,
    /// Its ICCID.
    pub iccid: String,
    /// Minor units given back for it.
    pub refunded: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Sent,
    Accepted,
    Unknown,
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    quantity: u32,
    fate: Fate,
    failures: u32,
    not_found: u32,
    cannot_tell: u32,
}

impl Part {
    const fn of(quantity: u32) -> Self {
        Self { quantity, fate: Fate::Waiting, failures: 0, not_found: 0, cannot_tell: 0 }
    }
}

/// One order.
#[derive(Debug, Clone)]
pub struct Bought {
    /// Whose.
    pub world: World,
    /// The number a person reads out.
    pub number: String,
    /// The plan.
    pub plan: PlanId,
    /// How many eSIMs.
    pub quantity: u32,
    /// Minor units for one.
    pub unit_price: i64,
    /// Minor units given back.
    pub refunded: i64,
    /// Where it is.
    pub status: OrderStatus,
    /// The traveller's address.
    pub email: Option<String>,
    /// The partner's own number.
    pub reference: Option<String>,
    /// When it was paid.
    pub at: Timestamp,
    /// The eSIMs that came; the others are pending, or failed once the order is final.
    pub came: Vec<Came>,
    per_call: u32,
    parts: Vec<Part>,
}

impl Bought {
    /// Minor units of all of it.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.unit_price.saturating_mul(i64::from(self.quantity))
    }

    fn open(&self) -> Option<usize> {
        self.parts.iter().position(|part| part.fate != Fate::Over)
    }

    fn derived(&self) -> OrderStatus {
        let here = self.came.iter().filter(|came| came.state != EsimState::Cancelled).count();
        let all = usize::try_from(self.quantity).unwrap_or(usize::MAX);
        match (here, self.came.len()) {
            (0, 0) => OrderStatus::Failed,
            (0, _) => OrderStatus::Cancelled,
            (_, came) if came == all => OrderStatus::Completed,
            (_, _) => OrderStatus::PartiallyCompleted,
        }
    }
}

/// One transaction of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// What for.
    pub kind: EntryKind,
    /// Minor units; negative takes away.
    pub amount: i64,
    /// The balance afterwards.
    pub balance_after: i64,
    /// The order.
    pub order: Option<OrderId>,
    /// The top-up.
    pub top_up: Option<TopUpId>,
    /// When.
    pub at: Timestamp,
}

/// One top-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposit {
    /// Whose.
    pub world: World,
    /// What was announced.
    pub amount: i64,
    /// What was credited.
    pub credited: Option<i64>,
    /// Where it is.
    pub status: TopUpStatus,
    /// Until when the money is awaited.
    pub expires_at: Timestamp,
}

impl Deposit {
    /// Whether its time is over and nobody wrote that down yet.
    fn is_late(&self, now: Timestamp) -> bool {
        self.status == TopUpStatus::Pending && self.expires_at.millis() <= now.millis()
    }

    /// Its status as it is seen at `now`.
    fn seen(&self, now: Timestamp) -> TopUpStatus {
        if self.is_late(now) { TopUpStatus::Expired } else { self.status }
    }
}

/// What a worker is to do with a job it claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Ask for so many eSIMs, under the reference of this number.
    Place(u32, u32),
    /// Ask what became of the purchase of so many under the reference of this number.
    LookUp(u32, u32),
    /// Ask for these to be taken back.
    TakeBack(Vec<EsimId>),
    /// Nothing is left to do.
    Finish,
}

/// What the upstream says of a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Sold; here are the ICCIDs.
    Delivered(Vec<String>),
    /// Not sold, for good.
    Refused,
    /// Taken; not there yet.
    Accepted,
    /// Not now.
    Later,
    /// The answer to the purchase was lost.
    Lost,
    /// A look-up got no answer.
    NoAnswer,
    /// A look-up could not tell.
    CannotTell,
    /// A look-up found nothing.
    NotFound,
}

/// What the upstream says when it is asked to take an eSIM back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// It does.
    Taken,
    /// It does not.
    Kept,
    /// Not now.
    Later,
}

/// What the operator gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveBack {
    /// All that is left.
    Rest,
    /// So many minor units.
    Amount(i64),
    /// The price of these.
    Esims(Vec<EsimId>),
}

#[derive(Debug, Clone)]
struct Partner {
    number: i64,
    email: String,
    subdomain: String,
    status: TenantStatus,
    credit_limit: i64,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    order: OrderId,
    cancels: bool,
    dead: bool,
    ticket: Option<u64>,
}

#[derive(Debug, Clone)]
enum Answer {
    Checkout(Receipt),
    TopUp(TopUpId),
    Adjusted(Moved),
    Done,
}

/// The model.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    partners: BTreeMap<TenantId, Partner>,
    balances: BTreeMap<World, i64>,
    order_counts: BTreeMap<World, i64>,
    accounts: BTreeMap<(Mode, Account), i64>,
    moved: BTreeMap<World, Vec<Moved>>,
    plans: BTreeMap<PlanId, Offer>,
    orders: BTreeMap<OrderId, Bought>,
    top_ups: BTreeMap<TopUpId, Deposit>,
    jobs: BTreeMap<JobId, Job>,
    keys: BTreeMap<u128, (u128, Answer)>,
    tickets: u64,
}

fn count(esims: usize) -> i64 {
    i64::try_from(esims).unwrap_or(i64::MAX)
}

impl Oracle {
    // What there is.

    /// A tenant's balance in minor units.
    #[must_use]
    pub fn balance(&self, world: World) -> i64 {
        self.balances.get(&world).copied().unwrap_or(0)
    }

    /// Every tenant's worlds.
    pub fn worlds(&self) -> impl Iterator<Item = World> {
        self.balances.keys().copied()
    }

    /// The accounts of all, folded.
    #[must_use]
    pub const fn accounts(&self) -> &BTreeMap<(Mode, Account), i64> {
        &self.accounts
    }

    /// One order.
    #[must_use]
    pub fn order(&self, id: OrderId) -> Option<&Bought> {
        self.orders.get(&id)
    }

    /// One top-up.
    #[must_use]
    pub fn top_up(&self, id: TopUpId) -> Option<&Deposit> {
        self.top_ups.get(&id)
    }

    /// The jobs that are not given up.
    pub fn living_jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().filter(|(_, job)| !job.dead).map(|(id, _)| *id)
    }

    /// The jobs that are given up.
    pub fn dead_jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().filter(|(_, job)| job.dead).map(|(id, _)| *id)
    }

    /// Minor units paid for orders that are not final: what the platform must be holding.
    #[must_use]
    pub fn held(&self, mode: Mode) -> i64 {
        let held = |order: &&Bought| order.world.1 == mode && order.status == OrderStatus::Processing;
        self.orders.values().filter(held).map(Bought::total).fold(0, i64::saturating_add)
    }

    /// The orders of a world (of all, where there is none) that fit, newest first.
    #[must_use]
    pub fn orders(&self, world: Option<World>, filter: &OrderFilter) -> Vec<OrderId> {
        let fits = |order: &Bought| {
            let alike = |wanted: &str, found: &Option<String>| {
                found.as_ref().is_some_and(|found| lower(found) == lower(wanted))
            };
            let begins = |text: &str, with: &str| lower(text).starts_with(&lower(with));
            world.is_none_or(|world| order.world == world)
                && filter.status.is_none_or(|status| status == order.status)
                && filter.plan.is_none_or(|plan| plan == order.plan)
                && filter.from.is_none_or(|from| order.at.millis() >= from.millis())
                && filter.to.is_none_or(|to| order.at.millis() < to.millis())
                && filter.email.as_ref().is_none_or(|email| alike(email, &order.email))
                && filter.reference.as_ref().is_none_or(|reference| alike(reference, &order.reference))
                && filter.iccid.as_ref().is_none_or(|iccid| order.came.iter().any(|came| came.iccid == *iccid))
                && filter.query.as_ref().is_none_or(|query| {
                    begins(&order.number, query)
                        || order.email.as_ref().is_some_and(|email| begins(email, query))
                        || order.reference.as_ref().is_some_and(|reference| begins(reference, query))
                        || order.came.iter().any(|came| begins(&came.iccid, query))
                })
        };
        self.orders.iter().rev().filter(|(_, order)| fits(order)).map(|(id, _)| *id).collect()
    }

    /// A tenant's transactions that fit, newest first.
    #[must_use]
    pub fn transactions(
        &self,
        world: World,
        kind: Option<EntryKind>,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Vec<Moved> {
        let fits = |moved: &&Moved| {
            kind.is_none_or(|kind| kind == moved.kind)
                && from.is_none_or(|from| moved.at.millis() >= from.millis())
                && to.is_none_or(|to| moved.at.millis() < to.millis())
        };
        self.moved.get(&world).into_iter().flatten().rev().filter(fits).copied().collect()
    }

    /// A tenant's top-ups, newest first.
    #[must_use]
    pub fn top_ups(&self, now: Timestamp, world: World, status: Option<TopUpStatus>) -> Vec<TopUpId> {
        let fits =
            |deposit: &Deposit| deposit.world == world && status.is_none_or(|status| status == deposit.seen(now));
        self.top_ups.iter().rev().filter(|(_, deposit)| fits(deposit)).map(|(id, _)| *id).collect()
    }

    // Money.

    fn post(&mut self, mode: Mode, account: Account, amount: i64) {
        let folded = self.accounts.entry((mode, account)).or_default();
        *folded = folded.saturating_add(amount);
    }

    /// Moves an amount between a platform account and a tenant's credit; positive gives the tenant.
    fn credit(&mut self, at: Timestamp, world: World, against: Account, moved: Moved) -> Moved {
        let balance = self.balance(world).saturating_add(moved.amount);
        self.balances.insert(world, balance);
        self.post(world.1, Account::TenantCredit, moved.amount);
        self.post(world.1, against, moved.amount.saturating_neg());
        let moved = Moved { balance_after: balance, at, ..moved };
        self.moved.entry(world).or_default().push(moved);
        moved
    }

    fn of_order(kind: EntryKind, amount: i64, order: OrderId) -> Moved {
        Moved { kind, amount, balance_after: 0, order: Some(order), top_up: None, at: Timestamp::default() }
    }

    fn may_change(&self, tenant: TenantId) -> Result<(), Refusal> {
        match self.partners.get(&tenant).map(|partner| partner.status) {
            Some(TenantStatus::Active) => Ok(()),
            Some(TenantStatus::Pending) => Err(Refusal::TenantPending),
            Some(TenantStatus::Suspended) => Err(Refusal::TenantSuspended),
            None => Err(Refusal::NotFound),
        }
    }

    fn recall(&self, key: Option<Key>) -> Result<Option<Answer>, Refusal> {
        match key.and_then(|key| self.keys.get(&key.name).map(|known| (key, known))) {
            None => Ok(None),
            Some((key, (body, answer))) if *body == key.body => Ok(Some(answer.clone())),
            Some(_) => Err(Refusal::KeyReused),
        }
    }

    fn remember(&mut self, key: Option<Key>, answer: Answer) {
        if let Some(key) = key {
            self.keys.insert(key.name, (key.body, answer));
        }
    }

    // Tenants and plans.

    /// Registers a tenant as `id`.
    ///
    /// # Errors
    /// [`Refusal::EmailTaken`], [`Refusal::SubdomainTaken`].
    pub fn register(
        &mut self,
        now: Timestamp,
        id: TenantId,
        email: &str,
        subdomain: &str,
        status: TenantStatus,
        test_credit: i64,
    ) -> Result<i64, Refusal> {
        if self.partners.values().any(|partner| lower(&partner.email) == lower(email)) {
            return Err(Refusal::EmailTaken);
        }
        if self.partners.values().any(|partner| partner.subdomain == subdomain) {
            return Err(Refusal::SubdomainTaken);
        }
        let number = count(self.partners.len()).saturating_add(1_001);
        let (email, subdomain) = (email.to_owned(), subdomain.to_owned());
        self.partners.insert(id, Partner { number, email, subdomain, status, credit_limit: 0 });
        for mode in [Mode::Live, Mode::Test] {
            self.balances.insert((id, mode), 0);
        }
        if test_credit > 0 {
            self.corrected(now, (id, Mode::Test), test_credit);
        }
        Ok(number)
    }

    fn corrected(&mut self, now: Timestamp, world: World, amount: i64) -> Moved {
        let kind = EntryKind::Adjustment;
        let moved = Moved { kind, amount, balance_after: 0, order: None, top_up: None, at: now };
        self.credit(now, world, Account::Adjustments, moved)
    }

    /// Suspends, reinstates or approves.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::AlreadyDecided`].
    pub fn set_status(&mut self, tenant: TenantId, status: TenantStatus) -> Result<(), Refusal> {
        let partner = self.partners.get_mut(&tenant).ok_or(Refusal::NotFound)?;
        if partner.status == status {
            return Err(Refusal::AlreadyDecided);
        }
        partner.status = status;
        Ok(())
    }

    /// Lets a live balance go so far below zero.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn set_credit_limit(&mut self, tenant: TenantId, limit: i64) -> Result<(), Refusal> {
        self.partners.get_mut(&tenant).ok_or(Refusal::NotFound)?.credit_limit = limit;
        Ok(())
    }

    /// Corrects a balance. The flag says whether it is the answer of an earlier request; likewise below.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::KeyReused`], [`Refusal::TooLarge`].
    pub fn adjust(
        &mut self,
        now: Timestamp,
        world: World,
        amount: i64,
        key: Option<Key>,
    ) -> Result<(Moved, bool), Refusal> {
        if !self.partners.contains_key(&world.0) {
            return Err(Refusal::NotFound);
        }
        if let Some(Answer::Adjusted(moved)) = self.recall(key)? {
            return Ok((moved, true));
        }
        self.in_range(world, amount)?;
        let moved = self.corrected(now, world, amount);
        self.remember(key, Answer::Adjusted(moved));
        Ok((moved, false))
    }

    fn in_range(&self, world: World, amount: i64) -> Result<(), Refusal> {
        match self.balance(world).checked_add(amount) {
            Some(balance) if (-LARGEST / 2..=LARGEST / 2).contains(&balance) => Ok(()),
            _ => Err(Refusal::TooLarge),
        }
    }

    /// Puts a plan on sale, or brings it up to date.
    pub fn offer(&mut self, plan: PlanId, offer: Offer) {
        self.plans.insert(plan, offer);
    }

    /// Sets a price.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn set_price(&mut self, plan: PlanId, price: i64) -> Result<(), Refusal> {
        self.plans.get_mut(&plan).ok_or(Refusal::NotFound)?.price = price;
        Ok(())
    }

    /// Takes a plan off sale.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::AlreadyDecided`].
    pub fn withdraw(&mut self, plan: PlanId) -> Result<(), Refusal> {
        let offer = self.plans.get_mut(&plan).ok_or(Refusal::NotFound)?;
        if std::mem::replace(&mut offer.withdrawn, true) { Err(Refusal::AlreadyDecided) } else { Ok(()) }
    }

    // Checkout.

    /// Pays a basket. The ids are those the store made; they are not looked at when it is refused.
    ///
    /// # Errors
    /// The refusals of a checkout.
    pub fn place_orders(
        &mut self,
        now: Timestamp,
        world: World,
        basket: &Basket,
        checkout: CheckoutId,
        made: &[OrderId],
    ) -> Result<Receipt, Refusal> {
        // A repeat is answered whatever has become of the tenant; another body is a new wish, and is not.
        if let Ok(Some(Answer::Checkout(receipt))) = self.recall(basket.key) {
            return Ok(Receipt { replayed: true, ..receipt });
        }
        self.may_change(world.0)?;
        self.recall(basket.key)?;
        let price = |plan: &PlanId| {
            let offer = self.plans.get(plan)?;
            (!offer.withdrawn && offer.sandbox == (world.1 == Mode::Test)).then_some(*offer)
        };
        let lines: Vec<Option<Offer>> = basket.items.iter().map(|(plan, _)| price(plan)).collect();
        let missing: Vec<usize> =
            lines.iter().enumerate().filter(|(_, line)| line.is_none()).map(|(index, _)| index).collect();
        if !missing.is_empty() {
            return Err(Refusal::PlanUnavailable(missing));
        }
        let offers: Vec<Offer> = lines.into_iter().flatten().collect();
        let line_total = |offer: &Offer, quantity: u32| offer.price.saturating_mul(i64::from(quantity));
        let total = offers
            .iter()
            .zip(&basket.items)
            .map(|(offer, (_, quantity))| line_total(offer, *quantity))
            .fold(0, i64::saturating_add);
        if let Some(max_total) = basket.max_total.filter(|max_total| total > *max_total) {
            return Err(Refusal::PriceChanged(total, max_total));
        }
        let balance = self.balance(world);
        let limit = match world.1 {
            Mode::Live => self.partners.get(&world.0).map_or(0, |partner| partner.credit_limit),
            Mode::Test => 0,
        };
        if balance.saturating_add(limit) < total {
            return Err(Refusal::InsufficientBalance(total, balance));
        }
        let mut receipts = Vec::new();
        for ((offer, (plan, quantity)), id) in offers.iter().zip(&basket.items).zip(made) {
            let number = self.next_number(world);
            let order = Bought {
                world,
                number: number.clone(),
                plan: *plan,
                quantity: *quantity,
                unit_price: offer.price,
                refunded: 0,
                status: OrderStatus::Processing,
                email: basket.email.clone(),
                reference: basket.reference.clone(),
                at: now,
                came: Vec::new(),
                per_call: offer.per_call,
                parts: Vec::new(),
            };
            let paid = order.total();
            self.orders.insert(*id, order);
            let job = Job { order: *id, cancels: false, dead: false, ticket: None };
            self.jobs.insert(JobId::new(id.uuid()), job);
            let moved = Self::of_order(EntryKind::Purchase, paid.saturating_neg(), *id);
            self.credit(now, world, Account::SalesHeld, moved);
            receipts.push((*id, number, paid));
        }
        let receipt = Receipt { checkout, orders: receipts, total, balance: self.balance(world), replayed: false };
        self.remember(basket.key, Answer::Checkout(receipt.clone()));
        Ok(receipt)
    }

    fn next_number(&mut self, world: World) -> String {
        let orders = self.order_counts.entry(world).or_default();
        *orders = orders.saturating_add(1);
        let tenant = self.partners.get(&world.0).map_or(0, |partner| partner.number);
        let test = if world.1 == Mode::Test { "T" } else { "" };
        format!("{test}{tenant}-{orders:06}")
    }

    // Fulfilment.

    /// A worker takes a job up. The ticket proves that the job is still its own.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a job that should not be there, or is dead.
    pub fn claim(&mut self, id: JobId) -> Result<(u64, Work), Refusal> {
        self.tickets = self.tickets.saturating_add(1);
        let ticket = self.tickets;
        let job = self.jobs.get_mut(&id).filter(|job| !job.dead).ok_or(Refusal::NotFound)?;
        job.ticket = Some(ticket);
        let order = self.orders.get_mut(&job.order).ok_or(Refusal::NotFound)?;
        if job.cancels {
            let asked: Vec<EsimId> = (0_u16..)
                .zip(&order.came)
                .filter(|(_, came)| came.state == EsimState::Cancelling)
                .map(|(position, _)| job.order.esim(position))
                .collect();
            return Ok((ticket, if asked.is_empty() { Work::Finish } else { Work::TakeBack(asked) }));
        }
        if order.parts.is_empty() {
            let mut left = order.quantity;
            while left > 0 {
                let quantity = left.min(order.per_call);
                order.parts.push(Part::of(quantity));
                left = left.saturating_sub(quantity);
            }
        }
        let Some(index) = order.open() else { return Ok((ticket, Work::Finish)) };
        let k = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1);
        let part = order.parts.get_mut(index).ok_or(Refusal::NotFound)?;
        if part.fate == Fate::Waiting {
            part.fate = Fate::Sent;
            return Ok((ticket, Work::Place(k, part.quantity)));
        }
        // Sent, and nobody recorded the answer.
        if part.fate == Fate::Sent {
            part.fate = Fate::Unknown;
        }
        Ok((ticket, Work::LookUp(k, part.quantity)))
    }

    fn held_job(&self, id: JobId, ticket: u64) -> Result<Job, Refusal> {
        self.jobs.get(&id).copied().filter(|job| job.ticket == Some(ticket)).ok_or(Refusal::LeaseLost)
    }

    fn put_back(&mut self, id: JobId, dead: bool) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.ticket = None;
            job.dead = dead;
        }
    }

    /// All workers are gone.
    pub fn void_leases(&mut self) {
        for job in self.jobs.values_mut() {
            job.ticket = None;
        }
    }

    /// A worker gives its job back; nothing was sent.
    ///
    /// # Errors
    /// [`Refusal::LeaseLost`].
    pub fn postpone(&mut self, id: JobId, ticket: u64) -> Result<(), Refusal> {
        let job = self.held_job(id, ticket)?;
        if let Some(order) = self.orders.get_mut(&job.order) {
            for part in order.parts.iter_mut().filter(|part| !job.cancels && part.fate == Fate::Sent) {
                part.fate = Fate::Waiting;
            }
        }
        self.put_back(id, false);
        Ok(())
    }

    /// A worker found nothing left to do.
    ///
    /// # Errors
    /// [`Refusal::LeaseLost`].
    pub fn end_job(&mut self, id: JobId, ticket: u64) -> Result<(), Refusal> {
        self.held_job(id, ticket)?;
        self.jobs.remove(&id);
        Ok(())
    }

    /// A worker tells what the upstream said of a purchase.
    ///
    /// # Errors
    /// [`Refusal::LeaseLost`].
    pub fn hear(&mut self, now: Timestamp, id: JobId, ticket: u64, said: Said) -> Result<(), Refusal> {
        let job = self.held_job(id, ticket)?;
        let order = self.orders.get_mut(&job.order).ok_or(Refusal::NotFound)?;
        let index = order.open().ok_or(Refusal::NotFound)?;
        let part = order.parts.get_mut(index).ok_or(Refusal::NotFound)?;
        let accepted = part.fate == Fate::Accepted;
        let mut dead = false;
        match said {
            Said::Delivered(iccids) => return self.sold(now, id, index, iccids),
            Said::Refused => return self.sold(now, id, index, Vec::new()),
            Said::Accepted => {
                let quantity = part.quantity;
                *part = Part { fate: Fate::Accepted, ..Part::of(quantity) };
            }
            Said::Later | Said::NoAnswer => {
                if said == Said::Later {
                    part.fate = Fate::Waiting;
                }
                part.failures = part.failures.saturating_add(1);
                dead = part.failures >= MOST_FAILURES;
            }
            Said::Lost => part.fate = Fate::Unknown,
            Said::CannotTell => {
                part.not_found = 0;
                part.cannot_tell = part.cannot_tell.saturating_add(1);
                dead = part.cannot_tell >= MOST_CANNOT_TELL;
            }
            Said::NotFound if accepted => {
                part.fate = Fate::Unknown;
                dead = true;
            }
            Said::NotFound => {
                part.not_found = part.not_found.saturating_add(1);
                if part.not_found >= AGREEING {
                    part.fate = Fate::Over;
                    let again = Part::of(part.quantity);
                    order.parts.push(again);
                }
            }
        }
        self.put_back(id, dead);
        Ok(())
    }

    /// A part is decided: what came is delivered, and with the last part the order is settled.
    fn sold(&mut self, now: Timestamp, id: JobId, index: usize, iccids: Vec<String>) -> Result<(), Refusal> {
        let job = self.jobs.get(&id).copied().ok_or(Refusal::NotFound)?;
        let order = self.orders.get_mut(&job.order).ok_or(Refusal::NotFound)?;
        let part = order.parts.get_mut(index).ok_or(Refusal::NotFound)?;
        part.fate = Fate::Over;
        let most = usize::try_from(part.quantity).unwrap_or(usize::MAX);
        let came = |iccid| Came { state: EsimState::Delivered, iccid, refunded: 0 };
        order.came.extend(iccids.into_iter().take(most).map(came));
        if order.open().is_some() {
            self.put_back(id, false);
            return Ok(());
        }
        self.jobs.remove(&id);
        order.status = order.derived();
        let (world, price) = (order.world, order.unit_price);
        let earned = price.saturating_mul(count(order.came.len()));
        let missing = order.total().saturating_sub(earned);
        let some_missing = count(order.came.len()) < i64::from(order.quantity);
        order.refunded = missing;
        self.post(world.1, Account::SalesHeld, earned.saturating_neg());
        self.post(world.1, Account::Sales, earned);
        if some_missing {
            let moved = Self::of_order(EntryKind::Refund, missing, job.order);
            self.credit(now, world, Account::SalesHeld, moved);
        }
        Ok(())
    }

    /// The operator says what became of a purchase nobody knows about.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::NotUnknown`], [`Refusal::TooManyEsims`].
    pub fn resolve(&mut self, now: Timestamp, id: OrderId, sold: Option<Vec<String>>) -> Result<(), Refusal> {
        let job = JobId::new(id.uuid());
        let given_up = self.jobs.get(&job).is_some_and(|job| job.dead);
        let order = self.orders.get(&id).ok_or(Refusal::NotFound)?;
        let unknown = |part: &Part| match part.fate {
            Fate::Unknown => true,
            Fate::Sent | Fate::Accepted => given_up,
            Fate::Waiting | Fate::Over => false,
        };
        let index = order.parts.iter().position(unknown).ok_or(Refusal::NotUnknown)?;
        let most = order.parts.get(index).map_or(0, |part| part.quantity);
        if sold.as_ref().is_some_and(Vec::is_empty) {
            return Err(Refusal::EsimsNeeded);
        }
        let iccids = sold.unwrap_or_default();
        if count(iccids.len()) > i64::from(most) {
            return Err(Refusal::TooManyEsims);
        }
        self.sold(now, job, index, iccids)
    }

    /// The operator brings a dead job back.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::NotDead`].
    pub fn retry(&mut self, id: JobId) -> Result<(), Refusal> {
        let job = self.jobs.get(&id).copied().ok_or(Refusal::NotFound)?;
        if !job.dead {
            return Err(Refusal::NotDead);
        }
        if let Some(order) = self.orders.get_mut(&job.order) {
            for part in &mut order.parts {
                *part = Part { fate: part.fate, ..Part::of(part.quantity) };
            }
        }
        self.put_back(id, false);
        Ok(())
    }

    /// The operator gives a dead job up.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::NotDead`], [`Refusal::OutcomeUnknown`].
    pub fn abandon(&mut self, now: Timestamp, id: JobId) -> Result<(), Refusal> {
        let job = self.jobs.get(&id).copied().ok_or(Refusal::NotFound)?;
        if !job.dead {
            return Err(Refusal::NotDead);
        }
        let order = self.orders.get_mut(&job.order).ok_or(Refusal::NotFound)?;
        if job.cancels {
            for came in order.came.iter_mut().filter(|came| came.state == EsimState::Cancelling) {
                came.state = EsimState::Delivered;
            }
            self.jobs.remove(&id);
            return Ok(());
        }
        if order.parts.iter().any(|part| matches!(part.fate, Fate::Sent | Fate::Accepted | Fate::Unknown)) {
            return Err(Refusal::OutcomeUnknown);
        }
        for part in &mut order.parts {
            part.fate = Fate::Over;
        }
        self.sold(now, id, 0, Vec::new())
    }

    // Giving back.

    /// The partner asks for eSIMs to be taken back; `job` is the job that will ask the upstream.
    ///
    /// # Errors
    /// The refusals of a cancellation.
    pub fn ask_cancel(
        &mut self,
        world: World,
        id: OrderId,
        esims: Option<&[EsimId]>,
        job: JobId,
    ) -> Result<(), Refusal> {
        self.may_change(world.0)?;
        let order = self.orders.get_mut(&id).filter(|order| order.world == world).ok_or(Refusal::NotFound)?;
        let last = usize::try_from(order.quantity).unwrap_or(usize::MAX);
        let position = |esim: &EsimId| {
            let position = esim.position().map(usize::from).filter(|position| *position < last);
            position.filter(|_| esim.order() == id)
        };
        let mut chosen = BTreeSet::new();
        match esims {
            Some(esims) => {
                let foreign = |(_, esim): &(usize, &EsimId)| position(esim).is_none();
                let unknown: Vec<usize> = esims.iter().enumerate().filter(foreign).map(|(index, _)| index).collect();
                if !unknown.is_empty() {
                    return Err(Refusal::UnknownEsims(unknown));
                }
                chosen.extend(esims.iter().filter_map(position));
            }
            None => {
                let here = |(_, came): &(usize, &Came)| came.state == EsimState::Delivered;
                chosen.extend(order.came.iter().enumerate().filter(here).map(|(index, _)| index));
            }
        }
        let here = |index: &usize| order.came.get(*index).is_some_and(|came| came.state == EsimState::Delivered);
        if order.status == OrderStatus::Processing || chosen.is_empty() || !chosen.iter().all(here) {
            return Err(Refusal::NotCancellable);
        }
        for index in chosen {
            if let Some(came) = order.came.get_mut(index) {
                came.state = EsimState::Cancelling;
            }
        }
        self.jobs.insert(job, Job { order: id, cancels: true, dead: false, ticket: None });
        Ok(())
    }

    /// A worker tells what the upstream said of the eSIMs it was to take back.
    ///
    /// # Errors
    /// [`Refusal::LeaseLost`].
    pub fn taken_back(
        &mut self,
        now: Timestamp,
        id: JobId,
        ticket: u64,
        said: &[(EsimId, Back)],
    ) -> Result<(), Refusal> {
        let job = self.held_job(id, ticket)?;
        let mut later = false;
        for (esim, back) in said {
            let order = self.orders.get_mut(&job.order).ok_or(Refusal::NotFound)?;
            let (world, left, price) = (order.world, order.total().saturating_sub(order.refunded), order.unit_price);
            let index = usize::from(esim.position().unwrap_or(u16::MAX));
            // What another job settled meanwhile is settled.
            let Some(came) = order.came.get_mut(index).filter(|came| came.state == EsimState::Cancelling) else {
                continue;
            };
            match back {
                Back::Later => later = true,
                Back::Kept => came.state = EsimState::Delivered,
                Back::Taken => {
                    let given = price.saturating_sub(came.refunded).min(left);
                    came.state = EsimState::Cancelled;
                    came.refunded = came.refunded.saturating_add(given);
                    order.refunded = order.refunded.saturating_add(given);
                    order.status = order.derived();
                    let moved = Self::of_order(EntryKind::Refund, given, job.order);
                    self.credit(now, world, Account::Sales, moved);
                }
            }
        }
        if later {
            self.put_back(id, false);
        } else {
            self.jobs.remove(&id);
        }
        Ok(())
    }

    /// The operator gives money back.
    ///
    /// # Errors
    /// The refusals of a refund.
    pub fn refund(&mut self, now: Timestamp, id: OrderId, what: &GiveBack, key: Option<Key>) -> Result<bool, Refusal> {
        if !self.orders.contains_key(&id) {
            return Err(Refusal::NotFound);
        }
        if self.recall(key)?.is_some() {
            return Ok(true);
        }
        let order = self.orders.get_mut(&id).ok_or(Refusal::NotFound)?;
        if order.status == OrderStatus::Processing {
            return Err(Refusal::Processing);
        }
        let left = order.total().saturating_sub(order.refunded);
        let price = order.unit_price;
        let mut shares: BTreeMap<usize, i64> = BTreeMap::new();
        let amount = match what {
            GiveBack::Rest => left,
            GiveBack::Amount(amount) => *amount,
            GiveBack::Esims(esims) => {
                let mut unknown = Vec::new();
                for (index, esim) in esims.iter().enumerate() {
                    let position = esim.position().map(usize::from).filter(|_| esim.order() == id);
                    match position.and_then(|position| order.came.get(position).map(|came| (position, came))) {
                        Some((position, came)) => {
                            shares.insert(position, price.saturating_sub(came.refunded));
                        }
                        None => unknown.push(index),
                    }
                }
                if !unknown.is_empty() {
                    return Err(Refusal::UnknownEsims(unknown));
                }
                shares.values().copied().fold(0, i64::saturating_add)
            }
        };
        if left <= 0 || amount <= 0 {
            return Err(Refusal::AlreadyRefunded);
        }
        if amount > left {
            return Err(Refusal::TooMuch(left));
        }
        for (position, share) in shares {
            if let Some(came) = order.came.get_mut(position) {
                came.refunded = came.refunded.saturating_add(share);
            }
        }
        order.refunded = order.refunded.saturating_add(amount);
        let world = order.world;
        let moved = Self::of_order(EntryKind::Refund, amount, id);
        self.credit(now, world, Account::Sales, moved);
        self.remember(key, Answer::Done);
        Ok(false)
    }

    // Top-ups.

    /// Begins a top-up as `id`. Returns its id, and whether it is the answer of an earlier request.
    ///
    /// # Errors
    /// The refusals of a top-up.
    pub fn begin_top_up(
        &mut self,
        world: World,
        id: TopUpId,
        amount: i64,
        expires_at: Timestamp,
        key: Option<Key>,
    ) -> Result<(TopUpId, bool), Refusal> {
        if let Ok(Some(Answer::TopUp(id))) = self.recall(key) {
            return Ok((id, true));
        }
        self.may_change(world.0)?;
        self.recall(key)?;
        self.top_ups.insert(id, Deposit { world, amount, credited: None, status: TopUpStatus::Pending, expires_at });
        self.remember(key, Answer::TopUp(id));
        Ok((id, false))
    }

    /// A proof comes; in test mode it is the payment.
    ///
    /// # Errors
    /// The refusals of a top-up.
    pub fn prove(&mut self, now: Timestamp, world: World, id: TopUpId) -> Result<Deposit, Refusal> {
        self.may_change(world.0)?;
        let deposit = self.top_ups.get(&id).copied().filter(|deposit| deposit.world == world);
        let deposit = deposit.ok_or(Refusal::NotFound)?;
        if deposit.is_late(now) || !matches!(deposit.status, TopUpStatus::Pending | TopUpStatus::UnderReview) {
            return Err(Refusal::AlreadyDecided);
        }
        if world.1 == Mode::Test {
            return self.paid(now, id, deposit.amount);
        }
        let proved = Deposit { status: TopUpStatus::UnderReview, ..deposit };
        self.top_ups.insert(id, proved);
        Ok(proved)
    }

    fn paid(&mut self, now: Timestamp, id: TopUpId, amount: i64) -> Result<Deposit, Refusal> {
        let deposit = self.top_ups.get(&id).copied().ok_or(Refusal::NotFound)?;
        if !matches!(deposit.status, TopUpStatus::Pending | TopUpStatus::UnderReview | TopUpStatus::Expired) {
            return Err(Refusal::AlreadyDecided);
        }
        self.in_range(deposit.world, amount)?;
        let deposit = Deposit { status: TopUpStatus::Paid, credited: Some(amount), ..deposit };
        self.top_ups.insert(id, deposit);
        let kind = EntryKind::TopUp;
        let moved = Moved { kind, amount, balance_after: 0, order: None, top_up: Some(id), at: now };
        self.credit(now, deposit.world, Account::BankTransferClearing, moved);
        Ok(deposit)
    }

    /// The operator saw the money.
    ///
    /// # Errors
    /// The refusals of a top-up.
    pub fn approve(
        &mut self,
        now: Timestamp,
        id: TopUpId,
        received: Option<i64>,
        key: Option<Key>,
    ) -> Result<(Deposit, bool), Refusal> {
        let deposit = self.top_ups.get(&id).copied().ok_or(Refusal::NotFound)?;
        if self.recall(key)?.is_some() {
            return Ok((deposit, true));
        }
        let deposit = self.paid(now, id, received.unwrap_or(deposit.amount))?;
        self.remember(key, Answer::Done);
        Ok((deposit, false))
    }

    /// The operator refuses a top-up.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::AlreadyDecided`].
    pub fn reject(&mut self, now: Timestamp, id: TopUpId) -> Result<Deposit, Refusal> {
        let deposit = self.top_ups.get_mut(&id).ok_or(Refusal::NotFound)?;
        if deposit.is_late(now) || !matches!(deposit.status, TopUpStatus::Pending | TopUpStatus::UnderReview) {
            return Err(Refusal::AlreadyDecided);
        }
        deposit.status = TopUpStatus::Rejected;
        Ok(*deposit)
    }

    /// Time passes for the pending top-ups. Returns how many it was over for.
    pub fn expire_due(&mut self, now: Timestamp) -> usize {
        self.top_ups
            .values_mut()
            .filter(|deposit| deposit.is_late(now))
            .map(|deposit| deposit.status = TopUpStatus::Expired)
            .count()
    }
}

fn lower(text: &str) -> String {
    text.to_lowercase()
}
