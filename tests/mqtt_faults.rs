//! The MQTT side against a broker that misbehaves, breaks off or stays silent: every case ends in recovery.

mod support;

use jouled::config::value::{Size, Span};
use jouled::mqtt::{Config, Message, Version};
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, PubAck, PubAckReason, PublishProperties};
use std::time::{Duration, Instant};
use support::daemon::{answer, config, echo, manual};
use support::fake_broker::{Conn, FakeBroker, V4, V5, Wire};
use support::{PATIENCE, eventually};

const INFER: &str = "jouled/pi/model/echo/infer";
const MOMENT: Duration = Duration::from_millis(100);

/// MQTT 3.1.1, with acknowledgements expected within 300 ms.
fn v4(broker: &FakeBroker) -> Config {
    Config { version: Version::V4, ..v5(broker) }
}

fn v5(broker: &FakeBroker) -> Config {
    Config { ack_timeout: Span::millis(300), ..config(broker.port) }
}

fn sample(n: usize) -> Message {
    Message::new("samples", n.to_string())
}

#[test]
fn a_broker_that_never_acknowledges_is_left_and_everything_sent_again() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    let conn = broker.ready::<V4>(false);
    handle.publish(sample(1)).unwrap();
    conn.closed();
    let mut conn = broker.ready::<V4>(true);
    let again = conn.published();
    assert_eq!(again.text, "1");
    conn.send(V4::puback(again.pkid));
    eventually("the acknowledgement", || handle.stats().outbox_messages == 0);
    assert!(handle.stats().connections == 2);
}

#[test]
fn a_lost_suback_is_asked_for_three_times_before_connecting_anew_and_nothing_is_published_before() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    handle.publish(sample(1)).unwrap();
    let mut conn = broker.accept::<V4>();
    conn.accept_connect(false);
    for _ in 0..3 {
        conn.subscribe();
    }
    conn.closed();
    let mut conn = broker.accept::<V4>();
    conn.accept_connect(false);
    conn.subscribe();
    let second = conn.subscribe();
    conn.send(V4::suback(second));
    let texts: Vec<String> = (0..3).map(|_| conn.published().text).collect();
    assert_eq!(texts, ["online", "{\"node\":\"pi\"}", "1"]);
}

#[test]
fn a_lost_session_loses_no_message() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    (0..200).for_each(|n| handle.publish(sample(n)).unwrap());
    for _ in 0..10 {
        conn.published();
    }
    drop(conn);
    let mut conn = broker.ready::<V4>(false);
    for n in 0..200 {
        let message = conn.published();
        assert_eq!(message.text, n.to_string());
        conn.send(V4::puback(message.pkid));
    }
}

#[test]
fn a_reset_in_the_middle_of_a_packet_is_survived_and_the_request_runs_once() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    let mut bytes = bytes::BytesMut::new();
    V4::publish(INFER, b"first", 1, false).write(&mut bytes, 1 << 20).unwrap();
    V4::publish(INFER, b"second", 2, false).write(&mut bytes, 1 << 20).unwrap();
    conn.send_bytes(&bytes[..bytes.len() - 3]);
    let first = requests.recv_timeout(PATIENCE).unwrap();
    handle.publish(sample(1)).unwrap();
    conn.reset();
    let mut conn = broker.ready::<V4>(true);
    conn.deliver(INFER, "first", 1, true);
    conn.deliver(INFER, "second", 2, true);
    assert_eq!(conn.published().text, "1");
    let second = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(second.payload, b"second");
    answer(&handle, &first);
    let sent = conn.published();
    assert_eq!(sent.text, "first");
    conn.expect_silence(MOMENT);
    conn.send(V4::puback(sent.pkid));
    assert_eq!(conn.acked(), 1);
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_silent_connection_is_given_up() {
    let broker = FakeBroker::start();
    let handle = echo(Config { keep_alive: Span::secs(1), ..v4(&broker) });
    let silent = broker.ready::<V4>(false);
    // Half open: nobody reads, nobody answers pings.
    let _second = broker.ready::<V4>(true);
    let error = handle.stats().last_error.unwrap();
    assert!(error.contains("heard") || error.contains("ping"), "{error}");
    drop(silent);
}

