//! A model's packed weights in a file, so that the next start need not pack them, and so that they are pages of a file, which the
//! system may drop and read again, instead of memory of the process.
//!
//! ```text
//!   FOLDER/SHA-256 OF THE MODEL.packed
//!     256 bytes:  what the weights were packed from and by, as text; in the last 4 the CRC-32 of the rest, little-endian
//!     the rest:   arrays: see kernels::Pantry
//! ```
//!
//! A file that is not what it should be is replaced. Nothing here fails a start: without a file weights are packed as ever.

use super::mapping::Mapping;
use crate::kernels::{Isa, Pantry, Reader, Stable, Writer};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};
use tempfile::NamedTempFile;

const HEADER: usize = 256;
const CHECKSUM: usize = HEADER - 4;
const ENDING: &str = ".packed";

/// Where packed weights are kept: the first of systemd's `CacheDirectory=`. Without one they are not.
pub fn cache_directory() -> Option<PathBuf> {
    let all = std::env::var_os("CACHE_DIRECTORY")?;
    std::env::split_paths(&all).next().filter(|folder| folder.is_absolute())
}

/// The file of one model while it is loaded.
pub struct Packed {
    path: PathBuf,
    begun: Instant,
    header: [u8; CHECKSUM],
    /// What becomes the file.
    made: Option<NamedTempFile>,
    /// Where the weights come from or go to.
    pub pantry: Pantry,
}

impl Packed {
    /// Opens the file in `folder` of the model with this digest, or begins to make it. `None`, said in the log, where neither can be.
    pub fn open(folder: &Path, digest: &str) -> Option<Packed> {
        let (path, begun) = (folder.join(format!("{digest}{ENDING}")), Instant::now());
        let cannot = |e: io::Error| log::warn!("{}: packed weights cannot be kept: {e}", path.display());
        let header = header(digest).map_err(cannot).ok()?;
        match read(&path, &header) {
            Ok(reader) => return Some(Packed { path, begun, header, made: None, pantry: Pantry::Stocked(reader) }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => log::info!("{}: weights are packed anew: {e}", path.display()),
        }
        let begin = || {
            std::fs::create_dir_all(folder)?;
            let mut made = NamedTempFile::with_prefix_in(TEMPORARY, folder)?;
            made.write_all(&[0; HEADER])?;
            Ok((Writer::new(BufWriter::new(made.reopen().and_then(at_end)?)), made))
        };
        let (writer, made) = begin().map_err(cannot).ok()?;
        Some(Packed { path, begun, header, made: Some(made), pantry: Pantry::Filling(writer) })
    }

    /// The model is loaded: puts a new file in its place, takes a bad one away.
    pub fn settle(self) {
        let path = self.path.display();
        let outcome = match (self.pantry, self.made) {
            (Pantry::Filling(writer), Some(made)) => {
                writer.finish().and_then(|()| seal(made, &self.header, &self.path)).map(|bytes| (bytes, "packed and kept in"))
            }
            (Pantry::Stocked(reader), _) if reader.is_empty() => Ok((reader.at(), "taken from")),
            _ => std::fs::remove_file(&self.path).and(Err(io::Error::other("it holds something else"))),
        };
        match outcome {
            Ok((bytes, what)) => {
                log::info!("{:.1} MB of weights {what} {path} in {:.0?}", bytes as f64 / 1e6, self.begun.elapsed());
            }
            Err(e) => log::warn!("{path}: packed weights are not kept: {e}"),
        }
    }
}

/// Removes the files of models whose digests are not `used`, and what an earlier start left half made.
pub fn prune(folder: &Path, used: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let digest = name.strip_suffix(ENDING).filter(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        let unused = digest.is_some_and(|digest| !used(digest));
        if unused || name.starts_with(TEMPORARY) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => log::info!("{}: removed, no model needs it", entry.path().display()),
                Err(e) => log::warn!("{}: {e}", entry.path().display()),
            }
        }
    }
}

const TEMPORARY: &str = ".jouled-packing-";

