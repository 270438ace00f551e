//! What connected upstreams offer, and to which plan each offer belongs. A plan that lives from offers is on sale
//! exactly while one of its offers is live and not held, unless the operator withdrew it; and what its id means never
//! changes: an offer that means something else goes to another plan.

use crate::audit::{self, Act};
use crate::plan::{self, Listed, Revisions};
use crate::port::{Decision, Event, Fault, Row, Snapshot, Tx, Value, collect, refuse, row, rows_of};
use domain::catalogue::{
    CONNECTIONS, Change, ChangeKind, Identity, KnownOffer, changed_details, details_of, kind_of, plan_of,
};
use domain::id::{OfferChangeId, PlanId};
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use domain::plan::{Network, WithdrawnBy};
use domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

/// The most changes that should be applied in one transaction, so that nobody waits for it long.
pub const PORTION: usize = 200;

/// An offer as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOffer {
    /// Through which connection it is bought.
    pub connection: String,
    /// The plan it belongs to.
    pub plan: PlanId,
    /// What one gets.
    pub identity: Identity,
    /// The offer as the upstream last listed it.
    pub offer: Offer,
    /// The fingerprint of its words ([`details_of`]) when they were written.
    pub details: String,
    /// Whether the operator took it off.
    pub held: bool,
    /// When the upstream took it out of its list.
    pub withdrawn_at: Option<Timestamp>,
    /// When it last changed.
    pub changed_at: Timestamp,
}

impl StoredOffer {
    /// Whether it can be bought: the upstream lists it, and the operator lets it.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.withdrawn_at.is_none() && !self.held
    }

    fn known(&self) -> KnownOffer {
        KnownOffer {
            upstream_plan_id: self.offer.upstream_plan_id.clone(),
            identity: self.identity.clone(),
            details: self.details.clone(),
            cost: self.offer.cost.clone(),
            withdrawn: self.withdrawn_at.is_some(),
        }
    }

    /// What the audit log calls it.
    fn subject(&self) -> String {
        format!("{}/{}", self.connection, self.offer.upstream_plan_id)
    }
}

/// Where a fetched list comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The connection's name.
    pub connection: String,
    /// The names of all connections of the same provider: an id of theirs means the same.
    pub siblings: Vec<String>,
    /// The platform's own currency, for new plans.
    pub currency: Currency,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Offers that changed, by what happened to them.
    pub changes: BTreeMap<ChangeKind, u32>,
    /// Plans that were made.
    pub plans_made: u32,
    /// Plans that lost their last offer, and are off sale.
    pub plans_withdrawn: u32,
    /// Plans that are on sale again.
    pub plans_back: u32,
}

impl Applied {
    /// Adds what another portion did.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.changes {
            let sum = self.changes.entry(*kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.plans_made = self.plans_made.saturating_add(other.plans_made);
        self.plans_withdrawn = self.plans_withdrawn.saturating_add(other.plans_withdrawn);
        self.plans_back = self.plans_back.saturating_add(other.plans_back);
    }
}

/// A change with what there was before.
struct Step<'c> {
    kind: ChangeKind,
    before: Option<&'c StoredOffer>,
    now: Option<&'c Offer>,
    upstream_plan_id: &'c str,
}

