//! The example in `deploy/systemd/examples` is a configuration that this service accepts.

use std::process::Command;

#[test]
fn the_example_configuration_is_accepted() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/examples/orchestrator.toml");
    let program = env!("CARGO_BIN_EXE_understudy-orchestrator");
    let checked = Command::new(program).args(["--config", example, "--check"]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
