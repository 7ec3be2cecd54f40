//! Configuration from file, environment and flags (R-OPS): order of strength, and all mistakes at once.

use std::{fs, path::Path};

use serde::Deserialize;
use understudy_service::{ServiceConfig, Sources, load};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    telemetry: understudy_telemetry::Config,
    leases: Leases,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Leases {
    seconds: u32,
    #[serde(default)]
    owner: String,
}

impl ServiceConfig for Config {
    fn telemetry(&self) -> &understudy_telemetry::Config {
        &self.telemetry
    }

    fn problems(&self) -> Vec<String> {
        let zero = self.leases.seconds == 0;
        zero.then(|| "leases.seconds: must not be 0".to_owned()).into_iter().collect()
    }
}

fn read(text: &str, set: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("service.toml");
    fs::write(&file, text).unwrap();
    let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load(&Sources { file: Some(file), set }).map_err(|e| e.problems)
}

#[test]
fn flags_are_stronger_than_the_file() {
    let config = read("[leases]\nseconds = 5\nowner = 'a'", &[("leases.seconds", "7")]).unwrap();
    assert_eq!((config.leases.seconds, config.leases.owner.as_str()), (7, "a"));
}

#[test]
fn the_environment_lies_between_file_and_flags_and_names_without_section_are_not_keys() {
    // A process of its own, because the environment belongs to the whole process.
    if std::env::var_os("UNDERSTUDY_LEASES__SECONDS").is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "the_environment_lies_between_file_and_flags_and_names_without_section_are_not_keys";
        let output = std::process::Command::new(this)
            .args(["--exact", name])
            .env("UNDERSTUDY_LEASES__SECONDS", "6")
            .env("UNDERSTUDY_LEASES__OWNER", "environment")
            .env("UNDERSTUDY_CONFIG", "/nowhere")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        return;
    }
    let config = read("[leases]\nseconds = 5\nowner = 'file'", &[("leases.owner", "flag")]).unwrap();
    assert_eq!((config.leases.seconds, config.leases.owner.as_str()), (6, "flag"));
}

#[test]
fn all_mistakes_are_told_at_once_with_their_place() {
    let text = "colour = 1\n[leases]\nsecond = 5\nseconds = 'x'\n[telemetry]\nlog_format = 'xml'\nlog_fitler = 'info'";
    let problems = read(text, &[]).unwrap_err();
    for key in ["colour", "leases.second:", "leases.seconds", "telemetry.log_format", "telemetry.log_fitler"]
    {
        assert_eq!(problems.iter().filter(|p| p.starts_with(key)).count(), 1, "{key} in {problems:#?}");
    }
    assert_eq!(problems.len(), 5, "{problems:#?}");
    assert!(problems.iter().any(|p| p.contains("service.toml")), "{problems:#?}");
}

#[test]
fn what_can_be_read_is_still_checked() {
    assert_eq!(read("[leases]\nseconds = 0", &[]).unwrap_err(), ["leases.seconds: must not be 0"]);
    assert_eq!(read("", &[]).unwrap_err(), ["leases: is missing", "leases.seconds: is missing"]);
    let sources = Sources { file: Some(Path::new("/nowhere/at.toml").into()), set: Vec::new() };
    assert!(load::<Config>(&sources).unwrap_err().to_string().contains("/nowhere/at.toml"));
}
