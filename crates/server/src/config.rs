//! What the operator may set, and from where: built-in defaults < file < environment < flags. Whatever cannot be meant
//! (an unknown name, a wrong type, a value out of range) ends the start with one line that says where and what to do,
//! because a setting that is silently ignored is found out in production. `config.default.toml` is the only source of
//! defaults; the structs here have none.

mod error;
mod layers;
mod secret;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;

pub use self::error::{ConfigError, Source};
use self::layers::{CONFIG_VARIABLE, Layers, PREFIX};
pub use self::secret::{MasterKey, Secret};
use self::values::{bic_is_valid, decimal_units, iban_is_valid, is_loopback_origin};
use crate::trusted_proxies::TrustedProxies;

/// The built-in defaults as they are documented, for `esimd` to print.
pub const DEFAULTS: &str = include_str!("../../../config.default.toml");

/// All settings, checked. The fields are the keys of `config.default.toml`, which explains each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Development or production.
    pub environment: Environment,
    /// Where the API and the pages are served.
    #[serde(deserialize_with = "values::socket")]
    pub listen: SocketAddr,
    /// Where metrics and the operator API are served, if not on `listen`.
    #[serde(deserialize_with = "values::optional_socket")]
    pub admin_listen: Option<SocketAddr>,
    /// Folder of the embedded database and of the sandbox's world.
    #[serde(deserialize_with = "values::folder")]
    pub data_dir: PathBuf,
    /// Which database.
    pub database: Database,
    /// What every link begins with, if it is set; use [`Config::base_url`].
    #[serde(deserialize_with = "values::optional_origin")]
    pub public_url: Option<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// Whether new partners wait for approval.
    pub registration: Registration,
    /// Whether requests are limited per tenant and per address.
    pub rate_limit: Switch,
    /// Filter of the logs, in the syntax of `tracing-subscriber`; it parses.
    #[serde(deserialize_with = "values::log_filter")]
    pub log: String,
    /// Shape of the logs.
    pub log_format: LogFormat,
    /// Limits of traffic.
    pub limits: Limits,
    /// Logins.
    pub auth: Auth,
    /// Money.
    pub billing: Billing,
    /// Top-ups.
    pub top_up: TopUp,
    /// Where partners send bank transfers; use [`Config::bank_details`].
    pub bank_transfer: BankDetails,
    /// What only development shows.
    pub development: Development,
    /// The built-in upstream.
    pub sandbox: Sandbox,
    /// The first operator.
    pub operator: Operator,
    /// Workers.
    pub fulfilment: Fulfilment,
    /// Which offer an order goes to.
    pub routing: Routing,
    /// What connected upstreams offer.
    pub catalogue: Catalogue,
    /// How PostgreSQL is used.
    pub postgres: Postgres,
    /// Stored answers.
    pub idempotency: Idempotency,
    /// From ESIMD_MASTER_KEY only; always there in production.
    #[serde(skip)]
    pub master_key: Option<MasterKey>,
}

/// What the installation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Something to try out at once: sandbox in live mode, demo bank details, a demo partner.
    Development,
    /// Real money: nothing seeded, keys and addresses required.
    Production,
}

/// How partners become active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// At once.
    Open,
    /// When the operator agrees.
    Approval,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Shape of the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Which database holds everything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Database {
    /// SQLite in the data folder.
    Sqlite,
    /// PostgreSQL at this address; it may hold a password.
    Postgres(Secret),
}

impl TryFrom<String> for Database {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            Ok(Self::Sqlite)
        } else if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Ok(Self::Postgres(Secret::from(text)))
        } else {
            // The text is not repeated: it may hold a password.
            Err("must begin with postgres://, or be empty for SQLite in the data folder")
        }
    }
}

/// Limits of traffic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests per second and tenant.
    pub tenant_per_second: u32,
    /// Requests a tenant may send at once.
    pub tenant_burst: u32,
    /// Requests per second and address on public endpoints.
    pub public_per_second: u32,
    /// Requests an address may send at once.
    pub public_burst: u32,
    /// Largest request body.
    pub body_bytes: usize,
    /// After how long a client that neither sends nor reads is dropped.
    pub stalled_client_seconds: u64,
}

/// Logins.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// How long a token is valid.
    pub token_hours: u32,
    /// Password hashes computed at the same time.
    pub hashing_threads: usize,
    /// Failures per account within the window.
    pub login_failures_per_account: u32,
    /// Failures per address within the window.
    pub login_failures_per_address: u32,
    /// Length of the window.
    pub login_window_minutes: u32,
}

/// Money.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// ISO 4217 code of new tenants' balances: three capitals; whether it exists is for the money rules to say.
    #[serde(deserialize_with = "values::currency_code")]
    pub currency: String,
}

