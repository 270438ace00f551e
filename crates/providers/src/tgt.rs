//! TGT (TGT Technology, also TUGE, "Global eSIM API 2.0"). Notes on its own document and clients that work against the
//! live service are what stands here. It is another supplier than TSIM. A purchase repeated under the same key is sold
//! once, and an order is found by our reference: nothing is ever bought twice here.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{bytes_of_megabytes, integer, is_list, list, megabytes, profile, text};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hex, is_same};
use crate::token::{NoToken, Token, Tokens};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use domain::esim::ProfileStatus;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::plan::Activation;
use domain::time::Timestamp;
use md5::{Digest, Md5};
use serde_json::{Value, json};

/// The envelope's code for success.
pub(crate) const SUCCESS: &str = "0000";
/// Asked too often.
pub(crate) const TOO_FREQUENT: &str = "0429";
/// Not available, and no more is known of it: whether an order was taken before, it does not say.
const UNAVAILABLE: &str = "2000";
/// A token that is not valid any more, or not known.
pub(crate) const TOKEN_CODES: [&str; 2] = ["2003", "2004"];
/// Something behind the service failed: it says nothing about what was done before.
pub(crate) const REMOTE_ERROR: &str = "5000";
/// No such order.
pub(crate) const NO_ORDER: &str = "5032";
/// What usage says of cards that do not count.
pub(crate) const NO_USAGE: [&str; 2] = ["5005", "5002"];
/// Usage is being computed.
const COMPUTING: &str = "4068";
/// The request itself was wrong, or not allowed: nothing was tried.
const NEVER_TRIED: [&str; 4] = ["1003", "1004", "1005", "2001"];
/// Codes of orders that failed. Which says what is not known, so the order is asked for before one is believed.
pub(crate) const ORDER_FAILURES: [&str; 11] =
    ["4000", "4004", "4007", "4008", "4009", "4010", "4011", "4012", "4013", "4016", "5044"];
/// Between two polls; a client asks every 15 s. The callback is faster.
const POLL_MS: i64 = 15_000;
/// The time limit of a call (60 s), and the two minutes that a client polls before it only waits for the callback.
const SETTLE_AFTER_MS: i64 = 180_000;
/// Nothing is published; as long as for the others.
const USAGE_FRESH_MS: i64 = 600_000;
/// Products of one page, the most there may be.
pub(crate) const PAGE: usize = 100;
/// Pages after which a catalogue that never ends is left.
const MOST_PAGES: usize = 1_000;
/// How long before its end a token is not used any more.
const TOKEN_MARGIN_MS: i64 = 60_000;
/// How long a token counts as valid that does not say so, seconds; those seen last a day.
const TOKEN_SECONDS: i64 = 3_600;

const NO_CANCEL: &str = "TGT has no call that takes an eSIM back";
const NO_ADD_ON: &str = "TGT adds data to an eSIM, by a call whose request is not known";

/// What TGT hands out, and in which currency it was agreed to pay.
#[derive(Clone)]
pub struct Account {
    /// The account (`accountId`).
    pub account: String,
    /// The secret: tokens are fetched and callbacks are signed with it.
    pub secret: String,
    /// ISO 4217. Products have a price and no currency; it is that of the contract.
    pub currency: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("account", &self.account).finish_non_exhaustive()
    }
}

/// An account at TGT; clones share its token.
#[derive(Clone)]
pub struct Tgt {
    connection: Connection,
    account: Account,
    tokens: Tokens<Heard<NotRead>>,
}

impl std::fmt::Debug for Tgt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tgt").field("account", &self.account).finish_non_exhaustive()
    }
}

/// An answer in its envelope.
#[derive(Debug)]
struct Envelope {
    code: String,
    message: String,
    sub_code: Option<String>,
    sub_message: Option<String>,
    data: Value,
}

impl Envelope {
    fn of(answered: &Answered) -> Option<Self> {
        let mut body = answered.json()?;
        Some(Self {
            code: text(&body, "code")?,
            message: answered.words(text(&body, "msg").unwrap_or_default()),
            sub_code: text(&body, "subCode"),
            sub_message: text(&body, "subMsg").map(|words| answered.words(words)),
            data: body.get_mut("data").map(Value::take).unwrap_or_default(),
        })
    }

