#!/usr/bin/env bash
# Builds the container image from binaries that are built already (`make build`). Needs no registry.
#
# Usage: deploy/image.sh [BIN]     (default target/release; the image is called ballast:local, or $BALLAST_IMAGE)
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${1:-target/release}
image=${BALLAST_IMAGE:-ballast:local}
docker=${DOCKER:-docker}

base=$(deploy/base-image.sh --name)
deploy/base-image.sh "$base"

# Without debug information: a third of the size. Each time, since what is there may be of another BIN; under another name
# until it is whole, since who is interrupted leaves half of it.
mkdir -p target/image
for binary in ballastd ballastctl ballast-shop; do
    [ -x "$bin/$binary" ] || { echo "image: there is no $bin/$binary; run 'make build'" >&2; exit 1; }
    strip -o "target/image/$binary.part" "$bin/$binary"
    # Whatever the umask: the daemon does not run as root.
    chmod 0755 "target/image/$binary.part"
    mv "target/image/$binary.part" "target/image/$binary"
done

# The builder that every engine has, so that it is the same with and without the buildx plugin.
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export DOCKER_BUILDKIT=0
build=(build -f deploy/Dockerfile --target host --network host
    --build-arg BASE="$base" --build-arg VERSION="$version" --build-arg REVISION="$revision" -t "$image" .)
"$docker" "${build[@]}" -q 2>/dev/null || "$docker" "${build[@]}"
# What was linked against later libraries than the base has does not start there: it was built on another machine, or on a
# system without a base of its own. An image of it would be restarted for ever.
if ! said=$("$docker" run --rm --network none --entrypoint ballastd "$image" --version 2>&1); then
    "$docker" image rm "$image" >/dev/null 2>&1 || true
    echo "image: ballastd of $bin does not run on $base, so there is no image: $said" >&2
    echo "image: if it wants later libraries than $base has, and a registry answers, build it in a container:" >&2
    echo "image:     docker build -f deploy/Dockerfile --target source -t $image ." >&2
    exit 1
fi
echo "image: $image is $("$docker" image inspect -f '{{.Size}}' "$image" | awk '{ printf "%.0f MB", $1 / 1e6 }')"
