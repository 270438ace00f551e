//! `top-up`: how a partner's money becomes credit.

use crate::answer::Answer;
use crate::call::{TenantCall, cursor_text};
use crate::config::BankDetails;
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Amount, Id, Time};
use crate::platform::Platform;
use crate::problem::{Code, FieldFault, Problem};
use domain::id::TopUpId;
use domain::money::Money;
use domain::top_up::{PaymentMethod, TopUpStatus};
use schemars::JsonSchema;
use serde::Serialize;
use store::top_up::{self, NewTopUp, TopUp, TopUpRefusal};

/// Where the money goes, and what to write on the transfer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BankTransfer<'a> {
    account_holder: &'a str,
    bank_name: &'a str,
    bank_address: &'a str,
    iban: &'a str,
    account_number: &'a str,
    bic: &'a str,
    routing_code: &'a str,
    /// Write exactly this on the transfer (ISO 11649).
    reference: Option<&'a str>,
}

/// A top-up as it is answered when it begins.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BegunTopUp<'a> {
    order_id: Id,
    /// pending, under_review, paid, rejected, expired, partially_refunded, refunded or disputed.
    status: &'static str,
    amount: Amount,
    currency: &'static str,
    /// stripe or bank_transfer.
    payment_method: &'static str,
    /// Where to pay by card.
    checkout_url: Option<&'a str>,
    bank_transfer: Option<BankTransfer<'a>>,
    expires_at: Time,
}

impl<'a> BegunTopUp<'a> {
    fn new(top_up: &'a TopUp, status: TopUpStatus, bank: Option<&'a BankDetails>) -> Self {
        let bank_transfer = bank.filter(|_| top_up.payment_method == PaymentMethod::BankTransfer);
        Self {
            order_id: Id(top_up.id.uuid()),
            status: status.word(),
            amount: Amount(top_up.amount),
            currency: top_up.amount.currency().code(),
            payment_method: top_up.payment_method.word(),
            checkout_url: None,
            bank_transfer: bank_transfer.map(|bank| BankTransfer {
                account_holder: &bank.account_holder,
                bank_name: &bank.bank_name,
                bank_address: &bank.bank_address,
                iban: &bank.iban,
                account_number: &bank.account_number,
                bic: &bank.bic,
                routing_code: &bank.routing_code,
                reference: top_up.reference.as_deref(),
            }),
            expires_at: Time(top_up.expires_at),
        }
    }
}

/// A top-up with all that became of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TopUp")]
pub struct TopUpView<'a> {
    #[serde(flatten)]
    begun: BegunTopUp<'a>,
    transfer_proof_url: Option<&'a str>,
    rejection_reason: Option<&'a str>,
    /// What was credited; may differ from the amount when the bank transfer did.
    credited_amount: Option<Amount>,
    created_at: Time,
    paid_at: Option<Time>,
}

impl<'a> TopUpView<'a> {
    /// The view of a top-up.
    #[must_use]
    pub fn new(platform: &'a Platform, top_up: &'a TopUp) -> Self {
        Self {
            begun: BegunTopUp::new(top_up, top_up.status_at(platform.clock.now()), platform.config.bank_details()),
            transfer_proof_url: top_up.transfer_proof_url.as_deref(),
            rejection_reason: top_up.rejection_reason.as_deref(),
            credited_amount: top_up.credited.map(Amount),
            created_at: Time(top_up.id.created_at()),
            paid_at: top_up.paid_at.map(Time),
        }
    }
}

/// `data` with a top-up.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OneTopUp<'a> {
    top_up: TopUpView<'a>,
}

/// `data` of a list of top-ups.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopUpList<'a> {
    top_ups: Vec<TopUpView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn methods() -> Vec<&'static str> {
    PaymentMethod::ALL.iter().map(|method| method.word()).collect()
}

/// The statuses, for filters.
#[must_use]
pub fn statuses() -> Vec<&'static str> {
    TopUpStatus::ALL.iter().map(|status| status.word()).collect()
}

/// The body of a new top-up.
pub const BODY: &[Field] = &[
    required("amount", Kind::PositiveMoney, "How much to pay in."),
    required("paymentMethod", Kind::Word(methods), "stripe or bank_transfer."),
    optional("successUrl", Kind::Text(1, 2_048), "Where the payer goes afterwards; needed for stripe."),
    optional("cancelUrl", Kind::Text(1, 2_048), "Where the payer goes without paying; needed for stripe."),
];