    fn is_success(&self) -> bool {
        self.code == SUCCESS
    }

    /// Whether the service itself says so; what failed behind it has its code in `subCode`.
    fn says(&self, codes: &[&str]) -> bool {
        codes.contains(&self.code.as_str())
    }

    fn has(&self, codes: &[&str]) -> bool {
        let sub_code = self.sub_code.as_deref().unwrap_or_default();
        codes.contains(&self.code.as_str()) || codes.contains(&sub_code)
    }

    /// The code that says most, and its words.
    fn told(self) -> (String, String) {
        (self.sub_code.unwrap_or(self.code), self.sub_message.unwrap_or(self.message))
    }

    fn reason(self) -> String {
        let (code, message) = self.told();
        format!("{code}: {message}")
    }
}

/// What came of a call.
enum Asked {
    /// There is no token: the call was not sent.
    NoToken(Heard<NotRead>),
    NotSent(String),
    Lost(String),
    Answered(Answered),
}

fn later(answered: &Answered, reason: String) -> NotRead {
    NotRead::TryLater { retry_at: answered.retry_at, reason }
}

fn wait(answered: &Answered, envelope: Option<&Envelope>) -> NotRead {
    let words = envelope.map_or("", |envelope| envelope.message.as_str());
    later(answered, format!("status {}: {words}", answered.status))
}

/// What says that this call was one too many: it was turned away, and nothing was done, whatever the status.
fn too_frequent(answered: &Answered, envelope: Option<&Envelope>) -> Option<NotRead> {
    let says = envelope.is_some_and(|envelope| envelope.says(&[TOO_FREQUENT, "429"]));
    (answered.status == 429 || says).then(|| wait(answered, envelope))
}

/// What says that whoever only reads has to wait.
fn busy(answered: &Answered, envelope: Option<&Envelope>) -> Option<NotRead> {
    let says = envelope.is_some_and(|envelope| envelope.says(&[UNAVAILABLE]));
    too_frequent(answered, envelope).or_else(|| says.then(|| wait(answered, envelope)))
}

impl Tgt {
    /// An account behind a connection.
    #[must_use]
    pub fn new(connection: Connection, account: Account) -> Self {
        let connection = connection.hiding(&[&account.secret]);
        Self { connection, account, tokens: Tokens::default() }
    }

    async fn fetch_token(&self, now: Timestamp) -> Result<Token, NoToken<Heard<NotRead>>> {
        let body = json!({"accountId": self.account.account, "secret": self.account.secret});
        let answered = match self.connection.send(now, Call::post("oauth/token", &body)).await {
            Sent::NotSent { reason } | Sent::Lost { reason } => {
                let failure = NotRead::TryLater { retry_at: None, reason: reason.clone() };
                return Err(NoToken { failure: Heard::new(failure, reason), retry_at: None });
            }
            Sent::Answered(answered) => answered,
        };
        let envelope = Envelope::of(&answered);
        let refused = if let Some(busy) = busy(&answered, envelope.as_ref()) {
            busy
        } else {
            match envelope {
                Some(envelope) if envelope.is_success() => {
                    // The document says one name, the sandbox another.
                    let token = text(&envelope.data, "accessToken").or_else(|| text(&envelope.data, "token"));
                    if let Some(token) = token {
                        let seconds = integer(&envelope.data, "expires").unwrap_or(TOKEN_SECONDS);
                        let lasts = seconds.saturating_mul(1_000).saturating_sub(TOKEN_MARGIN_MS);
                        return Ok(Token { text: token, ends_at: now.plus_millis(lasts) });
                    }
                    NotRead::NotUnderstood { reason: "an answer without a token".to_owned() }
                }
                Some(envelope) if answered.status < 500 && !envelope.has(&[REMOTE_ERROR]) => {
                    let (code, message) = envelope.told();
                    NotRead::Refused { code, message }
                }
                _ => later(&answered, format!("status {} instead of a token", answered.status)),
            }
        };
        Err(NoToken { failure: Heard::new(refused, answered.raw()), retry_at: answered.retry_at })
    }

