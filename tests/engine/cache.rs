//! Packed weights kept in a folder: random networks compute the same with them, and nothing that stands in such a file does harm.

use crate::build;
use crate::net::{Dice, Gene, network};
use crate::oracle::{cases, fill, picture};
use jouled::engine::{Engine, Limits, Model};
use proptest::prelude::*;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a packed file's checksum ends and its arrays begin; arrays begin on multiples of a line.
const HEADER: usize = 256;
const LINE: usize = 64;

/// A network as a file, and a folder for its packed weights.
struct Case {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Case {
    fn new(seed: u32, genes: &[Gene]) -> Case {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("net.onnx");
        std::fs::write(&model, build::bytes(&network(seed, genes))).unwrap();
        std::fs::create_dir(folder.path().join("cache")).unwrap();
        Case { folder, model }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// The packed file; `None` where tract runs the network, which has no plan then.
    fn packed(&self, model: &Model) -> Option<PathBuf> {
        let files: Vec<PathBuf> = self.cache().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() == 1 || files.is_empty() && model.picture().is_none(), "{files:?}");
        assert!(files.iter().all(|file| *file == self.cache().join(format!("{}.packed", model.digest()))), "{files:?}");
        files.into_iter().next()
    }

    fn load(&self, cache: Option<&Path>) -> Model {
        Model::load_for(&self.model, &Limits::default(), Engine::Native, cache).unwrap()
    }
}

/// All outputs, for inputs that are always the same.
fn answers(model: &Model) -> Vec<Vec<u8>> {
    let mut session = model.session(2).unwrap();
    (0..model.inputs().len()).for_each(|index| fill(&mut session, index, &mut Dice(index as u64), false));
    session.run().unwrap();
    (0..model.outputs().len()).map(|index| session.output(index).to_vec()).collect()
}

/// Differs where a file was written again or another has taken its name.
fn identity(file: &Path) -> (u64, i64, i64) {
    let about: Metadata = file.metadata().unwrap();
    (about.ino(), about.mtime(), about.mtime_nsec())
}

/// A number in a line of the file, the checksum made good again.
fn forge(file: &Path, line: usize, word: usize, value: u32) {
    let mut bytes = std::fs::read(file).unwrap();
    let lines = (bytes.len() - HEADER) / LINE;
    if lines > 0 {
        bytes[HEADER + line % lines * LINE + 4 * word..][..4].copy_from_slice(&value.to_ne_bytes());
    }
    let checksum = crc32fast::hash(&bytes[HEADER..]).to_le_bytes();
    bytes[HEADER - 4..HEADER].copy_from_slice(&checksum);
    std::fs::write(file, bytes).unwrap();
}

fn genes() -> impl Strategy<Value = Vec<Gene>> {
    prop::collection::vec((any::<u8>(), any::<u32>()), 1..10)
}

/// What an array's head, a size or an index may be forged to.
fn forged() -> impl Strategy<Value = u32> {
    prop_oneof![0..70u32, Just(u32::MAX), Just(i32::MAX as u32), any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(100), max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_second_load_takes_what_the_first_packed_and_computes_the_same(genes in genes(), seed in any::<u32>()) {
        let case = Case::new(seed, &genes);
        let expected = answers(&case.load(None));
        let first = case.load(Some(&case.cache()));
        prop_assert_eq!(answers(&first), expected.clone(), "packed\n{}", picture(&network(seed, &genes)));
        let made = case.packed(&first).map(|file| identity(&file));
        let second = case.load(Some(&case.cache()));
        prop_assert_eq!(answers(&second), expected, "taken\n{}", picture(&network(seed, &genes)));
        // What does not fit is removed or replaced.
        prop_assert_eq!(case.packed(&second).map(|file| identity(&file)), made, "not taken\n{}", picture(&network(seed, &genes)));
    }

    #[test]
    fn forged_numbers_do_no_harm(
        genes in genes(), seed in any::<u32>(), forgeries in prop::collection::vec((any::<usize>(), 0..16usize, forged()), 1..4),
    ) {
        let case = Case::new(seed, &genes);
        if let Some(file) = case.packed(&case.load(Some(&case.cache()))) {
            forgeries.into_iter().for_each(|(line, word, value)| forge(&file, line, word, value));
            // The weights may be others now, but they are as many as before.
            answers(&case.load(Some(&case.cache())));
        }
    }
}