/// `POST top-up`.
///
/// # Errors
/// A [`Problem`].
pub async fn begin(call: TenantCall) -> Result<Answer, Problem> {
    let platform = &call.platform;
    let amount = call.body.money("amount", call.access.currency).ok_or_else(Problem::internal)?;
    let method: PaymentMethod = call.body.parse("paymentMethod").ok_or_else(Problem::internal)?;
    let mut faults = Vec::new();
    let bound = |text: &str| Money::parse(text, amount.currency()).map_err(store::port::Fault::from);
    let (least, most) = (bound(&platform.config.top_up.min)?, bound(&platform.config.top_up.max)?);
    if amount.minor() < least.minor() || amount.minor() > most.minor() {
        faults.push(FieldFault {
            path: "amount".to_owned(),
            code: "out_of_range",
            message: format!("must be {least} to {most} {}", amount.currency()),
        });
    }
    if method == PaymentMethod::Stripe {
        let url = Kind::Url { loopback_http: true };
        let fields = [required("successUrl", url, ""), required("cancelUrl", url, "")];
        let urls = ["successUrl", "cancelUrl"].map(|name| (name.to_owned(), call.body.string(name).into()));
        let urls = serde_json::Value::Object(urls.into_iter().collect());
        faults.extend(crate::fields::check(&fields, urls, call.access.currency).err().unwrap_or_default());
    }
    if !faults.is_empty() {
        return Err(Problem::fields(&faults));
    }
    let bank = platform.config.bank_details().filter(|_| method == PaymentMethod::BankTransfer);
    if bank.is_none() {
        let message = format!("Paying by {method} is not set up here. Choose another way, or contact us.");
        return Err(Problem::new(Code::PaymentMethodUnavailable, message));
    }
    let new = NewTopUp {
        scope: call.scope(),
        amount,
        expires_in_ms: i64::from(platform.config.top_up.expires_days) * 86_400_000,
        key: call.idempotency()?,
    };
    let (top_up, replayed) = platform.store.write(move |tx| top_up::begin(tx, &new)).await?;
    let answer = Answer::json(201, "Top-up begun", &BegunTopUp::new(&top_up, top_up.status, bank));
    Ok(answer.replayed(replayed))
}

/// The filters of the list.
pub const LIST_QUERY: &[Field] = &[
    optional("status", Kind::Word(statuses), "Exactly this status."),
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
];

/// `GET top-up`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let status = call.query.parse("status");
    let (cursor, now) = (call.cursor()?.map(TopUpId::new), call.platform.clock.now());
    let limit = call.limit();
    let found = call
        .platform
        .store
        .read(move |snapshot| top_up::list(snapshot, now, scope.tenant, scope.mode, status, cursor, limit + 1))
        .await?;
    Ok(list_answer(&call.platform, &found, limit))
}

/// The answer of a list that holds one entry more than the page when there is a next page.
#[must_use]
pub fn list_answer(platform: &Platform, found: &[TopUp], limit: u32) -> Answer {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = found.get(..limit.min(found.len())).unwrap_or(found);
    let next = page.last().filter(|_| found.len() > limit).map(|top_up| cursor_text(top_up.id.uuid()));
    let top_ups = page.iter().map(|top_up| TopUpView::new(platform, top_up)).collect();
    Answer::json(200, "Top-ups", &TopUpList { top_ups, next_cursor: next })
}

/// `GET top-up/{orderId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let id: TopUpId = call.id("orderId")?;
    let found =
        call.platform.store.read(move |snapshot| top_up::of_tenant(snapshot, scope.tenant, scope.mode, id)).await?;
    Ok(one(&call.platform, "Top-up", &found.ok_or_else(Problem::not_found)?))
}

/// The answer of one top-up.
#[must_use]
pub fn one(platform: &Platform, message: &str, top_up: &TopUp) -> Answer {
    Answer::json(200, message, &OneTopUp { top_up: TopUpView::new(platform, top_up) })
}

/// The body of a proof.
pub const PROOF_BODY: &[Field] = &[required(
    "transferProofUrl",
    Kind::Url { loopback_http: false },
    "Where the operator can see the proof. The platform never fetches it.",
)];

/// `POST top-up/{orderId}/proof`.
///
/// # Errors
/// A [`Problem`].
pub async fn prove(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let id: TopUpId = call.id("orderId")?;
    let url = call.body.required_text("transferProofUrl");
    let top_up = call.platform.store.write(move |tx| top_up::prove(tx, scope, id, &url)).await?;
    Ok(one(&call.platform, "Proof received", &top_up))
}

impl From<TopUpRefusal> for Problem {
    fn from(refusal: TopUpRefusal) -> Self {
        match refusal {
            TopUpRefusal::NotFound => Self::not_found(),
            TopUpRefusal::NotAllowed(refusal) => refusal.into(),
            TopUpRefusal::IdempotencyKeyReused => Self::key_reused(),
            TopUpRefusal::NotABankTransfer => {
                Self::new(Code::NotABankTransfer, "Only a bank transfer takes a proof of payment.")
            }
            TopUpRefusal::AlreadyDecided => Self::already_decided(),
            TopUpRefusal::TooLarge => {
                Self::new(Code::BalanceOutOfRange, "The balance would become larger than the platform handles.")
            }
        }
    }
}
