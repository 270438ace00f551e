//! How often a client may ask: so many calls in a window that begins with the first of them.

use super::wire::Reply;
use domain::time::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Windows kept before those that are over are thrown away.
const MANY: usize = 1_000;

/// A published limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    /// Calls in a window.
    pub calls: u32,
    /// How long a window is, milliseconds.
    pub window_ms: i64,
}

impl Quota {
    /// So many calls a minute.
    pub const fn a_minute(calls: u32) -> Self {
        Self { calls, window_ms: 60_000 }
    }

    /// So many calls a second.
    pub const fn a_second(calls: u32) -> Self {
        Self { calls, window_ms: 1_000 }
    }
}

/// What is left after a call was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It may go on, and so many after it.
    Calls(u32),
    /// It was one too many: so many seconds until the next.
    Wait(i64),
}

/// The windows that are open.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    windows: Mutex<HashMap<String, (i64, u32)>>,
}

impl Quotas {
    /// Counts a call of whoever `key` names.
    pub fn count(&self, key: &str, quota: Quota, now: Timestamp) -> Left {
        let now = now.millis();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() > MANY {
            windows.retain(|_, (ends_at, _)| *ends_at > now);
        }
        let window = windows.entry(key.to_owned()).or_insert((0, 0));
        if window.0 <= now {
            *window = (now.saturating_add(quota.window_ms), 0);
        }
        if window.1 >= quota.calls {
            return Left::Wait(window.0.saturating_sub(now).saturating_add(999) / 1_000);
        }
        window.1 += 1;
        Left::Calls(quota.calls - window.1)
    }
}

impl Left {
    /// The answer with the headers that tell what is left, as Laravel's middleware writes them.
    pub fn told(self, quota: Quota, reply: Reply) -> Reply {
        let reply = reply.with("x-ratelimit-limit", quota.calls.to_string());
        match self {
            Self::Calls(left) => reply.with("x-ratelimit-remaining", left.to_string()),
            Self::Wait(seconds) => reply.with("x-ratelimit-remaining", "0").with("retry-after", seconds.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_its_first_call() {
        let quotas = Quotas::default();
        let count = |at| quotas.count("token", Quota::a_minute(2), Timestamp::from_millis(at));
        assert_eq!((count(500), count(900)), (Left::Calls(1), Left::Calls(0)));
        assert_eq!(count(30_500), Left::Wait(30));
        assert_eq!(count(60_500), Left::Calls(1));
        assert_eq!(quotas.count("other", Quota::a_second(1), Timestamp::from_millis(0)), Left::Calls(0));
    }
}
