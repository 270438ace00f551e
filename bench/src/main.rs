//! What a checkout costs, measured on the machine at hand: the real server in a process of its own, over
//! HTTP, against two limits of the same machine: the same server with a handler that does nothing, and
//! SQLite alone with the same rows. Prints one table; exits with 1 when anything went wrong.

mod bare_sqlite;
mod completion;
mod connection;
mod cpu_time;
mod export;
mod figures;
mod filling;
mod growth;
mod history;
mod load;
mod pgbench;
mod price_list;
mod random;
mod request;
mod server_process;
mod serving;

use clap::{Parser, Subcommand};
use cpu_time::CpuTime;
use figures::{Table, per_second};
use request::Target;
use server_process::ServerProcess;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use testing::FreshDatabase;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What goes wrong ends the run: one line.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures the server: requests, durable checkouts, fulfilment, memory.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// Connections that send one request after the other.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Seconds of each measurement under load.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Tenants the requests are spread over.
    #[arg(long, default_value_t = 1_000)]
    tenants: u32,
    /// Most seconds to wait until all orders are completed.
    #[arg(long, default_value_t = 60)]
    wait_drain: u32,
    /// Checkouts one after the other, each waited for until it is completed.
    #[arg(long, default_value_t = 200)]
    sequential: u32,
    /// Folder on the disk to measure; a new folder is made in it and removed [default: beside this program].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address of a PostgreSQL server, postgres://user@host:port, whose databases may be made and dropped: measures on it,
    /// and compares with its own pgbench.
    #[arg(long)]
    postgres: Option<String>,
    /// Seed of keys and of the choice of tenants; random unless given.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server under measurement.
    #[command(hide = true)]
    Serve {
        /// Where its data lies.
        data: PathBuf,
        /// How many tenants to make.
        tenants: u32,
        /// Seed of their keys.
        seed: u64,
    },
    /// Whether anything becomes slower as the orders of months lie there: fills a platform with each of these numbers of
    /// orders (about 10,000 a second), and measures its requests, its memory and its start.
    Growth(growth::Steps),
    /// What the price list of a large catalogue costs.
    PriceList(price_list::Catalogue),
    /// Fills the catalogue of that.
    #[command(hide = true)]
    FillCatalogue {
        /// Where its data is to lie.
        data: PathBuf,
        /// How many plans.
        plans: u32,
    },
    /// Fills the platform of such a step.
    #[command(hide = true)]
    Fill {
        /// Where its data is to lie.
        data: PathBuf,
        /// How many tenants to make.
        tenants: u32,
        /// Seed of their keys and orders.
        seed: u64,
        /// How many orders.
        orders: u32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Serve { data, tenants, seed }) => serving::serve(data, *tenants, *seed).map(|()| Vec::new()),
        Some(Command::Growth(steps)) => growth::measure(&cli, steps),
        Some(Command::PriceList(catalogue)) => price_list::measure(&cli, catalogue),
        Some(Command::FillCatalogue { data, plans }) => price_list::fill(data, *plans).map(|()| Vec::new()),
        Some(Command::Fill { data, tenants, seed, orders }) => {
            let history = history::History { seed: *seed, tenants: *tenants };
            growth::fill(data, history, *orders).map(|()| Vec::new())
        }
        None => measure(&cli),
    };
    match outcome {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            for fault in faults {
                let _ = writeln!(std::io::stderr(), "bench: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all measurements and prints them; returns what went wrong without ending the run.
fn measure(cli: &Cli) -> Outcome<Vec<String>> {
    let beside = std::env::current_exe()?.parent().map(Path::to_path_buf).unwrap_or_default();
    let folder = tempfile::tempdir_in(cli.data_dir.as_deref().unwrap_or(&beside))?;
    let seed = cli.seed.unwrap_or_else(random::from_clock);
    // One thread: the driver shares the cores with what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = match &cli.postgres {
        None => None,
        Some(postgres) => Some(pgbench::run(&FreshDatabase::on(postgres).url(), cli.seconds)?),
    };
    let database = cli.postgres.as_ref().map(|postgres| FreshDatabase::on(postgres));
    let url = database.as_ref().map(FreshDatabase::url).unwrap_or_default();
    let mut server = ServerProcess::start(&folder.path().join("server"), &url, cli.tenants, seed)?;
    let measured = runtime.block_on(measure_all(cli, &server, folder.path(), seed, limit));
    server.stop()?;
    measured
}

async fn measure_all(
    cli: &Cli,
    server: &ServerProcess,
    folder: &Path,
    seed: u64,
    pgbench: Option<f64>,
) -> Outcome<Vec<String>> {
    let mut table = Table::new();
    let cores = std::thread::available_parallelism()?;
    table.heading(&format!(
        "esimd on {cores} cores shared with this driver: {} connections, {} tenants, {} s each, seed {seed}, server {}",
        cli.connections,
        cli.tenants,
        cli.seconds,
        server.id()
    ))?;
    let mut faults = Vec::new();
    let tenants = cli.tenants;
    let plan =
        load::Plan { tenants, connections: cli.connections, duration: Duration::from_secs(cli.seconds.into()), seed };
    table.row("memory of the server at rest", &server.memory()?.to_string())?;

    load::run(&load::Plan { duration: Duration::from_secs(1), ..plan }, server, Target::Empty).await?;
    let cpu = CpuTime::read(server.id())?;
    let empty = load::run(&plan, server, Target::Empty).await?;
    table.load("empty authenticated handler", &empty)?;
    table.row("  CPU each", &CpuTime::read(server.id())?.since(&cpu, empty.count(200)))?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;
    faults.extend(empty.faults(200));

    let (alone, bare) = match pgbench {
        Some(rate) => ("pgbench, 8 clients, prepared", rate),
        None => (
            "SQLite alone, same rows, groups of 64",
            bare_sqlite::run(&folder.join("bare.sqlite"), plan.duration, cli.tenants, seed)?,
        ),
    };
    table.row(alone, &format!("{bare:.0}/s"))?;

    let cpu = CpuTime::read(server.id())?;
    let checkouts = load::run(&plan, server, Target::Checkout).await?;
    let cpu = CpuTime::read(server.id())?.since(&cpu, checkouts.count(201));
    let begun_draining = std::time::Instant::now();
    let backlog = completion::open_jobs(server).await?;
    table.load("durable checkouts", &checkouts)?;
    table.row("  CPU each, fulfilment included", &cpu)?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;
    faults.extend(checkouts.faults(201));
    let placed = checkouts.count(201);
    let completed = placed.saturating_sub(backlog.open).saturating_sub(backlog.dead);
    table.row("  orders completed meanwhile", &format!("{:.0}/s", per_second(completed, checkouts.elapsed)))?;
    table.row("  backlog at the end", &format!("{} orders", backlog.open))?;

    let left = completion::drain(server, Duration::from_secs(cli.wait_drain.into())).await?;
    let draining = begun_draining.elapsed();
    let drained = backlog.open.saturating_sub(left.open);
    table.row(
        "  draining",
        &format!("{:.2} s, {:.0} orders/s", draining.as_secs_f64(), per_second(drained, draining)),
    )?;
    let done = placed.saturating_sub(left.open).saturating_sub(left.dead);
    let overall = checkouts.elapsed + draining;
    table.row("  completed, first checkout to last order", &format!("{:.0}/s", per_second(done, overall)))?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;
    if left.open > 0 || left.dead > 0 {
        faults.push(format!("after {} s {} jobs are open and {} dead", cli.wait_drain, left.open, left.dead));
    }

    table.row("checkouts / empty handler", &format!("{:.3}", checkouts.rate() / empty.rate()))?;
    let limit = if pgbench.is_some() { "checkouts / pgbench" } else { "checkouts / SQLite alone" };
    table.row(limit, &format!("{:.3}", checkouts.rate() / bare))?;

    let hot = load::run(&load::Plan { tenants: 1, ..plan }, server, Target::Checkout).await?;
    table.load("durable checkouts of one tenant", &hot)?;
    table.row("  of one tenant / of all", &format!("{:.3}", hot.rate() / checkouts.rate()))?;
    faults.extend(hot.faults(201));
    completion::drain(server, Duration::from_secs(cli.wait_drain.into())).await?;

    let waits = completion::one_after_the_other(server, cli.sequential, seed).await?;
    table.row(
        &format!("answer to completed, {} one by one", cli.sequential),
        &format!("median {}, p99 {}", figures::millis(waits.quantile(0.5)), figures::millis(waits.quantile(0.99))),
    )?;
    table.row("  memory afterwards", &server.memory()?.to_string())?;

    let (entries, whole) = completion::check_ledger(server).await?;
    table.row("ledger", &format!("{entries} entries, {}", if whole { "ok" } else { "BROKEN" }))?;
    if !whole {
        faults.push("the ledger is broken".to_owned());
    }
    Ok(faults)
}
