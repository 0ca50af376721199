//! What fuzzing has kept, through the same functions, in every test run.

use std::fs;

use docket_tests::by_hand::Hand;
use docket_tests::fuzzed::{ANSWERING, CHOSEN, TARGETS};
use docket_tests::repository;

/// The most files and bytes of all targets together: a corpus is for reading, not for storing.
const MOST_FILES: usize = 250;
const MOST_BYTES: usize = 200 << 10;

#[test]
fn every_kept_input_of_fuzzing_is_taken() {
    let corpus = repository().join("fuzz/corpus");
    let (mut files, mut bytes) = (0, 0);
    for (name, target) in TARGETS {
        let kept = fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut any = false;
        for file in kept {
            let path = file.unwrap().path();
            let input = fs::read(&path).unwrap();
            (files, bytes, any) = (files + 1, bytes + input.len(), true);
            if std::panic::catch_unwind(|| target(&input)).is_err() {
                panic!("{} breaks a promise; see above", path.display());
            }
        }
        assert!(any, "{name} has no inputs");
    }
    assert!(files <= MOST_FILES && bytes <= MOST_BYTES, "{files} files of {bytes} bytes");
}

#[test]
fn every_target_is_one_of_the_fuzz_workspace() {
    let manifest = fs::read_to_string(repository().join("fuzz/Cargo.toml")).unwrap();
    let script = fs::read_to_string(repository().join("fuzz/rustc.sh")).unwrap();
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no binary");
        assert!(script.contains(&format!("| {name} |")), "{name} is not instrumented");
        assert!(repository().join(format!("fuzz/fuzz_targets/{name}.rs")).exists(), "{name} has no file");
    }
}

#[test]
fn the_component_whose_memory_is_chosen_is_the_one_by_hand() {
    // After the data of its maker, and so in the place of it.
    let data = format!("(data (i32.const 0) \"{}\")", "\\a5".repeat(CHOSEN));
    let hand = Hand { core: &data, run: "(call $answer)", ..Hand::default() };
    let made = wat::parse_str(hand.text()).unwrap();
    assert!(made == ANSWERING, "write these {} bytes into fuzz/answering.component: {made:02x?}", made.len());
}
