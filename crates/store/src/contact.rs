//! Inquiries from the public contact form; the operator reads them here, mail or no mail.

use crate::audit::{self, Act};
use crate::port::{Decision, Fault, Row, Snapshot, Tx, collect, refuse, row};
use domain::contact::InquiryType;
use domain::id::InquiryId;
use domain::time::Timestamp;
use std::convert::Infallible;

/// What somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The writer.
    pub full_name: String,
    /// Where to answer.
    pub email: String,
    /// The company.
    pub company_name: Option<String>,
    /// Telephone number.
    pub phone: Option<String>,
    /// What it is about.
    pub inquiry_type: InquiryType,
    /// The text.
    pub message: String,
}

/// A message the operator has, or has handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// Its id; its time, too.
    pub id: InquiryId,
    /// What was written.
    pub message: Message,
    /// When it was handled.
    pub handled_at: Option<Timestamp>,
}

/// Keeps a message.
///
/// # Errors
/// [`Fault`].
pub fn inquire(tx: &mut dyn Tx, message: &Message) -> Decision<InquiryId, Infallible> {
    let id = InquiryId::new(tx.fresh_id());
    tx.change(
        "insert into inquiries (id, full_name, email, company_name, phone, inquiry_type, message)
         values ($1, $2, $3, $4, $5, $6, $7)",
        &[
            id.as_bytes().into(),
            (&message.full_name).into(),
            (&message.email).into(),
            message.company_name.as_ref().into(),
            message.phone.as_ref().into(),
            message.inquiry_type.word().into(),
            (&message.message).into(),
        ],
    )?;
    Ok(id)
}

/// Why an inquiry cannot be marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InquiryRefusal {
    /// There is no such inquiry.
    NotFound,
    /// It was handled before.
    AlreadyDecided,
}

/// Marks an inquiry as handled.
///
/// # Errors
/// [`InquiryRefusal`].
pub fn handle(tx: &mut dyn Tx, act: &Act, id: InquiryId) -> Decision<Inquiry, InquiryRefusal> {
    let Some(inquiry) = find(tx, id)? else { return refuse(InquiryRefusal::NotFound) };
    if inquiry.handled_at.is_some() {
        return refuse(InquiryRefusal::AlreadyDecided);
    }
    let now = tx.now();
    tx.change(
        "update inquiries set handled_at = $1 where id = $2 and handled_at is null",
        &[now.into(), id.as_bytes().into()],
    )?;
    audit::write(tx, act, "inquiry.handled", &id.to_string(), "", None)?;
    Ok(Inquiry { handled_at: Some(now), ..inquiry })
}

const INQUIRY: &str = "id, full_name, email, company_name, phone, inquiry_type, message, handled_at from inquiries";

fn inquiry(row: &dyn Row) -> Result<Inquiry, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(Inquiry {
        id: InquiryId::from_slice(row.bytes(0)?)?,
        message: Message {
            full_name: row.text(1)?.to_owned(),
            email: row.text(2)?.to_owned(),
            company_name: text(3)?,
            phone: text(4)?,
            inquiry_type: row.text(5)?.parse()?,
            message: row.text(6)?.to_owned(),
        },
        handled_at: row.opt_int(7)?.map(Timestamp::from_millis),
    })
}

fn find(snapshot: &mut dyn Snapshot, id: InquiryId) -> Result<Option<Inquiry>, Fault> {
    row(snapshot, &format!("select {INQUIRY} where id = $1"), &[id.as_bytes().into()], inquiry)
}

/// Inquiries below `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    handled: Option<bool>,
    cursor: Option<InquiryId>,
    limit: u32,
) -> Result<Vec<Inquiry>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, InquiryId::uuid);
    let sql = format!(
        "select {INQUIRY} where id < $1 and ((handled_at is not null) = ($2 = 1) or $2 is null)
         order by id desc limit $3"
    );
    collect(snapshot, &sql, &[below.as_bytes().into(), handled.into(), limit.into()], inquiry)
}
