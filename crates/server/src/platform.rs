//! All that requests and workers share.

use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::config::{Config, Environment, MasterKey};
use crate::entrance::Entrance;
use crate::keyring::Keyring;
use crate::limits::RateLimits;
use crate::metrics::Metrics;
use crate::password::Hasher;
use crate::price_list::PriceLists;
use crate::stop::Stopping;
use crate::upstreams::Upstreams;
use crate::usage::Questions;
use crate::waiters::Waiters;
use crate::workers::sync::Asked;
use domain::money::{Currency, Money};
use domain::tenant::TenantStatus;
use providers::sandbox::Sandbox;
use std::sync::{Arc, PoisonError, RwLock};
use store::Store;

/// What requests and workers share.
pub struct Platform {
    /// The configuration.
    pub config: Config,
    /// All links begin with it; no slash at its end.
    pub base_url: String,
    /// The database.
    pub store: Store,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The platform's own keys.
    pub keyring: Arc<RwLock<Keyring>>,
    /// What the platform's own keys are wrapped with.
    pub master: MasterKey,
    /// Who may come in.
    pub entrance: Entrance,
    /// Passwords.
    pub hasher: Hasher,
    /// Rate limits.
    pub limits: RateLimits,
    /// Who waits for orders.
    pub waiters: Arc<Waiters>,
    /// The plans on sale, and what their prices follow from.
    pub catalogue: Catalogue,
    /// The price lists.
    pub price_lists: PriceLists,
    /// The sandbox's world, for the operator.
    pub sandbox: Sandbox,
    /// The upstreams by name.
    pub upstreams: Arc<Upstreams>,
    /// What upstreams are being asked about eSIMs.
    pub questions: Questions,
    /// The lists the operator wants to be read.
    pub asked: Asked,
    /// Counters.
    pub metrics: Metrics,
    /// Tells when the process is stopping.
    pub stopping: Stopping,
    /// The billing currency of new tenants.
    pub currency: Currency,
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl Platform {
    /// Whether live mode may buy from the sandbox: in development only.
    #[must_use]
    pub fn sandbox_in_live(&self) -> bool {
        self.config.environment == Environment::Development
    }

    /// The status a tenant registers with.
    #[must_use]
    pub fn first_status(&self) -> TenantStatus {
        match self.config.registration {
            crate::config::Registration::Open => TenantStatus::Active,
            crate::config::Registration::Approval => TenantStatus::Pending,
        }
    }

    /// Reads the keyring.
    pub fn with_keyring<T>(&self, read: impl FnOnce(&Keyring) -> T) -> T {
        read(&self.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a new tenant's test balance begins with: 1,000.00.
    #[must_use]
    pub fn test_credit(&self) -> Money {
        Money::parse("1000", self.currency).unwrap_or(Money::zero(self.currency))
    }

    /// Returns when the process begins to stop.
    pub async fn stopped(&self) {
        self.stopping.begun().await;
    }
}
