//! Counters for the operator's monitoring, in the text format of Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What a request counter tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// HTTP method.
    pub method: &'static str,
    /// The route, with its parameters' names.
    pub route: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// What an upstream counter tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    /// The provider.
    pub provider: String,
    /// What was asked.
    pub call: &'static str,
    /// What it came to.
    pub outcome: &'static str,
}

/// What is counted at the moment of the question.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Jobs waiting or being worked on, and dead ones.
    pub jobs: (i64, i64),
    /// Orders somebody waits for.
    pub waiters: usize,
    /// Plans in the catalogue in memory.
    pub plans: usize,
    /// Price lists kept ready.
    pub price_lists: usize,
    /// Differences that are not settled.
    pub differences: i64,
    /// Connections with little left at their upstream.
    pub low_balances: usize,
}

/// The process's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    upstream: Family<UpstreamLabels, Counter>,
    jobs_open: Gauge,
    jobs_dead: Gauge,
    waiters: Gauge,
    plans: Gauge,
    price_lists: Gauge,
    differences: Gauge,
    low_balances: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("esimd");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let bounds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
        let seconds = Histogram::new(bounds);
        registry.register("http_request_seconds", "Time from request to answer", seconds.clone());
        let upstream = Family::default();
        registry.register("upstream_calls", "Calls to upstreams by outcome", upstream.clone());
        let (jobs_open, jobs_dead, waiters) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("jobs_open", "Jobs waiting or being worked on", jobs_open.clone());
        registry.register("jobs_dead", "Jobs that wait for the operator", jobs_dead.clone());
        registry.register("orders_waited_for", "Orders somebody waits for", waiters.clone());
        let (plans, price_lists) = (Gauge::default(), Gauge::default());
        registry.register("plans_on_sale", "Plans in the catalogue in memory", plans.clone());
        registry.register("price_lists", "Price lists kept ready", price_lists.clone());
        let (differences, low_balances) = (Gauge::default(), Gauge::default());
        registry.register("differences_open", "Differences to upstreams' books, not settled", differences.clone());
        registry.register("low_balances", "Connections with little left at their upstream", low_balances.clone());
        Self {
            registry,
            requests,
            seconds,
            upstream,
            jobs_open,
            jobs_dead,
            waiters,
            plans,
            price_lists,
            differences,
            low_balances,
        }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, method: &'static str, route: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&RequestLabels { method, route, status }).inc();
        self.seconds.observe(seconds);
    }

    /// Counts a call to an upstream.
    pub fn upstream_call(&self, provider: &str, call: &'static str, outcome: &'static str) {
        self.upstream.get_or_create(&UpstreamLabels { provider: provider.to_owned(), call, outcome }).inc();
    }

    /// The text Prometheus reads.
    #[must_use]
    pub fn text(&self, now: &Standing) -> String {
        let count = |of: usize| i64::try_from(of).unwrap_or(i64::MAX);
        self.jobs_open.set(now.jobs.0);
        self.jobs_dead.set(now.jobs.1);
        self.waiters.set(count(now.waiters));
        self.plans.set(count(now.plans));
        self.price_lists.set(count(now.price_lists));
        self.differences.set(now.differences);
        self.low_balances.set(count(now.low_balances));
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}
