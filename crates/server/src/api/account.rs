//! `register`, `login`, `profile`, `password`, `logout`: a partner's account.

use crate::answer::Answer;
use crate::call::{Call, TenantCall};
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Id, Time};
use crate::limits::network;
use crate::platform::Platform;
use crate::problem::{Code, Problem};
use crate::token::{Audience, Bearer, issue};
use domain::id::UserId;
use domain::tenant::{Actor, Mode};
use domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use store::access::{self, Account, GuessLimits, Subject, Throttled};
use store::tenant::{self, ProfileChange, RegisterRefusal, Registration, Tenant};

/// A tenant as it sees itself.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    id: Id,
    name: String,
    subdomain: String,
    contact_email: String,
    /// pending, active or suspended.
    status: &'static str,
    currency: &'static str,
    /// live or test: the world of this token.
    mode: &'static str,
    created_at: Time,
}

impl TenantView {
    /// The view in one mode.
    #[must_use]
    pub fn new(tenant: Tenant, mode: Mode) -> Self {
        Self {
            id: Id(tenant.id.uuid()),
            status: tenant.status.word(),
            currency: tenant.currency.code(),
            mode: mode.word(),
            created_at: Time(tenant.id.created_at()),
            name: tenant.name,
            subdomain: tenant.subdomain,
            contact_email: tenant.contact_email,
        }
    }
}

/// `data` with a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneTenant {
    tenant: TenantView,
}

/// The body of a registration.
pub const REGISTER_BODY: &[Field] = &[
    required("name", Kind::Text(1, 200), "Your company's name."),
    required("subdomain", Kind::Subdomain, "Name of your storefront; never given to anybody else afterwards."),
    required("contactEmail", Kind::Email, "Contact and login address."),
    required("password", Kind::NewPassword, "10 to 128 characters; none of the common ones."),
];

/// `POST register`.
///
/// # Errors
/// A [`Problem`].
pub async fn register(call: Call) -> Result<Answer, Problem> {
    let platform = &call.platform;
    let body = &call.body;
    // A name that is taken is refused before the password is hashed: hashing is what costs.
    let (email, subdomain) = (body.required_text("contactEmail"), body.required_text("subdomain"));
    let probe = email.clone();
    if platform.store.read(move |snapshot| access::user_by_email(snapshot, &probe)).await?.is_some() {
        return Err(RegisterRefusal::EmailTaken.into());
    }
    let registration = Registration {
        name: body.required_text("name"),
        subdomain,
        contact_email: email,
        password_hash: platform.hasher.hash(body.required_text("password")).await?,
        status: platform.first_status(),
        currency: platform.currency,
        test_credit: platform.test_credit(),
    };
    let tenant = platform.store.write(move |tx| tenant::register(tx, &registration)).await?;
    Ok(Answer::json(201, "Tenant registered", &OneTenant { tenant: TenantView::new(tenant, Mode::Live) }))
}

impl From<RegisterRefusal> for Problem {
    fn from(refusal: RegisterRefusal) -> Self {
        match refusal {
            RegisterRefusal::EmailTaken => {
                Self::new(Code::EmailTaken, "This e-mail address has an account already. Log in, or use another one.")
            }
            RegisterRefusal::SubdomainTaken => {
                Self::new(Code::SubdomainTaken, "This subdomain is taken. Choose another one.")
            }
        }
    }
}

fn modes() -> Vec<&'static str> {
    Mode::ALL.iter().map(|mode| mode.word()).collect()
}

/// The body of a login.
pub const LOGIN_BODY: &[Field] = &[
    required("email", Kind::Text(1, 254), "Your login address."),
    required("password", Kind::Password, "Your password."),
    optional("mode", Kind::Word(modes), "live (by default) or test."),
    optional("code", Kind::Text(1, 20), "Second factor, where it is set up."),
];

/// `data` of a login.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoggedIn {
    token: String,
    token_type: &'static str,
    expires_at: Time,
    tenant: TenantView,
}

/// Compares a login's password.
///
/// # Errors
/// 401 `invalid_credentials`, 429 after too many failures, 503 when too many wait.
pub async fn authenticate(call: &Call, door: &str, account: Option<Account>) -> Result<Account, Problem> {
    let who = call.body.required_text("email").to_lowercase();
    guess(call, &format!("{door} {who}"), "password", account).await
}

/// Compares the password in `field` with the account's. Only a wrong password counts as a failure: not a
/// caller that hung up, nor one that was turned away because too many waited. How many are compared at
/// once is bounded by the hasher, and with it how many guesses slip through together.
async fn guess(call: &Call, who: &str, field: &str, account: Option<Account>) -> Result<Account, Problem> {
    let platform = &call.platform;
    let auth = &platform.config.auth;
    let limits = GuessLimits {
        per_account: auth.login_failures_per_account,
        per_address: auth.login_failures_per_address,
        window_ms: i64::from(auth.login_window_minutes) * 60_000,
    };
    let name: String = crate::entrance::api_key_hash(who).iter().map(|byte| format!("{byte:02x}")).collect();
    let door = who.split(' ').next().unwrap_or("");
    let (of_account, of_address) = (format!("account {name}"), format!("{door} address {}", network(call.address)));
    let (account_key, address_key) = (of_account.clone(), of_address.clone());
    let now = platform.clock.now();
    platform
        .store
        .read(move |snapshot| access::may_guess(snapshot, &account_key, &address_key, limits, now))
        .await?
        .map_err(|Throttled { until }| throttled(until, now))?;
    let phc = account.as_ref().map(|account| account.password_hash.clone());
    let matches = platform.hasher.verify(call.body.required_text(field), phc).await?;
    match account.filter(|_| matches) {
        None => {
            platform.store.write(move |tx| access::guessed_wrong(tx, &of_account, &of_address, limits)).await?;
            let message = match field {
                "password" => "The e-mail address or the password is wrong.",
                _ => "The current password is wrong.",
            };
            Err(Problem::new(Code::InvalidCredentials, message))
        }
        Some(account) => {
            platform.store.write(move |tx| access::guessed_right(tx, &of_account, &of_address)).await?;
            Ok(account)
        }
    }
}

