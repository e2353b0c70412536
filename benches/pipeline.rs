//! What the daemon adds to an inference: the release binary, a real mosquitto on loopback, the shipped digits model.
//!
//! `cargo bench --bench pipeline` prints the time from publish to result less the inference itself, requests per second,
//! start-up time, resident memory and the size of the binary.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{Client, Event, MqttOptions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_jouled");
const ONE_BY_ONE: usize = 2_000;
const FLOOD: usize = 10_000;
/// Requests under way at once in the flood.
const WINDOW: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// A child that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn mosquitto(dir: &Path) -> (Running, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("user root\nallow_anonymous true\nset_tcp_nodelay true\nlistener {port} 127.0.0.1\n");
    std::fs::write(dir.join("mosquitto.conf"), config).unwrap();
    let mut command = Command::new("mosquitto");
    command.env("PATH", "/usr/sbin:/usr/bin:/usr/local/sbin").arg("-c").arg(dir.join("mosquitto.conf")).stderr(Stdio::null());
    let broker = Running(command.spawn().expect("this bench needs the mosquitto broker: apt-get install mosquitto"));
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (broker, port)
}

/// Starts the daemon; gives the time until it told the service manager that it is ready.
fn daemon(dir: &Path, port: u16) -> (Running, Duration) {
    let models = models().display().to_string();
    let config = format!(
        "node = \"pi\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\n[governor]\nenabled = false\n[[model]]\nname = \"digits\"\n\
         path = \"{models}/digits.onnx\"\nlabels = \"{models}/digits.labels.txt\"\npost = [{{ step = \"softmax\" }}, {{ step = \"top_k\" }}]\n"
    );
    std::fs::write(dir.join("jouled.toml"), config).unwrap();
    let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
    let start = Instant::now();
    let mut command = Command::new(BINARY);
    command.args(["run", "--config"]).arg(dir.join("jouled.toml")).env("NOTIFY_SOCKET", dir.join("notify")).stderr(Stdio::null());
    let process = Running(command.spawn().unwrap());
    let mut buffer = [0; 1024];
    while !buffer.starts_with(b"READY=1") {
        socket.recv(&mut buffer).unwrap();
    }
    (process, start.elapsed())
}

/// A client that is subscribed to its answers.
fn client(port: u16) -> (Client, Receiver<Publish>) {
    let mut options = MqttOptions::new("bench", "127.0.0.1", port);
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut connection) = Client::new(options, FLOOD);
    client.subscribe("jouled/bench/#", QoS::AtLeastOnce).unwrap();
    let (sender, answers) = channel();
    let (subscribed, ready) = channel();
    std::thread::spawn(move || {
        for event in connection.iter().map_while(Result::ok) {
            match event {
                Event::Incoming(Packet::Publish(publish)) => sender.send(publish).unwrap_or(()),
                Event::Incoming(Packet::SubAck(_)) => subscribed.send(()).unwrap(),
                _ => {}
            }
        }
    });
    ready.recv_timeout(PATIENCE).unwrap();
    (client, answers)
}

fn ask(client: &Client, number: usize) {
    let properties = PublishProperties {
        response_topic: Some("jouled/bench/answers".into()),
        correlation_data: Some(number.to_string().into()),
        ..PublishProperties::default()
    };
    let pixels: Vec<u8> = (0..64).flat_map(|i| (((i * 7 + number) % 17) as f32 / 16.0).to_le_bytes()).collect();
    client.publish_with_properties("jouled/pi/model/digits/infer", QoS::AtLeastOnce, false, pixels, properties).unwrap();
}

/// Microseconds of the inference itself.
fn inference_us(answer: &Publish) -> f64 {
    let body: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    body["timing_us"]["infer"].as_f64().unwrap_or_else(|| panic!("no result: {body}"))
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

fn one_by_one(client: &Client, answers: &Receiver<Publish>) {
    let (mut overhead, mut inference) = (Vec::new(), Vec::new());
    for number in 0..ONE_BY_ONE {
        let start = Instant::now();
        ask(client, number);
        let answer = answers.recv_timeout(PATIENCE).unwrap();
        let total = start.elapsed().as_secs_f64() * 1e6;
        inference.push(inference_us(&answer));
        overhead.push(total - inference_us(&answer));
    }
    overhead.sort_by(f64::total_cmp);
    inference.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&overhead, 50), percentile(&overhead, 99));
    println!("publish to result less the inference: p50 {p50:.0} µs, p99 {p99:.0} µs ({ONE_BY_ONE} requests, one by one)");
    println!("the inference itself: p50 {:.0} µs", percentile(&inference, 50));
}

fn flood(client: &Client, answers: &Receiver<Publish>) {
    let start = Instant::now();
    (0..WINDOW).for_each(|number| ask(client, number));
    for number in WINDOW..FLOOD + WINDOW {
        inference_us(&answers.recv_timeout(PATIENCE).unwrap());
        if number < FLOOD {
            ask(client, number);
        }
    }
    println!("{:.0} requests per second ({FLOOD} requests, {WINDOW} under way)", FLOOD as f64 / start.elapsed().as_secs_f64());
}

fn resident_kib(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_string()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (_broker, port) = mosquitto(dir.path());
    let (process, started) = daemon(dir.path(), port);
    println!("start to ready: {started:.1?}; resident then: {}", resident_kib(process.0.id()));
    let (client, answers) = client(port);
    // The daemon may still be connecting: its answer says that it is not.
    ask(&client, 0);
    answers.recv_timeout(PATIENCE).unwrap();
    one_by_one(&client, &answers);
    flood(&client, &answers);
    println!("resident afterwards: {}", resident_kib(process.0.id()));
    println!("binary: {:.1} MB", std::fs::metadata(BINARY).unwrap().len() as f64 / 1e6);
}
