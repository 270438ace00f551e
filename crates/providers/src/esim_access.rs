//! eSIM Access (Redtea), after its published document of April 2026 and what clients see that work against the live
//! service. A purchase under the same `transactionId` is the same purchase, which is why one that was lost can be sent
//! again. There is no look-up by that number, but all profiles of a span of time can be listed, and each tells it.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{integer, is_list, list, profile, text, truth};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hmac_sha256, nonce};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use domain::esim::ProfileStatus;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::id::OrderId;
use domain::offer::{Cost, Data, Offer};
use domain::plan::{Activation, Network};
use domain::time::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Where all its paths begin.
pub(crate) const PREFIX: &str = "api/v1/open/";
/// Most eSIMs of one order, as the document says.
pub(crate) const MOST_PER_ORDER: u32 = 30;
/// Calls per second, as the document says.
pub(crate) const CALLS_PER_SECOND: u32 = 8;
/// Decimals of its US dollars: `10000` is $1.00.
const DECIMALS: u32 = 4;
/// Most days a day pass can be bought for, as the document says.
pub(crate) const MOST_DAYS: i64 = 365;
/// Stands between the code of a day pass and the days it is bought for. No code has it.
const DAYS_MARK: char = '*';

/// The server failed; whether before or after it sold, it does not say.
pub(crate) const SERVER_ERROR: &str = "000001";
/// A header that must be there is not.
pub(crate) const HEADER_MISSING: &str = "000101";
/// A header is not written as it must be.
pub(crate) const HEADER_FORMAT: &str = "000102";
/// The time in the signature is too long ago.
pub(crate) const TIMESTAMP_EXPIRED: &str = "101001";
/// Our address is on a list of those that may not call.
const ADDRESS_BLOCKED: &str = "101002";
/// The signature is another one.
pub(crate) const BAD_SIGNATURE: &str = "101003";
/// The order or eSIM is in no state for this.
pub(crate) const NOT_IN_THIS_STATE: &str = "200002";
/// An order in a state nobody expected.
const ABNORMAL_STATE: &str = "200009";
/// The profiles of an order are not there yet.
pub(crate) const ALLOCATING: &str = "200010";
/// There is no such order. Working clients see it right after an order, too, and ask on.
pub(crate) const NO_ORDER: &str = "310272";
/// The system is busy; whether before or after it sold, it does not say either.
pub(crate) const BUSY: &str = "900001";
/// The state of an eSIM that was taken back, and its price paid back.
const CANCELLED: &str = "CANCEL";
/// The state of one that was ended, and nothing paid back, in both spellings.
const REVOKED: [&str; 2] = ["REVOKE", "REVOKED"];
/// What is wrong with our set-up there and not with the call: the operator mends it.
const SET_UP: [&str; 5] = [HEADER_MISSING, HEADER_FORMAT, TIMESTAMP_EXPIRED, ADDRESS_BLOCKED, BAD_SIGNATURE];

/// Between two polls; allocation takes up to 30 s, and working clients ask every 2 to 3 s.
const POLL_MS: i64 = 3_000;
/// How long after a lost answer "not found" proves nothing: the time limit of a call (60 s), the 30 s of allocation
/// that the document names, and as much for clocks that differ.
const SETTLE_AFTER_MS: i64 = 120_000;
/// How far clocks may differ.
const CLOCKS_MS: i64 = 600_000;
/// Where a search begins for a reference that does not tell when it was made: 2023, before there were any.
const EARLIEST: Timestamp = Timestamp::from_millis(1_672_531_200_000);
/// Profiles of one page, the most there are.
const PAGE: usize = 500;
/// Pages after which a search that never ends is left.
const MOST_PAGES: usize = 1_000;
/// After this an order with fewer profiles than were bought gets no more. The document gives 30 s for all of them.
const SHORT_AFTER_MS: i64 = 600_000;
/// Usage is counted every 2 to 3 hours.
const USAGE_FRESH_MS: i64 = 7_200_000;
const MEGABYTE: i64 = 1_048_576;
/// Days for which day passes are listed; for others write them behind the code.
const TERMS: [i64; 8] = [1, 3, 5, 7, 10, 15, 20, 30];
/// The code of what we refuse ourselves: an eSIM that is not found within its own order.
const NOT_OURS: &str = "not_in_our_order";

