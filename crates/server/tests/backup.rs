//! The drill: a real process is backed up under load, the backup is put back, and everything that was answered before the
//! backup began is there. What is no backup, or damaged, is put nowhere.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they share"
)]

mod process;

use process::*;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

struct Places {
    _folder: tempfile::TempDir,
    data: PathBuf,
    backup: PathBuf,
    restored: PathBuf,
}

impl Places {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [data, backup, restored] = ["data", "backup", "restored"].map(|name| folder.path().join(name));
        Self { _folder: folder, data, backup, restored }
    }

    fn backup(&self) -> (i32, String) {
        command(&self.data, &["backup", self.backup.to_str().unwrap()])
    }

    fn restore(&self) -> (i32, String) {
        command(&self.restored, &["restore", self.backup.to_str().unwrap()])
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_holds_everything_that_was_answered_before_it() {
    let places = Arc::new(Places::new());
    let running = Esimd::start(&places.data, 0);
    let (token, plan) = partner(&running.url).await;
    let answered: Arc<Mutex<Vec<String>>> = Arc::default();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..4 {
        let (url, token, plan) = (running.url.clone(), token.clone(), plan.clone());
        let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
        buyers.spawn(async move {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let key = format!("{buyer}-{number}");
                let body = json!({"items": [{"planId": plan, "quantity": 1}], "reference": key});
                data(&url, "/api/tenant/orders/checkout", &token, Some(&body)).await;
                answered.lock().unwrap().push(key);
            }
        });
    }
    while answered.lock().unwrap().len() < 100 {
        tokio::task::yield_now().await;
    }
    let before = answered.lock().unwrap().clone();
    let at = Arc::clone(&places);
    let (code, said) = tokio::task::spawn_blocking(move || at.backup()).await.unwrap();
    assert!(code == 0 && said.contains("the ledger is whole"), "{said}");
    let meanwhile = answered.lock().unwrap().len();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(ended) = buyers.join_next().await {
        ended.unwrap();
    }
    assert!(meanwhile > before.len(), "checkouts went on meanwhile");
    running.kill();

    let (code, said) = places.restore();
    assert!(code == 0 && said.contains("the ledger is whole"), "{said}");
    for file in ["esimd.db", "sandbox.db", "master.key"] {
        assert_eq!(mode(&places.restored.join(file)), 0o600, "{file}");
        assert_eq!(mode(&places.backup.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&places.backup), 0o700);
    let running = Esimd::start(&places.restored, 0);
    // The same login, by the same keys; every order once, and each is completed.
    let found = orders(&running.url, &token).await;
    for key in &before {
        assert_eq!(found.get(key).map(Vec::len), Some(1), "{key}");
    }
    for orders in found.values() {
        let id = orders[0]["id"].as_str().unwrap();
        let order = data(&running.url, &format!("/api/tenant/orders/{id}?wait=30"), &token, None).await;
        assert_eq!(order["order"]["status"], "completed", "{order}");
    }
    assert!(running.terminate().0.success());
    assert!(check_ledger(&places.restored).0);
}

#[test]
fn a_backup_takes_no_name_and_a_restore_no_folder_that_is_in_use() {
    let places = Places::new();
    let (code, said) = places.backup();
    assert!(code == 2 && said.contains("there is no database"), "{said}");
    assert!(Esimd::start(&places.data, 0).terminate().0.success());
    let (code, said) = places.restore();
    assert!(code == 2 && said.contains("is no backup"), "{said}");
    assert_eq!(places.backup().0, 0);
    let (code, said) = places.backup();
    assert!(code == 2 && said.contains("is there already"), "{said}");
    assert_eq!(places.restore().0, 0);
    let (code, said) = places.restore();
    assert!(code == 2 && said.contains("already; move everything away first"), "{said}");
    let running = Esimd::start(&places.restored, 0);
    let (code, said) = places.restore();
    assert!(code == 2 && said.contains("in use by another esimd"), "{said}");
    assert!(running.terminate().0.success());
}

#[test]
fn a_log_left_behind_is_not_played_back_into_a_restored_database() {
    let places = Places::new();
    assert!(Esimd::start(&places.data, 0).terminate().0.success());
    assert_eq!(places.backup().0, 0);
    std::fs::create_dir(&places.restored).unwrap();
    std::fs::write(places.restored.join("esimd.db-wal"), b"frames").unwrap();
    let (code, said) = places.restore();
    assert!(code == 2 && said.contains("esimd.db-wal"), "{said}");
    assert!(!places.restored.join("esimd.db").exists());
}

#[test]
fn a_damaged_backup_is_put_nowhere() {
    let places = Places::new();
    assert!(Esimd::start(&places.data, 0).terminate().0.success());
    assert_eq!(places.backup().0, 0);
    let database = rusqlite::Connection::open(places.backup.join("esimd.db")).unwrap();
    database.execute("update balances set balance = balance + 1", []).unwrap();
    drop(database);
    let (code, said) = places.restore();
    assert!(code == 1 && said.contains("wrong_cached_balance"), "{said}");
    assert!(!places.restored.join("esimd.db").exists() && !places.restored.join("master.key").exists());
}
