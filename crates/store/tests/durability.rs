//! What is answered is durable, and what could not be made durable never was: full disks, groups of
//! commands, crowds, restarts, and more idempotency keys than memory holds.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::checkout::CheckoutRefusal;
use domain::id::{OrderId, PlanId, TenantId, first_at};
use domain::order::OrderFilter;
use domain::tenant::Mode;
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use store::checkout::{Checkout, Placed, SANDBOX, place_orders};
use store::ledger::TransactionFilter;
use store::port::{Decision, Event, Failure, Fault, KeyHash, Remembered, Tx};
use tokio::task::JoinSet;
use uuid::Uuid;
use world::*;

const PRICE: i64 = 450;

struct Shop {
    folder: Folder,
    clock: Clock,
    db: Option<Db>,
    tenant: TenantId,
    plan: PlanId,
}

impl Shop {
    fn new(credit: i64) -> Self {
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(sqlite(&folder, 1, clock.as_now()).unwrap());
        let (tenant, plan) = (tenant(&db, "acme", credit), on_sale(&db, SANDBOX, "sand", PRICE));
        Self { folder, clock, db: Some(db), tenant, plan }
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn close(&mut self) {
        self.db = None;
    }

    fn open(&mut self) {
        self.close();
        self.db = Some(Db::new(sqlite(&self.folder, 2, self.clock.as_now()).unwrap()));
    }

    fn checkout(&self, key: Option<u128>) -> Checkout {
        keyed(checkout(self.tenant, Mode::Test, &[(self.plan, 1)]), key)
    }

    fn balance(&self) -> i64 {
        self.db().balance(self.tenant, Mode::Test)
    }

    fn orders(&self) -> BTreeSet<OrderId> {
        orders(self.db(), self.tenant)
    }
}

fn keyed(mut checkout: Checkout, key: Option<u128>) -> Checkout {
    checkout.key = key.map(|key| (key.to_be_bytes(), [7; 16]));
    checkout
}

fn orders(db: &Db, tenant: TenantId) -> BTreeSet<OrderId> {
    let list = db
        .read(move |snapshot| store::order::list(snapshot, tenant, Mode::Test, &OrderFilter::default(), None, 100_000));
    list.orders.iter().map(|order| order.id).collect()
}

fn place(db: &Db, checkout: Checkout) -> Decision<Placed, CheckoutRefusal> {
    db.write(move |tx| place_orders(tx, &checkout))
}

fn number(db: &Db, sql: &'static str, value: &str) -> i64 {
    let sql = format!("{sql}{value}");
    let read =
        move |tx: &mut dyn Tx| -> Decision<i64, ()> { Ok(store::port::row(tx, &sql, &[], |row| row.int(0))?.unwrap()) };
    db.write(read).unwrap()
}

/// Lets the database grow by so many pages and no more, as a full disk does.
fn room_for(db: &Db, pages: i64) {
    let used = number(db, "pragma page_count", "");
    number(db, "pragma max_page_count = ", &(used + pages).to_string());
}

#[test]
fn on_a_full_disk_nothing_is_done_and_nothing_is_remembered() {
    let mut shop = Shop::new(10_000_000);
    room_for(shop.db(), 20);
    let mut acknowledged = BTreeSet::new();
    let refused = loop {
        let key = u128::try_from(acknowledged.len()).unwrap();
        match place(shop.db(), shop.checkout(Some(key))) {
            Ok(placed) => acknowledged.insert(placed.orders[0].id),
            Err(failure) => break (key, failure),
        };
    };
    let (key, failure) = refused;
    assert!(matches!(failure, Failure::Fault(Fault::StorageFull)), "{failure:?}");
    let spent = PRICE * i64::try_from(acknowledged.len()).unwrap();
    assert_eq!(shop.balance(), 10_000_000 - spent);
    assert_eq!(shop.orders(), acknowledged);
    // Still full: the same again. What needs no room is answered.
    let again = place(shop.db(), shop.checkout(Some(key)));
    assert!(matches!(again, Err(Failure::Fault(Fault::StorageFull))), "{again:?}");
    let replayed = place(shop.db(), shop.checkout(Some(0))).unwrap();
    assert!(replayed.replayed);
    // With room the key is as if it had never been used.
    room_for(shop.db(), 100_000);
    let placed = place(shop.db(), shop.checkout(Some(key))).unwrap();
    assert!(!placed.replayed);
    assert_eq!(placed.orders[0].number, format!("T1001-{:06}", acknowledged.len() + 1));
    acknowledged.insert(placed.orders[0].id);
    assert_eq!(shop.balance(), 10_000_000 - spent - PRICE);
    shop.open();
    assert_eq!(shop.orders(), acknowledged);
    assert!(place(shop.db(), shop.checkout(Some(key))).unwrap().replayed);
    assert_eq!(shop.db().check(), Ok(()));
}

/// A command on its way to the writer.
type Submitted<T, R> = Box<dyn FnMut(&mut dyn Tx) -> Decision<T, R> + Send>;

/// Holds the writer, hands it `commands`, and lets it go: they become one group.
fn as_one_group<T, R>(db: &Db, commands: Vec<Submitted<T, R>>) -> Vec<Decision<T, R>>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let (held, is_held) = channel();
    let (release, released) = channel::<()>();
    db.wait(async {
        let store = db.store.clone();
        let holding = tokio::spawn(async move {
            let hold = move |_: &mut dyn Tx| -> Decision<(), ()> {
                held.send(()).unwrap();
                let _ = released.recv();
                Ok(())
            };
            store.write(hold).await
        });
        while is_held.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        let mut waiting: Vec<_> = commands.into_iter().map(|command| Box::pin(db.store.write(command))).collect();
        // Polled once, a command is submitted.
        for command in &mut waiting {
            assert!(command.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(release);
        let mut decisions = Vec::new();
        for command in waiting {
            decisions.push(command.await);
        }
        holding.await.unwrap().unwrap();
        decisions
    })
}

type Placing = Submitted<Placed, CheckoutRefusal>;

fn placing(checkout: Checkout) -> Placing {
    Box::new(move |tx| place_orders(tx, &checkout))
}

/// Counts the groups that made something durable.
fn count_groups(db: &Db) -> Arc<Mutex<Vec<usize>>> {
    let groups: Arc<Mutex<Vec<usize>>> = Arc::default();
    let to_groups = Arc::clone(&groups);
    db.store.listen(Arc::new(move |events: &[Event]| {
        let entries = events.iter().filter(|event| matches!(event, Event::Appended(_))).count();
        to_groups.lock().unwrap().push(entries);
    }));
    groups
}

#[test]
fn a_refusal_in_a_group_refuses_nobody_else() {
    let shop = Shop::new(3 * PRICE);
    let groups = count_groups(shop.db());
    let plan = shop.plan;
    let dear = {
        let mut checkout = shop.checkout(Some(2));
        checkout.items = vec![(plan, 100)];
        checkout
    };
    // Writes, remembers a key, and is refused all the same.
    let late = {
        let checkout = shop.checkout(Some(3));
        move |tx: &mut dyn Tx| {
            place_orders(tx, &checkout)?;
            Err(Failure::Refused(CheckoutRefusal::IdempotencyKeyReused))
        }
    };
    let broken = {
        let checkout = shop.checkout(Some(4));
        move |tx: &mut dyn Tx| {
            place_orders(tx, &checkout)?;
            Err(Failure::Fault(Fault::Bug("on purpose".to_owned())))
        }
    };
    let panicking = {
        let checkout = shop.checkout(Some(5));
        move |tx: &mut dyn Tx| -> Decision<Placed, CheckoutRefusal> {
            place_orders(tx, &checkout)?;
            panic!("on purpose")
        }
    };
    let decisions = as_one_group(
        shop.db(),
        vec![
            placing(shop.checkout(Some(1))),
            placing(dear),
            Box::new(late),
            Box::new(broken),
            Box::new(panicking),
            placing(shop.checkout(Some(1))),
            placing(shop.checkout(Some(6))),
        ],
    );
    let [first, dear, late, broken, panicking, repeated, last] = decisions.try_into().unwrap();
    let (first, repeated, last) = (first.unwrap(), repeated.unwrap(), last.unwrap());
    assert!(matches!(dear, Err(Failure::Refused(CheckoutRefusal::InsufficientBalance { .. }))), "{dear:?}");
    assert!(matches!(late, Err(Failure::Refused(_))), "{late:?}");
    assert!(matches!(broken, Err(Failure::Fault(Fault::Bug(_)))), "{broken:?}");
    assert!(matches!(panicking, Err(Failure::Fault(Fault::Bug(_)))), "{panicking:?}");
    assert!(repeated.replayed && repeated.orders == first.orders, "a repeat in the same group");
    assert_eq!(*groups.lock().unwrap(), [2], "it was one group, and told what it did");
    assert_eq!(shop.orders(), BTreeSet::from([first.orders[0].id, last.orders[0].id]));
    assert_eq!(last.orders[0].number, "T1001-000002");
    assert_eq!(shop.balance(), PRICE);
    // The refused ones' keys are free.
    assert!(!place(shop.db(), shop.checkout(Some(4))).unwrap().replayed);
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn a_group_that_cannot_be_committed_leaves_no_trace() {
    let shop = Shop::new(10_000_000);
    let before = place(shop.db(), shop.checkout(Some(0))).unwrap();
    let groups = count_groups(shop.db());
    room_for(shop.db(), 1);
    let decisions = as_one_group(shop.db(), (1..=200).map(|key| placing(shop.checkout(Some(key)))).collect());
    assert!(decisions.iter().all(|decision| matches!(decision, Err(Failure::Fault(Fault::StorageFull)))));
    assert!(groups.lock().unwrap().is_empty(), "nobody is told of what never was");
    assert_eq!(shop.orders(), BTreeSet::from([before.orders[0].id]));
    assert_eq!(shop.balance(), 10_000_000 - PRICE);
    room_for(shop.db(), 100_000);
    for key in 1..=200 {
        assert!(!place(shop.db(), shop.checkout(Some(key))).unwrap().replayed);
    }
    assert_eq!(shop.balance(), 10_000_000 - 201 * PRICE);
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn a_thousand_commands_at_once() {
    let shop = Shop::new(0);
    let tenants: Vec<TenantId> =
        (0..50).map(|number| tenant(shop.db(), &format!("t{number:02}"), 12 * PRICE)).collect();
    let groups = count_groups(shop.db());
    let placed: Vec<(TenantId, Decision<Placed, CheckoutRefusal>)> = shop.db().wait(async {
        let mut crowd = JoinSet::new();
        for number in 0..1_000_u128 {
            let tenant = tenants[usize::try_from(number % 50).unwrap()];
            // Every fourth is a repeat of the one before it.
            let key =
                (number / 50 / 4 * 4) * 50 + number % 50 + if number / 50 % 4 == 1 { 0 } else { number / 50 % 4 * 50 };
            let checkout = keyed(checkout(tenant, Mode::Test, &[(shop.plan, 1)]), Some(key));
            let store = shop.db().store.clone();
            crowd.spawn(async move { (tenant, store.write(move |tx| place_orders(tx, &checkout)).await) });
        }
        crowd.join_all().await
    });
    assert_eq!(placed.len(), 1_000);
    for tenant in tenants {
        let of_tenant = || placed.iter().filter(|(of, _)| *of == tenant).map(|(_, decision)| decision);
        let made: Vec<OrderId> = of_tenant()
            .filter_map(|decision| decision.as_ref().ok())
            .filter(|placed| !placed.replayed)
            .map(|placed| placed.orders[0].id)
            .collect();
        assert_eq!(made.len(), 12, "exactly what the balance allows");
        assert_eq!(orders(shop.db(), tenant), made.into_iter().collect());
        assert_eq!(shop.db().balance(tenant, Mode::Test), 0);
        for decision in of_tenant() {
            let poor = matches!(decision, Err(Failure::Refused(CheckoutRefusal::InsufficientBalance { .. })));
            assert!(poor || decision.is_ok(), "{decision:?}");
        }
    }
    let groups = groups.lock().unwrap();
    assert!(groups.len() < 500, "they were committed in groups: {}", groups.len());
    assert_eq!(groups.iter().sum::<usize>(), 600);
    drop(groups);
    assert_eq!(shop.db().check(), Ok(()));
}

#[test]
fn a_caller_that_goes_away_leaves_the_command_to_finish() {
    let shop = Shop::new(PRICE);
    let checkout = shop.checkout(None);
    shop.db().wait(async {
        let mut command = Box::pin(shop.db().store.write(move |tx| place_orders(tx, &checkout)));
        let _ = command.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    });
    // The writer takes commands in order, so this one is behind it.
    shop.db().write(store::job::void_leases).unwrap();
    assert_eq!((shop.orders().len(), shop.balance()), (1, 0));
}

// A disk that is full at the commit: the files may not grow, by a limit of the operating system, which
// takes a process of its own.

const CHILD: &str = "STORE_TEST_CHILD";

#[test]
#[ignore = "the child of the tests below; does nothing by itself"]
fn child_whose_files_cannot_grow() {
    let Some(told) = std::env::var_os(CHILD) else { return };
    let told = told.into_string().unwrap();
    let [path, tenant, plan] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    let clock = Clock::new();
    let store = store::sqlite::Sqlite::open(path.as_ref(), 3, clock.as_now()).map(store::Store::new).unwrap();
    let db = Db::new(store);
    let wish = |key| {
        let checkout = checkout(tenant.parse().unwrap(), Mode::Test, &[(plan.parse().unwrap(), 1)]);
        keyed(checkout, Some(key))
    };
    let mut key = 0;
    let mut full = false;
    let mut lines = std::io::stdin().lines();
    loop {
        match place(&db, wish(key)) {
            Ok(placed) => {
                assert!(!placed.replayed, "a key is remembered without its order");
                println!("\nplaced {}", placed.orders[0].id);
                key += 1;
                if full {
                    println!("\ngoes on");
                    return;
                }
            }
            Err(Failure::Fault(Fault::Unavailable(_) | Fault::StorageFull)) => {
                full = true;
                println!("\nfull {}", db.balance(tenant.parse().unwrap(), Mode::Test));
                std::io::stdout().flush().unwrap();
                if !matches!(lines.next(), Some(Ok(line)) if line == "go on") {
                    return;
                }
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }
}

/// Runs the child until its files are full; then kills it, or gives it room.
fn with_files_that_cannot_grow(go_on: bool) {
    const CREDIT: i64 = 10_000_000;
    let mut shop = Shop::new(CREDIT);
    shop.close();
    let told = format!("{}|{}|{}", shop.folder.file().display(), shop.tenant, shop.plan);
    // Ignored, the signal becomes an error of the write.
    let mut child = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -S -f 2048; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_whose_files_cannot_grow", "--include-ignored", "--nocapture"])
        .env(CHILD, told)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeSet::new();
    let (mut was_full, mut went_on) = (false, false);
    let mut to_child = child.stdin.take().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("placed", id)) => {
                acknowledged.insert(id.parse().unwrap());
            }
            Some(("full", balance)) => {
                was_full = true;
                let spent = PRICE * i64::try_from(acknowledged.len()).unwrap();
                assert_eq!(balance.parse(), Ok(CREDIT - spent));
                if !go_on {
                    child.kill().unwrap();
                    break;
                }
                let pid = child.id().to_string();
                let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status();
                assert!(raised.unwrap().success());
                writeln!(to_child, "go on").unwrap();
            }
            Some(("goes", "on")) => went_on = true,
            _ => {}
        }
    }
    child.wait().unwrap();
    assert!(was_full && went_on == go_on, "full: {was_full}, went on: {went_on}");
    shop.open();
    assert_eq!(shop.orders(), acknowledged, "every acknowledged order, and nothing else");
    assert_eq!(shop.balance(), CREDIT - PRICE * i64::try_from(acknowledged.len()).unwrap());
    assert_eq!(shop.db().check(), Ok(()));
    // The key of the failed one is free, the others stand.
    let next = u128::try_from(acknowledged.len()).unwrap();
    assert!(!place(shop.db(), shop.checkout(Some(next))).unwrap().replayed);
    assert!(place(shop.db(), shop.checkout(Some(next - 1))).unwrap().replayed);
}

#[test]
fn a_commit_that_finds_no_room_never_was_and_the_next_one_goes_on() {
    with_files_that_cannot_grow(true);
}

#[test]
fn a_kill_behind_a_failed_commit_shows_what_was_answered_and_nothing_else() {
    with_files_that_cannot_grow(false);
}

// Restarts.

#[test]
fn a_clock_set_back_over_a_restart_changes_no_order_of_things() {
    let mut shop = Shop::new(10 * PRICE);
    let mut placed = Vec::new();
    for back in [0, -86_400_000, 0, -1] {
        shop.clock.advance(back);
        shop.open();
        placed.push(place(shop.db(), shop.checkout(None)).unwrap().orders[0].id);
        shop.db().index_all();
    }
    assert!(placed.is_sorted());
    let tenant = shop.tenant;
    let (page, transactions) = shop.db().read(move |snapshot| {
        let page = store::order::list(snapshot, tenant, Mode::Test, &OrderFilter::default(), None, 10)?;
        let filter = TransactionFilter::default();
        Ok((page, store::ledger::transactions(snapshot, tenant, Mode::Test, &filter, None, 10)?))
    });
    placed.reverse();
    assert_eq!(page.orders.iter().map(|order| order.id).collect::<Vec<_>>(), placed);
    assert_eq!(transactions.0.len(), 5);
    assert_eq!(shop.db().check(), Ok(()));
}

// Idempotency keys.

/// As many keys as the writer keeps in memory before it moves some to the on-disk index.
const MOST_IN_MEMORY: u64 = 262_144;

fn key(number: u64) -> KeyHash {
    // Spread, as hashes are.
    (u128::from(number) | 1 << 90).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes()
}

fn remember(db: &Db, numbers: std::ops::Range<u64>) {
    let command = move |tx: &mut dyn Tx| -> Decision<(), ()> {
        for number in numbers.clone() {
            let result = tx.fresh_id();
            tx.remember(key(number), Remembered { body_hash: [9; 16], result, count: u32::try_from(number).unwrap() })?;
        }
        Ok(())
    };
    db.write(command).unwrap();
}

fn recalled(db: &Db, number: u64) -> Option<u32> {
    let command = move |tx: &mut dyn Tx| -> Decision<Option<u32>, ()> {
        let remembered = tx.recall(&key(number))?;
        Ok(remembered.map(|remembered| remembered.count))
    };
    db.write(command).unwrap()
}

fn assert_recalled(db: &Db, many: u64) {
    for number in [0, 1, many / 5, many / 4, many / 3, many / 2, many - 2, many - 1] {
        assert_eq!(recalled(db, number), Some(u32::try_from(number).unwrap()), "{number}");
    }
    assert_eq!(recalled(db, many), None);
}

/// Counts on the writer, after it has moved all keys it wants to: it moves some behind every answer.
fn rows(shop: &Shop, table: &'static str) -> i64 {
    for _ in 0..150 {
        recalled(shop.db(), u64::MAX);
    }
    number(shop.db(), "select count(*) from ", table)
}

#[test]
fn keys_beyond_memory_are_found_on_disk_and_after_a_restart() {
    let mut shop = Shop::new(0);
    let many = MOST_IN_MEMORY + 10;
    remember(shop.db(), 0..many - 5);
    remember(shop.db(), many - 5..many);
    let moved = rows(&shop, "idempotency_index");
    assert!(moved > 60_000, "{moved}");
    assert_recalled(shop.db(), many);
    shop.open();
    assert_recalled(shop.db(), many);
    // What is swept is forgotten, in memory as on disk.
    shop.clock.advance(1);
    let before = shop.clock.now();
    remember(shop.db(), many + 1..many + 2);
    let moved = rows(&shop, "idempotency_index");
    for _ in 0..3 {
        shop.db().write(move |tx| store::retention::sweep(tx, before, before, before, before)).unwrap();
    }
    assert_eq!(recalled(shop.db(), 0), None);
    assert_eq!(rows(&shop, "idempotency_index"), moved - 3_000);
    remember(shop.db(), 0..1);
    assert_eq!(recalled(shop.db(), 0), Some(0));
    assert_eq!(recalled(shop.db(), many + 1), Some(u32::try_from(many + 1).unwrap()));
}

#[test]
fn keys_that_were_never_moved_to_disk_are_loaded_all_the_same() {
    let mut shop = Shop::new(0);
    let many = MOST_IN_MEMORY + 300;
    shop.close();
    // A process that ended between the commit of these keys and their move.
    let mut raw = rusqlite::Connection::open(shop.folder.file()).unwrap();
    let writing = raw.transaction().unwrap();
    let sql = "insert into idempotency_keys (result_id, key_hash, body_hash, made) values (?1, ?2, ?3, ?4)";
    let base = first_at(shop.clock.now()).as_u128();
    let mut insert = writing.prepare(sql).unwrap();
    for number in 0..many {
        let result = Uuid::from_u128(base + u128::from(number));
        insert.execute((result.as_bytes(), key(number), [9_u8; 16], i64::try_from(number).unwrap())).unwrap();
    }
    drop(insert);
    writing.commit().unwrap();
    drop(raw);
    for _ in 0..2 {
        shop.open();
        assert_recalled(shop.db(), many);
    }
    assert!(rows(&shop, "idempotency_index") > 60_000, "the surplus moved");
    shop.open();
    assert_recalled(shop.db(), many);
}

#[test]
fn keys_half_moved_to_disk_are_all_known_after_a_restart() {
    let mut shop = Shop::new(0);
    let many = MOST_IN_MEMORY + 10;
    remember(shop.db(), 0..many);
    recalled(shop.db(), 0);
    shop.open();
    let moved: i64 = number(shop.db(), "select count(*) from ", "idempotency_index");
    assert!((1..60_000).contains(&moved), "{moved}");
    for number in 0..many / 4 {
        assert_eq!(recalled(shop.db(), number), Some(u32::try_from(number).unwrap()), "{number}");
    }
}
