//! A partner that reads all its orders as CSV, and what it read.

use crate::Outcome;
use domain::id::OrderId;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The oldest orders that are kept of an export: with one more than a page, what lies before the last page is known.
const KEPT: usize = 101;

/// What was read.
#[derive(Debug)]
pub struct Exported {
    /// Lines below the heading: eSIMs.
    pub rows: u32,
    /// From the request to the end.
    pub elapsed: Duration,
    /// The oldest orders, newest first.
    pub oldest: VecDeque<OrderId>,
}

/// Exports the orders of the tenant with this key.
pub async fn read(address: SocketAddr, api_key: &str) -> Outcome<Exported> {
    // In HTTP/1.0 the end of the connection is the end of the answer.
    let request =
        format!("GET /api/tenant/orders/export HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {api_key}\r\n\r\n");
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut reading = Reading::default();
    let mut received = Vec::with_capacity(1 << 20);
    while stream.read_buf(&mut received).await? > 0 {
        let taken = reading.take(&received)?;
        received.drain(..taken);
    }
    if !reading.heading_seen || !received.is_empty() {
        return Err("an export ended early".into());
    }
    Ok(Exported { rows: reading.rows, elapsed: begun.elapsed(), oldest: reading.oldest })
}

#[derive(Debug, Default)]
struct Reading {
    heading_seen: bool,
    rows: u32,
    last: Vec<u8>,
    oldest: VecDeque<OrderId>,
}

impl Reading {
    /// Takes the whole lines; returns how many bytes they are.
    fn take(&mut self, received: &[u8]) -> Outcome<usize> {
        let mut taken = 0;
        while let Some(length) = received[taken..].iter().position(|byte| *byte == b'\n') {
            let line = &received[taken..taken + length];
            taken += length + 1;
            let id = line.split(|byte| *byte == b',').next().unwrap_or_default();
            if !self.heading_seen {
                self.heading_seen = id == b"order_id";
                if line.starts_with(b"HTTP/") && !line.contains(&b'2') {
                    return Err(format!("no export: {}", String::from_utf8_lossy(line)).into());
                }
                continue;
            }
            self.rows += 1;
            if id != self.last.as_slice() {
                self.last = id.to_vec();
                self.oldest.push_back(std::str::from_utf8(id)?.parse().map_err(|_| "an export without order ids")?);
                if self.oldest.len() > KEPT {
                    self.oldest.pop_front();
                }
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_and_the_oldest_orders_kept() {
        let mut text = b"HTTP/1.0 200 OK\r\ncontent-type: text/csv\r\n\r\norder_id,order_number\r\n".to_vec();
        for number in (0..200_u32).rev() {
            for _ in 0..2 {
                text.extend(format!("01a208c7-cc9b-7000-8001-{:012x},1\r\n", number << 16).bytes());
            }
        }
        text.extend(b"01a2");
        let mut reading = Reading::default();
        let taken = reading.take(&text).unwrap();
        assert_eq!(text.len() - taken, 4, "a line that has not ended is left");
        assert_eq!((reading.rows, reading.oldest.len()), (400, KEPT));
        assert!(reading.oldest.back().unwrap().to_string().ends_with("000000000000"));
    }
}
