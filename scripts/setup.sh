#!/usr/bin/env bash
# Installs the Debian packages that building (and, with `bench`, benchmarking) needs. With `compose`, those that the
# compose cluster needs: an engine, Compose, and what makes a base image where no registry can be reached.
# Does nothing when they are there. Says what to do when it may not install.
set -euo pipefail

missing=()
need() { # command-or-file package
    # What administrators run is not in everybody's PATH.
    command -v "$1" >/dev/null 2>&1 || [ -e "$1" ] || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing+=("$2")
}

if [ "${1:-}" = compose ]; then
    need docker docker.io
    # An engine somewhere else is as good, and so is Compose as a plugin.
    [ -n "${DOCKER_HOST:-}" ] || docker info >/dev/null 2>&1 || need dockerd docker.io
    docker compose version >/dev/null 2>&1 || need docker-compose docker-compose
    need python3 python3
    need strip binutils
    # Whoever is not root cannot use it, and may have a registry or be given the image.
    [ "$(id -u)" -ne 0 ] || docker image inspect "$("$(dirname "$0")/../deploy/base-image.sh" --name)" >/dev/null 2>&1 || need debootstrap debootstrap
else
    need cc build-essential
    need c++ build-essential
    need python3 python3
    # The fence's kernel programs, and what it and its tests set up.
    need clang clang
    need /usr/sbin/nft nftables
    # The tests of addresses and announcements make their networks with ip and tc.
    need ip iproute2
    # The session store is held beside a real Redis.
    need redis-server redis-server
    # Clients of the session store. Django's and Flask's (python3-django-redis, python3-flask-session) are tried where they are.
    need /usr/lib/python3/dist-packages/redis python3-redis
    need php php-cli
    compgen -G '/usr/lib/php/*/redis.so' >/dev/null || missing+=(php-redis)
    # bindgen reads RocksDB's C header through libclang.
    if ! compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && ! compgen -G '/usr/lib/*/libclang*.so*' >/dev/null; then
        missing+=(libclang-dev)
    elif ! compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null && ! compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null; then
        missing+=(libclang-dev)
    fi
fi
if [ "${1:-}" = bench ]; then
    [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    [ -x /usr/bin/etcd ] || missing+=(etcd-server)
    [ -x /usr/sbin/keepalived ] || missing+=(keepalived)
    [ -x /usr/sbin/nft ] || missing+=(nftables)
    [ -x /usr/sbin/ip ] || [ -x /sbin/ip ] || missing+=(iproute2)
fi

if [ ${#missing[@]} -gt 0 ]; then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: please install the equivalents of these Debian packages: ${missing[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
            sudo=(sudo -n)
        else
            echo "setup: missing Debian packages, and this user may not install them." >&2
            echo "setup: run as root: apt-get install ${missing[*]}" >&2
            exit 1
        fi
    fi
    case " ${missing[*]} " in
    *" docker"*) echo "setup: Docker is not here; these packages of Debian are installed: ${missing[*]}" ;;
    *) echo "setup: installing ${missing[*]}" ;;
    esac
    "${sudo[@]}" apt-get update -qq
    # From Debian 13 on the engine's package no longer has its command line.
    case " ${missing[*]} " in
    *" docker.io "*) ! apt-cache show docker-cli >/dev/null 2>&1 || missing+=(docker-cli) ;;
    esac
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[ "${1:-}" != compose ] || exit 0

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: no Rust toolchain found; install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer, see https://rustup.rs" >&2
    exit 1
fi
