//! eSIM Go, API v2.4. An order there has no name of ours: after a lost answer nobody can ask what became of it, so the
//! adapter takes everything that is not clearly a refusal for an unknown outcome. What stands here is in eSIM Go's
//! published pages and guides; what they leave open is read leniently, or is off and says why.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{integer, list, profile, text, texts, truth};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hex, is_same, mac};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use aws_lc_rs::hmac::HMAC_SHA256;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::time::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Orders of more than five bundles are worked on later and come without their eSIMs.
pub(crate) const QUANTITY_PER_CALL: u32 = 5;
/// A bundle is there at once as a rule, and after ten minutes at the latest, say the pages on ordering.
const PROCESSING_MS: i64 = 600_000;
/// How long after a lost answer nothing more can happen: the time limit of a call (60 s) and [`PROCESSING_MS`].
const SETTLE_AFTER_MS: i64 = 60_000 + PROCESSING_MS;
/// Between two polls, in the first minute and after it. No limit of calls is published.
const POLL_MS: i64 = 5_000;
const LATER_POLL_MS: i64 = 30_000;
/// After this time an order that is still not completed is somebody's to look at.
const OVERDUE_MS: i64 = 3_600_000;
/// A bundle that is revoked later than this after its purchase is lost: "typically 60 days".
const REFUNDED_WITHIN_MS: i64 = 60 * 86_400_000;
/// How often the figures of usage change is not published.
const USAGE_FRESH_MS: i64 = 900_000;
/// The most assignments one page lists.
const MOST_ASSIGNMENTS: usize = 200;
/// Bundles of one page.
const PAGE: usize = 100;
/// Pages after which a catalogue that never ends is left.
const MOST_PAGES: usize = 1_000;
/// Its megabytes and gigabytes are decimal; ours are not.
const DECIMAL_MEGABYTE: i64 = 1_000_000;
const MEGABYTE: i64 = 1_048_576;

const NO_REFUNDS: &str =
    "refunds are off for this account at eSIM Go, and without them a revoked bundle is lost: ask the account manager";
const NO_LOOK_UP: &str = "eSIM Go knows an order by its own number only, and the answer that had it was lost";

/// What eSIM Go hands out.
#[derive(Clone)]
pub struct Account {
    /// The API key of the organisation; it also signs callbacks.
    pub api_key: String,
    /// Whether the account manager has enabled refunds; they are off when an account is made.
    pub refunds: bool,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("refunds", &self.refunds).finish_non_exhaustive()
    }
}

/// An organisation at eSIM Go.
#[derive(Debug, Clone)]
pub struct EsimGo {
    connection: Connection,
    account: Account,
}

/// What came of a call.
enum Said {
    /// JSON with a status of success.
    Body(Value),
    /// It was understood and turned down.
    Refusal { code: String, message: String },
    /// It was turned away before anybody looked at it.
    Later { retry_at: Option<Timestamp>, reason: String },
    /// Status 503: it is still being worked on.
    Processing { retry_at: Option<Timestamp>, reason: String },
    /// Nobody knows.
    Unclear { reason: String },
}

/// The words of a refusal, which come as JSON and as plain text; `None` for a page of something that stands before the
/// service.
fn words(answered: &Answered) -> Option<String> {
    match answered.json() {
        Some(body) => text(&body, "message").or_else(|| text(&body, "error")),
        None => Some(answered.text.trim().chars().take(300).collect()),
    }
    .filter(|words: &String| !words.is_empty() && !words.starts_with('<'))
}

/// Whether a status 403 is about the key: it is also the status of bundles and eSIMs that are not ours.
fn is_about_the_key(message: &str) -> bool {
    let message = message.to_lowercase();
    ["forbidden", "access denied", "unauthor", "api key", "token"].iter().any(|words| message.contains(words))
}

fn said(answered: &Answered) -> Said {
    let status = answered.status;
    let reason = format!("status {status}");
    let retry_at = answered.retry_at;
    let words = words(answered);
    let is_about_the_key = words.as_deref().is_some_and(is_about_the_key);
    match (status, words.map(|words| answered.words(words))) {
        (200..=299, _) => match answered.json() {
            Some(body) => Said::Body(body),
            None => Said::Unclear { reason: format!("{reason} without JSON") },
        },
        (401, message) => Said::Later { retry_at, reason: message.unwrap_or(reason) },
        (403, Some(message)) if is_about_the_key => Said::Later { retry_at, reason: message },
        (400 | 403 | 404 | 422, Some(message)) => Said::Refusal { code: status.to_string(), message },
        (400 | 403 | 404 | 422 | 429, message) => Said::Later { retry_at, reason: message.unwrap_or(reason) },
        (503, message) => Said::Processing { retry_at, reason: message.unwrap_or(reason) },
        _ => Said::Unclear { reason },
    }
}

