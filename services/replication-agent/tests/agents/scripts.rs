//! R-RP-2: scripts of a host's library, as real processes. The tests run as root.

use std::{
    ffi::CString,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use understudy_ids::{Problem, Uuid};
use understudy_replication_agent::{scripts::ScriptsConfig, tasks::TaskError};
use understudy_replication_api::{Action, AgentTaskResult, MAX_SCRIPT_CONTEXT, MAX_SCRIPT_OUTPUT, RunScript};

use crate::harness::{Host, World, generation, item, wait};

const RUN: Uuid = Uuid::from_u128(0x5c);
/// No test that ends by itself takes as long.
const LONG: Duration = Duration::from_secs(60);

/// An agent with a library, and a directory that scripts may write to.
struct Place {
    host: Host,
    world: World,
    notes: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut ScriptsConfig)) -> Self {
        let world = World::new(1);
        let mut host = world.stranger();
        let mut config = ScriptsConfig {
            dir: host.dir.join("scripts"),
            user: "nobody".to_owned(),
            work_dir: host.dir.join("work"),
            concurrent: 4,
            address_space_bytes: 1 << 30,
            processes: 256,
            open_files: 64,
            keeper: Some(env!("CARGO_BIN_EXE_understudy-replication-agent").into()),
        };
        change(&mut config);
        fs::create_dir(host.dir.join("scripts")).unwrap();
        set_mode(&host.dir.join("scripts"), 0o755);
        host.scripts = Some(config);
        host.start_agent();
        let notes = tempfile::tempdir().unwrap();
        set_mode(notes.path(), 0o777);
        Self { host, world, notes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.dir.join("scripts").join(name)
    }

    fn note(&self, name: &str) -> PathBuf {
        self.notes.path().join(name)
    }

    /// Puts a shell script into the library, pinned as it is.
    fn script(&self, name: &str, lines: &str) -> RunScript {
        let text = format!("#!/bin/sh\n{lines}\n");
        fs::write(self.path(name), &text).unwrap();
        set_mode(&self.path(name), 0o755);
        pinned(name, text.as_bytes())
    }

    fn run(&self, asked: RunScript) -> Result<AgentTaskResult, TaskError> {
        self.host.perform(1, RUN, Action::RunScript(asked))
    }

    fn refusal(&self, asked: RunScript) -> Problem {
        problem(self.run(asked))
    }

    /// Exit code and output.
    fn runs(&self, asked: RunScript) -> (i32, String) {
        match self.run(asked) {
            Ok(AgentTaskResult::Script { exit_code, output, .. }) => (exit_code, output),
            other => panic!("{other:?}"),
        }
    }
}

fn pinned(name: &str, bytes: &[u8]) -> RunScript {
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    RunScript { script: name.parse().unwrap(), sha256, time_out: LONG, context: "{}".to_owned() }
}

