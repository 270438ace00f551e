//! What can go wrong inside the sandbox. The upstream side translates these into outcomes; only the
//! operator's side sees them as they are.

use super::profile_state::ProfileState;
use std::fmt;

/// Why the sandbox did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxError {
    /// The storage failed before the commit: nothing was changed.
    Storage(String),
    /// The storage failed at the commit, or the world stopped meanwhile: changed or not, nobody knows.
    Uncertain(String),
    /// The world was closed before it was asked: nothing was changed.
    Closed,
    /// No sold profile has this ICCID.
    NotFound,
    /// A profile in the state `from` cannot become `to`.
    Impossible {
        /// The state it is in, and stays in.
        from: ProfileState,
        /// The state that was asked for.
        to: ProfileState,
    },
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(cause) => write!(f, "the sandbox cannot use its storage: {cause}"),
            Self::Uncertain(cause) => write!(f, "the sandbox may or may not have stored the change: {cause}"),
            Self::Closed => f.write_str("the sandbox is closed"),
            Self::NotFound => f.write_str("the sandbox has sold no profile with this ICCID"),
            Self::Impossible { from, to } => {
                write!(f, "a profile that is {} cannot become {}", from.as_str(), to.as_str())
            }
        }
    }
}

impl std::error::Error for SandboxError {}

impl From<rusqlite::Error> for SandboxError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error.to_string())
    }
}
