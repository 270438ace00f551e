//! How file, environment and flags are laid over the defaults, one key at a time. The defaults say which keys exist and of
//! which kind they are; after each key everything is read again, so that whatever is wrong is that key from that source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};

use super::{Config, ConfigError, DEFAULTS, MasterKey, Source};

pub(super) const PREFIX: &str = "ESIMD_";
pub(super) const CONFIG_VARIABLE: &str = "ESIMD_CONFIG";
pub(super) const MASTER_KEY_VARIABLE: &str = "ESIMD_MASTER_KEY";
pub(super) const MASTER_KEY_NAME: &str = "master_key";

/// Every whole number and the values it may have; the comments of the defaults say the same (a test compares them).
pub(super) const RANGES: &[(&str, i64, i64)] = &[
    ("limits.tenant_per_second", 1, 1_000_000),
    ("limits.tenant_burst", 1, 1_000_000),
    ("limits.public_per_second", 1, 1_000_000),
    ("limits.public_burst", 1, 1_000_000),
    ("limits.body_bytes", 1_024, 67_108_864),
    ("limits.stalled_client_seconds", 1, 3_600),
    ("auth.token_hours", 1, 720),
    ("auth.hashing_threads", 1, 64),
    ("auth.login_failures_per_account", 1, 100_000),
    ("auth.login_failures_per_address", 1, 100_000),
    ("auth.login_window_minutes", 1, 1_440),
    ("top_up.expires_days", 1, 365),
    ("sandbox.delay_ms", 0, 600_000),
    ("sandbox.seed", 0, i64::MAX),
    ("postgres.connections", 5, 500),
    ("postgres.connect_timeout_ms", 100, 60_000),
    ("postgres.statement_timeout_ms", 1_000, 600_000),
    ("postgres.lock_timeout_ms", 100, 600_000),
    ("fulfilment.in_flight_per_upstream", 1, 10_000),
    ("fulfilment.max_attempts", 1, 1_000),
    ("fulfilment.patience_hours", 1, 720),
    ("routing.least_margin_basis_points", 0, 10_000),
    ("catalogue.sync_minutes", 0, 10_080),
    ("idempotency.keep_hours", 24, 720),
];

/// The values so far, and who set each.
pub(super) struct Layers {
    pub(super) merged: Table,
    pub(super) sources: BTreeMap<String, Source>,
}

impl Layers {
    pub(super) fn defaults() -> Result<Self, ConfigError> {
        let mut layers = Self { merged: Table::new(), sources: BTreeMap::new() };
        layers.merged = parse(Path::new("config.default.toml"), DEFAULTS)?;
        layers.sources = leaves(&layers.merged).into_iter().map(|(key, _)| (key, Source::Default)).collect();
        layers.read()?;
        Ok(layers)
    }

