//! A client like any other: it sends images as MQTT 5 requests, listens to all results, and prints them.

use super::{Tally, Truth};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, PublishProperties};
use rumqttc::v5::{Client, Connection, Event, MqttOptions};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where the client wants its answers.
const RESPONSE_TOPIC: &str = "demo-client/digits";
/// Between two requests.
const REQUEST_PERIOD: Duration = Duration::from_millis(700);

/// The client's state, shared by its two threads.
pub struct Demo {
    truth: Truth,
    tally: Mutex<Tally>,
    /// When each request was sent, by its correlation data.
    sent: Mutex<HashMap<Vec<u8>, Instant>>,
    /// Last printed state of the machine.
    last_label: Mutex<String>,
    images: Vec<Vec<u8>>,
    celsius: Box<dyn Fn() -> Option<f64> + Send + Sync>,
}

impl Demo {
    /// Reads the images and the truth of the recording from the models' `folder`. `celsius` is asked with every line.
    pub fn new(folder: &Path, celsius: Box<dyn Fn() -> Option<f64> + Send + Sync>) -> Result<Arc<Demo>, String> {
        let image = |digit: usize| {
            let path = folder.join(format!("digits.sample-{digit}.png"));
            std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let images = (0..10).map(image).collect::<Result<_, _>>()?;
        let truth = Truth::read(&folder.join("vibration.stream.json"))?;
        let (tally, sent, last_label) = Default::default();
        Ok(Arc::new(Demo { truth, tally, sent, last_label, images, celsius }))
    }

    /// Connects to the broker on loopback, and asks and listens until the process ends. Asking and listening have a connection
    /// each: on one, the embedded broker would hold every answer back until the system acknowledges the packet before it.
    pub fn start(self: &Arc<Demo>, port: u16) -> Result<(), String> {
        let (listening, listener) = connect("demo-listener", port);
        let (asking, asker) = connect("demo-asker", port);
        let filters = ["jouled/demo/model/+/result", "demo-client/#"].map(|topic| Filter::new(topic, QoS::AtLeastOnce));
        listening.subscribe_many(filters).map_err(|e| format!("the demo's client cannot subscribe: {e}"))?;
        let (show, ask) = (self.clone(), self.clone());
        // The handle lives as long as its connection: without it the library would end.
        spawn("demo listener", move || {
            let _listening = listening;
            attend(listener, |publish| show.show(publish));
        })?;
        spawn("demo asker", move || attend(asker, |_| {}))?;
        spawn("demo client", move || ask.ask(&asking))
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    fn ask(&self, client: &Client) {
        for number in 0usize.. {
            let digit = number % self.images.len();
            let correlation = format!("{number}:{digit}").into_bytes();
            let properties = PublishProperties {
                response_topic: Some(RESPONSE_TOPIC.into()),
                correlation_data: Some(correlation.clone().into()),
                content_type: Some("image/png".into()),
                ..PublishProperties::default()
            };
            lock(&self.sent).insert(correlation, Instant::now());
            let topic = "jouled/demo/model/digits/infer";
            if client.publish_with_properties(topic, QoS::AtLeastOnce, false, self.images[digit].clone(), properties).is_err() {
                return;
            }
            std::thread::sleep(REQUEST_PERIOD);
        }
    }

    fn show(&self, publish: &Publish) {
        let Ok(message) = serde_json::from_slice::<Value>(&publish.payload) else { return };
        let correlation = publish.properties.as_ref().and_then(|p| p.correlation_data.clone()).map(|c| c.to_vec());
        match correlation {
            Some(correlation) => self.show_answer(&message, &correlation),
            None => self.show_state(&message),
        }
    }

    fn show_answer(&self, message: &Value, correlation: &[u8]) {
        let round_trip = lock(&self.sent).remove(correlation).map(|at| at.elapsed());
        let digit = correlation.rsplit(|&b| b == b':').next().map(|d| String::from_utf8_lossy(d).into_owned());
        self.tally().add(message, digit.as_deref(), round_trip);
        let asked = format!("image of a {}", digit.unwrap_or_default());
        let trip = round_trip.map_or_else(String::new, |t| format!(", round trip {t:.1?}"));
        self.print("request", &asked, message, &trip);
    }

    /// A sensor's result: a line when the machine's state changes, not for each window.
    fn show_state(&self, message: &Value) {
        let truth = message["sequence"].as_u64().and_then(|sequence| self.truth.label(sequence));
        self.tally().add(message, truth, None);
        let label = message["result"]["label"].as_str().unwrap_or_default().to_string();
        let changed = std::mem::replace(&mut *lock(&self.last_label), label.clone()) != label;
        if changed || message.get("error").is_some() {
            self.print("sensor", message["source"].as_str().unwrap_or("?"), message, "");
        }
    }

    fn print(&self, kind: &str, what: &str, message: &Value, more: &str) {
        let time = message["time"].as_str().and_then(|t| t.get(11..23)).unwrap_or_default();
        if let Some(error) = message.get("error") {
            println!("{time}  {kind:8} {what:14} -> error {error}");
            return;
        }
        let (label, score) = (message["result"]["label"].as_str().unwrap_or("?"), message["result"]["score"].as_f64().unwrap_or(0.0));
        let infer = message["timing_us"]["infer"].as_u64().unwrap_or(0);
        let celsius = (self.celsius)().map_or_else(|| "no temperature".into(), |c| format!("{c:.1} °C"));
        let level = &message["throttle"]["level"];
        println!("{time}  {kind:8} {what:14} -> {label:13} {score:.2}   inference {infer:4} µs, {celsius}, throttle {level}{more}");
    }
}

fn connect(client_id: &str, port: u16) -> (Client, Connection) {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    Client::new(options, 64)
}

/// Keeps a connection alive and hands over what comes on it.
fn attend(mut connection: Connection, take: impl Fn(&Publish)) {
    for event in connection.iter() {
        match event {
            Ok(Event::Incoming(Packet::Publish(publish))) => take(&publish),
            Ok(_) => {}
            // The broker ends with the process; until then the library connects again.
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|e| format!("cannot start the demo's client: {e}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
