//! The stage of every story: a real server on a free port, with its own folder, clock and seed, and
//! callers that speak HTTP to it as partners, operators and strangers do.

use crate::promise;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use server::clock::{Clock, TestClock};
use server::config::{Config, Overrides};
use server::{App, Runtime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use testing::FreshDatabase;

/// Whether these stories are told on PostgreSQL: a link makes two test programs of the same files.
pub const ON_POSTGRES: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"stories_on_postgres");

pub const OPERATOR_EMAIL: &str = "operator@example.com";

/// A password no list of common ones has, made anew for each run of the tests.
pub fn password() -> String {
    format!("story-{:08x}", std::process::id())
}

/// Two servers of one story must not make the same ids.
static SEEDS: AtomicU64 = AtomicU64::new(0);

/// A running server of one story.
pub struct Stage {
    pub url: String,
    pub clock: TestClock,
    pub dir: tempfile::TempDir,
    pub database: Option<FreshDatabase>,
    client: reqwest::Client,
    app: Option<App>,
    settings: Vec<(String, String)>,
    numbers: AtomicU64,
}

/// Somebody who calls the server, with a token or without.
#[derive(Clone)]
pub struct Caller {
    client: reqwest::Client,
    url: String,
    pub token: Option<String>,
}

/// A registered tenant, logged in.
pub struct Partner {
    pub caller: Caller,
    pub id: String,
    pub email: String,
    pub password: String,
    pub subdomain: String,
}

impl std::ops::Deref for Partner {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    pub json: Value,
}

impl Reply {
    /// The text of the body.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// One header as text, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Asserts success with this status and the envelope, and returns `data`.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.json["success"], json!(true), "{}", self.text());
        assert_eq!(self.json["error"], json!(""), "{}", self.text());
        self.json["data"].clone()
    }

    /// Asserts a refusal with this status and code and the envelope, and returns `data`.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, &self.json["error"]), (status, &json!(code)), "{}", self.text());
        assert_eq!(self.json["success"], json!(false), "{}", self.text());
        assert!(self.json["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.text());
        self.json["data"].clone()
    }

    /// Asserts 422 `validation_failed` and returns the sorted `path code` pairs.
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let data = self.refused(422, "validation_failed");
        let mut faults: Vec<String> = data["fields"]
            .as_array()
            .unwrap_or_else(|| panic!("no fields: {}", self.text()))
            .iter()
            .map(|field| format!("{} {}", field["path"].as_str().unwrap(), field["code"].as_str().unwrap()))
            .collect();
        faults.sort();
        faults
    }
}

