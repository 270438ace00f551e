//! Who may come in: users, operators, their login sessions, API keys, and the throttling of guesses.

use crate::audit::{self, Act};
use crate::ledger::lock_existing;
use crate::port::{Decision, Event, Fault, Row, Snapshot, Tx, collect, refuse, row};
use crate::tenant::read_tier;
use domain::id::{ApiKeyId, OperatorId, SessionId, TenantId, UserId};
use domain::tenant::{Actor, Mode, NotAllowed, Permission, Permissions, Scope, TenantStatus, Tier};
use domain::time::Timestamp;
use domain::words;
use std::convert::Infallible;
use uuid::Uuid;

words! {
    /// What an operator's account may do.
    pub enum Role {
        /// Everything.
        Admin = "admin",
    }
}

/// An account as a login needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's or operator's id.
    pub id: Uuid,
    /// The user's tenant; none for an operator.
    pub tenant: Option<TenantId>,
    /// PHC string of the password.
    pub password_hash: String,
}

/// The user with this login address.
///
/// # Errors
/// [`Fault`].
pub fn user_by_email(snapshot: &mut dyn Snapshot, email: &str) -> Result<Option<Account>, Fault> {
    let sql = "select id, password_hash, tenant_id from users where email = $1";
    row(snapshot, sql, &[(&email.to_lowercase()).into()], account)
}

/// A user by id.
///
/// # Errors
/// [`Fault`].
pub fn user(snapshot: &mut dyn Snapshot, id: UserId) -> Result<Option<Account>, Fault> {
    let sql = "select id, password_hash, tenant_id from users where id = $1";
    row(snapshot, sql, &[id.as_bytes().into()], account)
}

/// The operator with this login address.
///
/// # Errors
/// [`Fault`].
pub fn operator_by_email(snapshot: &mut dyn Snapshot, email: &str) -> Result<Option<Account>, Fault> {
    let sql = "select id, password_hash, null from operators where email = $1";
    row(snapshot, sql, &[(&email.to_lowercase()).into()], account)
}

fn account(row: &dyn Row) -> Result<Account, Fault> {
    Ok(Account {
        id: Uuid::from_slice(row.bytes(0)?).map_err(|_| Fault::Bug("malformed id".to_owned()))?,
        password_hash: row.text(1)?.to_owned(),
        tenant: row.opt_bytes(2)?.map(TenantId::from_slice).transpose()?,
    })
}

/// Whether there is any operator at all.
///
/// # Errors
/// [`Fault`].
pub fn any_operator(snapshot: &mut dyn Snapshot) -> Result<bool, Fault> {
    Ok(row(snapshot, "select 1 from operators limit 1", &[], |_| Ok(()))?.is_some())
}

/// The address has an operator already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorExists;

/// Makes an operator's account.
///
/// # Errors
/// [`OperatorExists`].
pub fn create_operator(tx: &mut dyn Tx, email: &str, password_hash: &str) -> Decision<OperatorId, OperatorExists> {
    let email = email.to_lowercase();
    if operator_by_email(tx, &email)?.is_some() {
        return refuse(OperatorExists);
    }
    let id = OperatorId::new(tx.fresh_id());
    tx.change(
        "insert into operators (id, email, password_hash, role) values ($1, $2, $3, $4)",
        &[id.as_bytes().into(), (&email).into(), password_hash.into(), Role::Admin.word().into()],
    )?;
    Ok(id)
}

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A tenant's user, in one mode.
    User(UserId, TenantId, Mode),
    /// An operator.
    Operator(OperatorId),
}

/// Begins a login session.
///
/// # Errors
/// [`Fault`].
pub fn start_session(tx: &mut dyn Tx, subject: Subject, expires_at: Timestamp) -> Decision<SessionId, Infallible> {
    let id = SessionId::new(tx.fresh_id());
    let (subject_id, tenant, mode) = match subject {
        Subject::User(user, tenant, mode) => (user.uuid(), Some(tenant), mode),
        Subject::Operator(operator) => (operator.uuid(), None, Mode::Live),
    };
    tx.change(
        "insert into sessions (id, tenant_id, subject_id, mode, expires_at) values ($1, $2, $3, $4, $5)",
        &[
            id.as_bytes().into(),
            tenant.as_ref().map(TenantId::as_bytes).into(),
            subject_id.as_bytes().into(),
            mode.word().into(),
            expires_at.into(),
        ],
    )?;
    Ok(id)
}

