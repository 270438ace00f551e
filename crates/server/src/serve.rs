//! Listening, and stopping in good order.

use crate::call::answer;
use crate::platform::Platform;
use crate::routes::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_io_timeout::TimeoutStream;

/// How long a client may take to send its request's head.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long requests under way may take once the process stops.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Serves one connection of `peer`, whatever carries its bytes.
pub fn connection<S>(
    platform: Arc<Platform>,
    router: &'static Router,
    peer: IpAddr,
    stream: S,
) -> impl GracefulConnection<Error = hyper::Error>
where
    S: AsyncRead + AsyncWrite + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    // A client that reads nothing for so long is dropped; what it was to get is not kept for it.
    stream.set_write_timeout(Some(Duration::from_secs(platform.config.limits.stalled_client_seconds)));
    let service = service_fn(move |request| {
        let platform = Arc::clone(&platform);
        async move { Ok::<_, Infallible>(answer(platform, router, peer, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(64 * 1_024)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}

/// Serves a listener until the process stops; then gives requests under way five seconds.
pub async fn serve(platform: Arc<Platform>, router: &'static Router, listener: TcpListener) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = platform.stopped() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, above all: others have to go first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let connection = connection(Arc::clone(&platform), router, peer.ip(), stream);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(LAST_CALLS, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}
