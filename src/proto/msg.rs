//! The msg: what publishers send and backends hear (DESIGN section 2).

use bytes::Bytes;

use crate::proto::frame::Kind;

/// What is to be sent, without to whom. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content;

impl Content {
    /// What goes on the wire on a path with this `wholemsg`; `None`: nothing to send.
    pub fn frame(&self, wholemsg: bool) -> Option<(Kind, Bytes)> {
        let _ = wholemsg;
        todo!()
    }
}
