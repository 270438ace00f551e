//! Power loss: the system calls of a real process are recorded while it sells, and the disk is rebuilt as it may be
//! found when the power goes at any moment: what was not flushed is there, or not, or torn, in any order. Whatever was
//! answered by then must be there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use domain::order::OrderFilter;
use process::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use store::Store;
use store::sqlite::{Sqlite, system_now};

/// What a process did to its files, and what it answered.
#[derive(Debug)]
enum Event {
    Write { file: String, offset: usize, bytes: Vec<u8> },
    Truncate { file: String, length: usize },
    Flush { thread: String, file: String },
    Flushed { thread: String },
    Remove { file: String },
    Answered { references: Vec<String> },
}

/// `\x41\x42` as bytes, from the first quote to the next.
fn quoted(text: &str) -> Vec<u8> {
    let inside = text.split('"').nth(1).unwrap_or_default();
    unhex(inside)
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |pair: &str| u8::from_str_radix(pair.get(..2).unwrap_or_default(), 16).ok();
    text.split("\\x").skip(1).filter_map(byte).collect()
}

/// The name of the file behind a descriptor: `12<\x2f...>`.
fn file_of(arguments: &str) -> Option<String> {
    let path = arguments.split('<').nth(1)?.split('>').next()?;
    name_of(&unhex(path))
}

fn name_of(path: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(path).rsplit('/').next()?.to_owned();
    // The shared memory of the log is made anew, and the sandbox is nobody's money.
    (name.starts_with("esimd") && !name.ends_with("-shm")).then_some(name)
}

fn parse(line: &str) -> Vec<Event> {
    let Some((thread, call)) = line.split_once(' ') else { return Vec::new() };
    let (thread, call) = (thread.to_owned(), call.trim_start());
    let ended = call.ends_with("= 0") && !call.contains("unfinished");
    if call.starts_with("<... fdatasync resumed") || call.starts_with("<... fsync resumed") {
        return vec![Event::Flushed { thread }];
    }
    let Some((name, arguments)) = call.split_once('(') else { return Vec::new() };
    let last_number = |text: &str| -> usize {
        let arguments = text.rsplit_once(") = ").map_or(text, |(arguments, _)| arguments);
        let arguments = arguments.trim_end_matches(" <unfinished ...>");
        arguments.rsplit(", ").next().unwrap().trim().parse().unwrap_or_else(|_| panic!("{text}"))
    };
    match (name, file_of(arguments)) {
        ("pwrite64", Some(file)) => {
            vec![Event::Write { file, offset: last_number(arguments), bytes: quoted(arguments) }]
        }
        ("write", Some(file)) => panic!("{file} is written to without a place"),
        ("ftruncate", Some(file)) => vec![Event::Truncate { file, length: last_number(arguments) }],
        ("fdatasync" | "fsync", Some(file)) => {
            let flush = Event::Flush { thread: thread.clone(), file };
            if ended { vec![flush, Event::Flushed { thread }] } else { vec![flush] }
        }
        ("unlink", _) => name_of(&quoted(arguments)).into_iter().map(|file| Event::Remove { file }).collect(),
        ("writev" | "sendto" | "write", None) => {
            let text = String::from_utf8_lossy(&unhex(arguments)).into_owned();
            if !text.contains("HTTP/1.1 201") {
                return Vec::new();
            }
            let references = text.split("\"reference\":\"").skip(1).filter_map(|rest| rest.split('"').next());
            vec![Event::Answered { references: references.map(str::to_owned).collect() }]
        }
        _ => Vec::new(),
    }
}

/// A change of a file that may not be on the disk yet.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Kept {
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Whether it was ever flushed.
    flushed: bool,
}

/// The disk as it may be found.
#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<String, Kept>,
    /// Per thread: the file it flushes, and how many changes of it lay there when it began.
    flushing: BTreeMap<String, (String, usize)>,
    answered: Vec<String>,
    /// Whether flushes do what they say.
    flushes: bool,
}

/// The unit in which a disk writes all or nothing.
const SECTOR: usize = 512;

impl Disk {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Write { file, offset, bytes } => {
                self.files.entry(file.clone()).or_default().pending.push(Change::Write(*offset, bytes.clone()));
            }
            Event::Truncate { file, length } => {
                self.files.entry(file.clone()).or_default().pending.push(Change::Truncate(*length));
            }
            Event::Flush { thread, file } => {
                let lying = self.files.entry(file.clone()).or_default().pending.len();
                self.flushing.insert(thread.clone(), (file.clone(), lying));
            }
            Event::Flushed { thread } => {
                let Some((file, lying)) = self.flushing.remove(thread) else { return };
                let kept = self.files.entry(file.clone()).or_default();
                if self.flushes {
                    for change in kept.pending.drain(..lying) {
                        change.apply(&mut kept.durable);
                    }
                    kept.flushed = true;
                    // Another flush of the same file that began earlier or later has less to do now.
                    for (other, left) in self.flushing.values_mut().filter(|(other, _)| *other == file) {
                        debug_assert_eq!(*other, file);
                        *left = left.saturating_sub(lying);
                    }
                }
            }
            Event::Remove { file } => {
                self.files.remove(file);
            }
            Event::Answered { references } => self.answered.extend(references.iter().cloned()),
        }
    }

    /// Writes into `folder` what may be left if the power goes now.
    fn leave(&self, folder: &Path, random: &mut Random) {
        for (name, kept) in &self.files {
            let mut left = kept.durable.clone();
            let mut changes: Vec<Change> = Vec::new();
            for change in &kept.pending {
                match (random.below(10), change) {
                    (0..4, _) => {}
                    (4..6, Change::Write(offset, bytes)) => {
                        // Some of its sectors.
                        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                            if random.below(2) == 0 {
                                changes.push(Change::Write(offset + number * SECTOR, sector.to_vec()));
                            }
                        }
                    }
                    _ => changes.push(change.clone()),
                }
            }
            // In any order.
            for place in (1..changes.len()).rev() {
                changes.swap(place, random.index(place + 1));
            }
            changes.iter().for_each(|change| change.apply(&mut left));
            if kept.flushed || random.below(2) == 0 {
                std::fs::write(folder.join(name), left).unwrap();
            }
        }
    }
}

