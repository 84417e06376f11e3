//! Who may call the API: keys with scopes and paths; without any key, this machine alone.

mod support;

use serde_json::{Value, json};
use support::events::Events;
use support::gateway::{DOORS, Gateway, Said, fail_to_start, send};
use support::wait::within;

const PATHS: &str = r#"
[[path]]
path = "/ws/sensors"
[[path]]
path = "/ws/rooms/{room}"
[[path]]
path = "/ws/secret"
"#;

/// `sha256sum` of "the-key-of-nobody-else".
const SHA256: &str = "4bcacb37a3ce99ed44651c9f36190046169970a38ecf6a9a7ce936a38ce45428";

async fn start() -> (Gateway, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("key");
    std::fs::write(&file, "  secret-of-the-sensors\n").expect("a temporary file can be written");
    let mut config = format!("{DOORS}{PATHS}");
    let mut key = |name: &str, source: &str, scopes: &str, paths: &str| {
        config += &format!(
            "[[api.key]]\nname = \"{name}\"\n{source}\nscopes = [{scopes}]\npaths = [{paths}]\n"
        );
    };
    let sensors = r#""/ws/sensors", "/ws/rooms/*""#;
    key("sensors", &format!("key_file = \"{}\"", file.display()), "\"publish\"", sensors);
    key("sessions", "key_env = \"SESSIONS_KEY\"", "\"sessions\"", sensors);
    key("events", "key_env = \"EVENTS_KEY\"", "\"events\"", "\"/ws/rooms/*\"");
    key("metrics", "key_env = \"METRICS_KEY\"", "\"metrics\"", "\"*\"");
    key("admin", "key_env = \"ADMIN_KEY\"", "\"admin\"", "\"*\"");
    key("hashed", &format!("sha256 = \"{}\"", SHA256.to_uppercase()), "\"publish\"", "\"*\"");
    let environment = [
        ("SESSIONS_KEY", "secret-of-the-sessions"),
        ("EVENTS_KEY", "secret-of-the-events"),
        ("METRICS_KEY", "secret-of-the-metrics"),
        ("ADMIN_KEY", "secret-of-the-admin"),
    ];
    (Gateway::start_whole(&config, &environment).await, dir)
}

const SENSORS: &str = "secret-of-the-sensors";
const SESSIONS: &str = "secret-of-the-sessions";
const EVENTS: &str = "secret-of-the-events";
const METRICS: &str = "secret-of-the-metrics";
const ADMIN: &str = "secret-of-the-admin";

async fn call(gateway: &Gateway, key: &str, method: &str, target: &str, body: &str) -> Said {
    let kind = if body.starts_with('{') || body.starts_with('[') {
        "application/json"
    } else {
        "text/plain"
    };
    let request = gateway.call(method, target).bearer_auth(key).header("content-type", kind);
    send(request.body(body.to_owned())).await
}

async fn check(gateway: &Gateway, key: &str, method: &str, target: &str, status: u16) {
    let body = if method == "POST" { "x" } else { "" };
    let said = call(gateway, key, method, target, body).await;
    assert_eq!(said.status, status, "{key} {method} {target}: {}", said.text);
}

