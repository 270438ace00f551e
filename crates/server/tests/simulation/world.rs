//! What outlives every node of a run: the upstream, the partners' own books, and the choices still to be made.

use crate::dice::Dice;
use crate::disk::BEGIN;
use crate::upstream::OnItsWay;
use domain::money::Money;
use domain::time::Timestamp;
use providers::sandbox::{self, Sandbox, SandboxOptions};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is bought, the usual more often.
pub const BOUGHT: [&str; 13] = [
    sandbox::DELIVERS,
    sandbox::DELIVERS,
    sandbox::DELIVERS,
    sandbox::DELIVERS,
    sandbox::PARTIAL,
    sandbox::PARTIAL,
    sandbox::REFUSES,
    sandbox::KEEPS,
    sandbox::BUSY,
    sandbox::ANSWER_LOST,
    sandbox::LATE_SALE,
    sandbox::SLOW,
    sandbox::UNKNOWN,
];

/// A purchase in the book of a partner.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Which of the tenants.
    pub tenant: usize,
    /// The idempotency key, and the partner's own reference.
    pub key: String,
    pub body: Value,
    /// How often it was sent.
    pub sent: u32,
    /// The checkout and its orders, once answered.
    pub bought: Option<(String, Vec<String>)>,
    /// Whether it is certain that nothing was bought.
    pub refused: bool,
}

pub struct World {
    pub dice: Dice,
    pub sandbox: Sandbox,
    pub on_the_way: Mutex<Vec<OnItsWay>>,
    pub intents: Mutex<Vec<Intent>>,
    /// The ICCIDs a partner was shown, by eSIM: they must never change.
    pub shown: Mutex<BTreeMap<String, String>>,
    /// Credit the operator gives: to which of the tenants, and how much.
    pub adjustments: Mutex<Vec<(usize, Money)>>,
    /// Orders of which the operator gave all back, or tried to.
    pub goodwill: Mutex<BTreeSet<String>>,
    pub time: Mutex<Timestamp>,
    calm: AtomicBool,
    fault: Mutex<Option<String>>,
    trace: Mutex<DefaultHasher>,
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    told: bool,
}

impl World {
    pub fn new(seed: u64, told: bool) -> Self {
        let options = SandboxOptions { seed, delay_ms: 0 };
        Self {
            dice: Dice::new(seed),
            sandbox: Sandbox::in_memory(options).unwrap(),
            on_the_way: Mutex::default(),
            intents: Mutex::default(),
            shown: Mutex::default(),
            adjustments: Mutex::default(),
            goodwill: Mutex::default(),
            time: Mutex::new(Timestamp::from_millis(BEGIN)),
            calm: AtomicBool::new(false),
            fault: Mutex::default(),
            trace: Mutex::default(),
            counts: Mutex::default(),
            told,
        }
    }

    /// From here on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Something happened: two runs from one seed must tell the same.
    pub fn note(&self, now: Timestamp, what: &str) {
        (now.millis(), what).hash(&mut *self.trace.lock().unwrap());
        if self.told {
            println!("{now} {what}");
        }
    }

    /// The same for what nobody reads.
    pub fn note_quietly(&self, what: &[u8]) {
        what.hash(&mut *self.trace.lock().unwrap());
    }

    /// Something happened that must happen in some run.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_insert(0) += 1;
    }

    /// What was told, in one number.
    pub fn trace(&self) -> u64 {
        self.trace.lock().unwrap().finish()
    }

    /// Something is wrong; the first one counts.
    pub fn wrong(&self, what: String) {
        if self.told {
            println!("WRONG: {what}");
        }
        self.fault.lock().unwrap().get_or_insert(what);
    }

    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap().clone()
    }
}
