//! The operator's login.

use crate::answer::Answer;
use crate::api::account::{authenticate, begin_session};
use crate::call::Call;
use crate::fields::{Field, Kind, required};
use crate::json::Time;
use crate::problem::Problem;
use domain::id::OperatorId;
use schemars::JsonSchema;
use serde::Serialize;
use store::access::{self, Subject};
use store::audit::Act;

/// The body of a login.
pub const LOGIN_BODY: &[Field] = &[
    required("email", Kind::Text(1, 254), "Your login address."),
    required("password", Kind::Password, "Your password."),
];

/// `data` of a login.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorLoggedIn")]
pub struct LoggedIn {
    token: String,
    token_type: &'static str,
    expires_at: Time,
}

/// `POST login`.
///
/// # Errors
/// A [`Problem`].
pub async fn login(call: Call) -> Result<Answer, Problem> {
    let email = call.body.required_text("email");
    let account = call.platform.store.read(move |snapshot| access::operator_by_email(snapshot, &email)).await?;
    let account = authenticate(&call, "operator", account).await?;
    let operator = OperatorId::new(account.id);
    let act = Act { operator, address: call.address.to_string() };
    call.platform.store.write(move |tx| access::note_operator_login(tx, &act)).await?;
    let (token, expires_at) = begin_session(&call.platform, Subject::Operator(operator)).await?;
    let data = LoggedIn { token, token_type: "Bearer", expires_at: Time(expires_at) };
    Ok(Answer::json(200, "Logged in", &data))
}
