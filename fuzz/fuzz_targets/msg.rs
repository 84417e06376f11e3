//! Whatever is published or sent by a client: no panic, and what goes out reads back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pathcast::proto::frame::Kind;
use pathcast::proto::json;
use pathcast::proto::msg::{Address, Msg, from_client};
use pathcast::proto::session_id::SessionId;

fuzz_target!(|data: &[u8]| {
    if let Ok(once) = json::compact(data) {
        let twice = json::compact(once.text().as_bytes()).expect("a compact text is JSON");
        assert_eq!(twice.text(), once.text());
    }

    if let Ok(msg) = Msg::parse(data) {
        let (_, whole) = msg.content.frame(true).expect("a msg is never nothing");
        let again = Msg::parse(&whole).expect("a msg without its session is a msg");
        assert_eq!(again.session, Address::All);
        assert_eq!(again.content, msg.content);
        if let Some((Kind::Text, text)) = msg.content.frame(false) {
            assert!(std::str::from_utf8(&text).is_ok());
        }
    }

    for wholemsg in [false, true] {
        for kind in [Kind::Text, Kind::Binary] {
            let heard = from_client(wholemsg, kind, data, &SessionId::MIN);
            // A value may be as deep as JSON goes, and is one deeper as a payload; a client's own
            // malformed Buffer is for its backend to judge.
            if let Ok(msg) = Msg::parse(heard.as_bytes()) {
                assert_eq!(msg.session, Address::One(SessionId::MIN.to_string()));
            }
        }
    }
});
