//! Login tokens: JSON Web Tokens of one fixed algorithm (HS256). They say who somebody is; whether the
//! session still lives is asked of the database.

use crate::keyring::Keyring;
use domain::id::SessionId;
use domain::time::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};

const ISSUER: &str = "esimd";

/// Whom a token lets in where; a tenant's token is nothing at the operator's door, and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audience {
    /// The partner API.
    Tenant,
    /// The operator API.
    Operator,
}

impl Audience {
    const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "esimd:tenant",
            Self::Operator => "esimd:operator",
        }
    }
}

/// What a token says. Times are Unix seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The user or operator.
    pub sub: String,
    /// The session.
    pub jti: String,
    exp: i64,
    iat: i64,
    /// The user's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The user's mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Who a token is made for.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Where it is used.
    pub audience: Audience,
    /// The user's or operator's id.
    pub subject: String,
    /// The session.
    pub session: SessionId,
    /// The user's tenant and mode.
    pub tenant: Option<(String, String)>,
}

/// Signs a token; `None` while there is no key.
#[must_use]
pub fn issue(keyring: &Keyring, bearer: Bearer, now: Timestamp, expires_at: Timestamp) -> Option<String> {
    let key = keyring.tokens.newest()?;
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.version.to_string());
    let (tenant, mode) = bearer.tenant.unzip();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: bearer.audience.word().to_owned(),
        sub: bearer.subject,
        jti: bearer.session.to_string(),
        exp: expires_at.millis() / 1_000,
        iat: now.millis() / 1_000,
        tenant,
        mode,
    };
    encode(&header, &claims, &EncodingKey::from_secret(&key.secret)).ok()
}

/// The session a token names, if we signed it for this audience and it has not expired.
#[must_use]
pub fn verify(keyring: &Keyring, audience: Audience, token: &str, now: Timestamp) -> Option<SessionId> {
    let kid = decode_header(token).ok()?.kid?;
    let key = keyring.tokens.version(kid.parse().ok()?)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[audience.word()]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    // By the injected clock, below.
    validation.validate_exp = false;
    let claims = decode::<Claims>(token, &DecodingKey::from_secret(&key.secret), &validation).ok()?.claims;
    if claims.exp.saturating_mul(1_000) <= now.millis() {
        return None;
    }
    claims.jti.parse().ok()
}
