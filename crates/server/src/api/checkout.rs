//! `POST orders/checkout`: buys eSIMs against the balance.

use super::orders::{OrderView, settled, wait};
use crate::answer::Answer;
use crate::call::TenantCall;
use crate::catalogue::{Buyer, Edition};
use crate::fields::{Field, Kind, Values, optional, required};
use crate::json::{Amount, Id};
use crate::problem::{Code, FieldFault, Problem};
use domain::checkout::{CheckoutRefusal, MOST_ESIMS, MOST_LINES, MOST_PER_LINE};
use domain::id::PlanId;
use domain::money::Money;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use store::checkout::{Checkout, Placed, place_orders};
use store::order::{Order, Traveller};
use store::port::Failure;
use store::tenant;

const ITEM: Kind = Kind::Object(&[
    required("planId", Kind::Id, "The plan to buy."),
    required("quantity", Kind::Integer(1, MOST_PER_LINE as i64), "How many eSIMs of it."),
]);

/// The body of a checkout.
pub const BODY: &[Field] = &[
    required("items", Kind::List(&ITEM, 1, MOST_LINES), "The lines: one order each; at most 500 eSIMs in all."),
    optional("email", Kind::Email, "The traveller's e-mail address."),
    optional("customerName", Kind::Text(1, 200), "The traveller's name."),
    optional("phone", Kind::Phone, "The traveller's telephone number."),
    optional("reference", Kind::Text(1, 100), "Your own order number; searchable."),
    optional("maxTotal", Kind::Money, "Refuse when it would cost more."),
];

/// The query of a checkout.
pub const QUERY: &[Field] = &[optional(
    "wait",
    Kind::Integer(0, 30),
    "Seconds to wait until all orders are final. No part of the request's identity.",
)];

/// The sums of a checkout.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    total_amount: Amount,
    order_count: usize,
    refunded_amount: Amount,
    credit_balance: Amount,
    currency: &'static str,
}

/// `data` of a checkout.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckedOut<'a> {
    checkout_id: Id,
    orders: Vec<OrderView<'a>>,
    summary: Summary,
}

/// `POST orders/checkout`.
///
/// # Errors
/// A [`Problem`].
pub async fn post(call: TenantCall) -> Result<Answer, Problem> {
    let limit = wait(&call);
    let placed = place(&call, read(&call)?).await?;
    let answer = if limit.is_zero() {
        let refunded = Money::zero(placed.total.currency());
        render(&call, placed.checkout.uuid(), &placed.orders, placed.total, refunded, placed.credit_balance)?
    } else {
        let ids = placed.orders.iter().map(|order| order.id).collect();
        let (checkout, total, replayed) = (placed.checkout, placed.total, placed.replayed);
        // What was read for the answer at the commit is not kept while waiting.
        drop(placed);
        let orders = settled(&call.platform, ids, limit).await?;
        let scope = call.scope();
        let balance = call.platform.store.read(move |snapshot| snapshot.credit(scope.tenant, scope.mode)).await?;
        let balance = balance.ok_or_else(Problem::internal)?.head.balance;
        let mut refunded = Money::zero(total.currency());
        for order in &orders {
            refunded = refunded.plus(order.refunded).map_err(store::port::Fault::from)?;
        }
        let answer = render(&call, checkout.uuid(), &orders, total, refunded, balance)?;
        return Ok(answer.replayed(replayed));
    };
    Ok(answer.replayed(placed.replayed))
}

/// How often prices that live from offers are worked out for one checkout.
const MOST_QUOTES: u32 = 3;

