//! The six traffic types in every mode, back end and family: the article beside the kernel, as `docs/six-types.md` has them.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::{Lab, root};

/// One pod of the scenario, and its paths in the notation of iptables.
struct Way {
    /// Mode, back end, family.
    name: String,
    /// By type, in the types' order.
    paths: Vec<Vec<String>>,
}

struct Type {
    title: String,
    article: String,
}

/// What a run's document has of all ways and types.
#[track_caller]
fn seen(document: &Value) -> (Vec<Type>, Vec<Way>) {
    let (mut types, mut ways): (Vec<Type>, Vec<Way>) = (Vec::new(), Vec::new());
    for step in document["scenarios"][0]["steps"].as_array().unwrap() {
        // "Type 1, REDIRECT, iptables, IPv4: remote pod -> local pod"
        let (short, title) = step["name"].as_str().unwrap().split_once(": ").unwrap();
        let (number, way) = short.split_once(", ").unwrap();
        let title = format!("{number}: {title}");
        if types.last().is_none_or(|last| last.title != title) {
            types.push(Type {
                title,
                article: String::new(),
            });
        }
        let number = types.len();
        if let Some(article) = step["article"].as_str() {
            article.trim().clone_into(&mut types[number - 1].article);
        }
        let at = ways
            .iter()
            .position(|known| known.name == way)
            .unwrap_or_else(|| {
                ways.push(Way {
                    name: way.to_owned(),
                    paths: Vec::new(),
                });
                ways.len() - 1
            });
        let pod = way.to_ascii_lowercase().replace(", ipv", "-").replace(", ", "-");
        let path = step["path"].as_array().unwrap();
        let own = path.iter().filter(|leg| leg["pod"] == pod);
        let legs: Vec<String> = own
            .map(|leg| in_iptables(leg["text"].as_str().unwrap()))
            .collect();
        assert!(!legs.is_empty(), "{step:#}");
        assert_eq!(ways[at].paths.len(), number - 1, "types in order: {step:#}");
        ways[at].paths.push(legs);
    }
    (types, ways)
}

/// A leg with its chains as iptables spells them.
fn in_iptables(leg: &str) -> String {
    let spelled = |hop: &str| {
        let chain = hop.split('#').next().unwrap_or(hop);
        if chain.starts_with("istio-") || chain == "output" {
            hop.to_ascii_uppercase().replace('-', "_")
        } else {
            hop.to_owned()
        }
    };
    leg.split(" -> ").map(spelled).collect::<Vec<_>>().join(" -> ")
}

/// The rules of `ISTIO_OUTPUT` that a text names, in its order: `ISTIO_OUTPUT RULE 9` or `ISTIO_OUTPUT#9`.
fn output_rules(text: &str) -> String {
    let after = text.split("ISTIO_OUTPUT").skip(1).filter_map(|rest| {
        let number = rest.strip_prefix(" RULE ").or_else(|| rest.strip_prefix('#'))?;
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("#{digits}"))
    });
    let numbers: Vec<String> = after.collect();
    if numbers.is_empty() {
        "–".to_owned()
    } else {
        numbers.join(" ")
    }
}

fn page(types: &[Type], ways: &[Way]) -> String {
    let mut text = String::from(
        "# The six traffic types: the article beside the kernel\n\n\
        Written by `./x six-types` from what `scenarios/interception/six-types.yaml` observed; the built-in data plane and Envoy\n\
        were both run, and have the same paths. A test runs them again, and fails if this page says anything else. The article\n\
        is [Sidecar traffic types](https://jimmysong.io/en/blog/istio-sidecar-traffic-types/); it speaks of REDIRECT, iptables, IPv4.\n\n\
        Paths are in the notation of the README. nftables' chains stand here as iptables spells them (`istio-output` is\n\
        `ISTIO_OUTPUT`); ways that then have the same path stand together. In nftables' one table for both families a rule that\n\
        names an address stands twice where there is IPv6, IPv4's first, so the rules behind it have higher numbers: there #2, #4,\n\
        #5, #6, #10 and #13 are what #1, #2, #3, #4, #7 and #9 are elsewhere.\n\n\
        ## The rules of ISTIO_OUTPUT, in the order in which they decide\n\n",
    );
    let heads: Vec<&str> = types
        .iter()
        .map(|one| one.title.split_once(':').unwrap().0)
        .collect();
    writeln!(text, "| | {} |", heads.join(" | ")).unwrap();
    writeln!(text, "| --- |{}", " --- |".repeat(heads.len())).unwrap();
    let articles: Vec<String> = types.iter().map(|one| output_rules(&one.article)).collect();
    writeln!(text, "| the article | {} |", articles.join(" | ")).unwrap();
    for way in ways {
        let numbers: Vec<String> = way
            .paths
            .iter()
            .map(|legs| output_rules(&legs.join("; ")))
            .collect();
        writeln!(text, "| {} | {} |", way.name, numbers.join(" | ")).unwrap();
    }
    for (number, one) in types.iter().enumerate() {
        write!(
            text,
            "\n## {}\n\nThe article:\n\n```text\n{}\n```\n",
            one.title, one.article
        )
        .unwrap();
        let mut groups: Vec<(&[String], Vec<&str>)> = Vec::new();
        for way in ways {
            let path = way.paths[number].as_slice();
            match groups.iter_mut().find(|(known, _)| *known == path) {
                Some((_, names)) => names.push(&way.name),
                None => groups.push((path, vec![&way.name])),
            }
        }
        for (path, names) in groups {
            write!(
                text,
                "\n{}:\n\n```text\n{}\n```\n",
                names.join("; "),
                path.join("\n")
            )
            .unwrap();
        }
    }
    text
}

/// `docs/six-types.md` says what was just seen with either data plane, or is written if `BLESS` is set.
#[test]
fn the_page_says_what_the_kernel_reports() {
    let made = ["--proxy=builtin", "--proxy=envoy"].map(|proxy| {
        let document = Lab::shipped("interception/six-types.yaml")
            .arg(proxy)
            .status(0)
            .json();
        let (types, ways) = seen(&document);
        assert_eq!(types.len(), 6);
        assert_eq!(ways.len(), 8);
        assert!(ways.iter().all(|way| way.paths.len() == 6));
        assert!(types.iter().all(|one| !one.article.is_empty()));
        page(&types, &ways)
    });
    assert!(made[0] == made[1], "{}\n--- with Envoy:\n{}", made[0], made[1]);
    let path = root().join("docs/six-types.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &made[0]).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made[0],
        "docs/six-types.md is not what was just seen: run ./x six-types"
    );
}
