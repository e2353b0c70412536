//! The broker side: one thread polls the connection and never blocks.
//!
//! A request travels `link` (one connection, either protocol version) → `client` (the thread) → `core` and its `ack_book`
//! (seen before?) → `inbound` (may it run?) → [`Intake`]. Its answer comes back through [`Handle`] → `core` and its `outbox`
//! (kept until the broker acknowledged it) → `link`. Only then is the request acknowledged to the broker.

mod ack_book;
mod backoff;
mod client;
mod config;
mod core;
mod inbound;
mod link;
mod message;
mod outbox;
mod plan;
mod tls;
mod topics;

pub use client::{Handle, TooLarge, start};
pub use config::{Config, Tls, Version};
pub use core::{Dropped, Stats};
pub use inbound::{Intake, Reply};
pub use message::{Keep, Message};
pub use topics::{Topics, check_name};