    /// Sends a call with a token, and once more with a new one where the old one is not taken.
    async fn ask(&self, now: Timestamp, path: &str, body: &Value) -> Asked {
        let mut stale = None;
        loop {
            let token = match self.tokens.get(now, stale.as_ref(), self.fetch_token(now)).await {
                Ok(token) => token,
                Err(heard) => return Asked::NoToken(heard),
            };
            let call = Call::post(path, body).with("Authorization", format!("Bearer {}", token.text));
            let answered = match self.connection.send(now, call).await {
                Sent::NotSent { reason } => return Asked::NotSent(reason),
                Sent::Lost { reason } => return Asked::Lost(reason),
                Sent::Answered(answered) => answered,
            };
            if stale.is_some() || !is_token_refused(&answered) {
                return Asked::Answered(answered);
            }
            stale = Some(token);
        }
    }

    /// Reads something that changes nothing: `data` of the envelope.
    async fn read(&self, now: Timestamp, path: &str, body: &Value) -> Heard<Reading<Value>> {
        let answered = match self.ask(now, path, body).await {
            Asked::NoToken(heard) => return heard.map(Err),
            Asked::NotSent(reason) | Asked::Lost(reason) => {
                return Heard::new(Err(NotRead::TryLater { retry_at: None, reason: reason.clone() }), reason);
            }
            Asked::Answered(answered) => answered,
        };
        let envelope = Envelope::of(&answered);
        let read = if let Some(busy) = busy(&answered, envelope.as_ref()) {
            Err(busy)
        } else {
            match envelope {
                Some(envelope) if envelope.is_success() => Ok(envelope.data),
                Some(envelope) if envelope.has(&[COMPUTING]) => Err(later(&answered, envelope.reason())),
                // What failed behind the service, unless it says what.
                Some(envelope) if envelope.sub_code.is_none() && envelope.has(&[REMOTE_ERROR]) => {
                    Err(later(&answered, envelope.reason()))
                }
                Some(envelope) if answered.status < 500 => {
                    let (code, message) = envelope.told();
                    Err(NotRead::Refused { code, message })
                }
                _ => Err(later(&answered, format!("status {} without an envelope", answered.status))),
            }
        };
        Heard::new(read, answered.raw())
    }

    async fn create(&self, now: Timestamp, purchase: Purchase) -> Heard<Outcome> {
        let body = json!({
            "productCode": purchase.upstream_plan_id,
            "channelOrderNo": purchase.reference,
            "idempotencyKey": purchase.reference,
        });
        let unknown = |reason: String| Outcome::Unknown { reason };
        match self.ask(now, "eSIMApi/v2/order/create", &body).await {
            Asked::NoToken(heard) => heard.map(not_now),
            Asked::NotSent(reason) => {
                Heard::new(Outcome::NotYet(NotYet::TryLater { retry_at: None, reason: reason.clone() }), reason)
            }
            Asked::Lost(reason) => Heard::new(unknown(reason.clone()), reason),
            Asked::Answered(answered) => {
                let (outcome, order) = created(now, &answered);
                // A failure may be about a purchase before this one, whose answer was lost.
                let failed =
                    matches!(&outcome, Outcome::Refused { code, .. } if ORDER_FAILURES.contains(&code.as_str()));
                if failed && self.order(now, None, &purchase.reference).await.meaning != Ok(None) {
                    let reason = "a failure, and the order may be there".to_owned();
                    return Heard::new(unknown(reason), answered.raw());
                }
                Heard::new(outcome, answered.raw()).of_order(order)
            }
        }
    }

    /// The order of a number, or else of our reference; `None` where there is no such order.
    async fn order(&self, now: Timestamp, order: Option<&str>, reference: &str) -> Heard<Reading<Option<Value>>> {
        let (name, value) = order.map_or(("channelOrderNo", reference), |order| ("orderNo", order));
        let body = json!({name: value, "lang": "en"});
        let heard = self.read(now, "eSIMApi/v2/order/orders", &body).await;
        heard.map(|read| match read {
            Ok(data) => {
                // Only a list that is there and empty says that there is no such order.
                let orders = data.as_array().or_else(|| data.get("list").and_then(Value::as_array));
                let Some(orders) = orders else {
                    return Err(NotRead::NotUnderstood { reason: "the answer has no list of orders".to_owned() });
                };
                let found = orders.iter().find(|order| text(order, name).as_deref() == Some(value));
                match found {
                    None if !orders.is_empty() => {
                        Err(NotRead::NotUnderstood { reason: "the answer is about other orders".to_owned() })
                    }
                    found => Ok(found.cloned()),
                }
            }
            Err(NotRead::Refused { code, .. }) if code == NO_ORDER => Ok(None),
            Err(error) => Err(error),
        })
    }

