//! The sandbox seen from outside: what its special plans do, what survives a crash, and that every
//! reference is sold once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

use domain::fulfilment::{Cancellation, LookUp, NotYet, Outcome, Profile};
use domain::time::Timestamp;
use providers::sandbox::{
    ANSWER_LOST, BUSY, DELIVERS, KEEPS, LATE_SALE, PARTIAL, ProfileState, REFUSES, SLOW, Sandbox, SandboxError,
    SandboxOptions, UNKNOWN, catalogue,
};
use providers::{Purchase, SoldEsim, Upstream};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const DELAY: i64 = 1_500;

/// A folder of its own for each test, removed with its contents.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sandbox-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("sandbox.db")
    }

    fn open(&self, seed: u64, delay_ms: i64) -> Sandbox {
        Sandbox::open(self.file(), SandboxOptions { seed, delay_ms }).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn world(delay_ms: i64) -> Sandbox {
    Sandbox::in_memory(SandboxOptions { seed: 42, delay_ms }).unwrap()
}

fn purchase(plan: &str, reference: &str, quantity: u32) -> Purchase {
    Purchase { reference: reference.to_owned(), order: None, upstream_plan_id: plan.to_owned(), quantity }
}

fn after(millis: i64) -> Timestamp {
    NOW.plus_millis(millis)
}

fn esim(reference: &str, iccid: &str) -> SoldEsim {
    SoldEsim { reference: reference.to_owned(), order: None, iccid: iccid.to_owned(), handle: None }
}

async fn place(sandbox: &Sandbox, now: Timestamp, purchase: &Purchase) -> Outcome {
    sandbox.place(now, purchase.clone()).await.meaning
}

async fn look_up(sandbox: &Sandbox, now: Timestamp, purchase: &Purchase) -> LookUp {
    sandbox.look_up(now, purchase.clone()).await.meaning
}

async fn cancel(sandbox: &Sandbox, reference: &str, iccid: &str) -> Cancellation {
    sandbox.cancel(NOW, esim(reference, iccid)).await.meaning
}

async fn buy(sandbox: &Sandbox, plan: &str, reference: &str, quantity: u32) -> Vec<Profile> {
    match place(sandbox, NOW, &purchase(plan, reference, quantity)).await {
        Outcome::Done { profiles } => profiles,
        other => panic!("{other:?}"),
    }
}

async fn delivered(sandbox: &Sandbox, now: Timestamp, purchase: &Purchase) -> Vec<Profile> {
    match look_up(sandbox, now, purchase).await {
        LookUp::Delivered { profiles } => profiles,
        other => panic!("{other:?}"),
    }
}

fn provisioning(poll_at: Timestamp) -> (Outcome, LookUp) {
    (Outcome::NotYet(NotYet::Provisioning { poll_at }), LookUp::Provisioning { poll_at })
}

fn lost() -> Outcome {
    Outcome::Unknown { reason: "connection closed".to_owned() }
}

fn refusal_code(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

/// Not a refusal: it was sold, and has to be looked up.
fn assert_sold_before(outcome: Outcome) {
    match outcome {
        Outcome::Unknown { reason } => assert!(reason.starts_with("duplicate_reference"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn is_luhn_valid(iccid: &str) -> bool {
    let digits = iccid.bytes().rev().map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits.enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 / 10 + d * 2 % 10 } else { d }).sum();
    sum.is_multiple_of(10)
}

fn assert_valid(profile: &Profile) {
    assert_eq!(profile.iccid.len(), 19);
    assert!(profile.iccid.starts_with("89") && is_luhn_valid(&profile.iccid), "{}", profile.iccid);
    let flag = if profile.confirmation_code.is_some() { "$$1" } else { "" };
    assert_eq!(profile.activation_code, format!("LPA:1${}${}{flag}", profile.smdp_address, profile.matching_id));
    assert!(profile.activation_code.len() <= 255);
}

#[tokio::test]
async fn delivers_after_the_delay() {
    let sandbox = world(DELAY);
    for plan in [DELIVERS, "jp-1gb-7d", KEEPS] {
        let purchase = purchase(plan, &format!("{plan}-0"), 3);
        assert_eq!(look_up(&sandbox, NOW, &purchase).await, LookUp::NotFound);
        let (placed, looked_up) = provisioning(after(DELAY));
        assert_eq!(place(&sandbox, NOW, &purchase).await, placed);
        assert_eq!(look_up(&sandbox, after(DELAY - 1), &purchase).await, looked_up);
        let profiles = delivered(&sandbox, after(DELAY), &purchase).await;
        assert_eq!(profiles.len(), 3);
        profiles.iter().for_each(assert_valid);
        assert_eq!(profiles, delivered(&sandbox, after(60_000), &purchase).await);
        let sales = sandbox.sales(&purchase.reference, NOW, 10).await.unwrap();
        assert_eq!(sales.len(), 1);
        assert_eq!((sales[0].quantity, sales[0].sold_at, sales[0].cancelled_at), (3, NOW, None));
        assert_eq!(sales[0].upstream_plan_id, plan);
        assert_eq!(sales[0].iccids, profiles.into_iter().map(|profile| profile.iccid).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn without_a_delay_the_answer_is_the_delivery() {
    let sandbox = world(0);
    let purchase = purchase(DELIVERS, "a-0", 100);
    let heard = sandbox.place(NOW, purchase.clone()).await;
    let Outcome::Done { profiles } = heard.meaning else { panic!("{:?}", heard.meaning) };
    assert_eq!(profiles.len(), 100);
    assert_eq!(profiles.iter().filter(|profile| profile.confirmation_code.is_some()).count(), 2);
    assert!(heard.raw.contains(&profiles[0].iccid));
    for secret in [&profiles[0].matching_id, profiles[1].puk.as_ref().unwrap_or(&profiles[1].matching_id)] {
        assert!(!heard.raw.contains(secret.as_str()));
    }
    assert_eq!(delivered(&sandbox, NOW, &purchase).await, profiles);
}

#[tokio::test]
async fn slow_takes_30_seconds_whatever_the_delay() {
    for delay in [0, DELAY, 60_000] {
        let sandbox = world(delay);
        let purchase = purchase(SLOW, "a-0", 1);
        let (placed, looked_up) = provisioning(after(30_000));
        assert_eq!(place(&sandbox, NOW, &purchase).await, placed);
        assert_eq!(look_up(&sandbox, after(29_999), &purchase).await, looked_up);
        assert_eq!(delivered(&sandbox, after(30_000), &purchase).await.len(), 1);
    }
}

#[tokio::test]
async fn refuses_sells_nothing() {
    let sandbox = world(DELAY);
    let purchase = purchase(REFUSES, "a-0", 1);
    assert_eq!(refusal_code(place(&sandbox, NOW, &purchase).await), "refused");
    assert_eq!(look_up(&sandbox, after(60_000), &purchase).await, LookUp::NotFound);
    assert_eq!(sandbox.sales("", after(60_000), 10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn partial_keeps_the_last_one_back() {
    let sandbox = world(0);
    assert_eq!(buy(&sandbox, PARTIAL, "a-0", 5).await.len(), 4);
    assert_eq!(buy(&sandbox, PARTIAL, "b-0", 1).await, Vec::new());
    assert_eq!(delivered(&sandbox, NOW, &purchase(PARTIAL, "b-0", 1)).await, Vec::new());
    assert_eq!(buy(&sandbox, DELIVERS, "c-0", 1).await.len(), 1);
    let sold: Vec<(String, u32)> =
        sandbox.sales("", NOW, 10).await.unwrap().into_iter().map(|sale| (sale.reference, sale.quantity)).collect();
    assert_eq!(sold, [("c-0".to_owned(), 1), ("b-0".to_owned(), 0), ("a-0".to_owned(), 4)]);

    let delayed = world(DELAY);
    let purchase = purchase(PARTIAL, "a-0", 1);
    assert_eq!(place(&delayed, NOW, &purchase).await, provisioning(after(DELAY)).0);
    assert_eq!(delivered(&delayed, after(DELAY), &purchase).await, Vec::new());
}

#[tokio::test]
async fn busy_says_try_later_twice_and_remembers_it() {
    let folder = Folder::new();
    let busy = purchase(BUSY, "a-0", 2);
    for attempt in 0..2 {
        let sandbox = folder.open(1, 0);
        let now = after(attempt * 1_000);
        let expected = NotYet::TryLater { retry_at: Some(now.plus_millis(1_000)), reason: "busy".to_owned() };
        assert_eq!(place(&sandbox, now, &busy).await, Outcome::NotYet(expected));
        assert_eq!(look_up(&sandbox, now, &busy).await, LookUp::NotFound);
        assert_eq!(sandbox.sales("", now, 10).await, Ok(Vec::new()));
    }
    let sandbox = folder.open(1, 0);
    assert_eq!(buy(&sandbox, BUSY, "a-0", 2).await.len(), 2);
    assert_sold_before(place(&sandbox, NOW, &busy).await);
    let other = place(&sandbox, NOW, &purchase(BUSY, "a-1", 2)).await;
    assert!(matches!(other, Outcome::NotYet(NotYet::TryLater { .. })));
}

#[tokio::test]
async fn answer_lost_is_sold_and_found_at_once() {
    let sandbox = world(DELAY);
    let purchase = purchase(ANSWER_LOST, "a-0", 2);
    let heard = sandbox.place(NOW, purchase.clone()).await;
    assert_eq!((heard.meaning, heard.raw.as_str()), (lost(), "connection closed without an answer"));
    assert_eq!(look_up(&sandbox, NOW, &purchase).await, provisioning(after(DELAY)).1);
    assert_eq!(delivered(&sandbox, after(DELAY), &purchase).await.len(), 2);
    assert_eq!(sandbox.sales("a-", NOW, 10).await.unwrap().len(), 1);
    assert_sold_before(place(&sandbox, NOW, &purchase).await);
}

#[tokio::test]
async fn a_late_sale_appears_after_five_seconds() {
    let sandbox = world(DELAY);
    let late = purchase(LATE_SALE, "a-0", 2);
    assert_eq!(place(&sandbox, NOW, &late).await, lost());
    assert_eq!(look_up(&sandbox, after(4_999), &late).await, LookUp::NotFound);
    assert_eq!(sandbox.sales("a", after(4_999), 10).await, Ok(Vec::new()));
    assert!(sandbox.capabilities().settle_after_ms > 5_000);
    let profiles = delivered(&sandbox, after(5_000), &late).await;
    assert_eq!(profiles.len(), 2);
    let sales = sandbox.sales("a", after(5_000), 10).await.unwrap();
    assert_eq!(sales.iter().map(|sale| sale.sold_at).collect::<Vec<_>>(), [after(5_000)]);
}

#[tokio::test]
async fn buying_again_during_a_late_sale_sells_twice() {
    let sandbox = world(0);
    assert_eq!(place(&sandbox, NOW, &purchase(LATE_SALE, "a-0", 1)).await, lost());
    let again = place(&sandbox, NOW, &purchase(LATE_SALE, "a-0", 1)).await;
    assert_sold_before(again);
    assert_eq!(place(&sandbox, after(1_000), &purchase(LATE_SALE, "a-1", 1)).await, lost());
    assert_eq!(sandbox.sales("a-", after(5_000), 10).await.unwrap().len(), 1);
    assert_eq!(sandbox.sales("a-", after(6_000), 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn unknown_never_tells_and_sells_nothing() {
    let sandbox = world(0);
    let purchase = purchase(UNKNOWN, "a-0", 1);
    assert_eq!(place(&sandbox, NOW, &purchase).await, lost());
    for now in [NOW, after(3_600_000)] {
        assert!(matches!(look_up(&sandbox, now, &purchase).await, LookUp::CannotTell { .. }));
    }
    assert_eq!(sandbox.sales("", after(3_600_000), 10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn keeps_takes_nothing_back() {
    let sandbox = world(0);
    let iccid = buy(&sandbox, KEEPS, "a-0", 1).await.remove(0).iccid;
    assert!(matches!(cancel(&sandbox, "a-0", &iccid).await, Cancellation::Refused { .. }));
    assert_eq!(sandbox.profile(&iccid).await, Ok(ProfileState::Released));
}

#[tokio::test]
async fn impossible_purchases_are_refused() {
    let sandbox = world(0);
    buy(&sandbox, DELIVERS, "a-0", 1).await;
    for (plan, reference, quantity, code) in [
        (DELIVERS, "b-0", 0, "invalid_quantity"),
        (DELIVERS, "b-0", 101, "invalid_quantity"),
        ("sandbox-nothing", "b-0", 1, "unknown_plan"),
    ] {
        let outcome = place(&sandbox, NOW, &purchase(plan, reference, quantity)).await;
        assert_eq!(refusal_code(outcome), code);
    }
    for (plan, quantity) in [(DELIVERS, 1), ("jp-1gb-7d", 2)] {
        assert_sold_before(place(&sandbox, NOW, &purchase(plan, "a-0", quantity)).await);
    }
    assert_eq!(sandbox.sales("", NOW, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_ordinary_plan_can_be_bought() {
    let sandbox = world(0);
    for plan in catalogue().iter().skip(9) {
        assert_eq!(buy(&sandbox, &plan.upstream_plan_id, &plan.upstream_plan_id, 1).await.len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_installed_is_taken_back_once() {
    let sandbox = world(0);
    let profiles = buy(&sandbox, DELIVERS, "a-0", 2).await;
    let other = buy(&sandbox, DELIVERS, "b-0", 1).await;
    let cancel_at = |now: Timestamp, iccid: &str| sandbox.cancel(now, esim("a-0", iccid));

    assert_eq!(cancel_at(after(1), &profiles[0].iccid).await.meaning, Cancellation::Cancelled);
    assert_eq!(sandbox.sales("a-0", NOW, 1).await.unwrap()[0].cancelled_at, None);
    assert_eq!(cancel_at(after(2), &profiles[1].iccid).await.meaning, Cancellation::Cancelled);
    assert_eq!(cancel_at(after(3), &profiles[1].iccid).await.meaning, Cancellation::Cancelled);
    assert_eq!(sandbox.sales("a-0", NOW, 1).await.unwrap()[0].cancelled_at, Some(after(2)));
    assert_eq!(sandbox.profile(&profiles[0].iccid).await, Ok(ProfileState::Cancelled));

    for iccid in [other[0].iccid.as_str(), "8931070820307245732", "", "not an iccid"] {
        let heard = cancel_at(NOW, iccid).await;
        assert!(matches!(heard.meaning, Cancellation::Refused { .. }), "{iccid}");
    }
    assert_eq!(sandbox.profile(&other[0].iccid).await, Ok(ProfileState::Released));
}

#[tokio::test]
async fn what_was_installed_used_or_expired_stays() {
    let sandbox = world(0);
    let profiles = buy(&sandbox, DELIVERS, "a-0", 3).await;
    let iccid = |index: usize| profiles[index].iccid.as_str();
    assert_eq!(sandbox.install(iccid(0), NOW).await, Ok(ProfileState::Installed));
    assert_eq!(sandbox.install(iccid(0), NOW).await, Ok(ProfileState::Installed));
    assert_eq!(sandbox.use_data(iccid(1), NOW).await, Ok(ProfileState::Used));
    assert_eq!(sandbox.expire(iccid(2), NOW).await, Ok(ProfileState::Expired));
    for (index, word) in [(0, "installed"), (1, "used"), (2, "expired")] {
        match cancel(&sandbox, "a-0", iccid(index)).await {
            Cancellation::Refused { reason } => assert!(reason.contains(word), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sandbox.sales("a-0", NOW, 1).await.unwrap()[0].cancelled_at, None);
}

#[tokio::test]
async fn a_profile_moves_on_but_never_back() {
    let sandbox = world(0);
    let profiles = buy(&sandbox, DELIVERS, "a-0", 2).await;
    let (first, second) = (profiles[0].iccid.as_str(), profiles[1].iccid.as_str());
    sandbox.use_data(first, NOW).await.unwrap();
    assert_eq!(
        sandbox.install(first, NOW).await,
        Err(SandboxError::Impossible { from: ProfileState::Used, to: ProfileState::Installed })
    );
    assert_eq!(cancel(&sandbox, "a-0", second).await, Cancellation::Cancelled);
    for refused in
        [sandbox.install(second, NOW).await, sandbox.use_data(second, NOW).await, sandbox.expire(second, NOW).await]
    {
        assert!(matches!(refused, Err(SandboxError::Impossible { from: ProfileState::Cancelled, .. })));
    }
    assert_eq!(sandbox.install("8931070820307245732", NOW).await, Err(SandboxError::NotFound));
    assert_eq!(sandbox.profile("").await, Err(SandboxError::NotFound));
}

#[tokio::test]
async fn a_profile_of_a_late_sale_cannot_be_moved_before_it_is_sold() {
    let sandbox = world(0);
    let late = purchase(LATE_SALE, "a-0", 1);
    place(&sandbox, NOW, &late).await;
    let iccid = delivered(&sandbox, after(5_000), &late).await.remove(0).iccid;
    assert_eq!(sandbox.install(&iccid, after(4_999)).await, Err(SandboxError::NotFound));
    assert!(matches!(cancel(&sandbox, "a-0", &iccid).await, Cancellation::Refused { .. }));
    assert_eq!(sandbox.install(&iccid, after(5_000)).await, Ok(ProfileState::Installed));
}

#[tokio::test]
async fn sales_are_filtered_by_the_beginning_of_the_reference() {
    let sandbox = world(0);
    for reference in ["order1-1", "order1-2", "order10-1", "Order1-1", "other-1", "%-1"] {
        buy(&sandbox, DELIVERS, reference, 1).await;
    }
    for (prefix, limit, expected) in [
        ("order1-", 10, vec!["order1-2", "order1-1"]),
        ("order1", 10, vec!["order10-1", "order1-2", "order1-1"]),
        ("%", 10, vec!["%-1"]),
        ("o", 2, vec!["other-1", "order10-1"]),
        ("none", 10, vec![]),
    ] {
        let sales = sandbox.sales(prefix, NOW, limit).await.unwrap();
        let references: Vec<String> = sales.into_iter().map(|sale| sale.reference).collect();
        assert_eq!(references, expected, "{prefix}");
    }
    assert_eq!(sandbox.sales("", NOW, 100).await.unwrap().len(), 6);
}

#[tokio::test]
async fn the_world_survives_and_keeps_its_seed() {
    let folder = Folder::new();
    let purchase = purchase(DELIVERS, "a-0", 2);
    let sandbox = folder.open(1, 0);
    let profiles = buy(&sandbox, DELIVERS, "a-0", 2).await;
    sandbox.install(&profiles[0].iccid, NOW).await.unwrap();
    drop(sandbox);

    let sandbox = folder.open(999, 0);
    assert_eq!(delivered(&sandbox, NOW, &purchase).await, profiles);
    assert_eq!(sandbox.profile(&profiles[0].iccid).await, Ok(ProfileState::Installed));
    assert_eq!(sandbox.profile(&profiles[1].iccid).await, Ok(ProfileState::Released));
    assert_sold_before(place(&sandbox, NOW, &purchase).await);
    let next = buy(&sandbox, DELIVERS, "b-0", 1).await;
    assert!(!profiles.iter().any(|profile| profile.iccid == next[0].iccid));
}

#[tokio::test]
async fn what_was_answered_is_in_the_files_at_that_moment() {
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    let profiles = buy(&sandbox, DELIVERS, "a-0", 2).await;

    // The files as a crash would leave them: the world is still open and has not tidied up.
    let crashed = Folder::new();
    for suffix in ["", "-wal"] {
        let name = format!("sandbox.db{suffix}");
        std::fs::copy(folder.0.join(&name), crashed.0.join(&name)).unwrap();
    }
    let revived = crashed.open(1, 0);
    assert_eq!(delivered(&revived, NOW, &purchase(DELIVERS, "a-0", 2)).await, profiles);
}

/// Sells until it is killed when started by itself with `SANDBOX_TO_KILL`; a test otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_that_was_answered() {
    use std::io::{BufRead, Write};
    const FILE: &str = "SANDBOX_TO_KILL";
    if let Some(file) = std::env::var_os(FILE) {
        let sandbox = Sandbox::open(file, SandboxOptions { seed: 1, delay_ms: 0 }).unwrap();
        let mut buyers = tokio::task::JoinSet::new();
        for buyer in 0..64 {
            let sandbox = sandbox.clone();
            buyers.spawn(async move {
                for sale in 0.. {
                    let reference = format!("killed-{buyer}-{sale}");
                    let iccid = buy(&sandbox, DELIVERS, &reference, 1).await.remove(0).iccid;
                    writeln!(std::io::stdout(), "answered {reference} {iccid}").unwrap();
                }
            });
        }
        buyers.join_all().await;
    }
    let folder = Folder::new();
    let mut seller = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_kill_loses_nothing_that_was_answered", "--nocapture"])
        .env(FILE, folder.file())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut answered = Vec::new();
    for line in std::io::BufReader::new(seller.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let ["answered", reference, iccid] = line.split(' ').collect::<Vec<_>>()[..] {
            answered.push((reference.to_owned(), iccid.to_owned()));
        }
        if answered.len() == 2_000 {
            seller.kill().unwrap();
        }
    }
    seller.wait().unwrap();
    assert!(answered.len() >= 2_000);
    // The kill may have cut the last line short.
    answered.pop();

    let sandbox = folder.open(1, 0);
    for (reference, iccid) in answered {
        let profiles = delivered(&sandbox, NOW, &purchase(DELIVERS, &reference, 1)).await;
        assert_eq!(profiles[0].iccid, iccid);
    }
}

#[tokio::test]
async fn the_same_seed_makes_the_same_world() {
    let mut worlds = Vec::new();
    for seed in [5, 5, 6] {
        let sandbox = Sandbox::in_memory(SandboxOptions { seed, delay_ms: 0 }).unwrap();
        let mut profiles = buy(&sandbox, DELIVERS, "a-0", 60).await;
        profiles.extend(buy(&sandbox, PARTIAL, "b-0", 3).await);
        worlds.push(profiles);
    }
    assert_eq!(worlds[0], worlds[1]);
    let ours: HashSet<&String> = worlds[0].iter().map(|profile| &profile.iccid).collect();
    assert!(!worlds[2].iter().any(|profile| ours.contains(&profile.iccid)));
}

#[tokio::test]
async fn two_worlds_do_not_mix() {
    let (first, second) = (Folder::new(), Folder::new());
    let (one, two) = (first.open(1, 0), second.open(2, 0));
    let iccid = buy(&one, DELIVERS, "a-0", 1).await.remove(0).iccid;
    assert_eq!(look_up(&two, NOW, &purchase(DELIVERS, "a-0", 1)).await, LookUp::NotFound);
    assert_eq!(two.profile(&iccid).await, Err(SandboxError::NotFound));
    assert!(matches!(cancel(&two, "a-0", &iccid).await, Cancellation::Refused { .. }));
    assert_eq!(two.sales("", NOW, 10).await, Ok(Vec::new()));
    buy(&two, DELIVERS, "a-0", 1).await;
    assert_eq!(one.sales("", NOW, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_closed_world_refuses_and_can_be_opened_again() {
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    buy(&sandbox, DELIVERS, "a-0", 1).await;
    sandbox.clone().close().await;
    sandbox.close().await;
    let refused = place(&sandbox, NOW, &purchase(DELIVERS, "b-0", 1)).await;
    assert!(matches!(refused, Outcome::NotYet(NotYet::TryLater { .. })));
    assert!(matches!(look_up(&sandbox, NOW, &purchase(DELIVERS, "a-0", 1)).await, LookUp::NoAnswer { .. }));
    assert!(matches!(cancel(&sandbox, "a-0", &"8".repeat(19)).await, Cancellation::Refused { .. }));
    assert_eq!(sandbox.sales("", NOW, 10).await, Err(SandboxError::Closed));
    assert_eq!(folder.open(1, 0).sales("", NOW, 10).await.unwrap().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    buy(&sandbox, DELIVERS, "a-0", 1).await;
    for entry in std::fs::read_dir(&folder.0).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_world_that_cannot_be_opened_says_so() {
    let folder = Folder::new();
    let options = SandboxOptions { seed: 1, delay_ms: 0 };
    let missing = Sandbox::open(folder.0.join("missing/sandbox.db"), options);
    assert!(matches!(missing, Err(SandboxError::Storage(_))));
    std::fs::write(folder.file(), "this is no database, though it is long enough to be looked at").unwrap();
    assert!(matches!(Sandbox::open(folder.file(), options), Err(SandboxError::Storage(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sales_in_flight_are_each_sold_once() {
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    let mut buyers = tokio::task::JoinSet::new();
    // Two buyers for each reference: exactly one of them may get it.
    for number in 0..2_000_u32 {
        let sandbox = sandbox.clone();
        buyers.spawn(async move {
            let reference = format!("order-{}", number / 2);
            place(&sandbox, NOW, &purchase(DELIVERS, &reference, number / 2 % 3 + 1)).await
        });
    }
    let (mut sold, mut refused, mut iccids) = (0, 0, HashSet::new());
    for outcome in buyers.join_all().await {
        match outcome {
            Outcome::Done { profiles } => {
                sold += 1;
                for profile in profiles {
                    assert_valid(&profile);
                    assert!(iccids.insert(profile.iccid));
                }
            }
            other => {
                assert_sold_before(other);
                refused += 1;
            }
        }
    }
    assert_eq!((sold, refused, iccids.len()), (1_000, 1_000, 1_999));
    let sales = sandbox.sales("order-", NOW, 10_000).await.unwrap();
    assert_eq!(sales.len(), 1_000);
    assert_eq!(sales.into_iter().flat_map(|sale| sale.iccids).collect::<HashSet<_>>(), iccids);
}

#[tokio::test]
async fn a_caller_who_goes_away_changes_nothing() {
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    for number in 0..100 {
        let reference = format!("gone-{number:03}");
        let mut placing = sandbox.place(NOW, purchase(DELIVERS, &reference, 1));
        let nothing_yet = std::future::poll_fn(|context| std::task::Poll::Ready(placing.as_mut().poll(context)));
        drop(nothing_yet.await);
    }
    buy(&sandbox, DELIVERS, "stays-0", 1).await;
    assert_eq!(sandbox.sales("gone-", NOW, 1_000).await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_with_many_in_flight() {
    const BUYERS: u32 = 512;
    const EACH: u32 = 40;
    let folder = Folder::new();
    let sandbox = folder.open(1, 0);
    let started = std::time::Instant::now();
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..BUYERS {
        let sandbox = sandbox.clone();
        buyers.spawn(async move {
            for sale in 0..EACH {
                let reference = format!("0192f0c1-0000-7000-8000-{sale:06}{buyer:06}-0");
                buy(&sandbox, DELIVERS, &reference, 1).await;
            }
        });
    }
    buyers.join_all().await;
    let seconds = started.elapsed().as_secs_f64();
    println!("{:.0} sales/s with {BUYERS} in flight", f64::from(BUYERS * EACH) / seconds);
}
