//! Helpers of the integration tests: a simulated kernel that refuses what the real one refuses, random clusters, and a
//! rule interpreter.
#![allow(dead_code, clippy::unwrap_used, clippy::format_push_string, missing_docs, unreachable_pub)] // each test file uses its own part; tests may panic

pub mod cluster;
pub mod kernel;
pub mod packet;
