//! `docs/performance.md`: the figures of a run, in the place that the page keeps for them.

use anyhow::Context;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");

const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.svg");

/// What stands between these two lines is replaced.
const BEGIN: &str = "<!-- figures: cargo bench --bench fanout -- --write -->\n";
const END: &str = "<!-- end of figures -->\n";

pub fn write(figures: &str, plot: Option<&str>) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(PAGE).context("cannot read docs/performance.md")?;
    let (before, rest) = page.split_once(BEGIN).context("the page has no place for figures")?;
    let (_, after) = rest.split_once(END).context("the place for figures does not end")?;
    std::fs::write(PAGE, format!("{before}{BEGIN}\n{figures}\n{END}{after}"))?;
    match plot {
        Some(plot) => std::fs::write(PLOT, plot).context("cannot write docs/performance.svg"),
        None => Ok(()),
    }
}
