//! What this pod tells Kubernetes of itself: how much its end would cost.
//!
//! A ReplicaSet that shrinks removes first those of its pods whose annotation
//! `controller.kubernetes.io/pod-deletion-cost` is lowest (Kubernetes, "ReplicaSet", Pod deletion cost).
//! The number of sessions is that cost. It is told seldom, and when it has changed: each time is a write to the
//! cluster's store.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authorities;
use crate::lifecycle::Lifecycle;

/// How often it is looked whether the number has changed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Until it was told for the first time: a pod has been there for a moment, and a cluster that was away is
/// asked again.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// For one call, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A change by less than one part in so many is none.
const PART: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The host and port of the cluster's API.
    pub host: String,
    pub port: u16,
    pub namespace: String,
    pub pod: String,
    /// The folder with `token` and `ca.crt` of the pod's account.
    pub account: PathBuf,
}

/// Tells how many sessions there are, until the pod leaves.
pub async fn tell_cost(config: Config, sessions: impl Fn() -> usize, lifecycle: Lifecycle) {
    let (mut told, mut fault, mut wait) = (None, String::new(), FIRST_LOOK);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = lifecycle.leaving().cancelled() => return,
        }
        let cost = sessions();
        if told.is_some_and(|told| !is_news(told, cost)) {
            continue;
        }
        let tell = tokio::time::timeout(TIMEOUT, tell(&config, cost));
        let answer = tokio::select! {
            answer = tell => answer,
            () = lifecycle.leaving().cancelled() => return,
        };
        match answer.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => {
                (told, wait) = (Some(cost), LOOK_EVERY);
                fault.clear();
            }
            // Once for each reason: it is a courtesy, and nothing hangs on it.
            Err(why) if why != fault => {
                tracing::warn!("cannot tell Kubernetes how many sessions this pod has: {why}");
                fault = why;
            }
            Err(_) => {}
        }
    }
}

fn is_news(told: usize, now: usize) -> bool {
    told.abs_diff(now) > told.max(now) / PART
}

async fn tell(config: &Config, cost: usize) -> Result<(), String> {
    let Config { host, port, namespace, pod, account } = config;
    let read = |name: &str| {
        let file = account.join(name);
        let text = std::fs::read(&file);
        text.map_err(|error| format!("{} cannot be read: {error}", file.display()))
    };
    // Both change while the pod runs.
    let (token, authority) = (read("token")?, read("ca.crt")?);
    let token = String::from_utf8_lossy(&token);
    let authority = authorities::of_pem(&authority)?;
    let tls = authorities::client().with_root_certificates(authority).with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let tcp =
        TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
    let stream = TokioIo::new(stream.map_err(|error| error.to_string())?);

    let body = format!(
        r#"{{"metadata":{{"annotations":{{"controller.kubernetes.io/pod-deletion-cost":"{cost}"}}}}}}"#
    );
    let request = Request::patch(format!("/api/v1/namespaces/{namespace}/pods/{pod}"))
        .header(HOST, host_header(host, *port))
        .header(USER_AGENT, concat!("pathcast/", env!("CARGO_PKG_VERSION")))
        .header(AUTHORIZATION, format!("Bearer {}", token.trim()))
        .header(CONTENT_TYPE, "application/merge-patch+json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let handshake = http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    // It has to be driven, and says nothing that the answer does not.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    let answer = tokio::select! {
        answer = sender.send_request(request) => answer,
        never = connection => match never {},
    };
    match answer.map_err(|error| error.to_string())?.status() {
        StatusCode::OK => Ok(()),
        StatusCode::FORBIDDEN => {
            Err("403: the pod's account may not `patch` pods; the chart's Role allows it"
                .to_owned())
        }
        status => Err(format!("it answered {status}")),
    }
}

/// As it stands in a URL (RFC 3986 section 3.2): the address of an IPv6 cluster in brackets.
fn host_header(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_cluster_is_called_as_urls_have_it() {
        assert_eq!(host_header("fd00::1", 443), "[fd00::1]:443");
        assert_eq!(host_header("10.0.0.1", 443), "10.0.0.1:443");
    }

    #[test]
    fn a_tenth_more_or_less_is_news() {
        for (told, now) in [(0, 1), (1, 0), (100, 112), (100, 89), (100_000, 80_000)] {
            assert!(is_news(told, now), "{told} {now}");
        }
        for (told, now) in [(0, 0), (1, 1), (100, 110), (100, 90), (100_000, 91_000)] {
            assert!(!is_news(told, now), "{told} {now}");
        }
    }
}
