//! One board: a folder with a configuration, a small sysfs, and the daemon's process.

use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use crate::support::{eventually, free_port};
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The models that the project ships.
pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// The binary under test.
pub fn jouled() -> Command {
    Command::new(env!("CARGO_BIN_EXE_jouled"))
}

pub struct Board {
    pub dir: tempfile::TempDir,
    pub process: Child,
    /// Environment variables of the process.
    env: Vec<(&'static str, String)>,
}

/// `[[model]]` tables of the shipped models.
pub const MODELS: &str = r#"
[[model]]
name = "digits"
path = "$MODELS/digits.onnx"
labels = "$MODELS/digits.labels.txt"
pre = [{ step = "scale", factor = 0.00392156862745098 }]
post = [{ step = "softmax" }, { step = "top_k", k = 2 }]

[[model]]
name = "vibration"
path = "$MODELS/vibration.onnx"
labels = "$MODELS/vibration.labels.txt"
post = [{ step = "softmax" }, { step = "top_k", k = 1 }, { step = "alarm", label = "bearing_fault", threshold = 0.6, release = 0.4, hits = 3, of = 5 }]
"#;

/// A configuration for a broker; `extra` comes before the models and may end in `[[source]]` tables.
pub fn config(port: u16, extra: &str) -> String {
    let head = format!(
        "node = \"pi\"\n[mqtt]\nhost = \"127.0.0.1\"\nport = {port}\nclient_id = \"jouled-under-test\"\nbackoff_min = \"20ms\"\nbackoff_max = \"200ms\"\nresponse_prefixes = [\"jouled\", \"answers\"]\n"
    );
    format!("{head}{extra}\n{MODELS}").replace("$MODELS", &models().display().to_string())
}

impl Board {
    /// Writes the configuration and starts the daemon, which need not be ready yet.
    pub fn start(config: &str) -> Board {
        Board::start_with(config, Vec::new())
    }

    pub fn start_with(config: &str, env: Vec<(&'static str, String)>) -> Board {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("jouled.toml"), config).unwrap();
        let process = launch(dir.path(), &env);
        Board { dir, process, env }
    }

    /// A daemon that is connected and subscribed, and a client beside it that gets all results, its own answers, and `status`.
    pub fn ready(broker: &Mosquitto, extra: &str) -> (Board, Peer) {
        let peer = Peer::connect(broker.port, "peer");
        for filter in ["jouled/pi/status", "jouled/pi/model/+/result", "answers/#"] {
            peer.subscribe(filter);
        }
        let board = Board::start(&config(broker.port, extra));
        // `online` is published after the subscription.
        peer.next_on("jouled/pi/status");
        (board, peer)
    }

    pub fn write_config(&self, config: &str) {
        std::fs::write(self.dir.path().join("jouled.toml"), config).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// SIGKILL, and a new process with the same configuration.
    pub fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.start_again();
    }

    /// A new process after the last has ended.
    pub fn start_again(&mut self) {
        self.process = launch(self.dir.path(), &self.env);
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.process.wait().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Waits until the log says it.
    pub fn logged(&self, text: &str) {
        eventually(&format!("the log to say {text:?}; it says:\n{}", self.log()), || self.log().contains(text));
    }

    /// Sets a file of the board's sysfs.
    pub fn sysfs(&self, path: &str, value: &str) {
        let path = self.dir.path().join("root").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As the kernel does it: a reader never sees half a value.
        let new = path.with_extension("new");
        std::fs::write(&new, value).unwrap();
        std::fs::rename(new, path).unwrap();
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn launch(dir: &Path, env: &[(&'static str, String)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = jouled();
    command.args(["run", "-v", "--config"]).arg(dir.join("jouled.toml")).arg("--root").arg(dir.join("root"));
    command.env_remove("NOTIFY_SOCKET").envs(env.iter().map(|(k, v)| (k, v))).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

/// Properties of a request whose answer is wanted below `answers/`.
pub fn ask(correlation: &str) -> PublishProperties {
    PublishProperties {
        response_topic: Some("answers/here".into()),
        correlation_data: Some(correlation.as_bytes().to_vec().into()),
        ..PublishProperties::default()
    }
}

/// The next answer below `answers/`, and its correlation data.
pub fn answer(peer: &Peer) -> (Value, String) {
    let message = peer.next_on("answers/here");
    let correlation = message.properties.and_then(|p| p.correlation_data).unwrap_or_default();
    (serde_json::from_slice(&message.payload).unwrap(), String::from_utf8(correlation.to_vec()).unwrap())
}

/// The 8x8 image of a digit.
pub fn digit(digit: usize) -> Vec<u8> {
    std::fs::read(models().join(format!("digits.sample-{digit}.png"))).unwrap()
}

/// A port that nobody listens on.
pub fn no_broker() -> u16 {
    free_port()
}
