//! Owns what each interface that a module may import means, in one table. Never links anything.

/// What an import means for the module that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Import {
    /// Always there, and without a grant always the same answers.
    Open,
    /// Time or randomness: virtual without a grant, and then a function of the execution.
    Circumstances,
    /// Always there, but whatever reaches outside stops the guest, by name.
    Denied,
    /// `wasi:config`, by grant; refused when a module is loaded.
    Config,
    /// `wasi:http`, by grant; refused when a module is loaded.
    Http,
    /// Not offered; refused when a module is loaded.
    Unknown,
}

/// By package, because whoever imports a part of one commonly imports all of it: the standard libraries
/// of languages do, for programs that use none of it.
const TABLE: [(&str, Import); 8] = [
    // Hands streams and handles around; what they lead to is decided by who made them.
    ("wasi:io", Import::Open),
    // No arguments; the variables that are granted; stdin is at its end; stdout and stderr are the log;
    // no terminal; exit ends the attempt. Every language imports it.
    ("wasi:cli", Import::Open),
    // All begins with a preopened directory: those that are granted, else there is none. Imported by what
    // was made for preview 1, whether or not it uses files.
    ("wasi:filesystem", Import::Open),
    // Rust's `Instant` and `HashMap`, Go's scheduler and Python's interpreter want them to run at all.
    ("wasi:clocks", Import::Circumstances),
    ("wasi:random", Import::Circumstances),
    // Python imports all of it and never calls it, so refusing it at load would refuse Python. A program
    // that does ask for a socket or a name is stopped: it was built to reach what no grant gives, and an
    // error code cannot say so.
    ("wasi:sockets", Import::Denied),
    // No language's standard library imports these. Who does means to use them, and learns when the
    // module is loaded that it may not.
    ("wasi:config", Import::Config),
    ("wasi:http", Import::Http),
];

/// Returns what an import of this name means.
pub(crate) fn classify(import: &str) -> Import {
    let package = import.split_once('/').map_or(import, |(package, _)| package);
    TABLE.iter().find(|(known, _)| *known == package).map_or(Import::Unknown, |(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_known_by_its_package_whatever_its_version() {
        let cases = [
            (Import::Open, "wasi:io/streams@0.2.0 wasi:cli/stdout@0.2.6 wasi:filesystem/types@0.2.3"),
            (Import::Denied, "wasi:sockets/tcp@0.2.0 wasi:sockets/ip-name-lookup@0.2.9"),
            (
                Import::Circumstances,
                "wasi:clocks/wall-clock@0.2.6 wasi:clocks/monotonic-clock@0.2.0 wasi:random/random@0.2.0",
            ),
            (Import::Config, "wasi:config/store@0.2.0-rc.1"),
            (Import::Http, "wasi:http/outgoing-handler@0.2.6 wasi:http/types@0.2.0"),
            (
                Import::Unknown,
                "acme:gpu/compute wasi:nn/graph@0.2.0 wasi log host wasi:io2/streams xwasi:io/streams",
            ),
        ];
        for (meaning, imports) in cases {
            for import in imports.split(' ') {
                assert_eq!(classify(import), meaning, "{import}");
            }
        }
        assert_eq!(classify(""), Import::Unknown);
    }
}
