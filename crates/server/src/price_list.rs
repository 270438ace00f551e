//! Price lists as they are answered: one for all who buy at the same prices, kept ready as JSON and, once somebody asked
//! for that, as gzip. A list is made of an edition of the catalogue; so many bytes of lists are kept, those asked for last.

use crate::catalogue::{Buyer, Catalogue, Edition, PricedPlan};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use domain::id::TenantId;
use domain::money::Currency;
use domain::tenant::{Mode, Tier};
use domain::time::Timestamp;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use store::Store;
use store::port::Fault;

/// A larger list is made and compressed on a thread of its own.
const MANY_PLANS: usize = 2_000;
/// A larger answer is sent as it is until it is compressed.
const MANY_BYTES: usize = 1_024 * 1_024;
/// All lists together, in bytes; the one asked for last is kept in any case.
const MOST_BYTES: usize = 256 * 1_024 * 1_024;

/// An answer, as it is and compressed.
#[derive(Debug)]
struct Texts {
    json: Bytes,
    gzip: OnceLock<Bytes>,
    compressing: AtomicBool,
}

/// One price list.
#[derive(Debug)]
pub struct PriceList {
    /// The plans, oldest first.
    pub plans: Vec<PricedPlan>,
    /// Names this content.
    pub etag: String,
    texts: Arc<Texts>,
    /// The edition it was made of.
    edition: u64,
    /// From then on another rate holds.
    until: Option<Timestamp>,
}

impl PriceList {
    /// The whole answer.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.texts.json.clone()
    }

    /// The whole answer, compressed, where that is ready.
    #[must_use]
    pub fn gzip(&self) -> Option<Bytes> {
        let texts = &self.texts;
        if let Some(ready) = texts.gzip.get() {
            return Some(ready.clone());
        }
        if texts.json.len() <= MANY_BYTES {
            return compress(texts);
        }
        if !texts.compressing.swap(true, Ordering::SeqCst) {
            let texts = Arc::clone(texts);
            tokio::task::spawn_blocking(move || compress(&texts));
        }
        None
    }

    fn is_current(&self, edition: &Edition, now: Timestamp) -> bool {
        self.edition == edition.number && self.until.is_none_or(|until| now < until)
    }

    fn bytes(&self) -> usize {
        let texts = &self.texts;
        texts.json.len().saturating_add(texts.gzip.get().map_or(0, Bytes::len))
    }
}

fn compress(texts: &Texts) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let gzip = encoder.write_all(&texts.json).and_then(|()| encoder.finish());
    match gzip {
        Ok(mut gzip) => {
            gzip.shrink_to_fit();
            Some(texts.gzip.get_or_init(|| gzip.into()).clone())
        }
        Err(error) => {
            tracing::error!(%error, "a price list could not be compressed");
            None
        }
    }
}

/// Who buys at the same prices: tenants that no rule names share a list, and so do tiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    mode: Mode,
    currency: Currency,
    tier: Option<Tier>,
    tenant: Option<TenantId>,
}

impl Key {
    fn of(buyer: &Buyer, edition: &Edition) -> Self {
        let Buyer { tenant, tier, currency, mode, .. } = *buyer;
        let rules = &edition.terms.rules;
        let is_live = mode == Mode::Live;
        Self {
            mode,
            currency,
            tier: tier.filter(|tier| is_live && rules.name_tier(tier.as_str())),
            tenant: Some(tenant).filter(|tenant| is_live && rules.name_tenant(*tenant)),
        }
    }
}

/// Where one list lies.
#[derive(Debug, Default)]
struct Place {
    list: RwLock<Option<Arc<PriceList>>>,
    /// Who makes the next one.
    making: tokio::sync::Mutex<()>,
}

impl Place {
    fn list(&self) -> Option<Arc<PriceList>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// With the turn they were last asked for.
    places: HashMap<Key, (u64, Arc<Place>)>,
    turn: u64,
}

/// The price lists that were asked for.
#[derive(Debug, Default)]
pub struct PriceLists {
    kept: Mutex<Kept>,
}

