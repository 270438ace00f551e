//! `esimd simulate` as a person runs it: an upstream in a process of its own, which knows its clients and its sales
//! again when it is started again.

#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Started {
    child: Child,
    address: String,
    credentials: Vec<String>,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn esimd(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esimd"));
    command.current_dir(folder).arg("simulate").args(arguments);
    command
}

fn start(folder: &Path, dialect: &str) -> Started {
    let arguments = ["--dialect", dialect, "--listen", "127.0.0.1:0"];
    let mut child = esimd(folder, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    let address = line().rsplit(' ').next().unwrap().to_owned();
    let credentials = (0..3).map(|_| line()).collect();
    Started { child, address, credentials }
}

#[tokio::test]
async fn a_simulator_keeps_its_clients_and_its_sales() {
    let folder = tempfile::tempdir().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for dialect in providers::simulator::WORDS {
        let first = start(folder.path(), dialect);
        let balance = format!("{}/simulator/balance", first.address);
        let body = r#"{"cents": 12345}"#;
        let set = client.post(&balance).header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(set.status(), 200, "{dialect}");
        let unsigned = client.post(format!("{}/tsim/v1/esimSubscribe", first.address)).send().await.unwrap();
        assert!(!unsigned.text().await.unwrap().contains("topup_id"));
        let credentials = first.credentials.clone();
        drop(first);
        let second = start(folder.path(), dialect);
        assert_eq!(second.credentials, credentials, "{dialect}");
        let sales = client.get(format!("{}/simulator/sales", second.address)).send().await.unwrap();
        assert_eq!(sales.text().await.unwrap(), r#"{"sales":[],"balanceCents":12345}"#, "{dialect}");
    }
}

#[test]
fn what_cannot_be_simulated_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, told) in [("nowhere", "must be an address"), (taken.as_str(), "cannot listen on")] {
        let output = esimd(folder.path(), &["--dialect", "tsim", "--listen", listen]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(told) && error.lines().count() == 1, "{error}");
    }
    let output = esimd(folder.path(), &["--dialect", "nobody"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tsim"));
}
