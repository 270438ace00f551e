//! Buying: what comes is what was sold, once, whatever happens to the answer.

use crate::stage::{BALANCE_CENTS, Case, Keys, Stage};
use domain::fulfilment::{LookUp, NotYet, Outcome};
use providers::sandbox::{ANSWER_LOST, DELIVERS, REFUSES};
use providers::simulator::Fault;
use std::collections::BTreeSet;

pub async fn one_is_bought_and_delivered(case: Case) {
    let stage = Stage::of(case).await;
    let (profiles, _) = stage.buy("order-1-1", DELIVERS, 1).await;
    let shop = stage.simulator.shop();
    let sales = shop.sales();
    assert_eq!(sales.len(), 1);
    let sold = shop.esims(&sales[0]).remove(0).profile;
    let [profile] = profiles.as_slice() else { panic!("{profiles:?}") };
    assert_eq!((&profile.iccid, &profile.smdp_address), (&sold.iccid, &sold.smdp_address));
    assert_eq!((&profile.matching_id, &profile.activation_code), (&sold.matching_id, &sold.activation_code));
    assert_eq!(shop.balance_cents(), BALANCE_CENTS - sales[0].cents);
}

pub async fn several_are_bought_at_once(case: Case) {
    let stage = Stage::of(case).await;
    let most = stage.upstream.capabilities().quantity_per_call.min(3);
    let (profiles, _) = stage.buy("order-1-1", DELIVERS, most).await;
    let iccids: BTreeSet<&str> = profiles.iter().map(|profile| profile.iccid.as_str()).collect();
    let sales = stage.simulator.shop().sales();
    assert_eq!((iccids.len(), sales.len()), (usize::try_from(most).unwrap(), 1), "{profiles:?}");
}

pub async fn what_is_not_there_is_refused_and_nothing_is_sold(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    shop.change_plan(DELIVERS, None, true, None).unwrap();
    for plan in ["nobody-sells-this", REFUSES, DELIVERS] {
        let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", plan, 1)).await;
        assert!(matches!(placed.meaning, Outcome::Refused { .. }), "{plan}: {placed:?}");
    }
    assert_eq!((stage.sales(), shop.balance_cents()), (0, BALANCE_CENTS));
}

pub async fn without_funds_nothing_is_sold(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.shop().set_balance(1).unwrap();
    let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    // A traveller is not to wait for our account to be filled; an adapter may also know that it will be soon.
    let nothing_sold = matches!(placed.meaning, Outcome::Refused { .. } | Outcome::NotYet(NotYet::TryLater { .. }));
    assert!(nothing_sold, "{placed:?}");
    assert_eq!((stage.sales(), stage.simulator.shop().balance_cents()), (0, 1));
}

pub async fn who_is_not_known_buys_nothing(case: Case) {
    let stage = Stage::of(case).await;
    let keys = Keys { account: "somebody".to_owned(), secret: "else".to_owned(), ..stage.keys.clone() };
    let stranger = stage.adapter(&keys);
    let placed = stranger.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    let nothing_sold = matches!(placed.meaning, Outcome::Refused { .. } | Outcome::NotYet(NotYet::TryLater { .. }));
    assert!(nothing_sold, "{placed:?}");
    assert_eq!(stage.sales(), 0);
}

pub async fn a_lost_answer_is_looked_up_and_was_sold_once(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", ANSWER_LOST, 1);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    assert_eq!(stage.sales(), 1);
    if stage.upstream.capabilities().look_up_by_reference {
        let found = stage.found(&mut purchase).await;
        let shop = stage.simulator.shop();
        assert_eq!(found[0].iccid, shop.esims(&shop.sales()[0])[0].profile.iccid);
    } else {
        let heard = stage.upstream.look_up(stage.now(), purchase).await;
        assert!(matches!(heard.meaning, LookUp::CannotTell { .. }), "{heard:?}");
    }
    assert_eq!(stage.sales(), 1);
}

pub async fn a_purchase_repeated_under_its_reference_is_sold_once(case: Case) {
    let stage = Stage::of(case).await;
    if !stage.upstream.capabilities().idempotent_create {
        return;
    }
    stage.simulator.faults().next(Fault::CutAfter, stage.case.buying, 1);
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let lost = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(lost.meaning, Outcome::Unknown { .. }), "{lost:?}");
    let again = stage.upstream.place(stage.now(), purchase.clone()).await;
    let found = match again.meaning {
        Outcome::Done { profiles } => profiles,
        Outcome::NotYet(NotYet::Provisioning { .. }) => {
            purchase.order = again.order;
            stage.found(&mut purchase).await
        }
        other => panic!("{other:?}"),
    };
    let shop = stage.simulator.shop();
    assert_eq!((stage.sales(), found.len()), (1, 1));
    assert_eq!(found[0].iccid, shop.esims(&shop.sales()[0])[0].profile.iccid);
}

pub async fn what_never_arrived_is_never_taken_for_refused(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.faults().next(Fault::CutBefore, stage.case.buying, 1);
    let purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    let heard = stage.upstream.look_up(stage.now(), purchase).await;
    let right = if stage.upstream.capabilities().look_up_by_reference {
        heard.meaning == LookUp::NotFound
    } else {
        matches!(heard.meaning, LookUp::CannotTell { .. })
    };
    assert!(right, "{heard:?}");
    assert_eq!(stage.sales(), 0);
}

pub async fn a_purchase_repeated_is_sold_once(case: Case) {
    let stage = Stage::of(case).await;
    assert!(stage.upstream.capabilities().idempotent_create);
    let (first, again) = (stage.buy("order-1-1", DELIVERS, 1).await, stage.buy("order-1-1", DELIVERS, 1).await);
    assert_eq!((first, stage.sales()), (again, 1));
    stage.buy("order-1-2", DELIVERS, 1).await;
    assert_eq!(stage.sales(), 2);
}

pub async fn a_lost_answer_may_be_repeated(case: Case) {
    let stage = Stage::of(case).await;
    stage.simulator.faults().next(Fault::CutAfter, stage.case.buying, 1);
    let placed = stage.upstream.place(stage.now(), stage.purchase("order-1-1", DELIVERS, 1)).await;
    assert!(matches!(placed.meaning, Outcome::Unknown { .. }), "{placed:?}");
    assert_eq!(stage.buy("order-1-1", DELIVERS, 1).await.0.len(), 1);
    assert_eq!(stage.sales(), 1);
}
