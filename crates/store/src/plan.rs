//! The plans on sale.

use crate::audit::{self, Act};
use crate::offer;
use crate::port::{Decision, Event, Fault, Lock, Row, Snapshot, Tx, Value, collect, refuse, row, rows_of};
use domain::catalogue::CONNECTIONS;
use domain::id::PlanId;
use domain::money::{Currency, Money};
use domain::plan::{Network, Plan, PricedBy, WithdrawnBy};
use domain::time::Timestamp;

/// A plan with what only the operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The plan.
    pub plan: Plan,
    /// When it was taken off sale.
    pub withdrawn_at: Option<Timestamp>,
    /// Who took it off sale.
    pub withdrawn_by: Option<WithdrawnBy>,
    /// Who says what it costs.
    pub priced_by: PricedBy,
    /// Grows with every change of the plan or of its offers; no two plans have the same.
    pub revision: i64,
}

/// Numbers changes of plans. Who reads all plans above the last revision he saw misses none: revisions are given out
/// under a lock that is held until the commit, so a lower one is always committed first.
pub(crate) struct Revisions {
    began: i64,
    last: i64,
}

impl Revisions {
    /// Waits until nobody else changes plans. The first thing a command does that changes some.
    pub(crate) fn begin(tx: &mut dyn Tx) -> Result<Self, Fault> {
        tx.lock(Lock::Plans)?;
        let stored = row(tx, "select value from settings where name = 'plans_revision'", &[], |row| {
            row.text(0)?.parse().map_err(|_| Fault::Bug("malformed revision in the database".to_owned()))
        })?;
        let began = stored.ok_or_else(|| Fault::Bug("the database has no revision of the plans".to_owned()))?;
        Ok(Self { began, last: began })
    }

    /// A revision larger than all before.
    pub(crate) fn next(&mut self) -> i64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Keeps what was given out.
    pub(crate) fn end(self, tx: &mut dyn Tx) -> Result<(), Fault> {
        if self.last == self.began {
            return Ok(());
        }
        tx.change("update settings set value = $1 where name = 'plans_revision'", &[(&self.last.to_string()).into()])
    }
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Plans that were not there.
    pub created: u32,
    /// Plans that were there, under the same provider and upstream id.
    pub updated: u32,
}

/// Takes plans in: new ones are made, known ones (same provider and upstream id) are brought up to
/// date, price included. The given ids are used for new plans only.
///
/// # Errors
/// [`Fault`].
pub fn import(tx: &mut dyn Tx, act: Option<&Act>, plans: &[Plan]) -> Decision<Imported, std::convert::Infallible> {
    let mut revisions = Revisions::begin(tx)?;
    let mut imported = Imported::default();
    for plan in plans {
        let known = row(
            tx,
            "select id from plans where provider = $1 and upstream_plan_id = $2",
            &[(&plan.provider).into(), (&plan.upstream_plan_id).into()],
            |row| Ok(PlanId::from_slice(row.bytes(0)?)?),
        )?;
        let id = match known {
            Some(id) => {
                imported.updated += 1;
                id
            }
            None => {
                imported.created += 1;
                PlanId::new(tx.fresh_id())
            }
        };
        let networks = networks_in_row(&plan.networks)?;
        tx.execute(
            "insert into plans (id, provider, upstream_plan_id, name, plan_type, countries, region, data_mb,
                 daily_data_mb, unlimited, validity_days, price, currency, speed, networks, activation,
                 top_up_supported, description, fair_use, priced_by, revision)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
             on conflict (id) do update set name = excluded.name, plan_type = excluded.plan_type,
                 countries = excluded.countries, region = excluded.region, data_mb = excluded.data_mb,
                 daily_data_mb = excluded.daily_data_mb, unlimited = excluded.unlimited,
                 validity_days = excluded.validity_days, price = excluded.price, currency = excluded.currency,
                 speed = excluded.speed, networks = excluded.networks, activation = excluded.activation,
                 top_up_supported = excluded.top_up_supported, description = excluded.description,
                 fair_use = excluded.fair_use, withdrawn_at = null,
                 withdrawn_by = null, priced_by = excluded.priced_by, revision = excluded.revision",
            &[
                id.as_bytes().into(),
                (&plan.provider).into(),
                (&plan.upstream_plan_id).into(),
                (&plan.name).into(),
                plan.plan_type.word().into(),
                (&plan.countries.join(" ")).into(),
                plan.region.as_ref().into(),
                plan.data_mb.into(),
                plan.daily_data_mb.into(),
                plan.unlimited.into(),
                plan.validity_days.into(),
                plan.price.minor().into(),
                plan.price.currency().code().into(),
                plan.speed.as_ref().into(),
                (&networks).into(),
                plan.activation.word().into(),
                plan.top_up_supported.into(),
                plan.description.as_ref().into(),
                plan.fair_use.as_ref().into(),
                PricedBy::Operator.word().into(),
                revisions.next().into(),
            ],
        )?;
    }
    revisions.end(tx)?;
    if let Some(act) = act {
        let detail = format!("created {}, updated {}", imported.created, imported.updated);
        audit::write(tx, act, "plan.imported", "plans", &detail, None)?;
    }
    tx.after_commit(Event::PlansChanged);
    Ok(imported)
}

