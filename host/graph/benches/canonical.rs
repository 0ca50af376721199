//! What it costs to see that bytes are canonical, beside hashing them: both in one process and in turns, because
//! machines are shared and noisy, and only the ratio says something.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be set up measures nothing")]
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints and reads clocks")]

use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use docket_graph::Schema;
use docket_graph::prost_reflect::DescriptorPool;
use docket_graph::prost_reflect::prost::Message;
use sha2::{Digest, Sha256};

/// Rounds of each comparison. The fastest counts: everything that disturbs a round makes it longer.
const ROUNDS: usize = 25;

/// How long one side of a round takes.
const ROUND: Duration = Duration::from_millis(8);

/// What the canonical check may cost, in hashes of the same bytes.
const GOAL: f64 = 3.0;

fn main() {
    println!(
        "{:<28} {:>7} {:>10} {:>10} {:>10} {:>7} {:>11} {:>7}",
        "what", "bytes", "check", "canonical", "sha256", "ratio", "encode anew", "ratio"
    );
    let pool = pool();
    // Cargo hands over `--bench`; anything else chooses rows by a part of their name.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for (what, message, bytes) in shapes() {
        if only.as_ref().is_some_and(|only| !what.contains(only.as_str())) {
            continue;
        }
        let schema = Schema::of(&pool.get_message_by_name(message).unwrap());
        // The same message; its first tag takes a byte too many.
        let other = [&[bytes[0] | 0x80, 0], &bytes[1..]].concat();
        assert!(matches!(schema.canonical(&bytes), Ok(Cow::Borrowed(_))), "{what}");
        assert_eq!(*schema.canonical(&other).unwrap(), bytes, "{what}");
        let [check, canonical, hash, anew] = fastest([
            &|| drop(black_box(schema.check(black_box(&bytes)))),
            &|| drop(black_box(schema.canonical(black_box(&bytes)))),
            &|| _ = black_box(Sha256::digest(black_box(&bytes))),
            &|| drop(black_box(schema.canonical(black_box(&other)))),
        ]);
        let verdict = if canonical <= GOAL * hash { "" } else { "  over the goal" };
        println!(
            "{what:<28} {:>7} {check:>7.0} ns {canonical:>7.0} ns {hash:>7.0} ns {:>7.2} {anew:>8.0} ns {:>7.2}{verdict}",
            bytes.len(),
            canonical / hash,
            anew / hash,
        );
    }
}

/// Returns the nanoseconds of one call of each, in its fastest round.
fn fastest<const N: usize>(calls: [&dyn Fn(); N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (call, best) in calls.iter().zip(&mut best) {
            let start = Instant::now();
            let mut count = 0u32;
            while start.elapsed() < ROUND {
                // The clock is read once for many calls.
                (0..50).for_each(|_| call());
                count += 50;
            }
            *best = best.min(start.elapsed().as_nanos() as f64 / f64::from(count));
        }
    }
    best
}

/// Each with its message and a value of it.
fn shapes() -> [(&'static str, &'static str, Vec<u8>); 12] {
    let leaf = |i: u64| [number(1, i + 1), text(2, format!("name {i}").as_bytes())].concat();
    let list = |n, item: &dyn Fn(u64) -> Vec<u8>| (0..n).flat_map(item).collect::<Vec<u8>>();
    [
        ("flat", "c.Flat", flat()),
        ("nested", "c.Tree", (0..5).fold(text(3, &list(20, &|i| text(11, &leaf(i)))), tree)),
        ("repeated messages", "c.Lists", list(4_500, &|i| text(11, &leaf(i)))),
        ("repeated, two bytes inside", "c.Lists", list(10_000, &|i| text(11, &number(1, 1 + i % 100)))),
        ("packed, one byte each", "c.Lists", text(1, &list(65_536, &|i| varint(i % 100)))),
        ("packed, of any length", "c.Lists", text(1, &list(22_000, &|i| varint(1 << (i % 31))))),
        ("packed doubles", "c.Lists", text(4, &list(8_192, &|i| (i as f64).to_le_bytes().to_vec()))),
        ("map of 100, text to number", "c.Texts", list(100, &|i| text(1, &entry(i)))),
        ("map of 100, number to text", "c.Maps", list(100, &|i| text(1, &leaf(i)))),
        ("map of 100, number to number", "c.Maps", list(100, &|i| text(2, &small(i)))),
        ("unpacked, one byte each", "c.Lists", list(10_000, &|i| number(7, 1 + i % 100))),
        ("one text", "c.Leaf", text(2, "text ".repeat(13_000).as_bytes())),
    ]
}

fn flat() -> Vec<u8> {
    let mut score = vec![4 << 3 | 1];
    score.extend(0.75f64.to_le_bytes());
    let fields = [text(1, b"user-000123"), text(2, b"Ada Lovelace"), number(3, 1_790_000_000_000), score];
    let more = [number(5, 1), number(6, 1), number(7, 4711), text(8, &[7; 40])];
    [fields.concat(), more.concat()].concat()
}

/// Keys of one length are sorted as their numbers are.
fn entry(i: u64) -> Vec<u8> {
    [text(1, format!("key-{:04}", i).as_bytes()), number(2, i + 1)].concat()
}

fn small(i: u64) -> Vec<u8> {
    [number(1, i + 1), number(2, i + 1)].concat()
}

fn tree(inner: Vec<u8>, level: u64) -> Vec<u8> {
    let scalars =
        [number(1, level + 1), number(2, u64::MAX), number(4, 123_456_789), text(15, b"of a level")];
    let leaf = [number(1, 4711), text(2, b"leaf of a level")].concat();
    let optionals = [number(1, 0), text(3, b"optional"), text(6, &leaf)].concat();
    let choice = [text(1, b"before"), text(2, &leaf)].concat();
    [text(1, &scalars.concat()), text(2, &optionals), text(5, &choice), text(6, &inner)].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn text(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn pool() -> DescriptorPool {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let descriptors = protox::compile([tests.join("proto/canonical.proto")], [tests]).unwrap();
    DescriptorPool::decode(descriptors.encode_to_vec().as_slice()).unwrap()
}
