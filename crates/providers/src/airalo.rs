//! Airalo Partners API v2. Orders are synchronous: the answer has the eSIMs. Nothing protects from buying twice, so
//! each order carries our reference as its description, by which it is found again after a lost answer. Airalo takes no
//! delivered eSIM back; what its staff decides about requests for refunds is no business of a machine.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{bytes_of_megabytes, integer, list, local_time, profile, text, truth};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hex, is_same, mac};
use crate::token::{NoToken, Token, Tokens};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use aws_lc_rs::hmac::HMAC_SHA512;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::plan::{Activation, Network};
use domain::time::Timestamp;
use form_urlencoded::Serializer;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;

/// The most eSIMs of one order, as the reference of `POST /v2/orders` says.
const QUANTITY_PER_CALL: u32 = 50;
/// How long a token is good for, as the reference says. The `expires_in` that comes with it tells a year.
const TOKEN_LIFE_MS: i64 = 24 * 3_600_000;
/// A token is left this long before its end, so that it does not end on its way.
const TOKEN_MARGIN_MS: i64 = 60_000;
/// How long after a lost answer "not found" proves nothing. How long Airalo works on an order is not published: ten
/// minutes, which has the time limit of a call (60 s) in it.
const SETTLE_AFTER_MS: i64 = 600_000;
/// The service itself answers with a usage that is up to 20 minutes old.
const USAGE_FRESH_MS: i64 = 20 * 60_000;
/// Published for the usage: 5 calls a second of one client. In sandbox mode it holds for each call.
const CALLS_PER_SECOND: u32 = 5;
/// Countries and regions of one page of packages; all there are fit in, which spares the other shape of further pages.
const PACKAGES_PAGE: usize = 1_000;
/// Orders of one page while one is looked up.
const ORDERS_PAGE: usize = 100;
/// Pages after which a list that never ends is left.
const MOST_PAGES: usize = 100;

/// Business codes are told with status 422: `{"code": n, "reason": "..."}`.
const BUSINESS: u16 = 422;
const MAINTENANCE: &str = "13";
/// Those that say why nothing was sold: credit, checksum, top-up disabled, stock, package, bad request, recycled. Code
/// 53 ("unexpected") does not, nor does any that is not published.
const NOT_SOLD: [&str; 7] = ["11", "14", "23", "33", "34", "43", "73"];

const NO_CANCEL: &str = "Airalo takes no eSIM back: it has requests for refunds, which its staff reviews";

/// What Airalo hands out.
#[derive(Clone)]
pub struct Account {
    /// The client's id.
    pub client_id: String,
    /// The client's secret: tokens are asked for with it, and it signs.
    pub client_secret: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// What `airalo-signature` has: HMAC-SHA512 over the JSON of what is sent, in hexadecimal digits.
pub(crate) fn signature(secret: &str, payload: &[u8]) -> String {
    hex(&mac(HMAC_SHA512, secret.as_bytes(), &[payload]))
}

/// Compact JSON as PHP writes it, which is what the service signs and compares with.
pub(crate) fn php_json(value: &Value) -> String {
    let mut text = String::new();
    let mut units = [0; 2];
    for letter in value.to_string().chars() {
        match letter {
            '/' => text.push_str("\\/"),
            letter if letter.is_ascii() => text.push(letter),
            letter => letter.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    text
}

/// The texts a client may have signed for the same JSON: as PHP, Python and JavaScript write it.
pub(crate) fn spellings(value: &Value) -> [String; 3] {
    let compact = value.to_string();
    [php_json(value), compact.replace('/', "\\/"), compact]
}

/// An account at Airalo.
#[derive(Debug, Clone)]
pub struct Airalo {
    connection: Connection,
    account: Account,
    /// Three a minute are allowed.
    tokens: Tokens<Unsent>,
}

/// Why a call was not sent.
#[derive(Clone)]
struct Unsent {
    retry_at: Option<Timestamp>,
    reason: String,
    raw: String,
}

/// What came of a call.
enum Came {
    Answered(Answered),
    Unsent(Unsent),
    Lost(String),
}

/// What an answer means before anybody looks into its data.
enum Said {
    /// Status 2xx with JSON.
    Yes(Value),
    /// One of the refusals that are published: nothing was done.
    No { code: String, message: String },
    /// Words of the service that are no published refusal: who only reads takes them for a no, who buys does not.
    Other { code: String, message: String },
    /// Not now: nothing was done.
    Later(String),
    /// Nobody knows what was done.
    Unclear(String),
}

fn said(answered: &Answered) -> Said {
    let status = answered.status;
    let body = answered.json();
    let business = body.as_ref().and_then(|body| {
        let code = text(body, "code")?;
        let words = text(body, "reason").or_else(|| text(body, "message"));
        Some((code, answered.words(words.unwrap_or_default())))
    });
    match (status, body, business) {
        (200..=299, Some(body), _) => Said::Yes(body),
        // The token was refused twice; or our address is not on the list (code 89); or too many attempts.
        (401 | 403 | 429, _, business) => {
            let (code, message) = business.unwrap_or_default();
            Said::Later(format!("status {status} {code} {message}").trim_end().to_owned())
        }
        (BUSINESS, _, Some((code, message))) if code == MAINTENANCE => Said::Later(format!("{code}: {message}")),
        (BUSINESS, _, Some((code, message))) if NOT_SOLD.contains(&code.as_str()) => Said::No { code, message },
        (BUSINESS, Some(body), None) if is_complaint(&body) => {
            Said::No { code: status.to_string(), message: answered.words(complaint(&body)) }
        }
        (400 | 404 | 422, _, Some((code, message))) => Said::Other { code, message },
        (400 | 404 | 422, Some(body), None) => {
            Said::Other { code: status.to_string(), message: answered.words(complaint(&body)) }
        }
        _ => Said::Unclear(format!("status {status} without a known answer")),
    }
}

/// Whether a body is the published refusal of a form: complaints about its fields, and nothing else.
fn is_complaint(body: &Value) -> bool {
    let is_text = |told: &Value| told.as_str().is_some_and(|told| !told.is_empty());
    let is_told = |told: &Value| is_text(told) || told.as_array().is_some_and(|all| all.iter().all(is_text));
    let fields = body.get("data").and_then(Value::as_object);
    fields.is_some_and(|fields| !fields.is_empty() && !fields.contains_key("id") && fields.values().all(is_told))
}

/// What a refused form says: `{"data": {"<field>": "<text>"}, "meta": {"message": "..."}}`.
fn complaint(body: &Value) -> String {
    let meta = body.get("meta").and_then(|meta| text(meta, "message")).or_else(|| text(body, "message"));
    let fields = body.get("data").and_then(Value::as_object).into_iter().flatten();
    let fields: Vec<String> = fields
        .map(|(name, told)| format!("{name}: {}", told.as_str().map_or_else(|| told.to_string(), str::to_owned)))
        .collect();
    let meta = meta.unwrap_or_default();
    if fields.is_empty() { meta } else { format!("{meta}: {}", fields.join("; ")) }
}

/// The entries of a list, which further pages give as an object of numbered entries.
fn entries<'v>(value: &'v Value, name: &str) -> Vec<&'v Value> {
    match value.get(name) {
        Some(Value::Array(entries)) => entries.iter().collect(),
        Some(Value::Object(entries)) => entries.values().collect(),
        _ => Vec::new(),
    }
}

/// What is known of the rest of a list after one of its pages.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// There is none: the answer says so.
    None,
    /// There is more.
    More,
    /// The answer does not say, or contradicts itself.
    Unknown,
}

