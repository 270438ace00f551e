//! What connected upstreams offer, sync by sync: an offer always belongs to the plan that means the same, a plan is on
//! sale while one of its offers can be bought, and nothing is sold before it has a price.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::catalogue::{CONNECTIONS, ChangeKind, Identity, KnownOffer, Sifted, diff};
use domain::checkout::CheckoutRefusal;
use domain::id::PlanId;
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use domain::plan::{Activation, Network, PricedBy, WithdrawnBy};
use domain::tenant::Mode;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use store::Store;
use store::checkout::{Quote, Quotes, SANDBOX, place_orders};
use store::offer::{
    Applied, OfferFilter, OfferRefusal, PORTION, Source, StoredOffer, apply_changes, hold, move_offer, release,
};
use store::plan::{Listed, PlanRefusal};
use store::port::{Decision, Event, Failure, Needs, Tx};
use uuid::Uuid;
use world::*;

/// Connections by their provider: two accounts at one, one at another.
const SIBLINGS: [&[&str]; 2] = [&["tsim-1", "tsim-2"], &["airalo-1"]];

fn offer(id: &str, cents: i64) -> Offer {
    Offer {
        upstream_plan_id: id.to_owned(),
        name: format!("Plan {id}"),
        cost: Cost { units: cents, decimals: 2, currency: "USD".to_owned() },
        countries: vec!["DE".to_owned(), "FR".to_owned()],
        data: Data::Total(1_024),
        validity_days: 7,
        networks: vec![Network { country: "DE".to_owned(), operator: "O2".to_owned(), technology: "5G".to_owned() }],
        speed: Some("5G".to_owned()),
        activation: None,
        add_on_supported: true,
        apn: Some("internet".to_owned()),
        remark: Some("1 Mbit/s after 1 GB a day".to_owned()),
    }
}

fn longer(offer: &Offer) -> Offer {
    Offer { validity_days: offer.validity_days + 1, ..offer.clone() }
}

fn source(connection: &str) -> Source {
    let siblings = SIBLINGS.iter().find(|siblings| siblings.contains(&connection)).unwrap();
    Source {
        connection: connection.to_owned(),
        siblings: siblings.iter().map(|name| (*name).to_owned()).collect(),
        currency: Currency::USD,
    }
}

struct Shop {
    db: Db,
    clock: Clock,
    folder: Folder,
    /// How often the price lists were told to be old.
    told: Arc<AtomicUsize>,
}

impl Shop {
    fn new() -> Self {
        Self::seeded(1)
    }

    fn seeded(seed: u64) -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, seed, clock.as_now()).unwrap());
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        db.store.listen(Arc::new(move |events| {
            counter.fetch_add(events.iter().filter(|event| **event == Event::PlansChanged).count(), Ordering::SeqCst);
        }));
        Self { db, clock, folder, told }
    }

    fn known(&self, connection: &str) -> Vec<KnownOffer> {
        let connection = connection.to_owned();
        self.db.read(move |snapshot| store::offer::known(snapshot, &connection))
    }

    /// A whole sync, as the worker does it: read, compare, apply in portions.
    fn sync(&self, connection: &str, fetched: &[Offer]) -> Applied {
        let changes = diff(&self.known(connection), &Sifted::new(fetched.to_vec()), true).unwrap();
        let mut all = Applied::default();
        for portion in changes.chunks(PORTION) {
            all.add(&self.apply(connection, portion));
        }
        all
    }

    fn apply(&self, connection: &str, changes: &[domain::catalogue::Change]) -> Applied {
        let (source, changes) = (source(connection), changes.to_vec());
        let applied = self.db.store.write_behind(Needs::default(), move |tx| apply_changes(tx, &source, &changes));
        self.db.wait(applied).unwrap()
    }

    fn find(&self, connection: &str, id: &str) -> StoredOffer {
        let (connection, id) = (connection.to_owned(), id.to_owned());
        self.db.read(move |snapshot| store::offer::find(snapshot, &connection, &id)).unwrap()
    }

    fn plan_of(&self, connection: &str, id: &str) -> Listed {
        self.plan(self.find(connection, id).plan)
    }

    fn plan(&self, id: PlanId) -> Listed {
        self.db.read(move |snapshot| store::plan::find(snapshot, id)).unwrap()
    }

    fn plans(&self) -> Vec<Listed> {
        self.db.read(|snapshot| store::plan::list(snapshot, None, 100_000))
    }

    fn offers(&self, connection: &str) -> Vec<StoredOffer> {
        let connection = connection.to_owned();
        self.db.read(move |snapshot| store::offer::list(snapshot, &connection, None, 100_000))
    }

    fn changes(&self) -> Vec<store::offer::OfferChange> {
        self.db.read(|snapshot| store::offer::changes(snapshot, None, None, None, 100_000))
    }

    /// Changes of one offer, oldest first.
    fn told_of(&self, connection: &str, id: &str) -> Vec<(ChangeKind, String)> {
        let mut changes = self.changes();
        changes.reverse();
        let of_it =
            |change: &store::offer::OfferChange| change.connection == connection && change.upstream_plan_id == id;
        changes.into_iter().filter(of_it).map(|change| (change.kind, change.detail)).collect()
    }

    /// How often the price lists were told to be old. A shared database says so of itself, too, as soon as it can hear
    /// the other nodes, so nothing is counted there.
    fn told(&self) -> usize {
        if self.db.store.is_shared() { 0 } else { self.told.load(Ordering::SeqCst) }
    }

    fn revision(&self) -> i64 {
        self.plans().iter().map(|listed| listed.revision).max().unwrap_or(0)
    }

    fn hold(&self, connection: &str, id: &str) -> Result<StoredOffer, OfferRefusal> {
        let (connection, id) = (connection.to_owned(), id.to_owned());
        decided(self.db.write(move |tx| hold(tx, &act(), &connection, &id, Some("too slow"))))
    }

    fn release(&self, connection: &str, id: &str) -> Result<StoredOffer, OfferRefusal> {
        let (connection, id) = (connection.to_owned(), id.to_owned());
        decided(self.db.write(move |tx| release(tx, &act(), &connection, &id, None)))
    }

    fn move_offer(&self, connection: &str, id: &str, to: PlanId, force: bool) -> Result<StoredOffer, OfferRefusal> {
        let (connection, id) = (connection.to_owned(), id.to_owned());
        decided(self.db.write(move |tx| move_offer(tx, &act(), &connection, &id, to, force, Some("a story"))))
    }

    fn withdraw(&self, plan: PlanId) -> Result<Listed, PlanRefusal> {
        decided(self.db.write(move |tx| store::plan::withdraw(tx, &act(), plan)))
    }

    fn restore(&self, plan: PlanId) -> Result<Listed, PlanRefusal> {
        decided(self.db.write(move |tx| store::plan::restore(tx, &act(), plan)))
    }

    fn search(&self, filter: OfferFilter, after: Option<(String, String)>, limit: u32) -> Vec<StoredOffer> {
        self.db.read(move |snapshot| {
            let after = after.as_ref().map(|(connection, id)| (connection.as_str(), id.as_str()));
            store::offer::search(snapshot, &filter, after, limit)
        })
    }

    fn set_price(&self, plan: PlanId, cents: i64) -> Listed {
        decided(self.db.write(move |tx| store::plan::set_price(tx, &act(), plan, usd(cents)))).unwrap()
    }

    fn audited(&self) -> Vec<(String, String)> {
        let records = self.db.read(|snapshot| store::audit::list(snapshot, None, None, None, 1_000));
        records.into_iter().rev().map(|record| (record.action, record.subject)).collect()
    }
}

