//! Which upstream's offer an order goes to, where several sell the same plan. The choice is a total order of the
//! offers, so that it can be explained, and is the same wherever and in whatever order they are looked at.

use crate::breaker::{BreakerState, Health};
use crate::money::{LARGEST_MINOR, Money};

/// The whole price, in hundredths of a percent.
const WHOLE: i128 = 10_000;

/// An offer that an order could go to. A pair of connection and plan id appears once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The connection that sells it.
    pub connection: String,
    /// The upstream's own plan id.
    pub upstream_plan_id: String,
    /// What one costs us, in the billing currency, rounded up to its minor unit.
    pub cost: Money,
    /// The operator's preference of the connection: the smaller, the sooner.
    pub priority: i64,
    /// How the connection does.
    pub health: Health,
}

impl Candidate {
    /// What an eSIM costs us where only some purchases are delivered: the cost, grown by the share of those that are
    /// not, in minor units. A purchase that brings nothing costs no money, but somebody's time and patience.
    #[must_use]
    pub fn expected_cost(&self) -> i64 {
        let success = i128::from(self.health.success_permille.clamp(1, 1_000));
        let expected = i128::from(self.cost.minor()).saturating_mul(1_000).checked_div(success).unwrap_or(i128::MAX);
        i64::try_from(expected).unwrap_or(i64::MAX)
    }

    fn may_take_it(&self, refused: &[(String, String)], most_cost: Option<Money>) -> bool {
        let is_this =
            |(connection, plan): &(String, String)| *connection == self.connection && *plan == self.upstream_plan_id;
        let affordable = |most: Money| self.cost.currency() == most.currency() && self.cost.minor() <= most.minor();
        !refused.iter().any(is_this) && most_cost.is_none_or(affordable)
    }

    fn rank(&self) -> (bool, i64, i64, i64, &str, &str) {
        (
            self.health.state == BreakerState::Open,
            self.priority,
            self.expected_cost(),
            self.health.delivers_in_ms,
            &self.connection,
            &self.upstream_plan_id,
        )
    }
}

/// The index of the candidate that an order goes to; `None` when none is left.
///
/// Left out are candidates that have refused this order, given as pairs of connection and the upstream's plan id, and
/// those dearer than `most_cost` or in another currency than it. Of the others the first one is taken by:
///
/// 1. a breaker that is not open. An open one is taken where nothing else is left: the order then waits for it, which
///    is better than to fail;
/// 2. the smaller priority;
/// 3. the smaller [expected cost](Candidate::expected_cost);
/// 4. the faster delivery;
/// 5. the connection's name, and then the upstream's plan id, by their bytes.
#[must_use]
pub fn best(candidates: &[Candidate], refused: &[(String, String)], most_cost: Option<Money>) -> Option<usize> {
    candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.may_take_it(refused, most_cost))
        .min_by_key(|&(_, candidate)| candidate.rank())
        .map(|(index, _)| index)
}

