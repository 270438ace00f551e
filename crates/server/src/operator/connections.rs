//! Connections: accounts at upstreams. Credentials come in here, are sealed, and never go out again.

use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, Values, optional, required};
use crate::json::{Decimal, Id, Time};
use crate::keyring::KeyError;
use crate::platform::Platform;
use crate::problem::{Code, FieldFault, Problem};
use crate::upstreams::{Secrets, adapter, credential_names, notice_url, production_url};
use domain::connection::{Provider, is_name};
use domain::id::ConnectionId;
use domain::offer::Cost;
use domain::time::Timestamp;
use providers::{NotRead, Services, Support, Upstream};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use store::connection::{self, Connection, ConnectionRefusal, Settings, Verification};
use url::Url;

/// A service of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    name: &'static str,
    supported: bool,
    /// Why not.
    reason: Option<&'static str>,
}

/// A balance at an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UpstreamBalanceView {
    amount: Decimal,
    currency: String,
}

/// What came of the last trial.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationView {
    at: Time,
    /// Whether the upstream let us in.
    let_in: bool,
    detail: String,
    /// Our balance there, where it is told.
    balance: Option<UpstreamBalanceView>,
}

/// A connection as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Connection")]
pub struct ConnectionView {
    id: Id,
    name: String,
    /// Whose wire it speaks.
    provider: &'static str,
    base_url: String,
    /// The names of the credentials that are set; what they are is never shown.
    credentials: Vec<String>,
    /// Whether calls go through a proxy.
    proxy: bool,
    enabled: bool,
    /// Smaller goes first, where several connections offer a plan.
    priority: i64,
    /// Calls it takes per second; null for what is published, or no limit.
    calls_per_second: Option<u32>,
    calls_in_flight: u32,
    time_limit_seconds: i64,
    /// Where the upstream tells us news: enter it there. Nobody else may know it.
    callback_url: String,
    /// What the upstream offers beside selling.
    services: Vec<ServiceView>,
    verification: Option<VerificationView>,
    /// Below this balance there the operator is warned.
    low_balance: Option<Decimal>,
    /// Whether it was below it when it was last asked for: every hour, where the upstream tells it.
    balance_is_low: bool,
    created_at: Time,
}

/// `data` with a connection.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneConnection {
    connection: ConnectionView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ConnectionList {
    connections: Vec<ConnectionView>,
}

fn services(services: &Services) -> Vec<ServiceView> {
    let view = |(name, support)| match support {
        Support::Yes => ServiceView { name, supported: true, reason: None },
        Support::No(reason) => ServiceView { name, supported: false, reason: Some(reason) },
    };
    [
        ("cancel", services.cancel),
        ("usage", services.usage),
        ("add_on", services.add_on),
        ("balance", services.balance),
        ("callbacks", services.callbacks),
    ]
    .map(view)
    .into()
}

fn view(platform: &Platform, connection: Connection) -> ConnectionView {
    // One whose key is gone can still be seen, and given credentials again.
    let secrets = platform.with_keyring(|keyring| Secrets::open(keyring, &connection)).ok();
    let offered = platform.upstreams.connected(&connection.name).map(|connected| connected.upstream.services());
    let balance_is_low = connection.balance_is_low();
    let Settings { base_url, priority, calls_per_second, calls_in_flight, time_limit_ms, low_balance } =
        connection.settings;
    ConnectionView {
        id: Id(connection.id.uuid()),
        name: connection.name,
        provider: connection.provider.word(),
        base_url,
        credentials: secrets.iter().flat_map(|secrets| secrets.credentials.keys().cloned()).collect(),
        proxy: secrets.is_some_and(|secrets| secrets.proxy_url.is_some()),
        enabled: connection.enabled,
        priority,
        calls_per_second,
        calls_in_flight,
        time_limit_seconds: time_limit_ms / 1_000,
        callback_url: notice_url(platform, connection.id),
        services: offered.as_ref().map(services).unwrap_or_default(),
        verification: connection.verification.map(|Verification { at, let_in, detail, balance }| VerificationView {
            at: Time(at),
            let_in,
            detail,
            balance: balance
                .map(|balance| UpstreamBalanceView { currency: balance.currency.clone(), amount: Decimal(balance) }),
        }),
        low_balance: low_balance.and_then(|low| Cost::parse(&low, "")).map(Decimal),
        balance_is_low,
        created_at: Time(connection.id.created_at()),
    }
}

