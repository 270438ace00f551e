//! The driver's side of the process under measurement: this very program, started again to serve.

use crate::Outcome;
use crate::random::Random;
use crate::serving::OPERATOR_EMAIL;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The server in its own process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    plan: String,
    api_keys: Vec<String>,
    operator_password: String,
}

fn operator_password(seed: u64) -> String {
    format!("bench-{:016x}", Random(!seed).next())
}

/// The settings of the process under measurement, as variables of its environment.
pub fn settings(database: &str, seed: u64) -> Vec<(String, String)> {
    let settings = [
        ("ESIMD_LISTEN", "127.0.0.1:0"),
        ("ESIMD_DATABASE", database),
        ("ESIMD_LOG", "warn"),
        ("ESIMD_SANDBOX_DELAY_MS", "0"),
        // The limiter works, but refuses nothing.
        ("ESIMD_LIMITS_TENANT_PER_SECOND", "1000000"),
        ("ESIMD_LIMITS_TENANT_BURST", "1000000"),
        ("ESIMD_OPERATOR_EMAIL", OPERATOR_EMAIL),
        ("ESIMD_OPERATOR_PASSWORD", &operator_password(seed)),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// This very program, with these settings and no others.
pub fn this_program(database: &str, seed: u64) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ESIMD_") {
            command.env_remove(name);
        }
    }
    command.envs(settings(database, seed));
    Ok(command)
}

/// What a process holds, as the kernel counts it.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now, in KiB.
    pub now: u32,
    /// At most so far, in KiB.
    pub most: u32,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |kibibytes: u32| f64::from(kibibytes) / 1_024.0;
        write!(f, "{:.1} MiB, at most {:.1} MiB", mebibytes(self.now), mebibytes(self.most))
    }
}

impl ServerProcess {
    /// Starts it and waits until it listens and has its tenants.
    pub fn start(data: &Path, database: &str, tenants: u32, seed: u64) -> Outcome<Self> {
        let child = this_program(database, seed)?
            .arg("serve")
            .arg(data)
            .args([tenants.to_string(), seed.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let operator_password = operator_password(seed);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, address, plan: String::new(), api_keys: Vec::new(), operator_password };
        let mut line = String::new();
        let stdout = server.child.stdout.take().ok_or("the server has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).map_err(|error| format!("the server did not start: {error}"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        server.address = text(&ready["address"]).parse()?;
        server.plan = text(&ready["plan"]);
        server.api_keys = ready["keys"].as_array().map(|keys| keys.iter().map(text).collect()).unwrap_or_default();
        Ok(server)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The plan to buy.
    pub fn plan(&self) -> &str {
        &self.plan
    }

    /// One key of each tenant.
    pub fn api_keys(&self) -> &[String] {
        &self.api_keys
    }

    /// One key of each of the first so many tenants.
    pub fn api_keys_of(&self, tenants: u32) -> &[String] {
        let most = usize::try_from(tenants).unwrap_or(usize::MAX).min(self.api_keys.len());
        self.api_keys.get(..most).unwrap_or_default()
    }

    /// The operator's password.
    pub fn operator_password(&self) -> &str {
        &self.operator_password
    }

    /// Its memory.
    pub fn memory(&self) -> Outcome<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kibibytes = |name: &str| -> Outcome<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("the kernel tells no memory")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Memory { now: kibibytes("VmRSS")?, most: kibibytes("VmHWM")? })
    }

    /// Lets the kernel count anew what it held at most (5 resets the peak, proc(5)).
    pub fn forget_peak(&self) -> Outcome<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5")?)
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it in good order.
    pub fn stop(&mut self) -> Outcome<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended with {status}").into()) }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // After a run that broke off; one that has ended already is left alone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
