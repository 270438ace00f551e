//! The limit a checkout on PostgreSQL is compared with: pgbench's own transaction, like TPC-B, on the same server.

use crate::Outcome;
use std::process::Command;

/// Of pgbench's tables: 50 times 100,000 accounts.
const SCALE: u32 = 50;
/// Its connections, each with prepared statements.
const CLIENTS: u32 = 8;

/// Fills the database at `url` and runs pgbench for so many seconds. Returns its transactions per second.
pub fn run(url: &str, seconds: u32) -> Outcome<f64> {
    let pgbench = |args: &[&str]| -> Outcome<String> {
        let output = Command::new("pgbench").args(args).arg(url).output();
        let output = output.map_err(|error| format!("pgbench cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    pgbench(&["-i", "-q", "-s", &SCALE.to_string()])?;
    let clients = CLIENTS.to_string();
    let said = pgbench(&["-M", "prepared", "-c", &clients, "-j", "2", "-T", &seconds.to_string()])?;
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")).and_then(|rest| rest.split(' ').next());
    Ok(rate.ok_or("pgbench told no rate")?.parse()?)
}
