//! Whether anything becomes slower as the orders of months lie there: the same figures on platforms of several sizes,
//! side by side. A platform is filled once, measured over HTTP in a process of its own, and removed.

use crate::completion;
use crate::connection::Connection;
use crate::export;
use crate::figures::{Latencies, micros};
use crate::filling;
use crate::history::History;
use crate::load;
use crate::random::Random;
use crate::request::{self, Target};
use crate::server_process::{ServerProcess, this_program};
use crate::serving;
use crate::{Cli, Outcome};
use domain::id::OrderId;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What is filled and measured.
#[derive(Debug, clap::Args)]
pub struct Steps {
    /// How many orders the platforms have.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 500_000, 5_000_000])]
    steps: Vec<u32>,
    /// Tenants; the first has a tenth of all orders.
    #[arg(long, default_value_t = 2_000)]
    tenants: u32,
    /// Requests of each kind, one after the other.
    #[arg(long, default_value_t = 2_000)]
    requests: u32,
    /// Only fills the platforms; the next run measures them.
    #[arg(long)]
    fill_only: bool,
}

/// Tenants whose deepest pages are read.
const WALKED: u32 = 50;
/// Starts, of which the median counts.
const STARTS: usize = 3;
/// Between two lines that tell how far the filling is.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// Some values of one kind, as they stand in the table.
#[derive(Debug, Clone)]
struct Figure {
    values: Vec<f64>,
    decimals: usize,
    unit: &'static str,
}

impl Figure {
    fn new(value: f64, decimals: usize, unit: &'static str) -> Self {
        Self { values: vec![value], decimals, unit }
    }

    /// Median and 99th percentile.
    fn of(latencies: &Latencies) -> Self {
        let millis = |share| latencies.quantile(share).as_secs_f64() * 1_000.0;
        Self { values: vec![millis(0.5), millis(0.99)], decimals: 2, unit: " ms" }
    }

    fn mebibytes(kibibytes: u32) -> Self {
        Self::new(f64::from(kibibytes) / 1_024.0, 0, " MiB")
    }

    fn seconds(duration: Duration) -> Self {
        Self::new(duration.as_secs_f64(), 2, " s")
    }

    fn text(&self) -> String {
        let values: Vec<String> = self.values.iter().map(|value| format!("{value:.*}", self.decimals)).collect();
        format!("{}{}", values.join(" / "), self.unit)
    }

    /// How many times the figure of a smaller platform it is.
    fn times(&self, smaller: &Self) -> String {
        let times = self
            .values
            .iter()
            .zip(&smaller.values)
            .map(|(large, small)| if *small > 0.0 { format!("{:.2}", large / small) } else { "-".to_owned() });
        times.collect::<Vec<_>>().join(" / ")
    }
}

/// The figures of one platform, in the order of the table.
#[derive(Debug, Default)]
struct Column {
    figures: Vec<(&'static str, Option<Figure>)>,
    faults: Vec<String>,
}

impl Column {
    fn add(&mut self, name: &'static str, figure: impl Into<Option<Figure>>) {
        self.figures.push((name, figure.into()));
    }
}

/// Fills and measures; returns what went wrong without ending the run.
pub fn measure(cli: &Cli, steps: &Steps) -> Outcome<Vec<String>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_path_buf).unwrap_or_default();
    let parent = cli.data_dir.clone().unwrap_or(beside);
    // One seed for all, so that a platform that was filled by an earlier run is known again.
    let seed = cli.seed.unwrap_or(1);
    let history = History { seed, tenants: steps.tenants.max(2) };
    let platforms: Vec<(u32, PathBuf)> =
        steps.steps.iter().map(|orders| (*orders, parent.join(name(history, *orders)))).collect();
    // One thread: the driver shares the cores with what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut columns = Vec::new();
    for (orders, data) in &platforms {
        let filled = filled(data, history, *orders)?;
        if steps.fill_only {
            continue;
        }
        tell(&format!("{orders} orders: measured"))?;
        let column = runtime.block_on(one_platform(cli, steps, history, *orders, data, &filled))?;
        for (name, figure) in &column.figures {
            tell(&format!("  {name}: {}", figure.as_ref().map_or("-".to_owned(), Figure::text)))?;
        }
        std::fs::remove_dir_all(data)?;
        std::fs::remove_file(mark(data))?;
        columns.push((*orders, column));
    }
    if !columns.is_empty() {
        print(&columns, cli, history)?;
    }
    let faults = columns
        .iter()
        .flat_map(|(orders, column)| column.faults.iter().map(move |fault| format!("{orders} orders: {fault}")));
    Ok(faults.collect())
}

