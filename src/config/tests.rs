//! The whole way, from text and variables to settings or an error.

use proptest::prelude::*;

use super::*;
use crate::proto::grant::{Glob, Grant};
use crate::proto::paths::{Configured, OnFull, OnGap, Origins, Pattern, Slow};
use crate::trace::logs::{self, Format};
use crate::trace::span;

const WS: &str = "[[path]]\npath = \"/ws\"\n";
const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The complete example of the documentation, with files that exist where it names secrets.
fn example() -> (String, tempfile::TempDir) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let docs = std::fs::read_to_string(path).expect("the documentation is there");
    let example = docs.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let (dir, secrets) = (certificates(), "/run/secrets");
    std::fs::write(dir.path().join("backend"), "fedcba9876543210\n").expect("a writable file");
    std::fs::write(dir.path().join("webhook"), format!("{WEBHOOK_SECRET}\n"))
        .expect("a writable file");
    let example = example.expect("there is an example");
    (example.replace(secrets, &dir.path().display().to_string()), dir)
}

/// A folder with a certificate, its key, and something that is neither.
fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a place for files");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let made = made.expect("a certificate can be made");
    let put = |name, text: String| std::fs::write(dir.path().join(name), text);
    put("redis-ca.crt", made.cert.pem()).expect("a writable file");
    put("feed-ca.crt", made.cert.pem()).expect("a writable file");
    put("redis.crt", made.cert.pem()).expect("a writable file");
    put("redis.key", made.signing_key.serialize_pem()).expect("a writable file");
    put("other", "neither".into()).expect("a writable file");
    dir
}

/// Settings of a file with this text, called `f.toml` in errors, and these variables.
fn settings(text: &str, env: &[(&str, &str)]) -> Result<Settings, String> {
    let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    understand("f.toml", text, &Source { path: None, env }).map_err(|error| error.to_string())
}

#[track_caller]
fn good(text: &str, env: &[(&str, &str)]) -> Settings {
    match settings(text, env) {
        Ok(settings) => settings,
        Err(error) => panic!("{text}\n{error}"),
    }
}

/// The error begins with the first fragment and holds the others.
#[track_caller]
fn bad_with(text: &str, env: &[(&str, &str)], fragments: &[&str]) {
    let error = settings(text, env).map(|settings| settings.to_toml()).expect_err(text);
    assert!(error.starts_with(fragments[0]), "{text}\n{error}");
    for fragment in fragments {
        assert!(error.contains(fragment), "{fragment:?} is not in\n{error}");
    }
}

#[track_caller]
fn bad(text: &str, fragments: &[&str]) {
    bad_with(text, &[], fragments);
}

/// The same for a text before a good path.
#[track_caller]
fn bad_section(text: &str, fragments: &[&str]) {
    bad(&format!("{text}\n{WS}"), fragments);
}

/// The same for lines within a path.
#[track_caller]
fn bad_path(lines: &str, fragments: &[&str]) {
    bad(&format!("{WS}{lines}\n"), fragments);
}

#[track_caller]
fn bad_variable(name: &str, value: &str, fragments: &[&str]) {
    bad_with(WS, &[(name, value)], fragments);
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a good pattern")
}

