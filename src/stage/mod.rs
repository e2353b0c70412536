//! Pre-processing and post-processing steps around the engine.
