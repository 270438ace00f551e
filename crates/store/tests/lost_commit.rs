//! The connection breaks at a commit: whether the server still got it or not, the command takes effect once, and its
//! caller hears the truth, or that nobody knows.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::tenant::Mode;
use std::time::Duration;
use store::Store;
use store::port::{Failure, Fault};
use store::postgres::{Postgres, Settings};
use store::tenant::adjust;
use testing::{FreshDatabase, Proxy};
use world::*;

struct Broken {
    _database: FreshDatabase,
    proxy: Proxy,
    clock: Clock,
    db: Db,
}

impl Broken {
    fn new() -> Self {
        let (database, clock) = (FreshDatabase::new(), Clock::new());
        let url = database.url();
        let (server, name) = url.strip_prefix("postgres://postgres@").unwrap().split_once('/').unwrap();
        let proxy = Proxy::to(server);
        let settings = Settings {
            url: format!("postgres://postgres@{}/{name}?sslmode=disable", proxy.address()),
            connections: 5,
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
        };
        let postgres = Postgres::open(&settings, 1, clock.as_now()).unwrap();
        postgres.started();
        Self { _database: database, proxy, clock, db: Db::new(Store::new(postgres)) }
    }
}

/// The words of every commit that writes.
const COMMIT: &str = "; commit";

#[test]
fn a_commit_whose_answer_was_lost_is_done_once_and_told() {
    // The commit itself, and then those of the looks for it.
    let faults: [&[bool]; 8] = [
        &[true],
        &[false],
        &[true, true],
        &[false, false],
        &[true, false],
        &[false, true],
        &[false, true, true],
        &[false, false, true, true],
    ];
    for arrives in faults {
        let broken = Broken::new();
        let tenant = tenant(&broken.db, "acme", 0);
        broken.proxy.break_at(COMMIT, arrives);
        let adjusted =
            broken.db.write(move |tx| adjust(tx, &act(), tenant, Mode::Live, usd(700), "once", None)).unwrap();
        assert_eq!(adjusted.0.entry.balance_after, usd(700), "{arrives:?}");
        broken.clock.advance(1);
        assert_eq!(broken.db.balance(tenant, Mode::Live), 700, "{arrives:?}");
        assert_eq!(broken.db.check(), Ok(()));
    }
}

#[test]
fn a_commit_that_nobody_can_find_out_about_is_not_run_again() {
    let broken = Broken::new();
    let tenant = tenant(&broken.db, "acme", 0);
    // Every look is lost, too, until nobody waits any longer.
    broken.proxy.break_at(COMMIT, &[true; 1_000]);
    let unknown = broken.db.write(move |tx| adjust(tx, &act(), tenant, Mode::Live, usd(700), "once", None));
    assert!(matches!(unknown, Err(Failure::Fault(Fault::Unavailable(_)))), "{unknown:?}");
    broken.proxy.break_at("never sent", &[]);
    assert_eq!(broken.db.balance(tenant, Mode::Live), 700, "it was committed, once");
    broken.db.write(move |tx| adjust(tx, &act(), tenant, Mode::Live, usd(1), "more", None)).unwrap();
    assert_eq!(broken.db.balance(tenant, Mode::Live), 701);
    assert_eq!(broken.db.check(), Ok(()));
}
