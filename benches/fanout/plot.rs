//! A curve as SVG: what a delivery costs by the window, at the gateway and at the limit.

use std::fmt::Write;

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
