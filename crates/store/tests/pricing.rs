//! What prices follow from, and that only a price that still follows from it is charged.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::catalogue::{Change, Sifted, diff};
use domain::checkout::CheckoutRefusal;
use domain::connection::Provider;
use domain::id::{ConnectionId, PlanId, TenantId};
use domain::money::{Currency, Money};
use domain::offer::{Cost, Data, Offer};
use domain::plan::PricedBy;
use domain::pricing::{Markup, MarkupFault, MarkupRule, MarkupScope, Rate, Rounding};
use domain::tenant::{Mode, Tier};
use domain::time::Timestamp;
use store::checkout::{Placed, Quote, Quotes, SANDBOX, place_orders};
use store::connection::{Sealed, Settings};
use store::markup::{MarkupRefusal, RuleNotFound};
use store::offer::{Source, apply_changes, hold};
use store::plan::PlanRefusal;
use store::port::{Decision, Failure};
use store::pricing::Terms;
use store::rate::RateRefusal;
use store::{connection, markup, offer, plan, pricing, rate, tenant};
use uuid::Uuid;
use world::*;

const SUPPLIER: &str = "supplier";

struct Shop {
    db: Db,
    clock: Clock,
    tenant: TenantId,
    _folder: Folder,
}

impl Shop {
    /// A tenant with credit, and a connection that sells.
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
        let buyer = tenant(&db, "acme", 0);
        credit(&db, buyer, 100_000);
        let shop = Self { db, clock, tenant: buyer, _folder: folder };
        let settings = Settings {
            base_url: "http://localhost".to_owned(),
            priority: 100,
            calls_per_second: None,
            calls_in_flight: 1,
            time_limit_ms: 1_000,
            low_balance: None,
        };
        let sealed = Sealed { key_version: 1, bytes: vec![1] };
        let id = ConnectionId::new(Uuid::from_u128(9 << 80));
        shop.db
            .write(move |tx| connection::create(tx, &act(), id, SUPPLIER, Provider::Tsim, &settings, &sealed))
            .unwrap();
        shop.enable(true);
        shop
    }

    fn enable(&self, enabled: bool) {
        let id = ConnectionId::new(Uuid::from_u128(9 << 80));
        self.db.write(move |tx| connection::set_enabled(tx, &act(), id, enabled)).unwrap();
    }

    fn sync(&self, fetched: Vec<Offer>) {
        let known = self.db.read(|snapshot| offer::known(snapshot, SUPPLIER));
        let changes: Vec<Change> = diff(&known, &Sifted::new(fetched), true).unwrap();
        let source =
            Source { connection: SUPPLIER.to_owned(), siblings: vec![SUPPLIER.to_owned()], currency: Currency::USD };
        self.db.write(move |tx| apply_changes(tx, &source, &changes)).unwrap();
    }

    /// One plan that lives from an offer at this cost.
    fn plan(&self, cost: i64) -> PlanId {
        self.sync(vec![offered("fr-1gb", cost)]);
        self.db.read(|snapshot| offer::find(snapshot, SUPPLIER, "fr-1gb")).unwrap().plan
    }

    fn terms(&self) -> Terms {
        let now = self.clock.now();
        self.db.read(move |snapshot| pricing::terms(snapshot, now))
    }

    fn version(&self) -> i64 {
        self.db.read(pricing::version)
    }

    fn revision(&self, id: PlanId) -> i64 {
        self.db.read(move |snapshot| plan::find(snapshot, id)).unwrap().revision
    }

    /// What a caller is told that it costs.
    fn quotes(&self, id: PlanId, price: i64) -> Quotes {
        let quote = Quote { plan: id, revision: self.revision(id), unit_price: Some(usd(price)) };
        Quotes { version: self.version(), tier: None, valid_until: None, plans: vec![quote] }
    }

    fn buy(&self, id: PlanId, quotes: Option<&Quotes>, key: Option<u8>) -> Decision<Placed, CheckoutRefusal> {
        let mut wish = checkout(self.tenant, Mode::Live, &[(id, 2)]);
        wish.key = key.map(|key| ([key; 16], [7; 16]));
        wish.quotes = quotes.cloned();
        let needs = wish.needs();
        self.db.wait(self.db.store.write_needing(needs, move |tx| place_orders(tx, &wish)))
    }

    #[track_caller]
    fn is_outdated(&self, id: PlanId, quotes: Option<&Quotes>) {
        assert_eq!(self.buy(id, quotes, None).map(|_| ()), Err(Failure::Refused(CheckoutRefusal::QuoteOutdated)));
    }

    fn rate(&self, text: &str, from: Option<Timestamp>) -> Decision<Rate, RateRefusal> {
        let read = Rate::parse(text, "EUR", Currency::USD, Timestamp::default()).unwrap();
        self.db.write(move |tx| rate::set(tx, &act(), &read, from))
    }

    fn rule(&self, scope: MarkupScope, markup: Markup) -> Decision<MarkupRule, MarkupRefusal> {
        self.db.write(move |tx| markup::create(tx, &act(), &scope, &markup, Currency::USD))
    }
}

