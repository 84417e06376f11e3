//! A raw WebSocket client: chosen bytes out, strictly read frames in.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::wait::within;
use super::wire;

/// RFC 6455's own sample: with a fixed key the right answer is known without computing it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Larger than any answer to a handshake.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// An HTTP request at the clients' door; begins as a right handshake, to be spoilt at will.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn upgrade(target: &str) -> Request {
        let headers = [
            ("Host", "pathcast.test"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Version", "13"),
        ];
        Request {
            method: "GET".into(),
            target: target.into(),
            version: "HTTP/1.1".into(),
            headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
            body: Vec::new(),
        }
    }

    pub fn method(mut self, method: &str) -> Request {
        self.method = method.into();
        self
    }

    pub fn version(mut self, version: &str) -> Request {
        self.version = version.into();
        self
    }

    /// Sets a header in place of those of that name.
    pub fn header(self, name: &str, value: &str) -> Request {
        let mut request = self.without(name);
        request.headers.push((name.into(), value.into()));
        request
    }

    pub fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Adds a header beside those of that name.
    pub fn also(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A body and its Content-Length.
    pub fn body(self, body: &str) -> Request {
        let mut request = self.header("Content-Length", &body.len().to_string());
        request.body = body.into();
        request
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        [text.into_bytes(), self.body.clone()].concat()
    }
}

/// An HTTP answer that is no WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers.iter().find(same).map(|(_, value)| value.as_str())
    }
}

/// What a client hears. Fragments of a message come joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// A close frame; `None` when it has no code.
    Close(Option<(u16, String)>),
    /// The connection ended, in order or by a reset.
    End,
}

impl Heard {
    /// The code of a close frame, 1005 for none; `None` for anything else.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Heard::Close(close) => Some(close.as_ref().map_or(1005, |(code, _)| *code)),
            _ => None,
        }
    }
}

pub struct Client {
    pub reader: Reader,
    pub writer: Writer,
    /// The headers of the 101.
    pub answer: Answer,
    /// This end's address: the gateway's `remote`.
    pub local: SocketAddr,
}

pub struct Reader {
    socket: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// Opcode and content of a message whose last fragment is still to come.
    begun: Option<(u8, BytesMut)>,
    /// Deflated messages were agreed on.
    deflates: bool,
    /// How many of the messages heard were deflated.
    pub inflated: usize,
}

pub struct Writer {
    socket: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Opens a WebSocket; a refusal is a failed test.
pub async fn open(addr: SocketAddr, target: &str) -> Client {
    match ask(addr, &Request::upgrade(target)).await {
        Ok(client) => client,
        Err(answer) => panic!("{target} refused: {answer:?}"),
    }
}

/// A connection whose own kernel takes little on its behalf.
pub async fn connect_narrow(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.set_recv_buffer_size(4096).expect("a new socket takes options");
    within("connect", socket.connect(addr)).await.expect("the door listens")
}

/// Sends a request; a WebSocket, or what the door said instead.
pub async fn ask(addr: SocketAddr, request: &Request) -> Result<Client, Answer> {
    let socket = within("connect", TcpStream::connect(addr)).await.expect("the door listens");
    ask_on(socket, request).await
}

/// The status that a request is answered with; a WebSocket is closed again.
pub async fn status(addr: SocketAddr, request: &Request) -> u16 {
    ask(addr, request).await.map_or_else(|answer| answer.status, |_| 101)
}

/// As [`ask`], on a socket of the caller's making.
pub async fn ask_on(socket: TcpStream, request: &Request) -> Result<Client, Answer> {
    ask_in_pieces(socket, &[&request.bytes()]).await
}

/// As [`ask_on`], with the request as bytes, each piece in a packet of its own.
pub async fn ask_in_pieces(socket: TcpStream, pieces: &[&[u8]]) -> Result<Client, Answer> {
    socket.set_nodelay(true).expect("a connected socket takes options");
    let local = socket.local_addr().expect("a connected socket has an address");
    let (read, write) = socket.into_split();
    ask_over(read, write, local, pieces).await
}

/// As [`ask_in_pieces`], over whatever carries bytes both ways.
pub async fn ask_over(
    mut read: impl AsyncRead + Send + Unpin + 'static,
    mut write: impl AsyncWrite + Send + Unpin + 'static,
    local: SocketAddr,
    pieces: &[&[u8]],
) -> Result<Client, Answer> {
    for piece in pieces {
        // A refusal may come, and close the connection, before the whole request was written.
        let _ = write.write_all(piece).await;
        let _ = write.flush().await;
    }
    let mut buffer = BytesMut::new();
    let mut answer = within("the answer's head", read_head(&mut read, &mut buffer)).await;
    if answer.status != 101 {
        answer.body = within("the answer's body", read_body(&mut read, buffer, &answer)).await;
        return Err(answer);
    }
    assert_eq!(answer.header("sec-websocket-accept"), Some(ACCEPT));
    assert!(answer.header("upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket")));
    let extensions = answer.header("sec-websocket-extensions");
    let deflates = extensions.is_some_and(|it| it.starts_with("permessage-deflate"));
    assert_eq!(extensions.is_some(), deflates, "no other is offered: {extensions:?}");
    Ok(Client {
        reader: Reader { socket: Box::new(read), buffer, begun: None, deflates, inflated: 0 },
        writer: Writer { socket: Box::new(write) },
        answer,
        local,
    })
}

