//! Tenants: search, suspend, correct the balance, lend.

use super::{CURSOR, LIMIT, REASON, page};
use crate::answer::Answer;
use crate::api::balance::TransactionView;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Amount, Id, Time};
use crate::problem::{Code, Problem};
use domain::id::TenantId;
use domain::tenant::{Mode, TenantStatus, Tier};
use schemars::JsonSchema;
use serde::Serialize;
use store::tenant::{self, Tenant, TenantRefusal};

/// A tenant as the operator sees it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperatorTenant")]
pub struct TenantView {
    id: Id,
    number: i64,
    name: String,
    subdomain: String,
    contact_email: String,
    status: &'static str,
    currency: &'static str,
    /// The group whose prices it buys at.
    tier: Option<String>,
    credit_balance: Amount,
    credit_limit: Amount,
    test_credit_balance: Amount,
    created_at: Time,
}

/// `data` with a tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OperatorOneTenant")]
pub struct OneTenant {
    tenant: TenantView,
}

/// `data` of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantList {
    tenants: Vec<TenantView>,
    next_cursor: Option<String>,
}

async fn view(call: &OperatorCall, tenant: Tenant) -> Result<TenantView, Problem> {
    let id = tenant.id;
    let (live, test) = call
        .platform
        .store
        .read(move |snapshot| Ok((snapshot.credit(id, Mode::Live)?, snapshot.credit(id, Mode::Test)?)))
        .await?;
    let (live, test) = (live.ok_or_else(Problem::internal)?, test.ok_or_else(Problem::internal)?);
    Ok(TenantView {
        id: Id(tenant.id.uuid()),
        number: tenant.number,
        status: tenant.status.word(),
        currency: tenant.currency.code(),
        tier: tenant.tier.map(|tier| tier.to_string()),
        credit_balance: Amount(live.head.balance),
        credit_limit: Amount(live.limit),
        test_credit_balance: Amount(test.head.balance),
        created_at: Time(tenant.id.created_at()),
        name: tenant.name,
        subdomain: tenant.subdomain,
        contact_email: tenant.contact_email,
    })
}

fn statuses() -> Vec<&'static str> {
    TenantStatus::ALL.iter().map(|status| status.word()).collect()
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("status", Kind::Word(statuses), "Exactly this status."),
    optional("q", Kind::Text(1, 100), "Part of name, subdomain or address."),
    LIMIT,
    CURSOR,
];

/// `GET tenants`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let (status, query, limit) = (call.query.parse("status"), call.query.string("q"), call.limit());
    let cursor = call.cursor()?.map(TenantId::new);
    let found = call
        .platform
        .store
        .scan(move |snapshot| tenant::list(snapshot, status, query.as_deref(), cursor, limit + 1))
        .await?;
    let (found, next_cursor) = page(found, limit, |tenant| tenant.id.uuid());
    let mut tenants = Vec::with_capacity(found.len());
    for tenant in found {
        tenants.push(view(&call, tenant).await?);
    }
    Ok(Answer::json(200, "Tenants", &TenantList { tenants, next_cursor }))
}

async fn one(call: &OperatorCall, message: &str, tenant: Tenant) -> Result<Answer, Problem> {
    Ok(Answer::json(200, message, &OneTenant { tenant: view(call, tenant).await? }))
}

/// `GET tenants/{tenantId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TenantId = call.id("tenantId")?;
    let tenant = call.platform.store.read(move |snapshot| tenant::find(snapshot, id)).await?;
    one(&call, "Tenant", tenant.ok_or_else(Problem::not_found)?).await
}

/// The body of a decision.
pub const REASON_BODY: &[Field] = &[REASON];

async fn set_status(call: OperatorCall, status: TenantStatus) -> Result<Answer, Problem> {
    let id: TenantId = call.id("tenantId")?;
    let (act, reason) = (call.act.clone(), call.body.required_text("reason"));
    let tenant = call.platform.store.write(move |tx| tenant::set_status(tx, &act, id, status, &reason)).await?;
    one(&call, "Tenant changed", tenant).await
}

/// `POST tenants/{tenantId}/suspend`.
///
/// # Errors
/// A [`Problem`].
pub async fn suspend(call: OperatorCall) -> Result<Answer, Problem> {
    set_status(call, TenantStatus::Suspended).await
}

