//! What the stories in `tests/` are told with: a gateway as a child process, and clients,
//! publishers and listeners at its doors.
//!
//! All but `pod` and `brokered` knows nothing of the gateway's code: it speaks bytes, HTTP and signals, so that
//! the tests read as a stranger's programs would. Every wait ends, with the awaited thing in its message.

#![allow(dead_code, reason = "each test file compiles its own copy and uses a part of it")]

pub mod backend;
pub mod brokered;
pub mod client;
pub mod collector;
pub mod events;
pub mod gateway;
pub mod ledger;
pub mod node_red;
pub mod pod;
pub mod pods;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod remote;
pub mod resident;
pub mod resp;
pub mod tls;
pub mod traffic;
pub mod wait;
pub mod wire;
pub mod workers;
