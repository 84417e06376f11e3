//! Files that settings name, read within bounds: a wrong name may be a device, or a disk.

use std::path::Path;

use crate::config::fault::{At, Fault};

/// All authorities that a system knows take a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The content of a file, if it is not larger than that.
pub fn bounded(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind, Read};
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= bytes_max {
        true => Ok(bytes),
        false => Err(Error::new(ErrorKind::FileTooLarge, format!("more than {bytes_max} bytes"))),
    }
}

pub fn pem(file: &Path, at: At) -> Result<Vec<u8>, Fault> {
    bounded(file, PEM_BYTES_MAX).map_err(|error| {
        Fault::value(at, format!("{} cannot be read: {error}", file.display()))
            .advise("a PEM file that this process may read")
    })
}
