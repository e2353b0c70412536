//! Another client of the broker, MQTT 5.

use super::PATIENCE;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{Client, Connection, Event, MqttOptions};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub struct Peer {
    pub client: Client,
    messages: Receiver<Publish>,
    subscribed: Receiver<()>,
}

impl Peer {
    pub fn connect(port: u16, id: &str) -> Peer {
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_max_packet_size(Some(64 << 20));
        Peer::with_options(options)
    }

    pub fn with_options(options: MqttOptions) -> Peer {
        let (client, mut connection) = Client::new(options, 20_000);
        let (to_messages, messages) = channel();
        let (to_subscribed, subscribed) = channel();
        std::thread::spawn(move || {
            poll(&mut connection, |packet| match packet {
                Packet::Publish(publish) => to_messages.send(publish).is_ok(),
                Packet::SubAck(_) => {
                    let _ = to_subscribed.send(());
                    true
                }
                _ => true,
            })
        });
        Peer { client, messages, subscribed }
    }

    pub fn subscribe(&self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.subscribed.recv_timeout(PATIENCE).expect("the broker to grant the subscription");
    }

    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>, properties: PublishProperties) {
        let payload: Vec<u8> = payload.into();
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).unwrap();
    }

    /// The next message on any of this client's subscriptions.
    pub fn next(&self) -> Publish {
        self.messages.recv_timeout(PATIENCE).expect("a message")
    }

    /// The next message on a topic; others are skipped.
    pub fn next_on(&self, topic: &str) -> Publish {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|_| panic!("no message on {topic}"));
            if message.topic == topic.as_bytes() {
                return message;
            }
        }
    }

    /// Fails if a message comes within a moment.
    pub fn expect_silence(&self, moment: Duration) {
        if let Ok(message) = self.messages.recv_timeout(moment) {
            panic!("unexpected message: {message:?}");
        }
    }
}

fn poll(connection: &mut Connection, mut take: impl FnMut(Packet) -> bool) {
    for event in connection.iter() {
        match event {
            Ok(Event::Incoming(packet)) => {
                if !take(packet) {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
