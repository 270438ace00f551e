//! Bundles on eSIMs: used one after the other, revoked one by one.

use super::{DAY_MS, MEGABYTE, refusal, status};
use crate::sandbox::special;
use crate::simulator::shop::{EsimLife, Sale, Shop, ShopEsim, ShopPlan};
use crate::simulator::stock::Fate;
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Value, json};

/// Revoked later than this after the purchase, a bundle is lost.
const REFUNDED_WITHIN_MS: i64 = 60 * DAY_MS;

/// A bundle on an eSIM.
pub(super) struct Assignment {
    pub(super) id: String,
    pub(super) sale: Sale,
    pub(super) listed: ShopPlan,
    pub(super) reference: String,
    pub(super) initial: i64,
    pub(super) remaining: i64,
    pub(super) state: &'static str,
    pub(super) begin: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
}

/// The number of a bundle on an eSIM: even for the one the eSIM came with, odd for data added.
pub(super) fn id(esim: &ShopEsim, sale: &Sale) -> String {
    match sale.added_to {
        Some(_) => (200_000_001 + 2 * sale.number).to_string(),
        None => (200_000_000 + 2 * esim.number).to_string(),
    }
}

/// Which of all the eSIMs of its order this one is.
fn index(shop: &Shop, esim: &ShopEsim, sale: &Sale) -> i64 {
    let all = shop.sales_of(&sale.reference);
    let before = all.iter().take_while(|it| it.number < sale.number);
    let before: i64 = before.map(|it| if it.added_to.is_some() { 1 } else { i64::from(it.delivered) }).sum();
    before.saturating_add(if sale.added_to.is_some() { 0 } else { sale.index_of(esim) })
}

/// The bundles on an eSIM, oldest first: its data is used in this order.
pub(super) fn assignments(shop: &Shop, now: Timestamp, esim: &ShopEsim) -> Vec<Assignment> {
    let mut sales = vec![esim.sale.clone()];
    sales.extend(shop.sales_added_to(esim));
    let mut left_to_use = esim.used_mb.saturating_mul(MEGABYTE);
    let mut next_begin = esim.activated_at;
    let mut is_active_taken = false;
    let mut assignments = Vec::new();
    for sale in sales {
        let Some(listed) = shop.plan(&sale.plan) else { continue };
        let initial = listed.plan.data_mb.unwrap_or(0).saturating_mul(MEGABYTE);
        let is_revoked = esim.life == EsimLife::Cancelled || shop.fate(esim, &sale).is_some();
        let used = if is_revoked { 0 } else { left_to_use.min(initial) };
        let is_used_up = !listed.plan.unlimited && used >= initial;
        let (begin, end) = match next_begin.filter(|_| !is_revoked) {
            Some(begin) => {
                let end = begin.plus_millis(listed.plan.validity_days.saturating_mul(DAY_MS));
                next_begin = Some(end);
                (Some(begin), Some(end))
            }
            None => (None, None),
        };
        let state = match esim.life {
            _ if is_revoked => "revoked",
            // Data added to an eSIM is there at once.
            _ if sale.added_to.is_none() && !sale.is_ready(now) => "processing",
            EsimLife::Released | EsimLife::Installed | EsimLife::Suspended | EsimLife::Cancelled => "queued",
            EsimLife::Revoked => "revoked",
            EsimLife::Expired => "expired",
            EsimLife::UsedUp => "depleted",
            EsimLife::InUse if is_used_up => "depleted",
            EsimLife::InUse if is_active_taken => "queued",
            EsimLife::InUse => "active",
        };
        is_active_taken = is_active_taken || state == "active";
        left_to_use = left_to_use.saturating_sub(used);
        let has_begun = matches!(state, "active" | "depleted" | "expired");
        assignments.push(Assignment {
            id: id(esim, &sale),
            reference: format!("{}-{}", sale.reference, index(shop, esim, &sale)),
            remaining: if state == "depleted" { 0 } else { initial.saturating_sub(used) },
            begin: begin.filter(|_| has_begun),
            end: end.filter(|_| has_begun),
            initial,
            state,
            sale,
            listed,
        });
    }
    assignments
}

pub(super) fn assignment(it: &Assignment) -> Value {
    let mut body = json!({
        "id": it.id,
        "callTypeGroup": "data",
        "initialQuantity": it.initial,
        "remainingQuantity": it.remaining,
        "assignmentDateTime": it.sale.sold_at.to_string(),
        "assignmentReference": it.reference,
        "bundleState": it.state,
        "unlimited": it.listed.plan.unlimited,
    });
    if let Some((begin, end)) = it.begin.zip(it.end) {
        body["startTime"] = begin.to_string().into();
        body["endTime"] = end.to_string().into();
    }
    body
}