    pub(super) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let source = Source::File(path.to_owned());
        for (key, value) in leaves(&parse(path, text)?) {
            let is_section = self.sources.keys().any(|known| known.starts_with(&format!("{key}.")));
            if key == MASTER_KEY_NAME {
                let reason = "is not read from files; set the environment variable ESIMD_MASTER_KEY".to_owned();
                return Err(ConfigError::Invalid { key, source, reason });
            } else if self.sources.contains_key(&key) {
                self.set(&key, value, source.clone())?;
            } else if !is_section {
                let nearest = self.nearest_key(&key);
                return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
            } else if !value.is_table() {
                let reason = format!("is a section; write its keys below a line [{key}]");
                return Err(ConfigError::Invalid { key, source, reason });
            }
        }
        Ok(())
    }

    pub(super) fn add_variables(
        &mut self,
        variables: &BTreeMap<String, String>,
    ) -> Result<Option<MasterKey>, ConfigError> {
        let keys: BTreeMap<String, String> = self.sources.keys().map(|key| (variable_name(key), key.clone())).collect();
        let mut master_key = None;
        for (name, text) in variables {
            let source = Source::Variable(name.clone());
            if name == CONFIG_VARIABLE {
                continue;
            } else if name == MASTER_KEY_VARIABLE {
                // Empty is how orchestrators spell "not set".
                if !text.is_empty() {
                    master_key = Some(MasterKey::parse(text).ok_or_else(|| {
                        ConfigError::Invalid {
                            key: MASTER_KEY_NAME.to_owned(),
                            source,
                            reason:
                                "must be 32 bytes as base64 or as 64 hex digits; make one by `openssl rand -base64 32`"
                                    .to_owned(),
                        }
                    })?);
                }
            } else if let Some(key) = keys.get(name) {
                if text.contains(char::REPLACEMENT_CHARACTER) {
                    let reason = "is not valid UTF-8".to_owned();
                    return Err(ConfigError::Invalid { key: key.clone(), source, reason });
                }
                let value = match lookup(&self.merged, key) {
                    Some(Value::Array(_)) => {
                        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                        Value::Array(entries.map(|entry| Value::String(entry.to_owned())).collect())
                    }
                    // What is no number stays text, so that one place complains about both.
                    Some(Value::Integer(_)) => {
                        text.trim().parse().map_or_else(|_| Value::String(text.clone()), Value::Integer)
                    }
                    _ => Value::String(text.clone()),
                };
                self.set(key, value, source)?;
            } else {
                let extra = [CONFIG_VARIABLE, MASTER_KEY_VARIABLE];
                let known = keys.keys().map(String::as_str).chain(extra);
                let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(name, known)).unwrap_or_default();
                return Err(ConfigError::UnknownVariable { name: name.clone(), nearest: nearest.to_owned() });
            }
        }
        Ok(master_key)
    }

    /// Sets one known key and reads everything again, so that whatever is wrong is this key from this source.
    pub(super) fn set(&mut self, key: &str, value: Value, source: Source) -> Result<(), ConfigError> {
        let value = match (lookup(&self.merged, key), value, RANGES.iter().find(|(name, ..)| *name == key)) {
            (_, Value::Integer(number), Some((_, min, max))) if (*min..=*max).contains(&number) => {
                Value::Integer(number)
            }
            (_, _, Some((_, min, max))) => {
                let reason = format!("must be a whole number from {min} to {max}");
                return Err(ConfigError::Invalid { key: key.to_owned(), source, reason });
            }
            // `max = 50000` reads naturally and is exact; a number with a point is not.
            (_, Value::Integer(number), None) if is_decimal_key(key) => Value::String(number.to_string()),
            (Some(Value::String(_)), Value::String(text), None) => Value::String(text),
            (Some(Value::Array(_)), Value::Array(entries), None) if entries.iter().all(Value::is_str) => {
                Value::Array(entries)
            }
            (default, _, None) => {
                let reason = match default {
                    Some(Value::Array(_)) => "must be a list of texts, such as [\"10.0.0.0/8\"]",
                    _ => "must be text in quotes",
                };
                return Err(ConfigError::Invalid { key: key.to_owned(), source, reason: reason.to_owned() });
            }
        };
        if let Some(place) = lookup_mut(&mut self.merged, key) {
            *place = value;
        }
        self.sources.insert(key.to_owned(), source);
        self.read().map(|_| ()).map_err(|error| match error {
            ConfigError::Invalid { reason, .. } => self.invalid(key, reason),
            other => other,
        })
    }

    pub(super) fn read(&self) -> Result<Config, ConfigError> {
        self.merged.clone().try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
            key: "config.default.toml".to_owned(),
            source: Source::Default,
            reason: error.message().to_owned(),
        })
    }

    pub(super) fn invalid(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let source = self.sources.get(key).cloned().unwrap_or(Source::Default);
        ConfigError::Invalid { key: key.to_owned(), source, reason: reason.into() }
    }

    /// The most similar key; one of the same name in another section comes first, since a line below the wrong
    /// `[section]` is the usual mistake.
    fn nearest_key(&self, key: &str) -> String {
        let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let distance = |known: &&String| (name(known) != name(key), strsim::damerau_levenshtein(key, known));
        let sections: BTreeSet<String> =
            self.sources.keys().filter_map(|key| key.rsplit_once('.')).map(|(section, _)| section.to_owned()).collect();
        self.sources.keys().chain(&sections).min_by_key(distance).cloned().unwrap_or_default()
    }
}

fn is_decimal_key(key: &str) -> bool {
    matches!(key, "top_up.min" | "top_up.max")
}

pub(super) fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

fn parse(path: &Path, text: &str) -> Result<Table, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, reason: error.message().to_owned() }
    })
}

/// All values with their dotted keys; an empty section counts as a value, or a mistyped one would go unnoticed.
fn leaves(table: &Table) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                found.extend(leaves(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            other => found.push((key.clone(), other.clone())),
        }
    }
    found
}

pub(super) fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => lookup(table.get(section)?.as_table()?, rest),
    }
}

fn lookup_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((section, rest)) => lookup_mut(table.get_mut(section)?.as_table_mut()?, rest),
    }
}
