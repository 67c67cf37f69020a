//! `lab rules explain`: the way of one packet through the rules, with the reason why each rule before did not match.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use iptables::evaluate::{Event, Outcome, Program, Step, Trace, Verdict, evaluate};
use iptables::explain::{self, reason};
use iptables::generate::generate;
use iptables::options::{Backend, Interface};
use iptables::packet::{Connection, Nat, Owner, Packet, Route};
use iptables::rule::{Protocol, State};
use iptables::ruleset::Family;
use serde_json::{Value, json};

use super::config::{ConfigArgs, import};
use super::{Output, fail, unreachable};
use crate::exit::Exit;
use crate::path::{Hop, leg_text};
use crate::report::terminal;

/// Say what the rules would make of a packet, and why
#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Rules that `iptables-save` or `ip6tables-save` wrote, in place of a configuration's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "backend"])]
    imported: Option<PathBuf>,
    /// Instead of a packet: the rules that no packet reaches, and what stands in their way
    #[arg(long, conflicts_with_all = ["dst", "src", "from", "out", "arrives"])]
    unreachable: bool,
    /// With --unreachable: the IPv6 rules
    #[arg(long, requires = "unreachable")]
    v6: bool,
    /// Where the packet goes
    #[arg(long, value_name = "ADDRESS:PORT", required_unless_present = "unreachable")]
    dst: Option<SocketAddr>,
    /// Where it comes from
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_source)]
    src: Option<SocketAddr>,
    /// Whose socket sends it: `uid=1000`, `uid=1000,gid=1337` or `nobody` (the kernel itself)
    #[arg(long, value_name = "uid=U[,gid=G]", value_parser = parse_from, default_value = "uid=1000")]
    from: From,
    /// The interface by which routing sends it; without it lo for a loopback address, else eth0. With --in: it is forwarded
    #[arg(long, value_name = "INTERFACE", value_parser = parse_interface)]
    out: Option<Interface>,
    /// It arrives by this interface, for a socket here unless --out says otherwise
    #[arg(long = "in", id = "arrives", value_name = "INTERFACE", value_parser = parse_interface, conflicts_with = "from")]
    arrives: Option<Interface>,
    /// Its transport
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    protocol: Transport,
    /// Its connection's state; the nat chains see first packets alone
    #[arg(long, value_enum, default_value_t = Ct::New)]
    state: Ct,
    /// Its mark
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    mark: u32,
    /// For people, or as one JSON document
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ct {
    New,
    Established,
    Related,
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Socket(Owner),
    Nobody,
}

fn parse_from(text: &str) -> Result<From, String> {
    if text == "nobody" {
        return Ok(From::Nobody);
    }
    let (mut uid, mut gid) = (None, None);
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or(format!("`{part}`: write uid=1000, gid=1000 or nobody"))?;
        let number = value
            .parse::<u32>()
            .map_err(|_error| format!("`{value}` is not a numeric id"))?;
        match key {
            "uid" => uid = Some(number),
            "gid" => gid = Some(number),
            other => return Err(format!("`{other}`: write uid or gid")),
        }
    }
    let uid = uid.ok_or("a user is missing: write uid=1000".to_owned())?;
    Ok(From::Socket(Owner {
        uid,
        gid: gid.unwrap_or(uid),
    }))
}

fn parse_source(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, 40000));
    address
        .or_else(|_error| text.parse())
        .map_err(|_error| format!("`{text}`: write an address, or an address with a port"))
}

fn parse_interface(text: &str) -> Result<Interface, String> {
    Interface::parse(text).ok_or(format!("`{text}` is not an interface's name"))
}

pub(super) fn run(args: &Args) -> Result<Exit, Exit> {
    let is_v6 = args.dst.map_or(args.v6, |to| to.is_ipv6());
    let program = program(args, is_v6)?;
    if args.unreachable {
        print(
            args.output,
            || unreachable::human(&program),
            || unreachable::document(&program),
        );
        return Ok(Exit::Held);
    }
    let Some(packet) = packet(args)? else {
        return Err(Exit::Usage);
    };
    let trace = evaluate(&program, &packet);
    let back = trace.reentry();
    let again = back.as_ref().map(|back| evaluate(&program, back));
    print(
        args.output,
        || human(&program, &packet, &trace, again.as_ref()),
        || document(&program, &trace, again.as_ref()),
    );
    let outcomes = [Some(&trace), again.as_ref()];
    let is_undecided = outcomes
        .into_iter()
        .flatten()
        .any(|trace| matches!(trace.outcome, Outcome::Undecided(_)));
    Ok(if is_undecided {
        Exit::Unobserved
    } else {
        Exit::Held
    })
}

fn print(output: Output, human: impl FnOnce() -> String, document: impl FnOnce() -> Value) {
    terminal::print(&match output {
        Output::Human => human(),
        Output::Json => format!("{:#}\n", document()),
    });
}

