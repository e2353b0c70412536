//! Content types: which format a payload has, and in which one its answer goes back.

use crate::rejection::{Code, Rejection};

/// A format that the daemon reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Json,
    Cbor,
    /// A raw tensor.
    Raw,
    /// JPEG or PNG.
    Image,
}

/// The format of a result or error message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Cbor,
}

impl Format {
    /// The format of the answer to a request with this content type: CBOR for CBOR, JSON for everything else.
    pub fn of_reply(content_type: Option<&str>) -> Format {
        match content_type.map(essence).as_deref() {
            Some("application/cbor") => Format::Cbor,
            _ => Format::Json,
        }
    }

    /// The MQTT 5 content type of a message in this format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Cbor => "application/cbor",
        }
    }
}

/// Reads a content type such as `application/json; charset=utf-8`; letter case and parameters do not matter. `Ok(None)` where
/// there is none.
pub fn parse(content_type: Option<&str>) -> Result<Option<Content>, Rejection> {
    let Some(text) = content_type.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    match essence(text).as_str() {
        "application/json" => Ok(Some(Content::Json)),
        "application/cbor" => Ok(Some(Content::Cbor)),
        "application/octet-stream" => Ok(Some(Content::Raw)),
        "image/jpeg" | "image/png" => Ok(Some(Content::Image)),
        _ => Err(unknown(text)),
    }
}

fn unknown(text: &str) -> Rejection {
    let shown: String = text.chars().take(80).collect();
    let message =
        format!("content type `{shown}`: expected application/json, application/cbor, application/octet-stream, image/jpeg or image/png");
    Rejection::new(Code::UnknownContentType, message)
}

/// Type and subtype without parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert_eq!(parse(Some("Application/JSON; charset=utf-8")).unwrap(), Some(Content::Json));
        assert_eq!(parse(Some(" image/png ")).unwrap(), Some(Content::Image));
        assert_eq!(parse(Some("application/octet-stream")).unwrap(), Some(Content::Raw));
        assert_eq!(parse(Some("")).unwrap(), None);
        assert_eq!(parse(None).unwrap(), None);
    }

    #[test]
    fn an_unknown_type_is_named_with_the_known_ones() {
        let rejection = parse(Some("text/html")).unwrap_err();
        assert_eq!(rejection.code, Code::UnknownContentType);
        assert!(rejection.message.contains("text/html") && rejection.message.contains("application/cbor"));
    }

    #[test]
    fn cbor_is_answered_in_cbor() {
        assert_eq!(Format::of_reply(Some("application/CBOR;x=1")), Format::Cbor);
        assert_eq!(Format::of_reply(Some("image/png")), Format::Json);
        assert_eq!(Format::of_reply(None), Format::Json);
    }
}