fn decided<T, R>(decision: Decision<T, R>) -> Result<T, R> {
    decision.map_err(|failure| match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Fault(fault) => panic!("{fault}"),
    })
}

fn counted(applied: &Applied) -> Vec<(ChangeKind, u32)> {
    applied.changes.iter().map(|(kind, count)| (*kind, *count)).collect()
}

fn is_on_sale(listed: &Listed) -> bool {
    listed.withdrawn_at.is_none()
}

#[test]
fn a_new_offer_makes_a_plan_that_is_not_sold_before_it_has_a_price() {
    let shop = Shop::new();
    let applied = shop.sync("tsim-1", &[offer("a", 150)]);
    assert_eq!((counted(&applied), applied.plans_made), (vec![(ChangeKind::New, 1)], 1));
    let stored = shop.find("tsim-1", "a");
    assert_eq!(stored.offer, offer("a", 150), "as it was fetched");
    assert_eq!((stored.held, stored.withdrawn_at, stored.changed_at), (false, None, shop.clock.now()));
    let listed = shop.plan(stored.plan);
    assert_eq!(listed.plan, domain::catalogue::plan_of(stored.plan, &offer("a", 150), Currency::USD));
    assert_eq!((listed.priced_by, is_on_sale(&listed)), (PricedBy::Rules, true));
    assert_eq!(shop.told_of("tsim-1", "a"), [(ChangeKind::New, "1.50 USD".to_owned())]);

    let tenant = tenant(&shop.db, "partner", 0);
    credit(&shop.db, tenant, 10_000);
    let buy = |unit_price: Option<i64>| {
        let mut checkout = checkout(tenant, Mode::Live, &[(stored.plan, 1)]);
        let quote =
            Quote { plan: stored.plan, revision: shop.plan(stored.plan).revision, unit_price: unit_price.map(usd) };
        let version = shop.db.read(store::pricing::version);
        checkout.quotes = Some(Quotes { version, tier: None, valid_until: None, plans: vec![quote] });
        decided(shop.db.wait(shop.db.store.write_needing(checkout.needs(), move |tx| place_orders(tx, &checkout))))
    };
    assert_eq!(buy(None).unwrap_err(), CheckoutRefusal::PlanUnavailable(vec![0]));
    assert_eq!(shop.db.balance(tenant, Mode::Live), 10_000);

    let priced = shop.set_price(stored.plan, 420);
    assert_eq!((priced.priced_by, priced.plan.price), (PricedBy::Operator, usd(420)));
    assert_eq!(shop.plan(stored.plan), priced);
    assert_eq!(buy(Some(420)).unwrap().total, usd(420));
}

#[test]
fn another_account_at_the_same_provider_offers_the_same_plan() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150), offer("b", 150), offer("c", 150)]);
    let applied = shop.sync("tsim-2", &[offer("a", 140), longer(&offer("b", 140)), offer("d", 1)]);
    assert_eq!((counted(&applied), applied.plans_made), (vec![(ChangeKind::New, 3)], 2));
    let plan = |connection, id| shop.find(connection, id).plan;
    assert_eq!(plan("tsim-1", "a"), plan("tsim-2", "a"));
    assert_ne!(plan("tsim-1", "b"), plan("tsim-2", "b"), "the same id, and something else");
    // Another provider's ids mean nothing to this one's.
    shop.sync("airalo-1", &[offer("a", 100)]);
    assert_ne!(plan("tsim-1", "a"), plan("airalo-1", "a"));
    let both = plan("tsim-1", "a");
    let offers = shop.db.read(move |snapshot| store::offer::of_plan(snapshot, both));
    let names: Vec<&str> = offers.iter().map(|offer| offer.connection.as_str()).collect();
    assert_eq!(names, ["tsim-1", "tsim-2"]);

    // One of two goes, then the other; and the second one comes back first.
    assert_eq!(shop.sync("tsim-1", &[offer("b", 150)]).plans_withdrawn, 1, "only that of c");
    assert!(is_on_sale(&shop.plan(both)));
    assert_eq!(shop.sync("tsim-2", &[offer("d", 1)]).plans_withdrawn, 2, "and of b");
    assert_eq!(shop.plan(both).withdrawn_by, Some(WithdrawnBy::Catalogue));
    assert_eq!(shop.sync("tsim-2", &[offer("d", 1), offer("a", 140)]).plans_back, 1);
    assert!(is_on_sale(&shop.plan(both)));
    // A third account finds the plan of an offer that is gone, and puts it back on sale.
    let gone = plan("tsim-1", "c");
    let applied = shop.sync("tsim-2", &[offer("d", 1), offer("a", 140), offer("c", 140)]);
    assert_eq!((applied.plans_made, applied.plans_back, plan("tsim-2", "c")), (0, 1, gone));
}