/// `GET connections`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let found = call.platform.store.read(connection::all).await?;
    let connections = found.into_iter().map(|connection| view(&call.platform, connection)).collect();
    Ok(Answer::json(200, "Connections", &ConnectionList { connections }))
}

/// Answers with a connection, after this node works with it as it is now.
async fn one(call: &OperatorCall, status: u16, message: &str, connection: Connection) -> Result<Answer, Problem> {
    call.platform.upstreams.reload(&call.platform).await?;
    Ok(Answer::json(status, message, &OneConnection { connection: view(&call.platform, connection) }))
}

pub(super) async fn find(call: &OperatorCall) -> Result<Connection, Problem> {
    let id: ConnectionId = call.id("connectionId")?;
    let found = call.platform.store.read(move |snapshot| connection::find(snapshot, id)).await?;
    found.ok_or_else(Problem::not_found)
}

/// `GET connections/{connectionId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let connection = find(&call).await?;
    Ok(Answer::json(200, "Connection", &OneConnection { connection: view(&call.platform, connection) }))
}

fn provider_words() -> Vec<&'static str> {
    Provider::ALL.iter().map(|provider| provider.word()).collect()
}

const CREDENTIALS: Kind = Kind::Object(&[
    optional("account", Kind::Text(1, 500), "TSIM, microesim, TGT."),
    optional("secret", Kind::Text(1, 500), "TSIM, microesim, TGT."),
    optional("salt", Kind::Text(1, 500), "microesim, in hexadecimal digits."),
    optional("currency", Kind::Text(3, 3), "TGT: ISO 4217, that of the contract."),
    optional("accessCode", Kind::Text(1, 500), "eSIM Access."),
    optional("secretKey", Kind::Text(1, 500), "eSIM Access; without it calls are not signed."),
    optional("clientId", Kind::Text(1, 500), "Airalo."),
    optional("clientSecret", Kind::Text(1, 500), "Airalo."),
    optional("apiKey", Kind::Text(1, 500), "eSIM Go."),
    optional("refunds", Kind::Flag, "eSIM Go: whether the account manager has enabled refunds."),
]);

const SETTINGS: [Field; 7] = [
    optional("baseUrl", Kind::Text(1, 500), "Where its paths begin; the provider's production by default."),
    optional("proxyUrl", Kind::Text(1, 500), "A proxy all calls go through; \"none\" for no proxy any more."),
    optional("priority", Kind::Integer(0, 1_000), "Smaller goes first, where several connections offer a plan; 100."),
    optional("callsPerSecond", Kind::Integer(1, 10_000), "Calls it takes per second."),
    optional("callsInFlight", Kind::Integer(1, 1_000), "Calls in flight at the same time, on each node; 16."),
    optional("timeLimitSeconds", Kind::Integer(1, 85), "How long a call may take; 30, for TSIM 60."),
    optional("lowBalance", Kind::Money, "Warn of a balance there below this, in the upstream's currency; 0: never."),
];

/// The body of a new connection.
pub const CREATE_BODY: &[Field] = &[
    required("name", Kind::Text(2, 40), "Lower-case letters, digits, inner hyphens; never changes."),
    required("provider", Kind::Word(provider_words), "Whose wire it speaks."),
    required("credentials", CREDENTIALS, "What lets us in there; sealed, and never shown again."),
    SETTINGS[0],
    SETTINGS[1],
    SETTINGS[2],
    SETTINGS[3],
    SETTINGS[4],
    SETTINGS[5],
    SETTINGS[6],
];

