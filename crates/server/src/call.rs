//! The way of a request, the same for all: find the route, let the caller in, count it, read the body,
//! check permission, check fields, then the handler. The order is the contract's order of precedence:
//! 401, 413, 415, 400, 403, 422, and what the handler finds.

use crate::answer::{Answer, AnswerBody};
use crate::fields::{Field, Values, check, check_query, read_json};
use crate::limits::Allowance;
use crate::platform::Platform;
use crate::problem::{Code, FieldFault, Problem};
use crate::routes::{Handler, Limit, Route, Router};
use domain::id::OperatorId;
use domain::money::Currency;
use domain::tenant::Scope;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use serde_json::Value;
use std::future::Future;
use std::net::IpAddr;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use store::access::Access;
use store::audit::Act;
use store::port::KeyHash;

/// What a handler returns.
pub type Handling = Pin<Box<dyn Future<Output = Result<Answer, Problem>> + Send>>;

/// A checked request.
#[derive(Debug)]
pub struct Call {
    /// All that requests share.
    pub platform: Arc<Platform>,
    /// The route that was found.
    pub route: &'static Route,
    /// The path's parameters, as text.
    pub path: Vec<(String, String)>,
    /// The query.
    pub query: Values,
    /// The body.
    pub body: Values,
    /// The few headers that handlers look at, copied.
    pub headers: Vec<(&'static str, String)>,
    /// Who called, from the network's view.
    pub address: IpAddr,
}

/// A request of a tenant's user or key.
#[derive(Debug)]
pub struct TenantCall {
    /// The request.
    pub call: Call,
    /// Who called.
    pub access: Access,
}

/// A request of an operator.
#[derive(Debug)]
pub struct OperatorCall {
    /// The request.
    pub call: Call,
    /// Who called, and from where.
    pub act: Act,
}

/// What another program told, as it came.
#[derive(Debug)]
pub struct Webhook {
    /// All that requests share.
    pub platform: Arc<Platform>,
    /// The path's parameters, as text.
    pub path: Vec<(String, String)>,
    /// HTTP method.
    pub method: Method,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, byte by byte.
    pub body: Vec<u8>,
}

impl Deref for TenantCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Deref for OperatorCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl TenantCall {
    /// What the request may touch.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.access.scope
    }

    /// The idempotency key, in the scope of tenant, mode and route, with the hash of the body.
    ///
    /// # Errors
    /// 422 for a key that is none.
    pub fn idempotency(&self) -> Result<Option<(KeyHash, [u8; 16])>, Problem> {
        let scope = self.access.scope;
        self.call.idempotency_in(&format!("{} {}", scope.tenant, scope.mode))
    }
}

impl OperatorCall {
    /// The idempotency key, in the scope of operators, path and route, with the hash of the body.
    ///
    /// # Errors
    /// 422 for a key that is none.
    pub fn idempotency(&self) -> Result<Option<(KeyHash, [u8; 16])>, Problem> {
        let path = self.path.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("/");
        self.call.idempotency_in(&format!("operator {path}"))
    }
}

fn hash(parts: &[&str]) -> [u8; 16] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut cut = [0; 16];
    cut.copy_from_slice(&context.finish().as_ref()[..16]);
    cut
}

impl Call {
    fn idempotency_in(&self, scope: &str) -> Result<Option<(KeyHash, [u8; 16])>, Problem> {
        let mut keys = self.headers.iter().filter(|(name, _)| *name == IDEMPOTENCY_KEY).map(|(_, key)| key);
        let Some(key) = keys.next() else { return Ok(None) };
        let printable = key.bytes().all(|byte| (0x20..0x7F).contains(&byte));
        if !printable || !(1..=255).contains(&key.len()) || keys.next().is_some() {
            return Err(Problem::field("Idempotency-Key", "malformed", "must be one key of 1 to 255 ASCII characters"));
        }
        let of_key = hash(&[scope, self.route.path, key]);
        Ok(Some((of_key, hash(&[&self.body.canonical()]))))
    }

    /// An id in the path; a malformed one is like one that does not exist.
    ///
    /// # Errors
    /// 404.
    pub fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, Problem> {
        self.parameter(name).parse().map_err(|_| Problem::not_found())
    }

    /// A parameter of the path, as text.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// How many entries of a list are wanted.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.query.integer("limit").and_then(|limit| u32::try_from(limit).ok()).unwrap_or(100)
    }

    /// The cursor of a list.
    ///
    /// # Errors
    /// 422 for a cursor the API did not give.
    pub fn cursor(&self) -> Result<Option<uuid::Uuid>, Problem> {
        let Some(text) = self.query.text("cursor") else { return Ok(None) };
        let malformed = || Problem::field("cursor", "malformed", "must be a nextCursor the API gave");
        let bytes =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text).map_err(|_| malformed())?;
        uuid::Uuid::from_slice(&bytes).map(Some).map_err(|_| malformed())
    }

    /// One request header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Copies the headers that handlers look at. The others go: they are slices of the connection's read