/// Which model, program and instruction set. A program is known by its file: another build may pack otherwise.
fn header(digest: &str) -> io::Result<[u8; CHECKSUM]> {
    // The link leads to the program that runs even where another has taken its name.
    let program = std::fs::metadata("/proc/self/exe")?;
    let changed = program.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let (isa, version, length) = (Isa::best().name(), env!("CARGO_PKG_VERSION"), program.len());
    let text = format!("jouled {version} of {length} bytes, {changed}\npacked weights for {isa}\n{digest}\n");
    let mut header = [0; CHECKSUM];
    header.get_mut(..text.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(text.as_bytes());
    Ok(header)
}

fn read(path: &Path, header: &[u8; CHECKSUM]) -> io::Result<Reader> {
    let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(wrong("it is not a regular file"));
    }
    if about.len() < HEADER as u64 {
        return Err(wrong("it is too short"));
    }
    let mapping = Mapping::new(&File::open(path)?)?;
    let (found, rest) = mapping.bytes().split_at_checked(HEADER).ok_or(wrong("it is too short"))?;
    if found[..CHECKSUM] != header[..] {
        return Err(wrong("it was made by another program or for another model"));
    }
    if found[CHECKSUM..] != crc32fast::hash(rest).to_le_bytes() {
        return Err(wrong("it is damaged"));
    }
    Ok(Reader::new(Arc::new(mapping), HEADER))
}

