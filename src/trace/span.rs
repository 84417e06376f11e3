//! Spans: what a call came to, on this pod, as a part of somebody's trace.
//!
//! A span goes under the `traceparent` that came with what it is about, and hands on its own. Of a trace that is
//! not sampled there is no span, and its `traceparent` goes on as it came; so it does where there is no tracer.
//! That is decided before anything is made: OpenTelemetry's own sampling costs nearly what a span costs.
//!
//! A span is one of `tracing`, which `tracing-opentelemetry` turns into one of OpenTelemetry. It is a value, and
//! nobody's current one: it crosses threads, and its parent may be in another pod. And it belongs to a subscriber
//! of its own, so that no line of the log is put to a layer that wants none.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Dispatch, Level, dispatcher, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::proto::session_id::PodId;
use crate::proto::traceparent::Traceparent;
use crate::trace::export::{self, Count, Unusable};

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The collector, as `http://host:4317`; `None`: no spans.
    pub otlp: Option<String>,
    /// The part of the traces that begin here of which there are spans, 0 to 1.
    pub sample: f64,
    /// What collectors call this installation.
    pub service: String,
}

/// Makes spans, if there is a collector for them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    /// Where spans are made, and nothing else is.
    spans: Dispatch,
    is_over: AtomicBool,
}

/// What only spans have, so that `spans` knows them.
const TARGET: &str = "pathcast::span";

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A client's way in, up to its 101.
    Handshake,
    /// From a publisher's request to the broker's answer, or the verdict.
    Publish,
    /// From a broadcast's arrival on this pod until the last socket has it, or its outbox.
    FanOut,
    /// The same for a message to one session.
    Unicast,
    /// One request to a webhook.
    Webhook,
}

impl Kind {
    /// Its name, and its kind as OpenTelemetry has kinds.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Kind::Handshake => ("handshake", "server"),
            Kind::Publish => ("publish", "producer"),
            Kind::FanOut => ("fan-out", "consumer"),
            Kind::Unicast => ("unicast", "consumer"),
            Kind::Webhook => ("webhook", "client"),
        }
    }
}

/// A part of a trace, ended when it is dropped; or, where nothing is recorded, what came in its place.
#[derive(Debug, Default)]
pub struct Span {
    recording: Option<tracing::Span>,
    context: Option<Traceparent>,
}

impl Tracer {
    /// To be called within a runtime, which carries the connection to the collector. Nothing waits for the
    /// collector, whether it is there or not; `count` is told what became of spans.
    ///
    /// # Errors
    /// Where the settings name something that no connection can be made of.
    pub fn start(config: &Config, pod: &PodId, count: Count) -> Result<Tracer, Unusable> {
        let Some(otlp) = &config.otlp else { return Ok(Tracer::default()) };
        // Where a trace begins here, the SDK decides by its id, so that others decide the same.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample)));
        let resource = Resource::builder_empty()
            .with_service_name(config.service.clone())
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", pod.to_string()),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_resource(resource)
            .with_span_processor(export::processor(otlp, count)?)
            .build();
        // What a span is about is told by whoever begins it, and by nothing else.
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("pathcast"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let only_spans = Targets::new().with_target(TARGET, Level::INFO);
        let spans = tracing_subscriber::registry().with(only_spans).with(layer).into();
        let is_over = AtomicBool::new(false);
        Ok(Tracer(Some(Arc::new(Exporting { provider, spans, is_over }))))
    }

    /// Begins a span under `parent`; without one it begins a trace, if that is sampled.
    #[inline]
    pub fn span(&self, kind: Kind, parent: Option<&Traceparent>) -> Span {
        match &self.0 {
            Some(exporting) if parent.is_none_or(Traceparent::is_sampled) => {
                exporting.begin(kind, parent)
            }
            _ => Span { recording: None, context: parent.copied() },
        }
    }

    /// The same, but it begins no trace: for what happens on each pod, and would begin as many.
    #[inline]
    pub fn child(&self, kind: Kind, parent: Option<&Traceparent>) -> Span {
        match parent {
            Some(_) => self.span(kind, parent),
            None => Span::default(),
        }
    }

    /// Sends what has ended, within `limit`; what ends from now on is lost.
    pub async fn finish(&self, limit: Duration) {
        let Some(exporting) = self.0.clone() else { return };
        exporting.is_over.store(true, Ordering::Relaxed);
        // It blocks.
        let shut = move || exporting.provider.shutdown_with_timeout(limit);
        match tokio::task::spawn_blocking(shut).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans did not reach the collector"),
            Err(error) => tracing::error!(%error, "a bug ended the last spans"),
        }
    }
}