/// What follows a page of orders, of which `seen` came so far. A page that is not full proves nothing: the service may
/// give fewer than it was asked for.
fn rest(body: &Value, page: usize, entries: usize, seen: usize) -> Rest {
    let number = |name| body.get("meta").and_then(|meta| integer(meta, name));
    let number = |name| number(name).and_then(|told| usize::try_from(told).ok());
    let (current, last, total) = (number("current_page"), number("last_page"), number("total"));
    if current.is_some_and(|current| current != page) {
        return Rest::Unknown;
    }
    match last {
        Some(last) if page < last && entries == 0 => Rest::Unknown,
        Some(last) if page < last => Rest::More,
        Some(_) if total.is_some_and(|total| seen < total) => Rest::Unknown,
        Some(_) => Rest::None,
        None => Rest::Unknown,
    }
}

/// Whether `page` is the last one, as the answer tells; where it does not, a page that is not full is.
fn is_last(body: &Value, page: usize, entries: usize, size: usize) -> bool {
    let last = body.get("meta").and_then(|meta| integer(meta, "last_page"));
    let last = last.and_then(|last| usize::try_from(last).ok());
    entries == 0 || last.map_or(entries < size, |last| page >= last)
}

impl Airalo {
    /// An account behind a connection.
    #[must_use]
    pub fn new(connection: Connection, account: Account) -> Self {
        let connection = connection.hiding(&[&account.client_secret]);
        Self { connection, account, tokens: Tokens::default() }
    }

    async fn fetch_token(&self, now: Timestamp) -> Result<Token, NoToken<Unsent>> {
        let form = Serializer::new(String::new())
            .append_pair("client_id", &self.account.client_id)
            .append_pair("client_secret", &self.account.client_secret)
            .append_pair("grant_type", "client_credentials")
            .finish();
        let call = Call {
            method: Method::POST,
            path: "v2/token".to_owned(),
            headers: vec![("accept", "application/json".to_owned())],
            body: Some(("application/x-www-form-urlencoded", form.into_bytes())),
        };
        let none = |retry_at, reason: String, raw| NoToken { failure: Unsent { retry_at, reason, raw }, retry_at };
        let answered = match self.connection.send(now, call).await {
            Sent::Answered(answered) => answered,
            Sent::NotSent { reason } | Sent::Lost { reason } => return Err(none(None, reason.clone(), reason)),
        };
        let data = answered.json().and_then(|body| body.get("data").cloned()).unwrap_or_default();
        let Some(token) = text(&data, "access_token").filter(|_| (200..300).contains(&answered.status)) else {
            let reason = format!("no token: status {}", answered.status);
            return Err(none(answered.retry_at, reason, answered.raw()));
        };
        let life = integer(&data, "expires_in").filter(|seconds| *seconds > 0);
        let life = life.map_or(TOKEN_LIFE_MS, |seconds| seconds.saturating_mul(1_000));
        let ends_at = now.plus_millis(life.min(TOKEN_LIFE_MS).saturating_sub(TOKEN_MARGIN_MS));
        Ok(Token { text: token, ends_at })
    }

