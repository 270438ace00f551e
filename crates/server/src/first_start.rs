//! The first start explains itself: without configuration there are plans to sell, an operator, a demo
//! partner with credit, and three lines that buy an eSIM.

use crate::config::Config;
use crate::entrance::{API_KEY_PREFIX, api_key_hash};
use crate::password::Hasher;
use domain::id::{OperatorId, PlanId};
use domain::money::{Currency, Money};
use domain::plan::{Network, Plan};
use domain::tenant::{Mode, Permissions, TenantStatus};
use providers::sandbox::{CataloguePlan, catalogue};
use std::fmt::Write;
use store::Store;
use store::access::{self, NewApiKey};
use store::audit::Act;
use store::checkout::SANDBOX;
use store::tenant::{self, Registration};

/// Why nothing could be prepared: one line.
#[derive(Debug)]
pub struct PrepareError(pub String);

impl<E: std::fmt::Debug> From<store::port::Failure<E>> for PrepareError {
    fn from(failure: store::port::Failure<E>) -> Self {
        Self(format!("the first start could not be prepared: {failure:?}"))
    }
}

impl From<store::port::Fault> for PrepareError {
    fn from(fault: store::port::Fault) -> Self {
        Self(format!("the first start could not be prepared: {fault}"))
    }
}

impl From<crate::problem::Problem> for PrepareError {
    fn from(problem: crate::problem::Problem) -> Self {
        Self(problem.message.clone())
    }
}

const DEMO_EMAIL: &str = "partner@example.com";
const OPERATOR_EMAIL: &str = "operator@example.com";

/// A password a person can type: sixteen letters and digits without those that look alike.
///
/// # Errors
/// [`PrepareError`] when the system has no randomness.
pub fn random_password() -> Result<String, PrepareError> {
    const LETTERS: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz23456789x";
    let mut random = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| PrepareError("the system gives no random numbers".to_owned()))?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
    let text: String = random.iter().map(letter).collect();
    Ok(format!("{}-{}-{}-{}", &text[..4], &text[4..8], &text[8..12], &text[12..]))
}

/// What was made at this start; passwords are not known again.
#[derive(Debug, Default)]
pub struct Made {
    operator: Option<(String, String)>,
    partner: Option<Demo>,
}

#[derive(Debug)]
struct Demo {
    password: String,
    api_key: String,
    plan: PlanId,
}

/// Takes the sandbox's plans in where there are none, makes the operator, and in development a demo partner.
///
/// # Errors
/// [`PrepareError`].
pub async fn prepare(
    config: &Config,
    store: &Store,
    hasher: &Hasher,
    currency: Currency,
) -> Result<Made, PrepareError> {
    let plans = sandbox_plans(store, currency).await?;
    let mut made = Made::default();
    let first = !store.read(|snapshot| access::any_operator(snapshot)).await?;
    let mut operator: Option<OperatorId> = None;
    if first {
        let (email, password, shown) = match config.operator.credentials() {
            Some((email, password)) => (email.to_owned(), password.expose().to_owned(), false),
            None if config.is_production() => {
                return Err(PrepareError(
                    "there is no operator yet: run `esimd operator create --email you@example.com`, or set \
                     ESIMD_OPERATOR_EMAIL and ESIMD_OPERATOR_PASSWORD"
                        .to_owned(),
                ));
            }
            None => (OPERATOR_EMAIL.to_owned(), random_password()?, true),
        };
        let hash = hasher.hash(password.clone()).await?;
        let address = email.clone();
        operator = Some(store.write(move |tx| access::create_operator(tx, &address, &hash)).await?);
        let shown = if shown { password } else { "(the one you set)".to_owned() };
        made.operator = Some((email, shown));
    }
    let empty = !store.read(|snapshot| tenant::any(snapshot)).await?;
    if let (Some(operator), true, false) = (operator, empty, config.is_production()) {
        made.partner = Some(demo_partner(store, hasher, currency, operator, plans).await?);
    }
    Ok(made)
}

/// The sandbox's plans are its catalogue, not demo data: every tenant's test mode sells them, in
/// production, too. What the operator changed afterwards stays.
async fn sandbox_plans(store: &Store, currency: Currency) -> Result<Option<PlanId>, PrepareError> {
    let on_sale = move |snapshot: &mut dyn store::port::Snapshot| {
        let known = store::plan::list(snapshot, None, 5_000)?;
        Ok(known.into_iter().map(|listed| listed.plan).filter(|plan| plan.provider == SANDBOX).collect::<Vec<_>>())
    };
    let mut known = store.read(on_sale).await?;
    if known.is_empty() {
        let plans: Vec<Plan> = catalogue().iter().map(|plan| of_catalogue(plan, currency)).collect();
        store.write(move |tx| store::plan::import(tx, None, &plans)).await?;
        known = store.read(on_sale).await?;
    }
    Ok(known.iter().find(|plan| plan.upstream_plan_id == providers::sandbox::DELIVERS).map(|plan| plan.id))
}