/// Top-ups.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUp {
    /// Smallest amount, in major units, as exact decimal text.
    #[serde(deserialize_with = "values::decimal")]
    pub min: String,
    /// Largest amount, in major units, as exact decimal text; not less than `min`.
    #[serde(deserialize_with = "values::decimal")]
    pub max: String,
    /// How long a bank transfer is waited for.
    pub expires_days: u32,
}

/// Where partners send bank transfers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BankDetails {
    /// Who holds the account.
    pub account_holder: String,
    /// Name of the bank.
    pub bank_name: String,
    /// Address of the bank.
    pub bank_address: String,
    /// IBAN.
    pub iban: String,
    /// Account number, where there is no IBAN.
    pub account_number: String,
    /// BIC.
    pub bic: String,
    /// Routing code in the bank's country.
    pub routing_code: String,
}

impl BankDetails {
    fn is_empty(&self) -> bool {
        [
            &self.account_holder,
            &self.bank_name,
            &self.bank_address,
            &self.iban,
            &self.account_number,
            &self.bic,
            &self.routing_code,
        ]
        .iter()
        .all(|text| text.is_empty())
    }
}

/// What only development shows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Development {
    /// Details marked as demo that no bank accepts.
    pub bank_transfer: BankDetails,
}

/// The built-in upstream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// How long until it delivers.
    pub delay_ms: u64,
    /// Where its made-up numbers begin.
    pub seed: u64,
}

/// The first operator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// E-mail address, or empty.
    pub email: String,
    /// Password, or empty.
    pub password: Secret,
}

impl Operator {
    /// E-mail address and password, if they are set.
    pub fn credentials(&self) -> Option<(&str, &Secret)> {
        (!self.email.is_empty()).then_some((self.email.as_str(), &self.password))
    }
}

/// How PostgreSQL is used.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Connections of this process.
    pub connections: usize,
    /// Milliseconds that a host may take to accept a connection, and as many again to let us in.
    pub connect_timeout_ms: u64,
    /// Milliseconds that one statement may take.
    pub statement_timeout_ms: u64,
    /// Milliseconds that one statement may wait for a lock.
    pub lock_timeout_ms: u64,
}

/// Workers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fulfilment {
    /// Calls in flight to one upstream at the same time.
    pub in_flight_per_upstream: usize,
    /// Attempts before a job is dead.
    pub max_attempts: u32,
    /// Hours until the operator is asked about what may be sold.
    pub patience_hours: u32,
}

/// Which offer an order goes to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// The least margin an order is placed with, hundredths of a percent of its price.
    pub least_margin_basis_points: i64,
}

/// What connected upstreams offer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Minutes between two readings of a list; 0 for only when the operator asks.
    pub sync_minutes: u32,
}

/// Stored answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// How long the answer to a key is kept.
    pub keep_hours: u32,
}

/// The flags that every command takes; they win over file and environment.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// File with settings, TOML [environment: ESIMD_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to serve on [environment: ESIMD_LISTEN]
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Folder for the embedded database [environment: ESIMD_DATA_DIR]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Database address, postgres://... [environment: ESIMD_DATABASE]
    #[arg(long, global = true, value_name = "URL")]
    pub database: Option<String>,
}

/// The process's own environment, for [`Config::load`]. What is not UTF-8 is kept marked, and refused there.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

impl Config {
    /// Reads the settings: defaults, then the file that the flags or ESIMD_CONFIG name, then the environment, then flags.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line for the operator.
    pub fn load(args: &Overrides, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let variables: BTreeMap<String, String> = env.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let named = match (&args.config, variables.get(CONFIG_VARIABLE).filter(|path| !path.is_empty())) {
            (Some(path), _) => Some((path.clone(), Source::Flag("--config"))),
            (None, Some(path)) => Some((PathBuf::from(path), Source::Variable(CONFIG_VARIABLE.to_owned()))),
            (None, None) => None,
        };
        let file = match named {
            None => None,
            Some((path, named_by)) => match std::fs::read_to_string(&path) {
                Ok(text) => Some((path, text)),
                Err(error) => {
                    return Err(ConfigError::Unreadable { path, named_by, reason: error.to_string() });
                }
            },
        };
        Self::from_layers(file.as_ref().map(|(path, text)| (path.as_path(), text.as_str())), &variables, args)
    }

    /// The settings from what was read already: the file's name and text, all `ESIMD_` variables, the flags.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line for the operator.
    pub fn from_layers(
        file: Option<(&Path, &str)>,
        variables: &BTreeMap<String, String>,
        args: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::defaults()?;
        if let Some((path, text)) = file {
            layers.add_file(path, text)?;
        }
        let master_key = layers.add_variables(variables)?;
        for (flag, key, value) in [("--listen", "listen", &args.listen), ("--database", "database", &args.database)] {
            if let Some(value) = value {
                layers.set(key, Value::String(value.clone()), Source::Flag(flag))?;
            }
        }
        let mut config = layers.read()?;
        if let Some(folder) = &args.data_dir {
            // Past the layers: a folder's name need not be UTF-8.
            config.data_dir = folder.clone();
        }
        config.master_key = master_key;
        config.check(&layers)?;
        Ok(config)
    }

