//! The network to the upstream: requests and answers take their time, get lost, or are still on their way when the
//! node that sent them is gone. The sandbox behind it goes on living whatever becomes of the node.

use crate::clock::pause;
use crate::world::World;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, Outcome};
use domain::offer::Offer;
use domain::time::Timestamp;
use providers::callback::{Callback, CallbackRefusal, Notice};
use providers::offer::{Balance, Usage};
use providers::{AddOn, Answer, Heard, Purchase, Reading, Services, SoldEsim, Upstream};
use server::clock::Clock;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How long a request is on its way at most, milliseconds.
const WAY_MS: u64 = 2_000;

/// A purchase that was sent.
#[derive(Debug, Clone)]
pub struct OnItsWay {
    number: u64,
    arrives: Timestamp,
    purchase: Purchase,
}

#[derive(Clone)]
pub struct Network {
    pub world: Arc<World>,
    pub clock: Arc<dyn Clock>,
}

impl Network {
    /// Lets what an earlier node sent arrive.
    pub fn go_on(&self) {
        for request in self.world.on_the_way.lock().unwrap().clone() {
            tokio::spawn(self.clone().deliver(request));
        }
    }

    async fn deliver(self, request: OnItsWay) -> Heard<Outcome> {
        self.clock.sleep_until(request.arrives).await;
        let heard = self.world.sandbox.place(self.clock.now(), request.purchase).await;
        self.world.on_the_way.lock().unwrap().retain(|other| other.number != request.number);
        heard
    }

    async fn way(&self) {
        let dice = &self.world.dice;
        let millis = match dice.below(10) {
            0 => dice.below(WAY_MS),
            1..=4 => dice.below(100),
            _ => 1,
        };
        pause(millis).await;
    }

    /// Whether an answer is lost, or comes after nobody waits for it any more.
    async fn answer_is_lost(&self) -> bool {
        let lost = !self.world.is_calm() && self.world.dice.once_in(12);
        if lost && self.world.dice.once_in(3) {
            pause(200_000).await;
        }
        lost
    }

    async fn send(&self, now: Timestamp, purchase: Purchase) -> Heard<Outcome> {
        let unknown = |reason: &str| Heard::new(Outcome::Unknown { reason: reason.to_owned() }, reason);
        let dice = &self.world.dice;
        if !self.world.is_calm() && dice.once_in(20) {
            self.way().await;
            return unknown("the request was lost");
        }
        let late = if dice.once_in(6) { dice.below(WAY_MS) } else { 1 };
        let arrives = now.plus_millis(i64::try_from(late).unwrap());
        let request = OnItsWay { number: dice.roll(), arrives, purchase };
        self.world.on_the_way.lock().unwrap().push(request.clone());
        let (done, answer) = oneshot::channel();
        let network = self.clone();
        tokio::spawn(async move {
            let _ = done.send(network.deliver(request).await);
        });
        let heard = answer.await;
        self.way().await;
        if self.answer_is_lost().await {
            return unknown("the answer was lost");
        }
        heard.unwrap_or_else(|_| unknown("the connection broke"))
    }
}

impl Upstream for Network {
    fn capabilities(&self) -> Capabilities {
        let sandbox = self.world.sandbox.capabilities();
        Capabilities { settle_after_ms: sandbox.settle_after_ms + i64::try_from(WAY_MS).unwrap(), ..sandbox }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        self.world.note(now, &format!("place {}", purchase.reference));
        Box::pin(self.send(now, purchase))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        self.world.note(now, &format!("look up {}", purchase.reference));
        Box::pin(async move {
            self.way().await;
            let heard = self.world.sandbox.look_up(self.clock.now(), purchase).await;
            self.way().await;
            if self.answer_is_lost().await {
                let reason = "the answer was lost".to_owned();
                return Heard::new(LookUp::NoAnswer { reason: reason.clone() }, reason);
            }
            heard
        })
    }

    fn services(&self) -> Services {
        self.world.sandbox.services()
    }

    fn offers(&self, now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        self.world.sandbox.offers(now)
    }

    fn usage(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        self.world.sandbox.usage(now, esim)
    }

    fn add_ons(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        self.world.sandbox.add_ons(now, esim)
    }

    fn add(&self, now: Timestamp, add_on: AddOn) -> Answer<'_, Outcome> {
        self.world.sandbox.add(now, add_on)
    }

    fn balance(&self, now: Timestamp) -> Answer<'_, Reading<Balance>> {
        self.world.sandbox.balance(now)
    }

    fn read_callback(&self, now: Timestamp, callback: &Callback) -> Result<Notice, CallbackRefusal> {
        self.world.sandbox.read_callback(now, callback)
    }

    fn cancel(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Cancellation> {
        self.world.note(now, &format!("cancel {}", esim.reference));
        Box::pin(async move {
            self.way().await;
            let heard = self.world.sandbox.cancel(self.clock.now(), esim).await;
            self.way().await;
            if self.answer_is_lost().await {
                let reason = "the answer was lost".to_owned();
                return Heard::new(Cancellation::TryLater { reason: reason.clone() }, reason);
            }
            heard
        })
    }
}
