//! Which connection an order of a plan goes to that several of them offer: the best one, the next one after a definite
//! refusal, never another one after an unknown outcome, and back to the balance where nobody sells.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::breaker::{Breaker, BreakerState, Figures, Health};
use domain::catalogue::{Change, Sifted, diff};
use domain::connection::Provider;
use domain::esim::EsimState;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Patience, PlacementState};
use domain::id::{ConnectionId, OrderId, PlanId, TenantId};
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use domain::order::OrderStatus;
use domain::tenant::Mode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use store::checkout::{Quote, Quotes, place_orders};
use store::connection::{Sealed, Settings};
use store::fulfilment::{
    Heard, Leased, Placement, Providers, Task, ask_cancel, claim_jobs, give_up, placements, record_answer,
    record_cancellations, resolve,
};
use store::offer::{Source, apply_changes, move_offer};
use store::order::Order;
use store::routing::{Connections, Standing, refuse_unsold, release, route_jobs};
use store::{connection, job, offer, plan, pricing};
use world::*;

/// How the connections of a test stand; those that are not in it do not sell.
#[derive(Clone, Default)]
struct Supply(Arc<Mutex<BTreeMap<String, Standing>>>);

impl Providers for Supply {
    fn capabilities(&self, _: &str) -> Option<Capabilities> {
        Some(Capabilities { quantity_per_call: 3, ..ABLE })
    }
}

impl Connections for Supply {
    fn standing(&self, connection: &str) -> Option<Standing> {
        self.0.lock().unwrap().get(connection).copied()
    }

    fn least_margin(&self) -> i64 {
        1_000
    }
}

struct Shop {
    db: Db,
    clock: Clock,
    supply: Supply,
    tenant: TenantId,
    plan: PlanId,
    _folder: Folder,
}

/// What partners pay for one.
const PRICE: i64 = 500;

fn offered(cents: i64, currency: &str) -> Offer {
    Offer {
        upstream_plan_id: "fr-1gb".to_owned(),
        name: "France 1 GB".to_owned(),
        cost: Cost { units: cents, decimals: 2, currency: currency.to_owned() },
        countries: vec!["FR".to_owned()],
        data: Data::Total(1_024),
        validity_days: 7,
        networks: Vec::new(),
        speed: None,
        activation: None,
        add_on_supported: false,
        apn: None,
        remark: None,
    }
}

fn healthy(priority: i64) -> Standing {
    let now = domain::time::Timestamp::from_millis(START);
    Standing { priority, health: Health::of(&Breaker::NEW, &Figures::NEW, now) }
}

/// Makes a connection and lets it sell.
fn connect(db: &Db, name: &str) {
    let settings = Settings {
        base_url: "http://localhost".to_owned(),
        priority: 100,
        calls_per_second: None,
        calls_in_flight: 1,
        time_limit_ms: 1_000,
        low_balance: None,
    };
    let name = name.to_owned();
    db.write(move |tx| {
        let id = ConnectionId::new(tx.fresh_id());
        let sealed = Sealed { key_version: 1, bytes: vec![1] };
        connection::create(tx, &act(), id, &name, Provider::Tsim, &settings, &sealed)?;
        connection::set_enabled(tx, &act(), id, true)
    })
    .unwrap();
}

