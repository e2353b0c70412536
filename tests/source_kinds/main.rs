//! Sources as a whole: configuration in TOML, a thread, real files, pipes and terminals, windows out.

mod iio;
mod record;
mod runner;
mod serial;
mod support;