fn program(args: &Args, is_v6: bool) -> Result<Program, Exit> {
    let own = if is_v6 { Family::V6 } else { Family::V4 };
    if let Some(file) = &args.imported {
        let parsed = import(file, own)?;
        for unknown in &parsed.unknown {
            terminal::complain(&format!(
                "warning: {}: line {}: `{}` is not known here: what depends on it is not decided\n",
                file.display(),
                unknown.line,
                unknown.text
            ));
        }
        return Ok(Program::compile(&parsed.ruleset, own));
    }
    let options = args.config.load_numeric()?;
    let family = match options.backend {
        Backend::Iptables => own,
        Backend::Nftables => Family::Inet,
    };
    Ok(Program::compile(&generate(&options), family))
}

fn packet(args: &Args) -> Result<Option<Packet>, Exit> {
    let Some(to) = args.dst else { return Ok(None) };
    let any = if to.ip().is_loopback() {
        to.ip()
    } else if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let source = args.src.unwrap_or(SocketAddr::new(any, 40000));
    if source.is_ipv4() != to.is_ipv4() {
        return Err(fail(Exit::Usage, "--src and --dst are of different families"));
    }
    let usual = if to.ip().is_loopback() { "lo" } else { "eth0" };
    let (route, out_interface) = match (&args.arrives, &args.out) {
        (None, out) => (Route::FromSocket, out.clone().or_else(|| Interface::parse(usual))),
        (Some(_), None) => (Route::ToSocket, None),
        (Some(_), Some(out)) => (Route::Through, Some(out.clone())),
    };
    Ok(Some(Packet {
        route,
        protocol: match args.protocol {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        },
        source: source.ip(),
        source_port: source.port(),
        destination: to.ip(),
        destination_port: to.port(),
        out_interface,
        owner: match (args.from, &args.arrives) {
            (From::Socket(owner), None) => Some(owner),
            (From::Socket(_) | From::Nobody, _) => None,
        },
        in_interface: args.arrives.clone(),
        mark: args.mark,
        connection: Connection {
            state: match args.state {
                Ct::New => State::New,
                Ct::Established => State::Established,
                Ct::Related => State::Related,
                Ct::Invalid => State::Invalid,
            },
            mark: 0,
            nat: Nat::Open,
        },
    }))
}

fn human(program: &Program, packet: &Packet, trace: &Trace<'_>, again: Option<&Trace<'_>>) -> String {
    let mut text = "predicted from the rules, not observed\n".to_owned();
    text.push_str(&format!("packet  {}\n", described(packet)));
    text.push_str(&format!("path    {}\n", path(program, trace)));
    if let Some(again) = again {
        let to = SocketAddr::new(again.left.packet.destination, again.left.packet.destination_port);
        text.push_str(&format!(
            "then    back over lo to {to}: {}\n",
            path(program, again)
        ));
    }
    for trace in [Some(trace), again].into_iter().flatten() {
        text.push_str(&steps(program, trace));
    }
    text
}

fn described(packet: &Packet) -> String {
    let to = SocketAddr::new(packet.destination, packet.destination_port);
    let source = if packet.source.is_unspecified() {
        "any address".to_owned()
    } else {
        packet.source.to_string()
    };
    let who = match (&packet.owner, &packet.in_interface) {
        (Some(owner), _) => format!(", uid {} gid {}", owner.uid, owner.gid),
        (None, Some(interface)) => format!(", in {interface}"),
        (None, None) => ", no socket".to_owned(),
    };
    let out = packet
        .out_interface
        .as_ref()
        .map_or(String::new(), |out| format!(", out {out}"));
    format!("{} {source} -> {to}{who}{out}", packet.protocol)
}

fn path(program: &Program, trace: &Trace<'_>) -> String {
    let hops: Vec<Hop> = program.hops(trace).into_iter().map(Hop::from).collect();
    let text = leg_text(&hops, false);
    match trace.outcome {
        Outcome::Passed | Outcome::Dropped => text,
        Outcome::Undecided(at) => format!(
            "{text} -> ? ({}#{} asks for something that is not known here)",
            program.chain(at).name(),
            at.position()
        ),
    }
}

/// One line of a chain: where, what happened, the rule, why not.
struct Row {
    position: String,
    event: &'static str,
    rule: String,
    reason: String,
}

fn steps(program: &Program, trace: &Trace<'_>) -> String {
    let mut text = String::new();
    for visit in &trace.visits {
        let mut last = None;
        let mut rows: Vec<Row> = Vec::new();
        for step in &visit.steps {
            let chain = program.chain(step.at);
            // A base chain's end is its policy, which the outcome tells.
            if step.event == Event::End && chain.is_built_in() {
                continue;
            }
            if last != Some(chain) {
                text.push_str(&aligned(&rows));
                rows.clear();
                text.push_str(&format!("\n{} {}\n", chain.table(), chain.name()));
                last = Some(chain);
            }
            rows.push(row(program, step));
        }
        text.push_str(&aligned(&rows));
    }
    text
}

