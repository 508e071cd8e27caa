#!/usr/bin/env bash
# The arrows between crates (ARCHITECTURE.md): roots -> shells -> core, and never back.
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A may=(
    [ballast-core]="ballast-planted"
    [ballast-proto]=""
    [ballast-planted]=""
    [ballast-storage]="ballast-planted"
    [ballast-clock]="ballast-core"
    [ballast-telemetry]=""
    [ballast-proxy]="ballast-clock ballast-planted ballast-core"
    [ballast-sessions]="ballast-clock ballast-core"
    [ballast-vip]="ballast-clock ballast-planted ballast-core"
    [ballast-admin]="ballast-core ballast-proto ballast-telemetry"
    [ballast-raft]="ballast-clock ballast-planted ballast-core ballast-proto ballast-storage ballast-telemetry"
    [ballast-testkit]="ballast-core ballast-proto"
    [ballastctl]="ballast-core ballast-proto ballast-admin"
    [ballastd]="ballast-clock ballast-planted ballast-core ballast-proto ballast-storage ballast-raft ballast-proxy ballast-sessions ballast-vip ballast-admin ballast-telemetry"
    [ballast-bench]="ballast-core ballast-testkit"
    [ballast-failover]="ballast-testkit"
    [ballast-lease-model]=""
    [ballast-jepsen]="ballast-planted ballast-testkit"
    [ballast-sim]="ballast-core ballast-planted ballast-storage ballast-raft ballast-jepsen"
)
# Each heavy dependency has one home; core has no I/O.
declare -A home=([rocksdb]=ballast-storage [openraft]=ballast-raft [turmoil]=ballast-sim)
impure="tokio socket2 libc rand hyper tonic rocksdb openraft mio"

bad=0
say() { echo "arrows: $*" >&2; bad=1; }

while IFS=$'\t' read -r crate dep; do
    if [[ $dep == ballast* ]]; then
        [ -n "${may[$crate]+x}" ] || { say "$crate is not in scripts/arrows.sh; say what it may use"; continue; }
        [[ " ${may[$crate]} " == *" $dep "* ]] || say "$crate may not depend on $dep"
    fi
    if [ -n "${home[$dep]:-}" ] && [ "${home[$dep]}" != "$crate" ]; then
        say "only ${home[$dep]} may depend on $dep, not $crate"
    fi
    if [ "$crate" = ballast-core ] && [[ " $impure " == *" $dep "* ]]; then
        say "ballast-core is pure and may not depend on $dep"
    fi
done < <(cargo metadata --format-version 1 --no-deps --offline | python3 -c '
import json, sys
for p in json.load(sys.stdin)["packages"]:
    for d in p["dependencies"]:
        if d["kind"] is None:
            print(p["name"], d["name"], sep="\t")
')
[ $bad = 0 ] && echo "arrows: the crates depend on each other only as ARCHITECTURE.md says"
exit $bad
