//! The rules: values and the time in, actions out.
//!
//! Nothing here knows tokio, a socket, a clock, a thread or a lock, so every rule can be tested by
//! calling it. What a rule needs from the world (bytes that were read, milliseconds that passed, a
//! random number) is handed to it.

pub mod ask;
pub mod backoff;
pub mod close;
pub mod content_type;
pub mod deflate;
pub mod deflater;
pub mod envelope;
pub mod event;
pub mod frame;
pub mod grant;
pub mod inflater;
pub mod json;
pub mod json_names;
pub mod json_string;
pub mod millis;
pub mod msg;
pub mod pacing;
pub mod partition;
pub mod path;
pub mod paths;
pub mod pulse;
pub mod roster;
pub mod session;
pub mod session_id;
pub mod spelling;
pub mod stream;
pub mod telling;
pub mod tenure;
pub mod traceparent;
pub mod upstream;
pub mod url;
pub mod webhook;
pub mod wire;
