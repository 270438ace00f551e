//! The catalogue: what an upstream's offer means in our words, what of a fetched list can be used, and what changed in
//! it since it was last read. A plan is what we sell, an offer is what an upstream sells; a plan can have several offers,
//! and a plan's id always means the same thing.

use crate::id::PlanId;
use crate::money::{Currency, Money};
use crate::offer::{Cost, Data, MOST_DECIMALS, Offer};
use crate::plan::{Activation, Network, Plan, PlanType};
use crate::words;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The provider of plans that live from offers: which upstream fulfils an order is decided order by order.
pub const CONNECTIONS: &str = "connections";

/// From so many countries on a plan is a global one. The largest regions have some fifty, the plans that upstreams call
/// global have from about seventy on.
pub const GLOBAL_FROM: usize = 60;

/// The longest term in days.
pub const LONGEST_DAYS: i64 = 3_650;
/// The most data of a plan, in megabytes.
pub const MOST_MB: i64 = 1_000_000_000;
/// The dearest offer, in whole units of any currency: what is beyond it was misread.
pub const DEAREST: i64 = 1_000_000_000;
/// The longest id of an offer, in characters.
pub const LONGEST_ID: usize = 255;

const LONGEST_NAME: usize = 200;
const LONGEST_SPEED: usize = 100;
const LONGEST_OPERATOR: usize = 100;
const LONGEST_TECHNOLOGY: usize = 40;
const LONGEST_APN: usize = 100;
const LONGEST_REMARK: usize = 1_000;
const MOST_NETWORKS: usize = 1_000;

/// From so many live offers on, a fetched list that keeps less than half of them is not believed.
pub const DOUBT_FROM: usize = 20;

const EUROPE: &[&str] = &[
    "AD", "AL", "AT", "AX", "BA", "BE", "BG", "BY", "CH", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FO", "FR", "GB",
    "GG", "GI", "GR", "HR", "HU", "IE", "IM", "IS", "IT", "JE", "LI", "LT", "LU", "LV", "MC", "MD", "ME", "MK", "MT",
    "NL", "NO", "PL", "PT", "RO", "RS", "RU", "SE", "SI", "SJ", "SK", "SM", "TR", "UA", "VA", "XK",
];
const ASIA: &[&str] = &[
    "AF", "AM", "AZ", "BD", "BN", "BT", "CC", "CN", "CX", "GE", "HK", "ID", "IN", "IO", "JP", "KG", "KH", "KP", "KR",
    "KZ", "LA", "LK", "MM", "MN", "MO", "MV", "MY", "NP", "PH", "PK", "SG", "TH", "TJ", "TL", "TM", "TW", "UZ", "VN",
];
const NORTH_AMERICA: &[&str] = &["BM", "CA", "GL", "MX", "PM", "US"];
const LATIN_AMERICA: &[&str] = &[
    "AR", "BO", "BR", "BZ", "CL", "CO", "CR", "EC", "FK", "GF", "GT", "GY", "HN", "NI", "PA", "PE", "PY", "SR", "SV",
    "UY", "VE",
];
const CARIBBEAN: &[&str] = &[
    "AG", "AI", "AW", "BB", "BL", "BQ", "BS", "CU", "CW", "DM", "DO", "GD", "GP", "HT", "JM", "KN", "KY", "LC", "MF",
    "MQ", "MS", "PR", "SX", "TC", "TT", "VC", "VG", "VI",
];
const AFRICA: &[&str] = &[
    "AO", "BF", "BI", "BJ", "BW", "CD", "CF", "CG", "CI", "CM", "CV", "DJ", "DZ", "EG", "EH", "ER", "ET", "GA", "GH",
    "GM", "GN", "GQ", "GW", "KE", "KM", "LR", "LS", "LY", "MA", "MG", "ML", "MR", "MU", "MW", "MZ", "NA", "NE", "NG",
    "RE", "RW", "SC", "SD", "SH", "SL", "SN", "SO", "SS", "ST", "SZ", "TD", "TG", "TN", "TZ", "UG", "YT", "ZA", "ZM",
    "ZW",
];
const MIDDLE_EAST: &[&str] = &["AE", "BH", "IL", "IQ", "IR", "JO", "KW", "LB", "OM", "PS", "QA", "SA", "SY", "YE"];
const OCEANIA: &[&str] = &[
    "AS", "AU", "CK", "FJ", "FM", "GU", "KI", "MH", "MP", "NC", "NF", "NR", "NU", "NZ", "PF", "PG", "PN", "PW", "SB",
    "TK", "TO", "TV", "UM", "VU", "WF", "WS",
];
/// Of no region that anybody sells.
const ELSEWHERE: &[&str] = &["AQ", "BV", "GS", "HM", "TF"];

