//! What upstreams tell of an eSIM after the sale: the data used and where its plan is; what that does to the eSIM, and
//! when the upstream is asked again. What it says moves an eSIM on and never back.

use crate::esim::{EsimStatus, PlanEvent, PlanStatus, ProfileEvent, ProfileStatus};
use crate::time::Timestamp;
use crate::words;

words! {
    /// Where an eSIM's data plan is in its life, as far as the upstream tells.
    pub enum Life {
        /// Its term has not begun.
        NotActive = "not_active",
        /// It is in use.
        Active = "active",
        /// All data is used.
        Depleted = "depleted",
        /// Its term is over.
        Expired = "expired",
        /// It was ended before its term was over.
        Ended = "ended",
        /// The upstream does not say.
        Unknown = "unknown",
    }
}

/// What was used of an eSIM's data, and where the eSIM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes used, where it is told.
    pub used_bytes: Option<i64>,
    /// Bytes there are in all; `None` for unlimited plans, and where it is not told.
    pub total_bytes: Option<i64>,
    /// When the upstream last counted, where it says so.
    pub as_of: Option<Timestamp>,
    /// When the term began.
    pub activated_at: Option<Timestamp>,
    /// When the term ends, once it began.
    pub expires_at: Option<Timestamp>,
    /// Where the plan is.
    pub life: Life,
    /// Where the profile is, where it is told.
    pub profile: Option<ProfileStatus>,
    /// How long this stays true, milliseconds: it makes no sense to ask again before.
    pub fresh_for_ms: i64,
}

/// Milliseconds between two questions about one eSIM at least, whatever its upstream says.
pub const LEAST_PAUSE_MS: i64 = 60_000;

impl Usage {
    /// Until when this is answered without asking again.
    #[must_use]
    pub fn fresh_until(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(self.fresh_for_ms.max(LEAST_PAUSE_MS))
    }

    /// What it says happened to the plan.
    #[must_use]
    pub const fn plan_event(&self) -> Option<PlanEvent> {
        match self.life {
            Life::Active => Some(PlanEvent::Activate),
            Life::Depleted => Some(PlanEvent::Deplete),
            Life::Expired | Life::Ended => Some(PlanEvent::Expire),
            Life::NotActive | Life::Unknown => None,
        }
    }

    /// What it says happened to the profile. Where that is not told, data that was used went through a phone, and a term
    /// that begins later was begun on one.
    #[must_use]
    pub fn profile_event(&self) -> Option<ProfileEvent> {
        let of_phone = self.used_bytes.is_some_and(|used| used > 0)
            || (self.life == Life::NotActive && self.activated_at.is_some());
        match self.profile {
            Some(ProfileStatus::Downloaded) => Some(ProfileEvent::Download),
            Some(ProfileStatus::Installed) => Some(ProfileEvent::Install),
            Some(ProfileStatus::Enabled) => Some(ProfileEvent::Enable),
            Some(ProfileStatus::Disabled) => Some(ProfileEvent::Disable),
            Some(ProfileStatus::Deleted) => Some(ProfileEvent::Delete),
            Some(ProfileStatus::Released) => None,
            None => of_phone.then_some(ProfileEvent::Install),
        }
    }

    /// Where profile and plan of an eSIM are after this, which were there before.
    #[must_use]
    pub fn moves(&self, profile: ProfileStatus, plan: PlanStatus) -> (ProfileStatus, PlanStatus) {
        (
            self.profile_event().and_then(|event| profile.after(event)).unwrap_or(profile),
            self.plan_event().and_then(|event| plan.after(event)).unwrap_or(plan),
        )
    }
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// From the delivery to the first question, and the first pause after it.
const FIRST_PAUSE_MS: i64 = 15 * MINUTE_MS;
/// The longest pause.
const LONGEST_PAUSE_MS: i64 = 12 * 60 * MINUTE_MS;
/// Between two questions about one in use, at least.
const LEAST_PAUSE_IN_USE_MS: i64 = 30 * MINUTE_MS;
/// After the delivery of one that nobody began to use.
const UNUSED_MS: i64 = 180 * DAY_MS;
/// After the delivery of one whose end nobody told.
const ENDLESS_MS: i64 = 730 * DAY_MS;

/// What the time of the next question depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Where the eSIM is.
    pub status: EsimStatus,
    /// When it was delivered.
    pub delivered_at: Timestamp,
    /// When it came to be what it is.
    pub since: Timestamp,
    /// How long the last answer stays true; 0 where there was none.
    pub fresh_for_ms: i64,
    /// When its term ends, where that is known.
    pub expires_at: Option<Timestamp>,
}

