//! Percentiles, rates and the table they are printed in.

use crate::Outcome;
use crate::load::Measured;
use std::io::Write;
use std::time::Duration;

/// How long things took, sorted, in microseconds.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Sorts them.
    pub fn new(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        Self(micros)
    }

    /// The value that this share of all does not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        // The share in millionths keeps floating point away from the index.
        let millionths =
            (0..=1_000_000_u64).rev().step_by(1_000).find(|step| micros_share(*step) <= share).unwrap_or(0);
        let count = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let rank = (count * millionths).div_ceil(1_000_000).max(1) - 1;
        let found = usize::try_from(rank).ok().and_then(|rank| self.0.get(rank)).copied().unwrap_or(0);
        Duration::from_micros(found.into())
    }
}

fn micros_share(step: u64) -> f64 {
    f64::from(u32::try_from(step).unwrap_or(u32::MAX)) / 1_000_000.0
}

/// A duration as the driver keeps it.
pub fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// So many in so long.
pub fn per_second(count: u32, elapsed: Duration) -> f64 {
    f64::from(count) / elapsed.as_secs_f64().max(f64::EPSILON)
}

/// A duration as text.
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1_000.0)
}

/// The table, printed line by line.
#[derive(Debug)]
pub struct Table(std::io::Stdout);

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self(std::io::stdout())
    }

    /// A line of its own.
    pub fn heading(&mut self, text: &str) -> Outcome<()> {
        Ok(writeln!(self.0, "{text}")?)
    }

    /// A name and its figure.
    pub fn row(&mut self, name: &str, figure: &str) -> Outcome<()> {
        Ok(writeln!(self.0, "{name:<42} {figure}")?)
    }

    /// The figures of one load.
    pub fn load(&mut self, name: &str, measured: &Measured) -> Outcome<()> {
        let (median, p99) = (measured.latencies.quantile(0.5), measured.latencies.quantile(0.99));
        let most = measured.latencies.quantile(1.0);
        self.row(
            name,
            &format!(
                "{:.0}/s, p50 {}, p99 {}, most {}; {}",
                measured.rate(),
                millis(median),
                millis(p99),
                millis(most),
                measured.by_status()
            ),
        )
    }
}
