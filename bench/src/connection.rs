//! A client that knows just enough HTTP: one connection kept alive, one request at a time, answers with a
//! content length. A real client would cost more than the server.

use crate::Outcome;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer<'c> {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: &'c [u8],
}

struct Head {
    status: u16,
    body_begins: usize,
    body_length: usize,
}

fn read_head(received: &[u8]) -> Outcome<Option<Head>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&received[..end])?;
    let status = head.get(9..12).ok_or("an answer without a status")?.parse()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    let body_length = match length {
        // It never has a body.
        None if status == 304 => 0,
        length => length.ok_or("an answer without a content length")?.parse()?,
    };
    Ok(Some(Head { status, body_begins: end + 4, body_length }))
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(16_384) })
    }

    /// Makes room for a large answer beforehand, so that only the server takes time.
    pub fn make_room(&mut self, bytes: usize) {
        self.received.resize(bytes, 1);
        self.received.clear();
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &[u8]) -> Outcome<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.received.clear();
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if head.is_none() {
                head = read_head(&self.received)?;
            }
            if let Some(Head { status, body_begins, body_length }) = &head
                && let Some(body) = self.received.get(*body_begins..body_begins + body_length)
            {
                // The slice is taken again outside of the loop's borrow.
                let (status, range) = (*status, *body_begins..body_begins + body.len());
                return Ok(Answer { status, body: &self.received[range] });
            }
        }
    }
}
