//! MQTT 3.1.1.

use super::{End, Event, Fault, Inbound, Settings, Verdict, Welcome};
use crate::mqtt::config::PROTOCOL_MAX_PACKET;
use crate::mqtt::message::Message;
use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, Publish, QoS,
    StateError, SubscribeReasonCode, TlsConfiguration, Transport,
};
use std::time::Duration;

#[derive(Clone)]
pub struct Sender(AsyncClient);

pub struct Receiver {
    eventloop: EventLoop,
    window: u16,
}

pub fn open(settings: &Settings) -> (Sender, Receiver) {
    let (client, mut eventloop) = AsyncClient::new(options(settings), settings.channel_capacity());
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(settings.connect_seconds());
    network.set_tcp_nodelay(true);
    eventloop.set_network_options(network);
    (Sender(client), Receiver { eventloop, window: settings.config.in_flight })
}

fn options(settings: &Settings) -> MqttOptions {
    let config = settings.config;
    let mut options = MqttOptions::new(settings.client_id, settings.host(), config.port());
    options
        .set_keep_alive(config.keep_alive.0.max(Duration::from_secs(1)))
        .set_clean_session(settings.clean)
        .set_manual_acks(true)
        // One more than we use: a full window must not hold up acknowledgements.
        .set_inflight(config.in_flight.saturating_add(1))
        .set_max_packet_size(settings.max_packet() as usize, PROTOCOL_MAX_PACKET as usize)
        .set_last_will(LastWill::new(settings.status_topic, "offline", QoS::AtLeastOnce, true));
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

impl Sender {
    pub fn publish(&self, message: &Message) -> bool {
        self.0.try_publish(&message.topic, QoS::AtLeastOnce, message.retain, message.payload.clone()).is_ok()
    }

    pub fn ack(&self, pkid: u16) -> bool {
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
        publish.pkid = pkid;
        self.0.try_ack(&publish).is_ok()
    }

    pub fn subscribe(&self, filter: &str) -> bool {
        self.0.try_subscribe(filter, QoS::AtLeastOnce).is_ok()
    }

    pub fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }
}

impl Receiver {
    pub async fn next(&mut self) -> Result<Event, End> {
        match self.eventloop.poll().await {
            Ok(rumqttc::Event::Incoming(packet)) => Ok(self.incoming(packet)),
            Ok(rumqttc::Event::Outgoing(Outgoing::Publish(pkid))) => Ok(Event::Sent(pkid)),
            Ok(rumqttc::Event::Outgoing(Outgoing::Disconnect)) => Ok(Event::Closed),
            Ok(rumqttc::Event::Outgoing(_)) => Ok(Event::Other),
            Err(error) => Err(end(error)),
        }
    }

    fn incoming(&self, packet: Packet) -> Event {
        match packet {
            Packet::ConnAck(ack) => Event::Connected(Welcome {
                session_present: ack.session_present,
                window: self.window,
                max_packet: PROTOCOL_MAX_PACKET as usize,
                keep_alive: self.eventloop.mqtt_options.keep_alive(),
            }),
            Packet::Publish(publish) => Event::Publish(inbound(publish)),
            Packet::PubAck(ack) => Event::PubAck(ack.pkid, Verdict::Delivered),
            Packet::SubAck(ack) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => Event::SubAck(Err("refused".into())),
            Packet::SubAck(_) => Event::SubAck(Ok(())),
            _ => Event::Alive,
        }
    }
}

fn inbound(publish: Publish) -> Inbound {
    Inbound {
        topic: publish.topic,
        payload: publish.payload.into(),
        qos: publish.qos as u8,
        pkid: publish.pkid,
        dup: publish.dup,
        retain: publish.retain,
        ..Inbound::default()
    }
}

fn end(error: ConnectionError) -> End {
    let fault = match &error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::ServiceUnavailable) => Fault::Network,
        ConnectionError::ConnectionRefused(_) | ConnectionError::Tls(_) => Fault::Refused,
        ConnectionError::MqttState(error) => state_fault(error),
        ConnectionError::NotConnAck(_) => Fault::Protocol,
        _ => Fault::Network,
    };
    End::new(fault, error.to_string())
}

fn state_fault(error: &StateError) -> Fault {
    match error {
        StateError::Io(_) | StateError::ConnectionAborted | StateError::AwaitPingResp => Fault::Network,
        StateError::Deserialization(PacketError::Io(_)) => Fault::Network,
        StateError::Deserialization(PacketError::PayloadSizeLimitExceeded(_)) | StateError::Unsolicited(_) => Fault::Session,
        _ => Fault::Protocol,
    }
}
