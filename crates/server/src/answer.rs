//! What goes back to the caller: the envelope, or a page, a picture, a stream.

use crate::problem::{Code, Problem};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The body of every answer.
pub type AnswerBody = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// An answer on its way.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers beside the usual ones.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The content.
    pub body: AnswerBody,
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    success: bool,
    data: &'a T,
    message: &'a str,
    error: &'a str,
}

fn envelope<T: Serialize>(success: bool, data: &T, message: &str, error: &str) -> Bytes {
    // Most answers fit: growing step by step copies them several times.
    let mut json = Vec::with_capacity(2_048);
    match serde_json::to_writer(&mut json, &Envelope { success, data, message, error }) {
        Ok(()) => json.into(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            Bytes::from_static(
                br#"{"success":false,"data":null,"message":"Something went wrong on our side.","error":"internal"}"#,
            )
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Answer {
    /// Success with data.
    pub fn json<T: Serialize>(status: u16, message: &str, data: &T) -> Self {
        Self::bytes(status, JSON, envelope(true, data, message, ""))
    }

    /// Success with content of another type.
    pub fn bytes(status: u16, content_type: HeaderValue, content: Bytes) -> Self {
        Self { status, headers: vec![(CONTENT_TYPE, content_type)], body: Either::Left(Full::new(content)) }
    }

    /// Success with content that is made while it is sent.
    #[must_use]
    pub fn stream(content_type: HeaderValue, content: mpsc::Receiver<Bytes>) -> Self {
        let body = UnsyncBoxBody::new(Received(content));
        Self { status: 200, headers: vec![(CONTENT_TYPE, content_type)], body: Either::Right(body) }
    }

    /// A page for a person.
    #[must_use]
    pub fn page(status: u16, policy: &str, html: String) -> Self {
        Self::bytes(status, HeaderValue::from_static("text/html; charset=utf-8"), html.into())
            .with_header("content-security-policy", policy)
    }

    /// The same with one more header. A value that cannot be a header is left out.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// The same, marked as the answer to an earlier request where it is one.
    #[must_use]
    pub fn replayed(self, replayed: bool) -> Self {
        if replayed { self.with_header("idempotent-replayed", "true") } else { self }
    }

    /// The response hyper sends.
    #[must_use]
    pub fn into_response(self) -> Response<AnswerBody> {
        let mut response = Response::new(self.body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let body = envelope(false, &problem.data, &problem.message, problem.code.code());
        let mut answer = Self::bytes(problem.code.status(), JSON, body);
        if let Some(seconds) = problem.retry_after {
            answer = answer.with_header("retry-after", &seconds.to_string());
        }
        if let Some(methods) = &problem.allow {
            answer = answer.with_header("allow", methods);
        }
        if problem.code == Code::Unauthorized {
            answer = answer.with_header("www-authenticate", "Bearer");
        }
        answer
    }
}

/// A body out of a channel: whoever fills it waits while the client does not read.
struct Received(mpsc::Receiver<Bytes>);

impl Body for Received {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|received| received.map(|bytes| Ok(Frame::data(bytes))))
    }
}
