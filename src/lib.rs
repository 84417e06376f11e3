//! pathcast: a WebSocket gateway that scales sideways.
//!
//! Clients open a *path*. Whoever publishes to it reaches every client of it; whoever publishes
//! with a *session id* reaches that one client and is told whether it was delivered. What clients
//! send reaches backends with the session id attached.
//!
//! # The map
//!
//! Modules stand on floors; each imports only from below (`tests/floors.rs` holds that).
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 6 | [`app`] | the composition root, the only one that knows everyone |
//! | 5 | [`config`] | text and environment → each part's own `Config` |
//! | 4 | [`gateway`] | the clients' door: listener, TLS, upgrade |
//! | 4 | [`api`] | the publishers' door: publish, sessions, events, health |
//! | 4 | [`upstream`] | remote servers that pathcast is a client of |
//! | 4 | [`cli`] | the other commands |
//! | 3 | [`relay`] | where broker (all pods) and hub (this pod) meet |
//! | 2 | [`hub`] | this pod's sessions: shards, rooms, outboxes, the fan-out |
//! | 2 | [`broker`] | the way to all pods |
//! | 2 | [`backend`] | the applications that hear clients |
//! | 2 | [`kubernetes`] | what Kubernetes is told of a pod |
//! | 1 | [`lifecycle`], [`watch`], [`clock`], [`complaints`], [`authorities`], [`guarded`] | coming and going; files that change; the clocks; what is logged seldom; whose certificates are believed; what is written to only with a lease |
//! | 1 | [`metrics`], [`trace`] | what is counted; what is logged |
//! | 0 | [`proto`] | the rules: pure values in, actions out |
//!
//! # The way of a message
//!
//! A publisher's request becomes a [`proto::msg::Msg`] in [`api`], goes through
//! [`relay::Relay::publish`] to the [`broker`], comes back from it in the one order that all pods
//! see ([`relay::local`]), is encoded once ([`proto::frame`]), crosses to each shard that has
//! somebody for it ([`hub::mailbox`]), waits there in its room ([`hub::room`]), joins what is on its
//! way round there ([`hub::round`]), and is handed to each socket with one write. What a socket does not take waits in
//! its outbox ([`hub::outbox`]).
//!
//! A client's bytes are read by its shard ([`hub::reading`]), decoded ([`proto::session`]), and
//! told as events ([`relay::ears`]) to whoever listens ([`backend::sse`]), here or on another pod
//! ([`relay::taps`], [`relay::hearsay`]), to streams ([`backend::stream`]), and to webhooks ([`backend::webhook`]), whose answers come back
//! as unicasts ([`relay::webhooks`]).

pub mod api;
pub mod app;
pub mod authorities;
pub mod backend;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod complaints;
pub mod config;
pub mod gateway;
pub mod guarded;
pub mod hub;
pub mod kubernetes;
pub mod lifecycle;
pub mod metrics;
pub mod proto;
pub mod relay;
pub mod trace;
pub mod upstream;
pub mod watch;
