//! Scenario files: text with spans -> values -> a checked scenario, or every mistake at once.

pub mod custom;
pub mod lifecycle;

pub mod families;
pub mod model;
pub mod mutate;
pub mod race;

pub mod mistake;
mod source;

pub(crate) mod fields;

mod lives;
mod mesh;
mod names;
pub mod objects;
mod pieces;
mod services;

mod apps;
mod containers;
mod pods;
mod security;

mod requests;
mod steps;

mod faults;

mod expect;

mod schema;

use std::path::Path;

pub use mistake::{LoadError, Loaded, Mistakes, Warning};
pub use schema::schema;

use custom::Files;
use fields::{At, Fields, Reader};
use model::Scenario;
use names::Names;

/// The longest file that is read.
const LONGEST: u64 = 1 << 20;

/// The fields of a scenario file.
const FIELDS: &[&str] = &[
    "name",
    "description",
    "clock",
    "mesh",
    "services",
    "destinationRules",
    "virtualServices",
    "pods",
    "steps",
];

/// Reads and checks a file; gives its text too.
pub fn load(path: &Path) -> Result<(String, Loaded), LoadError> {
    let file = path.display().to_string();
    let text = read(path)?;
    let loaded = parse_with(&file, &text, Files::beside(path)).map_err(LoadError::Mistakes)?;
    Ok((text, loaded))
}

fn read(path: &Path) -> Result<String, LoadError> {
    let file = path.display().to_string();
    let failed = |source| LoadError::Read {
        file: file.clone(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(LoadError::NotText {
            file,
            why: "is a directory: name a scenario file".to_owned(),
        });
    }
    if metadata.len() > LONGEST {
        let mib = metadata.len().div_ceil(1 << 20);
        let why = format!("has {mib} MiB: a scenario has at most 1 MiB; is this the right file?");
        return Err(LoadError::NotText { file, why });
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    source::text(&bytes).map_err(|why| LoadError::NotText { file, why })
}

/// Reads and checks a race file; gives its text too.
pub fn load_race(path: &Path) -> Result<(String, race::Race), LoadError> {
    let file = path.display().to_string();
    let text = read(path)?;
    let race = race::parse_with(&file, &text, Files::beside(path)).map_err(LoadError::Mistakes)?;
    Ok((text, race))
}

/// Checks a text that names no other file. Nothing is created.
pub fn parse(file: &str, text: &str) -> Result<Loaded, Mistakes> {
    parse_with(file, text, Files::Nowhere)
}

/// Checks the text of a file, which may name others. Nothing is created.
pub fn parse_with(file: &str, text: &str, files: Files) -> Result<Loaded, Mistakes> {
    let reader = Reader::new(file, text, files)?;
    let scenario = scenario(&reader, reader.root(), file);
    reader.finish(scenario)
}

fn scenario(reader: &Reader<'_>, root: At<'_>, file: &str) -> Option<Scenario> {
    let (scenario, fields) = mesh_of(reader, root.clone(), file)?;
    if let Some(at) = fields.get("race") {
        reader.wrong(&at, "this is a race", "run it by `lab race FILE`");
    }
    let names = Names::new(&scenario);
    let steps = if let Some(at) = fields.get("steps") {
        steps::read(reader, at, &names)
    } else {
        reader.wrong(&root, "no `steps`", "a scenario needs at least one step");
        Vec::new()
    };
    Some(Scenario { steps, ..scenario })
}

/// All but the steps, and the fields among which they are.
fn mesh_of<'v>(reader: &Reader<'_>, root: At<'v>, file: &str) -> Option<(Scenario, Fields<'v>)> {
    let known: Vec<&str> = FIELDS.iter().copied().chain(["race"]).collect();
    let fields = reader.map(root.clone(), &known)?;
    let stem = Path::new(file)
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name = fields
        .get("name")
        .and_then(|at| reader.string(at))
        .unwrap_or(stem);
    let description = fields
        .get("description")
        .and_then(|at| reader.string(at))
        .unwrap_or_default();
    let mesh = mesh::read(reader, fields.get("mesh"));
    let services = services::services(reader, fields.get("services"), mesh.mesh.ip_families);
    let destination_rules = services::destination_rules(reader, fields.get("destinationRules"), &services);
    let virtual_services = services::virtual_services(
        reader,
        fields.get("virtualServices"),
        &services,
        &destination_rules,
    );
    let pods = if let Some(at) = fields.get("pods") {
        pods::read(reader, at, &mesh)
    } else {
        reader.wrong(
            &root,
            "no `pods`",
            "a scenario needs at least one pod and one step",
        );
        Vec::new()
    };
    for service in &services {
        let none = !pods
            .iter()
            .any(|pod| crate::plan::endpoints::selects(&service.selector, &pod.labels));
        if none && let Some(at) = fields.get("services") {
            let pairs: Vec<String> = service
                .selector
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            reader.warn(
                at,
                &format!(
                    "service `{}` selects no pod (selector {})",
                    service.name,
                    pairs.join(",")
                ),
            );
        }
    }
    let scenario = Scenario {
        name,
        description,
        mesh: mesh.mesh,
        services,
        destination_rules,
        virtual_services,
        pods,
        steps: Vec::new(),
        clock: lives::clock(reader, fields.get("clock")),
    };
    Some((scenario, fields))
}

#[cfg(test)]
mod tests;
