//! HTTP to an upstream: what was sent, what came back, and above all whether a request may have been carried out
//! although no answer came.

use domain::time::Timestamp;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Url};
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How an upstream is reached.
#[derive(Clone)]
pub struct Address {
    /// Where its paths begin; with or without a slash at its end.
    pub base_url: Url,
    /// A proxy all calls go through.
    pub proxy: Option<Url>,
    /// How long a call may take, from the connection to the end of the answer.
    pub time_limit: Duration,
}

/// The largest answer that is read, bytes: the largest catalogues have some 20,000 plans of 1 KB.
const MOST_ANSWER_BYTES: usize = 64 * 1_024 * 1_024;
/// How much of an answer is kept for an investigation, characters.
const MOST_RAW_CHARACTERS: usize = 8_000;
/// How much of an upstream's words is told, characters.
const MOST_WORDS: usize = 300;
/// How long making a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long an upstream may ask us to wait, at least and at most, milliseconds: not at all would be a loop, and a slip
/// there may not stop us for a day.
const WAIT_MS: (i64, i64) = (1_000, 3_600_000);
/// Shorter texts than this are not taken for secrets: they would be found in what is none.
const LEAST_SECRET: usize = 6;
/// What stands where something was hidden.
const HIDDEN: &str = "(hidden)";

// Addresses may hold a password, and headers hold secrets: they show no more than where they lead.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("host", &self.base_url.host_str()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("host", &self.base_url.host_str()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// A connection to one upstream; clones share it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    base_url: Url,
    watcher: Option<Watcher>,
    pacer: Option<Pacer>,
    /// What no answer that is kept may show, wherever the upstream repeats it.
    secrets: Arc<[String]>,
}

/// Whoever is told after each call whether the upstream was there: it answered, and not that it is broken itself.
pub type Watcher = Arc<dyn Fn(bool) + Send + Sync>;

/// Whoever lets a call begin where one reading needs many of them: each waits for its turn. The first one was let in
/// with the reading.
pub type Pacer = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A request to be sent.
#[derive(Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path behind the base URL, with its query; no slash at its beginning.
    pub path: String,
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// Media type and body.
    pub body: Option<(&'static str, Vec<u8>)>,
}

impl Call {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: Vec::new(), body: None }
    }

    /// A POST with a JSON body.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        let body = Some(("application/json", body.to_string().into_bytes()));
        Self { method: Method::POST, path: path.into(), headers: Vec::new(), body }
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// An answer came, whole.
    Answered(Answered),
    /// It certainly never reached the upstream.
    NotSent {
        /// Why.
        reason: String,
    },
    /// It may have been carried out: the connection broke, or time was up, after it was sent.
    Lost {
        /// What was seen.
        reason: String,
    },
}

/// An answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// When the upstream wants to be asked again, where it said so.
    pub retry_at: Option<Timestamp>,
    /// The body.
    pub text: String,
    secrets: Vec<String>,
}

// The body installs eSIMs: it is not shown.
impl std::fmt::Debug for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, retry_at, .. } = self;
        f.debug_struct("Answered").field("status", status).field("retry_at", retry_at).finish_non_exhaustive()
    }
}

impl Answered {
    /// An answer without anything in its head.
    #[must_use]
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, retry_at: None, text: text.into(), secrets: Vec::new() }
    }

    /// The body as JSON; `None` when it is none, such as a proxy's page in HTML.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.text).ok()
    }

    /// Whether something before the service turned the call away by its status: it was certainly not carried out.
    #[must_use]
    pub fn was_turned_away(&self) -> bool {
        matches!(self.status, 401 | 403 | 407 | 413)
    }

    /// The upstream's words as they may be shown: without what installs an eSIM or lets one in.
    #[must_use]
    pub(crate) fn words(&self, told: impl Into<String>) -> String {
        let mut told = Value::from(told.into());
        hide(&mut told);
        let text = told.as_str().unwrap_or(HIDDEN);
        let text = if text.to_lowercase().contains("matching") { HIDDEN } else { text };
        let text = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN));
        text.chars().take(MOST_WORDS).collect()
    }

    /// What is kept of the answer: status and the beginning of the body, without what installs an eSIM or lets one in.
    #[must_use]
    pub fn raw(&self) -> String {
        let mut text = match self.json() {
            Some(mut body) => {
                hide(&mut body);
                body.to_string()
            }
            // What cannot be found for sure, as in half an answer, is not kept at all.
            None if may_tell(&self.text) => format!("{} characters that are no JSON {HIDDEN}", self.text.len()),
            None => self.text.clone(),
        };
        for secret in &self.secrets {
            text = text.replace(secret, HIDDEN);
        }
        let text: String = text.chars().take(MOST_RAW_CHARACTERS).collect();
        format!("{} {text}", self.status)
    }
}

/// Parts of the names of fields that are kept for nobody's eyes, in lower case.
const SECRET: [&str; 21] = [
    "lpa",
    "qrcode",
    "qr_code",
    "matching",
    "activation",
    "install",
    "confirmation",
    "cf_code",
    "pin",
    "puk",
    "token",
    "secret",
    "shorturl",
    "smdpaddress",
    "smdp_address",
    "apikey",
    "api_key",
    "api-key",
    "accesscode",
    "access_code",
    "password",
];