fn throttled(until: Timestamp, now: Timestamp) -> Problem {
    let seconds = u64::try_from(until.since(now).max(1_000) / 1_000).unwrap_or(1);
    Problem::new(Code::RateLimited, "Too many failed logins. Wait for the seconds in Retry-After.").after(seconds)
}

/// `POST login`.
///
/// # Errors
/// A [`Problem`].
pub async fn login(call: Call) -> Result<Answer, Problem> {
    let email = call.body.required_text("email");
    let mode: Mode = call.body.parse("mode").unwrap_or(Mode::Live);
    let account = call.platform.store.read(move |snapshot| access::user_by_email(snapshot, &email)).await?;
    let account = authenticate(&call, "tenant", account).await?;
    let tenant = account.tenant.ok_or_else(Problem::internal)?;
    let user = UserId::new(account.id);
    let (token, expires_at) = begin_session(&call.platform, Subject::User(user, tenant, mode)).await?;
    let tenant = call.platform.store.read(move |snapshot| tenant::find(snapshot, tenant)).await?;
    let tenant = TenantView::new(tenant.ok_or_else(Problem::internal)?, mode);
    let data = LoggedIn { token, token_type: "Bearer", expires_at: Time(expires_at), tenant };
    Ok(Answer::json(200, "Logged in", &data))
}

/// Begins a session and signs its token.
///
/// # Errors
/// A [`Problem`].
pub async fn begin_session(platform: &Platform, subject: Subject) -> Result<(String, Timestamp), Problem> {
    let now = platform.clock.now();
    let expires_at = now.plus_millis(i64::from(platform.config.auth.token_hours) * 3_600_000);
    let session = platform.store.write(move |tx| access::start_session(tx, subject, expires_at)).await?;
    let (audience, id, tenant) = match subject {
        Subject::User(user, tenant, mode) => {
            (Audience::Tenant, user.to_string(), Some((tenant.to_string(), mode.word().to_owned())))
        }
        Subject::Operator(operator) => (Audience::Operator, operator.to_string(), None),
    };
    let bearer = Bearer { audience, subject: id, session, tenant };
    let token = platform.with_keyring(|keyring| issue(keyring, bearer, now, expires_at));
    Ok((token.ok_or_else(Problem::internal)?, expires_at))
}

/// `GET profile`.
///
/// # Errors
/// A [`Problem`].
pub async fn profile(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let tenant = call.platform.store.read(move |snapshot| tenant::find(snapshot, scope.tenant)).await?;
    let tenant = TenantView::new(tenant.ok_or_else(Problem::internal)?, scope.mode);
    Ok(Answer::json(200, "Profile", &OneTenant { tenant }))
}

/// The body of a change of the profile.
pub const PROFILE_BODY: &[Field] = &[
    optional("name", Kind::Text(1, 200), "Your company's name."),
    optional("contactEmail", Kind::Email, "Contact address; the login address stays."),
];

/// `PATCH profile`.
///
/// # Errors
/// A [`Problem`].
pub async fn change_profile(call: TenantCall) -> Result<Answer, Problem> {
    let scope = call.scope();
    let change = ProfileChange { name: call.body.string("name"), contact_email: call.body.string("contactEmail") };
    let tenant = call.platform.store.write(move |tx| tenant::change_profile(tx, scope.tenant, &change)).await?;
    Ok(Answer::json(200, "Profile changed", &OneTenant { tenant: TenantView::new(tenant, scope.mode) }))
}

/// The body of a change of the password.
pub const PASSWORD_BODY: &[Field] = &[
    required("currentPassword", Kind::Password, "The password until now."),
    required("newPassword", Kind::NewPassword, "10 to 128 characters; none of the common ones."),
];

/// Who the user of this session is; a key has no password and no session.
fn user_of(call: &TenantCall) -> Result<(UserId, domain::id::SessionId), Problem> {
    match call.scope().actor {
        Actor::User(user, session) => Ok((user, session)),
        Actor::Key(_) => Err(Problem::new(Code::Forbidden, "This needs a login; an API key cannot do it.")),
    }
}

/// `POST password`.
///
/// # Errors
/// A [`Problem`].
pub async fn change_password(call: TenantCall) -> Result<Answer, Problem> {
    let (user, session) = user_of(&call)?;
    let platform = &call.platform;
    let account = platform.store.read(move |snapshot| access::user(snapshot, user)).await?;
    // A stolen session must not be a way to guess the password.
    guess(&call, &format!("password {user}"), "currentPassword", account).await?;
    let hash = platform.hasher.hash(call.body.required_text("newPassword")).await?;
    platform.store.write(move |tx| access::change_password(tx, user, &hash, session)).await?;
    Ok(Answer::json(200, "Password changed; other sessions have ended", &serde_json::json!({})))
}

/// `POST logout`.
///
/// # Errors
/// A [`Problem`].
pub async fn logout(call: TenantCall) -> Result<Answer, Problem> {
    let (_, session) = user_of(&call)?;
    call.platform.store.write(move |tx| access::end_session(tx, session)).await?;
    Ok(Answer::json(200, "Logged out", &serde_json::json!({})))
}