/// Status 0 when the connection ended without an answer.
async fn read_head(socket: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Answer {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end;
        }
        assert!(buffer.len() < HEAD_BYTES_MAX, "an answer's head without an end");
        match socket.read_buf(buffer).await {
            Ok(0) | Err(_) => {
                let body = String::from_utf8_lossy(buffer).into_owned();
                return Answer { status: 0, headers: Vec::new(), body };
            }
            Ok(_) => {}
        }
    };
    let head = buffer.split_to(end + 4);
    let head = std::str::from_utf8(&head).expect("an answer's head is ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().expect("split gives at least one");
    // An old request is answered in its own version.
    let versions = ["HTTP/1.1 ", "HTTP/1.0 "];
    let rest = versions.iter().find_map(|version| status_line.strip_prefix(version));
    let status = rest.and_then(|rest| rest.get(..3));
    let status = status.and_then(|code| code.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Answer {
        status: status.unwrap_or_else(|| panic!("no HTTP answer: {status_line}")),
        headers: headers.map(|(name, value)| (name.into(), value.into())).collect(),
        body: String::new(),
    }
}

async fn read_body(
    socket: &mut (impl AsyncRead + Unpin),
    mut buffer: BytesMut,
    answer: &Answer,
) -> String {
    let length = answer.header("content-length").and_then(|text| text.parse().ok());
    while length.is_none_or(|length: usize| buffer.len() < length) {
        if matches!(socket.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            break;
        }
    }
    String::from_utf8_lossy(&buffer).into_owned()
}

impl Reader {
    /// The next thing heard, however long it takes. Safe to drop halfway: nothing is lost.
    pub async fn next_whenever(&mut self) -> Heard {
        loop {
            match wire::take_frame(&mut self.buffer).expect("the server speaks RFC 6455") {
                Some(frame) => {
                    if let Some(heard) = self.take(frame) {
                        return heard;
                    }
                }
                None => match self.socket.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return Heard::End,
                    Ok(_) => {}
                },
            }
        }
    }

    /// The next thing heard.
    pub async fn next(&mut self) -> Heard {
        within("something from the gateway", self.next_whenever()).await
    }

    /// The connection's end, which is to come now and in good order: no reset, and over TLS not
    /// without its announcement.
    pub async fn expect_orderly_end(&mut self) {
        let rest = within("the connection's end", self.socket.read_buf(&mut self.buffer)).await;
        assert_eq!(rest.expect("an end in good order"), 0, "more came: {:?}", self.buffer);
    }

    fn take(&mut self, mut frame: wire::Frame) -> Option<Heard> {
        if frame.deflated {
            assert!(self.deflates, "it was not agreed on");
            assert!(frame.last, "the server sends no fragments");
            self.inflated += 1;
            frame.payload = wire::inflate(&frame.payload).into();
        }
        match (frame.opcode, &mut self.begun) {
            (wire::PING, _) => return Some(Heard::Ping(frame.payload)),
            (wire::PONG, _) => return Some(Heard::Pong(frame.payload)),
            (wire::CLOSE, _) => {
                let close = wire::parse_close(&frame.payload).expect("a right close frame");
                return Some(Heard::Close(close));
            }
            (0, Some((_, message))) => message.extend_from_slice(&frame.payload),
            (0, None) => panic!("a continuation of nothing"),
            (_, Some(_)) => panic!("a message inside a message"),
            (opcode, None) if frame.last => return Some(message(opcode, frame.payload)),
            (opcode, begun) => *begun = Some((opcode, BytesMut::from(&frame.payload[..]))),
        }
        if !frame.last {
            return None;
        }
        self.begun.take().map(|(opcode, whole)| message(opcode, whole.freeze()))
    }
}

