//! What was measured, as a Markdown table: each figure with the settings it holds for.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
}

impl Report {
    pub fn add(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        settings: impl Into<String>,
    ) {
        let row = [what.into(), figure.into(), settings.into()];
        eprintln!("  {}: {}", row[0], row[1]);
        self.rows.push(row);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| what | figure | settings |\n|---|---|---|")?;
        for [what, figure, settings] in &self.rows {
            writeln!(out, "| {what} | {figure} | {settings} |")?;
        }
        Ok(())
    }
}

/// Of nanoseconds, shown in milliseconds.
pub fn quantiles(histogram: &Histogram<u64>) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    format!(
        "p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        ms(histogram.max())
    )
}

/// So much for each of `count`, in microseconds.
pub fn micros_each(total: Duration, count: u64) -> f64 {
    total.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// 1234567 → `1,234,567`.
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
