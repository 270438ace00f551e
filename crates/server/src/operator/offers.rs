//! Offers: what upstreams sell, which plan each belongs to, what changed, and taking one off or to another plan.

use super::{CURSOR, LIMIT, REASON, page};
use crate::answer::Answer;
use crate::call::OperatorCall;
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Decimal, Id, Time};
use crate::problem::{Code, Problem};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::catalogue::ChangeKind;
use domain::id::{OfferChangeId, PlanId};
use domain::offer::{Cost, Data};
use domain::plan::{Activation, Network};
use schemars::JsonSchema;
use serde::Serialize;
use store::offer::{self, OfferChange, OfferFilter, OfferRefusal, StoredOffer};

/// What an upstream asks for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Cost")]
pub struct CostView {
    amount: Decimal,
    currency: String,
}

impl From<Cost> for CostView {
    fn from(cost: Cost) -> Self {
        Self { currency: cost.currency.clone(), amount: Decimal(cost) }
    }
}

/// A network an offer roams on.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfferNetwork {
    country: String,
    operator: String,
    technology: String,
}

/// An offer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Offer")]
pub struct OfferView {
    /// Through which connection it is bought.
    connection: String,
    upstream_plan_id: String,
    /// The plan it belongs to.
    plan_id: Id,
    name: String,
    /// What one costs us, in the upstream's own currency and precision.
    cost: CostView,
    countries: Vec<String>,
    /// Data of the whole term in units of 1,048,576 bytes; null for daily and unlimited ones.
    data_mb: Option<i64>,
    daily_data_mb: Option<i64>,
    unlimited: bool,
    validity_days: i64,
    networks: Vec<OfferNetwork>,
    speed: Option<String>,
    /// on_install, on_first_use or on_order; null where the upstream does not say.
    activation: Option<&'static str>,
    top_up_supported: bool,
    apn: Option<String>,
    /// The upstream's own words for travellers.
    remark: Option<String>,
    /// Whether the operator took it off.
    held: bool,
    /// When the upstream took it out of its list.
    withdrawn_at: Option<Time>,
    changed_at: Time,
}

impl From<StoredOffer> for OfferView {
    fn from(stored: StoredOffer) -> Self {
        let offer = stored.offer;
        let (data_mb, daily_data_mb) = match offer.data {
            Data::Total(mb) => (Some(mb), None),
            Data::Daily(mb) => (None, Some(mb)),
            Data::Unlimited => (None, None),
        };
        let network = |Network { country, operator, technology }| OfferNetwork { country, operator, technology };
        Self {
            connection: stored.connection,
            upstream_plan_id: offer.upstream_plan_id,
            plan_id: Id(stored.plan.uuid()),
            name: offer.name,
            cost: offer.cost.into(),
            countries: offer.countries,
            data_mb,
            daily_data_mb,
            unlimited: offer.data == Data::Unlimited,
            validity_days: offer.validity_days,
            networks: offer.networks.into_iter().map(network).collect(),
            speed: offer.speed,
            activation: offer.activation.map(Activation::word),
            top_up_supported: offer.add_on_supported,
            apn: offer.apn,
            remark: offer.remark,
            held: stored.held,
            withdrawn_at: stored.withdrawn_at.map(Time),
            changed_at: Time(stored.changed_at),
        }
    }
}

/// `data` with an offer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneOffer {
    offer: OfferView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OfferList {
    offers: Vec<OfferView>,
    next_cursor: Option<String>,
}

/// The query of the list.
pub const QUERY: &[Field] = &[
    optional("connection", Kind::Text(1, 40), "Of this connection."),
    optional("planId", Kind::Id, "Of this plan."),
    optional("held", Kind::Flag, "Those the operator holds, or does not."),
    optional("withdrawn", Kind::Flag, "Those the upstream lists no more, or does."),
    LIMIT,
    // The upstream's id is in it.
    optional("cursor", Kind::Text(1, 2_000), "nextCursor of the page before."),
];

/// No connection's name has one.
const BETWEEN: char = '/';

fn cursor_of(offer: &OfferView) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{BETWEEN}{}", offer.connection, offer.upstream_plan_id))
}

fn cursor(call: &OperatorCall) -> Result<Option<(String, String)>, Problem> {
    let Some(text) = call.query.text("cursor") else { return Ok(None) };
    let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = decoded.as_deref().and_then(|place| place.split_once(BETWEEN));
    let (connection, id) =
        place.ok_or_else(|| Problem::field("cursor", "malformed", "must be a nextCursor the API gave"))?;
    Ok(Some((connection.to_owned(), id.to_owned())))
}

/// `GET offers`, by connection and upstream id.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let (after, limit) = (cursor(&call)?, call.limit());
    let filter = OfferFilter {
        connection: call.query.string("connection"),
        plan: call.query.parse("planId"),
        held: call.query.flag("held"),
        withdrawn: call.query.flag("withdrawn"),
    };
    let search = move |snapshot: &mut dyn store::port::Snapshot| {
        let after = after.as_ref().map(|(connection, id)| (connection.as_str(), id.as_str()));
        offer::search(snapshot, &filter, after, limit + 1)
    };
    let found = call.platform.store.scan(search).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > most;
    let offers: Vec<OfferView> = found.into_iter().take(most).map(OfferView::from).collect();
    let next_cursor = offers.last().filter(|_| more).map(cursor_of);
    Ok(Answer::json(200, "Offers", &OfferList { offers, next_cursor }))
}

