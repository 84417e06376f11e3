//! Backends: the applications that hear clients.

pub mod held;
pub mod lanes;
pub mod parts;
pub mod sse;
pub mod stream;
pub mod webhook;