/// Buys, at the prices of the moment of the commit: those that were worked out before it are looked at again in the
/// transaction, and worked out anew where they are not right any more.
async fn place(call: &TenantCall, mut checkout: Checkout) -> Result<Placed, Problem> {
    let platform = &call.platform;
    let mut buyer = Buyer::new(&call.access, platform.sandbox_in_live());
    let quotes = |edition: &Edition, buyer: &Buyer, items: &[(PlanId, u32)]| {
        edition.quotes(buyer, platform.clock.now(), items.iter().map(|(plan, _)| *plan))
    };
    // However old it is: most plans and terms have not changed since.
    checkout.quotes = platform.catalogue.latest().and_then(|edition| quotes(&edition, &buyer, &checkout.items));
    let mut checkout = Arc::new(checkout);
    let mut tries = 1;
    loop {
        let wish = Arc::clone(&checkout);
        let placed = platform.store.write_needing(checkout.needs(), move |tx| place_orders(tx, &wish)).await;
        match placed {
            Err(Failure::Refused(CheckoutRefusal::QuoteOutdated)) if tries < MOST_QUOTES => {}
            other => return Ok(other?),
        }
        tries += 1;
        platform.catalogue.changed();
        let edition = platform.catalogue.current(&platform.store, platform.clock.now()).await?;
        let tenant = buyer.tenant;
        let tenant = platform.store.read(move |snapshot| tenant::find(snapshot, tenant)).await?;
        buyer.tier = tenant.ok_or_else(Problem::internal)?.tier;
        let mut anew = Arc::unwrap_or_clone(checkout);
        anew.quotes = quotes(&edition, &buyer, &anew.items);
        checkout = Arc::new(anew);
    }
}

fn render(
    call: &TenantCall,
    checkout: uuid::Uuid,
    orders: &[Order],
    total: Money,
    refunded: Money,
    balance: Money,
) -> Result<Answer, Problem> {
    let data = CheckedOut {
        checkout_id: Id(checkout),
        orders: orders.iter().map(|order| OrderView::whole(&call.platform, order)).collect::<Result<_, _>>()?,
        summary: Summary {
            total_amount: Amount(total),
            order_count: orders.len(),
            refunded_amount: Amount(refunded),
            credit_balance: Amount(balance),
            currency: total.currency().code(),
        },
    };
    Ok(Answer::json(201, "Balance checkout completed", &data))
}

fn read(call: &TenantCall) -> Result<Checkout, Problem> {
    let body = &call.body;
    let line = |item: Values| {
        let plan = item.parse("planId")?;
        let quantity = u32::try_from(item.integer("quantity")?).ok()?;
        Some((plan, quantity))
    };
    let items: Vec<_> = body.objects("items").filter_map(line).collect();
    let esims: u32 = items.iter().map(|(_, quantity)| quantity).sum();
    if esims > MOST_ESIMS {
        return Err(Problem::field("items", "too_many", format!("ask for {esims} eSIMs; {MOST_ESIMS} are the most")));
    }
    Ok(Checkout {
        scope: call.scope(),
        items,
        max_total: body.money("maxTotal", call.access.currency),
        traveller: Traveller {
            email: body.string("email"),
            customer_name: body.string("customerName"),
            phone: body.string("phone"),
            reference: body.string("reference"),
        },
        key: call.idempotency()?,
        quotes: None,
        sandbox_in_live: call.platform.sandbox_in_live(),
    })
}

impl From<CheckoutRefusal> for Problem {
    fn from(refusal: CheckoutRefusal) -> Self {
        match refusal {
            CheckoutRefusal::NotAllowed(refusal) => refusal.into(),
            CheckoutRefusal::IdempotencyKeyReused => Self::key_reused(),
            CheckoutRefusal::QuoteOutdated => {
                Self::new(Code::Unavailable, "Prices are changing at this very moment. Try again.").after(1)
            }
            CheckoutRefusal::PlanUnavailable(lines) => {
                let fault = |line: &usize| FieldFault {
                    path: format!("items[{line}].planId"),
                    code: "plan_unavailable",
                    message: "is no plan on sale; read available-plans again".to_owned(),
                };
                Self::fields(&lines.iter().map(fault).collect::<Vec<_>>())
            }
            CheckoutRefusal::PriceChanged { total, max_total } => Self::new(
                Code::PriceChanged,
                format!("It costs {total} {}, more than your maxTotal. Nothing was charged.", total.currency()),
            )
            .with(json!({
                "total": Amount(total), "maxTotal": Amount(max_total), "currency": total.currency().code()
            })),
            CheckoutRefusal::InsufficientBalance { required, credit_balance } => Self::new(
                Code::InsufficientBalance,
                format!(
                    "It costs {required} {}, and the balance is {credit_balance}. Top up first.",
                    required.currency()
                ),
            )
            .with(json!({
                "required": Amount(required),
                "creditBalance": Amount(credit_balance),
                "currency": required.currency().code()
            })),
        }
    }
}
