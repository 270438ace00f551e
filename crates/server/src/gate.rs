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
    /// Rung when the circuit breaker opens or closes, or a trial fails.
    breaker_moved: Notify,
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
            breaker_moved: Notify::new(),
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

    /// What [`Gate::may_call`] would say, without taking the trial: for who does not know yet whether there is anything to
    /// ask. A trial that is taken and not made would count as one that failed.
    #[must_use]
    pub fn would_call(&self) -> May {
        let now = self.clock.now();
        let mut breaker = self.state.lock().unwrap_or_else(PoisonError::into_inner).breaker;
        breaker.may_call(now)
    }

    /// Whether the upstream may be called now. Whoever hears of a trial has to make it.
    pub fn may_call(&self) -> May {
        let now = self.clock.now();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).breaker.may_call(now)
    }

    /// Learns whether the upstream was there.
    pub fn heard(&self, answered: bool) {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.breaker;
        state.breaker.after(if answered { Heard::Answered } else { Heard::Failed }, now);
        let is_closed = |breaker| matches!(breaker, Breaker::Closed { .. });
        let moved = state.breaker != before && !(is_closed(before) && is_closed(state.breaker));
        drop(state);
        if moved {
            self.breaker_moved.notify_one();
        }
    }

    /// Returns when the circuit breaker has opened or closed, or a trial has failed.
    pub async fn breaker_moved(&self) {
        self.breaker_moved.notified().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use domain::breaker::BreakerState;

    fn broken(clock: &TestClock) -> Gate {
        let gate = Gate::new(Arc::new(clock.clone()), 1, None);
        (0..5).for_each(|_| gate.heard(false));
        gate
    }

    #[test]
    fn who_has_nothing_to_ask_takes_no_trial() {
        let clock = TestClock::at(1_000_000);
        let gate = broken(&clock);
        assert!(matches!(gate.would_call(), May::No { .. }));
        clock.advance(5_000);
        for _ in 0..3 {
            assert_eq!(gate.would_call(), May::Trial);
            assert_eq!(gate.health().state, BreakerState::HalfOpen);
        }
        assert_eq!(gate.may_call(), May::Trial);
        assert!(matches!(gate.would_call(), May::No { .. }));
    }

    #[tokio::test]
    async fn who_waits_for_a_trial_hears_how_it_ended() {
        let clock = TestClock::at(1_000_000);
        let gate = broken(&clock);
        gate.breaker_moved().await;
        for answered in [false, true] {
            clock.advance(300_000);
            assert_eq!(gate.may_call(), May::Trial);
            gate.heard(answered);
            gate.breaker_moved().await;
            assert_eq!(matches!(gate.would_call(), May::Yes), answered);
        }
    }
}
