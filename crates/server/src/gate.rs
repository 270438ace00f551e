//! The gate before an upstream: how many calls are on their way to it, how fast they follow each other, and whether it
//! answers at all. Each upstream has its own, so that one that is slow or dead holds up nobody else's orders.

use crate::clock::Clock;
use domain::breaker::{Breaker, Figures, Health, Heard, May};
use domain::time::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// One upstream's gate.
pub struct Gate {
    clock: Arc<dyn Clock>,
    most: usize,
    places: Arc<Semaphore>,
    /// How many of them questions may take that no order waits for.
    aside: Arc<Semaphore>,
    /// Milliseconds between two calls, and when the next one may begin.
    pace: Option<(i64, Mutex<Timestamp>)>,
    state: Mutex<State>,
    /// Rung when an upstream answers that did not before.
    answers_again: Notify,
}

struct State {
    breaker: Breaker,
    figures: Figures,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate for so many calls at the same time and per second.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, most: usize, calls_per_second: Option<u32>) -> Self {
        let pause = |per_second: u32| 1_000_i64.div_euclid(i64::from(per_second.max(1))).max(1);
        Self {
            most,
            places: Arc::new(Semaphore::new(most)),
            aside: Arc::new(Semaphore::new(most.div_euclid(4).max(1))),
            pace: calls_per_second.map(|per_second| (pause(per_second), Mutex::new(Timestamp::from_millis(0)))),
            state: Mutex::new(State { breaker: Breaker::NEW, figures: Figures::NEW }),
            answers_again: Notify::new(),
            clock,
        }
    }

    /// How many calls fit in at the same time.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// How many places are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Waits for a place.
    pub async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Waits for a place for a question that no order waits for. A quarter of all places at most are such, so that orders
    /// never stand behind many of them.
    pub async fn place_aside(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let aside = Arc::clone(&self.aside).acquire_owned().await.ok()?;
        let place = self.place().await?;
        Some((aside, place))
    }

    /// Waits until every call under way is over.
    pub async fn empty(&self) {
        let _ = self.places.acquire_many(u32::try_from(self.most).unwrap_or(u32::MAX)).await;
    }

    /// Waits until the next call may begin.
    pub async fn pace(&self) {
        let Some((pause, next)) = &self.pace else { return };
        let begin = {
            let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = self.clock.now().max(*next);
            *next = begin.plus_millis(*pause);
            begin
        };
        self.clock.sleep_until(begin).await;
    }

    /// Whether the upstream may be called now.
    pub fn may_call(&self) -> May {
        let now = self.clock.now();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).breaker.may_call(now)
    }

    /// Learns whether the upstream was there.
    pub fn heard(&self, answered: bool) {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_closed = matches!(state.breaker, Breaker::Closed { .. });
        state.breaker.after(if answered { Heard::Answered } else { Heard::Failed }, now);
        drop(state);
        if answered && !was_closed {
            self.answers_again.notify_one();
        }
    }

    /// Returns when an upstream answers that did not before.
    pub async fn answers_again(&self) {
        self.answers_again.notified().await;
    }

    /// Learns what became of a purchase that began at `begun`: `None` where it is not decided.
    pub fn decided(&self, begun: Timestamp, delivered: Option<bool>) {
        let took = self.clock.now().since(begun);
        let figures = &mut self.state.lock().unwrap_or_else(PoisonError::into_inner).figures;
        match delivered {
            Some(true) => figures.delivered(took),
            Some(false) => figures.not_delivered(),
            None => {}
        }
    }

    /// How the upstream does.
    #[must_use]
    pub fn health(&self) -> Health {
        let now = self.clock.now();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Health::of(&state.breaker, &state.figures, now)
    }
}
