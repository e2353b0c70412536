//! A broker that does what the test says, packet by packet, in either protocol version.

use super::PATIENCE;
use bytes::BytesMut;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A packet type and its encoding.
pub trait Wire: Sized + std::fmt::Debug {
    /// `None` when more bytes are needed.
    fn read(bytes: &mut BytesMut) -> Option<Self>;
    fn write(&self, bytes: &mut BytesMut);
    fn connack(session_present: bool) -> Self;
    /// The packet number of a SUBSCRIBE.
    fn subscribe(&self) -> Option<u16>;
    fn suback(pkid: u16) -> Self;
    /// The clean flag of a CONNECT.
    fn connect(&self) -> Option<bool>;
    fn published(&self) -> Option<Published>;
    fn publish(topic: &str, payload: &[u8], pkid: u16, dup: bool) -> Self;
    fn puback(pkid: u16) -> Self;
    /// The packet number of a PUBACK.
    fn acked(&self) -> Option<u16>;
    /// PINGRESP for a PINGREQ.
    fn pong(&self) -> Option<Self>;
    fn is_disconnect(&self) -> bool;
}

/// A PUBLISH of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    pub topic: String,
    pub text: String,
    pub pkid: u16,
    pub retain: bool,
}

pub struct FakeBroker {
    listener: TcpListener,
    pub port: u16,
}

impl FakeBroker {
    pub fn start() -> FakeBroker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        FakeBroker { listener, port }
    }

    /// The next connection, as a bare stream of packets.
    pub fn accept<P: Wire>(&self) -> Conn<P> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Conn::new(stream),
                Err(e) if e.kind() == ErrorKind::WouldBlock => assert!(Instant::now() < end, "the daemon did not connect"),
                Err(e) => panic!("{e}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next connection, with CONNECT and SUBSCRIBE answered.
    pub fn welcome<P: Wire>(&self, session_present: bool) -> Conn<P> {
        let mut conn = self.accept();
        conn.accept_connect(session_present);
        conn.accept_subscribe();
        conn
    }

    /// Like `welcome`, with `online` and the info acknowledged as well: nothing is under way.
    pub fn ready<P: Wire>(&self, session_present: bool) -> Conn<P> {
        let mut conn = self.welcome(session_present);
        for topic in ["jouled/pi/status", "jouled/pi/info"] {
            let announced = conn.published();
            assert_eq!((announced.topic.as_str(), announced.retain), (topic, true));
            conn.send(P::puback(announced.pkid));
        }
        conn
    }
}

pub struct Conn<P> {
    stream: TcpStream,
    buffer: BytesMut,
    packets: std::marker::PhantomData<P>,
}

impl<P: Wire> Conn<P> {
    fn new(stream: TcpStream) -> Conn<P> {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        Conn { stream, buffer: BytesMut::new(), packets: std::marker::PhantomData }
    }

    /// The next packet, `None` if the connection is closed or nothing comes for `wait`. Pings are answered.
    pub fn poll(&mut self, wait: Duration) -> Option<P> {
        let end = Instant::now() + wait;
        loop {
            if let Some(packet) = P::read(&mut self.buffer) {
                match packet.pong() {
                    Some(pong) => self.send(pong),
                    None => return Some(packet),
                }
                continue;
            }
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub fn next(&mut self) -> P {
        self.poll(PATIENCE).expect("a packet from the daemon")
    }

    /// The next packet, which must be a PUBLISH.
    pub fn published(&mut self) -> Published {
        let packet = self.next();
        packet.published().unwrap_or_else(|| panic!("expected a PUBLISH, got {packet:?}"))
    }

    /// The next packet, which must be a PUBACK.
    pub fn acked(&mut self) -> u16 {
        let packet = self.next();
        packet.acked().unwrap_or_else(|| panic!("expected a PUBACK, got {packet:?}"))
    }

    /// Waits until the daemon gives the connection up.
    pub fn closed(mut self) {
        let end = Instant::now() + PATIENCE;
        while self.poll(PATIENCE).is_some() {
            assert!(Instant::now() < end, "the daemon stays connected");
        }
        assert!(Instant::now() < end, "the daemon stays connected");
    }

    pub fn expect_silence(&mut self, moment: Duration) {
        if let Some(packet) = self.poll(moment) {
            panic!("unexpected packet: {packet:?}");
        }
    }

    pub fn send(&mut self, packet: P) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes);
        self.send_bytes(&bytes);
    }

    /// Failures are ignored: the daemon may have left.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn deliver(&mut self, topic: &str, payload: &str, pkid: u16, dup: bool) {
        self.send(P::publish(topic, payload.as_bytes(), pkid, dup));
    }

    /// Reads CONNECT and answers it; the result is its clean flag.
    pub fn accept_connect(&mut self, session_present: bool) -> bool {
        let packet = self.next();
        let clean = packet.connect().unwrap_or_else(|| panic!("expected a CONNECT, got {packet:?}"));
        self.send(P::connack(session_present));
        clean
    }

    pub fn accept_subscribe(&mut self) {
        let pkid = self.subscribe();
        self.send(P::suback(pkid));
    }

    /// Reads a SUBSCRIBE without answering it.
    pub fn subscribe(&mut self) -> u16 {
        let packet = self.next();
        packet.subscribe().unwrap_or_else(|| panic!("expected a SUBSCRIBE, got {packet:?}"))
    }

    /// Ends the connection with a reset: the kernel sends one when a socket is closed with bytes unread.
    pub fn reset(self) {
        let mut byte = [0];
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        self.stream.peek(&mut byte).unwrap();
    }
}

