//! Faults of the wire: what may have been sold is never called refused, and what certainly was not is tried later.

use crate::stage::{Case, Stage, one_of_each};
use domain::fulfilment::{LookUp, NotYet, Outcome};
use providers::NotRead;
use providers::sandbox::DELIVERS;
use providers::simulator::{Fault, Planned, Said};
use serde_json::json;
use std::time::Duration;

pub async fn too_many_requests_are_tried_later(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.faults().next(Fault::TooManyRequests, stage.case.buying, 1);
    let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::TryLater { .. })), "{placed:?}");
    assert_eq!(stage.sales(), 0);
    assert_eq!(stage.buy("order-1-1", DELIVERS, 1).await.0.len(), 1);
}

pub async fn a_page_in_html_says_nothing_about_the_sale(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.faults().next(Fault::ServerError, stage.case.buying, 1);
    let purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    if stage.case.looking_up.is_empty() {
        return;
    }
    stage.simulator.faults().next(Fault::ServerError, stage.case.looking_up, 1);
    let heard = stage.upstream.look_up(stage.now(), purchase).await;
    assert!(matches!(heard.meaning, LookUp::NoAnswer { .. }), "{heard:?}");
}

pub async fn an_answer_that_comes_too_late_says_nothing_about_the_sale(case: Case) {
    let stage = Stage::of(case).await;
    let hasty = stage.adapter_with(&stage.keys, Duration::from_millis(150));
    // Some log in first.
    let _ = hasty.offers(stage.now()).await;
    let late = Planned { delay_ms: 2_000, ..Planned::once(Fault::Delay, stage.case.buying) };
    stage.simulator.faults().plan(late);
    let placed = hasty.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
}

pub async fn an_upstream_that_is_away_has_sold_nothing(case: Case) {
    let stage = Stage::of(case).await;
    let nobody = providers::connection::Address {
        // Port 9, "discard": nothing listens there.
        base_url: "http://127.0.0.1:9/".parse().unwrap(),
        proxy: None,
        time_limit: Duration::from_secs(5),
    };
    let connection = providers::connection::Connection::new(&nobody).unwrap();
    let away = (stage.case.adapter)(connection, &stage.keys);
    let placed = away.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::NotYet(NotYet::TryLater { .. })), "{placed:?}");
    let offers = away.offers(stage.now()).await.meaning;
    assert!(matches!(offers, Err(NotRead::TryLater { .. })), "{offers:?}");
}

pub async fn wrong_types_mean_the_same(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.faults().next(Fault::WrongTypes, "", 1_000);
    let (profiles, _) = stage.buy("order-1-1", DELIVERS, 1).await;
    let shop = stage.simulator.shop();
    assert_eq!(profiles[0].iccid, shop.esims(&shop.sales()[0])[0].profile.iccid);
    let offers = one_of_each(stage.upstream.offers(stage.now()).await.meaning.unwrap());
    assert_eq!(offers.len(), shop.plans().len());
}

pub async fn what_is_unavailable_may_have_sold(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let unavailable = json!({"code": "2000", "msg": "unavailable"});
    for status in [200, 400, 503] {
        stage.simulator.faults().say(stage.case.buying, status, unavailable.clone());
        let placed = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
        assert!(matches!(placed, Outcome::Unknown { .. }), "{status}: {placed:?}");
    }
    // Who is told that it was one call too many was not sold anything, in whatever status.
    for status in [200, 429, 503] {
        stage.simulator.faults().say(stage.case.buying, status, json!({"code": "0429", "msg": "too frequent"}));
        let placed = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
        assert!(matches!(placed, Outcome::NotYet(NotYet::TryLater { .. })), "{status}: {placed:?}");
    }
    assert_eq!(stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning, LookUp::NotFound);
    let says = Said { status: 200, body: unavailable };
    stage.simulator.faults().plan(Planned { says, ..Planned::once(Fault::DoesAndSays, stage.case.buying) });
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(placed, Outcome::Unknown { .. }), "{placed:?}");
    assert_eq!((stage.found(&mut purchase).await.len(), stage.sales()), (1, 1));
}
