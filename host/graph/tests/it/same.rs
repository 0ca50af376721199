//! Compares two decoded messages as a reader would, also for the fuzz targets.

use docket_graph::prost_reflect::{DynamicMessage, Value};

/// Whether two messages are the same to a reader. Each NaN is like itself.
pub(crate) fn same(a: &DynamicMessage, b: &DynamicMessage) -> bool {
    let fields =
        |message: &DynamicMessage| message.fields().map(|(field, _)| field.number()).collect::<Vec<_>>();
    let extensions = |message: &DynamicMessage| {
        message.extensions().map(|(field, value)| (field.number(), value.clone())).collect()
    };
    let (in_a, in_b): (Vec<_>, Vec<_>) = (extensions(a), extensions(b));
    let equal = |a: &Value, b: &Value| same_value(a, b);
    fields(a) == fields(b)
        && a.fields().zip(b.fields()).all(|((_, a), (_, b))| equal(a, b))
        && in_a.len() == in_b.len()
        && in_a.iter().zip(&in_b).all(|((n, a), (m, b))| n == m && equal(a, b))
        && a.unknown_fields().eq(b.unknown_fields())
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
        (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Value::Message(a), Value::Message(b)) => same(a, b),
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            let found = |(key, a)| b.get(key).is_some_and(|b| same_value(a, b));
            a.len() == b.len() && a.iter().all(found)
        }
        (a, b) => a == b,
    }
}
