//! microesim (MicroDrive Tech, "OPEN API V1"). The first part of its own document and clients that work against the
//! live service are what stands here. An order can be found again by microesim's own number only, so a lost answer is
//! for the operator.

use crate::callback::{About, Acknowledgement, Callback, CallbackRefusal, Notice};
use crate::connection::{Answered, Call, Connection, Sent};
use crate::lenient::{
    bytes_of_megabytes, integer, is_list, list, local_time, megabytes, profile, says_nothing_was_sold, text, texts,
};
use crate::offer::{Balance, Life, Usage};
use crate::signing::{hex, hmac_sha256, nonce};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use aws_lc_rs::pbkdf2;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::plan::{Activation, Network};
use domain::time::Timestamp;
use serde_json::Value;
use std::num::NonZeroU32;

/// Hours east of Greenwich of all its times.
pub(crate) const HOURS_EAST: i8 = 8;
/// Clients that work wait 90 s for an order; one that is not complete after so long is for the operator.
const STUCK_AFTER_MS: i64 = 30 * 60_000;
/// The envelope's code for success.
pub(crate) const SUCCESS: i64 = 1;
/// The state of an order all of whose eSIMs are there that will come.
pub(crate) const COMPLETED: &str = "completed";
/// How often the secret is hashed with the salt.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(1_023);
/// One client takes 1 to 100.
const QUANTITY_PER_CALL: u32 = 100;
/// Between two polls, as one client does it.
const POLL_MS: i64 = 2_500;
/// The time limit of a call (60 s) and as much for the upstream's own work, which nobody has published.
const SETTLE_AFTER_MS: i64 = 120_000;
/// As long as for TSIM, whose call is the same; microesim has published nothing.
const USAGE_FRESH_MS: i64 = 600_000;
/// Plans of one page; works.
const PAGE: usize = 500;
/// Pages after which a catalogue that never ends is left.
const MOST_PAGES: usize = 1_000;
/// The longest number of ours that a client sends.
const MOST_REFERENCE_CHARACTERS: usize = 22;

const NO_CANCEL: &str = "one client calls terminate, and nobody knows whether it refunds";
const NO_ADD_ON: &str = "microesim adds no data to an existing eSIM";
const NO_LOOK_UP: &str = "microesim finds an order by its own number only";
const NO_CALLBACKS: &str = "microesim tells only whoever names an address with the order, and none is set";

/// What microesim hands out, and where it is to call.
#[derive(Clone)]
pub struct Account {
    /// The account, sent with each call.
    pub account: String,
    /// The secret.
    pub secret: String,
    /// The salt, in hexadecimal digits.
    pub salt: String,
    /// Our address for its callbacks, sent with each order; without one it tells nothing.
    pub notify_url: Option<String>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("account", &self.account).finish_non_exhaustive()
    }
}

/// The key calls are signed with, made of secret and salt.
#[derive(Clone)]
pub(crate) struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Secret and salt, hashed many times over; `None` for a salt that is not in hexadecimal digits.
    pub fn new(secret: &str, salt: &str) -> Option<Self> {
        let salt = bytes(salt).filter(|salt| !salt.is_empty())?;
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, secret.as_bytes(), &mut key);
        Some(Self(hex(&key)))
    }

    /// What is signed: account, nonce and time in milliseconds. Neither body nor path are.
    pub fn signature(&self, account: &str, nonce: &str, timestamp: &str) -> String {
        hmac_sha256(self.0.as_bytes(), &[account, nonce, timestamp])
    }
}

/// Bytes of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.trim().as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// An account at microesim.
#[derive(Debug, Clone)]
pub struct MicroEsim {
    connection: Connection,
    account: Account,
    key: Key,
}

/// What an envelope says.
enum Envelope {
    Success(Value),
    Refusal { code: String, message: String },
}

