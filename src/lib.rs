//! pathcast: a WebSocket gateway that scales sideways. (The map is written with the house.)

pub mod api;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod hub;
pub mod proto;
pub mod relay;
