//! The command line of `esimd`.

use clap::{Args, Parser, Subcommand};
use server::backup::{self, Backup};
use server::config::{Config, Database, LogFormat, MasterKey, Overrides, process_environment};
use server::data_dir::DataDir;
use server::first_start::random_password;
use server::keyring::Keyring;
use server::operator::ledger::check;
use server::password::Hasher;
use server::simulate::{self, Simulate};
use server::{App, Runtime, database};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::ledger::Finding;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// eSIM Distribute: sells eSIM plans to partners against a prepaid balance.
#[derive(Debug, Parser)]
#[command(name = "esimd", version)]
struct Cli {
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the platform (the default).
    Serve,
    /// The ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Operators' accounts.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Signing and link keys.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Copies the database into a new folder, beside a running process, and checks the copy.
    Backup(BackupPlace),
    /// Moves the platform from the embedded database to an empty PostgreSQL; started again, it goes on.
    Move(MoveBetween),
    /// Puts a backup into a data folder that holds no database.
    Restore(BackupPlace),
    /// Serves an upstream to try things out with: it speaks a real one's wire and sells nothing real.
    Simulate(Simulate),
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Walks every entry; names the first broken one and exits with 1.
    Check,
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Makes an account with a random password, shown once.
    Create(CreateOperator),
}

#[derive(Debug, Args)]
struct CreateOperator {
    /// The login address.
    #[arg(long)]
    email: String,
}

#[derive(Debug, Args)]
struct BackupPlace {
    /// The folder of the backup.
    folder: PathBuf,
}

#[derive(Debug, Args)]
struct MoveBetween {
    /// Where from: `sqlite`, in the data folder.
    #[arg(long, value_parser = ["sqlite"])]
    from: String,
    /// Where to, postgres://...
    #[arg(long, value_name = "URL")]
    to: String,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Makes new keys; what the old ones signed stays valid until it expires, and credentials are sealed again.
    Rotate,
    /// Wraps all keys with another master key; start with that one from then on.
    Rewrap(Rewrap),
}

#[derive(Debug, Args)]
struct Rewrap {
    /// A file that holds the new master key: 32 bytes as hex or base64.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

fn say(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli.overrides, process_environment()) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    start_log(&config);
    // Every connection is an open file, and the usual limit of 1,024 is one busy client.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the process cannot start its threads: {error}")),
    };
    let listen = cli.overrides.listen.clone();
    let done = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(config).await,
            Command::Ledger(LedgerCommand::Check) => check_ledger(&config).await,
            Command::Operator(OperatorCommand::Create(CreateOperator { email })) => {
                create_operator(&config, email).await
            }
            Command::Keys(KeysCommand::Rotate) => rotate_keys(&config).await,
            Command::Keys(KeysCommand::Rewrap(Rewrap { to })) => rewrap_keys(&config, &to).await,
            Command::Backup(_) | Command::Restore(_) if config.database != Database::Sqlite => {
                Err("a PostgreSQL is backed up by its own tools; docs/operations.md says how".to_owned())
            }
            Command::Move(MoveBetween { to, .. }) => move_to(&config, to).await,
            Command::Backup(BackupPlace { folder }) => {
                let made = backup::make(&config.data_dir, &folder).await;
                made.map(|made| tell("backed up to", &folder, &made))
            }
            Command::Simulate(simulate) => run_simulator(simulate, listen).await,
            Command::Restore(BackupPlace { folder }) => {
                let restored = backup::restore(&folder, &config.data_dir).await;
                restored.map(|restored| tell("restored from", &folder, &restored))
            }
        }
    });
    // Reads on blocking threads must not hold the end up.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(message) => fail(&message),
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "esimd: {message}");
    ExitCode::from(2)
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(config: Config) -> Result<ExitCode, String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let app = App::start(config, Runtime::system()).await.map_err(|error| error.to_string())?;
    say(&app.welcome());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    app.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn run_simulator(simulate: Simulate, listen: Option<String>) -> Result<ExitCode, String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let (welcome, simulator) = simulate::start(simulate, listen).await?;
    say(&welcome);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(simulator);
    Ok(ExitCode::SUCCESS)
}

