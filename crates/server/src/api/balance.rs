//! `balance` and `transactions`: the credit and what moved it.

use crate::answer::Answer;
use crate::call::{TenantCall, cursor_text};
use crate::fields::{Field, Kind, optional};
use crate::json::{Amount, Id, Time};
use crate::problem::Problem;
use domain::id::EntryId;
use domain::ledger::EntryKind;
use schemars::JsonSchema;
use serde::Serialize;
use store::ledger::{self, Transaction, TransactionFilter};

/// `data` of the balance.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Balance")]
pub struct BalanceView {
    credit_balance: Amount,
    /// How far below zero the balance may go.
    credit_limit: Amount,
    currency: &'static str,
}

/// `GET balance`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let balance = call.platform.store.read(move |snapshot| snapshot.credit(scope.tenant, scope.mode)).await?;
    let credit = balance.ok_or_else(Problem::internal)?;
    let data = BalanceView {
        credit_balance: Amount(credit.head.balance),
        credit_limit: Amount(credit.limit),
        currency: credit.head.balance.currency().code(),
    };
    Ok(Answer::json(200, "Balance", &data))
}

/// A transaction as partners see it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Transaction")]
pub struct TransactionView {
    id: Id,
    /// top_up, purchase, refund, adjustment, top_up_refund or top_up_reversal.
    r#type: &'static str,
    /// Signed: what was added to the balance.
    amount: Amount,
    balance_after: Amount,
    currency: &'static str,
    order_id: Option<Id>,
    top_up_id: Option<Id>,
    description: String,
    created_at: Time,
}

impl TransactionView {
    /// The view of a transaction.
    #[must_use]
    pub fn new(transaction: Transaction) -> Self {
        let Transaction { entry, note } = transaction;
        let description = note.unwrap_or_else(|| {
            match entry.movement.kind {
                EntryKind::TopUp => "Top-up",
                EntryKind::Purchase => "Order paid",
                EntryKind::Refund => "Refund",
                EntryKind::Adjustment => "Adjustment",
                EntryKind::TopUpRefund => "Top-up given back",
                EntryKind::TopUpReversal => "Top-up reversed by the payer's bank",
                EntryKind::Sale => "Order delivered",
            }
            .to_owned()
        });
        Self {
            id: Id(entry.id.uuid()),
            r#type: entry.movement.kind.word(),
            amount: Amount(entry.movement.credit_change()),
            balance_after: Amount(entry.balance_after),
            currency: entry.balance_after.currency().code(),
            order_id: entry.movement.order.map(|order| Id(order.uuid())),
            top_up_id: entry.movement.top_up.map(|top_up| Id(top_up.uuid())),
            description,
            created_at: Time(entry.id.created_at()),
        }
    }
}

/// `data` of the transactions.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionList {
    transactions: Vec<TransactionView>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn types() -> Vec<&'static str> {
    EntryKind::ALL.iter().filter(|kind| **kind != EntryKind::Sale).map(|kind| kind.word()).collect()
}

/// The filters.
pub const QUERY: &[Field] = &[
    optional("type", Kind::Word(types), "Only this type."),
    optional("from", Kind::Time, "Made at or after."),
    optional("to", Kind::Time, "Made before."),
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
];

/// `GET transactions`.
///
/// # Errors
/// A [`Problem`].
pub async fn transactions(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let filter = TransactionFilter {
        kind: call.query.parse("type"),
        from: call.query.parse("from"),
        to: call.query.parse("to"),
    };
    let cursor = call.cursor()?.map(EntryId::new);
    let limit = usize::try_from(call.limit()).unwrap_or(100);
    let (found, next) = call
        .platform
        .store
        .scan(move |snapshot| ledger::transactions(snapshot, scope.tenant, scope.mode, &filter, cursor, limit))
        .await?;
    let data = TransactionList {
        transactions: found.into_iter().map(TransactionView::new).collect(),
        next_cursor: next.map(|next| cursor_text(next.uuid())),
    };
    Ok(Answer::json(200, "Transactions", &data))
}