/// Whether a text has what is in a QR code, as it is or as part of an address.
fn is_activation_code(text: &str) -> bool {
    let text = text.to_lowercase().replace("%24", "$").replace("%3a", ":");
    text.contains("lpa:") || text.split_once("1$").is_some_and(|(_, rest)| rest.contains('$'))
}

/// Whether a text that has no shape we know may have something to hide.
fn may_tell(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains('$') || is_activation_code(&text) || SECRET.iter().any(|part| text.contains(part))
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_lowercase();
                let is_secret = name == "ac" || SECRET.iter().any(|part| name.contains(part));
                if is_secret && !value.is_null() { *value = Value::from(HIDDEN) } else { hide(value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::String(text) => {
            // Some upstreams repeat what another service told them, as a text.
            let begins_json = text.trim_start().starts_with(['{', '[']);
            match serde_json::from_str::<Value>(text).ok().filter(|_| begins_json) {
                Some(mut inner) => {
                    hide(&mut inner);
                    *text = inner.to_string();
                }
                None if is_activation_code(text) || (begins_json && may_tell(text)) => *text = HIDDEN.to_owned(),
                None => {}
            }
        }
        _ => {}
    }
}

/// When to come again, of a `Retry-After` in seconds or as a date.
fn retry_at(now: Timestamp, told: &str) -> Option<Timestamp> {
    let told = told.trim();
    let wait_ms = match told.parse::<i64>() {
        Ok(seconds) => seconds.saturating_mul(1_000),
        Err(_) => {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(told).ok()?;
            Timestamp::from_millis(date.as_millisecond()).since(now)
        }
    };
    let (least, most) = WAIT_MS;
    Some(now.plus_millis(wait_ms.clamp(least, most)))
}

fn headers(call: &Call) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &call.headers {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    if let Some((media, _)) = &call.body {
        headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static(media));
    }
    Some(headers)
}

impl Connection {
    /// A connection that is made with the first call.
    ///
    /// # Errors
    /// A line that says what is wrong with the address.
    pub fn new(address: &Address) -> Result<Self, String> {
        let mut base_url = address.base_url.clone();
        if base_url.cannot_be_a_base() || !matches!(base_url.scheme(), "http" | "https") {
            return Err(format!("{base_url} is no http or https address"));
        }
        if !base_url.path().ends_with('/') {
            base_url.set_path(&format!("{}/", base_url.path()));
        }
        let mut client = Client::builder()
            .http1_only()
            .timeout(address.time_limit)
            .connect_timeout(CONNECT_TIME)
            // An upstream that moved is set up anew: credentials do not follow it anywhere.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("esimd/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        if let Some(proxy) = &address.proxy {
            client = client.proxy(reqwest::Proxy::all(proxy.clone()).map_err(|error| error.to_string())?);
        }
        let client = client.build().map_err(|error| error.to_string())?;
        Ok(Self { client, base_url, watcher: None, pacer: None, secrets: Arc::default() })
    }

    /// The same, watched.
    #[must_use]
    pub fn watched(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// The same, paced.
    #[must_use]
    pub fn paced(self, pacer: Pacer) -> Self {
        Self { pacer: Some(pacer), ..self }
    }

    /// Waits until the next call of a reading may begin that needs more than one.
    pub(crate) async fn next_turn(&self) {
        if let Some(pacer) = &self.pacer {
            pacer().await;
        }
    }

    /// The same, keeping these texts out of all that is kept of its answers.
    #[must_use]
    pub(crate) fn hiding(self, secrets: &[&str]) -> Self {
        let secrets = secrets.iter().filter(|secret| secret.len() >= LEAST_SECRET);
        Self { secrets: secrets.map(|secret| (*secret).to_owned()).collect(), ..self }
    }

    /// What an answer to this call may not show: our secrets, and the token it was let in with.
    fn secrets_of(&self, call: &Call) -> Vec<String> {
        let tokens = call.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let tokens = tokens.filter_map(|(_, value)| value.rsplit(' ').next()).filter(|it| it.len() >= LEAST_SECRET);
        self.secrets.iter().cloned().chain(tokens.map(str::to_owned)).collect()
    }

    /// Sends a request and waits for the whole answer. `now` is what a `Retry-After` counts from.
    pub async fn send(&self, now: Timestamp, call: Call) -> Sent {
        let sent = self.exchange(now, call).await;
        if let Some(watcher) = &self.watcher {
            watcher(matches!(&sent, Sent::Answered(answered) if answered.status < 500));
        }
        sent
    }

    async fn exchange(&self, now: Timestamp, call: Call) -> Sent {
        let not_sent = |reason: &str| Sent::NotSent { reason: reason.to_owned() };
        let Some(headers) = headers(&call) else { return not_sent("a header cannot be sent") };
        let Ok(url) = self.base_url.join(&call.path) else { return not_sent("the path cannot be sent") };
        let secrets = self.secrets_of(&call);
        let mut request = self.client.request(call.method, url).headers(headers);
        if let Some((_, body)) = call.body {
            request = request.body(body);
        }
        let mut response = match request.send().await {
            Ok(response) => response,
            // Only a connection that was never made proves that nothing was sent.
            Err(error) if error.is_connect() || error.is_builder() => {
                return Sent::NotSent { reason: told(&error) };
            }
            Err(error) => return Sent::Lost { reason: told(&error) },
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_at = retry_after.and_then(|told| retry_at(now, told));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len().saturating_add(chunk.len()) <= MOST_ANSWER_BYTES => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Sent::Lost { reason: "the answer is too large".to_owned() },
                Ok(None) => break,
                Err(error) => return Sent::Lost { reason: told(&error) },
            }
        }
        Sent::Answered(Answered { status, retry_at, text: String::from_utf8_lossy(&body).into_owned(), secrets })
    }
}

