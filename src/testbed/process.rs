//! Child processes and directories that never outlive this process.
//!
//! Statics are not dropped when a test binary ends, and nothing runs at all after `kill -9`. So each
//! child is started by a small shell that holds the read end of a pipe. Only this process has the
//! write end; however it ends, the kernel closes that end, the shell sees end of file and kills the
//! child. It works for any program, without its help, and without `prctl`, which would be unsafe code.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use super::Error;

/// Starts `"$@"`, says its process id, kills it at end of file on standard input and answers its exit status.
///
/// The watcher asks for its parent first: once the parent is gone the child was reaped, and its
/// number may belong to somebody else.
const GUARD: &str = r#"
exec 3<&0
"$@" </dev/null >>"$0" 2>&1 3<&- &
child=$!
echo "$child"
exec >/dev/null
{ cat <&3; kill -0 $$ && kill -9 "$child"; } 2>/dev/null &
exec 3<&-
wait "$child"
"#;

/// Removes `"$1"` at end of file on standard input. Processes that write there are being killed at
/// the same moment, hence the second attempts.
const SWEEP: &str = r#"
cat >/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf -- "$1" && exit 0
  sleep 0.2
done
"#;

/// A program running under the guard. Dropping it kills the program (SIGKILL) and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    guard: Child,
    pipe: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args` and the additional environment `env`; its output is appended to `log`.
    pub fn spawn<I, S>(
        name: &str,
        program: &Path,
        args: I,
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, Error>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new("sh");
        command.arg("-c").arg(GUARD).arg(log).arg(program).args(args).envs(env.iter().copied());
        let mut guard =
            detached(&mut command).stdout(Stdio::piped()).spawn().map_err(Error::io("start sh"))?;
        let pipe = guard.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = guard.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(Error::io(format!("start {name}")))?;
        }
        let pid = line.trim().parse().map_err(Error::format(format!("process id of {name}")))?;
        Ok(Self { name: name.to_owned(), guard, pipe, pid, log: log.to_owned() })
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The program's log: standard output and standard error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal by its name without `SIG` (`TERM`, `STOP`, `CONT`, `KILL`).
    pub fn signal(&self, signal: &str) -> Result<(), Error> {
        let status = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &self.pid.to_string()])
            .status()
            .map_err(Error::io("start sh"))?;
        if status.success() { Ok(()) } else { Err(self.failure(format!("did not take signal {signal}"))) }
    }

    /// The exit status if the program has ended (128 + n after signal n, as a shell reports it).
    pub fn exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.guard.try_wait().map_err(Error::io(format!("wait for {}", self.name)))
    }

    /// An error about this program, with the end of its log.
    pub fn failure(&self, problem: impl Into<String>) -> Error {
        Error::Component { component: self.name.clone(), problem: problem.into(), log: tail(&self.log) }
    }

    /// Fails if the program has ended.
    pub fn alive(&mut self) -> Result<(), Error> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(self.failure(format!("ended ({status})"))),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.guard.wait();
    }
}

/// A directory that only this user can enter; it goes with this value, or with this process.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    sweeper: Option<Child>,
}

impl Workspace {
    /// A new directory below the system's temporary directory. `keep` leaves it there for reading.
    pub fn create(keep: bool) -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("llmkey-{}", random_suffix()?));
        DirBuilder::new().mode(0o700).create(&path).map_err(Error::path("create", &path))?;
        let sweeper = if keep {
            None
        } else {
            let mut command = Command::new("sh");
            command.arg("-c").arg(SWEEP).arg("sh").arg(&path).stdout(Stdio::null());
            Some(detached(&mut command).spawn().map_err(Error::io("start sh"))?)
        };
        Ok(Self { path, sweeper })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Some(mut sweeper) = self.sweeper.take() {
            drop(sweeper.stdin.take());
            let _ = sweeper.wait();
        }
    }
}

/// A pipe to its standard input, no share in our standard error (a reader of it would wait for the
/// guard), and a process group of its own: Ctrl-C must reach us, not the guard.
fn detached(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0)
}

/// Eight random characters that are right in a DNS label and in a file name.
pub fn random_suffix() -> Result<String, Error> {
    let mut bytes = [0_u8; 5];
    getrandom::fill(&mut bytes).map_err(Error::format("random bytes"))?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase())
}

/// The last 4 KiB of a log, for an error message.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({}: {error})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_dead_and_its_directory_gone() {
        let workspace = Workspace::create(false).unwrap();
        let log = workspace.path().join("sleep.log");
        let mut process = Process::spawn("sleep", Path::new("sleep"), ["600"], &[], &log).unwrap();
        assert!(process.exited().unwrap().is_none());
        let proc_entry = PathBuf::from(format!("/proc/{}", process.pid()));
        drop(process);
        assert!(!proc_entry.exists());
        let path = workspace.path().to_owned();
        drop(workspace);
        assert!(!path.exists());
    }

    #[test]
    fn an_ended_process_is_noticed_with_its_status_and_log() {
        let workspace = Workspace::create(false).unwrap();
        let log = workspace.path().join("sh.log");
        let script = ["-c", "echo \"$WORD\"; exit 3"];
        let mut process =
            Process::spawn("sh", Path::new("sh"), script, &[("WORD", "farewell")], &log).unwrap();
        let status = process.guard.wait().unwrap();
        assert_eq!(status.code(), Some(3));
        let error = process.alive().unwrap_err().to_string();
        assert!(error.contains("farewell") && error.contains('3'), "{error}");
    }
}