async fn listen(gateway: &Gateway, target: &str) -> Events {
    let request = gateway.call("GET", target).bearer_auth(ADMIN);
    Events::new(within("a stream of events", request.send()).await.expect("the door answers"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_opens_its_calls_and_no_others() {
    let (gateway, _dir) = start().await;
    let gateway = &gateway;
    let calls = [
        ("POST", "/v1/publish/ws/rooms/1", SENSORS, 202),
        ("POST", "/v1/sessions/none", SENSORS, 410),
        ("GET", "/v1/sessions", SESSIONS, 200),
        ("GET", "/v1/sessions/none", SESSIONS, 410),
        ("DELETE", "/v1/sessions/none", SESSIONS, 410),
        ("GET", "/metrics", METRICS, 200),
    ];
    check(gateway, "the-key-of-nobody-else", "POST", "/v1/publish/ws/secret", 202).await;
    for (method, target, opens, status) in calls {
        for key in [SENSORS, SESSIONS, EVENTS, METRICS, ADMIN] {
            let expected = if key == opens || key == ADMIN { status } else { 403 };
            check(gateway, key, method, target, expected).await;
        }
    }
    for (key, status) in [(EVENTS, 200), (ADMIN, 200), (SENSORS, 403), (METRICS, 403)] {
        let request = gateway.call("GET", "/v1/events/ws/rooms/1").bearer_auth(key);
        let answer = within("an answer", request.send()).await.expect("the door answers");
        assert_eq!(answer.status(), status, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_key_there_is_only_health() {
    let (gateway, _dir) = start().await;
    let calls = [
        ("POST", "/v1/publish/ws/sensors"),
        ("POST", "/v1/publish"),
        ("GET", "/v1/paths"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/x"),
        ("DELETE", "/v1/sessions/x"),
        ("GET", "/v1/events/ws/sensors"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
    ];
    for (method, target) in calls {
        let bare = || gateway.call(method, target);
        let upper = SENSORS.to_uppercase();
        let wrong = [
            bare(),
            bare().bearer_auth("wrong"),
            bare().bearer_auth(""),
            bare().bearer_auth(&SENSORS[1..]),
            bare().bearer_auth(upper),
            bare().bearer_auth(SHA256),
            bare().basic_auth("sensors", Some(SENSORS)),
            bare().header("authorization", SENSORS),
        ];
        for request in wrong {
            let said = send(request).await;
            assert_eq!(said.status, 401, "{method} {target}: {}", said.text);
            let challenge = said.headers.get("www-authenticate").and_then(|it| it.to_str().ok());
            assert!(challenge.is_some_and(|it| it.starts_with("Bearer")), "{challenge:?}");
            assert_eq!(said.headers["content-type"], "application/problem+json");
            assert_eq!(said.json()["status"], 401);
        }
    }
    for target in ["/livez", "/readyz"] {
        assert_eq!(send(gateway.call("GET", target)).await.status, 200);
        // Any name leads here: the kubelet calls by address.
        let foreign = gateway.call("GET", target).header("host", "10.1.2.3:8081");
        assert_eq!(send(foreign).await.status, 200);
    }
    // With keys it does not matter by which name the API is called, or from which page.
    let called = gateway.call("GET", "/v1/paths").bearer_auth(ADMIN);
    let called = called.header("host", "pathcast.internal").header("origin", "https://a.example");
    let said = send(called).await;
    assert_eq!(said.status, 200, "{}", said.text);
    assert!(!said.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_touches_its_paths_only() {
    let (gateway, _dir) = start().await;
    let gateway = &gateway;
    for (target, status) in [
        ("/ws/sensors", 202),
        ("/ws/rooms/1", 202),
        ("/ws/rooms/%C3%A9", 202),
        ("/ws/rooms/1/2", 403),
        ("/ws/secret", 403),
        ("/ws/sensors/", 403),
        // What does not exist is no more told than what does.
        ("/ws/none", 403),
        ("/ws/rooms/a+b", 404),
    ] {
        check(gateway, SENSORS, "POST", &format!("/v1/publish{target}"), status).await;
    }
    for (target, status) in [
        ("/v1/sessions?path=/ws/sensors", 200),
        ("/v1/sessions?path=/ws/rooms/1", 200),
        ("/v1/sessions?path=/ws/rooms/%7Broom%7D", 200),
        ("/v1/sessions?path=/ws/secret", 403),
    ] {
        check(gateway, SESSIONS, "GET", target, status).await;
    }
    check(gateway, EVENTS, "GET", "/v1/events/ws/sensors", 403).await;
    check(gateway, EVENTS, "GET", "/v1/events/ws/secret", 403).await;
    check(gateway, EVENTS, "GET", "/v1/events/ws/rooms/a+b", 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_session_is_gone_for_a_key_that_may_not_touch_it() {
    let (gateway, _dir) = start().await;
    let gateway = &gateway;
    let mut events = listen(gateway, "/v1/events/ws/secret").await;
    let (mut secret, its) = gateway.open_known("/ws/secret", &mut events).await;
    let target = format!("/v1/sessions/{its}");
    check(gateway, SENSORS, "POST", &target, 410).await;
    check(gateway, SESSIONS, "GET", &target, 410).await;
    check(gateway, SESSIONS, "DELETE", &target, 410).await;
    check(gateway, SENSORS, "POST", &format!("/v1/publish/ws/sensors?session={its}"), 410).await;
    check(gateway, SENSORS, "POST", &format!("/v1/publish/ws/secret?session={its}"), 403).await;
    let listed = call(gateway, SESSIONS, "GET", "/v1/sessions", "").await.json();
    assert_eq!(listed["sessions"], json!([]), "{listed}");

    check(gateway, ADMIN, "POST", &target, 200).await;
    secret.expect_text("x").await;
    check(gateway, ADMIN, "DELETE", &target, 200).await;
    assert_eq!(secret.closing().await.close_code(), Some(4000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_shows_what_is_granted() {
    let (gateway, _dir) = start().await;
    let gateway = &gateway;
    let mut clients = Vec::new();
    for path in ["/ws/sensors", "/ws/rooms/1", "/ws/secret"] {
        clients.push(gateway.open(path).await);
    }
    let member = |listing: Value, list: &str| -> Vec<String> {
        let all = listing[list].as_array().expect("a list").clone();
        let mut paths: Vec<_> =
            all.iter().map(|one| one["path"].as_str().expect("a text").to_owned()).collect();
        paths.sort();
        paths
    };
    for (key, expected) in [
        (SENSORS, &["/ws/rooms/1", "/ws/rooms/{room}", "/ws/sensors"][..]),
        (EVENTS, &["/ws/rooms/1", "/ws/rooms/{room}"]),
        (ADMIN, &["/ws/rooms/1", "/ws/rooms/{room}", "/ws/secret", "/ws/sensors"]),
    ] {
        let listing = call(gateway, key, "GET", "/v1/paths", "").await.json();
        assert_eq!(member(listing, "paths"), expected, "{key}");
    }
    let sessions = |listing| member(listing, "sessions");
    let seen = sessions(call(gateway, SESSIONS, "GET", "/v1/sessions", "").await.json());
    assert_eq!(seen, ["/ws/rooms/1", "/ws/sensors"]);
    let seen = sessions(call(gateway, ADMIN, "GET", "/v1/sessions", "").await.json());
    assert_eq!(seen, ["/ws/rooms/1", "/ws/secret", "/ws/sensors"]);
    // Neither does a hint name what the key may not know.
    let said = call(gateway, EVENTS, "GET", "/v1/events/ws/rooms/a+b", "").await;
    assert!(!said.text.contains("secret") && !said.text.contains("sensors"), "{}", said.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_judged_item_by_item() {
    let (gateway, _dir) = start().await;
    let mut secret = gateway.open("/ws/secret").await;
    let mut sensors = gateway.open("/ws/sensors").await;
    let item = |path: &str| json!({"path": path, "msg": {"payload": path}});
    let items =
        json!([item("/ws/secret"), item("/ws/sensors"), item("/ws/none"), item("/ws/rooms/1")]);
    let said = call(&gateway, SENSORS, "POST", "/v1/publish", &items.to_string()).await;
    let statuses: Vec<_> =
        said.json().as_array().expect("an array").iter().map(|one| one["status"].clone()).collect();
    assert_eq!(json!(statuses), json!([403, 202, 403, 202]), "{}", said.text);
    sensors.expect_text("/ws/sensors").await;
    let said = call(&gateway, ADMIN, "POST", "/v1/publish/ws/secret", "sentinel").await;
    assert_eq!(said.status, 202);
    secret.expect_text("sentinel").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_only_this_machine_is_answered() {
    let gateway = Gateway::start(PATHS).await;
    let port = gateway.api.rsplit_once(':').expect("an address and a port").1;
    let gateway = &gateway;
    let check = async |host: &str, origin: Option<&str>, status: u16| {
        for (method, target) in [
            ("POST", "/v1/publish/ws/sensors"),
            ("GET", "/v1/sessions"),
            ("DELETE", "/v1/sessions/x"),
        ] {
            let mut request = gateway.call(method, target).header("host", host).body("x");
            request = request.header("content-type", "text/plain");
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let said = send(request).await;
            let refused = said.status == 403;
            assert_eq!(
                refused,
                status == 403,
                "{method} {target} {host} {origin:?}: {}",
                said.text
            );
            assert!(!said.headers.contains_key("access-control-allow-origin"));
        }
        let live = gateway.call("GET", "/livez").header("host", host);
        assert_eq!(send(live).await.status, 200, "{host}");
    };
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.0.0.2"] {
        let host = format!("{host}:{port}");
        check(&host, None, 200).await;
        check(&host, Some(&format!("http://{host}")), 200).await;
        check(&host, Some(&format!("https://{host}")), 403).await;
        check(&host, Some("http://localhost:1"), 403).await;
        check(&host, Some("null"), 403).await;
        check(&host, Some("https://evil.example"), 403).await;
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "[::]", "[fe80::1]"] {
        check(&format!("{host}:{port}"), None, 403).await;
        check(host, Some(&format!("http://{host}")), 403).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_are_refused_at_the_start() {
    let with = |key: &str| format!("{DOORS}{PATHS}[[api.key]]\nname = \"k\"\n{key}\n");
    let publish = "scopes = [\"publish\"]";
    for (key, named) in [
        (publish.to_string(), "has no key"),
        (format!("key_file = \"/no/such/file\"\n{publish}"), "/no/such/file"),
        (format!("key_env = \"NO_SUCH_VARIABLE\"\n{publish}"), "key_env"),
        (format!("sha256 = \"12\"\n{publish}"), "sha256"),
        (format!("sha256 = \"{SHA256}\"\nkey_env = \"PATH\"\n{publish}"), "key_env"),
        (format!("sha256 = \"{SHA256}\"\nscopes = [\"read\"]"), "scopes"),
        (format!("sha256 = \"{SHA256}\"\nscopes = []"), "scopes"),
        (format!("sha256 = \"{SHA256}\""), "scopes"),
        (format!("sha256 = \"{SHA256}\"\n{publish}\npaths = [\"ws\"]"), "paths"),
    ] {
        let said = fail_to_start(&with(&key)).await;
        assert!(said.contains(named) && said.contains("pathcast.toml:"), "{key}: {said}");
        assert!(!said.contains(SHA256), "a secret in {said}");
    }
    let open = "[clients]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"0.0.0.0:0\"\n[[path]]\npath = \"/ws\"\n";
    let said = fail_to_start(open).await;
    assert!(said.contains("key") && said.contains("pathcast.toml:4"), "{said}");
}
