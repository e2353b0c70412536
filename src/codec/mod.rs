//! Requests and results as bytes: JSON, CBOR, images and raw tensors. Pure.