fn tell(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stderr(), "{line}")?)
}

fn name(history: History, orders: u32) -> String {
    format!("growth-{orders}-orders-{}-tenants-{}", history.tenants, history.seed)
}

/// Says that the platform in a folder is filled to the end, and what that took.
fn mark(data: &Path) -> PathBuf {
    data.with_extension("json")
}

/// Fills a platform, unless an earlier run did. Returns what that took.
fn filled(data: &Path, history: History, orders: u32) -> Outcome<Value> {
    if let Ok(known) = std::fs::read_to_string(mark(data)) {
        return Ok(serde_json::from_str(&known)?);
    }
    if data.exists() {
        // It was broken off.
        std::fs::remove_dir_all(data)?;
    }
    let begun = Instant::now();
    let child = this_program("", history.seed)?
        .arg("fill")
        .arg(data)
        .args([history.tenants.to_string(), history.seed.to_string(), orders.to_string()])
        .stdin(Stdio::null())
        .status()?;
    if !child.success() {
        return Err(format!("the platform was not filled: {child}").into());
    }
    let filled = json!({"seconds": begun.elapsed().as_secs_f64(), "bytes": filling::size_of(data)?});
    std::fs::write(mark(data), filled.to_string())?;
    Ok(filled)
}

/// Fills a platform in this process.
pub fn fill(data: &Path, history: History, orders: u32) -> Outcome<()> {
    let config = serving::config(data)?;
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let begun = Instant::now();
    let mut told = begun;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(filling::fill(config, history, orders, move |there| {
        if told.elapsed() > TOLD_EVERY {
            told = Instant::now();
            let rate = f64::from(there) / begun.elapsed().as_secs_f64();
            let _ = tell(&format!("  {there} of {orders} orders, {rate:.0}/s"));
        }
    }))
}

/// Starts the server several times; the median start and the last server.
async fn start(data: &Path, history: History) -> Outcome<(Duration, ServerProcess)> {
    let mut starts = Vec::new();
    loop {
        let (took, mut server) = start_once(data, history).await?;
        starts.push(took);
        if starts.len() == STARTS {
            starts.sort_unstable();
            return Ok((starts[STARTS / 2], server));
        }
        server.stop()?;
    }
}

/// From the start of the process until it is ready.
async fn start_once(data: &Path, history: History) -> Outcome<(Duration, ServerProcess)> {
    let begun = Instant::now();
    let server = ServerProcess::start(data, "", history.tenants, history.seed)?;
    let mut connection = Connection::open(server.address()).await?;
    let answer = connection.ask(&request::get("/readyz", "none")).await?;
    if answer.status != 200 {
        return Err(format!("the server is not ready after its start: {}", answer.status).into());
    }
    Ok((begun.elapsed(), server))
}

