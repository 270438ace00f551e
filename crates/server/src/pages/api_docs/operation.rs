//! One operation of the document, made ready for the page.

use serde_json::Value;

use super::{
    markup,
    schema::{Field, Schemas, anchor},
};

/// The methods that OpenAPI knows, in the order in which they are shown for one path.
pub(super) const METHODS: [&str; 8] = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];

/// A method and a path, with all that is said about them.
pub(super) struct Operation {
    pub id: String,
    pub method: &'static str,
    pub path: String,
    pub title: String,
    pub description_html: String,
    pub auth: String,
    pub deprecated: bool,
    pub parameters: Vec<Parameter>,
    pub request: Option<Body>,
    pub answers: Vec<Answer>,
    pub errors: Vec<Answer>,
}

/// A parameter and where it goes: path, query or header.
pub(super) struct Parameter {
    pub place: String,
    pub field: Field,
}

/// A body: its type, its fields, and an example.
pub(super) struct Body {
    pub content_type: String,
    pub description_html: String,
    pub optional: bool,
    /// Whether the fields are only those inside the envelope that the conventions explain.
    pub enveloped: bool,
    pub fields: Vec<Field>,
    pub example: Option<String>,
}

/// What comes back with one status.
pub(super) struct Answer {
    pub status: String,
    pub description_html: String,
    /// The stable codes that a failure may carry.
    pub codes: Vec<String>,
    pub headers: Vec<Field>,
    pub body: Option<Body>,
}

impl Operation {
    /// Reads an operation; the second list of parameters is the one that its path shares.
    pub(super) fn read<'a>(
        method: &'static str,
        path: &str,
        operation: &'a Value,
        shared: Option<&'a Value>,
        root: &'a Value,
        schemas: &Schemas<'a>,
    ) -> Self {
        let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or_default();
        let title =
            [text("summary"), text("operationId"), path].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        let (answers, errors) =
            answers(operation, schemas).into_iter().partition(|answer: &Answer| !is_failure(&answer.status));
        Self {
            id: anchor(method, path),
            method,
            path: path.to_owned(),
            title: title.to_owned(),
            description_html: markup::blocks(text("description")),
            auth: auth(operation, root),
            deprecated: operation.get("deprecated") == Some(&Value::Bool(true)),
            parameters: parameters(operation, shared, schemas),
            request: operation.get("requestBody").and_then(|body| Body::read(schemas.resolve(body), schemas)),
            answers,
            errors,
        }
    }
}

impl Body {
    /// The body of a request or an answer; `None` when the document says nothing about it.
    fn read<'a>(holder: &'a Value, schemas: &Schemas<'a>) -> Option<Self> {
        let kinds = holder.get("content")?.as_object()?;
        let (content_type, media) =
            kinds.iter().find(|(kind, _)| kind.contains("json")).or_else(|| kinds.iter().next())?;
        let schema = media.get("schema");
        let mut fields = schema.map(|schema| schemas.fields(schema)).unwrap_or_default();
        let enveloped = open_envelope(&mut fields);
        Some(Self {
            content_type: content_type.clone(),
            description_html: markup::blocks(holder.get("description").and_then(Value::as_str).unwrap_or_default()),
            optional: holder.get("required") != Some(&Value::Bool(true)),
            enveloped,
            fields,
            example: example(media, schemas),
        })
    }

    /// An error's body is worth showing only where it differs from the envelope that all of them wear.
    fn read_failure<'a>(holder: &'a Value, schemas: &Schemas<'a>) -> Option<Self> {
        let mut body = Self::read(holder, schemas)?;
        let schema = holder.get("content")?.as_object()?.values().find_map(|media| media.get("schema"));
        if schema.is_some_and(|schema| schemas.shared_name(schema).is_some()) {
            body.fields.clear();
        }
        (!body.fields.is_empty() || body.example.is_some()).then_some(body)
    }
}

/// Takes away the rows that every answer has, if these are an answer's; fifty times the same four help nobody.
fn open_envelope(fields: &mut Vec<Field>) -> bool {
    let is_envelope = ENVELOPE.iter().all(|name| fields.iter().any(|field| field.path == *name));
    if is_envelope {
        let says_more = fields.iter().any(|field| field.path.starts_with("data.") || field.path.starts_with("data["));
        fields.retain(|field| !ENVELOPE.contains(&field.path.as_str()) || (field.path == "data" && !says_more));
    }
    is_envelope
}

const ENVELOPE: [&str; 4] = ["success", "data", "message", "error"];

fn parameters<'a>(operation: &'a Value, shared: Option<&'a Value>, schemas: &Schemas<'a>) -> Vec<Parameter> {
    let own = operation.get("parameters");
    let mut found: Vec<Parameter> = Vec::new();
    // The operation's own come first, so that they win over the path's.
    for parameter in [own, shared].into_iter().flatten().filter_map(Value::as_array).flatten() {
        let parameter = schemas.resolve(parameter);
        let text = |key: &str| parameter.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, place) = (text("name"), text("in"));
        if name.is_empty() || found.iter().any(|known| known.field.path == name && known.place == place) {
            continue;
        }
        let required = parameter.get("required") == Some(&Value::Bool(true));
        let schema = parameter.get("schema").unwrap_or(&Value::Null);
        found.push(Parameter {
            place: place.to_owned(),
            field: schemas.field(name, schema, required, text("description")),
        });
    }
    found.sort_by_key(|parameter| ["path", "query", "header"].iter().position(|place| *place == parameter.place));
    found
}

