//! An MQTT 5 broker inside the process, on loopback, for the demo: no persistence, no access control.

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Largest message that the broker passes on.
const MAX_PAYLOAD: usize = 16 << 20;

/// Starts a broker on `127.0.0.1`, on `port` where it is free and otherwise on any free one; gives the port once it accepts
/// connections. It runs until the process ends.
pub fn start(port: u16) -> Result<u16, String> {
    let port = free_port(port)?;
    let mut broker = Broker::new(config(port));
    std::thread::Builder::new()
        .name("broker".into())
        .spawn(move || {
            if let Err(e) = broker.start() {
                log::error!("the embedded broker stopped: {e}");
            }
        })
        .map_err(|e| format!("cannot start the broker's thread: {e}"))?;
    wait_for(port)?;
    Ok(port)
}

fn free_port(wanted: u16) -> Result<u16, String> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    let address = bind(wanted).or_else(|_| bind(0)).map_err(|e| format!("no free port on 127.0.0.1: {e}"))?;
    Ok(address.port())
}

fn wait_for(port: u16) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > until {
            return Err(format!("the embedded broker does not answer on port {port}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn config(port: u16) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: MAX_PAYLOAD,
        max_inflight_count: 200,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let router = RouterConfig {
        max_connections: 32,
        max_outgoing_packet_count: 200,
        max_segment_size: 4 << 20,
        max_segment_count: 4,
        ..RouterConfig::default()
    };
    Config { router, v5: Some(HashMap::from([("demo".to_string(), server)])), ..Config::default() }
}
