//! The upstreams this node can ask: the sandbox inside the process, and one adapter for each connection. Whoever changes
//! a connection changes what is here within a second, on every node.

use crate::clock::Clock;
use crate::gate::Gate;
use crate::keyring::{KeyError, Keyring};
use crate::platform::Platform;
use domain::connection::Provider;
use domain::id::ConnectionId;
use providers::Upstream;
use providers::airalo::{self, Airalo};
use providers::connection::{Address, Connection as Wire, Pacer, Watcher};
use providers::esim_access::{self, EsimAccess};
use providers::esim_go::{self, EsimGo};
use providers::microesim::{self, MicroEsim};
use providers::tgt::{self, Tgt};
use providers::tsim::{self, Tsim};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use store::connection::{self, Connection, Sealed, Settings};
use store::port::Fault;
use tokio::sync::watch;
use url::Url;

/// What lets one in at an upstream, in clear: by the names of [`credential_names`].
pub type Credentials = BTreeMap<String, String>;

/// What is sealed of a connection.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secrets {
    /// The account there.
    pub credentials: Credentials,
    /// A proxy all calls go through; its address may hold a password.
    pub proxy_url: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("credentials", &self.credentials.keys()).finish_non_exhaustive()
    }
}

impl Secrets {
    /// Seals them for a connection.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn seal(&self, keyring: &Keyring, connection: ConnectionId) -> Result<Sealed, KeyError> {
        let plain = serde_json::to_vec(self).map_err(|error| KeyError(error.to_string()))?;
        keyring.seal(connection, &plain)
    }

    /// Opens those of a connection.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(keyring: &Keyring, connection: &Connection) -> Result<Self, KeyError> {
        let plain = keyring.open(connection.id, &connection.sealed)?;
        serde_json::from_slice(&plain)
            .map_err(|_| KeyError("the credentials cannot be read; set them again".to_owned()))
    }
}

/// The names of what lets one in at a provider: those that are needed, and those that may be left out.
#[must_use]
pub const fn credential_names(provider: Provider) -> (&'static [&'static str], &'static [&'static str]) {
    match provider {
        Provider::Tsim => (&["account", "secret"], &[]),
        Provider::EsimAccess => (&["accessCode"], &["secretKey"]),
        Provider::Airalo => (&["clientId", "clientSecret"], &[]),
        Provider::EsimGo => (&["apiKey"], &["refunds"]),
        Provider::MicroEsim => (&["account", "secret", "salt"], &[]),
        Provider::Tgt => (&["account", "secret", "currency"], &[]),
    }
}

/// Where a provider's production API is, as its documents say.
#[must_use]
pub const fn production_url(provider: Provider) -> &'static str {
    match provider {
        Provider::Tsim => "https://api.tsimtech.com",
        Provider::EsimAccess => "https://api.esimaccess.com",
        Provider::Airalo => "https://partners-api.airalo.com",
        Provider::EsimGo => "https://api.esim-go.com/v2.4",
        Provider::MicroEsim => "https://www.microesim.top",
        Provider::Tgt => "https://enterpriseapi.tugegroup.com:8070/openapi",
    }
}

/// Makes the adapter of a connection; nothing is sent yet. `notice_url` is our address for its news; the gate is told after
/// each call whether the upstream was there, and lets the calls begin of which a reading needs many.
///
/// # Errors
/// A line for the operator.
pub fn adapter(
    provider: Provider,
    settings: &Settings,
    secrets: &Secrets,
    notice_url: String,
    gate: Option<&Arc<Gate>>,
) -> Result<Arc<dyn Upstream>, String> {
    let url = |text: &str| Url::parse(text).map_err(|error| format!("{text} is no address: {error}"));
    // A proxy's address may hold a password, which no message may show.
    let proxy = |text: &String| Url::parse(text).map_err(|error| format!("the proxy is no address: {error}"));
    let address = Address {
        base_url: url(&settings.base_url)?,
        proxy: secrets.proxy_url.as_ref().map(proxy).transpose()?,
        time_limit: Duration::from_millis(u64::try_from(settings.time_limit_ms).unwrap_or(30_000)),
    };
    let wire = Wire::new(&address)?;
    let wire = match gate {
        Some(gate) => wire.watched(watcher(gate)).paced(pacer(gate)),
        None => wire,
    };
    let given = |name: &str| secrets.credentials.get(name).cloned();
    let needed = |name: &str| given(name).ok_or_else(|| format!("{name} is missing"));
    Ok(match provider {
        Provider::Tsim => {
            Arc::new(Tsim::new(wire, tsim::Account { account: needed("account")?, secret: needed("secret")? }))
        }
        Provider::EsimAccess => {
            let account = esim_access::Account { access_code: needed("accessCode")?, secret_key: given("secretKey") };
            Arc::new(EsimAccess::new(wire, account))
        }
        Provider::Airalo => {
            let account = airalo::Account { client_id: needed("clientId")?, client_secret: needed("clientSecret")? };
            Arc::new(Airalo::new(wire, account))
        }
        Provider::EsimGo => {
            let refunds = given("refunds").as_deref() == Some("true");
            Arc::new(EsimGo::new(wire, esim_go::Account { api_key: needed("apiKey")?, refunds }))
        }
        Provider::MicroEsim => Arc::new(MicroEsim::new(
            wire,
            microesim::Account {
                account: needed("account")?,
                secret: needed("secret")?,
                salt: needed("salt")?,
                notify_url: Some(notice_url),
            },
        )?),
        Provider::Tgt => {
            let (account, secret, currency) = (needed("account")?, needed("secret")?, needed("currency")?);
            Arc::new(Tgt::new(wire, tgt::Account { account, secret, currency }))
        }
    })
}