/// Writes changes of one connection's offers down, at most [`PORTION`] of them, and lets the plans follow. What is so
/// already stays as it is, so a portion that is applied twice changes nothing the second time.
///
/// A new offer, and one that means something else now, belongs to the plan of the same offer of another connection to
/// the same provider, where that means the same; or to a plan it had before; or to a new one.
///
/// # Errors
/// [`Fault`].
pub fn apply_changes(tx: &mut dyn Tx, source: &Source, changes: &[Change]) -> Decision<Applied, Infallible> {
    let mut revisions = Revisions::begin(tx)?;
    let before = of_connection(tx, &source.connection, changes.iter().map(Change::upstream_plan_id))?;
    let mut steps = Vec::with_capacity(changes.len());
    let mut seen = BTreeSet::new();
    for change in changes {
        let (id, now) = (change.upstream_plan_id(), change.offer());
        let before = before.get(id);
        // What is there may be newer than what the change was told from: it is looked at again.
        if let Some(kind) = kind_of(before.map(StoredOffer::known).as_ref(), now).filter(|_| seen.insert(id)) {
            steps.push(Step { kind, before, now, upstream_plan_id: id });
        }
    }
    let mut applied = Applied::default();
    if steps.is_empty() {
        return Ok(applied);
    }
    go_above_the_last_change(tx)?;
    let homes = homes(tx, source, &steps)?;
    let mut touched = BTreeSet::new();
    for step in &steps {
        *applied.changes.entry(step.kind).or_default() += 1;
        let stays = step.before.filter(|_| step.kind != ChangeKind::ChangedIdentity).map(|before| before.plan);
        let plan = match (stays.or_else(|| homes.get(step.upstream_plan_id).copied()), step.now) {
            (Some(plan), _) => {
                touched.insert(plan);
                plan
            }
            (None, Some(offer)) => {
                let plan = plan_of(PlanId::new(tx.fresh_id()), offer, source.currency);
                let on_sale = !step.before.is_some_and(|before| before.held);
                plan::insert(tx, &plan, on_sale, revisions.next())?;
                applied.plans_made += 1;
                plan.id
            }
            (None, None) => return Err(Fault::Bug("an offer went that was not there".to_owned()).into()),
        };
        touched.extend(step.before.map(|before| before.plan));
        write(tx, source, step, plan)?;
        tell(tx, source, step, plan)?;
    }
    let moved = settle(tx, &mut revisions, touched)?;
    (applied.plans_withdrawn, applied.plans_back) = (moved.withdrawn, moved.back);
    revisions.end(tx)?;
    tx.after_commit(Event::PlansChanged);
    Ok(applied)
}

/// Another node may have told changes by a clock of its own; whoever reads them on finds none below what he read.
fn go_above_the_last_change(tx: &mut dyn Tx) -> Result<(), Fault> {
    let newest = row(tx, "select id from offer_changes order by id desc limit 1", &[], |row| {
        Ok(OfferChangeId::from_slice(row.bytes(0)?)?)
    })?;
    newest.into_iter().for_each(|newest| tx.go_above(newest.uuid()));
    Ok(())
}

