//! TSIM's side of its wire, as the vendor's plugin and working clients see it. Codes that nobody has seen are this
//! simulator's own, and said to be so.

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::wire::{Reply, Request};
use crate::lenient::local_text;
use crate::signing::{is_same, nonce};
use crate::tsim::{HOURS_EAST, SUCCESS, signature};
use domain::time::Timestamp;
use serde_json::{Value, json};

/// A nonce must differ from all others of one hour.
const NONCE_WINDOW_MS: i64 = 3_600_000;
const NOT_READY: i64 = 1_006;
/// Codes of this simulator: those of the service are not known.
const BAD_SIGNATURE: i64 = 9_001;
const REUSED_NONCE: i64 = 9_002;
const NO_PLAN: i64 = 9_003;
const NO_FUNDS: i64 = 9_004;
const NO_STOCK: i64 = 9_005;
const NO_ORDER: i64 = 9_006;
const BAD_PARAMETER: i64 = 9_007;
const BUSY: i64 = 9_008;

/// The dialect.
pub(super) struct Tsim {
    credentials: Credentials,
}

fn success(result: Value) -> Reply {
    Reply::json(200, &json!({"code": SUCCESS, "msg": "Success", "result": result}))
}

fn refusal(code: i64, message: &str) -> Reply {
    Reply::json(200, &json!({"code": code, "msg": message, "result": []}))
}

/// The number of an order, 32 hexadecimal digits.
fn topup_id(sale: &Sale) -> String {
    format!("7a{:030x}", sale.number)
}

fn number_of(topup_id: &str) -> Option<i64> {
    i64::from_str_radix(topup_id.strip_prefix("7a")?, 16).ok()
}

fn time(time: Option<Timestamp>) -> String {
    time.map(|time| local_text(time, HOURS_EAST)).unwrap_or_default()
}

fn plan(listed: &ShopPlan) -> Value {
    let plan = &listed.plan;
    let cents = plan.price_minor;
    let coverages: Vec<Value> = plan
        .countries
        .iter()
        .map(|country| {
            let operators = plan.networks.iter().filter(|network| network.country == *country);
            let operators: Vec<&str> = operators.map(|network| network.operator).collect();
            json!({"country_code": country, "telecom_operator": operators})
        })
        .collect();
    let daily = plan.daily_data_mb;
    let total = plan.data_mb.or(daily.map(|daily| daily.saturating_mul(plan.validity_days)));
    let name = if plan.unlimited { format!("{} Unlimited", plan.name) } else { plan.name.clone() };
    json!({
        "channel_dataplan_id": plan.upstream_plan_id,
        "channel_dataplan_name": name,
        "price": format!("{}.{:02}", cents / 100, cents % 100),
        "currency": "USD",
        "status": "1",
        "day": plan.validity_days,
        "apn": "internet.sandbox",
        "is_daily": daily.is_some(),
        "data_allowance": total.unwrap_or(0),
        "day_data_allowance": daily.unwrap_or(0),
        "coverages": coverages,
        "cover_domain_code": plan.countries.join(","),
        "spec_name": plan.speed,
        "topup_support": u8::from(plan.top_up_supported),
        "scheduled_activation": 0,
        "can_query": 1,
        "remark": plan.fair_use.clone().unwrap_or_default(),
    })
}

/// Apple's page that installs a profile.
fn apple_link(code: &str) -> String {
    format!("https://esimsetup.apple.com/esim_qrcode_provisioning?carddata={code}")
}