/// Why a change of a plan is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanRefusal {
    /// There is no such plan.
    NotFound,
    /// It is so already.
    AlreadyDecided,
    /// It does not live from offers, so no rule can price it.
    HasNoOffers,
}

/// Sets a plan's price, also instead of the rules'; orders keep the price they were sold at.
///
/// # Errors
/// [`PlanRefusal`].
pub fn set_price(tx: &mut dyn Tx, act: &Act, id: PlanId, price: Money) -> Decision<Listed, PlanRefusal> {
    // One operator after the other: the record names the price before.
    let mut revisions = Revisions::begin(tx)?;
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    let (priced_by, revision) = (PricedBy::Operator, revisions.next());
    tx.change(
        "update plans set price = $1, currency = $2, priced_by = $3, revision = $4 where id = $5",
        &[
            price.minor().into(),
            price.currency().code().into(),
            priced_by.word().into(),
            revision.into(),
            id.as_bytes().into(),
        ],
    )?;
    revisions.end(tx)?;
    let before = match listed.priced_by {
        PricedBy::Operator => listed.plan.price.to_string(),
        PricedBy::Rules => PricedBy::Rules.to_string(),
    };
    let detail = format!("{before} -> {price} {}", price.currency());
    audit::write(tx, act, "plan.priced", &id.to_string(), &detail, None)?;
    tx.after_commit(Event::PlansChanged);
    Ok(Listed { plan: Plan { price, ..listed.plan }, priced_by, revision, ..listed })
}

/// Gives a plan's price back to the rules.
///
/// # Errors
/// [`PlanRefusal`].
pub fn price_by_rules(tx: &mut dyn Tx, act: &Act, id: PlanId) -> Decision<Listed, PlanRefusal> {
    let mut revisions = Revisions::begin(tx)?;
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    if listed.plan.provider != CONNECTIONS {
        return refuse(PlanRefusal::HasNoOffers);
    }
    if listed.priced_by == PricedBy::Rules {
        return refuse(PlanRefusal::AlreadyDecided);
    }
    let (priced_by, revision) = (PricedBy::Rules, revisions.next());
    tx.change(
        "update plans set price = 0, priced_by = $1, revision = $2 where id = $3",
        &[priced_by.word().into(), revision.into(), id.as_bytes().into()],
    )?;
    revisions.end(tx)?;
    let detail = format!("{} {} -> rules", listed.plan.price, listed.plan.price.currency());
    audit::write(tx, act, "plan.priced_by_rules", &id.to_string(), &detail, None)?;
    tx.after_commit(Event::PlansChanged);
    let price = Money::zero(listed.plan.price.currency());
    Ok(Listed { plan: Plan { price, ..listed.plan }, priced_by, revision, ..listed })
}

/// Takes a plan off sale. One that the catalogue took off sale does not come back with its offers any more.
///
/// # Errors
/// [`PlanRefusal`].
pub fn withdraw(tx: &mut dyn Tx, act: &Act, id: PlanId) -> Decision<Listed, PlanRefusal> {
    let mut revisions = Revisions::begin(tx)?;
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    if listed.withdrawn_by == Some(WithdrawnBy::Operator) {
        return refuse(PlanRefusal::AlreadyDecided);
    }
    let (at, by) = (listed.withdrawn_at.unwrap_or_else(|| tx.now()), WithdrawnBy::Operator);
    let revision = revisions.next();
    tx.change(
        "update plans set withdrawn_at = $1, withdrawn_by = $2, revision = $3 where id = $4",
        &[at.into(), by.word().into(), revision.into(), id.as_bytes().into()],
    )?;
    revisions.end(tx)?;
    audit::write(tx, act, "plan.withdrawn", &id.to_string(), "", None)?;
    tx.after_commit(Event::PlansChanged);
    Ok(Listed { withdrawn_at: Some(at), withdrawn_by: Some(by), revision, ..listed })
}