#[test]
fn an_offer_that_means_something_else_goes_to_another_plan() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150)]);
    shop.sync("tsim-2", &[offer("a", 150)]);
    let before = shop.plan_of("tsim-1", "a");

    let applied = shop.sync("tsim-1", &[longer(&offer("a", 150))]);
    assert_eq!((counted(&applied), applied.plans_made), (vec![(ChangeKind::ChangedIdentity, 1)], 1));
    let after = shop.plan_of("tsim-1", "a");
    assert_ne!(before.plan.id, after.plan.id);
    assert_eq!(after.plan.validity_days, 8);
    let kept = shop.plan(before.plan.id);
    assert_eq!((&kept.plan, is_on_sale(&kept)), (&before.plan, true), "the other account still offers it");
    assert!(kept.revision > before.revision, "its offers are others");
    let detail = "1024 MB, 7 days, DE FR -> 1024 MB, 8 days, DE FR".to_owned();
    assert_eq!(shop.told_of("tsim-1", "a").pop(), Some((ChangeKind::ChangedIdentity, detail)));

    // The other account follows: to the same new plan; and the old one has no offer left.
    let applied = shop.sync("tsim-2", &[longer(&offer("a", 150))]);
    assert_eq!((applied.plans_made, applied.plans_withdrawn), (0, 1));
    assert_eq!(shop.plan_of("tsim-2", "a").plan.id, after.plan.id);
    assert_eq!(shop.plan(before.plan.id).withdrawn_by, Some(WithdrawnBy::Catalogue));

    // An upstream that takes its mistake back finds the plan that means what it offers.
    let applied = shop.sync("tsim-1", &[offer("a", 150)]);
    assert_eq!((applied.plans_made, applied.plans_back), (0, 1));
    assert_eq!(shop.plan_of("tsim-1", "a").plan.id, before.plan.id);

    // Gone, and back as something else.
    shop.sync("tsim-1", &[]);
    let other = Offer { data: Data::Unlimited, ..offer("a", 150) };
    assert_eq!(counted(&shop.sync("tsim-1", &[other])), [(ChangeKind::ChangedIdentity, 1)]);
    let listed = shop.plan_of("tsim-1", "a");
    assert_eq!((listed.plan.data_mb, listed.plan.unlimited, is_on_sale(&listed)), (None, true, true));
    assert_eq!(shop.plan(before.plan.id).withdrawn_by, Some(WithdrawnBy::Catalogue));
}

#[test]
fn an_offer_that_comes_back_brings_its_plan_back_unless_the_operator_withdrew_it() {
    let shop = Shop::new();
    let both = [offer("a", 150), offer("b", 150)];
    shop.sync("tsim-1", &both);
    let (a, b) = (shop.plan_of("tsim-1", "a").plan.id, shop.plan_of("tsim-1", "b").plan.id);
    assert_eq!(shop.withdraw(a).unwrap().withdrawn_by, Some(WithdrawnBy::Operator));
    assert_eq!(shop.withdraw(a), Err(PlanRefusal::AlreadyDecided));

    shop.clock.advance(1_000);
    let gone = shop.clock.now();
    let applied = shop.sync("tsim-1", &[]);
    assert_eq!((counted(&applied), applied.plans_withdrawn), (vec![(ChangeKind::Withdrawn, 2)], 1));
    assert_eq!(shop.find("tsim-1", "a").withdrawn_at, Some(gone));
    let listed = shop.plan(b);
    assert_eq!((listed.withdrawn_at, listed.withdrawn_by), (Some(gone), Some(WithdrawnBy::Catalogue)));

    let dearer = [offer("a", 150), offer("b", 175)];
    let applied = shop.sync("tsim-1", &dearer);
    assert_eq!((counted(&applied), applied.plans_back), (vec![(ChangeKind::Returned, 2)], 1));
    assert_eq!(shop.told_of("tsim-1", "a").pop(), Some((ChangeKind::Returned, "1.50 USD".to_owned())));
    assert_eq!(shop.told_of("tsim-1", "b").pop(), Some((ChangeKind::Returned, "1.50 USD -> 1.75 USD".to_owned())));
    assert_eq!(shop.find("tsim-1", "a").withdrawn_at, None);
    assert_eq!(shop.plan(a).withdrawn_by, Some(WithdrawnBy::Operator), "he did not mean: for today");
    assert!(is_on_sale(&shop.plan(b)));

    // What the catalogue withdrew he can withdraw for good.
    shop.sync("tsim-1", &[]);
    let listed = shop.withdraw(b).unwrap();
    assert_eq!((listed.withdrawn_by, &listed), (Some(WithdrawnBy::Operator), &shop.plan(b)));
    assert_eq!(shop.sync("tsim-1", &dearer).plans_back, 0);
    assert!(!is_on_sale(&shop.plan(b)));
}

#[test]
fn what_the_operator_withdrew_he_can_put_back_on_sale_while_somebody_offers_it() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150)]);
    let plan = shop.plan_of("tsim-1", "a").plan.id;
    let of_the_sandbox = on_sale(&shop.db, SANDBOX, "by hand", 450);
    for plan in [plan, of_the_sandbox] {
        assert_eq!(shop.restore(plan), Err(PlanRefusal::AlreadyDecided));
        shop.withdraw(plan).unwrap();
        let before = shop.revision();
        let restored = shop.restore(plan).unwrap();
        assert_eq!((restored.withdrawn_at, restored.withdrawn_by), (None, None));
        assert_eq!((&restored, restored.revision > before), (&shop.plan(plan), true));
        assert_eq!(shop.restore(plan), Err(PlanRefusal::AlreadyDecided));
    }
    assert_eq!(shop.restore(PlanId::new(Uuid::nil())), Err(PlanRefusal::NotFound));

    // Nobody offers it: it waits for that. What the catalogue took off sale was no decision of his.
    shop.withdraw(plan).unwrap();
    shop.hold("tsim-1", "a").unwrap();
    let restored = shop.restore(plan).unwrap();
    assert_eq!((restored.withdrawn_by, is_on_sale(&restored)), (Some(WithdrawnBy::Catalogue), false));
    assert_eq!(restored, shop.plan(plan));
    assert_eq!(shop.restore(plan), Err(PlanRefusal::AlreadyDecided));
    shop.release("tsim-1", "a").unwrap();
    assert!(is_on_sale(&shop.plan(plan)));
    let restored = shop.audited().into_iter().filter(|(action, _)| action == "plan.restored").count();
    assert_eq!(restored, 3);
}

#[test]
fn costs_and_words_follow_the_upstream_and_the_plan_gets_a_new_revision() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150), offer("b", 150)]);
    let (a, b) = (shop.plan_of("tsim-1", "a"), shop.plan_of("tsim-1", "b"));
    let steps = [
        (offer("a", 151), ChangeKind::Dearer, "1.50 USD -> 1.51 USD"),
        (offer("a", 99), ChangeKind::Cheaper, "1.51 USD -> 0.99 USD"),
        (
            Offer { cost: Cost { units: 5, decimals: 1, currency: "EUR".to_owned() }, ..offer("a", 1) },
            ChangeKind::Dearer,
            "0.99 USD -> 0.5 EUR",
        ),
        (
            Offer {
                cost: Cost { units: 50, decimals: 2, currency: "EUR".to_owned() },
                name: "Renamed".to_owned(),
                speed: None,
                activation: Some(Activation::OnInstall),
                remark: None,
                add_on_supported: false,
                networks: Vec::new(),
                apn: None,
                ..offer("a", 1)
            },
            ChangeKind::ChangedDetails,
            "name, networks, speed, activation, top-up, apn, remark",
        ),
    ];
    let mut revision = shop.revision();
    for (now, kind, detail) in steps {
        let applied = shop.sync("tsim-1", &[now.clone(), offer("b", 150)]);
        assert_eq!(counted(&applied), [(kind, 1)]);
        assert_eq!(shop.told_of("tsim-1", "a").pop(), Some((kind, detail.to_owned())));
        assert_eq!(shop.find("tsim-1", "a").offer, now);
        let listed = shop.plan(a.plan.id);
        assert_eq!(listed.plan, domain::catalogue::plan_of(a.plan.id, &now, Currency::USD));
        assert!(listed.revision > revision);
        revision = listed.revision;
    }
    assert_eq!(shop.plan(b.plan.id), b, "the other one is as it was");
}

