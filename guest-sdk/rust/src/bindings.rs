//! Generated from `wit/step.wit` and from `wasi:config`. Owns nothing that is written by hand.
#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    reason = "generated: the canonical ABI is raw memory, and the WIT carries the documentation"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "step-module",
    pub_export_macro: true,
    default_bindings_module: "docket_guest::bindings",
});

/// `wasi:config/store`. Its import stands in a component only where [`crate::Config`] is used.
pub(crate) mod configured {
    wit_bindgen::generate!({
        path: "wit/config",
        world: "configured",
        generate_all,
    });
}
