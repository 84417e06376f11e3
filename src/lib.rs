//! pathcast: a WebSocket gateway that scales sideways. (The map is written with the house.)

pub mod api;
pub mod gateway;
pub mod hub;
pub mod lifecycle;
pub mod metrics;
pub mod proto;
pub mod relay;