/// `POST tenants/{tenantId}/reinstate`: a suspended tenant, or one that waits for approval.
///
/// # Errors
/// A [`Problem`].
pub async fn reinstate(call: OperatorCall) -> Result<Answer, Problem> {
    set_status(call, TenantStatus::Active).await
}

fn modes() -> Vec<&'static str> {
    Mode::ALL.iter().map(|mode| mode.word()).collect()
}

/// The body of a correction.
pub const ADJUST_BODY: &[Field] = &[
    required("amount", Kind::SignedMoney, "What to add; negative takes away."),
    REASON,
    optional("mode", Kind::Word(modes), "live (by default) or test."),
];

/// `data` with a transaction.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneTransaction {
    transaction: TransactionView,
}

/// `POST tenants/{tenantId}/adjustments`.
///
/// # Errors
/// A [`Problem`].
pub async fn adjust(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TenantId = call.id("tenantId")?;
    let mode = call.body.parse("mode").unwrap_or(Mode::Live);
    let currency = currency_of(&call, id).await?;
    let amount = call
        .body
        .money("amount", currency)
        .ok_or_else(|| Problem::field("amount", "too_many_decimals", format!("is no amount of {currency}")))?;
    let (act, reason, key) = (call.act.clone(), call.body.required_text("reason"), call.idempotency()?);
    let (transaction, replayed) =
        call.platform.store.write(move |tx| tenant::adjust(tx, &act, id, mode, amount, &reason, key)).await?;
    let data = OneTransaction { transaction: TransactionView::new(transaction) };
    Ok(Answer::json(201, "Balance adjusted", &data).replayed(replayed))
}

async fn currency_of(call: &OperatorCall, id: TenantId) -> Result<domain::money::Currency, Problem> {
    let tenant = call.platform.store.read(move |snapshot| tenant::find(snapshot, id)).await?;
    Ok(tenant.ok_or_else(Problem::not_found)?.currency)
}

/// The body of a tier.
pub const TIER_BODY: &[Field] = &[optional(
    "tier",
    Kind::Text(1, 40),
    "Lower-case letters, digits, inner hyphens; left out, the tenant is in no tier.",
)];

/// `PUT tenants/{tenantId}/tier`: from then on it buys at the prices of that tier's rules.
///
/// # Errors
/// A [`Problem`].
pub async fn set_tier(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TenantId = call.id("tenantId")?;
    let tier = tier(&call)?;
    let act = call.act.clone();
    let tenant = call.platform.store.write(move |tx| tenant::set_tier(tx, &act, id, tier)).await?;
    one(&call, "Tier set", tenant).await
}

/// The tier in a body, where there is one.
///
/// # Errors
/// 422 for what is no name of a tier.
pub(super) fn tier(call: &OperatorCall) -> Result<Option<Tier>, Problem> {
    let malformed =
        |_| Problem::field("tier", "malformed", "must be 1 to 40 lower-case letters, digits and inner hyphens");
    call.body.text("tier").map(str::parse).transpose().map_err(malformed)
}

/// The body of a credit limit.
pub const CREDIT_LIMIT_BODY: &[Field] =
    &[required("amount", Kind::Money, "How far below zero the live balance may go.")];

/// `PUT tenants/{tenantId}/credit-limit`.
///
/// # Errors
/// A [`Problem`].
pub async fn set_credit_limit(call: OperatorCall) -> Result<Answer, Problem> {
    let id: TenantId = call.id("tenantId")?;
    let currency = currency_of(&call, id).await?;
    let limit = call
        .body
        .money("amount", currency)
        .ok_or_else(|| Problem::field("amount", "too_many_decimals", format!("is no amount of {currency}")))?;
    let act = call.act.clone();
    let tenant = call.platform.store.write(move |tx| tenant::set_credit_limit(tx, &act, id, limit)).await?;
    one(&call, "Credit limit set", tenant).await
}

impl From<TenantRefusal> for Problem {
    fn from(refusal: TenantRefusal) -> Self {
        match refusal {
            TenantRefusal::NotFound => Self::not_found(),
            TenantRefusal::AlreadyDecided => Self::already_decided(),
            TenantRefusal::IdempotencyKeyReused => Self::key_reused(),
            TenantRefusal::TooLarge => {
                Self::new(Code::BalanceOutOfRange, "The balance would become larger than the platform handles.")
            }
        }
    }
}
