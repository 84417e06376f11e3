//! All metric families, in one struct; the only module that names the `prometheus` crate.
//!
//! Labels come from the configuration only: a pattern is one value, a client's close code outside
//! the known ones is `other`. Handles with labels are made once for each configured path; what is
//! counted on a shard is counted through a handle.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::proto::ask::Answer;
use crate::proto::close::Cause;

/// Upper edges in seconds: from one small fan-out (a few writes) to the slowest worth naming.
const FANOUT_SECONDS: &[f64] =
    &[1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0];

/// Upper edges in seconds: from a Redis beside this pod to one that has nearly been given up.
const ROUNDTRIP_SECONDS: &[f64] =
    &[1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 3.0];

/// Upper edges in seconds: from a backend beside this pod to one that was away for minutes.
const BACKEND_SECONDS: &[f64] =
    &[1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0];

/// Close codes with a value of their own (RFC 6455 section 7.4 and the registry it began).
const CODES: RangeInclusive<u16> = 1000..=1014;

/// What may become of a handshake: the values of a label.
const HANDSHAKES: [&str; 13] = [
    "accepted",
    "malformed",
    "origin",
    "unknown_path",
    "method",
    "not_an_upgrade",
    "version",
    "rate",
    "unavailable",
    "vetoed",
    "backend",
    "timeout",
    "broken",
];

/// The families (docs/metrics.md names each one).
pub struct Metrics {
    registry: Registry,
    paths: Mutex<HashMap<Arc<str>, Arc<PathMetrics>>>,
    sessions: IntGaugeVec,
    opened: IntCounterVec,
    closed: IntCounterVec,
    messages_in: IntCounterVec,
    published: IntCounterVec,
    deliveries: IntCounterVec,
    undelivered: IntCounterVec,
    stream_backlog: IntGaugeVec,
    handshakes: IntCounterVec,
    upstream_connected: IntGaugeVec,
    upstream_waiting_bytes: IntGaugeVec,
    upstream_messages: IntCounterVec,
    upstream_dials: IntCounterVec,
    pub unicasts: Unicasts,
    pub broker: Broker,
    pub delivery_bytes: IntCounter,
    pub delivery_writes: IntCounter,
    pub deflate_before_bytes: IntCounter,
    pub deflate_after_bytes: IntCounter,
    pub fanout_seconds: Histogram,
    pub outbox_bytes: IntGauge,
    pub outbox_bytes_max: IntGauge,
    pub stream_backlog_max: IntGauge,
    pub configuration_refused: IntGauge,
    pub draining: IntGauge,
    pub drain_remaining: IntGauge,
    pub drain_flush_seconds: Gauge,
    pub sessions_limit_hard: IntGauge,
    pub sessions_limit_soft: IntGauge,
    pub shard_imbalance: IntGauge,
    pub event_listeners: IntGauge,
    pub event_taps: IntGauge,
    pub events_missed: IntCounter,
    pub streamed: Backend,
    pub webhooked: Backend,
    pub webhook_waiting_bytes: IntGauge,
    pub spans_sent: IntCounter,
    pub spans_lost: IntCounter,
    pub spans_dropped: IntCounter,
    pub panics: IntCounter,
}

/// What became of unicasts.
pub struct Unicasts {
    pub delivered: IntCounter,
    pub gone: IntCounter,
    pub unknown: IntCounter,
    pub outbox_full: IntCounter,
    pub refused: IntCounter,
    /// Not sent, because the verdict `unknown` had been told before its turn came.
    pub late: IntCounter,
}

impl Unicasts {
    fn new(family: &IntCounterVec) -> Unicasts {
        let result = |result| family.with_label_values(&[result]);
        Unicasts {
            delivered: result("delivered"),
            gone: result("gone"),
            unknown: result("unknown"),
            outbox_full: result("outbox_full"),
            refused: result("refused"),
            late: result("late"),
        }
    }

    /// The counter of unicasts that were answered like this.
    pub fn of(&self, answer: &Answer) -> &IntCounter {
        match answer {
            Answer::Delivered => &self.delivered,
            Answer::Gone => &self.gone,
            Answer::OutboxFull => &self.outbox_full,
            Answer::Overloaded | Answer::Nothing | Answer::TooBig(_) => &self.refused,
            // These answer something else: nothing is known of the unicast.
            Answer::Info(_)
            | Answer::Closed
            | Answer::Sessions { .. }
            | Answer::Census(_)
            | Answer::Tapped(_)
            | Answer::Dispatched(_)
            | Answer::UpstreamState(_) => &self.unknown,
        }
    }
}

