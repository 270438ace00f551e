//! Everything else an upstream is asked: what it sells, what was used, what is left, and what comes back.

use crate::stage::{BALANCE_CENTS, Case, Stage, one_of_each};
use domain::fulfilment::{Cancellation, Outcome};
use domain::offer::Data;
use providers::offer::Life;
use providers::sandbox::{CataloguePlan, DELIVERS, KEEPS};
use providers::simulator::shop::EsimLife;
use providers::{AddOn, NotRead, RefundEffect, Support};
use serde_json::json;

const MEGABYTE: i64 = 1_048_576;

fn data(plan: &CataloguePlan) -> Data {
    match (plan.unlimited, plan.daily_data_mb, plan.data_mb) {
        (false, Some(daily), _) => Data::Daily(daily),
        (false, None, Some(total)) => Data::Total(total),
        _ => Data::Unlimited,
    }
}

pub async fn all_offers_are_read_and_every_change_is_seen(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    let offers = one_of_each(stage.upstream.offers(stage.now()).await.meaning.unwrap());
    let plans = shop.plans();
    assert_eq!(offers.len(), plans.len());
    for plan in plans.into_iter().map(|listed| (stage.case.listed)(listed.plan)) {
        let offer = offers.iter().find(|offer| offer.upstream_plan_id == plan.upstream_plan_id).unwrap();
        let cents = offer.cost.units * 100 / 10_i64.pow(offer.cost.decimals);
        assert_eq!(cents, plan.price_minor, "{plan:?} {offer:?}");
        assert_eq!((offer.data, offer.validity_days), (data(&plan), plan.validity_days), "{plan:?} {offer:?}");
        let mut countries: Vec<&str> = plan.countries.clone();
        countries.sort_unstable();
        assert_eq!(offer.countries, countries, "{plan:?}");
    }
    shop.change_plan(DELIVERS, Some(777), false, None).unwrap();
    shop.change_plan(KEEPS, None, true, None).unwrap();
    let offers = stage.upstream.offers(stage.now()).await.meaning.unwrap();
    let dearer = offers.iter().find(|offer| offer.upstream_plan_id == DELIVERS).unwrap();
    assert_eq!(dearer.cost.units * 100 / 10_i64.pow(dearer.cost.decimals), 777);
    assert!(!offers.iter().any(|offer| offer.upstream_plan_id == KEEPS));
}

pub async fn usage_is_read_in_bytes(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    if let Support::No(why) = stage.upstream.services().usage {
        let usage = stage.upstream.usage(stage.now(), esim).await.meaning;
        assert_eq!(usage, Err(NotRead::Unsupported(why)));
        return;
    }
    let before = stage.upstream.usage(stage.now(), esim.clone()).await.meaning.unwrap();
    assert_eq!((before.life, before.activated_at, before.expires_at), (Life::NotActive, None, None));
    let shop = stage.simulator.shop();
    let sold = shop.esim_by_iccid(&esim.iccid).unwrap();
    shop.live(stage.now(), &sold, EsimLife::InUse, 300).unwrap();
    let usage = stage.upstream.usage(stage.now(), esim.clone()).await.meaning.unwrap();
    assert_eq!((usage.life, usage.used_bytes), (Life::Active, Some(300 * MEGABYTE)));
    assert!(usage.total_bytes.is_none_or(|total| Some(total / MEGABYTE) == sold.total_mb), "{usage:?}");
    assert!(usage.fresh_for_ms > 0);
    let sold = shop.esim_by_iccid(&esim.iccid).unwrap();
    let end = sold.expires_at.unwrap();
    assert!(usage.expires_at.is_none_or(|told| told.since(end).abs() < 60_000), "{usage:?} {end}");
    stage.advance(end.since(stage.now()) + 60_000);
    shop.live(stage.now(), &sold, EsimLife::Expired, 300).unwrap();
    let usage = stage.upstream.usage(stage.now(), esim).await.meaning.unwrap();
    assert!(matches!(usage.life, Life::Expired | Life::Ended), "{usage:?}");
}

pub async fn the_balance_is_read(case: Case) {
    let stage = Stage::of(case).await;
    let balance = stage.upstream.balance(stage.now()).await.meaning;
    match stage.upstream.services().balance {
        Support::No(why) => assert_eq!(balance, Err(NotRead::Unsupported(why))),
        Support::Yes => {
            let left = balance.unwrap().left;
            assert_eq!(left.units * 100 / 10_i64.pow(left.decimals), BALANCE_CENTS, "{left:?}");
        }
    }
}