fn envelope(answered: &Answered) -> Option<Envelope> {
    // A gateway's own words are none of the service's.
    let body = answered.json().filter(|_| (200..300).contains(&answered.status))?;
    let code = text(&body, "code").filter(|code| code.parse::<i64>().is_ok())?;
    let message = answered.words(text(&body, "msg").unwrap_or_default());
    Some(if code == SUCCESS.to_string() {
        Envelope::Success(body.get("result").cloned().unwrap_or(Value::Null))
    } else {
        // One client reads a code of its own beside the envelope's.
        Envelope::Refusal { code: text(&body, "error_code").unwrap_or(code), message }
    })
}

/// Whether a code is one of HTTP's for "the server failed". No list of codes is published; these say nothing about
/// what was done before.
fn is_failure(code: &str) -> bool {
    code.parse().is_ok_and(|code: u16| (500..600).contains(&code))
}

fn form(path: &str, fields: &[(&str, &str)]) -> Call {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let body = Some(("application/x-www-form-urlencoded", body.into_bytes()));
    Call { body, method: reqwest::Method::POST, ..Call::get(format!("allesim/v1/{path}")) }
}

impl MicroEsim {
    /// An account behind a connection.
    ///
    /// # Errors
    /// A line that says what is wrong with the account.
    pub fn new(connection: Connection, account: Account) -> Result<Self, String> {
        let key = Key::new(&account.secret, &account.salt);
        let key = key.ok_or_else(|| "the salt is not in hexadecimal digits".to_owned())?;
        let connection = connection.hiding(&[&account.secret, &account.salt]);
        Ok(Self { connection, account, key })
    }

    async fn send(&self, now: Timestamp, call: Call) -> Sent {
        let (nonce, timestamp) = (nonce::<8>(), now.millis().to_string());
        let sign = self.key.signature(&self.account.account, &nonce, &timestamp);
        let call = call
            .with("MICROESIM-ACCOUNT", &self.account.account)
            .with("MICROESIM-NONCE", nonce)
            .with("MICROESIM-TIMESTAMP", timestamp)
            .with("MICROESIM-SIGN", sign);
        self.connection.send(now, call).await
    }

    /// Reads something that changes nothing: `result` of the envelope.
    async fn read(&self, now: Timestamp, call: Call) -> Heard<Reading<Value>> {
        match self.send(now, call).await {
            Sent::NotSent { reason } | Sent::Lost { reason } => {
                Heard::new(Err(NotRead::TryLater { retry_at: None, reason: reason.clone() }), reason)
            }
            Sent::Answered(answered) => {
                let later = |reason| Err(NotRead::TryLater { retry_at: answered.retry_at, reason });
                let read = match envelope(&answered) {
                    _ if answered.status == 429 || answered.status >= 500 => {
                        later(format!("status {}", answered.status))
                    }
                    Some(Envelope::Success(result)) => Ok(result),
                    Some(Envelope::Refusal { code, message }) if is_failure(&code) => {
                        later(format!("{code}: {message}"))
                    }
                    Some(Envelope::Refusal { code, message }) => Err(NotRead::Refused { code, message }),
                    None => later(format!("status {} without an envelope", answered.status)),
                };
                Heard::new(read, answered.raw())
            }
        }
    }

