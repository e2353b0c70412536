//! Whatever comes in gets a clear answer, and the next request is answered as if nothing had been.

use crate::board::{Board, answer, ask, digit};
use crate::support::mosquitto::Mosquitto;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};

const DIGITS: &str = "jouled/pi/model/digits/infer";

/// A PNG header that promises 60000 x 60000 pixels.
fn png_bomb() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(60_000u32.to_be_bytes().repeat(2));
    png.extend([8, 0, 0, 0, 0]);
    // The CRC-32 of the chunk.
    png.extend(0xa5b9_2a9e_u32.to_be_bytes());
    png.extend(b"\0\0\0\x20IDAT");
    png.extend([0; 64]);
    png
}

#[test]
fn every_bad_request_gets_its_code_and_the_next_one_an_answer() {
    let broker = Mosquitto::start("");
    let (mut board, peer) = Board::ready(&broker, "max_payload = \"64KiB\"\n");
    let typed = |content_type: &str| PublishProperties { content_type: Some(content_type.into()), ..ask("x") };
    let nan: Vec<u8> = [f32::NAN; 64].iter().flat_map(|v| v.to_le_bytes()).collect();
    let cases: Vec<(&str, &str, Vec<u8>, PublishProperties)> = vec![
        ("empty_payload", DIGITS, vec![], ask("x")),
        ("malformed", DIGITS, b"{\"data\": [1, 2".to_vec(), typed("application/json")),
        ("malformed", DIGITS, vec![0xff; 9], typed("application/cbor")),
        ("wrong_length", DIGITS, b"{\"data\": [1, 2]}".to_vec(), ask("x")),
        ("wrong_length", DIGITS, vec![1; 255], typed("application/octet-stream")),
        ("wrong_dtype", DIGITS, br#"{"base64": "AAAA", "dtype": "int8", "shape": [3]}"#.to_vec(), ask("x")),
        ("not_finite", DIGITS, nan, typed("application/octet-stream")),
        ("bad_image", DIGITS, digit(3)[..60].to_vec(), ask("x")),
        ("bad_image", "jouled/pi/model/vibration/infer", digit(3), ask("x")),
        ("image_too_large", DIGITS, png_bomb(), ask("x")),
        ("unknown_content_type", DIGITS, b"x".to_vec(), typed("application/x-tar")),
        ("unknown_model", "jouled/pi/model/digit/infer", digit(3), ask("x")),
        ("payload_too_large", DIGITS, vec![7; 65 * 1024], ask("x")),
    ];
    for (code, topic, payload, properties) in cases {
        peer.publish(topic, payload, properties);
        let (error, correlation) = answer(&peer);
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().len() > 10, "{error}");
        assert_eq!(correlation, "x");
        assert_still_works(&peer);
    }
    assert!(board.stop().success(), "{}", board.log());
}

fn assert_still_works(peer: &crate::support::peer::Peer) {
    peer.publish(DIGITS, digit(4), ask("good"));
    let (result, correlation) = answer(peer);
    assert_eq!((result["result"]["label"].as_str(), correlation.as_str()), (Some("4"), "good"), "{result}");
}

#[test]
fn a_refused_response_topic_is_answered_on_the_result_topic() {
    let broker = Mosquitto::start("");
    let (_board, peer) = Board::ready(&broker, "");
    for topic in ["elsewhere/x", "jouled/pi/status"] {
        let properties = PublishProperties { response_topic: Some(topic.into()), ..ask("r") };
        peer.publish(DIGITS, digit(1), properties);
        let message = peer.next_on("jouled/pi/model/digits/result");
        let error: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(error["error"]["code"], "response_topic_refused", "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(topic), "{error}");
    }
    assert_still_works(&peer);
}

#[test]
fn the_id_of_a_json_request_is_echoed_in_results_and_errors() {
    let broker = Mosquitto::start("");
    let (_board, peer) = Board::ready(&broker, "version = \"3.1.1\"\n");
    let good = json!({ "id": 17, "data": vec![0.0; 64] });
    let bad = json!({ "id": "b", "data": [1] });
    for (request, id) in [(good, json!(17)), (bad, json!("b"))] {
        peer.publish(DIGITS, request.to_string(), PublishProperties::default());
        let message = peer.next_on("jouled/pi/model/digits/result");
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(body["id"], id, "{body}");
    }
}