fn at_end(mut file: File) -> io::Result<File> {
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Completes the header, waits until all is on the disk, and gives the file its name. Returns how long it is.
fn seal(mut made: NamedTempFile, header: &[u8; CHECKSUM], path: &Path) -> io::Result<usize> {
    let (bytes, checksum) = {
        let mapping = Mapping::new(made.as_file())?;
        (mapping.bytes().len(), crc32fast::hash(&mapping.bytes()[HEADER..]))
    };
    made.seek(SeekFrom::Start(0))?;
    made.write_all(header)?;
    made.write_all(&checksum.to_le_bytes())?;
    made.as_file().sync_all()?;
    made.persist(path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, Limits, Model};
    use proptest::prelude::*;

    const MODELS: [&str; 2] = ["models/digits.onnx", "models/vibration.onnx"];

    fn model(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    /// What the model answers to some input, and whether all its weights came from `cache`.
    fn answer(name: &str, cache: Option<&Path>) -> (Vec<u8>, bool) {
        let model = Model::load_for(&model(name), &Limits::default(), Engine::Native, cache).unwrap();
        let mut session = model.session(1).unwrap();
        session.input_mut(0).iter_mut().enumerate().for_each(|(i, byte)| *byte = (i as u8).wrapping_mul(37));
        session.run().unwrap();
        (session.output(0).to_vec(), cache.is_some_and(|folder| stocked(folder, model.digest())))
    }

    fn stocked(folder: &Path, digest: &str) -> bool {
        Packed::open(folder, digest).is_some_and(|packed| matches!(packed.pantry, Pantry::Stocked(_)))
    }

    /// The only file in a folder.
    fn only(folder: &Path) -> PathBuf {
        let files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn the_second_load_takes_what_the_first_packed() {
        for name in MODELS {
            let folder = tempfile::tempdir().unwrap();
            let expected = answer(name, None).0;
            assert_eq!(answer(name, Some(folder.path())), (expected.clone(), true), "{name}, packed");
            let made = only(folder.path()).metadata().unwrap().modified().unwrap();
            assert_eq!(answer(name, Some(folder.path())), (expected, true), "{name}, taken");
            assert_eq!(only(folder.path()).metadata().unwrap().modified().unwrap(), made, "it was written once");
        }
    }

    /// Changes the file, loads twice: the answers stay, and after that the file is good again.
    fn survives(change: impl Fn(&Path)) {
        let folder = tempfile::tempdir().unwrap();
        let expected = answer(MODELS[0], Some(folder.path())).0;
        change(&only(folder.path()));
        assert_eq!(answer(MODELS[0], Some(folder.path())).0, expected);
        assert_eq!(answer(MODELS[0], Some(folder.path())), (expected, true));
    }

    fn changed(path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(path).unwrap();
        change(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_empty_or_of_another_model_is_made_anew() {
        for length in [0, 1, HEADER - 1, HEADER, HEADER + 1, 4000] {
            survives(|path| changed(path, |bytes| bytes.truncate(length)));
        }
        survives(|path| changed(path, |bytes| bytes.push(0)));
        let other = tempfile::tempdir().unwrap();
        answer(MODELS[1], Some(other.path()));
        let other = only(other.path());
        survives(|path| assert!(std::fs::copy(&other, path).is_ok()));
    }

    #[test]
    fn a_folder_that_cannot_be_used_keeps_no_model_from_loading() {
        let folder = tempfile::tempdir().unwrap();
        let expected = answer(MODELS[0], None).0;
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(answer(MODELS[0], Some(&file)), (expected.clone(), false));
        assert_eq!(answer(MODELS[0], Some(&file.join("below"))), (expected.clone(), false));
        let made = folder.path().join("is/made");
        assert_eq!(answer(MODELS[0], Some(&made)), (expected.clone(), true));
        let path = only(&made);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("in the way"), "").unwrap();
        assert_eq!(answer(MODELS[0], Some(&made)), (expected.clone(), false));
    }

    /// To open one for reading would wait for a writer.
    #[test]
    fn a_pipe_in_the_files_place_is_replaced() {
        survives(|path| {
            std::fs::remove_file(path).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        });
    }

    #[test]
    fn another_version_another_instruction_set_and_another_program_pack_anew() {
        for (ours, other) in [(env!("CARGO_PKG_VERSION"), "9"), (Isa::best().name(), "x"), ("bytes, ", "bytes, 1")] {
            survives(|path| {
                changed(path, |bytes| {
                    let at = bytes.windows(ours.len()).position(|found| found == ours.as_bytes()).unwrap();
                    assert!(at < CHECKSUM && bytes[at..].len() > other.len());
                    bytes[at..at + other.len()].copy_from_slice(other.as_bytes());
                });
            });
        }
    }

    #[test]
    fn nothing_is_left_of_a_file_for_which_the_disk_is_too_small() {
        let folder = tempfile::tempdir().unwrap();
        let mut packed = Packed::open(folder.path(), &"0".repeat(64)).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        packed.pantry = Pantry::Filling(Writer::new(BufWriter::new(full)));
        packed.pantry.put("a key", |to| to.put(&[0i16; 100_000]));
        packed.settle();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn several_loads_at_once_agree() {
        let folder = tempfile::tempdir().unwrap();
        let expected = answer(MODELS[0], None).0;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(answer(MODELS[0], Some(folder.path())).0, expected));
            }
        });
        only(folder.path());
    }

    #[test]
    fn files_that_no_model_needs_are_removed_and_strangers_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (used, unused) = ("a".repeat(64), "0".repeat(64));
        let names = [format!("{used}.packed"), format!("{unused}.packed"), format!("{TEMPORARY}x"), "notes.packed".into(), unused.clone()];
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        prune(folder.path(), |digest| digest == used);
        let left: Vec<bool> = names.iter().map(|name| folder.path().join(name).exists()).collect();
        assert_eq!(left, [true, false, false, true, true]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A byte that is damaged is found by the checksum.
        #[test]
        fn a_damaged_byte_is_found(at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            survives(|path| changed(path, |bytes| { let at = at.index(bytes.len()); bytes[at] ^= flip }));
        }

        /// Arrays that do not fit together are found even where the checksum is right: numbers may be wrong then, but nothing panics.
        #[test]
        fn wrong_arrays_of_a_right_checksum_are_harmless(at in any::<prop::sample::Index>(), value in any::<u8>(), word in 0..8usize) {
            let folder = tempfile::tempdir().unwrap();
            answer(MODELS[0], Some(folder.path()));
            changed(&only(folder.path()), |bytes| {
                // Where an array begins, mostly: its size, its length, or its first numbers.
                let lines = (bytes.len() - HEADER) / 64;
                bytes[HEADER + 64 * at.index(lines) + word] = value;
                let checksum = crc32fast::hash(&bytes[HEADER..]).to_le_bytes();
                bytes[CHECKSUM..HEADER].copy_from_slice(&checksum);
            });
            answer(MODELS[0], Some(folder.path()));
        }
    }
}
