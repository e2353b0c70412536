//! Result and error messages: the daemon's public interface. Members keep their names, meaning and order; new ones may come.

use super::content::Format;
use super::input::Id;
use crate::governor::Reason;
use crate::rejection::{Code, Rejection};
use crate::stage::post::Answer;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// The message on a result topic after an inference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultMessage<'a> {
    /// That of the request, as it was sent; absent where the request had none, and for sensor samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a Id>,
    /// When the result was made: RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "rfc3339_ms")]
    pub time: Timestamp,
    /// Name of the model.
    pub model: &'a str,
    /// Name of the lighter model that ran in its place, where one did; `digest` is that one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran: Option<&'a str>,
    /// Which file the model is: `sha256:` and 64 hexadecimal digits.
    pub digest: &'a str,
    /// Name of the sensor that gave the sample; absent for requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    /// Number of the sample among its sensor's windows, from 0; a gap means dropped ones. Absent for requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// What the post-processing steps made of the model's outputs.
    pub result: &'a Answer,
    /// Where the time went, in microseconds.
    pub timing_us: Timing,
    /// The pace at the time of the inference.
    pub throttle: Throttle,
    /// Joules per inference: the board's energy over the last minute by the inferences in it; absent where power cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joules: Option<f32>,
}

/// The message in place of a result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorMessage<'a> {
    /// As in [`ResultMessage`]; also absent where the request could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a Id>,
    /// As in [`ResultMessage`].
    #[serde(serialize_with = "rfc3339_ms")]
    pub time: Timestamp,
    /// Name of the model that was asked for.
    pub model: &'a str,
    /// As in [`ResultMessage`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    #[serde(serialize_with = "rejection")]
    pub error: &'a Rejection,
}

/// Stage timings; sent as whole microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// From receipt to the start of decoding, the wait for the pace included.
    #[serde(serialize_with = "microseconds")]
    pub queue: Duration,
    /// Decoding and pre-processing.
    #[serde(serialize_with = "microseconds")]
    pub pre: Duration,
    /// The engine alone.
    #[serde(serialize_with = "microseconds")]
    pub infer: Duration,
    /// Post-processing, without encoding and sending.
    #[serde(serialize_with = "microseconds")]
    pub post: Duration,
}

/// How far the governor held the daemon back.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Throttle {
    /// 0 where nothing is held back.
    pub level: u32,
    /// What the level is due to, for example `temperature`; absent at level 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// True where this inference had to wait for the pace.
    pub waited: bool,
}

/// The bytes of a [`ResultMessage`] or [`ErrorMessage`].
pub fn encode<T: Serialize>(message: &T, format: Format) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    // Writing to memory cannot fail, and the messages' own serializers never do.
    let written = match format {
        Format::Json => serde_json::to_writer(&mut bytes, message).map_err(|e| e.to_string()),
        Format::Cbor => ciborium::into_writer(message, &mut bytes).map_err(|e| e.to_string()),
    };
    if let Err(error) = written {
        log::error!("a message could not be encoded: {error}");
    }
    bytes
}

fn rfc3339_ms<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

fn microseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

fn rejection<S: Serializer>(rejection: &&Rejection, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Error<'a> {
        code: Code,
        message: &'a str,
    }
    Error { code: rejection.code, message: &rejection.message }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::post::Scored;
    use serde_json::Value;

    fn result(check: impl FnOnce(ResultMessage)) {
        let top = vec![Scored { label: Some("healthy".into()), index: 0, score: 0.3 }];
        let answer = Answer { label: Some("healthy".into()), score: Some(0.3), top, ..Answer::default() };
        let id = Id::Text("a7".into());
        check(ResultMessage {
            id: Some(&id),
            time: "2026-01-02T03:04:05.6789Z".parse().unwrap(),
            model: "machine",
            ran: None,
            digest: "sha256:00",
            source: None,
            sequence: None,
            result: &answer,
            timing_us: Timing { queue: Duration::from_micros(1500), infer: Duration::from_nanos(999), ..Timing::default() },
            throttle: Throttle { level: 2, reason: Some(Reason::Temperature), waited: true },
            joules: None,
        });
    }

    #[test]
    fn a_result_has_its_members_in_their_order() {
        let expected = concat!(
            r#"{"id":"a7","time":"2026-01-02T03:04:05.678Z","model":"machine","digest":"sha256:00","#,
            r#""result":{"label":"healthy","score":0.3,"top":[{"label":"healthy","index":0,"score":0.3}]},"#,
            r#""timing_us":{"queue":1500,"pre":0,"infer":0,"post":0},"throttle":{"level":2,"reason":"temperature","waited":true}}"#
        );
        result(|message| assert_eq!(String::from_utf8(encode(&message, Format::Json)).unwrap(), expected));
    }

    #[test]
    fn cbor_says_the_same() {
        result(|message| {
            let json: Value = serde_json::from_slice(&encode(&message, Format::Json)).unwrap();
            let cbor: Value = ciborium::from_reader(&encode(&message, Format::Cbor)[..]).unwrap();
            assert_eq!(cbor["id"], json["id"]);
            assert_eq!(cbor["throttle"], json["throttle"]);
            assert!((cbor["result"]["score"].as_f64().unwrap() - 0.3).abs() < 1e-6);
        });
    }

    #[test]
    fn an_error_has_code_and_message() {
        let rejection = Rejection::new(Code::WrongLength, "expected 24 bytes, found 23");
        let time = "2026-01-02T03:04:05Z".parse().unwrap();
        let message = ErrorMessage { id: Some(&Id::Int(7)), time, model: "machine", source: None, error: &rejection };
        let expected = concat!(
            r#"{"id":7,"time":"2026-01-02T03:04:05.000Z","model":"machine","#,
            r#""error":{"code":"wrong_length","message":"expected 24 bytes, found 23"}}"#
        );
        assert_eq!(String::from_utf8(encode(&message, Format::Json)).unwrap(), expected);
    }
}
