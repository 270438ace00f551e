//! Top-ups: from the wish to the credit, once.

use crate::audit::{self, Act};
use crate::ledger::{lock_existing, write};
use crate::port::{Decision, Fault, KeyHash, Remembered, Row, Snapshot, Tx, collect, refuse, row};
use domain::id::{EntryId, TenantId, TopUpId};
use domain::ledger::{Account, Movement};
use domain::money::{Currency, Money};
use domain::tenant::{Mode, NotAllowed, Scope};
use domain::time::Timestamp;
use domain::top_up::{PaymentMethod, TopUpEvent, TopUpStatus, transfer_reference};

/// A top-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// Its id; its creation's time, too. The contract calls it `orderId`.
    pub id: TopUpId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The world.
    pub mode: Mode,
    /// What the partner wants to pay.
    pub amount: Money,
    /// How.
    pub payment_method: PaymentMethod,
    /// Where it is.
    pub status: TopUpStatus,
    /// What the bank statement is matched by.
    pub reference: Option<String>,
    /// Where the partner put the proof. Never fetched by the platform.
    pub transfer_proof_url: Option<String>,
    /// Why the operator refused it.
    pub rejection_reason: Option<String>,
    /// What was credited.
    pub credited: Option<Money>,
    /// Until when the money is awaited.
    pub expires_at: Timestamp,
    /// When it was credited.
    pub paid_at: Option<Timestamp>,
}

impl TopUp {
    /// Where it is at `now`: a pending one expires by itself, whether or not that was written down yet.
    #[must_use]
    pub fn status_at(&self, now: Timestamp) -> TopUpStatus {
        match self.status {
            TopUpStatus::Pending if self.expires_at <= now => TopUpStatus::Expired,
            status => status,
        }
    }
}

/// The same in SQL.
const STATUS_AT: &str = "case when status = 'pending' and expires_at <= $1 then 'expired' else status end";

/// A wish to pay by bank transfer, validated.
#[derive(Debug, Clone)]
pub struct NewTopUp {
    /// Who pays.
    pub scope: Scope,
    /// How much.
    pub amount: Money,
    /// Milliseconds until it expires.
    pub expires_in_ms: i64,
    /// The idempotency key's hash and the body's.
    pub key: Option<(KeyHash, [u8; 16])>,
}

/// Why a top-up is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopUpRefusal {
    /// There is no such top-up in this world.
    NotFound,
    /// The tenant may not change anything.
    NotAllowed(NotAllowed),
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
    /// Proofs belong to bank transfers.
    NotABankTransfer,
    /// It was decided before.
    AlreadyDecided,
    /// The amount would lead out of the range of money.
    TooLarge,
}

/// Begins a top-up by bank transfer. The flag says whether it is the answer to an earlier request.
///
/// # Errors
/// [`TopUpRefusal`].
pub fn begin(tx: &mut dyn Tx, new: &NewTopUp) -> Decision<(TopUp, bool), TopUpRefusal> {
    let locked = lock_existing(tx, new.scope.tenant, new.scope.mode)?;
    let remembered = match &new.key {
        Some((key, body)) => tx.recall(key)?.map(|remembered| (remembered, remembered.body_hash == *body)),
        None => None,
    };
    // A repeat gets its answer whatever has become of the tenant; everything else is a new wish.
    if let (Err(refusal), None | Some((_, false))) = (locked.status.may_change(), &remembered) {
        return refuse(TopUpRefusal::NotAllowed(refusal));
    }
    if let Some((remembered, is_repeat)) = remembered {
        if !is_repeat {
            return refuse(TopUpRefusal::IdempotencyKeyReused);
        }
        let found = find(tx, TopUpId::new(remembered.result))?;
        let top_up = found.ok_or_else(|| Fault::Bug("a remembered top-up is not there".to_owned()))?;
        return Ok((as_begun(top_up), true));
    }
    let id = TopUpId::new(tx.fresh_id());
    let top_up = TopUp {
        id,
        tenant: new.scope.tenant,
        mode: new.scope.mode,
        amount: new.amount,
        payment_method: PaymentMethod::BankTransfer,
        status: TopUpStatus::Pending,
        reference: Some(transfer_reference(tx.random())),
        transfer_proof_url: None,
        rejection_reason: None,
        credited: None,
        expires_at: tx.now().plus_millis(new.expires_in_ms),
        paid_at: None,
    };
    tx.change(
        "insert into top_ups (id, tenant_id, mode, amount, currency, payment_method, status, reference, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        &[
            id.as_bytes().into(),
            top_up.tenant.as_bytes().into(),
            top_up.mode.word().into(),
            top_up.amount.minor().into(),
            top_up.amount.currency().code().into(),
            top_up.payment_method.word().into(),
            top_up.status.word().into(),
            top_up.reference.as_ref().into(),
            top_up.expires_at.into(),
        ],
    )?;
    if let Some((key, body_hash)) = new.key {
        tx.remember(key, Remembered { body_hash, result: id.uuid(), count: 1 })?;
    }
    Ok((top_up, false))
}