/// The plans there are for offers that have none, or whose plan means something else.
fn homes(tx: &mut dyn Tx, source: &Source, steps: &[Step<'_>]) -> Result<HashMap<String, PlanId>, Fault> {
    let homeless = steps.iter().filter(|step| matches!(step.kind, ChangeKind::New | ChangeKind::ChangedIdentity));
    let wanted: HashMap<&str, Identity> =
        homeless.filter_map(|step| Some((step.upstream_plan_id, Identity::of(step.now?)))).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let mut siblings: Vec<&String> = source.siblings.iter().filter(|name| **name != source.connection).collect();
    siblings.sort_unstable();
    siblings.dedup();
    // The best come first: live ones, then withdrawn ones, then what it was before.
    let (mut live, mut others) = (Vec::new(), Vec::new());
    let ids: Vec<Value<'_>> = wanted.keys().map(|id| Value::from(*id)).collect();
    for sibling in siblings {
        rows_of(
            tx,
            "select upstream_plan_id, plan_id, identity, withdrawn_at from offers
             where connection = $1 and upstream_plan_id in ({keys})",
            &[sibling.into()],
            &ids,
            &mut |row| {
                let id = row.text(0)?;
                if wanted.get(id).is_some_and(|identity| Ok(identity.as_str()) == row.text(2)) {
                    let ours = if row.opt_int(3)?.is_none() { &mut live } else { &mut others };
                    ours.push((id.to_owned(), PlanId::from_slice(row.bytes(1)?)?));
                }
                Ok(())
            },
        )?;
    }
    let changed = steps.iter().filter(|step| step.kind == ChangeKind::ChangedIdentity);
    let changed: Vec<Value<'_>> = changed.map(|step| Value::from(step.upstream_plan_id)).collect();
    rows_of(
        tx,
        "select distinct upstream_plan_id, plan_id from offer_changes
         where connection = $1 and upstream_plan_id in ({keys}) order by plan_id",
        &[(&source.connection).into()],
        &changed,
        &mut |row| {
            others.push((row.text(0)?.to_owned(), PlanId::from_slice(row.bytes(1)?)?));
            Ok(())
        },
    )?;
    let candidates: Vec<(String, PlanId)> = live.into_iter().chain(others).collect();
    let plans: Vec<PlanId> = candidates.iter().map(|(_, plan)| *plan).collect::<BTreeSet<_>>().into_iter().collect();
    let meant: HashMap<PlanId, Identity> = plan::find_all(tx, &plans)?
        .into_iter()
        .filter(|listed| listed.plan.provider == CONNECTIONS)
        .map(|listed| (listed.plan.id, Identity::of_plan(&listed.plan)))
        .collect();
    let mut homes = HashMap::new();
    for (id, plan) in candidates {
        // The operator may have attached an offer to a plan that says something else: others do not follow it.
        if meant.get(&plan) == wanted.get(id.as_str()) {
            homes.entry(id).or_insert(plan);
        }
    }
    Ok(homes)
}

/// Writes an offer down as it is now.
fn write(tx: &mut dyn Tx, source: &Source, step: &Step<'_>, plan: PlanId) -> Result<(), Fault> {
    let now = tx.now();
    let Some(offer) = step.now else {
        return tx.change(
            "update offers set withdrawn_at = $1, changed_at = $2 where connection = $3 and upstream_plan_id = $4",
            &[now.into(), now.into(), (&source.connection).into(), step.upstream_plan_id.into()],
        );
    };
    let sql = match step.before {
        None => {
            "insert into offers (plan_id, identity, details, name, cost_units, cost_decimals, cost_currency, held,
                 changed_at, content, connection, upstream_plan_id)
             values ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11)"
        }
        Some(_) => {
            "update offers set plan_id = $1, identity = $2, details = $3, name = $4, cost_units = $5,
                 cost_decimals = $6, cost_currency = $7, withdrawn_at = null, changed_at = $8, content = $9
             where connection = $10 and upstream_plan_id = $11"
        }
    };
    tx.change(
        sql,
        &[
            plan.as_bytes().into(),
            Identity::of(offer).as_str().into(),
            (&details_of(offer)).into(),
            (&offer.name).into(),
            offer.cost.units.into(),
            offer.cost.decimals.into(),
            (&offer.cost.currency).into(),
            now.into(),
            (&Content::in_row(offer)?).into(),
            (&source.connection).into(),
            step.upstream_plan_id.into(),
        ],
    )
}

/// Keeps what happened for people.
fn tell(tx: &mut dyn Tx, source: &Source, step: &Step<'_>, plan: PlanId) -> Result<(), Fault> {
    let detail = match (step.before, step.now) {
        (_, None) => String::new(),
        (None, Some(now)) => now.cost.to_string(),
        (Some(before), Some(now)) => match step.kind {
            ChangeKind::ChangedIdentity => format!("{} -> {}", before.identity, Identity::of(now)),
            ChangeKind::ChangedDetails => changed_details(&before.offer, now).join(", "),
            _ if before.offer.cost == now.cost => now.cost.to_string(),
            _ => format!("{} -> {}", before.offer.cost, now.cost),
        },
    };
    let id = OfferChangeId::new(tx.fresh_id());
    let before = step.before.map(|before| before.offer.cost.to_string());
    let after = step.now.map(|now| now.cost.to_string());
    tx.change(
        "insert into offer_changes (id, connection, upstream_plan_id, plan_id, change, detail, cost_before, cost_after)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            id.as_bytes().into(),
            (&source.connection).into(),
            step.upstream_plan_id.into(),
            plan.as_bytes().into(),
            step.kind.word().into(),
            (&detail).into(),
            before.as_ref().into(),
            after.as_ref().into(),
        ],
    )
}

#[derive(Debug, Default)]
struct Moved {
    withdrawn: u32,
    back: u32,
}

