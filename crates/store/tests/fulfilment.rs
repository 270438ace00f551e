//! Fulfilment, broken at every step: by an error, by "done, but the answer was lost", and by a crash
//! before the call, after it, and after the record. The end is always the same: exactly what was paid for
//! is delivered or refunded, and every reference was asked to sell once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod world;

use domain::esim::EsimState;
use domain::fulfilment::{
    Cancellation, Capabilities, LookUp, NotYet, Outcome, Patience, PlacementState, Profile, Step,
};
use domain::id::{EsimId, JobId, OrderId, PlanId, TenantId};
use domain::job::JobState;
use domain::order::{OrderStatus, placement_reference};
use domain::tenant::Mode;
use std::collections::BTreeMap;
use store::fulfilment::{
    Heard, LeaseLost, Leased, Placement, ResolveRefusal, Task, ask_cancel, end_job, give_up, placements, postpone,
    record_answer, record_cancellations, resolve,
};
use store::job::JobRefusal;
use store::order::Order;
use store::port::{Decision, Failure};
use world::*;

const PRICE: i64 = 450;
const CREDIT: i64 = 100_000_000;

/// An upstream that remembers what it was asked and what it sold.
#[derive(Default)]
struct Upstream {
    /// Requests to sell that arrived, by reference.
    asked: BTreeMap<String, u32>,
    /// What was sold, by reference.
    sold: BTreeMap<String, Vec<Profile>>,
    /// Requests to take back that arrived, by ICCID.
    taken_back: BTreeMap<String, u32>,
    made: u32,
    /// Whether it sells once however often it is asked under one reference.
    idempotent: bool,
}

impl Upstream {
    fn sell(&mut self, reference: &str, quantity: u32) -> Vec<Profile> {
        *self.asked.entry(reference.to_owned()).or_default() += 1;
        if self.idempotent
            && let Some(sold) = self.sold.get(reference)
        {
            return sold.clone();
        }
        let profiles: Vec<Profile> = (0..quantity)
            .map(|_| {
                self.made += 1;
                profile(&format!("8944{:015}", self.made))
            })
            .collect();
        self.sold.entry(reference.to_owned()).or_default().extend(profiles.clone());
        profiles
    }

    fn look_up(&self, reference: &str) -> LookUp {
        match self.sold.get(reference) {
            Some(profiles) => LookUp::Delivered { profiles: profiles.clone() },
            None => LookUp::NotFound,
        }
    }

    /// All that was sold for an order, in the order of the sales' numbers.
    fn sold_for(&self, order: OrderId) -> Vec<String> {
        let mut sold: Vec<String> = self
            .sold
            .iter()
            .filter(|(reference, _)| reference.starts_with(&order.to_string()))
            .flat_map(|(_, profiles)| profiles.iter().map(|profile| profile.iccid.clone()))
            .collect();
        sold.sort();
        sold
    }
}

/// How one step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// It does not.
    Not,
    /// The upstream says "try later".
    TryLater,
    /// The upstream takes the order and delivers at the next look-up.
    Provisioning,
    /// The request never arrives, and nobody knows that.
    RequestLost,
    /// The upstream does it, and the answer does not arrive.
    AnswerLost,
    /// The worker dies between claim and call.
    CrashBeforeCall,
    /// The worker dies between call and record.
    CrashBeforeRecord,
    /// The worker dies when all is recorded.
    CrashAfterRecord,
    /// The worker is so slow that its lease ends; another one takes the job, and the slow one records late.
    TooSlow,
    /// The worker records twice: the answer of the database was lost.
    RecordedTwice,
}

const BREAKS: [Break; 10] = [
    Break::Not,
    Break::TryLater,
    Break::Provisioning,
    Break::RequestLost,
    Break::AnswerLost,
    Break::CrashBeforeCall,
    Break::CrashBeforeRecord,
    Break::CrashAfterRecord,
    Break::TooSlow,
    Break::RecordedTwice,
];

/// What a crash is: the next start voids the leases, or the leases end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    LeaseEnds,
    LeasesVoided,
    Restart,
}

struct Shop {
    folder: Folder,
    clock: Clock,
    db: Option<Db>,
    upstream: Upstream,
    patience: Patience,
    tenant: TenantId,
    plan: PlanId,
}

