#!/usr/bin/env bash
# The compose cluster from nothing to nothing: brings it up, takes nodes away under a client in three ways, says what the
# client saw, lets a fourth node join, and brings everything down. Exits 0 only if nobody lost a session, a basket, or a
# backend that was there, while containers were away, came back and joined; if each silence ended within two seconds; and if
# the cluster that comes up after all were down is the same.
#
# Usage: deploy/compose-demo.sh [BIN]    (built binaries; default target/release)
. "$(dirname "$0")/compose-lib.sh" ballast-demo

lease=200
worst=0
broken=0

need_docker
free_network
step "The image is made from what is built already. No registry is asked for more than its base, and none is needed."
deploy/image.sh "${1:-target/release}" | sed 's/^/    /'

step "Three nodes, a witness, a shop and its visitors come up. Nobody tells them how: node-1 makes the cluster, others join."
started=$SECONDS
bring_up
detail "ready after $((SECONDS - started)) s"
ask node list | sed 's/^/    | /'
ask vip list | sed 's/^/    | /'

# Judges all that the client said since it was judged last. WORDS are for when nothing is wrong.
judge() { # judge [WORDS [BACKEND-THAT-WAS-HURT]]
    local moves lost silence wrong=()
    moves=$(sed -n 's/^move=//p' "$heard" | grep -vF ": ${2:-nobody} >" || true)
    lost=$(awk -F= '/^(sessions|baskets)_lost=/ { lost += $2 } END { print lost + 0 }' "$heard")
    silence=$(sed -n 's/^silence_ms=//p' "$heard" | sort -n | tail -n 1)
    : >"$heard"
    [ -n "$silence" ] || fail "the client says nothing"
    [ -z "$moves" ] || wrong+=("A VISITOR CHANGED ITS BACKEND: $moves")
    [ "$lost" -eq 0 ] || wrong+=("SESSIONS OR BASKETS WERE LOST: $lost")
    [ "$silence" -le 2000 ] || wrong+=("NOBODY ANSWERED FOR $silence ms")
    if [ ${#wrong[@]} -gt 0 ]; then
        broken=1
        printf '    %s\n' "${wrong[@]}"
    elif [ -n "${1:-}" ]; then
        detail "$1"
    fi
}

try() { # try kill|pause|disconnect SERVICE WORDS
    local seen silence
    step "$3"
    report >/dev/null
    judge
    hurt_it "$1" "$2"
    sleep 3
    seen=$(report)
    silence=$(field silence_ms "$seen")
    detail "the client: $(field served "$seen") answers, $(field failed "$seen") attempts without one; longest silence $silence ms (lease: $lease ms)"
    sed -n 's/^failure=/        /p' <<<"$seen" | sed 's/$/, and tried again/'
    [ "$silence" -le "$worst" ] || worst=$silence
    judge "every visitor kept its session, its basket and its backend"
    detail "now $(vip_owner) owns the VIP and $(raft_leader) leads"
    report >/dev/null
    heal_it "$1" "$2"
    until_true 60 "$2 is ready again" healthy "$2"
    sleep 1
    seen=$(report)
    detail "$2 is back; longest silence meanwhile $(field silence_ms "$seen") ms"
    judge
}

everybody_answers() { local said; said=$(ask node list) && [ -n "$said" ] && ! grep -q unreachable <<<"$said"; }
# Which cluster it is, and which revision of the document is in force.
identity() { ask cluster status -o json | python3 -c 'import json, sys; s = json.load(sys.stdin); print(s["cluster_id"], "with revision", s["revision"])'; }

owner=$(vip_owner)
try kill "$owner" "docker kill $owner, which owns the VIP."
owner=$(vip_owner)
try pause "$owner" "docker pause $owner, which owns the VIP now: it is frozen in the middle of whatever it did."
owner=$(vip_owner)
try disconnect "$owner" "docker network disconnect $owner, which owns the VIP now."
leader=$(raft_leader)
try kill "$leader" "docker kill $leader, which leads the Raft group$([ "$leader" != "$(vip_owner)" ] || echo ' and owns the VIP')."

web=$(report | sed -n 's/^visitor=1 backend=\([^ ]*\).*/\1/p')
step "docker kill $web, which serves visitor 1. It cannot keep this backend; its session is in Ballast's session store."
report >/dev/null
judge
hurt_it kill "$web"
sleep 3
seen=$(report)
sed -n 's/^move=/    /p' <<<"$seen"
detail "the client: $(field served "$seen") answers, $(field failed "$seen") without one; longest silence $(field silence_ms "$seen") ms (health checks, not leases)"
judge "no session and no basket was lost" "$web"
heal_it kill "$web"

step "A fourth node joins by one command: docker-compose up -d node-4"
compose up -d --no-build node-4 >/dev/null 2>&1
until_true 60 "node-4 is ready" healthy node-4
# Who asks a node that was restarted over a connection from before learns only then that it is dead.
until_true 20 "every node answers" everybody_answers
ask node list | sed 's/^/    | /'
report >/dev/null
judge

step "Down, without -v, and up again: the cluster is the one it was."
was=$(identity) || fail "nobody says which cluster it is"
compose --profile grow down -t 10 >/dev/null 2>&1
compose up -d --no-build >/dev/null 2>&1
compose up -d --no-build node-4 >/dev/null 2>&1
for service in "${nodes[@]}" witness node-4; do until_true 90 "$service is ready" healthy "$service"; done
# It leaves a document alone that is there.
until_true 90 "setup has ended" shop_is_open
until_true 60 "visitors are served" visitors_are_served
until_true 20 "every node answers" everybody_answers
ask cluster status | sed 's/^/    | /'
is=$(identity) || fail "nobody says which cluster it is"
[ "$is" = "$was" ] || { detail "IT IS ANOTHER: $is; it was $was"; broken=1; }

if [ "$broken" -eq 0 ]; then
    step "The promises held. The longest silence after the loss of a node was $worst ms."
else
    step "A PROMISE WAS BROKEN."
    exit 1
fi
