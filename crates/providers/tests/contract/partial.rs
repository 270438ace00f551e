//! Sales of which not all comes, and of several that are told one by one.

use crate::stage::{Case, Stage};
use domain::fulfilment::LookUp;
use providers::NotRead;
use providers::callback::About;
use providers::sandbox::{DELIVERS, PARTIAL};
use serde_json::json;
use std::collections::BTreeSet;

pub async fn what_does_not_come_is_not_waited_for(case: Case) {
    let stage = Stage::of(case).await;
    let (profiles, _) = stage.buy("order-1-1", PARTIAL, 3).await;
    assert_eq!(profiles.len(), 2, "{profiles:?}");
}

pub async fn each_esim_is_news_of_its_own(case: Case) {
    let mut stage = Stage::of(case).await;
    let (profiles, bought) = stage.buy("order-1-1", DELIVERS, 2).await;
    let mut told = BTreeSet::new();
    for _ in 0..2 {
        let callback = stage.callback().await;
        match stage.upstream.read_callback(stage.now(), &callback).unwrap().about {
            About::Esim { order, handle, .. } if order == bought => told.extend(handle),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, profiles.into_iter().filter_map(|profile| profile.handle).collect());
}

pub async fn an_order_that_came_to_nothing_is_for_the_operator(case: Case) {
    let stage = Stage::of(case).await;
    let mut none = stage.purchase("order-1-1", PARTIAL, 1);
    none.order = stage.upstream.place(stage.now(), none.clone()).await.order;
    let before = stage.upstream.look_up(stage.now(), none.clone()).await.meaning;
    assert!(matches!(before, LookUp::Provisioning { .. }), "{before:?}");
    stage.advance(60_000);
    // Paid for or not: that is for the operator to find out.
    let after = stage.upstream.look_up(stage.now(), none).await.meaning;
    assert!(matches!(after, LookUp::CannotTell { .. }), "{after:?}");
}

pub async fn a_missing_list_is_no_delivery(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 2);
    purchase.order = stage.upstream.place(stage.now(), purchase.clone()).await.order;
    let number = purchase.order.clone().unwrap();
    let detail = json!({"topup_id": number, "number": 2, "success_number": 2, "status": "completed"});
    stage.simulator.faults().say("topupDetail", 200, json!({"code": 1, "msg": "Success", "result": detail}));
    let found = stage.upstream.look_up(stage.now(), purchase.clone()).await.meaning;
    assert!(matches!(found, LookUp::CannotTell { .. }), "{found:?}");
    stage.simulator.faults().say("esimDataplanListPage", 200, json!({"code": 1, "result": {"totalPages": 1}}));
    let offers = stage.upstream.offers(stage.now()).await.meaning;
    assert!(matches!(offers, Err(NotRead::NotUnderstood { .. })), "{offers:?}");
    assert_eq!(stage.found(&mut purchase).await.len(), 2);
}
