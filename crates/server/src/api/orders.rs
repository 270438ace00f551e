//! `orders`: the list, one order, and cancelling.

use crate::answer::Answer;
use crate::call::{Call, TenantCall, cursor_text};
use crate::fields::{Field, Kind, Values, optional};
use crate::json::{Amount, Id, Time};
use crate::platform::Platform;
use crate::problem::{Code, FieldFault, Problem};
use domain::esim::{EsimState, android_install_url, apple_install_url};
use domain::id::{EsimId, OrderId};
use domain::order::{OrderFilter, OrderStatus};
use domain::tenant::Scope;
use schemars::JsonSchema;
use serde::Serialize;
use std::time::Duration;
use store::esim::Esim;
use store::fulfilment::{self, CancelRefusal, is_settled};
use store::order::{self, Order, TimelineEvent};

/// An eSIM as partners see it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Esim")]
pub struct EsimView<'a> {
    id: Id,
    iccid: Option<&'a str>,
    /// A summary: pending, delivered, installed, active, depleted, expired, cancelling, cancelled or failed.
    status: &'static str,
    /// Where the profile is on the SM-DP+: released, downloaded, installed, enabled, disabled or deleted.
    profile_status: Option<&'static str>,
    /// Where the plan is: not_active, queued, active, depleted or expired.
    plan_status: Option<&'static str>,
    smdp_address: Option<&'a str>,
    matching_id: Option<&'a str>,
    /// The text inside the QR code.
    activation_code: Option<&'a str>,
    confirmation_code: Option<&'a str>,
    /// The QR code as PNG; with ?format=svg as SVG. Needs no login.
    qr_code_url: Option<String>,
    /// A page for the traveller's phone. Needs no login.
    install_url: Option<String>,
    apple_install_url: Option<String>,
    android_install_url: Option<String>,
    apn: Option<&'a str>,
    msisdn: Option<&'a str>,
    pin: Option<&'a str>,
    puk: Option<&'a str>,
    install_by: Option<Time>,
    delivered_at: Option<Time>,
    /// Why the upstream did not take it back, after a cancellation that failed.
    cancel_failure: Option<&'a str>,
}

impl<'a> EsimView<'a> {
    /// The view of an eSIM.
    #[must_use]
    pub fn new(platform: &Platform, esim: &'a Esim) -> Self {
        let delivered = esim.delivered_at.is_some();
        let page = (delivered && esim.state != EsimState::Cancelled)
            .then(|| format!("{}/e/{}", platform.base_url, platform.with_keyring(|keys| keys.link_token(esim.id))));
        let code = esim.activation_code.as_deref();
        Self {
            id: Id(esim.id.uuid()),
            iccid: esim.iccid.as_deref(),
            status: esim.status().word(),
            profile_status: esim.profile_status.map(|status| status.word()),
            plan_status: esim.plan_status.map(|status| status.word()),
            smdp_address: esim.smdp_address.as_deref(),
            matching_id: esim.matching_id.as_deref(),
            activation_code: code,
            confirmation_code: esim.confirmation_code.as_deref(),
            qr_code_url: page.as_ref().map(|page| format!("{page}/qr")),
            install_url: page,
            apple_install_url: code.map(apple_install_url),
            android_install_url: code.map(android_install_url),
            apn: esim.apn.as_deref(),
            msisdn: esim.msisdn.as_deref(),
            pin: esim.pin.as_deref(),
            puk: esim.puk.as_deref(),
            install_by: esim.install_by.map(Time),
            delivered_at: esim.delivered_at.map(Time),
            cancel_failure: esim.cancel_failure.as_deref(),
        }
    }
}

/// Something that happened to an order.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TimelineEvent")]
pub struct EventView<'a> {
    at: Time,
    event: &'a str,
    detail: Option<&'a str>,
}

/// An order as partners see it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Order")]
pub struct OrderView<'a> {
    id: Id,
    checkout_id: Id,
    order_number: &'a str,
    /// live or test.
    mode: &'static str,
    /// processing, completed, partially_completed, failed or cancelled.
    status: &'static str,
    plan_id: Id,
    plan_name: &'a str,
    quantity: u32,
    unit_price: Amount,
    total_amount: Amount,
    refunded_amount: Amount,
    currency: &'static str,
    email: Option<&'a str>,
    customer_name: Option<&'a str>,
    phone: Option<&'a str>,
    /// The partner's own order number.
    reference: Option<&'a str>,
    created_at: Time,
    completed_at: Option<Time>,
    failure_reason: Option<&'a str>,
    esims: Vec<EsimView<'a>>,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Vec<EventView<'a>>>,
}

