//! Many commands at once, from two nodes where the database is shared: whatever their order, money is conserved, a key
//! buys once, nobody spends what is not there, and every chain is whole.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy knows tests by their attribute, not what they share")]

mod world;

use domain::checkout::CheckoutRefusal;
use domain::fulfilment::Outcome;
use domain::id::{CheckoutId, PlanId, TenantId};
use domain::tenant::Mode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use store::Store;
use store::checkout::{Placed, SANDBOX, place_orders};
use store::fulfilment::{
    CancelRefusal, Heard, LeaseLost, OperatorRefund, RefundRefusal, ask_cancel, needs_of_answer, record_answer,
    record_cancellations, refund_by_operator,
};
use store::port::{Decision, Failure};
use store::tenant::adjust;
use world::*;

const TENANTS: usize = 5;
const BUYERS: u64 = 12;
const COMMANDS: usize = 60;
/// Few, so that several buyers use one at once.
const KEYS: u64 = 60;

/// What each key of a tenant was answered with.
type Answers = Arc<Mutex<HashMap<(TenantId, u64), Vec<(CheckoutId, bool)>>>>;

fn refused<T, R>(decision: Decision<T, R>) -> Result<T, R> {
    decision.map_err(|failure| match failure {
        Failure::Refused(refusal) => refusal,
        Failure::Fault(fault) => panic!("{fault}"),
    })
}

#[derive(Clone)]
struct Buyer {
    store: Store,
    tenants: Arc<[TenantId]>,
    plans: Arc<[PlanId]>,
    answers: Answers,
}

impl Buyer {
    async fn run(self, seed: u64) {
        let mut random = Random(seed);
        for _ in 0..COMMANDS {
            let tenant = random.pick(&self.tenants);
            match random.below(10) {
                0..5 => self.buy(&mut random, tenant).await,
                5..9 => self.work(&mut random).await,
                _ => {
                    let amount = random.between(1, 3_000);
                    let act = act();
                    let adjusted = move |tx: &mut dyn store::port::Tx| {
                        adjust(tx, &act, tenant, Mode::Test, usd(amount), "more", None)
                    };
                    refused(self.store.write(adjusted).await).unwrap();
                }
            }
        }
    }

