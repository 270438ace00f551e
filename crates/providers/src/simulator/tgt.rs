//! TGT's side of its wire ("Global eSIM API 2.0"), as notes on its document and working clients see it. Its codes are
//! the published ones. Which of those of failed orders says what is this simulator's choice: nobody has told.
//!
//! | POST behind `/openapi/` | |
//! |---|---|
//! | `oauth/token` | a token for a day |
//! | `eSIMApi/v2/products/list`, `/detail` | what is sold |
//! | `eSIMApi/v2/card` | what a kind of card can do |
//! | `eSIMApi/v2/order/create`, `/create/push` | buys one, once for each `idempotencyKey` |
//! | `eSIMApi/v2/order/orders`, `/list` | orders by number, reference or ICCID; all of them, filtered |
//! | `eSIMApi/v2/order/usage`, `/topups` | data used; data added, which is none |
//! | `eSIMApi/v2/account/balance` | the balance |
//! | `eSIMApi/v2/iccid/profile` | a profile |

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::wire::{Reply, Request};
use crate::signing::{hmac_sha256, is_same};
use crate::tgt::callback_signatures;
use crate::tgt::{NO_ORDER, NO_USAGE, ORDER_FAILURES, PAGE, REMOTE_ERROR, SUCCESS, TOKEN_CODES, TOO_FREQUENT};
use domain::time::Timestamp;
use serde_json::{Value, json};

const TOKEN_SECONDS: i64 = 86_400;
const PARAMETER: &str = "1003";
const PAGING: &str = "1004";
const NO_PERMISSION: &str = "2001";
/// The longest `idempotencyKey`, characters.
const MOST_KEY_CHARACTERS: usize = 64;
/// Between two tries to tell news, and how often it is tried: two hours.
const RETRY_MS: i64 = 5_000;
const MOST_TRIES: u32 = 1_440;
/// The kind of all cards here, one that tells its usage.
const CARD: &str = "C1";

/// The dialect.
pub(super) struct Tgt {
    credentials: Credentials,
}

fn success(data: Value) -> Reply {
    Reply::json(200, &json!({"code": SUCCESS, "msg": "success", "data": data}))
}

fn refusal(code: &str, message: &str) -> Reply {
    // Without `data`: some clients take it for an object wherever there is one.
    Reply::json(200, &json!({"code": code, "msg": message}))
}

/// What went wrong behind the service, in its own words.
fn failure(sub_code: &str, sub_message: &str) -> Reply {
    let body = json!({"code": REMOTE_ERROR, "msg": "remote error", "subCode": sub_code, "subMsg": sub_message});
    Reply::json(200, &body)
}

fn order_number(sale: &Sale) -> String {
    format!("SE{:012}", sale.number)
}

fn number_of(order: &str) -> Option<i64> {
    order.strip_prefix("SE")?.parse().ok()
}

/// A time in UTC, without milliseconds; empty for none.
fn time(time: Option<Timestamp>) -> String {
    let text = time.map(|time| time.to_string()).unwrap_or_default();
    text.get(..19).map(|seconds| format!("{seconds}Z")).unwrap_or_default()
}

fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// An amount as a number in JSON, digit by digit.
fn decimal(cents: i64) -> Value {
    serde_json::from_str(&amount(cents)).unwrap_or_default()
}

fn product(listed: &ShopPlan) -> Value {
    let plan = &listed.plan;
    let data = plan.daily_data_mb.or(plan.data_mb).unwrap_or(0);
    let operators: Vec<&str> = plan.networks.iter().map(|network| network.operator).collect();
    json!({
        "productCode": plan.upstream_plan_id,
        "productName": plan.name,
        "productType": if plan.daily_data_mb.is_some() { "DAILY_PACK" } else { "DATA_PACK" },
        "cardType": CARD,
        "countryCodeList": plan.countries,
        "mccList": [],
        "netPrice": decimal(plan.price_minor),
        "periodType": 0,
        "usagePeriod": plan.validity_days,
        "validityPeriod": 180,
        "dataLimited": if plan.unlimited { "N" } else { "Y" },
        "dataTotal": data,
        "dataUnit": "MB",
        "activeType": if plan.activation == "on_order" { "ACTIVATE_ON_ORDER" } else { "AUTO_ACTIVATE" },
        "operatorDesc": operators.join(","),
        "apnDesc": "internet.sandbox",
        "ruleDesc": plan.fair_use.clone().unwrap_or_default(),
        "highSpeed": plan.speed,
        "limitSpeed": "",
        "topupInfoList": [],
    })
}

