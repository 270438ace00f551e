//! TSIM (TSim Tech, "TSim Open API v1.0"). Its own document is not public: what stands here was seen in the vendor's
//! WordPress plugin and in clients that work against the live service. What nobody has seen is not guessed: it is off,
//! and says why.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{
    bytes_of_megabytes, integer, list, local_time, profile, says_nothing_was_sold, text, texts, truth,
};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hmac_sha256, is_same, nonce};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::plan::Network;
use domain::time::Timestamp;
use serde_json::{Value, json};

/// Hours east of Greenwich of all its times.
pub(crate) const HOURS_EAST: i8 = 8;
/// The envelope's code for success.
pub(crate) const SUCCESS: i64 = 1;
/// Our address is not on the list of those that may call.
const ADDRESS_NOT_ALLOWED: &str = "2000";
/// Seen right after a purchase, and gone a moment later: not there yet.
const NOT_READY: &str = "1006";
/// Clients that work order a few eSIMs at once; no limit is published.
const QUANTITY_PER_CALL: u32 = 10;
/// Between two polls; clients that work use 2 to 3 s.
const POLL_MS: i64 = 2_500;
/// How long after a lost answer "not found" proves nothing. How long the service may work is not published; full
/// catalogues were seen to take 40 s.
const SETTLE_AFTER_MS: i64 = 600_000;
/// Clients that work wait 90 s for an order; one that is not complete after so long is for the operator.
const STUCK_AFTER_MS: i64 = 30 * 60_000;
/// The vendor's plugin asks for the state of an eSIM every ten minutes.
const USAGE_FRESH_MS: i64 = 600_000;
/// Plans of one page.
const PAGE: usize = 100;
/// Pages after which a catalogue that never ends is left.
const MOST_PAGES: usize = 1_000;

const NO_CANCEL: &str = "terminate is known by name only: neither its request nor whether it refunds";
const NO_BALANCE: &str = "TSIM has no call for the balance";

/// What TSIM hands out.
#[derive(Clone)]
pub struct Account {
    /// The account, sent with each call.
    pub account: String,
    /// The secret calls are signed with.
    pub secret: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("account", &self.account).finish_non_exhaustive()
    }
}

/// What is signed: account, nonce and time, in this order, without separators. Neither body nor path are.
pub(crate) fn signature(secret: &str, account: &str, nonce: &str, timestamp: &str) -> String {
    hmac_sha256(secret.as_bytes(), &[account, nonce, timestamp])
}

/// An account at TSIM.
#[derive(Debug, Clone)]
pub struct Tsim {
    connection: Connection,
    account: Account,
}

/// What an envelope says.
enum Envelope {
    Success(Value),
    Refusal { code: String, message: String },
}

/// Reads an envelope. `None` for anything else: what a gateway says in JSON of its own, or with a status of its own, is
/// no word of the service.
fn envelope(answered: &Answered) -> Option<Envelope> {
    let body = answered.json().filter(|_| (200..300).contains(&answered.status))?;
    let code = text(&body, "code").filter(|code| code.parse::<i64>().is_ok())?;
    let message = answered.words(text(&body, "msg").unwrap_or_default());
    Some(if code == SUCCESS.to_string() {
        Envelope::Success(body.get("result").cloned().unwrap_or(Value::Null))
    } else {
        Envelope::Refusal { code, message }
    })
}

fn not_understood(answered: &Answered) -> String {
    format!("status {} without an envelope", answered.status)
}

impl Tsim {
    /// An account behind a connection.
    #[must_use]
    pub fn new(connection: Connection, account: Account) -> Self {
        let connection = connection.hiding(&[&account.secret]);
        Self { connection, account }
    }

    async fn send(&self, now: Timestamp, call: Call) -> Sent {
        let (nonce, timestamp) = (nonce::<16>(), (now.millis() / 1_000).to_string());
        let sign = signature(&self.account.secret, &self.account.account, &nonce, &timestamp);
        let call = call
            .with("TSIM-ACCOUNT", &self.account.account)
            .with("TSIM-NONCE", nonce)
            .with("TSIM-TIMESTAMP", timestamp)
            .with("TSIM-SIGN", sign);
        self.connection.send(now, call).await
    }

