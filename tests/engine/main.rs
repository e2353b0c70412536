//! The engine through its public interface, on models made here.

mod build;
mod run;
