//! What follows from the measured points for many sessions: a model of five figures, and what it
//! says, with its arithmetic.
//!
//! Nothing here is measured, and nothing is put in by hand but the questions.

use crate::bench::Bench;
use crate::point::Point;
use crate::report::grouped;

/// The question: so many sessions, so many of them on a pod, and messages of so many bytes.
const SESSIONS: f64 = 1e6;
const POD_SESSIONS: f64 = 20_000.0;
const BYTES: f64 = 100.0;

/// Of a room, where sessions are in many rooms rather than on one path.
const ROOM_SESSIONS: f64 = 100.0;

const SECOND_US: f64 = 1e6;

/// CPU in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    /// Of a pod, for a message through Redis, whoever gets it.
    message: f64,
    /// Of a write to a socket, with one frame in it.
    write: f64,
    /// Of a delivery where writes are joined as in the saturated loop with the most clients, and how
    /// many are.
    joined: f64,
    frames_per_write: f64,
    /// Of a byte that is delivered.
    byte: f64,
    /// Of Redis: for a `PUBLISH`, and for each subscriber of it.
    publish: f64,
    subscriber: f64,
}

impl Model {
    /// From curves over clients (one message at a time; joined), sizes, pods and subscribers, each
    /// from its least point to its largest.
    pub fn fit(
        singly: &[(usize, Point)],
        by_clients: &[(usize, Point)],
        by_size: &[(usize, Point)],
        carried: &[(usize, f64)],
        publishes: &[(usize, f64)],
    ) -> Model {
        let of = |points: &[(usize, Point)]| -> Vec<(usize, f64)> {
            points.iter().map(|&(clients, point)| (clients, point.message_us)).collect()
        };
        let (_, write) = line(&of(singly));
        let (_, joined) = line(&of(by_clients));
        let frames_per_write = by_clients.last().map_or(1.0, |(_, point)| point.frames_per_write);
        let largest = by_size.last().map_or((1.0, 0.0), |&(bytes, point)| {
            (bytes as f64, point.delivery_us - write / point.frames_per_write)
        });
        let (publish, subscriber) = line(publishes);
        Model {
            message: carried.last().map_or(0.0, |&(pods, all)| all / pods as f64),
            write,
            joined,
            frames_per_write,
            byte: largest.1 / largest.0,
            publish,
            subscriber,
        }
    }
}

/// Where a straight line through the first point and the last begins, and how it rises.
fn line(points: &[(usize, f64)]) -> (f64, f64) {
    let (Some(&(from, low)), Some(&(to, high))) = (points.first(), points.last()) else {
        return (0.0, 0.0);
    };
    let rise = (high - low) / (to as f64 - from as f64);
    (low - rise * from as f64, rise)
}

pub fn tell(bench: &mut Bench, model: &Model) {
    let Model { message, write, joined, frames_per_write, byte, publish, subscriber } = *model;
    let mut add = |what: &str, figure: String, settings: &str| {
        bench.report.add(format!("capacity: {what}"), figure, settings);
    };
    add(
        "m, a pod's CPU per message from Redis",
        format!("{message:.1} µs"),
        "from the most pods with one client each: CPU per message ÷ pods",
    );
    add(
        "w, CPU per write",
        format!("{write:.2} µs"),
        "from W = 1: rise of the CPU per message from the fewest clients to the most",
    );
    add(
        "j, CPU per delivery where writes are joined",
        format!("{joined:.3} µs, {frames_per_write:.1} frames per write"),
        "from W = 16: the same rise",
    );
    add(
        "b, CPU per byte delivered",
        format!("{:.3} ns", byte * 1e3),
        "from the largest messages: (CPU per delivery − w ÷ frames per write) ÷ bytes",
    );
    add(
        "p + s × subscribers, Redis' CPU per PUBLISH",
        format!("{publish:.2} + {subscriber:.3} × subscribers, in µs"),
        "from the fewest subscribers to the most",
    );

    let pods = SESSIONS / POD_SESSIONS;
    let (sessions, each) = (grouped(SESSIONS), grouped(POD_SESSIONS));
    let question = format!(
        "{sessions} sessions, {each} on a pod, {BYTES} B; processors as busy as they can be"
    );
    let pods_text = grouped(pods);
    let pod_us = message + POD_SESSIONS * (write + BYTES * byte);
    add(
        "a broadcast to everybody, one at a time, on each pod",
        format!(
            "m + {each} × (w + {BYTES} × b) = {:.0} ms, so {:.0} messages/s for each processor",
            pod_us / 1e3,
            SECOND_US / pod_us
        ),
        &question,
    );
    let dense_us = message + POD_SESSIONS * joined;
    add(
        "the same where messages come so densely that they are joined",
        format!(
            "m + {each} × j = {:.1} ms, so {:.0} messages/s for each processor",
            dense_us / 1e3,
            SECOND_US / dense_us
        ),
        &question,
    );
    let everybody_us = publish + pods * subscriber;
    add(
        "Redis, where every pod has subscribed",
        format!(
            "p + {pods_text} × s = {everybody_us:.1} µs, so {} messages/s",
            grouped(SECOND_US / everybody_us)
        ),
        &question,
    );
    // Each session's pod is any of them.
    let heard = pods * (1.0 - (1.0 - 1.0 / pods).powf(ROOM_SESSIONS));
    let room_us = publish + heard * subscriber;
    add(
        "Redis, rooms of 100 sessions, spread over all pods",
        format!(
            "on {heard:.1} of {pods_text} pods: p + {heard:.1} × s = {room_us:.1} µs, so {} \
             messages/s to all rooms together",
            grouped(SECOND_US / room_us)
        ),
        &question,
    );
    let room_pods_us = heard * message + ROOM_SESSIONS * (write + BYTES * byte);
    let at_limit = SECOND_US / room_us;
    add(
        "the pods, at as many messages as Redis carries to such rooms",
        format!(
            "({heard:.1} × m + {ROOM_SESSIONS} × (w + {BYTES} × b)) = {room_pods_us:.0} µs a message, \
             so {:.1} of {pods_text} pods' processors",
            at_limit * room_pods_us / SECOND_US
        ),
        &question,
    );
    let private_us = publish + subscriber;
    add(
        "Redis, where each session has a path of its own",
        format!("p + s = {private_us:.2} µs, so {} messages/s", grouped(SECOND_US / private_us)),
        &question,
    );
}