/// What eSIM Access hands out.
#[derive(Clone)]
pub struct Account {
    /// The access code, sent with each call.
    pub access_code: String,
    /// The secret calls are signed with; without one they are not signed, which the service takes too.
    pub secret_key: Option<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

/// What is signed: time, request id, access code and body, in this order, without separators. In lower case, as the
/// document says; its own example prints upper case, and the service takes both.
pub(crate) fn signature(secret: &str, timestamp: &str, request_id: &str, access_code: &str, body: &str) -> String {
    hmac_sha256(secret.as_bytes(), &[timestamp, request_id, access_code, body])
}

/// A random UUID of version 4.
fn request_id() -> String {
    let random = uuid::Uuid::parse_str(&nonce::<16>()).unwrap_or_default();
    uuid::Builder::from_random_bytes(random.into_bytes()).into_uuid().to_string()
}

/// Reads `2026-01-02T03:04:05+0000`, and the same with `Z` or a colon in its offset, with or without seconds.
pub(crate) fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.trim().parse().ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

/// An account at eSIM Access.
#[derive(Debug, Clone)]
pub struct EsimAccess {
    connection: Connection,
    account: Account,
}

/// Codes that say for sure that an order or an add-on was not sold: of parameters, prices, funds and stock.
const NOT_SOLD: [&str; 18] = [
    "000103", "000104", "000105", "000106", "000107", "200002", "200005", "200006", "200007", "200008", "200011",
    "310201", "310211", "310221", "310231", "310241", "310243", "310251",
];

/// What an envelope says.
enum Envelope {
    Success(Value),
    Refusal { code: String, message: String },
}

fn envelope(answered: &Answered) -> Option<Envelope> {
    let body = answered.json()?;
    body.get("success")?;
    if truth(&body, "success") {
        return Some(Envelope::Success(body.get("obj").cloned().unwrap_or(Value::Null)));
    }
    // Codes have six digits; one that came as a number lost its zeros.
    let code = text(&body, "errorCode").filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?;
    let code = format!("{code:0>6}");
    // The tables call it by one name, the samples by the other.
    let message = text(&body, "errorMsg").or_else(|| text(&body, "errorMessage"));
    let message = answered.words(message.unwrap_or_default());
    Some(Envelope::Refusal { code, message })
}

fn not_understood(answered: &Answered) -> String {
    format!("status {} without an envelope", answered.status)
}

/// A plan id, taken apart: the package's code, and for how many days a day pass is bought.
fn code_and_days(upstream_plan_id: &str) -> (&str, Option<i64>) {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let days = |text: &str| text.parse().ok().filter(|days| is_number(text) && (1..=MOST_DAYS).contains(days));
    match upstream_plan_id.rsplit_once(DAYS_MARK) {
        Some((code, text)) if days(text).is_some() => (code, days(text)),
        _ => (upstream_plan_id, None),
    }
}

/// When a purchase was made, by its reference `<orderId>-<k>`: an order's id tells when it was. It was never sent before.
fn made_at(reference: &str) -> Option<Timestamp> {
    let id: OrderId = reference.rsplit_once('-')?.0.parse().ok()?;
    (id.uuid().get_version_num() == 7).then(|| id.created_at())
}

/// What is said of an eSIM that cannot be named for sure.
fn not_ours(message: &str) -> NotRead {
    NotRead::Refused { code: NOT_OURS.to_owned(), message: message.to_owned() }
}

fn not_understood_list(reason: &str) -> NotRead {
    NotRead::NotUnderstood { reason: reason.to_owned() }
}

impl EsimAccess {
    /// An account behind a connection.
    #[must_use]
    pub fn new(connection: Connection, account: Account) -> Self {
        let secret = account.secret_key.as_deref().unwrap_or_default();
        let connection = connection.hiding(&[&account.access_code, secret]);
        Self { connection, account }
    }

    async fn send(&self, now: Timestamp, path: &str, body: &Value) -> Sent {
        // What is signed is what is sent, byte by byte.
        let text = body.to_string();
        let Account { access_code, secret_key } = &self.account;
        let mut call = Call::post(format!("{PREFIX}{path}"), &Value::Null).with("RT-AccessCode", access_code);
        if let Some(secret) = secret_key.as_deref().filter(|secret| !secret.is_empty()) {
            let (request_id, timestamp) = (request_id(), now.millis().to_string());
            let signature = signature(secret, &timestamp, &request_id, access_code, &text);
            call =
                call.with("RT-RequestID", request_id).with("RT-Timestamp", timestamp).with("RT-Signature", signature);
        }
        call.body = Some(("application/json", text.into_bytes()));
        self.connection.send(now, call).await
    }

    /// Reads something that changes nothing: `obj` of the envelope.
    async fn read(&self, now: Timestamp, path: &str, body: &Value) -> Heard<Reading<Value>> {
        let later = |retry_at, reason| Err(NotRead::TryLater { retry_at, reason });
        match self.send(now, path, body).await {
            Sent::NotSent { reason } | Sent::Lost { reason } => Heard::new(later(None, reason.clone()), reason),
            Sent::Answered(answered) => {
                let read = match envelope(&answered) {
                    _ if answered.status == 429 => later(answered.retry_at, "asked too often".to_owned()),
                    Some(Envelope::Success(obj)) => Ok(obj),
                    Some(Envelope::Refusal { code, message }) if code == BUSY || code == SERVER_ERROR => {
                        later(answered.retry_at, format!("{code}: {message}"))
                    }
                    Some(Envelope::Refusal { code, message }) => Err(NotRead::Refused { code, message }),
                    None => later(answered.retry_at, not_understood(&answered)),
                };
                Heard::new(read, answered.raw())
            }
        }
    }

    /// Sends a purchase; `understand` reads `obj` and says the number of the order.
    async fn buy(
        &self,
        now: Timestamp,
        path: &str,
        body: Value,
        understand: impl FnOnce(&Value) -> (Outcome, Option<String>),
    ) -> Heard<Outcome> {
        let unknown = |reason: String| Outcome::Unknown { reason };
        let later = |retry_at, reason| Outcome::NotYet(NotYet::TryLater { retry_at, reason });
        match self.send(now, path, &body).await {
            Sent::NotSent { reason } => Heard::new(later(None, reason.clone()), reason),
            Sent::Lost { reason } => Heard::new(unknown(reason.clone()), reason),
            Sent::Answered(answered) => {
                let (outcome, order) = match envelope(&answered) {
                    Some(Envelope::Success(obj)) => understand(&obj),
                    // More calls than are allowed are turned away, whatever else is said.
                    _ if answered.status == 429 => (later(answered.retry_at, "asked too often".to_owned()), None),
                    Some(Envelope::Refusal { code, message }) => {
                        let told = format!("{code}: {message}");
                        let outcome = match code.as_str() {
                            code if SET_UP.contains(&code) || matches!(answered.status, 401 | 403) => later(None, told),
                            // None of these says that nothing was sold. The document's list has "system busy" beside
                            // "server error", with no more words: such a purchase is looked for, whatever the status.
                            BUSY | SERVER_ERROR | ABNORMAL_STATE | ALLOCATING => unknown(told),
                            code if answered.status < 300 && NOT_SOLD.contains(&code) => {
                                Outcome::Refused { code: code.to_owned(), message }
                            }
                            // A code nobody has seen does not say that nothing was sold.
                            _ => unknown(told),
                        };
                        (outcome, None)
                    }
                    None if answered.was_turned_away() => (later(answered.retry_at, not_understood(&answered)), None),
                    None => (unknown(not_understood(&answered)), None),
                };
                Heard::new(outcome, answered.raw()).of_order(order)
            }
        }
    }

