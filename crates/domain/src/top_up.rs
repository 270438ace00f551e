//! Top-ups: how a partner's money becomes credit.

use crate::words;

words! {
    /// How a top-up is paid.
    pub enum PaymentMethod {
        /// By card, through Stripe.
        Stripe = "stripe",
        /// By bank transfer, matched by the operator.
        BankTransfer = "bank_transfer",
    }
}

words! {
    /// Where a top-up is.
    pub enum TopUpStatus {
        /// Waiting for the money.
        Pending = "pending",
        /// The partner sent a proof; the operator decides.
        UnderReview = "under_review",
        /// Credited.
        Paid = "paid",
        /// Refused by the operator.
        Rejected = "rejected",
        /// The money did not come in time.
        Expired = "expired",
        /// Given back in part.
        PartiallyRefunded = "partially_refunded",
        /// Given back.
        Refunded = "refunded",
        /// Taken back by the payer's bank.
        Disputed = "disputed",
    }
}

words! {
    /// What can happen to a top-up.
    pub enum TopUpEvent {
        /// A proof came (or a better one).
        Prove = "prove",
        /// The money is there.
        Pay = "pay",
        /// The operator says no.
        Reject = "reject",
        /// Too late.
        Expire = "expire",
        /// Part was given back.
        RefundPart = "refund_part",
        /// All was given back.
        RefundAll = "refund_all",
        /// The payer's bank took it back.
        Dispute = "dispute",
    }
}

impl TopUpStatus {
    /// The status after `event`, or `None` where the event cannot happen.
    #[must_use]
    pub const fn after(self, event: TopUpEvent) -> Option<Self> {
        use {TopUpEvent as E, TopUpStatus as S};
        match (self, event) {
            (S::Pending | S::UnderReview, E::Prove) => Some(S::UnderReview),
            (S::Pending | S::UnderReview | S::Expired, E::Pay) => Some(S::Paid),
            (S::Pending | S::UnderReview, E::Reject) => Some(S::Rejected),
            (S::Pending, E::Expire) => Some(S::Expired),
            (S::Paid | S::PartiallyRefunded, E::RefundPart) => Some(S::PartiallyRefunded),
            (S::Paid | S::PartiallyRefunded, E::RefundAll) => Some(S::Refunded),
            (S::Paid | S::PartiallyRefunded, E::Dispute) => Some(S::Disputed),
            (
                S::Pending
                | S::UnderReview
                | S::Paid
                | S::Rejected
                | S::Expired
                | S::PartiallyRefunded
                | S::Refunded
                | S::Disputed,
                E::Prove | E::Pay | E::Reject | E::Expire | E::RefundPart | E::RefundAll | E::Dispute,
            ) => None,
        }
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Digits of a number and of letters (A = 10 ... Z = 35), read as one number modulo 97 (ISO 7064).
fn mod_97(text: &str) -> u32 {
    text.bytes().fold(0_u32, |rest, byte| {
        let value = match byte {
            b'0'..=b'9' => u32::from(byte.saturating_sub(b'0')),
            _ => u32::from(byte.saturating_sub(b'A')).saturating_add(10),
        };
        let factor = if value >= 10 { 100 } else { 10 };
        rest.saturating_mul(factor).saturating_add(value).checked_rem(97).unwrap_or(0)
    })
}

/// A creditor reference by ISO 11649 (`RF`, two check digits, our text): banks carry it unchanged,
/// and a mistyped one is noticed. `random` gives 50 bits.
#[must_use]
pub fn transfer_reference(random: u64) -> String {
    let letters: String = (0..10_u32)
        .map(|index| {
            let bits = random.checked_shr(index.saturating_mul(5)).unwrap_or(0) & 31;
            let letter = usize::try_from(bits).ok().and_then(|bits| ALPHABET.get(bits)).copied().unwrap_or(b'0');
            char::from(letter)
        })
        .collect();
    let body = format!("ESD{letters}");
    let check = 98_u32.saturating_sub(mod_97(&format!("{body}RF00")));
    format!("RF{check:02}{body}")
}

/// Whether a reference's check digits hold. Spaces and small letters, as banks print them, are fine.
#[must_use]
pub fn is_transfer_reference(text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| !letter.is_whitespace()).collect::<String>().to_uppercase();
    match plain.split_at_checked(4) {
        Some((head, body)) => {
            head.starts_with("RF")
                && plain.len() <= 25
                && plain.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
                && mod_97(&format!("{body}{head}")) == 1
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_table() {
        let to = |event| -> Vec<TopUpStatus> {
            TopUpStatus::ALL.iter().copied().filter(|status| status.after(event).is_some()).collect()
        };
        use TopUpStatus as S;
        assert_eq!(to(TopUpEvent::Prove), [S::Pending, S::UnderReview]);
        assert_eq!(to(TopUpEvent::Pay), [S::Pending, S::UnderReview, S::Expired]);
        assert_eq!(to(TopUpEvent::Reject), [S::Pending, S::UnderReview]);
        assert_eq!(to(TopUpEvent::Expire), [S::Pending]);
        assert_eq!(to(TopUpEvent::RefundPart), [S::Paid, S::PartiallyRefunded]);
        assert_eq!(to(TopUpEvent::Dispute), [S::Paid, S::PartiallyRefunded]);
    }

    #[test]
    fn references_carry_check_digits() {
        assert!(is_transfer_reference("RF18 5390 0754 7034"));
        let reference = transfer_reference(0x0123_4567_89AB_CDEF);
        assert!(is_transfer_reference(&reference), "{reference}");
        assert!(is_transfer_reference(&reference.to_lowercase()));
        let mistyped = reference.replace("ESD", "ESB");
        assert!(!is_transfer_reference(&mistyped));
        assert!(!is_transfer_reference("RF"));
    }
}
