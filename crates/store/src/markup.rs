//! Markup rules: what is put on top of a cost, for whom and for what. A rule is never changed: it ends, and another one
//! begins.

use crate::audit::{self, Act};
use crate::port::{Decision, Fault, Row, Snapshot, Tx, collect, refuse, row};
use crate::pricing::Change;
use crate::{plan, tenant};
use domain::id::{MarkupId, PlanId, TenantId};
use domain::money::{Currency, Money};
use domain::pricing::{Markup, MarkupFault, MarkupRule, MarkupScope};

/// Why a rule is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkupRefusal {
    /// What it puts on top is out of bounds.
    OutOfBounds(MarkupFault),
    /// There is no such connection.
    UnknownConnection,
    /// There is no such plan.
    UnknownPlan,
    /// There is no such tenant.
    UnknownTenant,
}

/// There is no such rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleNotFound;

/// Makes a rule; it prices at once.
///
/// # Errors
/// [`MarkupRefusal`].
pub fn create(
    tx: &mut dyn Tx,
    act: &Act,
    scope: &MarkupScope,
    markup: &Markup,
    currency: Currency,
) -> Decision<MarkupRule, MarkupRefusal> {
    let change = Change::begin(tx)?;
    if let Err(fault) = markup.check() {
        return refuse(MarkupRefusal::OutOfBounds(fault));
    }
    if let Some(refusal) = unknown(tx, scope)? {
        return refuse(refusal);
    }
    let newest = row(tx, "select id from markup_rules order by id desc limit 1", &[], |row| {
        Ok(MarkupId::from_slice(row.bytes(0)?)?)
    })?;
    // Of two rules alike the newer one counts, whichever node made it.
    newest.into_iter().for_each(|newest| tx.go_above(newest.uuid()));
    let rule = MarkupRule { id: MarkupId::new(tx.fresh_id()), scope: scope.clone(), markup: *markup, currency };
    tx.change(
        "insert into markup_rules (id, connection, region, country, plan_id, tier, tenant_id, percent, fixed, floor,
             rounding, currency)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        &[
            rule.id.as_bytes().into(),
            scope.connection.as_ref().into(),
            scope.region.as_ref().into(),
            scope.country.as_ref().into(),
            scope.plan.as_ref().map(PlanId::as_bytes).into(),
            scope.tier.as_ref().into(),
            scope.tenant.as_ref().map(TenantId::as_bytes).into(),
            markup.percent.into(),
            markup.fixed.into(),
            markup.floor.into(),
            markup.rounding.word().into(),
            currency.code().into(),
        ],
    )?;
    change.end(tx)?;
    audit::write(tx, act, "markup.created", &rule.id.to_string(), &detail(&rule), None)?;
    Ok(rule)
}

fn unknown(tx: &mut dyn Tx, scope: &MarkupScope) -> Result<Option<MarkupRefusal>, Fault> {
    if let Some(name) = &scope.connection
        && row(tx, "select 1 from connections where name = $1", &[name.into()], |_| Ok(()))?.is_none()
    {
        return Ok(Some(MarkupRefusal::UnknownConnection));
    }
    if let Some(id) = scope.plan
        && plan::find(tx, id)?.is_none()
    {
        return Ok(Some(MarkupRefusal::UnknownPlan));
    }
    if let Some(id) = scope.tenant
        && tenant::find(tx, id)?.is_none()
    {
        return Ok(Some(MarkupRefusal::UnknownTenant));
    }
    Ok(None)
}

/// The rule in words, for the audit log: what has ended can be read there.
fn detail(rule: &MarkupRule) -> String {
    let MarkupScope { connection, region, country, plan, tier, tenant } = &rule.scope;
    let named = [
        ("connection", connection.clone()),
        ("region", region.clone()),
        ("country", country.clone()),
        ("plan", plan.map(|plan| plan.to_string())),
        ("tier", tier.clone()),
        ("tenant", tenant.map(|tenant| tenant.to_string())),
    ];
    let named = named.into_iter().filter_map(|(what, name)| name.map(|name| format!("{what} {name}")));
    let scope = named.collect::<Vec<_>>().join(", ");
    let Markup { percent, fixed, floor, rounding } = rule.markup;
    let amount = |minor: i64| Money::new(minor, rule.currency);
    let floor = floor.map(|floor| format!(", at least {}", amount(floor))).unwrap_or_default();
    let scope = if scope.is_empty() { "everything".to_owned() } else { scope };
    let percent = format!("{}.{:02}", percent / 100, percent % 100);
    format!("{scope}: {percent} % + {} {}{floor}, rounding {rounding}", amount(fixed), rule.currency)
}

/// Ends a rule; what it priced is priced by another one, or not sold any more.
///
/// # Errors
/// [`RuleNotFound`].
pub fn end(tx: &mut dyn Tx, act: &Act, id: MarkupId) -> Decision<MarkupRule, RuleNotFound> {
    let change = Change::begin(tx)?;
    let Some(rule) = find(tx, id)? else { return refuse(RuleNotFound) };
    tx.change("delete from markup_rules where id = $1", &[id.as_bytes().into()])?;
    change.end(tx)?;
    audit::write(tx, act, "markup.ended", &id.to_string(), &detail(&rule), None)?;
    Ok(rule)
}

const RULE: &str = "id, connection, region, country, plan_id, tier, tenant_id, percent, fixed, floor, rounding, \
     currency from markup_rules";

fn rule(row: &dyn Row) -> Result<MarkupRule, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(MarkupRule {
        id: MarkupId::from_slice(row.bytes(0)?)?,
        scope: MarkupScope {
            connection: text(1)?,
            region: text(2)?,
            country: text(3)?,
            plan: row.opt_bytes(4)?.map(PlanId::from_slice).transpose()?,
            tier: text(5)?,
            tenant: row.opt_bytes(6)?.map(TenantId::from_slice).transpose()?,
        },
        markup: Markup {
            percent: row.int(7)?,
            fixed: row.int(8)?,
            floor: row.opt_int(9)?,
            rounding: row.text(10)?.parse()?,
        },
        currency: row.text(11)?.parse()?,
    })
}

/// One rule.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: MarkupId) -> Result<Option<MarkupRule>, Fault> {
    row(snapshot, &format!("select {RULE} where id = $1"), &[id.as_bytes().into()], rule)
}

/// All rules, oldest first.
///
/// # Errors
/// [`Fault`].
pub fn all(snapshot: &mut dyn Snapshot) -> Result<Vec<MarkupRule>, Fault> {
    collect(snapshot, &format!("select {RULE} order by id"), &[], rule)
}

/// Rules below `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(snapshot: &mut dyn Snapshot, cursor: Option<MarkupId>, limit: u32) -> Result<Vec<MarkupRule>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, MarkupId::uuid);
    let sql = format!("select {RULE} where id < $1 order by id desc limit $2");
    collect(snapshot, &sql, &[below.as_bytes().into(), limit.into()], rule)
}