/// Lets plans follow their offers: on sale or not, with the words of the first usable offer that means what the plan
/// means. Each gets a new revision.
fn settle(tx: &mut dyn Tx, revisions: &mut Revisions, plans: BTreeSet<PlanId>) -> Result<Moved, Fault> {
    let plans: Vec<PlanId> = plans.into_iter().collect();
    let mut offers: HashMap<PlanId, Vec<StoredOffer>> = HashMap::new();
    for offer in of_plans(tx, &plans)? {
        offers.entry(offer.plan).or_default().push(offer);
    }
    let mut moved = Moved::default();
    let now = tx.now();
    for mut listed in plan::find_all(tx, &plans)? {
        let usable = || offers.get(&listed.plan.id).into_iter().flatten().filter(|offer| offer.is_usable());
        let (has_any, meant) = (usable().next().is_some(), Identity::of_plan(&listed.plan));
        if let Some(leading) = usable().find(|offer| offer.identity == meant) {
            let said = plan_of(listed.plan.id, &leading.offer, listed.plan.price.currency());
            listed.plan.name = said.name;
            listed.plan.speed = said.speed;
            listed.plan.networks = said.networks;
            listed.plan.activation = said.activation;
            listed.plan.top_up_supported = said.top_up_supported;
            listed.plan.fair_use = said.fair_use;
        }
        match (has_any, listed.withdrawn_by) {
            (true, Some(WithdrawnBy::Catalogue)) => {
                moved.back += 1;
                (listed.withdrawn_at, listed.withdrawn_by) = (None, None);
            }
            (false, None) => {
                moved.withdrawn += 1;
                (listed.withdrawn_at, listed.withdrawn_by) = (Some(now), Some(WithdrawnBy::Catalogue));
            }
            _ => {}
        }
        listed.revision = revisions.next();
        plan::follow(tx, &listed)?;
    }
    Ok(moved)
}

/// Why the operator may not do that to an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferRefusal {
    /// There is no such offer.
    NotFound,
    /// It is so already.
    AlreadyDecided,
    /// There is no such plan.
    PlanNotFound,
    /// That plan does not live from offers: it names an upstream and a plan of it itself.
    PlanHasNoOffers,
    /// What one gets with the offer is not what the plan says.
    AnotherIdentity,
}

/// Takes an offer off: nothing is bought by it, and a plan without another one goes off sale.
///
/// # Errors
/// [`OfferRefusal::NotFound`], [`OfferRefusal::AlreadyDecided`].
pub fn hold(
    tx: &mut dyn Tx,
    act: &Act,
    connection: &str,
    upstream_plan_id: &str,
    reason: Option<&str>,
) -> Decision<StoredOffer, OfferRefusal> {
    set_held(tx, act, connection, upstream_plan_id, true, reason)
}

/// Lets an offer be bought again.
///
/// # Errors
/// [`OfferRefusal::NotFound`], [`OfferRefusal::AlreadyDecided`].
pub fn release(
    tx: &mut dyn Tx,
    act: &Act,
    connection: &str,
    upstream_plan_id: &str,
    reason: Option<&str>,
) -> Decision<StoredOffer, OfferRefusal> {
    set_held(tx, act, connection, upstream_plan_id, false, reason)
}

fn set_held(
    tx: &mut dyn Tx,
    act: &Act,
    connection: &str,
    upstream_plan_id: &str,
    held: bool,
    reason: Option<&str>,
) -> Decision<StoredOffer, OfferRefusal> {
    let mut revisions = Revisions::begin(tx)?;
    let Some(offer) = find(tx, connection, upstream_plan_id)? else { return refuse(OfferRefusal::NotFound) };
    if offer.held == held {
        return refuse(OfferRefusal::AlreadyDecided);
    }
    let now = tx.now();
    tx.change(
        "update offers set held = $1, changed_at = $2 where connection = $3 and upstream_plan_id = $4",
        &[held.into(), now.into(), connection.into(), upstream_plan_id.into()],
    )?;
    settle(tx, &mut revisions, BTreeSet::from([offer.plan]))?;
    revisions.end(tx)?;
    let action = if held { "offer.held" } else { "offer.released" };
    audit::write(tx, act, action, &offer.subject(), &offer.plan.to_string(), reason)?;
    tx.after_commit(Event::PlansChanged);
    Ok(StoredOffer { held, changed_at: now, ..offer })
}

