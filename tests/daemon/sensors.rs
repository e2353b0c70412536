//! From a recorded sensor to labels and alarms.

use crate::board::{Board, config, models};
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use serde_json::Value;

/// The recording as fast as the daemon takes it in order: the queue holds it all.
const MOTOR: &str = r#"
[queue.samples]
capacity = 1000
when_full = "reject-new"
[[source]]
name = "motor"
model = "vibration"
kind = "replay"
path = "$MODELS/vibration.stream.csv"
pace = "as-fast-as-possible"
window = 512
hop = 256
"#;

#[test]
fn a_replayed_sensor_gets_the_right_labels_in_order_and_raises_the_alarm() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe("jouled/pi/model/vibration/result");
    let _board = Board::start(&config(broker.port, MOTOR));
    let truth: Value = serde_json::from_slice(&std::fs::read(models().join("vibration.stream.json")).unwrap()).unwrap();
    let segments = truth["segments"].as_array().unwrap();
    let windows = (truth["samples"].as_u64().unwrap() - 512) / 256 + 1;
    let (mut judged, mut right, mut alarmed) = (0, 0, Vec::new());
    for sequence in 0..windows {
        let result: Value = serde_json::from_slice(&peer.next().payload).unwrap();
        assert_eq!(result["sequence"], sequence, "{result}");
        assert_eq!(result["source"], "motor");
        let (start, end) = (sequence * 256, sequence * 256 + 512);
        let inside = |s: &&Value| s["first_sample"].as_u64() <= Some(start) && Some(end) <= s["end_sample"].as_u64();
        if let Some(segment) = segments.iter().find(inside) {
            judged += 1;
            right += u32::from(result["result"]["label"] == segment["label"]);
        }
        if result["result"]["alarms"][0]["on"] == true {
            alarmed.push(start);
        }
    }
    assert!(judged > 40 && right * 100 >= judged * 95, "{right} of {judged} right");
    let fault = segments.iter().find(|s| s["label"] == "bearing_fault").unwrap();
    let first_sample = fault["first_sample"].as_u64().unwrap();
    assert!(alarmed.first().is_some_and(|&at| at >= first_sample), "the alarm went on at {alarmed:?}");
    assert!(alarmed.len() >= 5, "{alarmed:?}");
}

#[test]
fn a_missing_sensor_stops_nothing_and_shows_in_stats() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    peer.subscribe("jouled/pi/stats");
    let missing = MOTOR.replace("name = \"motor\"", "name = \"gone\"").replace("$MODELS/vibration.stream.csv", "/nowhere/at-all.csv");
    let missing = missing.split_once("[[source]]").unwrap().1;
    let extra = format!("[stats]\nperiod = \"1s\"\n{MOTOR}\n[[source]]{missing}");
    let _board = Board::start(&config(broker.port, &extra));
    loop {
        let stats: Value = serde_json::from_slice(&peer.next().payload).unwrap();
        let source = |name: &str| stats["sources"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap().clone();
        assert!(source("gone")["last_error"].as_str().is_some_and(|e| e.contains("/nowhere/at-all.csv")), "{stats}");
        if source("motor")["windows"].as_u64() > Some(50) {
            assert_eq!(source("gone")["state"], "failed-retrying");
            break;
        }
    }
}