    async fn packages(&self, now: Timestamp, filter: &Value) -> Heard<Reading<Vec<Offer>>> {
        let heard = self.read(now, "package/list", filter).await;
        heard.map(|read| {
            let obj = read?;
            if !is_list(&obj, "packageList") {
                return Err(not_understood_list("there is no packageList"));
            }
            Ok(list(&obj, "packageList").iter().flat_map(offers).collect())
        })
    }

    /// The whole list comes at once, without pages. Working clients disagree on whether day passes are among the rest,
    /// so they are asked for by themselves too.
    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let all = self.packages(now, &json!({"type": "BASE"})).await;
        let mut offers = match all.meaning {
            Ok(offers) => offers,
            Err(error) => return Heard::new(Err(error), all.raw),
        };
        self.connection.next_turn().await;
        let day_passes = self.packages(now, &json!({"type": "BASE", "dataType": "2"})).await;
        match day_passes.meaning {
            Ok(day_passes) => offers.extend(day_passes),
            Err(error) => return Heard::new(Err(error), day_passes.raw),
        }
        let mut seen = HashSet::new();
        offers.retain(|offer| seen.insert(offer.upstream_plan_id.clone()));
        Heard::new(Ok(offers), all.raw)
    }

    /// Searches the number of the order with our reference, in all that was made since the reference was. `None` only
    /// after the list was read to its end: whoever hears that buys again.
    async fn search(&self, now: Timestamp, reference: &str) -> Heard<Reading<Option<String>>> {
        let minute = |time: Timestamp| {
            let time = jiff::Timestamp::from_millisecond(time.millis()).unwrap_or_default();
            time.strftime("%Y-%m-%dT%H:%M+00:00").to_string()
        };
        let from = made_at(reference).unwrap_or(EARLIEST).min(now);
        let (mut raw, mut seen, mut total) = (String::new(), 0_i64, 0_i64);
        for page in 1..=MOST_PAGES {
            let query = json!({
                "startTime": minute(from.plus_millis(-CLOCKS_MS)),
                "endTime": minute(now.plus_millis(CLOCKS_MS)),
                "pager": {"pageNum": page, "pageSize": PAGE},
            });
            let heard = self.read(now, "esim/query", &query).await;
            raw = heard.raw;
            let obj = match heard.meaning {
                Ok(obj) => obj,
                Err(error) => return Heard::new(Err(error), raw),
            };
            let not_understood = |reason| Heard::new(Err(not_understood_list(reason)), raw.clone());
            if !is_list(&obj, "esimList") {
                return not_understood("there is no esimList");
            }
            let esims = list(&obj, "esimList");
            if let Some(ours) = esims.iter().find(|esim| text(esim, "transactionId").as_deref() == Some(reference)) {
                return match text(ours, "orderNo") {
                    Some(order) => Heard::new(Ok(Some(order)), raw),
                    None => not_understood("our eSIM is there, and has no orderNo"),
                };
            }
            if esims.iter().any(|esim| esim.get("transactionId").is_none()) {
                return not_understood("an eSIM does not tell under which number it was bought");
            }
            let Some(told) = obj.get("pager").and_then(|pager| integer(pager, "total")) else {
                return not_understood("the list does not tell how long it is");
            };
            // A page may have fewer than were asked for: what came is counted.
            seen = seen.saturating_add(i64::try_from(esims.len()).unwrap_or(i64::MAX));
            total = total.max(told);
            if seen >= total {
                return Heard::new(Ok(None), raw);
            }
            if esims.is_empty() {
                return not_understood("the list ends before all of it came");
            }
        }
        Heard::new(Err(not_understood_list("the list does not end")), raw)
    }

    async fn ask_for(&self, now: Timestamp, purchase: Purchase) -> Heard<LookUp> {
        let order = match purchase.order {
            Some(order) => order,
            None => {
                let heard = self.search(now, &purchase.reference).await;
                match heard.meaning {
                    Ok(Some(order)) => order,
                    Ok(None) => return Heard::new(LookUp::NotFound, heard.raw),
                    Err(error) => return Heard::new(not_looked_up(now, error), heard.raw),
                }
            }
        };
        let heard = self.read(now, "esim/query", &of_order(&order)).await;
        let look_up = |read| match read {
            Ok(obj) => delivered(now, &obj, &order, purchase.quantity),
            Err(error) => not_looked_up(now, error),
        };
        heard.map(look_up).of_order(Some(order.clone()))
    }

    /// Asks for one eSIM: by its own number where that is known, or else within its own order. Its ICCID alone names
    /// none: it may be that of another eSIM by now.
    async fn esim(&self, now: Timestamp, esim: &SoldEsim) -> Heard<Reading<Value>> {
        let refused = |message, raw| Heard::new(Err(not_ours(message)), raw);
        let query = match (&esim.handle, &esim.order) {
            (Some(handle), _) => json!({"esimTranNo": handle, "pager": {"pageNum": 1, "pageSize": 5}}),
            (None, Some(order)) => of_order(order),
            (None, None) => {
                let heard = self.search(now, &esim.reference).await;
                match heard.meaning {
                    Ok(Some(order)) => of_order(&order),
                    Ok(None) => return refused("no order there has our number", heard.raw),
                    Err(error) => return Heard::new(Err(error), heard.raw),
                }
            }
        };
        let heard = self.read(now, "esim/query", &query).await;
        heard.map(|read| {
            let obj = read?;
            if !is_list(&obj, "esimList") {
                return Err(not_understood_list("there is no esimList"));
            }
            let told = |one: &Value, name: &str, wanted: &str| text(one, name).as_deref() == Some(wanted);
            let is_it = |one: &&Value| match &esim.handle {
                Some(handle) => told(one, "esimTranNo", handle),
                None => told(one, "iccid", &esim.iccid),
            };
            // Whoever names the order is right about it.
            let is_ours = |one: &&Value| match &esim.order {
                Some(order) => told(one, "orderNo", order),
                None => esim.handle.is_some() || told(one, "transactionId", &esim.reference),
            };
            let mut found = list(&obj, "esimList").iter().filter(is_it).filter(is_ours);
            match (found.next(), found.next()) {
                (Some(only), None) if text(only, "esimTranNo").is_some() => Ok(only.clone()),
                (Some(_), _) => Err(not_ours("which eSIM of our order it is cannot be told")),
                (None, _) => Err(not_ours("our order there has no such eSIM")),
            }
        })
    }

