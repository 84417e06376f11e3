//! Spans on their way to the collector: in batches, over gRPC, by a thread of their own.
//!
//! What waits is bounded, and a span that finds it full is dropped; a batch that the collector does not take
//! is given up after some seconds. All of that is counted, and a collector that is away is a line in the log
//! each minute.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

/// Spans that have ended and wait; some kilobytes each at most.
const WAITING_MAX: usize = 4096;

/// Spans in one request.
const BATCH_MAX: usize = 512;

/// How long a span that has ended waits for others to go with it.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How long the collector may take for one batch.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the log tells that the collector is still away.
const TELL_PAUSE: Duration = Duration::from_secs(60);

/// What became of spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Sent,
    /// The collector did not take them.
    Lost,
    /// As many waited as may.
    Dropped,
}

/// Is told what became of so many spans.
pub type Count = Arc<dyn Fn(Fate, usize) + Send + Sync>;

/// No connection can be made of what the settings say.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// What all sides of the queue know.
struct Shared {
    waiting: AtomicUsize,
    is_failing: AtomicBool,
    told: Mutex<Option<Instant>>,
    count: Count,
}

#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Exporter {
    otlp: Otlp,
    shared: Arc<Shared>,
}

/// Where spans end, for a collector at this URL.
pub fn processor(url: &str, count: Count) -> Result<impl SpanProcessor + use<>, Unusable> {
    let unusable = |error: &dyn fmt::Display| Unusable(error.to_string());
    let mut otlp = Otlp::builder().with_tonic().with_endpoint(url).with_timeout(EXPORT_TIMEOUT);
    if url.starts_with("https:") {
        otlp = otlp.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let otlp = otlp.build().map_err(|error| unusable(&error))?;
    let shared = Arc::new(Shared {
        waiting: AtomicUsize::new(0),
        is_failing: AtomicBool::new(false),
        told: Mutex::default(),
        count,
    });
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(WAITING_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(BATCH_DELAY)
        .build();
    let exporter = Exporter { otlp, shared: shared.clone() };
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    Ok(Bounded { batches, shared })
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // Counted here, since what the queue itself drops it tells nobody.
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            (self.shared.count)(Fate::Dropped, 1);
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        // They have left the queue, whatever becomes of them.
        self.shared.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exported = self.otlp.export(batch).await;
        match &exported {
            Ok(()) => self.shared.sent(spans),
            Err(error) => self.shared.lost(spans, error),
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}

impl Shared {
    fn sent(&self, spans: usize) {
        (self.count)(Fate::Sent, spans);
        if self.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!("the collector takes spans again");
        }
    }

    fn lost(&self, spans: usize, why: &dyn fmt::Display) {
        (self.count)(Fate::Lost, spans);
        self.is_failing.store(true, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL_PAUSE) {
            *told = Some(Instant::now());
            tracing::warn!("the collector does not take spans: {why}");
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
