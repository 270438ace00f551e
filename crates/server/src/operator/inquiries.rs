//! Messages from the contact form.

use super::{CURSOR, LIMIT, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional};
use crate::json::{Id, Time};
use crate::problem::Problem;
use domain::id::InquiryId;
use schemars::JsonSchema;
use serde::Serialize;
use store::contact::{self, Inquiry, InquiryRefusal};

/// An inquiry as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Inquiry")]
pub struct InquiryView {
    id: Id,
    full_name: String,
    email: String,
    company_name: Option<String>,
    phone: Option<String>,
    inquiry_type: &'static str,
    message: String,
    created_at: Time,
    handled_at: Option<Time>,
}

impl InquiryView {
    fn new(Inquiry { id, message, handled_at }: Inquiry) -> Self {
        Self {
            id: Id(id.uuid()),
            full_name: message.full_name,
            email: message.email,
            company_name: message.company_name,
            phone: message.phone,
            inquiry_type: message.inquiry_type.word(),
            message: message.message,
            created_at: Time(id.created_at()),
            handled_at: handled_at.map(Time),
        }
    }
}

/// `data` with an inquiry.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneInquiry {
    inquiry: InquiryView,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InquiryList {
    inquiries: Vec<InquiryView>,
    next_cursor: Option<String>,
}

/// The filters.
pub const QUERY: &[Field] = &[optional("handled", Kind::Flag, "Handled, or not."), LIMIT, CURSOR];

/// `GET inquiries`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let handled = call.query.flag("handled");
    let cursor = call.cursor()?.map(InquiryId::new);
    let limit = call.limit();
    let found = call.platform.store.read(move |snapshot| contact::list(snapshot, handled, cursor, limit + 1)).await?;
    let (found, next_cursor) = page(found, limit, |inquiry| inquiry.id.uuid());
    let inquiries = found.into_iter().map(InquiryView::new).collect();
    Ok(Answer::json(200, "Inquiries", &InquiryList { inquiries, next_cursor }))
}

/// `POST inquiries/{inquiryId}/handled`.
///
/// # Errors
/// A [`Problem`].
pub async fn handled(call: OperatorCall) -> Result<Answer, Problem> {
    let id: InquiryId = call.id("inquiryId")?;
    let act = call.act.clone();
    let inquiry = call.platform.store.write(move |tx| contact::handle(tx, &act, id)).await?;
    Ok(Answer::json(200, "Inquiry handled", &OneInquiry { inquiry: InquiryView::new(inquiry) }))
}

impl From<InquiryRefusal> for Problem {
    fn from(refusal: InquiryRefusal) -> Self {
        match refusal {
            InquiryRefusal::NotFound => Self::not_found(),
            InquiryRefusal::AlreadyDecided => Self::already_decided(),
        }
    }
}
