//! Airalo's side of its wire, as its reference describes it and as the vendor's own clients speak it, in the mode
//! Airalo calls sandbox: packages whose names begin with `test-` go wrong on purpose, and future orders are worked on
//! at once. Prices for travellers are this simulator's own.

mod buying;
mod listing;
mod notices;
mod orders;
mod packages;

use super::dialect::{Credentials, Dialect, Outgoing};
use super::quota::{Left, Quota, Quotas};
use super::shop::{EsimLife, MILESTONES, News, Shop};
use super::wire::{Reply, Request};
use crate::airalo::{signature, spellings};
use crate::sandbox::catalogue;
use crate::signing::{hmac_sha256, is_same};
use buying::{addable, cancel_future_orders, future_order, future_orders, order_later, order_now, refund, top_up};
use domain::time::Timestamp;
use listing::dollars;
use notices::{low_data_news, opt_in, opt_out, opted_in, simulate};
use orders::{brand, history, instructions, is_done, listed_order, listed_sim, orders, sims, usage};
use packages::{package, package_name, packages, pricing};
use serde_json::{Value, json};

const DAY_MS: i64 = 86_400_000;
const TOKEN_LIFE_MS: i64 = DAY_MS;
/// What `expires_in` tells, seconds: the reference's own example, whatever it says of 24 hours.
const EXPIRES_IN: i64 = 31_622_400;
const RETRIES: u32 = 20;
const RETRY_MS: i64 = 15 * 60_000;

const TOKENS: Quota = Quota::a_minute(3);
const PACKAGES: Quota = Quota::a_minute(80);
const USAGE_OF_ONE: Quota = Quota::a_minute(10);
const USAGE: Quota = Quota::a_second(5);
const HISTORY_OF_ONE: Quota = Quota::a_minute(10);
const REFUNDS: Quota = Quota::a_minute(5);
const SIMULATED: Quota = Quota::a_minute(5);

/// The dialect.
pub(super) struct Airalo {
    credentials: Credentials,
    quotas: Quotas,
}

fn success(data: &Value) -> Reply {
    Reply::json(200, &json!({"data": data, "meta": {"message": "success"}}))
}

fn refusal(code: i64) -> Reply {
    let reason = match code {
        11 => "Insufficient Airalo Credit",
        13 => "The requested operator is currently undergoing maintenance. Please try again later.",
        14 => "Invalid checksum",
        23 => "The requested top-up has been disabled by the operator.",
        33 => "Insufficient stock of eSIMs remaining. Please try your request again later.",
        34 => "The requested eSIM package is invalid or it is currently out of stock. Please try again later.",
        73 => "The eSIM has been recycled. It can no longer be used or topped up.",
        _ => "Something unexpected happened. Please try again later.",
    };
    Reply::json(422, &json!({"code": code, "reason": reason}))
}

fn invalid(field: &str, told: &str) -> Reply {
    Reply::json(422, &json!({"data": {field: told}, "meta": {"message": "the parameter is invalid"}}))
}

fn not_found() -> Reply {
    Reply::json(404, &json!({"data": [], "meta": {"message": "messages.resource_not_found"}}))
}

fn unauthorized() -> Reply {
    let message = "Authentication failed. This could be due to an expired token, please generate a new token.";
    Reply::json(401, &json!({"data": [], "meta": {"message": message}}))
}

fn too_many() -> Reply {
    Reply::json(429, &json!({"message": "Too Many Attempts."}))
}

fn broken(_: rusqlite::Error) -> Reply {
    refusal(53)
}

fn required(field: &str) -> Reply {
    invalid(field, &format!("The {} field is required.", field.replace('_', " ")))
}