    async fn used(&self, now: Timestamp, esim: SoldEsim) -> Heard<Reading<Usage>> {
        let heard = self.order(now, esim.order.as_deref(), &esim.reference).await;
        let raw = heard.raw;
        let order = match heard.meaning {
            Ok(Some(order)) => order,
            Ok(None) => {
                let (code, message) = (NO_ORDER.to_owned(), "there is no such order".to_owned());
                return Heard::new(Err(NotRead::Refused { code, message }), raw);
            }
            Err(error) => return Heard::new(Err(error), raw),
        };
        let number = text(&order, "orderNo").unwrap_or_default();
        let heard = self.read(now, "eSIMApi/v2/order/usage", &json!({"orderNo": number})).await;
        heard.map(|read| match read {
            Ok(data) => Ok(usage(&order, &data)),
            // Where it is in its life is known all the same.
            Err(NotRead::Refused { code, .. }) if NO_USAGE.contains(&code.as_str()) => Ok(usage(&order, &Value::Null)),
            Err(error) => Err(error),
        })
    }

    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let mut offers = Vec::new();
        let mut raw = String::new();
        let mut seen = 0_usize;
        for page in 1..=MOST_PAGES {
            if page > 1 {
                self.connection.next_turn().await;
            }
            let body = json!({"pageNum": page, "pageSize": PAGE, "lang": "en"});
            let heard = self.read(now, "eSIMApi/v2/products/list", &body).await;
            raw = heard.raw;
            let data = match heard.meaning {
                Ok(data) => data,
                Err(error) => return Heard::new(Err(error), raw),
            };
            if !is_list(&data, "list") {
                let reason = "the answer has no list of products".to_owned();
                return Heard::new(Err(NotRead::NotUnderstood { reason }), raw);
            }
            let products = list(&data, "list");
            seen = seen.saturating_add(products.len());
            offers.extend(products.iter().filter_map(|product| offer(product, &self.account.currency)));
            let total = integer(&data, "total").and_then(|total| usize::try_from(total).ok());
            if products.is_empty() || total.is_some_and(|total| seen >= total) {
                break;
            }
        }
        Heard::new(Ok(offers), raw)
    }
}

fn is_token_refused(answered: &Answered) -> bool {
    answered.status == 401 || Envelope::of(answered).is_some_and(|envelope| envelope.says(&TOKEN_CODES))
}

/// What could not be sent was not sold, whatever the reason.
fn not_now(not_read: NotRead) -> Outcome {
    let (retry_at, reason) = match not_read {
        NotRead::TryLater { retry_at, reason } => (retry_at, reason),
        NotRead::Refused { code, message } => (None, format!("{code}: {message}")),
        NotRead::NotUnderstood { reason } => (None, reason),
        NotRead::Unsupported(reason) => (None, reason.to_owned()),
    };
    Outcome::NotYet(NotYet::TryLater { retry_at, reason })
}

/// What the answer to an order means, and the order's number.
fn created(now: Timestamp, answered: &Answered) -> (Outcome, Option<String>) {
    let envelope = Envelope::of(answered);
    let is_success = envelope.as_ref().is_some_and(Envelope::is_success);
    if let Some(too_frequent) = too_frequent(answered, envelope.as_ref()).filter(|_| !is_success) {
        return (not_now(too_frequent), None);
    }
    if is_token_refused(answered) && !is_success {
        return (not_now(later(answered, "the token is not taken".to_owned())), None);
    }
    let outcome = match envelope {
        Some(envelope) if envelope.is_success() => {
            if let order @ Some(_) = text(&envelope.data, "orderNo") {
                return (Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) }), order);
            }
            Outcome::Unknown { reason: "sold, it says, without a number".to_owned() }
        }
        Some(envelope) if (200..300).contains(&answered.status) && envelope.has(&ORDER_FAILURES) => {
            let (code, message) = envelope.told();
            Outcome::Refused { code, message }
        }
        Some(envelope) if (200..300).contains(&answered.status) && envelope.says(&NEVER_TRIED) => {
            Outcome::Refused { code: envelope.code, message: envelope.message }
        }
        // "Unavailable" (2000) too: the list of codes has no more than this word.
        Some(envelope) if answered.status < 500 => Outcome::Unknown { reason: envelope.reason() },
        None if answered.was_turned_away() => not_now(later(answered, format!("status {}", answered.status))),
        _ => Outcome::Unknown { reason: format!("status {} without an envelope", answered.status) },
    };
    (outcome, None)
}

