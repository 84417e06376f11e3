//! `docs/performance.md`: the figures of a run, in the place that the page keeps for them.

use anyhow::Context;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");

/// What stands between these two lines is replaced.
const BEGIN: &str = "<!-- figures: cargo bench --bench fanout -- --write -->\n";
const END: &str = "<!-- end of figures -->\n";

pub fn write(figures: &str, plots: &[(&str, String)]) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(PAGE).context("cannot read docs/performance.md")?;
    let (before, rest) = page.split_once(BEGIN).context("the page has no place for figures")?;
    let (_, after) = rest.split_once(END).context("the place for figures does not end")?;
    std::fs::write(PAGE, format!("{before}{BEGIN}\n{figures}\n{END}{after}"))?;
    for (name, plot) in plots {
        std::fs::write(format!("{FOLDER}/{name}"), plot).context("cannot write a plot")?;
    }
    Ok(())
}