fn problem(result: Result<AgentTaskResult, TaskError>) -> Problem {
    match result {
        Err(TaskError::Failed(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A number of seconds that only this test sleeps for, so that its processes can be found.
fn mark(test: u32) -> String {
    format!("9{test:02}.{}", std::process::id())
}

/// Processes that sleep for it.
fn sleepers(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(format!("sleep\0{mark}\0").as_bytes())).count()
}

#[test]
fn a_script_is_nobody_and_has_nothing_but_its_context() {
    let place = Place::new();
    let script = place.script(
        "look.sh",
        r#"echo "is $(id -u) $(id -g) $(id -G)"
        echo "reads $(cat)"
        echo "environment $(cat /proc/self/environ | tr '\0' ' ')"
        echo "descriptors $(ls /proc/self/fd | wc -l)"
        echo "directory $(ls -A | wc -l) $(stat -c '%u %a' .) $(pwd)"
        echo "files $(ulimit -n) core $(ulimit -c)"
        grep -E '^(NoNewPrivs|CapPrm|CapEff)' /proc/self/status | tr '\t\n' '  '
        echo "session $(cut -d ' ' -f 6 /proc/self/stat)"
        mkdir -p a/b && touch a/b/c
        echo "this is wrong" >&2"#,
    );
    let context = r#"{"items":["web1"],"operation":"planned-failover"}"#.to_owned();
    let (exit_code, output) = place.runs(RunScript { context, ..script });
    assert_eq!(exit_code, 0, "{output}");
    let line = |about: &str| {
        let line = output.lines().find_map(|line| line.strip_prefix(about));
        line.unwrap_or_else(|| panic!("{about}: {output}")).trim().to_owned()
    };
    assert_eq!(line("is "), "65534 65534 65534");
    let read: serde_json::Value = serde_json::from_str(&line("reads ")).unwrap();
    assert_eq!(read, serde_json::json!({ "items": ["web1"], "operation": "planned-failover", "attempt": 1 }));
    let mut environment: Vec<String> = line("environment ").split(' ').map(str::to_owned).collect();
    environment.retain(|variable| !variable.starts_with("PWD="));
    environment.sort();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(environment, ["LANG=C.UTF-8", path, &format!("UNDERSTUDY_RUN={RUN}")]);
    // Three of its own, the sealed memory, and the directory that is listed.
    assert_eq!(line("descriptors "), "5");
    let work = place.host.dir.join("work");
    assert!(line("directory ").starts_with(&format!("0 65534 700 {}/", work.display())), "{output}");
    assert_eq!(line("files "), "64 core 0");
    assert!(output.contains("NoNewPrivs: 1"), "{output}");
    assert!(output.contains("CapPrm: 0000000000000000") && output.contains("CapEff: 0000000000000000"));
    assert!(output.contains("this is wrong\n"), "standard error belongs to the output");
    assert_eq!(fs::read_dir(work).unwrap().count(), 0, "its directory is left");
}

#[test]
fn an_exit_code_is_a_result() {
    let place = Place::new();
    let script = place.script("fail.sh", "echo the zone is locked; exit 3");
    assert_eq!(place.runs(script), (3, "the zone is locked\n".to_owned()));
}

/// It acts for a run, whose failover may have raised the item's generation meanwhile, and leaves no trace at the item.
#[test]
fn the_item_is_neither_asked_nor_changed() {
    let place = Place::new();
    let disks = place.world.sizes();
    place.host.twice(3, RUN, Action::PrepareReplica { disks, retention: Default::default() });
    let before = place.host.record().unwrap();
    let script = place.script("look.sh", "echo done");
    for seen in [1, 9] {
        place.host.perform(seen, RUN, Action::RunScript(script.clone())).unwrap();
    }
    let after = place.host.record().unwrap();
    assert_eq!((after.generation, after.role), (generation(3), before.role));
    let other = place.host.perform_for("db1".parse().unwrap(), 1, RUN, Action::RunScript(script));
    assert!(other.is_ok(), "{other:?}");
    assert_eq!(place.host.facts().items.iter().filter(|facts| facts.item != item()).count(), 0);
}

#[test]
fn an_agent_without_a_library_runs_nothing() {
    let world = World::new(1);
    let asked = pinned("look.sh", b"#!/bin/sh\n");
    let refused = world.alpha.perform(1, RUN, Action::RunScript(asked));
    assert_eq!(problem(refused).reason, "SCRIPTS_NOT_CONFIGURED");
}

#[test]
fn only_what_was_pinned_runs() {
    let place = Place::new();
    let note = place.note("ran");
    let script = place.script("move.sh", &format!("touch {}", note.display()));
    assert_eq!(place.refusal(pinned("other.sh", b"")).reason, "SCRIPT_NOT_FOUND");
    place.script("move.sh", &format!("echo changed; touch {}", note.display()));
    let refused = place.refusal(script.clone());
    assert_eq!(refused.reason, "SCRIPT_CHANGED");
    assert!(refused.message.contains(&script.sha256), "{}", refused.message);
    assert!(!note.exists(), "it ran");
    let again = place.script("move.sh", &format!("touch {}", note.display()));
    assert_eq!(again.sha256, script.sha256);
    assert_eq!(place.runs(script).0, 0);
    assert!(note.exists());
}

/// An interpreter reads a script piece by piece while it runs.
#[test]
fn what_is_written_to_the_file_while_it_runs_does_not_run() {
    let place = Place::new();
    let (begun, go) = (place.note("begun"), place.note("go"));
    let filling = "# nothing\n".repeat(4096);
    let script = place.script(
        "slow.sh",
        &format!(
            "touch {}\nuntil [ -e {} ]; do sleep 0.02; done\n{filling}echo the first",
            begun.display(),
            go.display()
        ),
    );
    let path = place.path("slow.sh");
    let changing = std::thread::spawn(move || {
        wait("the script to begin", || begun.exists().then_some(()));
        // In place: the file stays the one that was opened.
        let changed = fs::read_to_string(&path).unwrap().replace("the first", "another");
        fs::write(&path, changed).unwrap();
        fs::write(go, "").unwrap();
    });
    let ran = place.runs(script);
    changing.join().unwrap();
    assert_eq!(ran, (0, "the first\n".to_owned()));
    assert!(fs::read_to_string(place.path("slow.sh")).unwrap().contains("another"));
}

#[test]
fn files_that_others_may_have_made_are_refused() {
    let place = Place::new();
    let script = place.script("move.sh", "echo moved");
    let path = place.path("move.sh");
    let refused = |what: &str| {
        let refused = place.refusal(script.clone());
        assert_eq!(refused.reason, "SCRIPT_REFUSED", "{what}: {}", refused.message);
        refused.message
    };
    for mode in [0o777, 0o775, 0o757] {
        set_mode(&path, mode);
        assert!(refused("mode").contains("can write"), "{mode:o}");
    }
    set_mode(&path, 0o755);
    chown(&path, Some(65_534), None).unwrap();
    assert!(refused("owner").contains("belongs to user 65534"));
    chown(&path, Some(0), None).unwrap();
    let library = place.host.dir.join("scripts");
    for mode in [0o777, 0o775, 0o1777] {
        set_mode(&library, mode);
        refused("mode of the library");
    }
    set_mode(&library, 0o755);
    chown(&library, Some(65_534), None).unwrap();
    refused("owner of the library");
    chown(&library, Some(0), None).unwrap();
    assert_eq!(place.runs(script.clone()), (0, "moved\n".to_owned()), "as it was, it runs");

    let elsewhere = place.host.dir.join("elsewhere.sh");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(refused("link").contains("symbolic link"));
    fs::remove_file(&path).unwrap();
    let name = CString::new(path.to_str().unwrap()).unwrap();
    nix::unistd::mkfifo(name.as_c_str(), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(refused("pipe").contains("regular file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused("directory").contains("regular file"));
    fs::remove_dir(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();

    let moved = place.host.dir.join("moved");
    fs::rename(&library, &moved).unwrap();
    symlink(&moved, &library).unwrap();
    refused("link to the library");
}

/// Without an interpreter of its own it would be handed to a shell.
#[test]
fn a_script_names_its_interpreter() {
    let place = Place::new();
    let put = |name: &str, text: &[u8]| {
        fs::write(place.path(name), text).unwrap();
        pinned(name, text)
    };
    let refused = place.refusal(put("plain.sh", b"echo a shell runs this\n"));
    assert_eq!(refused.reason, "SCRIPT_REFUSED");
    let refused = place.refusal(put("gone.sh", b"#!/no/such/interpreter\n"));
    assert_eq!(refused.reason, "SCRIPT_NOT_STARTED");
    let refused = place.refusal(put("long.sh", &[b'#'; (1 << 20) + 1]));
    assert_eq!(refused.reason, "SCRIPT_REFUSED");
    let program = fs::read("/bin/true").unwrap();
    assert_eq!(place.runs(put("true", &program)), (0, String::new()));
}

#[test]
fn at_its_time_out_a_script_is_gone_with_all_that_it_began() {
    let place = Place::new();
    let mark = mark(1);
    // Deaf to the first signal; one of its children has left for a session of its own.
    let script = place.script(
        "deaf.sh",
        &format!("trap '' TERM\necho waiting\nsetsid sleep {mark} &\nsleep {mark} &\nsleep {mark}\necho on"),
    );
    let began = Instant::now();
    let refused = place.refusal(RunScript { time_out: Duration::from_secs(1), ..script });
    let took = began.elapsed();
    assert_eq!(refused.reason, "SCRIPT_TIMED_OUT");
    assert!(refused.message.contains("waiting") && !refused.message.contains("on\n"), "{}", refused.message);
    assert!((Duration::from_secs(6)..Duration::from_secs(12)).contains(&took), "{took:?}");
    assert_eq!(sleepers(&mark), 0);
}

#[test]
fn a_script_that_hears_the_signal_may_tidy_up() {
    let place = Place::new();
    let note = place.note("tidied");
    let mark = mark(2);
    let script = place
        .script("tidy.sh", &format!("trap 'touch {}; exit 0' TERM\nsleep {mark} &\nwait", note.display()));
    let began = Instant::now();
    let refused = place.refusal(RunScript { time_out: Duration::from_secs(1), ..script });
    assert_eq!(refused.reason, "SCRIPT_TIMED_OUT", "what it says of itself does not count any more");
    assert!(note.exists() && began.elapsed() < Duration::from_secs(5));
    assert_eq!(sleepers(&mark), 0);
}

#[test]
fn nothing_stays_when_a_script_ends() {
    let place = Place::new();
    let mark = mark(3);
    let script = place.script(
        "leave.sh",
        &format!("setsid sleep {mark} &\n(sleep {mark} &)\nsleep 0.1\nls /proc/self > /dev/null; echo done"),
    );
    let began = Instant::now();
    assert_eq!(place.runs(script), (0, "done\n".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for what the script left");
    assert_eq!(sleepers(&mark), 0);
}

#[test]
fn a_signal_that_nobody_sent_is_told() {
    let place = Place::new();
    let refused = place.refusal(place.script("kill.sh", "echo before; kill -KILL $$; echo after"));
    assert_eq!(refused.reason, "SCRIPT_KILLED");
    assert!(
        refused.message.contains("SIGKILL") && refused.message.ends_with("before"),
        "{}",
        refused.message
    );
}

#[test]
fn a_script_cannot_end_its_keeper() {
    let place = Place::new();
    let script = place.script("keeper.sh", "kill -KILL 1; kill -TERM 1; echo it lives; exit 4");
    let (exit_code, output) = place.runs(script);
    assert_eq!(exit_code, 4, "{output}");
    assert_eq!(output.matches("Operation not permitted").count(), 2, "{output}");
    assert!(output.ends_with("it lives\n"), "{output}");
}

#[test]
fn output_without_an_end_is_bounded() {
    let place = Place::new();
    let script =
        place.script("talk.sh", r"echo first; head -c 10485760 /dev/zero | tr '\0' x; echo; echo last");
    match place.run(script) {
        Ok(AgentTaskResult::Script { exit_code: 0, output, truncated: true }) => {
            assert!(output.len() <= MAX_SCRIPT_OUTPUT);
            assert!(output.starts_with("first\nxxx") && output.ends_with("xxx\nlast\n"));
        }
        other => panic!("{:.200}", format!("{other:?}")),
    }
}

/// Whichever side of the pipes is full first, the other goes on.
#[test]
fn a_script_need_not_read_and_may_write_before_it_reads() {
    let place = Place::new();
    let context = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_SCRIPT_CONTEXT - 8));
    let ignoring = place.script("ignore.sh", "exit 0");
    assert_eq!(place.runs(RunScript { context: context.clone(), ..ignoring }).0, 0);
    let closing = place.script("close.sh", "exec <&-; sleep 0.2; exit 5");
    assert_eq!(place.runs(RunScript { context: context.clone(), ..closing }).0, 5);
    let talking = place.script("talk.sh", "head -c 1000000 /dev/zero; wc -c");
    let (exit_code, output) = place.runs(RunScript { context: context.clone(), ..talking });
    let read: usize = output.trim().rsplit('?').next().unwrap().trim().parse().unwrap();
    assert_eq!((exit_code, read), (0, context.len() + r#","attempt":1"#.len()));
}

#[test]
fn a_fork_bomb_meets_its_limit() {
    // The limit counts all processes of a user, and this one has no others.
    let user = 64_000 + std::process::id() % 1000;
    let place = Place::with(|config| {
        config.user = user.to_string();
        config.processes = 20;
    });
    let mark = mark(4);
    let script = place.script(
        "bomb.sh",
        &format!("id -u\ni=0\nwhile [ $i -lt 100 ]; do sleep {mark} & i=$((i + 1)); done\necho all began"),
    );
    let (exit_code, output) = place.runs(script);
    assert!(output.starts_with(&user.to_string()), "{output}");
    assert!(exit_code != 0 && !output.contains("all began"), "{exit_code}: {output}");
    assert_eq!(sleepers(&mark), 0);
}

#[test]
fn a_cancelled_script_is_ended() {
    let place = Place::new();
    let (note, mark) = (place.note("begun"), mark(5));
    let script =
        place.script("wait.sh", &format!("echo begun\ntouch {}\nsleep {mark}\necho on", note.display()));
    let began = Instant::now();
    let stopped = place.host.perform_and_stop_when(Action::RunScript(script), RUN, move || note.exists());
    let refused = problem(stopped);
    assert_eq!(refused.reason, "SCRIPT_CANCELLED");
    assert!(refused.message.contains("begun") && !refused.message.contains("on\n"), "{}", refused.message);
    assert!(began.elapsed() < Duration::from_secs(5), "it was asked, and need not be killed");
    assert_eq!(sleepers(&mark), 0);
}

#[test]
fn so_many_run_at_once_and_the_others_wait() {
    let place = Place::with(|config| config.concurrent = 1);
    let log = place.note("log");
    let script =
        place.script("one.sh", &format!("echo begin >> {0}; sleep 0.3; echo end >> {0}", log.display()));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(place.runs(script.clone()).0, 0));
        }
    });
    assert_eq!(fs::read_to_string(log).unwrap(), "begin\nend\n".repeat(3));
}

/// Not a test: what the next one kills.
#[test]
#[ignore = "it waits to be killed"]
fn stand_in_for_an_agent() {
    let Ok(mark) = std::env::var("UNDERSTUDY_TEST_MARK") else { return };
    let place = Place::new();
    let script = place.script("wait.sh", &format!("trap '' TERM\nsetsid sleep {mark} &\nsleep {mark}"));
    panic!("{:?}", place.run(script));
}

#[test]
fn no_script_outlives_its_agent() {
    let (mark, temporary) = (mark(6), tempfile::tempdir().unwrap());
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["scripts::stand_in_for_an_agent", "--exact", "--ignored"])
        .env("UNDERSTUDY_TEST_MARK", &mark)
        .env("TMPDIR", temporary.path())
        .spawn()
        .unwrap();
    wait("the script to begin", || (sleepers(&mark) == 2).then_some(()));
    agent.kill().unwrap();
    agent.wait().unwrap();
    wait("the script to be gone", || (sleepers(&mark) == 0).then_some(()));
}

/// The runtime with the task in it is dropped, the process goes on.
#[test]
fn no_script_outlives_its_task() {
    let mut place = Place::new();
    let mark = mark(7);
    let script = place.script("wait.sh", &format!("trap '' TERM\nsleep {mark}"));
    place.host.begin(RUN, Action::RunScript(script));
    wait("the script to begin", || (sleepers(&mark) == 1).then_some(()));
    place.host.kill_agent();
    wait("the script to be gone", || (sleepers(&mark) == 0).then_some(()));
    let work = place.host.dir.join("work");
    wait("its directory to be gone", || (fs::read_dir(&work).unwrap().count() == 0).then_some(()));
}
