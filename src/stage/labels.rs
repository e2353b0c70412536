//! The names of a model's classes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Class names in the order of the model's output, shared by everything that names classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Arc<str>>);

/// A larger file is not a list of labels.
const MAX_BYTES: u64 = 1 << 20;

impl Labels {
    /// One label a line, without the blanks around it; empty lines at the end do not count.
    pub fn parse(text: &str) -> Result<Labels, String> {
        let lines: Vec<&str> = text.trim_end().lines().map(str::trim).collect();
        if let Some(empty) = lines.iter().position(|line| line.is_empty()) {
            return Err(format!("line {}: expected a label, found an empty line", empty + 1));
        }
        match lines.is_empty() {
            true => Err("expected one label a line, found none".into()),
            false => Ok(Labels(lines.into_iter().map(Arc::from).collect())),
        }
    }

    /// Reads a file of at most 1 MiB.
    pub fn read(path: &Path) -> Result<Labels, String> {
        let told = |e: std::io::Error| format!("{}: {e}", path.display());
        let size = fs::metadata(path).map_err(told)?.len();
        if size > MAX_BYTES {
            return Err(format!("{}: expected a list of labels of at most {MAX_BYTES} bytes, found {size}", path.display()));
        }
        let text = fs::read_to_string(path).map_err(told)?;
        Labels::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, class: usize) -> Option<Arc<str>> {
        self.0.get(class).cloned()
    }

    /// The class that has this name.
    pub fn class(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|label| &**label == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|label| &**label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn one_label_a_line() {
        let labels = Labels::parse("healthy\r\n imbalance\nbearing fault\n\n").unwrap();
        assert_eq!(labels.iter().collect::<Vec<_>>(), ["healthy", "imbalance", "bearing fault"]);
        assert_eq!(labels.class("imbalance"), Some(1));
        assert_eq!(labels.get(3), None);
    }

    #[test]
    fn an_empty_line_between_labels_or_no_label_is_an_error() {
        assert!(Labels::parse("a\n\nb").unwrap_err().contains("line 2"));
        assert!(Labels::parse(" \n").is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels.txt");
        assert!(Labels::read(&path).unwrap_err().contains("labels.txt"));
        std::fs::File::create(&path).unwrap().write_all(b"a\nb\n").unwrap();
        assert_eq!(Labels::read(&path).unwrap().len(), 2);
    }
}