    /// The number of an eSIM at the upstream, without which nothing is done to it.
    async fn number(&self, now: Timestamp, esim: &SoldEsim) -> Heard<Reading<String>> {
        if let Some(handle) = &esim.handle {
            return Heard::new(Ok(handle.clone()), "");
        }
        self.esim(now, esim).await.map(|read| Ok(text(&read?, "esimTranNo").unwrap_or_default()))
    }

    async fn take_back(&self, now: Timestamp, esim: SoldEsim) -> Heard<Cancellation> {
        let number = self.number(now, &esim).await;
        let number = match number.meaning {
            Ok(number) => number,
            Err(error) => return Heard::new(not_cancelled(error), number.raw),
        };
        let heard = self.read(now, "esim/cancel", &json!({"esimTranNo": number})).await;
        let Err(NotRead::Refused { code, message }) = heard.meaning else {
            return heard.map(|read| match read {
                Ok(_) => Cancellation::Cancelled,
                Err(error) => Cancellation::TryLater { reason: words(error) },
            });
        };
        let reason = format!("{code}: {message}");
        if SET_UP.contains(&code.as_str()) {
            return Heard::new(Cancellation::TryLater { reason }, heard.raw);
        }
        // It may have been taken back before, and only the answer was lost.
        let asked = self.esim(now, &SoldEsim { handle: Some(number), ..esim }).await;
        let meaning = match asked.meaning {
            Ok(found) if text(&found, "esimStatus").as_deref() == Some(CANCELLED) => Cancellation::Cancelled,
            Err(error @ NotRead::TryLater { .. }) => Cancellation::TryLater { reason: words(error) },
            Ok(_) | Err(_) => Cancellation::Refused { reason },
        };
        Heard::new(meaning, heard.raw)
    }

    async fn add_data(&self, now: Timestamp, add_on: AddOn) -> Heard<Outcome> {
        let number = self.number(now, &add_on.esim).await;
        let number = match number.meaning {
            Ok(number) => number,
            // Nothing was sent.
            Err(NotRead::Refused { code, message }) => {
                return Heard::new(Outcome::Refused { code, message }, number.raw);
            }
            Err(error) => {
                let later = NotYet::TryLater { retry_at: None, reason: words(error) };
                return Heard::new(Outcome::NotYet(later), number.raw);
            }
        };
        let (code, days) = code_and_days(&add_on.upstream_plan_id);
        let mut body = json!({"esimTranNo": number, "packageCode": code, "transactionId": add_on.reference});
        if let Some(days) = days {
            body["periodNum"] = days.to_string().into();
        }
        let understand = |obj: &Value| (Outcome::Done { profiles: Vec::new() }, text(obj, "topUpEsimTranNo"));
        self.buy(now, "esim/topup", body, understand).await
    }

    async fn used(&self, now: Timestamp, esim: SoldEsim) -> Heard<Reading<Usage>> {
        let heard = self.esim(now, &esim).await;
        let found = match heard.meaning {
            Ok(found) => found,
            Err(error) => return Heard::new(Err(error), heard.raw),
        };
        let mut told = usage(&found);
        let Some(handle) = text(&found, "esimTranNo") else { return Heard::new(Ok(told), heard.raw) };
        let counted = self.read(now, "esim/usage/query", &json!({"esimTranNoList": [handle]})).await;
        // Only when it was counted is told nowhere else: without it there is still an answer.
        if let Ok(obj) = counted.meaning
            && let Some(counted) =
                list(&obj, "esimUsageList").iter().find(|one| text(one, "esimTranNo").as_deref() == Some(&handle))
        {
            told.used_bytes = integer(counted, "dataUsage").or(told.used_bytes);
            told.as_of = text(counted, "lastUpdateTime").and_then(|text| time(&text));
        }
        Heard::new(Ok(told), heard.raw)
    }
}

/// Asks for all eSIMs of an order: a page has room for more than an order may have.
fn of_order(order: &str) -> Value {
    json!({"orderNo": order, "pager": {"pageNum": 1, "pageSize": PAGE}})
}

fn not_cancelled(error: NotRead) -> Cancellation {
    match error {
        NotRead::Refused { code, .. } if SET_UP.contains(&code.as_str()) => {
            Cancellation::TryLater { reason: format!("{code}: our account there is not set up") }
        }
        NotRead::TryLater { .. } | NotRead::NotUnderstood { .. } => Cancellation::TryLater { reason: words(error) },
        NotRead::Refused { .. } | NotRead::Unsupported(_) => Cancellation::Refused { reason: words(error) },
    }
}

/// An error's words.
fn words(error: NotRead) -> String {
    match error {
        NotRead::TryLater { reason, .. } | NotRead::NotUnderstood { reason } => reason,
        NotRead::Refused { code, message } => format!("{code}: {message}"),
        NotRead::Unsupported(reason) => reason.to_owned(),
    }
}

