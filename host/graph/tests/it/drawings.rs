//! Drawings are well formed, whatever steps are called, and the same each time.

use docket_graph::{Format, Graph, render};

use crate::support::{numbered, pool, raw_module};

const FORMATS: [Format; 5] = [Format::Tree, Format::Dot, Format::Mermaid, Format::Json, Format::Svg];

fn awkward() -> Graph {
    let raw = raw_module(&[
        ("say \"<hello>\" & 'bye' \\", "t.Text -> t.Text#<&\"'\\>"),
        ("graph-->end;", "t.Text#<&\"'\\>, t.Scalars -> t.Number"),
        ("many", "t.Text[] -> t.Number#n[]"),
    ]);
    Graph::read([("a & b.wasm", &raw)]).unwrap()
}

#[test]
fn labels_are_escaped_in_each_format() {
    let graph = awkward();
    let dot = render(&graph, Format::Dot);
    assert!(dot.contains(r#"[label="say \"<hello>\" & 'bye' \\", shape=box]"#), "{dot}");
    let mermaid = render(&graph, Format::Mermaid);
    assert!(mermaid.contains("say #34;#60;hello#62;#34; #38; #39;bye#39; #92;"), "{mermaid}");
    let labels = mermaid.replace("-->", "").replace(['\n', ' '], "");
    assert!(
        labels.split('"').skip(1).step_by(2).all(|label| !label.contains(['<', '>', '&', '|'])),
        "{mermaid}"
    );
    let svg = render(&graph, Format::Svg);
    assert!(svg.contains("say &quot;&lt;hello&gt;&quot; &amp; &apos;bye&apos; \\"), "{svg}");
    well_formed(&svg);
}

#[test]
fn the_same_graph_is_drawn_the_same_each_time() {
    for format in FORMATS {
        let first = render(&awkward(), format);
        assert!(first.ends_with('\n') && first.len() > 50, "{first}");
        for _ in 0..5 {
            assert_eq!(render(&awkward(), format), first);
        }
    }
}

#[test]
fn a_large_graph_is_drawn() {
    let nodes: Vec<Vec<usize>> =
        (0..150usize).map(|node| (1..4).filter_map(|d| node.checked_sub(d * d)).collect()).collect();
    let graph = numbered(&nodes, &pool()).unwrap();
    for format in FORMATS {
        let text = render(&graph, format);
        for (_, step) in graph.steps() {
            assert!(text.contains(step.name.as_str()), "{format:?} lacks {}", step.name);
        }
    }
    well_formed(&render(&graph, Format::Svg));
}

#[test]
fn a_graph_that_is_too_large_for_a_picture_is_said_to_be() {
    let nodes: Vec<Vec<usize>> =
        (0..10_000usize).map(|node| (1..4).filter_map(|d| node.checked_sub(d)).collect()).collect();
    let graph = numbered(&nodes, &pool()).unwrap();
    let svg = render(&graph, Format::Svg);
    assert!(svg.contains("10000 steps are too many for a picture; ask for another format"), "{svg}");
    well_formed(&svg);
    for format in [Format::Tree, Format::Dot, Format::Mermaid, Format::Json] {
        assert!(render(&graph, format).contains("s09999"));
    }
}

#[test]
fn a_tree_names_what_it_has_drawn_already() {
    let raw = raw_module(&[
        ("Clean", "t.Text -> t.Text#clean"),
        ("Left", "t.Text#clean -> t.Number#left"),
        ("Right", "t.Text#clean -> t.Number#right"),
        ("Join", "t.Number#left, t.Number#right, t.Text[] -> t.Number"),
    ]);
    let graph = Graph::read([("m", &raw)]).unwrap();
    let expected = "\
t.Number = Join
├── t.Number#left = Left
│   └── t.Text#clean = Clean
│       └── t.Text
├── t.Number#right = Right
│   └── t.Text#clean = Clean (see above)
└── t.Text (many)
";
    assert_eq!(render(&graph, Format::Tree), expected);
}

#[test]
fn each_format_says_which_steps_run_once_per_element() {
    let raw = raw_module(&[
        ("Split", "t.Text -> t.Text#word[]"),
        ("Length", "t.Text#word -> t.Number#length"),
        ("Sum", "t.Number#length[] -> t.Number"),
    ]);
    let graph = Graph::read([("m", &raw)]).unwrap();
    let expected = "\
t.Number = Sum
└── t.Number#length (many) = Length (once per element of t.Text#word)
    └── t.Text#word = Split
        └── t.Text
";
    assert_eq!(render(&graph, Format::Tree), expected);
    let dot = render(&graph, Format::Dot);
    assert!(dot.contains("[label=\"Length (once per element of Text#word)\", shape=box]"), "{dot}");
    assert!(dot.contains("[label=\"Text#word (each)\"]"), "{dot}");
    assert!(dot.contains("[label=\"Number#length (many)\"]"), "{dot}");
    let mermaid = render(&graph, Format::Mermaid);
    assert!(mermaid.contains("\"Length (once per element of Text#35;word)\""), "{mermaid}");
    assert!(render(&graph, Format::Svg).contains("Length (once per element of Text#word)"));
    let often: Vec<_> = docket_graph::json(&graph)["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["per_element_of"].clone())
        .collect();
    assert_eq!(often, [serde_json::json!("t.Text#word"), serde_json::Value::Null, serde_json::Value::Null]);
}

#[test]
fn a_graph_as_data_has_all_that_is_known_of_it() {
    let raw =
        raw_module(&[("Clean", "t.Text -> t.Text#clean"), ("Count", "t.Text#clean, t.Text -> t.Number")]);
    let graph = Graph::read([("m.wasm", &raw)]).unwrap();
    let expected = serde_json::json!({
        "modules": ["m.wasm"],
        "steps": [
            {
                "name": "Clean", "version": null, "module": "m.wasm",
                "inputs": [{"port": "t.Text", "arity": "one"}],
                "output": {"port": "t.Text#clean", "arity": "one"},
                "per_element_of": null,
                "policy": {"timeout_ms": null, "retry": null, "persistence": null, "max_concurrency": null},
            },
            {
                "name": "Count", "version": null, "module": "m.wasm",
                "inputs": [{"port": "t.Text#clean", "arity": "one"}, {"port": "t.Text", "arity": "one"}],
                "output": {"port": "t.Number", "arity": "one"},
                "per_element_of": null,
                "policy": {"timeout_ms": null, "retry": null, "persistence": null, "max_concurrency": null},
            },
        ],
        "ports": [
            {"port": "t.Number", "arity": "one", "producer": "Count", "from_host": false, "consumers": []},
            {"port": "t.Text", "arity": "one", "producer": null, "from_host": false, "consumers": ["Clean", "Count"]},
            {"port": "t.Text#clean", "arity": "one", "producer": "Clean", "from_host": false, "consumers": ["Count"]},
        ],
        "leaves": ["t.Text"],
        "outputs": ["t.Number"],
    });
    assert_eq!(docket_graph::json(&graph), expected);
}

#[test]
fn what_the_host_counts_is_drawn_as_its_own_and_is_no_leaf() {
    let raw = raw_module(&[("Mean", "t.Text[], docket.v1.Failed -> t.Number")]);
    let graph = Graph::read([("m.wasm", &raw)]).unwrap();
    let leaves: Vec<_> = graph.leaves().iter().map(|leaf| graph.port(*leaf).to_string()).collect();
    assert_eq!(leaves, ["t.Text"]);
    for format in FORMATS {
        let text = render(&graph, format);
        let said = match format {
            Format::Json => "\"from_host\": true",
            Format::Tree => "docket.v1.Failed (from the host)",
            Format::Dot | Format::Mermaid | Format::Svg => "Failed (from the host)",
        };
        assert!(text.contains(said), "{text}");
    }
}

/// Every tag is closed in order, attributes are quoted, and text has no bare `<` or `&`.
fn well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest =
        xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"no\"?>").unwrap().trim();
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        let references = ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"];
        assert!(
            text.match_indices('&').all(|(i, _)| references.iter().any(|r| text[i..].starts_with(r))),
            "{text}"
        );
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "<{tag}>");
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.trim_end().ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}
