//! Builds the guest program a second time as one static file, so that the lab can put it into an initramfs that has no
//! C library. It is std-only, so a single `rustc` call does it; no target has to be installed beyond the host's own.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/guest");
    println!("cargo::rerun-if-changed=src/journal/record.rs");
    let variable =
        |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let guest = PathBuf::from(variable("OUT_DIR")).join("understudy-lab-guest");
    let status = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "understudy_lab_guest", "--crate-type", "bin"])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["src/guest/main.rs", "-o"])
        .arg(&guest)
        .status()
        .expect("the rustc that builds this crate can be started");
    assert!(
        status.success(),
        "the guest program was not built; a static build needs libc.a (Debian: libc6-dev)"
    );
    println!("cargo::rustc-env=UNDERSTUDY_LAB_GUEST={}", guest.display());
}
