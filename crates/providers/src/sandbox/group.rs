//! Group commit: whatever waits is done in one transaction and answered after the one commit, so
//! full durability costs one flush per group instead of one per sale.

use super::error::SandboxError;
use rusqlite::Connection;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// How many requests may wait before the next caller waits for room.
const QUEUE: usize = 8_192;
/// The most requests that share a commit.
const GROUP: usize = 1_024;

/// Whoever executes requests on the world's connection.
#[derive(Debug)]
pub(super) enum Executor {
    /// A thread that owns the connection and commits in groups.
    Thread(WorldThread),
    /// The caller itself, one request at a time: the same world without a thread.
    Caller(Mutex<Connection>),
}

impl Executor {
    /// Starts the thread.
    pub fn on_thread(connection: Connection) -> Result<Self, SandboxError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || serve(connection, queue))
            .map_err(|error| SandboxError::Storage(error.to_string()))?;
        Ok(Self::Thread(WorldThread { requests: Some(requests), thread: Mutex::new(Some(thread)) }))
    }

    /// Runs a change; the answer comes after the commit. An error in `change` undoes its whole
    /// group, so what is merely refused is an `Ok` that was decided before anything was written. Once
    /// handed over it runs even if the caller stops waiting.
    ///
    /// # Errors
    /// [`SandboxError::Storage`] and [`SandboxError::Closed`]: not done. [`SandboxError::Uncertain`]:
    /// perhaps done.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, SandboxError> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let (task, answer) = task(change);
        self.submit(Request::Write(task)).await?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Runs a read on what is committed.
    ///
    /// # Errors
    /// As [`Executor::write`].
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, SandboxError> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let (task, answer) = task(read);
        self.submit(Request::Read(task)).await?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn submit(&self, request: Request) -> Result<(), SandboxError> {
        match self {
            Self::Caller(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                match request {
                    Request::Write(task) => commit_group(&connection, vec![task]),
                    Request::Read(task) => read_now(&connection, task),
                    Request::Close(_) => {}
                }
                Ok(())
            }
            Self::Thread(WorldThread { requests: Some(requests), .. }) => {
                requests.send(request).await.map_err(|_| SandboxError::Closed)
            }
            Self::Thread(WorldThread { requests: None, .. }) => Err(SandboxError::Closed),
        }
    }

    /// Does what is queued, closes the file and ends the thread. Later requests are refused. Does
    /// nothing without a thread, or a second time.
    pub async fn close(&self) {
        let Self::Thread(world) = self else { return };
        let (done, closed) = oneshot::channel();
        if self.submit(Request::Close(done)).await.is_ok() && closed.await.is_ok() {
            world.join();
        }
    }
}

/// The thread, and the way to it.
#[derive(Debug)]
pub(super) struct WorldThread {
    requests: Option<mpsc::Sender<Request>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WorldThread {
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the sandbox's thread had panicked");
        }
    }
}

impl Drop for WorldThread {
    fn drop(&mut self) {
        // The thread ends when nobody can ask it any more.
        self.requests = None;
        self.join();
    }
}

enum Request {
    Write(Box<dyn Task>),
    Read(Box<dyn Task>),
    Close(oneshot::Sender<()>),
}

trait Task: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), SandboxError>;
    fn answer(self: Box<Self>, committed: Result<(), SandboxError>);
}

struct Waiting<F, T> {
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, SandboxError>>,
}

impl<F, T> Task for Waiting<F, T>
where
    F: FnOnce(&Connection) -> Result<T, SandboxError> + Send,
    T: Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), SandboxError> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(connection)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), SandboxError>) {
        let Self { result, answer, .. } = *self;
        let result = committed.and_then(|()| result.ok_or_else(stopped));
        // A caller who no longer waits will ask again by reference.
        drop(answer.send(result));
    }
}

type TaskAndAnswer<T> = (Box<dyn Task>, oneshot::Receiver<Result<T, SandboxError>>);

fn task<T, F>(work: F) -> TaskAndAnswer<T>
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T, SandboxError> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    (Box::new(Waiting { work: Some(work), result: None, answer }), receiver)
}

fn stopped() -> SandboxError {
    SandboxError::Uncertain("the sandbox stopped before it answered".to_owned())
}

fn serve(connection: Connection, mut queue: mpsc::Receiver<Request>) {
    let mut closing = None;
    while closing.is_none() {
        let Some(first) = queue.blocking_recv() else {
            return;
        };
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Write(task) => writes.push(task),
                Request::Read(task) => reads.push(task),
                Request::Close(done) => {
                    closing = Some(done);
                    break;
                }
            }
            let room = writes.len().saturating_add(reads.len()) < GROUP;
            next = if room { queue.try_recv().ok() } else { None };
        }
        commit_group(&connection, writes);
        for task in reads {
            read_now(&connection, task);
        }
    }
    drop(connection);
    drop(queue);
    if let Some(done) = closing {
        // Whoever asked for the end may have stopped waiting for it.
        let _ = done.send(());
    }
}

