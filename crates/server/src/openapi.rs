//! The OpenAPI 3.1 document, made from the table of routes: it cannot say anything the code does not.

use crate::fields::{property, schema};
use crate::problem::Code;
use crate::routes::{Content, Handler, Route, table};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const CONVENTIONS: &str = "\
The partner API of eSIM Distribute. Partners register, keep a prepaid credit balance, buy eSIM plans against it, and \
follow their orders until every eSIM's QR details are there.

- Send `Authorization: Bearer <token>`: the token of a login, or an API key. Bodies are JSON, sent as `application/json`.
- Every JSON answer is an envelope: `success`, `data`, `message` (one sentence for a person), `error` (a stable code, \
empty on success). On 422 `data.fields` lists all faults at once.
- Amounts are JSON numbers of major units, read and written exactly. Times are RFC 3339 UTC. Countries are ISO 3166-1 \
alpha-2. In optional fields `null` and `\"\"` mean left out; unknown fields are refused.
- Lists take `limit` and `cursor`, and answer `nextCursor`. Newest first.
- `Idempotency-Key` on checkout and top-up: the same key and body get the first answer again, marked \
`Idempotent-Replayed: true`, for 24 hours at least; another body is refused.
- Test mode: log in with `mode` `test`, or use a key of the test mode. It has its own balance, plans of the sandbox, \
orders and transactions.
- `wait` holds an answer until nothing moves any more, for up to 30 seconds: no polling.
- 429 and 503 come with `Retry-After` in seconds; `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` say what \
is left of the rate.
- Every answer carries `X-Request-Id`. Give it to us when something is wrong.";

/// Refusals any route may answer.
fn common(route: &Route) -> Vec<Code> {
    let mut codes = match route.handler {
        Handler::Public(_) | Handler::Webhook(_) => vec![],
        Handler::Tenant { changes: true, .. } => {
            vec![Code::Unauthorized, Code::Forbidden, Code::TenantPending, Code::TenantSuspended]
        }
        Handler::Tenant { .. } => vec![Code::Unauthorized, Code::Forbidden],
        Handler::Operator(_) => vec![Code::Unauthorized],
    };
    if route.body.is_some() {
        codes.extend([Code::MalformedJson, Code::BodyTooLarge, Code::UnsupportedMediaType]);
    }
    if route.path.contains('{') {
        codes.push(Code::NotFound);
    }
    codes.extend([Code::ValidationFailed, Code::RateLimited, Code::Internal, Code::Unavailable, Code::StorageFull]);
    codes.extend(route.refusals);
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in table() {
        let operations = paths.entry(route.path).or_insert_with(|| json!({}));
        operations[route.method.to_lowercase()] = operation(route, &mut generator);
    }
    let mut schemas: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    schemas.insert("Problem".to_owned(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "eSIM Distribute",
            "version": env!("CARGO_PKG_VERSION"),
            "description": CONVENTIONS,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "tenant": {"type": "http", "scheme": "bearer", "description": "Token of a tenant's login, or an API key."},
                "operator": {"type": "http", "scheme": "bearer", "description": "Token of an operator's login."},
            },
        },
    })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["success", "data", "message", "error"],
        "properties": {
            "success": {"const": false},
            "data": {"type": ["object", "null"], "description": "Details, where there are any."},
            "message": {"type": "string", "description": "What is wrong and how to mend it."},
            "error": {"type": "string", "enum": Code::ALL.iter().map(|code| code.code()).collect::<Vec<_>>()},
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(route.query.iter().map(|field| {
        let mut schema = property(field);
        let description = schema.as_object_mut().and_then(|schema| schema.shift_remove("description"));
        json!({
            "name": field.name, "in": "query", "required": field.required,
            "description": description, "schema": schema,
        })
    }));
    if route.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "The same key and body get the first answer again instead of a second effect.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }));
    }
    let mut operation = json!({
        "operationId": operation_id(route),
        "tags": [route.tag],
        "summary": route.summary,
        "responses": responses(route, generator),
        "security": match route.handler {
            Handler::Public(_) | Handler::Webhook(_) => json!([]),
            Handler::Tenant { permission, .. } => json!([{"tenant": [permission.word()]}]),
            Handler::Operator(_) => json!([{"operator": []}]),
        },
    });
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some(body) = route.body.filter(|body| !body.is_empty()) {
        let required = body.iter().any(|field| field.required);
        operation["requestBody"] =
            json!({"required": required, "content": {"application/json": {"schema": schema(body)}}});
    }
    operation
}

/// `POST /api/tenant/orders/checkout` is `postOrdersCheckout`, the operator's begin with `operator`.
fn operation_id(route: &Route) -> String {
    let path = route.path.strip_prefix("/api/tenant").unwrap_or(route.path);
    let path = path.strip_prefix("/api").unwrap_or(path);
    let words = path.split(['/', '-', '{', '}', '.']).filter(|word| !word.is_empty());
    let mut id = route.method.to_lowercase();
    for word in words {
        let mut letters = word.chars();
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.push_str(letters.as_str());
    }
    id
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let content = match route.content {
        Content::Data(data) => {
            let data = data(generator);
            json!({"application/json": {"schema": {
                "type": "object",
                "required": ["success", "data", "message", "error"],
                "properties": {
                    "success": {"const": true},
                    "data": data,
                    "message": {"type": "string"},
                    "error": {"const": ""},
                },
            }}})
        }
        Content::Media("application/json") => json!({"application/json": {"schema": {"type": "object"}}}),
        Content::Media(media) => json!({media: {"schema": {"type": "string"}}}),
    };
    let mut responses = json!({route.status.to_string(): {"description": "Success", "content": content}});
    for code in common(route) {
        let status = code.status().to_string();
        let known = responses[&status]["x-error-codes"].as_array().cloned().unwrap_or_default();
        let codes: Vec<Value> = known.into_iter().chain([json!(code.code())]).collect();
        responses[&status] = json!({
            "description": "Refusal",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            "x-error-codes": codes,
        });
    }
    responses
}
