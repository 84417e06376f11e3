//! Settings from environment variables: `PATHCAST__SECTION__KEY`, two underscores each time.
//!
//! They beat the file. Everything with a single underscore is somebody else's: Kubernetes sets
//! `PATHCAST_PORT`, `PATHCAST_SERVICE_HOST` and more for a Service named `pathcast`.

use crate::config::Error;
use crate::config::document::Document;
use crate::config::fault::At;
use crate::config::schema::{Schema, Untyped, nearest};

const PREFIX: &str = "PATHCAST__";

/// Puts every variable of ours into the document.
pub fn lay_over(
    document: &mut Document,
    schema: &Schema,
    env: &[(String, String)],
) -> Result<(), Error> {
    // In a fixed order, so that the same mistake is told every time.
    let mut env: Vec<&(String, String)> = env.iter().collect();
    env.sort();
    for (name, value) in env {
        let upper = name.to_ascii_uppercase();
        let Some(setting) = upper.strip_prefix(PREFIX) else { continue };
        let lower = setting.to_ascii_lowercase();
        let keys: Vec<&str> = lower.split("__").collect();
        let at = keys.iter().fold(At::root(), |at, key| at.key(key));
        let value = schema.typed(&keys, value).map_err(|untyped| match untyped {
            Untyped::Unknown => unknown(schema, name, setting),
            Untyped::NotSingle => Error(format!(
                "{name}: `{at}` is a list or a table\n \
                 = a variable sets a single value: write this one into the file"
            )),
            Untyped::Wrong(what) => Error(format!("{name}: {what}")),
        })?;
        document
            .set(&at, name, value)
            .map_err(|before| Error(format!("{name}: {before} sets the same")))?;
    }
    Ok(())
}

fn unknown(schema: &Schema, name: &str, setting: &str) -> Error {
    let known: Vec<String> =
        schema.scalars().iter().map(|keys| keys.join("__").to_ascii_uppercase()).collect();
    let advice = match nearest(setting, &known) {
        Some(nearest) => format!("did you mean {PREFIX}{nearest}?"),
        None => format!("a name is made like {PREFIX}CLIENTS__LISTEN, of a section and a key"),
    };
    Error(format!("{name}: there is no such setting\n = {advice}"))
}