fn not_looked_up(now: Timestamp, error: NotRead) -> LookUp {
    match error {
        NotRead::Refused { code, .. } if code == ALLOCATING || code == NO_ORDER => {
            LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
        }
        NotRead::Refused { code, message } if SET_UP.contains(&code.as_str()) => {
            LookUp::NoAnswer { reason: format!("{code}: {message}") }
        }
        error @ (NotRead::Refused { .. } | NotRead::Unsupported(_)) => LookUp::CannotTell { reason: words(error) },
        error => LookUp::NoAnswer { reason: words(error) },
    }
}

/// Reads the profiles of an order. They come all at once; one that has fewer after a while is for the operator. Of one
/// that was cancelled there the price came back: it is not delivered, and nothing more will come for it.
fn delivered(now: Timestamp, obj: &Value, order: &str, quantity: u32) -> LookUp {
    let no_answer = |reason: &str| LookUp::NoAnswer { reason: reason.to_owned() };
    if !is_list(obj, "esimList") {
        return no_answer("there is no esimList");
    }
    let esims = list(obj, "esimList");
    if esims.iter().any(|esim| text(esim, "orderNo").is_some_and(|told| told != order)) {
        return no_answer("the answer is about other orders");
    }
    let is = |esim: &Value, states: &[&str]| text(esim, "esimStatus").is_some_and(|told| states.contains(&&*told));
    if esims.iter().any(|esim| is(esim, &REVOKED)) {
        // That pays nothing back.
        return LookUp::CannotTell { reason: "an eSIM of the order was revoked there".to_owned() };
    }
    let living = esims.iter().filter(|esim| !is(esim, &[CANCELLED]));
    let profiles: Option<Vec<Profile>> = living.map(delivered_profile).collect();
    let made_at = esims
        .first()
        .and_then(|esim| list(esim, "packageList").first())
        .and_then(|package| text(package, "createTime"))
        .and_then(|text| time(&text));
    let is_over = made_at.is_some_and(|made_at| now.since(made_at) >= SHORT_AFTER_MS);
    let came = u32::try_from(esims.len()).unwrap_or(u32::MAX);
    match profiles.filter(|_| came >= quantity) {
        Some(profiles) if profiles.is_empty() => {
            let message = "the order was cancelled there".to_owned();
            LookUp::Refused { code: CANCELLED.to_owned(), message }
        }
        Some(profiles) => LookUp::Delivered { profiles },
        // Whether the others will come is not said anywhere: neither to refund nor to wait for ever would be right.
        None if is_over => LookUp::CannotTell { reason: format!("{came} of {quantity} eSIMs came, or cannot be read") },
        None => LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) },
    }
}

fn delivered_profile(esim: &Value) -> Option<Profile> {
    // Before the term begins it is the last moment to install.
    let install_by = text(esim, "expiredTime").filter(|_| text(esim, "activateTime").is_none());
    Some(Profile {
        iccid: text(esim, "iccid")?,
        handle: text(esim, "esimTranNo"),
        apn: text(esim, "apn"),
        msisdn: text(esim, "msisdn"),
        pin: text(esim, "pin"),
        puk: text(esim, "puk"),
        install_by: install_by.and_then(|text| time(&text)),
        ..profile(&text(esim, "ac")?)?
    })
}

/// Reads a package into what can be bought of it. One whose price is that of a day is listed for several terms, each with
/// its days behind the code and the price of all of them.
fn offers(package: &Value) -> Vec<Offer> {
    let Some(one) = offer(package) else { return Vec::new() };
    if matches!(one.data, Data::Total(_)) {
        return vec![one];
    }
    // Whether the price of a package without `/Day` in its name is that of a day is not said; for one day it is both.
    let is_per_day = one.name.to_lowercase().contains("/day");
    let terms: &[i64] = if is_per_day { &TERMS } else { &[1] };
    let for_days = |days: &i64| {
        let units = one.cost.units.checked_mul(*days)?;
        Some(Offer {
            upstream_plan_id: format!("{}{DAYS_MARK}{days}", one.upstream_plan_id),
            name: format!("{}, {days} {}", one.name, if *days == 1 { "day" } else { "days" }),
            cost: Cost { units, ..one.cost.clone() },
            validity_days: *days,
            ..one.clone()
        })
    };
    terms.iter().filter_map(for_days).collect()
}

/// Reads a package as it is listed; `None` when what it is or costs cannot be read: such a plan is not sold.
fn offer(package: &Value) -> Option<Offer> {
    let name = text(package, "name")?;
    let megabytes = integer(package, "volume").map(|bytes| bytes / MEGABYTE).filter(|megabytes| *megabytes > 0);
    // No other unit than the day is documented.
    let is_days = text(package, "durationUnit").is_none_or(|unit| unit.to_uppercase().starts_with("DAY"));
    let validity_days = integer(package, "duration").filter(|days| *days > 0 && is_days)?;
    let is_per_day = name.to_lowercase().contains("/day");
    let data = match integer(package, "dataType") {
        Some(1) if !is_per_day => Data::Total(megabytes?),
        Some(2 | 3) => Data::Daily(megabytes?),
        Some(4) => Data::Unlimited,
        None if is_per_day => Data::Daily(megabytes?),
        None if text(package, "dataType").is_none() => Data::Total(megabytes?),
        // A total at the price of a day, or a kind nobody knows.
        _ => return None,
    };
    // A day pass is listed for a single day. What the price of one that is not would be for is not said.
    if validity_days != 1 && !matches!(data, Data::Total(_)) {
        return None;
    }
    let codes = text(package, "location").unwrap_or_default().to_uppercase();
    let codes = codes.split(',').map(str::trim);
    let mut countries: Vec<String> = codes.filter(|code| is_country(code)).map(str::to_owned).collect();
    countries.sort_unstable();
    countries.dedup();
    let mut networks = Vec::new();
    for place in list(package, "locationNetworkList") {
        // The document tells the country by its name only; the service sends its code, too.
        let only = if let [only] = countries.as_slice() { Some(only.clone()) } else { None };
        let code = text(place, "locationCode").map(|code| code.to_uppercase()).filter(|code| is_country(code));
        let Some(country) = code.or(only) else { continue };
        for operator in list(place, "operatorList") {
            let Some(name) = text(operator, "operatorName") else { continue };
            let technology = text(operator, "networkType").unwrap_or_default();
            networks.push(Network { country: country.clone(), operator: name, technology });
        }
    }
    Some(Offer {
        upstream_plan_id: text(package, "packageCode")?,
        name,
        cost: cost(integer(package, "price")?, text(package, "currencyCode").as_deref().unwrap_or("USD")),
        countries,
        data,
        validity_days,
        networks,
        speed: text(package, "speed"),
        activation: match integer(package, "activeType") {
            Some(1) => Some(Activation::OnInstall),
            Some(2) => Some(Activation::OnFirstUse),
            _ => None,
        },
        add_on_supported: matches!(integer(package, "supportTopUpType"), Some(2 | 3)),
        apn: None,
        remark: text(package, "fupPolicy"),
    })
}

