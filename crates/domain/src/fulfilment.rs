//! How paid orders become eSIMs: what an upstream can answer, what that does to a placement, and
//! what the next step is. Nothing here sends anything; the workers do, and report back.

use crate::time::Timestamp;

/// What one upstream can do, declared by its adapter; nothing has a silent default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The most eSIMs one purchase may ask for.
    pub quantity_per_call: u32,
    /// Whether a purchase repeated under the same reference is sold once.
    pub idempotent_create: bool,
    /// Whether a purchase can be looked up by our reference.
    pub look_up_by_reference: bool,
    /// Whether a delivered eSIM can be given back at all.
    pub cancel: bool,
    /// Milliseconds after which a look-up's "not found" can be believed: the client's time limit
    /// plus the upstream's own processing time.
    pub settle_after_ms: i64,
}

/// An eSIM profile as an upstream delivered it. Texts are kept as received, case unchanged.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// ICCID, 18 to 22 digits, without the trailing `F`. Not a key: upstreams re-use them.
    pub iccid: String,
    /// The upstream's own name of the eSIM, by which it is asked about it later.
    pub handle: Option<String>,
    /// Host name of the SM-DP+.
    pub smdp_address: String,
    /// MatchingID of SGP.22; may be empty.
    pub matching_id: String,
    /// The text inside the QR code, `LPA:1$...`.
    pub activation_code: String,
    /// The confirmation code a traveller must type, where the profile asks for one.
    pub confirmation_code: Option<String>,
    /// Access point name, where it must be set by hand.
    pub apn: Option<String>,
    /// Telephone number.
    pub msisdn: Option<String>,
    /// SIM PIN.
    pub pin: Option<String>,
    /// SIM PUK.
    pub puk: Option<String>,
    /// The last moment the profile can be installed.
    pub install_by: Option<Timestamp>,
}

// Whoever reads a log must not be able to install what somebody bought.
impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("iccid", &self.iccid).finish_non_exhaustive()
    }
}

/// What came of asking an upstream to sell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Sold, and here are the profiles: as many as asked for, or fewer, and then no more will come.
    Done {
        /// The profiles, in the upstream's order.
        profiles: Vec<Profile>,
    },
    /// Not sold, and never will be under this reference.
    Refused {
        /// The upstream's own code, or a short one of the adapter.
        code: String,
        /// The upstream's words.
        message: String,
    },
    /// Not there yet.
    NotYet(NotYet),
    /// Sold or not: nobody knows. Never a reason to buy again or to refund.
    Unknown {
        /// What was seen instead of an answer.
        reason: String,
    },
}

/// Why there is no profile yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotYet {
    /// The upstream took the order and is working on it: ask again at the given time.
    Provisioning {
        /// When to poll.
        poll_at: Timestamp,
    },
    /// The upstream did not take the order and says so: nothing was sold, try again later.
    TryLater {
        /// When the upstream wants to be asked again, where it said so.
        retry_at: Option<Timestamp>,
        /// The upstream's words.
        reason: String,
    },
}

/// What came of looking a reference up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// The upstream knows the reference; sold and delivered.
    Delivered {
        /// The profiles, in the upstream's order.
        profiles: Vec<Profile>,
    },
    /// The upstream knows the reference and is still working on it.
    Provisioning {
        /// When to poll.
        poll_at: Timestamp,
    },
    /// The upstream knows the reference, and says that it was refused.
    Refused {
        /// The upstream's own code.
        code: String,
        /// The upstream's words.
        message: String,
    },
    /// The upstream says it does not know the reference. Right after a purchase this proves nothing.
    NotFound,
    /// The look-up itself got no answer: the network, or the upstream is away. Ask again.
    NoAnswer {
        /// What was seen.
        reason: String,
    },
    /// The upstream answered, and cannot say one way or the other.
    CannotTell {
        /// What was seen.
        reason: String,
    },
}

/// What came of asking an upstream to take a delivered eSIM back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancellation {
    /// Taken back, and the price is given back.
    Cancelled,
    /// Not taken back.
    Refused {
        /// The upstream's words.
        reason: String,
    },
    /// No answer, or not now: ask again. Asking twice does no harm.
    TryLater {
        /// What was seen.
        reason: String,
    },
}

