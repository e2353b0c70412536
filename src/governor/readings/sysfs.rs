//! Small files of the kernel, read with care: they may be missing, forbidden, empty, absurd, or fail while read.

use rustix::fs::OFlags;
use serde::Serialize;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file gave no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "detail")]
pub enum Why {
    /// There is none.
    Missing,
    /// The daemon may not read it.
    Permission,
    /// It fails on read, or what it says cannot be.
    Unusable(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Missing => f.write_str("not there"),
            Why::Permission => f.write_str("permission denied"),
            Why::Unusable(what) => f.write_str(what),
        }
    }
}

/// No sysfs value is longer; more is not read.
const LONGEST: u64 = 4096;

/// Opens it; never waits for somebody at the other end, as a pipe in the file's place would have it.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)
}

/// The file's text without surrounding white space; not empty.
pub fn text(path: &Path) -> Result<String, Why> {
    let mut bytes = Vec::new();
    let read = open(path, OpenOptions::new().read(true)).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Why::Missing,
        ErrorKind::PermissionDenied => Why::Permission,
        _ => Why::Unusable(error.to_string()),
    })?;
    match String::from_utf8_lossy(&bytes).trim() {
        "" => Err(Why::Unusable("is empty".to_string())),
        text => Ok(text.to_string()),
    }
}

/// A whole number in decimal.
pub fn number(path: &Path) -> Result<i64, Why> {
    let text = text(path)?;
    text.parse().map_err(|_| Why::Unusable(format!("expected a number, found `{}`", shortened(&text))))
}

/// A number divided by `scale`, between `low` and `high` inclusive after that.
pub fn scaled(path: &Path, scale: f64, low: f64, high: f64) -> Result<f64, Why> {
    let value = number(path)? as f64 / scale;
    if (low..=high).contains(&value) { Ok(value) } else { Err(Why::Unusable(format!("{value} is not within {low} to {high}"))) }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Entries of a directory whose names begin with `prefix`, sorted; none where it cannot be listed.
pub fn entries(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The path as it would be below `/`.
pub fn shown(root: &Path, path: &Path) -> String {
    format!("/{}", path.strip_prefix(root).unwrap_or(path).display())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A tree of files in a temporary directory.
    pub fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(root.path(), path, text);
        }
        root
    }

    pub fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn every_way_to_be_unreadable_has_its_reason() {
        let long = "9".repeat(10_000);
        let root = tree(&[("good", " 42\n"), ("empty", "\n"), ("words", "N/A"), ("long", &long)]);
        let at = |name: &str| number(&root.path().join(name));
        assert_eq!(at("good"), Ok(42));
        assert_eq!(at("none"), Err(Why::Missing));
        assert_eq!(at("empty"), Err(Why::Unusable("is empty".to_string())));
        assert_eq!(at("words"), Err(Why::Unusable("expected a number, found `N/A`".to_string())));
        assert!(matches!(at("long"), Err(Why::Unusable(_))));
        assert!(matches!(at(""), Err(Why::Unusable(_))), "a directory");
        assert!(scaled(&root.path().join("good"), 1.0, 0.0, 41.0).is_err());
    }
}