fn watcher(gate: &Arc<Gate>) -> Watcher {
    let gate = Arc::clone(gate);
    Arc::new(move |answered| gate.heard(answered))
}

fn pacer(gate: &Arc<Gate>) -> Pacer {
    let gate = Arc::clone(gate);
    Arc::new(move || {
        let gate = Arc::clone(&gate);
        Box::pin(async move { gate.pace().await })
    })
}

/// A connection with its adapter.
#[derive(Clone)]
pub struct Connected {
    /// The connection as it was read.
    pub connection: Connection,
    /// Its adapter.
    pub upstream: Arc<dyn Upstream>,
    /// What stands before it.
    pub gate: Arc<Gate>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// The upstreams by name.
pub struct Upstreams {
    built_in: BTreeMap<String, (Arc<dyn Upstream>, Arc<Gate>)>,
    connected: RwLock<BTreeMap<String, Connected>>,
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").field("built_in", &self.built_in.keys()).finish_non_exhaustive()
    }
}

impl Upstreams {
    /// The upstreams inside the process, with so many calls to each at the same time.
    #[must_use]
    pub fn new(built_in: BTreeMap<String, Arc<dyn Upstream>>, clock: &Arc<dyn Clock>, most_calls: usize) -> Self {
        let gated = |(name, upstream)| (name, (upstream, Arc::new(Gate::new(Arc::clone(clock), most_calls, None))));
        Self {
            built_in: built_in.into_iter().map(gated).collect(),
            connected: RwLock::default(),
            changed: watch::Sender::default(),
        }
    }

    /// The upstream of a name, whether it sells at the moment or not: what it sold is asked for either way.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Upstream>> {
        let built_in = self.built_in.get(name).map(|(upstream, _)| Arc::clone(upstream));
        built_in.or_else(|| self.connected(name).map(|connected| connected.upstream))
    }

    /// The gate before the upstream of a name.
    #[must_use]
    pub fn gate(&self, name: &str) -> Option<Arc<Gate>> {
        let built_in = self.built_in.get(name).map(|(_, gate)| Arc::clone(gate));
        built_in.or_else(|| self.connected(name).map(|connected| connected.gate))
    }

    /// The connection of a name.
    #[must_use]
    pub fn connected(&self, name: &str) -> Option<Connected> {
        self.connected.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Whether new orders may go to the upstream of this name.
    #[must_use]
    pub fn sells(&self, name: &str) -> bool {
        self.built_in.contains_key(name) || self.connected(name).is_some_and(|connected| connected.connection.enabled)
    }

    /// All connections.
    #[must_use]
    pub fn all_connected(&self) -> Vec<Connected> {
        self.connected.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The names of all upstreams, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let connected = self.connected.read().unwrap_or_else(PoisonError::into_inner);
        self.built_in.keys().chain(connected.keys()).cloned().collect()
    }

    /// Tells when connections were made or changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Reads the connections, and makes the adapters of those that are new or changed. One that did not change keeps
    /// its adapter, with the token and the connections to the upstream it holds.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn reload(&self, platform: &Platform) -> Result<(), Fault> {
        let rows = platform.store.read(connection::all).await?;
        let before = self.all_connected();
        if rows.iter().eq(before.iter().map(|connected| &connected.connection)) {
            return Ok(());
        }
        let mut fresh = BTreeMap::new();
        for row in rows {
            let before = self.connected(&row.name);
            let kept = before.clone().filter(|kept| {
                kept.connection.sealed == row.sealed
                    && kept.connection.settings == row.settings
                    && kept.connection.provider == row.provider
            });
            let made = match kept {
                Some(kept) => Ok((kept.upstream, kept.gate)),
                None => make(platform, &row),
            };
            let connected = match made {
                Ok((upstream, gate)) => Some(Connected { connection: row, upstream, gate }),
                Err(reason) => {
                    tracing::error!(connection = row.name, reason, "a connection cannot be used as it is");
                    // Its credentials were sealed under a key this node does not have yet, say. As it was it can still
                    // be asked for what it sold; the next reading tries again.
                    before
                }
            };
            fresh.extend(connected.map(|connected| (connected.connection.name.clone(), connected)));
        }
        *self.connected.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.changed.send_replace(());
        Ok(())
    }
}

fn make(platform: &Platform, connection: &Connection) -> Result<(Arc<dyn Upstream>, Arc<Gate>), String> {
    let secrets =
        platform.with_keyring(|keyring| Secrets::open(keyring, connection)).map_err(|KeyError(reason)| reason)?;
    let Settings { calls_in_flight, calls_per_second, .. } = connection.settings;
    let most = usize::try_from(calls_in_flight).unwrap_or(1);
    let notice_url = notice_url(platform, connection.id);
    // What the adapter declares is asked of one that watches nobody.
    let plain = adapter(connection.provider, &connection.settings, &secrets, notice_url.clone(), None)?;
    let per_second = calls_per_second.or(plain.services().calls_per_second);
    let gate = Arc::new(Gate::new(Arc::clone(&platform.clock), most, per_second));
    let upstream = adapter(connection.provider, &connection.settings, &secrets, notice_url, Some(&gate))?;
    Ok((upstream, gate))
}

/// The address at which a connection's upstream tells us news.
#[must_use]
pub fn notice_url(platform: &Platform, connection: ConnectionId) -> String {
    let token = platform.with_keyring(|keyring| keyring.notice_token(connection));
    format!("{}/api/webhooks/upstream/{token}", platform.base_url)
}
