//! Every request is answered, whatever breaks in between.

use crate::board::{Board, ask, config, digit};
use crate::support::PATIENCE;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{Client, Event, MqttOptions};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const REQUESTS: usize = 10_000;
const BATCH: usize = 100;
const TOPIC: &str = "jouled/pi/model/digits/infer";

/// Publishes requests with the numbers of a batch until the broker has acknowledged all of them over one connection: what
/// the broker took is then counted, and what it lost before its acknowledgement is sent again.
fn publish_batch(port: u16, batch: std::ops::Range<usize>) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let mut options = MqttOptions::new("asker", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(5));
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, mut connection) = Client::new(options, BATCH * 2);
        for number in batch.clone() {
            let properties = ask(&number.to_string());
            client.publish_with_properties(TOPIC, QoS::AtLeastOnce, false, digit(number % 10), properties).unwrap();
        }
        let acknowledged = connection.iter().map_while(Result::ok).filter(|e| matches!(e, Event::Incoming(Packet::PubAck(_))));
        if acknowledged.take(batch.len()).count() == batch.len() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the broker did not take batch {batch:?} within {PATIENCE:?}");
}

/// Collects answers until each of `REQUESTS` has one; the value is how many it has.
fn collect(peer: &Peer, seen: &AtomicUsize) -> HashMap<usize, usize> {
    let mut answers = HashMap::new();
    while answers.len() < REQUESTS {
        let message = peer.next_on("answers/here");
        let correlation = message.properties.unwrap().correlation_data.unwrap();
        let number: usize = std::str::from_utf8(&correlation).unwrap().parse().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(body["result"]["label"], (number % 10).to_string(), "request {number}: {body}");
        *answers.entry(number).or_insert(0) += 1;
        seen.store(answers.len(), Ordering::Relaxed);
    }
    answers
}

#[test]
fn ten_thousand_requests_survive_a_broker_restart_and_a_killed_daemon() {
    let mut broker = Mosquitto::start("persistence true\npersistence_location $DIR/\n");
    let peer = Peer::connect(broker.port, "listener");
    peer.subscribe("answers/#");
    peer.subscribe("jouled/pi/status");
    let mut board = Board::start(&config(broker.port, ""));
    peer.next_on("jouled/pi/status");
    let (seen, port) = (Arc::new(AtomicUsize::new(0)), broker.port);
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| (0..REQUESTS / BATCH).for_each(|i| publish_batch(port, i * BATCH..(i + 1) * BATCH)));
        let seen_by = seen.clone();
        let collected = scope.spawn(move || collect(&peer, &seen_by));
        wait_for(&seen, REQUESTS / 3);
        broker.stop();
        broker.restart();
        wait_for(&seen, REQUESTS * 2 / 3);
        board.kill_and_restart();
        collected.join().unwrap()
    });
    let duplicates: usize = answers.values().map(|n| n - 1).sum();
    println!("{} answers, {duplicates} duplicates", answers.len());
    // Only what was under way at a break may come twice: at most a batch of the client and a window of the daemon, each time.
    assert!(duplicates <= 4 * BATCH, "{duplicates} duplicates");
    assert!(board.stop().success(), "{}", board.log());
}

fn wait_for(seen: &AtomicUsize, count: usize) {
    let end = Instant::now() + 4 * PATIENCE;
    while seen.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < end, "only {} of {count} answers", seen.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(5));
    }
}
