//! A simulator, an adapter that speaks to it, a clock for both, and somebody who takes callbacks.

use domain::fulfilment::{LookUp, NotYet, Outcome, Profile};
use domain::offer::Offer;
use domain::time::Timestamp;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use providers::callback::Callback;
use providers::connection::{Address, Connection};
use providers::sandbox::{CataloguePlan, DELIVERS};
use providers::simulator::shop::{Shop, ShopOptions};
use providers::simulator::{Credentials, Now, Simulator, dialect};
use providers::{Purchase, SoldEsim, Upstream};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// With what a client signs.
#[derive(Debug, Clone)]
pub struct Keys {
    pub account: String,
    pub secret: String,
    pub salt: String,
    /// Where callbacks are taken, for upstreams that are told so with each order.
    pub callback_url: String,
}

/// An adapter and what the contract must know of it.
pub struct Case {
    pub dialect: &'static str,
    /// Where the dialect's paths begin behind the simulator's address.
    pub path: &'static str,
    /// Part of the path of the call that buys.
    pub buying: &'static str,
    /// Part of the path of the call that looks a reference up; empty where there is none.
    pub looking_up: &'static str,
    /// Whether its callbacks are signed.
    pub signs_callbacks: bool,
    /// Whether a sale is told by callback; otherwise it is what a traveller does with an eSIM.
    pub tells_of_sales: bool,
    /// How it lists a plan of the shop.
    pub listed: fn(CataloguePlan) -> CataloguePlan,
    pub adapter: fn(Connection, &Keys) -> Arc<dyn Upstream>,
}

/// Milliseconds from sale to delivery.
pub const DELAY_MS: i64 = 3_000;
/// Our balance at the upstream, US cents.
pub const BALANCE_CENTS: i64 = 100_000;

pub struct Stage {
    pub case: Case,
    pub simulator: Simulator,
    pub upstream: Arc<dyn Upstream>,
    pub keys: Keys,
    clock: Arc<AtomicI64>,
    pub callbacks: mpsc::UnboundedReceiver<Callback>,
    /// The status callbacks are answered with.
    pub answer: Arc<AtomicU16>,
}

impl Stage {
    pub async fn of(case: Case) -> Self {
        let (url, callbacks, answer) = listener().await;
        let random = || format!("{:016x}{:016x}", std::process::id(), 0x5eed_u32);
        let keys = Keys {
            account: format!("account{:08x}", std::process::id()),
            secret: random(),
            salt: "00112233445566778899aabbccddeeff".to_owned(),
            callback_url: url.clone(),
        };
        let clock = Arc::new(AtomicI64::new(1_795_000_000_000));
        let options =
            ShopOptions { seed: 7, delay_ms: DELAY_MS, balance_cents: BALANCE_CENTS, callback_url: url, plans: 0 };
        let shop = Shop::open(Path::new(""), options).unwrap();
        let Keys { account, secret, salt, .. } = keys.clone();
        let dialect = dialect(case.dialect, Credentials { account, secret, salt }).unwrap();
        let time = Arc::clone(&clock);
        let now: Now = Arc::new(move || Timestamp::from_millis(time.load(Ordering::SeqCst)));
        let simulator = Simulator::start(([127, 0, 0, 1], 0).into(), dialect, shop, now).await.unwrap();
        let mut stage = Self { upstream: Arc::new(Nobody), case, simulator, keys, clock, callbacks, answer };
        stage.upstream = stage.adapter(&stage.keys);
        stage
    }

    /// An adapter with these keys.
    pub fn adapter(&self, keys: &Keys) -> Arc<dyn Upstream> {
        self.adapter_with(keys, Duration::from_secs(10))
    }

