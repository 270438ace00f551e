//! The price list of a large catalogue: how long the first answer takes, what an answer costs that the caller has
//! already, and what it costs in memory. The plans live from offers of two connections, and rules price them.

use crate::connection::Connection;
use crate::figures::{Latencies, Table, micros, millis, per_second};
use crate::load;
use crate::random::{self, Random};
use crate::request::{self, Target};
use crate::server_process::{ServerProcess, this_program};
use crate::serving::{self, OPERATOR_EMAIL};
use crate::{Cli, Outcome};
use domain::catalogue::{Change, Sifted, diff};
use domain::connection::Provider;
use domain::id::{ConnectionId, OperatorId};
use domain::money::Currency;
use domain::offer::{Cost, Data, Offer};
use domain::plan::Network;
use domain::pricing::{Markup, MarkupScope, Rate, Rounding};
use domain::time::Timestamp;
use serde_json::{Value, json};
use server::{App, Runtime};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use store::Store;
use store::audit::Act;
use store::connection::{Sealed, Settings};
use store::offer::{PORTION, Source, apply_changes};
use store::{access, connection, markup, rate};
use tokio::task::JoinSet;

/// What is filled and measured.
#[derive(Debug, clap::Args)]
pub struct Catalogue {
    /// How many plans, each with an offer of either connection.
    #[arg(long, default_value_t = 20_000)]
    plans: u32,
}

const PATH: &str = "/api/tenant/available-plans";
const CONNECTIONS: [&str; 2] = ["first", "second"];
/// Where the plans work.
const COUNTRIES: [&str; 30] = [
    "AT", "AU", "BE", "BR", "CA", "CH", "DE", "DK", "EG", "ES", "FI", "FR", "GB", "GR", "ID", "IE", "IT", "JP", "KR",
    "MX", "NL", "NO", "PL", "PT", "SE", "SG", "TH", "TR", "US", "ZA",
];
/// Tenants: the first two are in one tier.
const TENANTS: u32 = 64;
/// Lists that are made anew, of which the median is told.
const ANEW: usize = 9;
/// More than a list has bytes.
const ROOM: usize = 64 * 1_024 * 1_024;

/// Fills and measures; returns what went wrong without ending the run.
pub fn measure(cli: &Cli, catalogue: &Catalogue) -> Outcome<Vec<String>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_path_buf).unwrap_or_default();
    let folder = tempfile::tempdir_in(cli.data_dir.as_deref().unwrap_or(&beside))?;
    let data: PathBuf = folder.path().join("server");
    let seed = cli.seed.unwrap_or_else(random::from_clock);
    let filled = this_program("", seed)?
        .arg("fill-catalogue")
        .arg(&data)
        .arg(catalogue.plans.to_string())
        .stdin(Stdio::null())
        .status()?;
    if !filled.success() {
        return Err(format!("the catalogue was not filled: {filled}").into());
    }
    let mut server = ServerProcess::start(&data, "", TENANTS, seed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure_all(cli, catalogue, &server, seed));
    server.stop()?;
    measured
}

