//! The MQTT side against a real broker (apt package `mosquitto`).

mod support;

use jouled::mqtt::{Config, Version};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use support::daemon::{config, echo};
use support::mosquitto::Mosquitto;
use support::peer::Peer;
use support::{PATIENCE, eventually};

const INFER: &str = "jouled/pi/model/echo/infer";
const RESULT: &str = "jouled/pi/model/echo/result";
const STATUS: &str = "jouled/pi/status";

fn v4(config: Config) -> Config {
    Config { version: Version::V4, ..config }
}

#[test]
fn a_request_is_answered_on_its_response_topic_with_its_properties() {
    let broker = Mosquitto::start("");
    let handle = echo(config(broker.port));
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe("jouled/reply/#");
    eventually("the subscription", || handle.stats().subscribed);
    let properties = PublishProperties {
        response_topic: Some("jouled/reply/1".into()),
        correlation_data: Some(vec![7, 0, 255].into()),
        content_type: Some("application/json".into()),
        ..PublishProperties::default()
    };
    peer.publish(INFER, "[1,2]", properties);
    let answer = peer.next();
    assert_eq!((&answer.topic[..], &answer.payload[..]), (&b"jouled/reply/1"[..], &b"[1,2]"[..]));
    let properties = answer.properties.unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&[7, 0, 255][..]));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.payload_format_indicator, Some(1));
    eventually("the acknowledgement", || handle.stats().acknowledged == 1);
    let stats = handle.stop(PATIENCE);
    assert_eq!((stats.requests, stats.outbox_messages, stats.open_requests), (1, 0, 0));
}

#[test]
fn mqtt_3_1_1_requests_are_answered_on_the_result_topic() {
    let broker = Mosquitto::start("");
    let handle = echo(v4(config(broker.port)));
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(RESULT);
    eventually("the subscription", || handle.stats().subscribed);
    peer.publish(INFER, "{\"id\":1}", PublishProperties::default());
    assert_eq!(&peer.next().payload[..], b"{\"id\":1}");
    eventually("the acknowledgement", || handle.stats().acknowledged == 1);
}