    async fn subscribe(&self, now: Timestamp, purchase: Purchase) -> Heard<Outcome> {
        let quantity = purchase.quantity.to_string();
        let mut fields = vec![
            ("number", quantity.as_str()),
            ("channel_dataplan_id", &purchase.upstream_plan_id),
            ("custom_order_no", end_of(&purchase.reference)),
            ("remark", &purchase.reference),
        ];
        if let Some(url) = &self.account.notify_url {
            fields.push(("notify_url", url));
        }
        let unknown = |reason: String| Outcome::Unknown { reason };
        let later = |retry_at, reason| Outcome::NotYet(NotYet::TryLater { retry_at, reason });
        let answered = match self.send(now, form("esimSubscribe", &fields)).await {
            Sent::NotSent { reason } => return Heard::new(later(None, reason.clone()), reason),
            Sent::Lost { reason } => return Heard::new(unknown(reason.clone()), reason),
            Sent::Answered(answered) => answered,
        };
        let mut order = None;
        let outcome = match envelope(&answered) {
            _ if answered.status == 429 => later(answered.retry_at, "status 429".to_owned()),
            _ if answered.status >= 500 => unknown(format!("status {}", answered.status)),
            Some(Envelope::Success(result)) => {
                order = text(&result, "topup_id");
                match order {
                    Some(_) => Outcome::NotYet(NotYet::Provisioning { poll_at: now.plus_millis(POLL_MS) }),
                    None => unknown("sold, it says, without a number".to_owned()),
                }
            }
            Some(Envelope::Refusal { code, message }) if !is_failure(&code) && says_nothing_was_sold(&message) => {
                Outcome::Refused { code, message }
            }
            // No list of codes is published: one nobody has seen does not say that nothing was sold.
            Some(Envelope::Refusal { code, message }) => unknown(format!("{code}: {message}")),
            None if answered.was_turned_away() => later(answered.retry_at, format!("status {}", answered.status)),
            None => unknown(format!("status {} without an envelope", answered.status)),
        };
        Heard::new(outcome, answered.raw()).of_order(order)
    }

    async fn device(&self, now: Timestamp, order: &str, device: &str) -> Heard<Reading<Value>> {
        self.read(now, form("deviceDetail", &[("topup_id", order), ("device_id", device)])).await
    }

    async fn find(&self, now: Timestamp, purchase: Purchase) -> Heard<LookUp> {
        let Some(order) = purchase.order else {
            return Heard::new(LookUp::CannotTell { reason: NO_LOOK_UP.to_owned() }, NO_LOOK_UP);
        };
        let heard = self.read(now, form("topupDetail", &[("topup_id", &order)])).await;
        let raw = heard.raw;
        let mut found = match heard.meaning {
            Ok(detail) => look_up(now, &detail, &order, purchase.quantity),
            Err(refused) => not_found(now, refused),
        };
        if let LookUp::Delivered { profiles } = &mut found {
            for profile in profiles.iter_mut().filter(|profile| !is_iccid(&profile.iccid)) {
                match self.device(now, &order, &profile.iccid).await.meaning {
                    Ok(device) => {
                        if let Some(iccid) = text(&device, "operator_iccid") {
                            profile.iccid = iccid;
                        }
                    }
                    Err(NotRead::TryLater { reason, .. }) => {
                        found = LookUp::NoAnswer { reason };
                        break;
                    }
                    // Delivered all the same: the device's own number has to do.
                    Err(_) => {}
                }
            }
        }
        Heard::new(found, raw).of_order(Some(order))
    }

    async fn all_offers(&self, now: Timestamp) -> Heard<Reading<Vec<Offer>>> {
        let mut offers = Vec::new();
        let mut raw = String::new();
        for page in 1..=MOST_PAGES {
            if page > 1 {
                self.connection.next_turn().await;
            }
            let path = format!("allesim/v1/esimDataplanListPage?pageNo={page}&pageSize={PAGE}");
            let heard = self.read(now, Call::get(path).with("Content-Type", "application/json")).await;
            raw = heard.raw;
            let result = match heard.meaning {
                Ok(result) => result,
                Err(error) => return Heard::new(Err(error), raw),
            };
            if !is_list(&result, "list") {
                let reason = "the answer has no list of plans".to_owned();
                return Heard::new(Err(NotRead::NotUnderstood { reason }), raw);
            }
            let plans = list(&result, "list");
            offers.extend(plans.iter().filter_map(offer));
            let last = integer(&result, "totalPages").and_then(|last| usize::try_from(last).ok()).unwrap_or(page);
            if plans.is_empty() || page >= last {
                break;
            }
        }
        Heard::new(Ok(offers), raw)
    }
}

/// The end of a reference that is too long: it is what tells two of them apart. The whole of it is in the remark.
fn end_of(reference: &str) -> &str {
    let surplus = reference.len().saturating_sub(MOST_REFERENCE_CHARACTERS);
    reference.get(surplus..).unwrap_or(reference)
}

