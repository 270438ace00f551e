//! eSIM Go's side of its wire, version 2.4, with the paths of its neighbours 2.1 to 2.5 that clients still use. The
//! published description has no words for refusals and for orders that wait: those here are this simulator's own.
//!
//! | what | where |
//! |---|---|
//! | prices | `GET catalogue`, `catalogue/bundle/{name}`, `networks`, `organisation/groups` |
//! | money | `GET organisation`, `POST organisation/balance` |
//! | orders | `POST orders`, `GET orders`, `orders/{orderReference}` |
//! | bought ahead | `GET inventory`, `POST inventory/refund`, `esims/apply`, `esims/{iccid}/bundles` |
//! | eSIMs | `GET`, `PUT esims`, `GET esims/assignments`, `esims/{iccid}` and what is below it |
//! | revoking | `DELETE esims/{iccid}/bundles/{name}`, `.../assignments/{assignmentId}` |

mod assignment;
mod catalogue;
mod esim;
mod inventory;
mod order;

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, Shop};
use super::wire::{Reply, Request};
use crate::signing::{is_same, mac};
use assignment::{assignment, assignments, bundles, history, id, revoke};
use aws_lc_rs::hmac::HMAC_SHA256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use catalogue::{bundle, catalogue, networks};
use domain::time::Timestamp;
use esim::{details, esims, install_details, location, ours};
use inventory::{apply, inventory};
use order::{create, order, orders, sales_of_order};
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};

const MEGABYTE: i64 = 1_048_576;
const DAY_MS: i64 = 86_400_000;
/// What `POST organisation/balance` takes at least and at most, in whole units of the currency.
const LEAST_PAYMENT: i64 = 1_000;
const MOST_PAYMENT: i64 = 5_000;

/// The dialect.
pub(super) struct EsimGo {
    credentials: Credentials,
    /// Held while something is bought: an order of several bundles is several sales.
    buying: Mutex<()>,
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"message": message}))
}

fn status(message: &str) -> Reply {
    Reply::json(200, &json!({"status": message}))
}

/// Cents as a decimal number.
fn decimal(cents: i64) -> Value {
    serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap_or(Value::Null)
}

fn unescape(segment: &str) -> String {
    let escaped = format!("s={}", segment.replace('+', "%2B"));
    form_urlencoded::parse(escaped.as_bytes()).next().map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn no_sale(no_sale: &NoSale) -> Reply {
    match no_sale {
        NoSale::UnknownPlan => refusal(400, "bundle not found"),
        NoSale::OutOfStock => refusal(400, "bundle is not available"),
        NoSale::InsufficientFunds => refusal(400, "insufficient balance"),
        NoSale::InvalidQuantity => refusal(400, "invalid quantity"),
        NoSale::NotAddable => refusal(400, "bundle is not compatible with eSIM"),
        NoSale::Busy => refusal(429, "Too Many Requests"),
        NoSale::Broken(_) => refusal(500, "Internal Server Error"),
    }
}

/// Page and size from a query.
fn paging(request: &Request, size: &str, default: usize) -> (usize, usize) {
    let number = |name: &str, default: usize| request.parameter(name).parse().unwrap_or(default).max(1);
    (number("page", 1), number(size, default).min(1_000))
}

/// What a body says under one name, whatever its letters' case: a service in Go takes them all.
fn field<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    match field(fields, name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(yes)) => yes.to_string(),
        _ => String::new(),
    }
}

fn quantity(fields: &Map<String, Value>, name: &str) -> Option<u32> {
    let text = text(fields, name);
    if text.is_empty() { Some(1) } else { text.parse().ok() }
}

fn pay(shop: &Shop, request: &Request) -> Reply {
    let amount = Some(request.parameter("amount").to_owned()).filter(|text| !text.is_empty());
    let amount: Option<i64> = amount.unwrap_or_else(|| request.text("amount")).parse().ok();
    let Some(amount) = amount.filter(|amount| (LEAST_PAYMENT..=MOST_PAYMENT).contains(amount)) else {
        return refusal(400, "amount is out of range");
    };
    let balance = shop.balance_cents().saturating_add(amount.saturating_mul(100));
    match shop.set_balance(balance) {
        Ok(()) => {
            Reply::json(200, &json!({"amount": amount, "balance": decimal(balance), "ref": shop.next_sale_number()}))
        }
        Err(_) => refusal(500, "Internal Server Error"),
    }
}

