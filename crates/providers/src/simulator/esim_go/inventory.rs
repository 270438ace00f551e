//! Bundles bought ahead, and what becomes of them.

use super::catalogue::{amount, bundle};
use super::esim::ours;
use super::order::apply_reference;
use super::{DAY_MS, field, no_sale, quantity, refusal, text};
use crate::simulator::shop::{NoSale, Shop, Wish};
use crate::simulator::wire::Reply;
use domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// A bundle that is to be put on an eSIM, or on so many new ones.
struct Wanted {
    plan: String,
    many: u32,
    allow_reassign: bool,
}

fn wanted(fields: &Map<String, Value>, iccid: &str) -> Result<Vec<Wanted>, Reply> {
    let one = [Value::Object(fields.clone())];
    let all = field(fields, "bundles").and_then(Value::as_array).map_or(&one[..], Vec::as_slice);
    let each = all.iter().filter_map(Value::as_object).map(|it| {
        // Version 2.1 called it `name`, and its clients still do.
        let plan = Some(text(it, "bundle")).filter(|name| !name.is_empty()).unwrap_or_else(|| text(it, "name"));
        if plan.is_empty() {
            return Err(refusal(400, "bundle is required"));
        }
        let many = quantity(it, "repeat").filter(|many| *many > 0).ok_or_else(|| refusal(400, "invalid repeat"))?;
        if !iccid.is_empty() && many > 1 {
            return Err(refusal(400, "repeat cannot be used with iccid"));
        }
        Ok(Wanted { plan, many, allow_reassign: text(it, "allowReassign") == "true" })
    });
    each.collect()
}

/// Puts bundles from the inventory on eSIMs: all that are wanted, or none.
pub(super) fn apply(
    shop: &Shop,
    now: Timestamp,
    fields: &Map<String, Value>,
    iccid: &str,
) -> Result<(String, Vec<Value>), Reply> {
    let all = wanted(fields, iccid)?;
    let esim = if iccid.is_empty() { None } else { Some(ours(shop, now, iccid)?) };
    let stock = shop.stock();
    for Wanted { plan, .. } in &all {
        let left: i64 = stock.iter().filter(|stock| stock.plan == *plan).map(|stock| stock.left).sum();
        let asked: i64 = all.iter().filter(|it| it.plan == *plan).map(|it| i64::from(it.many)).sum();
        if left < asked {
            return Err(refusal(403, "no available bundles left"));
        }
    }
    let reference = apply_reference(shop.next_sale_number());
    let mut esims = Vec::new();
    for Wanted { plan, many, allow_reassign } in all {
        let wish = Wish { reference: reference.clone(), plan, quantity: 1, notify_url: String::new() };
        for _ in 0..many {
            let sold = match shop.sell_from_stock(now, &wish, esim.as_ref()) {
                Err(NoSale::NotAddable) if allow_reassign => shop.sell_from_stock(now, &wish, None),
                sold => sold,
            };
            let sale = sold.map_err(|error| no_sale(&error))?;
            let got = match esim.clone().filter(|_| sale.added_to.is_some()) {
                Some(esim) => vec![esim],
                None => shop.esims(&sale),
            };
            let status = "Successfully Applied Bundle";
            let told =
                got.iter().map(|esim| json!({"iccid": esim.profile.iccid, "status": status, "bundle": wish.plan}));
            esims.extend(told);
        }
    }
    Ok((reference, esims))
}

pub(super) fn inventory(shop: &Shop) -> Reply {
    let mut bundles: Vec<Value> = Vec::new();
    for stock in shop.stock() {
        let Some(listed) = shop.plan(&stock.plan) else { continue };
        let expiry = stock.bought_at.plus_millis(365 * DAY_MS).to_string();
        let available = json!({"id": stock.number, "total": stock.total, "remaining": stock.left, "expiry": expiry});
        let known = bundles.iter_mut().find(|bundle| bundle["name"] == stock.plan.as_str());
        if let Some(all) = known.and_then(|bundle| bundle["available"].as_array_mut()) {
            all.push(available);
            continue;
        }
        let whole = bundle(&listed);
        bundles.push(json!({
            "name": stock.plan, "desc": listed.plan.name, "useDms": false, "available": [available],
            "countries": listed.plan.countries, "data": amount(&listed), "duration": listed.plan.validity_days,
            "durationUnit": "day", "autostart": true, "unlimited": listed.plan.unlimited, "speed": whole["speed"],
            "allowances": whole["allowances"],
        }));
    }
    Reply::json(200, &json!({"bundles": bundles}))
}
