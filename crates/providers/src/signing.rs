//! With what upstreams and we sign: HMAC in hexadecimal digits, and random nonces.

use aws_lc_rs::hmac::{self, Algorithm};
use aws_lc_rs::rand;

/// Bytes in lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HMAC of some texts one after the other.
pub(crate) fn mac(algorithm: Algorithm, key: &[u8], message: &[&[u8]]) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in message {
        context.update(part);
    }
    context.sign().as_ref().to_vec()
}

/// HMAC-SHA256 of some texts one after the other, in lower-case hexadecimal digits.
pub(crate) fn hmac_sha256(key: &[u8], message: &[&str]) -> String {
    let message: Vec<&[u8]> = message.iter().map(|part| part.as_bytes()).collect();
    hex(&mac(hmac::HMAC_SHA256, key, &message))
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// So many random bytes in hexadecimal digits. They only have to differ; a system without randomness gives zeros, and
/// the upstream refuses the second one.
pub(crate) fn nonce<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    let _ = rand::fill(&mut bytes);
    hex(&bytes)
}
