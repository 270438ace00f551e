//! microesim's side of its wire, as its own introduction and working clients see it. Codes are this simulator's own:
//! nobody has published those of the service.
//!
//! | route behind `/allesim/v1/` (older clients: `/microesim/v1/`) | |
//! |---|---|
//! | GET `esimDataplanList`, `esimDataplanListPage` | what is sold |
//! | POST `esimSubscribe` | buys; each eSIM is told to `notify_url` |
//! | POST `topupDetail`, `deviceDetail` | an order, an eSIM |
//! | POST `accountBalance` | the balance |
//! | POST `terminate` | ends an eSIM, and pays nothing back |

use super::dialect::{Credentials, Dialect, Outgoing};
use super::shop::{EsimLife, News, NoSale, Sale, Shop, ShopEsim, ShopPlan, Wish};
use super::wire::{Reply, Request};
use crate::lenient::local_text;
use crate::microesim::{COMPLETED, HOURS_EAST, Key, SUCCESS};
use crate::sandbox::Network;
use crate::signing::is_same;
use domain::time::Timestamp;
use serde_json::{Value, json};

/// Codes of this simulator.
const BAD_SIGNATURE: i64 = 9_001;
const NO_PLAN: i64 = 9_003;
const NO_FUNDS: i64 = 9_004;
const NO_STOCK: i64 = 9_005;
const NO_ORDER: i64 = 9_006;
const BAD_PARAMETER: i64 = 9_007;
const BROKEN: i64 = 500;

/// The dialect.
pub(super) struct MicroEsim {
    credentials: Credentials,
    key: Option<Key>,
}

fn success(result: Value) -> Reply {
    Reply::json(200, &json!({"code": SUCCESS, "msg": "Success", "result": result}))
}

fn refusal(code: i64, message: &str) -> Reply {
    Reply::json(200, &json!({"code": code, "msg": message, "error_code": code, "result": null}))
}

fn topup_id(sale: &Sale) -> String {
    format!("6d{:030x}", sale.number)
}

fn number_of(topup_id: &str) -> Option<i64> {
    i64::from_str_radix(topup_id.strip_prefix("6d")?, 16).ok()
}

fn time(time: Option<Timestamp>) -> String {
    time.map(|time| local_text(time, HOURS_EAST)).unwrap_or_default()
}