/// Reads a product; `None` when what it is or costs cannot be read: such a product is not sold.
fn offer(product: &Value, currency: &str) -> Option<Offer> {
    let amount = || megabytes(&text(product, "dataTotal")?, &text(product, "dataUnit")?);
    let data = if text(product, "dataLimited").as_deref() == Some("N") {
        Data::Unlimited
    } else if text(product, "productType").as_deref() == Some("DAILY_PACK") {
        Data::Daily(amount()?)
    } else {
        Data::Total(amount()?)
    };
    let codes = list(product, "countryCodeList").iter().filter_map(Value::as_str);
    let mut countries: Vec<String> = codes.filter(|code| code.len() == 2).map(str::to_uppercase).collect();
    countries.sort_unstable();
    countries.dedup();
    let remarks: Vec<String> = ["ruleDesc", "operatorDesc"].iter().filter_map(|name| text(product, name)).collect();
    Some(Offer {
        upstream_plan_id: text(product, "productCode")?,
        name: text(product, "productName")?,
        cost: Cost::parse(&text(product, "netPrice")?, currency)?,
        countries,
        data,
        validity_days: integer(product, "usagePeriod").filter(|days| *days > 0)?,
        networks: Vec::new(),
        speed: None,
        activation: match text(product, "activeType").as_deref() {
            Some("ACTIVATE_ON_ORDER") => Some(Activation::OnOrder),
            _ => None,
        },
        add_on_supported: false,
        apn: text(product, "apnDesc"),
        remark: (!remarks.is_empty()).then(|| remarks.join("; ")),
    })
}

/// A time with an offset. What has none is not read: its zone is not known.
fn time(value: &Value, name: &str) -> Option<Timestamp> {
    text(value, name)?.parse().ok()
}

/// The profile of an order, once it is there.
fn delivered(order: &Value) -> Option<Profile> {
    let card = order.get("cardInfo").unwrap_or(&Value::Null);
    Some(Profile {
        iccid: text(card, "iccid").or_else(|| text(order, "iccid"))?,
        msisdn: text(card, "msisdn"),
        install_by: time(order, "latestActivationTime"),
        ..profile(&text(order, "qrCode")?)?
    })
}

fn look_up(now: Timestamp, read: Reading<Option<Value>>) -> LookUp {
    match read {
        Ok(None) => LookUp::NotFound,
        Ok(Some(order)) => {
            if let Some(profile) = delivered(&order) {
                return LookUp::Delivered { profiles: vec![profile] };
            }
            let state = text(&order, "orderStatus").unwrap_or_default().to_uppercase();
            let profile = text(&order, "profileStatus").unwrap_or_default().to_lowercase();
            // Whether it is paid for then is not known.
            if matches!(state.as_str(), "ABANDON" | "TERMINATION") || profile == "failed" {
                return LookUp::CannotTell { reason: format!("the order is {state}, its profile {profile}") };
            }
            LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
        }
        Err(NotRead::Refused { code, message }) => LookUp::CannotTell { reason: format!("{code}: {message}") },
        Err(NotRead::TryLater { reason, .. } | NotRead::NotUnderstood { reason }) => LookUp::NoAnswer { reason },
        Err(NotRead::Unsupported(reason)) => LookUp::CannotTell { reason: reason.to_owned() },
    }
}