impl Tsim {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// Refuses who does not sign, or signs the same twice.
    fn let_in(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<(), Reply> {
        let header = |name| request.header(name);
        let (account, nonce) = (header("tsim-account"), header("tsim-nonce"));
        let timestamp = header("tsim-timestamp");
        let expected = signature(&self.credentials.secret, account, nonce, timestamp);
        let is_time = timestamp.len() == 10 && timestamp.bytes().all(|byte| byte.is_ascii_digit());
        if account != self.credentials.account
            || !(6..=32).contains(&nonce.len())
            || !is_time
            || !is_same(&expected, header("tsim-sign"))
        {
            return Err(refusal(BAD_SIGNATURE, "Sign error"));
        }
        if !shop.is_fresh(nonce, now, NONCE_WINDOW_MS) {
            return Err(refusal(REUSED_NONCE, "Nonce has been used"));
        }
        Ok(())
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        self.let_in(shop, now, request)?;
        let path = request.path.strip_prefix("/tsim/").unwrap_or_default();
        match (request.method.as_str(), path) {
            ("GET", "v1/esimDataplanList" | "v1/dataplanList") => {
                Ok(success(shop.plans().iter().map(plan).collect::<Vec<_>>().into()))
            }
            ("GET", "v2/dataplanList") => Ok(page(shop, request)),
            ("GET", "v2/dataplanInfo") => {
                let listed = shop.plan(request.parameter("channel_dataplan_id")).filter(|plan| !plan.withdrawn);
                listed.map(|listed| success(plan(&listed))).ok_or_else(|| refusal(NO_PLAN, "Data plan does not exist"))
            }
            ("POST", "v1/esimSubscribe") => subscribe(shop, now, request),
            ("POST", "v1/topupDetail") => {
                let sale = number_of(&request.text("topup_id")).and_then(|number| shop.sale(number));
                Ok(detail(shop, now, sale))
            }
            ("POST", "v1/getOrderInfoByCustomOrderNo") => {
                Ok(detail(shop, now, shop.sale_of(&request.text("custom_order_no"))))
            }
            ("POST", "v1/deviceDetail") => Ok(device(shop, now, request)),
            ("POST", "v1/topup") => top_up(shop, now, request),
            ("POST", "v1/sendOrderEmail") => match shop.sale(number_of(&request.text("topup_id")).unwrap_or(0)) {
                Some(_) => Ok(success(json!([]))),
                None => Err(refusal(NO_ORDER, "Order does not exist")),
            },
            _ => Err(Reply::text(404, "text/html", "<html><h1>404 Not Found</h1></html>")),
        }
    }
}

fn page(shop: &Shop, request: &Request) -> Reply {
    let number = |name, default: usize| request.parameter(name).parse().unwrap_or(default).max(1);
    let (page, size) = (number("pageNo", 1), number("pageSize", 20).min(500));
    let (plans, all) = shop.plans_from((page - 1).saturating_mul(size), size);
    let data: Vec<Value> = plans.iter().map(plan).collect();
    success(json!({"data": data, "last_page": all.div_ceil(size)}))
}

fn no_sale(no_sale: &NoSale) -> Reply {
    match no_sale {
        NoSale::UnknownPlan => refusal(NO_PLAN, "Data plan does not exist"),
        NoSale::OutOfStock => refusal(NO_STOCK, "Insufficient inventory"),
        NoSale::InsufficientFunds => refusal(NO_FUNDS, "Insufficient balance"),
        NoSale::InvalidQuantity => refusal(BAD_PARAMETER, "number is invalid"),
        NoSale::NotAddable => refusal(BAD_PARAMETER, "The plan cannot be topped up"),
        NoSale::Busy => Reply::text(429, "text/html", "<html><h1>429 Too Many Requests</h1></html>"),
        NoSale::Broken(_) => refusal(BUSY, "System error"),
    }
}

fn subscribe(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let wish = Wish {
        reference: request.text("custom_order_no"),
        plan: request.text("channel_dataplan_id"),
        quantity: request.integer("number").and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
        notify_url: String::new(),
    };
    // Nobody knows whether a second purchase under one number is refused; what hurts more is that it is sold.
    let sale = shop.sell(now, &wish).map_err(|error| no_sale(&error))?;
    Ok(success(json!({"topup_id": topup_id(&sale)})).lost_if(sale.answer_is_lost()))
}

fn detail(shop: &Shop, now: Timestamp, sale: Option<Sale>) -> Reply {
    let Some(sale) = sale else { return refusal(NO_ORDER, "Order does not exist") };
    if !sale.is_ready(now) {
        return refusal(NOT_READY, "The order is being processed");
    }
    let esims = shop.esims(&sale);
    let each = |value: &dyn Fn(&ShopEsim) -> String| esims.iter().map(value).collect::<Vec<String>>();
    let listed = shop.plan(&sale.plan);
    success(json!({
        "topup_id": topup_id(&sale),
        "custom_order_no": sale.reference,
        "device_ids": each(&|esim| esim.profile.iccid.clone()),
        "operator_iccids": each(&|esim| esim.profile.iccid.clone()),
        "number": sale.asked,
        "success_number": sale.delivered,
        "channel_dataplan_id": sale.plan,
        "channel_dataplan_name": listed.as_ref().map_or("", |listed| listed.plan.name.as_str()),
        "day": listed.as_ref().map_or(0, |listed| listed.plan.validity_days),
        "apn": "internet.sandbox",
        "create_time": time(Some(sale.sold_at)),
        "expire_time": time(esims.first().and_then(|esim| esim.profile.install_by)),
        "lpa_str": each(&|esim| esim.profile.activation_code.clone()),
        "qrcode": each(&|esim| format!("http://api.tsimtech.example/tsim/qrcode?id={:032x}", esim.number)),
        "ios_esim_install_link": each(&|esim| apple_link(&esim.profile.activation_code)),
    }))
}

fn device(shop: &Shop, now: Timestamp, request: &Request) -> Reply {
    let Some(esim) = shop.esim_by_iccid(&request.text("device_id")).filter(|esim| esim.sale.is_ready(now)) else {
        return refusal(NO_ORDER, "Device does not exist");
    };
    let plan = shop.plan(&esim.sale.plan).map(|listed| listed.plan);
    let ended = esim.life == EsimLife::Cancelled;
    let expire = esim.expires_at.or(esim.profile.install_by);
    let daily: Vec<Value> = esim
        .activated_at
        .map(|_| {
            let day = local_text(esim.changed_at, HOURS_EAST);
            let day = day.get(..10).unwrap_or_default().to_owned();
            json!({"date": day, "total_usage": esim.used_mb.to_string(),
                   "total_usage_kb": esim.used_mb.saturating_mul(1_024).to_string()})
        })
        .into_iter()
        .collect();
    success(json!({
        "topup_id": topup_id(&esim.sale),
        "device_id": esim.profile.iccid,
        "channel_dataplan_id": esim.sale.plan,
        "channel_dataplan_name": plan.as_ref().map_or("", |plan| plan.name.as_str()),
        "is_daily": plan.as_ref().is_some_and(|plan| plan.daily_data_mb.is_some()),
        "data_usage": esim.used_mb.to_string(),
        "today_usage": "",
        "data_usage_daily": daily,
        "daily_reset_time": "",
        "active_time": time(esim.activated_at),
        "expire_time": time(expire),
        "esim_topup_expire_time": time(expire),
        "terminate_time": time(ended.then_some(esim.changed_at)),
        "status": esim.life.word(),
        "esim_event": match esim.life {
            EsimLife::Released => json!([]),
            _ => json!([{"notify_type": "DOWNLOAD"}, {"notify_type": "INSTALL"}, {"notify_type": "ENABLE"}]),
        },
    }))
}

fn top_up(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let esim = shop.esim_by_iccid(&request.text("device_ids"));
    let esim = esim.ok_or_else(|| refusal(NO_ORDER, "Device does not exist"))?;
    let wish = Wish {
        reference: request.text("remark"),
        plan: request.text("channel_dataplan_id"),
        quantity: 1,
        notify_url: String::new(),
    };
    let sale = shop.add(now, &wish, &esim).map_err(|error| no_sale(&error))?;
    Ok(success(json!({"topup_id": topup_id(&sale)})).lost_if(sale.answer_is_lost()))
}

impl Dialect for Tsim {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        no_sale(&NoSale::Busy)
    }

    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing> {
        let event = match news.word.as_str() {
            "ready" => 5,
            "in_use" => 1,
            "expired" => 2,
            "cancelled" => 3,
            _ => return None,
        };
        let mut body = json!({
            "topup_id": topup_id(&news.sale),
            "event": event,
            "time": news.due_at.millis() / 1_000,
        });
        if let Some(esim) = &news.esim {
            body["device_id"] = esim.profile.iccid.clone().into();
        }
        let (nonce, timestamp) = (nonce::<16>(), (now.millis() / 1_000).to_string());
        let Credentials { account, secret, .. } = &self.credentials;
        let sign = signature(secret, account, &nonce, &timestamp);
        Some(Outgoing {
            headers: vec![
                ("tsim-account", account.clone()),
                ("tsim-nonce", nonce),
                ("tsim-timestamp", timestamp),
                ("tsim-sign", sign),
            ],
            content_type: "application/json",
            body: body.to_string().into_bytes(),
        })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        status == 200
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        // Neither number nor pauses are published.
        (attempts < 5).then_some(5_000)
    }
}
