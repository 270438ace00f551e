//! Upstreams' lists are read by one at a time, whichever node it is; whoever lost his turn changes nothing any more, and
//! what came of the last reading is known.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::catalogue::{ChangeKind, LeftOutFor, Sifted, SyncState, Unusable, diff};
use domain::id::ConnectionId;
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use domain::time::Timestamp;
use std::collections::BTreeMap;
use store::catalogue::{self, End, Held, InProgress, LeaseLost, Seen, Sync};
use store::offer::{Applied, Source};
use store::port::{Decision, Failure, Needs};
use uuid::Uuid;
use world::*;

const LEASE_MS: i64 = 60_000;
const PERIOD_MS: i64 = 3_600_000;

struct Desk {
    db: Db,
    clock: Clock,
    folder: Folder,
}

fn decided<T, R>(decision: Decision<T, R>) -> Result<T, R> {
    decision.map_err(|failure| match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Fault(fault) => panic!("{fault}"),
    })
}

fn offer(id: &str, cents: i64) -> Offer {
    Offer {
        upstream_plan_id: id.to_owned(),
        name: format!("Plan {id}"),
        cost: Cost { units: cents, decimals: 2, currency: "USD".to_owned() },
        countries: vec!["DE".to_owned()],
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

fn source() -> Source {
    Source { connection: "tsim".to_owned(), siblings: vec!["tsim".to_owned()], currency: Currency::USD }
}

impl Desk {
    fn new() -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, 1, clock.as_now()).unwrap());
        Self { db, clock, folder }
    }

    fn begin(&self, after: i64) -> Result<Held, InProgress> {
        decided(self.db.write(move |tx| catalogue::begin_due(tx, "tsim", after, LEASE_MS)))
    }

    fn ask(&self, forced: bool) -> Result<Held, InProgress> {
        let id = ConnectionId::new(Uuid::nil());
        decided(self.db.write(move |tx| catalogue::begin_asked(tx, &act(), id, "tsim", forced, LEASE_MS)))
    }

    fn renew(&self, held: &Held) -> Result<(), LeaseLost> {
        let held = held.clone();
        decided(self.db.write(move |tx| catalogue::renew(tx, &held, LEASE_MS)))
    }

    fn note(&self, held: &Held, seen: Seen) -> Result<(), LeaseLost> {
        let held = held.clone();
        decided(self.db.write(move |tx| catalogue::note(tx, &held, &seen)))
    }

    fn apply(&self, held: &Held, fetched: &[Offer], before: Applied) -> Result<Applied, LeaseLost> {
        let known = self.db.read(|snapshot| store::offer::known(snapshot, "tsim"));
        let changes = diff(&known, &Sifted::new(fetched.to_vec()), true).unwrap();
        let held = held.clone();
        let apply = self.db.store.write_behind(Needs::default(), move |tx| {
            catalogue::apply(tx, &held, &source(), &changes, &before, LEASE_MS)
        });
        decided(self.db.wait(apply))
    }

    fn finish(&self, held: &Held, end: End, period_ms: Option<i64>) -> Result<(), LeaseLost> {
        let held = held.clone();
        decided(self.db.write(move |tx| catalogue::finish(tx, &held, &end, period_ms)))
    }

    fn sync(&self) -> Sync {
        self.db.read(|snapshot| catalogue::find(snapshot, "tsim")).unwrap()
    }

    fn offers(&self) -> usize {
        self.db.read(|snapshot| store::offer::list(snapshot, "tsim", None, 100)).len()
    }

    /// Milliseconds from now until the list is read again.
    fn due_in(&self, period_ms: Option<i64>) -> Option<i64> {
        self.sync().due_at(period_ms).map(|due| due.since(self.clock.now()))
    }
}

fn failed(reason: &str, not_before: Option<Timestamp>) -> End {
    End::Failed { reason: reason.to_owned(), not_before }
}