fn amount(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn size(megabytes: i64) -> String {
    if megabytes % 1_024 == 0 { format!("{}GB", megabytes / 1_024) } else { format!("{megabytes}MB") }
}

fn networks(countries: &[&'static str], networks: &[Network]) -> String {
    let mut text = String::new();
    for country in countries {
        let here = networks.iter().filter(|network| network.country == *country);
        let here: Vec<String> = here.map(|network| format!("{}[{}]", network.operator, network.technology)).collect();
        if !here.is_empty() {
            text = format!("{text}{country}:{}|", here.join(","));
        }
    }
    text
}

fn plan(listed: &ShopPlan) -> Value {
    let plan = &listed.plan;
    let data = match (plan.unlimited, plan.daily_data_mb, plan.data_mb) {
        (false, Some(daily), _) => format!("Daily{}", size(daily)),
        (false, None, Some(total)) => format!("Total{}", size(total)),
        _ => "Unlimited".to_owned(),
    };
    json!({
        "channel_dataplan_id": plan.upstream_plan_id,
        "channel_dataplan_name": plan.name,
        "price": amount(plan.price_minor),
        "currency": "HKD",
        "status": "1",
        "day": plan.validity_days,
        "data": data,
        "apn": "internet.sandbox",
        "active_type": "ACTIVEDBYDEVICE",
        "code": plan.countries.join(","),
        "networks": networks(&plan.countries, &plan.networks),
        "ip": "",
        "rule_desc": plan.fair_use.clone().unwrap_or_else(|| "terminate".to_owned()),
        "validity_period": "",
        "date_reset": "",
        "usage_reset": "",
        "special_desc": "",
    })
}

/// A system's page that installs a profile.
fn install_link(host: &str, code: &str) -> String {
    let code: String = form_urlencoded::byte_serialize(code.as_bytes()).collect();
    format!("https://{host}/esim_qrcode_provisioning?carddata={code}")
}

fn ios_link(esim: &ShopEsim) -> String {
    install_link("esimsetup.apple.com", &esim.profile.activation_code)
}

fn android_link(esim: &ShopEsim) -> String {
    install_link("esimsetup.android.com", &esim.profile.activation_code)
}

fn qr_link(esim: &ShopEsim) -> String {
    format!("https://www.microesim.example/allesim/qrcode?id={:032x}", esim.number)
}

impl MicroEsim {
    pub(super) fn new(credentials: Credentials) -> Self {
        let key = Key::new(&credentials.secret, &credentials.salt);
        Self { credentials, key }
    }

    fn let_in(&self, request: &Request) -> Result<(), Reply> {
        let header = |name| request.header(name);
        let (account, nonce) = (header("microesim-account"), header("microesim-nonce"));
        let timestamp = header("microesim-timestamp");
        let is_time = timestamp.len() == 13 && timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let is_signed = self
            .key
            .as_ref()
            .is_some_and(|key| is_same(&key.signature(account, nonce, timestamp), header("microesim-sign")));
        let known = account == self.credentials.account && (6..=32).contains(&nonce.len());
        if known && is_time && is_signed { Ok(()) } else { Err(refusal(BAD_SIGNATURE, "Sign error")) }
    }

    fn route(&self, shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
        self.let_in(request)?;
        let path = &request.path;
        let path = path.strip_prefix("/allesim/v1/").or(path.strip_prefix("/microesim/v1/")).unwrap_or_default();
        match (request.method.as_str(), path) {
            ("GET", "esimDataplanList") => Ok(success(shop.plans().iter().map(plan).collect::<Vec<_>>().into())),
            ("GET", "esimDataplanListPage") => Ok(page(shop, request)),
            ("POST", "esimSubscribe") => subscribe(shop, now, request),
            ("POST", "topupDetail") => {
                let sale = number_of(&request.text("topup_id")).and_then(|number| shop.sale(number));
                sale.map(|sale| detail(shop, now, &sale)).ok_or_else(|| refusal(NO_ORDER, "Order does not exist"))
            }
            ("POST", "deviceDetail") => device(shop, now, request).map(|esim| device_detail(shop, &esim)),
            ("POST", "accountBalance") => Ok(success(json!({
                "account": self.credentials.account,
                "balance": amount(shop.balance_cents()),
                "currency": "HKD",
            }))),
            ("POST", "terminate") => {
                let esim = device(shop, now, request)?;
                let ended = shop.live(now, &esim, EsimLife::Cancelled, esim.used_mb);
                ended.map(|()| success(json!({}))).map_err(|_| refusal(BROKEN, "System error"))
            }
            _ => Err(Reply::text(404, "text/html", "<html><h1>404 Not Found</h1></html>")),
        }
    }
}

fn page(shop: &Shop, request: &Request) -> Reply {
    let number = |name, default: usize| request.parameter(name).parse().unwrap_or(default).max(1);
    let (page, size) = (number("pageNo", 1), number("pageSize", 20).min(500));
    let (plans, all) = shop.plans_from((page - 1).saturating_mul(size), size);
    let list: Vec<Value> = plans.iter().map(plan).collect();
    success(json!({
        "pageNo": page,
        "pageSize": size,
        "total": all,
        "totalPages": all.div_ceil(size),
        "list": list,
    }))
}

fn no_sale(no_sale: &NoSale) -> Reply {
    match no_sale {
        NoSale::UnknownPlan => refusal(NO_PLAN, "Data plan does not exist"),
        NoSale::OutOfStock => refusal(NO_STOCK, "Insufficient inventory"),
        NoSale::InsufficientFunds => refusal(NO_FUNDS, "Insufficient balance"),
        NoSale::InvalidQuantity | NoSale::NotAddable => refusal(BAD_PARAMETER, "number is invalid"),
        NoSale::Busy => Reply::text(429, "text/html", "<html><h1>429 Too Many Requests</h1></html>"),
        NoSale::Broken(_) => refusal(BROKEN, "System error"),
    }
}

fn subscribe(shop: &Shop, now: Timestamp, request: &Request) -> Result<Reply, Reply> {
    let wish = Wish {
        reference: request.text("custom_order_no"),
        plan: request.text("channel_dataplan_id"),
        quantity: request.integer("number").and_then(|number| u32::try_from(number).ok()).unwrap_or(0),
        notify_url: request.text("notify_url"),
    };
    // Nobody knows whether a second purchase under one number is refused; what hurts more is that it is sold.
    let sale = shop.sell_telling_each(now, &wish, None).map_err(|error| no_sale(&error))?;
    Ok(success(json!({"topup_id": topup_id(&sale)})).lost_if(sale.answer_is_lost()))
}

fn detail(shop: &Shop, now: Timestamp, sale: &Sale) -> Reply {
    let is_ready = sale.is_ready(now);
    let esims = if is_ready { shop.esims(sale) } else { Vec::new() };
    let each = |value: &dyn Fn(&ShopEsim) -> String| esims.iter().map(value).collect::<Vec<String>>();
    success(json!({
        "topup_id": topup_id(sale),
        "number": sale.asked,
        "success_number": esims.len(),
        "channel_dataplan_id": sale.plan,
        "channel_dataplan_name": shop.plan(&sale.plan).map(|listed| listed.plan.name).unwrap_or_default(),
        "status": if is_ready { COMPLETED } else { "processing" },
        "create_time": time(Some(sale.sold_at)),
        "type": "esim",
        "device_ids": each(&|esim| esim.profile.iccid.clone()),
        "lpa_str": each(&|esim| esim.profile.activation_code.clone()),
        "qrcode": each(&qr_link),
        "ios_esim_install_link": each(&ios_link),
        "android_esim_install_link": each(&android_link),
        "msisdn": each(&|esim| esim.profile.msisdn.clone().unwrap_or_default()),
        "cf_code": each(&|esim| esim.profile.confirmation_code.clone().unwrap_or_default()),
    }))
}

fn device(shop: &Shop, now: Timestamp, request: &Request) -> Result<ShopEsim, Reply> {
    let of_order = |esim: &ShopEsim| esim.sale.is_ready(now) && topup_id(&esim.sale) == request.text("topup_id");
    let esim = shop.esim_by_iccid(&request.text("device_id")).filter(of_order);
    esim.ok_or_else(|| refusal(NO_ORDER, "Device does not exist"))
}

fn device_detail(shop: &Shop, esim: &ShopEsim) -> Reply {
    let plan = shop.plan(&esim.sale.plan).map(|listed| listed.plan);
    let day = local_text(esim.changed_at, HOURS_EAST).get(..10).unwrap_or_default().to_owned();
    let kilobytes = esim.used_mb.saturating_mul(1_024);
    let daily = esim.activated_at.map(|_| {
        json!({"date": day, "total_usage": esim.used_mb.to_string(), "mcc": "262", "mnc": "01",
               "total_usage_kb": kilobytes.to_string()})
    });
    let ended = esim.life == EsimLife::Cancelled;
    success(json!({
        "topup_id": topup_id(&esim.sale),
        "device_id": esim.profile.iccid,
        "operator_iccid": esim.profile.iccid,
        "type": "esim",
        "channel_dataplan_id": esim.sale.plan,
        "channel_dataplan_name": plan.as_ref().map_or("", |plan| plan.name.as_str()),
        "status": esim.life.word(),
        "active_time": time(esim.activated_at),
        "pause_time": "",
        "expire_time": time(esim.expires_at.or(esim.profile.install_by)),
        "terminate_time": time(ended.then_some(esim.changed_at)),
        "create_time": time(Some(esim.sale.sold_at)),
        "data_usage": esim.used_mb.to_string(),
        "data_usage_daily": daily.into_iter().collect::<Vec<_>>(),
        "is_daily": plan.is_some_and(|plan| plan.daily_data_mb.is_some()).to_string(),
        "daily_reset_time": "",
    }))
}

impl Dialect for MicroEsim {
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply {
        self.route(shop, now, request).unwrap_or_else(|refused| refused)
    }

    fn too_many_requests(&self) -> Reply {
        no_sale(&NoSale::Busy)
    }

    fn callback(&self, _now: Timestamp, news: &News) -> Option<Outgoing> {
        let esim = news.esim.as_ref().filter(|_| news.word == "ready" && !news.sale.notify_url.is_empty())?;
        let body = json!({
            "topup_id": topup_id(&news.sale),
            "number": news.sale.asked,
            "create_time": time(Some(news.sale.sold_at)),
            "device_id": esim.profile.iccid,
            "lpa_str": esim.profile.activation_code,
            "qrcode": qr_link(esim),
            "ios_esim_install_link": ios_link(esim),
            "android_esim_install_link": android_link(esim),
            "msisdn": esim.profile.msisdn.clone().unwrap_or_default(),
            "cf_code": esim.profile.confirmation_code.clone().unwrap_or_default(),
        });
        let body = body.to_string().into_bytes();
        Some(Outgoing { headers: Vec::new(), content_type: "application/json", body })
    }

    fn is_acknowledged(&self, status: u16, _body: &str) -> bool {
        status == 200
    }

    fn retry_ms(&self, attempts: u32) -> Option<i64> {
        // Neither number nor pauses are published.
        (attempts < 5).then_some(5_000)
    }
}
