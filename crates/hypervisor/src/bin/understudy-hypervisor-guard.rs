//! The guard processes alone, for this crate's tests: `hold-guard --uri URI --machine NAME --note FILE`, as the agent's program has it.

use std::{path::Path, process::ExitCode, time::Duration};

use understudy_hypervisor::libvirt;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match stand(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn stand(arguments: &[String]) -> Result<(), String> {
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.and_then(|at| arguments.get(at + 1)).ok_or_else(|| format!("{flag} is missing"))
    };
    let machine = value("--machine")?.parse().map_err(|e| format!("--machine: {e}"))?;
    let note = || value("--note").map(Path::new);
    match arguments.first().map(String::as_str) {
        Some("hold-guard") => libvirt::hold_guard(value("--uri")?, &machine, note()?),
        Some("thaw-guard") => {
            let limit = value("--limit-ms")?.parse().map_err(|e| format!("--limit-ms: {e}"))?;
            libvirt::thaw_guard(value("--uri")?, &machine, note()?, Duration::from_millis(limit))
        }
        _ => Err("which guard?".to_owned()),
    }
}