fn is_country(code: &str) -> bool {
    code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn cost(units: i64, currency: &str) -> Cost {
    Cost { units, decimals: DECIMALS, currency: currency.to_owned() }
}

fn usage(esim: &Value) -> Usage {
    let at = |field| text(esim, field).and_then(|text| time(&text));
    let status = text(esim, "esimStatus").unwrap_or_default();
    let activated_at = at("activateTime");
    let life = match status.as_str() {
        "CREATE" | "PAYING" | "PAID" | "GETTING_RESOURCE" | "GOT_RESOURCE" => Life::NotActive,
        "IN_USE" => Life::Active,
        "USED_UP" => Life::Depleted,
        "UNUSED_EXPIRED" | "USED_EXPIRED" => Life::Expired,
        CANCELLED => Life::Ended,
        status if REVOKED.contains(&status) => Life::Ended,
        // A suspended eSIM is neither in use nor over.
        _ => Life::Unknown,
    };
    // Before the term begins it is the last moment to install.
    let has_begun = activated_at.is_some() || matches!(life, Life::Active | Life::Depleted);
    // What it is the total of is not said for plans with an allowance for each day.
    let is_total = matches!(integer(esim, "dataType"), None | Some(1));
    Usage {
        used_bytes: integer(esim, "orderUsage"),
        total_bytes: integer(esim, "totalVolume").filter(|bytes| is_total && *bytes > 0),
        as_of: None,
        activated_at,
        expires_at: at("expiredTime").filter(|_| has_begun),
        life,
        profile: match text(esim, "smdpStatus").unwrap_or_default().as_str() {
            "RELEASED" => Some(ProfileStatus::Released),
            "DOWNLOAD" => Some(ProfileStatus::Downloaded),
            "INSTALLATION" => Some(ProfileStatus::Installed),
            "ENABLED" => Some(ProfileStatus::Enabled),
            "DISABLED" => Some(ProfileStatus::Disabled),
            "DELETED" => Some(ProfileStatus::Deleted),
            _ => None,
        },
        fresh_for_ms: USAGE_FRESH_MS,
    }
}

impl Upstream for EsimAccess {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: MOST_PER_ORDER,
            idempotent_create: true,
            look_up_by_reference: true,
            cancel: true,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::Yes,
            refund_effect: RefundEffect::AtOnce,
            usage: Support::Yes,
            add_on: Support::Yes,
            balance: Support::Yes,
            callbacks: Support::Yes,
            calls_per_second: Some(CALLS_PER_SECOND),
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        let (code, days) = code_and_days(&purchase.upstream_plan_id);
        let mut package = json!({"packageCode": code, "count": purchase.quantity});
        if let Some(days) = days {
            package["periodNum"] = days.into();
        }
        let body = json!({"transactionId": purchase.reference, "packageInfoList": [package]});
        Box::pin(self.buy(now, "esim/order", body, move |obj| match text(obj, "orderNo") {
            Some(order) => (Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) }), Some(order)),
            None => (Outcome::Unknown { reason: "sold, it says, without a number".to_owned() }, None),
        }))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(self.ask_for(now, purchase))
    }

    fn cancel(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Cancellation> {
        Box::pin(self.take_back(now, esim))
    }

    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(self.all_offers(now))
    }

    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        Box::pin(self.used(now, esim))
    }

    fn add_ons(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async move { self.packages(now, &json!({"type": "TOPUP", "iccid": esim.iccid})).await })
    }

    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome> {
        Box::pin(self.add_data(now, add_on))
    }

    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async move {
            let heard = self.read(now, "balance/query", &json!({})).await;
            heard.map(|read| {
                let left = integer(&read?, "balance");
                let left = left.ok_or_else(|| NotRead::NotUnderstood { reason: "there is no balance".to_owned() })?;
                Ok(Balance { left: cost(left.max(0), "USD") })
            })
        })
    }

    /// No signature is documented, so nothing is checked: what a callback names is asked for, and that is all.
    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        let missing = |name: &str| CallbackRefusal::Malformed(format!("{name} is missing"));
        let body = callback.fields();
        let event = text(&body, "notifyType").ok_or_else(|| missing("notifyType"))?;
        let content = body.get("content").unwrap_or(&Value::Null);
        let field = |name| text(content, name);
        let (order, handle, iccid) = (field("orderNo"), field("esimTranNo"), field("iccid"));
        let status = field("esimStatus").or_else(|| field("orderStatus"));
        let id = text(&body, "notifyId").unwrap_or_else(|| {
            let made_at = text(&body, "eventGenerateTime");
            let parts = [order.as_deref(), handle.as_deref(), status.as_deref(), made_at.as_deref()];
            format!("{event}/{}", parts.map(Option::unwrap_or_default).join("/"))
        });
        let about = if event == "CHECK_HEALTH" {
            About::Account
        } else if handle.is_some() || iccid.is_some() {
            About::Esim { order, handle, iccid }
        } else if order.is_some() || field("transactionId").is_some() {
            About::Order { order, reference: field("transactionId") }
        } else {
            return Err(missing("orderNo"));
        };
        let event = status.map_or(event.clone(), |status| format!("{event} {status}"));
        Ok(Notice { id, about, event, acknowledgement: Acknowledgement::OK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_signed_as_the_vectors_say() {
        // The first stands in the vendor's document; the second was computed with a standard HMAC library.
        let published =
            signature("1111", "1628670421", "4ce9d9cdac9e4e17b3a2c66c358c1ce2", "11111", r#"{"imsi":"326543826"}"#);
        assert_eq!(published.to_uppercase(), "7EB765E27DF5373DEA2DBC8C41A7D9557743E46C8054750F3D851B3FD01D0835");
        let own = signature(
            "demo_secret_01",
            "1700000000000",
            "11111111-2222-4333-8444-555555555555",
            "demo_access_01",
            r#"{"esimTranNo":"26010100000001"}"#,
        );
        assert_eq!(own, "dd9be29327032a83cc323c3b0a9ef2bfce4024c83862a69ba0745cfcade5376e");
    }

    #[test]
    fn a_request_id_is_a_random_uuid() {
        let (one, other) = (request_id(), request_id());
        assert_ne!(one, other);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
    }

    #[test]
    fn a_time_is_read_in_every_spelling() {
        let expected = time("2026-01-02T03:04:00Z").unwrap();
        assert_eq!(expected.to_string(), "2026-01-02T03:04:00.000Z");
        for text in ["2026-01-02T03:04:00+0000", "2026-01-02T03:04:00.000Z", "2026-01-02T03:04+00:00"] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        assert_eq!(time("soon"), None);
    }

    #[test]
    fn a_day_pass_is_bought_for_the_days_behind_its_code() {
        assert_eq!(code_and_days("GE_1_Daily*7"), ("GE_1_Daily", Some(7)));
        for code in ["GE_1_7", "GE*0", "GE*366", "GE*x", "GE*+7", "GE*"] {
            assert_eq!(code_and_days(code), (code, None));
        }
    }

    #[test]
    fn a_package_is_read_as_the_service_sends_it() {
        let package = json!({
            "packageCode": "P1X57VWMR", "slug": "GE_1_Daily_1Mbps", "name": "Georgia 1GB/Day FUP1Mbps", "price": 8_600,
            "currencyCode": "USD", "volume": 1_073_741_824, "dataType": 2, "duration": 1, "durationUnit": "DAY",
            "location": "GE", "activeType": 2, "speed": "3G/4G", "supportTopUpType": 3, "fupPolicy": "1 Mbps",
            "locationNetworkList": [{"locationName": "Georgia", "locationLogo": "/img/flags/ge.png",
                                     "operatorList": [{"operatorName": "Magti", "networkType": "4G"}]}],
        });
        let offers = offers(&package);
        let told = offers.iter().map(|offer| (&*offer.upstream_plan_id, offer.validity_days, offer.cost.units));
        let told: Vec<_> = told.collect();
        assert_eq!((told.len(), told[0]), (TERMS.len(), ("P1X57VWMR*1", 1, 8_600)));
        assert_eq!(told[3], ("P1X57VWMR*7", 7, 60_200));
        let week = &offers[3];
        assert_eq!((week.cost.decimals, week.cost.currency.as_str()), (4, "USD"));
        assert_eq!((week.data, week.name.as_str()), (Data::Daily(1_024), "Georgia 1GB/Day FUP1Mbps, 7 days"));
        assert_eq!(week.networks[0].country, "GE");
        assert!(week.add_on_supported);
        assert_eq!(week.remark.as_deref(), Some("1 Mbps"));
    }

    #[test]
    fn days_are_never_sold_for_the_price_of_one() {
        let read = |name: &str, data_type: Value, days: i64| {
            let package = json!({"packageCode": "P", "name": name, "price": 100, "volume": 1_073_741_824,
                                 "dataType": data_type, "duration": days, "durationUnit": "DAY", "location": "GE"});
            let offers = offers(&package).into_iter();
            offers.map(|offer| (offer.upstream_plan_id, offer.validity_days, offer.cost.units)).collect::<Vec<_>>()
        };
        let told = |id: &str, days, units| vec![(id.to_owned(), days, units)];
        assert_eq!(read("Georgia 1GB 7Days", json!(1), 7), told("P", 7, 100));
        assert_eq!(read("Georgia 1GB 7Days", Value::Null, 7), told("P", 7, 100));
        // What the price is for is not said: only what cannot be wrong is sold.
        assert_eq!(read("Georgia daily", json!(2), 1), told("P*1", 1, 100));
        for (name, data_type, days) in [
            ("Georgia 1GB/Day", json!(2), 7),
            ("Georgia daily", json!(3), 7),
            ("Georgia 1GB/Day", json!(1), 1),
            ("Georgia 1GB/Day", Value::Null, 7),
            ("Georgia", json!(5), 7),
            ("Georgia", json!("1.5"), 7),
        ] {
            assert_eq!(read(name, data_type.clone(), days), vec![], "{name} {data_type} {days}");
        }
        for (id, days, units) in read("Georgia 1GB/Day", Value::Null, 1) {
            assert_eq!((id, units), (format!("P*{days}"), 100 * days));
        }
    }

    #[test]
    fn a_reference_tells_when_it_was_made() {
        // The first six bytes are milliseconds.
        let made = made_at("019aab34-7c5d-7e11-9d2e-55d0a1b20000-12").unwrap();
        assert_eq!(made.millis(), 0x019a_ab34_7c5d);
        for other in ["order-1-1", "019aab34-7c5d-4e11-9d2e-55d0a1b20000-12", "019aab34-7c5d-7e11-9d2e-55d0a1b20000"] {
            assert_eq!(made_at(other), None, "{other}");
        }
    }

    #[test]
    fn a_code_that_came_as_a_number_is_the_same() {
        let answered = |text: &str| Answered::new(200, text);
        let told = answered(r#"{"success":0,"errorCode":1,"errorMessage":"Server error"}"#);
        let Some(Envelope::Refusal { code, message }) = envelope(&told) else { panic!() };
        assert_eq!((code.as_str(), message.as_str()), (SERVER_ERROR, "Server error"));
        assert!(envelope(&answered(r#"{"code":0}"#)).is_none());
        assert!(envelope(&answered("<html>")).is_none());
    }

    #[test]
    fn what_the_document_prints_is_understood() {
        let obj = json!({"esimList": [{
            "esimTranNo": "23120118156818", "orderNo": "B23120118131854", "transactionId": "test344343433",
            "imsi": "232104070077567", "iccid": "8943108170000775671", "smsStatus": 1, "msisdn": "436789040077567",
            "ac": "LPA:1$rsp-eu.redteamobile.com$43DE23C67EE747BCAD6B63E8B67B261F", "smdpStatus": "RELEASED",
            "eid": "", "activeType": 1, "dataType": 1, "activateTime": null,
            "expiredTime": "2024-05-29T18:34:17+0000", "totalVolume": 5_368_709_120_i64, "totalDuration": 30,
            "durationUnit": "DAY", "orderUsage": 0, "esimStatus": "GOT_RESOURCE", "pin": "", "puk": "",
            "apn": "drei.at",
        }], "pager": {"pageSize": 20, "pageNum": 1, "total": 1}});
        let LookUp::Delivered { profiles } = delivered(Timestamp::from_millis(0), &obj, "B23120118131854", 1) else {
            panic!()
        };
        assert_eq!(
            profiles,
            [Profile {
                iccid: "8943108170000775671".to_owned(),
                handle: Some("23120118156818".to_owned()),
                smdp_address: "rsp-eu.redteamobile.com".to_owned(),
                matching_id: "43DE23C67EE747BCAD6B63E8B67B261F".to_owned(),
                activation_code: "LPA:1$rsp-eu.redteamobile.com$43DE23C67EE747BCAD6B63E8B67B261F".to_owned(),
                apn: Some("drei.at".to_owned()),
                msisdn: Some("436789040077567".to_owned()),
                install_by: time("2024-05-29T18:34:17Z"),
                ..Profile::default()
            }]
        );
        let told = usage(&obj["esimList"][0]);
        assert_eq!((told.life, told.expires_at, told.total_bytes), (Life::NotActive, None, Some(5_368_709_120)));
        let suspended = usage(&json!({"esimStatus": "SUSPENDED", "activateTime": "2024-05-01T00:00:00+0000",
                                      "expiredTime": "2024-05-29T18:34:17+0000"}));
        assert_eq!((suspended.life, suspended.expires_at), (Life::Unknown, time("2024-05-29T18:34:17Z")));
    }

    #[test]
    fn fewer_profiles_than_bought_are_waited_for_and_then_for_the_operator() {
        let now = time("2026-01-02T03:04:05Z").unwrap();
        let obj = json!({"esimList": [{
            "esimTranNo": "1", "iccid": "8901", "ac": "LPA:1$rsp.test$A", "esimStatus": "GOT_RESOURCE",
            "packageList": [{"createTime": "2026-01-02T03:04:05+0000"}],
        }]});
        let read = |now, quantity| delivered(now, &obj, "B1", quantity);
        assert!(matches!(read(now, 1), LookUp::Delivered { .. }));
        assert!(matches!(read(now, 2), LookUp::Provisioning { .. }));
        assert!(matches!(read(now.plus_millis(SHORT_AFTER_MS), 2), LookUp::CannotTell { .. }));
    }

    #[test]
    fn what_was_cancelled_there_is_not_delivered_and_the_rest_is() {
        let esim = |number: &str, status: &str, code: &str| {
            json!({"esimTranNo": number, "orderNo": "B1", "iccid": format!("890{number}"), "ac": code,
                   "esimStatus": status, "packageList": [{"createTime": "2026-01-02T03:04:05+0000"}]})
        };
        let now = time("2026-01-02T03:05:00Z").unwrap();
        let read = |esims: &[Value], quantity| delivered(now, &json!({"esimList": esims}), "B1", quantity);
        let good = esim("1", "GOT_RESOURCE", "LPA:1$rsp.test$A");
        let bare = esim("2", "CANCEL", "");
        let LookUp::Delivered { profiles } = read(&[bare.clone(), good.clone()], 2) else { panic!() };
        assert_eq!(profiles.iter().map(|profile| profile.iccid.as_str()).collect::<Vec<_>>(), ["8901"]);
        assert!(matches!(read(&[bare.clone(), bare.clone()], 2), LookUp::Refused { .. }));
        // The rest may still come.
        assert!(matches!(read(std::slice::from_ref(&bare), 2), LookUp::Provisioning { .. }));
        // What was revoked is paid for.
        for status in REVOKED {
            let revoked = esim("3", status, "LPA:1$rsp.test$C");
            assert!(matches!(read(&[revoked, good.clone()], 2), LookUp::CannotTell { .. }), "{status}");
        }
        let other = json!({"esimList": [good]});
        assert!(matches!(delivered(now, &other, "B2", 1), LookUp::NoAnswer { .. }));
        assert!(matches!(delivered(now, &json!({}), "B1", 1), LookUp::NoAnswer { .. }));
    }
}
