//! MQTT 5.

use super::{End, Event, Fault, Inbound, Settings, Verdict, Welcome};
use crate::mqtt::config::PROTOCOL_MAX_PACKET;
use crate::mqtt::message::Message;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAckReason, Publish,
    PublishProperties, RetainForwardRule, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error as PacketError, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing, TlsConfiguration, Transport};
use std::time::Duration;

#[derive(Clone)]
pub struct Sender(AsyncClient);

pub struct Receiver {
    eventloop: EventLoop,
    window: u16,
    keep_alive: Duration,
}

/// rumqttc refuses less.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

pub fn open(settings: &Settings) -> (Sender, Receiver) {
    let keep_alive = settings.config.keep_alive.0.max(MIN_KEEP_ALIVE);
    let (client, eventloop) = AsyncClient::new(options(settings, keep_alive), settings.channel_capacity());
    (Sender(client), Receiver { eventloop, window: settings.config.in_flight, keep_alive })
}

fn options(settings: &Settings, keep_alive: Duration) -> MqttOptions {
    let config = settings.config;
    let mut options = MqttOptions::new(settings.client_id, settings.host(), config.port());
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_keep_alive(keep_alive)
        .set_connection_timeout(settings.connect_seconds())
        .set_network_options(network)
        .set_clean_start(settings.clean)
        .set_manual_acks(true)
        // One more than we use: a full window must not hold up acknowledgements. rumqttc reserves memory for it.
        .set_outgoing_inflight_upper_limit(config.in_flight.saturating_add(1))
        // No topic aliases: rumqttc shows a message before it resolves them.
        .set_connect_properties(ConnectProperties {
            session_expiry_interval: Some(u32::try_from(config.session_expiry.0.as_secs()).unwrap_or(u32::MAX)),
            receive_maximum: Some(config.receive_maximum.max(1)),
            max_packet_size: Some(settings.max_packet()),
            ..ConnectProperties::new()
        })
        .set_last_will(LastWill::new(settings.status_topic, "offline", QoS::AtLeastOnce, true, None));
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user, password);
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    options
}

impl Sender {
    pub fn publish(&self, message: &Message, expiry: Option<Duration>) -> bool {
        let properties = PublishProperties {
            payload_format_indicator: message.is_text().then_some(1),
            message_expiry_interval: expiry.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX)),
            correlation_data: message.correlation.clone().map(Bytes::from),
            content_type: message.content_type.clone(),
            ..PublishProperties::default()
        };
        let payload = message.payload.clone();
        self.0.try_publish_with_properties(&message.topic, QoS::AtLeastOnce, message.retain, payload, properties).is_ok()
    }

    pub fn ack(&self, pkid: u16) -> bool {
        let publish = Publish { qos: QoS::AtLeastOnce, pkid, ..Publish::default() };
        self.0.try_ack(&publish).is_ok()
    }

    pub fn subscribe(&self, filter: &str) -> bool {
        // A retained request is an old one: not wanted at every connect.
        let filter = Filter { retain_forward_rule: RetainForwardRule::Never, ..Filter::new(filter, QoS::AtLeastOnce) };
        self.0.try_subscribe_many([filter]).is_ok()
    }

    pub fn disconnect(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }
}

impl Receiver {
    pub async fn next(&mut self) -> Result<Event, End> {
        match self.eventloop.poll().await {
            Ok(rumqttc::v5::Event::Incoming(packet)) => self.incoming(packet),
            Ok(rumqttc::v5::Event::Outgoing(Outgoing::Publish(pkid))) => Ok(Event::Sent(pkid)),
            Ok(rumqttc::v5::Event::Outgoing(Outgoing::Disconnect)) => Ok(Event::Closed),
            Ok(rumqttc::v5::Event::Outgoing(_)) => Ok(Event::Other),
            Err(error) => Err(end(error)),
        }
    }

