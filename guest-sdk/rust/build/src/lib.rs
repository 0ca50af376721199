//! The build script of a step. Owns the way from `.proto` files to Rust messages and their
//! descriptors; never needs `protoc`, and never looks at the step's code.
//!
//! ```no_run
//! fn main() -> Result<(), docket_guest_build::Error> {
//!     docket_guest_build::compile("proto/hello.proto")
//! }
//! ```
//!
//! The messages are then included with `docket_guest::include_proto!("hello.v1")`; the descriptors
//! are found by `docket_guest::module!`. The generated code names everything through
//! `docket_guest`, so that a step's crate depends on nothing else.

use std::fmt;
use std::path::{Path, PathBuf};

use prost::Message;

/// Where `docket_guest::module!` finds the descriptors, below `OUT_DIR`.
const DESCRIPTORS: &str = "docket.descriptors";

/// Generated items are public in whatever module includes them, documented as far as the `.proto`
/// file is, and not all used by each step.
const LINTS: &str = "#[allow(dead_code, missing_docs, unreachable_pub, reason = \"generated\")]";

/// Why a build script could not go on. Its `Debug` is the sentence, because that is what Cargo
/// shows of `main`.
pub struct Error {
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Compiles one `.proto` file, with what it imports from its own folder.
///
/// # Errors
/// When the file cannot be read or is not valid, or the output cannot be written.
pub fn compile(file: impl AsRef<Path>) -> Result<(), Error> {
    let file = file.as_ref();
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    compile_all(&[file], &[folder])
}

/// Compiles several `.proto` files; `includes` are the folders that their paths and imports start
/// from.
///
/// # Errors
/// When a file cannot be read or is not valid, or the output cannot be written.
pub fn compile_all<F: AsRef<Path>, I: AsRef<Path>>(files: &[F], includes: &[I]) -> Result<(), Error> {
    #[expect(clippy::disallowed_methods, reason = "Cargo gives a build script its folder in the environment")]
    let folder = std::env::var("OUT_DIR")
        .map_err(|error| Error::new("`OUT_DIR` is not set: call this from a build script", error))?;
    let compiled = Compiled::new(files, includes)?;
    for file in &compiled.sources {
        println_for_cargo(file);
    }
    compiled.write(Path::new(&folder))
}

/// Valid descriptors, and the files that they came from.
struct Compiled {
    descriptors: protox::prost_reflect::prost_types::FileDescriptorSet,
    sources: Vec<PathBuf>,
}

impl Compiled {
    fn new<F: AsRef<Path>, I: AsRef<Path>>(files: &[F], includes: &[I]) -> Result<Self, Error> {
        let mut compiler = protox::Compiler::new(includes)
            .map_err(|error| Error::new("the include folders are not usable", error))?;
        // Comments become the messages' documentation.
        compiler.include_imports(true).include_source_info(true);
        for file in files {
            let file = file.as_ref();
            compiler
                .open_file(file)
                .map_err(|error| Error::new(format!("`{}` does not compile", file.display()), error))?;
        }
        let sources = compiler.files().filter_map(|file| file.path()).map(Path::to_owned).collect();
        Ok(Self { descriptors: compiler.file_descriptor_set(), sources })
    }

    fn write(self, folder: &Path) -> Result<(), Error> {
        let Self { mut descriptors, .. } = self;
        prost_build::Config::new()
            .out_dir(folder)
            .enable_type_names()
            .prost_path("::docket_guest::prost")
            .prost_types_path("::docket_guest::prost_types")
            .type_attribute(".", LINTS)
            .compile_fds(descriptors.clone())
            .map_err(|error| Error::new("the messages cannot be generated", error))?;

        // The host has no use for comments, and they are more than half of the bytes.
        for file in &mut descriptors.file {
            file.source_code_info = None;
        }
        let path = folder.join(DESCRIPTORS);
        std::fs::write(&path, descriptors.encode_to_vec())
            .map_err(|error| Error::new(format!("`{}` cannot be written", path.display()), error))
    }
}

#[expect(clippy::print_stdout, reason = "a build script speaks to Cargo through stdout")]
fn println_for_cargo(source: &Path) {
    println!("cargo:rerun-if-changed={}", source.display());
}

impl Error {
    fn new(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { message: message.into(), source: Some(Box::new(source)) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source: &(dyn std::error::Error + 'static) = &**self.source.as_ref()?;
        Some(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  because {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles the sources in a folder of their own; the last one is the file asked for.
    fn check(sources: &[(&str, &str)]) -> Result<(String, Vec<String>, Vec<u8>), String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in sources {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = folder.path().join(sources.last().unwrap().0);
        let compiled = Compiled::new(&[file], &[folder.path()]).map_err(|error| format!("{error:?}"))?;
        let watched =
            compiled.sources.iter().map(|path| path.file_name().unwrap().to_str().unwrap().into()).collect();
        compiled.write(folder.path()).map_err(|error| format!("{error:?}"))?;
        let code = std::fs::read_to_string(folder.path().join("a.v1.rs")).unwrap();
        let descriptors = std::fs::read(folder.path().join(DESCRIPTORS)).unwrap();
        Ok((code, watched, descriptors))
    }

    const TEXT: (&str, &str) = (
        "text.proto",
        "syntax = \"proto3\"; package a.v1;\n// Some words.\nmessage Text { string text = 1; }",
    );
    const PAGE: (&str, &str) = (
        "page.proto",
        "syntax = \"proto3\"; package a.v1; import \"text.proto\"; import \"google/protobuf/timestamp.proto\";
         message Page { Text text = 1; google.protobuf.Timestamp at = 2; }",
    );

    #[test]
    fn messages_have_names_and_comments_and_need_docket_guest_alone() {
        let (code, ..) = check(&[TEXT, PAGE]).unwrap();
        assert!(code.contains("const NAME: &'static str = \"Text\""), "{code}");
        assert!(code.contains("Some words."), "{code}");
        assert!(code.contains("::docket_guest::prost_types::Timestamp"), "{code}");
        assert!(!code.contains(" ::prost::"), "{code}");
    }

    #[test]
    fn descriptors_hold_every_import_and_no_comments() {
        let (.., bytes) = check(&[TEXT, PAGE]).unwrap();
        let set = prost_types::FileDescriptorSet::decode(&bytes[..]).unwrap();
        let names: Vec<_> = set.file.iter().map(|file| file.name()).collect();
        assert_eq!(names, ["text.proto", "google/protobuf/timestamp.proto", "page.proto"]);
        assert!(set.file.iter().all(|file| file.source_code_info.is_none()));
    }

    #[test]
    fn a_change_of_an_import_builds_again() {
        let (_, mut watched, _) = check(&[TEXT, PAGE]).unwrap();
        watched.sort();
        assert_eq!(watched, ["page.proto", "text.proto"]);
    }

    #[test]
    fn a_fault_names_the_file_and_the_cause() {
        let message = check(&[("bad.proto", "syntax = \"proto3\"; message {")]).unwrap_err();
        assert!(message.contains("bad.proto` does not compile"), "{message}");
        assert!(message.contains("because"), "{message}");
    }
}