impl PriceLists {
    /// How many lists are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).places.len()
    }

    /// The price list of somebody, with all that was heard of by now.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn get(
        &self,
        store: &Store,
        catalogue: &Catalogue,
        buyer: &Buyer,
        now: Timestamp,
    ) -> Result<Arc<PriceList>, Fault> {
        let edition = catalogue.current(store, now).await?;
        let place = self.place(Key::of(buyer, &edition));
        let current = || place.list().filter(|list| list.is_current(&edition, now));
        if let Some(list) = current() {
            return Ok(list);
        }
        let _making = place.making.lock().await;
        if let Some(list) = current() {
            return Ok(list);
        }
        let (before, buyer) = (place.list(), *buyer);
        let list = if edition.plans() > MANY_PLANS {
            let making = tokio::task::spawn_blocking(move || make(&edition, &buyer, now, before.as_deref()));
            making.await.map_err(|error| Fault::Bug(format!("a price list was not made: {error}")))?
        } else {
            make(&edition, &buyer, now, before.as_deref())
        };
        let list = Arc::new(list);
        *place.list.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&list));
        self.tidy();
        Ok(list)
    }

    fn place(&self, key: Key) -> Arc<Place> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.turn = kept.turn.saturating_add(1);
        let turn = kept.turn;
        let (asked, place) = kept.places.entry(key).or_default();
        *asked = turn;
        Arc::clone(place)
    }

    /// Forgets the lists that were not asked for longest, until the others are not too large.
    fn tidy(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sizes: Vec<(u64, Key, usize)> = kept
            .places
            .iter()
            .map(|(key, (asked, place))| (*asked, *key, place.list().map_or(0, |list| list.bytes())))
            .collect();
        sizes.sort_unstable_by_key(|(asked, ..)| std::cmp::Reverse(*asked));
        let mut all = 0_usize;
        for (place, (_, key, bytes)) in sizes.into_iter().enumerate() {
            all = all.saturating_add(bytes);
            if place > 0 && all > MOST_BYTES {
                kept.places.remove(&key);
            }
        }
    }
}

fn make(edition: &Edition, buyer: &Buyer, now: Timestamp, before: Option<&PriceList>) -> PriceList {
    let (plans, until) = edition.priced(buyer, now);
    let etag = etag(&plans);
    // What does not differ is not written, or compressed, again.
    let texts = match before.filter(|before| before.etag == etag) {
        Some(before) => Arc::clone(&before.texts),
        None => {
            let json = envelope(&plans, None).into();
            Arc::new(Texts { json, gzip: OnceLock::new(), compressing: AtomicBool::new(false) })
        }
    };
    PriceList { plans, etag, texts, edition: edition.number, until }
}

/// Names what a list says: what each plan says, and its price.
fn etag(plans: &[PricedPlan]) -> String {
    let mut context = Context::new(&SHA256);
    for PricedPlan { on_sale, price } in plans {
        context.update(on_sale.digest());
        context.update(&price.minor().to_be_bytes());
        context.update(price.currency().code().as_bytes());
    }
    let hash = context.finish();
    let hash = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("\"{hash}\"")
}

/// The answer with these plans, and with where the next page begins, if there are pages.
#[must_use]
pub fn envelope<'a>(
    plans: impl IntoIterator<Item = &'a PricedPlan, IntoIter: Clone>,
    next: Option<Option<&str>>,
) -> Vec<u8> {
    let plans = plans.into_iter();
    // The price and the currency take some thirty bytes.
    let length: usize = plans.clone().map(|plan| plan.on_sale.len().saturating_add(40)).sum();
    let mut json = Vec::with_capacity(length.saturating_add(160));
    json.extend_from_slice(br#"{"success":true,"data":{"plans":["#);
    for (place, PricedPlan { on_sale, price }) in plans.enumerate() {
        if place > 0 {
            json.push(b',');
        }
        on_sale.write(*price, &mut json);
    }
    json.push(b']');
    match next {
        None => {}
        Some(None) => json.extend_from_slice(br#","nextCursor":null"#),
        Some(Some(cursor)) => {
            // A cursor is of letters, digits, hyphens and underscores.
            json.extend_from_slice(br#","nextCursor":""#);
            json.extend_from_slice(cursor.as_bytes());
            json.push(b'"');
        }
    }
    json.extend_from_slice(br#"},"message":"Available plans","error":""}"#);
    json
}
