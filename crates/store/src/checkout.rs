//! Checkout: the price leaves the balance in the same transaction that makes the orders and the jobs
//! which fulfil them.

use crate::esim;
use crate::ledger::write_listed;
use crate::order::{Order, Traveller};
use crate::port::{Decision, Event, Fault, KeyHash, Needs, Remembered, Snapshot, Tx, refuse, row};
use crate::pricing::read_version;
use crate::tenant::read_tier;
use crate::{job, ledger, order};
use domain::catalogue::CONNECTIONS;
use domain::checkout::{CheckoutRefusal, Line, decide};
use domain::id::{CheckoutId, EntryId, OrderId, PlanId, TenantId};
use domain::job::{JobKind, JobState};
use domain::ledger::Movement;
use domain::money::Money;
use domain::order::{OrderStatus, order_number};
use domain::tenant::{Mode, Scope, TenantStatus, Tier};
use domain::time::Timestamp;

/// A checkout as it was asked for, validated.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Who buys.
    pub scope: Scope,
    /// Plan and quantity of each line.
    pub items: Vec<(PlanId, u32)>,
    /// The most the caller is ready to pay.
    pub max_total: Option<Money>,
    /// The traveller, the same for every line.
    pub traveller: Traveller,
    /// The idempotency key's hash and the body's.
    pub key: Option<(KeyHash, [u8; 16])>,
    /// Whether live mode may buy from the sandbox.
    pub sandbox_in_live: bool,
    /// What the plans in it that live from offers cost.
    pub quotes: Option<Quotes>,
}

/// Prices that were worked out before the transaction, each with what it follows from: they are charged if that is still
/// so at the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quotes {
    /// The version of what prices follow from ([`crate::pricing::version`]).
    pub version: i64,
    /// The tier they are for.
    pub tier: Option<Tier>,
    /// The first moment at which they are not right any more.
    pub valid_until: Option<Timestamp>,
    /// The plans.
    pub plans: Vec<Quote>,
}

/// The price of one plan that lives from offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The plan.
    pub plan: PlanId,
    /// Its revision.
    pub revision: i64,
    /// What one costs; `None` where it is not on sale.
    pub unit_price: Option<Money>,
}

/// What a checkout made.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Its id.
    pub checkout: CheckoutId,
    /// The orders as they were made, in the order of the lines.
    pub orders: Vec<Order>,
    /// Their sum.
    pub total: Money,
    /// The balance afterwards.
    pub credit_balance: Money,
    /// Whether this is the answer to an earlier request with the same key.
    pub replayed: bool,
}

/// The provider that only sells play eSIMs.
pub const SANDBOX: &str = "sandbox";

struct Offered {
    name: String,
    price: Option<Money>,
    /// The upstream whose lane its job stands in.
    lane: String,
    /// The plan's revision, where its price must be quoted.
    quoted_at: Option<i64>,
}

/// Whether a plan of `provider` is offered in `mode`: test sees only the sandbox, live only where allowed.
#[must_use]
pub fn is_offered(provider: &str, mode: Mode, sandbox_in_live: bool) -> bool {
    match mode {
        Mode::Test => provider == SANDBOX,
        Mode::Live => provider != SANDBOX || sandbox_in_live,
    }
}

const OFFERED: &str =
    "select name, price, currency, provider, revision from plans where id = $1 and withdrawn_at is null";

/// What quotes follow from, beside the plans.
const TERMS: &str = "select settings.value, tenants.tier from settings, tenants \
     where settings.name = 'pricing_version' and tenants.id = $1";

impl Checkout {
    /// What [`place_orders`] will need.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let needs = Needs::credit(self.scope.tenant, self.scope.mode).key(self.key.map(|(key, _)| key));
        let needs = self.items.iter().fold(needs, |needs, (plan, _)| needs.read(OFFERED, &[plan.as_bytes().into()]));
        match self.quotes {
            None => needs,
            Some(_) => needs.read(TERMS, &[self.scope.tenant.as_bytes().into()]),
        }
    }
}

