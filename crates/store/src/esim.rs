//! The eSIMs of orders. A pending eSIM has no row: its id and position follow from its order.

use crate::ledger::World;
use crate::order::{self, MOST_CANDIDATES, Order};
use crate::port::{Fault, Row, Snapshot, Tx, collect};
use domain::esim::{EsimFilter, EsimState, EsimStatus, PlanStatus, ProfileStatus, summary};
use domain::fulfilment::Profile;
use domain::id::{EsimId, OrderId, TenantId};
use domain::order::{OrderFilter, OrderStatus};
use domain::time::Timestamp;
use std::sync::Arc;

/// One eSIM of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esim {
    /// Its id.
    pub id: EsimId,
    /// What became of it as a thing bought.
    pub state: EsimState,
    /// Where the profile is; none while it is pending.
    pub profile_status: Option<ProfileStatus>,
    /// Where the plan is; none while it is pending.
    pub plan_status: Option<PlanStatus>,
    /// The number of the placement that delivered it.
    pub placement: u32,
    /// ICCID.
    pub iccid: Option<String>,
    /// The upstream's own name of it, by which it is asked about it.
    pub upstream_handle: Option<String>,
    /// Host name of the SM-DP+.
    pub smdp_address: Option<String>,
    /// MatchingID.
    pub matching_id: Option<String>,
    /// The text inside the QR code.
    pub activation_code: Option<String>,
    /// The confirmation code.
    pub confirmation_code: Option<String>,
    /// Access point name.
    pub apn: Option<String>,
    /// Telephone number.
    pub msisdn: Option<String>,
    /// SIM PIN.
    pub pin: Option<String>,
    /// SIM PUK.
    pub puk: Option<String>,
    /// Last moment to install it.
    pub install_by: Option<Timestamp>,
    /// When it was delivered.
    pub delivered_at: Option<Timestamp>,
    /// Minor units given back for it.
    pub refunded: i64,
    /// Why the upstream did not take it back.
    pub cancel_failure: Option<String>,
}

impl Esim {
    /// The summary partners see.
    #[must_use]
    pub fn status(&self) -> EsimStatus {
        summary(
            self.state,
            self.profile_status.unwrap_or(ProfileStatus::Released),
            self.plan_status.unwrap_or(PlanStatus::NotActive),
        )
    }

    fn without_row(id: EsimId, state: EsimState) -> Self {
        Self {
            id,
            state,
            profile_status: None,
            plan_status: None,
            placement: 0,
            iccid: None,
            upstream_handle: None,
            smdp_address: None,
            matching_id: None,
            activation_code: None,
            confirmation_code: None,
            apn: None,
            msisdn: None,
            pin: None,
            puk: None,
            install_by: None,
            delivered_at: None,
            refunded: 0,
            cancel_failure: None,
        }
    }
}

/// Completes an order's eSIMs with those that have no row: pending while the order is being fulfilled,
/// failed afterwards.
pub(crate) fn fill(order: OrderId, quantity: u32, status: OrderStatus, rows: Vec<Esim>) -> Vec<Esim> {
    let missing = if status.is_final() { EsimState::Failed } else { EsimState::Pending };
    let mut rows = rows.into_iter().peekable();
    (0..u16::try_from(quantity).unwrap_or(u16::MAX))
        .map(|position| {
            let id = order.esim(position);
            rows.next_if(|esim| esim.id == id).unwrap_or_else(|| Esim::without_row(id, missing))
        })
        .collect()
}

const ESIM: &str = "id, state, profile_status, plan_status, placement, iccid, smdp_address, matching_id, \
     activation_code, confirmation_code, apn, msisdn, pin, puk, install_by, delivered_at, refunded, cancel_failure, \
     upstream_handle";

fn esim(row: &dyn Row) -> Result<Esim, Fault> {
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(Esim {
        id: EsimId::from_slice(row.bytes(0)?)?,
        state: row.text(1)?.parse()?,
        profile_status: Some(row.text(2)?.parse()?),
        plan_status: Some(row.text(3)?.parse()?),
        placement: u32::try_from(row.int(4)?).map_err(|_| Fault::Bug("placement out of range".to_owned()))?,
        iccid: text(5)?,
        smdp_address: text(6)?,
        matching_id: text(7)?,
        activation_code: text(8)?,
        confirmation_code: text(9)?,
        apn: text(10)?,
        msisdn: text(11)?,
        pin: text(12)?,
        puk: text(13)?,
        install_by: row.opt_int(14)?.map(Timestamp::from_millis),
        delivered_at: row.opt_int(15)?.map(Timestamp::from_millis),
        refunded: row.int(16)?,
        cancel_failure: text(17)?,
        upstream_handle: text(18)?,
    })
}

