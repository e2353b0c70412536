//! From places in the TOML text to key paths and lines, so that every problem can say where it is.

use std::ops::Range;
use toml::de::{DeArray, DeTable, DeValue};

/// Every key of a document with the bytes that it and its value cover.
pub struct Places {
    places: Vec<Place>,
    line_starts: Vec<usize>,
}

struct Place {
    path: String,
    key: Range<usize>,
    value: Range<usize>,
}

impl Places {
    pub fn new(text: &str, document: &DeTable<'_>) -> Places {
        let mut places = Vec::new();
        walk_table("", document, &mut places);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Places { places, line_starts }
    }

    /// 1-based line of a byte offset.
    pub fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// Path and value bytes of the innermost key whose own bytes or value hold `offset`.
    pub fn at(&self, offset: usize) -> Option<(&str, Range<usize>)> {
        let width = |p: &Place| if p.key.contains(&offset) { p.key.len() } else { p.value.len() };
        let holds = |p: &&Place| p.key.contains(&offset) || p.value.contains(&offset);
        let innermost = self.places.iter().filter(holds).min_by_key(|p| (width(p), usize::MAX - p.path.len()));
        innermost.map(|p| (p.path.as_str(), p.value.clone()))
    }

    /// Whether the key `path` is written in the file.
    pub fn has(&self, path: &str) -> bool {
        self.places.iter().any(|p| p.path == path)
    }

    /// 1-based line of the key `path`, or of its nearest ancestor that is written in the file.
    pub fn line_of(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.iter().find(|p| p.path == path) {
                return Some(self.line(place.key.start));
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

fn walk_table(path: &str, table: &DeTable<'_>, places: &mut Vec<Place>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        walk_value(&path, key.span(), value.span(), value.get_ref(), places);
    }
}

fn walk_value(path: &str, key: Range<usize>, value_span: Range<usize>, value: &DeValue<'_>, places: &mut Vec<Place>) {
    match value {
        DeValue::Table(table) => walk_table(path, table, places),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk_value(&format!("{path}[{index}]"), item.span(), item.span(), item.get_ref(), places);
            }
        }
        _ => {}
    }
    places.push(Place { path: path.to_string(), key, value: value_span });
}

/// Removes the key, or the array item, whose value covers exactly the bytes `span` of the text; false when there is none.
/// An array of tables covers the bytes of its first table, so the innermost value is the one meant.
pub fn remove(document: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    if document.iter_mut().any(|(_, value)| remove_below(value.get_mut(), span)) {
        return true;
    }
    let found = document.iter().find(|(_, value)| value.span() == *span).map(|(key, _)| key.clone());
    found.is_some_and(|key| document.remove(&key).is_some())
}

fn remove_below(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(items) => {
            if items.iter_mut().any(|item| remove_below(item.get_mut(), span)) {
                return true;
            }
            let before = items.len();
            *items = std::mem::replace(items, DeArray::new()).into_iter().filter(|item| item.span() != *span).collect();
            items.len() < before
        }
        _ => false,
    }
}
