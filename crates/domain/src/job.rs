//! Jobs: work written in the same transaction as the change that needs it. Effects leave the
//! platform in no other way.

use crate::time::Timestamp;
use crate::words;

words! {
    /// What a job does.
    pub enum JobKind {
        /// Gets an order's eSIMs from its upstream.
        Fulfil = "fulfil",
        /// Asks the upstream to take an order's cancelling eSIMs back.
        Cancel = "cancel",
    }
}

words! {
    /// Where a job is. A finished job has no row.
    pub enum JobState {
        /// Due at its `run_at`.
        Ready = "ready",
        /// A worker has it until its `run_at`, when the lease ends.
        Leased = "leased",
        /// Given up; waits for the operator.
        Dead = "dead",
    }
}

/// Milliseconds of the first pause of a back-off.
const FIRST_PAUSE_MS: i64 = 1_000;
/// Milliseconds of the longest pause of a back-off.
const LONGEST_PAUSE_MS: i64 = 300_000;

/// When to try again after `attempts` failures (from 1): doubling pauses from one second to five
/// minutes, with a jitter of a fifth either way taken from `random`.
#[must_use]
pub fn retry_at(now: Timestamp, attempts: u32, random: u64) -> Timestamp {
    let doublings = attempts.saturating_sub(1).min(20);
    let pause = FIRST_PAUSE_MS.saturating_mul(1_i64.checked_shl(doublings).unwrap_or(i64::MAX)).min(LONGEST_PAUSE_MS);
    let fifth = pause.checked_div(5).unwrap_or(0);
    let span = u64::try_from(fifth.saturating_mul(2)).unwrap_or(0).saturating_add(1);
    let jitter = i64::try_from(random.checked_rem(span).unwrap_or(0)).unwrap_or(0).saturating_sub(fifth);
    now.plus_millis(pause.saturating_add(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_five_minutes() {
        let start = Timestamp::from_millis(0);
        for (attempts, pause) in [(1, 1_000), (2, 2_000), (3, 4_000), (9, 256_000), (10, 300_000), (u32::MAX, 300_000)]
        {
            for random in [0, 1, 12_345, u64::MAX] {
                let at = retry_at(start, attempts, random).millis();
                assert!((pause * 4 / 5..=pause * 6 / 5).contains(&at), "{attempts}: {at}");
            }
        }
    }
}
