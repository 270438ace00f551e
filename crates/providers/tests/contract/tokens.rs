//! Upstreams that let calls in by a token.

use crate::stage::{Case, Stage};
use domain::fulfilment::{NotYet, Outcome};
use providers::NotRead;
use providers::sandbox::DELIVERS;
use providers::simulator::{Fault, Planned, Said};

/// Milliseconds after which any token is too old.
const LONG: i64 = 400 * 86_400_000;

pub async fn without_a_token_nothing_is_bought(case: Case) {
    let stage = Stage::of(case).await;
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::ServerError, Fault::TooManyRequests] {
        stage.simulator.faults().next(fault, "token", 1);
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
        assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::TryLater { .. })), "{fault:?}: {placed:?}");
        // A failure is held for a while.
        stage.advance(60_000);
    }
    assert_eq!(stage.sales(), 0);
    assert_eq!(stage.buy("order-1-1", DELIVERS, 1).await.0.len(), 1);
}

pub async fn an_old_token_is_replaced_once(case: Case) {
    let stage = Stage::of(case).await;
    let before = stage.now();
    stage.upstream.offers(before).await.meaning.unwrap();
    // By our clock it is still good; by the upstream's it is not.
    stage.advance(LONG);
    let placed = stage.upstream.place(before, stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::Provisioning { .. })), "{placed:?}");
    assert_eq!(stage.sales(), 1);
    // By ours it is not: no other is tried first, so that a token that cannot be had is the end of it.
    stage.simulator.faults().next(Fault::ServerError, "token", 1);
    let placed = stage.upstream.place(before.plus_millis(LONG), stage.purchase("order-2-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::TryLater { .. })), "{placed:?}");
    assert_eq!(stage.sales(), 1);
}

pub async fn who_comes_meanwhile_waits_for_the_token(case: Case) {
    let stage = Stage::of(case).await;
    // The first fetch takes its time; a second one would fail.
    let fault = |fault, delay_ms| Planned { delay_ms, ..Planned::once(fault, "token") };
    stage.simulator.faults().plan(fault(Fault::Delay, 100));
    stage.simulator.faults().plan(fault(Fault::ServerError, 0));
    let now = stage.now();
    let (one, other) = tokio::join!(stage.upstream.offers(now), stage.upstream.offers(now));
    assert_eq!(one.meaning.unwrap().len(), other.meaning.unwrap().len());
}

pub async fn a_token_that_cannot_be_had_is_asked_for_once(case: Case) {
    let stage = Stage::of(case).await;
    let says = Said { status: 500, body: "<html>".into() };
    stage.simulator.faults().plan(Planned { says, times: 100, ..Planned::once(Fault::Says, "token") });
    let asked = (0..12).map(|waited| stage.upstream.balance(stage.now().plus_millis(waited * 10)));
    for heard in futures_util::future::join_all(asked).await {
        assert!(matches!(heard.meaning, Err(NotRead::TryLater { .. })), "{heard:?}");
    }
    assert_eq!(stage.simulator.faults().left("token"), 99, "one of the hundred was used up");
    stage.simulator.faults().clear();
    stage.advance(60_000);
    assert!(stage.upstream.balance(stage.now()).await.meaning.is_ok());
}