fn is_iccid(text: &str) -> bool {
    (18..=22).contains(&text.len()) && text.starts_with("89") && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a plan; `None` for what is off the list, for what cannot be read, and for a plan that begins on a day that
/// has to be named with the order: nobody would be asked for it.
fn offer(plan: &Value) -> Option<Offer> {
    let activation = match text(plan, "active_type").unwrap_or_default().as_str() {
        "ACTIVEDBYORDER" => return None,
        "ACTIVEDBYDEVICE" => Some(Activation::OnFirstUse),
        _ => None,
    };
    if text(plan, "status").is_some_and(|status| status != "1") {
        return None;
    }
    let codes = text(plan, "code").unwrap_or_default().to_uppercase();
    let codes = codes.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|code| code.len() == 2);
    let mut countries: Vec<String> = codes.map(str::to_owned).collect();
    countries.sort_unstable();
    countries.dedup();
    let networks = networks(&text(plan, "networks").unwrap_or_default());
    let remarks: Vec<String> = ["rule_desc", "special_desc"].iter().filter_map(|name| text(plan, name)).collect();
    Some(Offer {
        upstream_plan_id: text(plan, "channel_dataplan_id")?,
        name: text(plan, "channel_dataplan_name")?,
        cost: Cost::parse(&text(plan, "price")?, &text(plan, "currency")?)?,
        countries,
        data: data(&text(plan, "data")?)?,
        validity_days: integer(plan, "day").filter(|days| *days > 0)?,
        speed: ["5G", "4G", "LTE", "3G"]
            .into_iter()
            .find(|speed| networks.iter().any(|network| network.technology.contains(speed)))
            .map(str::to_owned),
        networks,
        activation,
        add_on_supported: false,
        apn: text(plan, "apn"),
        remark: (!remarks.is_empty()).then(|| remarks.join("; ")),
    })
}

/// Reads `Daily1GB`, `Total10GB` or `Unlimited`.
fn data(text: &str) -> Option<Data> {
    let text: String = text.to_lowercase().chars().filter(|letter| !letter.is_whitespace()).collect();
    if text.starts_with("unlimited") {
        return Some(Data::Unlimited);
    }
    let (amount, of): (&str, fn(i64) -> Data) = match text.strip_prefix("daily") {
        Some(amount) => (amount, Data::Daily),
        None => (text.strip_prefix("total")?, Data::Total),
    };
    let (amount, unit) = amount.split_at_checked(amount.len().checked_sub(2)?)?;
    megabytes(amount, unit).map(of)
}

/// Reads `JP:DOCOMO[LTE;4G],KDDI[5G]|KR:SKT[4G]|`.
fn networks(text: &str) -> Vec<Network> {
    let countries = text.split('|').filter_map(|entry| entry.trim().split_once(':'));
    let each = countries.flat_map(|(country, operators)| {
        operators.split(',').map(move |operator| {
            let (operator, technology) = operator.split_once('[').unwrap_or((operator, ""));
            Network {
                country: country.trim().to_uppercase(),
                operator: operator.trim().to_owned(),
                technology: technology.trim_end_matches(']').replace(';', "/"),
            }
        })
    });
    each.filter(|network| network.country.len() == 2 && !network.operator.is_empty()).collect()
}

