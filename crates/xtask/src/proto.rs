//! Style of the contracts in `proto/`, by `buf` with the rules of `proto/buf.yaml`.

use crate::tool;

/// The version that the rules were written for.
const BUF: &str = "@bufbuild/buf@1.75.0";

/// # Errors
/// When a contract breaks a rule, or `buf` can neither be found nor installed.
pub fn lint() -> anyhow::Result<()> {
    let tools = tool::root().join("target/tools");
    let buf = tools.join("node_modules/.bin/buf");
    if !buf.exists() {
        let prefix = tools.display().to_string();
        tool::run("npm", &["install", "--silent", "--no-audit", "--no-fund", "--prefix", &prefix, BUF])?;
    }
    let buf = std::path::absolute(&buf)?;
    tool::run_in(tool::root().join("proto"), &buf.display().to_string(), &["lint"])
}