    pub fn adapter_with(&self, keys: &Keys, time_limit: Duration) -> Arc<dyn Upstream> {
        let base_url = format!("http://{}{}", self.simulator.address(), self.case.path);
        let address = Address { base_url: base_url.parse().unwrap(), proxy: None, time_limit };
        (self.case.adapter)(Connection::new(&address).unwrap(), keys)
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(Ordering::SeqCst))
    }

    pub fn advance(&self, millis: i64) {
        self.clock.fetch_add(millis, Ordering::SeqCst);
    }

    pub fn purchase(&self, reference: &str, plan: &str, quantity: u32) -> Purchase {
        Purchase { reference: reference.to_owned(), order: None, upstream_plan_id: plan.to_owned(), quantity }
    }

    /// Buys, and asks until it is there, as a worker does.
    pub async fn buy(&self, reference: &str, plan: &str, quantity: u32) -> (Vec<Profile>, Option<String>) {
        let mut purchase = self.purchase(reference, plan, quantity);
        let placed = self.upstream.place(self.now(), purchase.clone()).await;
        purchase.order = placed.order;
        match placed.meaning {
            Outcome::Done { profiles } => return (profiles, purchase.order),
            Outcome::NotYet(NotYet::Provisioning { .. }) => {}
            other => panic!("{other:?}"),
        }
        let found = self.found(&mut purchase).await;
        (found, purchase.order)
    }

    /// Asks until a purchase is there. Before the upstream has settled, "not found" proves nothing.
    pub async fn found(&self, purchase: &mut Purchase) -> Vec<Profile> {
        let settled_at = self.now().plus_millis(self.upstream.capabilities().settle_after_ms);
        for _ in 0..20 {
            let heard = self.upstream.look_up(self.now(), purchase.clone()).await;
            purchase.order = heard.order.or(purchase.order.take());
            match heard.meaning {
                LookUp::Delivered { profiles } => return profiles,
                LookUp::Provisioning { poll_at } => {
                    assert!(poll_at > self.now(), "it would be asked at once again");
                    self.advance(poll_at.since(self.now()));
                }
                LookUp::NotFound | LookUp::NoAnswer { .. } if self.now() < settled_at => self.advance(2_000),
                other => panic!("{other:?} ({})", heard.raw),
            }
        }
        panic!("it never comes");
    }

    /// Buys one that works, and says how the upstream finds it again.
    pub async fn esim(&self, reference: &str, plan: &str) -> SoldEsim {
        let (mut profiles, order) = self.buy(reference, plan, 1).await;
        let Profile { iccid, handle, .. } = profiles.pop().unwrap();
        SoldEsim { reference: reference.to_owned(), order, iccid, handle }
    }

    pub async fn delivered(&self) -> SoldEsim {
        self.esim("order-1-1", DELIVERS).await
    }

    pub fn sales(&self) -> usize {
        self.simulator.shop().sales().len()
    }

    /// The next callback.
    pub async fn callback(&mut self) -> Callback {
        let next = tokio::time::timeout(Duration::from_secs(20), self.callbacks.recv()).await;
        next.expect("no callback came").expect("a listener")
    }
}

/// Day passes are listed for several terms, with the days behind their id: one of them for each plan.
pub fn one_of_each(mut offers: Vec<Offer>) -> Vec<Offer> {
    offers.retain(|offer| offer.upstream_plan_id.rsplit_once('*').is_none_or(|(_, days)| days == "1"));
    offers
}

/// Stands where an adapter is made that needs the stage.
struct Nobody;

impl Upstream for Nobody {
    fn capabilities(&self) -> domain::fulfilment::Capabilities {
        unreachable!()
    }
    fn services(&self) -> providers::Services {
        unreachable!()
    }
    fn place(&self, _: Timestamp, _: Purchase) -> providers::Answer<'_, Outcome> {
        unreachable!()
    }
    fn look_up(&self, _: Timestamp, _: Purchase) -> providers::Answer<'_, LookUp> {
        unreachable!()
    }
    fn cancel(&self, _: Timestamp, _: SoldEsim) -> providers::Answer<'_, domain::fulfilment::Cancellation> {
        unreachable!()
    }
    fn offers(&self, _: Timestamp) -> providers::Answer<'_, providers::Reading<Vec<Offer>>> {
        unreachable!()
    }
    fn usage(&self, _: Timestamp, _: SoldEsim) -> providers::Answer<'_, providers::Reading<providers::offer::Usage>> {
        unreachable!()
    }
    fn add_ons(&self, _: Timestamp, _: SoldEsim) -> providers::Answer<'_, providers::Reading<Vec<Offer>>> {
        unreachable!()
    }
    fn add(&self, _: Timestamp, _: providers::AddOn) -> providers::Answer<'_, Outcome> {
        unreachable!()
    }
    fn balance(&self, _: Timestamp) -> providers::Answer<'_, providers::Reading<providers::offer::Balance>> {
        unreachable!()
    }
    fn read_callback(
        &self,
        _: Timestamp,
        _: &Callback,
    ) -> Result<providers::callback::Notice, providers::callback::CallbackRefusal> {
        unreachable!()
    }
}

/// Somebody who takes callbacks and answers them with a status that can be set.
async fn listener() -> (String, mpsc::UnboundedReceiver<Callback>, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/callback", listener.local_addr().unwrap());
    let (came, callbacks) = mpsc::unbounded_channel();
    let answer = Arc::new(AtomicU16::new(200));
    let status = Arc::clone(&answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (came, status) = (came.clone(), Arc::clone(&status));
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (came, status) = (came.clone(), status.load(Ordering::SeqCst));
                async move {
                    let (head, body) = request.into_parts();
                    let headers = head.headers.iter().map(|(name, value)| {
                        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                    });
                    let callback = Callback {
                        method: head.method.as_str().to_owned(),
                        headers: headers.collect(),
                        body: body.collect().await.unwrap().to_bytes().to_vec(),
                    };
                    let _ = came.send(callback);
                    let answer = Full::new(bytes::Bytes::from_static(br#"{"code":"0000","msg":"success"}"#));
                    Ok::<_, Infallible>(hyper::Response::builder().status(status).body(answer).unwrap())
                }
            });
            let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    (url, callbacks, answer)
}