/// What an order's detail says. Its lists are parallel; an entry is there once it has an activation code. ICCIDs are
/// the devices' numbers for now.
fn look_up(now: Timestamp, detail: &Value, order: &str, quantity: u32) -> LookUp {
    if text(detail, "topup_id").as_deref() != Some(order) {
        return LookUp::NoAnswer { reason: "the answer is about no order, or another".to_owned() };
    }
    let (codes, devices) = (texts(detail, "lpa_str"), texts(detail, "device_ids"));
    let (numbers, confirmations) = (texts(detail, "msisdn"), texts(detail, "cf_code"));
    // Without both lists, or with one that is shorter, which code belongs to which eSIM is not told.
    let are_parallel = is_list(detail, "lpa_str")
        && is_list(detail, "device_ids")
        && codes.len() == devices.len()
        && (confirmations.is_empty() || confirmations.len() == codes.len());
    let at = |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
    let each = codes.iter().enumerate().filter(|_| are_parallel).filter_map(|(index, code)| {
        let device = at(&devices, index)?;
        Some(Profile {
            iccid: device.clone(),
            handle: Some(device),
            msisdn: at(&numbers, index),
            confirmation_code: at(&confirmations, index),
            ..profile(code)?
        })
    });
    let profiles: Vec<Profile> = each.collect();
    let wanted = usize::try_from(quantity).unwrap_or(usize::MAX);
    let there = i64::try_from(profiles.len()).unwrap_or(i64::MAX);
    let counts = integer(detail, "number").zip(integer(detail, "success_number"));
    let completed = text(detail, "status").is_some_and(|status| status.eq_ignore_ascii_case(COMPLETED));
    let ordered = text(detail, "create_time").and_then(|text| local_time(&text, HOURS_EAST));
    if profiles.len() >= wanted {
        LookUp::Delivered { profiles }
    } else if completed && !profiles.is_empty() && counts == Some((i64::from(quantity), there)) {
        // It is done, of so many as we asked for so many succeeded, and they are here: the others will not come.
        LookUp::Delivered { profiles }
    } else if (completed && (!are_parallel || counts.is_some_and(|(_, succeeded)| succeeded == 0)))
        || ordered.is_some_and(|ordered| now.since(ordered) > STUCK_AFTER_MS)
    {
        // Whether the others will come is not said anywhere: neither to refund nor to wait for ever would be right.
        LookUp::CannotTell { reason: format!("{} of {wanted} eSIMs came", profiles.len()) }
    } else {
        LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
    }
}

fn not_found(now: Timestamp, read: NotRead) -> LookUp {
    match read {
        // A client takes this word for "not there yet", wherever it stands.
        NotRead::Refused { message, .. } if message.to_lowercase().contains("processing") => {
            LookUp::Provisioning { poll_at: now.plus_millis(POLL_MS) }
        }
        // Codes are not published: that the order is unknown cannot be told from any other refusal.
        NotRead::Refused { code, message } => LookUp::CannotTell { reason: format!("{code}: {message}") },
        NotRead::TryLater { reason, .. } | NotRead::NotUnderstood { reason } => LookUp::NoAnswer { reason },
        NotRead::Unsupported(reason) => LookUp::CannotTell { reason: reason.to_owned() },
    }
}