    /// Reads something that changes nothing: `result` of the envelope.
    async fn read(&self, now: Timestamp, call: Call) -> Heard<Reading<Value>> {
        match self.send(now, call).await {
            Sent::NotSent { reason } | Sent::Lost { reason } => {
                Heard::new(Err(NotRead::TryLater { retry_at: None, reason: reason.clone() }), reason)
            }
            Sent::Answered(answered) => {
                let read = match envelope(&answered) {
                    Some(Envelope::Success(result)) => Ok(result),
                    Some(Envelope::Refusal { code, message }) => Err(NotRead::Refused { code, message }),
                    None => Err(NotRead::TryLater { retry_at: answered.retry_at, reason: not_understood(&answered) }),
                };
                Heard::new(read, answered.raw())
            }
        }
    }

    /// Sends a purchase; `understand` reads `result`.
    async fn buy(&self, now: Timestamp, call: Call, understand: impl FnOnce(&Value) -> Outcome) -> Heard<Outcome> {
        let unknown = |reason: String| Outcome::Unknown { reason };
        let later = |retry_at, reason| Outcome::NotYet(NotYet::TryLater { retry_at, reason });
        match self.send(now, call).await {
            Sent::NotSent { reason } => Heard::new(later(None, reason.clone()), reason),
            Sent::Lost { reason } => Heard::new(unknown(reason.clone()), reason),
            Sent::Answered(answered) => {
                let order = answered.json().and_then(|body| text(body.get("result")?, "topup_id"));
                let outcome = match envelope(&answered) {
                    Some(Envelope::Success(result)) => understand(&result),
                    Some(Envelope::Refusal { code, message }) if code == ADDRESS_NOT_ALLOWED => {
                        later(None, format!("{code}: {message}"))
                    }
                    Some(Envelope::Refusal { code, message }) if says_nothing_was_sold(&message) => {
                        Outcome::Refused { code, message }
                    }
                    // No table of codes is published: one nobody has seen does not say that nothing was sold.
                    Some(Envelope::Refusal { code, message }) => unknown(format!("{code}: {message}")),
                    // Something before the service turned the call away.
                    None if answered.status == 429 || answered.was_turned_away() => {
                        later(answered.retry_at, format!("status {}", answered.status))
                    }
                    None => unknown(not_understood(&answered)),
                };
                Heard::new(outcome, answered.raw()).of_order(order)
            }
        }
    }

    async fn page(&self, now: Timestamp, page: usize) -> Heard<Reading<Value>> {
        let path = format!("tsim/v2/dataplanList?pageNo={page}&pageSize={PAGE}&all_column=1");
        self.read(now, Call::get(path)).await
    }

    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let mut offers = Vec::new();
        let mut raw = String::new();
        for page in 1..=MOST_PAGES {
            if page > 1 {
                self.connection.next_turn().await;
            }
            let heard = self.page(now, page).await;
            raw = heard.raw;
            let result = match heard.meaning {
                Ok(result) => result,
                // Version 2 is not set up for every account: some get a page of the web server.
                Err(NotRead::TryLater { .. }) if page == 1 => {
                    self.connection.next_turn().await;
                    let heard = self.read(now, Call::get("tsim/v1/esimDataplanList")).await;
                    return heard.map(|read| {
                        let list = read?.as_array().cloned().ok_or_else(no_list)?;
                        Ok(offers_of(&list))
                    });
                }
                Err(error) => return Heard::new(Err(error), raw),
            };
            let Some(plans) = result.get("data").and_then(Value::as_array) else {
                return Heard::new(Err(no_list()), raw);
            };
            offers.extend(offers_of(plans));
            let last = integer(&result, "last_page").and_then(|last| usize::try_from(last).ok());
            if plans.is_empty() || last.is_some_and(|last| page >= last) {
                return Heard::new(Ok(offers), raw);
            }
        }
        Heard::new(Err(NotRead::NotUnderstood { reason: "the list of plans does not end".to_owned() }), raw)
    }
}

