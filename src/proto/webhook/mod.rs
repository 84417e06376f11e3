//! Webhooks: what a request for an event holds, what its answer means, and how patient to be.
//!
//! Everything here is decided without a socket and without a clock: an event and the secrets in, headers
//! out; a status and a body in, what follows of it out.

pub mod admission;
pub mod breaker;
pub mod cloud_event;
pub mod label;
pub mod reply;
pub mod signature;
pub mod url;
pub mod verdict;

use std::time::Duration;

use crate::proto::webhook::url::Url;

/// Where a configured path's events go, and what becomes of those that do not get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: Url,
    pub on_error: OnError,
    pub on_connect_error: OnConnectError,
    /// How long an event is offered again, unless that goes on for ever.
    pub retry_for: Duration,
}

/// What becomes of an event that a backend does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// It is offered until it is taken, or refused for good.
    Retry,
    /// After a while it is given up, and the next one is offered.
    Drop,
    /// It is given up as well, and its session is closed.
    Close,
}

/// What becomes of a client whose backend does not say in time whether it may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConnectError {
    Refuse,
    Accept,
}