#[test]
fn acknowledgements_in_any_order_never_stall() {
    let broker = FakeBroker::start();
    let handle = echo(Config { in_flight: 3, ..v4(&broker) });
    let mut conn = broker.ready::<V4>(false);
    (0..30).for_each(|n| handle.publish(sample(n)).unwrap());
    for group in 0..10 {
        let messages: Vec<_> = (0..3).map(|_| conn.published()).collect();
        assert_eq!(messages[0].text, (3 * group).to_string());
        for message in messages.iter().rev() {
            conn.send(V4::puback(message.pkid));
        }
    }
    eventually("all to be acknowledged", || handle.stats().outbox_messages == 0);
    assert_eq!(handle.stats().connections, 1);
}

#[test]
fn unsolicited_packets_end_in_recovery() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    let unsolicited = [
        V4::puback(9),
        V4::puback(60_000),
        V4::PubRec(rumqttc::PubRec { pkid: 3 }),
        V4::PubComp(rumqttc::PubComp { pkid: 3 }),
        V4::suback(77),
        V4::PingResp,
        V4::PingReq,
        V4::connack(false),
    ];
    for packet in unsolicited {
        let mut conn = accept_past_discards(&broker);
        conn.send(packet);
        while conn.poll(MOMENT).is_some() {}
    }
    let mut conn = accept_past_discards(&broker);
    conn.deliver(INFER, "still here", 4, false);
    assert_eq!(conn.published().text, "still here");
    drop(handle);
}

/// The next ordinary connection; those that only discard the session are let through.
fn accept_past_discards(broker: &FakeBroker) -> Conn<V4> {
    loop {
        let mut conn = broker.accept::<V4>();
        if conn.accept_connect(true) {
            conn.closed();
            continue;
        }
        conn.accept_subscribe();
        for _ in 0..2 {
            let announced = conn.published();
            conn.send(V4::puback(announced.pkid));
        }
        return conn;
    }
}

#[test]
fn an_unsolicited_pubrel_of_the_session_ends_with_a_new_session() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    for _ in 0..3 {
        let mut conn = broker.ready::<V4>(true);
        conn.send(V4::PubRel(rumqttc::PubRel { pkid: 9 }));
        conn.closed();
    }
    let mut conn = broker.accept::<V4>();
    assert!(conn.accept_connect(false), "expected a clean session");
    assert!(conn.next().is_disconnect());
    broker.ready::<V4>(false);
    assert_eq!(handle.stats().sessions_discarded, 1);
}

#[test]
fn a_message_larger_than_memory_allows_is_got_rid_of_with_the_session() {
    let broker = FakeBroker::start();
    let handle = echo(Config { max_packet: Size::kib(8), max_payload: Size::kib(4), ..v4(&broker) });
    for _ in 0..3 {
        let mut conn = broker.ready::<V4>(true);
        // A 200 MB packet: the header is enough.
        conn.send_bytes(&[0x32, 0x80, 0x84, 0xaf, 0x5f]);
        conn.closed();
    }
    let mut conn = broker.accept::<V4>();
    assert!(conn.accept_connect(false), "expected a clean session");
    conn.closed();
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, &"x".repeat(5000), 1, false);
    assert_eq!(conn.published().text, "payload_too_large");
    assert_eq!(handle.stats().sessions_discarded, 1);
}