fn usage(order: &Value, data: &Value) -> Usage {
    let bytes = |name| text(data, name).and_then(|text| bytes_of_megabytes(&text));
    let life = match text(order, "orderStatus").unwrap_or_default().as_str() {
        "NOTACTIVE" => Life::NotActive,
        "ACTIVATED" | "INUSE" => Life::Active,
        "USED" if bytes("dataResidual") == Some(0) => Life::Depleted,
        "EXPIRED" => Life::Expired,
        "ABANDON" | "TERMINATION" => Life::Ended,
        _ => Life::Unknown,
    };
    let begun = life != Life::NotActive;
    // Whether the total holds what was added is not known.
    let nothing_added = bytes("refuelingTotal").unwrap_or(0) == 0;
    Usage {
        used_bytes: bytes("dataUsage"),
        total_bytes: bytes("dataTotal").filter(|total| nothing_added && *total > 0),
        as_of: None,
        activated_at: time(order, "activatedStartTime").filter(|_| begun),
        expires_at: time(order, "activatedEndTime").filter(|_| begun),
        life,
        profile: match text(order, "profileStatus").unwrap_or_default().to_lowercase().as_str() {
            "nodownload" => Some(ProfileStatus::Released),
            "downloaded" => Some(ProfileStatus::Downloaded),
            "activated" => Some(ProfileStatus::Enabled),
            "disabled" => Some(ProfileStatus::Disabled),
            "deleted" => Some(ProfileStatus::Deleted),
            _ => None,
        },
        fresh_for_ms: USAGE_FRESH_MS,
    }
}

/// Reads a balance from either of the two shapes seen; what is below nothing is nothing.
fn balance(data: &Value, currency: &str) -> Option<Balance> {
    let left = text(data, "balance").or_else(|| {
        let accounts = list(data, "accountList");
        let basic = accounts.iter().find(|account| text(account, "type").as_deref() == Some("BASIC"));
        text(basic.or(accounts.first())?, "balance")
    })?;
    let left = if left.starts_with('-') { "0" } else { &left };
    let currency = text(data, "currency").unwrap_or_else(|| currency.to_owned());
    Some(Balance { left: Cost::parse(left, &currency)? })
}

/// All fields of a body that are not empty, nested names joined with dots.
fn flattened(prefix: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    let named = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => fields.push((prefix.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => fields.push((prefix.to_owned(), value.to_string())),
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                flattened(&named(&index.to_string()), value, fields);
            }
        }
        Value::Object(values) => {
            for (name, value) in values.iter().filter(|(name, _)| !(prefix.is_empty() && *name == "sign")) {
                flattened(&named(name), value, fields);
            }
        }
    }
}

/// What a callback is signed with: once with names and values sorted together, as most clients do it, and once with
/// the names alone.
pub(crate) fn callback_signatures(secret: &str, body: &Value) -> [String; 2] {
    let mut fields = Vec::new();
    flattened("", body, &mut fields);
    let sign = |parts: String| hex(&Md5::digest(format!("{secret}{parts}{secret}").as_bytes()));
    fields.sort_unstable();
    let by_name = fields.iter().map(|(name, value)| format!("{name}{value}"));
    let mut together: Vec<String> = by_name.clone().collect();
    together.sort_unstable();
    [sign(together.concat()), sign(by_name.collect())]
}

