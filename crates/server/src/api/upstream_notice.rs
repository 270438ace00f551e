//! `POST /api/webhooks/upstream/{connectionToken}`: an upstream tells news. It is kept before it is answered, and what it
//! says is asked for again: nobody's balance moves by a notice.

use crate::answer::Answer;
use crate::call::Webhook;
use crate::problem::Problem;
use bytes::Bytes;
use hyper::header::HeaderValue;
use providers::callback::{About, Acknowledgement, Callback, CallbackRefusal};
use store::notice::{Notice, keep};

/// `POST` and `HEAD`: who does not sign as the upstream signs is told that there is nothing here.
///
/// # Errors
/// A [`Problem`].
pub async fn post(webhook: Webhook) -> Result<Answer, Problem> {
    let Webhook { platform, path, method, headers, body } = webhook;
    let token = path.iter().find(|(name, _)| name == "connectionToken").map_or("", |(_, token)| token);
    let id = platform.with_keyring(|keyring| keyring.connection_of_notice(token)).ok_or_else(Problem::not_found)?;
    let connected = platform.upstreams.all_connected().into_iter().find(|connected| connected.connection.id == id);
    let connected = connected.ok_or_else(Problem::not_found)?;
    let connection = connected.connection.name;
    let callback = Callback { method: method.to_string(), headers, body };
    let read = match connected.upstream.read_callback(platform.clock.now(), &callback) {
        Ok(read) => read,
        Err(refusal) => {
            tracing::warn!(connection, reason = word(&refusal), "a notice was turned away");
            return Err(Problem::not_found());
        }
    };
    let (upstream_order, reference, handle, iccid) = match read.about {
        // Nothing to ask for again; some upstreams try the address like this.
        About::Account => return Ok(acknowledge(&read.acknowledgement)),
        About::Order { order, reference } => (order, reference, None, None),
        About::Esim { order, handle, iccid } => (order, None, handle, iccid),
    };
    let body = callback.kept();
    let notice = Notice { connection, key: read.id, event: read.event, upstream_order, reference, handle, iccid, body };
    platform.store.write(move |tx| keep(tx, &notice)).await?;
    Ok(acknowledge(&read.acknowledgement))
}

fn acknowledge(acknowledgement: &Acknowledgement) -> Answer {
    let Acknowledgement { status, content_type, body } = acknowledgement;
    Answer::bytes(*status, HeaderValue::from_static(content_type), Bytes::from_static(body.as_bytes()))
}

fn word(refusal: &CallbackRefusal) -> &str {
    match refusal {
        CallbackRefusal::Forged => "it is not signed as this upstream signs",
        CallbackRefusal::Stale => "it is too old, or from the future",
        CallbackRefusal::Malformed(reason) => reason,
        CallbackRefusal::Unsupported(reason) => reason,
    }
}
