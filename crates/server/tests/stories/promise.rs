//! What the OpenAPI document promises, held against every answer of every story: a status nobody
//! documented, or an answer of another shape, fails the story that met it.

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(server::openapi::document)
}

/// The documented path a request's path belongs to: the one with the fewest parameters.
fn template(path: &str) -> Option<&'static str> {
    let given: Vec<&str> = path.split('/').collect();
    let fits = |template: &&&'static str| {
        let parts: Vec<&str> = template.split('/').collect();
        parts.len() == given.len()
            && parts.iter().zip(&given).all(|(part, given)| part.starts_with('{') && !given.is_empty() || part == given)
    };
    static PATHS: OnceLock<Vec<&'static str>> = OnceLock::new();
    let paths = PATHS.get_or_init(|| document()["paths"].as_object().unwrap().keys().map(String::as_str).collect());
    paths.iter().filter(fits).min_by_key(|template| template.matches('{').count()).copied()
}

fn validator(schema: &Value, name: &str) -> Arc<Validator> {
    static READY: OnceLock<Mutex<HashMap<String, Arc<Validator>>>> = OnceLock::new();
    let mut ready = READY.get_or_init(Mutex::default).lock().unwrap();
    let validator = ready.entry(name.to_owned()).or_insert_with(|| {
        let whole = json!({"allOf": [schema], "components": document()["components"]});
        Arc::new(jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{name}: {error}")))
    });
    Arc::clone(validator)
}

/// Fails unless the answer is one the document promises.
pub fn keep(method: &Method, path: &str, status: u16, media: &str, answer: &Value) {
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
    let operation = template(path).map(|template| &document()["paths"][template][method.as_str().to_lowercase()]);
    let (schema, name) = match operation {
        // A path or method that is not documented has the refusals of no route.
        None | Some(Value::Null) => {
            assert!(matches!(status, 404 | 405), "{method} {path} is not documented and answers {status}");
            (problem, "Problem".to_owned())
        }
        Some(operation) => {
            // The operator's side may have an address of its own; then it is not there on the public one.
            let elsewhere = status == 404 && (path == "/metrics" || path.starts_with("/api/operator/"));
            if status == 304 || elsewhere {
                return;
            }
            let promised = &operation["responses"][status.to_string()];
            assert!(!promised.is_null(), "{method} {path} may not answer {status}: {answer}");
            if let Some(codes) = promised["x-error-codes"].as_array()
                && media == "application/json"
            {
                assert!(codes.contains(&answer["error"]), "{method} {path} may not refuse with {}", answer["error"]);
            }
            match &promised["content"]["application/json"]["schema"] {
                Value::Null => return,
                schema => (schema.clone(), format!("{method} {} {status}", operation["operationId"])),
            }
        }
    };
    if media != "application/json" || method == Method::HEAD || answer.is_null() {
        return;
    }
    let validator = validator(&schema, &name);
    let faults: Vec<String> =
        validator.iter_errors(answer).map(|fault| format!("{} at {}", fault, fault.instance_path())).collect();
    assert!(faults.is_empty(), "{method} {path} {status} breaks its promise: {faults:#?}\n{answer}");
}
