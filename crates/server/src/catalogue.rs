//! The catalogue in memory: all plans that are on sale, with what their live offers cost, and what prices follow from.
//! An edition never changes; the next one is made of it and of what changed since, off the way of requests. From an
//! edition price lists are made and checkouts are quoted, by the same rules; whether a quote still holds is looked at in
//! the checkout's own transaction.

use crate::api::plans::PlanView;
use aws_lc_rs::digest::{SHA256, digest};
use domain::catalogue::CONNECTIONS;
use domain::id::{PlanId, TenantId};
use domain::money::{Currency, Money};
use domain::offer::Cost;
use domain::plan::{Plan, PricedBy};
use domain::pricing::{OfferPrice, Rate, Rates, Rules, Subject, Unpriced, price_offer};
use domain::tenant::{Mode, Tier};
use domain::time::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use store::Store;
use store::access::Access;
use store::checkout::{Quote, Quotes, is_offered};
use store::offer::{self, LiveOffer};
use store::plan::{self, Listed};
use store::port::{Fault, Snapshot};
use store::pricing;
use tokio::sync::{Mutex, Notify};

/// Who is to buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buyer {
    /// The tenant.
    pub tenant: TenantId,
    /// Its tier.
    pub tier: Option<Tier>,
    /// Its billing currency.
    pub currency: Currency,
    /// Live or test.
    pub mode: Mode,
    /// Whether live mode may buy from the sandbox.
    pub sandbox_in_live: bool,
}

impl Buyer {
    /// Whoever came in.
    #[must_use]
    pub fn new(access: &Access, sandbox_in_live: bool) -> Self {
        let Access { scope, tier, currency, .. } = *access;
        Self { tenant: scope.tenant, tier, currency, mode: scope.mode, sandbox_in_live }
    }
}

/// What prices follow from, arranged for being looked up.
#[derive(Debug)]
pub struct Terms {
    /// Its version.
    pub version: i64,
    /// The rates that hold, and those to come.
    pub rates: Vec<Rate>,
    /// The rules.
    pub rules: Rules,
    /// The connections that sell.
    pub selling: BTreeSet<String>,
}

impl From<pricing::Terms> for Terms {
    fn from(terms: pricing::Terms) -> Self {
        let pricing::Terms { version, rates, rules, selling } = terms;
        Self { version, rates, rules: Rules::new(rules), selling }
    }
}

impl Terms {
    /// What an offer of a connection is sold for, and why.
    ///
    /// # Errors
    /// [`Unpriced`].
    pub fn price_offer<'a>(
        &'a self,
        plan: &Plan,
        connection: &str,
        cost: &Cost,
        buyer: &Buyer,
        rates: &'a Rates,
    ) -> Result<OfferPrice<'a>, Unpriced> {
        let subject = Subject {
            connection,
            region: plan.region.as_deref(),
            countries: &plan.countries,
            plan: plan.id,
            tier: buyer.tier.as_ref().map(Tier::as_str),
            tenant: buyer.tenant,
            currency: buyer.currency,
        };
        price_offer(cost, &subject, &self.rules, rates)
    }

    /// The offer that makes the price: of those whose connection sells and that have a price themselves, the one that
    /// costs least in the currency of the price, as routing takes it; of several alike the first by name.
    pub fn leading<'a, 'o>(
        &'a self,
        plan: &Plan,
        offers: impl Iterator<Item = (&'o str, &'o str, &'o Cost)>,
        buyer: &Buyer,
        rates: &'a Rates,
    ) -> Option<(&'o str, &'o str, OfferPrice<'a>)> {
        offers
            .filter(|(connection, ..)| self.selling.contains(*connection))
            .filter_map(|(connection, id, cost)| {
                let priced = self.price_offer(plan, connection, cost, buyer, rates).ok()?;
                Some((connection, id, priced))
            })
            .min_by_key(|(connection, id, priced)| (priced.priced.cost_minor.minor(), *connection, *id))
    }
}

/// A plan on sale, as far as it is the same for everybody.
#[derive(Debug)]
pub struct OnSale {
    /// The plan; its networks are only in its JSON.
    pub plan: Plan,
    /// Who says what it costs.
    pub priced_by: PricedBy,
    /// Its revision.
    pub revision: i64,
    /// Its live offers, whether their connections sell or not.
    pub offers: Vec<LiveOffer>,
    /// Its JSON up to the price, and behind the currency.
    json: (Box<[u8]>, Box<[u8]>),
    /// Names that content.
    digest: [u8; 16],
}

const PRICE: &str = ",\"price\":";
const BEHIND_CURRENCY: &str = ",\"speed\":";

