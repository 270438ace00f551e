//! Servers that speak the wire of real upstreams, for tests, demos and whoever builds a client: signatures are
//! verified, sales are kept in a file, news is told by callback, and everything that can go wrong does, on demand.
//! A dialect is one upstream's wire; behind all of them is the same [`shop::Shop`].

mod airalo;
mod control;
mod dialect;
mod esim_access;
mod esim_go;
mod fault;
mod microesim;
mod news;
mod quota;
pub mod shop;
mod stock;
mod tgt;
mod tsim;
mod wire;

pub use dialect::{Credentials, Dialect, Outgoing, WORDS, dialect};
pub use fault::{Fault, Faults, Planned, Said};
pub use wire::{Reply, Request, Trial};

use bytes::Bytes;
use domain::time::Timestamp;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HyperRequest, Response};
use hyper_util::rt::TokioIo;
use shop::Shop;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The simulators' clock.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The largest body that is read, bytes.
const MOST_BODY_BYTES: usize = 1_024 * 1_024;

/// What the parts of a running simulator share.
pub(crate) struct Running {
    dialect: Box<dyn Dialect>,
    shop: Shop,
    faults: Faults,
    now: Now,
}

/// A simulator that listens; it ends when it is dropped.
pub struct Simulator {
    address: SocketAddr,
    running: Arc<Running>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Simulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulator").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Why an answer never comes.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Cut {}

impl Simulator {
    /// Listens and serves.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: SocketAddr, dialect: Box<dyn Dialect>, shop: Shop, now: Now) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let running = Arc::new(Running { dialect, shop, faults: Faults::default(), now });
        let tasks =
            vec![tokio::spawn(serve(Arc::clone(&running), listener)), tokio::spawn(news::tell(Arc::clone(&running)))];
        Ok(Self { address, running, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it sells and sold.
    #[must_use]
    pub fn shop(&self) -> &Shop {
        &self.running.shop
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.running.faults
    }

    /// The clock it goes by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.running.now)()
    }
}

async fn serve(running: Arc<Running>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, above all: others have to go first.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let running = Arc::clone(&running);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&running), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(running: Arc<Running>, request: HyperRequest<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let Some(request) = read(request).await else {
        return Ok(response(Reply::text(413, "text/plain", "too large")));
    };
    if request.path.starts_with(control::PREFIX) {
        return Ok(response(control::answer(&running, &request)));
    }
    let fault = running.faults.take(&request.target());
    if let Some(planned) = &fault {
        match planned.fault {
            Fault::Delay => tokio::time::sleep(std::time::Duration::from_millis(planned.delay_ms)).await,
            Fault::CutBefore => return Err(Cut),
            Fault::TooManyRequests => return Ok(response(running.dialect.too_many_requests())),
            Fault::ServerError => {
                return Ok(response(Reply::text(500, "text/html", "<html><h1>500 Internal Server Error</h1></html>")));
            }
            Fault::Says => return Ok(response(planned.says.reply())),
            Fault::CutAfter | Fault::WrongTypes | Fault::DoesAndSays => {}
        }
    }
    let mut reply = running.dialect.answer(&running.shop, (running.now)(), &request);
    if let Some(trial) = reply.trial.take()
        && !news::passes(&running, &trial.url, trial.outgoing).await
    {
        reply = trial.otherwise;
    }
    match fault {
        Some(Planned { fault: Fault::CutAfter, .. }) => return Err(Cut),
        Some(Planned { fault: Fault::WrongTypes, .. }) => fault::mistype(&mut reply),
        Some(Planned { fault: Fault::DoesAndSays, says, .. }) => reply = says.reply(),
        _ => {}
    }
    if reply.is_lost { Err(Cut) } else { Ok(response(reply)) }
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let body = Full::new(Bytes::from(reply.body));
    response.body(body).unwrap_or_else(|_| Response::new(Full::new(Bytes::new())))
}

async fn read(request: HyperRequest<Incoming>) -> Option<Request> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MOST_BODY_BYTES).collect().await.ok()?.to_bytes();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let content_type = headers.iter().find(|(name, _)| name == "content-type").map_or("", |(_, value)| value);
    let fields = wire::fields(content_type, &body).await;
    let query = head.uri.query().unwrap_or_default();
    Some(Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers,
        body,
        fields,
    })
}
