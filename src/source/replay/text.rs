//! CSV and JSON lines as a recording.

use super::{Decoded, Decoder, Item};
use crate::source::lines::{self, Cut, LineFormat, Lines, MAX_LINE};
use serde::Deserialize;

/// Name of the column, or of the member, that holds seconds.
pub const TIME: &str = "t";

pub struct Text {
    format: LineFormat,
    /// As configured; may be empty.
    wanted: Vec<String>,
    lines: Lines,
    /// Known from the first line.
    columns: Option<Columns>,
}

/// Where the values stand in a line.
struct Columns {
    names: Vec<String>,
    /// Position in a CSV line of each value.
    pick: Vec<usize>,
    time: Option<usize>,
    /// Fields per CSV line.
    width: usize,
}

impl Text {
    pub fn new(format: LineFormat, wanted: Vec<String>) -> Text {
        Text { format, wanted, lines: Lines::default(), columns: None }
    }

    fn line(&mut self, text: &str, row: &mut Vec<f32>) -> Result<Option<Item>, String> {
        match self.format {
            LineFormat::Csv => self.csv(text, row),
            LineFormat::Json => Ok(Some(self.json(text, row).unwrap_or_else(Item::Malformed))),
        }
    }

    fn csv(&mut self, text: &str, row: &mut Vec<f32>) -> Result<Option<Item>, String> {
        let fields = lines::fields(text);
        let Some(columns) = &self.columns else {
            let header = fields.iter().any(|f| f.parse::<f64>().is_err());
            self.columns = Some(Columns::of(&fields, header, &self.wanted)?);
            return if header { Ok(None) } else { self.csv(text, row) };
        };
        Ok(Some(columns.take(&fields, text, row).unwrap_or_else(Item::Malformed)))
    }

    fn json(&mut self, text: &str, row: &mut Vec<f32>) -> Result<Item, String> {
        let names = self.columns.as_ref().map_or(&self.wanted, |c| &c.names);
        lines::parse(text, LineFormat::Json, names, row)?;
        if self.columns.is_none() && !row.is_empty() {
            let names = if self.wanted.is_empty() { numbered(row.len()) } else { self.wanted.clone() };
            self.columns = Some(Columns { names, pick: Vec::new(), time: None, width: 0 });
        }
        #[derive(Deserialize)]
        struct Timed {
            t: Option<f64>,
        }
        // Arrays have no time.
        let timed = text.starts_with('{').then(|| serde_json::from_str::<Timed>(text).ok()).flatten();
        Ok(Item::Row(timed.and_then(|timed| timed.t)))
    }
}

/// Names for columns that have none.
pub fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("ch{n}")).collect()
}

impl Columns {
    fn of(fields: &[&str], header: bool, wanted: &[String]) -> Result<Columns, String> {
        let width = fields.len();
        if !header {
            if !wanted.is_empty() && wanted.len() != width {
                return Err(format!("has no header and {width} columns, while `channels` names {}", wanted.len()));
            }
            let names = if wanted.is_empty() { numbered(width) } else { wanted.to_vec() };
            return Ok(Columns { names, pick: (0..width).collect(), time: None, width });
        }
        let position = |name: &str| fields.iter().position(|f| unquoted(f) == name);
        let time = position(TIME);
        let pick = match wanted {
            [] => (0..width).filter(|n| Some(*n) != time).collect::<Vec<_>>(),
            _ => wanted.iter().map(|name| position(name).ok_or_else(|| missing(name, fields))).collect::<Result<_, _>>()?,
        };
        if pick.is_empty() {
            return Err("has no column beside `t`".into());
        }
        let names = pick.iter().map(|n| unquoted(fields[*n]).to_string()).collect();
        Ok(Columns { names, pick, time, width })
    }

    fn take(&self, fields: &[&str], text: &str, row: &mut Vec<f32>) -> Result<Item, String> {
        if fields.len() != self.width {
            return Err(format!("expected {} fields, found {}: {}", self.width, fields.len(), lines::excerpt(text)));
        }
        for position in &self.pick {
            row.push(lines::number(fields[*position])?);
        }
        let time = self.time.map(|position| lines::number(fields[position])).transpose()?;
        Ok(Item::Row(time))
    }
}

fn missing(name: &str, fields: &[&str]) -> String {
    format!("has no column {name:?}; its header is {}", lines::excerpt(&fields.join(",")))
}

fn unquoted(field: &str) -> &str {
    field.strip_prefix('"').and_then(|f| f.strip_suffix('"')).unwrap_or(field)
}

impl Decoder for Text {
    fn decode(&mut self, bytes: &[u8], last: bool, row: &mut Vec<f32>) -> Result<Decoded, String> {
        let (line, used) = match self.lines.cut(bytes, last) {
            Cut::Incomplete(used) => return Ok(Decoded::NeedMore(used)),
            Cut::TooLong(used) => {
                return Ok(Decoded::Item(Some(Item::Malformed(format!("a line is longer than {MAX_LINE} bytes"))), used));
            }
            Cut::Line(line, used) => (line, used),
        };
        let item = match lines::text(line) {
            None => None,
            Some(Err(complaint)) => Some(Item::Malformed(complaint)),
            Some(Ok(text)) => self.line(text, row)?,
        };
        Ok(Decoded::Item(item, used))
    }

    fn channels(&self) -> &[String] {
        self.columns.as_ref().map_or(&[], |c| &c.names)
    }

    fn rewind(&mut self) {
        self.lines = Lines::default();
        if self.format == LineFormat::Csv {
            // The header comes again.
            self.columns = None;
        }
    }
}
