//! Start, reload, stop, and what systemd hears of it.

use crate::board::{Board, answer, ask, config, digit, no_broker};
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const DIGITS: &str = "jouled/pi/model/digits/infer";

/// A socket that hears what systemd would.
fn notify_socket(dir: &std::path::Path) -> (UnixDatagram, String) {
    let path = dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (socket, path.display().to_string())
}

/// Waits for a notification that holds `text`.
fn hear(socket: &UnixDatagram, text: &str) {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {text}: {e}"));
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line.starts_with(text)) {
            return;
        }
    }
}

#[test]
fn systemd_hears_ready_without_a_broker_then_the_watchdog_fed_by_idle_self_tests() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, path) = notify_socket(dir.path());
    let env = vec![("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "4000000".into())];
    let mut board = Board::start_with(&config(no_broker(), ""), env);
    hear(&socket, "READY=1");
    hear(&socket, "STATUS=no broker");
    // Longer than one interval: only self-tests can have fed it.
    for _ in 0..6 {
        hear(&socket, "WATCHDOG=1");
    }
    board.signal(Signal::HUP);
    hear(&socket, "RELOADING=1");
    hear(&socket, "READY=1");
    board.signal(Signal::TERM);
    hear(&socket, "STOPPING=1");
    assert!(board.process.wait().unwrap().success(), "{}", board.log());
}

/// The files in a folder, sorted.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn packed_weights_are_kept_for_the_next_start_and_go_with_their_model() {
    let dir = tempfile::tempdir().unwrap();
    let cache = || vec![("CACHE_DIRECTORY", dir.path().display().to_string())];
    let good = config(no_broker(), "[inference]\ndrain = \"100ms\"\n");
    let count = |board: &Board, text: &str| board.log().matches(text).count();
    // Two at once, into one folder.
    let mut boards = [(); 2].map(|()| Board::start_with(&good, cache()));
    for board in &mut boards {
        board.logged("ready after");
        assert_eq!(count(board, "packed and kept in") + count(board, "taken from") + count(board, "are not kept"), 2, "{}", board.log());
        assert!(board.stop().success(), "{}", board.log());
    }
    let [mut board, _] = boards;
    board.start_again();
    board.logged("stopped");
    eventually("ready again", || count(&board, "ready after") == 2);
    let kept = files(dir.path());
    assert_eq!(kept.len(), 2, "{kept:?}");
    let taken = count(&board, "taken from");
    board.signal(Signal::HUP);
    eventually("all weights taken", || count(&board, "taken from") == taken + 2);
    assert_eq!(files(dir.path()), kept);
    let digits_alone = good.split("[[model]]").take(2).collect::<Vec<_>>().join("[[model]]");
    board.write_config(&digits_alone);
    board.signal(Signal::HUP);
    eventually("one file removed", || files(dir.path()).len() == 1);
    board.write_config(&good.replace("drain", "cache = \"packed\"\ndrain"));
    board.signal(Signal::HUP);
    eventually("the configured folder filled", || files(&board.dir.path().join("packed")).len() == 2);
    assert!(board.stop().success(), "{}", board.log());
}

#[test]
fn a_reload_applies_everything_or_nothing() {
    let broker = Mosquitto::start("");
    let (board, peer) = Board::ready(&broker, "");
    let good = config(broker.port, "");
    let one_label = good.replace("k = 2", "k = 1");
    let labels = |peer: &crate::support::peer::Peer| {
        peer.publish(DIGITS, digit(5), ask("n"));
        let (result, _) = answer(peer);
        assert_eq!(result["result"]["label"], "5", "{result}");
        result["result"]["top"].as_array().unwrap().len()
    };
    assert_eq!(labels(&peer), 2);
    for (bad, says) in [
        (one_label.replace("k = 1 }", "k = 1, kk = 2 }"), "kk"),
        (one_label.replace("digits.onnx", "digits.labels.txt"), "digits.labels.txt"),
        (one_label.replace("node = \"pi\"", "node = \"pie\""), "only a restart can change node"),
        (one_label.replace("[mqtt]", "[mqtt"), "line 2"),
    ] {
        board.write_config(&bad);
        board.signal(Signal::HUP);
        board.logged(says);
        assert_eq!(labels(&peer), 2);
    }
    board.write_config(&one_label);
    board.signal(Signal::HUP);
    board.logged("reloaded");
    eventually("the new steps", || labels(&peer) == 1);
}

#[test]
fn sigterm_answers_what_waits_and_says_goodbye() {
    let broker = Mosquitto::start("");
    let (mut board, peer) = Board::ready(&broker, "");
    for i in 0..20 {
        peer.publish(DIGITS, digit(i % 10), ask(&i.to_string()));
    }
    let mut answered = vec![answer(&peer).1];
    assert!(board.stop().success(), "{}", board.log());
    // Whatever is not answered now is still with the broker: the next daemon answers it.
    board.start_again();
    while answered.len() < 20 {
        let (result, correlation) = answer(&peer);
        assert!(result.get("error").is_none(), "{result}");
        if !answered.contains(&correlation) {
            answered.push(correlation);
        }
    }
}
