//! Reconciliation: what we believe of a purchase against what its upstream says a day later.

use crate::fulfilment::{LookUp, PlacementState};
use crate::words;

words! {
    /// How our books and an upstream's view differ.
    pub enum DifferenceKind {
        /// We gave the money back, or bought again; the upstream sold it.
        SoldThere = "sold_there",
        /// We delivered it; the upstream does not know it.
        AbsentThere = "absent_there",
        /// We delivered it; the upstream says that it refused it, or took it back.
        RefusedThere = "refused_there",
        /// The upstream delivered other eSIMs than we did.
        OtherEsims = "other_esims",
    }
}

/// An eSIM we delivered out of a placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// Its ICCID.
    pub iccid: String,
    /// Whether it was given back since then.
    pub given_back: bool,
}

/// Compares a placement with what its upstream says of it; `None` where they agree, or nobody can tell.
#[must_use]
pub fn compare(state: PlacementState, ours: &[Ours], theirs: &LookUp) -> Option<(DifferenceKind, String)> {
    let kept = || ours.iter().filter(|esim| !esim.given_back);
    match (state, theirs) {
        (PlacementState::Refused | PlacementState::Abandoned, LookUp::Delivered { profiles }) => {
            let detail = format!("{} eSIM(s) were sold there, and none of them was delivered here", profiles.len());
            Some((DifferenceKind::SoldThere, detail))
        }
        (PlacementState::Refused | PlacementState::Abandoned, LookUp::Provisioning { .. }) => {
            Some((DifferenceKind::SoldThere, "the upstream is working on it".to_owned()))
        }
        (PlacementState::Done, LookUp::NotFound) if kept().next().is_some() => {
            Some((DifferenceKind::AbsentThere, format!("{} eSIM(s) were delivered here", kept().count())))
        }
        (PlacementState::Done, LookUp::Refused { code, message }) if kept().next().is_some() => {
            Some((DifferenceKind::RefusedThere, format!("{code}: {message}")))
        }
        (PlacementState::Done, LookUp::Delivered { profiles }) => {
            let theirs = |iccid: &str| profiles.iter().any(|profile| profile.iccid == iccid);
            let mine = |iccid: &str| ours.iter().any(|esim| esim.iccid == iccid);
            let missing = kept().filter(|esim| !theirs(&esim.iccid)).count();
            let more = profiles.iter().filter(|profile| !mine(&profile.iccid)).count();
            let differ = missing > 0 || more > 0;
            differ.then(|| {
                let detail = format!("{missing} of ours are not there, {more} of theirs are not here");
                (DifferenceKind::OtherEsims, detail)
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fulfilment::Profile;
    use crate::time::Timestamp;

    fn ours(iccid: &str, given_back: bool) -> Ours {
        Ours { iccid: iccid.to_owned(), given_back }
    }

    fn delivered(iccids: &[&str]) -> LookUp {
        let profile = |iccid: &&str| Profile { iccid: (*iccid).to_owned(), ..Profile::default() };
        LookUp::Delivered { profiles: iccids.iter().map(profile).collect() }
    }

    #[test]
    fn books_that_agree_are_no_difference() {
        let refused = LookUp::Refused { code: "1".to_owned(), message: "no".to_owned() };
        let silent = LookUp::NoAnswer { reason: "away".to_owned() };
        for (state, ours, theirs) in [
            (PlacementState::Done, vec![ours("1", false), ours("2", false)], delivered(&["2", "1"])),
            (PlacementState::Done, vec![ours("1", true)], refused.clone()),
            (PlacementState::Done, vec![ours("1", true), ours("2", false)], delivered(&["2"])),
            (PlacementState::Done, vec![ours("1", false)], silent),
            (PlacementState::Refused, vec![], refused),
            (PlacementState::Refused, vec![], LookUp::NotFound),
            (PlacementState::Abandoned, vec![], LookUp::NotFound),
            (PlacementState::Unknown, vec![], delivered(&["1"])),
        ] {
            assert_eq!(compare(state, &ours, &theirs), None, "{state} {theirs:?}");
        }
    }

    #[test]
    fn what_costs_somebody_money_is_told() {
        let refused = LookUp::Refused { code: "1".to_owned(), message: "no".to_owned() };
        let working = LookUp::Provisioning { poll_at: Timestamp::from_millis(1) };
        for (state, ours, theirs, kind) in [
            (PlacementState::Refused, vec![], delivered(&["1"]), DifferenceKind::SoldThere),
            (PlacementState::Abandoned, vec![], delivered(&["1"]), DifferenceKind::SoldThere),
            (PlacementState::Abandoned, vec![], working, DifferenceKind::SoldThere),
            (PlacementState::Done, vec![ours("1", false)], LookUp::NotFound, DifferenceKind::AbsentThere),
            (PlacementState::Done, vec![ours("1", false)], refused, DifferenceKind::RefusedThere),
            (PlacementState::Done, vec![ours("1", false)], delivered(&["1", "2"]), DifferenceKind::OtherEsims),
            (PlacementState::Done, vec![ours("1", false)], delivered(&["2"]), DifferenceKind::OtherEsims),
            (PlacementState::Done, vec![ours("1", false)], delivered(&[]), DifferenceKind::OtherEsims),
        ] {
            assert_eq!(compare(state, &ours, &theirs).map(|found| found.0), Some(kind), "{state} {theirs:?}");
        }
    }
}