/// What an order's detail and a callback have in common.
fn times(sale: &Sale, esim: Option<&ShopEsim>) -> Value {
    json!({
        "orderNo": order_number(sale),
        "channelOrderNo": sale.reference,
        "qrCode": esim.map_or("", |esim| esim.profile.activation_code.as_str()),
        "activatedStartTime": time(esim.and_then(|esim| esim.activated_at)),
        "activatedEndTime": time(esim.and_then(|esim| esim.expires_at)),
        "latestActivationTime": time(esim.and_then(|esim| esim.profile.install_by)),
        "renewExpirationTime": time(esim.and_then(|esim| esim.expires_at)),
        "createdTime": time(Some(sale.sold_at)),
        "orderType": "DAYPASS",
    })
}

fn card(esim: Option<&ShopEsim>) -> Value {
    json!({
        "iccid": esim.map_or("", |esim| esim.profile.iccid.as_str()),
        "imsi": esim.map(|esim| format!("99970{:010}", esim.number)).unwrap_or_default(),
        "msisdn": esim.and_then(|esim| esim.profile.msisdn.clone()).unwrap_or_default(),
        "rentalContractNumber": "",
    })
}

/// An order's state and its profile's.
fn states(sale: &Sale, now: Timestamp, esim: Option<&ShopEsim>) -> (&'static str, &'static str) {
    match esim.map(|esim| esim.life) {
        None if sale.is_ready(now) => ("ABANDON", "failed"),
        None => ("NOTACTIVE", "ungenerated"),
        Some(EsimLife::Released) => ("NOTACTIVE", "nodownload"),
        Some(EsimLife::Installed) => ("NOTACTIVE", "downloaded"),
        Some(EsimLife::InUse) => ("INUSE", "activated"),
        Some(EsimLife::UsedUp) => ("USED", "activated"),
        Some(EsimLife::Expired) => ("EXPIRED", "activated"),
        Some(EsimLife::Suspended | EsimLife::Revoked | EsimLife::Cancelled) => ("TERMINATION", "unavailable"),
    }
}

fn esim_of(shop: &Shop, now: Timestamp, sale: &Sale) -> Option<ShopEsim> {
    shop.esims(sale).into_iter().next().filter(|_| sale.is_ready(now))
}

fn order(shop: &Shop, now: Timestamp, sale: &Sale) -> Value {
    let esim = esim_of(shop, now, sale);
    let (state, profile) = states(sale, now, esim.as_ref());
    let mut order = times(sale, esim.as_ref());
    order["productCode"] = sale.plan.clone().into();
    order["productName"] = shop.plan(&sale.plan).map(|listed| listed.plan.name).unwrap_or_default().into();
    order["orderStatus"] = state.into();
    order["profileStatus"] = profile.into();
    order["cardInfo"] = card(esim.as_ref());
    order
}

/// A page of what there is; pages of more than 100 are refused.
fn page(request: &Request, all: &[Value]) -> Result<Reply, Reply> {
    let number = |name, default| usize::try_from(request.integer(name).unwrap_or(default)).ok();
    let (page, size) = (number("pageNum", 1), number("pageSize", 10));
    let (Some(page @ 1..), Some(size @ 1..=PAGE)) = (page, size) else {
        return Err(refusal(PAGING, "paging parameter error"));
    };
    let list: Vec<&Value> = all.iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    Ok(success(json!({"total": all.len(), "list": list})))
}

