//! Generates the Rust code and the descriptor set for `understudy.types.v1`. No `protoc` is needed.

use std::{env, fs, path::PathBuf};

use prost::Message;

const ROOT: &str = "../../proto";
const FILES: &[&str] = &["understudy/types/v1/types.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={ROOT}/{file}");
    }
    let set = protox::compile(FILES, [ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), set.encode_to_vec())?;
    // Type names let a message be packed into an `Any`; ordered maps make equal messages equal bytes.
    let mut config = prost_build::Config::new();
    config.enable_type_names().btree_map(["."]);
    tonic_prost_build::configure().compile_fds_with_config(set, config)?;
    Ok(())
}