fn no_list() -> NotRead {
    NotRead::NotUnderstood { reason: "the answer has no list of plans".to_owned() }
}

fn offers_of(plans: &[Value]) -> Vec<Offer> {
    plans.iter().filter(|plan| text(plan, "status").is_none_or(|status| status == "1")).filter_map(offer).collect()
}

/// Reads a plan; `None` when what it is or costs cannot be read, or when it is only sold for a date: nobody knows how
/// that is sent. Such a plan is not sold.
fn offer(plan: &Value) -> Option<Offer> {
    if truth(plan, "scheduled_activation") {
        return None;
    }
    let name = text(plan, "channel_dataplan_name")?;
    let validity_days = integer(plan, "day").filter(|days| *days > 0)?;
    let megabytes = |field| integer(plan, field).filter(|megabytes| *megabytes > 0);
    let total = megabytes("data_allowance");
    // For daily plans `data_allowance` is the allowance over the whole term.
    let daily = megabytes("day_data_allowance").or(total.map(|total| total / validity_days));
    let data = if name.to_lowercase().contains("unlimited") {
        Data::Unlimited
    } else if truth(plan, "is_daily") {
        Data::Daily(daily?)
    } else {
        Data::Total(total?)
    };
    let mut networks = Vec::new();
    let mut countries = Vec::new();
    for coverage in list(plan, "coverages") {
        let Some(country) = text(coverage, "country_code").filter(|code| code.len() == 2) else { continue };
        let country = country.to_uppercase();
        for operator in texts(coverage, "telecom_operator").into_iter().filter(|operator| !operator.is_empty()) {
            networks.push(Network { country: country.clone(), operator, technology: String::new() });
        }
        countries.push(country);
    }
    if countries.is_empty() {
        let codes = text(plan, "cover_domain_code").unwrap_or_default().to_uppercase();
        let codes = codes.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|code| code.len() == 2);
        countries = codes.map(str::to_owned).collect();
    }
    countries.sort_unstable();
    countries.dedup();
    Some(Offer {
        upstream_plan_id: text(plan, "channel_dataplan_id")?,
        name,
        cost: Cost::parse(&text(plan, "price")?, &text(plan, "currency")?)?,
        countries,
        data,
        validity_days,
        networks,
        speed: text(plan, "spec_name"),
        activation: None,
        add_on_supported: truth(plan, "topup_support"),
        apn: text(plan, "apn"),
        remark: text(plan, "remark"),
    })
}

/// The profiles of an order's detail: its lists are parallel.
///
/// # Errors
/// What of it cannot be read.
fn profiles(detail: &Value) -> Result<Vec<Profile>, String> {
    let (handles, iccids) = (texts(detail, "device_ids"), texts(detail, "operator_iccids"));
    let apn = text(detail, "apn");
    let at = |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
    let codes = texts(detail, "lpa_str");
    let each = codes.iter().enumerate().filter(|(_, code)| !code.is_empty()).map(|(index, code)| {
        let handle = at(&handles, index);
        let iccid = at(&iccids, index).or_else(|| handle.clone()).ok_or("an eSIM has no ICCID")?;
        let read = profile(code).ok_or("an activation code cannot be read")?;
        Ok(Profile { iccid, handle, apn: apn.clone(), ..read })
    });
    each.collect()
}

fn look_up(now: Timestamp, purchase: &Purchase, read: Reading<Value>) -> LookUp {
    let cannot_tell = |reason: String| LookUp::CannotTell { reason };
    match read {
        Ok(result) => {
            // Some calls answer a list of one.
            let detail = result.as_array().map_or(Some(&result), |list| list.first());
            match detail.filter(|detail| text(detail, "topup_id").is_some()) {
                None => cannot_tell("an answer without an order".to_owned()),
                Some(detail) => delivery(now, purchase, detail),
            }
        }
        // Seen while an order that was accepted is not there yet; of one that may never have come it says nothing.
        Err(NotRead::Refused { code, .. }) if code == NOT_READY && purchase.order.is_some() => {
            LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
        }
        Err(NotRead::Refused { code, message }) if code == NOT_READY || code == ADDRESS_NOT_ALLOWED => {
            LookUp::NoAnswer { reason: format!("{code}: {message}") }
        }
        // No code for an unknown order is published; its words are all there is to go by.
        Err(NotRead::Refused { message, .. }) if says_no_order(&message) => LookUp::NotFound,
        Err(NotRead::Refused { code, message }) => cannot_tell(format!("{code}: {message}")),
        Err(NotRead::TryLater { reason, .. } | NotRead::NotUnderstood { reason }) => LookUp::NoAnswer { reason },
        Err(NotRead::Unsupported(reason)) => cannot_tell(reason.to_owned()),
    }
}