/// Spreads what came together: up to a tenth of the pause later.
fn spread(pause_ms: i64, random: u64) -> i64 {
    let tenth = u64::try_from(pause_ms).unwrap_or(0).checked_div(10).unwrap_or(0).saturating_add(1);
    i64::try_from(random.checked_rem(tenth).unwrap_or(0)).unwrap_or(0)
}

/// When an eSIM that is being delivered is asked for the first time.
#[must_use]
pub fn first_ask(delivered_at: Timestamp, random: u64) -> Timestamp {
    delivered_at.plus_millis(FIRST_PAUSE_MS.saturating_add(spread(FIRST_PAUSE_MS, random)))
}

/// When an eSIM is asked for again that nobody waits for; `None` when nothing more will happen to it.
#[must_use]
pub fn next_ask(now: Timestamp, asked: Asked, random: u64) -> Option<Timestamp> {
    let age_ms = now.since(asked.delivered_at);
    let (pause_ms, most_ms) = match asked.status {
        EsimStatus::Delivered | EsimStatus::Installed | EsimStatus::Cancelling => {
            // As long again as it has been like this: each pause is twice the one before.
            (now.since(asked.since).clamp(FIRST_PAUSE_MS, LONGEST_PAUSE_MS), UNUSED_MS)
        }
        EsimStatus::Active => (asked.fresh_for_ms.clamp(LEAST_PAUSE_IN_USE_MS, LONGEST_PAUSE_MS), ENDLESS_MS),
        // Only its end is left to be told.
        EsimStatus::Depleted => (LONGEST_PAUSE_MS, ENDLESS_MS),
        EsimStatus::Expired | EsimStatus::Cancelled | EsimStatus::Failed | EsimStatus::Pending => return None,
    };
    if age_ms >= most_ms {
        return None;
    }
    let regular = now.plus_millis(pause_ms.saturating_add(spread(pause_ms, random)));
    // Its end is told soon after it.
    let end = asked.expires_at.filter(|end| *end > now).map(|end| end.plus_millis(MINUTE_MS));
    Some(end.map_or(regular, |end| regular.min(end)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esim::{EsimState, summary};

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn told(life: Life) -> Usage {
        Usage {
            used_bytes: None,
            total_bytes: None,
            as_of: None,
            activated_at: None,
            expires_at: None,
            life,
            profile: None,
            fresh_for_ms: 0,
        }
    }

    fn of(status: EsimStatus) -> Asked {
        Asked { status, delivered_at: NOW, since: NOW, fresh_for_ms: 0, expires_at: None }
    }

    #[test]
    fn an_answer_moves_an_esim_on_and_never_back() {
        for profile in ProfileStatus::ALL {
            for plan in PlanStatus::ALL {
                for life in Life::ALL {
                    for told_profile in ProfileStatus::ALL.iter().copied().map(Some).chain([None]) {
                        let usage = Usage { profile: told_profile, ..told(*life) };
                        let (_, after) = usage.moves(*profile, *plan);
                        assert!(after >= *plan, "{plan} after {life:?} is {after}");
                        let (before, after) = (
                            summary(EsimState::Delivered, *profile, *plan),
                            summary(EsimState::Delivered, usage.moves(*profile, *plan).0, after),
                        );
                        assert!(after >= before, "{before} after {usage:?} is {after}");
                    }
                }
            }
        }
    }

    #[test]
    fn data_used_proves_that_there_is_a_phone() {
        let used = Usage { used_bytes: Some(1), ..told(Life::Active) };
        let fresh = (ProfileStatus::Released, PlanStatus::NotActive);
        assert_eq!(used.moves(fresh.0, fresh.1), (ProfileStatus::Installed, PlanStatus::Active));
        let begun = Usage { activated_at: Some(NOW), ..told(Life::NotActive) };
        assert_eq!(begun.moves(fresh.0, fresh.1), (ProfileStatus::Installed, PlanStatus::NotActive));
        // A term that begins with the order proves nothing.
        let ordered = Usage { used_bytes: Some(0), activated_at: Some(NOW), ..told(Life::Active) };
        assert_eq!(ordered.moves(fresh.0, fresh.1), (ProfileStatus::Released, PlanStatus::Active));
        // What was switched off stays off, however much was used before.
        assert_eq!(used.moves(ProfileStatus::Disabled, PlanStatus::Active).0, ProfileStatus::Disabled);
    }

    #[test]
    fn one_that_nobody_uses_is_asked_for_less_and_less() {
        let asked = of(EsimStatus::Delivered);
        let mut pauses = Vec::new();
        let mut at = first_ask(NOW, 0);
        while let Some(next) = next_ask(at, asked, 0) {
            pauses.push(next.since(at) / MINUTE_MS);
            at = next;
        }
        assert_eq!(pauses[..8], [15, 30, 60, 120, 240, 480, 720, 720]);
        assert!(pauses.len() < 400, "{}", pauses.len());
        let late = NOW.plus_millis(UNUSED_MS);
        assert_eq!(next_ask(late, asked, 0), None);
        assert!(next_ask(late.plus_millis(-1), asked, 0).is_some());
        // One that was just installed will soon be used.
        let installed = Asked { since: late.plus_millis(-1), ..of(EsimStatus::Installed) };
        assert_eq!(next_ask(late.plus_millis(-1), installed, 0), Some(late.plus_millis(FIRST_PAUSE_MS - 1)));
    }

    #[test]
    fn one_in_use_is_asked_for_when_there_may_be_news() {
        let pause = |fresh_for_ms| {
            let asked = Asked { fresh_for_ms, ..of(EsimStatus::Active) };
            next_ask(NOW, asked, 0).unwrap().since(NOW) / MINUTE_MS
        };
        assert_eq!((pause(0), pause(10 * MINUTE_MS), pause(120 * MINUTE_MS)), (30, 30, 120));
        assert_eq!(pause(i64::MAX), 720);
        // Its end is not waited out.
        let ends = Asked { expires_at: Some(NOW.plus_millis(5 * MINUTE_MS)), ..of(EsimStatus::Active) };
        assert_eq!(next_ask(NOW, ends, 0).unwrap().since(NOW), 6 * MINUTE_MS);
        // One whose end has passed and is not told is asked for as always.
        let over = Asked { expires_at: Some(NOW), ..of(EsimStatus::Active) };
        assert_eq!(next_ask(NOW, over, 0).unwrap().since(NOW), 30 * MINUTE_MS);
        assert!(next_ask(NOW.plus_millis(UNUSED_MS), of(EsimStatus::Active), 0).is_some());
        assert_eq!(next_ask(NOW.plus_millis(ENDLESS_MS), of(EsimStatus::Active), 0), None);
    }

    #[test]
    fn what_is_over_is_never_asked_for_again() {
        for status in [EsimStatus::Expired, EsimStatus::Cancelled, EsimStatus::Failed, EsimStatus::Pending] {
            assert_eq!(next_ask(NOW, of(status), 0), None, "{status}");
        }
        let depleted = next_ask(NOW, of(EsimStatus::Depleted), 0).unwrap();
        assert_eq!(depleted.since(NOW), LONGEST_PAUSE_MS);
    }

    #[test]
    fn questions_are_spread() {
        for random in [0, 1, 12_345, u64::MAX] {
            let first = first_ask(NOW, random).since(NOW);
            assert!((FIRST_PAUSE_MS..=FIRST_PAUSE_MS * 11 / 10).contains(&first), "{first}");
        }
        assert_ne!(first_ask(NOW, 1), first_ask(NOW, 2));
    }

    #[test]
    fn no_answer_is_asked_for_twice_a_minute() {
        let fresh = |fresh_for_ms| Usage { fresh_for_ms, ..told(Life::Active) }.fresh_until(NOW).since(NOW);
        assert_eq!((fresh(0), fresh(-5), fresh(90_000)), (60_000, 60_000, 90_000));
    }
}
