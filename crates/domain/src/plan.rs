//! Plans: what partners can buy, at what price.

use crate::id::PlanId;
use crate::money::Money;
use crate::words;

words! {
    /// How far a plan reaches.
    pub enum PlanType {
        /// One country.
        Local = "local",
        /// Several countries of one region.
        Regional = "regional",
        /// Most of the world.
        Global = "global",
    }
}

words! {
    /// When a plan's term begins.
    pub enum Activation {
        /// When the profile is installed.
        OnInstall = "on_install",
        /// When the profile first joins a network.
        OnFirstUse = "on_first_use",
        /// At once with the order.
        OnOrder = "on_order",
    }
}

words! {
    /// Who says what a plan costs.
    pub enum PricedBy {
        /// The operator: the price lies with the plan.
        Operator = "operator",
        /// Rules, from what its offers cost us: the price that lies with the plan says nothing.
        Rules = "rules",
    }
}

words! {
    /// Who took a plan off sale.
    pub enum WithdrawnBy {
        /// The operator; only he puts it back.
        Operator = "operator",
        /// The catalogue, when its last offer went; it comes back with an offer.
        Catalogue = "catalogue",
    }
}

/// A network a plan roams on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The operator's name.
    pub operator: String,
    /// `4G`, `5G`, ...
    pub technology: String,
}

/// A plan as partners see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// The provider that fulfils it.
    pub provider: String,
    /// The provider's own id of it.
    pub upstream_plan_id: String,
    /// Display name.
    pub name: String,
    /// How far it reaches.
    pub plan_type: PlanType,
    /// ISO 3166-1 alpha-2 codes (plus XK), sorted.
    pub countries: Vec<String>,
    /// Region name, where it is regional.
    pub region: Option<String>,
    /// Data of the whole term, in units of 1,048,576 bytes; `None` is unlimited.
    pub data_mb: Option<i64>,
    /// Data of one day for daily plans.
    pub daily_data_mb: Option<i64>,
    /// Whether the volume is unlimited (perhaps under a fair-use rule).
    pub unlimited: bool,
    /// Term in days.
    pub validity_days: i64,
    /// Price of one eSIM.
    pub price: Money,
    /// Speed in words.
    pub speed: Option<String>,
    /// Networks by country.
    pub networks: Vec<Network>,
    /// When the term begins.
    pub activation: Activation,
    /// Whether an eSIM of this plan can be topped up.
    pub top_up_supported: bool,
    /// Words for a person.
    pub description: Option<String>,
    /// Fair-use rule in words.
    pub fair_use: Option<String>,
}

/// Filters of the price list. Empty fields do not filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanFilter {
    /// Covers this country (ISO 3166-1 alpha-2).
    pub country: Option<String>,
    /// This region's name, in any case.
    pub region: Option<String>,
    /// This type.
    pub plan_type: Option<PlanType>,
    /// At least so much data; unlimited plans always pass.
    pub min_data_mb: Option<i64>,
    /// At most this price.
    pub max_price: Option<Money>,
    /// A term of at least so many days.
    pub days: Option<i64>,
    /// Unlimited or not.
    pub unlimited: Option<bool>,
    /// Words in name, description, region or countries, in any case.
    pub query: Option<String>,
}