impl Shop {
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
        let (tenant, plan) = (tenant(&db, "acme", 0), on_sale(&db, IN_THREES, "threes", PRICE));
        credit(&db, tenant, CREDIT);
        let capabilities = Capabilities { quantity_per_call: 3, settle_after_ms: 7_000, ..ABLE };
        let patience = Patience { capabilities, most_failures: 3, longest_ms: i64::MAX };
        Self { folder, clock, db: Some(db), upstream: Upstream::default(), patience, tenant, plan }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("open")
    }

    fn order(&self, quantity: u32) -> OrderId {
        buy(self.db(), self.tenant, Mode::Live, &[(self.plan, quantity)]).orders[0].id
    }

    fn placements(&self, order: OrderId) -> Vec<Placement> {
        self.db().read(move |snapshot| placements(snapshot, order))
    }

    fn states(&self, order: OrderId) -> Vec<PlacementState> {
        self.placements(order).iter().map(|placement| placement.progress.state).collect()
    }

    fn restart(&mut self) {
        self.db = None;
        self.db = Some(Db::new(database(&self.folder, 2, self.clock.as_now()).unwrap()));
        self.db().write(store::job::void_leases).unwrap();
    }

    fn crash(&mut self, crash: Crash) {
        match crash {
            Crash::LeaseEnds => self.clock.advance(LEASE_MS),
            Crash::LeasesVoided => {
                self.db().write(store::job::void_leases).unwrap();
            }
            Crash::Restart => self.restart(),
        }
    }

    /// Takes the next job up when it is due; `None` when there is none to wait for.
    fn claim(&self) -> Option<Leased> {
        let due = self.db().read(|snapshot| next_due(snapshot))?;
        self.clock.advance(due.since(self.clock.now()).max(0));
        let mut claimed = self.db().write(|tx| claim_any(tx, 1, LEASE_MS)).unwrap();
        assert_eq!(claimed.len(), 1, "a due job can be claimed");
        claimed.pop()
    }

    fn must_claim(&self) -> Leased {
        self.claim().expect("there is a job")
    }

    fn record(&self, leased: &Leased, heard: Heard) -> Decision<(), LeaseLost> {
        let (leased, patience) = (leased.clone(), self.patience);
        self.db().write(move |tx| record_answer(tx, &leased, &heard, "raw", None, patience))
    }

    /// Asks the upstream what the step asks, and says what came of it.
    fn call(&mut self, leased: &Leased, broken: Break) -> Heard {
        let Task::Fulfil { placement, step } = &leased.task else { panic!("{:?}", leased.task) };
        let (reference, quantity) = (placement.reference(), placement.quantity);
        let lost = || "the connection closed".to_owned();
        match (step, broken) {
            (Step::Place, Break::TryLater) => {
                Heard::Place(Outcome::NotYet(NotYet::TryLater { retry_at: None, reason: lost() }))
            }
            (Step::Place, Break::RequestLost) => Heard::Place(Outcome::Unknown { reason: lost() }),
            (Step::Place, Break::AnswerLost) => {
                self.upstream.sell(&reference, quantity);
                Heard::Place(Outcome::Unknown { reason: lost() })
            }
            (Step::Place, Break::Provisioning) => {
                self.upstream.sell(&reference, quantity);
                let poll_at = self.clock.now().plus_millis(500);
                Heard::Place(Outcome::NotYet(NotYet::Provisioning { poll_at }))
            }
            (Step::Place, _) => Heard::Place(Outcome::Done { profiles: self.upstream.sell(&reference, quantity) }),
            (Step::LookUp, Break::TryLater | Break::RequestLost | Break::AnswerLost) => {
                Heard::LookUp(LookUp::NoAnswer { reason: lost() })
            }
            (Step::LookUp, _) => Heard::LookUp(self.upstream.look_up(&reference)),
            (Step::Nothing, _) => panic!("a task always has a step"),
        }
    }

    /// One step of a worker, broken in this way. Says whether there was one.
    fn step(&mut self, broken: Break, crash: Crash) -> bool {
        let Some(leased) = self.claim() else { return false };
        if leased.task == Task::Finish {
            self.db().write(move |tx| end_job(tx, &leased)).unwrap();
            return true;
        }
        if broken == Break::CrashBeforeCall {
            self.crash(crash);
            return true;
        }
        let heard = self.call(&leased, broken);
        match broken {
            Break::CrashBeforeRecord => self.crash(crash),
            Break::TooSlow => {
                self.clock.advance(LEASE_MS);
                let other = self.must_claim();
                assert_eq!(other.job, leased.job);
                assert_eq!(self.record(&leased, heard), Err(Failure::Refused(LeaseLost)));
                let heard = self.call(&other, Break::Not);
                self.record(&other, heard).unwrap();
            }
            _ => {
                self.record(&leased, heard.clone()).unwrap();
                if broken == Break::RecordedTwice {
                    assert_eq!(self.record(&leased, heard), Err(Failure::Refused(LeaseLost)));
                }
                if broken == Break::CrashAfterRecord {
                    self.crash(crash);
                }
            }
        }
        true
    }

    /// Works until nothing is left to do.
    fn work(&mut self) {
        let mut steps = 0;
        while self.step(Break::Not, Crash::LeaseEnds) {
            steps += 1;
            assert!(steps < 200, "the work never ends");
        }
    }

    /// Three failures in a row are the operator's, who tries again.
    fn operate(&mut self, order: OrderId) {
        while self.job(job_of(order)).is_some() {
            self.db().write(move |tx| store::job::retry(tx, &act(), job_of(order))).unwrap();
            self.work();
        }
    }

    /// What must be true of every order at the end, whatever happened on the way.
    fn check(&self, id: OrderId, story: &str) -> Order {
        let order = self.db().order(id);
        assert!(order.status.is_final(), "{story}: {order:?}");
        let mut delivered: Vec<String> = order.esims.iter().filter_map(|esim| esim.iccid.clone()).collect();
        delivered.sort();
        assert_eq!(delivered, self.upstream.sold_for(id), "{story}: what was sold is what was delivered");
        let missing = order.quantity - u32::try_from(delivered.len()).unwrap();
        assert_eq!(order.refunded.minor(), PRICE * i64::from(missing), "{story}: what is missing is refunded");
        for (reference, asked) in &self.upstream.asked {
            assert!(*asked == 1 || self.upstream.idempotent, "{story}: {reference} was asked {asked} times");
        }
        order
    }

    fn balance(&self) -> i64 {
        self.db().balance(self.tenant, Mode::Live)
    }

    fn job(&self, id: JobId) -> Option<store::job::Job> {
        let jobs = self.db().read(|snapshot| store::job::list(snapshot, None, None, 1_000));
        jobs.into_iter().find(|job| job.id == id)
    }
}