    /// Sends a call with a token; once more with another one where the first is refused, which proves that nothing was
    /// done.
    async fn send(&self, now: Timestamp, call: Call) -> Came {
        let mut refused = None;
        loop {
            let token = match self.tokens.get(now, refused.as_ref(), self.fetch_token(now)).await {
                Ok(token) => token,
                Err(unsent) => return Came::Unsent(unsent),
            };
            let call = call.clone().with("accept", "application/json");
            let call = call.with("authorization", format!("Bearer {}", token.text));
            match self.connection.send(now, call).await {
                Sent::Answered(answered) if answered.status == 401 && refused.is_none() => refused = Some(token),
                Sent::Answered(answered) => return Came::Answered(answered),
                Sent::NotSent { reason } => {
                    return Came::Unsent(Unsent { retry_at: None, raw: reason.clone(), reason });
                }
                Sent::Lost { reason } => return Came::Lost(reason),
            }
        }
    }

    /// Reads something that changes nothing.
    async fn read(&self, now: Timestamp, path: String) -> Heard<Reading<Value>> {
        let later = |retry_at, reason| Err(NotRead::TryLater { retry_at, reason });
        match self.send(now, Call::get(path)).await {
            Came::Unsent(Unsent { retry_at, reason, raw }) => Heard::new(later(retry_at, reason), raw),
            Came::Lost(reason) => Heard::new(later(None, reason.clone()), reason),
            Came::Answered(answered) => {
                let read = match said(&answered) {
                    Said::Yes(body) => Ok(body),
                    Said::No { code, message } | Said::Other { code, message } => {
                        Err(NotRead::Refused { code, message })
                    }
                    Said::Later(reason) | Said::Unclear(reason) => later(answered.retry_at, reason),
                };
                Heard::new(read, answered.raw())
            }
        }
    }

    /// Sends a purchase; `understand` reads the order.
    async fn buy(&self, now: Timestamp, call: Call, understand: impl FnOnce(&Value) -> Outcome) -> Heard<Outcome> {
        let unknown = |reason: String| Outcome::Unknown { reason };
        let later = |retry_at, reason| Outcome::NotYet(NotYet::TryLater { retry_at, reason });
        match self.send(now, call).await {
            Came::Unsent(Unsent { retry_at, reason, raw }) => Heard::new(later(retry_at, reason), raw),
            Came::Lost(reason) => Heard::new(unknown(reason.clone()), reason),
            Came::Answered(answered) => {
                let mut order = None;
                let outcome = match said(&answered) {
                    Said::Yes(body) => match body.get("data").filter(|data| text(data, "id").is_some()) {
                        Some(data) => {
                            order = text(data, "id");
                            understand(data)
                        }
                        None => unknown("sold, it says, without a number".to_owned()),
                    },
                    Said::No { code, message } => Outcome::Refused { code, message },
                    Said::Other { code, message } => unknown(format!("{code}: {message}")),
                    Said::Later(reason) => later(answered.retry_at, reason),
                    Said::Unclear(reason) => unknown(reason),
                };
                Heard::new(outcome, answered.raw()).of_order(order)
            }
        }
    }

    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let mut offers = Vec::new();
        let mut raw = String::new();
        for page in 1..=MOST_PAGES {
            if page > 1 {
                self.connection.next_turn().await;
            }
            let path = format!("v2/packages?include=topup&limit={PACKAGES_PAGE}&page={page}");
            let heard = self.read(now, path).await;
            raw = heard.raw;
            let body = match heard.meaning {
                Ok(body) => body,
                Err(error) => return Heard::new(Err(error), raw),
            };
            let places = entries(&body, "data");
            let discount = discount(&body);
            let discount = discount.as_ref();
            for place in &places {
                offers.extend(entries(place, "operators").into_iter().flat_map(|operator| {
                    entries(operator, "packages")
                        .into_iter()
                        .filter(|package| text(package, "type").as_deref() != Some("topup"))
                        .filter_map(move |package| offer(package, operator, place, discount))
                }));
            }
            if is_last(&body, page, places.len(), PACKAGES_PAGE) {
                break;
            }
        }
        let mut seen = HashSet::new();
        offers.retain(|offer: &Offer| seen.insert(offer.upstream_plan_id.clone()));
        Heard::new(Ok(offers), raw)
    }

    /// Looks an order up by the number Airalo gave it.
    async fn order(&self, now: Timestamp, order: &str, purchase: &Purchase) -> Heard<LookUp> {
        let number: String = form_urlencoded::byte_serialize(order.as_bytes()).collect();
        let heard = self.read(now, format!("v2/orders/{number}?include=sims,status")).await;
        let number = Some(order.to_owned());
        heard
            .map(|read| match read {
                Ok(body) => match body.get("data").filter(|data| text(data, "id").is_some()) {
                    Some(data) => found(data, purchase),
                    None => LookUp::CannotTell { reason: "an order without a number".to_owned() },
                },
                // Airalo gave the number itself: that it is not there proves nothing.
                Err(error) => not_found_out(error),
            })
            .of_order(number)
    }

    /// Looks an order up by our reference. The filter finds all descriptions that contain it. "Not found" is only said
    /// after the list was read to its end: whoever hears that buys again.
    async fn order_of(&self, now: Timestamp, purchase: &Purchase) -> Heard<LookUp> {
        let reference: String = form_urlencoded::byte_serialize(purchase.reference.as_bytes()).collect();
        let mut raw = String::new();
        let mut seen = 0_usize;
        let mut wrong = None;
        let cannot_tell = |reason: &str| LookUp::CannotTell { reason: reason.to_owned() };
        for page in 1..=MOST_PAGES {
            let path = format!(
                "v2/orders?filter[description]={reference}&include=sims,status&limit={ORDERS_PAGE}&page={page}"
            );
            let heard = self.read(now, path).await;
            raw = heard.raw;
            let body = match heard.meaning {
                Ok(body) => body,
                Err(error) => return Heard::new(not_found_out(error), raw),
            };
            if body.get("data").is_none_or(|data| !data.is_array() && !data.is_object()) {
                return Heard::new(cannot_tell("an answer without a list"), raw);
            }
            let orders = entries(&body, "data");
            seen = seen.saturating_add(orders.len());
            let has_reference = |order: &&Value| text(order, "description").as_ref() == Some(&purchase.reference);
            let ours: Vec<&Value> = orders.iter().copied().filter(has_reference).collect();
            if let Some(order) = ours.iter().find(|order| is_of_kind(order, purchase)) {
                let number = text(order, "id");
                return match number {
                    // The list may leave the eSIMs out; the order itself has them.
                    Some(number) if entries(order, "sims").is_empty() => self.order(now, &number, purchase).await,
                    number => Heard::new(found(order, purchase), raw).of_order(number),
                };
            }
            if orders.iter().any(|order| order.get("description").is_none()) {
                return Heard::new(cannot_tell("an order does not tell its description"), raw);
            }
            wrong = wrong.or(ours.first().map(|order| wrong_kind(order)));
            match rest(&body, page, orders.len(), seen) {
                Rest::None => {
                    let look_up = wrong.map_or(LookUp::NotFound, |reason| LookUp::CannotTell { reason });
                    return Heard::new(look_up, raw);
                }
                Rest::Unknown => return Heard::new(cannot_tell("where the list ends is not told"), raw),
                Rest::More => {}
            }
        }
        Heard::new(cannot_tell("the list of orders does not end"), raw)
    }
}