fn reading(said: Said) -> Reading<Value> {
    match said {
        Said::Body(body) => Ok(body),
        Said::Refusal { code, message } => Err(NotRead::Refused { code, message }),
        Said::Later { retry_at, reason } | Said::Processing { retry_at, reason } => {
            Err(NotRead::TryLater { retry_at, reason })
        }
        Said::Unclear { reason } => Err(NotRead::TryLater { retry_at: None, reason }),
    }
}

/// A text as one segment of a path.
fn segment(text: &str) -> String {
    let each = text.bytes().map(|byte| match byte {
        b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    each.collect()
}

impl EsimGo {
    /// An organisation behind a connection.
    #[must_use]
    pub fn new(connection: Connection, account: Account) -> Self {
        let connection = connection.hiding(&[&account.api_key]);
        Self { connection, account }
    }

    async fn ask(&self, now: Timestamp, call: Call) -> Heard<Said> {
        let call = call.with("X-API-Key", &self.account.api_key).with("Accept", "application/json");
        match self.connection.send(now, call).await {
            Sent::NotSent { reason } => Heard::new(Said::Later { retry_at: None, reason: reason.clone() }, reason),
            Sent::Lost { reason } => Heard::new(Said::Unclear { reason: reason.clone() }, reason),
            Sent::Answered(answered) => {
                // What installs an eSIM can only be hidden in JSON, and some calls answer with CSV of it.
                let is_told = answered.status >= 300 || answered.json().is_some();
                let raw = if is_told { answered.raw() } else { format!("{} (no JSON)", answered.status) };
                Heard::new(said(&answered), raw)
            }
        }
    }

    async fn read(&self, now: Timestamp, call: Call) -> Heard<Reading<Value>> {
        self.ask(now, call).await.map(reading)
    }

    /// Orders one bundle, so many times; `understand` reads the order.
    async fn buy(&self, now: Timestamp, bundle: Value, understand: impl FnOnce(&Value) -> Outcome) -> Heard<Outcome> {
        let body = json!({"type": "transaction", "assign": true, "order": [bundle]});
        let heard = self.ask(now, Call::post("orders", &body)).await;
        let mut order = None;
        let outcome = match heard.meaning {
            Said::Body(body) => {
                order = text(&body, "orderReference");
                understand(&body)
            }
            Said::Refusal { code, message } => Outcome::Refused { code, message },
            Said::Later { retry_at, reason } => Outcome::NotYet(NotYet::TryLater { retry_at, reason }),
            // "Still processing" may well become a sale, and nothing keeps a second one from being sold too.
            Said::Processing { reason, .. } | Said::Unclear { reason } => Outcome::Unknown { reason },
        };
        Heard::new(outcome, heard.raw).of_order(order)
    }

    async fn become_of(&self, now: Timestamp, purchase: Purchase) -> Heard<LookUp> {
        let Some(number) = purchase.order else {
            return Heard::new(LookUp::CannotTell { reason: NO_LOOK_UP.to_owned() }, "");
        };
        let call = Call::get(format!("orders/{}?includeIccids=true", segment(&number)));
        let heard = self.ask(now, call).await;
        let order = match heard.meaning {
            Said::Body(order) => order,
            other => return Heard::new(not_found_out(now, other), heard.raw),
        };
        let wanted = usize::try_from(purchase.quantity).unwrap_or(usize::MAX);
        let mut profiles = profiles_of_order(&order);
        let age =
            text(&order, "createdDate").and_then(|text| text.parse().ok()).map_or(0, |created| now.since(created));
        let completed = is_completed(&order);
        let mut raw = heard.raw;
        if profiles.len() < wanted && (completed || age > PROCESSING_MS) {
            let call = Call::get(format!("esims/assignments?reference={}", segment(&number)));
            let heard = self.ask(now, call).await;
            raw = format!("{raw}\n{}", heard.raw);
            match heard.meaning {
                Said::Body(body) => {
                    let more = profiles_of_assignments(&body);
                    profiles = if more.len() > profiles.len() { more } else { profiles };
                }
                // Without this answer nobody knows whether more will come.
                other if age > PROCESSING_MS => return Heard::new(not_found_out(now, other), raw),
                _ => {}
            }
        }
        let status = || format!("{}: {}", told(&order, "status"), told(&order, "statusMessage"));
        let look_up = if profiles.len() >= wanted {
            LookUp::Delivered { profiles }
        } else if age > PROCESSING_MS && completed {
            // Whether the others will come is not said anywhere: neither to refund nor to wait for ever would be right.
            LookUp::CannotTell { reason: format!("{} of {wanted} eSIMs came: {}", profiles.len(), status()) }
        } else if age > OVERDUE_MS {
            LookUp::CannotTell { reason: status() }
        } else {
            let pause = if age < 60_000 { POLL_MS } else { LATER_POLL_MS };
            LookUp::Provisioning { poll_at: now.plus_millis(pause) }
        };
        Heard::new(look_up, raw)
    }

    async fn revoke(&self, now: Timestamp, esim: SoldEsim) -> Heard<Cancellation> {
        let refused = |reason: &str| Cancellation::Refused { reason: reason.to_owned() };
        if !self.account.refunds {
            return Heard::new(refused(NO_REFUNDS), "");
        }
        let heard = self.bundles(now, &esim.iccid).await;
        let bundles = match heard.meaning {
            Ok(bundles) => bundles,
            Err(error) => return Heard::new(not_cancelled(error), heard.raw),
        };
        let (name, bundle) = match bought_with(&bundles, esim.order.as_deref()) {
            Ok(found) => found,
            Err(reason) => return Heard::new(refused(reason), heard.raw),
        };
        // A bundle that has begun, or is too old, is lost when it is revoked: those calls are not made.
        match told(bundle, "bundleState").to_lowercase().as_str() {
            "queued" => {}
            "processing" => {
                let reason = "the bundle is still being processed".to_owned();
                return Heard::new(Cancellation::TryLater { reason }, heard.raw);
            }
            "revoked" => {
                let revoked = assignments(&bundles).filter(|(other, bundle)| {
                    *other == name && told(bundle, "bundleState").eq_ignore_ascii_case("revoked")
                });
                return self.refund_of(now, &esim.iccid, &name, revoked.count()).await;
            }
            state => return Heard::new(refused(&format!("the bundle is {state}")), heard.raw),
        }
        let assigned_at: Option<Timestamp> = text(bundle, "assignmentDateTime").and_then(|text| text.parse().ok());
        if assigned_at.is_some_and(|assigned_at| now.since(assigned_at) > REFUNDED_WITHIN_MS) {
            return Heard::new(refused("bundles are refunded within 60 days only"), heard.raw);
        }
        let Some(id) = text(bundle, "id") else {
            return Heard::new(refused("the bundle has no id"), heard.raw);
        };
        let offer = text(bundle, "offerId").unwrap_or_else(|| id.clone());
        let delete = |kind: &str| {
            let path = format!(
                "esims/{}/bundles/{}/assignments/{}?type={kind}&refundToBalance=true&offerId={}",
                segment(&esim.iccid),
                segment(&name),
                segment(&id),
                segment(&offer)
            );
            Call { method: Method::DELETE, ..Call::get(path) }
        };
        // It is asked first what would become of it: what is not refunded is not revoked, and the traveller keeps it.
        let heard = self.read(now, delete("validate")).await;
        match heard.meaning {
            Ok(body) if promises_refund(&told(&body, "status")) => {}
            Ok(body) => {
                let reason = format!("it does not say that it would refund: {}", told(&body, "status"));
                return Heard::new(Cancellation::Refused { reason }, heard.raw);
            }
            Err(error) => return Heard::new(not_cancelled(error), heard.raw),
        }
        let heard = self.read(now, delete("transaction")).await;
        heard.map(|read| match read {
            Ok(body) => {
                let status = told(&body, "status");
                if is_money_back(&status) {
                    Cancellation::Cancelled
                } else {
                    refused(&format!("revoked, and no refund is told: {status}"))
                }
            }
            Err(error) => not_cancelled(error),
        })
    }

    /// Whether a bundle that is revoked was refunded: the answer that said so may have been lost. The history names
    /// bundles only, so of several that are revoked all must have been refunded.
    async fn refund_of(&self, now: Timestamp, iccid: &str, name: &str, revoked: usize) -> Heard<Cancellation> {
        let heard = self.read(now, Call::get(format!("esims/{}/history", segment(iccid)))).await;
        heard.map(|read| {
            let history = match read {
                Ok(history) => history,
                Err(error) => return not_cancelled(error),
            };
            let entries = history.as_array().map_or_else(|| list(&history, "actions"), Vec::as_slice);
            let is_refund = |entry: &&Value| told(entry, "bundleName") == name && is_money_back(&told(entry, "name"));
            let refunds = entries.iter().filter(is_refund).count();
            if refunds >= revoked.max(1) {
                return Cancellation::Cancelled;
            }
            let reason = format!("{revoked} bundles of this name were revoked, and {refunds} refunds are told");
            Cancellation::Refused { reason }
        })
    }

    /// The bundles on an eSIM, those that are over included.
    async fn bundles(&self, now: Timestamp, iccid: &str) -> Heard<Reading<Value>> {
        let path = format!("esims/{}/bundles?includeUsed=true&limit={MOST_ASSIGNMENTS}", segment(iccid));
        self.read(now, Call::get(path)).await
    }

    /// The organisation: its currency is that of all prices.
    async fn organisation(&self, now: Timestamp) -> Heard<Reading<Value>> {
        let heard = self.read(now, Call::get("organisation")).await;
        let organisation = heard.meaning.map(|body| {
            let wrapped = body.get("organisation").or_else(|| list(&body, "organisations").first());
            wrapped.cloned().unwrap_or(body)
        });
        // The answer also has the key and who works there: only what is used is kept.
        let raw = match &organisation {
            Ok(it) => format!("{}", json!({"balance": it.get("balance"), "currency": it.get("currency")})),
            Err(_) => heard.raw,
        };
        Heard::new(organisation, raw)
    }

    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let heard = self.organisation(now).await;
        let currency = match heard.meaning {
            Ok(organisation) => text(&organisation, "currency"),
            Err(error) => return Heard::new(Err(error), heard.raw),
        };
        let Some(currency) = currency else {
            let reason = "the organisation has no currency".to_owned();
            return Heard::new(Err(NotRead::NotUnderstood { reason }), heard.raw);
        };
        let mut offers = Vec::new();
        let mut names = BTreeSet::new();
        let mut raw = heard.raw;
        for page in 1..=MOST_PAGES {
            self.connection.next_turn().await;
            let heard = self.read(now, Call::get(format!("catalogue?page={page}&perPage={PAGE}"))).await;
            raw = heard.raw;
            let body = match heard.meaning {
                Ok(body) => body,
                Err(error) => return Heard::new(Err(error), raw),
            };
            // The page shows a list, the description of the wire an object around it.
            let Some(bundles) = body.as_array().or_else(|| body.get("bundles").and_then(Value::as_array)) else {
                let reason = "the catalogue has no bundles".to_owned();
                return Heard::new(Err(NotRead::NotUnderstood { reason }), raw);
            };
            let known = names.len();
            for bundle in bundles {
                if text(bundle, "name").is_some_and(|name| names.insert(name)) {
                    offers.extend(offer(bundle, &currency));
                }
            }
            // A list does not say how many pages there are: the last one is that which brings nothing new.
            let is_last = integer(&body, "pageCount").and_then(|last| usize::try_from(last).ok());
            if names.len() == known || is_last.is_some_and(|last| page >= last) {
                break;
            }
        }
        Heard::new(Ok(offers), raw)
    }
}

fn told(value: &Value, name: &str) -> String {
    text(value, name).unwrap_or_default()
}

/// Other words for the state of an order are not published.
fn is_completed(order: &Value) -> bool {
    told(order, "status").eq_ignore_ascii_case("completed")
}

/// Whether words deny something: then what they deny is not worth a guess.
fn denies(words: &str) -> bool {
    let denials = ["not", "no", "non", "never", "cannot", "without", "unable", "t"];
    words.split(|letter: char| !letter.is_alphanumeric()).any(|word| denials.contains(&word))
}

/// Whether words tell that money came back to the balance; into the inventory it does not.
fn is_money_back(words: &str) -> bool {
    let words = words.to_lowercase();
    words.contains("refunded") && words.contains("balance") && !denies(&words)
}

/// Whether words tell that a bundle would be refunded.
fn promises_refund(words: &str) -> bool {
    let words = words.to_lowercase();
    words.contains("refund") && !denies(&words)
}

/// Why an order could not be looked at.
fn not_found_out(now: Timestamp, said: Said) -> LookUp {
    match said {
        Said::Body(_) => LookUp::NoAnswer { reason: "an answer that is none".to_owned() },
        Said::Processing { retry_at, .. } => {
            LookUp::Provisioning { poll_at: retry_at.unwrap_or(now).max(now.plus_millis(POLL_MS)) }
        }
        Said::Later { reason, .. } | Said::Unclear { reason } => LookUp::NoAnswer { reason },
        // How an order that does not exist is answered is not published, so no refusal means that.
        Said::Refusal { code, message } => LookUp::CannotTell { reason: format!("{code}: {message}") },
    }
}

fn not_cancelled(error: NotRead) -> Cancellation {
    match error {
        NotRead::TryLater { reason, .. } | NotRead::NotUnderstood { reason } => Cancellation::TryLater { reason },
        NotRead::Refused { code, message } => Cancellation::Refused { reason: format!("{code}: {message}") },
        NotRead::Unsupported(reason) => Cancellation::Refused { reason: reason.to_owned() },
    }
}

/// Reads an eSIM; `None` while what installs it is missing.
fn profile_of(esim: &Value) -> Option<Profile> {
    let code = format!("LPA:1${}${}", text(esim, "smdpAddress")?, text(esim, "matchingId")?);
    let iccid = text(esim, "iccid")?.trim_end_matches(['F', 'f']).to_owned();
    Some(Profile { iccid, pin: text(esim, "pin"), puk: text(esim, "puk"), ..profile(&code)? })
}

fn profiles_of_order(order: &Value) -> Vec<Profile> {
    list(order, "order").iter().flat_map(|item| list(item, "esims")).filter_map(profile_of).collect()
}

/// One eSIM is shown as an object; how several come is not, so every way is read.
fn profiles_of_assignments(body: &Value) -> Vec<Profile> {
    let lists = [body.as_array(), body.get("esims").and_then(Value::as_array)];
    let wrapped = body.get("assignments").and_then(Value::as_array);
    match lists.into_iter().flatten().next().or(wrapped) {
        Some(esims) => esims.iter().filter_map(profile_of).collect(),
        None => profile_of(body).into_iter().collect(),
    }
}

/// What an order that was taken came to.
fn outcome(now: Timestamp, order: &Value, quantity: u32) -> Outcome {
    let profiles = profiles_of_order(order);
    if u32::try_from(profiles.len()).is_ok_and(|came| came >= quantity) {
        Outcome::Done { profiles }
    } else if text(order, "orderReference").is_some() {
        Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) })
    } else {
        Outcome::Unknown { reason: "sold, it says, without a number".to_owned() }
    }
}