    async fn buy(&self, random: &mut Random, tenant: TenantId) {
        let key = random.below(KEYS);
        let mut checkout = checkout(tenant, Mode::Test, &[(random.pick(&self.plans), 3)]);
        // A key is hashed with its scope.
        checkout.key = Some(((tenant.uuid().as_u128() ^ u128::from(key)).to_be_bytes(), [7; 16]));
        match refused(self.store.write_needing(checkout.needs(), move |tx| place_orders(tx, &checkout)).await) {
            Ok(Placed { checkout, replayed, .. }) => {
                self.answers.lock().unwrap().entry((tenant, key)).or_default().push((checkout, replayed));
            }
            Err(CheckoutRefusal::InsufficientBalance { required, credit_balance }) => {
                assert!(required.minor() > credit_balance.minor())
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Takes some jobs up and answers them, or asks for something back.
    async fn work(&self, random: &mut Random) {
        let leased = refused(self.store.write(|tx| claim_any(tx, 4, LEASE_MS)).await).unwrap();
        for leased in leased {
            let order = leased.order;
            if let store::fulfilment::Task::TakeBack(list) = &leased.task {
                let answers: Vec<_> =
                    list.iter().map(|back| (back.esim, domain::fulfilment::Cancellation::Cancelled)).collect();
                let recorded = move |tx: &mut dyn store::port::Tx| record_cancellations(tx, &leased, &answers, 5);
                refused(self.store.write(recorded).await).unwrap_or_else(|LeaseLost| panic!("nobody else holds it"));
                continue;
            }
            let profiles = |count: u64| (0..count).map(|number| profile(&format!("{order}-{number}"))).collect();
            let outcome = match random.below(4) {
                0 => Outcome::Refused { code: "sold_out".to_owned(), message: String::new() },
                1 => Outcome::Done { profiles: profiles(1) },
                _ => Outcome::Done { profiles: profiles(3) },
            };
            let needs = needs_of_answer(&leased);
            let sold = leased.sold;
            let recorded = move |tx: &mut dyn store::port::Tx| {
                record_answer(tx, &leased, &Heard::Place(outcome.clone()), "raw", None, PATIENCE)
            };
            refused(self.store.write_behind(needs, recorded).await)
                .unwrap_or_else(|LeaseLost| panic!("nobody else holds it"));
            if random.chance(50) {
                let act = act();
                let refunded = move |tx: &mut dyn store::port::Tx| {
                    refund_by_operator(tx, &act, order, &OperatorRefund::Rest, "unhappy", None)
                };
                match refused(self.store.write(refunded).await) {
                    Ok(_) | Err(RefundRefusal::AlreadyRefunded | RefundRefusal::Processing) => {}
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
            if random.chance(30) {
                let scope = scope(sold.tenant, sold.mode);
                match refused(self.store.write(move |tx| ask_cancel(tx, scope, order, None)).await) {
                    Ok(_) | Err(CancelRefusal::NotCancellable) => {}
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
        }
    }
}

#[test]
fn many_commands_at_once_leave_the_books_whole() {
    for round in 0..3 {
        let seed = seed(70 + round);
        println!("STORE_SEED={seed}");
        let (folder, clock) = (Folder::new(), Clock::new());
        let db = Db::new(database(&folder, seed, clock.as_now()).unwrap());
        let tenants: Arc<[TenantId]> =
            (0..TENANTS).map(|number| tenant(&db, &format!("tenant-{number}"), 20_000)).collect();
        let plans = Arc::new([on_sale(&db, SANDBOX, "sand", 450), on_sale(&db, SANDBOX, "dear sand", 5_000)]);
        // On a shared database the other node has a clock that goes wrong.
        let other = db.store.is_shared().then(|| {
            let behind = clock.clone();
            database(&folder, !seed, Arc::new(move || behind.now().plus_millis(-700))).unwrap()
        });
        let answers = Answers::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut buyers = tokio::task::JoinSet::new();
            for number in 0..BUYERS {
                let store = other.as_ref().filter(|_| number % 2 == 1).unwrap_or(&db.store).clone();
                let (tenants, plans) = (Arc::clone(&tenants), Arc::clone(&plans) as Arc<[PlanId]>);
                let buyer = Buyer { store, tenants, plans, answers: Arc::clone(&answers) };
                buyers.spawn(buyer.run(seed.wrapping_mul(1_000) + number));
            }
            while let Some(ended) = buyers.join_next().await {
                ended.unwrap();
            }
        });
        for ((tenant, key), answers) in answers.lock().unwrap().iter() {
            let first: Vec<_> = answers.iter().filter(|(_, replayed)| !replayed).collect();
            assert_eq!(first.len(), 1, "key {key} of {tenant} bought once: {answers:?}");
            assert!(answers.iter().all(|(checkout, _)| *checkout == first[0].0), "{answers:?}");
        }
        for tenant in tenants.iter() {
            let entries = db.read(|snapshot| store::ledger::after(snapshot, &[], u32::MAX));
            let mut chain: Vec<_> =
                entries.into_iter().filter(|entry| entry.tenant == *tenant && entry.mode == Mode::Test).collect();
            assert!(chain.is_sorted_by_key(|entry| entry.position), "ids go by the order of the chain");
            assert!(chain.iter().all(|entry| entry.balance_after.minor() >= 0), "nobody spends what is not there");
            let last = chain.pop().unwrap();
            assert_eq!(db.balance(*tenant, Mode::Test), last.balance_after.minor());
        }
        assert_eq!(db.check(), Ok(()));
        assert_eq!(db.read(store::audit::check), None);
        drop(runtime);
        if std::env::var_os("STORE_SEED").is_some() {
            return;
        }
    }
}
