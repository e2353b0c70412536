//! The MQTT side against a real broker (apt package `mosquitto`).

mod support;

use jouled::config::value::Size;
use jouled::mqtt::{Config, Message, Tls, Version};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use support::daemon::{config, echo, manual};
use support::mosquitto::Mosquitto;
use support::peer::Peer;
use support::proxy::Proxy;
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

#[test]
fn what_cannot_be_run_is_answered_with_a_code() {
    let broker = Mosquitto::start("");
    let handle = echo(Config { max_payload: Size(1000), max_packet: Size::kib(64), ..config(broker.port) });
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(RESULT);
    eventually("the subscription", || handle.stats().subscribed);
    let expect = |payload: Vec<u8>, properties: PublishProperties, code: &str| {
        peer.publish(INFER, payload, PublishProperties { correlation_data: Some("c".into()), ..properties });
        let answer = peer.next();
        assert_eq!(std::str::from_utf8(&answer.payload).unwrap(), code);
        assert_eq!(answer.properties.unwrap().correlation_data.as_deref(), Some(&b"c"[..]));
    };
    let to = |topic: &str| PublishProperties { response_topic: Some(topic.into()), ..PublishProperties::default() };
    expect(vec![], PublishProperties::default(), "empty_payload");
    expect(vec![0; 2000], PublishProperties::default(), "payload_too_large");
    expect(vec![1], to("elsewhere/x"), "response_topic_refused");
    expect(vec![1], to("jouled/pi/status"), "response_topic_refused");
    // Over max_packet the broker drops it; everything goes on.
    peer.publish(INFER, vec![0; 1 << 20], PublishProperties::default());
    expect(b"busy".to_vec(), PublishProperties::default(), "busy!");
    eventually("the acknowledgements", || handle.stats().acknowledged == 5);
    assert_eq!(handle.stats().connections, 1);
}

#[test]
fn a_retained_request_is_not_run_again_at_every_connect() {
    for config in [config(0), v4(config(0))] {
        let broker = Mosquitto::start("");
        let peer = Peer::connect(broker.port, "peer");
        peer.client.publish(INFER, QoS::AtLeastOnce, true, "old").unwrap();
        peer.subscribe(INFER);
        assert_eq!(&peer.next().payload[..], b"old");
        let handle = echo(Config { port: Some(broker.port), ..config });
        eventually("the subscription", || handle.stats().subscribed);
        peer.publish(INFER, "new", PublishProperties::default());
        eventually("the new request", || handle.stats().requests == 1);
        handle.stop(PATIENCE);
        assert_eq!(handle.stats().requests, 1);
    }
}

#[test]
fn qos_0_requests_are_answered_too() {
    let broker = Mosquitto::start("");
    let handle = echo(config(broker.port));
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(RESULT);
    eventually("the subscription", || handle.stats().subscribed);
    peer.client.publish(INFER, QoS::AtMostOnce, false, "x").unwrap();
    assert_eq!(&peer.next().payload[..], b"x");
    assert_eq!(handle.stats().acknowledged, 0);
}

#[test]
fn status_and_info_are_retained_and_the_last_will_speaks_for_a_lost_daemon() {
    let broker = Mosquitto::start("");
    let cable = Proxy::start(broker.port);
    let handle = echo(config(cable.port));
    eventually("the announcement", || handle.stats().published == 2);
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(STATUS);
    assert_eq!(&peer.next().payload[..], b"online");
    cable.cut();
    assert_eq!(&peer.next().payload[..], b"offline");
    assert_eq!(&peer.next().payload[..], b"online");
    handle.stop(PATIENCE);
    assert_eq!(&peer.next().payload[..], b"offline");
    let late = Peer::connect(broker.port, "late");
    late.subscribe("jouled/pi/#");
    let mut retained = [late.next(), late.next()].map(|m| String::from_utf8(m.payload.to_vec()).unwrap());
    retained.sort();
    assert_eq!(retained, ["offline", "{\"node\":\"pi\"}"]);
}

#[test]
fn requests_sent_to_a_stopped_daemon_wait_for_it() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(RESULT);
    let first = echo(config(broker.port));
    eventually("the subscription", || first.stats().subscribed);
    first.stop(PATIENCE);
    peer.publish(INFER, "meanwhile", PublishProperties::default());
    let second = echo(config(broker.port));
    assert_eq!(&peer.next().payload[..], b"meanwhile");
    eventually("the acknowledgement", || second.stats().acknowledged == 1);
}

#[test]
fn a_daemon_that_dies_with_a_request_gets_it_again() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe(RESULT);
    let (first, requests) = manual(config(broker.port));
    eventually("the subscription", || first.stats().subscribed);
    peer.publish(INFER, "precious", PublishProperties::default());
    requests.recv_timeout(PATIENCE).unwrap();
    first.stop(PATIENCE);
    let _second = echo(config(broker.port));
    assert_eq!(&peer.next().payload[..], b"precious");
}