fn job_of(order: OrderId) -> JobId {
    JobId::new(order.uuid())
}

#[test]
fn every_break_at_every_step_ends_well() {
    let mut shop = Shop::new();
    for at in 0..4 {
        for broken in BREAKS {
            for crash in [Crash::LeaseEnds, Crash::LeasesVoided] {
                let story = format!("{broken:?} at step {at}, {crash:?}");
                let before = shop.balance();
                let order = shop.order(8);
                for step in 0..=at {
                    shop.step(if step == at { broken } else { Break::Not }, crash);
                }
                shop.work();
                let done = shop.check(order, &story);
                assert_eq!(done.status, OrderStatus::Completed, "{story}");
                assert_eq!(shop.balance(), before - 8 * PRICE, "{story}");
            }
        }
    }
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn two_breaks_in_a_row_end_well() {
    let mut shop = Shop::new();
    for first in BREAKS {
        for second in BREAKS {
            for crash in [Crash::LeaseEnds, Crash::LeasesVoided] {
                let story = format!("{first:?}, then {second:?}, {crash:?}");
                let order = shop.order(4);
                for broken in [first, second, first] {
                    shop.step(broken, crash);
                }
                shop.work();
                shop.operate(order);
                let done = shop.check(order, &story);
                assert_eq!(done.status, OrderStatus::Completed, "{story}");
            }
        }
    }
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn a_restart_at_every_point_ends_well() {
    let mut shop = Shop::new();
    for at in 0..3 {
        for broken in [Break::CrashBeforeCall, Break::CrashBeforeRecord, Break::CrashAfterRecord] {
            let story = format!("{broken:?} at step {at}");
            let order = shop.order(8);
            shop.restart();
            for step in 0..=at {
                shop.step(if step == at { broken } else { Break::Not }, Crash::Restart);
            }
            shop.work();
            assert_eq!(shop.check(order, &story).status, OrderStatus::Completed, "{story}");
        }
    }
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn random_breaks_end_well() {
    let seed = seed(11);
    let mut random = Random(seed);
    let mut shop = Shop::new();
    for round in 0..60 {
        let quantity = u32::try_from(1 + random.below(10)).unwrap();
        let order = shop.order(quantity);
        for _ in 0..random.below(8) {
            let (broken, crash) = (random.pick(&BREAKS), random.pick(&[Crash::LeaseEnds, Crash::LeasesVoided]));
            shop.step(broken, crash);
        }
        shop.work();
        shop.operate(order);
        let done = shop.check(order, &format!("round {round}, STORE_SEED={seed}"));
        assert_eq!(done.status, OrderStatus::Completed, "round {round}, STORE_SEED={seed}");
    }
}

#[test]
fn an_order_is_split_and_each_part_has_its_own_reference() {
    let mut shop = Shop::new();
    let order = shop.order(8);
    let leased = shop.must_claim();
    let split: Vec<(u32, u32)> = shop.placements(order).iter().map(|part| (part.k, part.quantity)).collect();
    assert_eq!(split, [(1, 3), (2, 3), (3, 2)]);
    use PlacementState::{Done, Placing, Waiting};
    assert_eq!(shop.states(order), [Placing, Waiting, Waiting]);
    let heard = shop.call(&leased, Break::Not);
    shop.record(&leased, heard).unwrap();
    assert_eq!(shop.db().order(order).status, OrderStatus::Processing);
    assert_eq!(shop.states(order), [Done, Waiting, Waiting]);
    shop.work();
    let done = shop.check(order, "split");
    let references: Vec<String> = (1..=3).map(|k| placement_reference(order, k)).collect();
    assert_eq!(shop.upstream.asked.keys().cloned().collect::<Vec<_>>(), references);
    let parts: Vec<u32> = done.esims.iter().map(|esim| esim.placement).collect();
    assert_eq!(parts, [1, 1, 1, 2, 2, 2, 3, 3]);
    let events: Vec<&str> = done.timeline.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(events, ["delivered", "completed"]);
}

#[test]
fn a_partial_delivery_in_the_middle_is_refunded_at_the_end() {
    let mut shop = Shop::new();
    let before = shop.balance();
    let order = shop.order(8);
    shop.step(Break::Not, Crash::LeaseEnds);
    let leased = shop.must_claim();
    let profiles = shop.upstream.sell(&placement_reference(order, 2), 1);
    shop.record(&leased, Heard::Place(Outcome::Done { profiles })).unwrap();
    assert_eq!(shop.balance(), before - 8 * PRICE, "nothing is refunded before the end");
    shop.work();
    let done = shop.check(order, "partial");
    assert_eq!(done.status, OrderStatus::PartiallyCompleted);
    assert_eq!(done.refunded.minor(), 2 * PRICE);
    assert!(done.failure_reason.unwrap().starts_with("not_delivered"));
    let states: Vec<EsimState> = done.esims.iter().map(|esim| esim.state).collect();
    assert_eq!(states[..6], [EsimState::Delivered; 6]);
    assert_eq!(states[6..], [EsimState::Failed; 2]);
    assert_eq!(shop.balance(), before - 6 * PRICE);
}

#[test]
fn a_refusal_in_the_middle_keeps_what_came_and_its_reason() {
    let mut shop = Shop::new();
    let order = shop.order(8);
    shop.step(Break::Not, Crash::LeaseEnds);
    let leased = shop.must_claim();
    let refused = Outcome::Refused { code: "out_of_stock".to_owned(), message: "none left".to_owned() };
    shop.record(&leased, Heard::Place(refused)).unwrap();
    shop.work();
    let done = shop.check(order, "refused");
    assert_eq!((done.status, done.refunded.minor()), (OrderStatus::PartiallyCompleted, 3 * PRICE));
    assert_eq!(done.failure_reason.as_deref(), Some("out_of_stock: none left"));
}

#[test]
fn an_order_refused_in_all_parts_fails_and_is_refunded_whole() {
    let mut shop = Shop::new();
    let before = shop.balance();
    let order = shop.order(4);
    while let Some(leased) = shop.claim() {
        let refused = Outcome::Refused { code: "no".to_owned(), message: "no".to_owned() };
        shop.record(&leased, Heard::Place(refused)).unwrap();
    }
    assert_eq!(shop.check(order, "refused").status, OrderStatus::Failed);
    assert_eq!(shop.balance(), before);
    shop.work();
    assert_eq!(shop.balance(), before);
}

#[test]
fn more_profiles_than_ordered_are_not_delivered() {
    let shop = Shop::new();
    let order = shop.order(2);
    let leased = shop.must_claim();
    let profiles = (0..5).map(|number| profile(&number.to_string())).collect();
    shop.record(&leased, Heard::Place(Outcome::Done { profiles })).unwrap();
    let done = shop.db().order(order);
    assert_eq!((done.status, done.esims.len(), done.refunded.minor()), (OrderStatus::Completed, 2, 0));
}

#[test]
fn what_never_was_sold_is_placed_again_under_the_next_reference() {
    let mut shop = Shop::new();
    let order = shop.order(8);
    shop.step(Break::RequestLost, Crash::LeaseEnds);
    let lost_at = shop.clock.now();
    while shop.states(order)[0] == PlacementState::Unknown {
        shop.step(Break::Not, Crash::LeaseEnds);
    }
    assert!(shop.clock.now().since(lost_at) >= 7_000, "not before the upstream has settled");
    use PlacementState::{Abandoned, Waiting};
    assert_eq!(shop.states(order), [Abandoned, Waiting, Waiting, Waiting]);
    shop.work();
    shop.check(order, "placed again");
    let references: Vec<String> = (2..=4).map(|k| placement_reference(order, k)).collect();
    assert_eq!(shop.upstream.asked.keys().cloned().collect::<Vec<_>>(), references);
    assert!(shop.db().order(order).timeline.iter().any(|event| event.event == "placed_again"));
}

#[test]
fn where_creation_is_idempotent_the_same_reference_is_used_again() {
    let mut shop = Shop::new();
    shop.patience.capabilities.idempotent_create = true;
    shop.upstream.idempotent = true;
    let order = shop.order(3);
    shop.step(Break::RequestLost, Crash::LeaseEnds);
    shop.work();
    shop.check(order, "same reference");
    assert_eq!(shop.placements(order).len(), 1);
    assert_eq!(shop.upstream.asked, BTreeMap::from([(placement_reference(order, 1), 1)]));
}

#[test]
fn a_sale_that_happens_late_is_found_and_not_repeated() {
    let mut shop = Shop::new();
    let order = shop.order(3);
    shop.step(Break::RequestLost, Crash::LeaseEnds);
    let lost_at = shop.clock.now();
    while shop.clock.now().since(lost_at) < 5_000 {
        assert!(shop.step(Break::Not, Crash::LeaseEnds));
    }
    // The request was still on its way.
    shop.upstream.sell(&placement_reference(order, 1), 3);
    shop.work();
    shop.check(order, "late sale");
    assert_eq!(shop.placements(order).len(), 1);
}

#[test]
fn the_operators_word_beats_a_look_up_under_way() {
    for sold in [true, false] {
        let mut shop = Shop::new();
        let order = shop.order(4);
        shop.step(Break::AnswerLost, Crash::LeaseEnds);
        let leased = shop.must_claim();
        let heard = shop.call(&leased, Break::Not);
        let profiles = shop.upstream.sold[&placement_reference(order, 1)].clone();
        let said = sold.then_some(profiles);
        shop.db().write(move |tx| resolve(tx, &act(), order, said.as_deref(), "reason")).unwrap();
        assert_eq!(shop.record(&leased, heard), Err(Failure::Refused(LeaseLost)));
        let again = shop.db().write(move |tx| resolve(tx, &act(), order, None, "reason"));
        assert_eq!(again, Err(Failure::Refused(ResolveRefusal::NotUnknown)));
        if !sold {
            shop.upstream.sold.remove(&placement_reference(order, 1));
        }
        shop.work();
        let done = shop.check(order, "resolved");
        let expected = if sold { OrderStatus::Completed } else { OrderStatus::PartiallyCompleted };
        assert_eq!(done.status, expected);
    }
}

#[test]
fn a_look_up_that_was_faster_leaves_nothing_to_resolve() {
    let mut shop = Shop::new();
    let order = shop.order(3);
    shop.step(Break::AnswerLost, Crash::LeaseEnds);
    let too_many = vec![profile("1"), profile("2"), profile("3"), profile("4")];
    let refused = shop.db().write(move |tx| resolve(tx, &act(), order, Some(&too_many), "reason"));
    assert_eq!(refused, Err(Failure::Refused(ResolveRefusal::TooManyEsims)));
    shop.step(Break::Not, Crash::LeaseEnds);
    let refused = shop.db().write(move |tx| resolve(tx, &act(), order, None, "reason"));
    assert_eq!(refused, Err(Failure::Refused(ResolveRefusal::NotUnknown)));
    shop.check(order, "looked up");
}

#[test]
fn an_accepted_order_whose_upstream_falls_silent_can_be_resolved() {
    for sold in [true, false] {
        let mut shop = Shop::new();
        let order = shop.order(3);
        shop.step(Break::Provisioning, Crash::LeaseEnds);
        let early = shop.db().write(move |tx| resolve(tx, &act(), order, None, "reason"));
        assert_eq!(early, Err(Failure::Refused(ResolveRefusal::NotUnknown)), "it is still being worked on");
        for _ in 0..3 {
            shop.step(Break::AnswerLost, Crash::LeaseEnds);
        }
        assert_eq!(shop.job(job_of(order)).unwrap().state, JobState::Dead);
        let refused = shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order)));
        assert_eq!(refused, Err(Failure::Refused(JobRefusal::OutcomeUnknown)));
        let profiles = shop.upstream.sold[&placement_reference(order, 1)].clone();
        if !sold {
            shop.upstream.sold.clear();
        }
        let said = sold.then_some(profiles);
        shop.db().write(move |tx| resolve(tx, &act(), order, said.as_deref(), "reason")).unwrap();
        shop.check(order, "resolved");
        assert_eq!(shop.job(job_of(order)), None);
    }
}