async fn measure_all(cli: &Cli, catalogue: &Catalogue, server: &ServerProcess, seed: u64) -> Outcome<Vec<String>> {
    let mut table = Table::new();
    let mut faults = Vec::new();
    let begun = Instant::now();
    while plans_on_sale(server).await? < catalogue.plans {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cores = std::thread::available_parallelism()?;
    table.heading(&format!(
        "price list of {} plans with {} offers on {cores} cores shared with this driver, seed {seed}",
        catalogue.plans,
        catalogue.plans.saturating_mul(2)
    ))?;
    table.row("catalogue in memory after the start", &millis(begun.elapsed()))?;
    table.row("memory with the catalogue", &server.memory()?.to_string())?;

    let key = server.api_keys().first().ok_or("there are no tenants")?.clone();
    let mut connection = Connection::open(server.address()).await?;
    let request = request::get(PATH, &key);
    // Whoever comes in is looked up first; that is no part of the list.
    connection.ask(&request::get("/api/tenant/profile", &key)).await?;
    connection.make_room(ROOM);
    let asked = Instant::now();
    let answer = connection.ask(&request).await?;
    let (cold, bytes) = (asked.elapsed(), answer.body.len());
    let listed = serde_json::from_slice::<Value>(answer.body)?["data"]["plans"].as_array().map_or(0, Vec::len);
    if u32::try_from(listed)? < catalogue.plans {
        faults.push(format!("{listed} plans are on the list"));
    }
    table.row("first answer, catalogue ready, list not made", &format!("{}, {bytes} bytes", millis(cold)))?;
    let asked = Instant::now();
    connection.ask(&request).await?;
    table.row("the same again", &millis(asked.elapsed()))?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;

    let packed = with_header(&request, "Accept-Encoding: gzip");
    let asked = Instant::now();
    let length = loop {
        let length = connection.ask(&packed).await?.body.len();
        if length < bytes {
            break length;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    table.row("compressed answer ready after", &format!("{}, {length} bytes", millis(asked.elapsed())))?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;

    let mut anew = Vec::with_capacity(ANEW);
    let operator = operator(server).await?;
    for number in 0..ANEW {
        let body = json!({"percent": number}).to_string();
        let set = post(&operator, "/api/operator/markup-rules", &body);
        if connection.ask(&set).await?.status != 201 {
            faults.push("a rule was not made".to_owned());
        }
        let asked = Instant::now();
        connection.ask(&request).await?;
        anew.push(micros(asked.elapsed()));
    }
    let anew = Latencies::new(anew);
    table.row(
        "first answer after a change of all prices",
        &format!("median {}, most {}", millis(anew.quantile(0.5)), millis(anew.quantile(1.0))),
    )?;

    let duration = Duration::from_secs(cli.seconds.into());
    let plan = load::Plan { tenants: TENANTS, connections: cli.connections, duration, seed };
    load::run(&load::Plan { duration: Duration::from_secs(1), ..plan }, server, Target::Empty).await?;
    let empty = load::run(&plan, server, Target::Empty).await?;
    faults.extend(empty.faults(200));
    table.load("empty authenticated handler", &empty)?;
    let tag = etag(server, &request).await?;
    let (known, took) = cached(server, &format!("If-None-Match: {tag}"), &plan).await?;
    let rate = per_second(known, took);
    table.row("list that the caller has (304)", &format!("{rate:.0}/s"))?;
    table.row("  to the empty handler", &format!("{:.3}", rate / empty.rate()))?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;
    Ok(faults)
}

/// A request with one more header.
fn with_header(request: &[u8], header: &str) -> Vec<u8> {
    let end = request.len().saturating_sub(2);
    let mut longer = request.get(..end).unwrap_or_default().to_vec();
    longer.extend_from_slice(format!("{header}\r\n\r\n").as_bytes());
    longer
}

fn post(token: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

async fn operator(server: &ServerProcess) -> Outcome<String> {
    let body = json!({"email": OPERATOR_EMAIL, "password": server.operator_password()}).to_string();
    let mut connection = Connection::open(server.address()).await?;
    let answer = connection.ask(&request::post("/api/operator/login", &body)).await?;
    let answer: Value = serde_json::from_slice(answer.body)?;
    Ok(answer["data"]["token"].as_str().ok_or("the operator cannot log in")?.to_owned())
}

async fn plans_on_sale(server: &ServerProcess) -> Outcome<u32> {
    let mut connection = Connection::open(server.address()).await?;
    let answer = connection.ask(&request::get("/metrics", "none")).await?;
    let text = std::str::from_utf8(answer.body)?;
    let value = text.lines().find_map(|line| line.strip_prefix("esimd_plans_on_sale ")).ok_or("a metric is missing")?;
    Ok(value.trim().parse()?)
}

/// The entity tag of a list, which [`Connection`] does not read.
async fn etag(server: &ServerProcess, request: &[u8]) -> Outcome<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(server.address()).await?;
    stream.write_all(&with_header(request, "Connection: close")).await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    let head = received.windows(4).position(|four| four == b"\r\n\r\n").ok_or("an answer without a head")?;
    let head = std::str::from_utf8(received.get(..head).unwrap_or_default())?;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).ok_or("a list without a tag")?;
    Ok(tag.to_owned())
}

/// How many answers come to whoever has the list, and in how long.
async fn cached(server: &ServerProcess, header: &str, plan: &load::Plan) -> Outcome<(u32, Duration)> {
    let begun = Instant::now();
    let end = begun + plan.duration;
    let mut clients = JoinSet::new();
    let mut random = Random(plan.seed);
    for _ in 0..plan.connections {
        let key = random.one_of(server.api_keys()).ok_or("there are no tenants")?;
        let (request, address) = (with_header(&request::get(PATH, key), header), server.address());
        clients.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut answers = 0_u32;
            while Instant::now() < end {
                let status = connection.ask(&request).await?.status;
                if status != 304 {
                    return Err(format!("an answer with status {status}").into());
                }
                answers += 1;
            }
            Outcome::Ok(answers)
        });
    }
    let mut all = 0_u32;
    while let Some(answers) = clients.join_next().await {
        all = all.saturating_add(answers??);
    }
    Ok((all, begun.elapsed()))
}