/// The way to all pods.
pub struct Broker {
    pub up: IntGauge,
    pub roundtrip_seconds: Histogram,
    pub gaps: IntCounter,
    pub malformed: IntCounter,
}

/// What became of the events for one backend.
pub struct Backend {
    pub taken: IntCounter,
    /// Its queue was full.
    pub dropped: IntCounter,
    /// It will never take them.
    pub refused: IntCounter,
    /// Attempts made again, because nobody knows what became of the one before.
    pub repeated: IntCounter,
    /// Until it had them.
    pub seconds: Histogram,
    /// Sessions and upstreams that are not read until it can take more.
    pub held: IntGauge,
}

impl Backend {
    fn new(
        name: &str,
        family: &IntCounterVec,
        seconds: &HistogramVec,
        held: &IntGaugeVec,
    ) -> Backend {
        let result = |result| family.with_label_values(&[name, result]);
        Backend {
            taken: result("taken"),
            dropped: result("dropped"),
            refused: result("refused"),
            repeated: result("repeated"),
            seconds: seconds.with_label_values(&[name]),
            held: held.with_label_values(&[name]),
        }
    }
}

/// The handles of one upstream.
pub struct UpstreamMetrics {
    pub connected: IntGauge,
    pub waiting_bytes: IntGauge,
    pub received: IntCounter,
    pub sent: IntCounter,
    /// Had to wait before it was sent.
    pub queued: IntCounter,
    /// Too much waited before it.
    pub refused: IntCounter,
    /// Received or queued, and come to nothing.
    pub lost: IntCounter,
    pub dials_opened: IntCounter,
    pub dials_failed: IntCounter,
}

/// The handles of one configured path.
pub struct PathMetrics {
    pub sessions: IntGauge,
    pub opened: IntCounter,
    pub messages_in: IntCounter,
    pub published_http: IntCounter,
    pub published_redis: IntCounter,
    pub published_upstream: IntCounter,
    pub deliveries: IntCounter,
    pub undelivered_slow: IntCounter,
    pub undelivered_dropped: IntCounter,
    pub undelivered_closed: IntCounter,
    pub undelivered_overload: IntCounter,
    pub undelivered_nothing: IntCounter,
    pub undelivered_too_big: IntCounter,
    /// Of the stream with the most.
    pub stream_backlog: IntGauge,
    /// By close code, from 1000.
    closed: Vec<IntCounter>,
    closed_kick: IntCounter,
    closed_other: IntCounter,
}

