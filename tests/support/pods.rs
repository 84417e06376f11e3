//! Gateways on one Redis, and the msgs that are sent to them.

use serde_json::json;

use super::gateway::Gateway;
use super::redis::Redis;
use super::wait::eventually;

/// One path alone, and as many as there are rooms.
const PATHS: &str = r#"
[[path]]
path = "/ws"
[[path]]
path = "/ws/rooms/{room}"
wholemsg = true
"#;

/// One whose clients are closed by a gap.
const STRICT: &str = r#"
[[path]]
path = "/ws/strict"
on_gap = "close"
"#;

/// A gateway on that Redis, ready. `settings` are further ones of the broker.
pub async fn start(server: &Redis, settings: &str) -> Gateway {
    start_at(&server.url(), settings).await
}

/// As [`start`], with a way to Redis of the caller's choice.
pub async fn start_at(url: &str, settings: &str) -> Gateway {
    ready(Gateway::start(&config(url, settings)).await).await
}

/// As [`start`], of the build that `PATHCAST_PEER` names, if it is set: with the paths that an older
/// build can have, too.
pub async fn start_peer(server: &Redis) -> Gateway {
    let url = server.url();
    let config = format!("[broker]\nurl = \"{url}\"\n{PATHS}");
    ready(Gateway::start_peer(&config).await).await
}

/// Waits for that status of readiness.
pub async fn is_ready(gateway: &Gateway, status: u16) {
    eventually(&format!("{status} of a pod"), async || {
        (gateway.fetch("/readyz").await.status == status).then_some(())
    })
    .await;
}

/// A msg for one session.
pub fn to(session: &str, payload: &str) -> String {
    json!({"payload": payload, "_session": {"type": "websocket", "id": session}}).to_string()
}

/// A msg for everybody.
pub fn msg(payload: &str) -> String {
    json!({"payload": payload}).to_string()
}

fn config(url: &str, settings: &str) -> String {
    format!("[broker]\nurl = \"{url}\"\n{settings}{PATHS}{STRICT}")
}

async fn ready(gateway: Gateway) -> Gateway {
    gateway.ready().await;
    gateway
}
