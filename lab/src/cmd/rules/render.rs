//! `lab rules render`: the rules of a configuration as text.

use iptables::generate::generate;
use iptables::options::Backend;
use iptables::render::{Line, nft, restore, save};
use iptables::ruleset::{Family, Ruleset, Table};

use super::config::ConfigArgs;
use super::fail;
use crate::exit::Exit;
use crate::report::terminal;

/// Print the rules that a configuration makes
#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which family's rules (iptables alone: nftables has one table for both)
    #[arg(long, value_enum, default_value_t = Which::Both)]
    family: Which,
    /// As the tool's input, as `iptables-save` would print it, or as commands
    #[arg(long, value_enum, default_value_t = Format::Restore)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    V4,
    V6,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Restore,
    Save,
    Commands,
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let options = args.config.load()?;
    let ruleset = generate(&options);
    let text = match options.backend {
        Backend::Nftables => nftables(&ruleset, args)?,
        Backend::Iptables => iptables(&ruleset, args)?,
    };
    terminal::print(&text);
    Ok(Exit::Held)
}

fn nftables(ruleset: &Ruleset, args: &Args) -> Result<String, Exit> {
    if args.family != Which::Both {
        return Err(fail(
            Exit::Usage,
            "--family: nftables' inet tables hold both families' rules: leave it out",
        ));
    }
    match args.format {
        Format::Restore => Ok(nft::render(ruleset)),
        Format::Commands => Ok(nft::lines(ruleset)
            .iter()
            .map(|line| format!("nft '{}'\n", line.text))
            .collect()),
        Format::Save => Err(fail(
            Exit::Usage,
            "--format save: it is iptables-save's; for nftables write `restore` or `commands`",
        )),
    }
}

fn iptables(ruleset: &Ruleset, args: &Args) -> Result<String, Exit> {
    let families: &[Family] = match args.family {
        Which::V4 => &[Family::V4],
        Which::V6 => &[Family::V6],
        Which::Both => &[Family::V4, Family::V6],
    };
    if args.family == Which::V6 && ruleset.is_empty(Family::V6) && !ruleset.is_empty(Family::V4) {
        return Err(fail(
            Exit::Usage,
            "--family v6: this configuration makes no IPv6 rules: set `enableIPv6: true`",
        ));
    }
    let used: Vec<Family> = families
        .iter()
        .copied()
        .filter(|&family| !ruleset.is_empty(family))
        .collect();
    let mut text = String::new();
    for &family in &used {
        let (tool, family_text) = match family {
            Family::V6 => ("ip6tables", one_family(ruleset, family, args.format)),
            Family::V4 | Family::Inet => ("iptables", one_family(ruleset, family, args.format)),
        };
        if used.len() > 1 && args.format != Format::Commands {
            text.push_str(&format!("# {tool}\n"));
        }
        text.push_str(&family_text);
    }
    Ok(text)
}

fn one_family(ruleset: &Ruleset, family: Family, format: Format) -> String {
    match format {
        Format::Restore => restore::render(ruleset, family),
        Format::Save => save::render(ruleset, family),
        Format::Commands => commands(&restore::lines(ruleset, family), family),
    }
}

fn commands(lines: &[Line<'_>], family: Family) -> String {
    let tool = if family == Family::V6 {
        "ip6tables"
    } else {
        "iptables"
    };
    let (mut table, mut text) = (Table::Nat.to_string(), String::new());
    for line in lines {
        match line.text.strip_prefix('*') {
            Some(name) => name.clone_into(&mut table),
            None if line.text == "COMMIT" => {}
            None => text.push_str(&format!("{tool} -t {table} {}\n", line.text)),
        }
    }
    text
}
