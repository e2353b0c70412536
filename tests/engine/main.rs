//! The engine through its public interface, on models made here.

mod bad;
mod build;
mod report;
mod run;
