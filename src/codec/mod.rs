//! Requests and results as bytes: JSON, CBOR, images and raw tensors. Pure; one format a file.
//!
//! `decode` turns a payload into the inputs of a model, `encode` turns an answer or a rejection into the payload of a reply.

mod body;
mod cbor;
pub mod content;
pub mod decode;
pub mod encode;
mod image;
pub mod input;
mod json;
mod raw;

pub use content::Format;
pub use decode::{DecodeLimits, Decoded, decode, peek_id};
pub use encode::{ErrorMessage, ResultMessage, Throttle, Timing, encode};
pub use input::{Id, Input, Picture};
