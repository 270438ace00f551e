//! Buyers who number their orders and ask again with the same key until they are told that it is bought: what they were
//! told can be compared with what there is.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

pub const CHECKOUT: &str = "/api/tenant/orders/checkout";

/// Small numbers that differ (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            items.swap(end - 1, self.index(end));
        }
    }
}

/// The answer to each reference.
pub type Answered = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Promises {
    answered: Answered,
    /// When each answer came.
    moments: Vec<Instant>,
}

/// What buyers do, and were promised.
pub struct Buyers {
    urls: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    promises: Arc<Mutex<Promises>>,
    tasks: tokio::task::JoinSet<()>,
}

/// Before somebody who was told nothing asks again.
const PAUSE: Duration = Duration::from_millis(10);
/// Nobody waits longer than this for the next order of anybody.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);

impl Buyers {
    /// So many buyers, who try the next node with the same key when one does not answer, and rest for a while after
    /// each order.
    pub fn start(urls: Vec<String>, count: usize, rest: Duration, token: &str, plan: &str) -> Self {
        let mut buyers = Self {
            urls: Arc::new(RwLock::new(urls)),
            stop: Arc::default(),
            promises: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for buyer in 0..count {
            let (urls, stop) = (Arc::clone(&buyers.urls), Arc::clone(&buyers.stop));
            let promises = Arc::clone(&buyers.promises);
            let (token, plan) = (token.to_owned(), plan.to_owned());
            buyers.tasks.spawn(async move {
                let mut node = buyer;
                for number in 0.. {
                    let key = format!("{buyer}-{number}");
                    loop {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let url = {
                            let urls = urls.read().unwrap();
                            urls[node % urls.len()].clone()
                        };
                        node += 1;
                        if let Some(bytes) = buy(&url, &token, &plan, &key).await {
                            let mut promises = promises.lock().unwrap();
                            promises.answered.insert(key, bytes);
                            promises.moments.push(Instant::now());
                            break;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                    tokio::time::sleep(rest).await;
                }
            });
        }
        buyers
    }

    /// A node that was started again.
    pub fn move_node(&self, number: usize, url: &str) {
        url.clone_into(&mut self.urls.write().unwrap()[number]);
    }

    pub fn count(&self) -> usize {
        self.promises.lock().unwrap().moments.len()
    }

    pub async fn until(&self, count: usize) {
        let (mut last, mut since) = (self.count(), Instant::now());
        while last < count {
            assert!(since.elapsed() < LONGEST_SILENCE, "nothing is sold any more, after {last} orders");
            tokio::time::sleep(PAUSE).await;
            let now = self.count();
            if now > last {
                (last, since) = (now, Instant::now());
            }
        }
    }

    /// What was promised so far.
    pub fn answered(&self) -> Answered {
        self.promises.lock().unwrap().answered.clone()
    }

    /// The longest time without an answer, from the last one before this moment until now.
    pub fn longest_silence_since(&self, moment: Instant) -> Duration {
        let promises = self.promises.lock().unwrap();
        let before = promises.moments.partition_point(|answered| *answered <= moment).saturating_sub(1);
        let moments = &promises.moments[before..];
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.chain(moments.last().map(Instant::elapsed)).max().unwrap_or_default()
    }

    pub async fn stop(mut self) -> Answered {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.answered()
    }
}

/// The answer, or nothing when nobody knows, or nothing can be bought now: ask again with the same key.
async fn buy(url: &str, token: &str, plan: &str, key: &str) -> Option<Vec<u8>> {
    let body = json!({"items": [{"planId": plan, "quantity": 1}], "reference": key});
    match call(url, CHECKOUT, token, Some(&body), Some(key)).await {
        None | Some((503, _)) => None,
        Some((status, bytes)) => {
            assert_eq!(status, 201, "{key}: {}", String::from_utf8_lossy(&bytes));
            Some(bytes)
        }
    }
}

/// Everything that was acknowledged is there exactly once, delivered, sold once, and paid.
pub async fn account_for(urls: &[String], token: &str, plan: &str, answered: &Answered) {
    for (number, (key, bytes)) in answered.iter().enumerate() {
        let mut tries = 0..20;
        let again = loop {
            match buy(&urls[number % urls.len()], token, plan, key).await {
                Some(again) => break again,
                None => assert!(tries.next().is_some(), "{key} is not answered"),
            }
        };
        assert_eq!(&again, bytes, "{key}");
    }
    let url = &urls[0];
    let operator = login(url, "operator", EMAIL).await;
    let found = orders(url, token).await;
    for key in answered.keys() {
        assert_eq!(found.get(key).map(Vec::len), Some(1), "{key} is there exactly once");
    }
    for (key, orders) in &found {
        assert_eq!(orders.len(), 1, "{key}");
        let id = orders[0]["id"].as_str().unwrap();
        let mut order = look(url, &format!("/api/tenant/orders/{id}?wait=30"), token).await;
        if order["order"]["status"] == "processing" {
            order = look(url, &format!("/api/tenant/orders/{id}?wait=30"), token).await;
        }
        assert_eq!(order["order"]["status"], "completed", "{order}");
        let sales = format!("/api/operator/sandbox/sales?reference={id}");
        let sold = look(url, &sales, &operator).await;
        assert_eq!(sold["sales"].as_array().unwrap().len(), 1, "{key} is sold once");
    }
    let balance = look(url, "/api/tenant/balance", token).await;
    let cents = balance["creditBalance"].to_string();
    let (whole, decimals) = cents.split_once('.').unwrap_or((&cents, ""));
    let left = 4_000_000 - u64::try_from(found.len()).unwrap() * 450;
    assert_eq!(format!("{whole}{decimals:0<2}"), left.to_string());
}