/// A top-up as it was answered when it began.
fn as_begun(top_up: TopUp) -> TopUp {
    TopUp {
        status: TopUpStatus::Pending,
        transfer_proof_url: None,
        rejection_reason: None,
        credited: None,
        paid_at: None,
        ..top_up
    }
}

/// Takes a proof of the transfer; in test mode that is the payment.
///
/// # Errors
/// [`TopUpRefusal`].
pub fn prove(tx: &mut dyn Tx, scope: Scope, id: TopUpId, url: &str) -> Decision<TopUp, TopUpRefusal> {
    let locked = lock_existing(tx, scope.tenant, scope.mode)?;
    if let Err(refusal) = locked.status.may_change() {
        return refuse(TopUpRefusal::NotAllowed(refusal));
    }
    let Some(top_up) = of_tenant(tx, scope.tenant, scope.mode, id)? else { return refuse(TopUpRefusal::NotFound) };
    if top_up.payment_method != PaymentMethod::BankTransfer {
        return refuse(TopUpRefusal::NotABankTransfer);
    }
    let Some(status) = top_up.status_at(tx.now()).after(TopUpEvent::Prove) else {
        return refuse(TopUpRefusal::AlreadyDecided);
    };
    tx.change(
        "update top_ups set status = $1, transfer_proof_url = $2 where id = $3 and status = $4",
        &[status.word().into(), url.into(), id.as_bytes().into(), top_up.status.word().into()],
    )?;
    let top_up = TopUp { status, transfer_proof_url: Some(url.to_owned()), ..top_up };
    match scope.mode {
        Mode::Live => Ok(top_up),
        Mode::Test => pay(tx, top_up, None),
    }
}

/// Credits a top-up: guarded by its status, so it happens once.
fn pay(tx: &mut dyn Tx, top_up: TopUp, received: Option<Money>) -> Decision<TopUp, TopUpRefusal> {
    let mut locked = lock_existing(tx, top_up.tenant, top_up.mode)?;
    let Some(status) = top_up.status.after(TopUpEvent::Pay) else { return refuse(TopUpRefusal::AlreadyDecided) };
    let credited = received.unwrap_or(top_up.amount);
    if !locked.leaves_room(credited) {
        return refuse(TopUpRefusal::TooLarge);
    }
    let clearing = match top_up.payment_method {
        PaymentMethod::BankTransfer => Account::BankTransferClearing,
        PaymentMethod::Stripe => Account::StripeClearing,
    };
    let now = tx.now();
    tx.change(
        "update top_ups set status = $1, credited = $2, paid_at = $3 where id = $4 and status = $5",
        &[
            status.word().into(),
            credited.minor().into(),
            now.into(),
            top_up.id.as_bytes().into(),
            top_up.status.word().into(),
        ],
    )?;
    let entry = EntryId::new(tx.fresh_id());
    write(tx, &mut locked, entry, Movement::top_up(top_up.id, clearing, credited))?;
    tx.store_credit(&locked)?;
    Ok(TopUp { status, credited: Some(credited), paid_at: Some(now), ..top_up })
}

/// Locks the tenant of a top-up, then reads the top-up: whoever decides second sees the first decision.
fn locked_top_up(tx: &mut dyn Tx, id: TopUpId) -> Decision<TopUp, TopUpRefusal> {
    let Some(seen) = find(tx, id)? else { return refuse(TopUpRefusal::NotFound) };
    if tx.lock_credit(seen.tenant, seen.mode)?.is_none() {
        return Err(Fault::Bug(format!("tenant {} has no balance", seen.tenant)).into());
    }
    match find(tx, id)? {
        Some(top_up) => Ok(top_up),
        None => refuse(TopUpRefusal::NotFound),
    }
}

/// The operator saw the money: the top-up is credited with its amount, or with what really came. The
/// flag says whether it is the answer to an earlier request.
///
/// # Errors
/// [`TopUpRefusal`].
pub fn approve(
    tx: &mut dyn Tx,
    act: &Act,
    id: TopUpId,
    received: Option<Money>,
    key: Option<(KeyHash, [u8; 16])>,
) -> Decision<(TopUp, bool), TopUpRefusal> {
    let top_up = locked_top_up(tx, id)?;
    if let Some((key, body)) = &key
        && let Some(remembered) = tx.recall(key)?
    {
        return if remembered.body_hash == *body {
            Ok((top_up, true))
        } else {
            refuse(TopUpRefusal::IdempotencyKeyReused)
        };
    }
    let top_up = pay(tx, top_up, received)?;
    if let Some((key, body_hash)) = key {
        // Under an id of its own: the top-up's stands for the request that began it.
        let result = tx.fresh_id();
        tx.remember(key, Remembered { body_hash, result, count: 1 })?;
    }
    let credited = top_up.credited.unwrap_or(top_up.amount);
    let detail = format!("{credited} {}", credited.currency());
    audit::write(tx, act, "top_up.approved", &id.to_string(), &detail, None)?;
    Ok((top_up, false))
}