/// What has all the values that a request asks for.
fn filtered(request: &Request, mut all: Vec<Value>, names: &[&str]) -> Vec<Value> {
    let asked: Vec<(&str, String)> = names.iter().map(|name| (*name, request.text(name))).collect();
    all.retain(|one| {
        asked.iter().all(|(name, asked)| {
            let has = match &one[*name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            asked.is_empty() || has == *asked
        })
    });
    all
}

impl Tgt {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// A token says itself until when it is good, and that it was given out here.
    fn token(&self, until: &str) -> String {
        let Credentials { account, secret, .. } = &self.credentials;
        format!("{until}.{}", hmac_sha256(secret.as_bytes(), &["token", account, until]))
    }

    fn log_in(&self, now: Timestamp, request: &Request) -> Reply {
        let Credentials { account, secret, .. } = &self.credentials;
        if request.text("accountId") != *account || !is_same(&request.text("secret"), secret) {
            return refusal(NO_PERMISSION, "no permission");
        }
        let until = now.plus_millis(TOKEN_SECONDS.saturating_mul(1_000)).millis().to_string();
        let token = self.token(&until);
        // The document says one name, the sandbox another.
        success(json!({"accessToken": token, "token": token, "expires": TOKEN_SECONDS}))
    }

    fn let_in(&self, now: Timestamp, request: &Request) -> Result<(), Reply> {
        let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let until = token.split('.').next().unwrap_or_default();
        let [invalid, unknown] = TOKEN_CODES;
        if !is_same(token, &self.token(until)) {
            return Err(refusal(unknown, "token does not exist"));
        }
        if until.parse().is_ok_and(|until| now.millis() < until) {
            Ok(())
        } else {
            Err(refusal(invalid, "token invalid"))
        }
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        let path = request.path.strip_prefix("/openapi").unwrap_or(&request.path);
        if request.method != "POST" {
            return Err(Reply::text(405, "text/html", "<html><h1>405 Method Not Allowed</h1></html>"));
        }
        if path == "/oauth/token" {
            return Ok(self.log_in(now, request));
        }
        self.let_in(now, request)?;
        match path.strip_prefix("/eSIMApi/v2/").unwrap_or_default() {
            "products/list" => {
                let products = shop.plans().iter().map(product).collect();
                page(request, &filtered(request, products, &["productType", "cardType", "usagePeriod", "periodType"]))
            }
            "products/detail" => {
                let listed = shop.plan(&request.text("productCode")).filter(|listed| !listed.withdrawn);
                listed.map(|listed| success(product(&listed))).ok_or_else(|| refusal(PARAMETER, "productCode"))
            }
            "card" => Ok(success(json!({"renewFlag": false, "supportGetUsage": true, "renewCount": 0}))),
            "order/create" => create(shop, now, request, &["productCode", "channelOrderNo", "idempotencyKey"]),
            "order/create/push" => {
                let required = ["productCode", "channelOrderNo", "idempotencyKey", "eid", "imei2", "startDate"];
                create(shop, now, request, &required)
            }
            // Clients' notes on the document know the second name.
            "order/orders" | "order/query" => {
                let found: Vec<Value> =
                    sale_of(shop, now, request)?.iter().map(|sale| order(shop, now, sale)).collect();
                Ok(success(json!({"list": found})))
            }
            "order/list" => {
                let sales = shop.sales();
                let orders = sales.iter().rev().map(|sale| order(shop, now, sale)).collect();
                let names = ["orderNo", "channelOrderNo", "productCode", "orderStatus", "profileStatus", "orderType"];
                page(request, &filtered(request, orders, &names))
            }
            "order/usage" => usage(shop, now, request),
            "order/topups" => Ok(success(json!({"list": []}))),
            "account/balance" => Ok(success(self.balance(shop))),
            "iccid/profile" => {
                let esim = shop.esim_by_iccid(&request.text("iccid")).filter(|esim| esim.sale.is_ready(now));
                let esim = esim.ok_or_else(|| failure(NO_ORDER, "order not found"))?;
                let (_, state) = states(&esim.sale, now, Some(&esim));
                Ok(success(json!({
                    "iccid": esim.profile.iccid,
                    "state": state,
                    "installCount": u8::from(esim.life != EsimLife::Released),
                    "updateTime": time(Some(esim.changed_at)),
                })))
            }
            _ => Err(Reply::text(404, "text/html", "<html><h1>404 Not Found</h1></html>")),
        }
    }

    /// In both of the shapes that clients read.
    fn balance(&self, shop: &Shop) -> Value {
        let left = amount(shop.balance_cents());
        json!({
            "balance": left,
            "currency": "USD",
            "accountList": [{"id": self.credentials.account, "type": "BASIC", "status": "ENABLE", "balance": left}],
        })
    }
}

fn no_sale(no_sale: &NoSale) -> Reply {
    let [no_plan, _, no_stock, no_funds, ..] = ORDER_FAILURES;
    match no_sale {
        NoSale::UnknownPlan => failure(no_plan, "product does not exist"),
        NoSale::OutOfStock => failure(no_stock, "insufficient stock"),
        NoSale::InsufficientFunds => failure(no_funds, "insufficient balance"),
        NoSale::InvalidQuantity | NoSale::NotAddable => refusal(PARAMETER, "parameter error"),
        NoSale::Busy => refusal(TOO_FREQUENT, "request too frequent"),
        NoSale::Broken(_) => refusal(REMOTE_ERROR, "remote error"),
    }
}

fn create(shop: &Shop, now: Timestamp, request: &Request, required: &[&str]) -> Result<Reply, Reply> {
    if let Some(missing) = required.iter().find(|name| request.text(name).is_empty()) {
        return Err(refusal(PARAMETER, &format!("{missing} cannot be empty")));
    }
    let key = request.text("idempotencyKey");
    if key.chars().count() > MOST_KEY_CHARACTERS {
        return Err(refusal(PARAMETER, "idempotencyKey is too long"));
    }
    let wish = Wish {
        reference: request.text("channelOrderNo"),
        plan: request.text("productCode"),
        quantity: 1,
        notify_url: String::new(),
    };
    let sale = shop.sell_telling_each(now, &wish, Some(&key)).map_err(|error| no_sale(&error))?;
    Ok(success(json!({"orderNo": order_number(&sale)})).lost_if(sale.answer_is_lost()))
}

/// The sale that a request names by number, reference or ICCID.
fn sale_of(shop: &Shop, now: Timestamp, request: &Request) -> Result<Option<Sale>, Reply> {
    let (number, reference, iccid) = (request.text("orderNo"), request.text("channelOrderNo"), request.text("iccid"));
    let found = if !number.is_empty() {
        number_of(&number).and_then(|number| shop.sale(number))
    } else if !reference.is_empty() {
        shop.sale_of(&reference)
    } else if !iccid.is_empty() {
        shop.esim_by_iccid(&iccid).map(|esim| esim.sale).filter(|sale| sale.is_ready(now))
    } else {
        return Err(refusal(PARAMETER, "orderNo, channelOrderNo or iccid is needed"));
    };
    found.map(Some).ok_or_else(|| failure(NO_ORDER, "order not found"))
}

fn usage(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let sale = number_of(&request.text("orderNo")).and_then(|number| shop.sale(number));
    let [_, no_order] = NO_USAGE;
    let esim = sale.and_then(|sale| esim_of(shop, now, &sale));
    let esim = esim.ok_or_else(|| failure(no_order, "the order does not exist"))?;
    let mut usage = json!({
        "dataUsage": esim.used_mb.to_string(),
        "refuelingTotal": "0",
        "qtaconsumption": esim.used_mb.to_string(),
    });
    let is_daily = shop.plan(&esim.sale.plan).is_some_and(|listed| listed.plan.daily_data_mb.is_some());
    // Daily packs have no total.
    if let Some(total) = esim.total_mb.filter(|_| !is_daily) {
        usage["dataTotal"] = total.to_string().into();
        usage["dataResidual"] = total.saturating_sub(esim.used_mb).max(0).to_string().into();
    }
    Ok(success(usage))
}

impl Dialect for Tgt {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        no_sale(&NoSale::Busy)
    }

    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing> {
        let esim = news.esim.as_ref().filter(|_| news.word == "ready")?;
        let mut info = times(&news.sale, Some(esim));
        for (name, value) in card(Some(esim)).as_object()?.iter().filter(|(name, _)| *name != "rentalContractNumber") {
            info[name] = value.clone();
        }
        let mut body = json!({
            "code": SUCCESS,
            "msg": "success",
            "timestamp": time(Some(now)),
            "data": {"eventType": 1, "businessType": "ESIM", "orderInfo": info},
        });
        let [sign, _] = callback_signatures(&self.credentials.secret, &body);
        body["sign"] = sign.into();
        let body = body.to_string().into_bytes();
        Some(Outgoing { headers: Vec::new(), content_type: "application/json", body })
    }

    fn is_acknowledged(&self, status: u16, body: &str) -> bool {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        status == 200 && body["code"] == SUCCESS
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        (attempts < MOST_TRIES).then_some(RETRY_MS)
    }
}