#[test]
fn a_plan_speaks_with_the_words_of_its_first_offer_that_can_be_bought() {
    let shop = Shop::new();
    let named = |name: &str| Offer { name: name.to_owned(), ..offer("a", 150) };
    shop.sync("tsim-2", &[named("second")]);
    let plan = shop.find("tsim-2", "a").plan;
    let name = || shop.plan(plan).plan.name;
    assert_eq!(name(), "second");
    shop.sync("tsim-1", &[named("first")]);
    assert_eq!(name(), "first");
    shop.hold("tsim-1", "a").unwrap();
    assert_eq!(name(), "second");
    shop.release("tsim-1", "a").unwrap();
    shop.sync("tsim-2", &[named("else")]);
    assert_eq!(name(), "first");
    shop.sync("tsim-1", &[]);
    assert_eq!(name(), "else");
    shop.sync("tsim-2", &[]);
    assert_eq!(name(), "else", "the last words stay");
}

#[test]
fn a_portion_that_is_applied_twice_changes_nothing_the_second_time() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150), offer("b", 150), offer("c", 150), offer("d", 150)]);
    shop.sync("tsim-1", &[offer("a", 150), offer("b", 150), offer("c", 150)]);
    let fetched = Sifted::new(vec![offer("a", 151), longer(&offer("b", 150)), offer("d", 150), offer("e", 150)]);
    let changes = diff(&shop.known("tsim-1"), &fetched, false).unwrap();
    let all = [
        (ChangeKind::New, 1),
        (ChangeKind::Dearer, 1),
        (ChangeKind::Withdrawn, 1),
        (ChangeKind::Returned, 1),
        (ChangeKind::ChangedIdentity, 1),
    ];
    assert_eq!(counted(&shop.apply("tsim-1", &changes)), all);
    let state = || (shop.offers("tsim-1"), shop.plans(), shop.changes(), shop.told());
    let before = state();
    shop.clock.advance(1_000);
    assert_eq!(shop.apply("tsim-1", &changes), Applied::default());
    assert_eq!(shop.apply("tsim-1", &[]), Applied::default());
    assert_eq!(state(), before);
    let twice: Vec<_> = changes.iter().chain(&changes).cloned().collect();
    assert_eq!(counted(&shop.apply("tsim-2", &twice)).first(), Some(&(ChangeKind::New, 4)), "nor in one portion");
}

#[test]
fn an_offer_that_is_held_is_not_bought_and_stays_held() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150)]);
    let plan = shop.find("tsim-1", "a").plan;
    assert_eq!(shop.hold("tsim-1", "x"), Err(OfferRefusal::NotFound));
    assert_eq!(shop.release("tsim-1", "a"), Err(OfferRefusal::AlreadyDecided));
    let before = shop.revision();
    assert_eq!(shop.hold("tsim-1", "a").unwrap(), shop.find("tsim-1", "a"));
    assert_eq!(shop.hold("tsim-1", "a"), Err(OfferRefusal::AlreadyDecided));
    let listed = shop.plan(plan);
    assert_eq!(listed.withdrawn_by, Some(WithdrawnBy::Catalogue), "it has no other offer");
    assert!(listed.revision > before);
    // The list changes nothing about it, nor does its going and coming.
    shop.sync("tsim-1", &[offer("a", 90)]);
    shop.sync("tsim-1", &[]);
    assert_eq!(shop.sync("tsim-1", &[offer("a", 90)]).plans_back, 0);
    // Nor that it means something else.
    assert_eq!(shop.sync("tsim-1", &[longer(&offer("a", 90))]).plans_made, 1);
    let other = shop.plan_of("tsim-1", "a");
    assert_eq!(other.withdrawn_by, Some(WithdrawnBy::Catalogue));
    assert!(shop.find("tsim-1", "a").held);
    assert!(!shop.release("tsim-1", "a").unwrap().held);
    assert!(is_on_sale(&shop.plan(other.plan.id)) && !is_on_sale(&shop.plan(plan)));
    let subject = "tsim-1/a".to_owned();
    let records = [("offer.held".to_owned(), subject.clone()), ("offer.released".to_owned(), subject)];
    assert_eq!(shop.audited(), records);
    assert_eq!(shop.db.read(store::audit::check), None);
}