fn message(opcode: u8, payload: Bytes) -> Heard {
    match opcode {
        wire::TEXT => {
            Heard::Text(String::from_utf8(payload.into()).expect("text from a server is UTF-8"))
        }
        _ => Heard::Binary(payload),
    }
}

impl Writer {
    /// Bytes as they are. An error is the connection's end, which the reader tells better.
    pub async fn raw(&mut self, bytes: &[u8]) {
        let written = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        let _ = within("the gateway takes bytes", written).await;
    }

    /// As [`text`](Writer::text), however long the gateway lets it wait.
    pub async fn text_whenever(&mut self, text: &str) {
        // An error is the connection's end, which the reader tells better.
        let _ = self.socket.write_all(&wire::frame(true, wire::TEXT, text.as_bytes())).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.raw(&wire::frame(true, wire::TEXT, text.as_bytes())).await;
    }

    pub async fn binary(&mut self, payload: &[u8]) {
        self.raw(&wire::frame(true, wire::BINARY, payload)).await;
    }

    /// One message in as many frames as there are parts.
    pub async fn fragments(&mut self, opcode: u8, parts: &[Vec<u8>]) {
        for (index, part) in parts.iter().enumerate() {
            let opcode = if index == 0 { opcode } else { 0 };
            self.raw(&wire::frame(index + 1 == parts.len(), opcode, part)).await;
        }
    }

    pub async fn ping(&mut self, payload: &[u8]) {
        self.raw(&wire::frame(true, wire::PING, payload)).await;
    }

    pub async fn pong(&mut self, payload: &[u8]) {
        self.raw(&wire::frame(true, wire::PONG, payload)).await;
    }

    pub async fn close(&mut self, code: Option<u16>, reason: &str) {
        self.raw(&wire::frame(true, wire::CLOSE, &wire::close_payload(code, reason))).await;
    }

    /// Ends the sending half without a word.
    pub async fn hang_up(&mut self) {
        let _ = self.socket.shutdown().await;
    }
}

impl Client {
    /// The next data message; pings are answered and pongs passed over on the way.
    pub async fn message(&mut self) -> Heard {
        loop {
            match self.reader.next().await {
                Heard::Ping(payload) => self.writer.pong(&payload).await,
                Heard::Pong(_) => {}
                heard => return heard,
            }
        }
    }

    /// The next message, which is to be this text.
    pub async fn expect_text(&mut self, text: &str) {
        assert_eq!(self.message().await, Heard::Text(text.into()));
    }

    /// Everything that comes before this text, which is read too.
    pub async fn until_text(&mut self, text: &str) -> Vec<Heard> {
        let mut before = Vec::new();
        loop {
            match self.message().await {
                Heard::Text(heard) if heard == text => return before,
                Heard::End => panic!("the connection ended before {text:?}, after {before:?}"),
                heard => before.push(heard),
            }
        }
    }

    /// Closes in good order.
    pub async fn leave(&mut self) {
        self.writer.close(Some(1000), "").await;
        assert_eq!(self.message().await.close_code(), Some(1000));
    }

    /// Whatever comes first of a close frame and the connection's end, messages passed over; a
    /// close frame is answered.
    pub async fn closing(&mut self) -> Heard {
        loop {
            match self.message().await {
                close @ Heard::Close(_) => {
                    self.writer.close(close.close_code().filter(|&code| code != 1005), "").await;
                    return close;
                }
                Heard::End => return Heard::End,
                _ => {}
            }
        }
    }
}
