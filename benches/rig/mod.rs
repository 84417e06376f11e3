//! What the benches share: the servers that they measure, as child processes, and what they measure
//! of them. The load itself is the one of `pathcast bench`.

pub mod limit;
pub mod machine;
pub mod paced;
pub mod probe;
pub mod process;
pub mod report;
pub mod saturation;
pub mod server;