const REGIONS: [(&str, &[&str]); 8] = [
    ("Europe", EUROPE),
    ("Asia", ASIA),
    ("North America", NORTH_AMERICA),
    ("Latin America", LATIN_AMERICA),
    ("Caribbean", CARIBBEAN),
    ("Africa", AFRICA),
    ("Middle East", MIDDLE_EAST),
    ("Oceania", OCEANIA),
];

/// The region of a country, ISO 3166-1 alpha-2 in upper case; `None` where it has none or there is no such country.
#[must_use]
pub fn region_of(country: &str) -> Option<&'static str> {
    REGIONS.iter().find(|(_, codes)| codes.binary_search(&country).is_ok()).map(|(name, _)| *name)
}

fn is_country(code: &str) -> bool {
    region_of(code).is_some() || ELSEWHERE.contains(&code)
}

/// What a traveller gets with an offer or a plan: where, how much data, how long. It never changes under one plan id.
/// Its text is stored with every offer, so its form must not change, or every offer would seem to be another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(String);

impl Identity {
    /// What one gets with this offer.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        Self::new(&offer.countries, offer.data, offer.validity_days)
    }

    /// What one gets with this plan.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Self {
        let data = match (plan.data_mb, plan.daily_data_mb) {
            (_, Some(daily)) => Data::Daily(daily),
            (Some(total), None) => Data::Total(total),
            (None, None) => Data::Unlimited,
        };
        Self::new(&plan.countries, data, plan.validity_days)
    }

    /// As it was stored.
    #[must_use]
    pub const fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text: equal where the meaning is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn new(countries: &[String], data: Data, days: i64) -> Self {
        let mut countries: Vec<&str> = countries.iter().map(String::as_str).collect();
        countries.sort_unstable();
        countries.dedup();
        let countries = countries.join(" ");
        Self(match data {
            Data::Total(mb) => format!("{mb} MB, {days} days, {countries}"),
            Data::Daily(mb) => format!("{mb} MB a day, {days} days, {countries}"),
            Data::Unlimited => format!("unlimited, {days} days, {countries}"),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The plan that an offer makes. Its price is none yet (zero): it is worked out by rules. Where the upstream does not
/// tell when the term begins, it is at the first use, as it is with most. The upstream's remark is the fair-use rule.
#[must_use]
pub fn plan_of(id: PlanId, offer: &Offer, currency: Currency) -> Plan {
    let (data_mb, daily_data_mb) = match offer.data {
        Data::Total(mb) => (Some(mb), None),
        Data::Daily(mb) => (Some(mb.saturating_mul(offer.validity_days)), Some(mb)),
        Data::Unlimited => (None, None),
    };
    let plan_type = match offer.countries.len() {
        0 | 1 => PlanType::Local,
        several if several < GLOBAL_FROM => PlanType::Regional,
        _ => PlanType::Global,
    };
    Plan {
        id,
        provider: CONNECTIONS.to_owned(),
        upstream_plan_id: id.to_string(),
        name: offer.name.clone(),
        plan_type,
        countries: offer.countries.clone(),
        region: region(&offer.countries).map(str::to_owned),
        data_mb,
        daily_data_mb,
        unlimited: offer.data == Data::Unlimited,
        validity_days: offer.validity_days,
        price: Money::zero(currency),
        speed: offer.speed.clone(),
        networks: offer.networks.clone(),
        activation: offer.activation.unwrap_or(Activation::OnFirstUse),
        top_up_supported: offer.add_on_supported,
        description: None,
        fair_use: offer.remark.clone(),
    }
}

/// The name of the region that several countries are of; a single country needs none.
fn region(countries: &[String]) -> Option<&'static str> {
    let [first, others @ ..] = countries else { return None };
    if others.is_empty() {
        return None;
    }
    let common = region_of(first).filter(|region| others.iter().all(|other| region_of(other) == Some(*region)));
    common.or_else(|| (countries.len() >= GLOBAL_FROM).then_some("Global"))
}

words! {
    /// Why an offer cannot be used.
    pub enum Unusable {
        /// Its id is empty, too long, or has control characters.
        BadId = "bad_id",
        /// An offer of this id came before it in the same list.
        Duplicate = "duplicate",
        /// Its currency is none of ISO 4217.
        UnknownCurrency = "unknown_currency",
        /// It costs nothing, less, or absurdly much: whatever that means, a price made of it is wrong.
        BadCost = "bad_cost",
        /// It names no country that there is.
        NoCountries = "no_countries",
        /// It has no data, or absurdly much.
        BadData = "bad_data",
        /// Its term is shorter than a day or longer than ten years.
        BadTerm = "bad_term",
    }
}

/// An offer that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The upstream's id of it, as far as it can be shown.
    pub upstream_plan_id: String,
    /// Why.
    pub reason: Unusable,
}

/// How many offers were left out for one reason, and some of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOutFor {
    /// Why.
    pub reason: Unusable,
    /// How many.
    pub count: u32,
    /// The ids of the first ones.
    pub examples: Vec<String>,
}

