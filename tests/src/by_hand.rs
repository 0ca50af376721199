//! Owns components written by hand: a step `Hand` around core WebAssembly, with the whole interface in the text
//! form. For what no compiler would make. Never asserts anything.

use std::fmt::Write as _;

/// The parts of a component that its maker chooses; all of them text, and empty by default.
#[derive(Default)]
pub struct Hand<'a> {
    /// What `run` does; it must leave the address of a result. `(call $answer)` gives an empty message.
    pub run: &'a str,
    /// Functions, memories and all else of the core module.
    pub core: &'a str,
    /// What stands in the component before the core module.
    pub beside: &'a str,
}

/// The descriptors of one empty message, `a.T`.
const DESCRIPTORS: &[u8] = b"\x0a\x19\x0a\x07a.proto\x12\x01a\x22\x03\x0a\x01T\x62\x06proto3";

/// The types of `wit/step.wit`, each by its name.
const TYPES: [(&str, &str); 14] = [
    ("arity", r#"(enum "one" "many")"#),
    ("port", r#"(record (field "message" string) (field "label" (option string)) (field "arity" $arity))"#),
    ("scope", r#"(enum "workflow" "global")"#),
    ("persistence", r#"(record (field "scope" $scope) (field "ttl-ms" (option u64)))"#),
    ("growth", r#"(enum "fixed" "linear" "exponential")"#),
    (
        "backoff",
        r#"(record (field "growth" $growth) (field "initial-ms" u64) (field "factor" f64)
           (field "max-ms" (option u64)))"#,
    ),
    (
        "retry",
        r#"(record (field "max-attempts" u32) (field "backoff" (option $backoff)) (field "jitter" bool))"#,
    ),
    (
        "policy",
        r#"(record (field "timeout-ms" (option u64)) (field "retry" (option $retry))
           (field "persistence" (option $persistence)) (field "max-concurrency" (option u32)))"#,
    ),
    (
        "declaration",
        r#"(record (field "name" string) (field "version" (option string)) (field "inputs" (list $port))
           (field "output" $port) (field "policy" $policy))"#,
    ),
    ("module", r#"(record (field "steps" (list $declaration)) (field "descriptors" (list u8)))"#),
    (
        "invocation",
        r#"(record (field "step" string) (field "execution-id" string) (field "attempt" u32)
           (field "idempotency-key" string) (field "started-at-ms" u64))"#,
    ),
    ("value", r#"(variant (case "one" (list u8)) (case "many" (list (list u8))))"#),
    ("failure-kind", r#"(enum "retryable" "permanent" "abort")"#),
    (
        "failure",
        r#"(record (field "kind" $failure-kind) (field "code" (option string)) (field "message" string)
           (field "retry-after-ms" (option u64)))"#,
    ),
];

impl Hand<'_> {
    /// Returns the component's text: the step `Hand`, which takes nothing and gives an `a.T`.
    pub fn text(&self) -> String {
        let Self { run, core, beside } = self;
        let mut types = String::new();
        for (name, ty) in TYPES {
            let _ = write!(types, "(type ${name}' {ty}) (export ${name} \"{name}\" (type ${name}'))");
        }
        // The answer of `describe`: a list of one declaration, of 184 bytes at 16, and the descriptors.
        let mut answer = [0; 200];
        let mut put = |at: usize, number: u32| answer[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let descriptors = u32::try_from(DESCRIPTORS.len()).expect("it is short");
        for (at, number) in [(0, 16), (4, 1), (8, 1024), (12, descriptors)] {
            put(at, number);
        }
        for (at, number) in [(16, 512), (20, 4), (44, 528), (48, 3)] {
            put(at, number);
        }
        let [answer, descriptors] = [&answer[..], DESCRIPTORS].map(escaped);
        format!(
            r#"(component (component $c {types} {beside}
                (core module $m
                    (memory (export "memory") 4)
                    (data (i32.const 0) "{answer}") (data (i32.const 512) "Hand") (data (i32.const 528) "a.T")
                    (data (i32.const 1024) "{descriptors}")
                    (global $top (mut i32) (i32.const 65536))
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $place i32)
                        (local.set $place (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                        (global.set $top (i32.add (local.get $place) (local.get 3)))
                        (local.get $place))
                    (func (export "describe") (result i32) (i32.const 0))
                    (func $answer (result i32) (i32.const 256))
                    {core}
                    (func (export "run") (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32) {run}))
                (core instance $i (instantiate $m))
                (alias core export $i "memory" (core memory $memory))
                (alias core export $i "realloc" (core func $realloc))
                (func $describe (result $module)
                    (canon lift (core func $i "describe") (memory $memory) (realloc $realloc)))
                (func $run (param "call" $invocation) (param "inputs" (list $value))
                    (result (result $value (error $failure)))
                    (canon lift (core func $i "run") (memory $memory) (realloc $realloc)))
                (export "describe" (func $describe)) (export "run" (func $run)))
            (instance $it (instantiate $c))
            (export "docket:step/step@0.1.0" (instance $it)))"#
        )
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}
