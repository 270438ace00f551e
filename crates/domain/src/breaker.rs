//! The circuit breaker of one connection and the figures of its health. An upstream that is down is left alone and
//! tried again with growing pauses, one call at a time, so that neither our orders nor its recovery suffer from us.

use crate::time::Timestamp;
use crate::words;

/// Failures in a row that open the breaker.
const MOST_FAILURES: u32 = 5;
/// Milliseconds of the pause after opening.
const FIRST_PAUSE_MS: i64 = 5_000;
/// Milliseconds of the longest pause.
const LONGEST_PAUSE_MS: i64 = 300_000;
/// Milliseconds after which a trial without an answer is given up. Longer than any call's own time limit: what is
/// given up here has lost the one who called, not just its answer.
const TRIAL_MS: i64 = 120_000;

/// What was heard of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The upstream answered in its own words. A refusal is an answer.
    Answered,
    /// No connection, no answer in time, a server error (5xx), or something that is none of its words, such as a page
    /// of HTML.
    Failed,
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// Yes.
    Yes,
    /// Yes, as the one call that finds out whether the upstream is back. Say with [`Breaker::after`] what was heard.
    Trial,
    /// Not now.
    No {
        /// When to ask again, at the latest.
        until: Timestamp,
    },
}

words! {
    /// What a breaker lets through at the moment.
    pub enum BreakerState {
        /// Every call.
        Closed = "closed",
        /// One call: the next one is the trial.
        HalfOpen = "half_open",
        /// No call: there is a pause, or the trial is under way.
        Open = "open",
    }
}

/// A circuit breaker: five failures in a row open it for five seconds; then one call may try; each failed trial
/// doubles the pause, up to five minutes; any answer closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// All calls pass.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// No call passes.
    Open {
        /// When a trial may be made.
        until: Timestamp,
        /// Milliseconds of this pause.
        pause_ms: i64,
    },
    /// The trial is under way.
    Trying {
        /// When it is given up.
        until: Timestamp,
        /// Milliseconds of the pause before it.
        pause_ms: i64,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::NEW
    }
}

impl Breaker {
    /// The breaker of a connection that nothing is known about.
    pub const NEW: Self = Self::Closed { failures: 0 };

    /// Asks whether a call may be made now. Each [`May::Trial`] is for one call.
    pub fn may_call(&mut self, now: Timestamp) -> May {
        *self = self.at(now);
        match *self {
            Self::Closed { .. } => May::Yes,
            Self::Open { until, pause_ms } if until <= now => {
                *self = Self::Trying { until: now.plus_millis(TRIAL_MS), pause_ms };
                May::Trial
            }
            Self::Open { until, .. } | Self::Trying { until, .. } => May::No { until },
        }
    }

    /// Learns what was heard of a call, of whatever was called and whenever it was sent.
    pub fn after(&mut self, heard: Heard, now: Timestamp) {
        *self = match (heard, self.at(now)) {
            (Heard::Answered, _) => Self::NEW,
            (Heard::Failed, Self::Closed { failures }) => match failures.saturating_add(1) {
                failures if failures < MOST_FAILURES => Self::Closed { failures },
                _ => Self::open(now, FIRST_PAUSE_MS),
            },
            // A call from before the pause: that the upstream is down is known.
            (Heard::Failed, open @ Self::Open { .. }) => open,
            (Heard::Failed, Self::Trying { pause_ms, .. }) => Self::open(now, longer(pause_ms)),
        };
    }

