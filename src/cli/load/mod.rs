//! A load that costs far less than any server under it.
//!
//! One thread drives all clients: raw bytes, one shared buffer, frame heads only. Nothing here uses
//! the gateway's own code, so that a mistake in there cannot hide itself. Errors are for the person
//! at the terminal.

pub mod client;
pub mod clock;
pub mod crowd;
pub mod descriptors;
pub mod frames;
pub mod inflate;
pub mod latency;
pub mod line;
pub mod publisher;
pub mod run;
pub mod sequence;
pub mod source;
pub mod stamp;
pub mod window;