#[test]
fn a_job_that_fails_three_times_is_dead_until_the_operator_tries_again() {
    let mut shop = Shop::new();
    let order = shop.order(8);
    shop.step(Break::Not, Crash::LeaseEnds);
    for _ in 0..3 {
        assert!(shop.step(Break::TryLater, Crash::LeaseEnds));
    }
    assert!(!shop.step(Break::Not, Crash::LeaseEnds), "nobody works on a dead job");
    let dead = shop.db().read(move |snapshot| store::job::dead_of_order(snapshot, order)).unwrap();
    assert_eq!((dead.state, dead.reason.as_deref()), (JobState::Dead, Some("the connection closed")));
    let refused = shop.db().write(move |tx| resolve(tx, &act(), order, None, "reason"));
    assert_eq!(refused, Err(Failure::Refused(ResolveRefusal::NotUnknown)), "it surely was not sold");
    shop.db().write(move |tx| store::job::retry(tx, &act(), dead.id)).unwrap();
    let twice = shop.db().write(move |tx| store::job::retry(tx, &act(), dead.id));
    assert_eq!(twice, Err(Failure::Refused(JobRefusal::NotDead)));
    // Its patience is as new.
    shop.step(Break::TryLater, Crash::LeaseEnds);
    shop.step(Break::TryLater, Crash::LeaseEnds);
    shop.work();
    assert_eq!(shop.check(order, "tried again").status, OrderStatus::Completed);
}