/// The rows of an order's eSIMs, in order of position.
pub(crate) fn of_order(snapshot: &mut dyn Snapshot, order: OrderId) -> Result<Vec<Esim>, Fault> {
    let sql = format!("select {ESIM} from esims where id > $1 and id <= $2 order by id");
    collect(snapshot, &sql, &[order.as_bytes().into(), order.last_esim().as_bytes().into()], esim)
}

/// Writes a delivered profile.
pub(crate) fn deliver(
    tx: &mut dyn Tx,
    id: EsimId,
    tenant: TenantId,
    placement: u32,
    profile: &Profile,
) -> Result<(), Fault> {
    let now = tx.now();
    tx.change(
        "insert into esims (id, tenant_id, state, profile_status, plan_status, placement, iccid, smdp_address,
             matching_id, activation_code, confirmation_code, apn, msisdn, pin, puk, install_by, delivered_at, refunded,
             upstream_handle)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, $18)",
        &[
            id.as_bytes().into(),
            tenant.as_bytes().into(),
            EsimState::Delivered.word().into(),
            ProfileStatus::Released.word().into(),
            PlanStatus::NotActive.word().into(),
            placement.into(),
            (&profile.iccid).into(),
            (&profile.smdp_address).into(),
            (&profile.matching_id).into(),
            (&profile.activation_code).into(),
            profile.confirmation_code.as_ref().into(),
            profile.apn.as_ref().into(),
            profile.msisdn.as_ref().into(),
            profile.pin.as_ref().into(),
            profile.puk.as_ref().into(),
            profile.install_by.into(),
            now.into(),
            profile.handle.as_ref().into(),
        ],
    )?;
    Ok(())
}

/// The most eSIMs one read looks at.
const MOST_LOOKED_AT: usize = 4_000;

/// A page of a list of eSIMs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The eSIMs with their orders, newest first: the higher id, the newer.
    pub esims: Vec<(Arc<Order>, Esim)>,
    /// The id below which the next page begins; `None` at the end. Not always that of an eSIM.
    pub next: Option<EsimId>,
}

/// A tenant's eSIMs below `cursor`, newest first. It walks orders as their own list does, and like that it answers a
/// short page rather than to look at more than so many.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    (tenant, mode): World,
    filter: &EsimFilter,
    cursor: Option<EsimId>,
    limit: usize,
) -> Result<Page, Fault> {
    let mut only = filter.order.map(|order| std::iter::once(order.uuid()));
    let mut found = match &only {
        Some(_) => None,
        None => {
            let below = cursor.map(|cursor| OrderId::new(cursor.uuid()));
            Some(order::may_fit(snapshot, (tenant, mode), &orders_of(filter), below)?)
        }
    };
    let mut esims = Vec::new();
    let (mut orders, mut looked_at) = (0, 0);
    loop {
        let next = match (&mut found, &mut only) {
            (Some(found), _) => found.next(snapshot)?,
            (None, Some(only)) => only.next(),
            (None, None) => None,
        };
        let Some(id) = next else { return Ok(Page { esims, next: None }) };
        let id = OrderId::new(id);
        // Among all orders come a tenant's other transactions: they do not shorten a page.
        let Some(order) = order::of_tenant(snapshot, tenant, mode, id)? else { continue };
        orders += 1;
        looked_at += order.esims.len();
        let order = Arc::new(order);
        let fitting = order.esims.iter().rev().filter(|esim| cursor.is_none_or(|cursor| esim.id < cursor));
        for esim in fitting.filter(|esim| fits(esim, filter)) {
            if esims.len() == limit {
                let next = esims.last().map(|(_, last): &(Arc<Order>, Esim)| last.id);
                return Ok(Page { esims, next });
            }
            esims.push((Arc::clone(&order), esim.clone()));
        }
        if orders >= MOST_CANDIDATES || looked_at >= MOST_LOOKED_AT {
            return Ok(Page { esims, next: Some(EsimId::new(id.uuid())) });
        }
    }
}

/// What the orders of such eSIMs have in common.
fn orders_of(filter: &EsimFilter) -> OrderFilter {
    let status = match filter.status {
        Some(EsimStatus::Pending) => Some(OrderStatus::Processing),
        _ => None,
    };
    OrderFilter { iccid: filter.iccid.clone(), status, ..OrderFilter::default() }
}

fn fits(esim: &Esim, filter: &EsimFilter) -> bool {
    filter.status.is_none_or(|status| esim.status() == status)
        && filter.iccid.as_ref().is_none_or(|iccid| esim.iccid.as_ref() == Some(iccid))
}
