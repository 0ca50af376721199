#!/usr/bin/env bash
# Called by cargo in the place of rustc: adds coverage counters to the crates that fuzzing is to see into, and
# to no other. Those crates are named in the profile of `Cargo.toml` too.
set -euo pipefail
rustc=$1
shift
name=
for ((i = 1; i < $#; i++)); do
    [ "${!i}" = --crate-name ] && { next=$((i + 1)); name=${!next}; break; }
done
case $name in
docket_fuzz | descriptors | canonical | docket_toml | json_input | component | docket_graph | docket_runtime | docket_host | prost_reflect | toml | toml_parser)
    exec "$rustc" "$@" --cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$rustc" "$@" ;;
esac