/// How many ids are told of offers that were left out for one reason.
const EXAMPLES: usize = 5;

/// The usable part of a list of offers, in our form: clean texts that any database takes, countries sorted, networks
/// sorted. A row that an upstream broke costs that row and not the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sifted {
    offers: Vec<Offer>,
    left_out: Vec<LeftOut>,
}

impl Sifted {
    /// Sifts a list as it was fetched. Of several offers with one id the first counts.
    #[must_use]
    pub fn new(fetched: Vec<Offer>) -> Self {
        let mut seen = HashSet::with_capacity(fetched.len());
        let mut sifted = Self { offers: Vec::with_capacity(fetched.len()), left_out: Vec::new() };
        for offer in fetched {
            let id = offer.upstream_plan_id.clone();
            let usable = match usable(offer) {
                // What comes first counts, if it is of use.
                Ok(offer) if seen.insert(id.clone()) => Ok(offer),
                Ok(_) => Err(Unusable::Duplicate),
                Err(reason) => Err(reason),
            };
            match usable {
                Ok(offer) => sifted.offers.push(offer),
                Err(reason) => {
                    let upstream_plan_id = clean(&id, LONGEST_ID);
                    sifted.left_out.push(LeftOut { upstream_plan_id, reason });
                }
            }
        }
        sifted
    }

    /// What can be used, in the order of the list.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// What cannot, in the order of the list.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// What cannot, counted by the reason.
    #[must_use]
    pub fn left_out_by_reason(&self) -> Vec<LeftOutFor> {
        let mut counted: Vec<LeftOutFor> = Vec::new();
        for reason in Unusable::ALL {
            let of_it = self.left_out.iter().filter(|left_out| left_out.reason == *reason);
            let count = u32::try_from(of_it.clone().count()).unwrap_or(u32::MAX);
            if count > 0 {
                let examples = of_it.take(EXAMPLES).map(|left_out| left_out.upstream_plan_id.clone()).collect();
                counted.push(LeftOutFor { reason: *reason, count, examples });
            }
        }
        counted
    }

    /// How many offers the list had, usable or not.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.offers.len().saturating_add(self.left_out.len())
    }
}

fn usable(offer: Offer) -> Result<Offer, Unusable> {
    let id = &offer.upstream_plan_id;
    if id.trim().is_empty() || id.chars().count() > LONGEST_ID || id.chars().any(char::is_control) {
        return Err(Unusable::BadId);
    }
    let currency = offer.cost.currency.trim().to_ascii_uppercase();
    let currency: Currency = currency.parse().map_err(|_| Unusable::UnknownCurrency)?;
    let cost = Cost { currency: currency.code().to_owned(), ..offer.cost };
    if !is_plausible(&cost) {
        return Err(Unusable::BadCost);
    }
    if offer.validity_days < 1 || offer.validity_days > LONGEST_DAYS {
        return Err(Unusable::BadTerm);
    }
    let total = match offer.data {
        Data::Total(mb) => Some(mb),
        Data::Daily(mb) if mb < 1 => Some(mb),
        Data::Daily(mb) => mb.checked_mul(offer.validity_days).or(Some(i64::MAX)),
        Data::Unlimited => None,
    };
    if total.is_some_and(|mb| !(1..=MOST_MB).contains(&mb)) {
        return Err(Unusable::BadData);
    }
    let mut countries: Vec<String> =
        offer.countries.iter().map(|code| code.trim().to_ascii_uppercase()).filter(|code| is_country(code)).collect();
    countries.sort_unstable();
    countries.dedup();
    if countries.is_empty() {
        return Err(Unusable::NoCountries);
    }
    let mut networks: Vec<Network> = offer.networks.iter().filter_map(network).collect();
    networks.sort_unstable_by(|one, other| fields(one).cmp(&fields(other)));
    networks.dedup();
    networks.truncate(MOST_NETWORKS);
    let optional = |text: Option<String>, most| text.map(|text| clean(&text, most)).filter(|text| !text.is_empty());
    let name = Some(clean(&offer.name, LONGEST_NAME)).filter(|name| !name.is_empty());
    Ok(Offer {
        name: name.unwrap_or_else(|| clean(&offer.upstream_plan_id, LONGEST_NAME)),
        cost,
        countries,
        networks,
        speed: optional(offer.speed, LONGEST_SPEED),
        apn: optional(offer.apn, LONGEST_APN),
        remark: optional(offer.remark, LONGEST_REMARK),
        ..offer
    })
}

