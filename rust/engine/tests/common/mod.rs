//! Helpers of the integration tests: a kernel that refuses what the real one refuses, and random clusters,
//! and an interpreter of the rules.
#![allow(dead_code, clippy::unwrap_used, clippy::format_push_string, missing_docs, unreachable_pub)] // each test file uses its own part; tests may panic

pub mod cluster;
pub mod kernel;
pub mod packet;
