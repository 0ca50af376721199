//! Descriptors and graphs that mean harm, on a stack smaller than any thread of a host has: each is read or refused by
//! name, in bounded time. A stack that overflows ends this program; the name of the thread is then that of the case.

use std::time::{Duration, Instant};

use docket_graph::prost_reflect::prost::Message;
use docket_graph::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use docket_graph::prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, descriptor_proto::ExtensionRange,
};
use docket_graph::prost_reflect::{DynamicMessage, MapKey, Value};
use docket_graph::{Arity, Fault, Format, Graph, Plan, RawModule, RawPort, RawStep, render};

use crate::support::{numbered, pool, port, raw_module, raw_step};

/// Those of tokio have eight times as much.
const STACK: usize = 256 << 10;

/// Longer than any of these may take, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs on a small stack.
#[expect(clippy::disallowed_methods, reason = "a test's own patience")]
fn on_a_small_stack<T: Send + 'static>(case: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let began = Instant::now();
    let thread = std::thread::Builder::new().name(case.to_owned()).stack_size(STACK).spawn(work).unwrap();
    let done = thread.join().unwrap_or_else(|_| panic!("{case}"));
    assert!(began.elapsed() < PATIENCE, "{case}: {:?}", began.elapsed());
    done
}

/// Does with a graph whatever can be done with one.
fn use_up(graph: &Graph) {
    for format in [Format::Tree, Format::Json, Format::Dot, Format::Mermaid, Format::Svg] {
        assert!(!render(graph, format).is_empty());
    }
    let leaves: Vec<_> = graph.leaves().iter().map(|leaf| graph.port(*leaf).clone()).collect();
    for output in graph.outputs() {
        Plan::of(graph, graph.port(*output), &leaves).map(drop).unwrap_or_else(|errors| panic!("{errors}"));
    }
    for (id, _) in graph.ports() {
        assert_eq!(graph.schema(id).check(&[]), Ok(()));
    }
}

/// Reads a module with these descriptors and a step that gives this message, and uses what comes of it.
fn read(case: &str, descriptors: Vec<u8>, message: &str) -> Vec<Fault> {
    let raw = RawModule { steps: vec![raw_step("S", &format!("-> {message}"))], descriptors };
    on_a_small_stack(case, move || match Graph::read([("m", &raw)]) {
        Ok(graph) => {
            use_up(&graph);
            Vec::new()
        }
        Err(errors) => errors.into_faults(),
    })
}

fn refused(case: &str, descriptors: Vec<u8>, words: &str) {
    let faults = read(case, descriptors, "t.M");
    let said: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].contains(words) && said[0].len() < 500, "{case}: {said:.500?}");
}

fn set(file: Vec<FileDescriptorProto>) -> Vec<u8> {
    FileDescriptorSet { file }.encode_to_vec()
}

/// A file of package `t` that imports these others by their numbers, the first of them publicly.
fn file(name: usize, imports: &[usize], public: usize, message: Vec<DescriptorProto>) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(format!("{name}.proto")),
        package: Some("t".into()),
        dependency: imports.iter().map(|import| format!("{import}.proto")).collect(),
        public_dependency: (0..).take(public).collect(),
        message_type: message,
        ..Default::default()
    }
}

/// A file with the message that every case asks for.
fn known() -> FileDescriptorProto {
    file(999, &[], 0, vec![message("M", vec![field(1, "")])])
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.into()), field, ..Default::default() }
}

fn field(number: i32, of: &str) -> FieldDescriptorProto {
    let (ty, type_name) = match of {
        "" => (Type::Int32, None),
        _ => (Type::Message, Some(of.to_owned())),
    };
    FieldDescriptorProto {
        name: Some(format!("f{number}")),
        number: Some(number),
        r#type: Some(ty.into()),
        type_name,
        ..Default::default()
    }
}

#[test]
fn files_that_import_each_other_publicly_are_read() {
    let itself = file(0, &[0], 1, vec![message("M", vec![])]);
    assert_eq!(read("itself", set(vec![itself]), "t.M"), []);
    let ring = (0..5).map(|i| file(i, &[(i + 1) % 5], 1, vec![message(&format!("M{i}"), vec![])]));
    assert_eq!(read("ring", set(ring.collect()), "t.M3"), []);
    // On as many ways from the first to the last as there are Fibonacci numbers.
    let mut ways: Vec<_> = (0..80).map(|i| file(i, &[i + 1, i + 2], 2, vec![])).collect();
    ways.extend([file(80, &[], 0, vec![]), file(81, &[], 0, vec![])]);
    let all: Vec<usize> = (0..82).rev().collect();
    ways.push(file(82, &all, 82, vec![message("M", vec![])]));
    assert_eq!(read("many ways", set(ways), "t.M"), []);
}