impl Metrics {
    /// Fails only when two families share a name.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new_custom(Some("pathcast".to_owned()), None)?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let counter = |name: &str, help: &str| {
            let family = IntCounter::new(name, help)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauge = |name: &str, help: &str| {
            let family = IntGauge::new(name, help)?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let gauges = |name: &str, help: &str, label: &str| {
            let family = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let sessions = gauges("sessions", "Open sessions.", "path")?;
        let backend_held = gauges(
            "backend_held_sessions",
            "Sessions and upstreams that are not read until a backend can take more.",
            "backend",
        )?;
        let limits = gauges("sessions_limit", "How many sessions this pod may have.", "kind")?;
        let drain_flush_seconds = Gauge::with_opts(Opts::new(
            "drain_flush_seconds",
            "For how long a pod that leaves has waited for clients and backends since its last close.",
        ))?;
        registry.register(Box::new(drain_flush_seconds.clone()))?;
        let stream_backlog = gauges(
            "stream_backlog",
            "Entries that a group has not acknowledged, of the path's stream with the most.",
            "path",
        )?;
        let named_gauges = |name: &str, help: &str| gauges(name, help, "name");
        let fanout = HistogramOpts::new(
            "fanout_seconds",
            "From a broadcast's receipt on this pod to its last socket written or queued.",
        );
        let fanout_seconds = Histogram::with_opts(fanout.buckets(FANOUT_SECONDS.to_vec()))?;
        registry.register(Box::new(fanout_seconds.clone()))?;
        let roundtrip = HistogramOpts::new(
            "broker_roundtrip_seconds",
            "From a ping of this pod to itself until it came back through the broker.",
        );
        let roundtrip_seconds =
            Histogram::with_opts(roundtrip.buckets(ROUNDTRIP_SECONDS.to_vec()))?;
        registry.register(Box::new(roundtrip_seconds.clone()))?;
        let backend_events = counters(
            "backend_events_total",
            "Events for a backend, and attempts made again.",
            &["backend", "result"],
        )?;
        let backend_seconds =
            HistogramOpts::new("backend_seconds", "From an event until its backend had it.");
        let backend_seconds =
            HistogramVec::new(backend_seconds.buckets(BACKEND_SECONDS.to_vec()), &["backend"])?;
        registry.register(Box::new(backend_seconds.clone()))?;
        let deflate = counters(
            "deflate_bytes_total",
            "Bytes of messages that were deflated, each once.",
            &["side"],
        )?;
        let handshakes = counters("handshakes_total", "Handshakes answered.", &["result"])?;
        for result in HANDSHAKES {
            handshakes.with_label_values(&[result]);
        }
        let spans = counters("spans_total", "Spans that ended, for the collector.", &["result"])?;
        Ok(Metrics {
            sessions,
            stream_backlog,
            opened: counters("sessions_opened_total", "Sessions opened.", &["path"])?,
            closed: counters("sessions_closed_total", "Sessions ended.", &["path", "code"])?,
            messages_in: counters("messages_in_total", "Messages from clients.", &["path"])?,
            published: counters("published_total", "Messages taken.", &["path", "source"])?,
            deliveries: counters("deliveries_total", "Frames put on sockets.", &["path"])?,
            undelivered: counters(
                "undelivered_total",
                "Frames meant for a session that it did not get.",
                &["path", "reason"],
            )?,
            handshakes,
            upstream_connected: named_gauges(
                "upstream_connected",
                "1 while this pod is connected to the upstream.",
            )?,
            upstream_waiting_bytes: named_gauges(
                "upstream_waiting_bytes",
                "Bytes that wait to be sent to the upstream.",
            )?,
            upstream_messages: counters(
                "upstream_messages_total",
                "Messages of upstreams, and to them.",
                &["name", "result"],
            )?,
            upstream_dials: counters(
                "upstream_dials_total",
                "Attempts to connect to upstreams.",
                &["name", "result"],
            )?,
            unicasts: Unicasts::new(&counters(
                "unicast_total",
                "Unicasts answered, and those that came too late to be sent.",
                &["result"],
            )?),
            broker: Broker {
                up: gauge("broker_up", "1 while the broker carries messages.")?,
                roundtrip_seconds,
                gaps: counter("broker_gaps_total", "Times broadcasts may have been missed.")?,
                malformed: counter("broker_malformed_total", "Messages that are none.")?,
            },
            deflate_before_bytes: deflate.with_label_values(&["before"]),
            deflate_after_bytes: deflate.with_label_values(&["after"]),
            delivery_bytes: counter("delivery_bytes_total", "Bytes of frames put on sockets.")?,
            delivery_writes: counter("delivery_writes_total", "Writes that carried them.")?,
            fanout_seconds,
            outbox_bytes: gauge("outbox_bytes", "Bytes that wait for sockets.")?,
            outbox_bytes_max: gauge("outbox_bytes_max", "How many may wait for sockets.")?,
            stream_backlog_max: gauge(
                "stream_backlog_max",
                "At how many entries that a group has not acknowledged a stream is full.",
            )?,
            configuration_refused: gauge(
                "configuration_refused",
                "1 while the configuration cannot be taken, and the one before it holds.",
            )?,
            draining: gauge("draining", "1 while this pod leaves.")?,
            drain_remaining: gauge(
                "drain_remaining",
                "Sessions that a pod that leaves still has.",
            )?,
            drain_flush_seconds,
            sessions_limit_hard: limits.with_label_values(&["hard"]),
            sessions_limit_soft: limits.with_label_values(&["soft"]),
            shard_imbalance: gauge(
                "shard_imbalance",
                "Sessions of the fullest shard less those of the emptiest.",
            )?,
            event_listeners: gauge("event_listeners", "Listeners of server-sent events.")?,
            event_taps: gauge("event_taps", "Configured paths whose events other pods are told.")?,
            events_missed: counter("events_missed_total", "Events a listener did not get.")?,
            streamed: Backend::new("stream", &backend_events, &backend_seconds, &backend_held),
            webhooked: Backend::new("webhook", &backend_events, &backend_seconds, &backend_held),
            webhook_waiting_bytes: gauge(
                "webhook_waiting_bytes",
                "Events that wait for webhooks.",
            )?,
            spans_sent: spans.with_label_values(&["sent"]),
            spans_lost: spans.with_label_values(&["lost"]),
            spans_dropped: spans.with_label_values(&["dropped"]),
            panics: counter("session_panics_total", "Sessions closed 1011 after a bug.")?,
            paths: Mutex::default(),
            registry,
        })
    }

    /// The handles of a configured path, by its text.
    pub fn path(&self, text: &Arc<str>) -> Arc<PathMetrics> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let handles = paths.entry(text.clone()).or_insert_with(|| {
            let path = &[&**text];
            let published = |source| self.published.with_label_values(&[&**text, source]);
            let undelivered = |reason| self.undelivered.with_label_values(&[&**text, reason]);
            let closed = |code: &str| self.closed.with_label_values(&[&**text, code]);
            Arc::new(PathMetrics {
                sessions: self.sessions.with_label_values(path),
                opened: self.opened.with_label_values(path),
                messages_in: self.messages_in.with_label_values(path),
                published_http: published("http"),
                published_redis: published("redis"),
                published_upstream: published("upstream"),
                deliveries: self.deliveries.with_label_values(path),
                undelivered_slow: undelivered("slow"),
                undelivered_dropped: undelivered("dropped"),
                undelivered_closed: undelivered("closed"),
                undelivered_overload: undelivered("overload"),
                undelivered_nothing: undelivered("nothing"),
                undelivered_too_big: undelivered("too_big"),
                stream_backlog: self.stream_backlog.with_label_values(path),
                closed: CODES.map(|code| closed(&code.to_string())).collect(),
                closed_kick: closed("kick"),
                closed_other: closed("other"),
            })
        });
        handles.clone()
    }

