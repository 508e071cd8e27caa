#!/usr/bin/env bash
# Makes target/debian/ballast_*.deb of binaries that are built already: both programs, unit, manual pages, completions.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${1:-target/release}
command -v cargo-deb >/dev/null || {
    echo "deb: cargo-deb is not here; it is compiled once, which takes some minutes"
    cargo install --quiet --locked cargo-deb
}
made=target/deb
rm -rf "$made"
mkdir -p "$made/man" "$made/completions"
for binary in ballastd ballastctl; do
    strip -o "$made/$binary" "$bin/$binary"
    for shell in bash zsh fish; do "$bin/$binary" completion "$shell" >"$made/completions/$binary.$shell"; done
    "$bin/$binary" man "$made/man" >/dev/null
done
gzip -9n "$made"/man/*
cargo deb --quiet --no-build --no-strip -p ballastd
