//! Tenants: registration, profile, and what the operator decides about them.

use crate::audit::{self, Act};
use crate::ledger::{self, Credit, Transaction, lock_existing, write};
use crate::port::{Decision, Event, Fault, KeyHash, Lock, Remembered, Row, Snapshot, Tx, collect, refuse, row};
use domain::id::{EntryId, TenantId, UserId};
use domain::ledger::Movement;
use domain::money::{Currency, Money};
use domain::tenant::{Mode, TenantStatus, Tier};

/// A partner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id; its registration's time too.
    pub id: TenantId,
    /// The number its orders begin with.
    pub number: i64,
    /// Display name.
    pub name: String,
    /// Name of its storefront.
    pub subdomain: String,
    /// Where the operator reaches it.
    pub contact_email: String,
    /// Where it stands.
    pub status: TenantStatus,
    /// Its billing currency.
    pub currency: Currency,
    /// The group whose prices it buys at.
    pub tier: Option<Tier>,
}

/// A registration, validated, its password hashed.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Display name.
    pub name: String,
    /// Name of its storefront.
    pub subdomain: String,
    /// Contact and login address.
    pub contact_email: String,
    /// PHC string of the password.
    pub password_hash: String,
    /// Its status from the start.
    pub status: TenantStatus,
    /// Its billing currency.
    pub currency: Currency,
    /// What the test balance begins with.
    pub test_credit: Money,
}

/// Why a registration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterRefusal {
    /// The address has an account already.
    EmailTaken,
    /// The subdomain is, or was, somebody's.
    SubdomainTaken,
}

const FIRST_NUMBER: i64 = 1_001;

/// Makes a tenant with its owner and its two balances.
///
/// # Errors
/// [`RegisterRefusal`].
pub fn register(tx: &mut dyn Tx, registration: &Registration) -> Decision<Tenant, RegisterRefusal> {
    tx.lock(Lock::Registration)?;
    let email = registration.contact_email.to_lowercase();
    if row(tx, "select 1 from users where email = $1", &[(&email).into()], |_| Ok(()))?.is_some() {
        return refuse(RegisterRefusal::EmailTaken);
    }
    let subdomain = &registration.subdomain;
    if row(tx, "select 1 from tenants where subdomain = $1", &[subdomain.into()], |_| Ok(()))?.is_some() {
        return refuse(RegisterRefusal::SubdomainTaken);
    }
    let last = row(tx, "select max(number) from tenants", &[], |row| row.opt_int(0))?.flatten();
    let number = last.map_or(FIRST_NUMBER, |last| last + 1);
    let id = TenantId::new(tx.fresh_id());
    tx.change(
        "insert into tenants (id, number, name, subdomain, contact_email, status, currency)
         values ($1, $2, $3, $4, $5, $6, $7)",
        &[
            id.as_bytes().into(),
            number.into(),
            (&registration.name).into(),
            subdomain.into(),
            (&registration.contact_email).into(),
            registration.status.word().into(),
            registration.currency.code().into(),
        ],
    )?;
    let user = UserId::new(tx.fresh_id());
    tx.change(
        "insert into users (id, tenant_id, email, password_hash) values ($1, $2, $3, $4)",
        &[user.as_bytes().into(), id.as_bytes().into(), (&email).into(), (&registration.password_hash).into()],
    )?;
    for mode in Mode::ALL {
        tx.change(
            "insert into balances (tenant_id, mode, balance, credit_limit, entry_count, entry_hash, order_count)
             values ($1, $2, 0, 0, 0, $3, 0)",
            &[id.as_bytes().into(), mode.word().into(), (&[0_u8; 32]).into()],
        )?;
    }
    if registration.test_credit.minor() > 0 {
        let mut locked = lock_existing(tx, id, Mode::Test)?;
        let entry = EntryId::new(tx.fresh_id());
        let entry = write(tx, &mut locked, entry, Movement::adjustment(registration.test_credit))?;
        ledger::write_note(tx, &entry, "Test credit")?;
        tx.store_credit(&locked)?;
    }
    let found = find(tx, id)?;
    found.ok_or_else(|| Fault::Bug("a tenant just made is not there".to_owned()).into())
}

