//! What an operator reads whose settings cannot be used: one line that says what, from where, and what to do. It is often
//! all that is left of a failed start.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from, so that a complaint sends its reader to the right place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in defaults.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::Flag(name) => write!(f, "the flag {name}"),
        }
    }
}

/// Why the settings cannot be used. Displays as one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who named it.
        named_by: Source,
        /// What the system says.
        reason: String,
    },
    /// The configuration file is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The file has a key that does not exist.
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The most similar key.
        nearest: String,
    },
    /// The environment has an `ESIMD_` variable that does not exist.
    UnknownVariable {
        /// The variable.
        name: String,
        /// The most similar variable.
        nearest: String,
    },
    /// A value cannot be used.
    Invalid {
        /// The key.
        key: String,
        /// Where the value came from.
        source: Source,
        /// What it must be.
        reason: String,
    },
    /// Something is required and not set.
    Missing {
        /// What, and when.
        what: &'static str,
        /// What to do.
        remedy: String,
    },
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Unreadable { path, named_by, reason } => {
                format!("cannot read {} (named by {named_by}): {reason}", path.display())
            }
            Self::Syntax { path, line, reason } => {
                format!("{}, line {line}, is not valid TOML: {reason}", path.display())
            }
            Self::UnknownKey { path, key, nearest } => {
                format!("{}: there is no key `{key}`; the nearest is `{nearest}`", path.display())
            }
            Self::UnknownVariable { name, nearest } => {
                let kubernetes =
                    if name == "ESIMD_PORT" || name.starts_with("ESIMD_PORT_") || name.starts_with("ESIMD_SERVICE_") {
                        " (if Kubernetes set it for a service of this name: `enableServiceLinks: false` in the pod)"
                    } else {
                        ""
                    };
                format!(
                    "there is no setting for the environment variable {name}; the nearest is {nearest}: rename it or \
                     unset it{kubernetes}"
                )
            }
            Self::Invalid { key, source, reason } => format!("`{key}` from {source}: {reason}"),
            Self::Missing { what, remedy } => format!("{what}: {remedy}"),
        };
        // One line, whatever a file name or a value holds.
        let printable: String = line.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        f.write_str(&printable)
    }
}