/// The operator refuses a top-up.
///
/// # Errors
/// [`TopUpRefusal`].
pub fn reject(tx: &mut dyn Tx, act: &Act, id: TopUpId, reason: &str) -> Decision<TopUp, TopUpRefusal> {
    let top_up = locked_top_up(tx, id)?;
    let Some(status) = top_up.status_at(tx.now()).after(TopUpEvent::Reject) else {
        return refuse(TopUpRefusal::AlreadyDecided);
    };
    tx.change(
        "update top_ups set status = $1, rejection_reason = $2 where id = $3 and status = $4",
        &[status.word().into(), reason.into(), id.as_bytes().into(), top_up.status.word().into()],
    )?;
    audit::write(tx, act, "top_up.rejected", &id.to_string(), "", Some(reason))?;
    Ok(TopUp { status, rejection_reason: Some(reason.to_owned()), ..top_up })
}

/// Expires the pending top-ups whose time is over. Returns how many.
///
/// # Errors
/// [`Fault`].
pub fn expire_due(tx: &mut dyn Tx) -> Decision<usize, std::convert::Infallible> {
    let now = tx.now();
    Ok(tx.execute(
        "update top_ups set status = 'expired' where status = 'pending' and expires_at <= $1",
        &[now.into()],
    )?)
}

const TOP_UP: &str = "id, tenant_id, mode, amount, currency, payment_method, status, reference, transfer_proof_url, \
     rejection_reason, credited, expires_at, paid_at from top_ups";

fn top_up(row: &dyn Row) -> Result<TopUp, Fault> {
    let currency: Currency = row.text(4)?.parse()?;
    let text = |column| row.opt_text(column).map(|text| text.map(str::to_owned));
    Ok(TopUp {
        id: TopUpId::from_slice(row.bytes(0)?)?,
        tenant: TenantId::from_slice(row.bytes(1)?)?,
        mode: row.text(2)?.parse()?,
        amount: Money::new(row.int(3)?, currency),
        payment_method: row.text(5)?.parse()?,
        status: row.text(6)?.parse()?,
        reference: text(7)?,
        transfer_proof_url: text(8)?,
        rejection_reason: text(9)?,
        credited: row.opt_int(10)?.map(|minor| Money::new(minor, currency)),
        expires_at: Timestamp::from_millis(row.int(11)?),
        paid_at: row.opt_int(12)?.map(Timestamp::from_millis),
    })
}

/// A top-up, whoever's it is.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: TopUpId) -> Result<Option<TopUp>, Fault> {
    row(snapshot, &format!("select {TOP_UP} where id = $1"), &[id.as_bytes().into()], top_up)
}

/// A top-up of a tenant's world; another tenant's is not there.
///
/// # Errors
/// [`Fault`].
pub fn of_tenant(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    id: TopUpId,
) -> Result<Option<TopUp>, Fault> {
    Ok(find(snapshot, id)?.filter(|top_up| top_up.tenant == tenant && top_up.mode == mode))
}

/// A tenant's top-ups below `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    now: Timestamp,
    tenant: TenantId,
    mode: Mode,
    status: Option<TopUpStatus>,
    cursor: Option<TopUpId>,
    limit: u32,
) -> Result<Vec<TopUp>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, TopUpId::uuid);
    let sql = format!(
        "select {TOP_UP} where ({STATUS_AT} = $2 or $2 is null) and tenant_id = $3 and mode = $4 and id < $5
         order by id desc limit $6"
    );
    let status = status.map(TopUpStatus::word);
    collect(
        snapshot,
        &sql,
        &[
            now.into(),
            status.into(),
            tenant.as_bytes().into(),
            mode.word().into(),
            below.as_bytes().into(),
            limit.into(),
        ],
        top_up,
    )
}

/// All top-ups below `cursor`, newest first: the operator's view.
///
/// # Errors
/// [`Fault`].
pub fn list_all(
    snapshot: &mut dyn Snapshot,
    now: Timestamp,
    status: Option<TopUpStatus>,
    reference: Option<&str>,
    cursor: Option<TopUpId>,
    limit: u32,
) -> Result<Vec<TopUp>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, TopUpId::uuid);
    let sql = format!(
        "select {TOP_UP} where ({STATUS_AT} = $2 or $2 is null) and id < $3 and (reference = $4 or $4 is null)
         order by id desc limit $5"
    );
    let status = status.map(TopUpStatus::word);
    collect(
        snapshot,
        &sql,
        &[now.into(), status.into(), below.as_bytes().into(), reference.into(), limit.into()],
        top_up,
    )
}