fn offered(id: &str, cents: i64) -> Offer {
    Offer {
        upstream_plan_id: id.to_owned(),
        name: id.to_owned(),
        cost: Cost { units: cents, decimals: 2, currency: "USD".to_owned() },
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

#[test]
fn rates_that_have_begun_are_never_changed() {
    let shop = Shop::new();
    let minutes = |minutes: i64| shop.clock.now().plus_millis(minutes * 60_000);
    let first = shop.rate("1.1", None).unwrap();
    assert_eq!(first.valid_from, shop.clock.now());
    assert_eq!(shop.rate("1.2", Some(minutes(-1))), Err(Failure::Refused(RateRefusal::Past)));
    assert_eq!(shop.rate("1.2", Some(minutes(0))), Err(Failure::Refused(RateRefusal::Past)));
    // Another one in the same millisecond takes its place with the next one.
    assert_eq!(shop.rate("1.15", None).unwrap().valid_from, shop.clock.now().plus_millis(1));
    let later = shop.rate("1.3", Some(minutes(10))).unwrap();
    let corrected = shop.rate("1.2", Some(minutes(10))).unwrap();
    let texts = |rates: Vec<Rate>| rates.iter().map(Rate::decimal).collect::<Vec<_>>();
    assert_eq!(texts(shop.terms().rates), ["1.1", "1.15", "1.2"]);
    shop.clock.advance(1);
    assert_eq!(texts(shop.terms().rates), ["1.15", "1.2"], "what is over is not read any more");
    let began = later.valid_from;
    shop.clock.advance(600_000);
    assert_eq!(shop.rate("9", Some(began)), Err(Failure::Refused(RateRefusal::Past)));
    assert_eq!(shop.terms().rates, [corrected]);
    // All of them are kept, and listed page by page.
    let all = shop.db.read(|snapshot| rate::list(snapshot, None, 10));
    assert_eq!(texts(all.clone()), ["1.2", "1.15", "1.1"]);
    let behind = (all[0].valid_from, all[0].from.clone(), all[0].to);
    assert_eq!(texts(shop.db.read(move |snapshot| rate::list(snapshot, Some(&behind), 10))), ["1.15", "1.1"]);
}

#[test]
fn rules_name_what_there_is_and_begin_and_end() {
    let shop = Shop::new();
    let id = shop.plan(100);
    let everything = MarkupScope::default;
    let nobody = TenantId::new(Uuid::from_u128(5));
    for (scope, refusal) in [
        (MarkupScope { connection: Some("other".to_owned()), ..everything() }, MarkupRefusal::UnknownConnection),
        (MarkupScope { plan: Some(PlanId::new(Uuid::from_u128(5))), ..everything() }, MarkupRefusal::UnknownPlan),
        (MarkupScope { tenant: Some(nobody), ..everything() }, MarkupRefusal::UnknownTenant),
    ] {
        assert_eq!(shop.rule(scope, Markup::NONE), Err(Failure::Refused(refusal)));
    }
    let loss = Markup { percent: -1, ..Markup::NONE };
    let fault = MarkupRefusal::OutOfBounds(MarkupFault::Percent);
    assert_eq!(shop.rule(everything(), loss), Err(Failure::Refused(fault)));
    let scope = MarkupScope {
        connection: Some(SUPPLIER.to_owned()),
        region: Some("Europe".to_owned()),
        country: Some("FR".to_owned()),
        plan: Some(id),
        tier: Some("gold".to_owned()),
        tenant: Some(shop.tenant),
    };
    let markup = Markup { percent: 2_505, fixed: 30, floor: Some(150), rounding: Rounding::UpTo49 };
    let narrow = shop.rule(scope, markup).unwrap();
    let wide = shop.rule(everything(), Markup::NONE).unwrap();
    assert_eq!(shop.terms().rules, [narrow.clone(), wide.clone()]);
    assert_eq!(shop.db.read(|snapshot| markup::list(snapshot, None, 1)), std::slice::from_ref(&wide));
    let behind = wide.id;
    assert_eq!(shop.db.read(move |snapshot| markup::list(snapshot, Some(behind), 5)), std::slice::from_ref(&narrow));
    let ended = narrow.id;
    assert_eq!(shop.db.write(move |tx| markup::end(tx, &act(), ended)), Ok(narrow));
    assert_eq!(shop.db.write(move |tx| markup::end(tx, &act(), ended)), Err(Failure::Refused(RuleNotFound)));
    assert_eq!(shop.terms().rules, [wide]);
    let log = shop.db.read(|snapshot| store::audit::list(snapshot, Some("markup.ended"), None, None, 9));
    assert!(log[0].detail.contains("25.05 % + 0.3 USD, at least 1.5, rounding up_to_49"), "{}", log[0].detail);
    assert_eq!(shop.db.read(store::audit::check), None);
}

#[test]
fn a_quote_is_charged_while_it_follows_from_what_is_so() {
    let shop = Shop::new();
    let id = shop.plan(100);
    let quotes = shop.quotes(id, 333);
    let placed = shop.buy(id, Some(&quotes), None).unwrap();
    assert_eq!((placed.total, placed.orders[0].unit_price), (usd(666), usd(333)));
    shop.is_outdated(id, None);
    let none = Quotes { plans: Vec::new(), ..quotes.clone() };
    shop.is_outdated(id, Some(&none));
    let other_tier = Quotes { tier: Some("gold".parse().unwrap()), ..quotes.clone() };
    shop.is_outdated(id, Some(&other_tier));

    let changes: [(&str, &dyn Fn()); 6] = [
        ("a cost", &|| shop.sync(vec![offered("fr-1gb", 120)])),
        ("a rate", &|| drop(shop.rate("1.1", None).unwrap())),
        ("a rule", &|| drop(shop.rule(MarkupScope::default(), Markup::NONE).unwrap())),
        ("a connection goes", &|| shop.enable(false)),
        ("and comes", &|| shop.enable(true)),
        ("a tier", &|| {
            let (buyer, gold): (TenantId, Tier) = (shop.tenant, "gold".parse().unwrap());
            let put = shop.db.write(move |tx| tenant::set_tier(tx, &act(), buyer, Some(gold)));
            assert_eq!(put.unwrap().tier, Some(gold));
        }),
    ];
    for (_, change) in changes {
        let before = shop.quotes(id, 333);
        shop.buy(id, Some(&before), None).unwrap();
        change();
        shop.is_outdated(id, Some(&before));
    }
    let gold = Quotes { tier: Some("gold".parse().unwrap()), ..shop.quotes(id, 300) };
    shop.buy(id, Some(&gold), None).unwrap();
    let soon = Quotes { valid_until: Some(shop.clock.now().plus_millis(1)), ..gold };
    shop.buy(id, Some(&soon), None).unwrap();
    shop.clock.advance(1);
    shop.is_outdated(id, Some(&soon));
    assert_eq!(shop.db.check(), Ok(()));
}

#[test]
fn what_is_not_on_sale_is_told_and_not_asked_for_again() {
    let shop = Shop::new();
    let id = shop.plan(100);
    let mut quotes = shop.quotes(id, 333);
    quotes.plans[0].unit_price = None;
    let unavailable = |decision: Decision<Placed, CheckoutRefusal>| match decision {
        Err(Failure::Refused(CheckoutRefusal::PlanUnavailable(lines))) => lines,
        other => vec![other.map_or(9, |_| 8)],
    };
    assert_eq!(unavailable(shop.buy(id, Some(&quotes), None)), [0]);
    // Another currency than the tenant's is no price for it.
    quotes.plans[0].unit_price = Some(Money::new(333, "EUR".parse().unwrap()));
    assert_eq!(unavailable(shop.buy(id, Some(&quotes), None)), [0]);
    // Test mode does not see it, and asks for no quote.
    let wish = checkout(shop.tenant, Mode::Test, &[(id, 1)]);
    assert_eq!(unavailable(shop.db.write(move |tx| place_orders(tx, &wish))), [0]);
    // What the catalogue took off sale is gone, whatever was quoted.
    let good = shop.quotes(id, 333);
    shop.db.write(|tx| hold(tx, &act(), SUPPLIER, "fr-1gb", None)).unwrap();
    assert_eq!(unavailable(shop.buy(id, Some(&good), None)), [0]);
}

#[test]
fn a_repeat_gets_its_answer_whatever_became_of_prices() {
    let shop = Shop::new();
    let id = shop.plan(100);
    let quotes = shop.quotes(id, 333);
    let first = shop.buy(id, Some(&quotes), Some(1)).unwrap();
    shop.rule(MarkupScope::default(), Markup::NONE).unwrap();
    let again = shop.buy(id, Some(&quotes), Some(1)).unwrap();
    assert_eq!((again.checkout, again.total, again.replayed), (first.checkout, first.total, true));
    shop.sync(Vec::new());
    assert_eq!(shop.buy(id, None, Some(1)).unwrap().checkout, first.checkout);
    let gone = CheckoutRefusal::PlanUnavailable(vec![0]);
    assert_eq!(shop.buy(id, None, Some(2)).map(|_| ()), Err(Failure::Refused(gone)), "under another key");
}

#[test]
fn a_pinned_price_is_the_operators_until_it_is_given_back() {
    let shop = Shop::new();
    let id = shop.plan(100);
    let sandbox = on_sale(&shop.db, SANDBOX, "sand", 450);
    let give_back = |id: PlanId| shop.db.write(move |tx| plan::price_by_rules(tx, &act(), id));
    assert_eq!(give_back(sandbox), Err(Failure::Refused(PlanRefusal::HasNoOffers)));
    assert_eq!(give_back(id), Err(Failure::Refused(PlanRefusal::AlreadyDecided)));
    let before = shop.quotes(id, 333);
    let pinned = shop.db.write(move |tx| plan::set_price(tx, &act(), id, usd(500))).unwrap();
    assert_eq!((pinned.priced_by, pinned.plan.price), (PricedBy::Operator, usd(500)));
    shop.is_outdated(id, Some(&before));
    let before = shop.quotes(id, 500);
    assert_eq!(shop.buy(id, Some(&before), None).unwrap().total, usd(1_000));
    assert_eq!(give_back(id).unwrap().priced_by, PricedBy::Rules);
    shop.is_outdated(id, Some(&before));
}