impl Airalo {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, quotas: Quotas::default() }
    }

    /// A token that tells when it was given out, so that it outlives the simulator.
    fn token_of(&self, issued: &str) -> String {
        let Credentials { account, secret, .. } = &self.credentials;
        format!("{issued}.{}", hmac_sha256(secret.as_bytes(), &["airalo token", account, issued]))
    }

    fn give_token(&self, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        self.counted("token", TOKENS, now, || {
            for field in ["client_id", "client_secret", "grant_type"] {
                if request.text(field).is_empty() {
                    return Err(required(field));
                }
            }
            if request.text("grant_type") != "client_credentials" {
                return Err(invalid("grant_type", "The selected grant type is invalid."));
            }
            let Credentials { account, secret, .. } = &self.credentials;
            if request.text("client_id") != *account || !is_same(&request.text("client_secret"), secret) {
                return Err(unauthorized());
            }
            self.check_signature(request)?;
            let token = self.token_of(&now.millis().to_string());
            Ok(success(&json!({"token_type": "Bearer", "expires_in": EXPIRES_IN, "access_token": token})))
        })
    }

    /// The token of a request, if it is one of ours and not too old.
    fn let_in<'r>(&self, now: Timestamp, request: &'r Request) -> Result<&'r str, Reply> {
        let token = request.header("authorization");
        let token = token.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = token.map_or("", |(_, token)| token.trim());
        let issued = token.split_once('.').map_or("", |(issued, _)| issued);
        let age = issued.parse::<i64>().map(|issued| now.since(Timestamp::from_millis(issued)));
        let is_good = age.is_ok_and(|age| (0..TOKEN_LIFE_MS).contains(&age)) && is_same(&self.token_of(issued), token);
        if is_good { Ok(token) } else { Err(unauthorized()) }
    }

    /// A signature needs not be there; one that is wrong is refused. It covers the JSON of what was sent, in whatever
    /// encoding; forms do not tell a number from a text.
    fn check_signature(&self, request: &Request) -> Result<(), Reply> {
        let sent = request.header("airalo-signature").to_ascii_lowercase();
        if sent.is_empty() {
            return Ok(());
        }
        let fields = Value::from(request.fields.clone());
        let mut numbered = request.fields.clone();
        if let Some(number) = request.integer("quantity") {
            numbered.insert("quantity".to_owned(), number.into());
        }
        let numbered = Value::from(numbered);
        let is_right = |payload: &[u8]| is_same(&signature(&self.credentials.secret, payload), &sent);
        let spelled = [fields, numbered].iter().flat_map(spellings).any(|spelling| is_right(spelling.as_bytes()));
        if spelled || is_right(&request.body) { Ok(()) } else { Err(refusal(14)) }
    }

    /// Answers unless it was asked too often, and tells what is left.
    fn counted(
        &self,
        key: &str,
        quota: Quota,
        now: Timestamp,
        answer: impl FnOnce() -> Result<Reply, Reply>,
    ) -> Result<Reply, Reply> {
        let left = self.quotas.count(key, quota, now);
        if let Left::Wait(_) = left {
            return Err(left.told(quota, too_many()));
        }
        let told = |reply| left.told(quota, reply);
        answer().map(told).map_err(told)
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        let path = request.path.strip_prefix("/v2/").unwrap_or_default().trim_end_matches('/');
        let method = request.method.as_str();
        if (method, path) == ("POST", "token") {
            return self.give_token(now, request);
        }
        let token = self.let_in(now, request)?;
        if matches!(method, "POST" | "PUT") {
            self.check_signature(request)?;
        }
        match (method, path) {
            ("GET", "packages") => {
                self.counted(&format!("packages {token}"), PACKAGES, now, || packages(shop, request))
            }
            ("POST", "orders") => order_now(shop, now, request),
            ("POST", "orders-async") => order_later(shop, now, request),
            ("POST", "orders/topups") => top_up(shop, now, request),
            ("GET", "orders") => orders(shop, now, request),
            ("GET", "sims") => sims(shop, now, request),
            ("GET", "balance") => Ok(success(&json!({"balances": {
                "name": "balance",
                "availableBalance": {"amount": dollars(shop.balance_cents()), "currency": "USD"},
            }}))),
            ("POST", "refund") => self.counted("refund", REFUNDS, now, || refund(shop, now, request)),
            ("POST", "future-orders") => future_order(shop, now, request),
            ("GET", "future-orders") => future_orders(shop, request),
            ("POST", "cancel-future-orders") => cancel_future_orders(shop, now, request),
            ("POST", "notifications/opt-in") => opt_in(shop, now, request),
            ("GET", "notifications/opt-in") => Ok(opted_in(shop, request)),
            ("POST", "notifications/opt-out") => opt_out(shop, request),
            ("POST", "simulator/webhook") => self.counted("simulator", SIMULATED, now, || simulate(shop, now, request)),
            _ => self.route_one(shop, now, request, path),
        }
    }

    /// Routes of one order or one eSIM.
    fn route_one(&self, shop: &Shop, now: Timestamp, request: &Request, path: &str) -> Result<Reply, Reply> {
        let (kind, rest) = path.split_once('/').ok_or_else(not_found)?;
        let (name, what) = rest.split_once('/').unwrap_or((rest, ""));
        let method = request.method.as_str();
        if (method, kind, what) == ("GET", "orders", "") {
            let sale = name.parse().ok().and_then(|number| shop.sale(number)).filter(|sale| is_done(sale, now));
            return sale.map(|sale| success(&listed_order(shop, &sale, request))).ok_or_else(not_found);
        }
        if kind != "sims" {
            return Err(not_found());
        }
        let esim = || shop.esim_by_iccid(name).filter(|esim| is_done(&esim.sale, now)).ok_or_else(not_found);
        match (method, what) {
            ("GET", "") => Ok(success(&listed_sim(shop, &esim()?, request))),
            ("GET", "topups") => {
                let esim = esim()?;
                if esim.life == EsimLife::Cancelled {
                    return Err(refusal(73));
                }
                let packages: Vec<Value> = addable(shop, &esim).iter().map(|plan| package(plan, true)).collect();
                Ok(Reply::json(200, &json!({"pricing": pricing(), "data": packages})))
            }
            ("GET", "usage") => self.counted("usage", USAGE, now, || {
                self.counted(&format!("usage {name}"), USAGE_OF_ONE, now, || Ok(success(&usage(&esim()?))))
            }),
            ("GET", "packages") => self.counted(&format!("packages of {name}"), HISTORY_OF_ONE, now, || {
                Ok(Reply::json(200, &history(shop, &esim()?)))
            }),
            ("GET", "instructions") => Ok(success(&instructions(&esim()?, request))),
            ("PUT", "brand") => brand(shop, request, &esim()?),
            _ => Err(not_found()),
        }
    }
}

