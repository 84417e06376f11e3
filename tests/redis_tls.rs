//! Pods speak TLS to a Redis whose certificate they believe, and to no other.

mod support;

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use serde_json::json;
use support::gateway::Gateway;
use support::redis::{Redis, free_port};
use support::wait::eventually;

/// An authority of the test's own, and the files that it made.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let mut params = named(Vec::new(), &format!("authority {}", uuid::Uuid::now_v7()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.self_signed(&key).expect("a certificate can be made");
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        put(&dir.path().join("ca.crt"), &cert.pem());
        Authority { issuer: Issuer::new(params, key), dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes `NAME.crt` and `NAME.key`, good for this machine.
    fn certify(&self, name: &str) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = named(names, name);
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        put(&self.file(&format!("{name}.crt")), &cert.pem());
        put(&self.file(&format!("{name}.key")), &key.serialize_pem());
    }

    /// A Redis that believes those whom this authority knows, and the section of a pod there.
    fn redis(&self) -> (Redis, String) {
        self.certify("redis");
        let port = free_port();
        let mut settings = vec!["--tls-port".to_owned(), port.to_string()];
        for (setting, file) in [("cert", "redis.crt"), ("key", "redis.key"), ("ca-cert", "ca.crt")]
        {
            settings.push(format!("--tls-{setting}-file"));
            settings.push(self.file(file).display().to_string());
        }
        settings.extend(["--tls-auth-clients".to_owned(), "yes".to_owned()]);
        (Redis::start_with(settings), format!("[broker]\nurl = \"rediss://localhost:{port}\"\n"))
    }

    /// The setting of this authority's file.
    fn ca(&self) -> String {
        format!("ca = \"{}\"\n", self.file("ca.crt").display())
    }

    /// The settings by which a pod shows that this authority knows it.
    fn identity(&self) -> String {
        self.certify("pod");
        let (cert, key) = (self.file("pod.crt"), self.file("pod.key"));
        format!("cert = \"{}\"\nkey = \"{}\"\n", cert.display(), key.display())
    }
}

/// A certificate's content; who certifies and who is certified must not have one name.
fn named(hosts: Vec<String>, name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("good names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn put(file: &Path, text: &str) {
    std::fs::write(file, text).expect("a temporary file can be written");
}

async fn start(broker: &str) -> Gateway {
    Gateway::start(&format!("{broker}[[path]]\npath = \"/ws\"\n")).await
}

async fn is_ready(gateway: &Gateway) {
    eventually("a pod that is ready", async || {
        (gateway.fetch("/readyz").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_show_who_they_are_speak_tls_to_redis() {
    let authority = Authority::new();
    let (_server, broker) = authority.redis();
    let broker = [broker, authority.ca(), authority.identity()].concat();
    let (a, b) = (start(&broker).await, start(&broker).await);
    is_ready(&a).await;
    is_ready(&b).await;
    let mut client = a.open("/ws").await;
    let said = b.publish("/ws", r#"{"payload":"over TLS"}"#).await;
    assert_eq!((said.status, &said.json()["receivers"]), (202, &json!(1)));
    client.expect_text("over TLS").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_trust_there_is_no_link_and_the_log_says_why() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_server, broker) = authority.redis();
    for (settings, why) in [
        // Redis is not known to the system, to another authority, by another name; the pod not to
        // Redis.
        (authority.identity(), "invalid peer certificate: UnknownIssuer"),
        (other.ca() + &authority.identity(), "invalid peer certificate: UnknownIssuer"),
        (authority.ca(), "CertificateRequired"),
        (authority.ca() + &other.identity(), "UnknownCA"),
    ] {
        let pod = start(&[broker.as_str(), &settings].concat()).await;
        eventually("a reason", async || pod.log().contains(why).then_some(())).await;
        assert_eq!(pod.fetch("/readyz").await.status, 503);
        assert_eq!(pod.publish("/ws", r#"{"payload":"x"}"#).await.status, 503);
    }
}
