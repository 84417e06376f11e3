//! A load that costs far less than any server under it, and what is needed to measure that server.
//!
//! One thread drives all clients: raw bytes, one shared buffer, frame heads only. Nothing here uses
//! the gateway's own code, so that a mistake in there cannot hide itself.

pub mod client;
pub mod clock;
pub mod crowd;
pub mod descriptors;
pub mod frames;
pub mod gateway;
pub mod latency;
pub mod machine;
pub mod paced;
pub mod probe;
pub mod process;
pub mod publisher;
pub mod report;
pub mod saturation;
pub mod sequence;
pub mod source;
pub mod stamp;
pub mod window;
