//! A look into some of the deflated messages: whether they are what was sent.

use anyhow::{Context, ensure};
use flate2::{Decompress, FlushDecompress};

use crate::cli::load::stamp::{STAMP_BYTES, Stamp};

/// What a message ends with and the wire leaves out (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The stamp of a deflated message, from the payload of its frame.
pub fn stamp(payload: &[u8]) -> anyhow::Result<Stamp> {
    let mut inflater = Decompress::new(false);
    let mut message = Vec::with_capacity(STAMP_BYTES);
    let deflated = [payload, &TAIL].concat();
    inflater.decompress_vec(&deflated, &mut message, FlushDecompress::Sync)?;
    ensure!(!message.is_empty(), "a deflated message is empty");
    Stamp::read(&message).context("a deflated message without a stamp")
}
