//! Connections: the operator's accounts at upstreams.

use crate::words;

words! {
    /// Whose wire a connection speaks.
    pub enum Provider {
        /// TSim Tech.
        Tsim = "tsim",
        /// eSIM Access.
        EsimAccess = "esim-access",
        /// Airalo Partners.
        Airalo = "airalo",
        /// eSIM Go.
        EsimGo = "esim-go",
        /// microesim.
        MicroEsim = "microesim",
        /// TGT Technology (TUGE).
        Tgt = "tgt",
    }
}

/// Whether a connection can be called so: 2 to 40 lower-case letters, digits and inner hyphens. Placements and offers
/// keep the name for ever, so it never changes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (2..=40).contains(&bytes.len())
        && bytes.iter().all(|byte| letter(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| letter(*byte))
        && bytes.last().is_some_and(|byte| letter(*byte))
        && !RESERVED.contains(&name)
}

/// What is called so is something else: the upstream inside the process, and plans that several connections offer.
const RESERVED: [&str; 2] = ["sandbox", "connections"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word() {
        for name in ["tsim", "tsim-2", "a1"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(41);
        for name in ["", "a", "-a", "a-", "Tsim", "a_b", "a b", "sandbox", "connections", &long] {
            assert!(!is_name(name), "{name}");
        }
    }
}
