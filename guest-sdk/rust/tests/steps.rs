//! What functions declare by their types, and what happens when the host calls them. Never needs a
//! host.

use std::time::{Duration, SystemTime};

use docket_guest::{
    Config, Failure, FromConfig, IntoStep, Invocation, Labeled, Many, Module, Retry, Scope, Step, StepResult,
    label,
    prost::{Message, Name},
    step, wire,
};

#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "docket_guest::prost")]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

impl Name for Text {
    const NAME: &'static str = "Text";
    const PACKAGE: &'static str = "test.v1";
}

#[derive(Clone, PartialEq, Message)]
#[prost(prost_path = "docket_guest::prost")]
struct Count {
    #[prost(uint32, tag = "1")]
    count: u32,
}

impl Name for Count {
    const NAME: &'static str = "Count";
    const PACKAGE: &'static str = "test.v1";
}

label!(Raw = "raw");
label!(Clean = "clean");

fn nothing() -> StepResult<Text> {
    Ok(text("from nothing"))
}

fn count_letters(text: Text) -> StepResult<Count> {
    Ok(Count { count: u32::try_from(text.text.len())? })
}

fn clean(text: Labeled<Raw, Text>) -> StepResult<Labeled<Clean, Text>> {
    Ok(Labeled::new(Text { text: text.into_inner().text.trim().to_owned() }))
}

fn split(text: Text) -> StepResult<Many<Text>> {
    Ok(text.text.split(' ').map(self::text).collect())
}

fn join(words: Labeled<Clean, Many<Text>>, separator: Text) -> StepResult<Text> {
    let words: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
    Ok(text(words.join(&separator.text)))
}

fn tell(first: Text, call: Invocation, second: Count) -> StepResult<Text> {
    let Invocation { step, execution_id, attempt, idempotency_key, started_at } = call;
    let since = started_at.duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    let Text { text } = first;
    Ok(self::text(format!(
        "{text} {} {step} {execution_id} {attempt} {idempotency_key} {since}",
        second.count
    )))
}

fn decline(_: Text) -> StepResult<Text> {
    Err(Failure::permanent("no money").code("card_declined"))
}

#[expect(clippy::too_many_arguments, reason = "as many as a step may take")]
fn r#all(
    a: Text,
    b: Text,
    c: Text,
    d: Text,
    e: Text,
    f: Text,
    g: Text,
    h: Text,
    i: Text,
    j: Text,
    k: Text,
    l: Text,
) -> StepResult<Text> {
    Ok(text([a, b, c, d, e, f, g, h, i, j, k, l].map(|part| part.text).concat()))
}

/// Measures text in a unit that the operator sets.
struct Ruler {
    unit: u32,
}

impl FromConfig for Ruler {
    fn from_config(config: &Config) -> StepResult<Self> {
        Ok(Self { unit: config.parse("unit")?.unwrap_or(1) })
    }
}

impl Ruler {
    fn measure(&self, text: Text) -> StepResult<Count> {
        Ok(Count { count: u32::try_from(text.text.len())? / self.unit })
    }

