//! The kernels, the arena and its planner by path, with their own tests: see `../../README.md`.

#![allow(dead_code, reason = "only the tests run")]

#[path = "../../../src/engine/arena.rs"]
pub mod arena;
#[path = "../../../src/kernels/mod.rs"]
pub mod kernels;
#[path = "../../../src/engine/plan.rs"]
pub mod plan;