impl Dialect for Airalo {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        too_many().with("x-ratelimit-limit", "80").with("x-ratelimit-remaining", "0").with("retry-after", "1")
    }

    fn callback(&self, _now: Timestamp, news: &News) -> Option<Outgoing> {
        let body = match (news.word.as_str(), &news.esim) {
            ("trial", None) => String::new(),
            // What is about no sale was written out when it happened.
            (word, None) if word.starts_with('{') => word.to_owned(),
            (word, Some(esim)) => {
                let (used, _) = MILESTONES.iter().find(|(_, known)| *known == word)?;
                let plan = catalogue().into_iter().find(|plan| plan.upstream_plan_id == esim.sale.plan);
                let name = plan.as_ref().map_or(esim.sale.plan.clone(), package_name);
                let total = esim.total_mb.filter(|total| *total > 0)?;
                let left = total.saturating_sub(esim.used_mb).max(0).saturating_mul(100) / total;
                low_data_news(&format!("{used}%"), &name, left, &esim.profile.iccid).to_string()
            }
            // Orders are told with their request's id, or not at all.
            _ => return None,
        };
        let sign = signature(&self.credentials.secret, body.as_bytes());
        let headers = if body.is_empty() { Vec::new() } else { vec![("airalo-signature", sign)] };
        Some(Outgoing { headers, content_type: "application/json", body: body.into_bytes() })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        (200..204).contains(&status)
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        (attempts <= RETRIES).then_some(RETRY_MS)
    }
}