/// The highest cost that leaves a margin of at least so many hundredths of a percent of the price, rounded down to
/// the minor unit. A negative margin allows a loss; one of the whole price or more leaves nothing for the cost.
#[must_use]
pub fn most_cost(unit_price: Money, least_margin_percent_hundredths: i64) -> Money {
    let share = WHOLE.saturating_sub(i128::from(least_margin_percent_hundredths)).max(0);
    let most = i128::from(unit_price.minor()).saturating_mul(share).checked_div_euclid(WHOLE).unwrap_or(0);
    let most = i64::try_from(most.clamp(0, i128::from(LARGEST_MINOR))).unwrap_or(0);
    Money::new(most, unit_price.currency())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Currency;
    use proptest::prelude::*;

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    fn candidate(connection: &str) -> Candidate {
        Candidate {
            connection: connection.to_owned(),
            upstream_plan_id: "fr-1gb".to_owned(),
            cost: usd(200),
            priority: 10,
            health: Health { state: BreakerState::Closed, success_permille: 1_000, delivers_in_ms: 5_000 },
        }
    }

    fn in_health(connection: &str, change: impl Fn(&mut Health)) -> Candidate {
        let mut candidate = candidate(connection);
        change(&mut candidate.health);
        candidate
    }

    fn taken<'a>(candidates: &'a [Candidate], refused: &[&str], most_cost: Option<Money>) -> Option<&'a str> {
        let refused: Vec<_> = refused.iter().map(|name| ((*name).to_owned(), "fr-1gb".to_owned())).collect();
        best(candidates, &refused, most_cost).map(|index| candidates[index].connection.as_str())
    }

    /// Says that of two candidates the second is taken, whichever stands first.
    fn assert_prefers(preferred: &Candidate, other: &Candidate) {
        for candidates in [[other.clone(), preferred.clone()], [preferred.clone(), other.clone()]] {
            assert_eq!(taken(&candidates, &[], None), Some(preferred.connection.as_str()));
        }
    }

    #[test]
    fn the_operators_priority_comes_before_the_cost() {
        let dear = Candidate { cost: usd(900), priority: 1, ..candidate("z") };
        assert_prefers(&dear, &candidate("a"));
        let negative = Candidate { priority: -1, ..candidate("z") };
        assert_prefers(&negative, &dear);
    }

    #[test]
    fn what_is_down_is_taken_only_where_nothing_else_is_left() {
        let down = Candidate { priority: 1, ..in_health("a", |health| health.state = BreakerState::Open) };
        let trying = in_health("b", |health| health.state = BreakerState::HalfOpen);
        assert_prefers(&trying, &down);
        assert_prefers(&candidate("c"), &down);
        assert_prefers(&trying, &candidate("c"));
        let candidates = [down, trying];
        assert_eq!(taken(&candidates, &["b"], None), Some("a"), "the order waits rather than fails");
        assert_eq!(taken(&candidates, &["a", "b"], None), None);
    }

    #[test]
    fn of_equal_priority_the_cheaper_one_is_taken() {
        assert_prefers(&Candidate { cost: usd(199), ..candidate("z") }, &candidate("a"));
    }

    #[test]
    fn what_seldom_delivers_is_not_cheap() {
        let cheap = Candidate { cost: usd(150), ..in_health("a", |health| health.success_permille = 700) };
        assert_eq!(cheap.expected_cost(), 214);
        assert_prefers(&candidate("z"), &cheap);
        let never = |minor| Candidate { cost: usd(minor), ..in_health("a", |health| health.success_permille = 0) };
        assert_eq!(never(150).expected_cost(), 150_000);
        assert_eq!(never(i64::MAX).expected_cost(), i64::MAX);
    }

    #[test]
    fn of_equal_cost_the_faster_one_is_taken_and_then_the_first_by_name() {
        assert_prefers(&in_health("z", |health| health.delivers_in_ms = 4_999), &candidate("a"));
        assert_prefers(&candidate("a"), &candidate("b"));
        let other_plan = Candidate { upstream_plan_id: "fr-1gb-b".to_owned(), ..candidate("a") };
        assert_eq!(best(&[other_plan, candidate("a")], &[], None), Some(1));
    }

    #[test]
    fn who_refused_the_order_is_not_asked_again() {
        let candidates = [candidate("a"), candidate("b")];
        assert_eq!(taken(&candidates, &["a"], None), Some("b"));
        assert_eq!(taken(&candidates, &["a", "b"], None), None);
        let other_plan = [("a".to_owned(), "fr-3gb".to_owned()), ("c".to_owned(), "fr-1gb".to_owned())];
        assert_eq!(best(&candidates, &other_plan, None), Some(0), "another plan, another connection");
        assert_eq!(taken(&[], &[], None), None);
    }

    #[test]
    fn no_order_goes_where_it_leaves_too_little() {
        let dear = Candidate { priority: 1, ..candidate("a") };
        let candidates = [dear, Candidate { cost: usd(180), ..candidate("b") }];
        assert_eq!(taken(&candidates, &[], Some(usd(200))), Some("a"));
        assert_eq!(taken(&candidates, &[], Some(usd(199))), Some("b"));
        assert_eq!(taken(&candidates, &[], Some(usd(179))), None);
        assert_eq!(taken(&candidates, &[], Some(Money::new(900, "EUR".parse().unwrap()))), None);
    }

    #[test]
    fn the_margin_is_a_share_of_the_price() {
        assert_eq!(most_cost(usd(250), 2_000), usd(200));
        assert_eq!(most_cost(usd(199), 1_000), usd(179), "179.1");
        assert_eq!(most_cost(usd(199), 0), usd(199));
        assert_eq!(most_cost(usd(199), 10_000), usd(0));
        assert_eq!(most_cost(usd(199), i64::MAX), usd(0));
        assert_eq!(most_cost(usd(200), -500), usd(210), "a loss of 5 %");
        assert_eq!(most_cost(usd(i64::MAX), i64::MIN), usd(LARGEST_MINOR));
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let health = (proptest::sample::select(BreakerState::ALL), 990..=1_000_u32, 0..3_i64)
            .prop_map(|(state, success_permille, delivers_in_ms)| Health { state, success_permille, delivers_in_ms });
        let candidate = ((0..6_u8, 0..3_u8), 100..104_i64, 0..2_i64, health).prop_map(
            |((connection, plan), cost, priority, health)| Candidate {
                connection: connection.to_string(),
                upstream_plan_id: plan.to_string(),
                cost: usd(cost),
                priority,
                health,
            },
        );
        proptest::collection::vec(candidate, 0..10).prop_map(|mut candidates| {
            let mut seen = std::collections::HashSet::new();
            candidates.retain(|it| seen.insert((it.connection.clone(), it.upstream_plan_id.clone())));
            candidates
        })
    }

    proptest! {
        #[test]
        fn the_choice_does_not_depend_on_the_order_of_the_candidates(
            (candidates, shuffled) in candidates().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle())),
            most in 99..104_i64,
        ) {
            let chosen = |candidates: &[Candidate], refused: &[(String, String)]| {
                best(candidates, refused, Some(usd(most))).map(|index| candidates[index].clone())
            };
            // Each candidate that is chosen refuses, until none is left: so the whole order is seen, not just its head.
            let (mut refused, mut order) = (Vec::new(), Vec::new());
            while let Some(candidate) = chosen(&candidates, &refused) {
                prop_assert_eq!(chosen(&shuffled, &refused), Some(candidate.clone()));
                refused.push((candidate.connection.clone(), candidate.upstream_plan_id.clone()));
                order.push(candidate);
            }
            prop_assert_eq!(order.len(), candidates.iter().filter(|it| it.cost.minor() <= most).count());
            prop_assert!(order.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
        }

        #[test]
        fn the_highest_cost_just_leaves_the_margin(price in 0..=LARGEST_MINOR, margin in -10_000..=10_000_i64) {
            let most = i128::from(most_cost(usd(price), margin).minor());
            let leaves = |cost: i128| (i128::from(price) - cost) * WHOLE >= i128::from(price) * i128::from(margin);
            prop_assert!(leaves(most));
            prop_assert!(!leaves(most + 1) || most == i128::from(LARGEST_MINOR));
        }

        #[test]
        fn no_extreme_value_panics(cost: i64, success_permille: u32, price: i64, margin: i64) {
            let extreme = Candidate { cost: usd(cost), ..in_health("a", |it| it.success_permille = success_permille) };
            let _ = extreme.expected_cost();
            let _ = best(&[extreme], &[], Some(most_cost(usd(price), margin)));
        }
    }
}