/// What an order of data for one eSIM came to.
fn added(now: Timestamp, order: &Value, iccid: &str) -> Outcome {
    let items = list(order, "order");
    let iccids = items.iter().flat_map(|item| {
        let esims = list(item, "esims").iter().filter_map(|esim| text(esim, "iccid"));
        esims.chain(texts(item, "iccids"))
    });
    let iccids: Vec<String> = iccids.collect();
    if !iccids.is_empty() && !iccids.iter().any(|told| told == iccid) {
        return Outcome::Unknown { reason: format!("the data went to {}", iccids.join(", ")) };
    }
    match text(order, "orderReference") {
        Some(_) if is_completed(order) => Outcome::Done { profiles: Vec::new() },
        Some(_) => Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) }),
        None => Outcome::Unknown { reason: "sold, it says, without a number".to_owned() },
    }
}

/// Whole megabytes (1,048,576 bytes) in so many decimal ones.
fn megabytes(decimal: i64) -> Option<i64> {
    decimal.checked_mul(DECIMAL_MEGABYTE).map(|bytes| bytes / MEGABYTE)
}

/// Reads a bundle; `None` when what it is or costs cannot be read: such a bundle is not sold.
fn offer(bundle: &Value, currency: &str) -> Option<Offer> {
    let name = text(bundle, "name")?;
    let data = if truth(bundle, "unlimited") {
        Data::Unlimited
    } else {
        Data::Total(integer(bundle, "dataAmount").and_then(megabytes).filter(|megabytes| *megabytes > 0)?)
    };
    // Bundles for a region have its name where others have their country, and the countries in the second list.
    let places = list(bundle, "countries").iter().chain(list(bundle, "roamingEnabled"));
    let codes = places.filter_map(|place| text(place, "iso")).map(|code| code.to_uppercase());
    let is_country =
        |code: &String| code.len() == 2 && code != "EU" && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let countries: BTreeSet<String> = codes.filter(is_country).collect();
    let description = text(bundle, "description");
    Some(Offer {
        upstream_plan_id: name.clone(),
        name: description.clone().unwrap_or(name),
        cost: Cost::parse(&text(bundle, "price")?, currency)?,
        countries: countries.into_iter().collect(),
        data,
        validity_days: integer(bundle, "duration").filter(|days| *days > 0)?,
        networks: Vec::new(),
        speed: texts(bundle, "speed").into_iter().filter(|speed| !speed.is_empty()).max(),
        // What `autostart` starts, and when, is not said.
        activation: None,
        // Every bundle can be put on an eSIM that exists, if both are of the same network behind eSIM Go.
        add_on_supported: true,
        apn: None,
        remark: list(bundle, "allowances").iter().find_map(|allowance| text(allowance, "description")),
    })
}

