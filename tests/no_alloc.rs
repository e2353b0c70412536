//! A run of the shipped models takes no memory: what a session needs it has since it was made.

use jouled::engine::{Limits, Model};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what every thread asks for, then asks the system.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test here: another one beside it would be counted too.
#[test]
fn a_run_allocates_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let models: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    assert!(!models.is_empty());
    for path in models {
        let model = Model::load(&path, &Limits::default()).unwrap();
        for threads in [1, 2] {
            let mut session = model.session(threads).unwrap();
            session.run().unwrap();
            let before = ASKED.load(Ordering::Relaxed);
            for byte in 0..20 {
                (0..model.inputs().len()).for_each(|input| session.input_mut(input).fill(byte));
                session.run().unwrap();
            }
            let asked = ASKED.load(Ordering::Relaxed) - before;
            assert_eq!(asked, 0, "{}: 20 runs on {threads} threads", path.display());
        }
    }
}