impl Shop {
    /// A plan that these connections offer at these costs in US cents, all healthy and of one priority.
    fn of(costs: &[(&str, i64)]) -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
        let buyer = tenant(&db, "acme", 0);
        credit(&db, buyer, 100_000);
        let siblings: Vec<String> = costs.iter().map(|(name, _)| (*name).to_owned()).collect();
        let supply = Supply::default();
        for (name, cost) in costs {
            let changes: Vec<Change> = diff(&[], &Sifted::new(vec![offered(*cost, "USD")]), true).unwrap();
            let source = Source { connection: (*name).to_owned(), siblings: siblings.clone(), currency: Currency::USD };
            db.write(move |tx| apply_changes(tx, &source, &changes)).unwrap();
            supply.0.lock().unwrap().insert((*name).to_owned(), healthy(100));
            connect(&db, name);
        }
        let first = costs[0].0.to_owned();
        let plan = db.read(move |snapshot| offer::find(snapshot, &first, "fr-1gb")).unwrap().plan;
        Self { db, clock, supply, tenant: buyer, plan, _folder: folder }
    }

    fn stand(&self, name: &str, standing: Option<Standing>) {
        let mut supply = self.supply.0.lock().unwrap();
        match standing {
            Some(standing) => supply.insert(name.to_owned(), standing),
            None => supply.remove(name),
        };
    }

    /// Lets a connection sell no more.
    fn disable(&self, name: &'static str) {
        let all = self.db.read(connection::all);
        let id = all.into_iter().find(|connection| connection.name == name).unwrap().id;
        self.db.write(move |tx| connection::set_enabled(tx, &act(), id, false)).unwrap();
    }

    fn buy(&self, quantity: u32) -> OrderId {
        let plan = self.plan;
        let revision = self.db.read(move |snapshot| plan::find(snapshot, plan)).unwrap().revision;
        let quote = Quote { plan, revision, unit_price: Some(usd(PRICE)) };
        let version = self.db.read(pricing::version);
        let mut wish = checkout(self.tenant, Mode::Live, &[(plan, quantity)]);
        wish.quotes = Some(Quotes { version, tier: None, valid_until: None, plans: vec![quote] });
        self.db.write(move |tx| place_orders(tx, &wish)).unwrap().orders[0].id
    }

    /// Routes what waits, and ends what nobody sells. Returns how many orders that were.
    fn route(&self) -> usize {
        let supply = self.supply.clone();
        let routed = self.db.write(move |tx| route_jobs(tx, &supply, 100)).unwrap();
        for unsold in &routed.unsold {
            let unsold = *unsold;
            self.db.write(move |tx| refuse_unsold(tx, &unsold)).unwrap();
        }
        routed.unsold.len()
    }

    fn claim(&self, upstream: &'static str) -> Option<Leased> {
        let supply = self.supply.clone();
        self.db.write(move |tx| claim_jobs(tx, &supply, upstream, 1, LEASE_MS)).unwrap().pop()
    }

    /// Has the next job of a connection done with this answer.
    #[track_caller]
    fn answer(&self, upstream: &'static str, heard: Heard) {
        let leased = self.claim(upstream).unwrap();
        self.db.write(move |tx| record_answer(tx, &leased, &heard, "raw", None, PATIENCE)).unwrap();
    }

    fn placements(&self, order: OrderId) -> Vec<Placement> {
        self.db.read(move |snapshot| placements(snapshot, order))
    }

    fn order(&self, order: OrderId) -> Order {
        self.db.read(move |snapshot| store::order::find(snapshot, order)).unwrap()
    }

    fn ways(&self, order: OrderId) -> Vec<(String, u32, PlacementState)> {
        let ways = self.placements(order).into_iter();
        ways.map(|placement| (placement.provider, placement.quantity, placement.progress.state)).collect()
    }

    fn credit(&self) -> i64 {
        let tenant = self.tenant;
        self.db.read(move |snapshot| snapshot.credit(tenant, Mode::Live)).unwrap().head.balance.minor()
    }
}

fn refused() -> Heard {
    Heard::Place(Outcome::Refused { code: "sold_out".to_owned(), message: "no stock".to_owned() })
}

fn done(from: u64, count: u64) -> Heard {
    let profiles = (from..from + count).map(|number| profile(&format!("89000000000000000{number:02}"))).collect();
    Heard::Place(Outcome::Done { profiles })
}

#[test]
fn an_order_goes_to_the_cheapest_and_its_cost_is_written_down() {
    let shop = Shop::of(&[("dear", 300), ("cheap", 200)]);
    let order = shop.buy(2);
    assert!(shop.claim("dear").is_none() && shop.claim("cheap").is_none(), "it is nobody's before it is routed");
    assert_eq!(shop.route(), 0);
    assert!(shop.claim("dear").is_none());
    shop.answer("cheap", done(10, 2));
    let placements = shop.placements(order);
    assert_eq!(placements.len(), 1);
    let cost = placements[0].cost.clone().unwrap();
    assert_eq!((cost.asked.units, cost.asked.decimals, cost.converted), (200, 2, usd(200)));
    assert_eq!(shop.order(order).status, OrderStatus::Completed);
}

#[test]
fn the_operators_priority_goes_before_the_price_and_a_connection_that_does_not_answer_comes_last() {
    let shop = Shop::of(&[("dear", 300), ("cheap", 200)]);
    shop.stand("dear", Some(healthy(1)));
    let first = shop.buy(1);
    shop.route();
    assert_eq!(shop.ways(first), [("dear".to_owned(), 1, PlacementState::Waiting)]);
    let open = Health { state: BreakerState::Open, ..healthy(1).health };
    shop.stand("dear", Some(Standing { priority: 1, health: open }));
    let second = shop.buy(1);
    shop.route();
    assert_eq!(shop.ways(second), [("cheap".to_owned(), 1, PlacementState::Waiting)]);
    // What waits for the one that does not answer, and was never sent, goes elsewhere, too.
    let released = shop.db.write(|tx| release(tx, "dear", 100)).unwrap();
    assert_eq!(released, 1);
    shop.route();
    assert_eq!(shop.ways(first), [("cheap".to_owned(), 1, PlacementState::Waiting)]);
}