fn row(program: &Program, step: &Step<'_>) -> Row {
    let rule = explain::rule(program, step.at);
    Row {
        position: match rule {
            Some(_) => format!("#{}", step.at.position()),
            None => "#end".to_owned(),
        },
        event: event(step.event),
        rule: rule.unwrap_or_default(),
        reason: reason(program, step).unwrap_or_default(),
    }
}

const fn event(event: Event) -> &'static str {
    match event {
        Event::PassedOver(_) => "passed over",
        Event::Hit(Verdict::Accept) => "accept",
        Event::Hit(Verdict::Drop) => "drop",
        Event::Hit(Verdict::Continue) => "continue",
        Event::Hit(Verdict::Jump) => "jump",
        Event::Hit(Verdict::Return) => "return",
        Event::End => "end",
    }
}

fn aligned(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or_default();
    let (position, rule) = (width(|row| row.position.len()), width(|row| row.rule.len()));
    rows.iter()
        .map(|row| {
            let line = format!(
                "  {:position$}  {:11}  {:rule$}  {}",
                row.position, row.event, row.rule, row.reason
            );
            format!("{}\n", line.trim_end())
        })
        .collect()
}

fn document(program: &Program, trace: &Trace<'_>, again: Option<&Trace<'_>>) -> Value {
    let mut document = leg(program, trace);
    document["version"] = json!(1);
    document["predicted"] = json!(true);
    document["backOverLo"] = again.map_or(Value::Null, |again| leg(program, again));
    document
}

fn leg(program: &Program, trace: &Trace<'_>) -> Value {
    let steps: Vec<Value> = trace
        .visits
        .iter()
        .flat_map(|visit| visit.steps.iter().map(move |step| (visit.hook, step)))
        .map(|(hook, step)| {
            let row = row(program, step);
            json!({
                "hook": hook.name(),
                "table": program.chain(step.at).table().to_string(),
                "chain": program.chain(step.at).name(),
                "position": program.rule(step.at).map(|_| step.at.position().get()),
                "event": row.event,
                "rule": row.rule,
                "reason": (!row.reason.is_empty()).then_some(row.reason),
            })
        })
        .collect();
    let outcome = match trace.outcome {
        Outcome::Passed => "passed",
        Outcome::Dropped => "dropped",
        Outcome::Undecided(_) => "undecided",
    };
    json!({ "path": path(program, trace), "outcome": outcome, "steps": steps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends() {
        let owner = |uid, gid| Ok(From::Socket(Owner { uid, gid }));
        assert_eq!(parse_from("uid=1000"), owner(1000, 1000));
        assert_eq!(parse_from("gid=1337,uid=0"), owner(0, 1337));
        assert_eq!(parse_from("nobody"), Ok(From::Nobody));
        assert!(parse_from("1000").unwrap_err().contains("write uid=1000"));
        assert!(parse_from("gid=1").unwrap_err().contains("a user is missing"));
        assert!(parse_from("uid=root").unwrap_err().contains("`root`"));
    }

    #[test]
    fn a_text_for_people() {
        let program = Program::compile(
            &generate(&iptables::options::Interception::sidecar_default()),
            Family::V4,
        );
        let packet = Packet {
            route: Route::FromSocket,
            protocol: Protocol::Tcp,
            source: Ipv4Addr::UNSPECIFIED.into(),
            source_port: 40000,
            destination: "10.96.0.5".parse().unwrap(),
            destination_port: 9080,
            in_interface: None,
            out_interface: Interface::parse("eth0"),
            owner: Some(Owner { uid: 1337, gid: 1337 }),
            mark: 0,
            connection: Connection::NEW,
        };
        let trace = evaluate(&program, &packet);
        insta::assert_snapshot!(human(&program, &packet, &trace, None), @r"
        predicted from the rules, not observed
        packet  tcp any address -> 10.96.0.5:9080, uid 1337 gid 1337, out eth0
        path    OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING

        nat OUTPUT
          #1  jump         -j ISTIO_OUTPUT

        nat ISTIO_OUTPUT
          #1  passed over  -o lo -s 127.0.0.6/32 -j RETURN                                                                `-o lo`: it leaves by eth0
          #2  passed over  -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT  `-o lo`: it leaves by eth0
          #3  passed over  -o lo -m owner ! --uid-owner 1337 -j RETURN                                                    `-o lo`: it leaves by eth0
          #4  return       -m owner --uid-owner 1337 -j RETURN
        ");
    }
}
