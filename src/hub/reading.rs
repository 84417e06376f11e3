//! One turn of reading a session: bytes in, frames out of them, answers and events.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use crate::hub::session::Session;
use crate::hub::sessions::{Sent, Sessions};
use crate::proto::close::{Cause, Close};
use crate::proto::frame;
use crate::proto::session::{Action, Session as Protocol};

/// Answers that are gathered before they are written: one write for thousands of pongs.
const ANSWERS_BYTES_MAX: usize = 64 * 1024;

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
    let deflates = session.deflates;
    let mut protocol = std::mem::replace(&mut session.protocol, Protocol::new());
    sessions.release(protocol.held_bytes());
    let mut inflater = match deflates {
        true => Some(sessions.inflater.take().unwrap_or_default()),
        false => None,
    };
    let work_bytes = inflater.as_ref().map_or(0, |inflater| inflater.work_bytes());
    let mut answers = Vec::new();
    loop {
        let (consumed, action) = protocol.feed(bytes, message_bytes_max, inflater.as_deref_mut());
        match action {
            Action::Idle => break,
            Action::Message { kind, data } => {
                sessions.used(slot);
                let Some(session) = sessions.at(slot) else { break };
                session.metrics.messages_in.inc();
                if session.configured.echo {
                    match deflates {
                        false => frame::append(&mut answers, kind, data),
                        true => answers.extend_from_slice(&sessions.frame(slot, kind, data)),
                    }
                } else {
                    let inbound = sessions.inbound.clone();
                    let holds = inbound.message(sessions.who(slot), kind, data);
                    if holds > 0 {
                        sessions.hold_unread(slot, holds, &bytes[consumed..]);
                        break;
                    }
                }
            }
            Action::Ping(data) => frame::append_pong(&mut answers, data),
            Action::Closed(close) => {
                answer(sessions, slot, &mut answers);
                sessions.part(slot, close);
            }
            Action::Fail { close, cause } => {
                answer(sessions, slot, &mut answers);
                sessions.close(slot, close, cause);
            }
        }
        if answers.len() >= ANSWERS_BYTES_MAX {
            answer(sessions, slot, &mut answers);
        }
        bytes = &mut bytes[consumed..];
        heed_end(sessions, slot, &mut protocol);
    }
    answer(sessions, slot, &mut answers);
    heed_end(sessions, slot, &mut protocol);
    if let Some(inflater) = inflater {
        sessions.inflation += inflater.work_bytes() - work_bytes;
        sessions.inflater = Some(inflater);
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

/// Of a session that ended meanwhile only the client's close frame still counts.
fn heed_end(sessions: &Sessions, slot: usize, protocol: &mut Protocol) {
    if !sessions.at(slot).is_some_and(Session::is_open) {
        protocol.begin_close();
    }
}

/// Writes the answers gathered so far. Whoever does not take his answers is slow.
fn answer(sessions: &mut Sessions, slot: usize, answers: &mut Vec<u8>) {
    if answers.is_empty() {
        return;
    }
    let frames = Bytes::from(std::mem::take(answers));
    if sessions.control(slot, &frames) == Sent::Full {
        sessions.close(slot, Close::new(1013, "too slow"), Cause::Slow);
    }
}
