//! Runs every folder below `tests/cases`: `graph.txt` says what is asked, `expected.txt` what is answered.
//! With `DOCKET_BLESS=1` the answers are written instead of compared.
//!
//! A line of `graph.txt` is `module NAME PROTO`, `step NAME: IN, IN[] -> OUT` in the module above it, `tree`, or
//! `plan TARGET <- GIVEN, GIVEN*`, where the star is the input that comes as items.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use docket_graph::{DimensionId, Graph, Input, Opener, Plan, RawModule, Source, Take, tree};

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
    let given: Vec<_> = given.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let items = given.iter().position(|text| text.ends_with('*'));
    let given: Vec<_> = given.iter().map(|text| port(text.trim_end_matches('*'))).collect();
    let target = port(target.trim());
    let plan = match items {
        Some(items) => Plan::of_items(graph, &target, &given, items),
        None => Plan::of(graph, &target, &given),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(errors) => return writeln!(text, "{errors}").unwrap(),
    };
    let name = |node| graph.step(plan.step(node)).name.to_string();
    let source = |source: &Source| match source {
        Source::Given(i) => format!("given {}", given[*i]),
        Source::Node(node) => name(*node),
        Source::Failed => "how many failed".to_owned(),
    };
    let dimension = |dimension| match plan.dimension(dimension).opener {
        Opener::Root => "once".to_owned(),
        Opener::Items(_) => "per item".to_owned(),
        Opener::Node(node) => format!("per element of {}", name(node)),
    };
    let show = |home: DimensionId, input: &Input| {
        let from =
            if input.dimension == home { String::new() } else { format!(" {}", dimension(input.dimension)) };
        match input.take {
            Take::Whole => format!("{}{from}", source(&input.source)),
            Take::Element => format!("an element of {}{from}", source(&input.source)),
            Take::Gathered => format!("all of {}{from}", source(&input.source)),
        }
    };
    for (node, step) in plan.nodes() {
        let home = plan.dimension_of(node);
        let inputs: Vec<String> = plan.inputs(node).iter().map(|input| show(home, input)).collect();
        let often = if home == DimensionId::ROOT { String::new() } else { format!(" {}", dimension(home)) };
        let stages = plan.dimension(home).stages;
        let stage =
            if stages > 1 { format!(" stage {} of {stages}", plan.stage(node) + 1) } else { String::new() };
        let name = &graph.step(step).name;
        writeln!(text, "  {} {name}{often}{stage} <- {}", plan.depth(node), inputs.join(", ")).unwrap();
    }
    let whose = match plan.result_dimension() {
        DimensionId::ROOT => "",
        _ => " for each item",
    };
    writeln!(text, "  = {}{whose}", source(&plan.target_source())).unwrap();
}