impl<'a> OrderView<'a> {
    /// The view of a list's row.
    ///
    /// # Errors
    /// A [`Problem`] for an order that cannot be.
    pub fn row(platform: &Platform, order: &'a Order) -> Result<Self, Problem> {
        Ok(Self {
            id: Id(order.id.uuid()),
            checkout_id: Id(order.checkout.uuid()),
            order_number: &order.number,
            mode: order.mode.word(),
            status: order.status.word(),
            plan_id: Id(order.plan.uuid()),
            plan_name: &order.plan_name,
            quantity: order.quantity,
            unit_price: Amount(order.unit_price),
            total_amount: Amount(order.total()?),
            refunded_amount: Amount(order.refunded),
            currency: order.unit_price.currency().code(),
            email: order.traveller.email.as_deref(),
            customer_name: order.traveller.customer_name.as_deref(),
            phone: order.traveller.phone.as_deref(),
            reference: order.traveller.reference.as_deref(),
            created_at: Time(order.id.created_at()),
            completed_at: order.completed_at.map(Time),
            failure_reason: order.failure_reason.as_deref(),
            esims: order.esims.iter().map(|esim| EsimView::new(platform, esim)).collect(),
            timeline: None,
        })
    }

    /// The view of one order, with its timeline.
    ///
    /// # Errors
    /// A [`Problem`] for an order that cannot be.
    pub fn whole(platform: &Platform, order: &'a Order) -> Result<Self, Problem> {
        let created = EventView { at: Time(order.id.created_at()), event: "created", detail: None };
        let event = |event: &'a TimelineEvent| EventView {
            at: Time(domain::time::Timestamp::from_millis(event.at)),
            event: &event.event,
            detail: event.detail.as_deref(),
        };
        let timeline = std::iter::once(created).chain(order.timeline.iter().map(event)).collect();
        Ok(Self { timeline: Some(timeline), ..Self::row(platform, order)? })
    }
}

/// `data` of one order.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneOrder<'a> {
    order: OrderView<'a>,
}

/// `data` of a list of orders.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderList<'a> {
    orders: Vec<OrderView<'a>>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn statuses() -> Vec<&'static str> {
    OrderStatus::ALL.iter().map(|status| status.word()).collect()
}

const WAIT: Field = optional("wait", Kind::Integer(0, 30), "Seconds to wait until nothing moves any more.");

/// The filters that list and export share.
macro_rules! filters {
    ($($more:expr),* $(,)?) => {
        &[
            optional("status", Kind::Word(statuses), "Exactly this status."),
            optional("from", Kind::Time, "Created at or after."),
            optional("to", Kind::Time, "Created before."),
            optional("email", Kind::Text(1, 254), "The traveller's e-mail address, in any case."),
            optional("iccid", Kind::Text(1, 22), "One of the eSIMs has this ICCID."),
            optional("reference", Kind::Text(1, 100), "Your own order number, in any case."),
            optional("planId", Kind::Id, "This plan."),
            optional("q", Kind::Text(1, 254), "Beginning of order number, reference, ICCID or e-mail address."),
            $($more),*
        ]
    };
}

/// The filters of the export.
pub const EXPORT_QUERY: &[Field] = filters!();

/// The filters of the list.
pub const LIST_QUERY: &[Field] = filters!(
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
);

/// The filters of the operator's list.
pub const OPERATOR_QUERY: &[Field] = filters!(
    optional("tenantId", Kind::Id, "Of this tenant."),
    optional("mode", Kind::Word(modes), "Of this world; live unless said otherwise, where a tenant is named."),
    optional("limit", Kind::Integer(1, 1_000), "Entries of one page."),
    optional("cursor", Kind::Text(1, 100), "nextCursor of the page before."),
);

fn modes() -> Vec<&'static str> {
    domain::tenant::Mode::ALL.iter().map(|mode| mode.word()).collect()
}

/// The query of one order.
pub const ONE_QUERY: &[Field] = &[WAIT];

/// Reads the filters.
#[must_use]
pub fn filter(query: &Values) -> OrderFilter {
    OrderFilter {
        status: query.parse("status"),
        from: query.parse("from"),
        to: query.parse("to"),
        email: query.string("email"),
        iccid: query.string("iccid"),
        reference: query.string("reference"),
        plan: query.parse("planId"),
        query: query.string("q"),
    }
}

/// `GET orders`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: TenantCall) -> Result<Answer, Problem> {
    let Scope { tenant, mode, .. } = call.scope();
    let filter = filter(&call.query);
    let cursor = call.cursor()?.map(OrderId::new);
    let limit = usize::try_from(call.limit()).unwrap_or(100);
    let page =
        call.platform.store.scan(move |snapshot| order::list(snapshot, tenant, mode, &filter, cursor, limit)).await?;
    list_answer(&call, &page)
}