/// A catalogue price is in US cents; other currencies get the same number of minor units.
fn of_catalogue(plan: &CataloguePlan, currency: Currency) -> Plan {
    let mut countries: Vec<String> = plan.countries.iter().map(|country| (*country).to_owned()).collect();
    countries.sort_unstable();
    let networks = plan.networks.iter().map(|network| Network {
        country: network.country.to_owned(),
        operator: network.operator.to_owned(),
        technology: network.technology.to_owned(),
    });
    Plan {
        id: PlanId::new(uuid::Uuid::nil()),
        provider: SANDBOX.to_owned(),
        upstream_plan_id: plan.upstream_plan_id.clone(),
        name: plan.name.clone(),
        plan_type: plan.kind.parse().unwrap_or(domain::plan::PlanType::Local),
        countries,
        region: plan.region.map(str::to_owned),
        data_mb: plan.data_mb,
        daily_data_mb: plan.daily_data_mb,
        unlimited: plan.unlimited,
        validity_days: plan.validity_days,
        price: Money::new(plan.price_minor, currency),
        speed: Some(plan.speed.to_owned()),
        networks: networks.collect(),
        activation: plan.activation.parse().unwrap_or(domain::plan::Activation::OnFirstUse),
        top_up_supported: plan.top_up_supported,
        description: Some(plan.description.clone()),
        fair_use: plan.fair_use.clone(),
    }
}

async fn demo_partner(
    store: &Store,
    hasher: &Hasher,
    currency: Currency,
    operator: OperatorId,
    plan: Option<PlanId>,
) -> Result<Demo, PrepareError> {
    let amount = |text| Money::parse(text, currency).unwrap_or(Money::zero(currency));
    let password = random_password()?;
    let registration = Registration {
        name: "Demo partner".to_owned(),
        subdomain: "demo-partner".to_owned(),
        contact_email: DEMO_EMAIL.to_owned(),
        password_hash: hasher.hash(password.clone()).await?,
        status: TenantStatus::Active,
        currency,
        test_credit: amount("1000"),
    };
    let tenant = store.write(move |tx| tenant::register(tx, &registration)).await?;
    let act = Act { operator, address: "first start".to_owned() };
    let (id, credit) = (tenant.id, amount("300"));
    store.write(move |tx| tenant::adjust(tx, &act, id, Mode::Live, credit, "Demo credit", None)).await?;
    let mut random = [0_u8; 24];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| PrepareError("the system gives no random numbers".to_owned()))?;
    let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, random);
    let api_key = format!("{API_KEY_PREFIX}live_{text}");
    let key = NewApiKey {
        name: "Demo key".to_owned(),
        mode: Mode::Live,
        permissions: Permissions::ALL,
        secret_hash: api_key_hash(&api_key),
        hint: text.chars().skip(text.len() - 4).collect(),
    };
    store.write(move |tx| access::create_api_key(tx, id, &key)).await?;
    let plan = plan.ok_or_else(|| PrepareError("the sandbox has no plan that delivers".to_owned()))?;
    Ok(Demo { password, api_key, plan })
}

/// What a person reads at the start.
#[must_use]
pub fn welcome(made: &Made, base_url: &str, data: &str) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "eSIM Distribute listens on {base_url}  (documentation: {base_url}/api-docs)");
    let _ = writeln!(text, "Data: {data}");
    if let Some((email, password)) = &made.operator {
        let _ = writeln!(text, "\nOperator      {email}   password {password}");
    }
    if let Some(demo) = &made.partner {
        let Demo { password, api_key, plan } = demo;
        let _ = writeln!(text, "Demo partner  {DEMO_EMAIL}    password {password}   credit 300.00");
        let _ = writeln!(text, "These passwords are shown only now. Buy an eSIM and show its QR code:\n");
        let _ = writeln!(text, "  KEY={api_key}");
        let _ = writeln!(
            text,
            "  curl -s -H \"Authorization: Bearer $KEY\" '{base_url}/api/tenant/available-plans?country=TH'"
        );
        let _ = writeln!(
            text,
            "  QR=$(curl -s -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \
             -d '{{\"items\":[{{\"planId\":\"{plan}\",\"quantity\":1}}]}}' \
             '{base_url}/api/tenant/orders/checkout?wait=20' | grep -o 'http[^\"]*/qr' | head -n 1)"
        );
        let _ = writeln!(text, "  curl -s \"$QR?format=text\"      # or -o esim.png \"$QR\"\n");
    }
    text
}