pub use rumqttc::Packet as V4;
pub use rumqttc::v5::mqttbytes::v5::Packet as V5;

impl Wire for V4 {
    fn read(bytes: &mut BytesMut) -> Option<V4> {
        match V4::read(bytes, 1 << 28) {
            Ok(packet) => Some(packet),
            Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => None,
            Err(e) => panic!("the daemon sent what is no packet: {e}"),
        }
    }

    fn write(&self, bytes: &mut BytesMut) {
        V4::write(self, bytes, 1 << 28).unwrap();
    }

    fn connack(session_present: bool) -> V4 {
        V4::ConnAck(rumqttc::ConnAck::new(rumqttc::ConnectReturnCode::Success, session_present))
    }

    fn subscribe(&self) -> Option<u16> {
        if let V4::Subscribe(subscribe) = self { Some(subscribe.pkid) } else { None }
    }

    fn suback(pkid: u16) -> V4 {
        V4::SubAck(rumqttc::SubAck::new(pkid, vec![rumqttc::SubscribeReasonCode::Success(rumqttc::QoS::AtLeastOnce)]))
    }

    fn connect(&self) -> Option<bool> {
        if let V4::Connect(connect) = self { Some(connect.clean_session) } else { None }
    }

    fn published(&self) -> Option<Published> {
        let V4::Publish(p) = self else { return None };
        let text = String::from_utf8_lossy(&p.payload).into_owned();
        Some(Published { topic: p.topic.clone(), text, pkid: p.pkid, retain: p.retain })
    }

    fn publish(topic: &str, payload: &[u8], pkid: u16, dup: bool) -> V4 {
        let mut publish = rumqttc::Publish::new(topic, rumqttc::QoS::AtLeastOnce, payload);
        (publish.pkid, publish.dup) = (pkid, dup);
        V4::Publish(publish)
    }

    fn puback(pkid: u16) -> V4 {
        V4::PubAck(rumqttc::PubAck::new(pkid))
    }

    fn acked(&self) -> Option<u16> {
        if let V4::PubAck(ack) = self { Some(ack.pkid) } else { None }
    }

    fn pong(&self) -> Option<V4> {
        matches!(self, V4::PingReq).then_some(V4::PingResp)
    }

    fn is_disconnect(&self) -> bool {
        matches!(self, V4::Disconnect)
    }
}

impl Wire for V5 {
    fn read(bytes: &mut BytesMut) -> Option<V5> {
        match V5::read(bytes, None) {
            Ok(packet) => Some(packet),
            Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => None,
            Err(e) => panic!("the daemon sent what is no packet: {e}"),
        }
    }

    fn write(&self, bytes: &mut BytesMut) {
        V5::write(self, bytes, None).unwrap();
    }

    fn connack(session_present: bool) -> V5 {
        use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode};
        V5::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success, properties: None })
    }

    fn subscribe(&self) -> Option<u16> {
        if let V5::Subscribe(subscribe) = self { Some(subscribe.pkid) } else { None }
    }

    fn suback(pkid: u16) -> V5 {
        use rumqttc::v5::mqttbytes::v5::{SubAck, SubscribeReasonCode};
        let granted = SubscribeReasonCode::Success(rumqttc::v5::mqttbytes::QoS::AtLeastOnce);
        V5::SubAck(SubAck { pkid, return_codes: vec![granted], properties: None })
    }

    fn connect(&self) -> Option<bool> {
        if let V5::Connect(connect, _, _) = self { Some(connect.clean_start) } else { None }
    }

    fn published(&self) -> Option<Published> {
        let V5::Publish(p) = self else { return None };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(Published { topic: text(&p.topic), text: text(&p.payload), pkid: p.pkid, retain: p.retain })
    }

    fn publish(topic: &str, payload: &[u8], pkid: u16, dup: bool) -> V5 {
        use rumqttc::v5::mqttbytes::{QoS, v5::Publish};
        V5::Publish(Publish { pkid, dup, ..Publish::new(topic, QoS::AtLeastOnce, payload.to_vec(), None) })
    }

    fn puback(pkid: u16) -> V5 {
        V5::PubAck(rumqttc::v5::mqttbytes::v5::PubAck::new(pkid, None))
    }

    fn acked(&self) -> Option<u16> {
        if let V5::PubAck(ack) = self { Some(ack.pkid) } else { None }
    }

    fn pong(&self) -> Option<V5> {
        matches!(self, V5::PingReq(_)).then_some(V5::PingResp(rumqttc::v5::mqttbytes::v5::PingResp))
    }

    fn is_disconnect(&self) -> bool {
        matches!(self, V5::Disconnect(_))
    }
}