fn delivery(now: Timestamp, purchase: &Purchase, detail: &Value) -> LookUp {
    let profiles = match profiles(detail) {
        Ok(profiles) => profiles,
        Err(reason) => return LookUp::CannotTell { reason },
    };
    let wanted = usize::try_from(purchase.quantity).unwrap_or(usize::MAX);
    let ordered = text(detail, "create_time").and_then(|text| local_time(&text, HOURS_EAST));
    if profiles.len() >= wanted {
        LookUp::Delivered { profiles }
    } else if ordered.is_some_and(|ordered| now.since(ordered) > STUCK_AFTER_MS) {
        // Whether the others will come is not said anywhere: neither to refund nor to wait for ever would be right.
        LookUp::CannotTell { reason: format!("{} of {wanted} eSIMs came", profiles.len()) }
    } else {
        LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
    }
}

/// Whether a refusal of a look-up says in words that there is no such order; not that something else is missing.
fn says_no_order(message: &str) -> bool {
    let message = message.to_lowercase();
    let missing = ["not exist", "not found", "no such"].iter().any(|words| message.contains(words));
    missing && message.contains("order")
}

fn usage(now: Timestamp, detail: &Value) -> Usage {
    let time = |field| text(detail, field).and_then(|text| local_time(&text, HOURS_EAST));
    let activated_at = time("active_time");
    // Before activation it is the last moment to install.
    let expires_at = activated_at.and_then(|_| time("expire_time"));
    let life = if time("terminate_time").is_some() {
        Life::Ended
    } else if expires_at.is_some_and(|end| end <= now) {
        Life::Expired
    } else if activated_at.is_some() {
        Life::Active
    } else {
        Life::NotActive
    };
    Usage {
        used_bytes: text(detail, "data_usage").and_then(|text| bytes_of_megabytes(&text)),
        // The detail does not tell the allowance; the plan does.
        total_bytes: None,
        as_of: None,
        activated_at,
        expires_at,
        life,
        profile: None,
        fresh_for_ms: USAGE_FRESH_MS,
    }
}

