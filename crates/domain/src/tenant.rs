//! Partners: who they are, what they may do, and the scope every request of theirs runs in.

use crate::id::{ApiKeyId, SessionId, TenantId, UserId};
use crate::words;

words! {
    /// Where a tenant stands with the operator.
    pub enum TenantStatus {
        /// Registered, waiting for the operator's approval: may look, not buy.
        Pending = "pending",
        /// May do everything.
        Active = "active",
        /// Stopped by the operator: may look, not change.
        Suspended = "suspended",
    }
}

words! {
    /// The two worlds of a tenant; nothing of one is visible in the other.
    pub enum Mode {
        /// Real money, real eSIMs.
        Live = "live",
        /// Play money, sandbox eSIMs.
        Test = "test",
    }
}

/// The most characters of a tier's name.
const LONGEST_TIER: usize = 40;

/// The name of a group of tenants who buy at the same prices: 1 to 40 lower-case letters, digits and inner hyphens. It
/// lies in place, so that whoever may come in can be remembered by copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tier {
    bytes: [u8; LONGEST_TIER],
    length: u8,
}

/// The text is no name of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTier;

impl Tier {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.length)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

impl std::str::FromStr for Tier {
    type Err = InvalidTier;

    fn from_str(text: &str) -> Result<Self, InvalidTier> {
        let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let given = text.as_bytes();
        let fits = given.iter().all(|byte| letter(byte) || *byte == b'-')
            && given.first().is_some_and(letter)
            && given.last().is_some_and(letter);
        let mut bytes = [0; LONGEST_TIER];
        match (bytes.get_mut(..given.len()), u8::try_from(given.len())) {
            (Some(place), Ok(length)) if fits => {
                place.copy_from_slice(given);
                Ok(Self { bytes, length })
            }
            _ => Err(InvalidTier),
        }
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tier({:?})", self.as_str())
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

words! {
    /// What an API key may do. A user's login may do all of it.
    pub enum Permission {
        /// Look at everything of the tenant.
        Read = "read",
        /// Buy and cancel.
        Order = "order",
        /// Start top-ups.
        TopUp = "top_up",
        /// Change the account and its keys.
        Admin = "admin",
    }
}

/// Who acts: a person who logged in, or a program with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A user in one login session.
    User(UserId, SessionId),
    /// An API key.
    Key(ApiKeyId),
}

/// The permissions of an actor, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// All of them.
    pub const ALL: Self = Self(0b1111);

    const fn bit(permission: Permission) -> u8 {
        match permission {
            Permission::Read => 0b0001,
            Permission::Order => 0b0010,
            Permission::TopUp => 0b0100,
            Permission::Admin => 0b1000,
        }
    }

    /// Whether `permission` is in the set.
    #[must_use]
    pub const fn allow(self, permission: Permission) -> bool {
        self.0 & Self::bit(permission) != 0
    }

    /// The permissions in the set.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.allow(*permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |set, permission| set | Self::bit(permission)))
    }
}

/// Whose data a request may touch. Made by authentication and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The tenant.
    pub tenant: TenantId,
    /// The world.
    pub mode: Mode,
    /// Who acts.
    pub actor: Actor,
    /// What the actor may do.
    pub permissions: Permissions,
}

/// The tenant's status forbids the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAllowed {
    /// Waiting for approval.
    Pending,
    /// Suspended.
    Suspended,
}

impl TenantStatus {
    /// Whether a tenant of this status may change anything.
    ///
    /// # Errors
    /// [`NotAllowed`] when it may only look.
    pub const fn may_change(self) -> Result<(), NotAllowed> {
        match self {
            Self::Active => Ok(()),
            Self::Pending => Err(NotAllowed::Pending),
            Self::Suspended => Err(NotAllowed::Suspended),
        }
    }
}

