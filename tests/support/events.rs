//! A listener: server-sent events, as the WHATWG's format has them.

use serde_json::Value;

use super::wait::within;

/// One event as it came over the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub kind: String,
    /// JSON on one line.
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }

    /// A member that is a text.
    pub fn text(&self, member: &str) -> String {
        let json = self.json();
        let text = json.get(member).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text {member:?} in {json}")).to_owned()
    }
}

pub struct Events {
    response: reqwest::Response,
    buffer: Vec<u8>,
    /// How far the buffer is known to hold no end of a block.
    searched: usize,
}

impl Events {
    pub fn new(response: reqwest::Response) -> Events {
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        assert!(kind.is_some_and(|kind| kind.starts_with("text/event-stream")), "{kind:?}");
        Events { response, buffer: Vec::new(), searched: 0 }
    }

    /// The next event however long it takes; `None` at the stream's end.
    pub async fn next_whenever(&mut self) -> Option<Event> {
        loop {
            while let Some(block) = self.take_block() {
                if let Some(event) = parse_block(&block) {
                    return Some(event);
                }
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let next = within("an event", self.next_whenever()).await;
        next.expect("the stream of events goes on")
    }

    /// The next event that is meant; others are passed over.
    pub async fn until(&mut self, meant: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await;
            if meant(&event) {
                return event;
            }
        }
    }

    /// The id of the session that connected from there.
    pub async fn session_from(&mut self, remote: std::net::SocketAddr) -> String {
        let remote = remote.to_string();
        let connect =
            self.until(|event| event.kind == "connect" && event.text("remote") == remote).await;
        connect.text("session")
    }

    /// The disconnect of a session.
    pub async fn disconnect_of(&mut self, session: &str) -> Value {
        let gone = self
            .until(|event| event.kind == "disconnect" && event.text("session") == session)
            .await;
        gone.json()
    }

    fn take_block(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\n\n");
        let Some(end) = end else {
            self.searched = self.buffer.len().saturating_sub(1);
            return None;
        };
        let rest = self.buffer.split_off(self.searched + end + 2);
        self.searched = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}

/// `None` for a block of comments.
fn parse_block(block: &[u8]) -> Option<Event> {
    let block = std::str::from_utf8(block).expect("server-sent events are UTF-8");
    let mut event = Event { id: String::new(), kind: String::new(), data: String::new() };
    for line in block.lines() {
        match line.split_once(':') {
            Some(("id", value)) => event.id = value.trim_start().into(),
            Some(("event", value)) => event.kind = value.trim_start().into(),
            Some(("data", value)) => event.data += value.strip_prefix(' ').unwrap_or(value),
            _ => {}
        }
    }
    (!event.data.is_empty()).then_some(event)
}