/// Ends one session.
///
/// # Errors
/// [`Fault`].
pub fn end_session(tx: &mut dyn Tx, id: SessionId) -> Decision<(), Infallible> {
    let now = tx.now();
    tx.execute(
        "update sessions set ended_at = $1 where id = $2 and ended_at is null",
        &[now.into(), id.as_bytes().into()],
    )?;
    tx.after_commit(Event::AccessChanged);
    Ok(())
}

/// Sets a user's password and ends the other sessions.
///
/// # Errors
/// [`Fault`].
pub fn change_password(
    tx: &mut dyn Tx,
    user: UserId,
    password_hash: &str,
    keep: SessionId,
) -> Decision<(), Infallible> {
    tx.change("update users set password_hash = $1 where id = $2", &[password_hash.into(), user.as_bytes().into()])?;
    let now = tx.now();
    tx.execute(
        "update sessions set ended_at = $1 where subject_id = $2 and id <> $3 and ended_at is null",
        &[now.into(), user.as_bytes().into(), keep.as_bytes().into()],
    )?;
    tx.after_commit(Event::AccessChanged);
    Ok(())
}

/// Who stands behind a valid session or key, and where the tenant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What requests may touch.
    pub scope: Scope,
    /// The tenant's status.
    pub status: TenantStatus,
    /// The tenant's billing currency.
    pub currency: domain::money::Currency,
    /// The group whose prices the tenant buys at.
    pub tier: Option<Tier>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A user's session that has not ended, or `None`.
///
/// # Errors
/// [`Fault`].
pub fn user_session(snapshot: &mut dyn Snapshot, id: SessionId) -> Result<Option<Access>, Fault> {
    row(
        snapshot,
        "select s.subject_id, s.tenant_id, s.mode, s.expires_at, t.status, t.currency, t.tier
         from sessions s join tenants t on t.id = s.tenant_id where s.id = $1 and s.ended_at is null",
        &[id.as_bytes().into()],
        |row| {
            let scope = Scope {
                tenant: TenantId::from_slice(row.bytes(1)?)?,
                mode: row.text(2)?.parse()?,
                actor: Actor::User(UserId::from_slice(row.bytes(0)?)?, id),
                permissions: Permissions::ALL,
            };
            let expires_at = Some(Timestamp::from_millis(row.int(3)?));
            let (status, currency) = (row.text(4)?.parse()?, row.text(5)?.parse()?);
            Ok(Access { scope, status, currency, tier: read_tier(row.opt_text(6)?)?, expires_at })
        },
    )
}

/// An operator's session that has not ended: the operator and when it ends by itself.
///
/// # Errors
/// [`Fault`].
pub fn operator_session(snapshot: &mut dyn Snapshot, id: SessionId) -> Result<Option<(OperatorId, Timestamp)>, Fault> {
    row(
        snapshot,
        "select s.subject_id, s.expires_at from sessions s join operators o on o.id = s.subject_id
         where s.id = $1 and s.ended_at is null",
        &[id.as_bytes().into()],
        |row| Ok((OperatorId::from_slice(row.bytes(0)?)?, Timestamp::from_millis(row.int(1)?))),
    )
}

