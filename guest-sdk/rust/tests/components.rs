//! What the components that the SDK makes ask of a host. Builds them as a user would; never runs
//! them.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasmparser::{Parser, Payload};

const TARGET: &str = "wasm32-wasip2";

/// Returns what the package's component imports and exports, without versions.
fn build(package: &str, file: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new(env!("CARGO"))
        .current_dir(&root)
        .args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "--package", package])
        .status()
        .expect("cargo runs, because it runs this test");
    assert!(status.success(), "`{package}` does not build");

    let bytes = std::fs::read(target_folder().join(TARGET).join("guest").join(file)).unwrap();
    let without_version = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
    let (mut imports, mut exports) = (BTreeSet::new(), BTreeSet::new());
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                imports.extend(section.into_iter().map(|import| without_version(import.unwrap().name.name)));
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(section.into_iter().map(|export| without_version(export.unwrap().name.name)));
            }
            _ => {}
        }
    }
    (imports, exports)
}

/// The folder that this test itself was built below: `TARGET/release/deps/components-…`.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).expect("a test is three folders below the target folder").to_owned()
}

#[test]
fn a_step_without_configuration_imports_nothing_but_what_rust_itself_does() {
    let (imports, exports) = build("guest-enrich-user", "enrich_user.wasm");
    assert_eq!(exports, BTreeSet::from(["docket:step/step".to_owned()]));
    let foreign: Vec<_> = imports
        .iter()
        .filter(|name| !name.starts_with("wasi:cli/") && !name.starts_with("wasi:io/"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn a_step_with_configuration_imports_the_interface_for_it() {
    let (imports, _) = build("example-struct-step", "struct_step.wasm");
    assert!(imports.contains("wasi:config/store"), "{imports:?}");
}
