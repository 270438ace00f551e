//! What upstreams tell by themselves: read, never believed, acknowledged as they want.

use crate::stage::{Case, Stage};
use domain::fulfilment::{NotYet, Outcome};
use providers::callback::{About, CallbackRefusal};
use providers::sandbox::DELIVERS;
use providers::simulator::shop::EsimLife;
use providers::{Purchase, Support};
use std::sync::atomic::Ordering;

/// Buys one and lets it be delivered; nobody asks for it. Where that is no news, it is used.
async fn bought(stage: &Stage) -> Purchase {
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    let accepted = matches!(placed.meaning, Outcome::Done { .. } | Outcome::NotYet(NotYet::Provisioning { .. }));
    assert!(accepted, "{placed:?}");
    purchase.order = placed.order;
    stage.advance(60_000);
    if !stage.case.tells_deliveries {
        let shop = stage.simulator.shop();
        let esim = shop.esims(&shop.sales()[0]).remove(0);
        shop.live(stage.now(), &esim, EsimLife::InUse, 1).unwrap();
    }
    purchase
}

pub async fn news_is_signed_read_and_acknowledged(case: Case) {
    let mut stage = Stage::of(case).await;
    if let Support::No(_) = stage.upstream.services().callbacks {
        return;
    }
    let mut purchase = bought(&stage).await;
    let callback = stage.callback().await;
    let notice = stage.upstream.read_callback(stage.now(), &callback).expect("news");
    assert_eq!(notice.acknowledgement.status, 200);
    match &notice.about {
        About::Order { order, reference } => {
            assert!(
                reference.as_deref() == Some("order-1-1") || (order.is_some() && *order == purchase.order),
                "{notice:?}"
            );
        }
        About::Esim { order, .. } => assert!(order.is_none() || *order == purchase.order, "{notice:?}"),
        About::Account => panic!("{notice:?}"),
    }
    // The other finds it done: who polls after the news gets the same.
    assert_eq!(stage.found(&mut purchase).await.len(), 1);
    assert_eq!(stage.upstream.read_callback(stage.now(), &callback).unwrap().id, notice.id);
}

pub async fn forged_news_is_refused(case: Case) {
    let mut stage = Stage::of(case).await;
    if let Support::No(_) = stage.upstream.services().callbacks {
        return;
    }
    bought(&stage).await;
    let callback = stage.callback().await;
    if stage.case.signs_callbacks {
        let mut keys = stage.keys.clone();
        keys.secret.push('x');
        let other = stage.adapter(&keys);
        assert_eq!(other.read_callback(stage.now(), &callback), Err(CallbackRefusal::Forged));
        let mut unsigned = callback.clone();
        unsigned.headers.retain(|(name, _)| !name.contains("sign"));
        if unsigned.headers != callback.headers {
            assert_eq!(stage.upstream.read_callback(stage.now(), &unsigned), Err(CallbackRefusal::Forged));
        }
    }
    let mut nonsense = callback;
    nonsense.body = b"{".to_vec();
    assert!(stage.upstream.read_callback(stage.now(), &nonsense).is_err());
}

pub async fn news_that_is_not_acknowledged_is_told_again(case: Case) {
    let mut stage = Stage::of(case).await;
    if let Support::No(_) = stage.upstream.services().callbacks {
        return;
    }
    stage.answer.store(500, Ordering::SeqCst);
    bought(&stage).await;
    let first = stage.callback().await;
    stage.answer.store(200, Ordering::SeqCst);
    let read = |callback| stage.upstream.read_callback(stage.now(), callback).map(|notice| notice.id);
    let id = read(&first);
    // Longer than any upstream pauses.
    let again = loop {
        stage.advance(1_000_000);
        if let Ok(Some(again)) =
            tokio::time::timeout(std::time::Duration::from_millis(200), stage.callbacks.recv()).await
        {
            break again;
        }
    };
    assert_eq!(stage.upstream.read_callback(stage.now(), &again).map(|notice| notice.id), id);
}
