//! `api-keys`: keys for programs.

use crate::answer::Answer;
use crate::call::TenantCall;
use crate::entrance::{API_KEY_PREFIX, api_key_hash};
use crate::fields::{Field, Kind, required};
use crate::json::{Id, Time};
use crate::problem::{Code, Problem};
use domain::id::ApiKeyId;
use domain::tenant::{Actor, Mode, Permission, Permissions};
use schemars::JsonSchema;
use serde::Serialize;
use store::access::{self, ApiKey, ApiKeyRefusal, MOST_API_KEYS, NewApiKey};

/// A key as it is listed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApiKey")]
pub struct ApiKeyView {
    id: Id,
    name: String,
    mode: &'static str,
    scopes: Vec<&'static str>,
    /// The secret's last characters.
    hint: String,
    created_at: Time,
    /// The secret; only in the answer that made the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl ApiKeyView {
    fn new(key: ApiKey, secret: Option<String>) -> Self {
        Self {
            id: Id(key.id.uuid()),
            mode: key.mode.word(),
            scopes: key.permissions.iter().map(Permission::word).collect(),
            created_at: Time(key.id.created_at()),
            name: key.name,
            hint: key.hint,
            secret,
        }
    }
}

/// `data` with a key.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OneApiKey {
    api_key: ApiKeyView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyList {
    api_keys: Vec<ApiKeyView>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

fn modes() -> Vec<&'static str> {
    Mode::ALL.iter().map(|mode| mode.word()).collect()
}

fn scopes() -> Vec<&'static str> {
    Permission::ALL.iter().map(|permission| permission.word()).collect()
}

/// The body of a new key.
pub const BODY: &[Field] = &[
    required("name", Kind::Text(1, 100), "Your name for it."),
    required("mode", Kind::Word(modes), "live or test."),
    required("scopes", Kind::List(&Kind::Word(scopes), 1, 4), "What it may do."),
];

/// Whether the caller may handle keys of this mode: a person both, a key only its own, or a key of the
/// test mode could make itself one of the live mode.
fn reaches(call: &TenantCall, mode: Mode) -> bool {
    match call.scope().actor {
        Actor::User(..) => true,
        Actor::Key(_) => call.scope().mode == mode,
    }
}

/// `GET api-keys`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: TenantCall) -> Result<Answer, Problem> {
    let tenant = call.scope().tenant;
    let keys = call.platform.store.read(move |snapshot| access::api_keys(snapshot, tenant)).await?;
    let seen = |key: &ApiKey| reaches(&call, key.mode);
    let cursor = call.cursor()?.map(ApiKeyId::new);
    let keys = keys.into_iter().filter(|key| seen(key) && cursor.is_none_or(|cursor| key.id < cursor)).collect();
    let (keys, next_cursor) = crate::operator::page(keys, call.limit(), |key: &ApiKey| key.id.uuid());
    let api_keys = keys.into_iter().map(|key| ApiKeyView::new(key, None)).collect();
    Ok(Answer::json(200, "API keys", &ApiKeyList { api_keys, next_cursor }))
}

/// `POST api-keys`.
///
/// # Errors
/// A [`Problem`].
pub async fn create(call: TenantCall) -> Result<Answer, Problem> {
    let tenant = call.scope().tenant;
    let mode: Mode = call.body.parse("mode").ok_or_else(Problem::internal)?;
    let permissions: Permissions =
        call.body.texts("scopes").filter_map(|word| word.parse::<Permission>().ok()).collect();
    if !reaches(&call, mode) {
        let message = "An API key can only make keys of its own mode. Log in to make others.";
        return Err(Problem::new(Code::Forbidden, message));
    }
    let mut random = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Problem::internal())?;
    let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, random);
    let secret = format!("{API_KEY_PREFIX}{mode}_{text}");
    let key = NewApiKey {
        name: call.body.required_text("name"),
        mode,
        permissions,
        secret_hash: api_key_hash(&secret),
        hint: text.chars().skip(text.len() - 4).collect(),
    };
    let key = call.platform.store.write(move |tx| access::create_api_key(tx, tenant, &key)).await?;
    let data = OneApiKey { api_key: ApiKeyView::new(key, Some(secret)) };
    Ok(Answer::json(201, "API key made; its secret is shown only now", &data))
}

/// `DELETE api-keys/{keyId}`.
///
/// # Errors
/// A [`Problem`].
pub async fn revoke(call: TenantCall) -> Result<Answer, Problem> {
    let tenant = call.scope().tenant;
    let id: ApiKeyId = call.id("keyId")?;
    let keys = call.platform.store.read(move |snapshot| access::api_keys(snapshot, tenant)).await?;
    if !keys.iter().any(|key| key.id == id && reaches(&call, key.mode)) {
        return Err(Problem::not_found());
    }
    call.platform.store.write(move |tx| access::revoke_api_key(tx, tenant, id)).await?;
    Ok(Answer::json(200, "API key revoked", &serde_json::json!({})))
}

impl From<ApiKeyRefusal> for Problem {
    fn from(refusal: ApiKeyRefusal) -> Self {
        match refusal {
            ApiKeyRefusal::NotAllowed(refusal) => refusal.into(),
            ApiKeyRefusal::NotFound => Self::not_found(),
            ApiKeyRefusal::TooMany => {
                Self::new(Code::TooManyApiKeys, format!("{MOST_API_KEYS} keys are the most; revoke one first."))
            }
        }
    }
}