#[test]
fn a_definite_refusal_goes_on_to_the_next_offer_as_far_as_the_margin_allows() {
    // Of 500 at least a tenth must be left.
    let shop = Shop::of(&[("first", 200), ("second", 450), ("at-a-loss", 451)]);
    let order = shop.buy(2);
    shop.route();
    shop.answer("first", refused());
    shop.route();
    assert_eq!(shop.order(order).status, OrderStatus::Processing);
    shop.answer("second", refused());
    assert_eq!(shop.route(), 1, "the last one would leave too little");
    let order = shop.order(order);
    assert_eq!((order.status, shop.credit()), (OrderStatus::Failed, 100_000));
    assert_eq!(order.failure_reason.as_deref(), Some("sold_out: no stock"));
    assert_eq!(shop.route(), 0, "once");
}

#[test]
fn an_unknown_outcome_never_goes_elsewhere() {
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(1);
    shop.route();
    shop.answer("first", Heard::Place(Outcome::Unknown { reason: "closed".to_owned() }));
    for _ in 0..3 {
        shop.clock.advance(400_000);
        shop.answer("first", Heard::LookUp(LookUp::CannotTell { reason: "who knows".to_owned() }));
    }
    assert_eq!((shop.route(), shop.claim("second")), (0, None));
    assert_eq!(shop.ways(order), [("first".to_owned(), 1, PlacementState::Unknown)]);
    // Not even where its connection sells no more.
    shop.stand("first", None);
    assert_eq!(shop.db.write(|tx| release(tx, "first", 100)).unwrap(), 0);
    // Until the operator finds out that it was not sold.
    shop.db.write(move |tx| resolve(tx, &act(), order, None, "asked them")).unwrap();
    shop.route();
    shop.answer("second", done(10, 1));
    assert_eq!(shop.order(order).status, OrderStatus::Completed);
}

#[test]
fn what_one_delivered_in_part_is_completed_by_another() {
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(5);
    shop.route();
    // Three at a time: the first three come, the other two are refused.
    shop.answer("first", done(10, 3));
    shop.answer("first", refused());
    shop.route();
    assert_eq!(
        shop.ways(order),
        [
            ("first".to_owned(), 3, PlacementState::Done),
            ("first".to_owned(), 2, PlacementState::Refused),
            ("second".to_owned(), 2, PlacementState::Waiting)
        ]
    );
    shop.answer("second", done(20, 2));
    let order = shop.order(order);
    assert_eq!((order.status, order.esims.len()), (OrderStatus::Completed, 5));
    let iccids: std::collections::BTreeSet<_> = order.esims.iter().map(|esim| esim.iccid.clone()).collect();
    assert_eq!(iccids.len(), 5);
}

#[test]
fn what_nobody_sells_any_more_goes_back_to_the_balance() {
    let shop = Shop::of(&[("only", 200)]);
    let order = shop.buy(1);
    shop.disable("only");
    assert_eq!(shop.route(), 1);
    let order = shop.order(order);
    assert_eq!((order.status, shop.credit()), (OrderStatus::Failed, 100_000));
    assert!(order.failure_reason.unwrap().starts_with("no_offer"));
}

#[test]
fn a_connection_this_node_does_not_know_yet_is_waited_for_and_not_for_ever() {
    let shop = Shop::of(&[("only", 200)]);
    shop.stand("only", None);
    let (waits, goes) = (shop.buy(1), shop.buy(1));
    assert_eq!(shop.route(), 0);
    assert_eq!((shop.ways(waits), shop.ways(goes)), (Vec::new(), Vec::new()));
    shop.clock.advance(1_000);
    shop.stand("only", Some(healthy(100)));
    shop.route();
    shop.answer("only", done(10, 1));
    shop.answer("only", done(20, 1));
    assert_eq!(shop.order(goes).status, OrderStatus::Completed);
    shop.stand("only", None);
    let lost = shop.buy(1);
    let before = shop.credit();
    shop.clock.advance(599_000);
    assert_eq!(shop.route(), 0);
    shop.clock.advance(1_000);
    assert_eq!(shop.route(), 1);
    assert_eq!((shop.order(lost).status, shop.credit()), (OrderStatus::Failed, before + PRICE));
}

#[test]
fn what_was_sent_and_put_off_stays_and_what_was_not_may_go() {
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(1);
    shop.route();
    let later = NotYet::TryLater { retry_at: None, reason: "busy".to_owned() };
    shop.answer("first", Heard::Place(Outcome::NotYet(later)));
    assert_eq!(shop.db.write(|tx| release(tx, "first", 100)).unwrap(), 0);
    assert_eq!(shop.ways(order), [("first".to_owned(), 1, PlacementState::Waiting)]);
}