/// The answer of a list.
///
/// # Errors
/// A [`Problem`] for an order that cannot be.
pub fn list_answer(call: &Call, page: &order::Page) -> Result<Answer, Problem> {
    let data = OrderList {
        orders: page.orders.iter().map(|order| OrderView::row(&call.platform, order)).collect::<Result<_, _>>()?,
        next_cursor: page.next.map(|next| cursor_text(next.uuid())),
    };
    Ok(Answer::json(200, "Orders", &data))
}

/// How long the caller wants to wait.
#[must_use]
pub fn wait(call: &Call) -> Duration {
    Duration::from_secs(call.query.integer("wait").and_then(|wait| u64::try_from(wait).ok()).unwrap_or(0))
}

/// Waits until nothing of these orders moves any more, for at most `limit`: who asks, subscribes first
/// and reads then, so that nothing is missed in between.
///
/// # Errors
/// A [`Problem`] of the storage.
pub async fn settled(platform: &Platform, orders: Vec<OrderId>, limit: Duration) -> Result<Vec<Order>, Problem> {
    let subscription = (!limit.is_zero()).then(|| platform.waiters.subscribe(&orders));
    let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    let deadline = platform.clock.now().plus_millis(limit_ms);
    loop {
        let wanted = orders.clone();
        let found = platform
            .store
            .read(move |snapshot| {
                wanted.into_iter().filter_map(|id| order::find(snapshot, id).transpose()).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let Some(subscription) = &subscription else { return Ok(found) };
        if found.iter().all(is_settled) {
            return Ok(found);
        }
        drop(found);
        let last = tokio::select! {
            biased;
            () = platform.stopped() => true,
            () = platform.clock.sleep_until(deadline) => true,
            () = subscription.changed() => false,
        };
        if last {
            return Box::pin(settled(platform, orders, Duration::ZERO)).await;
        }
    }
}

/// `GET orders/{orderId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn get(call: TenantCall) -> Result<Answer, Problem> {
    let Scope { tenant, mode, .. } = call.scope();
    let id: OrderId = call.id("orderId")?;
    let found = call.platform.store.read(move |snapshot| order::of_tenant(snapshot, tenant, mode, id)).await?;
    let found = found.ok_or_else(Problem::not_found)?;
    let limit = wait(&call);
    let order = if limit.is_zero() || is_settled(&found) {
        found
    } else {
        settled(&call.platform, vec![id], limit).await?.pop().ok_or_else(Problem::not_found)?
    };
    one(&call, 200, "Order", &order)
}

/// The answer of one order.
///
/// # Errors
/// A [`Problem`] for an order that cannot be.
pub fn one(call: &Call, status: u16, message: &str, order: &Order) -> Result<Answer, Problem> {
    let data = OneOrder { order: OrderView::whole(&call.platform, order)? };
    Ok(Answer::json(status, message, &data))
}

/// The body of a cancellation.
pub const CANCEL_BODY: &[Field] =
    &[optional("esimIds", Kind::List(&Kind::Id, 1, 100), "The eSIMs to give back; without it, all that can be.")];

/// `POST orders/{orderId}/cancel`.
///
/// # Errors
/// A [`Problem`].
pub async fn cancel(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let id: OrderId = call.id("orderId")?;
    let esims: Option<Vec<EsimId>> =
        call.body.has("esimIds").then(|| call.body.texts("esimIds").filter_map(|text| text.parse().ok()).collect());
    let asked = call.platform.store.write(move |tx| fulfilment::ask_cancel(tx, scope, id, esims.as_deref())).await?;
    let limit = wait(&call);
    let order = if limit.is_zero() {
        asked
    } else {
        settled(&call.platform, vec![id], limit).await?.pop().ok_or_else(Problem::not_found)?
    };
    one(&call, 202, "Cancellation requested", &order)
}

impl From<CancelRefusal> for Problem {
    fn from(refusal: CancelRefusal) -> Self {
        match refusal {
            CancelRefusal::NotFound => Self::not_found(),
            CancelRefusal::NotAllowed(refusal) => refusal.into(),
            CancelRefusal::UnknownEsims(indexes) => unknown_esims(&indexes),
            CancelRefusal::NotCancellable => Self::new(
                Code::NotCancellable,
                "Only delivered eSIMs of an order that is no longer processing can be given back.",
            ),
        }
    }
}

/// The fault of eSIM ids that are not the order's.
#[must_use]
pub fn unknown_esims(indexes: &[usize]) -> Problem {
    let fault = |index: &usize| FieldFault {
        path: format!("esimIds[{index}]"),
        code: "not_in_list",
        message: "is no eSIM of this order that was delivered".to_owned(),
    };
    Problem::fields(&indexes.iter().map(fault).collect::<Vec<_>>())
}