#[test]
fn an_acknowledgement_of_an_old_connection_is_never_sent() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "slow", 5, false);
    let slow = requests.recv_timeout(PATIENCE).unwrap();
    drop(conn);
    let mut conn = broker.ready::<V4>(true);
    answer(&handle, &slow);
    let sent = conn.published();
    conn.send(V4::puback(sent.pkid));
    conn.expect_silence(MOMENT);
    conn.deliver(INFER, "slow", 5, true);
    assert_eq!(conn.acked(), 5);
    assert!(requests.try_recv().is_err(), "it ran twice");
    // Without the session, its number means nothing: the same content is a new request.
    conn.deliver(INFER, "slow", 6, false);
    requests.recv_timeout(PATIENCE).unwrap();
    drop(conn);
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "slow", 1, false);
    requests.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_lost_acknowledgement_is_repeated_without_running_again() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "once", 5, false);
    answer(&handle, &requests.recv_timeout(PATIENCE).unwrap());
    let sent = conn.published();
    conn.send(V4::puback(sent.pkid));
    assert_eq!(conn.acked(), 5);
    for _ in 0..3 {
        drop(conn);
        conn = broker.ready::<V4>(true);
        conn.deliver(INFER, "once", 5, true);
        assert_eq!(conn.acked(), 5);
    }
    assert!(requests.try_recv().is_err(), "it ran twice");
    assert_eq!(handle.stats().redelivered, 3);
}

#[test]
fn a_full_window_does_not_hold_up_acknowledgements() {
    let broker = FakeBroker::start();
    let handle = echo(Config { in_flight: 2, ack_timeout: Span::secs(20), ..v4(&broker) });
    let mut conn = broker.ready::<V4>(false);
    (0..5).for_each(|n| handle.publish(sample(n)).unwrap());
    assert_eq!((conn.published().text, conn.published().text), ("0".into(), "1".into()));
    conn.deliver("jouled/pi/elsewhere", "not a request", 8, false);
    assert_eq!(conn.acked(), 8);
    assert_eq!(handle.stats().dropped.unknown_topic, 1);
}

#[test]
fn acknowledgements_keep_the_order_of_arrival() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "a", 1, false);
    conn.deliver(INFER, "b", 2, false);
    let (a, b) = (requests.recv_timeout(PATIENCE).unwrap(), requests.recv_timeout(PATIENCE).unwrap());
    answer(&handle, &b);
    let sent = conn.published();
    conn.send(V4::puback(sent.pkid));
    conn.expect_silence(MOMENT);
    answer(&handle, &a);
    let sent = conn.published();
    conn.send(V4::puback(sent.pkid));
    assert_eq!((conn.acked(), conn.acked()), (1, 2));
}

#[test]
fn an_intake_that_panics_takes_nothing_else_along() {
    let broker = FakeBroker::start();
    let _handle = echo(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "panic", 1, false);
    assert_eq!(conn.acked(), 1);
    conn.deliver(INFER, "busy", 2, false);
    assert_eq!(conn.published().text, "busy!");
}

#[test]
fn connections_that_come_to_nothing_are_tried_again() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    // Accepted and closed; never a CONNACK; no MQTT; CONNACK that refuses.
    drop(broker.accept::<V4>());
    broker.accept::<V4>().closed();
    let mut conn = broker.accept::<V4>();
    conn.send_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    conn.closed();
    let mut conn = broker.accept::<V4>();
    conn.next();
    conn.send(V4::ConnAck(rumqttc::ConnAck::new(rumqttc::ConnectReturnCode::NotAuthorized, false)));
    conn.closed();
    eventually("the reason", || handle.stats().last_error.is_some_and(|e| e.contains("NotAuthorized")));
    broker.ready::<V4>(false);
    assert_eq!(handle.stats().connections, 1);
}

#[test]
fn a_refused_subscription_leaves_publishing_alone() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    let mut conn = broker.accept::<V4>();
    conn.accept_connect(false);
    let pkid = conn.subscribe();
    conn.send(V4::SubAck(rumqttc::SubAck::new(pkid, vec![rumqttc::SubscribeReasonCode::Failure])));
    assert_eq!(conn.published().text, "online");
    let stats = handle.stats();
    assert!(stats.connected && !stats.subscribed);
    assert!(stats.last_error.unwrap().contains("jouled/pi/model/+/infer"));
}

