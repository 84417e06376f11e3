//! A client that stays, reads all the time, and keeps what it heard.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::client::Heard;
use super::events::Events;
use super::gateway::Gateway;

pub struct Resident {
    pub session: String,
    texts: Arc<Mutex<Vec<String>>>,
    /// Ends with the connection.
    reading: JoinHandle<()>,
}

impl Resident {
    /// Opens a WebSocket whose session id is learnt from a listener of that path.
    pub async fn open(gateway: &Gateway, path: &str, events: &mut Events) -> Resident {
        let (mut client, session) = gateway.open_known(path, events).await;
        let texts = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&texts);
        let reading = tokio::spawn(async move {
            loop {
                match client.reader.next_whenever().await {
                    Heard::Text(text) => heard.lock().expect("nobody panicked").push(text),
                    Heard::Ping(payload) => client.writer.pong(&payload).await,
                    end => return eprintln!("a session ended: {end:?}"),
                }
            }
        });
        Resident { session, texts, reading }
    }

    /// So many of them.
    pub async fn open_many(gateway: &Gateway, path: &str, count: usize) -> Vec<Resident> {
        let mut events = gateway.listen(path).await;
        let mut residents = Vec::new();
        for _ in 0..count {
            residents.push(Resident::open(gateway, path, &mut events).await);
        }
        residents
    }

    pub fn is_open(&self) -> bool {
        !self.reading.is_finished()
    }

    /// What came, in its order.
    pub fn texts(&self) -> Vec<String> {
        self.texts.lock().expect("nobody panicked").clone()
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
