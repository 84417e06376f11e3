//! What is told while the pod works: lines of a log, and spans of traces.
//!
//! Nothing that a client sends can make a line look like two. Spans are made only where `[trace]` names a
//! collector; else each place where one could begin costs one branch. None is made for a delivery.

pub mod export;
pub mod lines;
pub mod logs;
pub mod span;