/// Attaches an offer to another plan. Both follow. With `force` also to one that says something else: then the operator
/// answers for what travellers get.
///
/// # Errors
/// [`OfferRefusal`].
pub fn move_offer(
    tx: &mut dyn Tx,
    act: &Act,
    connection: &str,
    upstream_plan_id: &str,
    to: PlanId,
    force: bool,
    reason: Option<&str>,
) -> Decision<StoredOffer, OfferRefusal> {
    let mut revisions = Revisions::begin(tx)?;
    let Some(offer) = find(tx, connection, upstream_plan_id)? else { return refuse(OfferRefusal::NotFound) };
    let Some(listed) = plan::find(tx, to)? else { return refuse(OfferRefusal::PlanNotFound) };
    if listed.plan.provider != CONNECTIONS {
        return refuse(OfferRefusal::PlanHasNoOffers);
    }
    if offer.plan == to {
        return refuse(OfferRefusal::AlreadyDecided);
    }
    let forced = !fits(tx, &offer, &listed)?;
    if forced && !force {
        return refuse(OfferRefusal::AnotherIdentity);
    }
    let now = tx.now();
    tx.change(
        "update offers set plan_id = $1, changed_at = $2 where connection = $3 and upstream_plan_id = $4",
        &[to.as_bytes().into(), now.into(), connection.into(), upstream_plan_id.into()],
    )?;
    settle(tx, &mut revisions, BTreeSet::from([offer.plan, to]))?;
    revisions.end(tx)?;
    let detail = format!("{} -> {to}{}", offer.plan, if forced { ", forced" } else { "" });
    audit::write(tx, act, "offer.moved", &offer.subject(), &detail, reason)?;
    tx.after_commit(Event::PlansChanged);
    Ok(StoredOffer { plan: to, changed_at: now, ..offer })
}

/// Whether a plan, and all live offers it has, mean what this offer means.
fn fits(tx: &mut dyn Tx, offer: &StoredOffer, listed: &Listed) -> Result<bool, Fault> {
    let others = of_plan(tx, listed.plan.id)?;
    let mut live = others.iter().filter(|other| other.withdrawn_at.is_none());
    Ok(Identity::of_plan(&listed.plan) == offer.identity && live.all(|other| other.identity == offer.identity))
}

// What an offer says beside its name and its cost, as it lies in the row.

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredData {
    Total(i64),
    Daily(i64),
    Unlimited,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    countries: Vec<String>,
    data: StoredData,
    days: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<[String; 3]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    speed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    activation: Option<String>,
    #[serde(default)]
    add_on: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remark: Option<String>,
}

impl Content {
    fn in_row(offer: &Offer) -> Result<String, Fault> {
        let network = |network: &Network| {
            let Network { country, operator, technology } = network.clone();
            [country, operator, technology]
        };
        let content = Self {
            countries: offer.countries.clone(),
            data: match offer.data {
                Data::Total(mb) => StoredData::Total(mb),
                Data::Daily(mb) => StoredData::Daily(mb),
                Data::Unlimited => StoredData::Unlimited,
            },
            days: offer.validity_days,
            networks: offer.networks.iter().map(network).collect(),
            speed: offer.speed.clone(),
            activation: offer.activation.map(|activation| activation.word().to_owned()),
            add_on: offer.add_on_supported,
            apn: offer.apn.clone(),
            remark: offer.remark.clone(),
        };
        serde_json::to_string(&content).map_err(|error| Fault::Bug(error.to_string()))
    }

    fn offer(text: &str, upstream_plan_id: String, name: String, cost: Cost) -> Result<Offer, Fault> {
        let content: Self =
            serde_json::from_str(text).map_err(|error| Fault::Bug(format!("malformed offer: {error}")))?;
        let network = |[country, operator, technology]: [String; 3]| Network { country, operator, technology };
        Ok(Offer {
            upstream_plan_id,
            name,
            cost,
            countries: content.countries,
            data: match content.data {
                StoredData::Total(mb) => Data::Total(mb),
                StoredData::Daily(mb) => Data::Daily(mb),
                StoredData::Unlimited => Data::Unlimited,
            },
            validity_days: content.days,
            networks: content.networks.into_iter().map(network).collect(),
            speed: content.speed,
            activation: content.activation.map(|word| word.parse()).transpose()?,
            add_on_supported: content.add_on,
            apn: content.apn,
            remark: content.remark,
        })
    }
}