/// Reads beside a running process: the check takes no lock.
async fn check_ledger(config: &Config) -> Result<ExitCode, String> {
    let store = database::open_to_read(config, &Runtime::system()).await.map_err(|error| error.0)?;
    let (entries, finding) = check(&store).await.map_err(|fault| fault.to_string())?;
    match finding {
        None => {
            say(&format!("the ledger is whole: {entries} entries"));
            Ok(ExitCode::SUCCESS)
        }
        Some(finding) => Ok(damaged(&finding)),
    }
}

fn damaged(finding: &Finding) -> ExitCode {
    let entry = finding.entry.as_ref().map(|entry| format!("entry {entry}, ")).unwrap_or_default();
    say(&format!("the ledger is damaged: {} at {entry}{}", finding.damage, finding.subject));
    ExitCode::from(1)
}

async fn move_to(config: &Config, to: String) -> Result<ExitCode, String> {
    let moved = database::move_to_postgres(config, &Runtime::system(), to).await.map_err(|error| error.0)?;
    match &moved.finding {
        None => {
            say(&format!(
                "moved {} rows ({} of them before); {} entries, the ledger is whole. Serve it with --database from now on",
                moved.rows.rows, moved.rows.before, moved.entries
            ));
            Ok(ExitCode::SUCCESS)
        }
        Some(finding) => Ok(damaged(finding)),
    }
}

/// Says what became of a backup.
fn tell(done: &str, folder: &Path, backup: &Backup) -> ExitCode {
    match &backup.finding {
        None => {
            say(&format!("{done} {}: {} entries, the ledger is whole", folder.display(), backup.entries));
            ExitCode::SUCCESS
        }
        Some(finding) => damaged(finding),
    }
}

async fn create_operator(config: &Config, email: String) -> Result<ExitCode, String> {
    let (store, _data_dir) = database::open_for_command(config, &Runtime::system()).await.map_err(|error| error.0)?;
    let password = random_password().map_err(|error| error.0)?;
    let hasher = Hasher::new(1).map_err(|problem| problem.message.clone())?;
    let hash = hasher.hash(password.clone()).await.map_err(|problem| problem.message.clone())?;
    let address = email.clone();
    match store.write(move |tx| store::access::create_operator(tx, &address, &hash)).await {
        Ok(_) => {
            say(&format!("operator {email}, password {password} (shown only now)"));
            Ok(ExitCode::SUCCESS)
        }
        Err(store::port::Failure::Refused(_)) => Err(format!("there is an operator {email} already")),
        Err(store::port::Failure::Fault(fault)) => Err(fault.to_string()),
    }
}

/// The master key of nodes that share a database: set for all of them, or in development in the data folder of the one.
fn master_key_of(config: &Config) -> Result<MasterKey, String> {
    match &config.master_key {
        Some(key) => Ok(key.clone()),
        None => DataDir::lock(&config.data_dir)?.master_key(config),
    }
}

/// The keys of the database under another master key. In development it lies in the data folder, which nobody changes.
async fn rewrap_keys(config: &Config, to: &Path) -> Result<ExitCode, String> {
    let Some(old) = &config.master_key else {
        return Err(
            "set ESIMD_MASTER_KEY to the key that is in use; development's own lies in the data folder".to_owned()
        );
    };
    let text = std::fs::read_to_string(to).map_err(|error| format!("{} cannot be read: {error}", to.display()))?;
    let new = MasterKey::parse(&text).ok_or_else(|| format!("{} holds no key of 32 bytes", to.display()))?;
    let (store, _data_dir) = database::open_for_command(config, &Runtime::system()).await.map_err(|error| error.0)?;
    let count = Keyring::rewrap(&store, old, &new).await.map_err(|error| error.0)?;
    say(&format!(
        "{count} keys are wrapped with the new master key; set ESIMD_MASTER_KEY to it and start all nodes again"
    ));
    Ok(ExitCode::SUCCESS)
}

async fn rotate_keys(config: &Config) -> Result<ExitCode, String> {
    let (store, data_dir) = database::open_for_command(config, &Runtime::system()).await.map_err(|error| error.0)?;
    let master = match data_dir {
        Some(data_dir) => data_dir.master_key(config)?,
        None => master_key_of(config)?,
    };
    let keyring = Keyring::rotate(&store, &master).await.map_err(|error| error.0)?;
    let version = |keys: &server::keyring::Keys| keys.newest().map_or(0, |key| key.version);
    say(&format!(
        "new keys: tokens version {}, links version {}; older ones stay valid",
        version(&keyring.tokens),
        version(&keyring.links)
    ));
    Ok(ExitCode::SUCCESS)
}
