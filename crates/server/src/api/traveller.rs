//! The traveller's links: the install page and the QR code. They need no login; their address holds
//! an unguessable token.

use crate::answer::Answer;
use crate::call::Call;
use crate::fields::{Field, Kind, optional};
use crate::pages::install::{InstallPage, Status};
use crate::pages::{problem as problem_page, qr};
use crate::problem::{Code, Problem};
use domain::esim::{EsimState, android_install_url, apple_install_url};
use domain::plan::{Activation, Plan};
use hyper::header::HeaderValue;
use store::esim::Esim;
use store::order::{self, Order};

enum Found {
    There(Box<(Order, Esim, Option<Plan>)>),
    Unknown,
    Gone,
}

async fn find(call: &Call) -> Result<Found, Problem> {
    let Some(id) = call.platform.with_keyring(|keys| keys.esim_of_link(call.parameter("token"))) else {
        return Ok(Found::Unknown);
    };
    let found = call
        .platform
        .store
        .read(move |snapshot| {
            let Some((order, esim)) = order::of_esim(snapshot, id)? else { return Ok(None) };
            let plan = store::plan::find(snapshot, order.plan)?.map(|listed| listed.plan);
            Ok(Some((order, esim, plan)))
        })
        .await?;
    Ok(match found {
        None => Found::Unknown,
        Some((_, esim, _)) if matches!(esim.state, EsimState::Cancelled | EsimState::Failed) => Found::Gone,
        Some(found) => Found::There(Box::new(found)),
    })
}

fn gone() -> Problem {
    Problem::new(Code::Gone, "This eSIM is no longer available. Please contact the shop you bought it from.")
}

fn html(result: Result<String, askama::Error>) -> Result<String, Problem> {
    result.map_err(|error| Problem::internal().because(error))
}

fn private(answer: Answer) -> Answer {
    answer.with_header("cache-control", "no-store").with_header("x-robots-tag", "noindex, nofollow")
}

/// `GET /e/{token}`: the page for the traveller's phone.
///
/// # Errors
/// A [`Problem`].
pub async fn install(call: Call) -> Result<Answer, Problem> {
    let answer = match find(&call).await? {
        Found::Unknown => Answer::page(404, problem_page::csp(), html(problem_page::unknown_link())?),
        Found::Gone => Answer::page(410, problem_page::csp(), html(problem_page::gone())?),
        Found::There(found) => {
            let (order, esim, plan) = *found;
            let page = page(&call, &order, &esim, plan.as_ref())?;
            Answer::page(200, InstallPage::csp(), page)
        }
    };
    Ok(private(answer))
}

fn page(call: &Call, order: &Order, esim: &Esim, plan: Option<&Plan>) -> Result<String, Problem> {
    let code = esim.activation_code.as_deref().unwrap_or("");
    let countries = plan.map(|plan| plan.countries.clone()).unwrap_or_default();
    let install_by = esim.install_by.map(|time| time.to_string().chars().take(10).collect::<String>());
    let status = Status::from_name(esim.status().word()).unwrap_or(Status::Pending);
    let (apple, android) = (apple_install_url(code), android_install_url(code));
    let qr = format!("{}/e/{}/qr", call.platform.base_url, call.parameter("token"));
    html(
        InstallPage {
            seller: None,
            plan_name: &order.plan_name,
            status,
            countries: &countries,
            data: &plan.map(data).unwrap_or_default(),
            validity_days: plan.and_then(|plan| u32::try_from(plan.validity_days).ok()).unwrap_or(0),
            activation: match plan.map(|plan| plan.activation) {
                Some(Activation::OnInstall) => "Starts when the eSIM is installed",
                Some(Activation::OnOrder) => "Started with the order",
                Some(Activation::OnFirstUse) | None => "Starts when the eSIM first joins a network",
            },
            activation_code: code,
            smdp_address: esim.smdp_address.as_deref().unwrap_or(""),
            matching_id: esim.matching_id.as_deref().unwrap_or(""),
            confirmation_code: esim.confirmation_code.as_deref(),
            apn: esim.apn.as_deref(),
            install_by: install_by.as_deref(),
            apple_install_url: &apple,
            android_install_url: &android,
            qr_png_url: &qr,
        }
        .render(),
    )
}

/// The data of a plan in words.
fn data(plan: &Plan) -> String {
    let amount = |mb: i64| match (mb % 1_024, mb) {
        (0, mb) => format!("{} GB", mb / 1_024),
        (_, mb) => format!("{mb} MB"),
    };
    match (plan.unlimited, plan.daily_data_mb, plan.data_mb) {
        (_, Some(daily), _) => format!("{} a day", amount(daily)),
        (false, None, Some(total)) => amount(total),
        (true, None, _) | (false, None, None) => "Unlimited".to_owned(),
    }
}

fn formats() -> Vec<&'static str> {
    vec!["png", "svg", "text"]
}

/// The query of the QR code.
pub const QR_QUERY: &[Field] =
    &[optional("format", Kind::Word(formats), "png (by default), svg, or text for a terminal.")];

/// `GET /e/{token}/qr`: the QR code of the activation code.
///
/// # Errors
/// A [`Problem`].
pub async fn qr_code(call: Call) -> Result<Answer, Problem> {
    let esim = match find(&call).await? {
        Found::Unknown => return Err(Problem::not_found()),
        Found::Gone => return Err(gone()),
        Found::There(found) => found.1,
    };
    let code = esim.activation_code.filter(|code| !code.is_empty()).ok_or_else(Problem::not_found)?;
    let broken = |error: qr::QrError| Problem::internal().because(format!("{error:?}"));
    let (media, picture) = match call.query.text("format") {
        Some("svg") => ("image/svg+xml", qr::svg(&code).map_err(broken)?.into()),
        Some("text") => ("text/plain; charset=utf-8", qr::terminal(&code).map_err(broken)?.into()),
        _ => ("image/png", qr::png(&code).map_err(broken)?.into()),
    };
    let answer = Answer::bytes(200, HeaderValue::from_static(media), picture);
    Ok(private(answer))
}
