//! A connection to Redis that is the test's own: RESP2, some forty lines of it.

use std::pin::Pin;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::wait::within;

/// What Redis answers, or pushes to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    Error(String),
    Number(i64),
    Bytes(Vec<u8>),
    Nothing,
    List(Vec<Reply>),
}

pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub async fn open(port: u16) -> Connection {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("Redis listens");
        socket.set_nodelay(true).expect("a connected socket takes options");
        Connection(BufReader::new(socket))
    }

    /// One command and its answer.
    pub async fn call(&mut self, arguments: &[&[u8]]) -> Reply {
        self.send(arguments).await;
        self.next().await
    }

    /// Publishes; how many subscriptions got it.
    pub async fn publish(&mut self, channel: &str, message: &[u8]) -> i64 {
        match self.call(&[b"PUBLISH", channel.as_bytes(), message]).await {
            Reply::Number(receivers) => receivers,
            other => panic!("{channel}: {other:?}"),
        }
    }

    /// Subscribes, and waits until Redis has confirmed it.
    pub async fn subscribe(&mut self, channel: &str) {
        let confirmed = self.call(&[b"SUBSCRIBE", channel.as_bytes()]).await;
        assert!(matches!(confirmed, Reply::List(_)), "{confirmed:?}");
    }

    /// The next message of a subscription.
    pub async fn message(&mut self) -> Vec<u8> {
        let pushed = self.next().await;
        match pushed {
            Reply::List(parts) => match parts.into_iter().next_back() {
                Some(Reply::Bytes(message)) => message,
                other => panic!("no message: {other:?}"),
            },
            other => panic!("no message: {other:?}"),
        }
    }

    /// A command whose answer comes later, by [`next`](Connection::next).
    pub async fn send(&mut self, arguments: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend(b"\r\n");
        }
        within("Redis takes a command", self.0.write_all(&bytes)).await.expect("Redis lives");
    }

    /// The next answer, or push.
    pub async fn next(&mut self) -> Reply {
        within("an answer of Redis", self.read()).await
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Reply> + Send + '_>> {
        Box::pin(async move {
            let mut line = String::new();
            self.0.read_line(&mut line).await.expect("Redis answers");
            let rest = line.get(1..).unwrap_or_default().trim_end();
            let number = || rest.parse::<i64>().expect("a number");
            match line.as_bytes().first() {
                Some(b'+') => Reply::Status(rest.to_owned()),
                Some(b'-') => Reply::Error(rest.to_owned()),
                Some(b':') => Reply::Number(number()),
                Some(b'$' | b'*') if number() < 0 => Reply::Nothing,
                Some(b'$') => {
                    let length = usize::try_from(number()).expect("a length");
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes).await.expect("Redis answers in full");
                    bytes.truncate(length);
                    Reply::Bytes(bytes)
                }
                Some(b'*') => {
                    let mut items = Vec::new();
                    for _ in 0..number() {
                        items.push(self.read().await);
                    }
                    Reply::List(items)
                }
                _ => panic!("no RESP: {line:?}"),
            }
        })
    }
}