#[test]
fn a_publish_that_is_refused_for_good_is_given_up_and_its_request_acknowledged() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    let mut conn = broker.ready::<V5>(false);
    conn.deliver(INFER, "x", 3, false);
    let sent = conn.published();
    conn.send(V5::PubAck(PubAck { pkid: sent.pkid, reason: PubAckReason::NotAuthorized, properties: None }));
    assert_eq!(conn.acked(), 3);
    let no_subscribers = |pkid| V5::PubAck(PubAck { pkid, reason: PubAckReason::NoMatchingSubscribers, properties: None });
    handle.publish(sample(1)).unwrap();
    let sent = conn.published();
    conn.send(no_subscribers(sent.pkid));
    eventually("the last acknowledgement", || handle.stats().outbox_messages == 0);
    let stats = handle.stats();
    assert_eq!((stats.dropped.refused, stats.published, stats.connections), (1, 3, 1));
}

#[test]
fn a_publish_that_is_refused_for_now_is_sent_again_and_given_up_in_the_end() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    let quota = |pkid| V5::PubAck(PubAck { pkid, reason: PubAckReason::QuotaExceeded, properties: None });
    handle.publish(sample(1)).unwrap();
    for _ in 0..2 {
        let mut conn = broker.ready::<V5>(true);
        let sent = conn.published();
        assert_eq!(sent.text, "1");
        conn.send(quota(sent.pkid));
        conn.closed();
    }
    let mut conn = broker.ready::<V5>(true);
    let sent = conn.published();
    conn.send(quota(sent.pkid));
    eventually("the message to be given up", || handle.stats().dropped.refused == 1);
    assert!(handle.stats().connected);
}

#[test]
fn a_message_whose_acknowledgement_breaks_the_protocol_is_found_and_given_up() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    ["good", "poison", "later"].iter().for_each(|text| handle.publish(Message::new("t", *text)).unwrap());
    let mut taken = Vec::new();
    while taken != ["good", "later"] {
        let mut conn = broker.welcome::<V5>(true);
        while let Some(message) = conn.poll(MOMENT).and_then(|packet| packet.published()) {
            if message.text == "poison" {
                // Reason 0x95, packet too large: rumqttc does not know it.
                conn.send_bytes(&[0x40, 3, (message.pkid >> 8) as u8, message.pkid as u8, 0x95]);
                break;
            }
            conn.send(V5::puback(message.pkid));
            if message.topic == "t" && !taken.contains(&message.text) {
                taken.push(message.text);
            }
        }
        // On a busy machine a moment can pass before a message comes: a bound against no end, not a speed.
        assert!(handle.stats().connections < 200, "no end");
    }
    assert_eq!(handle.stats().dropped.refused, 1);
}

/// A v5 connection whose CONNACK has these properties.
fn connack(broker: &FakeBroker, change: impl FnOnce(&mut ConnAckProperties)) -> Conn<V5> {
    let mut conn = broker.accept::<V5>();
    assert!(conn.next().connect().is_some());
    let mut properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    change(&mut properties);
    conn.send(V5::ConnAck(ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: Some(properties) }));
    conn
}

#[test]
fn a_broker_that_takes_one_message_at_a_time_is_served() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    let mut conn = connack(&broker, |p| p.receive_max = Some(1));
    conn.accept_subscribe();
    (0..5).for_each(|n| handle.publish(sample(n)).unwrap());
    for _ in 0..7 {
        let message = conn.published();
        conn.expect_silence(Duration::from_millis(10));
        conn.send(V5::puback(message.pkid));
    }
    conn.deliver(INFER, "x", 1, false);
    let message = conn.published();
    conn.send(V5::puback(message.pkid));
    assert_eq!(conn.acked(), 1);
}

#[test]
fn limits_of_the_broker_are_kept() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    let waiting = Message::new("t", "x".repeat(2000));
    handle.publish(waiting.clone()).unwrap();
    let mut conn = connack(&broker, |p| p.max_packet_size = Some(1000));
    conn.accept_subscribe();
    assert_eq!(conn.published().text, "online");
    assert_eq!(conn.published().text, "{\"node\":\"pi\"}");
    eventually("the large message to be given up", || handle.stats().dropped.too_large == 1);
    assert_eq!(handle.publish(waiting).unwrap_err().max, 1000);
}

