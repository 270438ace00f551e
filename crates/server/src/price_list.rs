//! Price lists as they are answered: made once per mode and currency, kept ready as JSON and gzip.

use crate::api::plans::PlanView;
use bytes::Bytes;
use domain::money::Currency;
use domain::plan::Plan;
use domain::tenant::Mode;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use store::Store;
use store::port::Fault;

/// One price list.
#[derive(Debug)]
pub struct PriceList {
    /// The plans, oldest first.
    pub plans: Vec<Plan>,
    /// The whole answer.
    pub json: Bytes,
    /// The whole answer, compressed.
    pub gzip: Bytes,
    /// Names this content.
    pub etag: String,
}

/// Lists with the epoch they were made in.
type Ready = HashMap<(Mode, Currency), (u64, Arc<PriceList>)>;

/// The price lists that were asked for since the last change.
#[derive(Debug, Default)]
pub struct PriceLists {
    ready: RwLock<Ready>,
    epoch: AtomicU64,
}

#[derive(Serialize)]
struct Data<'a> {
    plans: Vec<PlanView<'a>>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    success: bool,
    data: Data<'a>,
    message: &'a str,
    error: &'a str,
}

impl PriceLists {
    /// Forgets the lists: a plan changed.
    pub fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The price list of a mode.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn get(
        &self,
        store: &Store,
        mode: Mode,
        currency: Currency,
        sandbox_in_live: bool,
    ) -> Result<Arc<PriceList>, Fault> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner).get(&(mode, currency)).cloned();
        if let Some((made_in, list)) = ready
            && made_in == epoch
        {
            return Ok(list);
        }
        let plans = store.read(move |snapshot| store::plan::on_sale(snapshot, mode, currency, sandbox_in_live)).await?;
        let list = Arc::new(make(plans).map_err(|error| Fault::Bug(error.to_string()))?);
        self.ready.write().unwrap_or_else(PoisonError::into_inner).insert((mode, currency), (epoch, Arc::clone(&list)));
        Ok(list)
    }
}

fn make(plans: Vec<Plan>) -> std::io::Result<PriceList> {
    let data = Data { plans: plans.iter().map(PlanView::new).collect() };
    let envelope = Envelope { success: true, data, message: "Available plans", error: "" };
    let json = serde_json::to_vec(&envelope)?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&json)?;
    let gzip = encoder.finish()?;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &json);
    let etag = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(PriceList { plans, json: json.into(), gzip: gzip.into(), etag: format!("\"{etag}\"") })
}