#[test]
fn a_message_is_found_through_any_number_of_public_imports_and_through_no_other() {
    let user = |of: &str| message("M", vec![field(1, of)]);
    let files = |public| {
        set(vec![
            file(0, &[1], 0, vec![user(".t.Far")]),
            file(1, &[2], 1, vec![]),
            file(2, &[3], 1, vec![]),
            file(3, &[4], public, vec![]),
            file(4, &[], 0, vec![message("Far", vec![])]),
        ])
    };
    assert_eq!(read("public", files(1), "t.M"), []);
    refused("private", files(0), "name 't.Far' is not defined");
    let mut wrong = file(0, &[], 0, vec![user("")]);
    wrong.public_dependency = vec![0, 7];
    refused("no import", set(vec![wrong]), "invalid import index");
}

#[test]
fn descriptors_that_would_be_giants_once_they_are_read_are_refused() {
    let named = |name: String, package: String, message_type: Vec<DescriptorProto>| {
        let file = FileDescriptorProto {
            name: Some(name),
            package: Some(package),
            message_type,
            ..Default::default()
        };
        set(vec![file])
    };
    let names = "has descriptors with more than 33554432 bytes of names";
    refused("packages", named("a".into(), vec!["a"; 200_000].join("."), vec![]), names);
    let inner = vec![message("I", vec![]); 10_000];
    let outer = DescriptorProto { nested_type: inner.clone(), ..message(&"M".repeat(1 << 20), vec![]) };
    refused("a long name around", named("a".into(), "t".into(), vec![outer]), names);
    refused("a long name of a file", named("a".repeat(1 << 20), "t".into(), inner), names);
    let relative = message("M", (1..20_000).map(|i| field(i, "x.y")).collect());
    refused("relative names", named("a".into(), vec!["a"; 100].join("."), vec![relative]), names);
    let imports =
        FileDescriptorProto { dependency: vec!["x".repeat(1_000); 200_000], ..file(0, &[], 0, vec![]) };
    refused("imports", set(vec![imports]), names);
    // 16 MiB of messages without a name.
    let empty = [b"\x0a\x80\x80\x80\x08".to_vec(), b"\x22\x00".repeat(8 << 20)].concat();
    refused("definitions", empty, "has descriptors with more than 262144 definitions");
    let chain = (0..2_000).map(|i| file(i, &[i + 1], 1, vec![])).chain([file(2_000, &[], 0, vec![])]);
    refused("a chain of imports", set(chain.collect()), "has descriptors with more than 1048576 imports");
    // Few imports, until each file has those that it reaches as its own: 20,000 of them, of 1,000 bytes and in a file of
    // as many.
    let long = |i: usize| format!("{i:0>1000}");
    let link = |i: usize| FileDescriptorProto {
        name: Some(long(i)),
        dependency: (i < 200).then(|| long(i + 1)).into_iter().collect(),
        public_dependency: (i < 200).then_some(0).into_iter().collect(),
        ..file(i, &[], 0, vec![])
    };
    refused("long names in a chain", set((0..=200).map(link).collect()), names);
    assert_eq!(read("a part of it", set((100..=200).map(link).chain([known()]).collect()), "t.M"), []);
}

#[test]
fn descriptors_that_compare_everything_with_everything_are_refused() {
    let comparisons = "has descriptors with more than 67108864 comparisons";
    let value =
        |i: i32| EnumValueDescriptorProto { name: Some(format!("V{i}")), number: Some(-i), options: None };
    let values = |number| EnumDescriptorProto {
        name: Some("E".into()),
        value: (0..number).map(value).collect(),
        ..Default::default()
    };
    let with = |fields: Vec<FieldDescriptorProto>, enum_type: Vec<EnumDescriptorProto>| {
        let files = file(0, &[], 0, vec![message("M", fields)]);
        set(vec![FileDescriptorProto { enum_type, ..files }])
    };
    refused("values", with(vec![], vec![values(100_000)]), comparisons);
    let range = |i| ExtensionRange { start: Some(100_000 + i), end: Some(100_001 + i), options: None };
    let fields = (1..=18_000).map(|i| field(i, "")).collect();
    let ranges =
        DescriptorProto { extension_range: (0..18_000).map(range).collect(), ..message("M", fields) };
    refused("ranges", set(vec![file(0, &[], 0, vec![ranges.clone()])]), comparisons);
    let extension = |i| FieldDescriptorProto { extendee: Some(".t.M".into()), ..field(100_000 + i, "") };
    let extensions = FileDescriptorProto {
        extension: (0..18_000).map(extension).collect(),
        ..file(0, &[], 0, vec![DescriptorProto { field: vec![], ..ranges }])
    };
    refused("extensions", set(vec![extensions]), comparisons);
}