#[test]
fn a_server_keep_alive_of_zero_makes_no_storm_of_pings() {
    let broker = FakeBroker::start();
    let handle = echo(Config { ack_timeout: Span::secs(20), ..v5(&broker) });
    let mut conn = connack(&broker, |p| p.server_keep_alive = Some(0));
    conn.accept_subscribe();
    for _ in 0..2 {
        let message = conn.published();
        conn.send(V5::puback(message.pkid));
    }
    conn.expect_silence(3 * MOMENT);
    assert_eq!(handle.stats().connections, 1);
    assert!(handle.stats().connected);
}

#[test]
fn a_broker_that_promises_nothing_is_refused() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    connack(&broker, |p| p.max_qos = Some(0)).closed();
    eventually("the reason", || handle.stats().last_error.is_some_and(|e| e.contains("QoS 0")));
}

#[test]
fn draining_leaves_requests_with_the_broker_and_stop_says_goodbye() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v4(&broker));
    let mut conn = broker.ready::<V4>(false);
    conn.deliver(INFER, "taken", 1, false);
    let taken = requests.recv_timeout(PATIENCE).unwrap();
    handle.drain();
    conn.deliver(INFER, "left", 2, false);
    answer(&handle, &taken);
    let stopping = handle.clone();
    let sent = conn.published();
    let stop = std::thread::spawn(move || stopping.stop(PATIENCE));
    conn.send(V4::puback(sent.pkid));
    let mut rest = vec![];
    loop {
        let packet = conn.next();
        if let Some(message) = packet.published() {
            assert_eq!((message.text.as_str(), message.retain), ("offline", true));
            conn.send(V4::puback(message.pkid));
        }
        rest.extend(packet.acked());
        if packet.is_disconnect() {
            break;
        }
    }
    assert_eq!(rest, [1], "the request that was left must not be acknowledged");
    assert_eq!(stop.join().unwrap().outbox_messages, 0);
    assert!(requests.try_recv().is_err());
}

#[test]
fn stop_ends_in_time_without_a_broker() {
    let broker = FakeBroker::start();
    let handle = echo(v4(&broker));
    handle.publish(sample(1)).unwrap();
    // Accepted by the kernel, answered by nobody.
    let stats = handle.stop(Duration::from_millis(200));
    assert!(!stats.connected && stats.outbox_messages > 0);
    let idle = echo(Config { port: Some(support::free_port()), ..v4(&broker) });
    eventually("an attempt", || idle.stats().last_error.is_some());
    idle.stop(Duration::from_millis(200));
}

#[test]
fn a_broker_that_stops_reading_is_left() {
    for version in [Version::V4, Version::V5] {
        let broker = FakeBroker::start();
        let handle = echo(Config { version, outbox_bytes: Size::mib(100), ..v5(&broker) });
        let large = Message::new("t", vec![b'x'; 1 << 20]);
        // More than the kernel buffers: the write itself hangs.
        let fill = || (0..32).for_each(|_| handle.publish(large.clone()).unwrap());
        match version {
            Version::V4 => fill_and_wait::<V4>(&broker, fill),
            Version::V5 => fill_and_wait::<V5>(&broker, fill),
        }
        assert_eq!(handle.stats().connections, 2);
    }
}

fn fill_and_wait<P: Wire>(broker: &FakeBroker, fill: impl Fn()) {
    let hung = broker.ready::<P>(false);
    fill();
    broker.ready::<P>(true);
    drop(hung);
}

#[test]
fn the_broker_is_asked_for_a_lasting_session_and_a_last_will() {
    let broker = FakeBroker::start();
    let _handle = echo(v5(&broker));
    let V5::Connect(connect, Some(will), None) = broker.accept::<V5>().next() else { panic!("expected a CONNECT with a will") };
    let properties = connect.properties.unwrap();
    assert_eq!((connect.client_id.as_str(), connect.clean_start, connect.keep_alive), ("jouled-test", false, 30));
    assert_eq!(properties.session_expiry_interval, Some(86_400));
    assert_eq!((properties.receive_maximum, properties.max_packet_size), (Some(32), Some(16 << 20)));
    assert_eq!(properties.topic_alias_max, None);
    assert_eq!((&will.topic[..], &will.message[..], will.retain), (&b"jouled/pi/status"[..], &b"offline"[..], true));
}