pub(super) fn bundles(shop: &Shop, now: Timestamp, esim: &ShopEsim, request: &Request) -> Result<Reply, Reply> {
    let limit = match request.parameter("limit") {
        "" => 15,
        limit => limit
            .parse()
            .ok()
            .filter(|limit| (1..=200).contains(limit))
            .ok_or_else(|| refusal(400, "limit must be between 1 and 200"))?,
    };
    let with_used = request.parameter("includeUsed") != "false";
    let mut bundles: Vec<(String, String, Vec<Value>)> = Vec::new();
    let all = assignments(shop, now, esim);
    let shown = all.iter().filter(|it| with_used || matches!(it.state, "processing" | "queued" | "active"));
    for it in shown.take(limit) {
        match bundles.iter_mut().find(|(name, ..)| *name == it.sale.plan) {
            Some((.., assignments)) => assignments.push(assignment(it)),
            None => bundles.push((it.sale.plan.clone(), it.listed.plan.name.clone(), vec![assignment(it)])),
        }
    }
    let bundles = bundles.into_iter().map(|(name, description, assignments)| {
        json!({"name": name, "description": description, "assignments": assignments})
    });
    Ok(Reply::json(200, &json!({"bundles": bundles.collect::<Vec<_>>()})))
}

pub(super) fn history(shop: &Shop, now: Timestamp, esim: &ShopEsim) -> Reply {
    let mut entries: Vec<(Timestamp, &str, String)> = Vec::new();
    for it in assignments(shop, now, esim) {
        let name = it.sale.plan.clone();
        entries.push((it.sale.sold_at, "Bundle Applied", name.clone()));
        if let Some((fate, at)) = shop.fate(esim, &it.sale) {
            entries.push((at, "Bundle Revoked", name.clone()));
            match fate {
                Fate::Refunded => entries.push((at, "Bundle Refunded To Balance", name.clone())),
                Fate::Kept => entries.push((at, "Bundle Refunded to Inventory", name.clone())),
                Fate::Lost => {}
            }
        }
        if let Some(begin) = it.begin {
            entries.push((begin, "eSIM First Use", name.clone()));
        }
        if let Some(end) = it.end.filter(|_| matches!(it.state, "expired" | "depleted")) {
            entries.push((end.min(now), "Bundle Expired", name));
        }
    }
    let entries = entries
        .into_iter()
        .map(|(at, name, bundle)| json!({"name": name, "bundleName": bundle, "date": at.to_string()}));
    Reply::json(200, &entries.collect::<Vec<_>>().into())
}

/// Takes a bundle off an eSIM: the one with this id, or the oldest of this name that has not begun.
pub(super) fn revoke(
    shop: &Shop,
    now: Timestamp,
    request: &Request,
    esim: &ShopEsim,
    name: &str,
    id: Option<&str>,
) -> Reply {
    let all = assignments(shop, now, esim);
    let there = || all.iter().filter(|it| it.sale.plan == name && it.state != "revoked");
    let found = match id {
        Some(id) => there().find(|it| it.id == id),
        None => there().find(|it| it.begin.is_none()).or_else(|| there().next()),
    };
    let Some(found) = found else { return refusal(400, "bundle not found on eSIM") };
    let is_refundable = matches!(found.state, "queued" | "processing")
        && now.since(found.sale.sold_at) <= REFUNDED_WITHIN_MS
        && found.sale.plan != special::KEEPS;
    let to_balance = request.parameter("refundToBalance") == "true";
    if to_balance && id.is_none() && request.parameter("offerId").is_empty() {
        return refusal(400, "offerId is required to refund to balance");
    }
    let (fate, message) = match (is_refundable, to_balance) {
        (true, true) => (Fate::Refunded, "Successfully Revoked Bundle, bundle has been refunded to balance"),
        (true, false) => (Fate::Kept, "Successfully Revoked Bundle, bundle has been refunded to inventory"),
        (false, _) => (Fate::Lost, "Successfully Revoked Bundle"),
    };
    match request.parameter("type") {
        "validate" if is_refundable => return status("Bundle can be revoked and refunded"),
        "validate" => return status("Bundle can be revoked and will not be refunded"),
        "" | "transaction" => {}
        _ => return refusal(400, "type must be validate or transaction"),
    }
    match shop.revoke(now, esim, &found.sale, fate) {
        Ok(()) => status(message),
        Err(_) => refusal(500, "Internal Server Error"),
    }
}