const OFFER: &str = "connection, upstream_plan_id, plan_id, identity, name, cost_units, cost_decimals, cost_currency, \
     held, withdrawn_at, changed_at, details, content from offers";

fn cost(row: &dyn Row, first: usize) -> Result<Cost, Fault> {
    let decimals = row.int(first + 1)?;
    let decimals = u32::try_from(decimals).map_err(|_| Fault::Bug(format!("a cost of {decimals} decimals")))?;
    Ok(Cost { units: row.int(first)?, decimals, currency: row.text(first + 2)?.to_owned() })
}

fn stored(row: &dyn Row) -> Result<StoredOffer, Fault> {
    let (id, name) = (row.text(1)?.to_owned(), row.text(4)?.to_owned());
    Ok(StoredOffer {
        connection: row.text(0)?.to_owned(),
        plan: PlanId::from_slice(row.bytes(2)?)?,
        identity: Identity::from_stored(row.text(3)?.to_owned()),
        offer: Content::offer(row.text(12)?, id, name, cost(row, 5)?)?,
        details: row.text(11)?.to_owned(),
        held: row.int(8)? != 0,
        withdrawn_at: row.opt_int(9)?.map(Timestamp::from_millis),
        changed_at: Timestamp::from_millis(row.int(10)?),
    })
}

/// These offers of a connection, by their ids.
fn of_connection<'i>(
    snapshot: &mut dyn Snapshot,
    connection: &str,
    ids: impl Iterator<Item = &'i str>,
) -> Result<HashMap<String, StoredOffer>, Fault> {
    let ids: Vec<Value<'_>> = ids.map(Value::from).collect();
    let mut found = HashMap::with_capacity(ids.len());
    let sql = format!("select {OFFER} where connection = $1 and upstream_plan_id in ({{keys}})");
    rows_of(snapshot, &sql, &[connection.into()], &ids, &mut |row| {
        let offer = stored(row)?;
        found.insert(offer.offer.upstream_plan_id.clone(), offer);
        Ok(())
    })?;
    Ok(found)
}

/// One offer.
///
/// # Errors
/// [`Fault`].
pub fn find(
    snapshot: &mut dyn Snapshot,
    connection: &str,
    upstream_plan_id: &str,
) -> Result<Option<StoredOffer>, Fault> {
    let sql = format!("select {OFFER} where connection = $1 and upstream_plan_id = $2");
    row(snapshot, &sql, &[connection.into(), upstream_plan_id.into()], stored)
}

/// All offers of a connection as far as a fetched list is compared with them ([`domain::catalogue::diff`]).
///
/// # Errors
/// [`Fault`].
pub fn known(snapshot: &mut dyn Snapshot, connection: &str) -> Result<Vec<KnownOffer>, Fault> {
    collect(
        snapshot,
        "select upstream_plan_id, identity, details, cost_units, cost_decimals, cost_currency, withdrawn_at from offers
         where connection = $1 order by upstream_plan_id",
        &[connection.into()],
        |row| {
            Ok(KnownOffer {
                upstream_plan_id: row.text(0)?.to_owned(),
                identity: Identity::from_stored(row.text(1)?.to_owned()),
                details: row.text(2)?.to_owned(),
                cost: cost(row, 3)?,
                withdrawn: row.opt_int(6)?.is_some(),
            })
        },
    )
}

/// Offers of a connection in the order of their ids, after that one, withdrawn ones included.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    connection: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<StoredOffer>, Fault> {
    let sql =
        format!("select {OFFER} where connection = $1 and upstream_plan_id > $2 order by upstream_plan_id limit $3");
    collect(snapshot, &sql, &[connection.into(), after.unwrap_or_default().into(), limit.into()], stored)
}

