//! Orders: one call, several lines, all or none.

use super::esim::{installs, ours};
use super::{decimal, field, no_sale, paging, quantity, refusal, text};
use crate::esim_go::QUANTITY_PER_CALL;
use crate::sandbox::special;
use crate::simulator::shop::{NoSale, Sale, Shop, ShopEsim, Wish};
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Value, json};

/// Uses of the inventory begin with this; they are no orders.
const APPLIED: &str = "a9917000";

/// What an order is called: an UUID.
fn order_reference(number: i64) -> String {
    format!("e51a6000-0000-4000-8000-{number:012x}")
}

/// What a use of the inventory is called.
pub(super) fn apply_reference(number: i64) -> String {
    format!("{APPLIED}-0000-4000-8000-{number:012x}")
}

/// The sales of an order.
pub(super) fn sales_of_order(shop: &Shop, reference: &str) -> Vec<Sale> {
    let sales = shop.sales_of(reference);
    if reference.starts_with(APPLIED) { Vec::new() } else { sales }
}

fn item(shop: &Shop, sales: &[&Sale], with_esims: bool) -> Value {
    let esims: Vec<ShopEsim> = sales
        .iter()
        .flat_map(|sale| match sale.added_to {
            Some(number) => shop.esim(number).into_iter().collect(),
            None => shop.esims(sale),
        })
        .collect();
    let asked: u32 = sales.iter().map(|sale| sale.asked).sum();
    let cents: i64 = sales.iter().map(|sale| sale.cents).sum();
    let each = sales.first().map_or(0, |sale| {
        let units = if sale.added_to.is_some() {
            1
        } else {
            i64::from(if sale.delivered > 0 { sale.delivered } else { sale.asked })
        };
        sale.cents.checked_div(units).unwrap_or(0)
    });
    let mut item = json!({
        "type": "bundle",
        "item": sales.first().map_or("", |sale| sale.plan.as_str()),
        "quantity": asked,
        "subTotal": decimal(cents),
        "pricePerUnit": decimal(each),
        "AllowReassign": false,
    });
    if with_esims && !esims.is_empty() {
        item["esims"] = esims.iter().map(|esim| Value::Object(installs(esim))).collect();
        item["iccids"] = esims.iter().map(|esim| Value::from(esim.profile.iccid.clone())).collect();
    }
    item
}

/// The sales of one order, those of data for several eSIMs taken together as they were ordered.
fn items(sales: &[Sale]) -> Vec<Vec<&Sale>> {
    let mut items: Vec<Vec<&Sale>> = Vec::new();
    for sale in sales {
        match items.last_mut() {
            Some(last)
                if sale.added_to.is_some() && last.iter().all(|it| it.added_to.is_some() && it.plan == sale.plan) =>
            {
                last.push(sale);
            }
            _ => items.push(vec![sale]),
        }
    }
    items
}

pub(super) fn order(shop: &Shop, now: Timestamp, sales: &[Sale], with_esims: bool) -> Value {
    let is_ready = sales.iter().all(|sale| sale.added_to.is_some() || sale.is_ready(now));
    let assigned = sales.iter().any(|sale| sale.added_to.is_some() || sale.delivered > 0);
    let many: u32 = sales.iter().map(|sale| if sale.added_to.is_some() { 1 } else { sale.delivered }).sum();
    let cents: i64 = sales.iter().map(|sale| sale.cents).sum();
    let (status, message) = match (is_ready, assigned) {
        (false, _) => ("processing", "Order is being processed".to_owned()),
        (true, true) => ("completed", format!("Order completed: {many} eSIMs assigned")),
        (true, false) => ("completed", "Order completed".to_owned()),
    };
    json!({
        "order": items(sales).iter().map(|sales| item(shop, sales, with_esims && is_ready)).collect::<Vec<_>>(),
        "total": decimal(cents),
        "currency": "USD",
        "status": status,
        "statusMessage": message,
        "orderReference": sales.first().map_or("", |sale| sale.reference.as_str()),
        "createdDate": sales.first().map_or_else(String::new, |sale| sale.sold_at.to_string()),
        "assigned": assigned,
        "sourceIP": "127.0.0.1",
    })
}

/// One line of an order as it was asked for.
struct Line {
    plan: String,
    quantity: u32,
    iccids: Vec<String>,
    allow_reassign: bool,
}

fn lines(request: &Request) -> Result<Vec<Line>, Reply> {
    let assign = text(&request.fields, "assign") == "true";
    let lines = field(&request.fields, "order").and_then(Value::as_array).filter(|lines| !lines.is_empty());
    let lines = lines.ok_or_else(|| refusal(400, "order is required"))?;
    let each = lines.iter().map(|line| {
        let line = line.as_object().filter(|line| matches!(text(line, "type").as_str(), "" | "bundle"));
        let line = line.ok_or_else(|| refusal(400, "order type must be bundle"))?;
        let iccids = field(line, "iccids").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let iccids: Vec<String> = iccids.iter().filter_map(crate::lenient::as_text).collect();
        let quantity = quantity(line, "quantity").filter(|quantity| *quantity > 0);
        let quantity = quantity.ok_or_else(|| refusal(400, "invalid quantity"))?;
        if !iccids.is_empty() && !assign {
            return Err(refusal(400, "iccids can only be specified if assign is true"));
        }
        if !iccids.is_empty() && usize::try_from(quantity) != Ok(iccids.len()) {
            return Err(refusal(400, "quantity must match the number of iccids"));
        }
        let allow_reassign = text(line, "allowReassign") == "true";
        Ok(Line { plan: text(line, "item"), quantity, iccids, allow_reassign })
    });
    each.collect()
}