#[test]
fn an_offer_is_attached_to_a_plan_that_means_the_same_and_to_another_only_by_force() {
    let shop = Shop::new();
    shop.sync("tsim-1", &[offer("a", 150)]);
    shop.sync("airalo-1", &[offer("other-a", 120), longer(&offer("other-b", 120))]);
    let plan = |connection, id| shop.find(connection, id).plan;
    let (ours, left) = (plan("tsim-1", "a"), plan("airalo-1", "other-a"));
    let sandbox = on_sale(&shop.db, SANDBOX, "sand", 450);
    let nowhere = PlanId::new(Uuid::from_u128(4));
    assert_eq!(shop.move_offer("airalo-1", "x", ours, true), Err(OfferRefusal::NotFound));
    assert_eq!(shop.move_offer("airalo-1", "other-a", nowhere, true), Err(OfferRefusal::PlanNotFound));
    assert_eq!(shop.move_offer("airalo-1", "other-a", sandbox, true), Err(OfferRefusal::PlanHasNoOffers));
    assert_eq!(shop.move_offer("airalo-1", "other-a", left, true), Err(OfferRefusal::AlreadyDecided));
    assert_eq!(shop.move_offer("airalo-1", "other-b", ours, false), Err(OfferRefusal::AnotherIdentity));
    assert_eq!(shop.audited(), []);

    let before = shop.revision();
    assert_eq!(shop.move_offer("airalo-1", "other-a", ours, false).unwrap(), shop.find("airalo-1", "other-a"));
    assert_eq!(plan("airalo-1", "other-a"), ours);
    assert_eq!(shop.plan(left).withdrawn_by, Some(WithdrawnBy::Catalogue));
    assert!(shop.plan(left).revision > before && shop.plan(ours).revision > before);
    // It stays there whatever its upstream does, while it means the same; and its plan lives from it.
    assert_eq!(counted(&shop.sync("airalo-1", &[offer("other-a", 130), longer(&offer("other-b", 120))])).len(), 1);
    assert_eq!(plan("airalo-1", "other-a"), ours);
    assert_eq!(shop.sync("tsim-1", &[]).plans_withdrawn, 0);

    // By force: the plan still says what it said, and nobody follows.
    let forced = plan("airalo-1", "other-b");
    let said = shop.plan(ours).plan;
    shop.move_offer("airalo-1", "other-b", ours, true).unwrap();
    assert_eq!((plan("airalo-1", "other-b"), shop.plan(ours).plan), (ours, said));
    assert_eq!(shop.move_offer("airalo-1", "other-b", forced, false).unwrap().plan, forced, "and back");
    shop.move_offer("airalo-1", "other-b", ours, true).unwrap();
    // Not even one that fits is attached unasked to what is no longer one product.
    shop.sync("tsim-2", &[offer("fits", 1)]);
    assert_eq!(shop.move_offer("tsim-2", "fits", ours, false), Err(OfferRefusal::AnotherIdentity));
    // When it is the only one left, the plan lives from it, and still says what it said.
    let said = shop.plan(ours).plan;
    shop.sync("airalo-1", &[longer(&offer("other-b", 120))]);
    assert_eq!((is_on_sale(&shop.plan(ours)), shop.plan(ours).plan), (true, said));
    let records = shop.db.read(|snapshot| store::audit::list(snapshot, Some("offer.moved"), None, None, 10));
    let details: Vec<bool> = records.iter().rev().map(|record| record.detail.ends_with(", forced")).collect();
    assert_eq!(details, [false, true, false, true]);
}

#[test]
fn what_an_operator_attached_elsewhere_is_followed_only_where_all_means_the_same() {
    let shop = Shop::new();
    let plan = |connection, id| shop.find(connection, id).plan;
    shop.sync("airalo-1", &[offer("z", 100), longer(&offer("z-longer", 100))]);
    shop.sync("tsim-1", &[offer("a", 150)]);
    shop.sync("tsim-2", &[offer("a", 150), offer("b", 150), longer(&offer("c", 150))]);
    let (first, common, longer_one) = (plan("tsim-1", "a"), plan("airalo-1", "z"), plan("airalo-1", "z-longer"));
    // The other account's offer is live elsewhere: that counts more than where this one was once.
    shop.move_offer("tsim-2", "a", common, false).unwrap();
    shop.sync("tsim-1", &[longer(&offer("a", 150))]);
    assert_ne!(plan("tsim-1", "a"), first);
    shop.sync("tsim-1", &[offer("a", 150)]);
    assert_eq!(plan("tsim-1", "a"), common);
    // What was attached by force is followed neither by an offer that means the same nor by one that the plan means.
    shop.move_offer("tsim-2", "b", longer_one, true).unwrap();
    shop.move_offer("tsim-2", "c", common, true).unwrap();
    let applied = shop.sync("tsim-1", &[offer("a", 150), offer("b", 150), offer("c", 150)]);
    assert_eq!(applied.plans_made, 2);
    assert!(![common, longer_one].contains(&plan("tsim-1", "b")));
    assert!(![common, longer_one].contains(&plan("tsim-1", "c")));
}

#[test]
fn offers_and_their_changes_are_read_page_by_page_and_counted() {
    let shop = Shop::new();
    let many: Vec<Offer> = (0..23).map(|number| offer(&format!("{number:02}"), 150)).collect();
    shop.sync("tsim-1", &many);
    shop.sync("airalo-1", &many[..5]);
    shop.sync("tsim-1", &many[..20]);
    for id in ["03", "04"] {
        shop.hold("tsim-1", id).unwrap();
    }
    let mut ids = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let cursor = after.clone();
        let page = shop.db.read(move |snapshot| store::offer::list(snapshot, "tsim-1", cursor.as_deref(), 10));
        let Some(last) = page.last() else { break };
        after = Some(last.offer.upstream_plan_id.clone());
        ids.extend(page.into_iter().map(|offer| offer.offer.upstream_plan_id));
    }
    assert_eq!(ids, many.iter().map(|offer| offer.upstream_plan_id.clone()).collect::<Vec<_>>());
    let all: Vec<StoredOffer> = ["airalo-1", "tsim-1"].iter().flat_map(|name| shop.offers(name)).collect();
    let plan = all[0].plan;
    let of = |connection: Option<&str>, plan, held, withdrawn| {
        let filter = OfferFilter { connection: connection.map(str::to_owned), plan, held, withdrawn };
        let fits = |offer: &&StoredOffer| {
            connection.is_none_or(|connection| offer.connection == connection)
                && plan.is_none_or(|plan| offer.plan == plan)
                && held.is_none_or(|held| offer.held == held)
                && withdrawn.is_none_or(|withdrawn| offer.withdrawn_at.is_some() == withdrawn)
        };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = shop.search(filter.clone(), after, 4);
            let Some(last) = page.last() else { break };
            after = Some((last.connection.clone(), last.offer.upstream_plan_id.clone()));
            found.extend(page);
        }
        assert_eq!(found, all.iter().filter(fits).cloned().collect::<Vec<_>>(), "{filter:?}");
        found.len()
    };
    let either = [None, Some(true), Some(false)];
    for connection in [None, Some("tsim-1"), Some("tsim-2")] {
        for plan in [None, Some(plan)] {
            for (held, withdrawn) in either.iter().flat_map(|held| either.map(|withdrawn| (*held, withdrawn))) {
                of(connection, plan, held, withdrawn);
            }
        }
    }
    let held = of(Some("tsim-1"), None, Some(true), Some(false));
    assert_eq!((of(None, None, None, None), held, of(None, Some(plan), None, None)), (28, 2, 1));

    let counts = shop.db.read(store::offer::counts);
    let counts: Vec<_> =
        counts.iter().map(|count| (count.connection.as_str(), count.usable, count.held, count.withdrawn)).collect();
    assert_eq!(counts, [("airalo-1", 5, 0, 0), ("tsim-1", 18, 2, 3)]);

    let all = shop.changes();
    assert_eq!(all.len(), 31);
    assert!(all.is_sorted_by(|one, next| one.id > next.id), "newest first");
    let of = |connection: Option<&'static str>, kind: Option<ChangeKind>| {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = shop.db.read(move |snapshot| store::offer::changes(snapshot, connection, kind, cursor, 4));
            let Some(last) = page.last() else { return found };
            cursor = Some(last.id);
            found.extend(page);
        }
    };
    for connection in [None, Some("tsim-1"), Some("airalo-1"), Some("tsim-2")] {
        for kind in [None, Some(ChangeKind::New), Some(ChangeKind::Withdrawn), Some(ChangeKind::Dearer)] {
            let expected: Vec<_> = all
                .iter()
                .filter(|change| connection.is_none_or(|connection| change.connection == connection))
                .filter(|change| kind.is_none_or(|kind| change.kind == kind))
                .cloned()
                .collect();
            assert_eq!(of(connection, kind), expected, "{connection:?} {kind:?}");
        }
    }
}