/// The key whose secret has this SHA-256, unless it was revoked.
///
/// # Errors
/// [`Fault`].
pub fn api_key_by_secret(snapshot: &mut dyn Snapshot, secret_hash: &[u8; 32]) -> Result<Option<Access>, Fault> {
    row(
        snapshot,
        "select k.id, k.tenant_id, k.mode, k.permissions, t.status, t.currency, t.tier
         from api_keys k join tenants t on t.id = k.tenant_id where k.secret_hash = $1 and k.revoked_at is null",
        &[secret_hash.into()],
        |row| {
            let scope = Scope {
                tenant: TenantId::from_slice(row.bytes(1)?)?,
                mode: row.text(2)?.parse()?,
                actor: Actor::Key(ApiKeyId::from_slice(row.bytes(0)?)?),
                permissions: permissions(row.text(3)?)?,
            };
            let (status, currency) = (row.text(4)?.parse()?, row.text(5)?.parse()?);
            Ok(Access { scope, status, currency, tier: read_tier(row.opt_text(6)?)?, expires_at: None })
        },
    )
}

fn permissions(words: &str) -> Result<Permissions, Fault> {
    let permissions = words.split_whitespace().map(str::parse::<Permission>).collect::<Result<Vec<_>, _>>()?;
    Ok(permissions.into_iter().collect())
}

/// An API key as it is listed; the secret is never there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// The partner's name for it.
    pub name: String,
    /// The world it works in.
    pub mode: Mode,
    /// What it may do.
    pub permissions: Permissions,
    /// The secret's last characters, to tell keys apart.
    pub hint: String,
}

/// The most keys of a tenant that are not revoked.
pub const MOST_API_KEYS: usize = 100;

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeyRefusal {
    /// The tenant may not change anything.
    NotAllowed(NotAllowed),
    /// There are [`MOST_API_KEYS`] already.
    TooMany,
    /// There is no such key.
    NotFound,
}

/// A new key, its secret hashed.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// The partner's name for it.
    pub name: String,
    /// The world it works in.
    pub mode: Mode,
    /// What it may do.
    pub permissions: Permissions,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// The secret's last characters.
    pub hint: String,
}

/// Makes an API key.
///
/// # Errors
/// [`ApiKeyRefusal`].
pub fn create_api_key(tx: &mut dyn Tx, tenant: TenantId, key: &NewApiKey) -> Decision<ApiKey, ApiKeyRefusal> {
    lock_existing(tx, tenant, Mode::Live)?;
    if let Err(refusal) = may_change(tx, tenant)? {
        return refuse(ApiKeyRefusal::NotAllowed(refusal));
    }
    if api_keys(tx, tenant)?.len() >= MOST_API_KEYS {
        return refuse(ApiKeyRefusal::TooMany);
    }
    let id = ApiKeyId::new(tx.fresh_id());
    let words = key.permissions.iter().map(Permission::word).collect::<Vec<_>>().join(" ");
    tx.change(
        "insert into api_keys (id, tenant_id, name, mode, permissions, secret_hash, hint)
         values ($1, $2, $3, $4, $5, $6, $7)",
        &[
            id.as_bytes().into(),
            tenant.as_bytes().into(),
            (&key.name).into(),
            key.mode.word().into(),
            (&words).into(),
            (&key.secret_hash).into(),
            (&key.hint).into(),
        ],
    )?;
    Ok(ApiKey { id, name: key.name.clone(), mode: key.mode, permissions: key.permissions, hint: key.hint.clone() })
}

fn may_change(snapshot: &mut dyn Snapshot, tenant: TenantId) -> Result<Result<(), NotAllowed>, Fault> {
    let tenant = crate::tenant::find(snapshot, tenant)?;
    let tenant = tenant.ok_or_else(|| Fault::Bug("the scope's tenant is not there".to_owned()))?;
    Ok(tenant.status.may_change())
}

/// Revokes an API key. A suspended tenant may do that, too.
///
/// # Errors
/// [`ApiKeyRefusal`].
pub fn revoke_api_key(tx: &mut dyn Tx, tenant: TenantId, id: ApiKeyId) -> Decision<(), ApiKeyRefusal> {
    let now = tx.now();
    let revoked = tx.execute(
        "update api_keys set revoked_at = $1 where id = $2 and tenant_id = $3 and revoked_at is null",
        &[now.into(), id.as_bytes().into(), tenant.as_bytes().into()],
    )?;
    if revoked == 0 {
        return refuse(ApiKeyRefusal::NotFound);
    }
    tx.after_commit(Event::AccessChanged);
    Ok(())
}