#[test]
fn an_abandoned_job_refunds_what_surely_was_not_sold() {
    let mut shop = Shop::new();
    let before = shop.balance();
    let order = shop.order(8);
    shop.step(Break::Not, Crash::LeaseEnds);
    let living = shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order)));
    assert_eq!(living, Err(Failure::Refused(JobRefusal::NotDead)));
    for _ in 0..3 {
        shop.step(Break::TryLater, Crash::LeaseEnds);
    }
    shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order))).unwrap();
    let twice = shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order)));
    assert_eq!(twice, Err(Failure::Refused(JobRefusal::NotFound)));
    let done = shop.check(order, "abandoned");
    assert_eq!((done.status, done.refunded.minor()), (OrderStatus::PartiallyCompleted, 5 * PRICE));
    assert!(done.failure_reason.unwrap().starts_with("abandoned"));
    assert_eq!(shop.balance(), before - 3 * PRICE);
}

#[test]
fn an_unknown_outcome_is_never_abandoned() {
    let mut shop = Shop::new();
    let order = shop.order(3);
    shop.step(Break::AnswerLost, Crash::LeaseEnds);
    for _ in 0..3 {
        let leased = shop.must_claim();
        shop.record(&leased, Heard::LookUp(LookUp::CannotTell { reason: "?".to_owned() })).unwrap();
    }
    let refused = shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order)));
    assert_eq!(refused, Err(Failure::Refused(JobRefusal::OutcomeUnknown)));
    let profiles = shop.upstream.sold[&placement_reference(order, 1)].clone();
    shop.db().write(move |tx| resolve(tx, &act(), order, Some(&profiles), "reason")).unwrap();
    assert_eq!(shop.check(order, "resolved").status, OrderStatus::Completed);
}