/// buffer, and would keep it for as long as a request waits.
fn kept(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let all = |name: &'static str| {
        headers.get_all(name).iter().map(move |value| (name, String::from_utf8_lossy(value.as_bytes()).into_owned()))
    };
    all(IDEMPOTENCY_KEY).chain(all("if-none-match")).chain(all("accept-encoding")).collect()
}

/// The opaque form of a cursor.
#[must_use]
pub fn cursor_text(id: uuid::Uuid) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, id.as_bytes())
}

/// Answers one request.
pub async fn answer(
    platform: Arc<Platform>,
    router: &'static Router,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let begun = Instant::now();
    let request_id = request_id(request.headers());
    let method = request.method().clone();
    let metrics = Arc::clone(&platform);
    let (route, allowance, answered) = AssertUnwindSafe(handle(platform, router, peer, request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| (None, None, Err(Problem::internal().because("a handler panicked"))));
    let route = route.map_or("(none)", |route: &Route| route.path);
    let id = request_id.to_str().unwrap_or("");
    // Logged here, once and with the id: a span around every request would cost memory while it waits.
    if let Err(problem) = &answered
        && let Some(cause) = &problem.cause
    {
        tracing::error!(request = id, %method, route, code = problem.code.code(), cause, "a request failed");
    }
    let answer = with_allowance(answered.unwrap_or_else(Answer::from), allowance);
    metrics.metrics.request(method_name(&method), route, answer.status, begun.elapsed().as_secs_f64());
    tracing::debug!(request = id, %method, route, status = answer.status, "answered");
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    headers.insert(&REQUEST_ID, request_id);
    for (name, value) in &SECURITY {
        if !headers.contains_key(name) {
            headers.insert(name, value.clone());
        }
    }
    response
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers every answer has, unless it has its own.
static SECURITY: [(HeaderName, HeaderValue); 6] = [
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY")),
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (HeaderName::from_static("cache-control"), HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("strict-transport-security"),
        HeaderValue::from_static("max-age=31536000; includeSubDomains"),
    ),
];

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(allowed)
    };
    if let Some(given) = headers.get(&REQUEST_ID).filter(sane) {
        // A copy: the original is a slice of the connection's read buffer.
        return HeaderValue::from_bytes(given.as_bytes()).unwrap_or(HeaderValue::from_static("unknown"));
    }
    let mut random = [0_u8; 16];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return HeaderValue::from_static("unknown");
    }
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    HeaderValue::from_str(id.simple().encode_lower(&mut uuid::Uuid::encode_buffer()))
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// What became of a request: its route, what is left of the caller's rate, and the answer.
type Handled = (Option<&'static Route>, Option<Allowance>, Result<Answer, Problem>);

async fn handle(platform: Arc<Platform>, router: &'static Router, peer: IpAddr, request: Request<Incoming>) -> Handled {
    let (route, path) = match router.find(request.method(), request.uri().path()) {
        Ok(found) => found,
        Err(problem) => return (None, None, Err(problem)),
    };
    let mut allowance = None;
    let answered = run(platform, route, path, peer, request, &mut allowance).await;
    (Some(route), allowance, answered)
}

fn with_allowance(answer: Answer, allowance: Option<Allowance>) -> Answer {
    match allowance {
        None => answer,
        Some(Allowance { limit, remaining, reset }) => {
            let mut answer = answer;
            answer.headers.push((HeaderName::from_static("ratelimit-limit"), limit.into()));
            answer.headers.push((HeaderName::from_static("ratelimit-remaining"), remaining.into()));
            answer.headers.push((HeaderName::from_static("ratelimit-reset"), reset.into()));
            answer
        }
    }
}

enum Caller {
    Stranger,
    Tenant(Access),
    Operator(OperatorId),
}

async fn run(
    platform: Arc<Platform>,
    route: &'static Route,
    path: Vec<(String, String)>,
    peer: IpAddr,
    request: Request<Incoming>,
    allowance: &mut Option<Allowance>,
) -> Result<Answer, Problem> {
    let (parts, body) = request.into_parts();
    let address = client_address(&platform, peer, &parts.headers);
    let caller = match admit(&platform, route, &parts.headers, address, allowance).await {
        Ok(caller) => caller,
        Err(problem) => {
            if !body.is_end_stream() {
                drain(body).await;
            }
            return Err(problem);
        }
    };
    if let Handler::Webhook(handler) = route.handler {
        let body = read_bytes(&platform, body).await?;
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        return handler(Webhook { headers: headers.collect(), method: parts.method, platform, path, body }).await;
    }
    let body = read_body(&platform, route, &parts.headers, body).await?;
    let currency = match &caller {
        Caller::Tenant(access) => access.currency,
        _ => platform.currency,
    };
    if let (Caller::Tenant(access), Handler::Tenant { permission, changes, .. }) = (&caller, &route.handler) {
        if !access.scope.permissions.allow(*permission) {
            let message = format!("This API key lacks the scope {permission}.");
            return Err(Problem::new(Code::Forbidden, message));
        }
        if *changes {
            access.status.may_change()?;
        }
    }
    let (query, body) = check_fields(route, parts.uri.query().unwrap_or(""), body, currency)?;
    let headers = kept(&parts.headers);
    drop(parts);
    let call = Call { platform, route, path, query, body, headers, address };
    match (caller, route.handler) {
        (Caller::Stranger, Handler::Public(handler)) => handler(call).await,
        (Caller::Tenant(access), Handler::Tenant { handler, .. }) => handler(TenantCall { call, access }).await,
        (Caller::Operator(operator), Handler::Operator(handler)) => {
            let act = Act { operator, address: call.address.to_string() };
            handler(OperatorCall { call, act }).await
        }
        _ => Err(Problem::internal()),
    }
}

/// Lets the caller in, and counts the request.
async fn admit(
    platform: &Platform,
    route: &Route,
    headers: &HeaderMap,
    address: IpAddr,
    allowance: &mut Option<Allowance>,
) -> Result<Caller, Problem> {
    match route.handler {
        Handler::Public(_) | Handler::Webhook(_) => {
            let (left, allowed) = match route.limit() {
                Limit::None => (None, Ok(())),
                Limit::Stranger => platform.limits.address(address),
                Limit::Link => platform.limits.link(address),
            };
            *allowance = left;
            allowed?;
            Ok(Caller::Stranger)
        }
        Handler::Tenant { .. } => {
            let access = platform.entrance.tenant(bearer(headers)?, platform.clock.as_ref()).await?;
            let (left, allowed) = platform.limits.tenant(access.scope.tenant);
            *allowance = left;
            allowed?;
            Ok(Caller::Tenant(access))
        }
        Handler::Operator(_) => {
            let operator = platform.entrance.operator(bearer(headers)?, platform.clock.as_ref()).await?;
            Ok(Caller::Operator(operator))
        }
    }
}

fn client_address(platform: &Platform, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).peekable();
    if forwarded.peek().is_none() {
        return peer.to_canonical();
    }
    let hops = forwarded.collect::<Vec<_>>().join(",");
    platform.config.trusted_proxies.client_address(peer, Some(&hops))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(Problem::unauthorized)?;
    let (scheme, token) = value.split_once(' ').ok_or_else(Problem::unauthorized)?;
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("bearer") && (1..=4_096).contains(&token.len()) {
        Ok(token)
    } else {
        Err(Problem::unauthorized())
    }
}

