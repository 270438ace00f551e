//! What upstreams say of eSIMs after the sale, kept in one order whoever asks: each eSIM is taken up once, moved on and
//! never back, and left alone when it is over.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::esim::EsimStatus;
use domain::fulfilment::{Outcome, Profile};
use domain::id::{EsimId, OrderId};
use domain::tenant::Mode;
use domain::usage::{Life, Usage};
use store::fulfilment::{Heard, ask_cancel, record_answer, record_cancellations};
use store::notice::{Notice, keep};
use store::usage::{ToAsk, claim_due, find, next_due, record};
use world::*;

const MINUTE_MS: i64 = 60_000;
const PAUSE_MS: i64 = 5 * MINUTE_MS;

/// An order of two eSIMs, delivered by an upstream that numbers orders and names eSIMs.
struct Sold {
    clock: Clock,
    db: Db,
    order: OrderId,
    _folder: Folder,
}

impl Sold {
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
        let (tenant, plan) = (tenant(&db, "acme", 0), on_sale(&db, IN_THREES, "threes", 450));
        credit(&db, tenant, 10_000);
        let order = buy(&db, tenant, Mode::Live, &[(plan, 2)]).orders[0].id;
        let profiles = ["8944000000000000001", "8944000000000000002"].map(|iccid| {
            let handle = Some(format!("T-{}", &iccid[18..]));
            Profile { handle, ..profile(iccid) }
        });
        let heard = Heard::Place(Outcome::Done { profiles: profiles.to_vec() });
        for leased in db.write(|tx| claim_any(tx, 1, LEASE_MS)).unwrap() {
            let heard = heard.clone();
            db.write(move |tx| record_answer(tx, &leased, &heard, "raw", Some("B-7"), PATIENCE)).unwrap();
        }
        Self { clock, db, order, _folder: folder }
    }

    fn esim(&self, position: u16) -> EsimId {
        self.order.esim(position)
    }

    fn claim(&self) -> Vec<ToAsk> {
        self.db.write(|tx| claim_due(tx, IN_THREES, 16, PAUSE_MS)).unwrap().1
    }

    fn tell(&self, position: u16, life: Life, used_bytes: i64) {
        let esim = self.esim(position);
        let usage = Usage {
            used_bytes: Some(used_bytes),
            total_bytes: Some(1_000),
            as_of: None,
            activated_at: None,
            expires_at: None,
            life,
            profile: None,
            fresh_for_ms: 10 * MINUTE_MS,
        };
        self.db.write(move |tx| record(tx, esim, &usage)).unwrap();
    }

    fn status(&self, position: usize) -> EsimStatus {
        self.db.order(self.order).esims[position].status()
    }

    fn due_in(&self) -> Option<i64> {
        let due = self.db.read(|snapshot| next_due(snapshot, IN_THREES));
        due.map(|due| due.since(self.clock.now()) / MINUTE_MS)
    }

    /// News of the upstream, each another one.
    fn news(&self, order: Option<&str>, handle: Option<&str>, iccid: Option<&str>) {
        let notice = Notice {
            connection: IN_THREES.to_owned(),
            key: format!("{} {order:?} {handle:?} {iccid:?}", self.clock.now()),
            event: "something".to_owned(),
            upstream_order: order.map(str::to_owned),
            reference: None,
            handle: handle.map(str::to_owned),
            iccid: iccid.map(str::to_owned),
            body: "{}".to_owned(),
        };
        assert!(self.db.write(move |tx| keep(tx, &notice)).unwrap());
    }
}

#[test]
fn an_esim_that_is_due_is_taken_up_once() {
    let sold = Sold::new();
    assert_eq!((sold.claim(), sold.due_in()), (Vec::new(), Some(15)));
    sold.clock.advance(17 * MINUTE_MS);
    let claimed = sold.claim();
    let asked: Vec<_> = claimed.iter().map(|to_ask| (to_ask.esim, to_ask.handle.clone().unwrap())).collect();
    let mut expected = [(sold.esim(0), "T-1".to_owned()), (sold.esim(1), "T-2".to_owned())];
    expected.sort_by_key(|(esim, _)| asked.iter().position(|(other, _)| other == esim));
    assert_eq!(asked, expected);
    assert!(claimed.iter().all(|to_ask| to_ask.upstream_order.as_deref() == Some("B-7")));
    assert!(claimed.iter().all(|to_ask| to_ask.reference == format!("{}-1", sold.order)));
    assert_eq!(sold.claim(), [], "another node has them");
    // Whoever took them up is gone.
    sold.clock.advance(PAUSE_MS);
    assert_eq!(sold.claim().len(), 2);
}