impl OnSale {
    fn new(listed: Listed, offers: Vec<LiveOffer>) -> Result<Self, Fault> {
        let mut plan = listed.plan;
        let text = serde_json::to_string(&PlanView::new(&plan)).map_err(|error| Fault::Bug(error.to_string()))?;
        let halves = halves(&text).ok_or_else(|| Fault::Bug("a plan's JSON has no price".to_owned()))?;
        let mut cut = [0; 16];
        cut.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..16]);
        plan.networks = Vec::new();
        plan.networks.shrink_to_fit();
        let json = (halves.0.as_bytes().into(), halves.1.as_bytes().into());
        Ok(Self { plan, priced_by: listed.priced_by, revision: listed.revision, offers, json, digest: cut })
    }

    /// Whether its price is worked out of offers, or depends on them.
    fn lives_from_offers(&self) -> bool {
        self.plan.provider == CONNECTIONS
    }

    /// What one costs the buyer; `None` where it is not on sale for him.
    fn price(&self, terms: &Terms, buyer: &Buyer, rates: &Rates) -> Option<Money> {
        if !is_offered(&self.plan.provider, buyer.mode, buyer.sandbox_in_live) {
            return None;
        }
        let own = Some(self.plan.price).filter(|price| price.currency() == buyer.currency);
        if !self.lives_from_offers() {
            return own;
        }
        let offers = || self.offers.iter();
        match self.priced_by {
            PricedBy::Operator => own.filter(|_| offers().any(|offer| terms.selling.contains(&offer.connection))),
            PricedBy::Rules => {
                let offers =
                    offers().map(|offer| (offer.connection.as_str(), offer.upstream_plan_id.as_str(), &offer.cost));
                terms.leading(&self.plan, offers, buyer, rates).map(|(.., leading)| leading.priced.price)
            }
        }
    }

    /// Writes its JSON with a price.
    pub fn write(&self, price: Money, to: &mut Vec<u8>) {
        use std::io::Write;
        to.extend_from_slice(&self.json.0);
        // Writing to memory does not fail.
        let _ = write!(to, "{price},\"currency\":\"{}\"", price.currency());
        to.extend_from_slice(&self.json.1);
    }

    /// How long its JSON is without price and currency.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json.0.len().saturating_add(self.json.1.len())
    }

    /// Whether there is no JSON, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names its content without the price.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 16] {
        &self.digest
    }
}

/// A plan's JSON without its price and currency. No text inside can look like these names: its quotes are escaped.
fn halves(text: &str) -> Option<(&str, &str)> {
    let price = text.find(PRICE)?.checked_add(PRICE.len())?;
    Some((text.get(..price)?, text.get(text.find(BEHIND_CURRENCY)?..)?))
}

/// A plan with its price for somebody.
#[derive(Debug, Clone)]
pub struct PricedPlan {
    /// The plan.
    pub on_sale: Arc<OnSale>,
    /// The price of one.
    pub price: Money,
}

/// The catalogue as it was at one moment.
#[derive(Debug)]
pub struct Edition {
    /// No two editions of a process have the same.
    pub number: u64,
    /// What prices follow from.
    pub terms: Arc<Terms>,
    /// By their ids, oldest first.
    plans: Vec<Arc<OnSale>>,
    /// The newest revision in it.
    revision: i64,
}

impl Edition {
    /// How many plans are on sale.
    #[must_use]
    pub fn plans(&self) -> usize {
        self.plans.len()
    }

    fn find(&self, id: PlanId) -> Option<&Arc<OnSale>> {
        let at = self.plans.binary_search_by_key(&id, |on_sale| on_sale.plan.id).ok()?;
        self.plans.get(at)
    }

    /// All that somebody can buy, oldest first, and until when that is so by the clock alone.
    #[must_use]
    pub fn priced(&self, buyer: &Buyer, now: Timestamp) -> (Vec<PricedPlan>, Option<Timestamp>) {
        let rates = Rates::at(&self.terms.rates, buyer.currency, now);
        let priced = |on_sale: &Arc<OnSale>| {
            let price = on_sale.price(&self.terms, buyer, &rates)?;
            Some(PricedPlan { on_sale: Arc::clone(on_sale), price })
        };
        (self.plans.iter().filter_map(priced).collect(), rates.until())
    }

    /// What those of these plans cost that live from offers; `None` where none does.
    pub fn quotes(&self, buyer: &Buyer, now: Timestamp, plans: impl Iterator<Item = PlanId>) -> Option<Quotes> {
        if buyer.mode == Mode::Test {
            return None;
        }
        let mut of_offers = plans.filter_map(|id| self.find(id)).filter(|found| found.lives_from_offers()).peekable();
        of_offers.peek()?;
        let rates = Rates::at(&self.terms.rates, buyer.currency, now);
        let quote = |found: &Arc<OnSale>| Quote {
            plan: found.plan.id,
            revision: found.revision,
            unit_price: found.price(&self.terms, buyer, &rates),
        };
        let plans = of_offers.map(quote).collect();
        Some(Quotes { version: self.terms.version, tier: buyer.tier, valid_until: rates.until(), plans })
    }
}

/// What changed since an edition.
struct News {
    terms: Option<Terms>,
    /// The plans that changed: on sale, or not.
    plans: HashMap<PlanId, Option<Arc<OnSale>>>,
    revision: i64,
}

/// Plans that are read at once.
const PORTION: u32 = 1_000;

