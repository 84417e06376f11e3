//! One open connection to an upstream: what it sends becomes events and broadcasts, what waits at the
//! desk is written to it.
//!
//! Reading and writing go on side by side, so neither waits for the other. The remote server is read
//! no faster than the broker takes what it sends; nothing of it is acted on without the lease. One
//! frame is written at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use crate::broker::Pending;
use crate::clock::BootTime;
use crate::proto::close::{Cause, Close};
use crate::proto::frame::Kind;
use crate::proto::msg::{self, Content, Msg};
use crate::proto::path::Path;
use crate::proto::pulse::{Pulse, Rule, Sign};
use crate::relay::Relay;
use crate::relay::desk::{Desk, Outgoing};
use crate::upstream::dial::Stream;
use crate::upstream::ear::Ear;
use crate::upstream::lease::Lease;

/// How long the remote server may take not one frame.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Broadcasts on their way at once, and their bytes.
const BROADCASTS_MAX: usize = 256;
const BROADCAST_BYTES_MAX: usize = 1 << 20;

/// What leaving may take, in its two halves: what waits is written, the remote server answers the
/// close. With it another pod has taken over within a second.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the remote server, which hangs up first (RFC 6455, section 7.1.1), may take for that once
/// it has closed.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// What the library makes of a close frame with a code that may not be sent (RFC 6455, section 7.4.1),
/// and answers.
const VIOLATION: (u16, &str) = (1002, "Protocol violation");

/// How long the other half may take to say why it ended, when a write failed.
const REASON_TIMEOUT: Duration = Duration::from_millis(200);

/// What becomes of what the remote server sends, and of its silence.
#[derive(Debug, Clone)]
pub struct Terms {
    pub wholemsg: bool,
    /// Where it is broadcast.
    pub to: Option<Path>,
    /// How often a silent server is pinged; two beats without a byte end the connection.
    pub heartbeat: Option<Duration>,
}

/// What a connection is served with.
pub struct Service<'a> {
    pub terms: &'a Terms,
    pub relay: &'a Relay,
    pub desk: &'a Desk,
    pub lease: &'a Lease,
    pub ear: &'a Ear,
    pub leaving: &'a CancellationToken,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub close: Close,
    pub cause: Cause,
    /// For people.
    pub why: String,
    who: Who,
}

/// Who closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Pod,
    Remote,
    /// It is broken, or lost.
    Nobody,
}

type Socket = WebSocketStream<Box<dyn Stream>>;

/// Both ways of a connection.
pub struct Halves {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
}

impl Halves {
    pub fn of(socket: Socket) -> Halves {
        let (sink, stream) = socket.split();
        Halves { sink, stream }
    }
}

impl End {
    fn new(close: Close, cause: Cause, why: impl Into<String>) -> End {
        End { close, cause, why: why.into(), who: Who::Pod }
    }

    fn silent(cause: Cause, why: impl Into<String>) -> End {
        let close = Close::new(Close::NO_FRAME, "");
        End { close, cause, why: why.into(), who: Who::Nobody }
    }

    fn broken(why: impl ToString) -> End {
        End::silent(Cause::Network, why.to_string())
    }

    fn lost() -> End {
        End::silent(Cause::Server, "this pod does not hold the upstream any more")
    }

    /// The remote server's close frame.
    fn closed(frame: Option<CloseFrame>) -> End {
        let close = match frame {
            Some(frame) => Close::new(frame.code.into(), &*frame.reason),
            None => Close::new(Close::NO_CODE, ""),
        };
        let Close { code, reason } = &close;
        let (cause, why) = match (*code, &**reason) {
            VIOLATION => (Cause::Protocol, "it closed, against the protocol".to_owned()),
            (code, "") => (Cause::Client, format!("it closed with {code}")),
            (code, reason) => (Cause::Client, format!("it closed with {code}: {reason}")),
        };
        End { close, cause, why, who: Who::Remote }
    }
}