#[test]
fn changes_are_told_for_ninety_days() {
    let shop = Shop::new();
    let sweep = || {
        let now = shop.clock.now();
        while shop.db.write(move |tx| store::retention::sweep(tx, now, now, now, now)).unwrap() {}
    };
    let many: Vec<Offer> = (0..1_001).map(|number| offer(&format!("{number:04}"), 150)).collect();
    shop.sync("tsim-1", &many);
    shop.clock.advance(90 * 86_400_000);
    sweep();
    assert_eq!(shop.changes().len(), 1_001);
    shop.sync("tsim-1", &many[1..]);
    shop.clock.advance(1);
    sweep();
    let left: Vec<ChangeKind> = shop.changes().into_iter().map(|change| change.kind).collect();
    assert_eq!(left, [ChangeKind::Withdrawn]);
    assert_eq!(shop.offers("tsim-1").len(), 1_001, "the offers stay");
}

/// Reads on from a revision until there is nothing more.
fn read_on(db: &Db, seen: &mut BTreeMap<PlanId, Listed>, revision: &mut i64) {
    loop {
        let from = *revision;
        let page = db.read(move |snapshot| store::plan::changed_since(snapshot, from, 3));
        let Some(last) = page.last() else { return };
        *revision = last.revision;
        seen.extend(page.into_iter().map(|listed| (listed.plan.id, listed)));
    }
}

#[test]
fn whoever_reads_on_from_the_last_revision_sees_every_change_of_every_plan() {
    let shop = Shop::new();
    let (mut seen, mut revision) = (BTreeMap::new(), 0);
    let mut check = |changed: usize| {
        let before = revision;
        let from = revision;
        let all = shop.db.read(move |snapshot| store::plan::changed_since(snapshot, from, 1_000));
        assert_eq!(all.len(), changed);
        read_on(&shop.db, &mut seen, &mut revision);
        assert!(revision > before || changed == 0);
        assert_eq!(seen, shop.plans().into_iter().map(|listed| (listed.plan.id, listed)).collect());
    };
    let imported = |names: &[&str]| {
        let plans: Vec<_> = names.iter().map(|name| plan(SANDBOX, name, 450)).collect();
        shop.db.write(move |tx| store::plan::import(tx, None, &plans)).unwrap();
    };
    imported(&["1", "2", "3", "4", "5"]);
    check(5);
    check(0);
    imported(&["2", "6"]);
    check(2);
    let first = shop.plans()[0].plan.id;
    assert_eq!(shop.set_price(first, 3).priced_by, PricedBy::Operator);
    check(1);
    shop.withdraw(first).unwrap();
    check(1);
    shop.sync("tsim-1", &[offer("a", 1), offer("b", 1), offer("c", 1), offer("d", 1)]);
    check(4);
    shop.sync("tsim-2", &[offer("a", 1)]);
    check(1);
    shop.sync("tsim-1", &[longer(&offer("a", 1)), offer("b", 1), offer("c", 2)]);
    check(4);
    shop.sync("tsim-1", &[longer(&offer("a", 1)), offer("b", 1), offer("c", 2)]);
    check(0);
    shop.hold("tsim-1", "b").unwrap();
    check(1);
    shop.move_offer("tsim-1", "b", shop.find("tsim-1", "c").plan, false).unwrap();
    check(2);
}

#[test]
fn whoever_reads_on_misses_nothing_while_many_change_plans_at_once() {
    let shop = Shop::new();
    let names: Vec<String> = (0..20).map(|number| format!("plan {number}")).collect();
    let plans: Arc<[PlanId]> = names.iter().map(|name| on_sale(&shop.db, SANDBOX, name, 450)).collect();
    let other = shop.db.store.is_shared().then(|| database(&shop.folder, 2, shop.clock.as_now()).unwrap());
    let done = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..6_u64 {
        let store: Store = other.as_ref().filter(|_| number % 2 == 1).unwrap_or(&shop.db.store).clone();
        let plans = Arc::clone(&plans);
        let work = async move {
            let mut random = Random(number);
            for round in 0..25_u32 {
                let (plan, cents) = (random.pick(&plans), random.between(1, 9_999));
                let source = source(["tsim-1", "tsim-2", "airalo-1"][usize::try_from(number % 3).unwrap()]);
                let offers: Vec<Offer> = (0..8).map(|id| offer(&format!("{id}"), random.between(1, 99))).collect();
                let work = move |tx: &mut dyn Tx| {
                    match round % 2 {
                        0 => decided(store::plan::set_price(tx, &act(), plan, usd(cents))).map(|_| ()).map_err(|_| ()),
                        _ => {
                            let known = store::offer::known(tx, &source.connection)?;
                            let changes = diff(&known, &Sifted::new(offers.clone()), true).unwrap();
                            apply_changes(tx, &source, &changes).map(|_| ()).map_err(|_| ())
                        }
                    }
                    .map_err(Failure::Refused)
                };
                store.write(work).await.unwrap();
            }
        };
        writers.spawn_on(work, runtime.handle());
    }
    let reader = {
        let (store, done) = (shop.db.store.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let db = Db::new(store);
            let (mut seen, mut revision) = (BTreeMap::new(), 0);
            loop {
                let last_round = done.load(Ordering::SeqCst);
                read_on(&db, &mut seen, &mut revision);
                if last_round {
                    return seen;
                }
            }
        })
    };
    runtime.block_on(async {
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    });
    done.store(true, Ordering::SeqCst);
    let seen = reader.join().unwrap();
    assert_eq!(seen, shop.plans().into_iter().map(|listed| (listed.plan.id, listed)).collect());
    let revisions: BTreeSet<i64> = seen.values().map(|listed| listed.revision).collect();
    assert_eq!(revisions.len(), seen.len(), "no two plans have the same");
}

