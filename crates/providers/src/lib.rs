//! Floor 3: the outside world. One adapter, one file; every adapter speaks to its upstream and
//! translates what it hears into the words of `domain::fulfilment`.

pub mod sandbox;

use domain::fulfilment::{Cancellation, Capabilities, LookUp, Outcome};
use domain::time::Timestamp;
use std::future::Future;
use std::pin::Pin;

/// A future an adapter returns; adapters are used behind `dyn`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Heard<T>> + Send + 'a>>;

/// What an adapter understood, and what the upstream literally said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard<T> {
    /// The meaning.
    pub meaning: T,
    /// The raw answer with secrets removed, kept even when it could not be understood.
    pub raw: String,
}

/// One purchase under one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// Our reference, `<orderId>-<k>`.
    pub reference: String,
    /// The upstream's own plan id.
    pub upstream_plan_id: String,
    /// How many eSIMs; at most [`Capabilities::quantity_per_call`].
    pub quantity: u32,
}

/// An upstream that sells eSIMs. `now` is the caller's clock: adapters have none of their own.
/// No customer's name or address is ever passed to an upstream.
pub trait Upstream: Send + Sync {
    /// What this upstream can do.
    fn capabilities(&self) -> Capabilities;

    /// Asks the upstream to sell. A connection that breaks after sending is [`Outcome::Unknown`].
    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome>;

    /// Asks what became of a purchase, by our reference: the poll of an accepted purchase, and the
    /// question after a lost answer.
    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp>;

    /// Asks the upstream to take one delivered eSIM of a purchase back.
    fn cancel(&self, now: Timestamp, reference: String, iccid: String) -> Answer<'_, Cancellation>;
}
