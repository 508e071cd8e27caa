#!/usr/bin/env bash
# bench/run.sh [CASE...] [--rounds N] [--secs S] [--without-ballast] ...: Ballast beside its peers.
# Without a case all are run, or those of BENCH_ONLY (`BENCH_ONLY=bindings make bench`).
# `bench/run.sh --list` names them, `--help` says the rest;
# docs/benchmarks.md says how to read what comes out.
set -euo pipefail
cd "$(dirname "$0")/.."

bench=${BALLAST_BIN_DIR:-target/release}/ballast-bench
[ -x "$bench" ] || cargo build --release -q -p ballast-bench

# Files go to a real disk: syncs to memory would flatter everybody.
export TMPDIR=${BALLAST_BENCH_DIR:-/var/tmp}

output=(--output bench/results/latest.json)
case " $* " in
    # A run without Ballast is a check of the harness and leaves no result.
    *" --without-ballast "* | *" --output "* | *" --list "*) output=() ;;
esac
# Several words name several cases.
read -ra only <<<"${BENCH_ONLY:-}"
exec "$bench" run "${output[@]}" "${only[@]}" "$@"
