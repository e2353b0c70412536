//! jouled: an inference daemon for small Linux boards.
//!
//! # The journey of a request
//!
//! [`mqtt`] receives a message on `<prefix>/<node>/model/<name>/infer` and hands it, undecoded, to [`intake`], which puts it
//! into the bounded [`queue`] or refuses it at once. A sensor of [`source`] puts its windows into the same queue. A
//! [`worker`] waits until the [`governor`]'s pace allows one more inference, takes whatever is most urgent by then, and
//! decodes it ([`codec`]). Its [`runner`] prepares the model's input ([`stage::pre`]), runs the [`engine`], and makes an
//! answer of the output ([`stage::post`]). The [`asker`] wraps the answer into a message, which waits in the outbox of
//! [`mqtt`] until the broker has acknowledged it; only then is the request itself acknowledged.
//!
//! [`daemon`] builds these parts from the one TOML file ([`config`]), reloads and ends them; [`cli`] is what a person sees.

#![deny(unsafe_code)]

pub mod asker;
pub mod cli;
pub mod codec;
pub mod config;
pub mod daemon;
#[cfg(feature = "demo")]
pub mod demo;
pub mod doctor;
pub mod engine;
pub mod governor;
mod heap;
pub mod intake;
pub mod kernels;
pub mod latency;
pub mod metrics;
pub mod mqtt;
pub mod notify;
pub mod progress;
pub mod queue;
pub mod registry;
pub mod rejection;
pub mod reports;
pub mod request;
pub mod runner;
pub mod shared;
pub mod signals;
pub mod simulate;
pub mod source;
pub mod stage;
pub mod tensor;
pub mod tensor_file;
pub mod worker;
