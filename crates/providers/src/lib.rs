//! Floor 3: the outside world. One adapter, one file; every adapter speaks to its upstream and
//! translates what it hears into the words of `domain::fulfilment`. Beside each adapter stands a simulator of its
//! upstream, which speaks the same wire from the other side.

pub mod airalo;
pub mod callback;
pub mod connection;
pub mod esim_access;
pub mod esim_go;
mod lenient;
pub mod microesim;
pub mod offer;
pub mod sandbox;
mod signing;
pub mod simulator;
pub mod tgt;
mod token;
pub mod tsim;

use callback::{Callback, CallbackRefusal, Notice};
use domain::fulfilment::{Cancellation, Capabilities, LookUp, Outcome};
use domain::offer::Offer;
use domain::time::Timestamp;
use offer::{Balance, Usage};
use std::future::Future;
use std::pin::Pin;

/// A future an adapter returns; adapters are used behind `dyn`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Heard<T>> + Send + 'a>>;

/// What an adapter understood, and what the upstream literally said.
#[derive(Clone, PartialEq, Eq)]
pub struct Heard<T> {
    /// The meaning.
    pub meaning: T,
    /// The raw answer with secrets removed, kept even when it could not be understood.
    pub raw: String,
    /// The upstream's own number of the order, where the answer has it.
    pub order: Option<String>,
}

/// How a profile begins where it is shown.
const SHOWN_PROFILE: &str = "Profile {";

// A meaning may bring profiles, which install eSIMs: from the first one on it is not shown.
impl<T: std::fmt::Debug> std::fmt::Debug for Heard<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let meaning = format!("{:?}", self.meaning);
        let shown = match meaning.split_once(SHOWN_PROFILE) {
            Some((before, _)) => format!("{before}(hidden)"),
            None => meaning,
        };
        let mut told = f.debug_struct("Heard");
        told.field("meaning", &format_args!("{shown}")).field("raw", &self.raw).field("order", &self.order).finish()
    }
}

impl<T> Heard<T> {
    /// An answer without the upstream's number of an order.
    pub fn new(meaning: T, raw: impl Into<String>) -> Self {
        Self { meaning, raw: raw.into(), order: None }
    }

    /// The same with the upstream's number of the order.
    #[must_use]
    pub fn of_order(self, order: Option<String>) -> Self {
        Self { order, ..self }
    }

    /// The same answer with another meaning.
    pub fn map<U>(self, understand: impl FnOnce(T) -> U) -> Heard<U> {
        Heard { meaning: understand(self.meaning), raw: self.raw, order: self.order }
    }
}

/// One purchase under one reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// Our reference, `<orderId>-<k>`.
    pub reference: String,
    /// The upstream's own number of the order, once it gave one; before that `None`.
    pub order: Option<String>,
    /// The upstream's own plan id.
    pub upstream_plan_id: String,
    /// How many eSIMs; at most [`Capabilities::quantity_per_call`].
    pub quantity: u32,
}

/// A delivered eSIM, as an upstream finds it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoldEsim {
    /// Our reference of the purchase.
    pub reference: String,
    /// The upstream's own number of the order, where it has one.
    pub order: Option<String>,
    /// ICCID.
    pub iccid: String,
    /// The upstream's own name of the eSIM ([`domain::fulfilment::Profile::handle`]), where it has one.
    pub handle: Option<String>,
}

/// Data to be added to a delivered eSIM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddOn {
    /// Our reference of this purchase.
    pub reference: String,
    /// The eSIM.
    pub esim: SoldEsim,
    /// The upstream's own id of the plan to be added.
    pub upstream_plan_id: String,
}

/// Whether an upstream offers something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// It does not, or nobody knows how: why.
    No(&'static str),
}

/// What giving a delivered eSIM back does to the money at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundEffect {
    /// The price comes back at once.
    AtOnce,
    /// Somebody at the upstream decides later.
    Reviewed,
    /// Nothing comes back.
    None,
    /// Nobody knows.
    Unknown,
}

/// What an upstream offers beside selling; declared by its adapter, nothing has a silent default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// Whether a delivered eSIM can be given back; [`Capabilities::cancel`] says the same to the rules.
    pub cancel: Support,
    /// What that does to the money.
    pub refund_effect: RefundEffect,
    /// Whether the data used can be asked for.
    pub usage: Support,
    /// Whether data can be added to an existing eSIM.
    pub add_on: Support,
    /// Whether our balance there can be asked for.
    pub balance: Support,
    /// Whether it tells us by itself when something happens.
    pub callbacks: Support,
    /// Calls per second it takes; `None` where nothing is published.
    pub calls_per_second: Option<u32>,
}

/// Why something that changes nothing could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRead {
    /// No answer, or not now.
    TryLater {
        /// When the upstream wants to be asked again, where it said so.
        retry_at: Option<Timestamp>,
        /// What was seen.
        reason: String,
    },
    /// The upstream answered, and will not tell.
    Refused {
        /// The upstream's code.
        code: String,
        /// The upstream's words.
        message: String,
    },
    /// The answer could not be understood.
    NotUnderstood {
        /// What was missing or wrong.
        reason: String,
    },
    /// This upstream does not offer it: why.
    Unsupported(&'static str),
}

/// What reading something came to.
pub type Reading<T> = Result<T, NotRead>;

/// An upstream that sells eSIMs. `now` is the caller's clock: adapters have none of their own.
/// No customer's name or address is ever passed to an upstream.
pub trait Upstream: Send + Sync {
    /// What this upstream can do, for the rules of fulfilment.
    fn capabilities(&self) -> Capabilities;

    /// What it offers beside selling.
    fn services(&self) -> Services;

    /// Asks the upstream to sell. A connection that breaks after sending is [`Outcome::Unknown`].
    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome>;

    /// Asks what became of a purchase, by our reference or the upstream's number: the poll of an accepted purchase, and
    /// the question after a lost answer.
    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp>;

    /// Asks the upstream to take one delivered eSIM of a purchase back.
    fn cancel(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Cancellation>;

    /// Asks what the upstream sells: all of it.
    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>>;

    /// Asks what was used of an eSIM's data, and where it is in its life.
    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>>;

    /// Asks which plans can be added to an eSIM.
    fn add_ons(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>>;

    /// Asks the upstream to add data to a delivered eSIM. [`Outcome::Done`] has no profiles: the eSIM keeps its own.
    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome>;

    /// Asks for our balance at the upstream.
    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>>;

    /// Reads what an upstream sent by itself. It is a hint and never believed: what it names is asked for again.
    ///
    /// # Errors
    /// [`CallbackRefusal`], and then nobody knows who sent it, or what it says.
    fn read_callback(&self, now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::fulfilment::Profile;

    #[test]
    fn what_is_shown_of_an_answer_installs_nothing() {
        let profile = Profile { matching_id: "CODE-7".to_owned(), pin: Some("4711".to_owned()), ..Profile::default() };
        let heard = Heard::new(LookUp::Delivered { profiles: vec![profile] }, "200 {}");
        let shown = format!("{heard:?} {heard:#?}");
        assert!(shown.contains("Delivered") && !shown.contains("CODE-7") && !shown.contains("4711"), "{shown}");
        let shown = format!("{:?}", Heard::new(LookUp::NotFound, "200 {}").of_order(Some("B1".to_owned())));
        assert_eq!(shown, r#"Heard { meaning: NotFound, raw: "200 {}", order: Some("B1") }"#);
    }
}
