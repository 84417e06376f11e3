//! Backends: the applications that hear clients.

pub mod sse;
pub mod stream;
pub mod webhook;
