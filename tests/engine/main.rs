//! The engine through its public interface, on models made here.

mod bad;
mod bad_operators;
mod build;
mod cache;
mod damage;
mod dynamic;
mod net;
mod oracle;
mod report;
mod run;
