//! The life of a sold profile: what a traveller, time and a cancellation can do to it.

/// Where a sold profile is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProfileState {
    /// Sold, waiting on the SM-DP+.
    Released,
    /// Installed on a phone.
    Installed,
    /// Installed, and data has been used.
    Used,
    /// Its time is over.
    Expired,
    /// Taken back.
    Cancelled,
}

impl ProfileState {
    const ALL: [Self; 5] = [Self::Released, Self::Installed, Self::Used, Self::Expired, Self::Cancelled];

    /// The state as a word: `released`, `installed`, `used`, `expired` or `cancelled`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Installed => "installed",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of a word.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether a profile can go from this state to another one. Using a released profile installs it
    /// on the way; only what was never installed is taken back; nothing leaves `cancelled`.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Released => !matches!(to, Self::Released),
            Self::Installed => matches!(to, Self::Used | Self::Expired),
            Self::Used => matches!(to, Self::Expired),
            Self::Expired | Self::Cancelled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for state in ProfileState::ALL {
            assert_eq!(ProfileState::parse(state.as_str()), Some(state));
        }
        assert_eq!(ProfileState::parse("lost"), None);
    }

    #[test]
    fn life_goes_one_way() {
        use ProfileState::{Cancelled, Expired, Installed, Released, Used};
        let possible: Vec<(ProfileState, ProfileState)> = ProfileState::ALL
            .into_iter()
            .flat_map(|from| ProfileState::ALL.map(|to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        let expected = [
            (Released, Installed),
            (Released, Used),
            (Released, Expired),
            (Released, Cancelled),
            (Installed, Used),
            (Installed, Expired),
            (Used, Expired),
        ];
        assert_eq!(possible, expected);
    }
}