/// Changes of a tenant's profile; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ProfileChange {
    /// Display name.
    pub name: Option<String>,
    /// Contact address; the login address stays.
    pub contact_email: Option<String>,
}

/// Changes a tenant's profile.
///
/// # Errors
/// The tenant's status, where it may not change anything.
pub fn change_profile(
    tx: &mut dyn Tx,
    id: TenantId,
    change: &ProfileChange,
) -> Decision<Tenant, domain::tenant::NotAllowed> {
    lock_existing(tx, id, Mode::Live)?;
    let found = find(tx, id)?;
    let tenant = found.ok_or_else(|| Fault::Bug("the scope's tenant is not there".to_owned()))?;
    if let Err(refusal) = tenant.status.may_change() {
        return refuse(refusal);
    }
    let name = change.name.clone().unwrap_or(tenant.name);
    let contact_email = change.contact_email.clone().unwrap_or(tenant.contact_email);
    tx.change(
        "update tenants set name = $1, contact_email = $2 where id = $3",
        &[(&name).into(), (&contact_email).into(), id.as_bytes().into()],
    )?;
    Ok(Tenant { name, contact_email, ..tenant })
}

/// Why the operator's decision about a tenant is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantRefusal {
    /// There is no such tenant.
    NotFound,
    /// It stands there already.
    AlreadyDecided,
    /// The idempotency key was used with another body.
    IdempotencyKeyReused,
    /// The amount would lead out of the range of money.
    TooLarge,
}

/// Suspends, reinstates or approves a tenant.
///
/// # Errors
/// [`TenantRefusal`].
pub fn set_status(
    tx: &mut dyn Tx,
    act: &Act,
    id: TenantId,
    status: TenantStatus,
    reason: &str,
) -> Decision<Tenant, TenantRefusal> {
    let Some(tenant) = find(tx, id)? else { return refuse(TenantRefusal::NotFound) };
    if tenant.status == status {
        return refuse(TenantRefusal::AlreadyDecided);
    }
    tx.change(
        "update tenants set status = $1 where id = $2 and status = $3",
        &[status.word().into(), id.as_bytes().into(), tenant.status.word().into()],
    )?;
    for mode in Mode::ALL {
        let locked = lock_existing(tx, id, *mode)?;
        tx.store_credit(&Credit { status, ..locked })?;
    }
    audit::write(tx, act, &format!("tenant.{status}"), &id.to_string(), "", Some(reason))?;
    tx.after_commit(Event::AccessChanged);
    Ok(Tenant { status, ..tenant })
}

/// Corrects a tenant's balance by a signed amount. The flag says whether it is the answer to an earlier
/// request.
///
/// # Errors
/// [`TenantRefusal`].
pub fn adjust(
    tx: &mut dyn Tx,
    act: &Act,
    id: TenantId,
    mode: Mode,
    amount: Money,
    reason: &str,
    key: Option<(KeyHash, [u8; 16])>,
) -> Decision<(Transaction, bool), TenantRefusal> {
    let Some(mut locked) = tx.lock_credit(id, mode)? else { return refuse(TenantRefusal::NotFound) };
    if let Some((key, body)) = &key
        && let Some(remembered) = tx.recall(key)?
    {
        if remembered.body_hash != *body {
            return refuse(TenantRefusal::IdempotencyKeyReused);
        }
        let entry = ledger::find(tx, EntryId::new(remembered.result))?;
        let entry = entry.ok_or_else(|| Fault::Bug("a remembered entry is not there".to_owned()))?;
        return Ok((Transaction { entry, note: Some(reason.to_owned()) }, true));
    }
    if !locked.leaves_room(amount) {
        return refuse(TenantRefusal::TooLarge);
    }
    let entry = EntryId::new(tx.fresh_id());
    let entry = write(tx, &mut locked, entry, Movement::adjustment(amount))?;
    ledger::write_note(tx, &entry, reason)?;
    tx.store_credit(&locked)?;
    if let Some((key, body_hash)) = key {
        tx.remember(key, Remembered { body_hash, result: entry.id.uuid(), count: 1 })?;
    }
    let detail = format!("{amount} {} {mode}", amount.currency());
    audit::write(tx, act, "tenant.adjusted", &id.to_string(), &detail, Some(reason))?;
    Ok((Transaction { entry, note: Some(reason.to_owned()) }, false))
}