/// Sells under a tracer, and returns what the process did.
async fn record(folder: &Path, orders: u32) -> Vec<Event> {
    let trace = folder.join("trace");
    let mut traced = Command::new("strace")
        .args(["-f", "-qq", "-y", "-xx", "-s", "100000000", "-e"])
        .arg("trace=write,pwrite64,writev,sendto,ftruncate,fdatasync,fsync,unlink")
        .arg("-o")
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_esimd"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.join("data"))
        .env("ESIMD_OPERATOR_EMAIL", EMAIL)
        .env("ESIMD_OPERATOR_PASSWORD", password())
        .env("ESIMD_SANDBOX_DELAY_MS", "0")
        .env("ESIMD_RATE_LIMIT", "off")
        .env("ESIMD_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("strace, which this test records with");
    let mut lines = BufReader::new(traced.stdout.take().unwrap()).lines();
    let first = lines.next().expect("a first line").unwrap();
    let url = first.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    let (token, plan) = partner(&url).await;
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..6_u32 {
        let (url, token, plan) = (url.clone(), token.clone(), plan.clone());
        buyers.spawn(async move {
            for number in 0..orders / 6 {
                let reference = format!("PO-{buyer}-{number}");
                let body = json!({"items": [{"planId": plan, "quantity": 1}], "reference": reference});
                let path = "/api/tenant/orders/checkout";
                assert_eq!(call(&url, path, &token, Some(&body), Some(&reference)).await.unwrap().0, 201);
            }
        });
    }
    while let Some(bought) = buyers.join_next().await {
        bought.unwrap();
    }
    // The tracer ends with what it traces.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", traced.id())).unwrap();
    assert!(Command::new("kill").arg("-9").args(children.split_whitespace()).status().unwrap().success());
    traced.wait().unwrap();
    std::fs::read_to_string(trace).unwrap().lines().flat_map(parse).collect()
}

/// Whether the database that is left opens, is whole, and has every order that was answered.
async fn look(folder: &Path, answered: &[String]) -> Result<(), String> {
    let path = folder.join("esimd.db");
    let store = Store::new(Sqlite::open(&path, 1, Arc::new(system_now)).map_err(|error| error.to_string())?);
    let (_, finding) = server::operator::ledger::check(&store).await.map_err(|fault| fault.to_string())?;
    if let Some(finding) = finding {
        return Err(format!("{finding:?}"));
    }
    for reference in answered {
        let filter = OrderFilter { reference: Some(reference.clone()), ..OrderFilter::default() };
        let found = store.scan(move |snapshot| store::order::list_all(snapshot, None, &filter, None, 10)).await;
        let found = found.map_err(|fault| fault.to_string())?.orders.len();
        if found != 1 {
            return Err(format!("{reference} was answered, and {found} orders have it"));
        }
    }
    drop(store);
    let raw = rusqlite::Connection::open(&path).map_err(|error| error.to_string())?;
    let whole: String =
        raw.query_row("pragma integrity_check", [], |row| row.get(0)).map_err(|error| error.to_string())?;
    if whole == "ok" { Ok(()) } else { Err(whole) }
}

/// Lets the power go at so many moments; how often something was wrong, and the first of it.
async fn lose_power(events: &[Event], points: usize, flushes: bool, seed: u64) -> (usize, Option<String>) {
    let mut random = Random(seed);
    let mut moments: Vec<usize> = (0..points).map(|_| random.index(events.len())).collect();
    moments.sort_unstable();
    let mut disk = Disk { flushes, ..Disk::default() };
    let (mut taken, mut wrong, mut first) = (0, 0, None);
    for moment in moments {
        for event in &events[taken..=moment.max(taken).min(events.len() - 1)] {
            disk.take(event);
        }
        taken = taken.max(moment + 1).min(events.len());
        // In memory where that can be: what is rebuilt here is looked at once.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        disk.leave(folder.path(), &mut random);
        if let Err(error) = look(folder.path(), &disk.answered).await {
            wrong += 1;
            first.get_or_insert_with(|| {
                format!("seed {seed}, event {moment}, {} answered: {error}", disk.answered.len())
            });
        }
    }
    (wrong, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: records system calls and opens a thousand databases"]
async fn nothing_answered_is_lost_when_the_power_goes_at_any_of_a_thousand_moments() {
    let folder = tempfile::tempdir().unwrap();
    let events = record(folder.path(), 240).await;
    let answered = events.iter().filter_map(|event| match event {
        Event::Answered { references } => Some(references.len()),
        _ => None,
    });
    assert_eq!(answered.sum::<usize>(), 240);
    println!("{} events", events.len());
    let seed = u64::from(std::process::id());
    assert_eq!(lose_power(&events, 1_000, true, seed).await, (0, None));
    // A disk whose flushes do nothing, as with `synchronous=off`, is found out.
    let (wrong, first) = lose_power(&events, 60, false, seed).await;
    println!("without flushes {wrong} of 60 moments lose something: {}", first.unwrap_or_default());
    assert!(wrong > 0);
}
