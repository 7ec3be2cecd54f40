//! Generates the Rust code and the descriptor set for `understudy.replication.v1`. No `protoc` is needed.
//! Messages of `understudy.types.v1` are those of `understudy-types-api`, so that all areas share them.

use std::{env, fs, path::PathBuf};

use prost::Message;

const ROOT: &str = "../../proto";
const FILES: &[&str] = &[
    "understudy/replication/v1/facts.proto",
    "understudy/replication/v1/sink.proto",
    "understudy/replication/v1/tasks.proto",
];
const SHARED: &[&str] = &["understudy/types/v1/types.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES.iter().chain(SHARED) {
        println!("cargo:rerun-if-changed={ROOT}/{file}");
    }
    let set = protox::compile(FILES, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    // Type names let a message be packed into an `Any`; `Bytes` lets a payload be taken out of the receive buffer uncopied.
    let mut config = prost_build::Config::new();
    config.enable_type_names().btree_map(["."]).bytes(["."]);
    tonic_prost_build::configure()
        .extern_path(".understudy.types.v1", "::understudy_types_api::v1")
        .compile_fds_with_config(set, config)?;
    Ok(())
}