/// A change of an offer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OfferChange")]
pub struct ChangeView {
    id: Id,
    at: Time,
    connection: String,
    upstream_plan_id: String,
    /// The plan the offer belongs to since then.
    plan_id: Id,
    /// new, dearer, cheaper, withdrawn, returned, changed_identity or changed_details.
    change: &'static str,
    /// From what to what, in words.
    detail: String,
    /// What it cost; null for a new one.
    old_cost: Option<CostView>,
    /// What it costs; null for a withdrawn one.
    new_cost: Option<CostView>,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeList {
    changes: Vec<ChangeView>,
    next_cursor: Option<String>,
}

fn kinds() -> Vec<&'static str> {
    ChangeKind::ALL.iter().map(|kind| kind.word()).collect()
}

/// The query of the list.
pub const CHANGES_QUERY: &[Field] = &[
    optional("connection", Kind::Text(1, 40), "Of this connection."),
    optional("change", Kind::Word(kinds), "Only these."),
    LIMIT,
    CURSOR,
];

/// `GET offer-changes`, newest first.
///
/// # Errors
/// A [`Problem`].
pub async fn changes(call: OperatorCall) -> Result<Answer, Problem> {
    let (cursor, limit) = (call.cursor()?.map(OfferChangeId::new), call.limit());
    let (connection, kind) = (call.query.string("connection"), call.query.parse("change"));
    let read = move |snapshot: &mut dyn store::port::Snapshot| {
        offer::changes(snapshot, connection.as_deref(), kind, cursor, limit + 1)
    };
    let found = call.platform.store.scan(read).await?;
    let (found, next_cursor) = page(found, limit, |change| change.id.uuid());
    let view = |change: OfferChange| ChangeView {
        id: Id(change.id.uuid()),
        at: Time(change.id.created_at()),
        connection: change.connection,
        upstream_plan_id: change.upstream_plan_id,
        plan_id: Id(change.plan.uuid()),
        change: change.kind.word(),
        detail: change.detail,
        old_cost: change.before.map(CostView::from),
        new_cost: change.after.map(CostView::from),
    };
    Ok(Answer::json(
        200,
        "Changes of offers",
        &ChangeList { changes: found.into_iter().map(view).collect(), next_cursor },
    ))
}

const CONNECTION: Field = required("connection", Kind::Text(1, 40), "The connection's name.");
const UPSTREAM_PLAN_ID: Field = required("upstreamPlanId", Kind::Text(1, 255), "The upstream's id of the offer.");

/// The body of holding and releasing.
pub const HOLD_BODY: &[Field] = &[CONNECTION, UPSTREAM_PLAN_ID, REASON];

async fn set_held(call: OperatorCall, held: bool) -> Result<Answer, Problem> {
    let (connection, id) = (call.body.required_text("connection"), call.body.required_text("upstreamPlanId"));
    let (act, reason) = (call.act.clone(), call.body.string("reason"));
    let set = move |tx: &mut dyn store::port::Tx| {
        let set = if held { offer::hold } else { offer::release };
        set(tx, &act, &connection, &id, reason.as_deref())
    };
    let offer = call.platform.store.write(set).await?.into();
    Ok(Answer::json(200, if held { "Offer held" } else { "Offer released" }, &OneOffer { offer }))
}

/// `POST offers/hold`: nothing is bought by it until it is released.
///
/// # Errors
/// A [`Problem`].
pub async fn hold(call: OperatorCall) -> Result<Answer, Problem> {
    set_held(call, true).await
}

/// `POST offers/release`.
///
/// # Errors
/// A [`Problem`].
pub async fn release(call: OperatorCall) -> Result<Answer, Problem> {
    set_held(call, false).await
}

/// The body of a move.
pub const MOVE_BODY: &[Field] = &[
    CONNECTION,
    UPSTREAM_PLAN_ID,
    required("planId", Kind::Id, "The plan it is to belong to."),
    optional("force", Kind::Flag, "Also where one gets something else with it than the plan says."),
    REASON,
];

/// `POST offers/move`.
///
/// # Errors
/// A [`Problem`].
pub async fn move_to(call: OperatorCall) -> Result<Answer, Problem> {
    let (connection, id) = (call.body.required_text("connection"), call.body.required_text("upstreamPlanId"));
    let (act, reason) = (call.act.clone(), call.body.string("reason"));
    let to: PlanId = call.body.parse("planId").ok_or_else(Problem::internal)?;
    let force = call.body.flag("force").unwrap_or(false);
    let move_it =
        move |tx: &mut dyn store::port::Tx| offer::move_offer(tx, &act, &connection, &id, to, force, reason.as_deref());
    let offer = call.platform.store.write(move_it).await?.into();
    Ok(Answer::json(200, "Offer moved", &OneOffer { offer }))
}

impl From<OfferRefusal> for Problem {
    fn from(refusal: OfferRefusal) -> Self {
        match refusal {
            OfferRefusal::NotFound => {
                Self::new(Code::NotFound, "This connection has no such offer. Check the upstream's id of it.")
            }
            OfferRefusal::AlreadyDecided => Self::already_decided(),
            OfferRefusal::PlanNotFound => Self::field("planId", "not_in_list", "is the id of no plan"),
            OfferRefusal::PlanHasNoOffers => Self::new(
                Code::PlanHasNoOffers,
                "This plan names an upstream and a plan of it itself, so no offer can belong to it.",
            ),
            OfferRefusal::AnotherIdentity => Self::new(
                Code::AnotherIdentity,
                "What one gets with this offer is not what the plan says. Send force if travellers may get that.",
            ),
        }
    }
}
