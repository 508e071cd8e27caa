#!/usr/bin/env bash
# Runs the chaos suite on the compose cluster from nothing to nothing: the image is made from what is built, the suite brings the
# cluster up under a project and on a network of its own, breaks it, judges what clients and the wire saw, and brings it down.
# Exits as the suite does: 0 if every promise was kept, 1 if one was broken, 3 if one could not be told, 2 if there was no run.
#
# Usage: deploy/compose-chaos.sh [BIN [OPTIONS OF `jepsen run`]]    (built binaries; default target/release)
. "$(dirname "$0")/compose-lib.sh" ballast-chaos

bin=${1:-target/release}
shift || true
[ -x "$bin/jepsen" ] || fail "there is no $bin/jepsen; run 'make build'"
# What nodes wrote is in the folder of the run.
show_logs() { :; }

need_docker
free_network
deploy/image.sh "$bin"
# From here on whatever is left of the project is removed, also what a suite that was killed left behind.
came_up=yes
remove

"$bin/jepsen" run --environment compose --output target/chaos/compose "$@" &
suite=$!
# Whoever interrupts this interrupts the suite, which ends what it began.
trap 'interrupted=yes; kill -INT "$suite" 2>/dev/null || true' INT
trap 'interrupted=yes; kill -TERM "$suite" 2>/dev/null || true' TERM
code=0
# A signal ends a wait, and the suite may have ended before the first.
while true; do
    wait "$suite" && code=0 || code=$?
    kill -0 "$suite" 2>/dev/null || break
done
exit "$code"