#[test]
fn an_answer_moves_an_esim_on_and_says_when_to_come_again() {
    let sold = Sold::new();
    sold.clock.advance(17 * MINUTE_MS);
    assert_eq!(sold.claim().len(), 2);
    sold.tell(1, Life::NotActive, 0);
    sold.tell(0, Life::Active, 10);
    assert_eq!((sold.status(0), sold.status(1)), (EsimStatus::Active, EsimStatus::Delivered));
    assert!(matches!(sold.due_in(), Some(15..=18)), "{:?}", sold.due_in());
    let esim = sold.esim(0);
    let kept = sold.db.read(move |snapshot| find(snapshot, esim)).unwrap();
    assert_eq!((kept.used_bytes, kept.fresh_until.since(kept.fetched_at)), (Some(10), 10 * MINUTE_MS));
    for (life, status) in [
        (Life::Depleted, EsimStatus::Depleted),
        (Life::Active, EsimStatus::Depleted),
        (Life::Expired, EsimStatus::Expired),
        (Life::Active, EsimStatus::Expired),
        (Life::NotActive, EsimStatus::Expired),
    ] {
        sold.tell(0, life, 10);
        assert_eq!(sold.status(0), status, "after {life}");
    }
    let told = sold.db.order(sold.order).timeline;
    let of_esim = told.iter().filter(|event| event.detail == Some(esim.to_string()));
    let words: Vec<_> = of_esim.map(|event| event.event.as_str()).collect();
    assert_eq!(words, ["active", "depleted", "expired"]);
    // What is over is not asked for any more.
    sold.clock.advance(400 * 24 * 60 * MINUTE_MS);
    assert_eq!(sold.claim().iter().map(|to_ask| to_ask.esim).collect::<Vec<_>>(), [sold.esim(1)]);
    sold.tell(1, Life::NotActive, 0);
    assert_eq!(sold.due_in(), None, "nobody ever used it");
}

#[test]
fn news_bring_forward_whom_they_name_and_not_twice_a_minute() {
    let sold = Sold::new();
    let claimed = |expected: &[u16]| {
        let mut esims: Vec<_> = sold.claim().into_iter().map(|to_ask| to_ask.esim).collect();
        esims.sort();
        assert_eq!(esims, expected.iter().map(|position| sold.esim(*position)).collect::<Vec<_>>());
    };
    sold.news(None, None, Some("8944000000000000002"));
    claimed(&[1]);
    sold.news(Some("B-7"), Some("T-1"), None);
    claimed(&[0]);
    sold.news(None, Some("T-9"), Some("8944000000000000002"));
    sold.news(Some("B-8"), None, None);
    sold.news(None, None, None);
    claimed(&[]);
    sold.tell(0, Life::NotActive, 0);
    sold.tell(1, Life::NotActive, 0);
    sold.clock.advance(1_000);
    sold.news(Some("B-7"), None, None);
    claimed(&[]);
    let esim = sold.esim(0);
    let kept = sold.db.read(move |snapshot| find(snapshot, esim)).unwrap();
    assert_eq!(kept.fresh_until.since(kept.fetched_at), MINUTE_MS, "whoever asks then gets a new answer");
    sold.clock.advance(MINUTE_MS);
    claimed(&[0, 1]);
}

#[test]
fn what_was_given_back_stays_given_back() {
    let sold = Sold::new();
    let (order, esim) = (sold.order, sold.esim(0));
    let tenant = sold.db.order(order).tenant;
    sold.db.write(move |tx| ask_cancel(tx, scope(tenant, Mode::Live), order, Some(&[esim]))).unwrap();
    for leased in sold.db.write(|tx| claim_any(tx, 1, LEASE_MS)).unwrap() {
        let answers = [(esim, domain::fulfilment::Cancellation::Cancelled)];
        sold.db.write(move |tx| record_cancellations(tx, &leased, &answers, 3)).unwrap();
    }
    // An answer that was on its way.
    sold.tell(0, Life::Active, 10);
    assert_eq!(sold.status(0), EsimStatus::Cancelled);
    assert_eq!(sold.db.read(move |snapshot| find(snapshot, esim)), None);
    sold.clock.advance(17 * MINUTE_MS);
    assert_eq!(sold.claim().iter().map(|to_ask| to_ask.esim).collect::<Vec<_>>(), [sold.esim(1)]);
}

#[test]
fn the_sandboxs_deliveries_are_watched_by_nobody() {
    let (folder, clock) = (Folder::new(), Clock::new());
    let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
    let (tenant, plan) = (tenant(&db, "acme", 100_000), on_sale(&db, store::checkout::SANDBOX, "plan", 450));
    buy(&db, tenant, Mode::Test, &[(plan, 1)]);
    answer_next(&db, &Outcome::Done { profiles: vec![profile("8944000000000000001")] });
    assert_eq!(db.read(|snapshot| next_due(snapshot, store::checkout::SANDBOX)), None);
}
