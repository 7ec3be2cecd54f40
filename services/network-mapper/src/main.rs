use std::process::ExitCode;

fn main() -> ExitCode {
    understudy_service::run("network-mapper", env!("CARGO_PKG_VERSION"), understudy_network_mapper::run)
}
