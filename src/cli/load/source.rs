//! Source addresses: loopback has many, and each has some 28,000 ports towards one server.
//!
//! A port stays taken for a minute after its socket was closed, for the whole machine. So an
//! address is left behind after a number of sockets, whichever crowd they were for, and another run
//! begins with another network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

const SOCKETS_PER_ADDRESS: usize = 10_000;

/// Of the last byte: neither the network's own address nor its broadcast.
const ADDRESSES: usize = 254;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Where the next socket connects from: any free port of this address.
pub fn next() -> SocketAddr {
    let number = TAKEN.fetch_add(1, Ordering::Relaxed) / SOCKETS_PER_ADDRESS;
    let [network, ..] = std::process::id().to_le_bytes();
    let host = u8::try_from(1 + number % ADDRESSES).expect("it is at most 254");
    SocketAddr::from((Ipv4Addr::new(127, 0, network, host), 0))
}
