//! TOML text to a typed value, with every problem found rather than the first: the wrong part is reported, taken out,
//! and the rest is read again.

use super::locate::{Places, remove};
use super::problems::Problem;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, Error};

/// More problems than this are not collected; the file is then likely no configuration at all.
const MOST_PROBLEMS: usize = 50;

/// Keys of tables with flattened parts, which serde does not list in its errors: the start of their path, and the keys.
pub type FlattenedKeys<'a> = (&'a str, &'a [&'a str]);

/// Reads `text` as a `T`. On failure every problem carries its key path and line where they are known.
pub fn parse<T: DeserializeOwned>(text: &str, flattened: FlattenedKeys<'_>) -> Result<(T, Places), Vec<Problem>> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let places = Places::new(text, document.get_ref());
    if !syntax.is_empty() {
        return Err(syntax.iter().map(|e| problem(e, &places, flattened)).collect());
    }
    let mut problems = Vec::new();
    let mut remaining = document;
    for _ in 0..MOST_PROBLEMS {
        match T::deserialize(toml::Deserializer::from(remaining.clone())) {
            Ok(value) if problems.is_empty() => return Ok((value, places)),
            Ok(_) => break,
            Err(e) => {
                let found = problem(&e, &places, flattened);
                if !follows_from(&found, &problems) {
                    problems.push(found);
                }
                let wrong = e.span().and_then(|span| places.at(span.start)).map(|(_, value)| value);
                if !wrong.is_some_and(|value| remove(remaining.get_mut(), &value)) {
                    break;
                }
            }
        }
    }
    problems.sort_by_key(|p| p.line);
    Err(problems)
}

/// True for a key that is missing only because its wrong value was taken out.
fn follows_from(found: &Problem, earlier: &[Problem]) -> bool {
    let Some(missing) = found.message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) else { return false };
    let key = format!("{}.{missing}", found.key);
    earlier.iter().any(|p| p.key == key)
}

fn problem(error: &Error, places: &Places, flattened: FlattenedKeys<'_>) -> Problem {
    let start = error.span().map(|span| span.start);
    let mut key = start.and_then(|s| places.at(s)).map_or_else(String::new, |(path, _)| path.to_string());
    let mut line = start.map(|s| places.line(s));
    let more = if key.starts_with(flattened.0) { flattened.1 } else { &[] };
    let (typed, message) = with_suggestion(error.message(), more);
    // A flattened part gives the whole table's place for one of its keys.
    let inner = typed.map(|typed| format!("{key}.{typed}")).filter(|inner| places.has(inner));
    if let Some(inner) = inner {
        line = places.line_of(&inner);
        key = inner;
    }
    Problem { key, line, message }
}

/// Adds `did you mean` to serde's `unknown field` and `unknown variant` messages, which list what they expected in backquotes;
/// `more` are names that they do not list. Gives back the unknown name, too.
fn with_suggestion<'m>(message: &'m str, more: &[&'m str]) -> (Option<&'m str>, String) {
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(typed) = names.next().filter(|_| message.starts_with("unknown ")) else {
        return (None, message.to_string());
    };
    let nearest = names.chain(more.iter().copied()).map(|name| (strsim::damerau_levenshtein(typed, name), name)).min();
    let text = match nearest {
        Some((distance, name)) if distance <= typed.len().max(name.len()) / 3 + 1 => format!("{message}; did you mean `{name}`?"),
        _ => message.to_string(),
    };
    (Some(typed), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(default)]
        node: String,
        #[serde(default)]
        item: Vec<Item>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Item {
        name: String,
        #[serde(default)]
        celsius: f32,
    }

    const NONE: FlattenedKeys<'static> = ("-", &[]);

    fn problems(text: &str) -> Vec<String> {
        parse::<Sample>(text, NONE).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_is_reported_with_line_and_key() {
        let text = "node = 3\nnod = \"a\"\n[[item]]\nname = \"a\"\ncelcius = 4.0\n[[item]]\ncelsius = \"hot\"\n";
        let found = problems(text);
        assert_eq!(found.len(), 5, "{found:#?}");
        let has = |start: &str, part: &str| found.iter().any(|p| p.starts_with(start) && p.contains(part));
        assert!(has("line 1: node: ", "expected a string"), "{found:#?}");
        assert!(has("line 2: nod: ", "did you mean `node`?"), "{found:#?}");
        assert!(has("line 5: item[0].celcius: ", "did you mean `celsius`?"), "{found:#?}");
        assert!(has("line 6: item[1]: ", "missing field `name`"), "{found:#?}");
        assert!(has("line 7: item[1].celsius: ", "expected f32"), "{found:#?}");
    }

    #[test]
    fn a_missing_key_names_its_table_and_the_rest_is_still_checked() {
        let found = problems("[[item]]\ncelsius = 1.0\n[[item]]\nname = 7\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("line 1: item[0]: missing field `name`"), "{found:#?}");
        assert!(found[1].starts_with("line 4: item[1].name: "), "{found:#?}");
    }

    #[test]
    fn syntax_errors_carry_their_line() {
        let found = problems("node = \"a\"\nitem = [\n");
        assert!(found[0].starts_with("line 2") || found[0].starts_with("line 3"), "{found:#?}");
        assert!(problems("node = \"a\"\nnode = \"b\"\n")[0].starts_with("line 2: "));
    }

    #[test]
    fn a_right_file_reads() {
        let (sample, places) = parse::<Sample>("node = \"x\"\n\n[[item]]\nname = \"y\"\n", NONE).ok().unwrap();
        assert_eq!(sample.item[0].name, "y");
        assert_eq!(places.line_of("item[0].name"), Some(4));
        assert_eq!(places.line_of("item[0].celsius"), Some(3));
        assert_eq!(places.line_of("governor.max_celsius"), None);
    }
}