/// A tenant's keys that are not revoked, newest first.
///
/// # Errors
/// [`Fault`].
pub fn api_keys(snapshot: &mut dyn Snapshot, tenant: TenantId) -> Result<Vec<ApiKey>, Fault> {
    collect(
        snapshot,
        "select id, name, mode, permissions, hint from api_keys
         where tenant_id = $1 and revoked_at is null order by id desc",
        &[tenant.as_bytes().into()],
        |row| {
            Ok(ApiKey {
                id: ApiKeyId::from_slice(row.bytes(0)?)?,
                name: row.text(1)?.to_owned(),
                mode: row.text(2)?.parse()?,
                permissions: permissions(row.text(3)?)?,
                hint: row.text(4)?.to_owned(),
            })
        },
    )
}

/// How many wrong guesses are allowed, and in which time.
#[derive(Debug, Clone, Copy)]
pub struct GuessLimits {
    /// Failures of one account within the window.
    pub per_account: u32,
    /// Failures from one address within the window.
    pub per_address: u32,
    /// Length of the window, milliseconds.
    pub window_ms: i64,
}

/// Too many wrong guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    /// When the next guess is taken.
    pub until: Timestamp,
}

/// Whether a guess is taken now: the account's failures from this address, its failures from anywhere,
/// and the address's failures with any account must be below their limits.
///
/// # Errors
/// [`Fault`]; the inner error says until when nothing is taken.
pub fn may_guess(
    snapshot: &mut dyn Snapshot,
    account: &str,
    address: &str,
    limits: GuessLimits,
    now: Timestamp,
) -> Result<Result<(), Throttled>, Fault> {
    let since = now.plus_millis(-limits.window_ms);
    for (subject, most) in subjects(account, address, limits) {
        let failures = collect(
            snapshot,
            "select at from login_failures where subject = $1 and at > $2 order by at desc limit $3",
            &[(&subject).into(), since.into(), most.into()],
            |row| row.int(0),
        )?;
        if let Some(oldest) = failures.last()
            && failures.len() >= usize::try_from(most).unwrap_or(usize::MAX)
        {
            return Ok(Err(Throttled { until: Timestamp::from_millis(*oldest).plus_millis(limits.window_ms) }));
        }
    }
    Ok(Ok(()))
}

/// From how many addresses at once an account is guessed at before it is closed to all of them: one
/// stranger alone must not be able to lock the owner out.
const ADDRESSES_OF_A_GUESSED_ACCOUNT: u32 = 10;

fn subjects(account: &str, address: &str, limits: GuessLimits) -> [(String, u32); 3] {
    [
        (format!("{account} {address}"), limits.per_account),
        (account.to_owned(), limits.per_account.saturating_mul(ADDRESSES_OF_A_GUESSED_ACCOUNT)),
        (address.to_owned(), limits.per_address),
    ]
}

/// Counts a wrong guess.
///
/// # Errors
/// [`Fault`].
pub fn guessed_wrong(tx: &mut dyn Tx, account: &str, address: &str, limits: GuessLimits) -> Decision<(), Infallible> {
    let now = tx.now();
    let n = i64::try_from(tx.random() >> 1).unwrap_or(0);
    for (subject, _) in subjects(account, address, limits) {
        tx.change(
            "insert into login_failures (subject, at, n) values ($1, $2, $3)",
            &[(&subject).into(), now.into(), n.into()],
        )?;
    }
    Ok(())
}

/// Forgives an account's failures from this address: the password was right.
///
/// # Errors
/// [`Fault`].
pub fn guessed_right(tx: &mut dyn Tx, account: &str, address: &str) -> Decision<(), Infallible> {
    tx.execute("delete from login_failures where subject = $1", &[(&format!("{account} {address}")).into()])?;
    Ok(())
}

/// Notes that an operator logged in.
///
/// # Errors
/// [`Fault`].
pub fn note_operator_login(tx: &mut dyn Tx, act: &Act) -> Decision<(), Infallible> {
    audit::write(tx, act, "operator.login", &act.operator.to_string(), "", None)?;
    Ok(())
}
