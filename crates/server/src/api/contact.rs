//! `POST contact`: a message from anybody; the operator reads it, mail or no mail.

use crate::answer::Answer;
use crate::call::Call;
use crate::fields::{Field, Kind, optional, required};
use crate::json::Id;
use crate::problem::Problem;
use domain::contact::InquiryType;
use schemars::JsonSchema;
use serde::Serialize;
use store::contact::{Message, inquire};

fn types() -> Vec<&'static str> {
    InquiryType::ALL.iter().map(|word| word.word()).collect()
}

/// The body.
pub const BODY: &[Field] = &[
    required("fullName", Kind::Text(1, 200), "Your name."),
    required("email", Kind::Email, "Where we answer."),
    optional("companyName", Kind::Text(1, 200), "Your company."),
    optional("phone", Kind::Phone, "Your telephone number."),
    required("inquiryType", Kind::Word(types), "What it is about."),
    required("message", Kind::Text(1, 5_000), "Your message."),
];

/// `data` of an inquiry.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inquired {
    inquiry_id: Id,
}

/// `POST contact`.
///
/// # Errors
/// A [`Problem`].
pub async fn post(call: Call) -> Result<Answer, Problem> {
    let body = &call.body;
    let message = Message {
        full_name: body.required_text("fullName"),
        email: body.required_text("email"),
        company_name: body.string("companyName"),
        phone: body.string("phone"),
        inquiry_type: body.parse("inquiryType").ok_or_else(Problem::internal)?,
        message: body.required_text("message"),
    };
    let id = call.platform.store.write(move |tx| inquire(tx, &message)).await?;
    Ok(Answer::json(201, "Thank you, we will answer soon", &Inquired { inquiry_id: Id(id.uuid()) }))
}
