//! Bundles bought ahead, and what becomes of them.

use super::catalogue::{amount, bundle};
use super::esim::ours;
use super::order::apply_reference;
use super::{DAY_MS, field, no_sale, quantity, refusal, text};
use crate::simulator::shop::{NoSale, Shop, Wish};
use crate::simulator::wire::Reply;
use domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// Puts bundles from the inventory on eSIMs.
pub(super) fn apply(
    shop: &Shop,
    now: Timestamp,
    fields: &Map<String, Value>,
    iccid: &str,
) -> Result<(String, Vec<Value>), Reply> {
    let one = [Value::Object(fields.clone())];
    let wanted = field(fields, "bundles").and_then(Value::as_array).map_or(&one[..], Vec::as_slice);
    let reference = apply_reference(shop.next_number());
    let mut esims = Vec::new();
    for wanted in wanted.iter().filter_map(Value::as_object) {
        let plan = Some(text(wanted, "bundle")).filter(|name| !name.is_empty()).unwrap_or_else(|| text(wanted, "name"));
        if plan.is_empty() {
            return Err(refusal(400, "bundle is required"));
        }
        let quantity = quantity(wanted, "repeat").filter(|many| *many > 0);
        let quantity = quantity.ok_or_else(|| refusal(400, "invalid repeat"))?;
        if !iccid.is_empty() && quantity > 1 {
            return Err(refusal(400, "repeat cannot be used with iccid"));
        }
        let esim = if iccid.is_empty() { None } else { Some(ours(shop, now, iccid)?) };
        let wish = Wish { reference: reference.clone(), plan, quantity, notify_url: String::new() };
        let sold = match shop.sell_from_stock(now, &wish, esim.as_ref()) {
            Err(NoSale::NotAddable) if text(wanted, "allowReassign") == "true" => {
                shop.sell_from_stock(now, &wish, None)
            }
            sold => sold,
        };
        let sale = sold.map_err(|error| match error {
            NoSale::OutOfStock => refusal(403, "no available bundles left"),
            error => no_sale(&error),
        })?;
        let got = match esim.filter(|_| sale.added_to.is_some()) {
            Some(esim) => vec![esim],
            None => shop.esims(&sale),
        };
        esims.extend(got.iter().map(
            |esim| json!({"iccid": esim.profile.iccid, "status": "Successfully Applied Bundle", "bundle": wish.plan}),
        ));
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
