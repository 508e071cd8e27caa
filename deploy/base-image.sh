#!/usr/bin/env bash
# Makes the base image of deploy/Dockerfile where no registry can be reached: Debian (or Ubuntu) from this machine's own
# package mirror, tagged like the public one, so that the Dockerfile needs no change. Does nothing when an image of that
# name is there. Kept as a file under $BALLAST_CACHE or ~/.cache/ballast, so that the mirror is asked once.
#
# Usage: deploy/base-image.sh [debian:bookworm-slim]            (default: what --name says)
#        deploy/base-image.sh --name [/etc/os-release]          says which base suits programs that were built here
set -euo pipefail

# Programs want the C library that they were linked with, or a later one: so a base of the release that this machine runs.
base_name() (
    ID='' VERSION_CODENAME=''
    [ ! -r "$1" ] || . "$1"
    case $ID:$VERSION_CODENAME in
    debian:?*) echo "debian:$VERSION_CODENAME-slim" ;;
    ubuntu:?*) echo "ubuntu:$VERSION_CODENAME" ;;
    *) echo debian:bookworm-slim ;;
    esac
)
if [ "${1:-}" = --name ]; then
    base_name "${2:-/etc/os-release}"
    exit
fi

tag=${1:-$(base_name /etc/os-release)}
suite=${tag#*:}
suite=${suite%-slim}
docker=${DOCKER:-docker}
say() { echo "base-image: $*"; }
fail() { say "$*" >&2; exit 1; }

if ! "$docker" info >/dev/null 2>&1; then
    [ -z "${DOCKER_HOST:-}" ] || fail "no engine answers at DOCKER_HOST=$DOCKER_HOST"
    [ "$(id -u)" -eq 0 ] || fail "Docker's engine does not answer; run this as root or as one of the group docker, and start it (systemctl start docker)"
    fail "Docker's engine does not answer; start it (systemctl start docker)"
fi
if "$docker" image inspect "$tag" >/dev/null 2>&1; then
    exit 0
fi
# With a registry this is all. It may not answer at all, hence the limit.
if [ -z "${BALLAST_NO_REGISTRY:-}" ] && timeout 60 "$docker" pull -q "$tag" >/dev/null 2>&1; then
    say "$tag comes from the registry"
    exit 0
fi

[ "$(id -u)" -eq 0 ] || fail "no registry answers, and debootstrap needs root; run this as root, or 'docker load' a $tag"
command -v debootstrap >/dev/null || fail "no registry answers, and debootstrap is not installed: scripts/setup.sh compose"

cache=${BALLAST_CACHE:-${HOME:-/var/cache}/.cache/ballast}
[ -n "${BALLAST_CACHE:-}" ] || [ -n "${HOME:-}" ] || cache=/var/cache/ballast
architecture=$(dpkg --print-architecture)
tarball=$cache/base-$suite-$architecture.tar.gz

if [ ! -s "$tarball" ]; then
    # The mirror that apt itself uses for the main archive.
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT)' 'Created-By: Packages' "Codename: $suite" |
        awk '$2 == "main" { print $1; exit }')
    [ -n "$mirror" ] || fail "apt knows no mirror of $suite; add one to its sources, or 'docker load' a $tag"
    mkdir -p "$cache"
    work=$(mktemp -d "${TMPDIR:-/tmp}/ballast-base.XXXXXX")
    trap 'rm -rf "$work" "$tarball.part"' EXIT
    say "$tag is made from apt's mirror, once; takes a minute or two"
    # What the Dockerfile would install is put in at once, so that building needs no network.
    if ! debootstrap --variant=minbase --include=ca-certificates,nftables "$suite" "$work/root" "$mirror" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        fail "debootstrap failed"
    fi
    # As the public image does: no documentation, translations, package lists.
    rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/*
    find "$work/root/usr/share/doc" -type f ! -name copyright -delete
    rm -rf "$work"/root/usr/share/{man,info,locale,groff,lintian}/*
    # The mirror of this machine may be nobody else's; whoever installs more in the image names one.
    echo "# deb MIRROR $suite main" >"$work/root/etc/apt/sources.list"
    tar -C "$work/root" --exclude=./dev --exclude=./proc --exclude=./sys -czf "$tarball.part" .
    mv "$tarball.part" "$tarball"
fi

"$docker" import --change 'CMD ["bash"]' "$tarball" "$tag" >/dev/null
say "$tag is imported from $tarball ($(du -h "$tarball" | cut -f1))"
