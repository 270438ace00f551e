//! The eSIMs of orders. A pending eSIM has no row: its id and position follow from its order.

use crate::port::{Event, Fault, Row, Snapshot, Tx, collect};
use domain::esim::{EsimState, EsimStatus, PlanStatus, ProfileStatus, summary};
use domain::fulfilment::Profile;
use domain::id::{EsimId, OrderId, TenantId};
use domain::order::OrderStatus;
use domain::time::Timestamp;

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

/// Notes what the outside says about a delivered eSIM's profile and plan. Returns whether it is ours.
///
/// # Errors
/// [`Fault`].
pub fn observe(
    tx: &mut dyn Tx,
    order: OrderId,
    iccid: &str,
    profile: ProfileStatus,
    plan: PlanStatus,
) -> Result<bool, Fault> {
    let changed = tx.execute(
        "update esims set profile_status = $1, plan_status = $2
         where id > $3 and id <= $4 and iccid = $5 and state in ('delivered', 'cancelling')",
        &[
            profile.word().into(),
            plan.word().into(),
            order.as_bytes().into(),
            order.last_esim().as_bytes().into(),
            iccid.into(),
        ],
    )?;
    if changed > 0 {
        tx.after_commit(Event::OrderChanged(order));
    }
    Ok(changed > 0)
}