#[test]
fn one_at_a_time_reads_a_list_and_whoever_lost_his_turn_changes_nothing() {
    let desk = Desk::new();
    assert_eq!(desk.db.read(|snapshot| catalogue::find(snapshot, "tsim")), None);
    let first = desk.begin(0).unwrap();
    assert_eq!((first.run, first.forced), (1, false));
    assert_eq!((desk.begin(0), desk.begin(1), desk.ask(true)), (Err(InProgress), Err(InProgress), Err(InProgress)));
    assert_eq!(desk.sync().due_at(Some(PERIOD_MS)), Some(desk.clock.now().plus_millis(LEASE_MS)));
    assert!(desk.sync().is_held(desk.clock.now()));

    desk.clock.advance(LEASE_MS - 1);
    desk.renew(&first).unwrap();
    desk.clock.advance(LEASE_MS - 1);
    assert_eq!(desk.begin(1), Err(InProgress));
    desk.clock.advance(1);
    assert_eq!(desk.due_in(None), Some(0), "whoever read it is gone");
    desk.renew(&first).unwrap();
    desk.clock.advance(LEASE_MS);
    assert_eq!(desk.begin(0), Err(InProgress), "it was begun since it was looked at");
    let second = desk.begin(1).unwrap();
    assert_eq!(second.run, 2);

    assert_eq!(desk.renew(&first), Err(LeaseLost));
    assert_eq!(desk.note(&first, Seen { listed: 7, left_out: Vec::new() }), Err(LeaseLost));
    assert_eq!(desk.apply(&first, &[offer("a", 150)], Applied::default()), Err(LeaseLost));
    assert_eq!(desk.finish(&first, End::Done, Some(PERIOD_MS)), Err(LeaseLost));
    assert_eq!((desk.offers(), desk.sync().seen, desk.sync().state), (0, Seen::default(), SyncState::Running));

    desk.apply(&second, &[offer("a", 150)], Applied::default()).unwrap();
    desk.finish(&second, End::Done, Some(PERIOD_MS)).unwrap();
    assert_eq!(desk.offers(), 1);
    assert_eq!(desk.renew(&second), Err(LeaseLost), "it has ended");
    assert_eq!(desk.apply(&second, &[], Applied::default()), Err(LeaseLost));
    assert_eq!(desk.offers(), 1);

    // What the operator asks for is in the audit log, and what is refused is not.
    let third = desk.ask(true).unwrap();
    assert_eq!((third.run, third.forced), (3, true));
    let records = desk.db.read(|snapshot| store::audit::list(snapshot, None, None, None, 10));
    let told: Vec<_> = records.iter().map(|record| (record.action.as_str(), record.detail.as_str())).collect();
    assert_eq!(told, [("connection.synced", "tsim, forced")]);

    // The next start of the only process finds nobody reading.
    desk.db.write(|tx| catalogue::void_leases(tx)).unwrap();
    assert!(desk.due_in(None).unwrap() <= 0);
    assert!(!desk.begin(3).unwrap().forced, "what was asked for once is not believed for ever");
}