async fn one_platform(
    cli: &Cli,
    steps: &Steps,
    history: History,
    orders: u32,
    data: &Path,
    filled: &Value,
) -> Outcome<Column> {
    let mut column = Column::default();
    let seconds = filled["seconds"].as_f64().unwrap_or_default();
    let gibibytes = filled["bytes"].as_f64().unwrap_or_default() / 1_073_741_824.0;
    column.add("filled with, orders/s", (orders > 0).then(|| Figure::new(f64::from(orders) / seconds, 0, "")));
    column.add("on disk", (orders > 0).then(|| Figure::new(gibibytes, 1, " GiB")));

    let (took, server) = start(data, history).await?;
    column.add("start until ready", Figure::seconds(took));
    column.add("memory at rest", Figure::mebibytes(server.memory()?.now));
    requests(&mut column, steps, history, orders, &server).await?;

    let plan = load::Plan {
        tenants: history.tenants,
        connections: cli.connections,
        duration: Duration::from_secs(cli.seconds.into()),
        seed: history.seed,
    };
    load::run(&load::Plan { duration: Duration::from_secs(1), ..plan }, &server, Target::Empty).await?;
    let empty = load::run(&plan, &server, Target::Empty).await?;
    server.forget_peak()?;
    let checkouts = load::run(&plan, &server, Target::Checkout).await?;
    column.faults.extend(empty.faults(200));
    column.faults.extend(checkouts.faults(201));
    column.add("empty authenticated handler, requests/s", Figure::new(empty.rate(), 0, ""));
    column.add("durable checkouts/s", Figure::new(checkouts.rate(), 0, ""));
    column.add("&nbsp; ratio to the empty handler", Figure::new(checkouts.rate() / empty.rate(), 3, ""));
    column.add("&nbsp; p50 / p99", Figure::of(&checkouts.latencies));
    column.add("&nbsp; memory, at most", Figure::mebibytes(server.memory()?.most));
    drained(&mut column, cli, &server).await?;

    // One more partner, who lists and looks up while all the others buy.
    let short = load::Plan { duration: plan.duration / 2, seed: plan.seed ^ 1, ..plan };
    let (buying, reading) = tokio::join!(
        load::run(&short, &server, Target::Checkout),
        read_meanwhile(&server, history, orders, short.duration)
    );
    column.faults.extend(buying?.faults(201));
    column.add("order list and look-up during checkouts", Figure::of(&reading?));

    server.kill()?;
    let (took, mut server) = start_once(data, history).await?;
    column.add("start after a kill during checkouts", Figure::seconds(took));
    drained(&mut column, cli, &server).await?;
    let begun = Instant::now();
    let (entries, whole) = completion::check_ledger(&server).await?;
    let took = begun.elapsed();
    if !whole {
        column.faults.push("the ledger is broken".to_owned());
    }
    let entries = f64::from(u32::try_from(entries)?);
    column.add("entries of the ledger checked/s (all well)", Figure::new(entries / took.as_secs_f64(), 0, ""));
    server.stop()?;
    Ok(column)
}

async fn drained(column: &mut Column, cli: &Cli, server: &ServerProcess) -> Outcome<()> {
    let left = completion::drain(server, Duration::from_secs(cli.wait_drain.into())).await?;
    if left.open > 0 || left.dead > 0 {
        column.faults.push(format!("{} jobs are left open, {} dead", left.open, left.dead));
    }
    Ok(())
}