impl Exporting {
    fn begin(&self, kind: Kind, parent: Option<&Traceparent>) -> Span {
        if self.is_over.load(Ordering::Relaxed) {
            return Span { recording: None, context: parent.copied() };
        }
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(SpanContext::new(
                TraceId::from(parent.trace_id()),
                SpanId::from(parent.parent_id()),
                TraceFlags::new(parent.flags()),
                true,
                TraceState::NONE,
            )),
            None => Context::new(),
        };
        let (name, kind) = kind.names();
        let make =
            || info_span!(target: TARGET, parent: None, "span", otel.name = name, otel.kind = kind);
        let span = dispatcher::with_default(&self.spans, make);
        // Fails only for a span that has begun before.
        let _ = span.set_parent(context);
        let own = span.context();
        let own = own.span().span_context().clone();
        let (trace_id, span_id) = (own.trace_id().to_bytes(), own.span_id().to_bytes());
        let context = Traceparent::new(
            u128::from_be_bytes(trace_id),
            u64::from_be_bytes(span_id),
            own.trace_flags().to_u8(),
        );
        let recording = own.is_sampled().then_some(span);
        Span { recording, context: context.or(parent.copied()) }
    }
}

impl Span {
    /// What goes on with whatever this span leads to.
    pub fn context(&self) -> Option<Traceparent> {
        self.context
    }

    /// Whether anything is kept of what is told of it.
    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// What it is about, in one word or text.
    pub fn text(&mut self, name: &'static str, value: &str) {
        if let Some(span) = &self.recording {
            span.set_attribute(name, value.to_owned());
        }
    }

    /// How many, or how much.
    pub fn number(&mut self, name: &'static str, value: u64) {
        if let Some(span) = &self.recording {
            span.set_attribute(name, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// It came to nothing good.
    pub fn fail(&mut self, why: &dyn Display) {
        if let Some(span) = &self.recording {
            span.set_status(Status::error(why.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::export::{EXPORT_TIMEOUT, Fate};
    use std::sync::Mutex;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parent(text: &str) -> Traceparent {
        Traceparent::parse(text).expect("a good one")
    }

    /// Its end blocks the thread that drops it while another one carries the last spans away.
    fn tracer(sample: f64) -> Tracer {
        // Nobody listens there, and nobody waits for that.
        let otlp = Some("http://127.0.0.1:9".to_owned());
        let config = Config { otlp, sample, service: "test".to_owned() };
        Tracer::start(&config, &PodId([1; 8]), Arc::new(|_, _| {})).expect("a good URL")
    }

    #[test]
    fn without_a_collector_everything_goes_on_as_it_came() {
        let tracer = Tracer::default();
        let sampled = parent(PARENT);
        assert_eq!(tracer.span(Kind::Publish, Some(&sampled)).context(), Some(sampled));
        let span = tracer.span(Kind::Publish, None);
        assert!(span.context().is_none() && !span.is_recording());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_span_stands_under_what_came_and_hands_on_its_own() {
        let tracer = tracer(0.0);
        let sampled = parent(PARENT);
        for span in
            [tracer.span(Kind::Publish, Some(&sampled)), tracer.child(Kind::FanOut, Some(&sampled))]
        {
            let own = span.context().expect("of its own");
            assert_eq!(own.trace_id(), sampled.trace_id());
            assert_ne!(own.parent_id(), sampled.parent_id());
            assert!(own.is_sampled() && span.is_recording());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_trace_that_is_not_sampled_there_is_none_and_others_are_told() {
        let unsampled = parent(&PARENT.replace("-01", "-00"));
        let span = tracer(1.0).span(Kind::Publish, Some(&unsampled));
        assert_eq!((span.context(), span.is_recording()), (Some(unsampled), false));
        let span = tracer(0.0).span(Kind::Publish, None);
        assert!(span.context().is_some_and(|own| !own.is_sampled()) && !span.is_recording());
        let span = tracer(1.0).span(Kind::Publish, None);
        assert!(span.context().is_some_and(|own| own.is_sampled()) && span.is_recording());
        assert_eq!(tracer(1.0).child(Kind::FanOut, None).context(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_away_holds_nobody_and_what_is_lost_is_counted() {
        let counted = Arc::new(Mutex::new(Vec::new()));
        let count = counted.clone();
        let config = Config {
            otlp: Some("http://127.0.0.1:9".to_owned()),
            sample: 1.0,
            service: "test".to_owned(),
        };
        let count: Count = Arc::new(move |fate: Fate, spans| {
            count.lock().expect("nobody panicked").push((fate, spans));
        });
        let tracer = Tracer::start(&config, &PodId([1; 8]), count).expect("a good URL");
        for _ in 0..3 {
            drop(tracer.span(Kind::Publish, None));
        }
        let begun = std::time::Instant::now();
        tracer.finish(2 * EXPORT_TIMEOUT).await;
        assert!(begun.elapsed() < EXPORT_TIMEOUT, "as if it were there and hung");
        let lost: usize =
            counted.lock().expect("nobody panicked").iter().map(|(_, spans)| spans).sum();
        assert_eq!(lost, 3);
        assert!(tracer.span(Kind::Publish, None).context().is_none(), "it is over");
    }
}