/// Takes back that the operator withdrew a plan: it is on sale again. One that lives from offers is so while one of them
/// can be bought; until then the catalogue keeps it off sale, and brings it back with its offers.
///
/// # Errors
/// [`PlanRefusal`].
pub fn restore(tx: &mut dyn Tx, act: &Act, id: PlanId) -> Decision<Listed, PlanRefusal> {
    let mut revisions = Revisions::begin(tx)?;
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    if listed.withdrawn_by != Some(WithdrawnBy::Operator) {
        return refuse(PlanRefusal::AlreadyDecided);
    }
    let on_sale = listed.plan.provider != CONNECTIONS || offer::any_usable(tx, id)?;
    let (at, by) = if on_sale { (None, None) } else { (listed.withdrawn_at, Some(WithdrawnBy::Catalogue)) };
    let revision = revisions.next();
    tx.change(
        "update plans set withdrawn_at = $1, withdrawn_by = $2, revision = $3 where id = $4",
        &[at.into(), by.map(WithdrawnBy::word).into(), revision.into(), id.as_bytes().into()],
    )?;
    revisions.end(tx)?;
    audit::write(tx, act, "plan.restored", &id.to_string(), "", None)?;
    tx.after_commit(Event::PlansChanged);
    Ok(Listed { withdrawn_at: at, withdrawn_by: by, revision, ..listed })
}

/// Makes a plan that lives from offers. One whose only offer is held begins off sale.
pub(crate) fn insert(tx: &mut dyn Tx, plan: &Plan, on_sale: bool, revision: i64) -> Result<(), Fault> {
    let networks = networks_in_row(&plan.networks)?;
    let now = tx.now();
    tx.change(
        "insert into plans (id, provider, upstream_plan_id, name, plan_type, countries, region, data_mb,
             daily_data_mb, unlimited, validity_days, price, currency, speed, networks, activation,
             top_up_supported, description, fair_use, priced_by, withdrawn_at, withdrawn_by, revision)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
             $23)",
        &[
            plan.id.as_bytes().into(),
            (&plan.provider).into(),
            (&plan.upstream_plan_id).into(),
            (&plan.name).into(),
            plan.plan_type.word().into(),
            (&plan.countries.join(" ")).into(),
            plan.region.as_ref().into(),
            plan.data_mb.into(),
            plan.daily_data_mb.into(),
            plan.unlimited.into(),
            plan.validity_days.into(),
            plan.price.minor().into(),
            plan.price.currency().code().into(),
            plan.speed.as_ref().into(),
            (&networks).into(),
            plan.activation.word().into(),
            plan.top_up_supported.into(),
            plan.description.as_ref().into(),
            plan.fair_use.as_ref().into(),
            PricedBy::Rules.word().into(),
            (!on_sale).then_some(now).into(),
            (!on_sale).then_some(WithdrawnBy::Catalogue.word()).into(),
            revision.into(),
        ],
    )
}

/// Writes what may change of a plan that lives from offers: its words, whether it is on sale, and the revision.
pub(crate) fn follow(tx: &mut dyn Tx, listed: &Listed) -> Result<(), Fault> {
    let plan = &listed.plan;
    let networks = networks_in_row(&plan.networks)?;
    tx.change(
        "update plans set name = $1, speed = $2, networks = $3, activation = $4, top_up_supported = $5, fair_use = $6,
             withdrawn_at = $7, withdrawn_by = $8, revision = $9 where id = $10",
        &[
            (&plan.name).into(),
            plan.speed.as_ref().into(),
            (&networks).into(),
            plan.activation.word().into(),
            plan.top_up_supported.into(),
            plan.fair_use.as_ref().into(),
            listed.withdrawn_at.into(),
            listed.withdrawn_by.map(WithdrawnBy::word).into(),
            listed.revision.into(),
            plan.id.as_bytes().into(),
        ],
    )
}