crate::words! {
    /// Where one placement (one purchase under one reference) is.
    pub enum PlacementState {
        /// The intent is recorded; from here on the purchase may have been sent.
        Placing = "placing",
        /// The upstream said "try later": nothing was sold.
        Waiting = "waiting",
        /// The upstream took the order and is working on it.
        Accepted = "accepted",
        /// Sold or not: nobody knows.
        Unknown = "unknown",
        /// Sold; what came is delivered.
        Done = "done",
        /// Not sold.
        Refused = "refused",
        /// Left behind after look-ups agreed that it never was sold; reconciliation watches it.
        Abandoned = "abandoned",
    }
}

impl PlacementState {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Refused | Self::Abandoned)
    }

    /// The next thing to do for a placement that a worker takes up. A placement still `placing` was
    /// left by a worker that died: its purchase may have been sent, so it is looked up, never sent again.
    #[must_use]
    pub const fn next_step(self) -> Step {
        match self {
            Self::Waiting => Step::Place,
            Self::Placing | Self::Accepted | Self::Unknown => Step::LookUp,
            Self::Done | Self::Refused | Self::Abandoned => Step::Nothing,
        }
    }
}

/// What a worker does next for a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask the upstream to sell.
    Place,
    /// Ask what became of it.
    LookUp,
    /// It is over.
    Nothing,
}

/// What is remembered of a placement between steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub state: PlacementState,
    /// When the answer to the purchase was lost.
    pub unknown_since: Option<Timestamp>,
    /// Look-ups in a row, after the upstream had time to settle, that said "not found".
    pub not_found: u32,
    /// Look-ups in a row that could not tell.
    pub cannot_tell: u32,
    /// Failed tries in a row: refusals to take the order now, and look-ups without an answer.
    pub failures: u32,
}

impl Progress {
    /// A placement whose intent is just being recorded.
    pub const FRESH: Self =
        Self { state: PlacementState::Placing, unknown_since: None, not_found: 0, cannot_tell: 0, failures: 0 };
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// Deliver these; what is missing will not come.
    Deliver(Vec<Profile>),
    /// Nothing was sold: give up this placement.
    Refuse {
        /// The upstream's code.
        code: String,
        /// The upstream's words.
        message: String,
    },
    /// Take it up again at this time.
    Again(Timestamp),
    /// It never was sold: leave this reference and place under the next (or under the same one
    /// again, where creation is idempotent).
    PlaceAgain,
    /// Only the operator can decide: the job is dead until then.
    AskOperator {
        /// Why.
        reason: String,
    },
}

/// The limits a ruling keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The adapter's capabilities.
    pub capabilities: Capabilities,
    /// Failed tries in a row before the operator is asked.
    pub most_failures: u32,
    /// Milliseconds after its order was paid until the operator is asked what becomes of a placement that may be sold.
    pub longest_ms: i64,
}

/// Look-ups that must agree before "not found" is believed.
const AGREEING_LOOK_UPS: u32 = 2;
/// Look-ups that cannot tell before the operator is asked.
const MOST_CANNOT_TELL: u32 = 3;
/// Milliseconds from a lost answer to the first look-up.
const FIRST_LOOK_UP_MS: i64 = 100;

/// Purchases of one order that were left behind as never sold, before a person looks why that goes on.
const MOST_ABANDONED: u32 = 3;

/// Bounds what would go on for ever: an upstream that is always still working on an order, or that never knows of a
/// purchase. `age_ms` is the order's, `abandoned` how many of its placements were left behind before.
#[must_use]
pub fn bounded(
    progress: Progress,
    ruling: Ruling,
    age_ms: i64,
    abandoned: u32,
    patience: Patience,
) -> (Progress, Ruling) {
    let late = age_ms >= patience.longest_ms;
    let may_be_sold = matches!(progress.state, PlacementState::Accepted | PlacementState::Unknown);
    let hours = patience.longest_ms.checked_div(3_600_000).unwrap_or(0);
    match ruling {
        Ruling::Again(_) if late && may_be_sold => {
            let reason = format!("the upstream neither delivered nor refused within {hours} hours");
            (progress, Ruling::AskOperator { reason })
        }
        Ruling::PlaceAgain if late || abandoned >= MOST_ABANDONED => {
            let reason = "purchases get lost again and again; was none of them sold?".to_owned();
            // It stays what it was, so that the operator can say what became of it.
            (Progress { state: PlacementState::Unknown, ..progress }, Ruling::AskOperator { reason })
        }
        ruling => (progress, ruling),
    }
}

