//! How Airalo writes money, times and pages, and how its clients write lists.

use super::invalid;
use crate::lenient::{as_text, local_text};
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Value, json};

/// Cents as the decimal number of dollars that PHP writes: 4.5, 10.
pub(super) fn dollars(cents: i64) -> Value {
    let text = format!("{}.{:02}", cents / 100, cents % 100);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    serde_json::from_str(text).unwrap_or_default()
}

pub(super) fn dollars_text(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// What a traveller pays at least: a quarter more than the partner.
pub(super) fn retail(cents: i64) -> i64 {
    cents.saturating_mul(5) / 4
}

pub(super) fn time(time: Timestamp) -> String {
    local_text(time, 0)
}

pub(super) fn minute(time: Timestamp) -> String {
    local_text(time, 0).get(..16).unwrap_or_default().to_owned()
}

/// RFC 3339 with an offset, as the history of packages has it.
pub(super) fn offset_time(time: Timestamp) -> String {
    format!("{}+00:00", local_text(time, 0).replace(' ', "T"))
}

/// A page of a list with its links; `size` is the page's where the client names none.
pub(super) struct Page {
    pub(super) entries: Vec<Value>,
    pub(super) number: usize,
    pub(super) begins: usize,
    pub(super) links: Value,
    pub(super) meta: Value,
}

pub(super) fn page(request: &Request, all: Vec<Value>, size: usize) -> Result<Page, Reply> {
    let number = |name: &str, default: usize| match request.parameter(name) {
        "" => Ok(default),
        text => text
            .parse::<usize>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| invalid(name, &format!("The {name} must be an integer."))),
    };
    let (page, size) = (number("page", 1)?, number("limit", size)?);
    let total = all.len();
    let last = total.div_ceil(size).max(1);
    let begins = (page - 1).saturating_mul(size);
    let entries: Vec<Value> = all.into_iter().skip(begins).take(size).collect();
    let host = request.header("host");
    let path = format!("http://{host}{}", request.path);
    let others = request.query.iter().filter(|(name, _)| name != "page");
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(others).finish();
    let link = |page: usize| format!("{path}?{query}{}page={page}", if query.is_empty() { "" } else { "&" });
    let (from, to) = match entries.len() {
        0 => (Value::Null, Value::Null),
        here => ((begins + 1).into(), (begins + here).into()),
    };
    Ok(Page {
        number: page,
        begins,
        links: json!({
            "first": link(1),
            "last": link(last),
            "prev": (page > 1).then(|| link(page - 1)),
            "next": (page < last).then(|| link(page + 1)),
        }),
        meta: json!({
            "message": "success",
            "current_page": page,
            "from": from,
            "last_page": last,
            "path": path,
            "per_page": size.to_string(),
            "to": to,
            "total": total,
        }),
        entries,
    })
}

impl Page {
    pub(super) fn reply(self) -> Reply {
        Reply::json(200, &json!({"data": self.entries, "links": self.links, "meta": self.meta}))
    }
}

pub(super) fn texts_of(request: &Request, name: &str) -> Vec<String> {
    match request.fields.get(name) {
        Some(Value::Array(entries)) => entries.iter().filter_map(as_text).collect(),
        // Some send the list as JSON in one field of the form.
        Some(Value::String(text)) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Array(entries)) => entries.iter().filter_map(as_text).collect(),
            _ => vec![text.clone()],
        },
        _ => Vec::new(),
    }
}
