//! Lines of numbers, as sensors on a serial port send them and recordings hold them: CSV or JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest line, in bytes without its end; a longer one is skipped as malformed.
pub const MAX_LINE: usize = 1 << 16;

/// How one line holds its numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineFormat {
    /// Numbers between commas, semicolons, tabs or blanks.
    #[default]
    Csv,
    /// A JSON array of numbers, one number, or an object whose members are named by `channels`.
    Json,
}

/// What stands at the start of some bytes, and how many of them it takes.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    /// A line without its end.
    Line(&'a [u8], usize),
    /// A line longer than [`MAX_LINE`] has ended here.
    TooLong(usize),
    /// No line end yet. The bytes are to be dropped, if any: they belong to a line that is too long already.
    Incomplete(usize),
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
pub struct Lines {
    /// The line that has begun is too long: drop the rest of it.
    too_long: bool,
}

impl Lines {
    /// Looks at the bytes that are not used yet. With `last`, what has no line end counts as a line.
    pub fn cut<'a>(&mut self, bytes: &'a [u8], last: bool) -> Cut<'a> {
        let end = bytes.iter().position(|b| *b == b'\n');
        let (length, used) = match end {
            Some(end) => (end, end + 1),
            None if last && !bytes.is_empty() => (bytes.len(), bytes.len()),
            None => {
                self.too_long |= bytes.len() > MAX_LINE;
                return Cut::Incomplete(if self.too_long { bytes.len() } else { 0 });
            }
        };
        if std::mem::take(&mut self.too_long) || length > MAX_LINE {
            return Cut::TooLong(used);
        }
        Cut::Line(&bytes[..length], used)
    }
}

/// The text of a line without blanks around it; `None` for an empty line and for a comment (`#`).
pub fn text(line: &[u8]) -> Option<Result<&str, String>> {
    match std::str::from_utf8(line) {
        Ok(text) => Some(text.trim()).filter(|t| !t.is_empty() && !t.starts_with('#')).map(Ok),
        Err(_) => Some(Err(format!("{}: is not UTF-8", excerpt(&String::from_utf8_lossy(line))))),
    }
}

/// The fields of a CSV line. The first of comma, semicolon and tab that occurs separates them, otherwise blanks do.
pub fn fields(text: &str) -> Vec<&str> {
    match [',', ';', '\t'].into_iter().find(|c| text.contains(*c)) {
        Some(separator) => text.split(separator).map(str::trim).collect(),
        None => text.split_whitespace().collect(),
    }
}

/// Parses one CSV field.
pub fn number<N: std::str::FromStr>(field: &str) -> Result<N, String> {
    field.parse().map_err(|_| format!("expected a number, found {}", excerpt(field)))
}

/// Adds the numbers of a line to `row`. `channels` names the members of a JSON object; a line must hold as many numbers as
/// there are channels, unless `channels` is empty.
pub fn parse(text: &str, format: LineFormat, channels: &[String], row: &mut Vec<f32>) -> Result<(), String> {
    let before = row.len();
    match format {
        LineFormat::Csv => fields(text).into_iter().try_for_each(|f| number(f).map(|n| row.push(n))),
        LineFormat::Json => parse_json(text, channels, row),
    }
    .and_then(|()| match row.len() - before {
        found if channels.is_empty() || found == channels.len() => Ok(()),
        found => Err(format!("expected {} numbers, found {found}: {}", channels.len(), excerpt(text))),
    })
    .inspect_err(|_| row.truncate(before))
}

fn parse_json(text: &str, channels: &[String], row: &mut Vec<f32>) -> Result<(), String> {
    let mut push = |value: &Value| match value.as_f64() {
        Some(number) => {
            row.push(number as f32);
            Ok(())
        }
        None => Err(format!("expected a number, found {}", excerpt(&value.to_string()))),
    };
    match serde_json::from_str(text).map_err(|e| format!("{e}: {}", excerpt(text)))? {
        Value::Array(items) => items.iter().try_for_each(push),
        Value::Object(members) if !channels.is_empty() => channels.iter().try_for_each(|name| match members.get(name) {
            Some(value) => push(value),
            None => Err(format!("expected a member `{name}`: {}", excerpt(text))),
        }),
        Value::Object(_) => Err("found an object: `channels` must name the members to take".into()),
        single => push(&single),
    }
}

