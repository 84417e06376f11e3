//! What was measured, as a Markdown table: each figure with the settings it holds for.

use std::fmt;
use std::time::Duration;

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