impl Service<'_> {
    /// Until the connection ends, is lost, or the pod leaves. From then on nothing is taken from the
    /// desk.
    pub async fn serve(&self, Halves { sink, stream }: &mut Halves) -> End {
        let is_reading = AtomicBool::new(true);
        tokio::select! {
            biased;
            () = self.lease.lost().cancelled() => End::lost(),
            end = self.read(stream, &is_reading) => end,
            end = self.write(sink, &is_reading) => end,
        }
    }

    /// Closes what has ended so: says why, or answers what the remote server said, and gives it the
    /// time to hang up.
    pub async fn part(&self, Halves { mut sink, mut stream }: Halves, end: &End) {
        let farewell = async {
            if end.who == Who::Pod {
                let frame = CloseFrame {
                    code: end.close.code.into(),
                    reason: Utf8Bytes::from(end.close.reason.clone()),
                };
                sink.send(Message::Close(Some(frame))).await?;
            }
            while stream.next().await.is_some() {}
            Ok::<(), Error>(())
        };
        // What does not work in time is over all the same.
        match end.who {
            Who::Pod => drop(timeout(FAREWELL_TIMEOUT, farewell).await),
            Who::Remote => tokio::select! {
                biased;
                () = self.lease.lost().cancelled() => {}
                _ = timeout(HANG_UP_TIMEOUT, farewell) => {}
                () = self.leaving.cancelled() => {}
            },
            Who::Nobody => {}
        }
    }

    async fn read(&self, stream: &mut SplitStream<Socket>, is_reading: &AtomicBool) -> End {
        let mut broadcasts = FuturesUnordered::new();
        let mut bytes = 0;
        loop {
            is_reading.store(false, Ordering::Relaxed);
            while broadcasts.len() >= BROADCASTS_MAX || bytes >= BROADCAST_BYTES_MAX {
                if let Some(done) = broadcasts.next().await {
                    bytes -= done;
                }
            }
            self.relay.room_for_upstream(self.desk).await;
            is_reading.store(true, Ordering::Relaxed);
            let message = loop {
                tokio::select! {
                    biased;
                    message = stream.next() => break message,
                    Some(done) = broadcasts.next() => bytes -= done,
                }
            };
            // What was there before this pod stood still is the next holder's.
            if !self.lease.is_held(BootTime::now()) {
                return End::lost();
            }
            let (kind, data) = match message {
                Some(Ok(Message::Text(text))) => (Kind::Text, Bytes::from(text)),
                Some(Ok(Message::Binary(data))) => (Kind::Binary, data),
                Some(Ok(Message::Close(frame))) => return End::closed(frame),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => return broken(&error),
                None => return End::broken("it hung up"),
            };
            self.desk.metrics.received.inc();
            if let Some(pending) = self.take(kind, &data) {
                let weight = data.len() + 1;
                bytes += weight;
                let lost = &self.desk.metrics.lost;
                broadcasts.push(async move {
                    if pending.await.is_err() {
                        lost.inc();
                    }
                    weight
                });
            }
        }
    }

    /// One message: who hears it is told; its broadcast, if it becomes one.
    fn take(&self, kind: Kind, data: &Bytes) -> Option<Pending<u64>> {
        let Terms { wholemsg, to, .. } = self.terms;
        let is_heard = self.relay.upstreams().is_heard(self.desk);
        let is_whole = *wholemsg && to.is_some();
        let msg = (is_heard || is_whole).then(|| msg::from_upstream(*wholemsg, kind, data));
        self.relay.tell_of_frame(self.desk, kind, data, msg.as_deref().filter(|_| is_heard));
        let to = to.as_ref()?;
        let content = match (&msg, wholemsg, kind) {
            (Some(msg), true, _) => Msg::parse(msg.as_bytes()).map(|msg| msg.content).ok(),
            (_, _, Kind::Text) => String::from_utf8(data.to_vec()).ok().map(Content::text),
            (_, _, Kind::Binary) => Some(Content::binary(data.clone())),
        };
        let pending = content.and_then(|content| self.relay.bridge(to, content).ok());
        if pending.is_none() {
            self.desk.metrics.lost.inc();
        }
        pending
    }

    async fn write(&self, sink: &mut SplitSink<Socket, Message>, is_reading: &AtomicBool) -> End {
        let now_ms = || self.ear.now_ms();
        let mut pulse = Pulse::new(now_ms());
        let mut heard_ms = self.ear.heard_ms();
        let rule = || Rule {
            heartbeat: self.terms.heartbeat,
            idle: None,
            lot: 0,
            is_read: is_reading.load(Ordering::Relaxed),
        };
        loop {
            if heard_ms != self.ear.heard_ms() {
                heard_ms = self.ear.heard_ms();
                pulse.heard(heard_ms);
            }
            let due_ms = pulse.due_ms(now_ms(), rule());
            let due = async {
                match due_ms {
                    Some(due_ms) => {
                        sleep(Duration::from_millis(due_ms.saturating_sub(now_ms()))).await
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.leaving.cancelled() => return self.flush(sink).await,
                outgoing = self.desk.next() => {
                    if let Err(end) = self.send(sink, outgoing).await {
                        return end;
                    }
                }
                () = due => {
                    if heard_ms != self.ear.heard_ms() {
                        continue;
                    }
                    let sign = match rule().is_read {
                        true => pulse.check(now_ms(), rule()),
                        // Its silence means nothing, and this end's might.
                        false => {
                            pulse.heard(now_ms());
                            Sign::Ping
                        }
                    };
                    match sign {
                        Sign::Quiet | Sign::Idle => {}
                        Sign::Ping => {
                            let ping = sink.send(Message::Ping(Bytes::new()));
                            match timeout(WRITE_TIMEOUT, ping).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => return failed(&error).await,
                                Err(_) => return slow(),
                            }
                        }
                        Sign::Dead => {
                            let why = "nothing came for two heartbeats";
                            return End::new(Close::new(1011, why), Cause::Heartbeat, why);
                        }
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outgoing: Outgoing,
    ) -> Result<(), End> {
        let message = match outgoing.kind {
            // A text frame of a content is UTF-8.
            Kind::Text => match Utf8Bytes::try_from(outgoing.payload.clone()) {
                Ok(text) => Message::Text(text),
                Err(_) => {
                    self.desk.lose(outgoing);
                    return Ok(());
                }
            },
            Kind::Binary => Message::Binary(outgoing.payload.clone()),
        };
        match timeout(WRITE_TIMEOUT, sink.send(message)).await {
            Ok(Ok(())) => {
                self.desk.settle(outgoing);
                Ok(())
            }
            Ok(Err(error)) => {
                self.desk.lose(outgoing);
                Err(failed(&error).await)
            }
            Err(_) => {
                self.desk.lose(outgoing);
                Err(slow())
            }
        }
    }

    /// What waits is written before the upstream is given back.
    async fn flush(&self, sink: &mut SplitSink<Socket, Message>) -> End {
        self.desk.shut();
        let flush = async {
            while let Some(outgoing) = self.desk.take() {
                self.send(sink, outgoing).await?;
            }
            Ok::<(), End>(())
        };
        // What could not be written in time is counted when the desk is closed.
        let _ = timeout(FLUSH_TIMEOUT, flush).await;
        let (why, cause) = match self.relay.is_leaving() {
            true => ("this pod leaves", Cause::Drain),
            false => ("its settings have changed", Cause::Server),
        };
        End::new(Close::new(1001, why), cause, why)
    }
}

/// A write failed: the reader mostly knows better why, and gets the time to say so.
async fn failed(error: &Error) -> End {
    sleep(REASON_TIMEOUT).await;
    broken(error)
}

fn slow() -> End {
    let why = "the remote server took nothing for too long";
    End::new(Close::new(1011, why), Cause::Slow, why)
}

fn broken(error: &Error) -> End {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            let why = "a message larger than limits.message_bytes_max";
            End::new(Close::new(1009, why), Cause::TooBig, why)
        }
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
            End::broken(error)
        }
        Error::Protocol(violation) => {
            let why = violation.to_string();
            End::new(Close::new(1002, why.clone()), Cause::Protocol, why)
        }
        Error::Utf8(_) => {
            let why = "a text that is not UTF-8";
            End::new(Close::new(1007, why), Cause::Protocol, why)
        }
        error => End::broken(error),
    }
}