    fn incoming(&mut self, packet: Packet) -> Result<Event, End> {
        Ok(match packet {
            Packet::ConnAck(ack) => self.connected(ack)?,
            Packet::Publish(publish) => Event::Publish(inbound(publish)),
            Packet::PubAck(ack) => Event::PubAck(ack.pkid, verdict(ack.reason)),
            Packet::SubAck(ack) => Event::SubAck(suback(&ack)),
            _ => Event::Alive,
        })
    }

    fn connected(&mut self, ack: ConnAck) -> Result<Event, End> {
        let properties = ack.properties.as_ref();
        if properties.and_then(|p| p.max_qos) == Some(0) {
            return Err(End::new(Fault::Refused, "the broker offers only QoS 0, which can promise nothing"));
        }
        // A server keep-alive of 0 switches it off; rumqttc would ping without pause.
        if self.eventloop.options.keep_alive() < MIN_KEEP_ALIVE {
            self.eventloop.options.set_keep_alive(self.keep_alive);
        }
        // rumqttc stops all that goes out at the broker's maximum: one less leaves the way free for acknowledgements.
        let receive_max = properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX);
        Ok(Event::Connected(Welcome {
            session_present: ack.session_present,
            window: self.window.min(receive_max.saturating_sub(1)).max(1),
            max_packet: properties.and_then(|p| p.max_packet_size).map_or(PROTOCOL_MAX_PACKET as usize, |max| max as usize),
            keep_alive: self.eventloop.options.keep_alive(),
        }))
    }
}

fn inbound(publish: Publish) -> Inbound {
    let properties = publish.properties.unwrap_or_default();
    Inbound {
        topic: String::from_utf8(publish.topic.into()).unwrap_or_default(),
        payload: publish.payload.into(),
        qos: publish.qos as u8,
        pkid: publish.pkid,
        dup: publish.dup,
        retain: publish.retain,
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data.map(Vec::from),
        expiry: properties.message_expiry_interval.map(|seconds| Duration::from_secs(seconds.into())),
    }
}

fn verdict(reason: PubAckReason) -> Verdict {
    let for_good = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Verdict::Delivered,
        PubAckReason::NotAuthorized | PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => true,
        _ => false,
    };
    Verdict::Refused { reason: format!("{reason:?}"), for_good }
}

fn suback(ack: &SubAck) -> Result<(), String> {
    match ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_))) {
        Some(code) => Err(format!("{code:?}")),
        None => Ok(()),
    }
}

fn end(error: ConnectionError) -> End {
    use ConnectReturnCode as Code;
    let fault = match &error {
        ConnectionError::ConnectionRefused(Code::ServerUnavailable | Code::ServiceUnavailable | Code::ServerBusy) => Fault::Network,
        ConnectionError::ConnectionRefused(_) | ConnectionError::Tls(_) => Fault::Refused,
        ConnectionError::MqttState(error) => state_fault(error),
        ConnectionError::NotConnAck(_) => Fault::Protocol,
        _ => Fault::Network,
    };
    End::new(fault, error.to_string())
}

fn state_fault(error: &StateError) -> Fault {
    use DisconnectReasonCode as Code;
    match error {
        StateError::Io(_) | StateError::ConnectionAborted | StateError::AwaitPingResp => Fault::Network,
        StateError::Deserialization(PacketError::Io(_)) => Fault::Network,
        StateError::Deserialization(PacketError::PayloadSizeLimitExceeded { .. }) | StateError::Unsolicited(_) => Fault::Session,
        StateError::ServerDisconnect { reason_code, .. } => match reason_code {
            Code::SessionTakenOver | Code::NotAuthorized | Code::AdministrativeAction => Fault::Refused,
            Code::MalformedPacket | Code::ProtocolError | Code::PacketTooLarge | Code::TopicNameInvalid | Code::PayloadFormatInvalid => {
                Fault::Protocol
            }
            _ => Fault::Network,
        },
        _ => Fault::Protocol,
    }
}