#[test]
fn without_a_file_there_is_one_open_path() {
    let settings = load(&Source::default()).expect("the defaults are good");
    let paths: Vec<Configured> = settings.paths.iter().map(|one| (**one).clone()).collect();
    assert_eq!(paths, [Configured::new(pattern("/ws"))]);
    let same_host = Origins::Listed { same_host: true, origins: vec![] };
    assert_eq!(settings.gateway.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(settings.gateway.origins, same_host);
    assert_eq!(settings.api.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(settings.hub.message_bytes_max, 1 << 20);
    assert!((1..=256).contains(&settings.hub.shards));
    assert_eq!(settings.relay.unicast_timeout, Duration::from_secs(2));
    assert!(settings.broker.is_none());
    assert_eq!(settings.source, None);
}

#[test]
fn every_setting_gets_to_its_part() {
    let settings = good(
        r#"
        [clients]
        listen = "[::1]:9000"
        origins = ["same-host", "https://App.example:443", "http://[::1]:3000"]
        tls = { cert = "c.pem", key = "k.pem" }
        handshake_timeout = "3s"
        [api]
        listen = "0.0.0.0:0"
        [[api.key]]
        name = "all"
        sha256 = "BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        scopes = ["publish", "admin"]
        [[api.key]]
        name = "some"
        key_env = "SOME_KEY"
        scopes = ["events"]
        paths = ["/ws/*"]
        [broker]
        url = "redis://:hunter2@redis.example/1"
        prefix = "other"
        lease_ttl = "7s"
        unready_after = "8s"
        unicast_timeout = "1s"
        stream_partitions = 3
        stream_backlog_max = 4
        [limits]
        message_bytes_max = "1kB"
        publish_bytes_max = "2kB"
        batch_bytes_max = "3kB"
        frame_bytes_max = "4kB"
        outbox_bytes_max = "5kB"
        outbox_total_bytes_max = "6kB"
        inbound_total_bytes_max = "7kB"
        mailbox_bytes_max = "8kB"
        slow_after = "9s"
        close_timeout = "10s"
        sessions_max = 11
        sessions_soft_max = 10
        session_age_max = "17s"
        handshakes_max = 12
        handshakes_per_second = 13
        concrete_paths_max = 14
        [hub]
        shards = 3
        join_pause = "200us"
        [log]
        format = "json"
        level = "warn,pathcast::hub=debug"
        [trace]
        otlp = "https://collector.internal:4317"
        sample = 0.25
        service = "gateway"
        [kubernetes]
        deletion_cost = true
        account = "/account"
        [drain]
        settle = "18s"
        window = "19s"
        retry_after = "15s"
        timeout = "16s"
        [[path]]
        path = "/ws/rooms/{room}"
        wholemsg = true
        echo = true
        heartbeat = "off"
        idle = "1h"
        subprotocols = ["v2", "v1"]
        origins = ["*"]
        on_gap = "close"
        slow = "drop-oldest"
        flush_interval = "20ms"
        [[path]]
        path = "/ws/{x}"
        slow = "latest"
        concrete_paths_max = 17
        backend = { stream = true, on_full = "drop_oldest" }
        "#,
        &[
            ("SOME_KEY", " 0123456789abcdef\n"),
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("POD_NAMESPACE", "chat"),
            ("POD_NAME", "pathcast-0"),
        ],
    );
    let kubernetes = kubernetes::Config {
        host: "10.0.0.1".into(),
        port: 443,
        namespace: "chat".into(),
        pod: "pathcast-0".into(),
        account: "/account".into(),
    };
    assert_eq!(settings.kubernetes, Some(kubernetes));
    let second = |seconds| Duration::from_secs(seconds);
    let origins = vec!["https://app.example".into(), "http://[::1]:3000".into()];
    let gateway = gateway::Config {
        listen: "[::1]:9000".parse().expect("an address"),
        tls: Some(gateway::Tls { cert: "c.pem".into(), key: "k.pem".into() }),
        origins: Origins::Listed { same_host: true, origins },
        handshake_timeout: second(3),
        handshakes_max: 12,
        handshakes_per_second: Some(13),
    };
    assert_eq!(settings.gateway, gateway);
    let hub = hub::Config {
        shards: 3,
        sessions_max: 11,
        session_age_max: Some(second(17)),
        message_bytes_max: 1000,
        frame_bytes_max: 4000,
        outbox_bytes_max: 5000,
        outbox_total_bytes_max: 6000,
        inbound_total_bytes_max: 7000,
        mailbox_bytes_max: 8000,
        slow_after: second(9),
        close_timeout: second(10),
        join_pause: Some(Duration::from_micros(200)),
    };
    assert_eq!(settings.hub, hub);
    let relay = relay::Config {
        frame_bytes_max: 4000,
        unicast_timeout: second(1),
        unready_after: second(8),
        sessions_soft_max: Some(10),
    };
    assert_eq!(settings.relay, relay);
    let broker = settings.broker.expect("a Redis");
    assert_eq!((broker.prefix.as_str(), broker.lease_ttl), ("other", second(7)));
    assert_eq!(broker.ask_timeout, second(1));
    assert_eq!((settings.stream_partitions, settings.stream_backlog_max), (3, 4));
    assert_eq!((settings.api.publish_bytes_max, settings.api.batch_bytes_max), (2000, 3000));
    let [all, some] = &settings.api.keys[..] else { panic!("two keys") };
    assert_eq!((all.sha256[0], all.sha256[31]), (0xba, 0xad));
    assert_eq!(all.scopes, [api::Scope::Publish, api::Scope::Admin]);
    assert_eq!(all.grant, Grant::All);
    let glob = Glob::parse("/ws/*").expect("a good glob");
    assert_eq!(some.grant, Grant::Globs([glob].into()));
    // printf %s 0123456789abcdef | sha256sum
    assert_eq!((some.sha256[0], some.sha256[31]), (0x9f, 0x9f));
    let level = "warn,pathcast::hub=debug".into();
    assert_eq!(settings.log, logs::Config { format: Format::Json, level });
    let otlp = Some("https://collector.internal:4317".to_owned());
    let trace = span::Config { otlp, sample: 0.25, service: "gateway".into() };
    assert_eq!(settings.trace, trace);
    let drain = Drain {
        settle: second(18),
        window: second(19),
        retry_after: second(15),
        timeout: second(16),
    };
    assert_eq!(settings.drain, drain);
    let paths: Vec<Configured> = settings.paths.iter().map(|one| (**one).clone()).collect();
    let room = Configured {
        wholemsg: true,
        echo: true,
        heartbeat: None,
        idle: Some(second(3600)),
        subprotocols: vec!["v2".into(), "v1".into()],
        origins: Some(Origins::Any),
        on_gap: OnGap::Close,
        slow: Slow::DropOldest,
        flush_interval: Some(Duration::from_millis(20)),
        concrete_paths_max: 14,
        ..Configured::new(pattern("/ws/rooms/{room}"))
    };
    let x = pattern("/ws/{x}");
    let x = Configured {
        slow: Slow::Latest,
        concrete_paths_max: 17,
        stream: true,
        on_full: OnFull::DropOldest,
        ..Configured::new(x)
    };
    assert_eq!(paths, [room, x]);
}

#[test]
fn a_file_says_which_paths_there_are() {
    bad("", &["f.toml: there is no path", "[[path]]"]);
    bad("path = []", &["f.toml:1:8: there is no path"]);
    bad("[hub]\nshards = 1\n", &["f.toml: there is no path"]);
    bad("[path]\npath = \"/ws\"", &["f.toml:1:2: `path` is a list", "[[path]]"]);
    bad("[[path]]\necho = true", &["f.toml:1:1: [[path]] needs `path`"]);
    bad("[[path]]\npath = \"ws\"", &["f.toml:2:8: \"ws\" is not a path", "mean \"/ws\"?"]);
    bad("[[path]]\npath = \"/a b\"", &["f.toml:2:8: ", "percent-encode"]);
    bad("[[path]]\npath = \"/a{b}\"", &["f.toml:2:8: ", "braces"]);
    bad(&[WS, WS].concat(), &["f.toml:4:8: \"/ws\" is configured twice", "in line 2, column 8"]);
    bad(
        "[[path]]\npath = \"/{a}/x\"\n[[path]]\npath = \"/y/{b}\"",
        &["f.toml:4:8: \"/y/{b}\" can match the same paths as /{a}/x", "in line 2, column 8"],
    );
}

#[test]
fn an_unknown_key_is_told_with_the_one_that_was_meant() {
    bad_section("[client]\nlisten = 1", &["f.toml:1:2: unknown", "did you mean `clients`?"]);
    bad_section("[clients]\nlisen = 1", &["f.toml:2:1: ", "in [clients]", "mean `listen`?"]);
    bad_section("listen = 1", &["f.toml:1:1: ", "`listen` belongs to [clients] or [api]"]);
    bad_section("[limits]\nhandshake_timeout = \"1s\"", &["f.toml:2:1: ", "to [clients]"]);
    bad_section("[drain]\nurl = \"\"", &["f.toml:2:1: ", "`url` belongs to [broker]"]);
    bad_path("shards = 1", &["f.toml:3:1: ", "in [[path]]", "`shards` belongs to [hub]"]);
    bad_path("color = 1", &["f.toml:3:1: ", "known here: path, wholemsg"]);
    bad_path("auth = 1", &["f.toml:3:1: ", "`auth` comes with a later version"]);
    bad_section("[limits]\nslow = 1", &["f.toml:2:1: ", "mean `slow_after`?"]);
    let excerpt = "\n  |\n3 | heart_beat = 1\n  | ^^^^^^^^^^\n  = did you mean `heartbeat`?";
    bad_path("heart_beat = 1", &["f.toml:3:1: unknown key `heart_beat`", excerpt]);
    // The first of two in the file, not in the alphabet.
    bad_section("[log]\nx = 1\n[api]\ny = 1", &["f.toml:2:1: "]);
}

#[test]
fn clients_are_told_that_a_backend_is_slow_before_they_are_cut_off() {
    let hooked = |text: &str, fragments: &[&str]| {
        bad(&format!("{text}\n{WS}backend = {{ webhook = \"http://h/\" }}\n"), fragments);
    };
    let limit = ["f.toml:2:17: connect_limit of [webhook] (20s) is not below", "raise handshake"];
    hooked("[webhook]\nconnect_limit = \"20s\"", &limit);
    let timeout = ["f.toml:2:21: connect_limit of [webhook] (5s) is not below", "(5s)"];
    hooked("[clients]\nhandshake_timeout = \"5s\"", &timeout);
    // Where nobody waits for a backend it says nothing.
    good(&format!("[clients]\nhandshake_timeout = \"5s\"\n{WS}"), &[]);
    let patient = "[clients]\nhandshake_timeout = \"21s\"\n[webhook]\nconnect_limit = \"20s\"";
    good(&format!("{patient}\n{WS}backend = {{ webhook = \"http://h/\" }}\n"), &[]);
}

#[test]
fn a_value_of_the_wrong_type_is_told_what_is_right() {
    bad_section("[clients]\nlisten = 8080", &["f.toml:2:10: ", "an integer", "0.0.0.0:8080"]);
    bad_section("[hub]\nshards = \"4\"", &["f.toml:2:10: ", "without the quotes"]);
    bad_section("[hub]\nshards = 0", &["f.toml:2:10: 0 is not", "from 1 to 256"]);
    bad_section("[hub]\nshards = 257", &["f.toml:2:10: 257 is not"]);
    bad_section("[limits]\nsessions_max = -1", &["f.toml:2:16: -1 is not"]);
    let soft = "[limits]\nsessions_max = 9\nsessions_soft_max = 10";
    bad_section(soft, &["f.toml:3:21: ", "more than sessions_max (9)", "below it"]);
    bad_section("[limits]\nsessions_soft_max = 0", &["f.toml:2:21: ", "never be ready"]);
    bad_section("[limits]\nslow_after = 30", &["f.toml:2:14: 30 has no unit", "\"30s\""]);
    bad_section("[limits]\nmessage_bytes_max = 0", &["f.toml:2:21: ", "at least \"1B\""]);
    bad_section("[limits]\nframe_bytes_max = 4.5", &["f.toml:2:19: ", "a size such as"]);
    bad_section("[trace]\nsample = 1.5", &["f.toml:2:10: 1.5 is not a number from 0", "to 1"]);
    bad_section("[trace]\nsample = \"1\"", &["f.toml:2:10: ", "without the quotes"]);
    bad_section("[trace]\nsample = nan", &["f.toml:2:10: NaN is not"]);
    bad_section("[trace]\nservice = \" \"", &["f.toml:2:11: ", "a name"]);
    bad_section("[trace]\notlp = \"h:4317\"", &["f.toml:2:8: ", "\"http://collector:4317\""]);
    bad_section("[log]\nformat = \"josn\"", &["f.toml:2:10: ", "did you mean \"json\"?"]);
    bad_section("[[clients]]\nlisten = 1", &["f.toml:1:3: ", "write one bracket: [clients]"]);
    bad_path("echo = \"yes\"", &["f.toml:3:8: expected true or false"]);
    bad_path("heartbeat = \"0s\"", &["f.toml:3:13: ", "say \"off\""]);
    bad_path("idle = 0", &["f.toml:3:8: ", "say \"off\""]);
    bad_path("on_gap = \"closed\"", &["f.toml:3:10: "]);
    bad_path("compress = true", &["f.toml:3:12: ", "a size such as \"256B\", or \"off\""]);
    bad_path("compress = 256", &["f.toml:3:12: 256 has no unit", "\"256B\""]);
    bad_path("slow = \"drop_oldest\"", &["f.toml:3:8: ", "mean \"drop-oldest\"?"]);
    bad_path("flush_interval = \"0\"", &["f.toml:3:18: ", "say \"off\""]);
    bad_section("[hub]\njoin_pause = 200", &["f.toml:2:14: 200 has no unit", "\"200us\""]);
    bad_path("subprotocols = \"a\"", &["f.toml:3:16: expected a list"]);
    bad_path("concrete_paths_max = 0", &["f.toml:3:22: 0 is not"]);
}

#[test]
fn a_flush_interval_is_short_and_outlived_by_unicasts() {
    bad_path("flush_interval = \"1001ms\"", &["f.toml:3:18: ", "at most \"1s\""]);
    let impatient = format!("[broker]\nunicast_timeout = \"50ms\"\n{WS}");
    good(&format!("{impatient}flush_interval = \"49ms\""), &[]);
    let late = ["f.toml:5:18: a unicast", "given up after 50ms", "below `unicast_timeout`"];
    bad(&format!("{impatient}flush_interval = \"50ms\""), &late);
}

#[test]
fn streams_need_a_redis_and_no_echo() {
    let stream = "backend = { stream = true }";
    bad_path(stream, &["f.toml:3:22: streams are kept in Redis", "set `url` in [broker]"]);
    bad_path(&format!("echo = true\n{stream}"), &["f.toml:4:11: a path with `echo`"]);
    bad_path("backend = true", &["f.toml:3:11: expected a table"]);
    bad_path("backend = { streem = true }", &["f.toml:3:13: ", "did you mean `stream`?"]);
    let url = "[broker]\nurl = \"redis://localhost\"\n";
    good(&format!("{url}{WS}{stream}"), &[]);
    good(&format!("{WS}backend = {{ stream = false }}"), &[]);
    let loose = "backend = { on_full = \"drop_oldest\" }";
    bad_path(loose, &["f.toml:3:23: `on_full` speaks of a stream", "add `stream = true`"]);
    let mistyped = "backend = { stream = true, on_full = \"drop-oldest\" }";
    bad(&format!("{url}{WS}{mistyped}"), &["f.toml:5:", "mean \"drop_oldest\"?"]);
}

#[test]
fn a_webhook_is_a_url_that_hides_nothing() {
    let webhook = |url: &str| format!("backend = {{ webhook = \"{url}\" }}");
    good(&format!("{WS}{}", webhook("https://api.internal/ws?a=b")), &[]);
    bad_path(&webhook("ftp://x/"), &["f.toml:3:23: webhooks are called over http", "as in"]);
    bad_path(&webhook("api.internal"), &["f.toml:3:23: this is not a URL", "as in \"http://"]);
    bad_path(&webhook("http://x/#y"), &["f.toml:3:23: a fragment is never sent"]);
    let error = settings(&format!("{WS}{}", webhook("http://u:hunter2@x/")), &[]);
    let error = error.map(|settings| settings.to_toml()).expect_err("it holds a password");
    assert!(error.contains("no password") && !error.contains("hunter2"), "{error}");
    bad_path(&format!("echo = true\n{}", webhook("http://x/")), &["f.toml:4:11: a path with"]);
    bad_path(
        "backend = { webhook = \"http://x/\", on_error = \"give_up\" }",
        &["f.toml:3:", "one of \"retry\", \"drop\", \"close\""],
    );
}

#[test]
fn secrets_of_webhooks_are_told_once_and_never_shown() {
    let with = |lines: &str| format!("[[webhook.secret]]\n{lines}\n{WS}");
    let key = format!("key = \"{WEBHOOK_SECRET}\"");
    let settings = good(&with(&key), &[]);
    assert_eq!(settings.webhook.secrets.len(), 1);
    for shown in [settings.to_toml(), settings.to_json(), format!("{:?}", settings.webhook)] {
        assert!(!shown.contains("MfKQ"), "{shown}");
    }
    let env = [("HOOK", WEBHOOK_SECRET)];
    assert_eq!(good(&with("key_env = \"HOOK\""), &env).webhook.secrets.len(), 1);
    let one = "exactly one of key, key_file and key_env";
    bad(&with(""), &["f.toml:1:1: a secret is empty", one]);
    bad(&with(&format!("{key}\nkey_env = \"HOOK\"")), &["f.toml:1:1: a secret is told twice", one]);
    bad(&with("key_env = \"HOOK\""), &["f.toml:2:11: there is no such environment variable"]);
    bad(
        &with("key_file = \"/no/such\""),
        &["f.toml:2:12: the secret cannot be read from /no/such"],
    );
    for (secret, what) in
        [("hunter2", "begins with \"whsec_\""), ("whsec_aHVudGVyMg==", "this one has 7")]
    {
        let error = settings_error(&with(&format!("key = \"{secret}\"")));
        assert!(error.contains(what) && error.contains("openssl rand"), "{error}");
        assert!(!error.contains(secret), "{error}");
    }
    bad_section("[webhook]\norigin = \"a b\"", &["f.toml:2:10: \"a b\" is not the name of a host"]);
    bad_section("[webhook]\nin_flight = 0", &["f.toml:2:13: 0 is not"]);
    bad_section("[webhook]\ntimeout = \"0s\"", &["f.toml:2:11: "]);
}

#[track_caller]
fn settings_error(text: &str) -> String {
    settings(text, &[]).map(|settings| settings.to_toml()).expect_err(text)
}

#[test]
fn what_is_no_toml_is_told_in_plain_words() {
    bad_path("heartbeat = 30s", &["f.toml:3:13: quotes are missing", "heartbeat = \"…\""]);
    bad_section("[api]\nlisten = 127.0.0.1:80", &["f.toml:2:", "quotes: listen = "]);
    bad_path("echo = True", &["f.toml:3:8: ", "written small"]);
    bad_path("echo: true", &["f.toml:3:", "an `=` is missing"]);
    bad_path("subprotocols = [", &["f.toml:3:"]);
    bad_section("[hub]\nshards = 99999999999999999999", &["f.toml:2:10: ", "too large"]);
    bad_section("[api]\n[api]", &["f.toml:2:2: duplicate key"]);
    bad("\u{feff}[[path]]\r\n\u{e9} = 1", &["f.toml:2:1: "]);
    good("\u{feff}[[path]]\r\npath = \"/ws\"\r\n", &[]);
}

#[test]
fn listeners_are_addresses_that_can_both_be_bound() {
    let listen = |clients: &str, api: &str| {
        format!("[clients]\nlisten = \"{clients}\"\n[api]\nlisten = \"{api}\"")
    };
    bad_section("[api]\nlisten = \":81\"", &["f.toml:2:10: ", "\"0.0.0.0:81\""]);
    bad_section("[api]\nlisten = \"localhost:81\"", &["f.toml:2:10: ", "\"127.0.0.1:81\""]);
    bad_section("[api]\nlisten = \"::1\"", &["f.toml:2:10: ", "\"[::1]:8080\""]);
    bad_section("[api]\nlisten = \"10.0.0.1:99999\"", &["f.toml:2:10: ", "as in"]);
    bad_section(
        "[api]\nlisten = \"10.0.0.1:81\"",
        &["f.toml:2:10: without a key", "add an [[api.key]], or bind 127.0.0.1:81"],
    );
    bad_section(&listen("[::]:80", "127.0.0.1:80"), &["f.toml:4:10: ", "in line 2, column 10"]);
    bad_section(
        "[clients]\nlisten = \"127.0.0.1:8081\"",
        &["f.toml:2:10: ", "the default of `api.listen`"],
    );
    good(&[&listen("127.0.0.1:0", "127.0.0.1:0"), "\n", WS].concat(), &[]);
    good(&[&listen("127.0.0.2:80", "127.0.0.1:80"), "\n", WS].concat(), &[]);
    bad_section("[clients]\ntls = { cert = \"c\" }", &["f.toml:2:1: ", "needs `key`"]);
}

#[test]
fn origins_and_subprotocols_are_what_browsers_send() {
    let origin = |text: &str| format!("[clients]\norigins = [\"{text}\"]");
    bad_section(&origin("*\", \"same-host"), &["f.toml:2:12: \"*\" allows every origin"]);
    bad_section(&origin("same_host"), &["f.toml:2:12: ", "did you mean \"same-host\"?"]);
    bad_section(&origin("app.example"), &["f.toml:2:12: ", "a scheme and a host"]);
    bad_section(&origin("https://a.example/"), &["f.toml:2:12: ", "\"https://a.example\""]);
    bad_section(&origin("https://*.example"), &["f.toml:2:12: ", "no wildcards"]);
    bad_section(&origin("https://a:b"), &["f.toml:2:12: "]);
    bad_section(&origin("https://"), &["f.toml:2:12: "]);
    bad_path("origins = [\"null\"]", &["f.toml:3:12: "]);
    bad_path("subprotocols = [\"a b\"]", &["f.toml:3:17: \"a b\" is no name"]);
    bad_path("subprotocols = [\"\"]", &["f.toml:3:17: "]);
    bad_path("subprotocols = [\"a\", \"a\"]", &["f.toml:3:22: \"a\" stands here twice"]);
}

#[test]
fn what_has_to_hold_something_is_not_smaller() {
    bad_section("[limits]\nmailbox_bytes_max = \"1MiB\"", &["f.toml:2:21: ", "raise mail"]);
    bad_section("[limits]\nmessage_bytes_max = \"1GiB\"", &["f.toml:2:21: ", "raise inb"]);
    good(&["[limits]\noutbox_bytes_max = \"1KiB\"\n", WS].concat(), &[]);
}

#[test]
fn a_redis_is_where_its_url_says() {
    bad_section("[broker]\nurl = \"localhost\"", &["f.toml:2:7: ", "\"redis://127.0.0.1:6379\""]);
    bad_section("[broker]\nurl = \"http://localhost\"", &["f.toml:2:7: "]);
    bad_section("[broker]\nurl = \"rediss://h/#insecure\"", &["f.toml:2:7: ", "always verified"]);
    bad_section("[broker]\nprefix = \"a b\"", &["f.toml:2:10: \"a b\" cannot"]);
    bad_section("[broker]\nprefix = \"\"", &["f.toml:2:10: "]);
    bad_section("[broker]\nstream_partitions = 0", &["f.toml:2:21: ", "from 1 to 1024"]);
    bad_section("[broker]\nlease_ttl = \"2999ms\"", &["f.toml:2:13: ", "at least \"3s\""]);
    good(&["[broker]\nurl = \"redis+unix:///run/redis.sock\"\n", WS].concat(), &[]);
}

#[test]
fn tls_to_redis_is_known_to_be_good_before_the_first_connection() {
    let dir = certificates();
    let tls = |lines: &str| {
        let lines = lines.replace("DIR", &dir.path().display().to_string());
        format!("[broker]\nurl = \"rediss://localhost\"\n{lines}")
    };
    let both = "ca = \"DIR/redis-ca.crt\"\ncert = \"DIR/redis.crt\"\nkey = \"DIR/redis.key\"\n";
    for lines in ["", "ca = \"DIR/redis-ca.crt\"\n", both] {
        let broker = good(&(tls(lines) + WS), &[]).broker.expect("a Redis");
        assert!(broker.address.is_secured(), "{lines}");
    }
    for (lines, fragments) in [
        ("ca = \"DIR/none\"", &["f.toml:3:6: ", "none cannot be read"][..]),
        ("ca = \"DIR/other\"", &["f.toml:3:6: there is no certificate of an authority", "PEM"]),
        ("ca = \"DIR/redis.key\"", &["f.toml:3:6: there is no certificate of an authority"]),
        ("cert = \"DIR/redis.crt\"", &["f.toml:3:8: ", "without its key", "add key"]),
        ("key = \"DIR/redis.key\"", &["f.toml:3:7: ", "without its certificate", "add cert"]),
        ("cert = \"DIR/redis.crt\"\nkey = \"DIR/other\"", &["f.toml:4:7: there is no private key"]),
        (
            "cert = \"DIR/other\"\nkey = \"DIR/redis.key\"",
            &["f.toml:3:8: there is no certificate in it that can be used"],
        ),
    ] {
        bad_section(&tls(lines), fragments);
    }
    let plain = "[broker]\nurl = \"redis://localhost\"\nca = \"x\"";
    bad_section(plain, &["f.toml:3:6: this says nothing", "rediss://"]);
    bad_section("[broker]\nkey = \"x\"", &["f.toml:2:7: this says nothing"]);
}

#[test]
fn a_mistyped_level_does_not_silence_the_log() {
    bad_section("[log]\nlevel = \"inof\"", &["f.toml:2:9: ", "did you mean \"info\"?"]);
    bad_section("[log]\nlevel = \"\"", &["f.toml:2:9: "]);
    bad_section("[log]\nlevel = \"info,pathcast=loud\"", &["f.toml:2:9: ", "\"loud\""]);
    bad_section("[log]\nlevel = \"info,[a\"", &["f.toml:2:9: "]);
    good(&["[log]\nlevel = \"WARN,pathcast::hub=debug\"\n", WS].concat(), &[]);
}

#[test]
fn a_key_is_one_secret_with_a_name_and_something_to_do() {
    let key = |lines: &str| format!("[[api.key]]\nname = \"a\"\nscopes = [\"events\"]\n{lines}");
    let hash = format!("sha256 = \"{SHA256}\"\n");
    bad_section(&key(""), &["f.toml:1:1: the key \"a\" has no key", "exactly one of sha256"]);
    bad_section(
        &key(&[&hash, "key_env = \"X\""].concat()),
        &["f.toml:5:1: sha256 and key_env", "in line 4, column 10"],
    );
    bad_section(&key("sha256 = \"abc\""), &["f.toml:4:10: ", "these are 3 characters"]);
    bad_section(&key("key_env = \"X\""), &["f.toml:4:11: there is no such environment"]);
    bad_section(&key("key_file = \"/nowhere\""), &["f.toml:4:12: ", "/nowhere"]);
    bad_section(&key("key_file = \"/dev/zero\""), &["f.toml:4:12: ", "more than"]);
    bad_section(&key("paths = [\"ws\"]"), &["f.toml:1:1: "]);
    let with_hash = |lines: &str| key(&[&hash, lines].concat());
    bad_section(&with_hash("paths = [\"/a\", \"ws\"]"), &["f.toml:5:16: \"ws\" is no glob"]);
    bad_section(&with_hash("paths = []"), &["f.toml:5:9: ", "[\"*\"]"]);
    let none = with_hash("").replace("\"events\"", "");
    bad_section(&none, &["f.toml:3:10: a key without scopes"]);
    let unknown = with_hash("").replace("events", "event");
    bad_section(&unknown, &["f.toml:3:11: ", "did you mean \"events\"?"]);
    let twice = [with_hash(""), with_hash("")].concat();
    bad_section(&twice, &["f.toml:6:8: there is another key named \"a\"", "in line 2"]);
    let same = twice.replacen("\"a\"", "\"b\"", 1);
    bad_section(&same, &["f.toml:5:1: the keys \"b\" and \"a\" are the same"]);
    let env = |value| [("X", value)];
    let text = [&key("key_env = \"X\""), "\n", WS].concat();
    bad_with(&text, &env("short"), &["f.toml:4:11: the key has 5 bytes, at least 16"]);
    bad_with(&text, &env("with blanks in between"), &["f.toml:4:11: ", "cannot be sent"]);
    good(&text, &env("0123456789abcdef\n"));
}

#[test]
fn no_error_and_no_output_shows_a_secret() {
    let shown = |lines: &str| {
        let text = format!("[[api.key]]\nname = \"a\"\nscopes = [\"admin\"]\n{lines}\n{WS}");
        let env = [("K", "hunter2hunter2 hunter2")];
        match settings(&text, &env) {
            Ok(settings) => settings.to_toml() + &settings.to_json() + &text.replace(lines, ""),
            Err(error) => error,
        }
    };
    let lines = [
        "sha256 = \"hunter2\"",
        "sha256 = \"hunter2",
        "sha256 = hunter2",
        "key = \"hunter2\"",
        "secret = \"hunter2\"",
        "Token=\"hunter2\"",
        "password = \"hunter2\"",
        "keyy = \"hunter2\"",
        "bits = \"hunter2\"\nname = 7",
        "[api]\napi_key = \"hunter2\"",
        "[api]\nkey = \"hunter2\"",
        "[api]\nbearer_of = hunter2",
        "key_env = \"K\"",
    ];
    let url = |url| shown(&format!("sha256 = \"{SHA256}\"\n[broker]\nurl = \"{url}\""));
    assert!(url("redis://u:p@h").contains("url = \"redis://…hidden…@h\""));
    let urls = [
        "redis://:hunter2@h",
        "redis://u:hunter2@@h/0",
        "http://:hunter2@h",
        "hunter2://@",
        "redis+unix:///run/r.sock?user=u&pass=hunter2",
        "redis+unix:///run/r.sock?user=u&pass=hunter2&db=x",
    ];
    for shown in urls.map(url) {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    for line in lines {
        assert!(!shown(line).contains("hunter2"), "{}", shown(line));
    }
    bad_section(
        "[api]\nkey = \"hunter2\"",
        &["f.toml:2:7: expected a list of tables", "[[api.key]]", "sha256, key_file, key_env"],
    );
    let hash = format!("sha256 = \"{SHA256}\"");
    assert!(!shown(&hash).contains("ba7816"), "{}", shown(&hash));
    assert!(shown(&hash).contains("sha256 = \"…hidden…\""), "{}", shown(&hash));
}

#[test]
fn a_variable_beats_the_file() {
    let listen = |settings: Settings| settings.gateway.listen.to_string();
    let text = ["[clients]\nlisten = \"127.0.0.1:1\"\n", WS].concat();
    assert_eq!(listen(good(&text, &[])), "127.0.0.1:1");
    let variable = [("PATHCAST__CLIENTS__LISTEN", "127.0.0.1:2")];
    assert_eq!(listen(good(&text, &variable)), "127.0.0.1:2");
    assert_eq!(listen(good(WS, &variable)), "127.0.0.1:2");
    let lower = [("pathcast__Clients__listen", "127.0.0.1:3")];
    assert_eq!(listen(good(WS, &lower)), "127.0.0.1:3");
    assert_eq!(good(WS, &[("PATHCAST__HUB__SHARDS", "7")]).hub.shards, 7);
    let tls = [("PATHCAST__CLIENTS__TLS__CERT", "c"), ("PATHCAST__CLIENTS__TLS__KEY", "k")];
    assert!(good(WS, &tls).gateway.tls.is_some());
    // A value that is not used need not be good, but has to be of its type.
    let broken = ["[clients]\nlisten = \"nonsense\"\n", WS].concat();
    assert_eq!(listen(good(&broken, &variable)), "127.0.0.1:2");
}

#[test]
fn a_bad_variable_is_told_by_its_name() {
    let name = "PATHCAST__CLIENTS__LISTEN";
    bad_variable("PATHCAST__CLIENTS__LISEN", "", &["PATHCAST__CLIENTS__LISEN: ", name]);
    bad_variable("PATHCAST__NONSENSE", "", &["PATHCAST__NONSENSE: ", name]);
    bad_variable("PATHCAST__PATH__ECHO", "true", &["PATHCAST__PATH__ECHO: there is no such"]);
    bad_variable("PATHCAST__API__KEY", "x", &["PATHCAST__API__KEY: ", "into the file"]);
    bad_variable(name, "8080", &["PATHCAST__CLIENTS__LISTEN: ", "\"0.0.0.0:8080\""]);
    bad_variable("PATHCAST__HUB__SHARDS", "0", &["PATHCAST__HUB__SHARDS: 0 is not"]);
    bad_variable("PATHCAST__HUB__SHARDS", "two", &["PATHCAST__HUB__SHARDS: \"two\" is not"]);
    bad_variable("PATHCAST__LOG__FORMAT", "xml", &["PATHCAST__LOG__FORMAT: \"xml\" is not"]);
    let slow = "PATHCAST__LIMITS__SLOW_AFTER";
    bad_variable(slow, "3", &["PATHCAST__LIMITS__SLOW_AFTER: 3 has no unit"]);
    let cert = "PATHCAST__CLIENTS__TLS__CERT";
    bad_variable(cert, "c", &["PATHCAST__CLIENTS__TLS__CERT: [clients.tls] needs `key`"]);
    let both = [(name, "127.0.0.1:1"), ("pathcast__clients__listen", "127.0.0.1:2")];
    bad_with(WS, &both, &["pathcast__clients__listen: PATHCAST__CLIENTS__LISTEN sets the same"]);
    let text = ["[api]\nlisten = \"127.0.0.1:5\"\n", WS].concat();
    let same_port = [(name, "127.0.0.1:5")];
    bad_with(&text, &same_port, &["f.toml:2:10: ", "the variable PATHCAST__CLIENTS__LISTEN"]);
    bad_with(&["clients = 3\n", WS].concat(), &same_port, &["f.toml:1:11: expected a table"]);
    let only_port = [("PATHCAST__CLIENTS__HANDSHAKE_TIMEOUT", "1s")];
    let text = text.replace(":5", ":8080");
    bad_with(&text, &only_port, &["f.toml:2:10: ", "the default of `clients.listen`"]);
}

#[test]
fn the_variables_of_kubernetes_are_somebody_elses() {
    let env = [
        ("PATHCAST_PORT", "tcp://10.0.0.1:80"),
        ("PATHCAST_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PATHCAST_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("PATHCAST_SERVICE_HOST", "10.0.0.1"),
        ("PATHCAST_SERVICE_PORT", "80"),
        ("PATHCAST_SERVICE_PORT_HTTP", "80"),
        ("PATHCAST_CONFIG", "/etc/pathcast.toml"),
        ("PATHCAST_", ""),
    ];
    assert_eq!(good(WS, &env).wire, good(WS, &[]).wire);
}

#[test]
fn what_is_printed_loads_as_the_same_settings() {
    let check = |text: &str, env: &[(&str, &str)]| {
        let settings = good(text, env);
        assert_eq!(good(&settings.to_toml(), &[]).wire, settings.wire);
        let json: serde_json::Value =
            serde_json::from_str(&settings.to_json()).expect("what is printed is JSON");
        assert_eq!(json["path"][0]["path"], settings.wire.path[0].path);
    };
    check(WS, &[]);
    check(WS, &[("PATHCAST__HUB__SHARDS", "7"), ("PATHCAST__LOG__LEVEL", "a\"b=info")]);
    check("path = [{ path = \"/{a}\", idle = \"90s\", origins = [] }, { path = \"/b\" }]", &[]);
    let limits = "[limits]\nhandshakes_per_second = 5\nmessage_bytes_max = \"1500B\"\n";
    check(&[limits, WS].concat(), &[]);
}

#[test]
fn the_queries_of_urls_are_hidden() {
    let url = |at: &str| format!("webhook = \"http://h/{at}?code=s3cret\"");
    let text = format!(
        "[[path]]\npath = \"/ws\"\nbackend = {{ {} }}\n[[upstream]]\nname = \"feed\"\n\
         url = \"wss://h/c?code=s3cret\"\nbackend = {{ {} }}\n",
        url("a"),
        url("b"),
    );
    let shown = good(&text, &[]).to_toml();
    assert!(!shown.contains("s3cret") && shown.matches("?…hidden…").count() == 3, "{shown}");
}

#[test]
fn the_example_of_the_documentation_is_good() {
    let (text, _key) = example();
    let settings = good(&text, &[("METRICS_KEY", "a-key-of-16-bytes")]);
    assert_eq!((settings.api.keys.len(), settings.paths.iter().count()), (3, 4));
    bad(&text, &["f.toml:", "key_env = \"METRICS_KEY\"", "no such environment variable"]);
    let shown = settings.to_toml();
    assert!(shown.contains("X-Api-Key: …hidden…") && shown.contains("stream?…hidden…"), "{shown}");
    assert!(!shown.contains("123") && !shown.contains("market"), "{shown}");
}

proptest! {
    /// The example with a part replaced by anything.
    #[test]
    fn any_text_has_an_answer(
        from in 0.0..1.0f64,
        len in 0..20usize,
        put in "\\PC{0,5}|[\\[\\]{}\"=\n]",
    ) {
        let (text, _key) = example();
        let from = (text.len() as f64 * from) as usize;
        let edited: String = text
            .char_indices()
            .filter(|(at, _)| !(from..from + len).contains(at))
            .map(|(at, c)| if at == from + len { format!("{put}{c}") } else { c.to_string() })
            .collect();
        if let Err(error) = settings(&edited, &[("METRICS_KEY", "a-key-of-16-bytes")]) {
            prop_assert!(error.starts_with("f.toml:"), "{}", error);
        }
    }
}

#[test]
fn a_check_wants_a_certificate_that_can_be_used() {
    let folder = tempfile::tempdir().expect("a place for files");
    let file = |name: &str| folder.path().join(name);
    let made = || rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let (one, other) = (made(), made());
    let tls = format!("tls = {{ cert = {:?}, key = {:?} }}\n", file("cert"), file("key"));
    std::fs::write(file("toml"), format!("[clients]\n{tls}{WS}")).expect("a writable file");
    let source = Source { path: Some(file("toml")), env: vec![] };
    let refused = |name: &str| {
        assert!(load(&source).is_ok());
        let error = check(&source).expect_err("it cannot be used").to_string();
        assert!(error.contains(&file(name).display().to_string()), "{error}");
    };
    refused("cert");
    std::fs::write(file("cert"), one.cert.pem()).expect("a writable file");
    refused("key");
    std::fs::write(file("key"), other.signing_key.serialize_pem()).expect("a writable file");
    refused("key");
    std::fs::write(file("key"), one.signing_key.serialize_pem()).expect("a writable file");
    assert!(check(&source).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let load = |path: &str| {
        let source = Source { path: Some(path.into()), env: vec![] };
        load(&source).expect_err("there is nothing to read").to_string()
    };
    assert!(load("/nowhere.toml").starts_with("/nowhere.toml: the settings cannot be read: "));
    assert!(load("/dev/zero").contains("more than"));
    assert!(load("/").starts_with("/: the settings cannot be read: "));
    let folder = tempfile::tempdir().expect("a place for files");
    let path = folder.path().join("latin1.toml");
    std::fs::write(&path, b"a = 1\nb = \"\xe9\"\n").expect("a writable file");
    assert!(load(&path.display().to_string()).contains("latin1.toml:2: this is not text"));
}