    /// What it lets through at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.at(now) {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { until, .. } if until <= now => BreakerState::HalfOpen,
            Self::Open { .. } | Self::Trying { .. } => BreakerState::Open,
        }
    }

    /// What time alone has made of it: a trial whose answer never came has failed. A clock that was set back must not
    /// hold it open until the old time is reached again, so what would take more than twice as long as meant is over.
    fn at(self, now: Timestamp) -> Self {
        let too_far = |until: Timestamp, meant_ms: i64| until.since(now) > meant_ms.saturating_mul(2);
        match self {
            Self::Open { until, pause_ms } if too_far(until, pause_ms) => Self::Open { until: now, pause_ms },
            Self::Trying { until, pause_ms } if too_far(until, TRIAL_MS) => {
                Self::Open { until: now, pause_ms: longer(pause_ms) }
            }
            Self::Trying { until, pause_ms } if until <= now => Self::open(until, longer(pause_ms)),
            same => same,
        }
    }

    fn open(since: Timestamp, pause_ms: i64) -> Self {
        Self::Open { until: since.plus_millis(pause_ms), pause_ms }
    }
}

/// The pause after a failed trial.
fn longer(pause_ms: i64) -> i64 {
    pause_ms.saturating_mul(2).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS)
}

/// The weight of the newest value in an average: a sixteenth.
const WEIGHT: i64 = 16;
/// Parts that one permille is averaged in, and one millisecond: an average in whole ones would stop short of its goal.
const FINE: i64 = 1_000;
/// Milliseconds that a delivery is taken to last before any was seen: neither fast nor slow.
const NEUTRAL_DELIVERY_MS: i64 = 5_000;
/// Milliseconds of the longest delivery that counts; a longer one counts as so much.
const LONGEST_DELIVERY_MS: i64 = 86_400_000;

/// How well and how fast a connection delivers, as exponentially weighted averages of its purchases. They start as
/// those of a connection that always delivers, so that a new one is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    success_ppm: i64,
    delivers_in_us: i64,
}

impl Default for Figures {
    fn default() -> Self {
        Self::NEW
    }
}

impl Figures {
    /// The figures of a connection that nothing is known about.
    pub const NEW: Self = Self { success_ppm: 1_000_000, delivers_in_us: NEUTRAL_DELIVERY_MS.saturating_mul(FINE) };

    /// Counts a purchase that was delivered, `took_ms` milliseconds after it was sent.
    pub fn delivered(&mut self, took_ms: i64) {
        let took_ms = took_ms.clamp(0, LONGEST_DELIVERY_MS);
        self.success_ppm = nearer(self.success_ppm, 1_000_000);
        self.delivers_in_us = nearer(self.delivers_in_us, took_ms.saturating_mul(FINE));
    }

    /// Counts a purchase that brought nothing: refused, or failed.
    pub fn not_delivered(&mut self) {
        self.success_ppm = nearer(self.success_ppm, 0);
    }

    /// Purchases of a thousand that are delivered, 0 to 1000.
    #[must_use]
    pub fn success_permille(&self) -> u32 {
        u32::try_from(rounded(self.success_ppm)).unwrap_or(0).min(1_000)
    }

    /// Milliseconds from purchase to delivery.
    #[must_use]
    pub fn delivers_in_ms(&self) -> i64 {
        rounded(self.delivers_in_us)
    }
}

fn nearer(average: i64, newest: i64) -> i64 {
    let step = newest.saturating_sub(average).checked_div(WEIGHT).unwrap_or(0);
    average.saturating_add(step)
}

fn rounded(fine: i64) -> i64 {
    let half = FINE.checked_div(2).unwrap_or(0);
    fine.saturating_add(half).checked_div(FINE).unwrap_or(0)
}

/// How a connection does at one moment: what routing goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// What its breaker lets through.
    pub state: BreakerState,
    /// Purchases of a thousand that are delivered, 0 to 1000.
    pub success_permille: u32,
    /// Milliseconds from purchase to delivery.
    pub delivers_in_ms: i64,
}