impl Upstream for Tsim {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: QUANTITY_PER_CALL,
            // Whether a second purchase under the same number is refused or sold is not known.
            idempotent_create: false,
            look_up_by_reference: true,
            cancel: false,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::No(NO_CANCEL),
            refund_effect: RefundEffect::Unknown,
            usage: Support::Yes,
            add_on: Support::Yes,
            balance: Support::No(NO_BALANCE),
            callbacks: Support::Yes,
            calls_per_second: None,
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        let body = json!({
            "channel_dataplan_id": purchase.upstream_plan_id,
            "number": purchase.quantity,
            "custom_order_no": purchase.reference,
        });
        Box::pin(self.buy(now, Call::post("tsim/v1/esimSubscribe", &body), move |result| {
            match text(result, "topup_id") {
                Some(_) => Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) }),
                None => Outcome::Unknown { reason: "sold, it says, without a number".to_owned() },
            }
        }))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(async move {
            let call = match &purchase.order {
                Some(order) => Call::post("tsim/v1/topupDetail", &json!({"topup_id": order})),
                None => {
                    Call::post("tsim/v1/getOrderInfoByCustomOrderNo", &json!({"custom_order_no": purchase.reference}))
                }
            };
            let heard = self.read(now, call).await;
            let found =
                heard.meaning.as_ref().ok().and_then(|result| {
                    text(result.as_array().and_then(|list| list.first()).unwrap_or(result), "topup_id")
                });
            heard.map(|read| look_up(now, &purchase, read)).of_order(found)
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
            let device = esim.handle.unwrap_or(esim.iccid);
            let body = json!({"device_id": device, "topup_id": esim.order.unwrap_or_default()});
            let heard = self.read(now, Call::post("tsim/v1/deviceDetail", &body)).await;
            heard.map(|read| {
                let read = read?;
                let detail = read.as_array().map_or(Some(&read), |list| list.first());
                let detail = detail.filter(|detail| text(detail, "channel_dataplan_id").is_some());
                let reason = || NotRead::NotUnderstood { reason: "an answer without an eSIM".to_owned() };
                detail.map(|detail| usage(now, detail)).ok_or_else(reason)
            })
        })
    }

    fn add_ons(&self, now: Timestamp, _esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async move {
            let heard = self.all_offers(now).await;
            heard.map(|read| read.map(|offers| offers.into_iter().filter(|offer| offer.add_on_supported).collect()))
        })
    }

    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome> {
        let body = json!({
            "device_ids": add_on.esim.handle.unwrap_or(add_on.esim.iccid),
            "channel_dataplan_id": add_on.upstream_plan_id,
            "remark": add_on.reference,
        });
        let call = Call::post("tsim/v1/topup", &body);
        Box::pin(self.buy(now, call, |result| match text(result, "topup_id") {
            Some(_) => Outcome::Done { profiles: Vec::new() },
            None => Outcome::Unknown { reason: "added, it says, without a number".to_owned() },
        }))
    }

    fn balance(&self, _now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async { Heard::new(Err(NotRead::Unsupported(NO_BALANCE)), "") })
    }

    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        let account = callback.header("tsim-account");
        let expected =
            signature(&self.account.secret, account, callback.header("tsim-nonce"), callback.header("tsim-timestamp"));
        if account != self.account.account || !is_same(&expected, callback.header("tsim-sign")) {
            return Err(CallbackRefusal::Forged);
        }
        let body = callback.fields();
        let missing = |name: &str| CallbackRefusal::Malformed(format!("{name} is missing"));
        let order = text(&body, "topup_id").ok_or_else(|| missing("topup_id"))?;
        let event = text(&body, "event").ok_or_else(|| missing("event"))?;
        let handle = text(&body, "device_id");
        let id = format!("{order}/{}/{event}", handle.as_deref().unwrap_or_default());
        let about = match handle {
            Some(handle) => About::Esim { order: Some(order), handle: Some(handle), iccid: None },
            None => About::Order { order: Some(order), reference: None },
        };
        let event = match event.as_str() {
            "1" => "activated".to_owned(),
            "2" => "terminated".to_owned(),
            "3" => "cancelled".to_owned(),
            "4" => "activation code".to_owned(),
            "5" => "order finished".to_owned(),
            other => format!("event {other}"),
        };
        let body = r#"{"data":[],"msg":"success","status":1}"#;
        Ok(Notice {
            id,
            about,
            event,
            acknowledgement: Acknowledgement { status: 200, content_type: "application/json", body },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_signed_as_the_vector_says() {
        // Computed with a standard HMAC library from invented inputs.
        assert_eq!(
            signature("demo_secret_01", "demo_account_01", "abcdef0123456789", "1700000000"),
            "a8b98d0f2616242d8b19f9c6ba7b30bc68346f0e52d82aed5a9eebc3cb0fea66"
        );
    }

    #[test]
    fn a_daily_plan_has_its_allowance_for_each_day() {
        let plan = |more: &str| -> Option<Offer> {
            let plan = format!(
                r#"{{"channel_dataplan_id":"0a1b","channel_dataplan_name":"Testland","price":"2.40","currency":"USD",
                    "status":"1","day":3,"coverages":[{{"country_code":"th","telecom_operator":[]}}]{more}}}"#
            );
            offer(&serde_json::from_str(&plan).unwrap())
        };
        let data = |more| plan(more).map(|offer| offer.data);
        assert_eq!(data(r#","is_daily":true,"data_allowance":1500"#), Some(Data::Daily(500)));
        assert_eq!(data(r#","is_daily":"1","day_data_allowance":"500","data_allowance":1500"#), Some(Data::Daily(500)));
        assert_eq!(data(r#","is_daily":false,"data_allowance":3072"#), Some(Data::Total(3_072)));
        assert_eq!(plan(r#","data_allowance":1"#).unwrap().countries, ["TH"]);
        // A plan without data is one that was not understood.
        assert_eq!(data(r#","is_daily":false"#), None);
    }

    fn asked(order: Option<&str>) -> Purchase {
        let order = order.map(str::to_owned);
        Purchase { reference: "o-1".to_owned(), order, upstream_plan_id: "p".to_owned(), quantity: 2 }
    }

    fn looked_up(order: Option<&str>, read: Reading<Value>) -> LookUp {
        look_up(local_time("2026-01-02 03:05:00", HOURS_EAST).unwrap(), &asked(order), read)
    }

    #[test]
    fn parallel_lists_stay_parallel_and_nothing_is_taken_before_all_are_there() {
        let detail = |created: &str, codes: Value| {
            json!({"topup_id": "t", "apn": "plus", "create_time": created,
                   "device_ids": ["d1", "d2"], "operator_iccids": ["8901", ""], "lpa_str": codes})
        };
        let both = json!(["LPA:1$rsp.test$A", "lpa:1$rsp.test$B"]);
        let LookUp::Delivered { profiles: found } = looked_up(None, Ok(detail("2026-01-02 03:04:05", both))) else {
            panic!("not delivered")
        };
        let told: Vec<_> = found.iter().map(|found| (found.iccid.as_str(), found.matching_id.as_str())).collect();
        assert_eq!(told, [("8901", "A"), ("d2", "B")]);
        assert_eq!(found[1].handle.as_deref(), Some("d2"));
        for codes in [json!([]), json!(["LPA:1$rsp.test$A"]), json!(["LPA:1$rsp.test$A", ""])] {
            let young = looked_up(None, Ok(detail("2026-01-02 03:04:05", codes.clone())));
            assert!(matches!(young, LookUp::Provisioning { .. }), "{young:?}");
            let old = looked_up(None, Ok(detail("2026-01-02 02:04:05", codes)));
            assert!(matches!(old, LookUp::CannotTell { .. }), "{old:?}");
        }
        let unreadable = looked_up(None, Ok(detail("2026-01-02 03:04:05", json!(["x", "y"]))));
        assert!(matches!(unreadable, LookUp::CannotTell { .. }), "{unreadable:?}");
    }

    #[test]
    fn only_words_about_the_order_say_that_there_is_none() {
        let refused = |code: &str, message: &str| -> Reading<Value> {
            Err(NotRead::Refused { code: code.to_owned(), message: message.to_owned() })
        };
        assert_eq!(looked_up(None, refused("7", "The order does not exist")), LookUp::NotFound);
        for message in ["Not Found", "service not found", "account does not exist", "system error"] {
            let told = looked_up(None, refused("7", message));
            assert!(matches!(told, LookUp::CannotTell { .. }), "{message}: {told:?}");
        }
        for nothing in [json!([]), json!({}), Value::Null] {
            assert!(matches!(looked_up(None, Ok(nothing)), LookUp::CannotTell { .. }));
        }
        let not_ready = || refused(NOT_READY, "processing");
        assert!(matches!(looked_up(Some("t"), not_ready()), LookUp::Provisioning { .. }));
        assert!(matches!(looked_up(None, not_ready()), LookUp::NoAnswer { .. }));
    }

    #[test]
    fn a_gateway_speaks_for_itself() {
        let answered = |status, text: &str| Answered::new(status, text);
        for (status, text) in [
            (502, r#"{"code":504,"msg":"upstream timed out"}"#),
            (200, r#"{"code":"GatewayTimeout"}"#),
            (404, r#"{"code":1}"#),
        ] {
            assert!(envelope(&answered(status, text)).is_none(), "{status} {text}");
        }
    }
}
