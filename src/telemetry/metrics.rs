//! The metrics at `/metrics`, under the names that operators' dashboards use.
//!
//! Bounded: no label takes a value that clients choose, but for `callsystem` and `reason`, of which the first few are kept
//! and the rest are counted as `other`.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Values of a label that clients choose; later ones are `other`.
const CLIENT_LABELS_MAX: usize = 32;
/// Longer values are `other`.
const CLIENT_LABEL_MAX_BYTES: usize = 64;
/// What stands for a value that did not fit.
const OTHER: &str = "other";

/// All metrics of the process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// Handles to every metric.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub http_requests: IntCounterVec,
    pub http_request_duration: HistogramVec,
    pub http_request_size: HistogramVec,
    pub http_response_size: HistogramVec,
    pub peers: IntGauge,
    pub tasks: IntGaugeVec,
    pub tasks_registered: IntCounter,
    pub dfget_tasks: IntGaugeVec,
    pub dfget_tasks_registered: IntCounterVec,
    pub dfget_tasks_failed: IntCounterVec,
    pub schedule_duration: Histogram,
    pub cdn_trigger: IntCounter,
    pub cdn_trigger_failed: IntCounter,
    pub cdn_cache_hit: IntCounter,
    pub cdn_download: IntCounter,
    pub cdn_download_failed: IntCounter,
    pub source_bytes: IntCounter,
    pub pieces_downloaded_bytes: IntCounter,
    pub revalidations: IntCounterVec,
    pub gc_peers: IntCounter,
    pub gc_tasks: IntCounter,
    pub gc_disks: IntCounter,
    pub last_gc_disks: Gauge,
    pub evictions: IntCounterVec,
    pub repository_bytes: IntGauge,
    pub repository_quota_bytes: IntGauge,
    pub remembered: IntGaugeVec,
    pub source_places: IntGaugeVec,
    pub snapshots: IntCounter,
    pub snapshots_failed: IntCounter,
    pub dfget_download_duration: HistogramVec,
    pub dfget_download_bytes: IntCounterVec,
    pub dfget_download: IntCounterVec,
    pub dfget_download_failed: IntCounterVec,
    call_systems: Labels,
    reasons: Labels,
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let metrics = Builder { registry: &registry };
        let info = metrics.gauge_vec("supernode_build_info", "The build that runs", &["version", "revision", "os", "arch"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), "", std::env::consts::OS, std::env::consts::ARCH]).set(1.0);
        let seconds = prometheus::exponential_buckets(0.0005, 2.0, 16).unwrap_or_default();
        let sizes = prometheus::exponential_buckets(128.0, 4.0, 10).unwrap_or_default();
        let minutes = prometheus::exponential_buckets(0.05, 2.0, 16).unwrap_or_default();
        let milliseconds = prometheus::exponential_buckets(0.001, 4.0, 10).unwrap_or_default();
        Self {
            http_requests: metrics.counter_vec("supernode_http_requests_total", "Requests", &["code", "handler"]),
            http_request_duration: metrics.histogram_vec(
                "supernode_http_request_duration_seconds",
                "Time to answer, held requests included",
                &["handler"],
                seconds,
            ),
            http_request_size: metrics.histogram_vec(
                "supernode_http_request_size_bytes",
                "Bodies of requests",
                &["handler"],
                sizes.clone(),
            ),
            http_response_size: metrics.histogram_vec(
                "supernode_http_response_size_bytes",
                "Bodies of answers",
                &["handler"],
                sizes,
            ),
            peers: metrics.gauge("supernode_peers", "Clients of all tasks"),
            tasks: metrics.int_gauge_vec("supernode_tasks", "Tasks by state", &["cdnstatus"]),
            tasks_registered: metrics.counter("supernode_tasks_registered_total", "Registrations that were accepted"),
            dfget_tasks: metrics.int_gauge_vec("supernode_dfgettasks", "Downloads by clients", &["callsystem", "status"]),
            dfget_tasks_registered: metrics.counter_vec(
                "supernode_dfgettasks_registered_total",
                "Downloads that clients registered",
                &["callsystem"],
            ),
            dfget_tasks_failed: metrics.counter_vec(
                "supernode_dfgettasks_failed_total",
                "Registrations that failed",
                &["callsystem"],
            ),
            schedule_duration: metrics.histogram(
                "supernode_schedule_duration_milliseconds",
                "Time to decide what a client fetches",
                milliseconds,
            ),
            cdn_trigger: metrics.counter("supernode_cdn_trigger_total", "Sources that had to be fetched"),
            cdn_trigger_failed: metrics.counter("supernode_cdn_trigger_failed_total", "Sources that gave nothing at all"),
            cdn_cache_hit: metrics.counter("supernode_cdn_cache_hit_total", "Registrations of what was here already"),
            cdn_download: metrics.counter("supernode_cdn_download_total", "Downloads from sources"),
            cdn_download_failed: metrics.counter("supernode_cdn_download_failed_total", "Downloads from sources that failed"),
            source_bytes: metrics.counter("supernode_source_bytes_total", "Bytes of bodies that sources sent"),
            pieces_downloaded_bytes: metrics
                .counter("supernode_pieces_downloaded_size_bytes_total", "Bytes of pieces served by the supernode itself"),
            revalidations: metrics.counter_vec(
                "supernode_revalidations_total",
                "Cached files of which the source was asked whether it changed, by what it said",
                &["outcome"],
            ),
            gc_peers: metrics.counter("supernode_gc_peers_total", "Clients that left their tasks because they were silent"),
            gc_tasks: metrics.counter("supernode_gc_tasks_total", "Tasks that went because nobody used them"),
            gc_disks: metrics.counter("supernode_gc_disks_total", "Cached files that went to make room"),
            last_gc_disks: metrics
                .plain_gauge("supernode_last_gc_disks_timestamp_seconds", "When a cached file last went to make room"),
            evictions: metrics.counter_vec(
                "supernode_evictions_total",
                "Cached files that went to make room, by what was short of it",
                &["reason"],
            ),
            repository_bytes: metrics.gauge("supernode_repository_bytes", "Bytes of all cached pieces"),
            repository_quota_bytes: metrics
                .gauge("supernode_repository_quota_bytes", "Bytes that cached pieces may have together; 0 for no limit"),
            source_places: metrics.int_gauge_vec(
                "supernode_source_places",
                "Places to ask sources and to take their bodies: those held, their limits, and downloads that wait for one",
                &["of", "count"],
            ),
            remembered: metrics.int_gauge_vec(
                "supernode_remembered",
                "What is remembered for a while of clients and tasks that are not there",
                &["what"],
            ),
            snapshots: metrics.counter("supernode_snapshots_total", "Snapshots that were taken"),
            snapshots_failed: metrics.counter("supernode_snapshots_failed_total", "Snapshots that could not be taken"),
            dfget_download_duration: metrics.histogram_vec(
                "dfget_download_duration_seconds",
                "Duration of downloads, as clients report it",
                &["callsystem"],
                minutes,
            ),
            dfget_download_bytes: metrics.counter_vec(
                "dfget_download_size_bytes_total",
                "Bytes that clients downloaded",
                &["callsystem"],
            ),
            dfget_download: metrics.counter_vec("dfget_download_total", "Downloads that clients reported", &["callsystem"]),
            dfget_download_failed: metrics.counter_vec(
                "dfget_download_failed_total",
                "Downloads that failed",
                &["callsystem", "reason"],
            ),
            call_systems: Labels::default(),
            reasons: Labels::default(),
            registry,
        }
    }

    /// The label for what a client calls its caller.
    pub fn call_system(&self, given: &str) -> Arc<str> {
        self.call_systems.bounded(given)
    }

    /// The label for why a client went to the source.
    pub fn reason(&self, given: &str) -> Arc<str> {
        self.reasons.bounded(given)
    }

    /// Counts a finished request.
    pub fn observe_request(&self, handler: &str, code: &str, took: Duration, request_bytes: u64, response_bytes: u64) {
        self.http_requests.with_label_values(&[code, handler]).inc();
        self.http_request_duration.with_label_values(&[handler]).observe(took.as_secs_f64());
        self.http_request_size.with_label_values(&[handler]).observe(to_f64(request_bytes));
        self.http_response_size.with_label_values(&[handler]).observe(to_f64(response_bytes));
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Sizes beyond 2^53 bytes lose their last digits, which no histogram shows.
#[allow(clippy::cast_precision_loss)]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// The first values of a label; all others are one.
#[derive(Debug, Default)]
struct Labels(Mutex<BTreeSet<Arc<str>>>);

impl Labels {
    /// The same text for the same value, so that a million clients share a few.
    fn bounded(&self, given: &str) -> Arc<str> {
        let mut known = self.0.lock();
        if let Some(label) = known.get(given) {
            return label.clone();
        }
        let fits = known.len() < CLIENT_LABELS_MAX && given.len() <= CLIENT_LABEL_MAX_BYTES;
        let label: Arc<str> = if fits { given.into() } else { OTHER.into() };
        known.insert(label.clone());
        label
    }
}

/// Makes metrics and registers each.
struct Builder<'a> {
    registry: &'a Registry,
}

