//! The broker side: one thread polls the connection and never blocks.