fn read(snapshot: &mut dyn Snapshot, version: Option<i64>, from: i64, now: Timestamp) -> Result<News, Fault> {
    let terms = match pricing::version(snapshot)? {
        same if Some(same) == version => None,
        _ => Some(pricing::terms(snapshot, now)?.into()),
    };
    let mut news = News { terms, plans: HashMap::new(), revision: from };
    loop {
        let portion = plan::changed_since(snapshot, news.revision, PORTION)?;
        let Some(last) = portion.last() else { return Ok(news) };
        news.revision = last.revision;
        let of_offers = portion.iter().filter(|listed| listed.plan.provider == CONNECTIONS);
        let of_offers: Vec<PlanId> = of_offers.map(|listed| listed.plan.id).collect();
        let mut offers: HashMap<PlanId, Vec<LiveOffer>> = HashMap::new();
        for offer in offer::live_of_plans(snapshot, &of_offers)? {
            offers.entry(offer.plan).or_default().push(offer);
        }
        for listed in portion {
            let id = listed.plan.id;
            let on_sale = match listed.withdrawn_at {
                Some(_) => None,
                None => Some(Arc::new(OnSale::new(listed, offers.remove(&id).unwrap_or_default())?)),
            };
            news.plans.insert(id, on_sale);
        }
    }
}

/// The newest edition, and what tells that there is a newer one.
#[derive(Debug, Default)]
pub struct Catalogue {
    edition: RwLock<Option<Arc<Edition>>>,
    /// How often something changed; the number of an edition is what this was when it was begun to be made.
    changes: AtomicU64,
    changed: Notify,
    /// Who makes the next edition.
    making: Mutex<()>,
}

impl Catalogue {
    /// Something that prices follow from changed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Returns when something changed.
    pub async fn news(&self) {
        self.changed.notified().await;
    }

    /// The newest edition, as old as it may be: for quotes, which are looked at again.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Edition>> {
        self.edition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An edition that has all that was heard of. One of those who ask makes it, the others wait.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn current(&self, store: &Store, now: Timestamp) -> Result<Arc<Edition>, Fault> {
        // Editions are numbered from 1.
        let wanted = self.changes.load(Ordering::SeqCst).saturating_add(1);
        let fresh = || self.latest().filter(|edition| edition.number >= wanted);
        if let Some(edition) = fresh() {
            return Ok(edition);
        }
        let _making = self.making.lock().await;
        if let Some(edition) = fresh() {
            return Ok(edition);
        }
        let number = self.changes.load(Ordering::SeqCst).saturating_add(1);
        let before = self.latest();
        let (version, from) = match &before {
            Some(before) => (Some(before.terms.version), before.revision),
            None => (None, 0),
        };
        let reading = move |snapshot: &mut dyn Snapshot| read(snapshot, version, from, now);
        // All of them take their time; a change is soon read.
        let news = if before.is_some() { store.read(reading).await? } else { store.scan(reading).await? };
        let edition = Arc::new(next(before.as_deref(), news, number)?);
        *self.edition.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&edition));
        Ok(edition)
    }
}

fn next(before: Option<&Edition>, mut news: News, number: u64) -> Result<Edition, Fault> {
    let terms = match (news.terms, before) {
        (Some(terms), _) => Arc::new(terms),
        (None, Some(before)) => Arc::clone(&before.terms),
        (None, None) => return Err(Fault::Bug("there is nothing that prices follow from".to_owned())),
    };
    let known = before.map_or(&[][..], |before| &before.plans);
    let mut plans = Vec::with_capacity(known.len().saturating_add(news.plans.len()));
    for on_sale in known {
        match news.plans.remove(&on_sale.plan.id) {
            None => plans.push(Arc::clone(on_sale)),
            Some(changed) => plans.extend(changed),
        }
    }
    plans.extend(news.plans.into_values().flatten());
    plans.sort_by_key(|on_sale| on_sale.plan.id);
    Ok(Edition { number, terms, plans, revision: news.revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::plan::{Activation, Network, PlanType};

    #[test]
    fn a_plans_json_is_what_its_view_says_whatever_its_words() {
        let plan = Plan {
            id: PlanId::new(uuid::Uuid::from_u128(7)),
            provider: CONNECTIONS.to_owned(),
            upstream_plan_id: "x".to_owned(),
            name: r#"odd ,"price":1,"speed": name"#.to_owned(),
            plan_type: PlanType::Local,
            countries: vec!["FR".to_owned()],
            region: Some("\"price\":".to_owned()),
            data_mb: None,
            daily_data_mb: None,
            unlimited: true,
            validity_days: 7,
            price: Money::new(1_250, Currency::USD),
            speed: Some(",\"price\":9".to_owned()),
            networks: vec![Network { country: "FR".to_owned(), operator: "O".to_owned(), technology: "5G".to_owned() }],
            activation: Activation::OnFirstUse,
            top_up_supported: false,
            description: None,
            fair_use: None,
        };
        let whole = serde_json::to_vec(&PlanView::new(&plan)).unwrap();
        let price = plan.price;
        let listed = Listed { plan, withdrawn_at: None, withdrawn_by: None, priced_by: PricedBy::Rules, revision: 1 };
        let on_sale = OnSale::new(listed, Vec::new()).unwrap();
        let mut written = Vec::new();
        on_sale.write(price, &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(whole).unwrap());
    }
}