#[test]
fn one_that_puts_an_order_off_again_and_again_loses_it_to_one_that_sells() {
    let later = || {
        let reason = "busy".to_owned();
        Heard::Place(Outcome::NotYet(NotYet::TryLater { retry_at: None, reason }))
    };
    let patience = Patience { most_failures: 20, ..PATIENCE };
    let put_off = |shop: &Shop, upstream| {
        let leased = shop.claim(upstream).unwrap();
        let heard = later();
        shop.db.write(move |tx| record_answer(tx, &leased, &heard, "raw", None, patience)).unwrap();
        shop.clock.advance(400_000);
        assert_eq!(shop.route(), 0);
    };
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(4);
    shop.route();
    put_off(&shop, "first");
    put_off(&shop, "first");
    assert!(shop.ways(order).iter().all(|(upstream, ..)| upstream == "first"));
    put_off(&shop, "first");
    shop.answer("second", done(10, 3));
    shop.answer("second", done(20, 1));
    assert_eq!(shop.order(order).status, OrderStatus::Completed);
    // Where nobody else sells it, it waits.
    let shop = Shop::of(&[("only", 200)]);
    let order = shop.buy(1);
    shop.route();
    for _ in 0..6 {
        put_off(&shop, "only");
    }
    shop.answer("only", done(10, 1));
    assert_eq!(shop.order(order).status, OrderStatus::Completed);
}

#[test]
fn an_offer_without_a_rate_is_not_bought_at_a_price_nobody_knows() {
    let shop = Shop::of(&[("ours", 400)]);
    let changes: Vec<Change> = diff(&[], &Sifted::new(vec![offered(1, "EUR")]), true).unwrap();
    let source = Source { connection: "euro".to_owned(), siblings: vec!["euro".to_owned()], currency: Currency::USD };
    shop.db.write(move |tx| apply_changes(tx, &source, &changes)).unwrap();
    let plan = shop.plan;
    connect(&shop.db, "euro");
    shop.db.write(move |tx| move_offer(tx, &act(), "euro", "fr-1gb", plan, false, None)).unwrap();
    shop.stand("euro", Some(healthy(1)));
    let order = shop.buy(1);
    shop.route();
    assert_eq!(shop.ways(order), [("ours".to_owned(), 1, PlacementState::Waiting)]);
}

#[test]
fn a_job_given_up_by_the_operator_goes_nowhere_else() {
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(1);
    shop.route();
    for _ in 0..3 {
        let later = NotYet::TryLater { retry_at: None, reason: "busy".to_owned() };
        shop.answer("first", Heard::Place(Outcome::NotYet(later)));
        shop.clock.advance(400_000);
    }
    let dead = shop.db.read(move |snapshot| job::dead_of_order(snapshot, order)).unwrap();
    shop.db.write(move |tx| job::abandon(tx, &act(), dead.id)).unwrap();
    assert_eq!((shop.order(order).status, shop.credit()), (OrderStatus::Failed, 100_000));
    assert_eq!((shop.route(), shop.claim("second")), (0, None));
}

#[test]
fn giving_up_one_upstreams_cancellation_leaves_anothers_under_way() {
    let shop = Shop::of(&[("first", 200), ("second", 300)]);
    let order = shop.buy(5);
    shop.route();
    shop.answer("first", done(10, 3));
    shop.answer("first", refused());
    shop.route();
    shop.answer("second", done(20, 2));
    let scope = scope(shop.tenant, Mode::Live);
    shop.db.write(move |tx| ask_cancel(tx, scope, order, None)).unwrap();
    let before = shop.credit();
    let first = shop.claim("first").unwrap();
    shop.db.write(move |tx| give_up(tx, &first, "a story")).unwrap();
    let dead = shop.db.read(move |snapshot| job::dead_of_order(snapshot, order)).unwrap();
    shop.db.write(move |tx| job::abandon(tx, &act(), dead.id)).unwrap();
    let states = || shop.order(order).esims.iter().map(|esim| esim.state).collect::<Vec<_>>();
    let (kept, going) = (EsimState::Delivered, EsimState::Cancelling);
    assert_eq!(states(), [kept, kept, kept, going, going]);
    let second = shop.claim("second").unwrap();
    let Task::TakeBack(list) = &second.task else { unreachable!("{:?}", second.task) };
    let answers: Vec<_> = list.iter().map(|esim| (esim.esim, Cancellation::Cancelled)).collect();
    assert_eq!(answers.len(), 2);
    shop.db.write(move |tx| record_cancellations(tx, &second, &answers, 3)).unwrap();
    assert_eq!(states(), [kept, kept, kept, EsimState::Cancelled, EsimState::Cancelled]);
    assert_eq!(shop.credit(), before + 2 * PRICE, "what was taken back is given back");
}