    /// The handles of an upstream, by its name.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        let messages = |result| self.upstream_messages.with_label_values(&[name, result]);
        let dials = |result| self.upstream_dials.with_label_values(&[name, result]);
        UpstreamMetrics {
            connected: self.upstream_connected.with_label_values(&[name]),
            waiting_bytes: self.upstream_waiting_bytes.with_label_values(&[name]),
            received: messages("received"),
            sent: messages("sent"),
            queued: messages("queued"),
            refused: messages("refused"),
            lost: messages("lost"),
            dials_opened: dials("opened"),
            dials_failed: dials("failed"),
        }
    }

    /// It is configured no more: nobody is to be told that it is away.
    pub fn forget_upstream(&self, name: &str) {
        // What was never counted is not there to be removed.
        let _ = self.upstream_connected.remove_label_values(&[name]);
        let _ = self.upstream_waiting_bytes.remove_label_values(&[name]);
        for result in ["received", "sent", "queued", "refused", "lost"] {
            let _ = self.upstream_messages.remove_label_values(&[name, result]);
        }
        for result in ["opened", "failed"] {
            let _ = self.upstream_dials.remove_label_values(&[name, result]);
        }
    }

    /// Of a configured path or an upstream with a stream.
    pub fn stream_backlog(&self, name: &str) -> IntGauge {
        self.stream_backlog.with_label_values(&[name])
    }

    /// `result`: one of `HANDSHAKES`.
    pub fn handshake(&self, result: &'static str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    /// The text format, version 0.0.4, the process's own families included.
    pub fn encode(&self) -> String {
        let mut families = self.registry.gather();
        families.extend(prometheus::default_registry().gather());
        // Writing to a String fails for a family without samples; those are left out above.
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}

impl PathMetrics {
    pub fn ended(&self, code: u16, cause: Cause) {
        let known =
            code.checked_sub(*CODES.start()).and_then(|at| self.closed.get(usize::from(at)));
        let counter = match known {
            Some(counter) => counter,
            None if cause == Cause::Kick => &self.closed_kick,
            None => &self.closed_other,
        };
        counter.inc();
        self.sessions.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted_and_clients_make_no_series() {
        let metrics = Metrics::new().expect("families have names of their own");
        let path = metrics.path(&"/ws/rooms/{room}".into());
        path.deliveries.inc_by(3);
        for code in 4000..4999 {
            path.sessions.inc();
            path.ended(code, Cause::Client);
        }
        let text = metrics.encode();
        assert!(text.contains("pathcast_deliveries_total{path=\"/ws/rooms/{room}\"} 3"), "{text}");
        assert!(text.contains("code=\"other\",path=\"/ws/rooms/{room}\"} 999"), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
        assert_eq!(text.matches("sessions_closed_total{").count(), CODES.len() + 2);
    }
}
