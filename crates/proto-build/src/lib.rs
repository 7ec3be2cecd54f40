//! How every `*-api` crate turns its part of `proto/` into Rust: called from its build script, needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// Where the contracts are, seen from the directory of an `*-api` crate, in which its build script runs.
const ROOT: &str = "../../proto";
const SHARED: &str = "understudy/types/v1/types.proto";

/// Generates client, server and messages for `files` (relative to `proto/`) and writes their descriptors, with those of what they
/// import, to `$OUT_DIR/descriptor.bin`.
///
/// Messages of `understudy.types.v1` are those of `understudy-types-api`, so that all areas share them, and `google.rpc.Status` is that of
/// tonic's errors. `bytes` fields
/// named in `shared_bytes` become `Bytes`, which bulk data needs so as not to be copied.
///
/// # Errors
/// When a file is not found or not valid, or the output cannot be written.
pub fn compile(files: &[&str], shared_bytes: &[&str]) -> Result<(), Box<dyn Error>> {
    for file in files.iter().chain([&SHARED]) {
        println!("cargo:rerun-if-changed={ROOT}/{file}");
    }
    let set = protox::compile(files, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    // Type names let a message be packed into an `Any`; ordered maps make equal messages equal bytes.
    let mut config = prost_build::Config::new();
    config.enable_type_names().btree_map(["."]).bytes(shared_bytes);
    let mut generator = tonic_prost_build::configure().extern_path(".google.rpc", "::tonic_types::pb");
    if !files.contains(&SHARED) {
        generator = generator.extern_path(".understudy.types.v1", "::understudy_types_api::v1");
    }
    generator.compile_fds_with_config(set, config)?;
    Ok(())
}
