//! What is wrong with a configuration, collected rather than stopped at the first: each problem names the key it is about.

use std::fmt;

/// One problem. `line` is found from `key` by whoever holds the text of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path with indices from 0, for example `model[1].limits.max_file`; empty for the whole file.
    pub key: String,
    /// 1-based line in the file, where known.
    pub line: Option<usize>,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects problems below one key path.
pub struct Checker<'a> {
    path: String,
    found: &'a mut Vec<Problem>,
}

impl<'a> Checker<'a> {
    pub fn new(found: &'a mut Vec<Problem>) -> Checker<'a> {
        Checker { path: String::new(), found }
    }

    /// A checker for the table `key` below this one; `key` may be an index such as `[2]`.
    pub fn below(&mut self, key: &str) -> Checker<'_> {
        Checker { path: join(&self.path, key), found: self.found }
    }

    /// Reports that the value at `key` below this path is wrong.
    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        let key = join(&self.path, key);
        self.found.push(Problem { key, line: None, message: message.into() });
    }

    /// Reports `message` unless `holds`.
    pub fn expect(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.problem(key, message());
        }
    }
}

fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.is_empty(), key.starts_with('[')) {
        (true, _, _) => key.to_string(),
        (_, true, _) => path.to_string(),
        (_, _, true) => format!("{path}{key}"),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_with_dots_and_indices() {
        let mut found = Vec::new();
        let mut checker = Checker::new(&mut found);
        checker.below("model").below("[1]").problem("limits.max_file", "expected a size");
        checker.problem("", "is empty");
        checker.expect(true, "node", || unreachable!());
        assert_eq!(found[0].to_string(), "model[1].limits.max_file: expected a size");
        assert_eq!(found[1].to_string(), "is empty");
        assert_eq!(found.len(), 2);
    }
}
