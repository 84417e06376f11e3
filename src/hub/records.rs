//! TLS records of one connection, the server's side: bytes in, bytes out, no socket.
//!
//! The buffers are the caller's. rustls' other interface keeps four kilobytes for each connection
//! that ever read something; this one keeps keys and counters.

use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, WriteTraffic,
};
use rustls::{Error, ServerConfig};

/// What a record carries at most.
const CLEAR_BYTES_MAX: usize = 16 * 1024;

/// A record with its head and the most that sealing may add (RFC 5246 section 6.2.3; RFC 8446 allows
/// less).
pub const RECORD_BYTES_MAX: usize = 5 + CLEAR_BYTES_MAX + 2048;

/// What is held back at most: a message of TLS itself that is in several records, and the beginning of
/// one more. What clients say in a handshake fits many times.
pub const HELD_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// More than sealing adds to a record in any suite that is spoken here.
const SEAL_BYTES: usize = 32;

pub struct Records {
    connection: UnbufferedServerConnection,
    /// What was received and cannot be opened before more comes. rustls remembers places in it, so
    /// it has to see it whatever it is asked.
    held: Vec<u8>,
    /// Something was wrong, so nothing is right any more.
    has_failed: bool,
}

type Traffic<'a> = WriteTraffic<'a, ServerConnectionData>;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing can be sealed yet.
    Handshake,
    Open,
    /// The peer sends no more.
    Ended,
}

impl Records {
    pub fn new(config: Arc<ServerConfig>) -> Result<Records, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Records { connection, held: Vec::new(), has_failed: false })
    }

    /// What is to stand before the next bytes that are received: at most [`HELD_BYTES_MAX`].
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Opens `received`, which begins with what was held back before. Appends what it says to `clear`,
    /// and what the peer is to get in answer to `sealed`, also where something is wrong.
    pub fn open(
        &mut self,
        received: &mut [u8],
        clear: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Stage, Error> {
        self.check()?;
        let outcome = self.advance(received, clear, sealed);
        let held = outcome.as_ref().map_or(0, |(taken, _)| received.len() - taken);
        self.has_failed = outcome.is_err() || held > HELD_BYTES_MAX;
        // An alert says what is wrong.
        while self.has_failed
            && self.connection.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(data)) =
                self.connection.process_tls_records(&mut []).state
        {
            encode(data, sealed)?;
        }
        let (taken, stage) = outcome?;
        self.check()?;
        // A `Vec` of nothing holds nothing.
        self.held = received[taken..].to_vec();
        Ok(stage)
    }

    /// Appends `clear` to `sealed`, as records, behind what has to be said before.
    pub fn seal(&mut self, clear: &[u8], sealed: &mut Vec<u8>) -> Result<(), Error> {
        let records = clear.len() / CLEAR_BYTES_MAX + 1;
        let room = clear.len() + records * SEAL_BYTES;
        self.write(sealed, room, |traffic, room| traffic.encrypt(clear, room))
    }

    /// Appends the announcement of the end to `sealed`.
    pub fn end(&mut self, sealed: &mut Vec<u8>) -> Result<(), Error> {
        self.write(sealed, SEAL_BYTES, |traffic, room| traffic.queue_close_notify(room))
    }

    fn advance(
        &mut self,
        received: &mut [u8],
        clear: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<(usize, Stage), Error> {
        let mut taken = 0;
        loop {
            let status = self.connection.process_tls_records(&mut received[taken..]);
            let mut discard = status.discard;
            let stage = match status.state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        clear.extend_from_slice(record.payload);
                    }
                    None
                }
                ConnectionState::EncodeTlsData(data) => {
                    encode(data, sealed)?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    // It is in `sealed`, ahead of everything else.
                    data.done();
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(Stage::Open),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(Stage::Ended),
                // Data that comes before the handshake's end is not asked for.
                _ => Some(Stage::Handshake),
            };
            taken += discard;
            if let Some(stage) = stage {
                return Ok((taken, stage));
            }
        }
    }

    fn write(
        &mut self,
        sealed: &mut Vec<u8>,
        room: usize,
        mut write: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Error> {
        self.check()?;
        loop {
            match self.connection.process_tls_records(&mut self.held).state? {
                ConnectionState::EncodeTlsData(data) => encode(data, sealed)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    return append(sealed, room, |room| match write(&mut traffic, room) {
                        Ok(written) => Ok(written),
                        Err(EncryptError::InsufficientSize(size)) => Err(Some(size)),
                        Err(EncryptError::EncryptExhausted) => Err(None),
                    });
                }
                _ => return Err(Error::HandshakeNotComplete),
            }
        }
    }

    fn check(&self) -> Result<(), Error> {
        match self.has_failed {
            true => Err(Error::General("this connection has failed".to_owned())),
            false => Ok(()),
        }
    }
}

