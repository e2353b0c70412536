//! The governor's hand in the results.

use crate::board::{Board, answer, ask, config, digit};
use crate::support::PATIENCE;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::Value;
use std::time::Instant;

const HOT: &str = r#"
[governor]
max_celsius = 60.0
period = "100ms"
[[governor.level]]
duty = 1.0
[[governor.level]]
duty = 0.5
max_per_second = 5.0
lighter_model = true
"#;

#[test]
fn a_hot_board_paces_requests_and_says_so() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    for filter in ["jouled/pi/status", "answers/#"] {
        peer.subscribe(filter);
    }
    let config = config(broker.port, HOT).replace("name = \"digits\"", "name = \"digits\"\nlighter = \"light\"");
    let light = config.split("[[model]]").nth(1).unwrap().replace("name = \"digits\"\nlighter = \"light\"", "name = \"light\"");
    let board = Board::start(&format!("{config}\n[[model]]\n{light}"));
    board.sysfs("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    board.sysfs("sys/class/thermal/thermal_zone0/temp", "85000\n");
    peer.next_on("jouled/pi/status");
    let result = until(&peer, |r| r["throttle"]["waited"] == true && r["timing_us"]["queue"].as_u64() > Some(8_000));
    assert_eq!(result["throttle"]["level"], 1, "{result}");
    assert_eq!(result["throttle"]["reason"], "temperature", "{result}");
    assert_eq!((result["model"].as_str(), result["ran"].as_str()), (Some("digits"), Some("light")), "{result}");
    board.sysfs("sys/class/thermal/thermal_zone0/temp", "40000\n");
    let result = until(&peer, |r| r["throttle"]["level"] == 0);
    assert_eq!((result["throttle"].get("reason"), result.get("ran")), (None, None), "{result}");
}

/// Asks two questions at a time until an answer is as wanted. The governor recovers slowly, on purpose.
fn until(peer: &Peer, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + 2 * PATIENCE;
    while Instant::now() < end {
        for i in 0..2 {
            peer.publish("jouled/pi/model/digits/infer", digit(2), ask(&i.to_string()));
        }
        let answers = [answer(peer).0, answer(peer).0];
        assert!(answers.iter().all(|a| a["result"]["label"] == "2"), "{answers:?}");
        if let Some(answer) = answers.into_iter().find(|a| wanted(a)) {
            return answer;
        }
    }
    panic!("no answer was as wanted");
}

#[test]
fn a_request_that_expires_while_the_pace_holds_it_back_is_told_so() {
    let broker = Mosquitto::start("");
    let peer = Peer::connect(broker.port, "peer");
    for filter in ["jouled/pi/status", "answers/#"] {
        peer.subscribe(filter);
    }
    let board = Board::start(&config(broker.port, &HOT.replace("5.0", "0.1")));
    board.sysfs("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    board.sysfs("sys/class/thermal/thermal_zone0/temp", "85000\n");
    peer.next_on("jouled/pi/status");
    // One inference every 10 s, soon: the first answers come at once, then a request waits longer than it lives.
    let end = Instant::now() + 2 * PATIENCE;
    loop {
        assert!(Instant::now() < end, "nothing expired");
        let properties = PublishProperties { message_expiry_interval: Some(1), ..ask("e") };
        peer.publish("jouled/pi/model/digits/infer", digit(2), properties);
        let (body, correlation) = answer(&peer);
        assert_eq!(correlation, "e");
        if let Some(error) = body.get("error") {
            assert_eq!(error["code"], "expired", "{body}");
            let message = error["message"].as_str().unwrap();
            let waited: f64 = message.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
            // Told when it expires, not when the pace would have let it run, 10 s later.
            assert!((0.9..5.0).contains(&waited), "{message}");
            break;
        }
    }
}
