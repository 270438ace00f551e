//! What goes wrong on demand.

use super::wire::Reply;
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// A fault of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The answer takes its time.
    Delay,
    /// Status 429, as the upstream says it.
    TooManyRequests,
    /// Status 500 with a page in HTML.
    ServerError,
    /// The connection is cut before anything is done.
    CutBefore,
    /// The connection is cut after it was done.
    CutAfter,
    /// Numbers come as texts, texts of digits as numbers, and truths as 0 and 1.
    WrongTypes,
    /// Nothing is done, and the answer is another one.
    Says,
    /// It is done, and the answer is another one.
    DoesAndSays,
}

/// Another answer than the upstream's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Said {
    /// HTTP status.
    pub status: u16,
    /// The body: JSON, or a text as it is.
    pub body: Value,
}

impl Default for Said {
    fn default() -> Self {
        Self { status: 200, body: Value::String(String::new()) }
    }
}

impl Said {
    /// It, as an answer.
    pub(super) fn reply(&self) -> Reply {
        match &self.body {
            Value::String(text) => Reply::text(self.status, "text/html", text),
            body => Reply::json(self.status, body),
        }
    }
}

/// A fault that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// For calls whose path, with its query, contains this; all when it is empty.
    #[serde(default)]
    pub path: String,
    /// For so many calls.
    #[serde(default = "once")]
    pub times: u32,
    /// How long a delay is, milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
    /// What [`Fault::Says`] and [`Fault::DoesAndSays`] answer.
    #[serde(default)]
    pub says: Said,
}

impl Planned {
    /// A fault of the next call whose path contains `path`.
    #[must_use]
    pub fn once(fault: Fault, path: &str) -> Self {
        Self { fault, path: path.to_owned(), times: 1, delay_ms: 0, says: Said::default() }
    }
}

fn once() -> u32 {
    1
}

/// The faults still to come.
#[derive(Debug, Default)]
pub struct Faults {
    planned: Mutex<Vec<Planned>>,
    callbacks: Mutex<CallbackFaults>,
}

/// What goes wrong with callbacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallbackFaults {
    /// Each is sent twice.
    pub twice: bool,
    /// Each is sent so much later, milliseconds.
    pub late_ms: i64,
    /// None is sent.
    pub never: bool,
}

impl Faults {
    /// Adds a fault.
    pub fn plan(&self, planned: Planned) {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).push(planned);
    }

    /// The next `times` calls whose path contains `path` meet this fault.
    pub fn next(&self, fault: Fault, path: &str, times: u32) {
        self.plan(Planned { times, ..Planned::once(fault, path) });
    }

    /// The next call whose path contains `path` is answered so, and nothing is done.
    pub fn say(&self, path: &str, status: u16, body: Value) {
        self.plan(Planned { says: Said { status, body }, ..Planned::once(Fault::Says, path) });
    }

    /// How many calls still meet a fault that was planned for `path`.
    #[must_use]
    pub fn left(&self, path: &str) -> u32 {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.iter().filter(|planned| planned.path == path).map(|planned| planned.times).sum()
    }

    /// Nothing more goes wrong with calls.
    pub fn clear(&self) {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sets what goes wrong with callbacks.
    pub fn set_callbacks(&self, faults: CallbackFaults) {
        *self.callbacks.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    pub(super) fn callbacks(&self) -> CallbackFaults {
        *self.callbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, path: &str) -> Option<Planned> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let found = planned.iter_mut().find(|planned| planned.times > 0 && path.contains(&planned.path))?;
        found.times -= 1;
        let found = found.clone();
        planned.retain(|planned| planned.times > 0);
        Some(found)
    }
}

/// Gives all values of a JSON answer another type.
pub(super) fn mistype(reply: &mut Reply) {
    if let Ok(mut body) = serde_json::from_slice(&reply.body) {
        mistype_value(&mut body);
        reply.body = body.to_string().into_bytes();
    }
}

fn mistype_value(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Bool(yes) => *value = Value::from(u8::from(*yes)),
        Value::String(text) => {
            // A number with zeros at its beginning would be another one.
            if let Ok(number) = text.parse::<i64>()
                && number.to_string() == *text
            {
                *value = Value::from(number);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(mistype_value),
        Value::Object(values) => values.values_mut().for_each(mistype_value),
        Value::Null => {}
    }
}
