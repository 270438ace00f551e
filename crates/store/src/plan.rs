//! The plans on sale.

use crate::audit::{self, Act};
use crate::checkout::is_offered;
use crate::port::{Decision, Event, Fault, Lock, Row, Snapshot, Tx, collect, refuse, row};
use domain::id::PlanId;
use domain::money::{Currency, Money};
use domain::plan::{Network, Plan};
use domain::tenant::Mode;
use domain::time::Timestamp;

/// A plan with what only the operator sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The plan.
    pub plan: Plan,
    /// When it was taken off sale.
    pub withdrawn_at: Option<Timestamp>,
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
        let networks: Vec<_> =
            plan.networks.iter().map(|network| [&network.country, &network.operator, &network.technology]).collect();
        let networks = serde_json::to_string(&networks).map_err(|error| Fault::Bug(error.to_string()))?;
        tx.execute(
            "insert into plans (id, provider, upstream_plan_id, name, plan_type, countries, region, data_mb,
                 daily_data_mb, unlimited, validity_days, price, currency, speed, networks, activation,
                 top_up_supported, description, fair_use)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
             on conflict (id) do update set name = excluded.name, plan_type = excluded.plan_type,
                 countries = excluded.countries, region = excluded.region, data_mb = excluded.data_mb,
                 daily_data_mb = excluded.daily_data_mb, unlimited = excluded.unlimited,
                 validity_days = excluded.validity_days, price = excluded.price, currency = excluded.currency,
                 speed = excluded.speed, networks = excluded.networks, activation = excluded.activation,
                 top_up_supported = excluded.top_up_supported, description = excluded.description,
                 fair_use = excluded.fair_use, withdrawn_at = null",
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
            ],
        )?;
    }
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
    /// It was withdrawn before.
    AlreadyDecided,
}

/// Sets a plan's price; orders keep the price they were sold at.
///
/// # Errors
/// [`PlanRefusal`].
pub fn set_price(tx: &mut dyn Tx, act: &Act, id: PlanId, price: Money) -> Decision<Listed, PlanRefusal> {
    // One operator after the other: the record names the price before.
    tx.lock(Lock::Audit)?;
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    tx.change(
        "update plans set price = $1, currency = $2 where id = $3",
        &[price.minor().into(), price.currency().code().into(), id.as_bytes().into()],
    )?;
    let detail = format!("{} -> {price} {}", listed.plan.price, price.currency());
    audit::write(tx, act, "plan.priced", &id.to_string(), &detail, None)?;
    tx.after_commit(Event::PlansChanged);
    Ok(Listed { plan: Plan { price, ..listed.plan }, ..listed })
}

/// Takes a plan off sale.
///
/// # Errors
/// [`PlanRefusal`].
pub fn withdraw(tx: &mut dyn Tx, act: &Act, id: PlanId) -> Decision<Listed, PlanRefusal> {
    let Some(listed) = find(tx, id)? else { return refuse(PlanRefusal::NotFound) };
    if listed.withdrawn_at.is_some() {
        return refuse(PlanRefusal::AlreadyDecided);
    }
    let now = tx.now();
    tx.change(
        "update plans set withdrawn_at = $1 where id = $2 and withdrawn_at is null",
        &[now.into(), id.as_bytes().into()],
    )?;
    audit::write(tx, act, "plan.withdrawn", &id.to_string(), "", None)?;
    tx.after_commit(Event::PlansChanged);
    Ok(Listed { withdrawn_at: Some(now), ..listed })
}

const PLAN: &str = "id, provider, upstream_plan_id, name, plan_type, countries, region, data_mb, daily_data_mb, \
     unlimited, validity_days, price, currency, speed, networks, activation, top_up_supported, description, \
     fair_use, withdrawn_at from plans";

fn listed(row: &dyn Row) -> Result<Listed, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    let currency: Currency = row.text(12)?.parse()?;
    let networks: Vec<[String; 3]> =
        serde_json::from_str(row.text(14)?).map_err(|error| Fault::Bug(format!("malformed networks: {error}")))?;
    let network = |[country, operator, technology]: [String; 3]| Network { country, operator, technology };
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
        withdrawn_at: row.opt_int(19)?.map(Timestamp::from_millis),
    })
}

/// One plan, on sale or not.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: PlanId) -> Result<Option<Listed>, Fault> {
    row(snapshot, &format!("select {PLAN} where id = $1"), &[id.as_bytes().into()], listed)
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

/// The plans on sale in a mode, oldest first.
///
/// # Errors
/// [`Fault`].
pub fn on_sale(
    snapshot: &mut dyn Snapshot,
    mode: Mode,
    currency: Currency,
    sandbox_in_live: bool,
) -> Result<Vec<Plan>, Fault> {
    let sql = format!("select {PLAN} where withdrawn_at is null and currency = $1 order by id");
    let plans = collect(snapshot, &sql, &[currency.code().into()], listed)?;
    let offered = |plan: &Plan| is_offered(&plan.provider, mode, sandbox_in_live);
    Ok(plans.into_iter().map(|listed| listed.plan).filter(offered).collect())
}

/// Changes with every change of the plans on a shared database; nothing on an embedded one, whose process knows.
///
/// # Errors
/// [`Fault`].
pub fn version(snapshot: &mut dyn Snapshot) -> Result<Option<String>, Fault> {
    row(snapshot, "select value from settings where name = 'plans_version'", &[], |row| row.text(0).map(str::to_owned))
}
