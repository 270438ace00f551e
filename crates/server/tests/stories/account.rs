//! Partners come, log in, prove who they are and go again. What must hold: nobody gets in without the right
//! secret, nobody does more than they may, and nothing of one world shows in the other.

use crate::stage::{Caller, Partner, Stage, password};
use crate::telling::{
    CHECKOUT, column, encoded, list, millis, only_order, order, order_count, settled, text, transactions,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

const REGISTER: &str = "/api/tenant/register";
const LOGIN: &str = "/api/tenant/login";
const PROFILE: &str = "/api/tenant/profile";
const PASSWORD: &str = "/api/tenant/password";
const LOGOUT: &str = "/api/tenant/logout";
const API_KEYS: &str = "/api/tenant/api-keys";
const BALANCE: &str = "/api/tenant/balance";
const UNKNOWN_ID: &str = "01930000-0000-7000-8000-000000000000";

fn registration(subdomain: &str, email: &str) -> Value {
    json!({"name": "Example Travel", "subdomain": subdomain, "contactEmail": email, "password": password()})
}

fn credentials(email: &str, password: &str) -> Value {
    json!({"email": email, "password": password})
}

fn token_of(caller: &Caller) -> String {
    caller.token.clone().expect("a caller with a token")
}

/// Makes an API key and returns its id and somebody who uses it.
async fn api_key(caller: &Caller, mode: &str, scopes: &[&str]) -> (String, Caller) {
    let body = json!({"name": "warehouse", "mode": mode, "scopes": scopes});
    let data = caller.post(API_KEYS, body).await.ok(201);
    let key = &data["apiKey"];
    let secret = text(&key["secret"]);
    assert!(secret.starts_with(&format!("esd_{mode}_")), "the prefix of a {mode} key");
    (text(&key["id"]).to_owned(), caller.with_token(secret))
}

/// Whether a text, or its bytes, are in any row of any table.
fn lies_in_tables(database: &testing::FreshDatabase, text: &str) -> bool {
    let bytes: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let tables = "select table_schema || '.' || table_name from information_schema.tables
         where table_schema in ('public', 'sandbox')";
    let tables: Vec<String> = database.rows(tables).into_iter().filter_map(|mut row| row.remove(0)).collect();
    assert!(tables.len() > 20);
    tables.iter().any(|table| {
        let rows = database.rows(&format!("select found::text from {table} found"));
        rows.into_iter().flatten().flatten().any(|row| row.contains(text) || row.contains(&bytes))
    })
}

/// Whether a file under the folder holds the text as it is.
fn lies_in(folder: &Path, secret: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return lies_in(&path, secret);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
    })
}

async fn suspend(stage: &Stage, partner: &Partner) {
    let path = format!("/api/operator/tenants/{}/suspend", partner.id);
    stage.operator().await.post(&path, json!({"reason": "unpaid invoice"})).await.ok(200);
}

