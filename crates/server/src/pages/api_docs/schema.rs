//! JSON Schemas as rows of a table: one row per field, nested ones with their dotted path. An object that the document
//! uses in several places is shown once and linked, so a long answer stays short; the others are shown in place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::markup;

/// Deeper than any real answer; it ends the walk through a schema that contains itself.
const DEEPEST: usize = 8;
/// More rows than anybody reads; it ends the walk through a schema that multiplies.
const MOST_ROWS: usize = 400;

/// A field of a body, or a parameter.
pub(super) struct Field {
    /// The path from the top of the body, such as `items[].planId`.
    pub path: String,
    /// Its type as safe HTML, with links to shared objects.
    pub type_html: String,
    pub required: bool,
    /// Description and limits as safe HTML.
    pub notes_html: String,
}

/// The document, with what is known about its named schemas.
pub(super) struct Schemas<'a> {
    root: &'a Value,
    uses: BTreeMap<&'a str, usize>,
}

impl<'a> Schemas<'a> {
    pub(super) fn of(root: &'a Value) -> Self {
        let mut uses = BTreeMap::new();
        count_references(root, &mut uses);
        Self { root, uses }
    }

    /// What the value stands for: the target of its `$ref`, else itself.
    pub(super) fn resolve(&self, value: &'a Value) -> &'a Value {
        self.follow(value).1
    }

    /// The named objects that get their own place on the page.
    pub(super) fn shared_objects(&self) -> Vec<(&'a str, &'a Value)> {
        let named = self.root.pointer("/components/schemas").and_then(Value::as_object);
        named
            .into_iter()
            .flatten()
            .map(|(name, schema)| (name.as_str(), schema))
            .filter(|(name, _)| self.is_shared(name))
            .collect()
    }

    /// The rows for a body; its top is always opened, even when it is a shared object.
    pub(super) fn fields(&self, schema: &'a Value) -> Vec<Field> {
        let mut rows = Vec::new();
        let (schema, mark) = self.element(schema);
        let (name, schema) = self.follow(schema);
        let mut trail: Vec<&str> = name.into_iter().collect();
        self.open(schema, mark, &mut trail, 0, &mut rows);
        rows
    }

    /// One row for a value that is not part of a body.
    pub(super) fn field(&self, path: &str, schema: &'a Value, required: bool, description: &str) -> Field {
        Field {
            path: path.to_owned(),
            type_html: self.type_of(schema, 0),
            required,
            notes_html: self.notes(schema, Some(description)),
        }
    }

    /// The name of a shared object that the schema is nothing but a reference to.
    pub(super) fn shared_name(&self, schema: &'a Value) -> Option<&'a str> {
        self.follow(schema).0.filter(|name| self.is_shared(name))
    }

    fn open(&self, schema: &'a Value, prefix: String, trail: &mut Vec<&'a str>, depth: usize, rows: &mut Vec<Field>) {
        let mut properties = Vec::new();
        self.properties(schema, true, 0, &mut properties);
        // What a caller must send comes first; within that, the document's order.
        properties.sort_by_key(|(_, _, required)| !required);
        for (name, property, required) in properties {
            if rows.len() >= MOST_ROWS {
                return;
            }
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            rows.push(Field {
                path: path.clone(),
                type_html: self.type_of(property, 0),
                required,
                notes_html: self.notes(property, None),
            });
            let (inner, mark) = self.element(property);
            let (name, inner) = self.follow(inner);
            let known = name.is_some_and(|name| trail.contains(&name) || self.is_shared(name));
            if depth < DEEPEST && !known {
                trail.extend(name);
                self.open(inner, path + &mark, trail, depth + 1, rows);
                trail.truncate(trail.len() - usize::from(name.is_some()));
            }
        }
    }

    /// The properties of an object, with those of its parts (`allOf`) and of its variants (`oneOf`, `anyOf`). A property
    /// of a variant is never required: another variant does without.
    fn properties(
        &self,
        schema: &'a Value,
        may_require: bool,
        depth: usize,
        found: &mut Vec<(&'a str, &'a Value, bool)>,
    ) {
        if depth > DEEPEST {
            return;
        }
        let required = |name: &str| list(schema, "required").any(|entry| entry.as_str() == Some(name));
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if !found.iter().any(|(known, _, _)| known == name) {
                found.push((name, property, may_require && required(name)));
            }
        }
        for part in list(schema, "allOf") {
            self.properties(self.resolve(part), may_require, depth + 1, found);
        }
        let variants: Vec<&Value> = self.variants(schema);
        let sole = variants.len() == 1;
        for variant in variants {
            let (name, variant) = self.follow(variant);
            if sole || !name.is_some_and(|name| self.is_shared(name)) {
                self.properties(variant, may_require && sole, depth + 1, found);
            }
        }
    }

    /// The schema inside arrays and "or null", and the `[]` marks of the arrays that were opened.
    fn element(&self, schema: &'a Value) -> (&'a Value, String) {
        let (mut schema, mut mark) = (schema, String::new());
        for _ in 0..DEEPEST {
            let target = self.resolve(schema);
            let variants = self.variants(target);
            if let Some(items) = target.get("items") {
                mark.push_str("[]");
                schema = items;
            } else if let ([sole], None) = (variants.as_slice(), target.get("properties")) {
                schema = sole;
            } else {
                break;
            }
        }
        (schema, mark)
    }

    /// The alternatives of a schema without "null".
    fn variants(&self, schema: &'a Value) -> Vec<&'a Value> {
        list(schema, "oneOf").chain(list(schema, "anyOf")).filter(|variant| !is_null(variant)).collect()
    }

    fn type_of(&self, schema: &'a Value, depth: usize) -> String {
        let (name, schema) = self.follow(schema);
        if let Some(name) = name.filter(|name| self.is_shared(name)) {
            return format!("<a href=\"#{}\">{}</a>", anchor("object", name), markup::escape(name));
        }
        if depth > DEEPEST {
            return "any".to_owned();
        }
        let mut words: Vec<String> = Vec::new();
        let mut add = |word: String| {
            if !words.contains(&word) {
                words.push(word);
            }
        };
        let format = schema.get("format").and_then(Value::as_str);
        let stated = match schema.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for word in stated {
            add(match (word, format) {
                ("array", _) => match schema.get("items") {
                    Some(items) => format!("array of {}", self.type_of(items, depth + 1)),
                    None => "array".to_owned(),
                },
                ("object", _) => match schema.get("additionalProperties").filter(|values| values.is_object()) {
                    Some(values) if schema.get("properties").is_none() => {
                        format!("map of {}", self.type_of(values, depth + 1))
                    }
                    _ => "object".to_owned(),
                },
                // The widths of integers are our business, not the reader's.
                ("integer" | "number" | "boolean" | "null", _) | (_, None) => markup::escape(word),
                (_, Some(format)) => {
                    format!("{} ({})", markup::escape(word), markup::escape(format))
                }
            });
        }
        for alternative in list(schema, "oneOf").chain(list(schema, "anyOf")).chain(list(schema, "allOf")) {
            add(if is_null(alternative) { "null".to_owned() } else { self.type_of(alternative, depth + 1) });
        }
        if words.is_empty() {
            let fixed = schema.get("const").or_else(|| list(schema, "enum").find(|value| !value.is_null()));
            words.push(
                match fixed {
                    Some(Value::String(_)) => "string",
                    Some(Value::Number(_)) => "number",
                    Some(Value::Bool(_)) => "boolean",
                    Some(Value::Null) => "null",
                    _ if schema.get("properties").is_some() => "object",
                    _ => "any",
                }
                .to_owned(),
            );
        }
        words.sort_by_key(|word| word == "null");
        words.join(" or ")
    }

    /// What is to be known besides the type: the description, the allowed values, the limits.
    fn notes(&self, schema: &'a Value, description: Option<&str>) -> String {
        let target = self.resolve(schema);
        let own = |key: &str| schema.get(key).or_else(|| target.get(key)).and_then(Value::as_str);
        let description =
            description.filter(|text| !text.is_empty()).or_else(|| own("description")).unwrap_or_default();
        let mut notes = markup::blocks(description);
        let mut limits: Vec<String> = Vec::new();
        let allowed = self.allowed(schema, 0);
        if !allowed.is_empty() {
            let lead = if allowed.len() == 1 { "Always" } else { "One of" };
            limits.push(format!("{lead} {}", allowed.join(", ")));
        }
        let (element, _) = self.element(schema);
        let element = self.resolve(element);
        for (key, before, after) in LIMITS {
            if let Some(value) =
                [schema, target, element].iter().find_map(|schema| schema.get(key)).filter(|value| is_plain(value))
            {
                limits.push(format!("{before} <code>{}</code>{after}", markup::escape(&plain(value))));
            }
        }
        if schema.get("deprecated").or_else(|| target.get("deprecated")) == Some(&Value::Bool(true)) {
            limits.push("Deprecated".to_owned());
        }
        if !limits.is_empty() {
            notes.push_str(&format!("<p class=\"limits\">{}</p>", limits.join(" · ")));
        }
        notes
    }

    /// The allowed values as `<code>`, through arrays and alternatives.
    fn allowed(&self, schema: &'a Value, depth: usize) -> Vec<String> {
        let (name, schema) = self.follow(schema);
        if depth > DEEPEST || name.is_some_and(|name| self.is_shared(name)) {
            return Vec::new();
        }
        let mut values: Vec<String> = schema
            .get("const")
            .into_iter()
            .chain(list(schema, "enum"))
            .filter(|value| is_plain(value))
            .map(|value| format!("<code>{}</code>", markup::escape(&plain(value))))
            .collect();
        for inner in
            list(schema, "oneOf").chain(list(schema, "anyOf")).chain(list(schema, "allOf")).chain(schema.get("items"))
        {
            for value in self.allowed(inner, depth + 1) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        values
    }

    /// The end of a chain of references, with the name of the last schema on the way.
    fn follow(&self, value: &'a Value) -> (Option<&'a str>, &'a Value) {
        let (mut name, mut value) = (None, value);
        for _ in 0..DEEPEST {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                break;
            };
            let Some(target) = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) else {
                break;
            };
            name = schema_name(reference).or(name);
            value = target;
        }
        (name, value)
    }

    /// Whether the schema is an object with fields that the document mentions more than once.
    fn is_shared(&self, name: &str) -> bool {
        let schema = self.root.pointer("/components/schemas").and_then(|schemas| schemas.get(name));
        let is_object =
            schema.is_some_and(|schema| schema.get("properties").is_some() || schema.get("allOf").is_some());
        is_object && self.uses.get(name).is_some_and(|uses| *uses > 1)
    }
}

/// A limit's key, and the words before and after its value.
const LIMITS: [(&str, &str, &str); 10] = [
    ("default", "Default", ""),
    ("minimum", "At least", ""),
    ("exclusiveMinimum", "More than", ""),
    ("maximum", "At most", ""),
    ("minLength", "At least", " characters"),
    ("maxLength", "At most", " characters"),
    ("minItems", "At least", " entries"),
    ("maxItems", "At most", " entries"),
    ("pattern", "Pattern", ""),
    ("multipleOf", "Multiple of", ""),
];

/// The page's own address for something, safe in an attribute.
pub(super) fn anchor(kind: &str, name: &str) -> String {
    let mut id = format!("{kind}-");
    for sign in name.chars() {
        if sign.is_ascii_alphanumeric() {
            id.push(sign.to_ascii_lowercase());
        } else if !id.ends_with('-') {
            id.push('-');
        }
    }
    id.trim_end_matches('-').to_owned()
}

fn schema_name(reference: &str) -> Option<&str> {
    reference.strip_prefix("#/components/schemas/").filter(|name| !name.contains('/'))
}

fn count_references<'a>(value: &'a Value, uses: &mut BTreeMap<&'a str, usize>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = reference(map) {
                *uses.entry(name).or_default() += 1;
            }
            map.values().for_each(|value| count_references(value, uses));
        }
        Value::Array(values) => values.iter().for_each(|value| count_references(value, uses)),
        _ => (),
    }
}

