//! The sidecar on its own.

use clap::Parser as _;

/// The sidecar: an agent, and a data plane that lives on xDS v3 alone
#[derive(Debug, clap::Parser)]
#[command(name = "proxy", version)]
struct Cli {
    #[command(subcommand)]
    part: proxy::cli::Sidecar,
}

fn main() -> std::process::ExitCode {
    proxy::cli::run(Cli::parse().part, &[])
}