/// Whether an order is of what was bought: eSIMs, or data for one. Data that is added comes as an order of its own, with
/// the id of a package that only adds.
fn is_of_kind(order: &Value, purchase: &Purchase) -> bool {
    !is_top_up(order) || text(order, "package_id").as_ref() == Some(&purchase.upstream_plan_id)
}

fn is_top_up(order: &Value) -> bool {
    text(order, "type").is_some_and(|kind| kind.eq_ignore_ascii_case("topup"))
}

fn wrong_kind(order: &Value) -> String {
    let package = text(order, "package_id").unwrap_or_default();
    format!("the order of this number added {package} to an eSIM")
}

fn not_found_out(error: NotRead) -> LookUp {
    match error {
        NotRead::TryLater { reason, .. } => LookUp::NoAnswer { reason },
        NotRead::Refused { code, message } => LookUp::CannotTell { reason: format!("{code}: {message}") },
        NotRead::NotUnderstood { reason } => LookUp::CannotTell { reason },
        NotRead::Unsupported(reason) => LookUp::CannotTell { reason: reason.to_owned() },
    }
}

/// What an order that was found says of a purchase.
fn found(order: &Value, purchase: &Purchase) -> LookUp {
    if !is_of_kind(order, purchase) {
        return LookUp::CannotTell { reason: wrong_kind(order) };
    }
    // Data that was added comes without eSIMs.
    if is_top_up(order) {
        return LookUp::Delivered { profiles: Vec::new() };
    }
    if let Some(profiles) = profiles(order, purchase.quantity) {
        return LookUp::Delivered { profiles };
    }
    // What an order's states are, and whether one that failed is paid for, is not published.
    let status = order.get("status").and_then(|status| text(status, "slug")).unwrap_or_default();
    LookUp::CannotTell { reason: format!("{} ({status})", short(order, purchase.quantity)) }
}

fn short(order: &Value, quantity: u32) -> String {
    format!("an order of {quantity} with {} eSIMs that can be read", list(order, "sims").iter().filter_map(sim).count())
}

/// The eSIMs of an order; `None` unless all are there. An order is sold whole or refused: a short one is nothing Airalo
/// has described, and a person decides about it.
fn profiles(order: &Value, quantity: u32) -> Option<Vec<Profile>> {
    let profiles: Option<Vec<Profile>> = entries(order, "sims").into_iter().map(sim).collect();
    profiles.filter(|profiles| u32::try_from(profiles.len()) == Ok(quantity))
}

fn sim(sim: &Value) -> Option<Profile> {
    let told = text(sim, "qrcode").and_then(|code| profile(&code));
    let told = told.or_else(|| {
        let matching_id = text(sim, "matching_id").unwrap_or_default();
        profile(&format!("LPA:1${}${matching_id}", text(sim, "lpa")?))
    });
    // What works by itself needs not be typed.
    let by_hand = |setting: &Value| {
        (text(setting, "apn_type").as_deref() == Some("manual")).then(|| text(setting, "apn_value")).flatten()
    };
    let phones = sim.get("apn");
    let apn = by_hand(sim).or_else(|| ["android", "ios"].iter().find_map(|phone| by_hand(phones?.get(phone)?)));
    Some(Profile {
        iccid: text(sim, "iccid")?,
        confirmation_code: text(sim, "confirmation_code"),
        apn,
        msisdn: text(sim, "msisdn"),
        ..told?
    })
}

/// The percentage that comes off the retail prices of a list, where that is how the account pays.
fn discount(body: &Value) -> Option<Cost> {
    let pricing =
        body.get("pricing").filter(|pricing| text(pricing, "model").as_deref() == Some("discount_pricing"))?;
    Cost::parse(&text(pricing, "discount_percentage")?, "")
}

