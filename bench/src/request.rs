//! The bytes of the requests. The empty handler gets the same headers, the same body and as many bytes as a
//! checkout.

use crate::random::Random;
use std::io::Write;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The handler that does nothing.
    Empty,
    /// A checkout of one eSIM.
    Checkout,
}

impl Target {
    /// The path; both are of one length with what follows them.
    const fn path_and_filling(self) -> (&'static str, &'static str) {
        match self {
            Self::Empty => ("/api/tenant/empty", "bench-----------"),
            Self::Checkout => ("/api/tenant/orders/checkout", "bench-"),
        }
    }
}

/// Writes a request with an idempotency key and a reference that no other has.
pub fn write(buffer: &mut Vec<u8>, target: Target, plan: &str, api_key: &str, random: &mut Random) {
    let (path, agent) = target.path_and_filling();
    let (high, low) = (random.next(), random.next());
    let reference = format_args!("order-{low:016x}").to_string();
    let email = format_args!("traveller-{high:016x}@example.com").to_string();
    let length = r#"{"items":[{"planId":"","quantity":1}],"email":"","reference":""}"#.len()
        + plan.len()
        + reference.len()
        + email.len();
    buffer.clear();
    // Writing to memory cannot fail.
    let _ = write!(
        buffer,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\nAuthorization: Bearer {api_key}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: {high:016x}{low:016x}\r\nContent-Length: {length}\r\n\r\n\
         {{\"items\":[{{\"planId\":\"{plan}\",\"quantity\":1}}],\"email\":\"{email}\",\"reference\":\"{reference}\"}}"
    );
}

/// A GET without a body.
pub fn get(path: &str, bearer: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\r\n").into_bytes()
}

/// A POST of JSON without a login.
pub fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_targets_get_requests_of_one_size_and_the_length_is_true() {
        let mut sizes = Vec::new();
        for target in [Target::Empty, Target::Checkout] {
            let mut buffer = Vec::new();
            write(&mut buffer, target, "0192", "key", &mut Random(1));
            let text = String::from_utf8(buffer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{text}");
            sizes.push(text.len());
        }
        assert_eq!(sizes[0], sizes[1]);
    }
}
