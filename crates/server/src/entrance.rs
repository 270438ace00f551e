//! The entrance: who is behind a bearer token. What the database said is believed for two seconds, or
//! until this process learns that somebody's access changed.

use crate::clock::Clock;
use crate::keyring::Keyring;
use crate::problem::Problem;
use crate::token::{self, Audience};
use aws_lc_rs::digest::{SHA256, digest};
use domain::id::OperatorId;
use domain::time::Timestamp;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use store::Store;
use store::access::{self, Access};

/// How long an answer of the database is believed, milliseconds.
const BELIEVED_MS: i64 = 2_000;
/// Tokens remembered before all are forgotten.
const MOST_REMEMBERED: usize = 20_000;

#[derive(Debug, Clone, Copy)]
struct Believed {
    access: Access,
    since: Timestamp,
    epoch: u64,
}

/// Looks tokens up.
#[derive(Debug)]
pub struct Entrance {
    store: Store,
    keyring: Arc<RwLock<Keyring>>,
    believed: RwLock<HashMap<[u8; 32], Believed>>,
    epoch: AtomicU64,
}

/// The beginning of every API key.
pub const API_KEY_PREFIX: &str = "esd_";

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

/// The stored form of an API key's secret: it is random and long, so a plain hash keeps it.
#[must_use]
pub fn api_key_hash(secret: &str) -> [u8; 32] {
    sha256(secret)
}

impl Entrance {
    /// An entrance over this store.
    #[must_use]
    pub fn new(store: Store, keyring: Arc<RwLock<Keyring>>) -> Self {
        Self { store, keyring, believed: RwLock::default(), epoch: AtomicU64::new(0) }
    }

    /// Believes nothing any more that was asked before.
    pub fn access_changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a tenant's user or key in.
    ///
    /// # Errors
    /// 401, or 503 when the database cannot be asked.
    pub async fn tenant(&self, bearer: &str, clock: &dyn Clock) -> Result<Access, Problem> {
        let now = clock.now();
        let key = sha256(bearer);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let known = self.believed.read().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        if let Some(known) = known
            && known.epoch == epoch
            && now.since(known.since) < BELIEVED_MS
            && known.access.expires_at.is_none_or(|end| end > now)
        {
            return Ok(known.access);
        }
        let access = self.ask(bearer, key, now).await?;
        let mut believed = self.believed.write().unwrap_or_else(PoisonError::into_inner);
        match access {
            Some(access) => {
                if believed.len() >= MOST_REMEMBERED {
                    believed.clear();
                }
                believed.insert(key, Believed { access, since: now, epoch });
                Ok(access)
            }
            None => {
                believed.remove(&key);
                Err(Problem::unauthorized())
            }
        }
    }

    async fn ask(&self, bearer: &str, hash: [u8; 32], now: Timestamp) -> Result<Option<Access>, Problem> {
        if bearer.starts_with(API_KEY_PREFIX) {
            return Ok(self.store.read(move |snapshot| access::api_key_by_secret(snapshot, &hash)).await?);
        }
        let Some(session) = self.verify(Audience::Tenant, bearer, now) else { return Ok(None) };
        let access = self.store.read(move |snapshot| access::user_session(snapshot, session)).await?;
        Ok(access.filter(|access| access.expires_at.is_none_or(|end| end > now)))
    }

    fn verify(&self, audience: Audience, bearer: &str, now: Timestamp) -> Option<domain::id::SessionId> {
        token::verify(&self.keyring.read().unwrap_or_else(PoisonError::into_inner), audience, bearer, now)
    }

    /// Lets an operator in.
    ///
    /// # Errors
    /// 401, or 503 when the database cannot be asked.
    pub async fn operator(&self, bearer: &str, clock: &dyn Clock) -> Result<OperatorId, Problem> {
        let now = clock.now();
        let session = self.verify(Audience::Operator, bearer, now).ok_or_else(Problem::unauthorized)?;
        let found = self.store.read(move |snapshot| access::operator_session(snapshot, session)).await?;
        match found {
            Some((operator, expires_at)) if expires_at > now => Ok(operator),
            _ => Err(Problem::unauthorized()),
        }
    }
}