/// What a package costs us, US dollars: its net price, or the retail price less the account's discount. Airalo's own
/// examples of orders reckon so: 10 % off 9.5 is 8.55.
fn cost(package: &Value, discount: Option<&Cost>) -> Option<Cost> {
    let listed = package.get("prices").and_then(|prices| prices.get("net_price")).and_then(|net| text(net, "USD"));
    if let Some(net) = text(package, "net_price").or(listed) {
        return Cost::parse(&net, "USD");
    }
    let retail = Cost::parse(&text(package, "price")?, "USD")?;
    // What is left of a hundred percent, in units of the percentage's last decimal.
    let discount = discount?;
    let all = 10_i64.checked_pow(discount.decimals)?.checked_mul(100)?;
    let left = all.checked_sub(discount.units).filter(|left| (0..=all).contains(left))?;
    Some(Cost {
        units: retail.units.checked_mul(left)?,
        decimals: retail.decimals.checked_add(2)?.checked_add(discount.decimals)?,
        ..retail
    })
}

/// Reads a package; `None` when what it is or costs cannot be read: such a package is not sold.
fn offer(package: &Value, operator: &Value, place: &Value, discount: Option<&Cost>) -> Option<Offer> {
    let code = |value: &Value, name| text(value, name).filter(|code| code.len() == 2).map(|code| code.to_uppercase());
    let mut countries: Vec<String> =
        entries(operator, "countries").into_iter().filter_map(|country| code(country, "country_code")).collect();
    if countries.is_empty() {
        countries.extend(code(place, "country_code"));
    }
    countries.sort_unstable();
    countries.dedup();
    let mut networks = Vec::new();
    for coverage in entries(operator, "coverages") {
        let Some(country) = code(coverage, "code").or_else(|| code(coverage, "name")) else { continue };
        for network in entries(coverage, "networks") {
            let technology = list(network, "types").last().and_then(Value::as_str).unwrap_or_default().to_owned();
            let operator = text(network, "name").unwrap_or_default();
            networks.push(Network { country: country.clone(), operator, technology });
        }
    }
    let data = if truth(package, "is_unlimited") {
        Data::Unlimited
    } else {
        Data::Total(integer(package, "amount").filter(|megabytes| *megabytes > 0)?)
    };
    let title = text(package, "title")?;
    let name = [text(operator, "title"), Some(title)].into_iter().flatten().collect::<Vec<_>>().join(" - ");
    let remarks: Vec<String> =
        [text(operator, "fair_usage_policy"), text(operator, "other_info"), text(package, "short_info")]
            .into_iter()
            .flatten()
            .collect();
    let has_top_ups = entries(operator, "packages").iter().any(|other| text(other, "type").as_deref() == Some("topup"));
    Some(Offer {
        upstream_plan_id: text(package, "id")?,
        name,
        cost: cost(package, discount)?,
        countries,
        data,
        validity_days: integer(package, "day").filter(|days| *days > 0)?,
        networks,
        speed: None,
        activation: match text(operator, "activation_policy").as_deref() {
            Some("first-usage") => Some(Activation::OnFirstUse),
            Some("installation") => Some(Activation::OnInstall),
            _ => None,
        },
        add_on_supported: has_top_ups,
        apn: text(operator, "apn_value"),
        remark: (!remarks.is_empty()).then(|| remarks.join("\n")),
    })
}

fn usage(data: &Value) -> Usage {
    let life = match text(data, "status").as_deref() {
        Some("NOT_ACTIVE") => Life::NotActive,
        Some("ACTIVE") => Life::Active,
        Some("FINISHED") => Life::Depleted,
        Some("EXPIRED") => Life::Expired,
        _ => Life::Unknown,
    };
    let bytes = |name| text(data, name).and_then(|text| bytes_of_megabytes(&text));
    // Plans without a limit tell 0 of 0.
    let total_bytes = bytes("total").filter(|total| *total > 0 && !truth(data, "is_unlimited"));
    let used_bytes = total_bytes.zip(bytes("remaining")).map(|(total, left)| total.saturating_sub(left).max(0));
    Usage {
        used_bytes,
        total_bytes,
        as_of: None,
        activated_at: None,
        expires_at: text(data, "expired_at").filter(|_| life != Life::NotActive).and_then(|text| local_time(&text, 0)),
        life,
        profile: None,
        fresh_for_ms: USAGE_FRESH_MS,
    }
}

/// What is left, of the one balance there is: `data.balances.availableBalance`.
fn balance(body: &Value) -> Option<Balance> {
    let balances = body.get("data")?.get("balances")?;
    let balance = balances.as_array().map_or(Some(balances), |list| list.first())?;
    let left = balance.get("availableBalance")?;
    let (amount, currency) = (text(left, "amount")?, text(left, "currency")?);
    // An account with credit can be below zero: then nothing is left.
    let left = match amount.strip_prefix('-') {
        Some(owed) => Cost { units: 0, ..Cost::parse(owed, &currency)? },
        None => Cost::parse(&amount, &currency)?,
    };
    Some(Balance { left })
}

fn not_understood<T>(read: Reading<Option<T>>) -> Reading<T> {
    read?.ok_or_else(|| NotRead::NotUnderstood { reason: "the answer has another shape".to_owned() })
}