impl Caller {
    /// A request to be made up further.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and reads the answer.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let request = request.build().expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.expect("the server answers");
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await.expect("a whole answer").to_vec();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let media = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
        promise::keep(&method, &path, status, media, &json);
        Reply { status, headers, bytes, json }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path)).await
    }

    async fn with_body(&self, method: Method, path: &str, body: &Value) -> Reply {
        let request = self.request(method, path).header("content-type", "application/json").body(body.to_string());
        self.send(request).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.with_body(Method::POST, path, &body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.with_body(Method::PUT, path, &body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.with_body(Method::PATCH, path, &body).await
    }

    /// A POST with an `Idempotency-Key`.
    pub async fn post_once(&self, path: &str, key: &str, body: Value) -> Reply {
        let request = self
            .request(Method::POST, path)
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_string());
        self.send(request).await
    }

    /// The same caller with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Buys one line of `quantity` eSIMs of the plan and returns `data`.
    #[track_caller]
    pub fn buy(&self, plan: &str, quantity: u32) -> impl Future<Output = Value> {
        let caller = self.clone();
        let body = json!({"items": [{"planId": plan, "quantity": quantity}]});
        async move { caller.post("/api/tenant/orders/checkout?wait=20", body).await.ok(201) }
    }

    /// The id of the plan with this name.
    pub async fn plan(&self, name: &str) -> String {
        let plans = self.get("/api/tenant/available-plans").await.ok(200);
        plans["plans"]
            .as_array()
            .unwrap()
            .iter()
            .find(|plan| plan["name"] == name)
            .unwrap_or_else(|| panic!("no plan {name}"))["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The credit balance as the API writes it.
    pub async fn balance(&self) -> String {
        self.get("/api/tenant/balance").await.ok(200)["creditBalance"].to_string()
    }
}

impl Stage {
    /// A server that delivers at once, without rate limits.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with settings, named as environment variables.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let mut stage = Self::prepared(settings);
        stage.up().await;
        stage
    }

    /// A server that was never started.
    pub fn prepared(settings: &[(&str, &str)]) -> Self {
        let clock = TestClock::at(1_795_000_000_000);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self {
            url: String::new(),
            clock,
            dir,
            database: ON_POSTGRES.then(FreshDatabase::new),
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
            app: None,
            settings,
            numbers: AtomicU64::new(0),
        }
    }

    /// Starts it.
    pub async fn up(&mut self) {
        let app = self.try_up().await.expect("the server starts");
        self.url = format!("http://{}", app.address());
        self.app = Some(app);
    }

    /// Tries to start the server on this address; what keeps it from that.
    pub async fn refuses_to_start_on(&mut self, address: &str) -> String {
        self.url = format!("http://{address}");
        self.try_up().await.map(|_| ()).expect_err("an address in use").to_string()
    }

    /// The database as it was left, as the command line reads it.
    pub async fn stored(&self) -> store::Store {
        let runtime = Runtime { clock: Arc::new(self.clock.clone()), seed: 1 };
        server::database::open_to_read(&self.config(), &runtime).await.expect("a database")
    }

    async fn try_up(&mut self) -> Result<App, server::StartError> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let seed = 7 + SEEDS.fetch_add(1, Ordering::Relaxed);
        App::start(self.config(), Runtime { clock, seed }).await
    }

    fn config(&self) -> Config {
        // A restarted server has its address again: links that were given out must work.
        let address = self.url.strip_prefix("http://").unwrap_or("127.0.0.1:0").to_owned();
        let mut settings = vec![
            ("ESIMD_LISTEN".to_owned(), address),
            ("ESIMD_DATA_DIR".to_owned(), self.dir.path().join("data").display().to_string()),
            ("ESIMD_SANDBOX_DELAY_MS".to_owned(), "0".to_owned()),
            ("ESIMD_RATE_LIMIT".to_owned(), "off".to_owned()),
            ("ESIMD_POSTGRES_CONNECTIONS".to_owned(), "5".to_owned()),
            // Upstreams' lists are read when the story says so.
            ("ESIMD_CATALOGUE_SYNC_MINUTES".to_owned(), "0".to_owned()),
            ("ESIMD_OPERATOR_EMAIL".to_owned(), OPERATOR_EMAIL.to_owned()),
            ("ESIMD_OPERATOR_PASSWORD".to_owned(), password()),
        ];
        let on_postgres = |database: &FreshDatabase| ("ESIMD_DATABASE".to_owned(), database.url());
        settings.extend(self.database.as_ref().map(on_postgres));
        for (name, value) in &self.settings {
            settings.retain(|(known, _)| known != name);
            settings.push((name.clone(), value.clone()));
        }
        Config::load(&Overrides::default(), settings.into_iter()).expect("a valid configuration")
    }

    /// Stops the server as SIGTERM does, and starts it again over the same folder.
    pub async fn restart(&mut self) {
        self.app.take().expect("a running server").stop().await;
        self.up().await;
    }

    /// What the running server shares.
    pub fn platform(&self) -> &Arc<server::platform::Platform> {
        self.app.as_ref().expect("a running server").platform()
    }

    /// Returns when no job is due and nobody works on one, so that time may pass.
    pub async fn quiet(&self) {
        let platform = self.app.as_ref().expect("a running server").platform();
        loop {
            let now = self.clock.now();
            let quiet = platform.store.read(move |snapshot| store::job::is_quiet(snapshot, now)).await;
            if quiet == Ok(true) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Somebody without a token.
    pub fn stranger(&self) -> Caller {
        Caller { client: self.client.clone(), url: self.url.clone(), token: None }
    }

    /// Registers a tenant and logs it in, in live mode, without credit.
    pub async fn partner(&self) -> Partner {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (email, subdomain) = (format!("owner{number}@partner.example"), format!("partner-{number}"));
        let stranger = self.stranger();
        let registered = stranger
            .post(
                "/api/tenant/register",
                json!({"name": format!("Partner {number}"), "subdomain": subdomain, "contactEmail": email, "password": password()}),
            )
            .await
            .ok(201);
        let id = registered["tenant"]["id"].as_str().unwrap().to_owned();
        let caller = self.login(&email, "live").await;
        Partner { caller, id, email, password: password(), subdomain }
    }

    /// A tenant with this much live credit, given by the operator.
    pub async fn partner_with(&self, credit: &str) -> Partner {
        let partner = self.partner().await;
        let amount: Value = serde_json::from_str(credit).unwrap();
        self.operator()
            .await
            .post(
                &format!("/api/operator/tenants/{}/adjustments", partner.id),
                json!({"amount": amount, "reason": "credit for the story"}),
            )
            .await
            .ok(201);
        partner
    }

    /// Logs a tenant's owner in.
    pub async fn login(&self, email: &str, mode: &str) -> Caller {
        let stranger = self.stranger();
        let body = json!({"email": email, "password": password(), "mode": mode});
        let data = stranger.post("/api/tenant/login", body).await.ok(200);
        stranger.with_token(data["token"].as_str().unwrap())
    }

    /// The operator, logged in.
    pub async fn operator(&self) -> Caller {
        let stranger = self.stranger();
        let body = json!({"email": OPERATOR_EMAIL, "password": password()});
        let data = stranger.post("/api/operator/login", body).await.ok(200);
        stranger.with_token(data["token"].as_str().unwrap())
    }
}