fn answers<'a>(operation: &'a Value, schemas: &Schemas<'a>) -> Vec<Answer> {
    let mut answers: Vec<Answer> = operation
        .get("responses")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(status, answer)| {
            let answer = schemas.resolve(answer);
            let body =
                if is_failure(status) { Body::read_failure(answer, schemas) } else { Body::read(answer, schemas) };
            Answer {
                status: status.clone(),
                description_html: markup::blocks(answer.get("description").and_then(Value::as_str).unwrap_or_default()),
                codes: if is_failure(status) { codes(answer, schemas) } else { Vec::new() },
                headers: headers(answer, schemas),
                // Described once, beside the status.
                body: body.map(|body| Body { description_html: String::new(), ..body }),
            }
        })
        .collect();
    answers.sort_by(|one, other| one.status.cmp(&other.status));
    answers
}

fn headers<'a>(answer: &'a Value, schemas: &Schemas<'a>) -> Vec<Field> {
    let headers = answer.get("headers").and_then(Value::as_object);
    headers
        .into_iter()
        .flatten()
        .map(|(name, header)| {
            let header = schemas.resolve(header);
            let description = header.get("description").and_then(Value::as_str).unwrap_or_default();
            schemas.field(name, header.get("schema").unwrap_or(&Value::Null), false, description)
        })
        .collect()
}

/// The values of the envelope's `error` in this answer: those that its schema allows, those that `x-error-codes` lists,
/// and those in its examples.
fn codes<'a>(answer: &'a Value, schemas: &Schemas<'a>) -> Vec<String> {
    let mut codes = Vec::new();
    let mut add = |code: &Value| {
        if let Some(code) = code.as_str().filter(|code| !code.is_empty())
            && !codes.iter().any(|known| known == code)
        {
            codes.push(code.to_owned());
        }
    };
    let each = |value: Option<&'a Value>| value.and_then(Value::as_array).into_iter().flatten();
    each(answer.get("x-error-codes")).for_each(&mut add);
    // Where they are listed, the schema only repeats all codes there are.
    if answer.get("x-error-codes").is_some() {
        return codes;
    }
    for media in answer.get("content").and_then(Value::as_object).into_iter().flat_map(|kinds| kinds.values()) {
        if let Some(schema) = media.get("schema") {
            let schema = schemas.resolve(schema);
            let parts = std::iter::once(schema).chain(each(schema.get("allOf")));
            for error in parts.filter_map(|part| schemas.resolve(part).pointer("/properties/error")) {
                let error = schemas.resolve(error);
                each(error.get("enum")).chain(error.get("const")).for_each(&mut add);
            }
        }
        let named = media.get("examples").and_then(Value::as_object).into_iter().flat_map(|named| named.values());
        let examples =
            media.get("example").into_iter().chain(named.filter_map(|named| schemas.resolve(named).get("value")));
        examples.filter_map(|example| example.get("error")).for_each(&mut add);
    }
    codes
}

fn example<'a>(media: &'a Value, schemas: &Schemas<'a>) -> Option<String> {
    let named = || media.get("examples")?.as_object()?.values().find_map(|named| schemas.resolve(named).get("value"));
    let of_schema = || {
        let schema = schemas.resolve(media.get("schema")?);
        schema.get("example").or_else(|| schema.get("examples")?.as_array()?.first())
    };
    let example = media.get("example").or_else(named).or_else(of_schema)?;
    match example {
        // Text that is no JSON, such as a CSV, is shown as it is.
        Value::String(text) => Some(text.clone()),
        other => serde_json::to_string_pretty(other).ok(),
    }
}

/// Who may call it, in words.
fn auth(operation: &Value, root: &Value) -> String {
    let Some(ways) = operation.get("security").or_else(|| root.get("security")).and_then(Value::as_array) else {
        return "None".to_owned();
    };
    let mut words: Vec<String> = Vec::new();
    let mut optional = ways.is_empty();
    for way in ways.iter().filter_map(Value::as_object) {
        optional |= way.is_empty();
        let schemes: Vec<String> = way.iter().map(|(name, scopes)| scheme(name, scopes, root)).collect();
        if !schemes.is_empty() {
            words.push(schemes.join(" and "));
        }
    }
    match (words.is_empty(), optional) {
        (true, _) => "None".to_owned(),
        (false, false) => words.join(", or "),
        (false, true) => format!("{} (optional)", words.join(", or ")),
    }
}

fn scheme(name: &str, scopes: &Value, root: &Value) -> String {
    let scheme = root.pointer("/components/securitySchemes").and_then(|schemes| schemes.get(name));
    let text = |key: &str| scheme.and_then(|scheme| scheme.get(key)).and_then(Value::as_str).unwrap_or_default();
    let words = match (text("type"), text("scheme")) {
        ("http", "bearer") => "Bearer token".to_owned(),
        ("apiKey", _) if !text("name").is_empty() => format!("{} ({})", text("name"), text("in")),
        _ => name.to_owned(),
    };
    let scopes: Vec<&str> = scopes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if scopes.is_empty() { words } else { format!("{words}, scope {}", scopes.join(", ")) }
}

/// Whether the status belongs into the table of errors; `default` is what happens otherwise, so it does too.
fn is_failure(status: &str) -> bool {
    status.starts_with(['4', '5']) || status == "default"
}