impl EsimGo {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, buying: Mutex::new(()) }
    }

    fn organisation(&self, shop: &Shop) -> Reply {
        Reply::json(
            200,
            &json!({
                "name": "Sandbox", "apiKey": self.credentials.secret, "taxLiable": "No", "addr1": "", "addr2": "",
                "city": "", "country": "", "postcode": "", "callbackUrl": shop.callback_url(), "notes": "",
                "groups": ["Standard Fixed", "Standard Unlimited Essential"], "currency": "USD",
                "balance": decimal(shop.balance_cents()), "testCredit": 0, "testCreditExpiry": null,
                "businessType": "", "website": "", "productDescription": "", "users": [],
            }),
        )
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        if !is_same(request.header("x-api-key"), &self.credentials.secret) {
            return Err(refusal(403, "access denied"));
        }
        let path: Vec<String> = request.path.trim_matches('/').split('/').map(unescape).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let Some((&("v2.1" | "v2.2" | "v2.3" | "v2.4" | "v2.5"), path)) = path.split_first() else {
            return Err(refusal(403, "Missing Authentication Token"));
        };
        match (request.method.as_str(), path) {
            ("GET", ["catalogue"]) => Ok(catalogue(shop, request)),
            ("GET", ["catalogue", "bundle", name]) => {
                let listed = shop.plan(name).filter(|listed| !listed.withdrawn);
                let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
                Ok(Reply::json(200, &bundle(&listed)))
            }
            ("GET", ["networks"]) => Ok(networks(shop, request)),
            ("GET", ["organisation"]) => Ok(self.organisation(shop)),
            ("POST", ["organisation", "balance"]) => Ok(pay(shop, request)),
            ("GET", ["organisation", "groups"]) => {
                let groups = ["Standard Fixed", "Standard Unlimited Essential"];
                Ok(Reply::json(200, &json!({"groups": groups.map(|name| json!({"name": name}))})))
            }
            ("POST", ["orders"]) => {
                let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                create(shop, now, request)
            }
            ("GET", ["orders"]) => orders(shop, now, request),
            ("GET", ["orders", reference]) => {
                let sales = sales_of_order(shop, reference);
                if sales.is_empty() {
                    return Err(refusal(400, "order not found"));
                }
                Ok(Reply::json(200, &order(shop, now, &sales, true)))
            }
            ("GET", ["inventory"]) => Ok(inventory(shop)),
            ("POST", ["inventory", "refund"]) => {
                let (id, many) = (request.integer("usageId"), request.integer("quantity"));
                let (id, many) = id.zip(many).ok_or_else(|| refusal(400, "usageId and quantity are required"))?;
                let done = Reply::json(
                    200,
                    &json!({"message": "Successfully refunded bundles to balance",
                                                    "status": "Successfully refunded bundles to balance"}),
                );
                shop.refund_stock(id, many).map(|()| done).map_err(|_| refusal(400, "nothing to refund"))
            }
            (_, ["esims", rest @ ..]) => self.of_esims(shop, now, request, rest),
            _ => Err(refusal(403, "Missing Authentication Token")),
        }
    }

    fn of_esims(&self, shop: &Shop, now: Timestamp, request: &Request, path: &[&str]) -> Result<Reply, Reply> {
        match (request.method.as_str(), path) {
            ("GET", []) => Ok(esims(shop, now, request)),
            ("PUT", []) => {
                let said = |name| Some(request.text(name)).filter(|text| !text.is_empty());
                let said = |name| said(name).unwrap_or_else(|| request.parameter(name).to_owned());
                let esim = ours(shop, now, &said("iccid"))?;
                let noted = shop.set_label(&esim, &said("customerRef"));
                noted.map(|()| status("success")).map_err(|_| refusal(500, "Internal Server Error"))
            }
            ("POST", ["apply"]) => {
                let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                let (reference, esims) = apply(shop, now, &request.fields, &request.text("iccid"))?;
                Ok(Reply::json(200, &json!({"esims": esims, "applyReference": reference})))
            }
            ("GET", ["assignments"]) => {
                let given = request.query.iter().filter(|(name, _)| name == "reference" || name == "references");
                let given = given.flat_map(|(_, value)| value.split(',').map(|one| one.trim().to_owned()));
                let references: Vec<String> = given.filter(|one| !one.is_empty()).collect();
                if references.is_empty() {
                    return Err(refusal(400, "reference is required"));
                }
                install_details(shop, now, request, &references)
            }
            ("GET", ["assignments", reference]) => install_details(shop, now, request, &[(*reference).to_owned()]),
            (method, [iccid, rest @ ..]) => {
                let esim = ours(shop, now, iccid)?;
                match (method, rest) {
                    ("GET", []) => {
                        let mut details = details(&esim, request, |time| time.millis().into());
                        details.insert("customerRef".to_owned(), shop.label(&esim).into());
                        Ok(Reply::json(200, &details.into()))
                    }
                    ("GET", ["history"]) => Ok(history(shop, now, &esim)),
                    ("GET", ["refresh"]) => Ok(status("Successfully refreshed SIM")),
                    ("GET", ["location"]) => Ok(location(shop, &esim)),
                    ("GET", ["compatible", name]) => {
                        let listed = shop.plan(name).filter(|listed| !listed.withdrawn);
                        let listed = listed.ok_or_else(|| no_sale(&NoSale::UnknownPlan))?;
                        let is_over = matches!(esim.life, EsimLife::Expired | EsimLife::Cancelled);
                        Ok(Reply::json(200, &json!({"compatible": listed.plan.top_up_supported && !is_over})))
                    }
                    ("POST", ["sms"]) => match request.text("message").chars().count() {
                        1..=160 => Ok(status("sent")),
                        _ => Err(refusal(400, "message must have 1 to 160 characters")),
                    },
                    ("GET", ["bundles"]) => bundles(shop, now, &esim, request),
                    ("POST", ["bundles"]) => {
                        let _buying = self.buying.lock().unwrap_or_else(PoisonError::into_inner);
                        apply(shop, now, &request.fields, iccid)?;
                        Ok(status("Successfully Applied Bundle"))
                    }
                    ("GET", ["bundles", name]) => {
                        let all = assignments(shop, now, &esim);
                        let last = all.iter().rfind(|it| it.sale.plan == *name);
                        let last = last.ok_or_else(|| refusal(400, "bundle not found on eSIM"))?;
                        Ok(Reply::json(200, &json!({"assignments": [assignment(last)]})))
                    }
                    ("DELETE", ["bundles", name]) => Ok(revoke(shop, now, request, &esim, name, None)),
                    ("DELETE", ["bundles", name, "assignments", id]) => {
                        Ok(revoke(shop, now, request, &esim, name, Some(id)))
                    }
                    _ => Err(refusal(403, "Missing Authentication Token")),
                }
            }
            _ => Err(refusal(403, "Missing Authentication Token")),
        }
    }
}

