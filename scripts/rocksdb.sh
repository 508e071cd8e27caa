#!/usr/bin/env bash
# Compiles RocksDB once into the folder given, from the sources that the crate carries.
# Every build of Ballast then links that library.
set -euo pipefail
dir=$1
[ -s "$dir/librocksdb.a" ] && exit 0

mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9
[ -s "$dir/librocksdb.a" ] && exit 0

echo "rocksdb: compiling once into $dir (about a quarter of an hour on two cores)"
# The library is told apart from the checkout's own target folder, so that neither disturbs the other.
build=$dir/build
env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC ROCKSDB_COMPILE=1 CARGO_TARGET_DIR="$build" \
    cargo build --release -q -p librocksdb-sys
lib=$(find "$build" -name librocksdb.a -print -quit)
[ -n "$lib" ] || { echo "rocksdb: the build left no librocksdb.a under $build" >&2; exit 1; }
strip --strip-debug -o "$dir/librocksdb.a.tmp" "$lib"
mv "$dir/librocksdb.a.tmp" "$dir/librocksdb.a"
rm -rf "$build"