fn reference(map: &Map<String, Value>) -> Option<&str> {
    map.get("$ref").and_then(Value::as_str).and_then(schema_name)
}

fn list<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    schema.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null") || schema.get("const") == Some(&Value::Null)
}

fn is_plain(value: &Value) -> bool {
    value.is_string() || value.is_number() || value.is_boolean()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(document: &Value, schema: &Value) -> Vec<String> {
        // The schema must live as long as the document, as it does on the page.
        let mut document = document.clone();
        document["under test"] = schema.clone();
        let schemas = Schemas::of(&document);
        let rows = schemas.fields(&document["under test"]);
        rows.iter()
            .map(|row| format!("{}{}: {}", row.path, if row.required { "!" } else { "" }, row.type_html))
            .collect()
    }

    #[test]
    fn nested_fields_have_their_path_and_required_ones_come_first() {
        let schema = json!({"type": "object", "required": ["items"], "properties": {
            "email": {"type": ["string", "null"], "format": "email"},
            "items": {"type": "array", "items": {"type": "object", "required": ["planId"], "properties": {
                "planId": {"type": "string", "format": "uuid"}, "quantity": {"type": "integer", "format": "uint32"}}}}}});
        assert_eq!(
            shown(&json!({}), &schema),
            [
                "items!: array of object",
                "items[].planId!: string (uuid)",
                "items[].quantity: integer",
                "email: string (email) or null"
            ]
        );
    }

    #[test]
    fn a_schema_used_once_is_opened_and_one_used_often_is_linked() {
        let document = json!({"components": {"schemas": {
            "Once": {"type": "object", "properties": {"order": {"anyOf": [{"$ref": "#/components/schemas/Often"}, {"type": "null"}]}}},
            "Often": {"type": "object", "properties": {"id": {"type": "string"}}}}},
            "elsewhere": {"$ref": "#/components/schemas/Often"}});
        let schema = json!({"properties": {"data": {"$ref": "#/components/schemas/Once"}}});
        assert_eq!(
            shown(&document, &schema),
            ["data: object", "data.order: <a href=\"#object-often\">Often</a> or null"]
        );
    }

    #[test]
    fn allowed_values_and_limits_are_told() {
        let document = json!({"components": {"schemas": {"Status": {"description": "Where it stands.", "oneOf": [{"const": "paid"}, {"enum": ["open", "void"], "type": "string"}]}}}});
        let property = json!({"$ref": "#/components/schemas/Status", "default": "open"});
        let mut document = document;
        document["p"] = property;
        let schemas = Schemas::of(&document);
        let row = schemas.field("status", &document["p"], false, "");
        assert_eq!(row.type_html, "string");
        assert_eq!(
            row.notes_html,
            "<p>Where it stands.</p><p class=\"limits\">One of <code>paid</code>, <code>open</code>, <code>void</code> · Default <code>open</code></p>"
        );
    }

    #[test]
    fn schemas_that_contain_themselves_come_to_an_end() {
        let document = json!({"components": {"schemas": {
            "Tree": {"properties": {"left": {"$ref": "#/components/schemas/Tree"}}},
            "Loop": {"$ref": "#/components/schemas/Loop"},
            "All": {"allOf": [{"$ref": "#/components/schemas/All"}]},
            "List": {"type": "array", "items": {"$ref": "#/components/schemas/List"}}}}});
        for name in ["Tree", "Loop", "All", "List"] {
            assert!(shown(&document, &json!({"$ref": format!("#/components/schemas/{name}")})).len() < 3);
        }
        assert_eq!(shown(&document, &json!({"$ref": "#/nowhere"})).len(), 0);
    }

    #[test]
    fn what_is_no_schema_is_skipped() {
        for schema in [
            json!(true),
            json!(null),
            json!({"properties": 3}),
            json!({"properties": {"a": 1}, "required": "a"}),
            json!({"oneOf": {}}),
        ] {
            assert!(shown(&json!({}), &schema).len() < 2);
        }
    }

    #[test]
    fn anchors_hold_only_safe_signs() {
        assert_eq!(anchor("post", "/api/tenant/top-up/{orderId}/proof"), "post-api-tenant-top-up-orderid-proof");
        assert_eq!(anchor("object", "Order<\"x\">"), "object-order-x");
    }
}