    fn zero(&self) -> StepResult<Count> {
        Ok(Count { count: 0 })
    }
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

fn one(message: &impl Message) -> wire::Value {
    wire::Value::One(message.encode_to_vec())
}

fn many(words: &[&str]) -> wire::Value {
    wire::Value::Many(words.iter().map(|word| text(*word).encode_to_vec()).collect())
}

fn declaration(step: Step) -> wire::Declaration {
    Module::new(b"", vec![step]).describe().steps.remove(0)
}

/// `name(inputs) -> output`, ports written as `Message`, `Message#label`, `[Message]`.
fn signature(step: Step) -> String {
    let port = |port: &wire::Port| {
        let message = port.message.strip_prefix("test.v1.").expect("each message here is of `test.v1`");
        let label = port.label.as_deref().map(|label| format!("#{label}")).unwrap_or_default();
        match port.arity {
            wire::Arity::One => format!("{message}{label}"),
            wire::Arity::Many => format!("[{message}{label}]"),
        }
    };
    let declaration = declaration(step);
    let inputs: Vec<_> = declaration.inputs.iter().map(port).collect();
    format!("{}({}) -> {}", declaration.name, inputs.join(", "), port(&declaration.output))
}

fn run(step: Step, inputs: Vec<wire::Value>) -> Result<wire::Value, wire::Failure> {
    let step = step.name("Step");
    let call = wire::Invocation {
        step: "Step".into(),
        execution_id: "e-1".into(),
        attempt: 2,
        idempotency_key: "key".into(),
        started_at_ms: 1500,
    };
    Module::new(b"", vec![step]).run(call, inputs)
}

fn check_run<M, S: IntoStep<M>>(function: S, inputs: Vec<wire::Value>, expected: wire::Value) {
    match (run(step(function), inputs).expect("the step succeeds"), expected) {
        (wire::Value::One(given), wire::Value::One(expected)) => assert_eq!(given, expected),
        (wire::Value::Many(given), wire::Value::Many(expected)) => assert_eq!(given, expected),
        (given, expected) => panic!("{given:?} is not {expected:?}"),
    }
}

fn check_refusal<M, S: IntoStep<M>>(function: S, inputs: Vec<wire::Value>, expected: &str) {
    let failure = run(step(function), inputs).expect_err("the step fails");
    assert_eq!(failure.kind, wire::FailureKind::Permanent);
    assert_eq!(failure.code.as_deref(), Some("invalid_input"));
    assert_eq!(failure.message, expected);
}

#[test]
fn a_functions_types_are_its_ports() {
    assert_eq!(signature(step(nothing)), "Nothing() -> Text");
    assert_eq!(signature(step(count_letters)), "CountLetters(Text) -> Count");
    assert_eq!(signature(step(clean)), "Clean(Text#raw) -> Text#clean");
    assert_eq!(signature(step(split)), "Split(Text) -> [Text]");
    assert_eq!(signature(step(join)), "Join([Text#clean], Text) -> Text");
    assert_eq!(signature(step(r#all)), format!("All({}) -> Text", ["Text"; 12].join(", ")));
}

#[test]
fn the_invocation_is_no_input() {
    assert_eq!(signature(step(tell)), "Tell(Text, Count) -> Text");
    let told = text("a 3 Step e-1 2 key 1500");
    check_run(tell, vec![one(&text("a")), one(&Count { count: 3 })], one(&told));
}

#[test]
fn a_method_is_named_by_its_type_and_made_from_configuration() {
    assert_eq!(signature(step(Ruler::measure)), "Ruler(Text) -> Count");
    assert_eq!(signature(step(Ruler::zero).name("Zero")), "Zero() -> Count");
    check_run(Ruler::measure, vec![one(&text("four"))], one(&Count { count: 4 }));
    let ruler = Ruler::from_config(&Config::given([("unit", "2")])).expect("the unit is a number");
    assert_eq!(ruler.measure(text("four")), Ok(Count { count: 2 }));
}

#[test]
fn a_closure_is_named_by_hand() {
    let upper = |text: Text| Ok(self::text(text.text.to_uppercase()));
    assert_eq!(declaration(step(upper)).name, "");
    assert_eq!(signature(step(upper).name("Upper")), "Upper(Text) -> Text");
}

#[test]
fn wishes_are_declared() {
    let wished = step(nothing)
        .version("7")
        .timeout(Duration::from_secs(5))
        .retry(Retry::fixed(3, Duration::from_millis(10)))
        .keep_for(Scope::Global, Duration::from_secs(60))
        .max_concurrency(2);
    let wire::Declaration { version, policy, .. } = declaration(wished);
    assert_eq!(version.as_deref(), Some("7"));
    assert_eq!((policy.timeout_ms, policy.max_concurrency), (Some(5000), Some(2)));
    assert_eq!(policy.retry.map(|retry| retry.max_attempts), Some(3));
    let kept = policy.persistence.expect("the step is kept");
    assert_eq!((kept.scope, kept.ttl_ms), (wire::Scope::Global, Some(60_000)));
    let kept = declaration(step(nothing).keep(Scope::Workflow)).policy.persistence.expect("the step is kept");
    assert_eq!((kept.scope, kept.ttl_ms), (wire::Scope::Workflow, None));
}

#[test]
fn without_wishes_nothing_is_declared() {
    let wire::Declaration { version, policy, .. } = declaration(step(nothing));
    assert_eq!(version, None);
    assert!(policy.timeout_ms.is_none() && policy.retry.is_none());
    assert!(policy.persistence.is_none() && policy.max_concurrency.is_none());
}

#[test]
fn values_come_and_go_through_every_kind_of_port() {
    check_run(nothing, vec![], one(&text("from nothing")));
    check_run(clean, vec![one(&text(" a "))], one(&text("a")));
    check_run(split, vec![one(&text("a b"))], many(&["a", "b"]));
    check_run(join, vec![many(&["a", "b"]), one(&text("-"))], one(&text("a-b")));
    check_run(join, vec![many(&[]), one(&text("-"))], one(&text("")));
    let letters =
        "abcdefghijkl".split("").filter(|letter| !letter.is_empty()).map(|letter| one(&text(letter)));
    check_run(r#all, letters.collect(), one(&text("abcdefghijkl")));
}

#[test]
fn inputs_that_do_not_fit_the_declaration_are_refused() {
    check_refusal(
        count_letters,
        vec![wire::Value::One(vec![0x0a, 0xff])],
        "an input is not a valid `test.v1.Text`: Text.text: invalid varint",
    );
    check_refusal(
        count_letters,
        vec![many(&["a"])],
        "input `test.v1.Text` takes one message and was given a list",
    );
    let input = one(&text("a"));
    check_refusal(
        join,
        vec![input.clone(), input.clone()],
        "input `test.v1.Text` takes a list and was given one message",
    );
    check_refusal(count_letters, vec![], "step `Step` was given 0 inputs, fewer than it declares");
    check_refusal(nothing, vec![input], "step `Step` was given 1 inputs, more than it declares");
}

#[test]
fn a_failure_reaches_the_host_as_it_is() {
    let failure = run(step(decline), vec![one(&text("a"))]).expect_err("the card is declined");
    assert_eq!(failure.kind, wire::FailureKind::Permanent);
    assert_eq!((failure.code.as_deref(), failure.message.as_str()), (Some("card_declined"), "no money"));
}

#[test]
fn a_step_that_is_not_there_is_named() {
    let call = wire::Invocation {
        step: "Nobody".into(),
        execution_id: String::new(),
        attempt: 1,
        idempotency_key: String::new(),
        started_at_ms: 0,
    };
    let failure = Module::new(b"", vec![step(nothing)]).run(call, vec![]).expect_err("there is no such step");
    assert_eq!(
        (failure.code.as_deref(), failure.message.as_str()),
        (Some("unknown_step"), "this module has no step `Nobody`")
    );
}
