//! Printing: one JSON object for programs, text for people.

use super::Failure;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Prints `value` as one JSON object, or as people read it.
pub fn print<T: Serialize + Display>(value: &T, json: bool) -> Result<(), Failure> {
    if json { print_json(value) } else { write(&value.to_string()) }
}

/// Prints `value` as one JSON object.
pub fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Running(format!("cannot write JSON: {e}")))?;
    write(&text)
}

/// Prints one line or block. A reader that has gone away (`| head`) is no failure.
pub fn write(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n')) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Failure::Running(format!("cannot write to standard output: {e}"))),
        _ => Ok(()),
    }
}
