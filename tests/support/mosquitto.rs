//! A real broker on a port of its own.

use super::{eventually, free_port};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub struct Mosquitto {
    pub port: u16,
    pub dir: tempfile::TempDir,
    child: Child,
}

impl Mosquitto {
    /// Starts a broker that lets everybody in; `extra` is added to its configuration, with `$DIR` for its directory.
    pub fn start(extra: &str) -> Mosquitto {
        Mosquitto::start_with(|_| {}, &format!("allow_anonymous true\n{extra}"))
    }

    /// Starts a broker after `prepare` put files into its directory.
    pub fn start_with(prepare: impl FnOnce(&Path), config: &str) -> Mosquitto {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let port = free_port();
        // `user root`: as root it would otherwise become a user that cannot write into the directory.
        let text = format!("user root\nset_tcp_nodelay true\nlistener {port} 127.0.0.1\nmax_queued_messages 0\n{config}\n");
        let text = text.replace("$DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        let child = launch(dir.path(), port);
        Mosquitto { port, dir, child }
    }

    /// Stops the broker as a service manager does, so that it writes its state.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Kills the broker.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port with what it wrote.
    pub fn restart(&mut self) {
        self.child = launch(self.dir.path(), self.port);
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(dir: &Path, port: u16) -> Child {
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|p| Path::new(p).exists());
    let program = program.expect("these tests need the mosquitto broker: apt-get install mosquitto");
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut child = Command::new(program)
        .args(["-v", "-c"])
        .arg(dir.join("mosquitto.conf"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    eventually("mosquitto to listen", || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("mosquitto ended with {status}: {}", std::fs::read_to_string(dir.join("log")).unwrap());
        }
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    child
}