/// Which offers are wanted; all where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfferFilter {
    /// Those of this connection.
    pub connection: Option<String>,
    /// Those of this plan.
    pub plan: Option<PlanId>,
    /// Those that the operator holds, or does not.
    pub held: Option<bool>,
    /// Those that the upstream lists no more, or does.
    pub withdrawn: Option<bool>,
}

/// Offers by connection and id, after that one.
///
/// # Errors
/// [`Fault`].
pub fn search(
    snapshot: &mut dyn Snapshot,
    filter: &OfferFilter,
    after: Option<(&str, &str)>,
    limit: u32,
) -> Result<Vec<StoredOffer>, Fault> {
    let (mut conditions, mut values) = (Vec::new(), Vec::<Value<'_>>::new());
    if let Some(connection) = &filter.connection {
        values.push(connection.into());
        conditions.push(format!("connection = ${}", values.len()));
    }
    if let Some(plan) = &filter.plan {
        values.push(plan.as_bytes().into());
        conditions.push(format!("plan_id = ${}", values.len()));
    }
    if let Some(held) = filter.held {
        values.push(held.into());
        conditions.push(format!("held = ${}", values.len()));
    }
    if let Some(withdrawn) = filter.withdrawn {
        conditions.push(format!("withdrawn_at is {}null", if withdrawn { "not " } else { "" }));
    }
    if let Some((connection, id)) = after {
        values.extend([Value::from(connection), Value::from(id)]);
        conditions.push(format!("(connection, upstream_plan_id) > (${}, ${})", values.len() - 1, values.len()));
    }
    values.push(limit.into());
    let wanted = if conditions.is_empty() { String::new() } else { format!("where {}", conditions.join(" and ")) };
    let sql = format!("select {OFFER} {wanted} order by connection, upstream_plan_id limit ${}", values.len());
    collect(snapshot, &sql, &values, stored)
}

/// Whether any offer of a plan can be bought.
pub(crate) fn any_usable(snapshot: &mut dyn Snapshot, plan: PlanId) -> Result<bool, Fault> {
    let sql = "select 1 from offers where plan_id = $1 and withdrawn_at is null and held = 0 limit 1";
    Ok(row(snapshot, sql, &[plan.as_bytes().into()], |_| Ok(()))?.is_some())
}

/// The offers of a plan, withdrawn ones included.
///
/// # Errors
/// [`Fault`].
pub fn of_plan(snapshot: &mut dyn Snapshot, plan: PlanId) -> Result<Vec<StoredOffer>, Fault> {
    of_plans(snapshot, &[plan])
}

/// The offers of these plans, withdrawn ones included; those of one plan by connection and id.
///
/// # Errors
/// [`Fault`].
pub fn of_plans(snapshot: &mut dyn Snapshot, plans: &[PlanId]) -> Result<Vec<StoredOffer>, Fault> {
    let keys: Vec<Value<'_>> = plans.iter().map(|plan| plan.as_bytes().into()).collect();
    let sql = format!("select {OFFER} where plan_id in ({{keys}}) order by plan_id, connection, upstream_plan_id");
    let mut found = Vec::with_capacity(plans.len());
    rows_of(snapshot, &sql, &[], &keys, &mut |row| {
        found.push(stored(row)?);
        Ok(())
    })?;
    Ok(found)
}

const LIVE: &str = "select plan_id, connection, upstream_plan_id, cost_units, cost_decimals, cost_currency from offers \
     where withdrawn_at is null and held = 0 and plan_id in ({keys}) order by plan_id, connection, upstream_plan_id";

/// What an offer that can be bought costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveOffer {
    /// The plan it belongs to.
    pub plan: PlanId,
    /// Through which connection it is bought.
    pub connection: String,
    /// The upstream's id of it.
    pub upstream_plan_id: String,
    /// What one costs.
    pub cost: Cost,
}