/// The body of a change; what is left out stays.
pub const CHANGE_BODY: &[Field] = &[
    optional("credentials", CREDENTIALS, "All of them anew."),
    SETTINGS[0],
    SETTINGS[1],
    SETTINGS[2],
    SETTINGS[3],
    SETTINGS[4],
    SETTINGS[5],
    SETTINGS[6],
];

/// What a new connection begins with.
fn defaults(provider: Provider) -> Settings {
    Settings {
        base_url: production_url(provider).to_owned(),
        priority: 100,
        calls_per_second: None,
        calls_in_flight: 16,
        // The full catalogue of TSIM takes 30 to 40 seconds.
        time_limit_ms: if provider == Provider::Tsim { 60_000 } else { 30_000 },
        low_balance: None,
    }
}

fn settings(call: &OperatorCall, before: &Settings) -> Settings {
    let body = &call.body;
    let small = |name: &str| body.integer(name).and_then(|value| u32::try_from(value).ok());
    Settings {
        base_url: body.string("baseUrl").unwrap_or_else(|| before.base_url.clone()),
        priority: body.integer("priority").unwrap_or(before.priority),
        calls_per_second: small("callsPerSecond").or(before.calls_per_second),
        calls_in_flight: small("callsInFlight").unwrap_or(before.calls_in_flight),
        time_limit_ms: body.integer("timeLimitSeconds").map_or(before.time_limit_ms, |seconds| seconds * 1_000),
        low_balance: match body.money("lowBalance", call.platform.currency) {
            None => before.low_balance.clone(),
            Some(low) => (low.minor() > 0).then(|| low.to_string()),
        },
    }
}

/// The credentials of a provider: all it needs, and no other.
fn credentials(provider: Provider, given: &Values) -> Result<crate::upstreams::Credentials, Problem> {
    let (needed, optional) = credential_names(provider);
    let mut faults = Vec::new();
    let mut fault = |name: &str, code, message: String| {
        faults.push(FieldFault { path: format!("credentials.{name}"), code, message });
    };
    let mut credentials = crate::upstreams::Credentials::new();
    let Kind::Object(known) = CREDENTIALS else { return Err(Problem::internal()) };
    for field in known {
        let value = given.string(field.name).or_else(|| given.flag(field.name).map(|flag| flag.to_string()));
        let wanted = needed.contains(&field.name) || optional.contains(&field.name);
        match value {
            Some(value) if wanted => {
                credentials.insert(field.name.to_owned(), value);
            }
            Some(_) => fault(field.name, "unknown_field", format!("is no credential of {provider}")),
            None if needed.contains(&field.name) => {
                fault(field.name, "required", format!("is needed for {provider}"));
            }
            None => {}
        }
    }
    if faults.is_empty() { Ok(credentials) } else { Err(Problem::fields(&faults)) }
}