    /// Whether this is production.
    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// What every link begins with, without a slash at the end. `bound` is the address really listened on, which counts
    /// only in development, where nothing may be set.
    pub fn base_url(&self, bound: SocketAddr) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let reachable = match bound.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(reachable, bound.port()))
    }

    /// The address of a PostgreSQL.
    ///
    /// # Errors
    /// What it must be.
    pub fn parse_database(text: String) -> Result<Secret, &'static str> {
        match Database::try_from(text)? {
            Database::Postgres(url) => Ok(url),
            Database::Sqlite => Err("must begin with postgres://"),
        }
    }

    /// Where partners send bank transfers; nothing if the method is not set up.
    pub fn bank_details(&self) -> Option<&BankDetails> {
        if !self.bank_transfer.is_empty() {
            Some(&self.bank_transfer)
        } else if self.is_production() {
            None
        } else {
            Some(&self.development.bank_transfer)
        }
    }

    /// The rules between several settings.
    fn check(&self, layers: &Layers) -> Result<(), ConfigError> {
        if self.admin_listen == Some(self.listen) && self.listen.port() != 0 {
            let reason = format!("{} is also `listen`; choose another port, or leave it empty", self.listen);
            return Err(layers.invalid("admin_listen", reason));
        }
        if decimal_units(&self.top_up.min) > decimal_units(&self.top_up.max) {
            let reason = format!("{} is less than `top_up.min`, {}", self.top_up.max, self.top_up.min);
            return Err(layers.invalid("top_up.max", reason));
        }
        self.check_bank_transfer(layers)?;
        self.check_operator(layers)?;
        if self.is_production() { self.check_production(layers) } else { Ok(()) }
    }

    fn check_bank_transfer(&self, layers: &Layers) -> Result<(), ConfigError> {
        let bank = &self.bank_transfer;
        if bank.is_empty() {
            return Ok(());
        }
        let needed = "is empty, but other bank details are set; set it, or empty all of [bank_transfer]";
        if bank.account_holder.is_empty() {
            Err(layers.invalid("bank_transfer.account_holder", needed))
        } else if bank.bank_name.is_empty() {
            Err(layers.invalid("bank_transfer.bank_name", needed))
        } else if bank.iban.is_empty() && bank.account_number.is_empty() {
            let reason = "is empty, and so is `bank_transfer.account_number`; set one, or empty all of [bank_transfer]";
            Err(layers.invalid("bank_transfer.iban", reason))
        } else if !bank.iban.is_empty() && !iban_is_valid(&bank.iban) {
            let reason = format!("{} is no IBAN, its check digits do not fit; correct it", bank.iban);
            Err(layers.invalid("bank_transfer.iban", reason))
        } else if !bank.bic.is_empty() && !bic_is_valid(&bank.bic) {
            let reason = format!("{} is no BIC; it has 8 or 11 letters and digits", bank.bic);
            Err(layers.invalid("bank_transfer.bic", reason))
        } else {
            Ok(())
        }
    }

    fn check_operator(&self, layers: &Layers) -> Result<(), ConfigError> {
        let (email, password) = (&self.operator.email, self.operator.password.expose());
        if email.is_empty() && password.is_empty() {
            return Ok(());
        }
        if email.is_empty() {
            Err(layers.invalid("operator.email", "is empty, but a password is set; set both or neither"))
        } else if !email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()) {
            Err(layers.invalid("operator.email", format!("`{email}` is no e-mail address")))
        } else if !(10..=128).contains(&password.chars().count()) {
            Err(layers.invalid("operator.password", "must have 10 to 128 characters, since `operator.email` is set"))
        } else {
            Ok(())
        }
    }

    fn check_production(&self, layers: &Layers) -> Result<(), ConfigError> {
        let Some(url) = &self.public_url else {
            return Err(ConfigError::Missing {
                what: "`public_url` is required in production",
                remedy: "set it, or ESIMD_PUBLIC_URL, to the address partners use, such as https://esim.example.com"
                    .to_owned(),
            });
        };
        if !url.starts_with("https://") && !is_loopback_origin(url) {
            let reason = format!("{url} must begin with https:// in production; http is for loopback hosts only");
            return Err(layers.invalid("public_url", reason));
        }
        if self.master_key.is_none() {
            return Err(ConfigError::Missing {
                what: "ESIMD_MASTER_KEY is required in production",
                remedy: "set it to 32 random bytes as base64, made once by `openssl rand -base64 32`, and keep a copy"
                    .to_owned(),
            });
        }
        Ok(())
    }
}