fn offered(tx: &mut dyn Tx, checkout: &Checkout, plan: PlanId) -> Result<Offered, Fault> {
    let offered = row(tx, OFFERED, &[plan.as_bytes().into()], |row| {
        let price = Money::new(row.int(1)?, row.text(2)?.parse()?);
        let provider = row.text(3)?;
        let sold = is_offered(provider, checkout.scope.mode, checkout.sandbox_in_live);
        // What lies in the row of a plan that rules price says nothing.
        let quoted_at = if sold && provider == CONNECTIONS { Some(row.int(4)?) } else { None };
        let price = (sold && quoted_at.is_none()).then_some(price);
        Ok(Offered { name: row.text(0)?.to_owned(), price, lane: job::lane_of(provider).to_owned(), quoted_at })
    })?;
    Ok(offered.unwrap_or(Offered { name: String::new(), price: None, lane: String::new(), quoted_at: None }))
}

/// Whether the quotes follow from what is so in this transaction.
fn are_right(tx: &mut dyn Tx, quotes: &Quotes, tenant: TenantId) -> Result<bool, Fault> {
    let now = row(tx, TERMS, &[tenant.as_bytes().into()], |row| {
        Ok((read_version(row.text(0)?)?, read_tier(row.opt_text(1)?)?))
    })?;
    let in_time = quotes.valid_until.is_none_or(|until| tx.now() < until);
    Ok(now == Some((quotes.version, quotes.tier)) && in_time)
}

/// Pays a basket and makes its orders.
///
/// # Errors
/// [`CheckoutRefusal`]; then nothing changed.
pub fn place_orders(tx: &mut dyn Tx, checkout: &Checkout) -> Decision<Placed, CheckoutRefusal> {
    let scope = checkout.scope;
    let Some(mut locked) = tx.lock_credit(scope.tenant, scope.mode)? else {
        return Err(Fault::Bug(format!("tenant {} has no {} balance", scope.tenant, scope.mode)).into());
    };
    if let Some((key, body)) = &checkout.key
        && let Some(remembered) = tx.recall(key)?
    {
        if remembered.body_hash == *body {
            return Ok(replay(tx, &remembered)?);
        }
        // Another body is a new wish: whoever may not buy hears that first.
        return refuse(match locked.status.may_change() {
            Err(refusal) => CheckoutRefusal::NotAllowed(refusal),
            Ok(()) => CheckoutRefusal::IdempotencyKeyReused,
        });
    }
    let mut quotes = None;
    let mut lines = Vec::with_capacity(checkout.items.len());
    let mut plans = Vec::with_capacity(checkout.items.len());
    for (plan, quantity) in &checkout.items {
        let Offered { name, mut price, lane, quoted_at } = offered(tx, checkout, *plan)?;
        if let Some(revision) = quoted_at {
            if quotes.is_none() {
                quotes = match &checkout.quotes {
                    Some(given) if are_right(tx, given, scope.tenant)? => Some(given.plans.as_slice()),
                    _ => None,
                };
            }
            let quote = quotes.and_then(|quotes| quotes.iter().find(|quote| quote.plan == *plan));
            match quote.filter(|quote| quote.revision == revision) {
                Some(quote) => price = quote.unit_price,
                None => return outdated(locked.status),
            }
        }
        let unit_price = price.filter(|price| price.currency() == locked.head.balance.currency());
        lines.push(Line { quantity: *quantity, unit_price });
        plans.push((name, lane));
    }
    let priced = match decide(locked.status, &locked.head, locked.limit, &lines, checkout.max_total) {
        Ok(priced) => priced,
        Err(refusal) => return refuse(refusal),
    };
    let id = CheckoutId::new(tx.fresh_id());
    let mut orders = Vec::with_capacity(priced.lines.len());
    for (((plan, _), (plan_name, lane)), line) in checkout.items.iter().zip(plans).zip(&priced.lines) {
        let order = OrderId::from_fresh(tx.fresh_id());
        locked.order_count += 1;
        let order = Order {
            id: order,
            tenant: scope.tenant,
            mode: scope.mode,
            checkout: id,
            number: order_number(locked.tenant_number, scope.mode, locked.order_count),
            plan: *plan,
            plan_name,
            quantity: line.quantity,
            unit_price: line.unit_price,
            refunded: Money::zero(line.unit_price.currency()),
            status: OrderStatus::Processing,
            completed_at: None,
            failure_reason: None,
            timeline: Vec::new(),
            traveller: checkout.traveller.clone(),
            esims: esim::fill(order, line.quantity, OrderStatus::Processing, Vec::new()),
        };
        insert(tx, &order, &lane)?;
        tx.after_commit(Event::JobReady(lane));
        let (email, reference) = (order.traveller.email.as_deref(), order.traveller.reference.as_deref());
        let keys = order::first_keys(&order.number, order.plan, email, reference);
        let purchase = Movement::purchase(order.id, line.total);
        write_listed(tx, &mut locked, EntryId::new(order.id.uuid()), purchase, Some(keys))?;
        orders.push(order);
    }
    tx.store_credit(&locked)?;
    if let Some((key, body_hash)) = checkout.key {
        let count = u32::try_from(orders.len()).unwrap_or(u32::MAX);
        tx.remember(key, Remembered { body_hash, result: id.uuid(), count })?;
    }
    Ok(Placed { checkout: id, orders, total: priced.total, credit_balance: locked.head.balance, replayed: false })
}