/// An error with its causes, without the address: it may hold a secret.
fn told(error: &reqwest::Error) -> String {
    let mut told = if error.is_timeout() { "no answer in time".to_owned() } else { "no answer".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_installs_an_esim_is_not_kept() {
        let text = r#"{"code":1,"result":{"topup_id":"7a","lpa_str":["LPA:1$a$b"],"pin":"1234","esimList":[{"ac":"LPA:1$c$d"}]}}"#;
        assert_eq!(
            Answered::new(200, text).raw(),
            r#"200 {"code":1,"result":{"topup_id":"7a","lpa_str":"(hidden)","pin":"(hidden)","esimList":[{"ac":"(hidden)"}]}}"#
        );
    }

    #[test]
    fn an_activation_code_is_hidden_wherever_it_stands() {
        for text in [
            r#"{"msg":"sold LPA:1$rsp.test$CODE-7","n":1}"#,
            r#"{"url":"https://x.test/?carddata=LPA%3A1%24rsp.test%24CODE-7"}"#,
            r#"{"remark":"1$rsp.test$CODE-7"}"#,
            r#"{"data":"{\"matchingId\":\"CODE-7\",\"n\":1}"}"#,
            r#"{"data":"{\"matchingId\":\"CODE-7\",\"n\""}"#,
            r#"["lpa:1$rsp.test$CODE-7"]"#,
            // Half an answer, a table, and a page.
            r#"{"matchingId":"CODE-7","n""#,
            "iccid,matchingId\r\n8901,CODE-7",
            "<p>LPA%3a1%24rsp.test%24CODE-7</p>",
        ] {
            let raw = Answered::new(200, text).raw();
            assert!(!raw.contains("CODE-7") && raw.contains(HIDDEN), "{raw}");
        }
        let words = r#"{"msg":"Insufficient balance: $4.00 of $10.00"}"#;
        assert_eq!(Answered::new(200, words).raw(), format!("200 {words}"));
        let page = "<html><h1>502 Bad Gateway</h1></html>";
        assert_eq!(Answered::new(502, page).raw(), format!("502 {page}"));
    }

    #[test]
    fn what_is_shown_of_an_answer_installs_nothing() {
        let sent = Sent::Answered(Answered::new(200, r#"{"ac":"LPA:1$rsp.test$CODE-7"}"#));
        assert!(!format!("{sent:?}").contains("CODE-7"), "{sent:?}");
    }

    #[test]
    fn our_own_secrets_are_not_kept_when_an_upstream_repeats_them() {
        let base_url = "http://127.0.0.1:9/".parse().unwrap();
        let address = Address { base_url, proxy: None, time_limit: Duration::from_secs(1) };
        let connection = Connection::new(&address).unwrap().hiding(&["demo_code_01", "1"]);
        let call = Call::get("x").with("authorization", "Bearer demo_bearer_01");
        let secrets = connection.secrets_of(&call);
        for text in [r#"{"msg":"demo_bearer_01 and demo_code_01 are wrong, 1"}"#, "demo_bearer_01, demo_code_01, 1"] {
            let answered = Answered { secrets: secrets.clone(), ..Answered::new(400, text) };
            for shown in [answered.raw(), answered.words(text)] {
                assert!(!shown.contains("demo") && shown.contains('1'), "{shown}");
            }
        }
    }

    #[test]
    fn nobody_is_made_to_wait_for_days_or_not_at_all() {
        let now = Timestamp::from_millis(784_111_777_000);
        let waits = |told: &str| retry_at(now, told).map(|at| at.since(now));
        assert_eq!(waits("5"), Some(5_000));
        assert_eq!((waits("0"), waits("-1")), (Some(1_000), Some(1_000)));
        assert_eq!((waits("999999"), waits("9223372036854775807")), (Some(3_600_000), Some(3_600_000)));
        assert_eq!(waits("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60_000));
        assert_eq!(waits("Sat, 06 Nov 2094 08:50:37 GMT"), Some(3_600_000));
        assert_eq!((waits("soon"), waits("1.5"), waits("")), (None, None, None));
    }
}