/// Fills a platform by the store's own commands.
pub fn fill(data: &Path, plans: u32) -> Outcome<()> {
    let config = serving::config(data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::start(config, Runtime::system()).await?;
        let filled = fill_store(&app.platform().store, plans).await;
        app.stop().await;
        filled
    })
}

async fn fill_store(store: &Store, plans: u32) -> Outcome<()> {
    let operator = store.read(|snapshot| access::operator_by_email(snapshot, OPERATOR_EMAIL)).await?;
    let operator = OperatorId::new(operator.ok_or("the bench has no operator")?.id);
    let act = Act { operator, address: "127.0.0.1".to_owned() };
    for (number, name) in CONNECTIONS.into_iter().enumerate() {
        let id: ConnectionId = format!("01920000-0000-7000-8000-00000000000{number}").parse().map_err(|_| "no id")?;
        let settings = Settings {
            base_url: "http://127.0.0.1:9".to_owned(),
            priority: 100,
            calls_per_second: None,
            calls_in_flight: 1,
            time_limit_ms: 1_000,
            low_balance: None,
        };
        let by = act.clone();
        let made = store.write(move |tx| {
            let sealed = Sealed { key_version: 1, bytes: vec![0] };
            connection::create(tx, &by, id, name, Provider::Tsim, &settings, &sealed)?;
            connection::set_enabled(tx, &by, id, true)
        });
        made.await.map_err(|failure| format!("no connection: {failure:?}"))?;
        let offers = (0..plans).map(|plan| offer(plan, number)).collect();
        let changes = diff(&[], &Sifted::new(offers), true).map_err(|_| "a list that is not believed")?;
        for portion in changes.chunks(PORTION) {
            let portion: Vec<Change> = portion.to_vec();
            let source = Source {
                connection: name.to_owned(),
                siblings: CONNECTIONS.map(str::to_owned).into(),
                currency: Currency::USD,
            };
            let applied = store.write(move |tx| apply_changes(tx, &source, &portion)).await;
            applied.map_err(|failure| format!("no offers: {failure:?}"))?;
        }
    }
    let by = act.clone();
    let euros = Rate::parse("1.0842", "EUR", Currency::USD, Timestamp::default()).map_err(|_| "no rate")?;
    let set = store.write(move |tx| rate::set(tx, &by, &euros, None)).await;
    set.map_err(|failure| format!("no rate: {failure:?}"))?;
    // Everything, and each country for everybody and for two tiers.
    let tiers = [None, Some("gold"), Some("silver")].map(|tier| tier.map(str::to_owned));
    let mut scopes = vec![MarkupScope::default()];
    for country in COUNTRIES {
        let country = Some(country.to_owned());
        let scope = |tier: &Option<String>| MarkupScope {
            country: country.clone(),
            tier: tier.clone(),
            ..MarkupScope::default()
        };
        scopes.extend(tiers.iter().map(scope));
    }
    for (percent, scope) in (1_000..).zip(scopes) {
        let by = act.clone();
        let markup = Markup { percent, fixed: 30, floor: Some(100), rounding: Rounding::UpTo49 };
        let made = store.write(move |tx| markup::create(tx, &by, &scope, &markup, Currency::USD)).await;
        made.map_err(|failure| format!("no rule: {failure:?}"))?;
    }
    Ok(())
}

/// Nine of ten work in one country, the tenth in all of them; each costs something else.
fn offer(plan: u32, connection: usize) -> Offer {
    let place = usize::try_from(plan).unwrap_or(0);
    let countries: Vec<String> = match place % 10 {
        9 => COUNTRIES.map(str::to_owned).into(),
        _ => COUNTRIES.iter().skip(place % COUNTRIES.len()).take(1).map(|&country| country.to_owned()).collect(),
    };
    let networks = countries.iter().flat_map(|country| {
        ["First Mobile", "Second Telecom"].map(|operator| Network {
            country: country.clone(),
            operator: operator.to_owned(),
            technology: "4G/5G".to_owned(),
        })
    });
    let cents = i64::from(plan % 5_000) + i64::try_from(connection).unwrap_or(0) + 50;
    Offer {
        upstream_plan_id: format!("plan-{plan:06}"),
        name: format!("Travel plan number {plan}"),
        cost: Cost { units: cents, decimals: 2, currency: if connection == 0 { "USD" } else { "EUR" }.to_owned() },
        networks: networks.collect(),
        countries,
        data: Data::Total(1_024 * i64::from(plan % 50 + 1)),
        validity_days: i64::from(plan % 30 + 1),
        speed: Some("5G".to_owned()),
        activation: None,
        add_on_supported: true,
        apn: Some("internet".to_owned()),
        remark: Some("Slower after 2 GB a day".to_owned()),
    }
}