#[test]
fn no_request_is_lost_over_restarts_of_the_broker() {
    for version in [Version::V5, Version::V4] {
        let mut broker = Mosquitto::start("persistence true\npersistence_location $DIR/");
        let handle = echo(Config { version, ..config(broker.port) });
        let peer = Peer::connect(broker.port, "peer");
        peer.subscribe(RESULT);
        eventually("the subscription", || handle.stats().subscribed);
        // rumqttc alone loses publishes when it reconnects: the client that sends is one of ours, too.
        let client =
            echo(Config { client_id: Some("client".into()), prefix: "client".into(), outbox_messages: 10_000, ..config(broker.port) });
        let mut answered = HashSet::new();
        for batch in 0..4 {
            (0..500).for_each(|n| client.publish(Message::new(INFER, (batch * 500 + n).to_string())).unwrap());
            if batch < 3 {
                answered.extend((0..50).map(|_| peer.next().payload));
                broker.stop();
                broker.restart();
                eventually("the connection", || handle.stats().connections == batch as u64 + 2);
            }
        }
        while answered.len() < 2000 {
            answered.insert(peer.next().payload);
        }
        eventually("the acknowledgements", || handle.stats().open_requests == 0);
        let stats = handle.stats();
        // The client may have sent some twice, which makes them two; those that the broker delivered twice ran once.
        let answers = stats.requests..=stats.requests + 2 * stats.connections;
        assert!(answers.contains(&stats.published), "{stats:?}");
    }
}

#[test]
fn a_new_configuration_moves_to_another_broker() {
    let (old, new) = (Mosquitto::start(""), Mosquitto::start(""));
    let handle = echo(config(old.port));
    let watcher = Peer::connect(old.port, "watcher");
    watcher.subscribe(STATUS);
    assert_eq!(&watcher.next().payload[..], b"online");
    let wrong = Config { username: Some("u".into()), password_file: Some("/nowhere/password".into()), ..config(new.port) };
    assert!(handle.reconfigure(wrong).unwrap_err().contains("/nowhere/password"));
    assert_eq!(handle.stats().connections, 1);
    handle.reconfigure(config(old.port)).unwrap();
    handle.reconfigure(Config { prefix: "plant".into(), ..config(new.port) }).unwrap();
    assert_eq!(&watcher.next().payload[..], b"offline");
    let peer = Peer::connect(new.port, "peer");
    peer.subscribe("plant/pi/status");
    assert_eq!(&peer.next().payload[..], b"online");
    assert_eq!(handle.stats().connections, 2);
    assert_eq!(handle.topics().stats(), "plant/pi/stats");
}

#[test]
fn the_password_is_read_from_its_file() {
    let hash = |dir: &Path| {
        let file = dir.join("passwords");
        std::fs::write(&file, "jouled:se cret\n").unwrap();
        let made = Command::new("mosquitto_passwd").arg("-U").arg(&file).status();
        assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd (apt package mosquitto) failed");
    };
    let broker = Mosquitto::start_with(hash, "allow_anonymous false\npassword_file $DIR/passwords");
    let password = broker.dir.path().join("secret");
    std::fs::write(&password, "wrong\n").unwrap();
    let handle = echo(Config { username: Some("jouled".into()), password_file: Some(password.clone()), ..config(broker.port) });
    eventually("the refusal", || handle.stats().last_error.is_some_and(|e| e.contains("NotAuthorized")));
    std::fs::write(&password, "se cret\n").unwrap();
    eventually("the subscription", || handle.stats().subscribed);
}

#[test]
fn tls_checks_the_broker_and_shows_the_client_certificate() {
    let broker = Mosquitto::start_with(certificates, TLS);
    let dir = broker.dir.path();
    let tls = Tls { ca: Some(dir.join("ca.pem")), cert: Some(dir.join("client.pem")), key: Some(dir.join("client.key")) };
    for version in [Version::V5, Version::V4] {
        let handle = echo(Config { version, tls: Some(tls.clone()), ..config(broker.port) });
        eventually("the subscription", || handle.stats().subscribed);
        handle.stop(PATIENCE);
    }
    let stranger = Tls { ca: Some(dir.join("other.pem")), ..tls.clone() };
    let handle = echo(Config { tls: Some(stranger), ..config(broker.port) });
    eventually("the refusal", || handle.stats().last_error.is_some_and(|e| e.contains("UnknownIssuer")));
    let anonymous = Tls { cert: None, key: None, ..tls };
    let refused = echo(Config { tls: Some(anonymous), ..config(broker.port) });
    eventually("the refusal", || refused.stats().last_error.is_some());
    assert_eq!((handle.stats().connections, refused.stats().connections), (0, 0));
}

const TLS: &str = "allow_anonymous true
cafile $DIR/ca.pem
certfile $DIR/server.pem
keyfile $DIR/server.key
require_certificate true";

/// An authority, what it signed for broker and client, and another authority.
fn certificates(dir: &Path) {
    let write = |name: &str, text: String| std::fs::write(dir.join(name), text).unwrap();
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (rcgen::Issuer::new(params, key), certificate.pem())
    };
    let (issuer, pem) = authority("test authority");
    write("ca.pem", pem);
    write("other.pem", authority("other authority").1);
    for (name, host) in [("server", "127.0.0.1"), ("client", "jouled")] {
        let mut params = rcgen::CertificateParams::new(vec![host.to_string()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, host);
        let key = rcgen::KeyPair::generate().unwrap();
        write(&format!("{name}.pem"), params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