/// Credentials go over this address: in production only encrypted, or inside this machine.
fn check_address(platform: &Platform, name: &str, address: &str, schemes: &[&str]) -> Result<(), Problem> {
    let malformed = || Problem::field(name, "malformed", format!("must be an address with {}", schemes.join(" or ")));
    let url = Url::parse(address).map_err(|_| malformed())?;
    let is_local = match url.host_str() {
        None => return Err(malformed()),
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    if !schemes.contains(&url.scheme()) {
        return Err(malformed());
    }
    if name == "baseUrl" && (!url.username().is_empty() || url.password().is_some() || url.query().is_some()) {
        return Err(Problem::field(name, "malformed", "must have no user, password or query: credentials are sealed"));
    }
    if name == "baseUrl" && platform.config.is_production() && url.scheme() != "https" && !is_local {
        return Err(Problem::field(name, "malformed", "must be https in production: credentials go over it"));
    }
    Ok(())
}

/// Checks settings and secrets together, and that an adapter can be made of them.
fn check(
    platform: &Platform,
    id: ConnectionId,
    provider: Provider,
    settings: &Settings,
    secrets: &Secrets,
) -> Result<Arc<dyn Upstream>, Problem> {
    check_address(platform, "baseUrl", &settings.base_url, &["https", "http"])?;
    if let Some(proxy) = &secrets.proxy_url {
        check_address(platform, "proxyUrl", proxy, &["http", "https"])?;
    }
    adapter(provider, settings, secrets, notice_url(platform, id), None)
        .map_err(|reason| Problem::field("credentials", "malformed", reason))
}

/// The proxy that is wanted: the one before, another one, or none.
fn proxy(call: &OperatorCall, before: Option<String>) -> Option<String> {
    match call.body.text("proxyUrl") {
        None => before,
        Some("none") => None,
        Some(proxy) => Some(proxy.to_owned()),
    }
}

fn sealed(call: &OperatorCall, id: ConnectionId, secrets: &Secrets) -> Result<connection::Sealed, Problem> {
    call.platform
        .with_keyring(|keyring| secrets.seal(keyring, id))
        .map_err(|KeyError(reason)| Problem::internal().because(reason))
}

/// `POST connections`: a connection begins disabled.
///
/// # Errors
/// A [`Problem`].
pub async fn create(call: OperatorCall) -> Result<Answer, Problem> {
    let name = call.body.required_text("name");
    if !is_name(&name) {
        let message = "must be 2 to 40 lower-case letters, digits and inner hyphens, and not a reserved word";
        return Err(Problem::field("name", "malformed", message));
    }
    let provider: Provider = call.body.parse("provider").ok_or_else(Problem::internal)?;
    let given = call.body.object("credentials").unwrap_or_default();
    let secrets = Secrets { credentials: credentials(provider, &given)?, proxy_url: proxy(&call, None) };
    let settings = settings(&call, &defaults(provider));
    let mut random = [0_u8; 10];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Problem::internal().because("no random numbers"))?;
    let now = u64::try_from(call.platform.clock.now().millis()).unwrap_or(0);
    let id = ConnectionId::new(uuid::Builder::from_unix_timestamp_millis(now, &random).into_uuid());
    check(&call.platform, id, provider, &settings, &secrets)?;
    let sealed = sealed(&call, id, &secrets)?;
    let act = call.act.clone();
    let created = call
        .platform
        .store
        .write(move |tx| connection::create(tx, &act, id, &name, provider, &settings, &sealed))
        .await?;
    one(&call, 201, "Connection made; verify it, then enable it", created).await
}

/// `PATCH connections/{connectionId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn change(call: OperatorCall) -> Result<Answer, Problem> {
    let before = find(&call).await?;
    let (id, provider) = (before.id, before.provider);
    let opened = call.platform.with_keyring(|keyring| Secrets::open(keyring, &before));
    let given = call.body.object("credentials").map(|given| credentials(provider, &given)).transpose()?;
    let secrets = match (given, opened) {
        (Some(credentials), opened) => {
            Secrets { credentials, proxy_url: proxy(&call, opened.ok().and_then(|secrets| secrets.proxy_url)) }
        }
        (None, Ok(Secrets { credentials, proxy_url })) => Secrets { credentials, proxy_url: proxy(&call, proxy_url) },
        (None, Err(KeyError(reason))) => return Err(Problem::field("credentials", "required", reason)),
    };
    let settings = settings(&call, &before.settings);
    // Whoever may change where calls go must not make them carry the old credentials there.
    let moved = settings.base_url != before.settings.base_url || call.body.has("proxyUrl");
    if moved && !call.body.has("credentials") {
        let message = "must be given again when the address or the proxy changes: they would be sent there";
        return Err(Problem::field("credentials", "required", message));
    }
    check(&call.platform, id, provider, &settings, &secrets)?;
    let sealed = if call.body.has("credentials") { Some(sealed(&call, id, &secrets)?) } else { None };
    let act = call.act.clone();
    let changed =
        call.platform.store.write(move |tx| connection::change(tx, &act, id, &settings, sealed.as_ref())).await?;
    one(&call, 200, "Connection changed", changed).await
}

