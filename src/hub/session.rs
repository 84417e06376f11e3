//! A session: what a shard keeps of one client.

use std::mem::offset_of;
use std::sync::Arc;

use crate::hub::command::Newcomer;
use crate::hub::outbox::Outbox;
use crate::hub::socket::Socket;
use crate::metrics::PathMetrics;
use crate::proto::close::Close;
use crate::proto::path::Path;
use crate::proto::paths::{Configured, Slow};
use crate::proto::pulse::{Pulse, Rule};
use crate::proto::session as protocol;
use crate::proto::traceparent::Traceparent;

/// Above this many bytes that wait for a socket, the socket is not read: whoever does not listen is
/// not listened to, and answers (pongs, echoes) cannot pile up.
const READ_PAUSE_BYTES: usize = 64 * 1024;

/// What a round looks at lies together, in one line of the processor's cache: between two visits the
/// kernel has used the cache for other things, and each further line costs a part of what a write does.
#[repr(C, align(64))]
pub struct Session {
    pub socket: Option<Socket>,
    pub outbox: Option<Box<Outbox>>,
    /// It has everything of the room's broadcasts before this position.
    pub position: u64,
    pub pulse: Pulse,
    /// Unicasts that wait in the room for a round to come by.
    pub splices: u32,
    pub phase: Phase,
    pub protocol: protocol::Session,
    /// What the client said when it closed, until it is answered.
    pub parted: Option<Box<Close>>,
    pub path: Path,
    pub configured: Arc<Configured>,
    pub metrics: Arc<PathMetrics>,
    pub trace: Option<Box<Traceparent>>,
    pub random: [u8; 16],
    /// Where its room lies, and where in it this session stands.
    pub room: usize,
    pub place: u32,
    pub after: After,
    /// Whether deflated messages were agreed on.
    pub deflates: bool,
    pub slow_armed: bool,
    pub read_held: bool,
    /// By how many of those who hear it, since they can take no more now.
    pub holds: u8,
    /// What had been read when it was held: no more than one read.
    pub unread: Option<Box<[u8]>>,
    /// It is among those whose turn others used up.
    pub is_held: bool,
    /// The peer has sent its last byte, and no event will say so again.
    pub read_to_end: bool,
    pub subprotocol: Option<u8>,
    pub generation: u32,
    pub seq: u32,
    pub opened_ms: u64,
}

// With debug assertions mio's sockets know their poll, and are larger.
const _: () = assert!(cfg!(debug_assertions) || offset_of!(Session, phase) < 64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Reserved,
    Open,
    /// Ended; the rest of the close handshake is under way.
    Lingering,
    /// Nothing more to wait for; to be freed.
    Done,
}

/// What follows when a lingering session's outbox is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The client's close frame.
    ClientsClose,
    /// Our FIN, then the client's: its input made no sense, so no frame of its can be told.
    Fin,
    /// Nothing: both close frames were sent.
    Free,
}

impl Session {
    /// A session to be, of a number that nobody had in its slot before; its room sets its place.
    pub fn reserved(
        random: [u8; 16],
        generation: u32,
        newcomer: Newcomer,
        metrics: Arc<PathMetrics>,
        now_ms: u64,
    ) -> Session {
        let Newcomer { path, configured, deflates, trace } = newcomer;
        Session {
            socket: None,
            outbox: None,
            protocol: protocol::Session::new(),
            parted: None,
            path,
            configured,
            metrics,
            trace,
            random,
            room: usize::MAX,
            place: u32::MAX,
            position: 0,
            splices: 0,
            phase: Phase::Reserved,
            after: After::Free,
            deflates,
            slow_armed: false,
            read_held: false,
            holds: 0,
            unread: None,
            is_held: false,
            read_to_end: false,
            subprotocol: None,
            generation,
            seq: 0,
            opened_ms: 0,
            pulse: Pulse::new(now_ms),
        }
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Reserved | Phase::Open)
    }

    /// From what size on its messages are deflated; `None`: never.
    pub fn deflates_from(&self) -> Option<usize> {
        self.configured.compress_from_bytes.filter(|_| self.deflates)
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// A number that is this session's alone, for spreading things over sessions.
    pub fn lot(&self) -> u16 {
        u16::from_be_bytes([self.random[0], self.random[1]])
    }

    /// What silence means.
    pub fn rule(&self) -> Rule {
        Rule {
            heartbeat: self.configured.heartbeat,
            idle: self.configured.idle,
            lot: self.lot(),
            is_read: !self.read_held && self.holds == 0,
        }
    }
}

/// Whether too much waits for a session for it to be read. Broadcasts that may be dropped do not
/// count: they give way to answers, and whoever is always behind would never be heard.
pub fn is_behind(outbox: &Outbox, slow: Slow) -> bool {
    let bytes = match slow {
        Slow::Close => outbox.bytes(),
        Slow::DropOldest | Slow::Latest => outbox.firm_bytes(),
    };
    bytes > READ_PAUSE_BYTES
}
