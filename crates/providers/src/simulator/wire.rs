//! Requests and answers as the simulators see them, whatever encoding a client chose.

use super::dialect::Outgoing;
use bytes::Bytes;
use serde_json::{Map, Value};

/// A request, read to its end.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The query's parameters.
    pub query: Vec<(String, String)>,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, byte by byte.
    pub body: Bytes,
    /// The body's fields, from JSON, a form or a multipart form; what is no JSON comes as texts.
    pub fields: Map<String, Value>,
}

/// A field as text: numbers and booleans as they are written in JSON.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

impl Request {
    /// The path with its query.
    pub(super) fn target(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, query.join("&")) }
    }

    /// A header by its name in lower case; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A field of the body as text; empty when it is not there.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.fields.get(name).and_then(as_text).unwrap_or_default()
    }

    /// A field of the body as a whole number, whether it came as a number or as a text.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.text(name).trim().parse().ok()
    }

    /// A parameter of the query; empty when it is not there.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The fields of a body.
pub(super) async fn fields(content_type: &str, body: &Bytes) -> Map<String, Value> {
    if let Ok(boundary) = multer::parse_boundary(content_type) {
        return multipart(boundary, body).await;
    }
    if content_type.starts_with("application/x-www-form-urlencoded") {
        let mut fields = Map::new();
        for (name, value) in form_urlencoded::parse(body) {
            add(&mut fields, &name, value.into_owned());
        }
        return fields;
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

async fn multipart(boundary: String, body: &Bytes) -> Map<String, Value> {
    let whole = futures_util::stream::iter([Ok::<_, std::io::Error>(body.clone())]);
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = Map::new();
    while let Ok(Some(part)) = parts.next_field().await {
        let name = part.name().unwrap_or_default().to_owned();
        let Ok(value) = part.text().await else { break };
        add(&mut fields, &name, value);
    }
    fields
}

/// Adds a field of a form; `name[]` and `name[0]` are entries of a list, as PHP reads and writes them.
fn add(fields: &mut Map<String, Value>, name: &str, value: String) {
    let list = name.strip_suffix(']').and_then(|name| name.split_once('['));
    let Some((name, _)) = list.filter(|(_, index)| index.bytes().all(|byte| byte.is_ascii_digit())) else {
        fields.insert(name.to_owned(), value.into());
        return;
    };
    match fields.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(entries) => entries.push(value.into()),
        other => *other = vec![value].into(),
    }
}

/// An answer of a simulator.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the connection is cut instead of sending any of this.
    pub is_lost: bool,
    /// An address that is tried before this answer is given.
    pub trial: Option<Box<Trial>>,
}

/// An address for callbacks, kept if it answers as it should.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The address.
    pub url: String,
    /// What it is tried with.
    pub outgoing: Outgoing,
    /// The answer if it fails.
    pub otherwise: Reply,
}

impl Reply {
    /// JSON with a status.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes(), is_lost: false, trial: None }
    }

    /// Some other text with a status.
    #[must_use]
    pub fn text(status: u16, media: &str, body: &str) -> Self {
        let headers = vec![("content-type", media.to_owned())];
        Self { status, headers, body: body.as_bytes().to_vec(), is_lost: false, trial: None }
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, if an address for callbacks passes a trial; then news goes there from now on.
    #[must_use]
    pub fn after(self, trial: Trial) -> Self {
        Self { trial: Some(Box::new(trial)), ..self }
    }

    /// The same, or a cut connection.
    #[must_use]
    pub fn lost_if(self, is_lost: bool) -> Self {
        Self { is_lost, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content_type: &str, body: &'static str) -> Vec<(String, String)> {
        let fields = fields(content_type, &Bytes::from_static(body.as_bytes())).await;
        fields.into_iter().filter_map(|(name, value)| Some((name, as_text(&value)?))).collect()
    }

    #[tokio::test]
    async fn a_body_means_the_same_in_every_encoding() {
        let expected = vec![("number".to_owned(), "2".to_owned()), ("remark".to_owned(), "a b".to_owned())];
        assert_eq!(read("application/json; charset=utf-8", r#"{"number":2,"remark":"a b"}"#).await, expected);
        assert_eq!(read("application/x-www-form-urlencoded", "number=2&remark=a+b").await, expected);
        let multipart = "--x\r\nContent-Disposition: form-data; name=\"number\"\r\n\r\n2\r\n\
                         --x\r\nContent-Disposition: form-data; name=\"remark\"\r\n\r\na b\r\n--x--\r\n";
        assert_eq!(read("multipart/form-data; boundary=x", multipart).await, expected);
        assert_eq!(read("application/json", "[1]").await, vec![]);
    }

    #[tokio::test]
    async fn a_form_may_have_lists() {
        let body = Bytes::from_static(b"iccids%5B%5D=1&iccids%5B%5D=2&share%5B0%5D=link&note=a%5Bb");
        let fields = fields("application/x-www-form-urlencoded", &body).await;
        assert_eq!(Value::from(fields).to_string(), r#"{"iccids":["1","2"],"share":["link"],"note":"a[b"}"#);
    }
}