/// Rules on the answer to a purchase.
#[must_use]
pub fn after_place(
    progress: Progress,
    outcome: Outcome,
    now: Timestamp,
    random: u64,
    patience: Patience,
) -> (Progress, Ruling) {
    match outcome {
        Outcome::Done { profiles } => (Progress { state: PlacementState::Done, ..progress }, Ruling::Deliver(profiles)),
        Outcome::Refused { code, message } => {
            (Progress { state: PlacementState::Refused, ..progress }, Ruling::Refuse { code, message })
        }
        Outcome::NotYet(NotYet::Provisioning { poll_at }) => {
            let progress = Progress { state: PlacementState::Accepted, failures: 0, ..progress };
            (progress, Ruling::Again(poll_at))
        }
        Outcome::NotYet(NotYet::TryLater { retry_at, reason }) => {
            let failures = progress.failures.saturating_add(1);
            let progress = Progress { state: PlacementState::Waiting, failures, ..progress };
            if failures >= patience.most_failures {
                return (progress, Ruling::AskOperator { reason });
            }
            let backed_off = crate::job::retry_at(now, failures, random);
            (progress, Ruling::Again(retry_at.unwrap_or(backed_off)))
        }
        Outcome::Unknown { reason } => {
            let progress = Progress { unknown_since: Some(now), ..progress };
            lost(progress, now, FIRST_LOOK_UP_MS, reason, patience)
        }
    }
}

/// Turns a placement whose worker died before the answer was recorded into one with a lost answer.
#[must_use]
pub fn after_lost_worker(progress: Progress, now: Timestamp) -> Progress {
    match progress.state {
        PlacementState::Placing => Progress { state: PlacementState::Unknown, unknown_since: Some(now), ..progress },
        _ => progress,
    }
}

fn lost(progress: Progress, now: Timestamp, pause_ms: i64, reason: String, patience: Patience) -> (Progress, Ruling) {
    let progress = Progress { state: PlacementState::Unknown, ..progress };
    if patience.capabilities.look_up_by_reference {
        (progress, Ruling::Again(now.plus_millis(pause_ms)))
    } else {
        (progress, Ruling::AskOperator { reason: format!("the upstream cannot be asked: {reason}") })
    }
}

/// Rules on the answer to a look-up of an accepted or unknown placement.
#[must_use]
pub fn after_look_up(
    progress: Progress,
    look_up: LookUp,
    now: Timestamp,
    random: u64,
    patience: Patience,
) -> (Progress, Ruling) {
    let accepted = progress.state == PlacementState::Accepted;
    match look_up {
        LookUp::Delivered { profiles } => {
            (Progress { state: PlacementState::Done, ..progress }, Ruling::Deliver(profiles))
        }
        LookUp::Refused { code, message } => {
            (Progress { state: PlacementState::Refused, ..progress }, Ruling::Refuse { code, message })
        }
        LookUp::Provisioning { poll_at } => {
            let progress =
                Progress { state: PlacementState::Accepted, failures: 0, not_found: 0, cannot_tell: 0, ..progress };
            (progress, Ruling::Again(poll_at))
        }
        LookUp::NoAnswer { reason } => {
            let failures = progress.failures.saturating_add(1);
            let progress = Progress { failures, ..progress };
            if failures >= patience.most_failures {
                return (progress, Ruling::AskOperator { reason });
            }
            (progress, Ruling::Again(crate::job::retry_at(now, failures, random)))
        }
        LookUp::CannotTell { reason } => {
            let cannot_tell = progress.cannot_tell.saturating_add(1);
            let progress = Progress { cannot_tell, not_found: 0, ..progress };
            if cannot_tell >= MOST_CANNOT_TELL {
                return (progress, Ruling::AskOperator { reason });
            }
            (progress, Ruling::Again(crate::job::retry_at(now, cannot_tell, random)))
        }
        // An upstream that took the order and then denies it has lied once: a person must look.
        LookUp::NotFound if accepted => {
            let reason = "the upstream took the order and now does not know it".to_owned();
            (
                Progress { state: PlacementState::Unknown, unknown_since: Some(now), ..progress },
                Ruling::AskOperator { reason },
            )
        }
        LookUp::NotFound => not_found(progress, now, patience),
    }
}