#[test]
fn a_postponed_purchase_counts_as_never_sent() {
    let shop = Shop::new();
    let order = shop.order(3);
    for _ in 0..2 {
        let leased = shop.must_claim();
        assert!(matches!(leased.task, Task::Fulfil { step: Step::Place, .. }), "{leased:?}");
        let given_back = leased.clone();
        shop.db().write(move |tx| postpone(tx, &given_back, "stopping", 100)).unwrap();
        let twice = shop.db().write(move |tx| postpone(tx, &leased, "stopping", 100));
        assert_eq!(twice, Err(Failure::Refused(LeaseLost)));
    }
    let leased = shop.must_claim();
    shop.db().write(move |tx| postpone(tx, &leased, "no such provider", 1)).unwrap();
    assert_eq!(shop.job(job_of(order)).unwrap().state, JobState::Dead);
    shop.db().write(move |tx| store::job::abandon(tx, &act(), job_of(order))).unwrap();
    assert_eq!(shop.check(order, "postponed").status, OrderStatus::Failed);
}

#[test]
fn a_step_that_cannot_be_recorded_goes_to_the_operator_and_can_be_taken_up_again() {
    let mut shop = Shop::new();
    let order = shop.order(3);
    let leased = shop.must_claim();
    let given_up = leased.clone();
    shop.db().write(move |tx| give_up(tx, &given_up, "a broken row")).unwrap();
    let job = shop.job(job_of(order)).unwrap();
    assert_eq!((job.state, job.reason.as_deref()), (JobState::Dead, Some("a broken row")));
    let twice = shop.db().write(move |tx| give_up(tx, &leased, "a broken row"));
    assert_eq!(twice, Err(Failure::Refused(LeaseLost)));
    // It may have been sent, so it is looked up, and bought once.
    shop.db().write(move |tx| store::job::retry(tx, &act(), job_of(order))).unwrap();
    shop.work();
    assert_eq!(shop.check(order, "given up").status, OrderStatus::Completed);
}