impl Upstream for Airalo {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: QUANTITY_PER_CALL,
            // Nothing of the kind is documented: the same order sent twice is sold twice.
            idempotent_create: false,
            look_up_by_reference: true,
            cancel: false,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::No(NO_CANCEL),
            refund_effect: RefundEffect::Reviewed,
            usage: Support::Yes,
            add_on: Support::Yes,
            balance: Support::Yes,
            callbacks: Support::Yes,
            calls_per_second: Some(CALLS_PER_SECOND),
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        let payload = php_json(&json!({
            "package_id": purchase.upstream_plan_id,
            "quantity": purchase.quantity,
            "type": "sim",
            "description": purchase.reference,
        }));
        let sign = signature(&self.account.client_secret, payload.as_bytes());
        let call = Call {
            method: Method::POST,
            path: "v2/orders".to_owned(),
            headers: vec![("airalo-signature", sign)],
            body: Some(("application/json", payload.into_bytes())),
        };
        Box::pin(self.buy(now, call, move |order| match profiles(order, purchase.quantity) {
            Some(profiles) => Outcome::Done { profiles },
            None => Outcome::Unknown { reason: short(order, purchase.quantity) },
        }))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(async move {
            match &purchase.order {
                Some(order) => self.order(now, order, &purchase).await,
                None => self.order_of(now, &purchase).await,
            }
        })
    }

    fn cancel(&self, _now: Timestamp, _esim: SoldEsim) -> Answer<'_, Cancellation> {
        Box::pin(async { Heard::new(Cancellation::Refused { reason: NO_CANCEL.to_owned() }, "") })
    }

    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(self.all_offers(now))
    }

    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        Box::pin(async move {
            let heard = self.read(now, format!("v2/sims/{}/usage", esim.iccid)).await;
            heard.map(|read| not_understood(read.map(|body| body.get("data").map(usage))))
        })
    }

    fn add_ons(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async move {
            let heard = self.read(now, format!("v2/sims/{}/topups", esim.iccid)).await;
            heard.map(|read| {
                read.map(|body| {
                    let packages = entries(&body, "data").into_iter();
                    let discount = discount(&body);
                    let discount = discount.as_ref();
                    packages.filter_map(|package| offer(package, &Value::Null, &Value::Null, discount)).collect()
                })
            })
        })
    }

    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome> {
        // The vendor's clients send this one as a form, and sign the JSON it would be.
        let fields =
            [("package_id", add_on.upstream_plan_id), ("iccid", add_on.esim.iccid), ("description", add_on.reference)];
        let payload: serde_json::Map<String, Value> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        let sign = signature(&self.account.client_secret, php_json(&payload.into()).as_bytes());
        let form = Serializer::new(String::new()).extend_pairs(fields).finish();
        let call = Call {
            method: Method::POST,
            path: "v2/orders/topups".to_owned(),
            headers: vec![("airalo-signature", sign)],
            body: Some(("application/x-www-form-urlencoded", form.into_bytes())),
        };
        Box::pin(self.buy(now, call, |_| Outcome::Done { profiles: Vec::new() }))
    }

    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async move {
            let heard = self.read(now, "v2/balance".to_owned()).await;
            heard.map(|read| not_understood(read.map(|body| balance(&body))))
        })
    }

    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        let acknowledgement = Acknowledgement::OK;
        // An address is tried before it is taken, with nothing in it to be signed.
        if callback.method == "HEAD" {
            let (id, event) = ("trial".to_owned(), "trial of the address".to_owned());
            return Ok(Notice { id, about: About::Account, event, acknowledgement });
        }
        let sent = callback.header("airalo-signature").to_ascii_lowercase();
        let matches = |payload: &[u8]| is_same(&signature(&self.account.client_secret, payload), &sent);
        let parsed: Option<Value> = serde_json::from_slice(&callback.body).ok();
        // The body as it came; else the JSON of it, where something on the way wrote it anew.
        let is_signed =
            matches(&callback.body) || parsed.iter().flat_map(spellings).any(|spelling| matches(spelling.as_bytes()));
        if !is_signed {
            return Err(CallbackRefusal::Forged);
        }
        let body = parsed.ok_or_else(|| CallbackRefusal::Malformed("no JSON".to_owned()))?;
        let (id, about, event) = news(body.get("data").filter(|data| data.is_object()).unwrap_or(&body))?;
        Ok(Notice { id, about, event, acknowledgement })
    }
}

