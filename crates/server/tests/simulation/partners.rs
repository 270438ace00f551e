//! The partners and the operator: they buy, ask again, give back, look, lose patience, and compare what they are told
//! with what they were told before.

use crate::clock::pause;
use crate::disk::beginning;
use crate::world::{BOUGHT, Intent, World};
use bytes::Bytes;
use domain::id::OrderId;
use domain::money::{Currency, Money};
use domain::tenant::{Mode, TenantStatus};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use server::platform::Platform;
use server::routes::{Router, Side};
use server::serve;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use store::fulfilment::{OperatorRefund, refund_by_operator};
use store::port::{Decision, Failure, Fault};
use store::tenant;

/// A partner's or the operator's view of one node.
#[derive(Clone)]
pub struct Caller {
    pub world: Arc<World>,
    pub platform: Arc<Platform>,
}

/// An answer that came.
pub struct Reply {
    pub status: u16,
    pub replayed: bool,
    pub json: Value,
}

fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| Router::new(Side::Both, &[]).unwrap())
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Caller {
    /// Speaks HTTP over a connection in memory; `None` when none came.
    pub async fn call(&self, tenant: usize, method: &str, path: &str, body: Option<(&str, &Value)>) -> Option<Reply> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "simulated")
            .header("authorization", format!("Bearer {}", beginning().tenants[tenant].key));
        if let Some((key, _)) = body {
            request = request.header("content-type", "application/json").header("idempotency-key", key);
        }
        let body = body.map(|(_, body)| body.to_string()).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let (ours, theirs) = tokio::io::duplex(65_536);
        let peer = Ipv4Addr::LOCALHOST.into();
        tokio::spawn(serve::connection(Arc::clone(&self.platform), router(), peer, theirs));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.ok()?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotent-replayed");
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let now = self.platform.clock.now();
        self.world.note(now, &format!("{method} {path} {status} {}", json["error"]));
        self.world.note_quietly(&bytes);
        if status == 500 {
            self.world.wrong(format!("{method} {path}: {json}"));
        }
        Some(Reply { status, replayed, json })
    }

    async fn get(&self, tenant: usize, path: &str) -> Option<Value> {
        let reply = self.call(tenant, "GET", path, None).await?;
        (reply.status == 200).then(|| reply.json["data"].clone())
    }

    /// Does one thing after the other until the node ends.
    pub async fn live(self) {
        loop {
            pause(self.world.dice.below(2_500)).await;
            match self.world.dice.below(20) {
                0..=8 => self.buy_something().await,
                9..=11 => self.ask_again().await,
                12..=13 => self.give_back().await,
                14..=16 => self.look().await,
                17 => self.refund().await,
                18 => self.adjust().await,
                _ => self.suspend().await,
            }
        }
    }

    async fn buy_something(&self) {
        let (world, dice) = (&self.world, &self.world.dice);
        let intent = {
            let mut intents = world.intents.lock().unwrap();
            let tenant = dice.index(beginning().tenants.len());
            let key = format!("intent-{}", intents.len());
            let mut items = Vec::new();
            for _ in 0..=dice.below(2) {
                let bought = dice.pick(&BOUGHT);
                let plan = beginning().plans.iter().find(|plan| plan.upstream_plan_id == **bought).unwrap();
                items.push(json!({"planId": plan.id.to_string(), "quantity": 1 + dice.below(3)}));
            }
            let body = json!({"items": items, "reference": key, "email": format!("{key}@example.com")});
            intents.push(Intent { tenant, key, body, sent: 0, bought: None, refused: false });
            intents.len() - 1
        };
        self.send(intent).await;
    }

    async fn ask_again(&self) {
        let known = self.world.intents.lock().unwrap().len();
        if known > 0 {
            self.send(self.world.dice.index(known)).await;
        }
    }

    /// Sends a purchase, perhaps not for the first time, and perhaps without the patience for the answer.
    async fn send(&self, intent: usize) {
        let dice = &self.world.dice;
        let wait = *dice.pick(&[0, 0, 5, 30]);
        if dice.once_in(6) && !self.world.is_calm() {
            let patience = Duration::from_millis(dice.below(20));
            let _ = tokio::time::timeout(patience, self.check_out(intent, wait)).await;
        } else {
            self.check_out(intent, wait).await;
        }
    }

    /// Sends a purchase and books what is answered.
    pub async fn check_out(&self, number: usize, wait: u32) {
        let intent = {
            let mut intents = self.world.intents.lock().unwrap();
            intents[number].sent += 1;
            intents[number].clone()
        };
        let path = format!("/api/tenant/orders/checkout?wait={wait}");
        let Some(reply) = self.call(intent.tenant, "POST", &path, Some((&intent.key, &intent.body))).await else {
            return;
        };
        let mut intents = self.world.intents.lock().unwrap();
        let known = &mut intents[number];
        match reply.status {
            201 => {
                let data = &reply.json["data"];
                let orders: Vec<String> = list(&data["orders"]).iter().map(|order| text(&order["id"])).collect();
                let bought = (text(&data["checkoutId"]), orders);
                if intent.sent == 1 && reply.replayed {
                    self.world.wrong(format!("{} was never sent before, and is a replay", intent.key));
                }
                if known.refused || known.bought.as_ref().is_some_and(|known| *known != bought) {
                    self.world.wrong(format!("{}: {:?} became {bought:?}", intent.key, known.bought));
                }
                self.world.count(if reply.replayed { "replayed" } else { "bought" });
                known.bought = Some(bought);
                drop(intents);
                // A replay shows the orders as they were created.
                if !reply.replayed {
                    list(&data["orders"]).iter().for_each(|order| self.compare(order));
                }
            }
            // A node in trouble, and a tenant that may not buy or cannot pay just now.
            402 | 403 | 503 if reply.status == 402 || !self.world.is_calm() => {
                self.world.count(if reply.status == 402 { "not paid" } else { "turned away" });
                if known.bought.is_some() && reply.status == 402 {
                    self.world.wrong(format!("{} was bought, and is refused now: {}", intent.key, reply.json));
                }
                known.refused = self.world.is_calm();
            }
            status => self.world.wrong(format!("{}: {status} {}", intent.key, reply.json)),
        }
    }

    fn some_order(&self) -> Option<(usize, String, String)> {
        let intents = self.world.intents.lock().unwrap();
        let bought: Vec<&Intent> = intents.iter().filter(|intent| intent.bought.is_some()).collect();
        if bought.is_empty() {
            return None;
        }
        let intent = self.world.dice.pick(&bought);
        let (_, orders) = intent.bought.as_ref()?;
        Some((intent.tenant, self.world.dice.pick(orders).clone(), intent.key.clone()))
    }

    async fn give_back(&self) {
        let Some((tenant, order, _)) = self.some_order() else { return };
        let path = format!("/api/tenant/orders/{order}/cancel?wait={}", self.world.dice.pick(&[0, 0, 10]));
        let key = format!("cancel-{}", self.world.dice.roll());
        let Some(reply) = self.call(tenant, "POST", &path, Some((&key, &json!({})))).await else { return };
        if !matches!(reply.status, 202 | 403 | 409 | 503) {
            self.world.wrong(format!("cancelling {order}: {} {}", reply.status, reply.json));
        }
    }

    /// An order that was answered is there, found by its reference, and shows no other eSIM than before.
    async fn look(&self) {
        let Some((tenant, order, key)) = self.some_order() else { return };
        let wait = self.world.dice.pick(&[0, 0, 30]);
        if let Some(reply) = self.call(tenant, "GET", &format!("/api/tenant/orders/{order}?wait={wait}"), None).await {
            match reply.status {
                200 => self.compare(&reply.json["data"]["order"]),
                503 => {}
                status => self.world.wrong(format!("{order} was answered, and is {status}")),
            }
        }
        if let Some(found) = self.get(tenant, &format!("/api/tenant/orders?reference={key}")).await
            && !list(&found["orders"]).iter().any(|found| found["id"] == order.as_str())
        {
            self.world.wrong(format!("{order} was answered, and is not found by {key}: {found}"));
        }
    }

    /// Compares an order with what was shown of it before.
    pub fn compare(&self, order: &Value) {
        let mut shown = self.world.shown.lock().unwrap();
        for esim in list(&order["esims"]) {
            let now = esim["iccid"].as_str();
            match (shown.get(&text(&esim["id"])), now) {
                (Some(before), now) if now != Some(before) => {
                    self.world.wrong(format!("eSIM {} was {before} and is {now:?}", esim["id"]));
                }
                (None, Some(now)) => {
                    shown.insert(text(&esim["id"]), now.to_owned());
                }
                _ => {}
            }
        }
    }

    /// Runs a command of the operator; what it came to, unless the node is in trouble.
    pub async fn decide<T, R>(&self, decided: impl Future<Output = Decision<T, R>>) -> Option<Result<T, R>> {
        match decided.await {
            Ok(done) => Some(Ok(done)),
            Err(Failure::Refused(refusal)) => Some(Err(refusal)),
            Err(Failure::Fault(Fault::Bug(bug))) => {
                self.world.wrong(bug);
                None
            }
            Err(Failure::Fault(_)) => None,
        }
    }

    async fn refund(&self) {
        let Some((_, order, _)) = self.some_order() else { return };
        let (act, id) = (&beginning().act, order.parse::<OrderId>().unwrap());
        self.world.goodwill.lock().unwrap().insert(order);
        let refund = self
            .platform
            .store
            .write(move |tx| refund_by_operator(tx, act, id, &OperatorRefund::Rest, "Goodwill", None));
        self.decide(refund).await;
    }

    async fn adjust(&self) {
        let (tenant, dice) = (self.world.dice.index(beginning().tenants.len()), &self.world.dice);
        let number = {
            let mut adjustments = self.world.adjustments.lock().unwrap();
            let amount = Money::new(i64::try_from(dice.below(2_000)).unwrap() + 1, Currency::USD);
            adjustments.push((tenant, amount));
            adjustments.len() - 1
        };
        self.give(number).await;
    }

    /// Gives a tenant credit, perhaps not for the first time.
    pub async fn give(&self, number: usize) {
        let (tenant, amount) = self.world.adjustments.lock().unwrap()[number];
        let (act, id) = (&beginning().act, beginning().tenants[tenant].id);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_be_bytes());
        let given = self
            .platform
            .store
            .write(move |tx| tenant::adjust(tx, act, id, Mode::Live, amount, "Adjusted", Some((key, [0; 16]))));
        if let Some(Err(refusal)) = self.decide(given).await {
            self.world.wrong(format!("an adjustment is refused: {refusal:?}"));
        }
    }

    /// Suspends a tenant for a moment.
    async fn suspend(&self) {
        let tenant = self.world.dice.index(beginning().tenants.len());
        self.set_status(tenant, TenantStatus::Suspended).await;
        pause(self.world.dice.below(1_000)).await;
        self.set_status(tenant, TenantStatus::Active).await;
    }

    pub async fn set_status(&self, tenant: usize, status: TenantStatus) {
        let (act, id) = (&beginning().act, beginning().tenants[tenant].id);
        let set = self.platform.store.write(move |tx| tenant::set_status(tx, act, id, status, "Simulated"));
        self.decide(set).await;
    }
}
