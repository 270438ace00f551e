//! The plans whose name says what will happen to their orders, so that every outcome an upstream can
//! produce can be bought on purpose.

use super::catalogue;

/// Delivered after the delay.
pub const DELIVERS: &str = "sandbox-delivers";
/// Delivered after 30 s.
pub const SLOW: &str = "sandbox-slow";
/// Refused for good.
pub const REFUSES: &str = "sandbox-refuses";
/// All but the last eSIM come.
pub const PARTIAL: &str = "sandbox-partial";
/// "Try later" twice, then delivered.
pub const BUSY: &str = "sandbox-busy";
/// Sold, but the connection closes without an answer.
pub const ANSWER_LOST: &str = "sandbox-answer-lost";
/// The connection closes, and only 5 s later it is sold.
pub const LATE_SALE: &str = "sandbox-late-sale";
/// Can neither confirm nor deny.
pub const UNKNOWN: &str = "sandbox-unknown";
/// Delivered, and never taken back.
pub const KEEPS: &str = "sandbox-keeps";

/// One special plan of the catalogue.
pub(super) struct SpecialPlan {
    /// The upstream's plan id.
    pub id: &'static str,
    /// The name partners see.
    pub name: &'static str,
    /// What happens, as half a sentence.
    pub effect: &'static str,
    behaviour: Behaviour,
}

/// What the sandbox does with a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Delivers,
    Slow,
    Refuses,
    Partial,
    Busy,
    AnswerLost,
    LateSale,
    Unknown,
    Keeps,
}

impl Behaviour {
    /// The behaviour of a plan; `None` when the sandbox does not sell it.
    pub fn of(upstream_plan_id: &str) -> Option<Self> {
        let special = SPECIAL_PLANS.iter().find(|plan| plan.id == upstream_plan_id);
        match special {
            Some(plan) => Some(plan.behaviour),
            None => catalogue::contains(upstream_plan_id).then_some(Self::Delivers),
        }
    }
}

/// The nine, in the order they are listed.
pub(super) const SPECIAL_PLANS: [SpecialPlan; 9] = [
    SpecialPlan {
        id: DELIVERS,
        name: "Sandbox: delivers",
        effect: "delivered after the delay",
        behaviour: Behaviour::Delivers,
    },
    SpecialPlan { id: SLOW, name: "Sandbox: slow", effect: "delivered after 30 seconds", behaviour: Behaviour::Slow },
    SpecialPlan { id: REFUSES, name: "Sandbox: refuses", effect: "refused for good", behaviour: Behaviour::Refuses },
    SpecialPlan {
        id: PARTIAL,
        name: "Sandbox: partial",
        effect: "all but the last eSIM are delivered",
        behaviour: Behaviour::Partial,
    },
    SpecialPlan {
        id: BUSY,
        name: "Sandbox: busy",
        effect: "answers \"try later\" twice, then delivered",
        behaviour: Behaviour::Busy,
    },
    SpecialPlan {
        id: ANSWER_LOST,
        name: "Sandbox: answer lost",
        effect: "sold, but the answer is lost; delivered once",
        behaviour: Behaviour::AnswerLost,
    },
    SpecialPlan {
        id: LATE_SALE,
        name: "Sandbox: late sale",
        effect: "the answer is lost and the sale happens 5 seconds later; delivered once",
        behaviour: Behaviour::LateSale,
    },
    SpecialPlan {
        id: UNKNOWN,
        name: "Sandbox: unknown",
        effect: "the purchase is neither confirmed nor denied",
        behaviour: Behaviour::Unknown,
    },
    SpecialPlan {
        id: KEEPS,
        name: "Sandbox: keeps",
        effect: "delivered, and never taken back",
        behaviour: Behaviour::Keeps,
    },
];