async fn reinstate(stage: &Stage, partner: &Partner) {
    let path = format!("/api/operator/tenants/{}/reinstate", partner.id);
    stage.operator().await.post(&path, json!({"reason": "all is well"})).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_makes_an_active_tenant_with_an_empty_balance() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let reply = stranger.post(REGISTER, registration("example-travel", "owner@example.com")).await;
    assert!(!reply.text().contains(&password()), "a password is never told back");
    let tenant = &reply.ok(201)["tenant"];
    assert_eq!(tenant["name"], "Example Travel");
    assert_eq!(tenant["subdomain"], "example-travel");
    assert_eq!(tenant["contactEmail"], "owner@example.com");
    assert_eq!(tenant["status"], "active");
    assert_eq!(tenant["currency"], "USD");
    assert_eq!(text(&tenant["id"]).len(), 36);
    millis(&tenant["createdAt"]);

    let data = stranger.post(LOGIN, credentials("owner@example.com", &password())).await.ok(200);
    assert_eq!(data["tokenType"], "Bearer");
    assert_eq!(data["tenant"]["id"], tenant["id"]);
    millis(&data["expiresAt"]);
    let owner = stranger.with_token(text(&data["token"]));
    assert_eq!(owner.balance().await, "0");
    assert_eq!(order_count(&owner).await, 0);
    assert_eq!(transactions(&owner).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_tells_every_fault_at_once() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let faults = stranger.post(REGISTER, json!({})).await.faults();
    assert_eq!(faults, ["contactEmail required", "name required", "password required", "subdomain required"]);
    let empty = json!({"name": "", "subdomain": null, "contactEmail": "", "password": null});
    assert_eq!(stranger.post(REGISTER, empty).await.faults(), faults, "null and \"\" mean left out");

    let all_wrong =
        json!({"name": 7, "subdomain": "www", "contactEmail": "nobody", "password": "short", "plan": "gold"});
    let expected =
        ["contactEmail malformed", "name wrong_type", "password too_short", "plan unknown_field", "subdomain reserved"];
    assert_eq!(stranger.post(REGISTER, all_wrong).await.faults(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_takes_only_subdomains_that_can_be_host_names() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    for subdomain in ["Example", "-abc", "abc-", "a.b.c", "a_b_c", "abc/", "a b c", "straße", "xn--abc"] {
        let reply = stranger.post(REGISTER, registration(subdomain, "owner@example.com")).await;
        assert_eq!(reply.faults(), ["subdomain malformed"], "{subdomain}");
    }
    for subdomain in ["ab".to_owned(), "a".repeat(41)] {
        let faults = stranger.post(REGISTER, registration(&subdomain, "owner@example.com")).await.faults();
        assert!(faults.len() == 1 && faults[0].starts_with("subdomain "), "{subdomain}: {faults:?}");
    }
    for subdomain in ["www", "api", "admin", "mail"] {
        let reply = stranger.post(REGISTER, registration(subdomain, "owner@example.com")).await;
        assert_eq!(reply.faults(), ["subdomain reserved"], "{subdomain}");
    }
    stranger.post(LOGIN, credentials("owner@example.com", &password())).await.refused(401, "invalid_credentials");
    stranger.post(REGISTER, registration("a-1", "three@example.com")).await.ok(201);
    stranger.post(REGISTER, registration(&"a".repeat(40), "forty@example.com")).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_takes_passwords_of_ten_to_128_characters_without_composition_rules() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    let attempt = |password: String, number: usize| {
        let stranger = stranger.clone();
        async move {
            let mut body = registration(&format!("partner-x{number}"), &format!("owner{number}@example.com"));
            body["password"] = json!(password);
            stranger.post(REGISTER, body).await
        }
    };
    assert_eq!(attempt("ninechars".to_owned(), 0).await.faults(), ["password too_short"]);
    assert_eq!(attempt("éàüöß".to_owned(), 0).await.faults(), ["password too_short"], "characters, not bytes");
    assert_eq!(attempt("x7".repeat(64) + "y", 0).await.faults(), ["password too_long"]);
    for common in ["1234567890", "qwertyuiop", "password123"] {
        assert_eq!(attempt(common.to_owned(), 0).await.faults(), ["password common_password"], "{common}");
    }
    attempt("strong-password".to_owned(), 1).await.ok(201);
    attempt("ééàüößñçøå".to_owned(), 2).await.ok(201);
    attempt("x7".repeat(64), 3).await.ok(201);
    for (number, right) in [(1, "strong-password".to_owned()), (2, "ééàüößñçøå".to_owned()), (3, "x7".repeat(64))]
    {
        stranger.post(LOGIN, credentials(&format!("owner{number}@example.com"), &right)).await.ok(200);
    }
    let cut = credentials("owner3@example.com", &"x7".repeat(63));
    stranger.post(LOGIN, cut).await.refused(401, "invalid_credentials");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_refuses_a_taken_address_or_subdomain_and_makes_nothing() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let stranger = stage.stranger();
    stranger.post(REGISTER, registration("another", &partner.email)).await.refused(409, "email_taken");
    stranger
        .post(REGISTER, registration(&partner.subdomain, "another@example.com"))
        .await
        .refused(409, "subdomain_taken");
    stranger.post(LOGIN, credentials("another@example.com", &password())).await.refused(401, "invalid_credentials");
    let tenant = partner.get(PROFILE).await.ok(200)["tenant"].clone();
    assert_eq!((text(&tenant["id"]), text(&tenant["subdomain"])), (partner.id.as_str(), partner.subdomain.as_str()));
    // Neither refusal took the free half of what it asked for.
    stranger.post(REGISTER, registration("another", "another@example.com")).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_gives_a_subdomain_to_one_of_those_who_ask_at_once() {
    let stage = Stage::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..6 {
        let stranger = stage.stranger();
        tasks.spawn(async move {
            stranger.post(REGISTER, registration("wanted", &format!("owner{number}@example.com"))).await
        });
    }
    let replies = tasks.join_all().await;
    let (won, lost): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
    assert_eq!((won.len(), lost.len()), (1, 5));
    for reply in lost {
        reply.refused(409, "subdomain_taken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_tells_its_faults() {
    let stage = Stage::start().await;
    let stranger = stage.stranger();
    assert_eq!(stranger.post(LOGIN, json!({})).await.faults(), ["email required", "password required"]);
    let wrong = json!({"email": 1, "password": [], "mode": "paper", "remember": true});
    let expected = ["email wrong_type", "mode not_in_list", "password wrong_type", "remember unknown_field"];
    assert_eq!(stranger.post(LOGIN, wrong).await.faults(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_answers_a_wrong_password_and_an_unknown_address_alike() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let stranger = stage.stranger();
    let mut fastest = [u128::MAX; 2];
    for number in 0..5 {
        let attempts = [
            credentials(&partner.email, "not-the-password"),
            credentials(&format!("nobody{number}@example.com"), "not-the-password"),
        ];
        let mut bodies = Vec::new();
        for (body, fastest) in attempts.into_iter().zip(&mut fastest) {
            let begun = Instant::now();
            let reply = stranger.post(LOGIN, body).await;
            *fastest = begun.elapsed().as_micros().min(*fastest);
            reply.refused(401, "invalid_credentials");
            bodies.push(reply.bytes);
        }
        assert_eq!(bodies[0], bodies[1]);
    }
    // The fastest of five leaves out the machine's other work; an address that is not hashed for is many times faster.
    let [known, unknown] = fastest;
    assert!(unknown * 3 > known && known * 3 > unknown, "known {known} us, unknown {unknown} us");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_is_throttled_after_repeated_failures_also_after_a_restart() {
    let mut stage = Stage::with(&[("ESIMD_AUTH_LOGIN_FAILURES_PER_ACCOUNT", "3")]).await;
    let partner = stage.partner().await;
    let other = stage.partner().await;
    for email in [partner.email.as_str(), "nobody@example.com"] {
        let wrong = credentials(email, "not-the-password");
        for _ in 0..3 {
            stage.stranger().post(LOGIN, wrong.clone()).await.refused(401, "invalid_credentials");
        }
        let throttled = stage.stranger().post(LOGIN, wrong).await;
        throttled.refused(429, "rate_limited");
        let seconds: u64 = throttled.header("retry-after").parse().expect("Retry-After in seconds");
        assert!((1..=900).contains(&seconds), "{seconds}");
    }
    let right = credentials(&partner.email, &password());
    stage.stranger().post(LOGIN, right.clone()).await.refused(429, "rate_limited");
    stage.stranger().post(LOGIN, credentials(&other.email, &password())).await.ok(200);
    partner.get(PROFILE).await.ok(200);

    stage.restart().await;
    stage.stranger().post(LOGIN, right.clone()).await.refused(429, "rate_limited");
    stage.stranger().post(LOGIN, credentials(&other.email, &password())).await.ok(200);

    stage.clock.advance(15 * 60_000 + 1_000);
    stage.stranger().post(LOGIN, right).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_is_throttled_by_address_when_many_accounts_are_tried() {
    let stage = Stage::with(&[("ESIMD_AUTH_LOGIN_FAILURES_PER_ADDRESS", "4")]).await;
    let partner = stage.partner().await;
    for number in 0..4 {
        let wrong = credentials(&format!("nobody{number}@example.com"), "not-the-password");
        stage.stranger().post(LOGIN, wrong).await.refused(401, "invalid_credentials");
    }
    let right = credentials(&partner.email, &password());
    let throttled = stage.stranger().post(LOGIN, right.clone()).await;
    throttled.refused(429, "rate_limited");
    assert!(!throttled.header("retry-after").is_empty());
    partner.get(BALANCE).await.ok(200);
    stage.clock.advance(15 * 60_000 + 1_000);
    stage.stranger().post(LOGIN, right).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_tokens_live_a_day_and_survive_a_restart() {
    let mut stage = Stage::start().await;
    let partner = stage.partner().await;
    let data = stage.stranger().post(LOGIN, credentials(&partner.email, &partner.password)).await.ok(200);
    let token = text(&data["token"]).to_owned();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("three parts")).expect("base64url");
    let claims: Value = serde_json::from_slice(&payload).expect("JSON");
    for claim in ["iss", "aud", "exp", "sub"] {
        assert!(!claims[claim].is_null(), "no {claim}: {claims}");
    }
    assert!(claims.to_string().contains(&partner.id) && claims.to_string().contains("live"), "{claims}");
    assert_eq!(claims["exp"].as_i64(), Some(millis(&data["expiresAt"]) / 1_000));

    stage.restart().await;
    let after = stage.stranger().with_token(&token);
    assert_eq!(after.get(PROFILE).await.ok(200)["tenant"]["id"], json!(partner.id));
    stage.clock.advance(24 * 3_600_000 - 60_000);
    after.get(PROFILE).await.ok(200);
    stage.clock.advance(61_000);
    after.get(PROFILE).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_were_tampered_with_are_refused() {
    let stage = Stage::start().await;
    let (partner, victim) = (stage.partner().await, stage.partner().await);
    let token = token_of(&partner);
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let as_victim = URL_SAFE_NO_PAD.encode(payload.replace(&partner.id, &victim.id));
    assert_ne!(as_victim, parts[1]);
    let without_algorithm = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let first = if parts[2].starts_with('A') { "B" } else { "A" };
    let forgeries = [
        format!("{}.{as_victim}.{}", parts[0], parts[2]),
        format!("{without_algorithm}.{as_victim}."),
        format!("{without_algorithm}.{}.", parts[1]),
        format!("{}.{}.{first}{}", parts[0], parts[1], &parts[2][1..]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}x"),
        "x".to_owned(),
    ];
    for forgery in forgeries {
        stage.stranger().with_token(&forgery).get(PROFILE).await.refused(401, "unauthorized");
    }
    stage.stranger().get(PROFILE).await.refused(401, "unauthorized");
    partner.get(PROFILE).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profile_tells_who_is_logged_in_and_in_which_mode() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let live = partner.get(PROFILE).await.ok(200)["tenant"].clone();
    assert_eq!(live["id"], json!(partner.id));
    assert_eq!(live["name"], "Partner 0");
    assert_eq!(live["subdomain"], json!(partner.subdomain));
    assert_eq!(live["contactEmail"], json!(partner.email));
    assert_eq!(live["status"], "active");
    assert_eq!(live["currency"], "USD");
    assert_eq!(live["mode"], "live");
    millis(&live["createdAt"]);

    let test = stage.login(&partner.email, "test").await.get(PROFILE).await.ok(200)["tenant"].clone();
    assert_eq!((&test["id"], &test["mode"]), (&live["id"], &json!("test")));
    let by_default = stage.stranger().post(LOGIN, credentials(&partner.email, &password())).await.ok(200);
    let by_default = stage.stranger().with_token(text(&by_default["token"]));
    assert_eq!(by_default.get(PROFILE).await.ok(200)["tenant"]["mode"], "live");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profile_changes_only_what_is_the_partners_to_change() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let before = partner.get(PROFILE).await.ok(200);
    let body = json!({"status": "pending", "creditBalance": 9, "id": UNKNOWN_ID, "name": 4});
    let expected = ["creditBalance unknown_field", "id unknown_field", "name wrong_type", "status unknown_field"];
    assert_eq!(partner.patch(PROFILE, body).await.faults(), expected);
    assert_eq!(partner.get(PROFILE).await.ok(200), before, "a refusal changes nothing");

    let changed = partner.patch(PROFILE, json!({"name": "Renamed Travel"})).await.ok(200);
    assert_eq!(changed["tenant"]["name"], "Renamed Travel");
    let after = partner.get(PROFILE).await.ok(200);
    assert_eq!(after["tenant"]["name"], "Renamed Travel");
    assert_eq!(after["tenant"]["subdomain"], before["tenant"]["subdomain"]);
    assert_eq!(after["tenant"]["contactEmail"], before["tenant"]["contactEmail"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_change_ends_the_other_sessions() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let elsewhere = stage.login(&partner.email, "live").await;
    let wrong = json!({"currentPassword": "not-the-password", "newPassword": "quite-another-one"});
    partner.post(PASSWORD, wrong).await.refused(401, "invalid_credentials");
    let short = json!({"currentPassword": password(), "newPassword": "short"});
    assert_eq!(partner.post(PASSWORD, short).await.faults(), ["newPassword too_short"]);
    elsewhere.get(PROFILE).await.ok(200);
    stage.stranger().post(LOGIN, credentials(&partner.email, &password())).await.ok(200);

    let right = json!({"currentPassword": password(), "newPassword": "quite-another-one"});
    partner.post(PASSWORD, right).await.ok(200);
    stage.clock.advance(5_000);
    elsewhere.get(PROFILE).await.refused(401, "unauthorized");
    partner.get(PROFILE).await.ok(200);
    stage.stranger().post(LOGIN, credentials(&partner.email, &password())).await.refused(401, "invalid_credentials");
    stage.stranger().post(LOGIN, credentials(&partner.email, "quite-another-one")).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logout_ends_this_session_and_no_other_for_good() {
    let mut stage = Stage::start().await;
    let partner = stage.partner().await;
    let elsewhere = stage.login(&partner.email, "live").await;
    partner.post(LOGOUT, json!({})).await.ok(200);
    stage.clock.advance(5_000);
    partner.get(PROFILE).await.refused(401, "unauthorized");
    elsewhere.get(PROFILE).await.ok(200);

    stage.restart().await;
    let after = stage.stranger();
    after.with_token(&token_of(&partner)).get(PROFILE).await.refused(401, "unauthorized");
    after.with_token(&token_of(&elsewhere)).get(PROFILE).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_lie_neither_in_the_data_folder_nor_in_the_database() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let (_, key) = api_key(&partner, "live", &["read"]).await;
    key.get(BALANCE).await.ok(200);
    let lies = |text: &str| {
        lies_in(stage.dir.path(), text)
            || stage.database.as_ref().is_some_and(|database| lies_in_tables(database, text))
    };
    assert!(lies(&partner.subdomain), "the search finds what is there");
    for secret in [token_of(&key), token_of(&partner), password()] {
        assert!(!lies(&secret), "a secret lies open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_keys_show_their_secret_once_and_end_when_revoked() {
    let mut stage = Stage::start().await;
    let (partner, neighbour) = (stage.partner().await, stage.partner().await);
    let (id, key) = api_key(&partner, "live", &["read"]).await;
    let (other_id, other_key) = api_key(&partner, "live", &["read"]).await;
    assert_ne!(token_of(&key), token_of(&other_key));
    assert_eq!(key.get(PROFILE).await.ok(200)["tenant"]["id"], json!(partner.id));

    let listed = partner.get(API_KEYS).await;
    assert!(!listed.text().contains(&token_of(&key)), "a secret is shown once");
    let keys = listed.ok(200)["apiKeys"].clone();
    let mut ids = column(&keys, "id");
    ids.sort_unstable();
    let mut expected = [id.as_str(), other_id.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
    for key in list(&keys) {
        assert_eq!(
            (&key["name"], &key["mode"], &key["scopes"]),
            (&json!("warehouse"), &json!("live"), &json!(["read"]))
        );
    }
    assert_eq!(list(&neighbour.get(API_KEYS).await.ok(200)["apiKeys"]).len(), 0);

    let path = format!("{API_KEYS}/{id}");
    neighbour.delete(&path).await.refused(404, "not_found");
    partner.delete(&format!("{API_KEYS}/{UNKNOWN_ID}")).await.refused(404, "not_found");
    partner.delete(&format!("{API_KEYS}/nonsense")).await.refused(404, "not_found");
    key.get(PROFILE).await.ok(200);

    partner.delete(&path).await.ok(200);
    stage.clock.advance(5_000);
    key.get(PROFILE).await.refused(401, "unauthorized");
    other_key.get(PROFILE).await.ok(200);
    stage.restart().await;
    stage.stranger().with_token(&token_of(&key)).get(PROFILE).await.refused(401, "unauthorized");
    stage.stranger().with_token(&token_of(&other_key)).get(PROFILE).await.ok(200);
    let near_miss = format!("{}x", token_of(&other_key));
    stage.stranger().with_token(&near_miss).get(PROFILE).await.refused(401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_keys_tell_their_faults() {
    let stage = Stage::start().await;
    let partner = stage.partner().await;
    let faults =
        partner.post(API_KEYS, json!({"name": "x", "mode": "paper", "scopes": ["read", "all"]})).await.faults();
    assert_eq!(faults, ["mode not_in_list", "scopes[1] not_in_list"]);
    let faults = partner.post(API_KEYS, json!({"mode": "live", "scopes": "read", "secret": "x"})).await.faults();
    assert_eq!(faults, ["name required", "scopes wrong_type", "secret unknown_field"]);
    assert_eq!(list(&partner.get(API_KEYS).await.ok(200)["apiKeys"]).len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_keys_do_what_their_scopes_say_and_no_more() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("20").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let basket = json!({"items": [{"planId": plan, "quantity": 1}]});
    let top_up = json!({"amount": 100, "paymentMethod": "bank_transfer"});
    let new_key = json!({"name": "second", "mode": "live", "scopes": ["read"]});
    let (_, read) = api_key(&partner, "live", &["read"]).await;
    let (_, buys) = api_key(&partner, "live", &["order"]).await;
    let (_, tops_up) = api_key(&partner, "live", &["top_up"]).await;
    let (_, admin) = api_key(&partner, "live", &["admin"]).await;

    for path in [BALANCE, PROFILE, "/api/tenant/orders", "/api/tenant/transactions", "/api/tenant/available-plans"] {
        read.get(path).await.ok(200);
    }
    for key in [&read, &tops_up, &admin] {
        key.post(CHECKOUT, basket.clone()).await.refused(403, "forbidden");
        key.post(CHECKOUT, json!({"items": 3})).await.refused(403, "forbidden");
    }
    for key in [&read, &buys, &admin] {
        key.post("/api/tenant/top-up", top_up.clone()).await.refused(403, "forbidden");
    }
    for key in [&read, &buys, &tops_up] {
        key.post(API_KEYS, new_key.clone()).await.refused(403, "forbidden");
        key.patch(PROFILE, json!({"name": "Taken over"})).await.refused(403, "forbidden");
    }
    for key in [&buys, &tops_up, &admin] {
        key.get("/api/tenant/orders").await.refused(403, "forbidden");
        key.get("/api/tenant/transactions").await.refused(403, "forbidden");
    }
    assert_eq!(partner.balance().await, "20");
    assert_eq!(order_count(&partner).await, 0);
    assert_eq!(list(&partner.get("/api/tenant/top-up").await.ok(200)["topUps"]).len(), 0);
    assert_eq!(partner.get(PROFILE).await.ok(200)["tenant"]["name"], "Partner 0");

    let bought = buys.post(&format!("{CHECKOUT}?wait=20"), basket).await.ok(201);
    let path = format!("/api/tenant/orders/{}/cancel", only_order(&bought));
    read.post(&path, json!({})).await.refused(403, "forbidden");
    buys.post(&path, json!({})).await.ok(202);
    tops_up.post("/api/tenant/top-up", top_up).await.ok(201);
    admin.post(API_KEYS, new_key).await.ok(201);
    admin.patch(PROFILE, json!({"name": "Renamed Travel"})).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_mode_is_a_world_of_its_own() {
    let stage = Stage::start().await;
    let live = stage.partner_with("10").await;
    let test = stage.login(&live.email, "test").await;
    assert_eq!((live.balance().await, test.balance().await), ("10".to_owned(), "1000".to_owned()));

    let plan = live.plan("Sandbox: delivers").await;
    let in_live = live.buy(&plan, 1).await;
    assert_eq!(in_live["orders"][0]["mode"], "live");
    let plan = test.plan("Sandbox: delivers").await;
    let in_test = test.buy(&plan, 2).await;
    assert_eq!(in_test["orders"][0]["mode"], "test");
    assert_eq!((live.balance().await, test.balance().await), ("5.5".to_owned(), "991".to_owned()));
    assert_eq!(list(&in_test["orders"][0]["esims"]).len(), 2);

    let (_, live_key) = api_key(&test, "live", &["read", "order"]).await;
    let (_, test_key) = api_key(&live, "test", &["read", "order"]).await;
    let sides: [(&Caller, &Value, &Value); 4] = [
        (&live.caller, &in_live, &in_test),
        (&live_key, &in_live, &in_test),
        (&test, &in_test, &in_live),
        (&test_key, &in_test, &in_live),
    ];
    for (caller, own, foreign) in sides {
        let (own, foreign) = (&own["orders"][0], &foreign["orders"][0]);
        let rows = caller.get("/api/tenant/orders").await.ok(200)["orders"].clone();
        assert_eq!(column(&rows, "id"), [text(&own["id"])]);
        let iccid = text(&foreign["esims"][0]["iccid"]);
        for filter in [format!("iccid={iccid}"), format!("q={}", encoded(text(&foreign["orderNumber"])))] {
            let found = caller.get(&format!("/api/tenant/orders?{filter}")).await.ok(200);
            assert_eq!(list(&found["orders"]).len(), 0, "{filter}");
        }
        let export = caller.get("/api/tenant/orders/export").await;
        assert!(export.text().contains(text(&own["id"])) && !export.text().contains(text(&foreign["id"])));
        let path = format!("/api/tenant/orders/{}", text(&foreign["id"]));
        let unknown = caller.get(&format!("/api/tenant/orders/{UNKNOWN_ID}")).await;
        unknown.refused(404, "not_found");
        assert_eq!(caller.get(&path).await.bytes, unknown.bytes);
        caller.post(&format!("{path}/cancel"), json!({})).await.refused(404, "not_found");
        for transaction in transactions(caller).await {
            assert_ne!(transaction["orderId"], foreign["id"]);
        }
    }
    assert_eq!((live.balance().await, test.balance().await), ("5.5".to_owned(), "991".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_offers_the_sandbox_in_test_mode_only() {
    let stage = Stage::with(&[
        ("ESIMD_ENVIRONMENT", "production"),
        ("ESIMD_PUBLIC_URL", "https://esims.example.com"),
        ("ESIMD_MASTER_KEY", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"),
    ])
    .await;
    let live = stage.partner_with("100").await;
    let test = stage.login(&live.email, "test").await;
    let plan = test.plan("Sandbox: delivers").await;
    let offered = live.get("/api/tenant/available-plans").await.ok(200);
    assert_eq!(list(&offered["plans"]).len(), 0);
    let basket = json!({"items": [{"planId": plan, "quantity": 1}]});
    assert_eq!(live.post(CHECKOUT, basket).await.faults(), ["items[0].planId plan_unavailable"]);
    assert_eq!((live.balance().await, order_count(&live).await), ("100".to_owned(), 0));
    assert_eq!(test.buy(&plan, 1).await["orders"][0]["status"], "completed");
    assert_eq!(test.balance().await, "995.5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_tenants_may_log_in_and_look_but_not_buy() {
    let stage = Stage::with(&[("ESIMD_REGISTRATION", "approval")]).await;
    let reply = stage.stranger().post(REGISTER, registration("example-travel", "owner@example.com")).await;
    assert_eq!(reply.ok(201)["tenant"]["status"], "pending");
    let partner = stage.partner_with("50").await;
    assert_eq!(partner.get(PROFILE).await.ok(200)["tenant"]["status"], "pending");
    let plan = partner.plan("Sandbox: delivers").await;
    let basket = json!({"items": [{"planId": plan, "quantity": 1}]});
    for caller in [partner.caller.clone(), stage.login(&partner.email, "test").await] {
        let before = caller.balance().await;
        caller.post(CHECKOUT, basket.clone()).await.refused(403, "tenant_pending");
        let body = json!({"amount": 100, "paymentMethod": "bank_transfer"});
        caller.post("/api/tenant/top-up", body).await.refused(403, "tenant_pending");
        assert_eq!((caller.balance().await, order_count(&caller).await), (before, 0));
        assert_eq!(list(&caller.get("/api/tenant/top-up").await.ok(200)["topUps"]).len(), 0);
    }
    // 403 comes before 422.
    partner.post(CHECKOUT, json!({"items": []})).await.refused(403, "tenant_pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_tenants_buy_once_the_operator_lets_them_in() {
    let stage = Stage::with(&[("ESIMD_REGISTRATION", "approval")]).await;
    let partner = stage.partner_with("4.5").await;
    let plan = partner.plan("Sandbox: delivers").await;
    reinstate(&stage, &partner).await;
    assert_eq!(partner.get(PROFILE).await.ok(200)["tenant"]["status"], "active");
    assert_eq!(partner.buy(&plan, 1).await["orders"][0]["status"], "completed");
    assert_eq!(partner.balance().await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_tenants_may_look_while_paid_deliveries_go_on() {
    let stage = Stage::start().await;
    let partner = stage.partner_with("100").await;
    let plan = partner.plan("Sandbox: delivers").await;
    let delivered = partner.buy(&plan, 1).await["orders"][0].clone();
    let slow = partner.plan("Sandbox: slow").await;
    let basket = json!({"items": [{"planId": slow, "quantity": 1}]});
    let paid = only_order(&partner.post(CHECKOUT, basket.clone()).await.ok(201));
    let (key_id, key) = api_key(&partner, "live", &["read", "order"]).await;
    assert_eq!(partner.balance().await, "91");

    suspend(&stage, &partner).await;
    let again = stage.login(&partner.email, "live").await;
    assert_eq!(again.get(PROFILE).await.ok(200)["tenant"]["status"], "suspended");
    let orders = "/api/tenant/orders";
    let cancel = format!("{orders}/{}/cancel", text(&delivered["id"]));
    for caller in [&partner.caller, &again] {
        for path in [orders, "/api/tenant/available-plans", "/api/tenant/transactions", BALANCE, API_KEYS] {
            caller.get(path).await.ok(200);
        }
        caller.post(CHECKOUT, basket.clone()).await.refused(403, "tenant_suspended");
        caller.post(&cancel, json!({})).await.refused(403, "tenant_suspended");
        let top_up = json!({"amount": 100, "paymentMethod": "bank_transfer"});
        caller.post("/api/tenant/top-up", top_up).await.refused(403, "tenant_suspended");
        caller.patch(PROFILE, json!({"name": "Other"})).await.refused(403, "tenant_suspended");
        let new_key = json!({"name": "second", "mode": "live", "scopes": ["read"]});
        caller.post(API_KEYS, new_key).await.refused(403, "tenant_suspended");
    }
    key.get(orders).await.ok(200);
    key.post(CHECKOUT, basket.clone()).await.refused(403, "tenant_suspended");
    assert_eq!((partner.balance().await, order_count(&partner).await), ("91".to_owned(), 2));
    assert_eq!(order(&partner, text(&delivered["id"])).await["esims"][0]["status"], "delivered");
    let keys = partner.get(API_KEYS).await.ok(200)["apiKeys"].clone();
    assert_eq!(column(&keys, "id"), [key_id.as_str()]);

    let picture = text(&delivered["esims"][0]["qrCodeUrl"]);
    let picture = &picture[picture.find("://").expect("an absolute link") + 3..];
    let picture = stage.stranger().get(&picture[picture.find('/').expect("a path")..]).await;
    assert_eq!((picture.status, picture.header("content-type")), (200, "image/png"));
    assert_eq!(settled(&stage, &partner, &paid).await["status"], "completed");

    reinstate(&stage, &partner).await;
    assert_eq!(again.get(PROFILE).await.ok(200)["tenant"]["status"], "active");
    again.post(CHECKOUT, basket).await.ok(201);
    again.post(&cancel, json!({})).await.ok(202);
}
