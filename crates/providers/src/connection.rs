//! HTTP to an upstream: what was sent, what came back, and above all whether a request may have been carried out
//! although no answer came.

use domain::time::Timestamp;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Url};
use serde_json::Value;
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
/// How long making a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);

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
}

/// Whoever is told after each call whether the upstream was there: it answered, and not that it is broken itself.
pub type Watcher = Arc<dyn Fn(bool) + Send + Sync>;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// When the upstream wants to be asked again, where it said so.
    pub retry_at: Option<Timestamp>,
    /// The body.
    pub text: String,
}

impl Answered {
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

    /// What is kept of the answer: status and the beginning of the body, without what installs an eSIM or lets one in.
    #[must_use]
    pub fn raw(&self) -> String {
        let text = match self.json() {
            Some(mut body) => {
                hide(&mut body);
                body.to_string()
            }
            // An activation code that cannot be found for sure is not kept at all.
            None if self.text.contains('$') => format!("{} characters that are no JSON (hidden)", self.text.len()),
            None => self.text.clone(),
        };
        let text: String = text.chars().take(MOST_RAW_CHARACTERS).collect();
        format!("{} {text}", self.status)
    }
}

/// Parts of the names of fields that are kept for nobody's eyes, in lower case.
const SECRET: [&str; 15] = [
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
    "apikey",
];

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_lowercase();
                let is_secret = name == "ac" || SECRET.iter().any(|part| name.contains(part));
                if is_secret && !value.is_null() { *value = Value::from("(hidden)") } else { hide(value) }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        _ => {}
    }
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
        Ok(Self { client, base_url, watcher: None })
    }

    /// The same, watched.
    #[must_use]
    pub fn watched(self, watcher: Watcher) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// Sends a request and waits for the whole answer. `now` is what a `Retry-After` in seconds counts from.
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
        let retry_at = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse::<i64>().ok())
            .map(|seconds| now.plus_millis(seconds.clamp(0, 86_400).saturating_mul(1_000)));
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
        Sent::Answered(Answered { status, retry_at, text: String::from_utf8_lossy(&body).into_owned() })
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
        let raw = Answered { status: 200, retry_at: None, text: text.to_owned() }.raw();
        assert_eq!(
            raw,
            r#"200 {"code":1,"result":{"topup_id":"7a","lpa_str":"(hidden)","pin":"(hidden)","esimList":[{"ac":"(hidden)"}]}}"#
        );
    }
}