/// The beginning of what was found, quoted and without control characters, for messages.
pub fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}{}", if short.len() < text.len() { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut_all(chunks: &[&[u8]]) -> Vec<Option<String>> {
        let (mut lines, mut pending, mut out) = (Lines::default(), Vec::new(), Vec::new());
        for (n, chunk) in chunks.iter().enumerate() {
            pending.extend_from_slice(chunk);
            loop {
                let used = match lines.cut(&pending, n + 1 == chunks.len()) {
                    Cut::Line(line, used) => {
                        out.push(Some(String::from_utf8_lossy(line).into_owned()));
                        used
                    }
                    Cut::TooLong(used) => {
                        out.push(None);
                        used
                    }
                    Cut::Incomplete(used) => {
                        pending.drain(..used);
                        break;
                    }
                };
                pending.drain(..used);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_bytes_arrive(lines in prop::collection::vec("[ -~]{0,40}", 0..8), cut in 0usize..400) {
            let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let cut = cut.min(text.len());
            let (a, b) = text.as_bytes().split_at(cut);
            let expected: Vec<_> = lines.into_iter().map(Some).collect();
            prop_assert_eq!(cut_all(&[a, b]), expected);
        }

        #[test]
        fn no_line_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let channels = ["a".to_string()];
            if let Some(Ok(text)) = text(&bytes) {
                for format in [LineFormat::Csv, LineFormat::Json] {
                    let mut row = Vec::new();
                    let parsed = parse(text, format, &channels, &mut row);
                    prop_assert_eq!(row.len(), usize::from(parsed.is_ok()));
                }
            }
        }

        #[test]
        fn numbers_survive_csv_and_json(row in prop::collection::vec(-1e30f32..1e30, 1..6)) {
            let csv = row.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
            let json = serde_json::to_string(&row).unwrap();
            for (text, format) in [(csv, LineFormat::Csv), (json, LineFormat::Json)] {
                let mut out = Vec::new();
                parse(&text, format, &[], &mut out).unwrap();
                prop_assert_eq!(&out, &row);
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_once_and_memory_stays_bounded() {
        let long = vec![b'1'; 3 * MAX_LINE];
        assert_eq!(cut_all(&[b"1\n", &long, &long, b"2\n3\n", b"4"]), [Some("1".into()), None, Some("3".into()), Some("4".into())]);
    }

    #[test]
    fn every_separator_and_json_form_is_read() {
        let names = ["x".to_string(), "y".to_string()];
        for (text, format) in [
            ("1.5, -2", LineFormat::Csv),
            ("1.5;-2", LineFormat::Csv),
            ("1.5\t-2", LineFormat::Csv),
            ("1.5   -2", LineFormat::Csv),
            ("[1.5, -2]", LineFormat::Json),
            ("{\"y\": -2, \"x\": 1.5, \"id\": \"a\"}", LineFormat::Json),
        ] {
            let mut row = Vec::new();
            parse(text, format, &names, &mut row).unwrap();
            assert_eq!(row, [1.5, -2.0], "{text}");
        }
    }

    #[test]
    fn malformed_lines_say_what_was_expected() {
        let names = ["x".to_string(), "y".to_string()];
        for (text, format, message) in [
            ("1,,2", LineFormat::Csv, "expected a number, found \"\""),
            ("1", LineFormat::Csv, "expected 2 numbers, found 1"),
            ("1,2,3", LineFormat::Csv, "expected 2 numbers, found 3"),
            ("{\"x\": 1}", LineFormat::Json, "expected a member `y`"),
            ("[1, null]", LineFormat::Json, "expected a number, found \"null\""),
            ("{\"x\"", LineFormat::Json, "EOF"),
        ] {
            let mut row = vec![9.0];
            let error = parse(text, format, &names, &mut row).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
            assert_eq!(row, [9.0], "{text}");
        }
    }
}