#[test]
fn a_postponed_look_up_is_looked_up_again() {
    let mut shop = Shop::new();
    let order = shop.order(3);
    shop.step(Break::AnswerLost, Crash::LeaseEnds);
    let leased = shop.must_claim();
    shop.db().write(move |tx| postpone(tx, &leased, "stopping", 100)).unwrap();
    let leased = shop.must_claim();
    assert!(matches!(leased.task, Task::Fulfil { step: Step::LookUp, .. }), "{leased:?}");
    shop.clock.advance(LEASE_MS);
    shop.work();
    shop.check(order, "looked up again");
}

// Taking back.

impl Shop {
    fn delivered(&mut self, quantity: u32) -> OrderId {
        let order = self.order(quantity);
        self.work();
        self.check(order, "delivered");
        order
    }

    fn ask(&self, order: OrderId, positions: &[u16]) {
        let esims: Vec<EsimId> = positions.iter().map(|position| order.esim(*position)).collect();
        let scope = scope(self.tenant, Mode::Live);
        self.db().write(move |tx| ask_cancel(tx, scope, order, Some(&esims))).unwrap();
    }

    /// Asks the upstream to take back what the job names; `answer` says what it answers.
    fn take_back(&mut self, leased: &Leased, answer: impl Fn(u16) -> Cancellation) -> Vec<(EsimId, Cancellation)> {
        let Task::TakeBack(list) = &leased.task else { panic!("{:?}", leased.task) };
        list.iter()
            .map(|take_back| {
                let answer = answer(take_back.esim.position().unwrap());
                if answer == Cancellation::Cancelled {
                    *self.upstream.taken_back.entry(take_back.iccid.clone()).or_default() += 1;
                }
                (take_back.esim, answer)
            })
            .collect()
    }

    fn record_back(&self, leased: &Leased, answers: &[(EsimId, Cancellation)], most: u32) -> Decision<(), LeaseLost> {
        let (leased, answers) = (leased.clone(), answers.to_vec());
        self.db().write(move |tx| record_cancellations(tx, &leased, &answers, most))
    }

    fn states_of(&self, order: OrderId) -> Vec<EsimState> {
        self.db().order(order).esims.iter().map(|esim| esim.state).collect()
    }
}

fn later() -> Cancellation {
    Cancellation::TryLater { reason: "busy".to_owned() }
}

fn refused() -> Cancellation {
    Cancellation::Refused { reason: "installed".to_owned() }
}

use EsimState::{Cancelled, Cancelling, Delivered};

#[test]
fn a_cancellation_may_be_kept_in_part() {
    let mut shop = Shop::new();
    let order = shop.delivered(4);
    let before = shop.balance();
    shop.ask(order, &[0, 1, 3]);
    assert_eq!(shop.states_of(order), [Cancelling, Cancelling, Delivered, Cancelling]);
    let leased = shop.must_claim();
    let Task::TakeBack(list) = &leased.task else { panic!("{leased:?}") };
    let references: Vec<&str> = list.iter().map(|take_back| take_back.reference.as_str()).collect();
    let (first, second) = (placement_reference(order, 1), placement_reference(order, 2));
    assert_eq!(references, [&first, &first, &second]);
    let answers = shop.take_back(&leased, |position| if position == 1 { refused() } else { Cancellation::Cancelled });
    shop.record_back(&leased, &answers, 5).unwrap();
    assert_eq!(shop.record_back(&leased, &answers, 5), Err(Failure::Refused(LeaseLost)));
    assert_eq!(shop.states_of(order), [Cancelled, Delivered, Delivered, Cancelled]);
    let after = shop.db().order(order);
    assert_eq!((after.status, after.refunded.minor()), (OrderStatus::Completed, 2 * PRICE));
    assert_eq!(after.esims[1].cancel_failure.as_deref(), Some("installed"));
    assert_eq!(shop.balance(), before + 2 * PRICE);
    assert_eq!(shop.claim(), None, "the job is done");
}