#[test]
fn plans_of_before_are_numbered_and_what_was_withdrawn_was_withdrawn_by_the_operator() {
    const BEFORE: &str = "insert into plans (id, provider, upstream_plan_id, name, plan_type, countries, unlimited,
         validity_days, price, currency, networks, activation, top_up_supported, withdrawn_at) values";
    let rest = "'local', 'FR', 1, 7, 450, 'USD', '[]', 'on_install', 0";
    let row = |id: &str, name: &str, at: &str| format!("({id}, 'sandbox', '{name}', '{name}', {rest}, {at})");
    let (folder, clock) = (Folder::new(), Clock::new());
    if env!("CARGO_CRATE_NAME").ends_with("_on_postgres") {
        let base = [
            include_str!("../migrations/postgres/0001_first.sql"),
            include_str!("../migrations/postgres/0002_upstream_names.sql"),
            include_str!("../migrations/postgres/0003_connections.sql"),
        ];
        let id = |number: u32| format!("'\\x{number:032x}'");
        let rows = [row(&id(9), "a", "null"), row(&id(7), "b", "5"), row(&id(8), "c", "null")].join(", ");
        let version = "create table schema_version (version bigint not null, oldest bigint not null);
             insert into schema_version values (3, 1)";
        folder.make_database().run(&[base[0], base[1], base[2], version, &format!("{BEFORE} {rows}")]);
    } else {
        let raw = rusqlite::Connection::open(folder.file()).unwrap();
        for base in [
            include_str!("../migrations/sqlite/0001_first.sql"),
            include_str!("../migrations/sqlite/0002_index_apart.sql"),
            include_str!("../migrations/sqlite/0003_lease_token.sql"),
            include_str!("../migrations/sqlite/0004_upstream_names.sql"),
            include_str!("../migrations/sqlite/0005_connections.sql"),
        ] {
            raw.execute_batch(base).unwrap();
        }
        let id = |number: u32| format!("x'{number:032x}'");
        let rows = [row(&id(9), "a", "null"), row(&id(7), "b", "5"), row(&id(8), "c", "null")].join(", ");
        raw.execute_batch(&format!("{BEFORE} {rows}; pragma user_version = 5")).unwrap();
    }
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let read = || db.read(|snapshot| store::plan::changed_since(snapshot, 0, 1_000));
    let listed: Vec<_> =
        read().into_iter().map(|listed| (listed.plan.name, listed.revision, listed.withdrawn_by)).collect();
    let expected = [("b", 1, Some(WithdrawnBy::Operator)), ("c", 2, None), ("a", 3, None)];
    assert_eq!(listed, expected.map(|(name, revision, by)| (name.to_owned(), revision, by)));
    let id = read()[1].plan.id;
    let priced = decided(db.write(move |tx| store::plan::set_price(tx, &act(), id, usd(5)))).unwrap();
    assert_eq!((priced.revision, priced.priced_by), (4, PricedBy::Operator));
}

/// One upstream's list, which changes from sync to sync.
type Lists = HashMap<&'static str, BTreeMap<String, Offer>>;

fn random_offer(random: &mut Random, id: &str) -> Offer {
    let data = random.pick(&[Data::Total(1_024), Data::Daily(512), Data::Unlimited]);
    let countries = random.pick(&[vec!["FR"], vec!["DE", "FR"], vec!["US"]]);
    Offer {
        data,
        countries: countries.into_iter().map(str::to_owned).collect(),
        validity_days: random.between(7, 8),
        ..offer(id, random.between(50, 60))
    }
}

fn change_list(random: &mut Random, lists: &mut Lists, connection: &'static str) -> Vec<Offer> {
    // Accounts at one provider mostly list the same.
    let sibling = if connection == "tsim-2" { lists.get("tsim-1").cloned() } else { None };
    let list = lists.entry(connection).or_default();
    if let Some(sibling) = sibling.filter(|_| random.chance(40)) {
        list.extend(sibling);
    }
    for _ in 0..random.below(12) {
        let id = format!("{}", random.below(30));
        match random.below(6) {
            0 => drop(list.remove(&id)),
            1 => drop(list.insert(id.clone(), random_offer(random, &id))),
            2 => {
                let now = list.get(&id).cloned();
                list.extend(now.map(|now| (id, Offer { name: format!("Renamed {}", random.below(9)), ..now })));
            }
            3 => {
                let now = list.get(&id).cloned();
                let cost = Cost { units: random.between(400, 700), decimals: 3, currency: "USD".to_owned() };
                list.extend(now.map(|now| (id, Offer { cost, ..now })));
            }
            _ => {
                let fresh = random_offer(random, &id);
                list.entry(id).or_insert(fresh);
            }
        }
    }
    if random.chance(3) {
        list.clear();
    }
    let mut fetched: Vec<Offer> = list.values().cloned().collect();
    // Rows that an upstream broke, and one that comes twice.
    if let Some(twice) = fetched.first().cloned().filter(|_| random.chance(30)) {
        fetched.push(Offer { validity_days: 99, ..twice });
    }
    if random.chance(30) {
        fetched.push(Offer { validity_days: 0, ..offer("broken", 1) });
        fetched.push(Offer { countries: Vec::new(), ..offer("nowhere", 1) });
    }
    fetched
}

/// What must be true after every sync and every change of the operator's.
fn check_rules(shop: &Shop, lists: &Lists, withdrawn: &BTreeSet<PlanId>, meant: &mut HashMap<PlanId, Identity>) {
    let plans: BTreeMap<PlanId, Listed> = shop.plans().into_iter().map(|listed| (listed.plan.id, listed)).collect();
    for listed in plans.values() {
        let identity = Identity::of_plan(&listed.plan);
        assert_eq!(*meant.entry(listed.plan.id).or_insert_with(|| identity.clone()), identity, "for ever the same");
    }
    let mut usable = BTreeSet::new();
    for siblings in SIBLINGS {
        for connection in siblings {
            let offers = shop.offers(connection);
            let live = offers.iter().filter(|offer| offer.withdrawn_at.is_none());
            let live: BTreeMap<String, Offer> =
                live.map(|offer| (offer.offer.upstream_plan_id.clone(), offer.offer.clone())).collect();
            let listed = lists.get(connection).cloned().unwrap_or_default();
            // A cost is the same amount with other decimals.
            let comparable = |offers: &BTreeMap<String, Offer>| {
                let plain = |(id, offer): (&String, &Offer)| {
                    let thousandths = offer.cost.units * if offer.cost.decimals == 2 { 10 } else { 1 };
                    let cost = Cost { units: thousandths, decimals: 3, currency: offer.cost.currency.clone() };
                    (id.clone(), Offer { cost, ..offer.clone() })
                };
                offers.iter().map(plain).collect::<BTreeMap<_, _>>()
            };
            assert_eq!(comparable(&live), comparable(&listed), "{connection}: what is live is what is listed");
            for offer in &offers {
                let plan = &plans[&offer.plan];
                assert_eq!(offer.identity, Identity::of(&offer.offer));
                if offer.withdrawn_at.is_none() {
                    assert_eq!(offer.identity, meant[&offer.plan], "a plan's live offers mean what it means");
                }
                assert_eq!((plan.plan.provider.as_str(), plan.priced_by), (CONNECTIONS, PricedBy::Rules));
                if offer.is_usable() {
                    usable.insert(offer.plan);
                }
            }
        }
    }
    for (id, listed) in &plans {
        let by = if withdrawn.contains(id) {
            Some(WithdrawnBy::Operator)
        } else {
            (!usable.contains(id)).then_some(WithdrawnBy::Catalogue)
        };
        assert_eq!(listed.withdrawn_by, by, "on sale while one of its offers can be bought: {listed:?}");
        assert_eq!(listed.withdrawn_at.is_some(), by.is_some());
    }
}

