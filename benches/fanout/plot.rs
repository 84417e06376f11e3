//! Curves as SVG: what a delivery costs by the window, at the gateway and at the limit; and how that
//! grows.

use std::fmt::Write;

use crate::report::grouped;

/// One point: the window, and both costs in microseconds.
pub type Point = (usize, f64, f64);

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 56.0;

/// Both axes are logarithmic: each doubling of the window is as far as the one before it.
pub fn svg(points: &[Point]) -> String {
    let costs = || points.iter().flat_map(|&(_, own, limit)| [own, limit]);
    let least = costs().fold(f64::INFINITY, f64::min);
    let most = costs().fold(0.0, f64::max);
    let widest = points.iter().map(|&(window, ..)| window).max().unwrap_or(2) as f64;
    let x = |window: usize| {
        MARGIN + (WIDTH - 2.0 * MARGIN) * (window as f64).ln() / widest.max(2.0).ln()
    };
    let y = |cost: f64| {
        let share = (cost / least).ln() / (most / least).ln().max(f64::EPSILON);
        HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * share
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">CPU per delivery in µs, by the messages outstanding \
         (1,000 clients, 100 B; both axes logarithmic)</text>\n"
    );
    for (name, color, dy, cost) in [
        ("pathcast", "#0b66c3", -10.0, (|&(_, own, _)| own) as fn(&Point) -> f64),
        ("limit-join", "#c3420b", 20.0, |&(_, _, limit)| limit),
    ] {
        let line: Vec<_> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(cost(point)))).collect();
        let line = line.join(" ");
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>"
        );
        for point in points {
            let (px, py, value) = (x(point.0), y(cost(point)), cost(point));
            let _ = writeln!(
                out,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{color}\"/>\
                 <text x=\"{px:.1}\" y=\"{:.1}\" fill=\"{color}\" text-anchor=\"middle\">\
                 {value:.3}</text>",
                py + dy
            );
        }
        let legend_y = if dy < 0.0 { 48.0 } else { 66.0 };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{legend_y}\" fill=\"{color}\" text-anchor=\"end\">{name}</text>",
            WIDTH - MARGIN
        );
    }
    for (window, ..) in points {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">W = {window}</text>",
            x(*window),
            HEIGHT - 20.0
        );
    }
    out.push_str("</svg>\n");
    out
}

/// What grows, and what a delivery costs then, in microseconds.
pub struct Line {
    pub name: &'static str,
    pub color: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// Lines over whole powers of ten.
pub fn growth(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|&(_, cost)| cost).fold(f64::INFINITY, f64::min).log10().floor();
    let most = points().map(|&(_, cost)| cost).fold(0.0, f64::max).log10().ceil();
    let widest = points().map(|&(count, _)| count).fold(1.0, f64::max).log10().ceil();
    // The names stand to the right.
    let right = 2.0 * WIDTH / 3.0;
    let x = |decade: f64| MARGIN + (right - MARGIN) * decade / widest.max(1.0);
    let span = (most - least).max(1.0);
    let y = |decade: f64| HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * (decade - least) / span;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\">{title}</text>\n"
    );
    // Writing to a string does not fail.
    let mut rule = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
        );
    };
    for decade in 0..=widest as i32 {
        let at = x(f64::from(decade));
        rule(at, y(least), at, y(most));
    }
    for decade in least as i32..=most as i32 {
        let at = y(f64::from(decade));
        rule(MARGIN, at, right, at);
    }
    let mut label = |x: f64, y: f64, anchor: &str, color: &str, text: &str| {
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{text}</text>"
        );
    };
    for decade in 0..=widest as i32 {
        let count = grouped(10_f64.powi(decade));
        label(x(f64::from(decade)), HEIGHT - MARGIN + 18.0, "middle", "black", &count);
    }
    for decade in least as i32..=most as i32 {
        let cost = 10_f64.powi(decade).to_string();
        label(MARGIN - 6.0, y(f64::from(decade)) + 4.0, "end", "black", &cost);
    }
    for (at, Line { name, color, .. }) in lines.iter().enumerate() {
        label(right + 12.0, MARGIN + 20.0 * at as f64, "start", color, name);
    }
    for Line { color, points, .. } in lines {
        let mut path = String::new();
        for &(count, cost) in points {
            let (px, py) = (x(count.log10()), y(cost.log10()));
            let _ = write!(path, "{px:.1},{py:.1} ");
            let _ =
                writeln!(out, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{color}\"/>");
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            path.trim_end()
        );
    }
    out.push_str("</svg>\n");
    out
}
