//! Numbers as text: CSV rows, nested JSON arrays. Both give `float32`.

use super::{TensorFileError, wrong};
use crate::tensor::Tensor;
use serde_json::Value;

/// Reads rows of numbers separated by commas, semicolons, tabs or blanks. Empty lines and lines from `#` on are skipped, as is one
/// line of names at the top. Shape `[rows, columns]`.
pub fn read_csv(text: &str) -> Result<Tensor, TensorFileError> {
    let mut values = Vec::new();
    let mut columns = None;
    let mut rows = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let before = values.len();
        if let Err(why) = read_row(line, &mut values) {
            if rows == 0 && columns.is_none() {
                values.truncate(before);
                columns = Some(0);
                continue;
            }
            return wrong(format!("line {}: {why}", number + 1));
        }
        let found = values.len() - before;
        if rows > 0 && columns != Some(found) {
            return wrong(format!("line {}: expected {} numbers, found {found}", number + 1, columns.unwrap_or(0)));
        }
        columns = Some(found);
        rows += 1;
    }
    if rows == 0 {
        return wrong("holds no rows of numbers");
    }
    from_f32(vec![rows, columns.unwrap_or(0)], &values)
}

fn read_row(line: &str, values: &mut Vec<f32>) -> Result<(), String> {
    let separator = |c: char| matches!(c, ',' | ';') || c.is_whitespace();
    for field in line.split(separator).filter(|field| !field.is_empty()) {
        values.push(field.parse().map_err(|_| format!("`{field}` is not a number"))?);
    }
    Ok(())
}

/// Reads a number, or arrays of numbers nested as deep as the tensor has axes, each of the same length as its neighbours.
pub fn read_json(text: &str) -> Result<Tensor, TensorFileError> {
    let value: Value = serde_json::from_str(text).map_err(|e| TensorFileError(e.to_string()))?;
    let mut shape = Vec::new();
    let mut first = &value;
    while let Value::Array(items) = first {
        shape.push(items.len());
        match items.first() {
            Some(item) => first = item,
            None => break,
        }
    }
    let mut values = Vec::new();
    flatten(&value, &shape, &mut values)?;
    from_f32(shape, &values)
}

/// `serde_json` bounds the depth of nesting, and so of this recursion, to 128.
fn flatten(value: &Value, shape: &[usize], values: &mut Vec<f32>) -> Result<(), TensorFileError> {
    match (value, shape) {
        (Value::Number(number), []) => {
            values.push(number.as_f64().unwrap_or(f64::NAN) as f32);
            Ok(())
        }
        (Value::Array(items), [length, rest @ ..]) if items.len() == *length => items.iter().try_for_each(|i| flatten(i, rest, values)),
        (Value::Array(items), [length, ..]) => wrong(format!("arrays differ in length: {length} and {}", items.len())),
        (other, _) => wrong(format!("expected numbers in arrays of one depth, found {}", kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, TensorFileError> {
    Tensor::from_f32(shape, values).map_err(|e| TensorFileError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_reads_rows_under_an_optional_header() {
        let t = read_csv("# made by hand\nax,ay,az\n1, 2,3\n\n-4;5e-1\t6\n").unwrap();
        assert_eq!((t.shape(), t.to_f32()), (&[2, 3][..], vec![1.0, 2.0, 3.0, -4.0, 0.5, 6.0]));
        assert_eq!(read_csv("1 2\n3").unwrap_err().0, "line 2: expected 2 numbers, found 1");
        assert_eq!(read_csv("a,b\n1,x").unwrap_err().0, "line 2: `x` is not a number");
        assert!(read_csv("a,b\n").is_err());
    }

    #[test]
    fn json_reads_nested_arrays() {
        let t = read_json("[[[1], [2.5]], [[-3], [4]]]").unwrap();
        assert_eq!((t.shape(), t.to_f32()), (&[2, 2, 1][..], vec![1.0, 2.5, -3.0, 4.0]));
        assert_eq!(read_json("7").unwrap().shape(), [0usize; 0]);
        assert_eq!(read_json("[]").unwrap().shape(), [0]);
        assert!(read_json("[[1, 2], [3]]").unwrap_err().0.contains("2 and 1"));
        assert!(read_json("[1, [2]]").unwrap_err().0.contains("an array"));
        assert!(read_json("[1, null]").unwrap_err().0.contains("null"));
        assert!(read_json(&"[".repeat(100_000)).is_err());
    }
}
