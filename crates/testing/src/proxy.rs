//! A TCP proxy that fails on command, as a network does: it cuts, or it swallows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Every connection is closed, and new ones, too.
    Cut,
    /// Nothing passes, and nobody is told.
    Swallowing,
}

/// A moment at which a connection is to break.
#[derive(Debug, Clone)]
struct Moment {
    /// What the client has just sent.
    sent: Vec<u8>,
    /// Whether the server gets it, each time it comes.
    arrives: VecDeque<bool>,
}

/// The proxy; its thread ends with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<String>>,
    moment: Arc<Mutex<Option<Moment>>>,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    /// Passes on to `target`, `host:port`.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn to(target: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (state, seen) = watch::channel(State::Open);
        let state = Arc::new(state);
        let target = Arc::new(Mutex::new(target.to_owned()));
        let passed_to = Arc::clone(&target);
        let moment: Arc<Mutex<Option<Moment>>> = Arc::default();
        let break_at = Arc::clone(&moment);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve(listener, passed_to, seen, break_at));
        });
        Self { address, target, moment, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks the next connections whose client sends this, as many as there are in `arrives`: before the server gets
    /// it, or after; then the server does what it says, and nobody hears the answer.
    ///
    /// # Panics
    /// Never.
    pub fn break_at(&self, sent: &str, arrives: &[bool]) {
        let moment = Moment { sent: sent.as_bytes().to_vec(), arrives: arrives.iter().copied().collect() };
        *self.moment.lock().expect("nobody panics with it") = Some(moment);
    }

    /// Passes new connections on to another target.
    pub fn turn_to(&self, target: &str) {
        target.clone_into(&mut self.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Closes all connections and lets none in.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing pass, without a word.
    pub fn swallow(&self) {
        self.state.send_replace(State::Swallowing);
    }

    /// Works again. Connections that were swallowed are closed: what they lost does not come back.
    pub fn mend(&self) {
        self.state.send_replace(State::Cut);
        self.state.send_replace(State::Open);
    }
}

async fn serve(
    listener: std::net::TcpListener,
    target: Arc<Mutex<String>>,
    mut seen: watch::Receiver<State>,
    moment: Arc<Mutex<Option<Moment>>>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = seen.changed() => {
                // The test is over.
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        let Ok((client, _)) = accepted else { continue };
        if *seen.borrow_and_update() == State::Cut {
            continue;
        }
        let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (seen, moment) = (seen.clone(), Arc::clone(&moment));
        tokio::spawn(async move {
            // Whether there is anybody behind it or not, nobody is told.
            let mut held = seen.clone();
            if *held.borrow_and_update() == State::Swallowing {
                let _ = held.wait_for(|state| *state != State::Swallowing).await;
                return;
            }
            let Ok(server) = TcpStream::connect(target).await else { return };
            let (client_reads, client_writes) = client.into_split();
            let (server_reads, server_writes) = server.into_split();
            let deaf = AtomicBool::new(false);
            tokio::select! {
                () = pass(client_reads, server_writes, seen.clone(), Some(&moment), &deaf) => {}
                () = pass(server_reads, client_writes, seen, None, &deaf) => {}
            }
        });
    }
}

/// Whether these bytes are the moment to break at, and whether the server still gets them.
fn is_moment(moment: &Mutex<Option<Moment>>, bytes: &[u8]) -> Option<bool> {
    let mut moment = moment.lock().expect("nobody panics with it");
    let now = moment.as_mut().filter(|moment| bytes.windows(moment.sent.len()).any(|window| window == moment.sent))?;
    now.arrives.pop_front()
}

/// How long a server has for what nobody will hear of.
const UNHEARD: Duration = Duration::from_millis(200);

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut seen: watch::Receiver<State>,
    moment: Option<&Mutex<Option<Moment>>>,
    deaf: &AtomicBool,
) {
    let mut buffer = vec![0; 65_536];
    let mut lost = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = seen.changed() => {
                let state = *seen.borrow_and_update();
                lost |= state == State::Swallowing;
                if changed.is_err() || state == State::Cut || (lost && state == State::Open) {
                    return;
                }
                continue;
            }
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let state = *seen.borrow_and_update();
                lost |= state == State::Swallowing;
                match state {
                    State::Cut => return,
                    State::Swallowing => {}
                    State::Open if lost => return,
                    State::Open => {
                        let Some(bytes) = buffer.get(..length) else { return };
                        match moment.and_then(|moment| is_moment(moment, bytes)) {
                            Some(true) => {
                                deaf.store(true, Ordering::Relaxed);
                                let _ = to.write_all(bytes).await;
                                tokio::time::sleep(UNHEARD).await;
                                return;
                            }
                            Some(false) => return,
                            None => {}
                        }
                        if moment.is_none() && deaf.load(Ordering::Relaxed) {
                            continue;
                        }
                        if to.write_all(bytes).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}