/// The news of a callback: what tells it from others, what it is about, and its word.
fn news(body: &Value) -> Result<(String, About, String), CallbackRefusal> {
    let field = |name: &str| text(body, name);
    if let Some(request) = field("request_id") {
        let event = field("reason").map_or("order finished".to_owned(), |reason| format!("order failed: {reason}"));
        let about = match (field("id"), field("description")) {
            (None, None) => About::Account,
            (order, reference) => About::Order { order, reference },
        };
        return Ok((format!("order/{request}"), about, event));
    }
    if let Some((iccid, level)) = field("iccid").zip(field("level")) {
        let left = field("remaining_percentage").unwrap_or_default();
        let id = format!("low/{iccid}/{level}/{left}");
        return Ok((id, About::Esim { order: None, handle: None, iccid: Some(iccid) }, format!("low data: {level}")));
    }
    if let Some((message, remaining)) = field("message").zip(field("remaining")) {
        return Ok((format!("credit/{message}/{remaining}"), About::Account, format!("credit: {message}")));
    }
    Err(CallbackRefusal::Malformed("neither an order, nor an eSIM, nor the credit".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "demo_secret_01";

    fn answered(status: u16, text: &str) -> Answered {
        Answered::new(status, text)
    }

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_order_is_signed_as_the_vector_says() {
        // Computed with a standard HMAC library from invented inputs.
        let payload = json!({"package_id": "demo-7days-1gb", "quantity": 1, "type": "sim", "description": "ref-1"});
        assert_eq!(
            signature(SECRET, php_json(&payload).as_bytes()),
            "4c8ac9d49bd0da4e12a64905126e6ef234db057c3f051cdc1cca4aa2fb6607588ab8c418df344d0971b7cfb25dc83daed2cb297cf\
             1035f8b8c1957f9710e0c76"
        );
    }

    #[test]
    fn json_is_written_as_php_writes_it() {
        assert_eq!(php_json(&json!({"a": "x/y \u{e9}\u{1f600}\""})), r#"{"a":"x\/y \u00e9\ud83d\ude00\""}"#);
    }

    #[test]
    fn a_refusal_has_airalos_own_code_and_words() {
        let no = |status, text| match said(&answered(status, text)) {
            Said::No { code, message } => (code, message),
            _ => panic!("{text}"),
        };
        let told = no(422, r#"{"code":11,"reason":"Insufficient Airalo Credit"}"#);
        assert_eq!(told, ("11".to_owned(), "Insufficient Airalo Credit".to_owned()));
        let told = no(422, r#"{"data":{"package_id":"invalid"},"meta":{"message":"the parameter is invalid"}}"#);
        assert_eq!(told, ("422".to_owned(), "the parameter is invalid: package_id: invalid".to_owned()));
    }

    #[test]
    fn only_published_refusals_say_that_nothing_was_sold() {
        for code in NOT_SOLD {
            let told = said(&answered(422, &format!(r#"{{"code":{code},"reason":"no"}}"#)));
            assert!(matches!(&told, Said::No { code: told, .. } if told == code), "{code}");
        }
        for (status, text) in [
            (422, r#"{"code":99,"reason":"new"}"#),
            (422, r#"{"code":53,"reason":"unexpected"}"#),
            (400, r#"{"code":11,"reason":"Insufficient Airalo Credit"}"#),
            (404, r#"{"code":34,"reason":"?"}"#),
            (404, r#"{"data":[],"meta":{"message":"messages.resource_not_found"}}"#),
            (400, r#"{"data":{"quantity":"no"},"meta":{"message":"the parameter is invalid"}}"#),
            (422, r#"{"data":[],"meta":{"message":"already processing"}}"#),
            (422, r#"{"data":{},"meta":{"message":"the parameter is invalid"}}"#),
            (422, r#"{"data":{"id":"7","code":"x"},"meta":{"message":"success"}}"#),
            (422, r#"{"data":{"order":{"id":7}},"meta":{"message":"?"}}"#),
            (422, r#"{"message":"?"}"#),
        ] {
            assert!(matches!(said(&answered(status, text)), Said::Other { .. }), "{status} {text}");
        }
    }

    #[test]
    fn only_what_certainly_was_not_done_is_tried_later() {
        for (status, text) in [
            (429, r#"{"message":"Too Many Attempts."}"#),
            (401, "{}"),
            (403, r#"{"code":89,"reason":"not permitted"}"#),
            (422, r#"{"code":13,"reason":"maintenance"}"#),
        ] {
            assert!(matches!(said(&answered(status, text)), Said::Later(_)), "{status} {text}");
        }
        for (status, text) in [
            (422, "<html>"),
            (404, "<html>"),
            (500, r#"{"code":11,"reason":"?"}"#),
            (503, "<html>"),
            (408, "{}"),
            (200, "<html>"),
        ] {
            assert!(matches!(said(&answered(status, text)), Said::Unclear(_)), "{status} {text}");
        }
        assert!(matches!(said(&answered(400, r#"{"code":13,"reason":"maintenance"}"#)), Said::Other { .. }));
    }

    #[test]
    fn a_package_costs_its_net_price_or_the_retail_price_less_the_discount() {
        let told = |package: &str, percentage: Option<&str>| {
            let pricing = percentage.map(|told| json!({"model": "discount_pricing", "discount_percentage": told}));
            let discount = discount(&json!({"pricing": pricing}));
            cost(&parsed(package), discount.as_ref()).map(|cost| (cost.units, cost.decimals, cost.currency))
        };
        let usd = |units, decimals| Some((units, decimals, "USD".to_owned()));
        assert_eq!(told(r#"{"price":9.5,"net_price":3.6}"#, None), usd(36, 1));
        assert_eq!(told(r#"{"price":9.5,"net_price":null,"prices":{"net_price":{"USD":1.25}}}"#, None), usd(125, 2));
        let retail = r#"{"price":9.5,"net_price":null}"#;
        assert_eq!(told(retail, Some("10")), usd(8_550, 3));
        // 12.5 % off 9.5 is 8.3125, and not what 12 % off would be.
        assert_eq!(told(retail, Some("12.5")), usd(83_125, 4));
        assert_eq!(told(retail, Some("0")), usd(9_500, 3));
        for unreadable in [None, Some("-5"), Some("101"), Some("1e1"), Some("ten")] {
            assert_eq!(told(retail, unreadable), None, "{unreadable:?}");
        }
    }

    #[test]
    fn an_order_that_is_short_is_left_to_a_person() {
        let sim = r#"{"iccid":"8901","lpa":"rsp.test","matching_id":"A","qrcode":"LPA:1$rsp.test$A"}"#;
        let order = |sims: &str, more: &str| parsed(&format!(r#"{{"id":1,"type":"sim","sims":[{sims}]{more}}}"#));
        let found = |order: &Value, quantity| found(order, &purchase("p", quantity));
        assert!(matches!(found(&order(sim, ""), 1), LookUp::Delivered { profiles } if profiles.len() == 1));
        assert!(matches!(found(&order(sim, ""), 2), LookUp::CannotTell { .. }));
        assert!(matches!(found(&order(r#"{"iccid":"8901"}"#, ""), 1), LookUp::CannotTell { .. }));
        // Whether it is paid for is not published.
        let failed = order("", r#","status":{"name":"Failed","slug":"failed"}"#);
        assert!(matches!(found(&failed, 1), LookUp::CannotTell { .. }));
    }

    fn purchase(package: &str, quantity: u32) -> Purchase {
        let text = str::to_owned;
        Purchase { reference: text("o-1"), order: None, upstream_plan_id: text(package), quantity }
    }

    #[test]
    fn data_that_was_added_is_no_order_without_esims() {
        let added = parsed(r#"{"id":2,"type":"topup","package_id":"p-topup","description":"o-1"}"#);
        let told = found(&added, &purchase("p-topup", 1));
        assert_eq!(told, LookUp::Delivered { profiles: Vec::new() });
        assert!(matches!(found(&added, &purchase("p", 1)), LookUp::CannotTell { .. }));
    }

    #[test]
    fn a_list_ends_where_it_says_so() {
        let told = |meta: &str, page, entries, seen| rest(&parsed(meta), page, entries, seen);
        let meta = |more: &str| format!(r#"{{"meta":{{"current_page":1{more}}}}}"#);
        assert_eq!(told(&meta(r#","last_page":1,"total":3"#), 1, 3, 3), Rest::None);
        assert_eq!(told(&meta(r#","last_page":"1""#), 1, 0, 0), Rest::None);
        assert_eq!(told(&meta(r#","last_page":2"#), 1, 1, 1), Rest::More);
        assert_eq!(told(&meta(r#","last_page":2"#), 1, 0, 0), Rest::Unknown);
        assert_eq!(told(&meta(r#","last_page":1,"total":4"#), 1, 3, 3), Rest::Unknown);
        assert_eq!(told(&meta(r#","last_page":2"#), 2, 1, 1), Rest::Unknown);
        assert_eq!(told("{}", 1, 1, 1), Rest::Unknown);
        assert_eq!(told("{}", 1, 0, 0), Rest::Unknown);
    }

    #[test]
    fn an_esim_without_a_qr_code_is_put_together() {
        let told = sim(&parsed(
            r#"{"iccid":8997212330099025334,"lpa":"rsp.test","matching_id":"A-1","qrcode":null,"apn_type":"automatic",
                "apn_value":"plus","apn":{"ios":{"apn_type":"automatic","apn_value":"plus"},
                "android":{"apn_type":"manual","apn_value":"plus"}}}"#,
        ))
        .unwrap();
        assert_eq!((told.iccid.as_str(), told.activation_code.as_str()), ("8997212330099025334", "LPA:1$rsp.test$A-1"));
        assert_eq!(told.apn.as_deref(), Some("plus"));
    }

    #[test]
    fn the_account_is_never_shown_whole() {
        let account = Account { client_id: "demo_client".to_owned(), client_secret: SECRET.to_owned() };
        assert!(!format!("{account:?}").contains(SECRET));
    }

    #[test]
    fn news_is_read_in_all_its_shapes() {
        let read = |text: &str| news(&parsed(text)).map(|(_, about, event)| (about, event));
        let (about, event) = read(r#"{"request_id":"r","reason":"no stock","description":"o-1"}"#).unwrap();
        assert_eq!(about, About::Order { order: None, reference: Some("o-1".to_owned()) });
        assert_eq!(event, "order failed: no stock");
        let (about, _) = read(r#"{"request_id":"r","id":7,"description":"o-1","sims":[]}"#).unwrap();
        assert_eq!(about, About::Order { order: Some("7".to_owned()), reference: Some("o-1".to_owned()) });
        assert_eq!(read(r#"{"message":"70% used","remaining":"12"}"#).unwrap().0, About::Account);
        assert!(read("{}").is_err());
    }

    #[test]
    fn a_further_page_is_an_object_and_its_end_is_known() {
        let page = parsed(r#"{"data":{"3":{"slug":"a"},"4":{"slug":"b"}},"meta":{"current_page":2,"last_page":"2"}}"#);
        let slugs: Vec<_> = entries(&page, "data").into_iter().map(|entry| text(entry, "slug").unwrap()).collect();
        assert_eq!(slugs, ["a", "b"]);
        assert!(is_last(&page, 2, 2, 2) && !is_last(&page, 1, 2, 2));
        assert!(is_last(&json!({}), 1, 1, 2) && !is_last(&json!({}), 1, 2, 2) && is_last(&json!({}), 3, 0, 2));
    }

    #[test]
    fn who_owes_has_nothing_left() {
        let told = |amount: &str| {
            let left = format!(r#"{{"amount":{amount},"currency":"USD"}}"#);
            let body = format!(r#"{{"data":{{"balances":{{"name":"balance","availableBalance":{left}}}}}}}"#);
            balance(&parsed(&body)).map(|balance| (balance.left.units, balance.left.decimals))
        };
        assert_eq!(told("12.5"), Some((125, 1)));
        assert_eq!(told("-3.25"), Some((0, 2)));
        assert_eq!(balance(&json!({"data": {"balances": []}})), None);
    }
}
