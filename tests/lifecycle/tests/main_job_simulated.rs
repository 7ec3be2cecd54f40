//! The main job on simulated drivers, as `deploy/lab/demo.sh --simulated` tells it: it holds without root and hypervisor, says what it
//! is, and leaves nothing, whatever way it ends.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The demonstration with its temporary directory in `directory`.
fn start(directory: &Path) -> Child {
    let own = std::env::current_exe().unwrap();
    let program: PathBuf = own.parent().and_then(Path::parent).unwrap().join("understudy-lab");
    assert!(program.exists(), "build everything first: cargo build --workspace --bins");
    Command::new(program)
        .arg("simulated")
        .env("TMPDIR", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Files below `directory`, and processes that the demonstration with this pid has started.
fn left(directory: &Path, pid: u32) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path().display().to_string());
    let mark = format!("UNDERSTUDY_LAB_OWNED=sim{pid}");
    let marked = |path: &Path| {
        fs::read(path.join("environ"))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    files.chain(processes.filter(|path| marked(path)).map(|path| path.display().to_string())).collect()
}

#[test]
fn the_main_job_holds_on_simulated_machines_and_says_that_they_are() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let mut story = start(directory.path());
    let mut told = String::new();
    story.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    let status = story.wait().unwrap();
    assert!(status.success(), "{status}:\n{told}");
    assert_eq!(left(directory.path(), story.id()), Vec::<String>::new());
    let notice = "SIMULATED: ";
    assert!(told.lines().next().unwrap().contains(notice), "the heading does not say it");
    let summary = told.split("━━━ Summary").nth(1).unwrap();
    assert!(summary.contains(notice), "the summary does not say it: {summary}");
    let count = summary.split("All ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(count.unwrap() > 60, "only {count:?} claims were checked");
}

#[test]
fn nothing_is_left_of_a_story_that_is_interrupted() {
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let mut story = start(directory.path());
    let mut lines = BufReader::new(story.stdout.take().unwrap()).lines();
    let found = lines.any(|line| line.unwrap().contains("━━━ 2."));
    assert!(found, "the story ended before its second chapter");
    assert!(left(directory.path(), story.id()).len() > 6, "six processes and a directory were to be found");
    let interrupt = Command::new("kill").args(["-INT", &story.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    // What it still says is read, so that it is not stopped by a full pipe.
    lines.for_each(drop);
    assert_eq!(story.wait().unwrap().code(), Some(130));
    assert_eq!(left(directory.path(), story.id()), Vec::<String>::new());
}