#[test]
fn all_taken_back_is_a_cancelled_order() {
    let mut shop = Shop::new();
    let order = shop.delivered(2);
    shop.ask(order, &[0, 1]);
    let leased = shop.must_claim();
    let answers = shop.take_back(&leased, |position| if position == 0 { Cancellation::Cancelled } else { later() });
    shop.record_back(&leased, &answers, 5).unwrap();
    assert_eq!(shop.states_of(order), [Cancelled, Cancelling]);
    let again = shop.must_claim();
    assert_eq!(again.job, leased.job);
    let answers = shop.take_back(&again, |_| Cancellation::Cancelled);
    assert_eq!(answers.len(), 1, "what was taken back is not asked for again");
    shop.record_back(&again, &answers, 5).unwrap();
    let after = shop.db().order(order);
    assert_eq!((after.status, after.refunded), (OrderStatus::Cancelled, after.total().unwrap()));
    assert!(shop.upstream.taken_back.values().all(|asked| *asked == 1));
}

#[test]
fn a_cancellation_survives_a_crash_between_call_and_record() {
    let mut shop = Shop::new();
    let order = shop.delivered(2);
    shop.ask(order, &[0, 1]);
    let leased = shop.must_claim();
    let answers = shop.take_back(&leased, |_| Cancellation::Cancelled);
    shop.restart();
    assert_eq!(shop.record_back(&leased, &answers, 5), Err(Failure::Refused(LeaseLost)));
    let leased = shop.must_claim();
    let answers = shop.take_back(&leased, |_| Cancellation::Cancelled);
    shop.record_back(&leased, &answers, 5).unwrap();
    let after = shop.db().order(order);
    assert_eq!((after.status, after.refunded), (OrderStatus::Cancelled, after.total().unwrap()));
    assert_eq!(shop.balance(), CREDIT);
}

#[test]
fn a_cancellation_nobody_answers_is_dead_and_can_be_retried_or_given_up() {
    let mut shop = Shop::new();
    let order = shop.delivered(2);
    shop.ask(order, &[0, 1]);
    let mut job = None;
    for _ in 0..2 {
        let leased = shop.must_claim();
        let answers = shop.take_back(&leased, |_| later());
        shop.record_back(&leased, &answers, 2).unwrap();
        job = Some(leased.job);
    }
    let job = job.unwrap();
    assert_eq!(shop.job(job).unwrap().state, JobState::Dead);
    assert_eq!(shop.claim(), None);
    shop.db().write(move |tx| store::job::retry(tx, &act(), job)).unwrap();
    let leased = shop.must_claim();
    let answers = shop.take_back(&leased, |position| if position == 0 { Cancellation::Cancelled } else { later() });
    shop.record_back(&leased, &answers, 1).unwrap();
    assert_eq!(shop.job(job).unwrap().state, JobState::Dead);
    shop.db().write(move |tx| store::job::abandon(tx, &act(), job)).unwrap();
    assert_eq!(shop.states_of(order), [Cancelled, Delivered]);
    assert_eq!(shop.db().order(order).refunded.minor(), PRICE);
    assert_eq!(shop.job(job), None);
}

#[test]
fn two_cancellations_of_one_order_at_once_give_back_once() {
    let mut shop = Shop::new();
    let order = shop.delivered(3);
    shop.ask(order, &[0]);
    shop.ask(order, &[1, 2]);
    let (one, other) = (shop.must_claim(), shop.must_claim());
    assert_ne!(one.job, other.job);
    let answers = shop.take_back(&one, |position| if position == 2 { later() } else { Cancellation::Cancelled });
    let others = shop.take_back(&other, |_| Cancellation::Cancelled);
    shop.record_back(&one, &answers, 5).unwrap();
    shop.record_back(&other, &others, 5).unwrap();
    assert_eq!(shop.states_of(order), [Cancelled; 3]);
    assert_eq!(shop.balance(), CREDIT);
    // The first one had something left to ask, which the other has settled.
    let leased = shop.must_claim();
    assert_eq!(leased.task, Task::Finish);
    shop.db().write(move |tx| end_job(tx, &leased)).unwrap();
    assert_eq!(shop.claim(), None);
    assert_eq!(shop.db().check(), Ok(()));
}