fn usage(now: Timestamp, detail: &Value) -> Usage {
    let time = |field| text(detail, field).and_then(|text| local_time(&text, HOURS_EAST));
    let activated_at = time("active_time");
    let expires_at = activated_at.and_then(|_| time("expire_time"));
    let ended_at = time("terminate_time");
    let life = if ended_at.is_some_and(|ended| expires_at.is_none_or(|end| ended < end)) {
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

/// Reads a balance; what is below nothing is nothing.
fn balance(account: &Value) -> Option<Balance> {
    let left = text(account, "balance")?;
    let left = if left.starts_with('-') { "0" } else { &left };
    Some(Balance { left: Cost::parse(left, &text(account, "currency")?)? })
}

impl Upstream for MicroEsim {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: QUANTITY_PER_CALL,
            // Whether a second purchase under the same number is refused or sold is not known.
            idempotent_create: false,
            look_up_by_reference: false,
            cancel: false,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::No(NO_CANCEL),
            refund_effect: RefundEffect::Unknown,
            usage: Support::Yes,
            add_on: Support::No(NO_ADD_ON),
            balance: Support::Yes,
            callbacks: if self.account.notify_url.is_some() { Support::Yes } else { Support::No(NO_CALLBACKS) },
            calls_per_second: None,
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        Box::pin(self.subscribe(now, purchase))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(self.find(now, purchase))
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
            let heard = self.device(now, &esim.order.unwrap_or_default(), &device).await;
            heard.map(|read| read.map(|detail| usage(now, &detail)))
        })
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
            let heard = self.read(now, form("accountBalance", &[])).await;
            heard.map(|read| {
                let understood = |account: Value| {
                    let reason = || NotRead::NotUnderstood { reason: "balance or currency is missing".to_owned() };
                    balance(&account).ok_or_else(reason)
                };
                read.and_then(understood)
            })
        })
    }

    fn read_callback(&self, _now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        if self.account.notify_url.is_none() {
            return Err(CallbackRefusal::Unsupported(NO_CALLBACKS));
        }
        // Nothing is known of a signature: only who knows the address can send this.
        let body = callback.fields();
        let missing = |name: &str| CallbackRefusal::Malformed(format!("{name} is missing"));
        let order = text(&body, "topup_id").ok_or_else(|| missing("topup_id"))?;
        let device = text(&body, "device_id").ok_or_else(|| missing("device_id"))?;
        Ok(Notice {
            id: format!("{order}/{device}"),
            about: About::Esim { order: Some(order), handle: Some(device), iccid: None },
            event: "delivered".to_owned(),
            acknowledgement: Acknowledgement::OK,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_call_is_signed_as_the_vector_says() {
        // Computed with a standard HMAC library from invented inputs.
        let key = Key::new("demo_secret_01", "00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(key.0, "4b0b3dc6fe4ca9c90e405706afa0e4230aecc008e6f301c9f29a8911cc7d7262");
        assert_eq!(
            key.signature("demo_account_01", "abcdef0123456789", "1700000000000"),
            "9eeca51b1852a0c19eca931b1a96898d39799bcf2181386cb04b90fb08c890b0"
        );
        for salt in ["", "0", "0g", "salt"] {
            assert!(Key::new("demo_secret_01", salt).is_none(), "{salt}");
        }
    }

    #[test]
    fn data_is_read_from_its_text() {
        for (text, expected) in [
            ("Daily1GB", Some(Data::Daily(1_024))),
            ("Daily500MB", Some(Data::Daily(500))),
            ("Total10GB", Some(Data::Total(10_240))),
            ("Total 1.5GB", Some(Data::Total(1_536))),
            ("Unlimited", Some(Data::Unlimited)),
            ("Total", None),
            ("Total0GB", None),
            ("10GB", None),
            ("Total10é", None),
            ("", None),
        ] {
            assert_eq!(data(text), expected, "{text}");
        }
    }

    #[test]
    fn networks_are_read_from_their_text() {
        let read = networks("JP:DOCOMO[LTE;4G],KDDI[5G]|kr:SKT|:x|US:|");
        let read: Vec<_> = read.iter().map(|n| (&*n.country, &*n.operator, &*n.technology)).collect();
        assert_eq!(read, [("JP", "DOCOMO", "LTE/4G"), ("JP", "KDDI", "5G"), ("KR", "SKT", "")]);
    }

    #[test]
    fn a_plan_that_begins_on_a_named_day_is_not_sold() {
        let plan = |active: &str| {
            offer(&json!({"channel_dataplan_id": "7c", "channel_dataplan_name": "Japan", "price": "8.10",
                "currency": "HKD", "status": "1", "day": "5", "data": "Daily1GB", "code": "JP,KR",
                "active_type": active}))
        };
        assert_eq!(plan("ACTIVEDBYDEVICE").unwrap().countries, ["JP", "KR"]);
        assert_eq!(plan("ACTIVEDBYORDER"), None);
    }

    #[test]
    fn an_order_is_there_when_all_of_it_is_or_no_more_will_come() {
        let there = |status: &str, ready: u32, codes: &[&str]| {
            let detail = json!({"topup_id": "t", "number": 2, "success_number": ready, "status": status,
                "device_ids": ["8900000000000000001", "8900000000000000002"], "lpa_str": codes});
            match look_up(Timestamp::from_millis(0), &detail, "t", 2) {
                LookUp::Delivered { profiles } => profiles.len(),
                LookUp::Provisioning { .. } => 0,
                other => panic!("{other:?}"),
            }
        };
        let (one, other) = ("LPA:1$rsp.test$A", "LPA:1$rsp.test$B");
        assert_eq!(there("completed", 2, &[one, other]), 2);
        assert_eq!(there("processing", 1, &[one, ""]), 0);
        assert_eq!(there("Completed", 1, &[one, ""]), 1);
        assert_eq!(there("", 2, &[one, other]), 2);
    }

    #[test]
    fn a_list_that_is_missing_is_no_delivery() {
        let one = json!(["LPA:1$rsp.test$A"]);
        let device = json!(["8900000000000000001"]);
        let read = |status: &str, codes: &Value, devices: &Value| {
            let mut detail = json!({"topup_id": "t", "number": 1, "success_number": 1, "status": status});
            for (name, list) in [("lpa_str", codes), ("device_ids", devices)] {
                if !list.is_null() {
                    detail[name] = list.clone();
                }
            }
            look_up(Timestamp::from_millis(0), &detail, "t", 1)
        };
        let (two, none) = (json!(["8900000000000000001", "8900000000000000002"]), json!([]));
        for (codes, devices) in [(&Value::Null, &device), (&one, &Value::Null), (&one, &none), (&one, &two)] {
            let told = read("completed", codes, devices);
            assert!(matches!(told, LookUp::CannotTell { .. }), "{codes} {devices}: {told:?}");
            let told = read("processing", codes, devices);
            assert!(matches!(told, LookUp::Provisioning { .. }), "{codes} {devices}: {told:?}");
        }
        assert!(matches!(read("completed", &one, &device), LookUp::Delivered { profiles } if profiles.len() == 1));
    }

    #[test]
    fn a_long_reference_keeps_what_tells_it_apart() {
        assert_eq!(end_of("order-1-1"), "order-1-1");
        assert_eq!(end_of("019aab34-7c5d-7e11-9d2e-55d0a1b2c3d4-12"), "1-9d2e-55d0a1b2c3d4-12");
    }

    /// Answers one call after another with these results.
    async fn answering(results: Vec<Value>) -> (MicroEsim, tokio::task::JoinHandle<Vec<String>>) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for result in results {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = String::new();
                while !request.contains("topup_id=") {
                    let mut part = [0; 4_096];
                    let length = stream.read(&mut part).await.unwrap();
                    request.push_str(&String::from_utf8_lossy(&part[..length]));
                }
                asked.push(request.lines().next().unwrap_or_default().to_owned());
                let body = json!({"code": 1, "msg": "Success", "result": result}).to_string();
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let time_limit = std::time::Duration::from_secs(10);
        let address = crate::connection::Address { base_url, proxy: None, time_limit };
        let text = str::to_owned;
        let (account, secret, salt) = (text("demo_account_01"), text("demo_secret_01"), text("0011"));
        let account = Account { account, secret, salt, notify_url: None };
        (MicroEsim::new(Connection::new(&address).unwrap(), account).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_device_whose_number_is_no_iccid_is_asked_for_it() {
        let detail = json!({"topup_id": "t", "number": 2, "success_number": 2, "status": "completed",
            "device_ids": ["8900000000000000001", "device-2"], "lpa_str": ["LPA:1$rsp.test$A", "LPA:1$rsp.test$B"]});
        let device = json!({"device_id": "device-2", "operator_iccid": "8900000000000000002"});
        let (upstream, asked) = answering(vec![detail, device]).await;
        let purchase = Purchase {
            reference: "order-1-1".to_owned(),
            order: Some("t".to_owned()),
            upstream_plan_id: "p".to_owned(),
            quantity: 2,
        };
        let LookUp::Delivered { profiles } = upstream.look_up(Timestamp::from_millis(0), purchase).await.meaning else {
            panic!("it is there");
        };
        let told: Vec<_> = profiles.iter().map(|one| (one.iccid.as_str(), one.handle.as_deref())).collect();
        let expected =
            [("8900000000000000001", Some("8900000000000000001")), ("8900000000000000002", Some("device-2"))];
        assert_eq!(told, expected);
        let asked = asked.await.unwrap();
        assert_eq!(asked, ["POST /allesim/v1/topupDetail HTTP/1.1", "POST /allesim/v1/deviceDetail HTTP/1.1"]);
    }
}