fn validated(shop: &Shop, now: Timestamp, lines: &[Line], assigned: bool) -> Reply {
    let mut total = 0_i64;
    let mut items = Vec::new();
    for line in lines {
        let Some(listed) = shop.plan(&line.plan).filter(|listed| !listed.withdrawn) else {
            return no_sale(&NoSale::UnknownPlan);
        };
        let each = listed.plan.price_minor;
        let cents = each.saturating_mul(i64::from(line.quantity));
        total = total.saturating_add(cents);
        items.push(json!({"type": "bundle", "item": line.plan, "quantity": line.quantity, "subTotal": decimal(cents),
                          "pricePerUnit": decimal(each), "AllowReassign": line.allow_reassign}));
    }
    Reply::json(
        200,
        &json!({"order": items, "total": decimal(total), "valid": total <= shop.balance_cents(), "currency": "USD",
                "createdDate": now.to_string(), "assigned": assigned}),
    )
}

/// Sells a line: one sale, or one for each eSIM that gets data.
fn sell(shop: &Shop, now: Timestamp, reference: &str, line: &Line, assign: bool) -> Result<Vec<Sale>, Reply> {
    let wish = |quantity| Wish {
        reference: reference.to_owned(),
        plan: line.plan.clone(),
        quantity,
        notify_url: String::new(),
    };
    let refused = |error| no_sale(&error);
    if line.iccids.is_empty() {
        let wish = wish(line.quantity);
        let sale = if assign { shop.sell(now, &wish) } else { shop.sell_ahead(now, &wish) };
        return sale.map(|sale| vec![sale]).map_err(refused);
    }
    let esims: Result<Vec<ShopEsim>, Reply> = line.iccids.iter().map(|iccid| ours(shop, now, iccid)).collect();
    let each = esims?.into_iter().map(|esim| match shop.add(now, &wish(1), &esim) {
        Err(NoSale::NotAddable) if line.allow_reassign => shop.sell(now, &wish(1)).map_err(refused),
        added => added.map_err(refused),
    });
    each.collect()
}

pub(super) fn create(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let assign = text(&request.fields, "assign") == "true";
    let lines = lines(request)?;
    match text(&request.fields, "type").as_str() {
        "validate" => return Ok(validated(shop, now, &lines, assign)),
        "transaction" => {}
        _ => return Err(refusal(400, "type must be validate or transaction")),
    }
    // All or nothing: what would fail later is found before anything is sold.
    let mut total = 0_i64;
    for line in &lines {
        let listed = shop.plan(&line.plan).filter(|listed| !listed.withdrawn);
        let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
        total = total.saturating_add(listed.plan.price_minor.saturating_mul(i64::from(line.quantity)));
        if line.plan == special::REFUSES {
            return Err(no_sale(&NoSale::OutOfStock));
        }
        for iccid in &line.iccids {
            ours(shop, now, iccid)?;
            if !listed.plan.top_up_supported && !line.allow_reassign {
                return Err(no_sale(&NoSale::NotAddable));
            }
        }
    }
    if total > shop.balance_cents() {
        return Err(no_sale(&NoSale::InsufficientFunds));
    }
    let reference = order_reference(shop.next_sale_number());
    let mut sales = Vec::new();
    for line in &lines {
        sales.extend(sell(shop, now, &reference, line, assign)?);
    }
    let many: u32 = lines.iter().map(|line| line.quantity).sum();
    let is_lost = sales.iter().any(Sale::answer_is_lost);
    Ok(Reply::json(200, &order(shop, now, &sales, many <= QUANTITY_PER_CALL)).lost_if(is_lost))
}

/// The orders, newest first; a use of the inventory is none.
pub(super) fn orders(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let (page, size) = paging(request, "limit", 10);
    let with_esims = request.parameter("includeIccids") == "true";
    let mut sales = shop.sales();
    sales.retain(|sale| !sale.reference.starts_with(APPLIED));
    for (_, bound) in request.query.iter().filter(|(name, _)| name == "createdAt") {
        let (side, time) = bound.split_once(':').unwrap_or_default();
        let time: Timestamp = time.parse().map_err(|_| refusal(400, "invalid createdAt"))?;
        sales.retain(|sale| if side == "gte" { sale.sold_at >= time } else { sale.sold_at <= time });
    }
    let mut all: Vec<Vec<Sale>> = Vec::new();
    for sale in sales {
        match all.last_mut().filter(|last| last.iter().all(|it| it.reference == sale.reference)) {
            Some(last) => last.push(sale),
            None => all.push(vec![sale]),
        }
    }
    let some = all.iter().rev().skip((page - 1).saturating_mul(size)).take(size);
    Ok(Reply::json(200, &some.map(|sales| order(shop, now, sales, with_esims)).collect::<Vec<_>>().into()))
}
