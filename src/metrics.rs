//! Stub: all metric families.

#[derive(Debug, Default)]
pub struct Metrics {
    _stub: (),
}

impl Metrics {
    pub fn encode(&self) -> String {
        "# HELP pathcast_stub x\n".to_owned()
    }
}
