//! What a simulator of one upstream must be able to do, and the list of them.

use super::airalo::Airalo;
use super::esim_access::EsimAccess;
use super::esim_go::EsimGo;
use super::microesim::MicroEsim;
use super::shop::{News, Shop};
use super::tgt::Tgt;
use super::tsim::Tsim;
use super::wire::{Reply, Request};
use domain::time::Timestamp;

/// With what a client of a simulator signs. Each dialect uses what its upstream gives out.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The account, access code or client id.
    pub account: String,
    /// The secret; the API key where there is only one.
    pub secret: String,
    /// A salt in hexadecimal digits, for microesim.
    pub salt: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("account", &self.account).finish_non_exhaustive()
    }
}

/// A callback to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body; an empty one tries the address by HEAD.
    pub body: Vec<u8>,
}

/// One upstream's wire, from its side.
pub trait Dialect: Send + Sync {
    /// Answers a request.
    fn answer(&self, shop: &Shop, now: Timestamp, request: &Request) -> Reply;

    /// How the upstream says that it was asked too often.
    fn too_many_requests(&self) -> Reply;

    /// How it tells news, or nothing where it does not tell this.
    fn callback(&self, now: Timestamp, news: &News) -> Option<Outgoing>;

    /// Whether an answer to a callback is what it wants.
    fn is_acknowledged(&self, status: u16, body: &str) -> bool;

    /// Milliseconds until it tells the same once more after `attempts` tries; `None` when it gives up.
    fn retry_ms(&self, attempts: u32) -> Option<i64>;
}

/// The words of all dialects.
pub const WORDS: [&str; 6] = ["tsim", "esim-access", "airalo", "esim-go", "microesim", "tgt"];

/// The dialect of a word.
#[must_use]
pub fn dialect(word: &str, credentials: Credentials) -> Option<Box<dyn Dialect>> {
    match word {
        "airalo" => Some(Box::new(Airalo::new(credentials))),
        "esim-go" => Some(Box::new(EsimGo::new(credentials))),
        "tsim" => Some(Box::new(Tsim::new(credentials))),
        "esim-access" => Some(Box::new(EsimAccess::new(credentials))),
        "microesim" => Some(Box::new(MicroEsim::new(credentials))),
        "tgt" => Some(Box::new(Tgt::new(credentials))),
        _ => None,
    }
}
