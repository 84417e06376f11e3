//! Clients that others made can connect, hear, speak and leave.

mod support;

use futures_util::{SinkExt, StreamExt};
use support::gateway::Gateway;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

#[tokio::test]
async fn tungstenite_connects_echoes_and_closes() {
    let gateway = Gateway::start("[[path]]\npath = \"/ws/echo\"\necho = true\n").await;
    let url = format!("ws://{}/ws/echo", gateway.clients);
    let (mut client, response) = tokio_tungstenite::connect_async(url).await.expect("it connects");
    assert_eq!(response.status(), 101);
    let sent = [Message::text("žluťoučký"), Message::binary(vec![0, 159, 255]), Message::text("")];
    for message in sent {
        client.send(message.clone()).await.expect("it is open");
        let heard = client.next().await.expect("an answer").expect("a good one");
        assert_eq!(heard, message);
    }
    let close = CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() };
    client.close(Some(close.clone())).await.expect("it is open");
    let heard = client.next().await.expect("an answer").expect("a good one");
    assert_eq!(heard, Message::Close(Some(close)));
    assert!(client.next().await.is_none(), "the server ends the connection");
}
