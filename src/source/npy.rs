//! The header of an `.npy` file (NumPy's format, versions 1 to 3), read from untrusted bytes and written.

use super::lines::excerpt;

/// Type and shape of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// NumPy's type string, for example `<f4`.
    pub descr: String,
    /// Columns first.
    pub fortran: bool,
    pub shape: Vec<u64>,
}

const MAGIC: &[u8] = b"\x93NUMPY";
/// Largest header that is read, in bytes.
const MAX_HEADER: usize = 1 << 16;
const MAX_RANK: usize = 32;

impl Header {
    /// Parses the header at the start of `bytes`; also returns its length, after which the data follow. `None` if more bytes
    /// are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, String> {
        if !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            return Err("is no .npy file".into());
        }
        let Some((start, length)) = extent(bytes) else { return Ok(None) };
        if length > MAX_HEADER {
            return Err(format!("its .npy header takes {length} bytes: expected at most {MAX_HEADER}"));
        }
        let Some(text) = bytes.get(start..start + length) else { return Ok(None) };
        let text = String::from_utf8_lossy(text);
        match read_dictionary(&text) {
            Some(header) => Ok(Some((header, start + length))),
            None => Err(format!("its .npy header does not parse: {}", excerpt(text.trim()))),
        }
    }

    /// Version 1.0, padded to a multiple of 64 bytes and as long whatever the first dimension is, so that it can be put in place
    /// later. `None` if it is too long.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let longest =
            Header { shape: self.shape.iter().enumerate().map(|(n, d)| if n == 0 { u64::MAX } else { *d }).collect(), ..self.clone() };
        // Magic, version and length take 10 bytes, the line end 1.
        let length = (11 + longest.dictionary().len()).next_multiple_of(64) - 10;
        let stored = u16::try_from(length).ok()?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend(stored.to_le_bytes());
        bytes.extend(format!("{:width$}\n", self.dictionary(), width = length - 1).into_bytes());
        Some(bytes)
    }

    fn dictionary(&self) -> String {
        let shape: String = self.shape.iter().map(|d| format!("{d}, ")).collect();
        let fortran = if self.fortran { "True" } else { "False" };
        format!("{{'descr': '{}', 'fortran_order': {fortran}, 'shape': ({}), }}", self.descr, shape.trim_end())
    }
}

/// Where the dictionary's text starts and how long it is; the length takes two bytes in version 1 and four later.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(6)? {
        1 => Some((10, usize::from(u16::from_le_bytes(bytes.get(8..10)?.try_into().ok()?)))),
        _ => Some((12, usize::try_from(u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?)).ok()?)),
    }
}

/// Reads the three members that NumPy writes. Types of records, whose `descr` is a list, are not read.
fn read_dictionary(text: &str) -> Option<Header> {
    let descr = quoted(member(text, "descr")?)?;
    let fortran = match member(text, "fortran_order")? {
        value if value.starts_with("True") => true,
        value if value.starts_with("False") => false,
        _ => return None,
    };
    let dimensions = member(text, "shape")?.strip_prefix('(')?.split_once(')')?.0;
    let dimensions = dimensions.trim().strip_suffix(',').unwrap_or(dimensions.trim());
    let shape: Vec<u64> = match dimensions {
        "" => Vec::new(),
        some => some.split(',').map(|d| d.trim().parse().ok()).collect::<Option<_>>()?,
    };
    (shape.len() <= MAX_RANK).then(|| Header { descr: descr.to_string(), fortran, shape })
}

/// What follows `'name':`.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let after = ['\'', '"'].iter().find_map(|quote| text.split_once(&format!("{quote}{name}{quote}")))?.1;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    Some(text[1..].split_once(quote)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_read_as_written_and_keep_their_length(shape in prop::collection::vec(any::<u64>(), 0..6), fortran in any::<bool>()) {
            let header = Header { descr: "<f4".into(), fortran, shape };
            let bytes = header.to_bytes().unwrap();
            prop_assert!(bytes.len().is_multiple_of(64));
            prop_assert_eq!(Header::parse(&bytes), Ok(Some((header.clone(), bytes.len()))));
            prop_assert_eq!(Header::parse(&bytes[..bytes.len() - 1]), Ok(None));
            if let Some((_, tail)) = header.shape.split_first() {
                let other = Header { shape: [&[0], tail].concat(), ..header.clone() };
                prop_assert_eq!(other.to_bytes().unwrap().len(), bytes.len());
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0u8..4) {
            let _ = Header::parse(&bytes);
            bytes.splice(0..0, [MAGIC, &[version, 0]].concat());
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn no_dictionary_panics(text in "[{}'\"a-z:,() 0-9<]{0,60}") {
            let _ = read_dictionary(&text);
            let _ = read_dictionary(&format!("'descr':{text}"));
        }
    }

    #[test]
    fn headers_of_numpy_are_read() {
        let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }";
        assert_eq!(read_dictionary(text), Some(Header { descr: "|u1".into(), fortran: false, shape: vec![3] }));
        let text = "{'shape': (), 'fortran_order': True, 'descr': \"<f8\"}";
        assert_eq!(read_dictionary(text), Some(Header { descr: "<f8".into(), fortran: true, shape: vec![] }));
        assert_eq!(read_dictionary("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }"), None);
    }

    #[test]
    fn a_reader_of_its_own_agrees() {
        let bytes = Header { descr: "<f4".into(), fortran: false, shape: vec![7, 3] }.to_bytes().unwrap();
        let parsed = npyz::NpyHeader::from_reader(&bytes[..]).unwrap();
        assert_eq!((parsed.shape(), parsed.dtype().descr()), (&[7, 3][..], "'<f4'".to_string()));
    }
}