fn encode(
    mut data: EncodeTlsData<'_, ServerConnectionData>,
    sealed: &mut Vec<u8>,
) -> Result<(), Error> {
    append(sealed, 0, |room| match data.encode(room) {
        Ok(written) => Ok(written),
        Err(EncodeError::InsufficientSize(size)) => Err(Some(size)),
        Err(EncodeError::AlreadyEncoded) => Err(None),
    })
}

/// Appends what `write` puts into the room it gets; it may ask for more, once.
fn append(
    sealed: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let start = sealed.len();
    sealed.resize(start + room, 0);
    let mut written = write(&mut sealed[start..]);
    if let Err(Some(InsufficientSizeError { required_size })) = written {
        sealed.resize(start + required_size, 0);
        written = write(&mut sealed[start..]);
    }
    sealed.truncate(start + written.as_ref().unwrap_or(&0));
    written.map(drop).map_err(|_| Error::EncryptError)
}

#[cfg(test)]
pub mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustls::crypto::ring;
    use rustls::version::{TLS12, TLS13};
    use rustls::{
        ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
        SupportedProtocolVersion,
    };
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    use crate::hub::records::{CLEAR_BYTES_MAX, HELD_BYTES_MAX, Records, SEAL_BYTES, Stage};

    /// A client and its server.
    pub struct Pair {
        pub client: ClientConnection,
        pub records: Records,
        clear: Vec<u8>,
        stage: Stage,
    }

    /// And the certificate to trust.
    fn server() -> (Records, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate can be made");
        let cert = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key.expect("a good key"))
            .expect("they fit together");
        (Records::new(Arc::new(config)).expect("a good configuration"), cert)
    }

    impl Pair {
        pub fn open(version: &'static SupportedProtocolVersion, piece_bytes: usize) -> Pair {
            let (records, cert) = server();
            let provider = Arc::new(ring::default_provider());
            let mut roots = RootCertStore::empty();
            roots.add(cert).expect("an own certificate is well-formed");
            let trusting = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .expect("the provider knows it")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").expect("a good name");
            let mut pair = Pair {
                client: ClientConnection::new(Arc::new(trusting), name).expect("a client"),
                records,
                clear: Vec::new(),
                stage: Stage::Handshake,
            };
            for _ in 0..4 {
                pair.pass(piece_bytes).expect("a good handshake");
            }
            assert_eq!(pair.stage, Stage::Open);
            assert!(!pair.client.is_handshaking());
            pair
        }

        /// Everything from the client to the server, in pieces, and the answers back.
        fn pass(&mut self, piece_bytes: usize) -> Result<(), Error> {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).expect("it is memory");
            }
            for piece in sent.chunks(piece_bytes.min(sent.len()).max(1)) {
                self.receive(piece)?;
            }
            Ok(())
        }

        fn receive(&mut self, piece: &[u8]) -> Result<(), Error> {
            let mut received = [self.records.held(), piece].concat();
            let mut sealed = Vec::new();
            let opened = self.records.open(&mut received, &mut self.clear, &mut sealed);
            self.deliver(&sealed);
            self.stage = opened?;
            Ok(())
        }

        fn deliver(&mut self, mut sealed: &[u8]) {
            while !sealed.is_empty() {
                self.client.read_tls(&mut sealed).expect("it is memory");
                // An alert that was expected is one that the test sees at the other end.
                let _ = self.client.process_new_packets();
            }
        }

        /// What the client has to read, and whether that is the end.
        fn heard(&mut self) -> (Vec<u8>, bool) {
            let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                match self.client.reader().read(&mut buffer) {
                    Ok(0) => return (heard, true),
                    Ok(n) => heard.extend_from_slice(&buffer[..n]),
                    Err(_) => return (heard, false),
                }
            }
        }
    }

    #[test]
    fn what_was_sealed_is_opened_whatever_pieces_it_comes_in() {
        for version in [&TLS12, &TLS13] {
            for piece_bytes in [1, 7, 4096, usize::MAX] {
                let mut pair = Pair::open(version, piece_bytes);
                for bytes in [1, 100, 16_384, 16_385, 40_000] {
                    pair.client.writer().write_all(&vec![b'x'; bytes]).expect("it is taken");
                    pair.pass(piece_bytes).expect("good records");
                    assert_eq!(std::mem::take(&mut pair.clear), vec![b'x'; bytes]);
                    assert!(pair.records.held().is_empty());
                }
            }
        }
    }

    #[test]
    fn a_join_is_sealed_as_one_run_of_records() {
        for version in [&TLS12, &TLS13] {
            let mut pair = Pair::open(version, usize::MAX);
            for bytes in [1, 100, 16_384, 16_385, 64 * 1024] {
                let mut sealed = b"before".to_vec();
                let clear = vec![b'y'; bytes];
                pair.records.seal(&clear, &mut sealed).expect("it is open");
                let records = bytes.div_ceil(CLEAR_BYTES_MAX);
                assert!(sealed.len() <= 6 + bytes + records * SEAL_BYTES, "{}", sealed.len());
                assert_eq!(sealed[..6], *b"before");
                // Not more at once than the client holds.
                let mut heard = Vec::new();
                for piece in sealed[6..].chunks(4096) {
                    pair.deliver(piece);
                    heard.extend(pair.heard().0);
                }
                assert_eq!(heard, clear);
            }
        }
    }

    #[test]
    fn the_end_is_told_to_either_side() {
        for version in [&TLS12, &TLS13] {
            let mut pair = Pair::open(version, usize::MAX);
            pair.client.writer().write_all(b"last words").expect("it is taken");
            pair.client.send_close_notify();
            pair.pass(usize::MAX).expect("a good end");
            assert_eq!((&pair.clear[..], pair.stage), (&b"last words"[..], Stage::Ended));
            let mut sealed = Vec::new();
            pair.records.seal(b"mine", &mut sealed).expect("this side is open");
            pair.records.end(&mut sealed).expect("this side is open");
            pair.deliver(&sealed);
            assert_eq!(pair.heard(), (b"mine".to_vec(), true));
        }
    }

    #[test]
    fn a_new_key_is_taken_and_answered() {
        let mut pair = Pair::open(&TLS13, usize::MAX);
        for number in 0..3 {
            pair.client.refresh_traffic_keys().expect("it is open");
            pair.client.writer().write_all(b"asked").expect("it is taken");
            pair.pass(usize::MAX).expect("good records");
            let mut sealed = Vec::new();
            pair.records.seal(b"answered", &mut sealed).expect("it is open");
            pair.deliver(&sealed);
            assert_eq!(pair.heard(), (b"answered".to_vec(), false), "{number}");
            assert_eq!(std::mem::take(&mut pair.clear), b"asked");
        }
    }

    #[test]
    fn what_is_said_between_two_halves_of_a_record_is_sealed() {
        let mut pair = Pair::open(&TLS13, usize::MAX);
        for _ in 0..2 {
            let mut sent = Vec::new();
            pair.client.refresh_traffic_keys().expect("it is open");
            pair.client.writer().write_all(b"asked").expect("it is taken");
            pair.client.write_tls(&mut sent).expect("it is memory");
            for byte in sent {
                pair.receive(&[byte]).expect("a good beginning");
                let mut sealed = Vec::new();
                pair.records.seal(b"x", &mut sealed).expect("it is open");
                pair.deliver(&sealed);
                assert_eq!(pair.heard(), (b"x".to_vec(), false));
            }
            assert_eq!(std::mem::take(&mut pair.clear), b"asked");
        }
    }

    #[test]
    fn a_handshake_without_end_is_bounded() {
        let (mut records, _) = server();
        // A hello of 60,000 bytes, in records of one byte each.
        let hello = [1, 0, 0xea, 0x60].into_iter().chain(std::iter::repeat_n(0, 60_000));
        let mut outcome = Ok(Stage::Handshake);
        let (mut clear, mut sealed) = (Vec::new(), Vec::new());
        for byte in hello {
            let mut received = [records.held(), &[22, 3, 3, 0, 1, byte]].concat();
            outcome = records.open(&mut received, &mut clear, &mut sealed);
            if outcome.is_err() {
                break;
            }
            assert!(records.held().len() <= HELD_BYTES_MAX);
            // Whoever gives up meanwhile is told that nothing can be said yet.
            assert!(records.end(&mut sealed).is_err());
        }
        assert!(outcome.is_err());
    }

    #[test]
    fn a_forged_record_is_an_error_with_an_alert_and_the_end() {
        for version in [&TLS12, &TLS13] {
            let mut forged = [23, 3, 3, 0, 40].to_vec();
            forged.extend([7; 40]);
            for mut wrong in [forged, [23, 3, 3, 0xff, 0xff].to_vec()] {
                let mut pair = Pair::open(version, usize::MAX);
                let (mut clear, mut sealed) = (Vec::new(), Vec::new());
                assert!(pair.records.open(&mut wrong, &mut clear, &mut sealed).is_err());
                assert!(!sealed.is_empty() && clear.is_empty());
                assert!(pair.records.open(&mut wrong, &mut clear, &mut sealed).is_err());
                assert!(pair.records.seal(b"late", &mut sealed).is_err());
            }
        }
    }
}
