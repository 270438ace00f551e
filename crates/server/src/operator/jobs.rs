//! Jobs that were given up.

use super::{CURSOR, LIMIT, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::{Id, Time};
use crate::problem::{Code, Problem};
use domain::id::JobId;
use domain::job::JobState;
use schemars::JsonSchema;
use serde::Serialize;
use store::job::{self, Job, JobRefusal};

/// A job as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Job")]
pub struct JobView {
    id: Id,
    /// fulfil or cancel.
    kind: &'static str,
    order_id: Id,
    tenant_id: Id,
    /// ready, leased or dead.
    state: &'static str,
    attempts: i64,
    run_at: Time,
    reason: Option<String>,
}

impl JobView {
    fn new(job: Job) -> Self {
        Self {
            id: Id(job.id.uuid()),
            kind: job.kind.word(),
            order_id: Id(job.order.uuid()),
            tenant_id: Id(job.tenant.uuid()),
            state: job.state.word(),
            attempts: job.attempts,
            run_at: Time(job.run_at),
            reason: job.reason,
        }
    }
}

/// `data` with a job.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneJob {
    job: JobView,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobList {
    jobs: Vec<JobView>,
    next_cursor: Option<String>,
}

fn states() -> Vec<&'static str> {
    JobState::ALL.iter().map(|state| state.word()).collect()
}

/// The filters.
pub const QUERY: &[Field] = &[optional("state", Kind::Word(states), "Only in this state."), LIMIT, CURSOR];

/// `GET jobs`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let state = call.query.parse("state");
    let cursor = call.cursor()?.map(JobId::new);
    let limit = call.limit();
    let found = call.platform.store.read(move |snapshot| job::list(snapshot, state, cursor, limit + 1)).await?;
    let (found, next_cursor) = page(found, limit, |job| job.id.uuid());
    Ok(Answer::json(200, "Jobs", &JobList { jobs: found.into_iter().map(JobView::new).collect(), next_cursor }))
}

/// `POST jobs/{jobId}/retry`.
///
/// # Errors
/// A [`Problem`].
pub async fn retry(call: OperatorCall) -> Result<Answer, Problem> {
    let id: JobId = call.id("jobId")?;
    let act = call.act.clone();
    let job = call.platform.store.write(move |tx| job::retry(tx, &act, id)).await?;
    Ok(Answer::json(200, "Job is tried again", &OneJob { job: JobView::new(job) }))
}

/// `POST jobs/{jobId}/abandon`.
///
/// # Errors
/// A [`Problem`].
pub async fn abandon(call: OperatorCall) -> Result<Answer, Problem> {
    let id: JobId = call.id("jobId")?;
    let act = call.act.clone();
    let job = call.platform.store.write(move |tx| job::abandon(tx, &act, id)).await?;
    Ok(Answer::json(200, "Job abandoned", &OneJob { job: JobView::new(job) }))
}

impl From<JobRefusal> for Problem {
    fn from(refusal: JobRefusal) -> Self {
        match refusal {
            JobRefusal::NotFound => Self::not_found(),
            JobRefusal::NotDead => Self::new(Code::NotDead, "This job was not given up; it goes on by itself."),
            JobRefusal::OutcomeUnknown => Self::new(
                Code::OutcomeUnknown,
                "The upstream may have sold this order. Find out, and resolve the order instead.",
            ),
        }
    }
}