fn is_plausible(cost: &Cost) -> bool {
    let most = 10_i64.checked_pow(cost.decimals).map(|one| DEAREST.saturating_mul(one));
    cost.decimals <= MOST_DECIMALS && cost.units > 0 && most.is_some_and(|most| cost.units <= most)
}

fn network(network: &Network) -> Option<Network> {
    let country = network.country.trim().to_ascii_uppercase();
    let operator = clean(&network.operator, LONGEST_OPERATOR);
    let technology = clean(&network.technology, LONGEST_TECHNOLOGY);
    (is_country(&country) && !operator.is_empty()).then_some(Network { country, operator, technology })
}

fn fields(network: &Network) -> (&str, &str, &str) {
    (&network.country, &network.operator, &network.technology)
}

/// A text without control characters, with single spaces, of at most so many characters.
fn clean(text: &str, most: usize) -> String {
    let mut joined = String::with_capacity(text.len());
    for word in text.split(|char: char| char.is_whitespace() || char.is_control()).filter(|word| !word.is_empty()) {
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(word);
    }
    match joined.char_indices().nth(most) {
        None => joined,
        Some((end, _)) => joined.get(..end).unwrap_or_default().trim_end().to_owned(),
    }
}

words! {
    /// What happened to an offer.
    pub enum ChangeKind {
        /// It was not there before.
        New = "new",
        /// It costs us more, or so much in another currency that nobody can say.
        Dearer = "dearer",
        /// It costs us less.
        Cheaper = "cheaper",
        /// It is no longer in the upstream's list.
        Withdrawn = "withdrawn",
        /// It is in the list again, and is what it was.
        Returned = "returned",
        /// Under the same id the upstream sells something else.
        ChangedIdentity = "changed_identity",
        /// Name, networks, or other words about it.
        ChangedDetails = "changed_details",
    }
}

/// What is remembered of an offer to tell changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownOffer {
    /// The upstream's id.
    pub upstream_plan_id: String,
    /// What one got.
    pub identity: Identity,
    /// The fingerprint of its other words ([`details_of`]).
    pub details: String,
    /// What it cost.
    pub cost: Cost,
    /// Whether it was withdrawn when it was last looked at.
    pub withdrawn: bool,
}

impl KnownOffer {
    /// What is to be remembered of an offer on sale.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        Self {
            upstream_plan_id: offer.upstream_plan_id.clone(),
            identity: Identity::of(offer),
            details: details_of(offer),
            cost: offer.cost.clone(),
            withdrawn: false,
        }
    }
}

/// The fingerprint of what an offer says beside its identity and its cost: SHA-256, hexadecimal.
#[must_use]
pub fn details_of(offer: &Offer) -> String {
    let mut hasher = Sha256::new();
    let mut add = |text: Option<&str>| {
        // Length first: no two lists of texts are the same bytes.
        let length = text.map_or(u64::MAX, |text| u64::try_from(text.len()).unwrap_or(u64::MAX));
        hasher.update(length.to_be_bytes());
        hasher.update(text.unwrap_or_default());
    };
    add(Some(&offer.name));
    add(offer.speed.as_deref());
    add(offer.activation.map(Activation::word));
    add(Some(if offer.add_on_supported { "1" } else { "0" }));
    add(offer.apn.as_deref());
    add(offer.remark.as_deref());
    for network in &offer.networks {
        add(Some(&network.country));
        add(Some(&network.operator));
        add(Some(&network.technology));
    }
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    hasher.finalize().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// What of an offer's details differs, by name.
#[must_use]
pub fn changed_details(before: &Offer, after: &Offer) -> Vec<&'static str> {
    let all = [
        ("name", before.name != after.name),
        ("networks", before.networks != after.networks),
        ("speed", before.speed != after.speed),
        ("activation", before.activation != after.activation),
        ("top-up", before.add_on_supported != after.add_on_supported),
        ("apn", before.apn != after.apn),
        ("remark", before.remark != after.remark),
    ];
    all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// What happened between what is known and what is there now; `None` where nothing did. An offer that comes back or
/// means something else may cost something else, too; the more important word counts.
#[must_use]
pub fn kind_of(known: Option<&KnownOffer>, now: Option<&Offer>) -> Option<ChangeKind> {
    match (known, now) {
        (None, None) => None,
        (None, Some(_)) => Some(ChangeKind::New),
        (Some(known), None) => (!known.withdrawn).then_some(ChangeKind::Withdrawn),
        (Some(known), Some(offer)) if known.identity != Identity::of(offer) => Some(ChangeKind::ChangedIdentity),
        (Some(known), Some(_)) if known.withdrawn => Some(ChangeKind::Returned),
        (Some(known), Some(offer)) => match offer.cost.compare(&known.cost) {
            Some(Ordering::Less) => Some(ChangeKind::Cheaper),
            // Whoever watches for what eats his margin must see it: another currency is no detail.
            Some(Ordering::Greater) | None => Some(ChangeKind::Dearer),
            Some(Ordering::Equal) => (known.details != details_of(offer)).then_some(ChangeKind::ChangedDetails),
        },
    }
}

words! {
    /// What came of reading a connection's list.
    pub enum SyncState {
        /// It was never read.
        Never = "never",
        /// It is being read, or will be read on: whoever did was interrupted.
        Running = "running",
        /// It was read, and what changed is known.
        Done = "done",
        /// It could not be read; nothing changed, or not all of it.
        Failed = "failed",
        /// It was read and not believed; nothing changed.
        Implausible = "implausible",
    }
}

/// A change of one offer, told by [`diff`] from a sifted list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    kind: ChangeKind,
    upstream_plan_id: String,
    offer: Option<Offer>,
}

