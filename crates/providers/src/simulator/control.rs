//! The simulator's own routes, which no upstream has: what was sold, what shall go wrong, what travellers do.

use super::Running;
use super::fault::{CallbackFaults, Planned};
use super::shop::{EsimLife, ShopEsim};
use super::wire::{Reply, Request};
use serde_json::{Value, json};

/// Where they are.
pub(super) const PREFIX: &str = "/simulator/";

fn esim(esim: &ShopEsim) -> Value {
    json!({"iccid": esim.profile.iccid, "life": esim.life.word(), "usedMb": esim.used_mb, "totalMb": esim.total_mb})
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"error": message}))
}

fn done(outcome: Result<(), impl std::fmt::Display>) -> Reply {
    match outcome {
        Ok(()) => Reply::json(200, &json!({"ok": true})),
        Err(error) => refusal(500, &error.to_string()),
    }
}

fn read<T: serde::de::DeserializeOwned>(request: &Request) -> Result<T, Reply> {
    serde_json::from_slice(&request.body).map_err(|error| refusal(400, &error.to_string()))
}

pub(super) fn answer(running: &Running, request: &Request) -> Reply {
    route(running, request).unwrap_or_else(|refused| refused)
}

fn route(running: &Running, request: &Request) -> Result<Reply, Reply> {
    let (shop, now) = (&running.shop, (running.now)());
    let rest = request.path.strip_prefix(PREFIX).unwrap_or_default();
    Ok(match (request.method.as_str(), rest.split_once('/').unwrap_or((rest, ""))) {
        ("GET", ("sales", "")) => {
            let sales: Vec<Value> = shop
                .sales()
                .iter()
                .map(|sale| {
                    let esims: Vec<Value> = shop.esims(sale).iter().map(esim).collect();
                    json!({"number": sale.number, "reference": sale.reference, "plan": sale.plan,
                           "asked": sale.asked, "delivered": sale.delivered, "cents": sale.cents, "esims": esims,
                           "soldAt": sale.sold_at.to_string(), "readyAt": sale.ready_at.to_string()})
                })
                .collect();
            Reply::json(200, &json!({"sales": sales, "balanceCents": shop.balance_cents()}))
        }
        ("POST", ("faults", "")) => {
            running.faults.plan(read::<Planned>(request)?);
            done(Ok::<(), String>(()))
        }
        ("POST", ("callbacks", "")) => {
            if let Some(url) = request.fields.get("url").and_then(Value::as_str) {
                shop.set_callback_url(url).map_err(|error| refusal(500, &error.to_string()))?;
            }
            running.faults.set_callbacks(read::<CallbackFaults>(request)?);
            done(Ok::<(), String>(()))
        }
        ("POST", ("balance", "")) => {
            let cents = request.integer("cents").ok_or_else(|| refusal(400, "cents is missing"))?;
            done(shop.set_balance(cents))
        }
        ("POST", ("plans", id)) => {
            if shop.plan(id).is_none() {
                return Err(refusal(404, "there is no such plan"));
            }
            let sells = request.fields.get("sells").and_then(Value::as_str);
            let withdrawn = request.text("withdrawn") == "true";
            done(shop.change_plan(id, request.integer("cents"), withdrawn, sells))
        }
        ("POST", ("esims", iccid)) => {
            let esim = shop.esim_by_iccid(iccid).ok_or_else(|| refusal(404, "there is no such eSIM"))?;
            let life = match request.text("life").as_str() {
                "" => esim.life,
                word => EsimLife::of(word).ok_or_else(|| refusal(400, "there is no such life"))?,
            };
            done(shop.live(now, &esim, life, request.integer("usedMb").unwrap_or(esim.used_mb)))
        }
        _ => return Err(refusal(404, "the simulator has no such route")),
    })
}
