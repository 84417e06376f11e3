//! Backends: the applications that hear clients.

pub mod ring;
pub mod sse;
pub mod stream;