fn read_now(connection: &Connection, mut task: Box<dyn Task>) {
    let outcome = task.run(connection);
    task.answer(outcome);
}

fn commit_group(connection: &Connection, mut tasks: Vec<Box<dyn Task>>) {
    if tasks.is_empty() {
        return;
    }
    let committed = commit_together(connection, &mut tasks);
    if let Err(error) = &committed {
        tracing::error!(%error, requests = tasks.len(), "a group of the sandbox was not committed");
        roll_back(connection);
    }
    for task in tasks {
        task.answer(committed.clone());
    }
}

fn commit_together(connection: &Connection, tasks: &mut [Box<dyn Task>]) -> Result<(), SandboxError> {
    connection.prepare_cached("begin immediate")?.execute([])?;
    for task in tasks {
        task.run(connection)?;
    }
    // A commit that fails may still have reached the disk.
    let commit = connection.prepare_cached("commit").and_then(|mut commit| commit.execute([]));
    commit.map(drop).map_err(|error| SandboxError::Uncertain(error.to_string()))
}

fn roll_back(connection: &Connection) {
    // The database may have rolled back by itself; then there is nothing left to undo.
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("rollback")
    {
        tracing::error!(%error, "a group of the sandbox could not be rolled back");
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::Book;
    use super::super::{DELIVERS, Sandbox, SandboxError, SandboxOptions};
    use super::Executor;
    use crate::{Purchase, Upstream};
    use domain::fulfilment::{LookUp, NotYet, Outcome};
    use domain::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

    fn purchase(reference: String) -> Purchase {
        Purchase { reference, order: None, upstream_plan_id: DELIVERS.to_owned(), quantity: 1 }
    }

    fn executor(sandbox: &Sandbox) -> &Executor {
        match &sandbox.shared.book {
            Book::Sqlite(executor) => executor,
            Book::Postgres(_) => panic!("these worlds are files"),
        }
    }

    async fn limit_pages(sandbox: &Sandbox, pages: u32) {
        let limited = executor(sandbox)
            .read(move |world| Ok(world.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?));
        assert_eq!(limited.await, Ok(()));
    }

    #[tokio::test]
    async fn a_full_disk_sells_nothing_says_so_and_is_survived() {
        let sandbox = Sandbox::in_memory(SandboxOptions { seed: 1, delay_ms: 0 }).unwrap();
        // SQLite never limits a database to less than it has.
        limit_pages(&sandbox, 1).await;
        let mut failed = None;
        for number in 0..1_000 {
            let reference = format!("order-{number:04}");
            match sandbox.place(NOW, purchase(reference.clone())).await.meaning {
                Outcome::Done { .. } => {}
                Outcome::NotYet(NotYet::TryLater { retry_at: None, reason }) => {
                    assert!(reason.contains("full"), "{reason}");
                    failed = Some(reference);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let reference = failed.expect("the disk is never full");
        let look_up = sandbox.look_up(NOW, purchase(reference.clone())).await.meaning;
        assert_eq!(look_up, LookUp::NotFound);
        limit_pages(&sandbox, 1_000_000).await;
        let again = sandbox.place(NOW, purchase(reference)).await.meaning;
        assert!(matches!(again, Outcome::Done { profiles } if profiles.len() == 1));
    }

    #[tokio::test]
    async fn an_error_undoes_its_group_and_only_its_group() {
        let sandbox = Sandbox::in_memory(SandboxOptions { seed: 1, delay_ms: 0 }).unwrap();
        let broken = executor(&sandbox).write(|world| {
            world.execute("insert into turned_away values ('lost', 1)", [])?;
            Ok(world.execute("insert into turned_away values (null, 1)", [])?)
        });
        assert!(matches!(broken.await, Err(SandboxError::Storage(_))));
        let left = executor(&sandbox)
            .read(|world| Ok(world.query_row("select count(*) from turned_away", [], |row| row.get::<_, i64>(0))?));
        assert_eq!(left.await, Ok(0));
        let sold = sandbox.place(NOW, purchase("order-1".to_owned())).await.meaning;
        assert!(matches!(sold, Outcome::Done { .. }));
    }

    #[tokio::test]
    async fn a_commit_that_fails_is_uncertain_and_the_next_one_works() {
        let sandbox = Sandbox::in_memory(SandboxOptions { seed: 1, delay_ms: 0 }).unwrap();
        let deferred = executor(&sandbox).write(|world| {
            Ok(world.execute_batch(
                "pragma defer_foreign_keys = on;
                 create table parent (id integer primary key);
                 create table child (id integer references parent (id) deferrable initially deferred);
                 insert into child values (1);",
            )?)
        });
        assert!(matches!(deferred.await, Err(SandboxError::Uncertain(_))));
        let sold = sandbox.place(NOW, purchase("order-1".to_owned())).await.meaning;
        assert!(matches!(sold, Outcome::Done { .. }));
    }
}
