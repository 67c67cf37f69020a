//! A tool is run: what it is given, what it prints, and which line it refuses.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Output;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use super::Error;
use crate::render::Line;

/// Starts a program with these arguments in the network namespace that the rules are for; stdin, stdout, stderr piped.
pub type Spawn<'a> = &'a dyn Fn(&Path, &[&OsStr]) -> io::Result<Child>;

pub(super) async fn restore(program: &Path, lines: &[Line<'_>], spawn: Spawn<'_>) -> Result<(), Error> {
    feed(program, &[OsStr::new("--noflush")], lines, spawn, refused_line).await
}

/// Gives a tool its input; `refused` finds the line in what it says of a failure.
pub(super) async fn feed(
    program: &Path,
    arguments: &[&OsStr],
    lines: &[Line<'_>],
    spawn: Spawn<'_>,
    refused: fn(&str) -> Option<usize>,
) -> Result<(), Error> {
    let text = lines.iter().map(|line| line.text.clone() + "\n").collect();
    let output = run(program, arguments, text, spawn).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let Some((number, line)) =
        refused(&said).and_then(|number| Some((number, lines.get(number.checked_sub(1)?)?)))
    else {
        return Err(failed(program, &output));
    };
    let option = line
        .rule
        .map_or("none: the line is not a rule", |rule| rule.option);
    let (program, status, rule) = (program.to_owned(), output.status, line.text.clone());
    Err(Error::Refused {
        program,
        line: number,
        status,
        said,
        rule,
        option,
    })
}

/// The line number in "Error occurred at line: 7", "line 7 failed" or "iptables-restore: line 7 failed".
pub(super) fn refused_line(said: &str) -> Option<usize> {
    let after = said.rfind("line")? + "line".len();
    let digits = said[after..].trim_start_matches([':', ' ']);
    digits
        .split(|each: char| !each.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The line number in `-:7:1-9: Error: …` or `/dev/stdin:7:1-9: Error: …`.
pub(super) fn refused_by_nft(said: &str) -> Option<usize> {
    let mut parts = said.lines().next()?.split(':').skip(1);
    parts.next()?.parse().ok()
}

/// What a tool that needs no input prints.
pub(super) async fn printed(program: &Path, arguments: &[&OsStr], spawn: Spawn<'_>) -> Result<String, Error> {
    let output = run(program, arguments, String::new(), spawn).await?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(program, &output))
    }
}

fn failed(program: &Path, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Error::Failed {
        program: program.to_owned(),
        status: output.status,
        said,
    }
}

async fn run(program: &Path, arguments: &[&OsStr], input: String, spawn: Spawn<'_>) -> Result<Output, Error> {
    let failed = |what| {
        move |source| Error::Run {
            what,
            program: program.to_owned(),
            source,
        }
    };
    let mut child = spawn(program, arguments).map_err(failed("start"))?;
    let stdin = child.stdin.take();
    let write = async {
        match stdin {
            Some(mut stdin) => stdin.write_all(input.as_bytes()).await,
            None => Ok(()),
        }
    };
    // Both at once: a tool that complains at length while it is being written to would wait for us, and we for it.
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed("await"))?;
    match written {
        // It ended before it had read everything; its status and words say why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !output.status.success() => Ok(output),
        written => written.map(|()| output).map_err(failed("write to")),
    }
}
