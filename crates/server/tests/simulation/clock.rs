//! Time passes when everybody waits for it, and then at once: tokio's paused clock, told as the time of day.

use domain::time::Timestamp;
use server::clock::Clock;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct SimulatedClock {
    begin: Timestamp,
    origin: Instant,
}

impl SimulatedClock {
    /// A clock that shows `begin` now; to be made where tokio's clock is paused.
    pub fn showing(begin: Timestamp) -> Self {
        Self { begin, origin: Instant::now() }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.begin.plus_millis(i64::try_from(self.origin.elapsed().as_millis()).unwrap())
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        pause(u64::try_from(at.since(self.now())).unwrap_or(0))
    }
}

/// Waits for so many milliseconds.
pub fn pause(millis: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(tokio::time::sleep(Duration::from_millis(millis)))
}