impl Builder<'_> {
    fn register<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        #[allow(clippy::expect_used)]
        let metric = metric.expect("the names and labels of metrics are constants, and valid");
        #[allow(clippy::expect_used)]
        self.registry.register(Box::new(metric.clone())).expect("no two metrics have one name");
        metric
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("dragonfly")
    }

    fn histogram_opts(name: &str, help: &str, buckets: Vec<f64>) -> HistogramOpts {
        HistogramOpts::new(name, help).namespace("dragonfly").buckets(buckets)
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Self::opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn plain_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(Self::opts(name, help)))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(Self::opts(name, help), labels))
    }

    fn int_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Self::opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
        self.register(Histogram::with_opts(Self::histogram_opts(name, help, buckets)))
    }

    fn histogram_vec(&self, name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
        self.register(HistogramVec::new(Self::histogram_opts(name, help, buckets), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_clients_choose_has_few_values() {
        let labels = Labels::default();
        let distinct: BTreeSet<Arc<str>> = (0..1000).map(|number| labels.bounded(&format!("system-{number}"))).collect();
        assert_eq!(distinct.len(), CLIENT_LABELS_MAX + 1);
        assert_eq!(&*labels.bounded("system-0"), "system-0");
    }

    #[test]
    fn the_names_are_those_of_the_dashboards() {
        METRICS.observe_request("/peer/task", "200", Duration::from_millis(1), 0, 100);
        let text = METRICS.render();
        for name in [
            "dragonfly_supernode_build_info",
            "dragonfly_supernode_http_requests_total",
            "dragonfly_supernode_http_request_duration_seconds",
            "dragonfly_supernode_peers",
            "dragonfly_supernode_tasks_registered_total",
            "dragonfly_supernode_schedule_duration_milliseconds",
            "dragonfly_supernode_cdn_download_total",
            "dragonfly_supernode_pieces_downloaded_size_bytes_total",
            "dragonfly_supernode_last_gc_disks_timestamp_seconds",
        ] {
            assert!(text.contains(&format!("\n{name}")) || text.contains(&format!("# TYPE {name}")), "{name} is missing");
        }
    }
}