#[test]
fn messages_are_read_as_deep_as_decoders_go_and_in_chains_of_any_length() {
    let nested = |depth: usize| {
        let name = |i| format!("N{i}");
        let innermost = message(&name(depth), vec![field(1, ".t.M")]);
        let around = |inner, i| DescriptorProto { nested_type: vec![inner], ..message(&name(i), vec![]) };
        let outer = (1..depth).rev().fold(innermost, around);
        set(vec![file(0, &[], 0, vec![DescriptorProto { nested_type: vec![outer], ..message("M", vec![]) }])])
    };
    assert_eq!(read("nested", nested(97), "t.M"), []);
    for depth in [98, 5_000] {
        refused("nested too deeply", nested(depth), "it is nested deeper than 100 levels at byte");
    }
    let next = |i: usize| message(&format!("M{i}"), vec![field(1, &format!(".t.M{}", (i + 1) % 100_000))]);
    let chain = set(vec![file(0, &[], 0, (0..100_000).map(next).collect())]);
    assert_eq!(read("a chain", chain, "t.M0"), []);
}

#[test]
fn what_says_nothing_of_a_message_type_is_not_looked_at() {
    let lengthy = |tag: u8, content: Vec<u8>| {
        let digit = |i: usize| (content.len() >> (7 * i) & 0x7f) as u8 | if i < 3 { 0x80 } else { 0 };
        [vec![tag], (0..4).map(digit).collect(), content].concat()
    };
    let known = set(vec![file(0, &[], 0, vec![message("M", vec![field(1, "")])])]);
    let times = 2 << 20;
    // Of one more file: services, comments, options that are not known, and numbers that are kept free.
    for (case, part) in [
        ("services", b"\x32\x00".repeat(times)),
        ("comments", lengthy(0x4a, b"\x0a\x00".repeat(times))),
        ("options", lengthy(0x42, b"\xba\x3e\x00".repeat(times))),
        ("reserved", lengthy(0x22, [&b"\x0a\x01R"[..], &b"\x4a\x00".repeat(times)].concat())),
    ] {
        let other = lengthy(0x0a, [&b"\x0a\x01x"[..], &part].concat());
        assert_eq!(read(case, [&known[..], &other].concat(), "t.M"), []);
    }
    let editions = FileDescriptorProto { syntax: Some("editions".into()), ..file(0, &[], 0, vec![]) };
    refused("editions", set(vec![editions]), "file `0.proto` has the syntax `editions`");
}

#[test]
fn a_default_is_not_looked_at_whatever_it_says() {
    let of = |ty: Type, said: &str| FieldDescriptorProto {
        r#type: Some(ty.into()),
        default_value: Some(said.to_owned()),
        ..field(1, "")
    };
    // The first of them makes the library panic, with the module's own words on the terminal.
    for (ty, said) in [
        (Type::Bytes, "\\x1\u{e9}\u{1b}[2J"),
        (Type::Bytes, "\\777"),
        (Type::Bytes, "\\"),
        (Type::Int32, "many"),
        (Type::Int32, "7"),
    ] {
        let file = FileDescriptorProto {
            syntax: Some("proto3".into()),
            ..file(0, &[], 0, vec![message("M", vec![of(ty, said)])])
        };
        let raw = RawModule { steps: vec![raw_step("S", "-> t.M")], descriptors: set(vec![file]) };
        let graph = Graph::read([("m", &raw)]).unwrap_or_else(|errors| panic!("{said}: {errors}"));
        // What is not there is zero, to all who read it.
        let id = graph.find_port(&port("t.M")).unwrap();
        let mut decoded = DynamicMessage::decode(graph.message(id).clone(), &b""[..]).unwrap();
        let zero = if ty == Type::Int32 { Value::I32(0) } else { Value::Bytes(Default::default()) };
        assert_eq!(*decoded.get_field_by_number(1).unwrap(), zero, "{said}");
        if ty == Type::Int32 {
            decoded.set_field_by_number(1, Value::I32(7));
            assert_eq!(decoded.encode_to_vec(), b"\x08\x07", "{said}");
        }
    }
}