fn not_found(progress: Progress, now: Timestamp, patience: Patience) -> (Progress, Ruling) {
    let since = progress.unknown_since.unwrap_or(now);
    let settled_at = since.plus_millis(patience.capabilities.settle_after_ms);
    if now < settled_at {
        // The pauses grow with the time already waited, and one look-up falls right after settling.
        let pause = now.since(since).clamp(500, 60_000);
        let next = now.plus_millis(pause).min(settled_at);
        return (Progress { unknown_since: Some(since), not_found: 0, ..progress }, Ruling::Again(next));
    }
    let not_found = progress.not_found.saturating_add(1);
    if not_found < AGREEING_LOOK_UPS {
        let progress = Progress { unknown_since: Some(since), not_found, ..progress };
        return (progress, Ruling::Again(now.plus_millis(1_000)));
    }
    (Progress { state: PlacementState::Abandoned, not_found, ..progress }, Ruling::PlaceAgain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const PATIENCE: Patience = Patience {
        capabilities: Capabilities {
            quantity_per_call: 100,
            idempotent_create: false,
            look_up_by_reference: true,
            cancel: true,
            settle_after_ms: 7_000,
        },
        most_failures: 3,
        longest_ms: 3_600_000,
    };

    #[test]
    fn nothing_goes_on_for_ever() {
        let of = |state| Progress { state, ..Progress::FRESH };
        let hour = PATIENCE.longest_ms;
        for state in [PlacementState::Accepted, PlacementState::Unknown] {
            let again = Ruling::Again(NOW);
            assert_eq!(bounded(of(state), again.clone(), hour - 1, 9, PATIENCE), (of(state), again.clone()));
            let (progress, ruling) = bounded(of(state), again, hour, 0, PATIENCE);
            assert_eq!(progress.state, state);
            assert!(matches!(ruling, Ruling::AskOperator { .. }));
        }
        // One that says "try later" sold nothing, and has a bound of its own.
        let waiting = bounded(of(PlacementState::Waiting), Ruling::Again(NOW), hour, 0, PATIENCE);
        assert_eq!(waiting.1, Ruling::Again(NOW));
        let abandoned = of(PlacementState::Abandoned);
        assert_eq!(bounded(abandoned, Ruling::PlaceAgain, 0, 2, PATIENCE), (abandoned, Ruling::PlaceAgain));
        for (age, before) in [(0, 3), (hour, 0)] {
            let (progress, ruling) = bounded(abandoned, Ruling::PlaceAgain, age, before, PATIENCE);
            assert_eq!(progress.state, PlacementState::Unknown, "the operator can still resolve it");
            assert!(matches!(ruling, Ruling::AskOperator { .. }));
        }
        let delivered = Ruling::Deliver(Vec::new());
        let done = of(PlacementState::Done);
        assert_eq!(bounded(done, delivered.clone(), i64::MAX, 9, PATIENCE), (done, delivered));
    }

    #[test]
    fn what_a_worker_does_first() {
        for state in PlacementState::ALL {
            let step = state.next_step();
            let expected = match state {
                PlacementState::Waiting => Step::Place,
                PlacementState::Placing | PlacementState::Accepted | PlacementState::Unknown => Step::LookUp,
                _ => Step::Nothing,
            };
            assert_eq!(step, expected, "{state}");
        }
    }

    #[test]
    fn a_lost_answer_is_looked_up_and_never_placed_again_before_two_look_ups_agree() {
        let lost = Outcome::Unknown { reason: "closed".to_owned() };
        let (mut progress, mut ruling) = after_place(Progress::FRESH, lost, NOW, 0, PATIENCE);
        let mut look_ups = Vec::new();
        loop {
            match ruling {
                Ruling::Again(at) => {
                    look_ups.push(at.since(NOW));
                    (progress, ruling) = after_look_up(progress, LookUp::NotFound, at, 0, PATIENCE);
                }
                Ruling::PlaceAgain => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(progress.state, PlacementState::Abandoned);
        let after_settling: Vec<_> = look_ups.iter().filter(|ms| **ms >= 7_000).collect();
        assert_eq!(after_settling.len(), 2, "{look_ups:?}");
        assert!(look_ups[0] <= 100 && look_ups.windows(2).all(|pair| pair[0] < pair[1]), "{look_ups:?}");
    }

    #[test]
    fn a_sale_found_late_is_delivered() {
        let lost = Outcome::Unknown { reason: "closed".to_owned() };
        let (progress, _) = after_place(Progress::FRESH, lost, NOW, 0, PATIENCE);
        let (progress, _) = after_look_up(progress, LookUp::NotFound, NOW.plus_millis(100), 0, PATIENCE);
        let found = LookUp::Delivered { profiles: vec![Profile::default()] };
        let (progress, ruling) = after_look_up(progress, found, NOW.plus_millis(5_000), 0, PATIENCE);
        assert_eq!(progress.state, PlacementState::Done);
        assert_eq!(ruling, Ruling::Deliver(vec![Profile::default()]));
    }

    #[test]
    fn an_upstream_that_cannot_be_asked_goes_to_the_operator() {
        let deaf = Patience {
            capabilities: Capabilities { look_up_by_reference: false, ..PATIENCE.capabilities },
            ..PATIENCE
        };
        let lost = Outcome::Unknown { reason: "closed".to_owned() };
        let (progress, ruling) = after_place(Progress::FRESH, lost, NOW, 0, deaf);
        assert_eq!(progress.state, PlacementState::Unknown);
        assert!(matches!(ruling, Ruling::AskOperator { .. }));
    }

    #[test]
    fn an_upstream_that_cannot_tell_goes_to_the_operator() {
        let lost = Outcome::Unknown { reason: "closed".to_owned() };
        let (mut progress, mut ruling) = after_place(Progress::FRESH, lost, NOW, 0, PATIENCE);
        let mut asked = 0;
        while let Ruling::Again(at) = ruling {
            asked += 1;
            let answer = LookUp::CannotTell { reason: "?".to_owned() };
            (progress, ruling) = after_look_up(progress, answer, at, 0, PATIENCE);
        }
        assert_eq!((asked, progress.state), (3, PlacementState::Unknown));
        assert!(matches!(ruling, Ruling::AskOperator { .. }));
    }

    #[test]
    fn try_later_is_tried_later_and_then_given_to_the_operator() {
        let busy = || Outcome::NotYet(NotYet::TryLater { retry_at: None, reason: "busy".to_owned() });
        let (progress, ruling) = after_place(Progress::FRESH, busy(), NOW, 0, PATIENCE);
        assert_eq!(progress.state.next_step(), Step::Place);
        assert!(matches!(ruling, Ruling::Again(at) if at > NOW && at.since(NOW) <= 3_000));
        let (progress, _) = after_place(progress, busy(), NOW, 0, PATIENCE);
        let (_, ruling) = after_place(progress, busy(), NOW, 0, PATIENCE);
        assert!(matches!(ruling, Ruling::AskOperator { .. }));
    }

    #[test]
    fn a_dead_workers_purchase_counts_as_a_lost_answer() {
        let progress = after_lost_worker(Progress::FRESH, NOW);
        assert_eq!((progress.state, progress.unknown_since), (PlacementState::Unknown, Some(NOW)));
        assert_eq!(progress.state.next_step(), Step::LookUp);
    }

    #[test]
    fn an_accepted_order_that_is_denied_later_goes_to_the_operator() {
        let accepted = Progress { state: PlacementState::Accepted, ..Progress::FRESH };
        let (progress, ruling) = after_look_up(accepted, LookUp::NotFound, NOW, 0, PATIENCE);
        assert_eq!(progress.state, PlacementState::Unknown);
        assert!(matches!(ruling, Ruling::AskOperator { .. }));
    }
}