async fn set_enabled(call: OperatorCall, enabled: bool) -> Result<Answer, Problem> {
    let id: ConnectionId = call.id("connectionId")?;
    let act = call.act.clone();
    let changed = call.platform.store.write(move |tx| connection::set_enabled(tx, &act, id, enabled)).await?;
    one(&call, 200, if enabled { "Connection enabled" } else { "Connection disabled" }, changed).await
}

/// `POST connections/{connectionId}/enable`.
///
/// # Errors
/// A [`Problem`].
pub async fn enable(call: OperatorCall) -> Result<Answer, Problem> {
    set_enabled(call, true).await
}

/// `POST connections/{connectionId}/disable`: what it sold goes on being asked for and taken back.
///
/// # Errors
/// A [`Problem`].
pub async fn disable(call: OperatorCall) -> Result<Answer, Problem> {
    set_enabled(call, false).await
}

/// `POST connections/{connectionId}/verify`: asks for the balance, or where there is none to ask for, for the plans.
///
/// # Errors
/// A [`Problem`]; that the upstream does not let us in is none.
pub async fn verify(call: OperatorCall) -> Result<Answer, Problem> {
    let connection = find(&call).await?;
    let id = connection.id;
    let secrets = call.platform.with_keyring(|keyring| Secrets::open(keyring, &connection));
    let secrets = secrets.map_err(|KeyError(reason)| Problem::field("credentials", "required", reason))?;
    let upstream = check(&call.platform, id, connection.provider, &connection.settings, &secrets)?;
    let at = call.platform.clock.now();
    let limit = Duration::from_millis(u64::try_from(connection.settings.time_limit_ms).unwrap_or(30_000));
    let trial = tokio::time::timeout(limit.saturating_mul(2), try_out(upstream.as_ref(), at)).await;
    let verification = trial.unwrap_or_else(|_| Verification {
        at,
        let_in: false,
        detail: "no answer in time".to_owned(),
        balance: None,
    });
    let verified = call.platform.store.write(move |tx| connection::record_verification(tx, id, &verification)).await?;
    one(&call, 200, "Connection tried", verified).await
}

pub(crate) async fn try_out(upstream: &dyn Upstream, at: Timestamp) -> Verification {
    let verified = |detail: String, balance| Verification { at, let_in: true, detail, balance };
    let not_verified = |not_read| Verification { at, let_in: false, detail: why(&not_read), balance: None };
    match upstream.services().balance {
        Support::Yes => match upstream.balance(at).await.meaning {
            Ok(balance) => {
                let left = balance.left;
                verified(format!("balance {} {}", left.decimal(), left.currency), Some(left))
            }
            Err(not_read) => not_verified(not_read),
        },
        Support::No(_) => match upstream.offers(at).await.meaning {
            Ok(offers) => verified(format!("{} plans on offer; the balance is not told", offers.len()), None),
            Err(not_read) => not_verified(not_read),
        },
    }
}

/// What stood in the way, in words for the operator.
pub(crate) fn why(not_read: &NotRead) -> String {
    match not_read {
        NotRead::TryLater { reason, .. } => format!("no answer now: {reason}"),
        NotRead::Refused { code, message } => format!("refused with {code}: {message}"),
        NotRead::NotUnderstood { reason } => format!("the answer was not understood: {reason}"),
        NotRead::Unsupported(reason) => (*reason).to_owned(),
    }
}

impl From<ConnectionRefusal> for Problem {
    fn from(refusal: ConnectionRefusal) -> Self {
        match refusal {
            ConnectionRefusal::NotFound => Self::not_found(),
            ConnectionRefusal::NameTaken => {
                Self::new(Code::NameTaken, "Another connection has this name. Choose another.")
            }
            ConnectionRefusal::AlreadyDecided => Self::already_decided(),
        }
    }
}
