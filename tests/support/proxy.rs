//! The way between a gateway and its Redis, to be cut: a TCP proxy on loopback.
//!
//! A connection that was half-open stays so for good, as behind a firewall that forgot it: both ends
//! may write what they like, nothing arrives, and neither is told that the other one went away.

use std::net::SocketAddr;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::wait::within;

/// What is carried at once.
const PIECE_BYTES: usize = 16 * 1024;

pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    passage: Passage,
    /// Connections that are half-open alone, by the ports that Redis sees them come from.
    deaf: Vec<u16>,
    /// How often everything was cut: connections that began before are over.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    OneWay,
    HalfOpen,
    Refusing,
}

impl Proxy {
    /// A way to that port of this machine.
    pub async fn start(port: u16) -> Proxy {
        Proxy::narrow(port, u32::MAX).await
    }

    /// A way that carries so many bytes a second to Redis on each connection.
    pub async fn narrow(port: u16, bytes_per_second: u32) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (state, watched) =
            watch::channel(State { passage: Passage::Open, deaf: Vec::new(), cuts: 0 });
        let redis = SocketAddr::from(([127, 0, 0, 1], port));
        let accepting = tokio::spawn(accept(listener, redis, bytes_per_second, watched));
        Proxy { addr, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// From now on bytes are taken from both ends, and delivered to none. New connections, too, are
    /// taken and lead nowhere.
    pub fn half_open(&self) {
        self.go(Passage::HalfOpen);
    }

    /// From now on Redis gets what is sent to it, and its answers are delivered to nobody. New
    /// connections are taken and lead nowhere.
    pub fn swallow_answers(&self) {
        self.go(Passage::OneWay);
    }

    /// From now on the connection that Redis sees come from that port is half-open.
    pub fn half_open_from(&self, port: u16) {
        self.state.send_modify(|state| state.deaf.push(port));
    }

    /// From now on new connections are reset.
    pub fn refuse(&self) {
        self.go(Passage::Refusing);
    }

    /// Ends every connection, at both ends.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// From now on new connections are carried.
    pub fn heal(&self) {
        self.go(Passage::Open);
    }

    fn go(&self, passage: Passage) {
        self.state.send_modify(|state| state.passage = passage);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    redis: SocketAddr,
    bytes_per_second: u32,
    watched: watch::Receiver<State>,
) {
    loop {
        let (gateway, _) = listener.accept().await.expect("a listener goes on");
        let mut state = watched.clone();
        let (passage, cuts) = {
            let state = state.borrow_and_update();
            (state.passage, state.cuts)
        };
        if passage == Passage::Refusing {
            gateway.set_zero_linger().expect("a connected socket takes options");
            continue;
        }
        tokio::spawn(async move {
            let mut cut = state.clone();
            tokio::select! {
                () = carry(gateway, redis, bytes_per_second, state) => {}
                // An error: the proxy is gone.
                _ = cut.wait_for(|state| state.cuts > cuts) => {}
            }
        });
    }
}

/// Until one end ends, or for ever once it is half-open.
async fn carry(
    mut gateway: TcpStream,
    redis: SocketAddr,
    bytes_per_second: u32,
    mut state: watch::Receiver<State>,
) {
    if state.borrow().passage != Passage::Open {
        return swallow(&mut gateway).await;
    }
    let redis = within("the way to Redis", TcpStream::connect(redis)).await;
    let Ok(mut redis) = redis else { return };
    for end in [&gateway, &redis] {
        end.set_nodelay(true).expect("a connected socket takes options");
    }
    let port = redis.local_addr().expect("a connected socket has an address").port();
    let is_mute = |state: &State| {
        [Passage::OneWay, Passage::HalfOpen].contains(&state.passage) || state.deaf.contains(&port)
    };
    let (mut from_gateway, mut to_gateway) = gateway.split();
    let (mut from_redis, mut to_redis) = redis.split();
    let passage = tokio::select! {
        () = pump(&mut from_gateway, &mut to_redis, bytes_per_second) => return,
        () = pump(&mut from_redis, &mut to_gateway, u32::MAX) => return,
        Ok(state) = state.wait_for(is_mute) => state.passage,
    };
    if passage == Passage::OneWay {
        let carrying = copy(&mut from_gateway, &mut to_redis);
        let _ = tokio::join!(carrying, swallow(&mut from_redis));
    } else {
        tokio::join!(swallow(&mut from_gateway), swallow(&mut from_redis));
    }
}

/// Carries at that pace, until either end ends.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    bytes_per_second: u32,
) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let Ok(read @ 1..) = from.read(&mut piece).await else { return };
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
        if bytes_per_second < u32::MAX {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(bytes_per_second)))
                .await;
        }
    }
}

/// Takes all that comes, its end included.
async fn swallow(from: &mut (impl AsyncRead + Unpin)) {
    // A reset is an end as well.
    let _ = copy(from, &mut sink()).await;
    std::future::pending().await
}
