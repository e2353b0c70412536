//! Any bytes as a model: they load or are refused, and what loads runs once.

#![no_main]

use jouled::config::value::Size;
use jouled::engine::{Limits, Model};
use libfuzzer_sys::fuzz_target;

/// tract may panic on hostile models, which the engine turns into an error. A panic of ours is a bug, even where it is caught.
fn abort_on_our_own_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let ours = panic.location().is_none_or(|at| !at.file().contains("/registry/") && !at.file().starts_with("/rustc/"));
        if ours {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
            std::process::abort();
        }
    }));
}

fuzz_target!(init: abort_on_our_own_panics(), |bytes: &[u8]| {
    let limits = Limits { max_file: Size::mib(1), max_memory: Size::mib(16) };
    if let Ok(model) = Model::from_bytes(bytes, "fuzz", &limits) {
        let mut session = model.session(1).expect("a session of a model that loads");
        (0..model.inputs().len()).for_each(|input| session.input_mut(input).fill(0x5A));
        let _ = session.run();
    }
});