#[test]
fn random_catalogues_leave_every_live_offer_with_the_one_plan_that_means_the_same() {
    for round in 0..3 {
        let seed = seed(900 + round);
        println!("STORE_SEED={seed}");
        let (shop, mut random) = (Shop::seeded(seed), Random(seed));
        let mut lists = Lists::new();
        let (mut withdrawn, mut meant) = (BTreeSet::new(), HashMap::new());
        let mut last: BTreeMap<PlanId, Listed> = BTreeMap::new();
        let connections: Vec<&'static str> = SIBLINGS.iter().flat_map(|siblings| siblings.iter().copied()).collect();
        for _ in 0..40 {
            shop.clock.advance(random.between(0, 5_000));
            let connection = random.pick(&connections);
            match random.below(10) {
                0 => {
                    let offers = shop.offers(connection);
                    if !offers.is_empty() {
                        let id = random.pick(&offers).offer.upstream_plan_id;
                        let held = shop.find(connection, &id).held;
                        let done = if held { shop.release(connection, &id) } else { shop.hold(connection, &id) };
                        assert_ne!(done.unwrap().held, held);
                    }
                }
                1 => {
                    let plans = shop.plans();
                    if !plans.is_empty() && random.chance(40) {
                        let id = random.pick(&plans).plan.id;
                        assert_eq!(shop.withdraw(id).is_ok(), withdrawn.insert(id));
                    }
                }
                2 => {
                    let (plans, offers) = (shop.plans(), shop.offers(connection));
                    if !offers.is_empty() {
                        let (to, offer) = (random.pick(&plans), random.pick(&offers));
                        let fits = Identity::of_plan(&to.plan) == offer.identity;
                        let expected = match (to.plan.id == offer.plan, fits) {
                            (true, _) => Err(OfferRefusal::AlreadyDecided),
                            (false, false) => Err(OfferRefusal::AnotherIdentity),
                            (false, true) => Ok(to.plan.id),
                        };
                        let moved = shop.move_offer(connection, &offer.offer.upstream_plan_id, to.plan.id, false);
                        assert_eq!(moved.map(|offer| offer.plan), expected);
                    }
                }
                _ => {
                    let fetched = change_list(&mut random, &mut lists, connection);
                    shop.sync(connection, &fetched);
                    let told = shop.told();
                    let changes = diff(&shop.known(connection), &Sifted::new(fetched), false);
                    assert_eq!(changes, Ok(Vec::new()), "there is nothing more to do");
                    assert_eq!(shop.told(), told);
                }
            }
            check_rules(&shop, &lists, &withdrawn, &mut meant);
            let now: BTreeMap<PlanId, Listed> =
                shop.plans().into_iter().map(|listed| (listed.plan.id, listed)).collect();
            let highest = last.values().map(|listed| listed.revision).max().unwrap_or(0);
            for (id, listed) in &now {
                let before = last.get(id);
                assert!(before == Some(listed) || listed.revision > highest, "a change has a larger revision");
            }
            last = now;
        }
        assert!(last.len() > 20, "{} plans", last.len());
        assert_eq!(shop.db.read(store::audit::check), None);
        if std::env::var_os("STORE_SEED").is_some() {
            return;
        }
    }
}

#[test]
#[ignore = "long: 20,000 offers; prints what it measures"]
fn a_catalogue_of_twenty_thousand_offers() {
    let shop = Shop::new();
    let mut random = Random(5);
    let countries: Vec<&str> =
        "AT BE BG CH CZ DE DK EE ES FI FR GB GR HR HU IE IT LT LU LV NL NO PL PT RO SE SI SK US".split(' ').collect();
    let fetched: Vec<Offer> = (0..20_000)
        .map(|number| {
            let codes = &countries[..random.index(countries.len()) + 1];
            let network = |code: &&str| Network {
                country: (*code).to_owned(),
                operator: format!("Operator of {code}"),
                technology: "5G".to_owned(),
            };
            Offer {
                countries: codes.iter().map(|code| (*code).to_owned()).collect(),
                networks: codes.iter().map(network).collect(),
                ..offer(&format!("offer-{number}"), 100 + random.between(0, 900))
            }
        })
        .collect();
    let portions = Arc::new(Mutex::new(Vec::new()));
    let sync = |connection: &str| {
        let began = Instant::now();
        let sifted = Sifted::new(fetched.clone());
        let sift = began.elapsed();
        let known = shop.known(connection);
        let read = began.elapsed() - sift;
        let changes = diff(&known, &sifted, false).unwrap();
        let compared = began.elapsed() - sift - read;
        let began = Instant::now();
        for portion in changes.chunks(PORTION) {
            let portion_began = Instant::now();
            shop.apply(connection, portion);
            portions.lock().unwrap().push(portion_began.elapsed());
        }
        let slowest = portions.lock().unwrap().drain(..).max().unwrap_or_default();
        println!(
            "{connection}: {} changes; sifted {sift:?}, read {read:?}, compared {compared:?}, applied {:?}, slowest \
             portion {slowest:?}",
            changes.len(),
            began.elapsed()
        );
        changes.len()
    };
    assert_eq!(sync("tsim-1"), 20_000);
    let before = (shop.revision(), shop.told());
    assert_eq!(sync("tsim-1"), 0);
    assert_eq!((shop.revision(), shop.told()), before);
    assert_eq!(sync("tsim-2"), 20_000);
    assert_eq!(shop.plans().len(), 20_000);
}
