//! Profiles are worked out of the world's seed and a running number, never stored: a sale is one
//! row however many eSIMs it has, and an ICCID leads back to its number without an index.

use domain::fulfilment::Profile;
use domain::time::Timestamp;

/// Host of the sandbox's SM-DP+; the top-level domain is reserved, so no phone ever reaches it.
pub(crate) const SMDP_ADDRESS: &str = "smdp.esim-sandbox.example";

/// Telecom (89) and a country code nobody has (999).
const ICCID_PREFIX: &str = "89999";
/// ICCIDs have 13 digits between the prefix and the check digit.
const NUMBERS: u64 = 10_000_000_000_000;
/// 2^44 is the smallest even power of two above [`NUMBERS`].
const HALF_BITS: u32 = 22;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
const ROUNDS: u64 = 4;

const INSTALL_WITHIN_MS: i64 = 180 * 24 * 60 * 60 * 1000;

/// The profiles of one world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profiles {
    seed: u64,
}

impl Profiles {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The profile with this number, sold at `sold_at`.
    pub fn profile(self, number: i64, sold_at: Timestamp) -> Profile {
        let matching_id = self.matching_id(number);
        let confirmation_code = (number % 50 == 0).then(|| self.digits(number, 2, 6));
        let flag = if confirmation_code.is_some() { "$$1" } else { "" };
        let locked = number % 4 == 1;
        Profile {
            iccid: self.iccid(number),
            handle: None,
            smdp_address: SMDP_ADDRESS.to_owned(),
            activation_code: format!("LPA:1${SMDP_ADDRESS}${matching_id}{flag}"),
            matching_id,
            confirmation_code,
            apn: Some("internet.sandbox".to_owned()),
            msisdn: (number % 3 == 0).then(|| format!("+999{}", self.digits(number, 3, 9))),
            pin: locked.then(|| self.digits(number, 4, 4)),
            puk: locked.then(|| self.digits(number, 5, 8)),
            install_by: Some(sold_at.plus_millis(INSTALL_WITHIN_MS)),
        }
    }

    /// 19 digits, the last one the Luhn check digit. Different numbers have different ICCIDs.
    pub fn iccid(self, number: i64) -> String {
        let mut body = self.scramble(number.unsigned_abs() % NUMBERS);
        while body >= NUMBERS {
            body = self.scramble(body);
        }
        let mut iccid = format!("{ICCID_PREFIX}{body:013}");
        let check = check_digit(&iccid);
        iccid.push(check);
        iccid
    }

    /// The number behind an ICCID; `None` for a text that is no ICCID of any sandbox.
    pub fn number(self, iccid: &str) -> Option<i64> {
        let (payload, check) = iccid.split_at_checked(18)?;
        let body = payload.strip_prefix(ICCID_PREFIX)?;
        let digits = body.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || check.chars().ne([check_digit(payload)]) {
            return None;
        }
        let mut number = self.unscramble(body.parse().ok()?);
        while number >= NUMBERS {
            number = self.unscramble(number);
        }
        i64::try_from(number).ok()
    }

    fn matching_id(self, number: i64) -> String {
        let mut rest = u128::from(self.random(number, 0)) << 64 | u128::from(self.random(number, 1));
        let mut text = String::with_capacity(23);
        for position in 0..20 {
            if position > 0 && position % 5 == 0 {
                text.push('-');
            }
            let digit = u32::try_from(rest % 36).ok().and_then(|digit| char::from_digit(digit, 36));
            text.push(digit.unwrap_or('0').to_ascii_uppercase());
            rest /= 36;
        }
        text
    }

    fn digits(self, number: i64, stream: u64, length: u32) -> String {
        let value = self.random(number, stream) % 10_u64.pow(length);
        let width = usize::try_from(length).unwrap_or_default();
        format!("{value:0width$}")
    }

    fn random(self, number: i64, stream: u64) -> u64 {
        mix(mix(self.seed ^ mix(stream.wrapping_add(0x51ED))) ^ number.unsigned_abs())
    }

    /// A Feistel network: a permutation of the 44-bit numbers. Repeated until it falls below
    /// [`NUMBERS`] it is a permutation of those, which is why ICCIDs are unique and can be undone.
    fn scramble(self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> HALF_BITS, value & HALF_MASK);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round_key(round, right));
        }
        left << HALF_BITS | right
    }

    fn unscramble(self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> HALF_BITS, value & HALF_MASK);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.round_key(round, left), left);
        }
        left << HALF_BITS | right
    }

    fn round_key(self, round: u64, half: u64) -> u64 {
        mix(mix(self.seed ^ mix(round)) ^ half) & HALF_MASK
    }
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The Luhn digit that makes `payload` followed by it valid.
fn check_digit(payload: &str) -> char {
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let digits = payload.chars().rev().filter_map(|digit| digit.to_digit(10));
    let sum: u32 = digits.enumerate().map(|(index, digit)| if index % 2 == 0 { doubled(digit) } else { digit }).sum();
    char::from_digit((10 - sum % 10) % 10, 10).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn check_digits_agree_with_real_iccids() {
        for real in ["8931070820307245732", "8997212330099025334"] {
            let (payload, check) = real.split_at(18);
            assert_eq!(check_digit(payload).to_string(), check);
        }
    }

    #[test]
    fn an_iccid_leads_back_to_its_number() {
        let profiles = Profiles::new(7);
        let mut seen = HashSet::new();
        for number in (1..20_000).chain(9_999_999_990_000..10_000_000_000_000) {
            let iccid = profiles.iccid(number);
            assert_eq!(iccid.len(), 19);
            assert_eq!(profiles.number(&iccid), Some(number));
            assert!(seen.insert(iccid));
        }
    }

    #[test]
    fn other_texts_are_nobodys_iccid() {
        let profiles = Profiles::new(7);
        let iccid = profiles.iccid(1);
        let wrong_check = format!("{}{}", &iccid[..18], if iccid.ends_with('0') { '1' } else { '0' });
        for text in ["", "89", "8931070820307245732", &wrong_check, &iccid[..18], &format!("{iccid}0"), "ééééééééééé"]
        {
            assert_eq!(profiles.number(text), None, "{text}");
        }
    }

    #[test]
    fn some_profiles_ask_for_a_confirmation_code() {
        let profiles = Profiles::new(3);
        let asking = profiles.profile(50, Timestamp::from_millis(0));
        assert_eq!(asking.activation_code, format!("LPA:1${SMDP_ADDRESS}${}$$1", asking.matching_id));
        assert_eq!(asking.confirmation_code.map(|code| code.len()), Some(6));
        let plain = profiles.profile(51, Timestamp::from_millis(1_000));
        assert_eq!(plain.activation_code, format!("LPA:1${SMDP_ADDRESS}${}", plain.matching_id));
        assert_eq!(plain.confirmation_code, None);
        assert_eq!(plain.install_by, Some(Timestamp::from_millis(1_000 + 15_552_000_000)));
        assert_eq!(plain.matching_id.len(), 23);
        assert!(plain.matching_id.chars().all(|c| c == '-' || c.is_ascii_digit() || c.is_ascii_uppercase()));
    }

    #[test]
    fn seeds_make_different_worlds() {
        let (one, other) = (Profiles::new(1), Profiles::new(2));
        assert_ne!(one.iccid(1), other.iccid(1));
        assert_ne!(one.matching_id(1), other.matching_id(1));
    }
}
