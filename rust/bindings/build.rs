//! Passes facts about this build to `build_info()`.

use std::process::Command;

fn main() {
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    // Cargo exposes debug assertions only in this way; `PROFILE` is "debug" or "release".
    println!("cargo::rustc-env=FERRULE_PROFILE={}", env("PROFILE"));
    println!("cargo::rustc-env=FERRULE_TARGET={}", env("TARGET"));
    let rustc = Command::new(env("RUSTC")).arg("--version").output().ok();
    let version = rustc.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
    println!("cargo::rustc-env=FERRULE_RUSTC={version}");
    println!("cargo::rerun-if-changed=build.rs");
}
