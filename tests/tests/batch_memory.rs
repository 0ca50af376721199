//! The memory of a batch does not grow with its items. Alone in its process, whose memory is what is measured.
//!
//! `DOCKET_TORTURE=1` makes it a million items.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use docket_graph::{OnItemError, Port};
use docket_runtime::{BatchRequest, Host, Request};
use docket_tests::wordcount::Text;
use docket_tests::{example_module, options};
use futures_util::stream;
use prost::Message as _;

/// How much larger many items may make the process than a thousand, in bytes.
const MOST: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_many_items_is_that_of_a_thousand() {
    let items = if std::env::var_os("DOCKET_TORTURE").is_some() { 1_000_000 } else { 100_000 };
    let builder = Host::builder().options(options());
    let builder = builder.module("scatter_gather.wasm", example_module("scatter_gather"));
    let host = builder.build().await.unwrap();
    let few = peak(&host, 1_000).await;
    let many = peak(&host, items).await;
    println!("{} KiB at 1,000 items, {} KiB at {items}", few >> 10, many >> 10);
    assert!(many <= few + MOST, "{few} bytes at 1,000 items, {many} at {items}");
}

/// Carries a batch out in which each item is a list, and one of seven fails, and returns the largest memory of the process.
async fn peak(host: &Host, items: u64) -> u64 {
    let port = |name: &str| Port::parse(&format!("wordcount.v1.{name}")).unwrap();
    let request = BatchRequest::new(Request::new(port("WordCount"))).items(port("Text"));
    let text = |n: u64| if n.is_multiple_of(7) { "\u{fffd}".to_owned() } else { format!("sentence {n}") };
    let message = move |n| Ok(Text { text: text(n) }.encode_to_vec().into());
    let request = request.on_item_error(OnItemError::Continue);
    let mut batch = host.batch(request, stream::iter((0..items).map(message))).unwrap();
    let (mut taken, mut failed, mut peak) = (0, 0, resident());
    while let Some(outcome) = batch.next().await {
        assert_eq!(outcome.index, taken);
        taken += 1;
        failed += u64::from(outcome.result.is_err());
        if taken.is_multiple_of(1_000) {
            peak = peak.max(resident());
        }
    }
    assert_eq!((taken, failed), (items, items.div_ceil(7)));
    let outcome = batch.outcome().await.unwrap();
    assert_eq!(outcome.items.failed, failed);
    peak
}

/// Returns the memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
