//! A certificate for gateways under load, of the kind that is usual: ECDSA on P-256.

use std::path::Path;

use pathcast::cli::load::line::Trust;

/// Nobody looks this name up.
const NAME: &str = "localhost";

/// Makes one, puts it and its key into these files, and says how to trust it.
pub fn write(cert: &Path, key: &Path) -> anyhow::Result<Trust> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(cert, made.cert.pem())?;
    std::fs::write(key, made.signing_key.serialize_pem())?;
    Trust::only(made.cert.der().clone(), NAME)
}
