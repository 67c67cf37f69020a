//! What a run writes, and where to.

use std::path::{Path, PathBuf};

use super::super::labs::Checked;
use crate::report::coverage::{self, Coverage};
use crate::report::human::{self, Detail};
use crate::report::{ProxyReport, ScenarioReport, json, terminal};

#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Human,
    Json,
}

pub(super) fn parse_output(text: &str) -> Result<Output, String> {
    let (format, file) = match text.split_once('=') {
        Some((_, "")) => return Err("the file after `=` is empty".to_owned()),
        Some((format, file)) => (format, Some(PathBuf::from(file))),
        None => (text, None),
    };
    let format = match format {
        "human" => Format::Human,
        "json" => Format::Json,
        other => {
            return Err(format!(
                "`{other}` is not an output: write `human` or `json`, or `json=FILE`"
            ));
        }
    };
    Ok(Output { format, file })
}

pub(super) fn heading(file: &Checked, proxies: &[ProxyReport]) -> String {
    let scenario = &file.loaded.scenario;
    human::heading(
        &scenario.name,
        &file.file.display().to_string(),
        scenario.pods.len(),
        scenario.steps.len(),
        proxies,
    )
}

/// A whole scenario at once, where steps of several would mix.
pub(super) fn whole(report: &ScenarioReport, detail: Detail) -> String {
    let up = report.up_seconds.map(human::up).unwrap_or_default();
    let steps: String = report
        .steps
        .iter()
        .map(|step| human::step(step, detail))
        .collect();
    format!(
        "{}  {}{}\n{up}{steps}{}",
        report.name,
        report.file,
        human::envoy(&report.proxies),
        human::summary(report)
    )
}

pub(super) fn write_outputs(
    outputs: &[Output],
    reports: &[ScenarioReport],
    coverage: Option<&Coverage>,
    detail: Detail,
) -> Result<(), ()> {
    let mut ok = Ok(());
    for output in outputs {
        let text = match (output.format, &output.file) {
            (Format::Human, None) => continue,
            (Format::Human, Some(_)) => {
                let mut text: String = reports.iter().map(|report| whole(report, detail)).collect();
                if let Some(coverage) = coverage {
                    text.push_str(&coverage::human(coverage, detail == Detail::Verbose));
                }
                anstream::adapter::strip_str(&text).to_string()
            }
            (Format::Json, _) => {
                let mut document = json::document(reports);
                if let Some(coverage) = coverage {
                    document["coverage"] = coverage::document(coverage);
                }
                format!("{document:#}\n")
            }
        };
        match &output.file {
            None => terminal::write(&text),
            Some(file) => ok = write_or_complain(file, &text).and(ok),
        }
    }
    ok
}

pub(super) fn write_or_complain(file: &Path, text: &str) -> Result<(), ()> {
    write_whole(file, text).map_err(|error| {
        terminal::complain(&format!("error: writing {}: {error}\n", file.display()));
    })
}

/// A reader never sees half a report: it is written beside the file and put in its place.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    // A device or a pipe is written to; putting a file in its place would change the machine.
    if std::fs::metadata(file).is_ok_and(|about| !about.is_file()) {
        return std::fs::OpenOptions::new()
            .write(true)
            .open(file)?
            .write_all(text.as_bytes());
    }
    let dir = file
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut new = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)?;
    new.write_all(text.as_bytes())?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}
