//! Running the real binary: a consuming builder that always compares the exit status and shows all output if it differs.

pub(crate) mod host;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Copies a program. Another process does it: a child that some other test forks meanwhile would keep a descriptor of
/// this one's open for writing, and a file that is open for writing cannot be executed (`ETXTBSY`).
#[expect(clippy::disallowed_methods, reason = "the tests use cp")]
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(
        copied.expect("starting cp").success(),
        "copying {}",
        from.display()
    );
}

/// In a mount namespace of its own: empty directories in the place of those that have Python's packages.
const HIDE_ENVOY: &str = r#"for dir in /usr/lib/python3* /usr/local/lib/python3*; do
    if [ -d "$dir" ]; then mount -t tmpfs none "$dir"; fi
done
exec env -i PATH=/usr/sbin:/sbin "$0" "$@""#;

/// In a mount namespace of its own: what is no file in the place of a program, wherever it is found.
const HIDE_PROGRAM: &str = r#"while found=$(PATH=$PATH:/usr/sbin:/sbin command -v "$MISSING"); do
    mount --bind /dev/null "$(readlink -f "$found")"
done
exec "$0" "$@""#;

/// A call of `lab`, before it is made.
#[must_use]
pub(crate) struct Lab {
    args: Vec<String>,
    scenario: Option<tempfile::NamedTempFile>,
    /// Run as this user instead of root.
    uid: Option<u32>,
    /// On a machine without Envoy.
    bare: bool,
    /// On a machine without this program.
    missing: Option<&'static str>,
}

/// What a call of `lab` did.
pub(crate) struct Ended {
    pub stdout: String,
    pub stderr: String,
}

impl Lab {
    /// `lab SUBCOMMAND`.
    pub(crate) fn new(subcommand: &str) -> Self {
        Self {
            args: vec![subcommand.to_owned()],
            scenario: None,
            uid: None,
            bare: false,
            missing: None,
        }
    }

    /// `lab run --output json` of a file in `scenarios/`.
    pub(crate) fn shipped(name: &str) -> Self {
        let file = root().join("scenarios").join(name);
        Self::new("run")
            .arg("--output=json")
            .arg(file.to_str().expect("paths here are UTF-8"))
    }

    /// `lab run` of this text.
    pub(crate) fn scenario(text: impl AsRef<[u8]>) -> Self {
        let mut file = tempfile::Builder::new()
            .suffix(".yaml")
            .tempfile()
            .expect("a temporary file");
        file.write_all(text.as_ref()).expect("writing a temporary file");
        let path = file.path().to_str().expect("paths here are UTF-8").to_owned();
        let mut lab = Self::new("run").arg(&path);
        lab.scenario = Some(file);
        lab
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// As another user than root.
    pub(crate) fn by_user(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// As on a machine without Envoy: no environment, a PATH with nothing but the system's tools, no Python packages.
    pub(crate) fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// As on a machine without this program.
    pub(crate) fn without(mut self, program: &'static str) -> Self {
        self.missing = Some(program);
        self
    }

    /// The file of `scenario`.
    pub(crate) fn file(&self) -> String {
        self.scenario
            .as_ref()
            .expect("made by `scenario`")
            .path()
            .display()
            .to_string()
    }

    #[expect(clippy::disallowed_methods, reason = "the tests start the real binary")]
    fn command(&self) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = if self.bare {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-ec", HIDE_ENVOY, env!("CARGO_BIN_EXE_lab")]);
            command
        } else if let Some(program) = self.missing {
            let mut command = Command::new("unshare");
            command.env("MISSING", program);
            command.args(["--mount", "sh", "-ec", HIDE_PROGRAM, env!("CARGO_BIN_EXE_lab")]);
            command
        } else {
            Command::new(env!("CARGO_BIN_EXE_lab"))
        };
        command.args(&self.args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Starts it, and leaves it to the caller to end it.
    pub(crate) fn spawn(&self) -> Child {
        self.command().spawn().expect("starting lab")
    }

    /// Runs it to its end, whichever that is.
    pub(crate) fn any_status(&self) -> (Option<i32>, Ended) {
        let output = self.command().output().expect("running lab");
        let ended = Ended {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        (output.status.code(), ended)
    }

    /// Runs it to its end, which must be this exit status.
    #[track_caller]
    pub(crate) fn status(self, expected: i32) -> Ended {
        let (code, ended) = self.any_status();
        assert_eq!(
            code,
            Some(expected),
            "lab {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.args,
            ended.stdout,
            ended.stderr
        );
        ended
    }
}

impl Ended {
    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The legs of a pod in a step, by the beginning of the step's name.
    #[track_caller]
    pub(crate) fn legs(&self, step: &str, pod: &str) -> Vec<String> {
        let document = self.json();
        let steps = document["scenarios"][0]["steps"]
            .as_array()
            .expect("steps")
            .clone();
        let found = steps
            .iter()
            .find(|found| found["name"].as_str().is_some_and(|name| name.starts_with(step)));
        let found = found.unwrap_or_else(|| panic!("no step `{step}` in {document:#}"));
        let legs = found["path"]
            .as_array()
            .expect("a path")
            .iter()
            .filter(|leg| leg["pod"] == pod);
        legs.map(|leg| leg["text"].as_str().expect("a text").to_owned())
            .collect()
    }
}
