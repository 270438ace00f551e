//! The sandbox's world, seen and moved from outside.

use super::LIMIT;
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::Time;
use crate::platform::Platform;
use crate::problem::{Code, Problem};
use domain::order::of_reference;
use providers::sandbox::{Sale, SandboxError};
use providers::{SoldEsim, Upstream};
use schemars::JsonSchema;
use serde::Serialize;

/// A sale of the sandbox.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SandboxSale")]
pub struct SaleView {
    reference: String,
    upstream_plan_id: String,
    quantity: u32,
    sold_at: Time,
    cancelled_at: Option<Time>,
    iccids: Vec<String>,
}

/// `data` of the sales.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Sales {
    sales: Vec<SaleView>,
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("reference", Kind::Text(1, 100), "Beginning of the reference: an order's id finds all its sales."),
    LIMIT,
];

/// `GET sandbox/sales`.
///
/// # Errors
/// A [`Problem`].
pub async fn sales(call: OperatorCall) -> Result<Answer, Problem> {
    let reference = call.query.text("reference").unwrap_or("");
    let now = call.platform.clock.now();
    let found = call.platform.sandbox.sales(reference, now, call.limit()).await.map_err(problem)?;
    let view = |sale: Sale| SaleView {
        reference: sale.reference,
        upstream_plan_id: sale.upstream_plan_id,
        quantity: sale.quantity,
        sold_at: Time(sale.sold_at),
        cancelled_at: sale.cancelled_at.map(Time),
        iccids: sale.iccids,
    };
    Ok(Answer::json(200, "Sandbox sales", &Sales { sales: found.into_iter().map(view).collect() }))
}

/// `data` with a profile of the sandbox.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Moved {
    iccid: String,
    /// released, installed, used, expired or cancelled.
    state: &'static str,
}

#[derive(Clone, Copy)]
enum Move {
    Install,
    Use,
    Expire,
}

/// Moves a profile in the sandbox's world, and lets our eSIM know, as an upstream's callback would.
async fn move_on(call: OperatorCall, to: Move) -> Result<Answer, Problem> {
    let iccid = call.parameter("iccid").to_owned();
    let (platform, now) = (&call.platform, call.platform.clock.now());
    let state = match to {
        Move::Install => platform.sandbox.install(&iccid, now).await,
        Move::Use => platform.sandbox.use_data(&iccid, now).await,
        Move::Expire => platform.sandbox.expire(&iccid, now).await,
    }
    .map_err(problem)?;
    if let Some(reference) = platform.sandbox.reference_of(&iccid).await.map_err(problem)? {
        tell(platform, reference, &iccid).await?;
    }
    Ok(Answer::json(200, "Profile moved", &Moved { iccid, state: state.as_str() }))
}

/// Asks the sandbox about a profile at once, and keeps what it says.
async fn tell(platform: &Platform, reference: String, iccid: &str) -> Result<(), Problem> {
    let Some((order, _)) = of_reference(&reference) else { return Ok(()) };
    let order = platform.store.read(move |snapshot| store::order::find(snapshot, order)).await?;
    let esims = order.map(|order| order.esims).unwrap_or_default();
    let Some(esim) = esims.into_iter().find(|esim| esim.iccid.as_deref() == Some(iccid)) else { return Ok(()) };
    let sold = SoldEsim { reference, order: None, iccid: iccid.to_owned(), handle: esim.upstream_handle };
    if let Ok(usage) = platform.sandbox.usage(platform.clock.now(), sold).await.meaning {
        platform.store.write(move |tx| store::usage::record(tx, esim.id, &usage)).await?;
    }
    Ok(())
}

/// `POST sandbox/esims/{iccid}/install`.
///
/// # Errors
/// A [`Problem`].
pub async fn install(call: OperatorCall) -> Result<Answer, Problem> {
    move_on(call, Move::Install).await
}

/// `POST sandbox/esims/{iccid}/use`.
///
/// # Errors
/// A [`Problem`].
pub async fn use_data(call: OperatorCall) -> Result<Answer, Problem> {
    move_on(call, Move::Use).await
}

/// `POST sandbox/esims/{iccid}/expire`.
///
/// # Errors
/// A [`Problem`].
pub async fn expire(call: OperatorCall) -> Result<Answer, Problem> {
    move_on(call, Move::Expire).await
}

fn problem(error: SandboxError) -> Problem {
    match error {
        SandboxError::NotFound => Problem::not_found(),
        SandboxError::Impossible { from, to } => Problem::new(
            Code::ImpossibleTransition,
            format!("A profile that is {} cannot become {}.", from.as_str(), to.as_str()),
        ),
        other => {
            let message = "The sandbox cannot answer right now. Try again in a moment.";
            Problem::new(Code::Unavailable, message).after(1).because(other)
        }
    }
}
