//! The script that libvirt calls.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Writes `<dir>/qemu`, which asks `program guard` before a machine starts. Replaces a script of ours; refuses to replace one
/// of somebody else's. libvirtd looks for the file when it starts, so it has to be restarted after the first time.
pub fn install(dir: &Path, program: &Path, config: &Path) -> io::Result<PathBuf> {
    let path = dir.join("qemu");
    match fs::read_to_string(&path) {
        Ok(text) if !text.contains(MARK) => {
            let why = format!("{} is not ours; call the guard from it, or move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir_all(dir)?;
    let temporary = dir.join(".qemu.new");
    let mut file = fs::File::create(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.write_all(script(program, config).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}

const MARK: &str = "Understudy guard";

fn script(program: &Path, config: &Path) -> String {
    format!(
        "#!/bin/sh\n\
         # {MARK}: a protected machine starts only where it is the active copy.\n\
         [ \"$2 $3\" = \"prepare begin\" ] || exit 0\n\
         exec {} guard --config {} \"$1\" \"$2\" \"$3\"\n",
        quoted(program),
        quoted(config)
    )
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_script_calls_the_guard_for_starts_only_and_passes_its_answer_on() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("a gent's");
        fs::write(&program, "#!/bin/sh\necho \"$@\" >&2\nexit 7\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let hook = install(dir.path(), &program, Path::new("/etc/x.toml")).unwrap();
        install(dir.path(), &program, Path::new("/etc/x.toml")).unwrap();
        let start = Command::new(&hook).args(["web1", "prepare", "begin", "-"]).output().unwrap();
        assert_eq!(start.status.code(), Some(7));
        assert_eq!(
            String::from_utf8_lossy(&start.stderr).trim(),
            "guard --config /etc/x.toml web1 prepare begin"
        );
        let end = Command::new(&hook).args(["web1", "release", "end", "-"]).output().unwrap();
        assert_eq!(end.status.code(), Some(0));
    }

    #[test]
    fn a_script_of_somebody_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("qemu"), "#!/bin/sh\n").unwrap();
        assert!(install(dir.path(), Path::new("/bin/agent"), Path::new("/etc/x.toml")).is_err());
    }
}
