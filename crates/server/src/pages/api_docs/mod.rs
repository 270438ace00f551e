//! The API's documentation as one page that is read without internet and without script, made from the OpenAPI document
//! that the program publishes, so it cannot tell anything else. What the document leaves out is left out here; what the
//! page does not understand is skipped.

mod markup;
mod operation;
mod schema;

use std::sync::LazyLock;

use askama::Template;
use serde_json::Value;

use self::{
    operation::{METHODS, Operation},
    schema::{Field, Schemas, anchor},
};
use super::policy::policy;

/// The page for an OpenAPI 3.1 document. It takes some milliseconds: render it once, not per request.
///
/// # Errors
/// When the template cannot be rendered.
pub fn render(document: &Value) -> Result<String, askama::Error> {
    let schemas = Schemas::of(document);
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let servers = document.get("servers").and_then(Value::as_array).into_iter().flatten();
    let title = text("/info/title");
    Page {
        title: if title.is_empty() { "API" } else { title },
        version: text("/info/version"),
        servers: servers.filter_map(|server| server.get("url")?.as_str()).collect(),
        conventions_html: markup::blocks(text("/info/description")),
        groups: groups(document, &schemas),
        objects: schemas
            .shared_objects()
            .into_iter()
            .map(|(name, schema)| {
                let fields = schemas.fields(schema);
                Object {
                    id: anchor("object", name),
                    name,
                    description_html: markup::blocks(
                        schema.get("description").and_then(Value::as_str).unwrap_or_default(),
                    ),
                    tells_required: fields.iter().any(|field| !field.required),
                    fields,
                }
            })
            .collect(),
        style: STYLE,
    }
    .render()
}

/// The `Content-Security-Policy` for this page.
pub fn csp() -> &'static str {
    static CSP: LazyLock<String> = LazyLock::new(|| policy(STYLE, None));
    &CSP
}

/// The operations by their first tag: tags in the order in which the document declares them, then as they come up.
fn groups<'a>(document: &'a Value, schemas: &Schemas<'a>) -> Vec<Group<'a>> {
    let declared = document.get("tags").and_then(Value::as_array).into_iter().flatten();
    let mut groups: Vec<Group<'_>> = declared
        .filter_map(|tag| {
            let description = tag.get("description").and_then(Value::as_str).unwrap_or_default();
            Some(Group::new(tag.get("name")?.as_str()?, markup::blocks(description)))
        })
        .collect();
    for (path, item) in document.get("paths").and_then(Value::as_object).into_iter().flatten() {
        let item = schemas.resolve(item);
        for method in METHODS {
            let Some(operation) = item.get(method).filter(|operation| operation.is_object()) else {
                continue;
            };
            let tag = operation.pointer("/tags/0").and_then(Value::as_str).unwrap_or("Other");
            let read = Operation::read(method, path, operation, item.get("parameters"), document, schemas);
            match groups.iter_mut().find(|group| group.name == tag) {
                Some(group) => group.operations.push(read),
                None => {
                    let mut group = Group::new(tag, String::new());
                    group.operations.push(read);
                    groups.push(group);
                }
            }
        }
    }
    groups.retain(|group| !group.operations.is_empty());
    groups
}

const STYLE: &str =
    concat!(include_str!("../../../templates/look.css"), include_str!("../../../templates/api_docs.css"));

#[derive(Template)]
#[template(path = "api_docs.html")]
struct Page<'a> {
    title: &'a str,
    version: &'a str,
    servers: Vec<&'a str>,
    conventions_html: String,
    groups: Vec<Group<'a>>,
    objects: Vec<Object<'a>>,
    style: &'static str,
}

/// The operations of one tag.
struct Group<'a> {
    id: String,
    name: &'a str,
    description_html: String,
    operations: Vec<Operation>,
}

impl<'a> Group<'a> {
    fn new(name: &'a str, description_html: String) -> Self {
        Self { id: anchor("tag", name), name, description_html, operations: Vec::new() }
    }
}

/// An object that several answers contain.
struct Object<'a> {
    id: String,
    name: &'a str,
    description_html: String,
    /// Whether "required" sets some fields apart; on all of them it would be noise.
    tells_required: bool,
    fields: Vec<Field>,
}

#[cfg(test)]
mod tests;
