//! What a node finds on its disk: a first start's files, or what was left of its predecessor's.

use crate::dice::Dice;
use domain::money::{Currency, Money};
use domain::plan::Plan;
use domain::tenant::{Mode, Permissions, TenantStatus};
use server::clock::TestClock;
use server::config::{Config, Overrides};
use server::entrance::{API_KEY_PREFIX, api_key_hash};
use server::{App, Runtime};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use store::access::{self, NewApiKey};
use store::audit::Act;
use store::tenant::{self, Registration};
use tempfile::TempDir;

/// When every run begins, Unix milliseconds.
pub const BEGIN: i64 = 1_795_000_000_000;
/// Live credit of each tenant at the beginning, minor units.
pub const CREDIT: i64 = 6_000;
const OPERATOR: &str = "operator@example.com";

/// A tenant of every run.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: domain::id::TenantId,
    pub key: String,
}

/// What every run begins with.
pub struct Beginning {
    files: Vec<(PathBuf, Vec<u8>)>,
    pub tenants: Vec<Tenant>,
    pub plans: Vec<Plan>,
    pub act: Act,
}

/// In memory where that is possible: nothing here waits for a disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The configuration of every node.
pub fn config(data_dir: &Path) -> Config {
    let settings = [
        ("ESIMD_LISTEN", "127.0.0.1:0"),
        ("ESIMD_DATA_DIR", data_dir.to_str().unwrap()),
        ("ESIMD_RATE_LIMIT", "off"),
        ("ESIMD_OPERATOR_EMAIL", OPERATOR),
        ("ESIMD_OPERATOR_PASSWORD", &format!("simulated-{}", std::process::id())),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(&Overrides::default(), settings.into_iter()).unwrap()
}

/// Makes the first start once: all runs begin with its files.
pub fn beginning() -> &'static Beginning {
    static BEGINNING: OnceLock<Beginning> = OnceLock::new();
    BEGINNING.get_or_init(|| {
        let folder = folder();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (tenants, plans, act) = runtime.block_on(async {
            let clock = TestClock::at(BEGIN - 60_000);
            let app = App::start(config(folder.path()), Runtime { clock: Arc::new(clock), seed: 1 }).await.unwrap();
            let store = &app.platform().store;
            let operator = store.read(|snapshot| access::operator_by_email(snapshot, OPERATOR)).await.unwrap().unwrap();
            let operator = domain::id::OperatorId::new(operator.id);
            let act = Act { operator, address: "127.0.0.1".to_owned() };
            let mut tenants = Vec::new();
            for number in 0..3 {
                let (act, dice) = (act.clone(), Dice::new(number));
                let key = format!("{API_KEY_PREFIX}live_{:016x}{:016x}", dice.roll(), dice.roll());
                let secret = key.clone();
                let made = store.write(move |tx| {
                    let name = format!("tenant-{number}");
                    let registration = Registration {
                        contact_email: format!("{name}@example.com"),
                        subdomain: name.clone(),
                        name,
                        password_hash: String::new(),
                        status: TenantStatus::Active,
                        currency: Currency::USD,
                        test_credit: Money::zero(Currency::USD),
                    };
                    let Ok(tenant) = tenant::register(tx, &registration) else { panic!("not registered") };
                    let credit = Money::new(CREDIT, Currency::USD);
                    let given = tenant::adjust(tx, &act, tenant.id, Mode::Live, credit, "Beginning", None);
                    assert!(given.is_ok());
                    let key = NewApiKey {
                        name: "Shop".to_owned(),
                        mode: Mode::Live,
                        permissions: Permissions::ALL,
                        secret_hash: api_key_hash(&secret),
                        hint: String::new(),
                    };
                    assert!(access::create_api_key(tx, tenant.id, &key).is_ok());
                    store::port::Decision::<_, std::convert::Infallible>::Ok(tenant.id)
                });
                tenants.push(Tenant { id: made.await.unwrap(), key });
            }
            let plans = store.read(|snapshot| store::plan::list(snapshot, None, 5_000)).await.unwrap();
            let plans = plans.into_iter().map(|listed| listed.plan).collect();
            app.stop().await;
            (tenants, plans, act)
        });
        drop(runtime);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = PathBuf::from(path.file_name().unwrap());
            if !name.to_string_lossy().starts_with("sandbox") && name != Path::new("lock") {
                files.push((name, std::fs::read(&path).unwrap()));
            }
        }
        Beginning { files, tenants, plans, act }
    })
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As by SIGTERM.
    Stopped,
    /// As by SIGKILL: what was written is there.
    Killed,
    /// The power went: what was not flushed is there, or not, or torn.
    PowerLost,
}

/// A node's folder.
pub struct Disk {
    folder: TempDir,
    /// The log as of its last flush, while the power may go.
    flushed: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Disk {
    /// After a first start.
    pub fn first() -> Self {
        let folder = folder();
        for (name, bytes) in &beginning().files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        Self { folder, flushed: Arc::default() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn database(&self) -> PathBuf {
        server::data_dir::database_in(self.path())
    }

    fn log(&self) -> PathBuf {
        let mut log = self.database().into_os_string();
        log.push("-wal");
        log.into()
    }

    /// What a flush does from now on: it remembers what can be relied on, if the power may go.
    pub fn flush(&self, power_may_go: bool) -> impl Fn() + Clone + Send + 'static {
        let (log, flushed) = (self.log(), Arc::clone(&self.flushed));
        move || {
            if power_may_go {
                *flushed.lock().unwrap() = Some(std::fs::read(&log).unwrap_or_default());
            }
        }
    }

    /// The disk as the next node finds it; to be called while this one's files are open.
    pub fn after(&self, end: End, dice: &Dice) -> Self {
        let next = Self { folder: folder(), flushed: Arc::default() };
        // The index is made anew from the ledger: it may be anything that once was, or gone.
        let without_index = end != End::Stopped && dice.once_in(4);
        for entry in std::fs::read_dir(self.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with("-shm") || name == "lock" || (without_index && name.contains("index")) {
                continue;
            }
            std::fs::copy(&path, next.path().join(&name)).unwrap();
        }
        if end == End::PowerLost {
            let log = self.flushed.lock().unwrap().take().unwrap_or_default();
            std::fs::write(next.log(), torn(log, std::fs::read(self.log()).unwrap_or_default(), dice)).unwrap();
        }
        next
    }
}

/// What may be found of a log that was flushed as `flushed` and is now `written`.
fn torn(flushed: Vec<u8>, written: Vec<u8>, dice: &Dice) -> Vec<u8> {
    if !written.starts_with(&flushed) {
        // It began anew after everything of it had been copied into the database.
        return flushed;
    }
    let more = written.len() - flushed.len();
    let mut found = written[..flushed.len() + dice.index(more + 1)].to_vec();
    let reliable = flushed.len();
    if found.len() > reliable && dice.once_in(2) {
        let place = reliable + dice.index(found.len() - reliable);
        let end = found.len().min(place + 512);
        found[place..end].fill(0);
    }
    found
}
