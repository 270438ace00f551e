//! The process under measurement: the whole platform as `esimd` runs it, with one more route that does
//! nothing, and tenants made through the store, because registering a thousand hashes a thousand passwords.

use crate::Outcome;
use crate::random::Random;
use domain::id::OperatorId;
use domain::money::{Currency, Money};
use domain::tenant::{Mode, Permission, Permissions, TenantStatus};
use hyper::header::HeaderValue;
use providers::sandbox::DELIVERS;
use serde_json::json;
use server::answer::Answer;
use server::config::{Config, Overrides, process_environment};
use server::entrance::{API_KEY_PREFIX, api_key_hash};
use server::routes::{Content, Handler, Route};
use server::{App, Runtime};
use std::io::{Read, Write};
use std::path::Path;
use store::Store;
use store::access::{self, NewApiKey};
use store::audit::Act;
use store::port::{Decision, Failure, Fault, Tx};
use store::tenant::{self, Registration};

/// Where the operator of the bench logs in.
pub const OPERATOR_EMAIL: &str = "bench@example.com";

/// A checkout's way without a checkout: the same entrance, limits, body and permission.
static EMPTY: &[Route] = &[Route {
    method: "POST",
    path: "/api/tenant/empty",
    tag: "Bench",
    summary: "Nothing",
    handler: Handler::Tenant {
        permission: Permission::Read,
        changes: true,
        handler: |_| {
            Box::pin(async { Ok(Answer::bytes(200, HeaderValue::from_static("application/json"), "{}".into())) })
        },
    },
    query: &[],
    body: Some(server::api::checkout::BODY),
    status: 200,
    content: Content::Media("application/json"),
    refusals: &[],
    idempotent: false,
}];

/// Tenants of one commit.
const GROUP: u32 = 50;
/// Live credit of each, minor units: more than a run can spend.
const CREDIT: i64 = 1_000_000_000_000;

/// The settings of the process under measurement, with its data in this folder.
pub fn config(data: &Path) -> Outcome<Config> {
    let overrides = Overrides { data_dir: Some(data.to_owned()), ..Overrides::default() };
    Ok(Config::load(&overrides, process_environment())?)
}

/// Serves until standard input ends. The first line of standard output says where, and with which keys.
pub fn serve(data: &Path, tenants: u32, seed: u64) -> Outcome<()> {
    let config = config(data)?;
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::start_with(config, Runtime::system(), EMPTY).await?;
        let store = &app.platform().store;
        let plans = store.read(|snapshot| store::plan::list(snapshot, None, 5_000)).await?;
        let plan = plans.iter().map(|listed| &listed.plan).find(|plan| plan.upstream_plan_id == DELIVERS);
        let plan = plan.ok_or("the sandbox has no plan that delivers")?.id;
        let keys = make_tenants(store, tenants, seed).await?;
        let ready = json!({"address": app.address().to_string(), "plan": plan.to_string(), "keys": keys});
        writeln!(std::io::stdout(), "{ready}")?;
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = ended.send(());
        });
        let _ = end.await;
        app.stop().await;
        Ok(())
    })
}

/// One key of each tenant.
pub fn api_keys(tenants: u32, seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let secret = |_: u32| format!("{API_KEY_PREFIX}live_{:016x}{:016x}", random.next(), random.next());
    (0..tenants).map(secret).collect()
}

/// Makes the tenants, unless they are there already, and tells their keys.
pub async fn make_tenants(store: &Store, tenants: u32, seed: u64) -> Outcome<Vec<String>> {
    let keys = api_keys(tenants, seed);
    if let Some(last) = keys.last() {
        let hash = api_key_hash(last);
        if store.read(move |snapshot| access::api_key_by_secret(snapshot, &hash)).await?.is_some() {
            return Ok(keys);
        }
    }
    let operator = store.read(|snapshot| access::operator_by_email(snapshot, OPERATOR_EMAIL)).await?;
    let act = Act {
        operator: OperatorId::new(operator.ok_or("the bench has no operator")?.id),
        address: "127.0.0.1".to_owned(),
    };
    for (group, secrets) in keys.chunks(usize::try_from(GROUP)?).enumerate() {
        let (act, secrets) = (act.clone(), secrets.to_vec());
        let made = store.write(move |tx| make_group(tx, &act, group, &secrets)).await;
        made.map_err(|failure: Failure<std::convert::Infallible>| format!("no tenants: {failure:?}"))?;
    }
    Ok(keys)
}

fn make_group(tx: &mut dyn Tx, act: &Act, group: usize, secrets: &[String]) -> Decision<(), std::convert::Infallible> {
    for (number, secret) in secrets.iter().enumerate() {
        let name = format!("bench-{group}-{number}");
        let registration = Registration {
            name: name.clone(),
            contact_email: format!("{name}@example.com"),
            subdomain: name,
            // Nobody logs in with a password.
            password_hash: String::new(),
            status: TenantStatus::Active,
            currency: Currency::USD,
            test_credit: Money::zero(Currency::USD),
        };
        let tenant = must(tenant::register(tx, &registration))?.id;
        let credit = Money::new(CREDIT, Currency::USD);
        must(tenant::adjust(tx, act, tenant, Mode::Live, credit, "Bench", None))?;
        let key = NewApiKey {
            name: "Bench".to_owned(),
            mode: Mode::Live,
            permissions: Permissions::ALL,
            secret_hash: api_key_hash(secret),
            hint: String::new(),
        };
        must(access::create_api_key(tx, tenant, &key))?;
    }
    Ok(())
}

fn must<T, R: std::fmt::Debug>(decision: Decision<T, R>) -> Result<T, Fault> {
    decision.map_err(|failure| match failure {
        Failure::Fault(fault) => fault,
        Failure::Refused(refusal) => Fault::Bug(format!("refused: {refusal:?}")),
    })
}