/// Whoever may not buy hears that, and nothing of prices.
fn outdated<T>(status: TenantStatus) -> Decision<T, CheckoutRefusal> {
    refuse(match status.may_change() {
        Err(refusal) => CheckoutRefusal::NotAllowed(refusal),
        Ok(()) => CheckoutRefusal::QuoteOutdated,
    })
}

fn insert(tx: &mut dyn Tx, order: &Order, lane: &str) -> Result<(), Fault> {
    tx.change(
        "insert into orders (id, tenant_id, mode, checkout_id, number, plan_id, plan_name, quantity, unit_price,
             refunded, currency, status, timeline)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, '')",
        &[
            order.id.as_bytes().into(),
            order.tenant.as_bytes().into(),
            order.mode.word().into(),
            order.checkout.as_bytes().into(),
            (&order.number).into(),
            order.plan.as_bytes().into(),
            (&order.plan_name).into(),
            order.quantity.into(),
            order.unit_price.minor().into(),
            order.unit_price.currency().code().into(),
            order.status.word().into(),
        ],
    )?;
    let traveller = &order.traveller;
    if !traveller.is_empty() {
        tx.change(
            "insert into travellers (order_id, tenant_id, email, customer_name, phone, reference)
             values ($1, $2, $3, $4, $5, $6)",
            &[
                order.id.as_bytes().into(),
                order.tenant.as_bytes().into(),
                traveller.email.as_ref().into(),
                traveller.customer_name.as_ref().into(),
                traveller.phone.as_ref().into(),
                traveller.reference.as_ref().into(),
            ],
        )?;
    }
    let now = tx.now();
    tx.change(
        "insert into jobs (id, kind, order_id, tenant_id, state, attempts, run_at, upstream)
         values ($1, $2, $3, $4, $5, 0, $6, $7)",
        &[
            order.id.as_bytes().into(),
            JobKind::Fulfil.word().into(),
            order.id.as_bytes().into(),
            order.tenant.as_bytes().into(),
            JobState::Ready.word().into(),
            now.into(),
            lane.into(),
        ],
    )?;
    Ok(())
}

/// The answer of a checkout as it was at its commit, made again out of what never changes.
fn replay(snapshot: &mut dyn Snapshot, remembered: &Remembered) -> Result<Placed, Fault> {
    let checkout = CheckoutId::new(remembered.result);
    let orders = order::of_checkout(snapshot, checkout, remembered.count)?;
    let lost = || Fault::Bug(format!("checkout {checkout} is incomplete"));
    let last = orders.last().ok_or_else(lost)?;
    let purchase = ledger::find(snapshot, EntryId::new(last.id.uuid()))?.ok_or_else(lost)?;
    let mut total = Money::zero(last.unit_price.currency());
    for order in &orders {
        total = total.plus(order.total()?)?;
    }
    let orders = orders.into_iter().map(Order::as_created).collect();
    Ok(Placed { checkout, orders, total, credit_balance: purchase.balance_after, replayed: true })
}
