//! The process itself: health, metrics, and its own documentation.

use crate::answer::Answer;
use crate::call::Call;
use crate::metrics::Standing;
use crate::openapi;
use crate::pages::api_docs;
use crate::problem::Problem;
use hyper::header::HeaderValue;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::OnceLock;

/// `data` of the health checks.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    status: &'static str,
}

/// `GET /healthz`: the process runs.
///
/// # Errors
/// Never.
pub async fn healthz(_: Call) -> Result<Answer, Problem> {
    Ok(Answer::json(200, "The process runs", &Health { status: "ok" }))
}

/// `GET /readyz`: the database answers and has the schema; the process is not stopping.
///
/// # Errors
/// 503 while it is not.
pub async fn readyz(call: Call) -> Result<Answer, Problem> {
    if call.platform.stopping.has_begun() {
        return Err(Problem::new(crate::problem::Code::Unavailable, "The process is stopping.").after(5));
    }
    call.platform.store.read(|snapshot| store::access::any_operator(snapshot)).await?;
    Ok(Answer::json(200, "Ready", &Health { status: "ok" }))
}

/// `GET /metrics`: for Prometheus.
///
/// # Errors
/// A [`Problem`].
pub async fn metrics(call: Call) -> Result<Answer, Problem> {
    let jobs = call.platform.store.read(store::job::counts).await?;
    let platform = &call.platform;
    let plans = platform.catalogue.latest().map_or(0, |edition| edition.plans());
    let differences = platform.store.read(store::difference::open).await?;
    let connections = platform.upstreams.all_connected();
    let text = platform.metrics.text(&Standing {
        jobs,
        waiters: platform.waiters.count(),
        plans,
        price_lists: platform.price_lists.count(),
        differences,
        low_balances: connections.iter().filter(|connected| connected.connection.balance_is_low()).count(),
    });
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(Answer::bytes(200, kind, text.into()))
}

fn document() -> &'static serde_json::Value {
    static DOCUMENT: OnceLock<serde_json::Value> = OnceLock::new();
    DOCUMENT.get_or_init(openapi::document)
}

/// `GET /openapi.json`.
///
/// # Errors
/// Never.
pub async fn openapi_json(_: Call) -> Result<Answer, Problem> {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string());
    let answer = Answer::bytes(200, HeaderValue::from_static("application/json"), text.as_str().into());
    Ok(answer.with_header("cache-control", "public, max-age=300"))
}

/// `GET /api-docs`.
///
/// # Errors
/// A [`Problem`].
pub async fn api_docs_page(_: Call) -> Result<Answer, Problem> {
    static PAGE: OnceLock<Option<String>> = OnceLock::new();
    let page = PAGE.get_or_init(|| {
        api_docs::render(document())
            .inspect_err(|error| tracing::error!(%error, "the API documentation could not be made"))
            .ok()
    });
    let page = page.clone().ok_or_else(Problem::internal)?;
    Ok(Answer::page(200, api_docs::csp(), page).with_header("cache-control", "public, max-age=300"))
}