/// The data assignments of an eSIM with the names of their bundles.
fn assignments(bundles: &Value) -> impl Iterator<Item = (String, &Value)> {
    list(bundles, "bundles").iter().flat_map(|bundle| {
        let name = told(bundle, "name");
        let data = |assignment: &&Value| {
            text(assignment, "callTypeGroup").is_none_or(|group| group.eq_ignore_ascii_case("data"))
        };
        list(bundle, "assignments").iter().filter(data).map(move |assignment| (name.clone(), assignment))
    })
}

/// The assignment an order made: its reference is the order's number, or that and which of the order's it is. What was put
/// on the eSIM by another order is not ours to revoke, even if nothing else is on it.
///
/// # Errors
/// Why it cannot be told.
fn bought_with<'v>(bundles: &'v Value, order: Option<&str>) -> Result<(String, &'v Value), &'static str> {
    let order = order.filter(|order| !order.is_empty());
    let order = order.ok_or("the number of our order is not known, so which bundle was bought cannot be told")?;
    let is_of_order = |(_, bundle): &(String, &Value)| {
        let reference = told(bundle, "assignmentReference");
        reference.strip_prefix(order).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let mut of_order = assignments(bundles).filter(is_of_order);
    match (of_order.next(), of_order.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err("several bundles on the eSIM are of our order"),
        (None, _) => Err("no bundle on the eSIM is of our order"),
    }
}

fn usage(bundles: &Value) -> Usage {
    let mut usage = Usage {
        used_bytes: Some(0),
        total_bytes: Some(0),
        as_of: None,
        activated_at: None,
        expires_at: None,
        life: Life::Unknown,
        profile: None,
        fresh_for_ms: USAGE_FRESH_MS,
    };
    let mut states = Vec::new();
    for (_, bundle) in assignments(bundles) {
        let state = told(bundle, "bundleState").to_lowercase();
        let time = |name| text(bundle, name).and_then(|text| text.parse::<Timestamp>().ok());
        if state != "revoked" && state != "lapsed" {
            let told = integer(bundle, "initialQuantity").zip(integer(bundle, "remainingQuantity"));
            let told = told.filter(|_| !truth(bundle, "unlimited"));
            let sum = |sum: Option<i64>, more: Option<i64>| sum.zip(more).map(|(sum, more)| sum.saturating_add(more));
            usage.used_bytes = sum(usage.used_bytes, told.map(|(first, left)| first.saturating_sub(left).max(0)));
            usage.total_bytes = sum(usage.total_bytes, told.map(|(first, _)| first));
        }
        // A bundle that waits may have a time to begin at, which is not when it began.
        if matches!(state.as_str(), "active" | "depleted" | "expired") {
            usage.activated_at = usage.activated_at.into_iter().chain(time("startTime")).min();
            usage.expires_at = usage.expires_at.into_iter().chain(time("endTime")).max();
        }
        states.push(state);
    }
    let some_is = |word: &str| states.iter().any(|state| state == word);
    let (begun, waits) = (some_is("depleted") || some_is("expired"), some_is("queued") || some_is("processing"));
    usage.life = match () {
        () if some_is("active") || (waits && begun) => Life::Active,
        () if waits => Life::NotActive,
        () if some_is("depleted") => Life::Depleted,
        () if some_is("expired") || some_is("lapsed") => Life::Expired,
        () if some_is("revoked") => Life::Ended,
        () => Life::Unknown,
    };
    if states.is_empty() {
        (usage.used_bytes, usage.total_bytes) = (None, None);
    }
    usage
}

/// What is left; a debt is nothing left.
fn balance(organisation: &Value) -> Option<Balance> {
    let (left, currency) = (text(organisation, "balance")?, text(organisation, "currency")?);
    let left = if left.starts_with('-') { "0" } else { &left };
    Some(Balance { left: Cost::parse(left, &currency)? })
}

impl Upstream for EsimGo {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: QUANTITY_PER_CALL,
            idempotent_create: false,
            look_up_by_reference: false,
            cancel: self.account.refunds,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        let (cancel, refund_effect) = match self.account.refunds {
            true => (Support::Yes, RefundEffect::AtOnce),
            false => (Support::No(NO_REFUNDS), RefundEffect::None),
        };
        Services {
            cancel,
            refund_effect,
            usage: Support::Yes,
            add_on: Support::Yes,
            balance: Support::Yes,
            callbacks: Support::Yes,
            calls_per_second: None,
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        let Purchase { upstream_plan_id, quantity, .. } = purchase;
        let bundle = json!({"type": "bundle", "quantity": quantity, "item": upstream_plan_id});
        Box::pin(self.buy(now, bundle, move |order| outcome(now, order, quantity)))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(self.become_of(now, purchase))
    }

    fn cancel(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Cancellation> {
        Box::pin(self.revoke(now, esim))
    }

    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(self.all_offers(now))
    }

    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        Box::pin(async move {
            let heard = self.bundles(now, &esim.iccid).await;
            heard.map(|read| read.map(|bundles| usage(&bundles)))
        })
    }

    fn add_ons(&self, now: Timestamp, _esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        // Which bundles fit can be asked for one by one only; one that does not is refused when it is bought.
        Box::pin(self.all_offers(now))
    }

    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome> {
        let AddOn { esim: SoldEsim { iccid, .. }, upstream_plan_id, .. } = add_on;
        // Reassigned, it would be a new eSIM that nobody waits for.
        let bundle = json!({"type": "bundle", "quantity": 1, "item": upstream_plan_id, "iccids": [iccid],
                            "allowReassign": false});
        Box::pin(self.buy(now, bundle, move |order| added(now, order, &iccid)))
    }

    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async move {
            let heard = self.organisation(now).await;
            heard.map(|read| {
                let reason = "the organisation has no balance or no currency".to_owned();
                balance(&read?).ok_or(NotRead::NotUnderstood { reason })
            })
        })
    }

    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        let signature = callback.header("x-signature-sha256").trim();
        let expected = mac(HMAC_SHA256, self.account.api_key.as_bytes(), &[&callback.body]);
        // One official page signs in base64, another in hexadecimal digits.
        if !is_same(signature, &STANDARD.encode(&expected)) && !is_same(&signature.to_lowercase(), &hex(&expected)) {
            return Err(CallbackRefusal::Forged);
        }
        let body = callback.fields();
        let missing = |name: &str| CallbackRefusal::Malformed(format!("{name} is missing"));
        let iccid = text(&body, "iccid").ok_or_else(|| missing("iccid"))?;
        let event = text(&body, "alertType").ok_or_else(|| missing("alertType"))?;
        let bundle = body.get("bundle").unwrap_or(&Value::Null);
        // Alerts have no number: the same alert again has the same bundle with as much data left.
        let reference = text(bundle, "reference").or_else(|| text(bundle, "id")).unwrap_or_default();
        let id = format!("{iccid}/{event}/{reference}/{}", told(bundle, "remainingQuantity"));
        let about = About::Esim { order: None, handle: None, iccid: Some(iccid) };
        Ok(Notice { id, about, event, acknowledgement: Acknowledgement::OK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"iccid":"8900000000000000001","alertType":"Utilisation"}"#;

    fn esim_go() -> EsimGo {
        let base_url = "http://127.0.0.1:9/v2.4".parse().unwrap();
        let address =
            crate::connection::Address { base_url, proxy: None, time_limit: std::time::Duration::from_secs(1) };
        let account = Account { api_key: "demo_api_key".to_owned(), refunds: false };
        EsimGo::new(Connection::new(&address).unwrap(), account)
    }

    fn signed(signature: &str) -> Result<Notice, CallbackRefusal> {
        let headers = vec![("x-signature-sha256".to_owned(), signature.to_owned())];
        let callback = Callback { method: "POST".to_owned(), headers, body: BODY.to_vec() };
        esim_go().read_callback(Timestamp::from_millis(0), &callback)
    }

    #[test]
    fn a_callback_is_signed_as_either_vector_says() {
        // Computed with a standard HMAC library from invented inputs.
        let base64 = signed("FB29ki/rgr1sWUBtYz/VGbAU4/EmOuv+InFsAAMGIfA=").unwrap();
        let hex = signed("141dbd922feb82bd6c59406d633fd519b014e3f1263aebfe22716c00030621f0").unwrap();
        assert_eq!(base64, hex);
        let about = About::Esim { order: None, handle: None, iccid: Some("8900000000000000001".to_owned()) };
        assert_eq!((hex.about, hex.event.as_str()), (about, "Utilisation"));
        for forged in ["", "141dbd922feb82bd6c59406d633fd519b014e3f1263aebfe22716c00030621f1"] {
            assert_eq!(signed(forged), Err(CallbackRefusal::Forged));
        }
    }

    #[test]
    fn a_key_is_never_told() {
        assert!(!format!("{:?}", esim_go()).contains("demo_api_key"));
    }

    #[test]
    fn an_address_with_a_scheme_is_a_host_in_the_code() {
        let esim = json!({"iccid": "8900000000000000001F", "matchingId": "AB-12", "smdpAddress": "http://rsp.test"});
        let found = profile_of(&esim).unwrap();
        assert_eq!(
            (found.iccid.as_str(), found.activation_code.as_str()),
            ("8900000000000000001", "LPA:1$rsp.test$AB-12")
        );
        for assignments in [esim.clone(), json!([esim]), json!({"esims": [esim]}), json!({"assignments": [esim]})] {
            assert_eq!(profiles_of_assignments(&assignments), std::slice::from_ref(&found));
        }
    }

    #[test]
    fn only_a_clear_no_is_a_refusal() {
        let said = |status: u16, text: &str| match said(&Answered::new(status, text)) {
            Said::Body(_) => "body",
            Said::Refusal { .. } => "refusal",
            Said::Later { .. } => "later",
            Said::Processing { .. } => "processing",
            Said::Unclear { .. } => "unclear",
        };
        assert_eq!(said(200, "{}"), "body");
        assert_eq!(said(200, "iccid,matchingId"), "unclear");
        assert_eq!(said(400, r#"{"message":"insufficient balance"}"#), "refusal");
        assert_eq!(said(400, "insufficient balance"), "refusal");
        assert_eq!(said(400, "<html>"), "later");
        assert_eq!(said(403, r#"{"message":"access denied"}"#), "later");
        assert_eq!(said(403, r#"{"message":"no bundles left"}"#), "refusal");
        assert_eq!(said(401, ""), "later");
        assert_eq!(said(429, r#"{"message":"Too Many Requests"}"#), "later");
        assert_eq!(said(503, ""), "processing");
        for status in [301, 408, 409, 500, 502, 504] {
            assert_eq!(said(status, r#"{"message":"?"}"#), "unclear");
        }
    }

    #[test]
    fn an_unlimited_or_regional_bundle_is_read() {
        let bundle = json!({"name": "esim_UL_1D_EU_V2", "description": "Europe", "price": 2.28, "duration": 1,
            "dataAmount": -1, "unlimited": true, "speed": ["4G", "5G"],
            "countries": [{"name": "Europe", "region": "Europe", "iso": "EU"}],
            "roamingEnabled": [{"iso": "fr"}, {"iso": "DE"}, {"iso": "Europe"}]});
        let read = offer(&bundle, "GBP").unwrap();
        assert_eq!(
            (read.data, read.countries, read.speed.as_deref()),
            (Data::Unlimited, vec!["DE".to_owned(), "FR".to_owned()], Some("5G"))
        );
        assert_eq!((read.cost.units, read.cost.decimals, read.cost.currency.as_str()), (228, 2, "GBP"));
        // Decimal gigabytes: 1 GB is 953 of our megabytes, and never said to be more.
        let fixed = |amount| offer(&json!({"name": "a", "price": 1, "duration": 7, "dataAmount": amount}), "USD");
        assert_eq!(fixed(1_000).unwrap().data, Data::Total(953));
        assert_eq!(fixed(0), None);
    }

    #[test]
    fn what_was_used_is_summed_over_all_bundles() {
        let assignment = |state: &str, first: i64, left: i64| {
            json!({"id": "1", "callTypeGroup": "data", "initialQuantity": first, "remainingQuantity": left,
                   "bundleState": state, "startTime": "2026-01-02T03:04:05Z", "endTime": "2026-01-09T03:04:05Z",
                   "unlimited": false})
        };
        let read = |assignments: Vec<Value>| usage(&json!({"bundles": [{"name": "a", "assignments": assignments}]}));
        let some =
            read(vec![assignment("depleted", 1_000, 0), assignment("queued", 500, 500), assignment("revoked", 9, 9)]);
        assert_eq!((some.used_bytes, some.total_bytes, some.life), (Some(1_000), Some(1_500), Life::Active));
        let queued = read(vec![assignment("queued", 500, 500)]);
        assert_eq!((queued.activated_at, queued.life), (None, Life::NotActive));
        for (state, life) in [
            ("processing", Life::NotActive),
            ("active", Life::Active),
            ("depleted", Life::Depleted),
            ("expired", Life::Expired),
            ("lapsed", Life::Expired),
            ("revoked", Life::Ended),
            ("something", Life::Unknown),
        ] {
            assert_eq!(read(vec![assignment(state, 5, 5)]).life, life, "{state}");
        }
        assert_eq!(read(vec![]).used_bytes, None);
    }

    #[test]
    fn only_a_bundle_of_our_order_is_ours() {
        let bundles = |references: &[&str]| {
            let each: Vec<Value> =
                references.iter().map(|reference| json!({"id": "1", "assignmentReference": reference})).collect();
            json!({"bundles": [{"name": "a", "assignments": each}]})
        };
        let is_found = |references: &[&str], order: Option<&str>| bought_with(&bundles(references), order).is_ok();
        assert!(is_found(&["e51a-1-0", "e51a-2-0"], Some("e51a-1")));
        assert!(is_found(&["e51a-1"], Some("e51a-1")));
        for (references, order) in [
            (&["e51a-2-0"][..], Some("e51a-1")),
            (&["e51a-10-0"], Some("e51a-1")),
            (&["e51a-1-0"], None),
            (&["e51a-1-0"], Some("")),
            (&[""], Some("e51a-1")),
            (&["e51a-1-0", "e51a-1-1"], Some("e51a-1")),
        ] {
            assert!(!is_found(references, order), "{references:?} {order:?}");
        }
    }

    #[test]
    fn money_is_back_only_where_words_say_so() {
        for words in ["Successfully Revoked Bundle, bundle has been refunded to balance", "Bundle Refunded To Balance"]
        {
            assert!(is_money_back(words), "{words}");
        }
        for words in [
            "Successfully Revoked Bundle",
            "bundle has been refunded to inventory",
            "Bundle has not been refunded to balance",
            "could not be refunded to balance",
            "it wasn't refunded to balance",
            "refunded",
            "",
        ] {
            assert!(!is_money_back(words), "{words}");
        }
        assert!(promises_refund("Bundle can be revoked and refunded"));
        assert!(!promises_refund("Bundle can be revoked and will not be refunded") && !promises_refund("ok"));
    }

    #[test]
    fn data_that_went_elsewhere_is_not_called_added() {
        let order = |iccid: &str| json!({"orderReference": "r", "status": "completed", "order": [{"iccids": [iccid]}]});
        let now = Timestamp::from_millis(0);
        assert_eq!(added(now, &order("89"), "89"), Outcome::Done { profiles: Vec::new() });
        assert!(matches!(added(now, &order("90"), "89"), Outcome::Unknown { .. }));
    }

    #[test]
    fn a_debt_is_nothing_left() {
        let left = |organisation| balance(&organisation).map(|balance| (balance.left.units, balance.left.decimals));
        assert_eq!(left(json!({"balance": 12.5, "currency": "USD"})), Some((125, 1)));
        assert_eq!(left(json!({"balance": -3, "currency": "USD"})), Some((0, 0)));
        assert_eq!(left(json!({"balance": 12.5})), None);
    }
}