#[test]
fn a_message_that_only_says_that_it_is_an_entry_is_a_message() {
    let repeated = |field| FieldDescriptorProto { label: Some(Label::Repeated.into()), ..field };
    let entry = |fields| DescriptorProto {
        options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
        ..message("E", fields)
    };
    let mut seen = Vec::new();
    for fields in [
        vec![field(1, ""), field(2, "")],
        vec![],
        vec![field(1, "")],
        vec![field(2, "")],
        vec![field(1, ".t.M"), field(2, "")],
        vec![repeated(field(1, "")), field(2, "")],
        vec![field(1, ""), repeated(field(2, ""))],
    ] {
        let holder = message("M", vec![repeated(field(1, ".t.E"))]);
        let descriptors = set(vec![file(0, &[], 0, vec![holder, entry(fields)])]);
        let raw = RawModule { steps: vec![raw_step("S", "-> t.M")], descriptors };
        let graph = Graph::read([("m", &raw)]).unwrap();
        let id = graph.find_port(&port("t.M")).unwrap();
        // One entry, empty.
        let bytes = b"\x0a\x00";
        let decoded = DynamicMessage::decode(graph.message(id).clone(), &bytes[..]).unwrap();
        let value = decoded.get_field_by_number(1).unwrap();
        seen.push(value.as_map().is_some_and(|map| map.contains_key(&MapKey::I32(0))));
        assert!(graph.schema(id).canonical(bytes).is_ok());
        assert!(!decoded.encode_to_vec().is_empty());
    }
    assert_eq!(seen, [true, false, false, false, false, false, false]);
}

/// Steps over `t.Text`, each with the labels of what it takes and of what it gives.
fn labelled(steps: impl Iterator<Item = (Vec<String>, String)>) -> RawModule {
    let text = |label: String| RawPort { message: "t.Text".into(), label: Some(label), arity: Arity::One };
    let step = |(i, (inputs, output)): (usize, (Vec<String>, String))| RawStep {
        name: format!("S{i}"),
        version: None,
        inputs: inputs.into_iter().map(text).collect(),
        output: text(output),
        policy: Default::default(),
    };
    RawModule { steps: steps.enumerate().map(step).collect(), ..raw_module(&[]) }
}

#[test]
fn graphs_of_any_shape_are_inferred_drawn_and_planned() {
    let names = |range: std::ops::Range<usize>| range.map(|i| format!("i{i}")).collect::<Vec<_>>();
    let chain = labelled((0..10_000).map(|i| (vec![format!("v{i}")], format!("v{}", i + 1))));
    let wide = labelled([(names(0..200_000), "out".to_owned())].into_iter());
    let same = labelled([(vec!["in".to_owned(); 200_000], "out".to_owned())].into_iter());
    let fan = labelled(
        (0..10_000)
            .map(|i| (vec!["in".to_owned()], format!("v{i}")))
            .chain([((0..10_000).map(|i| format!("v{i}")).collect(), "out".to_owned())]),
    );
    let long = "x".repeat(100);
    let letters = labelled((0..300).map(|i| (vec![format!("{long}{i}")], format!("{long}{}", i + 1))));
    for (case, raw) in
        [("chain", chain), ("wide", wide), ("same", same), ("fan", fan), ("long labels", letters)]
    {
        on_a_small_stack(case, move || use_up(&Graph::read([("m", &raw)]).unwrap()));
    }
    // Lists in lists, and a step that takes one of each, again and again.
    let mut deep = labelled((0..3_000).map(|i| (vec![format!("v{i}")], format!("v{}", i + 1))).chain([(
        (0..300_000).map(|i| format!("v{}", if i % 2 == 0 { 3_000 } else { i % 3_000 })).collect(),
        "out".to_owned(),
    )]));
    deep.steps[..3_000].iter_mut().for_each(|step| step.output.arity = Arity::Many);
    on_a_small_stack("lists in lists", move || use_up(&Graph::read([("m", &deep)]).unwrap()));
    let ring = labelled((0..10_000).map(|i| (vec![format!("v{i}")], format!("v{}", (i + 1) % 10_000))));
    let faults = on_a_small_stack("ring", move || Graph::read([("m", &ring)]).unwrap_err().into_faults());
    assert!(matches!(&faults[..], [Fault::Cycle { .. }]), "{}", faults.len());
    on_a_small_stack("everything on everything", || {
        let nodes: Vec<Vec<usize>> = (0..700).map(|node| (0..node).collect()).collect();
        use_up(&numbered(&nodes, &pool()).unwrap());
    });
}