pub async fn what_is_taken_back_is_paid_back(case: Case) {
    let stage = Stage::of(case).await;
    let esim = stage.delivered().await;
    let shop = stage.simulator.shop();
    let cancelled = stage.upstream.cancel(stage.now(), esim.clone()).await.meaning;
    let services = stage.upstream.services();
    assert_eq!(stage.upstream.capabilities().cancel, services.cancel == Support::Yes);
    if let Support::No(_) = services.cancel {
        assert!(matches!(cancelled, Cancellation::Refused { .. }), "{cancelled:?}");
        return;
    }
    assert_eq!(cancelled, Cancellation::Cancelled);
    if services.refund_effect == RefundEffect::AtOnce {
        assert_eq!(shop.balance_cents(), BALANCE_CENTS);
    }
    // Whoever did not hear the answer asks again, and nothing more is paid back.
    let again = stage.upstream.cancel(stage.now(), esim).await.meaning;
    assert!(matches!(again, Cancellation::Cancelled | Cancellation::Refused { .. }), "{again:?}");
    assert!(shop.balance_cents() <= BALANCE_CENTS);
    let used = stage.esim("order-2-1", DELIVERS).await;
    let sold = shop.esim_by_iccid(&used.iccid).unwrap();
    shop.live(stage.now(), &sold, EsimLife::InUse, 1).unwrap();
    let too_late = stage.upstream.cancel(stage.now(), used).await.meaning;
    assert!(matches!(too_late, Cancellation::Refused { .. }), "{too_late:?}");
}

pub async fn data_is_added_to_an_esim(case: Case) {
    let stage = Stage::of(case).await;
    let shop = stage.simulator.shop();
    let plan = shop.plans().into_iter().map(|listed| listed.plan).find(|plan| plan.top_up_supported).unwrap();
    let esim = stage.esim("order-1-1", &plan.upstream_plan_id).await;
    let add_ons = stage.upstream.add_ons(stage.now(), esim.clone()).await.meaning;
    let add_on = |reference: &str, id: &str| AddOn {
        reference: reference.to_owned(),
        esim: esim.clone(),
        upstream_plan_id: id.to_owned(),
    };
    if let Support::No(why) = stage.upstream.services().add_on {
        assert_eq!(add_ons, Err(NotRead::Unsupported(why)));
        let added = stage.upstream.add(stage.now(), add_on("order-1-2", &plan.upstream_plan_id)).await.meaning;
        assert!(matches!(added, Outcome::Refused { .. }), "{added:?}");
        return;
    }
    let offer = add_ons.unwrap().into_iter().find(|offer| offer.upstream_plan_id.contains(&plan.upstream_plan_id));
    let offer = offer.expect("the plan can be added to its own eSIMs");
    let added = stage.upstream.add(stage.now(), add_on("order-1-2", &offer.upstream_plan_id)).await.meaning;
    assert_eq!(added, Outcome::Done { profiles: Vec::new() });
    let now_has = shop.esim_by_iccid(&esim.iccid).unwrap().total_mb;
    assert_eq!(now_has, plan.data_mb.map(|total| 2 * total));
    let unknown = stage.upstream.add(stage.now(), add_on("order-1-3", "nobody-sells-this")).await.meaning;
    assert!(matches!(unknown, Outcome::Refused { .. }), "{unknown:?}");
}

pub async fn no_raw_answer_installs_an_esim(case: Case) {
    let stage = Stage::of(case).await;
    let mut purchase = stage.purchase("order-1-1", DELIVERS, 1);
    let placed = stage.upstream.place(stage.now(), purchase.clone()).await;
    purchase.order = placed.order;
    stage.advance(60_000);
    let again = purchase.clone();
    let heard = stage.upstream.look_up(stage.now(), purchase).await;
    let shop = stage.simulator.shop();
    let matching_id = shop.esims(&shop.sales()[0])[0].profile.matching_id.clone();
    for raw in [placed.raw, heard.raw] {
        assert!(!raw.is_empty() && !raw.contains(&matching_id) && !raw.contains(&stage.keys.secret), "{raw}");
    }
    // Nor does one that has it where nobody expects it, or that came only in part, or that repeats our secret.
    let code = shop.esims(&shop.sales()[0])[0].profile.activation_code.clone();
    for body in [
        json!({"code": 7, "msg": format!("{code} for {}", stage.keys.secret), "data": {"remark": [code]}}),
        json!({"code": 7, "msg": json!({"order": {"matchingId": matching_id}}).to_string()}),
        json!(format!(r#"{{"lpa_str":"{code}","matchingId":"{matching_id}","#)),
        json!(format!("<html>{}</html>", stage.keys.secret)),
    ] {
        stage.simulator.faults().say("", 400, body);
        stage.advance(1_000);
        let heard = stage.upstream.look_up(stage.now(), again.clone()).await;
        let shown = format!("{} {heard:?}", heard.raw);
        assert!(!shown.contains(&matching_id) && !heard.raw.contains(&stage.keys.secret), "{shown}");
    }
}