impl Health {
    /// The health of a connection at `now`.
    #[must_use]
    pub fn of(breaker: &Breaker, figures: &Figures, now: Timestamp) -> Self {
        Self {
            state: breaker.state(now),
            success_permille: figures.success_permille(),
            delivers_in_ms: figures.delivers_in_ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn at(seconds: i64) -> Timestamp {
        NOW.plus_millis(seconds * 1_000)
    }

    /// A breaker that has just been opened.
    fn opened() -> Breaker {
        let mut breaker = Breaker::NEW;
        for _ in 0..5 {
            assert_eq!(breaker.may_call(NOW), May::Yes);
            breaker.after(Heard::Failed, NOW);
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_it_for_five_seconds() {
        let mut breaker = opened();
        assert_eq!(breaker.state(NOW), BreakerState::Open);
        assert_eq!(breaker.may_call(at(4)), May::No { until: at(5) });
        assert_eq!(breaker.state(at(5)), BreakerState::HalfOpen);
        assert_eq!(breaker.may_call(at(5)), May::Trial);
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let mut breaker = Breaker::NEW;
        for _ in 0..10 {
            for _ in 0..4 {
                breaker.after(Heard::Failed, NOW);
            }
            breaker.after(Heard::Answered, NOW);
        }
        assert_eq!(breaker, Breaker::NEW);
    }

    #[test]
    fn one_call_tries_and_the_others_wait_for_it() {
        let mut breaker = opened();
        assert_eq!(breaker.may_call(at(5)), May::Trial);
        assert_eq!(breaker.state(at(5)), BreakerState::Open);
        assert_eq!(breaker.may_call(at(6)), May::No { until: at(125) });
        breaker.after(Heard::Answered, at(7));
        assert_eq!((breaker.may_call(at(7)), breaker.state(at(7))), (May::Yes, BreakerState::Closed));
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_an_answer_forgets_them() {
        let mut breaker = opened();
        let mut now = at(5);
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(breaker.may_call(now), May::Trial);
            breaker.after(Heard::Failed, now);
            let until = now.plus_millis(pause * 1_000);
            assert_eq!(breaker.may_call(now), May::No { until });
            now = until;
        }
        assert_eq!(breaker.may_call(now), May::Trial);
        breaker.after(Heard::Answered, now);
        for _ in 0..5 {
            breaker.after(Heard::Failed, now);
        }
        assert_eq!(breaker.may_call(now), May::No { until: now.plus_millis(5_000) });
    }

    #[test]
    fn a_trial_that_nobody_hears_of_has_failed() {
        let mut breaker = opened();
        assert_eq!(breaker.may_call(at(5)), May::Trial);
        assert_eq!(breaker.may_call(at(125)), May::No { until: at(135) });
        assert_eq!(breaker.may_call(at(135)), May::Trial);
        let mut forgotten = opened();
        assert_eq!(forgotten.may_call(at(5)), May::Trial);
        assert_eq!(forgotten.state(at(100_000)), BreakerState::HalfOpen);
        assert_eq!(forgotten.may_call(at(100_000)), May::Trial);
    }

    #[test]
    fn late_words_of_older_calls_count_for_what_they_say() {
        let mut breaker = opened();
        let before = breaker;
        breaker.after(Heard::Failed, at(1));
        assert_eq!(breaker, before, "a failure says nothing new");
        breaker.after(Heard::Answered, at(2));
        assert_eq!(breaker, Breaker::NEW, "an answer says that it is back");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hold_it_open() {
        let mut breaker = opened();
        assert_eq!(breaker.may_call(at(-1)), May::No { until: at(5) }, "a little is nothing");
        assert_eq!(breaker.state(at(-86_400)), BreakerState::HalfOpen);
        assert_eq!(breaker.may_call(at(-86_400)), May::Trial);
        assert_eq!(breaker.may_call(at(-2 * 86_400)), May::Trial);
    }

    #[test]
    fn figures_follow_what_happens_and_reach_their_goal() {
        let mut figures = Figures::NEW;
        assert_eq!((figures.success_permille(), figures.delivers_in_ms()), (1_000, 5_000));
        figures.not_delivered();
        assert_eq!((figures.success_permille(), figures.delivers_in_ms()), (938, 5_000));
        figures.delivered(21_000);
        assert_eq!((figures.success_permille(), figures.delivers_in_ms()), (941, 6_000));
        for _ in 0..500 {
            figures.not_delivered();
        }
        assert_eq!(figures.success_permille(), 0);
        for _ in 0..500 {
            figures.delivered(777);
        }
        assert_eq!((figures.success_permille(), figures.delivers_in_ms()), (1_000, 777));
        for took in [i64::MIN, i64::MAX] {
            figures.delivered(took);
        }
        assert!((1..=LONGEST_DELIVERY_MS).contains(&figures.delivers_in_ms()));
    }

    #[test]
    fn health_is_what_breaker_and_figures_say() {
        let mut figures = Figures::NEW;
        figures.not_delivered();
        let health = Health::of(&opened(), &figures, NOW);
        assert_eq!(health, Health { state: BreakerState::Open, success_permille: 938, delivers_in_ms: 5_000 });
    }

    /// What happens to a breaker: a call is asked for and is heard of or not, or an older call is heard of.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Call(Option<Heard>),
        Older(Heard),
    }

    fn heard() -> impl Strategy<Value = Heard> {
        prop_oneof![3 => Just(Heard::Failed), 1 => Just(Heard::Answered)]
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![proptest::option::of(heard()).prop_map(Event::Call), heard().prop_map(Event::Older),]
    }

    proptest! {
        #[test]
        fn it_always_recovers_once_the_upstream_answers(
            history in proptest::collection::vec((-20_000..200_000_i64, events()), 0..100),
            back in prop_oneof![Just(0), 0..10_000_000_000_i64],
        ) {
            let (mut breaker, mut now) = (Breaker::NEW, NOW);
            for (ms, event) in history {
                now = now.plus_millis(ms);
                match event {
                    Event::Call(heard) => if let (true, Some(heard)) =
                        (!matches!(breaker.may_call(now), May::No { .. }), heard) {
                        breaker.after(heard, now);
                    },
                    Event::Older(heard) => breaker.after(heard, now),
                }
            }
            now = now.plus_millis(-back);
            for round in 0.. {
                prop_assert!(round < 3, "{breaker:?}");
                match breaker.may_call(now) {
                    May::No { until } => {
                        prop_assert!(until > now && until.since(now) <= 2 * LONGEST_PAUSE_MS, "{breaker:?}");
                        now = until;
                    }
                    May::Yes | May::Trial => break,
                }
            }
            breaker.after(Heard::Answered, now);
            prop_assert_eq!(breaker.state(now), BreakerState::Closed);
        }

        #[test]
        fn a_dead_upstream_sees_one_trial_per_pause(
            history in proptest::collection::vec((0..100_000_i64, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let (mut breaker, mut now) = (opened(), NOW);
            let (mut next, mut pause) = (at(5), FIRST_PAUSE_MS);
            for (ms, is_heard_of, older) in history {
                now = now.plus_millis(ms);
                let state = breaker.state(now);
                let may = breaker.may_call(now);
                prop_assert_eq!(may == May::Trial, state == BreakerState::HalfOpen);
                match may {
                    May::Trial => {
                        prop_assert!(now >= next, "{breaker:?}");
                        pause = (pause * 2).min(LONGEST_PAUSE_MS);
                        next = now.plus_millis(pause);
                        if is_heard_of {
                            breaker.after(Heard::Failed, now);
                        }
                    }
                    May::No { until } => prop_assert!(until > now),
                    May::Yes => prop_assert!(false, "{breaker:?}"),
                }
                if older {
                    breaker.after(Heard::Failed, now);
                }
            }
        }

        #[test]
        fn figures_stay_within_their_bounds(purchases: Vec<Option<i64>>) {
            let mut figures = Figures::NEW;
            for purchase in purchases {
                match purchase {
                    Some(took_ms) => figures.delivered(took_ms),
                    None => figures.not_delivered(),
                }
                prop_assert!(figures.success_permille() <= 1_000);
                prop_assert!((0..=LONGEST_DELIVERY_MS).contains(&figures.delivers_in_ms()));
            }
        }
    }
}