/// The offers of these plans that can be bought, whether their connections sell or not; those of one plan by connection
/// and id.
///
/// # Errors
/// [`Fault`].
pub fn live_of_plans(snapshot: &mut dyn Snapshot, plans: &[PlanId]) -> Result<Vec<LiveOffer>, Fault> {
    let keys: Vec<Value<'_>> = plans.iter().map(|plan| plan.as_bytes().into()).collect();
    let mut found = Vec::with_capacity(plans.len());
    rows_of(snapshot, LIVE, &[], &keys, &mut |row| {
        found.push(LiveOffer {
            plan: PlanId::from_slice(row.bytes(0)?)?,
            connection: row.text(1)?.to_owned(),
            upstream_plan_id: row.text(2)?.to_owned(),
            cost: cost(row, 3)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// What happened to an offer, and when: that is in its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferChange {
    /// Its id; its time, too.
    pub id: OfferChangeId,
    /// The connection.
    pub connection: String,
    /// The upstream's id of the offer.
    pub upstream_plan_id: String,
    /// The plan the offer belongs to since then.
    pub plan: PlanId,
    /// What happened.
    pub kind: ChangeKind,
    /// From what to what.
    pub detail: String,
    /// What it cost before; `None` for a new one, and for what was told by an older program.
    pub before: Option<Cost>,
    /// What it costs since then; `None` for a withdrawn one, likewise.
    pub after: Option<Cost>,
}

/// A cost as it was told.
fn told_cost(text: Option<&str>) -> Result<Option<Cost>, Fault> {
    let Some(text) = text else { return Ok(None) };
    let cost = text.split_once(' ').and_then(|(amount, currency)| Cost::parse(amount, currency));
    cost.map(Some).ok_or_else(|| Fault::Bug("malformed cost in the database".to_owned()))
}

/// Changes below `cursor`, newest first, of one connection or all, of one kind or all.
///
/// # Errors
/// [`Fault`].
pub fn changes(
    snapshot: &mut dyn Snapshot,
    connection: Option<&str>,
    kind: Option<ChangeKind>,
    cursor: Option<OfferChangeId>,
    limit: u32,
) -> Result<Vec<OfferChange>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, OfferChangeId::uuid);
    let kind = kind.map(ChangeKind::word);
    let mut values = vec![below.as_bytes().into(), kind.into(), limit.into()];
    // Two statements, so that each is answered along its index.
    let sql = match connection {
        None => {
            "select id, connection, upstream_plan_id, plan_id, change, detail, cost_before, cost_after
             from offer_changes
             where id < $1 and (change = $2 or $2 is null) order by id desc limit $3"
        }
        Some(_) => {
            "select id, connection, upstream_plan_id, plan_id, change, detail, cost_before, cost_after
             from offer_changes
             where connection = $1 and id < $2 and (change = $3 or $3 is null) order by id desc limit $4"
        }
    };
    connection.into_iter().for_each(|connection| values.insert(0, connection.into()));
    collect(snapshot, sql, &values, |row| {
        Ok(OfferChange {
            id: OfferChangeId::from_slice(row.bytes(0)?)?,
            connection: row.text(1)?.to_owned(),
            upstream_plan_id: row.text(2)?.to_owned(),
            plan: PlanId::from_slice(row.bytes(3)?)?,
            kind: row.text(4)?.parse()?,
            detail: row.text(5)?.to_owned(),
            before: told_cost(row.opt_text(6)?)?,
            after: told_cost(row.opt_text(7)?)?,
        })
    })
}

/// How many offers a connection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The connection.
    pub connection: String,
    /// Offers that can be bought.
    pub usable: i64,
    /// Offers the upstream lists and the operator holds.
    pub held: i64,
    /// Offers the upstream lists no more.
    pub withdrawn: i64,
}

/// How many offers each connection has, by its name; a connection that never had one is not told.
///
/// # Errors
/// [`Fault`].
pub fn counts(snapshot: &mut dyn Snapshot) -> Result<Vec<Counts>, Fault> {
    collect(
        snapshot,
        "select connection, count(case when withdrawn_at is null and held = 0 then 1 end),
             count(case when withdrawn_at is null and held = 1 then 1 end),
             count(case when withdrawn_at is not null then 1 end)
         from offers group by connection order by connection",
        &[],
        |row| {
            Ok(Counts {
                connection: row.text(0)?.to_owned(),
                usable: row.int(1)?,
                held: row.int(2)?,
                withdrawn: row.int(3)?,
            })
        },
    )
}