/// Sets how far below zero a tenant's live balance may go.
///
/// # Errors
/// [`TenantRefusal`].
pub fn set_credit_limit(tx: &mut dyn Tx, act: &Act, id: TenantId, limit: Money) -> Decision<Tenant, TenantRefusal> {
    let Some(tenant) = find(tx, id)? else { return refuse(TenantRefusal::NotFound) };
    let locked = lock_existing(tx, id, Mode::Live)?;
    tx.change(
        "update balances set credit_limit = $1 where tenant_id = $2 and mode = $3",
        &[limit.minor().into(), id.as_bytes().into(), Mode::Live.word().into()],
    )?;
    tx.store_credit(&Credit { limit, ..locked })?;
    let detail = format!("{limit} {}", limit.currency());
    audit::write(tx, act, "tenant.credit_limit", &id.to_string(), &detail, None)?;
    Ok(tenant)
}

/// Puts a tenant into a tier, or into none: from then on it buys at the prices of the rules for that.
///
/// # Errors
/// [`TenantRefusal::NotFound`].
pub fn set_tier(tx: &mut dyn Tx, act: &Act, id: TenantId, tier: Option<Tier>) -> Decision<Tenant, TenantRefusal> {
    // One operator after the other: the record names the tier before.
    tx.lock(Lock::Audit)?;
    let Some(tenant) = find(tx, id)? else { return refuse(TenantRefusal::NotFound) };
    tx.change(
        "update tenants set tier = $1 where id = $2",
        &[tier.as_ref().map(Tier::as_str).into(), id.as_bytes().into()],
    )?;
    let word = |tier: Option<Tier>| tier.map_or_else(|| "none".to_owned(), |tier| tier.to_string());
    let detail = format!("{} -> {}", word(tenant.tier), word(tier));
    audit::write(tx, act, "tenant.tier", &id.to_string(), &detail, None)?;
    tx.after_commit(Event::AccessChanged);
    Ok(Tenant { tier, ..tenant })
}

pub(crate) fn read_tier(text: Option<&str>) -> Result<Option<Tier>, Fault> {
    text.map(str::parse).transpose().map_err(|_| Fault::Bug("malformed tier in the database".to_owned()))
}

const TENANT: &str = "id, number, name, subdomain, contact_email, status, currency, tier from tenants";

fn tenant(row: &dyn Row) -> Result<Tenant, Fault> {
    Ok(Tenant {
        id: TenantId::from_slice(row.bytes(0)?)?,
        number: row.int(1)?,
        name: row.text(2)?.to_owned(),
        subdomain: row.text(3)?.to_owned(),
        contact_email: row.text(4)?.to_owned(),
        status: row.text(5)?.parse()?,
        currency: row.text(6)?.parse()?,
        tier: read_tier(row.opt_text(7)?)?,
    })
}

/// One tenant.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: TenantId) -> Result<Option<Tenant>, Fault> {
    row(snapshot, &format!("select {TENANT} where id = $1"), &[id.as_bytes().into()], tenant)
}

/// Tenants below `cursor`, newest first, whose name, subdomain or address contains `query`.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    status: Option<TenantStatus>,
    query: Option<&str>,
    cursor: Option<TenantId>,
    limit: u32,
) -> Result<Vec<Tenant>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, TenantId::uuid);
    let pattern = query.map(|query| format!("%{}%", query.to_lowercase().replace(['%', '_', '\\'], "")));
    let sql = format!(
        "select {TENANT} where id < $1 and (status = $2 or $2 is null)
         and (lower(name || ' ' || subdomain || ' ' || contact_email) like $3 or $3 is null)
         order by id desc limit $4"
    );
    let status = status.map(TenantStatus::word);
    collect(snapshot, &sql, &[below.as_bytes().into(), status.into(), pattern.as_ref().into(), limit.into()], tenant)
}

/// Whether there is any tenant at all.
///
/// # Errors
/// [`Fault`].
pub fn any(snapshot: &mut dyn Snapshot) -> Result<bool, Fault> {
    Ok(row(snapshot, "select 1 from tenants limit 1", &[], |_| Ok(()))?.is_some())
}