#[test]
fn of_many_nodes_that_want_to_read_a_list_one_does() {
    let desk = Desk::new();
    let other = desk.db.store.is_shared().then(|| database(&desk.folder, 2, desk.clock.as_now()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for round in 0..5_i64 {
        let mut nodes = tokio::task::JoinSet::new();
        for number in 0..8 {
            let store = other.as_ref().filter(|_| number % 2 == 1).unwrap_or(&desk.db.store).clone();
            let begin = async move {
                decided(store.write(move |tx| catalogue::begin_due(tx, "tsim", round, LEASE_MS)).await).ok()
            };
            nodes.spawn_on(begin, runtime.handle());
        }
        let begun = runtime.block_on(nodes.join_all());
        let begun: Vec<Held> = begun.into_iter().flatten().collect();
        assert_eq!(begun.iter().map(|held| held.run).collect::<Vec<_>>(), [round + 1]);
        desk.finish(&begun[0], End::Done, None).unwrap();
    }
}

#[test]
fn a_list_is_read_again_after_its_period_and_sooner_after_a_failure() {
    let desk = Desk::new();
    let ended = |end: End, period_ms| {
        let run = desk.db.read(|snapshot| catalogue::find(snapshot, "tsim")).map_or(0, |sync| sync.run);
        let held = desk.begin(run).unwrap();
        desk.finish(&held, end, period_ms).unwrap();
        desk.due_in(period_ms)
    };
    let hour = Some(PERIOD_MS);
    for end in [End::Done, End::Implausible("most of it is gone".to_owned()), End::Done] {
        let due = ended(end, hour).unwrap();
        assert!((PERIOD_MS * 9 / 10..=PERIOD_MS).contains(&due), "{due}");
    }
    assert_eq!(desk.due_in(Some(60_000)), Some(60_000), "the period became shorter");
    assert_eq!(desk.due_in(None), None, "only when the operator asks");
    assert_eq!(ended(End::Done, None), None);
    assert_eq!(desk.due_in(hour), Some(PERIOD_MS), "it became one that is read by itself");

    let pauses: Vec<i64> = (0..6).map(|_| ended(failed("no answer", None), hour).unwrap()).collect();
    assert!(
        pauses
            .iter()
            .zip([32_000, 64_000, 128_000, 256_000, 300_000, 300_000])
            .all(|(pause, middle)| { (middle * 4 / 5..=middle * 6 / 5).contains(pause) }),
        "{pauses:?}"
    );
    assert_eq!((desk.sync().failures, desk.sync().detail.as_str()), (6, "no answer"));
    let told = desk.clock.now().plus_millis(2 * PERIOD_MS);
    assert_eq!(ended(failed("too often", Some(told)), hour), Some(2 * PERIOD_MS), "it said when to come again");
    assert_eq!(ended(failed("no answer", None), None), None);
    ended(End::Done, hour);
    assert_eq!((desk.sync().failures, desk.sync().detail.as_str()), (0, ""));
    assert!(ended(failed("no answer", None), hour).unwrap() < 40_000, "it begins anew");

    let held = desk.begin(desk.sync().run).unwrap();
    desk.finish(&held, End::Interrupted, hour).unwrap();
    assert_eq!((desk.due_in(None), desk.sync().state, desk.sync().failures), (Some(0), SyncState::Running, 1));
}

#[test]
fn what_was_seen_of_the_last_list_and_what_changed_with_it_is_kept() {
    let desk = Desk::new();
    let held = desk.begin(0).unwrap();
    let left_out = LeftOutFor { reason: Unusable::BadCost, count: 3, examples: vec!["x".to_owned(), "y\"".to_owned()] };
    let seen = Seen { listed: 5, left_out: vec![left_out] };
    desk.note(&held, seen.clone()).unwrap();
    let first = desk.apply(&held, &[offer("a", 150)], Applied::default()).unwrap();
    let all = desk.apply(&held, &[offer("a", 140), offer("b", 150)], first.clone()).unwrap();
    let counted = |new, cheaper| BTreeMap::from([(ChangeKind::New, new), (ChangeKind::Cheaper, cheaper)]);
    assert_eq!((&all.changes, all.plans_made), (&counted(2, 1), 2));
    assert_eq!((desk.sync().seen, desk.sync().applied), (seen.clone(), all.clone()), "while it goes on, too");
    desk.clock.advance(1_000);
    desk.finish(&held, End::Done, Some(PERIOD_MS)).unwrap();
    let done = desk.sync();
    let (now, second_ago) = (desk.clock.now(), desk.clock.now().plus_millis(-1_000));
    assert_eq!(
        (done.state, done.started_at, done.finished_at, done.read_at),
        (SyncState::Done, second_ago, Some(now), Some(now))
    );

    // A failure tells nothing new of the list.
    desk.clock.advance(1_000);
    let held = desk.begin(1).unwrap();
    desk.finish(&held, failed(&"x".repeat(900), None), Some(PERIOD_MS)).unwrap();
    let sync = desk.sync();
    assert_eq!((sync.state, sync.seen, sync.applied), (SyncState::Failed, seen, all));
    assert_eq!((sync.finished_at, sync.read_at, sync.detail.len()), (Some(desk.clock.now()), Some(now), 500));

    let held = desk.begin(2).unwrap();
    desk.note(&held, Seen { listed: 1, left_out: Vec::new() }).unwrap();
    assert_eq!((desk.sync().seen.listed, desk.sync().applied), (1, Applied::default()));
    desk.finish(&held, End::Implausible("only 1 of 2".to_owned()), Some(PERIOD_MS)).unwrap();
    assert_eq!((desk.sync().state, desk.sync().detail), (SyncState::Implausible, "only 1 of 2".to_owned()));
    assert_eq!(desk.offers(), 2);
    assert_eq!(desk.db.read(catalogue::all), [desk.sync()]);
}