impl Change {
    /// What happened.
    #[must_use]
    pub const fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// The upstream's id of the offer.
    #[must_use]
    pub fn upstream_plan_id(&self) -> &str {
        &self.upstream_plan_id
    }

    /// The offer as it is now; `None` where it was withdrawn.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }
}

/// A fetched list that is not believed: it would take most offers away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Implausible {
    /// Offers that are live.
    pub live: usize,
    /// How many usable ones were fetched.
    pub fetched: usize,
    /// How many of the live ones are among them.
    pub kept: usize,
}

impl fmt::Display for Implausible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, fetched, kept } = self;
        write!(f, "the list has {fetched} offers, and only {kept} of the {live} that are on sale")
    }
}

/// What changed: in the order of the list, and then what is gone.
///
/// # Errors
/// [`Implausible`], unless it is `forced`: an empty list where anything is live, or one that has less than half of what
/// is live where that is [`DOUBT_FROM`] or more.
pub fn diff(known: &[KnownOffer], fetched: &Sifted, forced: bool) -> Result<Vec<Change>, Implausible> {
    let before: HashMap<&str, &KnownOffer> =
        known.iter().map(|known| (known.upstream_plan_id.as_str(), known)).collect();
    let now: HashSet<&str> = fetched.offers.iter().map(|offer| offer.upstream_plan_id.as_str()).collect();
    let is_there = |known: &&KnownOffer| now.contains(known.upstream_plan_id.as_str());
    let live = known.iter().filter(|known| !known.withdrawn).count();
    let kept = known.iter().filter(|known| !known.withdrawn).filter(is_there).count();
    let emptied = fetched.offers.is_empty() && live > 0;
    if !forced && (emptied || live >= DOUBT_FROM && kept < live.div_ceil(2)) {
        return Err(Implausible { live, fetched: fetched.offers.len(), kept });
    }
    let present = fetched.offers.iter().filter_map(|offer| {
        let kind = kind_of(before.get(offer.upstream_plan_id.as_str()).copied(), Some(offer))?;
        Some(Change { kind, upstream_plan_id: offer.upstream_plan_id.clone(), offer: Some(offer.clone()) })
    });
    let gone = known.iter().filter(|known| !is_there(known)).filter_map(|known| {
        let kind = kind_of(Some(known), None)?;
        Some(Change { kind, upstream_plan_id: known.upstream_plan_id.clone(), offer: None })
    });
    Ok(present.chain(gone).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn offer(id: &str) -> Offer {
        Offer {
            upstream_plan_id: id.to_owned(),
            name: format!("Plan {id}"),
            cost: cost("1.50", "USD"),
            countries: vec!["DE".to_owned(), "FR".to_owned()],
            data: Data::Total(1_024),
            validity_days: 7,
            networks: Vec::new(),
            speed: None,
            activation: None,
            add_on_supported: false,
            apn: None,
            remark: None,
        }
    }

    fn cost(amount: &str, currency: &str) -> Cost {
        Cost::parse(amount, currency).unwrap()
    }

    fn plan(offer: &Offer) -> Plan {
        plan_of(PlanId::new(Uuid::from_u128(5)), offer, Currency::USD)
    }

    fn countries(codes: &[&str]) -> Vec<String> {
        codes.iter().map(|code| (*code).to_owned()).collect()
    }

    fn of_countries(codes: &[&str]) -> Plan {
        plan(&Offer { countries: countries(codes), ..offer("a") })
    }

    fn reason(offer: Offer) -> Option<Unusable> {
        Sifted::new(vec![offer]).left_out().first().map(|left_out| left_out.reason)
    }

    fn kinds(known: &[KnownOffer], fetched: Vec<Offer>) -> Vec<(String, ChangeKind)> {
        let changes = diff(known, &Sifted::new(fetched), false).unwrap();
        changes.into_iter().map(|change| (change.upstream_plan_id, change.kind)).collect()
    }

    #[test]
    fn every_country_is_known_once_and_found() {
        let tables = REGIONS.iter().map(|(_, codes)| *codes).chain([ELSEWHERE]);
        let all: Vec<&str> = tables.clone().flatten().copied().collect();
        assert_eq!(all.len(), 250, "ISO 3166-1 has 249, and Kosovo");
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 250);
        assert!(tables.clone().all(<[&str]>::is_sorted), "they are searched by halves");
        assert!(all.iter().all(|code| is_country(code)));
        for code in ["", "UK", "EU", "fr", "FRA", "ZZ"] {
            assert!(!is_country(code), "{code}");
        }
    }

    #[test]
    fn what_one_gets_is_the_same_in_any_order_of_the_countries() {
        let one = offer("a");
        let same = Offer {
            countries: countries(&["FR", "DE", "FR"]),
            cost: cost("9", "EUR"),
            name: "Else".to_owned(),
            ..offer("b")
        };
        assert_eq!(Identity::of(&one), Identity::of(&same));
        let differing = [
            Offer { countries: countries(&["DE"]), ..offer("a") },
            Offer { data: Data::Total(1_025), ..offer("a") },
            Offer { data: Data::Daily(1_024), ..offer("a") },
            Offer { data: Data::Unlimited, ..offer("a") },
            Offer { validity_days: 8, ..offer("a") },
        ];
        let mut all: HashSet<Identity> = differing.iter().map(Identity::of).collect();
        all.insert(Identity::of(&one));
        assert_eq!(all.len(), 6);
    }

    proptest! {
        #[test]
        fn a_plan_means_what_its_offer_means(kind in 0..3_usize, mb in 1..MOST_MB, days in 1..30_i64, at in 0..40_usize) {
            let data = [Data::Total(mb), Data::Daily(mb / 30 + 1), Data::Unlimited][kind];
            let countries = countries(&EUROPE[at..at + 10]);
            let offer = Offer { data, validity_days: days, countries, ..offer("a") };
            prop_assert_eq!(reason(offer.clone()), None);
            prop_assert_eq!(Identity::of_plan(&plan(&offer)), Identity::of(&offer));
        }
    }

    #[test]
    fn a_plan_says_what_the_offer_says() {
        let remark = Some("At most 2 GB a day at full speed".to_owned());
        let offer = Offer { data: Data::Daily(500), add_on_supported: true, remark: remark.clone(), ..offer("a") };
        let made = plan(&offer);
        assert_eq!((made.data_mb, made.daily_data_mb, made.unlimited), (Some(3_500), Some(500), false));
        assert_eq!((made.provider.as_str(), made.upstream_plan_id), (CONNECTIONS, made.id.to_string()));
        assert_eq!((made.activation, made.top_up_supported), (Activation::OnFirstUse, true));
        assert_eq!((made.fair_use, made.description, made.price), (remark, None, Money::zero(Currency::USD)));
        let unlimited = plan(&Offer { data: Data::Unlimited, activation: Some(Activation::OnOrder), ..offer });
        assert_eq!((unlimited.data_mb, unlimited.daily_data_mb, unlimited.unlimited), (None, None, true));
        assert_eq!(unlimited.activation, Activation::OnOrder);
    }

    #[test]
    fn how_far_a_plan_reaches_follows_from_its_countries() {
        let reach = |codes: &[&str]| {
            let plan = of_countries(codes);
            (plan.plan_type, plan.region)
        };
        let named = |region: &str| Some(region.to_owned());
        assert_eq!(reach(&["DE"]), (PlanType::Local, None));
        assert_eq!(reach(&["DE", "FR"]), (PlanType::Regional, named("Europe")));
        assert_eq!(reach(EUROPE), (PlanType::Regional, named("Europe")));
        assert_eq!(reach(&["CA", "MX", "US"]), (PlanType::Regional, named("North America")));
        assert_eq!(reach(&["DE", "US"]), (PlanType::Regional, None));
        assert_eq!(reach(&["AQ", "TF"]), (PlanType::Regional, None));
        let many: Vec<&str> = EUROPE.iter().chain(ASIA).copied().collect();
        assert_eq!(reach(&many[..GLOBAL_FROM - 1]), (PlanType::Regional, None));
        assert_eq!(reach(&many[..GLOBAL_FROM]), (PlanType::Global, named("Global")));
    }

    #[test]
    fn a_broken_row_is_left_out_with_its_reason_and_the_list_goes_on() {
        let cost = |units, decimals| Cost { units, decimals, currency: "USD".to_owned() };
        let cases = [
            (offer(" "), Unusable::BadId),
            (offer(&"x".repeat(256)), Unusable::BadId),
            (offer("a\u{0}b"), Unusable::BadId),
            (Offer { cost: self::cost("1", "USX"), ..offer("a") }, Unusable::UnknownCurrency),
            (Offer { cost: cost(0, 2), ..offer("a") }, Unusable::BadCost),
            (Offer { cost: cost(-1, 2), ..offer("a") }, Unusable::BadCost),
            (Offer { cost: cost(1, 9), ..offer("a") }, Unusable::BadCost),
            (Offer { cost: cost(DEAREST * 100 + 1, 2), ..offer("a") }, Unusable::BadCost),
            (Offer { countries: Vec::new(), ..offer("a") }, Unusable::NoCountries),
            (Offer { countries: countries(&["ZZ", "Europe"]), ..offer("a") }, Unusable::NoCountries),
            (Offer { data: Data::Total(0), ..offer("a") }, Unusable::BadData),
            (Offer { data: Data::Total(-5), ..offer("a") }, Unusable::BadData),
            (Offer { data: Data::Daily(-5), ..offer("a") }, Unusable::BadData),
            (Offer { data: Data::Daily(i64::MAX), ..offer("a") }, Unusable::BadData),
            (Offer { data: Data::Total(MOST_MB + 1), ..offer("a") }, Unusable::BadData),
            (Offer { validity_days: 0, ..offer("a") }, Unusable::BadTerm),
            (Offer { validity_days: 3_651, ..offer("a") }, Unusable::BadTerm),
        ];
        let count = cases.len();
        let expected: Vec<Unusable> = cases.iter().map(|(_, reason)| *reason).collect();
        let mut fetched: Vec<Offer> = cases.into_iter().map(|(offer, _)| offer).collect();
        fetched.extend([offer("a"), offer("b"), Offer { cost: cost(7, 0), ..offer("a") }]);
        let sifted = Sifted::new(fetched);
        assert_eq!(sifted.offers(), [offer("a"), offer("b")], "the first usable one counts");
        assert_eq!(sifted.listed(), count + 3);
        let counted = sifted.left_out_by_reason();
        let bad_id = LeftOutFor {
            reason: Unusable::BadId,
            count: 3,
            examples: vec![String::new(), "x".repeat(255), "a b".to_owned()],
        };
        assert_eq!((&counted[0], counted.len()), (&bad_id, Unusable::ALL.len()));
        assert_eq!(counted.iter().map(|left_out| left_out.count).sum::<u32>(), 18);
        let reasons: Vec<Unusable> = sifted.left_out().iter().map(|left_out| left_out.reason).collect();
        assert_eq!(reasons[..count], expected);
        assert_eq!(reasons[count..], [Unusable::Duplicate]);
        for edge in [cost(1, 8), cost(DEAREST * 100, 2)] {
            assert_eq!(reason(Offer { cost: edge, ..offer("a") }), None);
        }
    }

    #[test]
    fn texts_are_cleaned_and_countries_read_in_any_case() {
        let network = |country: &str, operator: &str| Network {
            country: country.to_owned(),
            operator: operator.to_owned(),
            technology: "5G".to_owned(),
        };
        let messy = Offer {
            name: format!("  7\u{0} days\n{}", "ü".repeat(300)),
            cost: cost("1", "usd"),
            countries: countries(&["fr", "DE", "ZZ", "FR "]),
            networks: vec![network("fr", "Orange"), network("de", "O2\t"), network("FR", "Orange"), network("ZZ", "X")],
            speed: Some(" \u{7} ".to_owned()),
            remark: Some("One.\r\nTwo.".to_owned()),
            ..offer("a")
        };
        let sifted = Sifted::new(vec![messy, Offer { name: "\n".to_owned(), ..offer("b") }]);
        let [clean, nameless] = sifted.offers() else { panic!("{sifted:?}") };
        assert_eq!(clean.name, format!("7 days {}", "ü".repeat(193)));
        assert_eq!(clean.countries, countries(&["DE", "FR"]));
        assert_eq!(clean.networks, [network("DE", "O2"), network("FR", "Orange")]);
        assert_eq!((clean.speed.as_deref(), clean.remark.as_deref()), (None, Some("One. Two.")));
        assert_eq!(clean.cost.currency, "USD");
        assert_eq!(nameless.name, "b");
    }

    #[test]
    fn each_change_has_its_word() {
        let before = offer("a");
        let known = KnownOffer::of(&before);
        let gone = KnownOffer { withdrawn: true, ..known.clone() };
        let kind = |known: &KnownOffer, now: Offer| kind_of(Some(known), Some(&now));
        assert_eq!(kind_of(None, Some(&before)), Some(ChangeKind::New));
        assert_eq!(kind_of(Some(&known), None), Some(ChangeKind::Withdrawn));
        assert_eq!(kind_of(Some(&gone), None), None);
        assert_eq!(kind(&known, before.clone()), None);
        assert_eq!(kind(&gone, before.clone()), Some(ChangeKind::Returned));
        let costing = |amount, currency| Offer { cost: cost(amount, currency), ..before.clone() };
        assert_eq!(kind(&known, costing("1.500", "USD")), None, "the same amount");
        assert_eq!(kind(&known, costing("1.501", "USD")), Some(ChangeKind::Dearer));
        assert_eq!(kind(&known, costing("1.4", "USD")), Some(ChangeKind::Cheaper));
        assert_eq!(kind(&known, costing("1.00", "EUR")), Some(ChangeKind::Dearer), "nobody can say");
        let longer = Offer { validity_days: 8, cost: cost("1", "USD"), ..before.clone() };
        assert_eq!(kind(&known, longer.clone()), Some(ChangeKind::ChangedIdentity));
        assert_eq!(kind(&gone, longer), Some(ChangeKind::ChangedIdentity));
        let network = Network { country: "FR".to_owned(), operator: "Orange".to_owned(), technology: "5G".to_owned() };
        let details = [
            ("name", Offer { name: "Else".to_owned(), ..before.clone() }),
            ("networks", Offer { networks: vec![network], ..before.clone() }),
            ("speed", Offer { speed: Some("5G".to_owned()), ..before.clone() }),
            ("activation", Offer { activation: Some(Activation::OnInstall), ..before.clone() }),
            ("top-up", Offer { add_on_supported: true, ..before.clone() }),
            ("apn", Offer { apn: Some("5G".to_owned()), ..before.clone() }),
            ("remark", Offer { remark: Some("5G".to_owned()), ..before.clone() }),
        ];
        let mut fingerprints = HashSet::new();
        for (name, now) in details {
            assert_eq!(changed_details(&before, &now), [name]);
            assert!(fingerprints.insert(details_of(&now)), "{name}");
            assert_eq!(kind(&known, now), Some(ChangeKind::ChangedDetails), "{name}");
        }
    }

    #[test]
    fn a_list_is_compared_offer_by_offer() {
        let gone = KnownOffer { withdrawn: true, ..KnownOffer::of(&offer("gone")) };
        let known = [KnownOffer::of(&offer("same")), KnownOffer::of(&offer("leaves")), gone];
        let dearer = Offer { cost: cost("2", "USD"), ..offer("same") };
        let expected = [("new", ChangeKind::New), ("leaves", ChangeKind::Withdrawn)];
        let expected = expected.map(|(id, kind)| (id.to_owned(), kind));
        assert_eq!(kinds(&known, vec![offer("new"), offer("same"), dearer]), expected, "the first of two counts");
        assert_eq!(kinds(&[], Vec::new()), []);
    }

    #[test]
    fn a_list_that_would_take_most_away_is_not_believed_unless_it_must_be() {
        let all = |range: std::ops::Range<usize>| range.map(|number| offer(&format!("{number}"))).collect::<Vec<_>>();
        let known = |range| all(range).iter().map(KnownOffer::of).collect::<Vec<_>>();
        let changes = |known: &[KnownOffer], fetched: Vec<Offer>| diff(known, &Sifted::new(fetched), false);
        let refused = Implausible { live: 40, fetched: 19, kept: 19 };
        assert_eq!(changes(&known(0..40), all(0..19)), Err(refused));
        assert_eq!(changes(&known(0..40), all(0..20)).unwrap().len(), 20, "half is believed");
        assert_eq!(changes(&known(0..41), all(0..20)), Err(Implausible { live: 41, fetched: 20, kept: 20 }));
        let renumbered = Implausible { live: 40, fetched: 40, kept: 10 };
        assert_eq!(changes(&known(0..40), all(30..70)), Err(renumbered), "many offers, but others");
        assert_eq!(changes(&known(0..19), all(0..1)).unwrap().len(), 18, "few offers may go");
        assert_eq!(changes(&known(0..1), Vec::new()), Err(Implausible { live: 1, fetched: 0, kept: 0 }));
        assert_eq!(diff(&known(0..40), &Sifted::new(Vec::new()), true).unwrap().len(), 40);
        let gone: Vec<_> = known(0..40).into_iter().map(|known| KnownOffer { withdrawn: true, ..known }).collect();
        assert_eq!(changes(&gone, Vec::new()), Ok(Vec::new()), "what is gone cannot go");
    }
}
