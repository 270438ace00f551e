//! `esimd simulate`: an upstream to try things out with, in a process of its own.

use crate::data_dir::private;
use aws_lc_rs::rand;
use clap::Args;
use providers::simulator::shop::{Shop, ShopOptions};
use providers::simulator::{Credentials, Now, Simulator, WORDS, dialect};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to simulate, and where.
#[derive(Debug, Args)]
pub struct Simulate {
    /// Whose wire it speaks.
    #[arg(long, value_parser = WORDS)]
    dialect: String,
    /// The file that keeps what it sold, and beside it (with .key behind its name) with what clients sign
    /// [default: simulator-<dialect>.db].
    #[arg(long)]
    file: Option<PathBuf>,
    /// The account clients name; made once and kept beside the file unless given.
    #[arg(long, requires = "secret")]
    account: Option<String>,
    /// The secret clients sign with.
    #[arg(long, requires = "account", env = "SIMULATOR_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// The salt of the secret, in hexadecimal digits, for microesim.
    #[arg(long)]
    salt: Option<String>,
    /// Milliseconds from sale to delivery.
    #[arg(long, default_value_t = 2_000)]
    delay_ms: u32,
    /// Our balance there when the file is made, US cents.
    #[arg(long, default_value_t = 1_000_000)]
    balance_cents: u32,
    /// How many plans it lists; those of the sandbox come first, and are all unless it is more.
    #[arg(long, default_value_t = 0)]
    plans: usize,
    /// Where it tells news, unless an order names an address of its own.
    #[arg(long, default_value = "")]
    callback_url: String,
}

fn random_hex() -> Result<String, String> {
    let mut bytes = [0_u8; 16];
    rand::fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The credentials kept beside the file, made where there are none.
fn kept_credentials(file: &Path) -> Result<Credentials, String> {
    let mut path = file.as_os_str().to_owned();
    path.push(".key");
    let path = PathBuf::from(path);
    let cannot = |error: std::io::Error| format!("the file {} cannot be used: {error}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let mut words = text.split_whitespace().map(str::to_owned);
            match (words.next(), words.next(), words.next()) {
                (Some(account), Some(secret), Some(salt)) => Ok(Credentials { account, secret, salt }),
                _ => Err(format!("the file {} holds no account, secret and salt", path.display())),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = Credentials { account: random_hex()?, secret: random_hex()?, salt: random_hex()? };
            let mut key = private().create_new(true).write(true).open(&path).map_err(cannot)?;
            writeln!(key, "{} {} {}", made.account, made.secret, made.salt).map_err(cannot)?;
            Ok(made)
        }
        Err(error) => Err(cannot(error)),
    }
}

/// Where it listens unless told otherwise.
const LISTEN: &str = "127.0.0.1:8090";

/// Starts it, listening on `listen`. Returns what a person reads, and the simulator, which serves until it is dropped.
///
/// # Errors
/// A line that says what to do.
pub async fn start(simulate: Simulate, listen: Option<String>) -> Result<(String, Simulator), String> {
    let listen = listen.unwrap_or_else(|| LISTEN.to_owned());
    let listen: SocketAddr = listen.parse().map_err(|_| format!("--listen {listen} is no address with a port"))?;
    let file = simulate.file.unwrap_or_else(|| format!("simulator-{}.db", simulate.dialect).into());
    let mut credentials = match (simulate.account, simulate.secret) {
        (Some(account), Some(secret)) => Credentials { account, secret, salt: String::new() },
        _ => kept_credentials(&file)?,
    };
    if let Some(salt) = simulate.salt {
        credentials.salt = salt;
    }
    let seed = u64::from_str_radix(random_hex()?.get(..16).unwrap_or_default(), 16).unwrap_or(1);
    let options = ShopOptions {
        seed,
        delay_ms: simulate.delay_ms.into(),
        balance_cents: simulate.balance_cents.into(),
        callback_url: simulate.callback_url,
        plans: simulate.plans,
    };
    let made = private().create(true).truncate(false).write(true).open(&file);
    made.map_err(|error| format!("the file {} cannot be used: {error}", file.display()))?;
    let shop = Shop::open(&file, options).map_err(|error| format!("{} cannot be used: {error}", file.display()))?;
    let told = credentials.clone();
    let dialect = dialect(&simulate.dialect, credentials).ok_or("there is no such dialect")?;
    let now: Now = Arc::new(store::sqlite::system_now);
    let simulator = Simulator::start(listen, dialect, shop, now)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}; choose another with --listen"))?;
    let welcome = format!(
        "{} simulated at http://{}\n  account {}\n  secret  {}\n  salt    {}\n  sales in {}; what it sold: GET /simulator/sales",
        simulate.dialect,
        simulator.address(),
        told.account,
        told.secret,
        told.salt,
        file.display()
    );
    Ok((welcome, simulator))
}
