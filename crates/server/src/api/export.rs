//! `orders/export`: all orders as CSV (RFC 4180), one row per eSIM, read in short portions while the
//! client takes them. No cell can be run as a formula by a spreadsheet.

use super::orders::filter;
use crate::answer::Answer;
use crate::call::TenantCall;
use crate::problem::Problem;
use bytes::Bytes;
use domain::id::OrderId;
use domain::order::OrderFilter;
use hyper::header::HeaderValue;
use std::fmt::Write;
use std::sync::Arc;
use store::order::{self, Order};
use tokio::sync::mpsc;

/// The columns, in this order for ever.
pub const COLUMNS: &str = "order_id,order_number,checkout_id,created_at,status,plan_id,plan_name,quantity,unit_price,\
     total_amount,refunded_amount,currency,email,customer_name,phone,reference,esim_id,iccid,esim_status,\
     smdp_address,matching_id,activation_code,delivered_at";

/// Orders of one read.
const PORTION: usize = 200;

/// Writes a text cell: quoted where it must be (also where a spreadsheet of another language would split
/// it), and with a leading `'` where a spreadsheet would take it
/// for a formula: behind `= + - @`, TAB, CR, LF and their full-width forms.
fn text_cell(row: &mut String, text: &str) {
    let formula =
        |letter: char| matches!(letter, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠');
    let guard = if text.starts_with(formula) { "'" } else { "" };
    if text.contains([',', ';', '\t', '"', '\r', '\n']) || text.starts_with(' ') || text.ends_with(' ') {
        let _ = write!(row, "\"{guard}{}\"", text.replace('"', "\"\""));
    } else {
        row.push_str(guard);
        row.push_str(text);
    }
}

/// Writes the rows of an order.
fn rows(order: &Order, csv: &mut String) -> Result<(), Problem> {
    let mut head = String::new();
    let total = order.total()?;
    let _ = write!(head, "{},", order.id);
    text_cell(&mut head, &order.number);
    let _ = write!(head, ",{},{},{},{},", order.checkout, order.id.created_at(), order.status, order.plan);
    text_cell(&mut head, &order.plan_name);
    let currency = order.unit_price.currency();
    let _ = write!(head, ",{},{},{total},{},{currency}", order.quantity, order.unit_price, order.refunded);
    let traveller = &order.traveller;
    for text in [&traveller.email, &traveller.customer_name, &traveller.phone, &traveller.reference] {
        head.push(',');
        text_cell(&mut head, text.as_deref().unwrap_or(""));
    }
    for esim in &order.esims {
        csv.push_str(&head);
        let _ = write!(csv, ",{},", esim.id);
        text_cell(csv, esim.iccid.as_deref().unwrap_or(""));
        let _ = write!(csv, ",{}", esim.status());
        for text in [&esim.smdp_address, &esim.matching_id, &esim.activation_code] {
            csv.push(',');
            text_cell(csv, text.as_deref().unwrap_or(""));
        }
        csv.push(',');
        if let Some(delivered_at) = esim.delivered_at {
            let _ = write!(csv, "{delivered_at}");
        }
        csv.push_str("\r\n");
    }
    Ok(())
}

/// `GET orders/export`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: TenantCall) -> Result<Answer, Problem> {
    // Two portions under way: one with the client, one being read.
    let (to_client, content) = mpsc::channel(1);
    let filter = filter(&call.query);
    tokio::spawn(async move {
        if let Err(problem) = send(&call, filter, &to_client).await {
            tracing::warn!(code = problem.code.code(), "an export ended early");
        }
    });
    let csv = HeaderValue::from_static("text/csv; charset=utf-8");
    Ok(Answer::stream(csv, content).with_header("content-disposition", "attachment; filename=\"orders.csv\""))
}

async fn send(call: &TenantCall, filter: OrderFilter, to_client: &mpsc::Sender<Bytes>) -> Result<(), Problem> {
    let scope = call.scope();
    let filter = Arc::new(filter);
    if to_client.send(Bytes::from(format!("{COLUMNS}\r\n"))).await.is_err() {
        return Ok(());
    }
    let mut cursor: Option<OrderId> = None;
    loop {
        let filter = Arc::clone(&filter);
        let page = call
            .platform
            .store
            .scan(move |snapshot| order::list(snapshot, scope.tenant, scope.mode, &filter, cursor, PORTION))
            .await?;
        let mut csv = String::new();
        for order in &page.orders {
            rows(order, &mut csv)?;
        }
        // The client has left, or was dropped because it does not read.
        if !csv.is_empty() && to_client.send(csv.into()).await.is_err() {
            return Ok(());
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        let cell = |text: &str| {
            let mut row = String::new();
            text_cell(&mut row, text);
            row
        };
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1", "＋1", "－1", "＠x"] {
            let written = cell(text);
            let read = written.trim_matches('"');
            assert!(read.starts_with('\''), "{text:?} -> {written:?}");
        }
        assert_eq!(cell("\r=1"), "\"'\r=1\"");
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell(" =1"), "\" =1\"");
        assert_eq!(cell("say \"hi\", please"), "\"say \"\"hi\"\", please\"");
    }
}