/// Host names that would be mistaken for the platform itself.
const RESERVED_SUBDOMAINS: &[&str] = &[
    "about",
    "abuse",
    "account",
    "accounts",
    "admin",
    "administrator",
    "api",
    "api-docs",
    "app",
    "apps",
    "assets",
    "auth",
    "autoconfig",
    "autodiscover",
    "billing",
    "blog",
    "cdn",
    "cname",
    "console",
    "contact",
    "control",
    "dashboard",
    "demo",
    "dev",
    "developer",
    "developers",
    "dns",
    "docs",
    "email",
    "esim",
    "esimd",
    "esimdistribute",
    "files",
    "ftp",
    "git",
    "help",
    "host",
    "hostmaster",
    "imap",
    "img",
    "info",
    "install",
    "internal",
    "legal",
    "live",
    "localhost",
    "login",
    "logout",
    "mail",
    "metrics",
    "monitor",
    "mta-sts",
    "mx",
    "news",
    "ns1",
    "ns2",
    "oauth",
    "official",
    "operator",
    "partner",
    "partners",
    "pay",
    "payment",
    "payments",
    "pop",
    "pop3",
    "portal",
    "postmaster",
    "private",
    "prod",
    "production",
    "public",
    "register",
    "root",
    "sandbox",
    "secure",
    "security",
    "shop",
    "signup",
    "smtp",
    "sso",
    "staging",
    "static",
    "status",
    "stripe",
    "support",
    "system",
    "test",
    "testing",
    "uploads",
    "web",
    "webhook",
    "webhooks",
    "webmail",
    "webmaster",
    "wpad",
    "www",
    "www1",
    "www2",
];

/// Why a subdomain cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubdomainFault {
    /// Not 3 to 40 lower-case letters, digits and inner hyphens.
    Malformed,
    /// Kept for the platform.
    Reserved,
}

/// Checks the form of a subdomain: 3 to 40 lower-case letters, digits and inner hyphens.
///
/// # Errors
/// [`SubdomainFault`].
pub fn check_subdomain(text: &str) -> Result<(), SubdomainFault> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let well_formed = (3..=40).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
        && bytes.first().is_some_and(|byte| plain(*byte))
        && bytes.last().is_some_and(|byte| plain(*byte))
        && !text.starts_with("xn--");
    if !well_formed {
        return Err(SubdomainFault::Malformed);
    }
    if RESERVED_SUBDOMAINS.binary_search(&text).is_ok() { Err(SubdomainFault::Reserved) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_names_are_sorted_for_the_search() {
        assert!(RESERVED_SUBDOMAINS.is_sorted());
    }

    #[test]
    fn subdomains() {
        assert_eq!(check_subdomain("acme-travel2"), Ok(()));
        for text in ["ab", "-ab", "ab-", "Abc", "a.b", "a_b", "ä12", "xn--abc", "a b", &"a".repeat(41)] {
            assert_eq!(check_subdomain(text), Err(SubdomainFault::Malformed), "{text}");
        }
        for text in ["www", "api", "admin", "mail"] {
            assert_eq!(check_subdomain(text), Err(SubdomainFault::Reserved), "{text}");
        }
    }

    #[test]
    fn a_tier_is_a_word() {
        for text in ["gold", "a", "tier-2", &"a".repeat(40)] {
            let tier: Tier = text.parse().unwrap();
            assert_eq!(tier.as_str(), text);
        }
        for text in ["", "Gold", "-a", "a-", "a b", "ä", &"a".repeat(41), &"a".repeat(300)] {
            assert_eq!(text.parse::<Tier>(), Err(InvalidTier), "{text}");
        }
    }

    #[test]
    fn permissions_are_a_set() {
        let some: Permissions = [Permission::Read, Permission::TopUp].into_iter().collect();
        assert!(some.allow(Permission::Read) && some.allow(Permission::TopUp));
        assert!(!some.allow(Permission::Order) && !some.allow(Permission::Admin));
        assert_eq!(Permissions::ALL.iter().count(), 4);
    }
}