impl Dialect for EsimGo {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        no_sale(&NoSale::Busy)
    }

    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing> {
        // Nothing is told of orders, and of an eSIM only what is done with its data.
        let (alert, with_bundle) = match news.word.as_str() {
            "installed" => ("FirstAttachment", false),
            "in_use" => ("FirstUse", true),
            "used_up" => ("Utilisation", true),
            _ => return None,
        };
        let esim = news.esim.as_ref()?;
        let mut body = json!({"iccid": esim.profile.iccid, "alertType": alert});
        if with_bundle {
            let total_mb = esim.total_mb.unwrap_or(0);
            let left_mb = total_mb.saturating_sub(esim.used_mb).max(0);
            body["bundle"] = json!({
                "id": id(esim, &esim.sale),
                "reference": format!("{}-{}", esim.sale.reference, esim.sale.index_of(esim)),
                "name": esim.sale.plan,
                "description": esim.sale.plan,
                "initialQuantity": total_mb.saturating_mul(MEGABYTE),
                "remainingQuantity": left_mb.saturating_mul(MEGABYTE),
                "startTime": esim.activated_at.unwrap_or(now).to_string(),
                "endTime": esim.expires_at.unwrap_or(now).to_string(),
                "unlimited": esim.total_mb.is_none(),
            });
        }
        let body = body.to_string().into_bytes();
        let signature = STANDARD.encode(mac(HMAC_SHA256, self.credentials.secret.as_bytes(), &[&body]));
        Some(Outgoing { headers: vec![("x-signature-sha256", signature)], content_type: "application/json", body })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        (200..300).contains(&status)
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        // Neither number nor pauses are published.
        (attempts < 5).then_some(5_000)
    }
}