#[test]
fn expiry_is_passed_on_both_ways() {
    let broker = FakeBroker::start();
    let (handle, requests) = manual(v5(&broker));
    let mut conn = broker.ready::<V5>(false);
    let V5::Publish(mut publish) = V5::publish(INFER, b"x", 1, false) else { unreachable!() };
    publish.properties = Some(PublishProperties { message_expiry_interval: Some(60), ..PublishProperties::default() });
    conn.send(V5::Publish(publish));
    let request = requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(request.deadline, Some(request.received + Duration::from_secs(60)));
    handle.publish(Message { expiry: Some(Duration::from_secs(60)), ..sample(1) }).unwrap();
    let V5::Publish(publish) = conn.next() else { panic!("expected a PUBLISH") };
    assert!(matches!(publish.properties.unwrap().message_expiry_interval, Some(30..=60)));
}

#[test]
fn another_client_under_the_same_name_is_named_as_the_reason() {
    let broker = FakeBroker::start();
    let handle = echo(v5(&broker));
    let mut conn = broker.ready::<V5>(false);
    // DISCONNECT, session taken over, no properties.
    conn.send_bytes(&[0xe0, 2, 0x8e, 0]);
    conn.closed();
    eventually("the reason", || handle.stats().last_error.is_some_and(|e| e.contains("SessionTakenOver")));
    broker.ready::<V5>(true);
}

/// The daemon publishes 2,000 messages and gets 500 requests while the broker breaks off 1,000 times, with and without the
/// session, between packets and within: no message and no answer to a request that arrived is lost, each topic keeps its order.
#[test]
fn a_thousand_broken_connections_lose_nothing() {
    let broker = FakeBroker::start();
    let fast = Config { backoff_min: Span::millis(1), backoff_max: Span::millis(1), outbox_messages: 10_000, ..v4(&broker) };
    let handle = echo(Config { ack_timeout: Span::secs(20), ..fast });
    (0..2000).for_each(|n| handle.publish(sample(n)).unwrap());
    let (mut samples, mut answers) = (Vec::<usize>::new(), std::collections::HashSet::new());
    let started = Instant::now();
    // JOULED_RECONNECTS=10000 makes it longer.
    let rounds = std::env::var("JOULED_RECONNECTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    for round in 0..rounds {
        let mut conn = broker.welcome::<V4>(round % 3 != 0);
        if round % 2 == 0 {
            conn.deliver(INFER, &format!("request {round}"), round as u16 + 1, false);
        }
        for step in 0..round % 7 {
            let Some(packet) = conn.poll(PATIENCE) else { break };
            let Some(message) = packet.published() else { continue };
            match message.topic.as_str() {
                "samples" => samples.push(message.text.parse().unwrap()),
                "jouled/pi/model/echo/result" => drop(answers.insert(message.text.clone())),
                _ => {}
            }
            if step % 3 != 2 {
                conn.send(V4::puback(message.pkid));
            }
        }
        if round % 5 == 0 {
            conn.send_bytes(&[0x32, 0x20, 0x00]);
        }
    }
    let mut conn = broker.welcome::<V4>(false);
    let taken = |handle: &jouled::mqtt::Handle| handle.stats().requests as usize;
    while samples.last() != Some(&1999) || answers.len() < taken(&handle) {
        let Some(message) = conn.next().published() else { continue };
        match message.topic.as_str() {
            "samples" => samples.push(message.text.parse().unwrap()),
            "jouled/pi/model/echo/result" => drop(answers.insert(message.text.clone())),
            _ => {}
        }
        conn.send(V4::puback(message.pkid));
    }
    let mut first_seen = Vec::new();
    samples.into_iter().for_each(|n| {
        if first_seen.last().is_none_or(|last| n > *last) {
            first_seen.push(n)
        }
    });
    assert_eq!(first_seen, (0..2000).collect::<Vec<_>>());
    eventually("the outbox to be empty", || handle.stats().outbox_messages == 0);
    assert!(taken(&handle) >= 100, "hardly a request arrived: {}", taken(&handle));
    println!("{rounds} reconnects in {:?}", started.elapsed());
}