/// How long a client may take to send its body.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(30);

/// How much of a refused body is read all the same: a client that is still sending would lose the answer
/// to a reset connection.
const MOST_DRAINED: usize = 4 * 1_024 * 1_024;

/// Reads and forgets what a client is still sending.
async fn drain(mut body: Incoming) {
    let mut drained = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, bytes::Bytes::len);
            if drained > MOST_DRAINED {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), reading).await;
}

/// Reads a body of at most `most` bytes; `None` when it is larger.
async fn collect(body: &mut Incoming, most: usize) -> Result<Option<Vec<u8>>, Problem> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Code::MalformedJson, "The body did not arrive whole."))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > most {
                return Ok(None);
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(Some(bytes))
}

async fn read_bytes(platform: &Platform, mut body: Incoming) -> Result<Vec<u8>, Problem> {
    let most = platform.config.limits.body_bytes;
    let announced_too_large = body.size_hint().lower() > u64::try_from(most).unwrap_or(u64::MAX);
    let late = || Problem::new(Code::MalformedJson, "The body did not arrive in time.");
    let bytes = match announced_too_large {
        true => None,
        false => tokio::time::timeout(BODY_TIME, collect(&mut body, most)).await.map_err(|_| late())??,
    };
    let Some(bytes) = bytes else {
        drain(body).await;
        return Err(Problem::new(Code::BodyTooLarge, format!("The body is larger than {most} bytes.")));
    };
    Ok(bytes)
}

async fn read_body(
    platform: &Platform,
    route: &Route,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Option<Value>, Problem> {
    if route.body.is_none() {
        return Ok(None);
    }
    let bytes = read_bytes(platform, body).await?;
    if bytes.is_empty() {
        return Ok(Some(Value::Object(serde_json::Map::new())));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Code::UnsupportedMediaType, "Send the body as Content-Type: application/json."));
    }
    read_json(&bytes).map(Some).map_err(|message| Problem::new(Code::MalformedJson, message))
}

fn check_fields(
    route: &Route,
    query: &str,
    body: Option<Value>,
    currency: Currency,
) -> Result<(Values, Values), Problem> {
    let declared: &[Field] = route.query;
    let query = if query.is_empty() && declared.iter().all(|field| !field.required) {
        Ok(Values::default())
    } else {
        check_query(declared, query, currency, route.is_for_people())
    };
    let body = match (route.body, body) {
        (Some(fields), Some(body)) => check(fields, body, currency),
        _ => Ok(Values::default()),
    };
    match (query, body) {
        (Ok(query), Ok(body)) => Ok((query, body)),
        (query, body) => {
            let faults: Vec<FieldFault> = [query.err(), body.err()].into_iter().flatten().flatten().collect();
            Err(Problem::fields(&faults))
        }
    }
}
