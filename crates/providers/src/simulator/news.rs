//! Tells news by callback, again and again where the receiver does not answer as it should.

use super::Running;
use super::dialect::Outgoing;
use super::shop::News;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks for news.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a receiver may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn tell(running: Arc<Running>) {
    let Ok(client) = client() else { return };
    loop {
        let faults = running.faults.callbacks();
        let now = (running.now)();
        let due = running.shop.due_news(now.plus_millis(-faults.late_ms));
        for news in due.into_iter().filter(|_| !faults.never) {
            let acknowledged = send(&running, &client, &news).await;
            if faults.twice && news.attempts == 0 {
                send(&running, &client, &news).await;
            }
            let again = if acknowledged { None } else { running.dialect.retry_ms(news.attempts + 1) };
            let _ = running.shop.told(&news, again.map(|pause| now.plus_millis(pause)));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn send(running: &Running, client: &reqwest::Client, news: &News) -> bool {
    let Some(outgoing) = running.dialect.callback((running.now)(), news) else { return true };
    post(running, client, &news.url, outgoing).await
}

async fn post(running: &Running, client: &reqwest::Client, url: &str, outgoing: Outgoing) -> bool {
    // A callback without a body tries the address, before anything is told there.
    let is_trial = outgoing.body.is_empty();
    let mut request = if is_trial {
        client.head(url)
    } else {
        client.post(url).header("content-type", outgoing.content_type).body(outgoing.body)
    };
    for (name, value) in outgoing.headers {
        request = request.header(name, value);
    }
    let response = request.send().await;
    if is_trial {
        return true;
    }
    let Ok(response) = response else { return false };
    let status = response.status().as_u16();
    let body = response.text().await.unwrap_or_default();
    running.dialect.is_acknowledged(status, &body)
}

/// Tries an address for callbacks, and keeps it if it answers as it should.
pub(super) async fn passes(running: &Running, url: &str, outgoing: Outgoing) -> bool {
    let Ok(client) = client() else { return false };
    post(running, &client, url, outgoing).await && running.shop.set_callback_url(url).is_ok()
}

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().http1_only().timeout(TIME_LIMIT).no_proxy().build()
}