/// The requests of partners on a server at rest, one after the other.
async fn requests(
    column: &mut Column,
    steps: &Steps,
    history: History,
    orders: u32,
    server: &ServerProcess,
) -> Outcome<()> {
    let keys = server.api_keys();
    let mut connection = Connection::open(server.address()).await?;
    let mut random = Random(history.seed ^ 0x0D);
    let count = steps.requests;
    let mut any_key = || random.one_of(keys).cloned().unwrap_or_default();
    let of_any = |path: &str, keys: &mut dyn FnMut() -> String| -> Vec<Vec<u8>> {
        (0..count).map(|_| request::get(path, &keys())).collect()
    };
    let balances = of_any("/api/tenant/balance", &mut any_key);
    column.add("balance", Figure::of(&ask(&mut connection, &balances, |body| body.contains("creditBalance")).await?));
    if orders == 0 {
        for name in [FIRST, LARGE_FIRST, DEEPEST, LARGE_DEEPEST, REFERENCE, BEGINNING, ICCID, ID, TRANSACTIONS] {
            column.add(name, None);
        }
        column.add(EXPORT, None);
        column.add(EXPORT_MEMORY, None);
        return Ok(());
    }
    let is_page = |body: &str| listed(body) > 0;
    let pages = of_any("/api/tenant/orders", &mut any_key);
    column.add(FIRST, Figure::of(&ask(&mut connection, &pages, is_page).await?));
    let large = keys.first().cloned().unwrap_or_default();
    let pages = of_any("/api/tenant/orders", &mut || large.clone());
    column.add(LARGE_FIRST, Figure::of(&ask(&mut connection, &pages, is_page).await?));

    let mut deepest = Vec::new();
    for number in 0..WALKED.min(history.tenants - 1) {
        let key = keys.get(usize::try_from(number + 1)?).ok_or("a tenant without a key")?;
        let exported = export::read(server.address(), key).await?;
        deepest.extend(last_page(exported.oldest.front(), key));
    }
    server.forget_peak()?;
    let before = server.memory()?.now;
    let exported = export::read(server.address(), &large).await?;
    let more = server.memory()?.most.saturating_sub(before);
    // A connection that was quiet for as long as these exports took is closed by the server.
    connection = Connection::open(server.address()).await?;
    let large_deepest: Vec<Vec<u8>> = last_page(exported.oldest.front(), &large).into_iter().collect();
    let is_last = |body: &str| listed(body) > 0 && body.contains(r#""nextCursor":null"#);
    let pages: Vec<_> = deepest.iter().cycle().take(usize::try_from(count)?).cloned().collect();
    column.add(DEEPEST, Figure::of(&ask(&mut connection, &pages, is_last).await?));
    let pages: Vec<_> = large_deepest.iter().cycle().take(usize::try_from(count)?).cloned().collect();
    column.add(LARGE_DEEPEST, Figure::of(&ask(&mut connection, &pages, is_last).await?));

    look_ups(column, &mut connection, history, orders, keys, count).await?;
    let pages = of_any("/api/tenant/transactions", &mut any_key);
    let is_page = |body: &str| body.contains("balanceAfter");
    column.add(TRANSACTIONS, Figure::of(&ask(&mut connection, &pages, is_page).await?));
    column.add(EXPORT, Figure::new(f64::from(exported.rows) / exported.elapsed.as_secs_f64(), 0, ""));
    column.add(EXPORT_MEMORY, Figure::mebibytes(more));
    Ok(())
}

const FIRST: &str = "order list, first page of 100";
const LARGE_FIRST: &str = "&nbsp; of the tenant with a tenth of all orders";
const DEEPEST: &str = "order list, deepest page of 100";
const LARGE_DEEPEST: &str = "&nbsp; of the tenant with a tenth of all orders";
const REFERENCE: &str = "look-up by reference";
const BEGINNING: &str = "look-up by the beginning of a reference";
const ICCID: &str = "look-up by ICCID";
const ID: &str = "one order by its id";
const TRANSACTIONS: &str = "transactions, first page of 100";
const EXPORT: &str = "CSV export of that tenant, rows/s";
const EXPORT_MEMORY: &str = "&nbsp; more memory than at rest";

/// Orders that are found again, one way after the other.
async fn look_ups(
    column: &mut Column,
    connection: &mut Connection,
    history: History,
    orders: u32,
    keys: &[String],
    count: u32,
) -> Outcome<()> {
    let mut random = Random(history.seed ^ 0x1D);
    let (mut by_reference, mut by_beginning, mut by_iccid, mut by_id) = (vec![], vec![], vec![], vec![]);
    for _ in 0..count {
        let bought = history.order(u32::try_from(random.next() % u64::from(orders))?);
        let key = keys.get(usize::try_from(bought.tenant)?).ok_or("a tenant without a key")?;
        let found = request::get(&format!("/api/tenant/orders?reference={}", bought.reference), key);
        let answer: Value = serde_json::from_slice(connection.ask(&found).await?.body)?;
        let order = &answer["data"]["orders"][0];
        let (Some(id), Some(iccid)) = (order["id"].as_str(), order["esims"][0]["iccid"].as_str()) else {
            return Err(format!("order {} is not found: {answer}", bought.reference).into());
        };
        // As many letters of it as a person types.
        let beginning = bought.reference.get(.."order-01234567".len()).unwrap_or_default();
        by_reference.push(found);
        by_beginning.push(request::get(&format!("/api/tenant/orders?q={beginning}"), key));
        by_iccid.push(request::get(&format!("/api/tenant/orders?iccid={iccid}"), key));
        by_id.push(request::get(&format!("/api/tenant/orders/{id}"), key));
    }
    let one = |body: &str| listed(body) == 1;
    column.add(REFERENCE, Figure::of(&ask(connection, &by_reference, one).await?));
    column.add(BEGINNING, Figure::of(&ask(connection, &by_beginning, |body| listed(body) >= 1).await?));
    column.add(ICCID, Figure::of(&ask(connection, &by_iccid, one).await?));
    column.add(ID, Figure::of(&ask(connection, &by_id, one).await?));
    Ok(())
}

/// How many orders an answer has.
fn listed(body: &str) -> usize {
    body.matches(r#""orderNumber":"#).count()
}

/// The request for the last page, behind the order that is the last one of the page before.
fn last_page(before: Option<&OrderId>, key: &str) -> Option<Vec<u8>> {
    let cursor = server::call::cursor_text(before?.uuid());
    Some(request::get(&format!("/api/tenant/orders?cursor={cursor}"), key))
}

/// Sends requests one after the other; every answer must be 200 and fit.
async fn ask(connection: &mut Connection, requests: &[Vec<u8>], fits: impl Fn(&str) -> bool) -> Outcome<Latencies> {
    let mut waits = Vec::with_capacity(requests.len());
    for request in requests {
        let begun = Instant::now();
        let answer = connection.ask(request).await?;
        waits.push(micros(begun.elapsed()));
        let body = std::str::from_utf8(answer.body)?;
        if answer.status != 200 || !fits(body) {
            let asked = String::from_utf8_lossy(request.get(..100).unwrap_or(request)).into_owned();
            return Err(format!("{asked:?} was answered with {}: {body:.500}", answer.status).into());
        }
    }
    Ok(Latencies::new(waits))
}

/// Lists and look-ups in turn, for a while.
async fn read_meanwhile(
    server: &ServerProcess,
    history: History,
    orders: u32,
    duration: Duration,
) -> Outcome<Latencies> {
    let mut connection = Connection::open(server.address()).await?;
    let mut random = Random(history.seed ^ 0x2D);
    let mut waits = Vec::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let bought = history.order(u32::try_from(random.next() % u64::from(orders.max(1)))?);
        let key = server.api_keys().get(usize::try_from(bought.tenant)?).ok_or("a tenant without a key")?;
        let look_up = format!("/api/tenant/orders?reference={}", bought.reference);
        for path in ["/api/tenant/orders", &look_up] {
            let begun = Instant::now();
            let answer = connection.ask(&request::get(path, key)).await?;
            waits.push(micros(begun.elapsed()));
            if answer.status != 200 {
                return Err(format!("{path} was answered with {} during checkouts", answer.status).into());
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(Latencies::new(waits))
}

/// The table, as it stands in a document.
fn print(columns: &[(u32, Column)], cli: &Cli, history: History) -> Outcome<()> {
    let mut out = std::io::stdout();
    let cores = std::thread::available_parallelism()?;
    writeln!(
        out,
        "esimd on {cores} cores shared with this driver: {} connections, {} tenants, {} s each, seed {}; p50 / p99",
        cli.connections, history.tenants, cli.seconds, history.seed
    )?;
    let sizes: Vec<String> = columns.iter().map(|(orders, _)| format!("{orders} orders")).collect();
    writeln!(out, "| What | {} | last / first |", sizes.join(" | "))?;
    writeln!(out, "|---|{}---|", "---|".repeat(columns.len()))?;
    let rows = columns.first().map_or(0, |(_, column)| column.figures.len());
    for row in 0..rows {
        let figures = || columns.iter().filter_map(|(_, column)| column.figures.get(row));
        let name = figures().next().map_or("", |(name, _)| name);
        let there: Vec<&Figure> = figures().filter_map(|(_, figure)| figure.as_ref()).collect();
        let times = match there.as_slice() {
            [first, .., last] => last.times(first),
            _ => "-".to_owned(),
        };
        let cells: Vec<String> =
            figures().map(|(_, figure)| figure.as_ref().map_or("-".to_owned(), Figure::text)).collect();
        writeln!(out, "| {name} | {} | {times} |", cells.join(" | "))?;
    }
    Ok(())
}
