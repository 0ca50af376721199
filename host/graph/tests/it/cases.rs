//! Runs every folder below `tests/cases`: `graph.txt` says what is asked, `expected.txt` what is answered.
//! With `DOCKET_BLESS=1` the answers are written instead of compared.
//!
//! A line of `graph.txt` is `module NAME PROTO`, `step NAME: IN, IN[] -> OUT` in the module above it, `tree`, or
//! `plan TARGET <- GIVEN, GIVEN`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use docket_graph::{Graph, Plan, RawModule, Source, tree};

use crate::support::{descriptors, port, raw_step};

#[test]
fn each_case_answers_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases.retain(|case| case.is_dir());
    assert!(cases.len() >= 12);
    #[expect(clippy::disallowed_methods, reason = "a test's own switch")]
    let bless = std::env::var("DOCKET_BLESS").is_ok();
    let different: Vec<String> = cases.iter().filter_map(|case| check(case, bless)).collect();
    assert!(different.is_empty(), "{}\nDOCKET_BLESS=1 accepts all of them", different.join("\n"));
}

/// Returns both texts where they differ.
fn check(case: &Path, bless: bool) -> Option<String> {
    let asked = fs::read_to_string(case.join("graph.txt")).unwrap();
    let answer = answer(&asked);
    let file = case.join("expected.txt");
    if bless {
        fs::write(&file, &answer).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    (answer != expected)
        .then(|| format!("{}\n--- expected\n{expected}--- answered\n{answer}", case.display()))
}

fn answer(asked: &str) -> String {
    let mut modules: Vec<(String, RawModule)> = Vec::new();
    let mut questions = Vec::new();
    for line in asked.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("module", rest) => {
                let (name, proto) = rest.split_once(' ').unwrap();
                let module =
                    RawModule { steps: Vec::new(), descriptors: descriptors(&format!("proto/{proto}")) };
                modules.push((name.to_owned(), module));
            }
            ("step", rest) => {
                let (name, signature) = rest.split_once(": ").unwrap();
                modules.last_mut().unwrap().1.steps.push(raw_step(name, signature));
            }
            question => questions.push(question),
        }
    }
    let graph = match Graph::read(modules.iter().map(|(name, raw)| (name.as_str(), raw))) {
        Ok(graph) => graph,
        Err(errors) => return format!("{errors}\n"),
    };
    let mut text = String::new();
    for (question, rest) in questions {
        match question {
            "tree" => text.push_str(&tree(&graph)),
            "plan" => plan(&graph, rest, &mut text),
            _ => panic!("what is `{question}`?"),
        }
    }
    text
}

fn plan(graph: &Graph, asked: &str, text: &mut String) {
    writeln!(text, "plan {asked}").unwrap();
    let (target, given) = asked.split_once("<-").unwrap_or((asked, ""));
    let given: Vec<_> = given.split(',').map(str::trim).filter(|text| !text.is_empty()).map(port).collect();
    let plan = match Plan::of(graph, &port(target.trim()), &given) {
        Ok(plan) => plan,
        Err(errors) => return writeln!(text, "{errors}").unwrap(),
    };
    let show = |source: &Source| match source {
        Source::Given(i) => format!("given {}", given[*i]),
        Source::Node(node) => graph.step(plan.step(*node)).name.to_string(),
    };
    for (node, step) in plan.nodes() {
        let inputs: Vec<String> = plan.inputs(node).iter().map(show).collect();
        let name = &graph.step(step).name;
        writeln!(text, "  {} {name} <- {}", plan.depth(node), inputs.join(", ")).unwrap();
    }
    writeln!(text, "  = {}", show(&plan.target_source())).unwrap();
}