fn networks_in_row(networks: &[Network]) -> Result<String, Fault> {
    let networks: Vec<_> =
        networks.iter().map(|network| [&network.country, &network.operator, &network.technology]).collect();
    serde_json::to_string(&networks).map_err(|error| Fault::Bug(error.to_string()))
}

const PLAN: &str = "id, provider, upstream_plan_id, name, plan_type, countries, region, data_mb, daily_data_mb, \
     unlimited, validity_days, price, currency, speed, networks, activation, top_up_supported, description, \
     fair_use, withdrawn_at, withdrawn_by, priced_by, revision from plans";

fn listed(row: &dyn Row) -> Result<Listed, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    let currency: Currency = row.text(12)?.parse()?;
    let networks: Vec<[String; 3]> =
        serde_json::from_str(row.text(14)?).map_err(|error| Fault::Bug(format!("malformed networks: {error}")))?;
    let network = |[country, operator, technology]: [String; 3]| Network { country, operator, technology };
    let withdrawn_at = row.opt_int(19)?.map(Timestamp::from_millis);
    Ok(Listed {
        plan: Plan {
            id: PlanId::from_slice(row.bytes(0)?)?,
            provider: row.text(1)?.to_owned(),
            upstream_plan_id: row.text(2)?.to_owned(),
            name: row.text(3)?.to_owned(),
            plan_type: row.text(4)?.parse()?,
            countries: row.text(5)?.split_whitespace().map(str::to_owned).collect(),
            region: text(6)?,
            data_mb: row.opt_int(7)?,
            daily_data_mb: row.opt_int(8)?,
            unlimited: row.int(9)? != 0,
            validity_days: row.int(10)?,
            price: Money::new(row.int(11)?, currency),
            speed: text(13)?,
            networks: networks.into_iter().map(network).collect(),
            activation: row.text(15)?.parse()?,
            top_up_supported: row.int(16)? != 0,
            description: text(17)?,
            fair_use: text(18)?,
        },
        withdrawn_at,
        withdrawn_by: match (withdrawn_at, row.opt_text(20)?) {
            (None, _) => None,
            (Some(_), None) => Some(WithdrawnBy::Operator),
            (Some(_), Some(word)) => Some(word.parse()?),
        },
        priced_by: row.text(21)?.parse()?,
        revision: row.int(22)?,
    })
}

/// One plan, on sale or not.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: PlanId) -> Result<Option<Listed>, Fault> {
    row(snapshot, &format!("select {PLAN} where id = $1"), &[id.as_bytes().into()], listed)
}

/// These plans, as far as there are any.
///
/// # Errors
/// [`Fault`].
pub(crate) fn find_all(snapshot: &mut dyn Snapshot, ids: &[PlanId]) -> Result<Vec<Listed>, Fault> {
    let keys: Vec<Value<'_>> = ids.iter().map(|id| id.as_bytes().into()).collect();
    let mut found = Vec::with_capacity(ids.len());
    rows_of(snapshot, &format!("select {PLAN} where id in ({{keys}})"), &[], &keys, &mut |row| {
        found.push(listed(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// Plans above a revision, lowest first, withdrawn ones included: what changed since the plan with that revision was
/// read. 0 reads all.
///
/// # Errors
/// [`Fault`].
pub fn changed_since(snapshot: &mut dyn Snapshot, revision: i64, limit: u32) -> Result<Vec<Listed>, Fault> {
    let sql = format!("select {PLAN} where revision > $1 order by revision limit $2");
    collect(snapshot, &sql, &[revision.into(), limit.into()], listed)
}

/// Plans after `cursor`, oldest first, withdrawn ones included.
///
/// # Errors
/// [`Fault`].
pub fn list(snapshot: &mut dyn Snapshot, cursor: Option<PlanId>, limit: u32) -> Result<Vec<Listed>, Fault> {
    let after = cursor.map_or_else(uuid::Uuid::nil, PlanId::uuid);
    let sql = format!("select {PLAN} where id > $1 order by id limit $2");
    collect(snapshot, &sql, &[after.as_bytes().into(), limit.into()], listed)
}

/// Changes with every change of the plans on a shared database; nothing on an embedded one, whose process knows.
///
/// # Errors
/// [`Fault`].
pub fn version(snapshot: &mut dyn Snapshot) -> Result<Option<String>, Fault> {
    row(snapshot, "select value from settings where name = 'plans_version'", &[], |row| row.text(0).map(str::to_owned))
}
