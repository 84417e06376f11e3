//! One turn of reading a session: bytes in, frames out of them, answers and events.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::hub::sessions::{Sent, Sessions};
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::session::{Action, Session as Protocol};

/// Reads `slot` once into `buffer` and does what the bytes say. A panic in there is that session's
/// alone: it is closed 1011.
pub fn turn(sessions: &mut Sessions, slot: usize, buffer: &mut [u8]) {
    if let Some(n) = sessions.read(slot, buffer) {
        take(sessions, slot, &mut buffer[..n]);
    }
}

/// The bytes that came with the handshake, as if they had been read.
pub fn take(sessions: &mut Sessions, slot: usize, bytes: &mut [u8]) {
    // What a panic may leave behind is this session's state alone, and that ends here.
    let outcome = catch_unwind(AssertUnwindSafe(|| act(sessions, slot, bytes)));
    if outcome.is_err() {
        let Some(session) = sessions.at(slot) else { return };
        tracing::error!(session = %sessions.id(session).prefix(), "a bug closed a session");
        sessions.metrics.panics.inc();
        sessions.close(slot, Close::new(1011, "internal error"), Cause::Server);
    }
}

fn act(sessions: &mut Sessions, slot: usize, mut bytes: &mut [u8]) {
    let message_bytes_max = sessions.config.message_bytes_max;
    let Some(session) = sessions.at_mut(slot) else { return };
    // Taken out, so that what it hands out and the session's socket can be used side by side.
    let mut protocol = std::mem::replace(&mut session.protocol, Protocol::new());
    sessions.release(protocol.held_bytes());
    loop {
        let (consumed, action) = protocol.feed(bytes, message_bytes_max);
        match action {
            Action::Idle => break,
            Action::Message { kind, data } => {
                sessions.used(slot);
                let Some(session) = sessions.at(slot) else { break };
                session.metrics.messages_in.inc();
                if session.configured.echo {
                    let frame = frame::encode(kind, data);
                    if sessions.send(slot, &frame) == Sent::Full {
                        sessions.close(slot, Close::new(1013, "too slow"), Cause::Slow);
                    }
                } else {
                    let inbound = sessions.inbound.clone();
                    inbound.message(sessions.who(slot), kind, data);
                }
            }
            Action::Ping(data) => {
                // A full outbox already says that the client does not read; it gets no pong then.
                sessions.control(slot, &frame::encode_pong(data));
            }
            Action::Closed(close) => sessions.closed_by_client(slot, close),
            Action::Fail { close, cause } => sessions.close(slot, close, cause),
        }
        bytes = &mut bytes[consumed..];
        if !sessions.at(slot).is_some_and(|session| session.is_open()) {
            // Ended meanwhile: only the client's close frame still counts.
            protocol.begin_close();
        }
    }
    let held = protocol.held_bytes();
    if let Some(session) = sessions.at_mut(slot) {
        session.protocol = protocol;
    }
    if !sessions.hold(held) {
        let close = Close::new(1013, "too many large messages at once");
        sessions.close(slot, close, Cause::Server);
    }
}