impl Upstream for Tgt {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // An order has no number of eSIMs.
            quantity_per_call: 1,
            idempotent_create: true,
            look_up_by_reference: true,
            cancel: false,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::No(NO_CANCEL),
            refund_effect: RefundEffect::None,
            usage: Support::Yes,
            add_on: Support::No(NO_ADD_ON),
            balance: Support::Yes,
            callbacks: Support::Yes,
            calls_per_second: None,
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        Box::pin(self.create(now, purchase))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(async move {
            let heard = self.order(now, purchase.order.as_deref(), &purchase.reference).await;
            let order = heard.meaning.as_ref().ok().and_then(|order| text(order.as_ref()?, "orderNo"));
            heard.map(|read| look_up(now, read)).of_order(order)
        })
    }

    fn cancel(&self, _now: Timestamp, _esim: SoldEsim) -> Answer<'_, Cancellation> {
        Box::pin(async { Heard::new(Cancellation::Refused { reason: NO_CANCEL.to_owned() }, "") })
    }

    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(self.all_offers(now))
    }

    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        Box::pin(self.used(now, esim))
    }

    fn add_ons(&self, _now: Timestamp, _esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async { Heard::new(Err(NotRead::Unsupported(NO_ADD_ON)), "") })
    }

    fn add(&self, _now: Timestamp, _add_on: AddOn) -> Answer<'_, Outcome> {
        let (code, message) = ("unsupported".to_owned(), NO_ADD_ON.to_owned());
        Box::pin(async { Heard::new(Outcome::Refused { code, message }, "") })
    }

    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async move {
            let heard = self.read(now, "eSIMApi/v2/account/balance", &json!({"type": "BASIC"})).await;
            let understood = |data: Value| {
                let reason = || NotRead::NotUnderstood { reason: "there is no balance in it".to_owned() };
                balance(&data, &self.account.currency).ok_or_else(reason)
            };
            heard.map(|read| read.and_then(understood))
        })
    }

    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        let malformed = |what: &str| CallbackRefusal::Malformed(what.to_owned());
        let body: Value = serde_json::from_slice(&callback.body).map_err(|_| malformed("it is no JSON"))?;
        let sign = text(&body, "sign").unwrap_or_default().to_lowercase();
        let [one, other] = callback_signatures(&self.account.secret, &body);
        if !is_same(&one, &sign) && !is_same(&other, &sign) {
            return Err(CallbackRefusal::Forged);
        }
        let data = body.get("data").unwrap_or(&Value::Null);
        let info = data.get("orderInfo").unwrap_or(&Value::Null);
        // Renewals come as a list.
        let info = info.as_array().map_or(Some(info), |list| list.first()).unwrap_or(&Value::Null);
        let (order, reference) = (text(info, "orderNo"), text(info, "channelOrderNo"));
        let named = order.clone().or_else(|| reference.clone()).ok_or_else(|| malformed("it names no order"))?;
        let kind = text(data, "eventType").unwrap_or_default();
        let key = text(data, "idempotencyKey").unwrap_or_default();
        let event = match kind.as_str() {
            "1" => "issued".to_owned(),
            "2" => "renewed".to_owned(),
            "3" => "sent to the phone".to_owned(),
            other => format!("event {other}"),
        };
        let body = r#"{"code":"0000","msg":"success"}"#;
        Ok(Notice {
            id: format!("{named}/{kind}/{key}"),
            about: About::Order { order, reference },
            event,
            acknowledgement: Acknowledgement { status: 200, content_type: "application/json", body },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_is_signed_as_the_vector_says() {
        // Computed from invented inputs.
        let body = json!({"code": "0000", "msg": "success", "timestamp": "2026-01-02T03:04:05Z", "sign": "any",
            "data": {"eventType": 1, "businessType": "ESIM", "empty": "", "none": null,
                     "orderInfo": {"orderNo": "SE0001", "channelOrderNo": "CH0001"}}});
        for sign in callback_signatures("demo_secret_01", &body) {
            assert_eq!(sign, "a0f200e0e2851849fe15f33101ce0ccb");
        }
        // "a1" + "0" and "a" + "2" sort the other way round than "a" and "a1".
        let [together, by_name] = callback_signatures("s", &json!({"a": "2", "a1": "0"}));
        assert_ne!(together, by_name);
        let mut fields = Vec::new();
        flattened("", &json!({"data": {"orderInfo": [{"iccid": "89"}]}}), &mut fields);
        assert_eq!(fields, [("data.orderInfo.0.iccid".to_owned(), "89".to_owned())]);
    }

    fn outcome(status: u16, text: &str) -> Outcome {
        let answered = Answered::new(status, text);
        created(Timestamp::from_millis(0), &answered).0
    }

    #[test]
    fn only_what_certainly_was_not_sold_is_refused() {
        let refused = |text| match outcome(200, text) {
            Outcome::Refused { code, message } => (code, message),
            other => panic!("{text}: {other:?}"),
        };
        let told = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        assert_eq!(refused(r#"{"code":"1003","msg":"parameter"}"#), told("1003", "parameter"));
        assert_eq!(refused(r#"{"code":"5000","msg":"m","subCode":"4007","subMsg":"s"}"#), told("4007", "s"));
        assert_eq!(refused(r#"{"code":"4000","msg":"m"}"#), told("4000", "m"));
        for (status, text) in [
            (200, r#"{"code":"5000","msg":"remote error"}"#),
            (200, r#"{"code":"5000","msg":"remote error","subCode":"1"}"#),
            (200, r#"{"code":"0000","data":{}}"#),
            (200, "<html>"),
            (500, "<html>"),
            (502, r#"{"code":"1003","msg":"parameter"}"#),
            (200, r#"{"code":"2000","msg":"unavailable"}"#),
            (503, r#"{"code":"2000","msg":"unavailable"}"#),
            // What failed behind the service may have failed after the sale.
            (200, r#"{"code":"5000","msg":"remote error","subCode":"0429"}"#),
            (200, r#"{"code":"5000","msg":"remote error","subCode":"2003"}"#),
            (200, r#"{"code":"5000","msg":"remote error","subCode":"1003"}"#),
        ] {
            assert!(matches!(outcome(status, text), Outcome::Unknown { .. }), "{status} {text}");
        }
        for (status, text) in [
            (200, r#"{"code":"0429","msg":"too frequent"}"#),
            (503, r#"{"code":"0429","msg":"too frequent"}"#),
            (200, r#"{"code":2004,"msg":"token"}"#),
            (401, ""),
            (403, "<html>"),
            (429, ""),
        ] {
            let later = matches!(outcome(status, text), Outcome::NotYet(NotYet::TryLater { .. }));
            assert!(later, "{status} {text}");
        }
    }

    #[test]
    fn a_balance_is_read_in_both_shapes() {
        let read = |data| balance(&data, "EUR").map(|Balance { left }| (left.units, left.decimals, left.currency));
        let expected = |currency: &str| Some((1_050, 2, currency.to_owned()));
        assert_eq!(read(json!({"balance": "10.50", "currency": "USD"})), expected("USD"));
        let accounts = json!([{"type": "GIFT", "balance": "1"}, {"type": "BASIC", "balance": "10.50"}]);
        assert_eq!(read(json!({"accountList": accounts})), expected("EUR"));
        assert_eq!(read(json!({"balance": -3})), Some((0, 0, "EUR".to_owned())));
        assert_eq!(read(json!({"accountList": []})), None);
    }

    #[test]
    fn a_product_is_read() {
        let read = |kind: &str, limited: &str, unit: &str| {
            let product = json!({"productCode": "P1", "productName": "Japan", "productType": kind, "netPrice": 1.5,
                "countryCodeList": ["jp", "KR", "JPN"], "usagePeriod": "7", "validityPeriod": 90,
                "dataLimited": limited, "dataTotal": "0.5", "dataUnit": unit});
            offer(&product, "USD").map(|offer| (offer.data, offer.countries.join(" "), offer.cost.units))
        };
        let told = |data| Some((data, "JP KR".to_owned(), 15));
        assert_eq!(read("DAILY_PACK", "Y", "GB"), told(Data::Daily(512)));
        assert_eq!(read("DATA_PACK", "Y", "GB"), told(Data::Total(512)));
        assert_eq!(read("DATA_PACK", "N", ""), told(Data::Unlimited));
        assert_eq!(read("DATA_PACK", "Y", "barrels"), None);
    }

    #[test]
    fn an_order_that_came_to_nothing_is_for_the_operator() {
        let read = |state: &str, profile: &str| {
            look_up(Timestamp::from_millis(0), Ok(Some(json!({"orderStatus": state, "profileStatus": profile}))))
        };
        assert!(matches!(read("NOTACTIVE", "ungenerated"), LookUp::Provisioning { .. }));
        assert!(matches!(read("NOTACTIVE", "failed"), LookUp::CannotTell { .. }));
        assert!(matches!(read("ABANDON", ""), LookUp::CannotTell { .. }));
    }

    #[test]
    fn what_was_used_may_not_be_known_and_its_life_is() {
        let order = json!({"orderStatus": "INUSE", "activatedStartTime": "2026-08-01T00:00:00Z",
            "activatedEndTime": "2026-08-05 23:59:59"});
        let read = usage(&order, &Value::Null);
        assert_eq!((read.life, read.used_bytes, read.total_bytes), (Life::Active, None, None));
        assert!(read.activated_at.is_some() && read.expires_at.is_none());
        let added = json!({"dataTotal": "1000", "dataUsage": "1.5", "refuelingTotal": "500"});
        let read = usage(&order, &added);
        assert_eq!((read.used_bytes, read.total_bytes), (Some(1_572_864), None));
    }
}
