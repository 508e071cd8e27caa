#!/usr/bin/env bash
# The compose cluster from nothing to nothing: brings it up, takes nodes away under a client in three ways, says what the
# client saw, lets a fourth node join, and brings everything down. Exits 0 only if nobody lost a session, or a backend that
# was there, and each silence ended within two seconds.
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

said() { # said REPORT BACKEND-THAT-WAS-HURT
    local silence moves lost
    silence=$(field silence_ms "$1")
    moves=$(sed -n 's/^move=//p' <<<"$1" | grep -vF ": ${2:-nobody} >" || true)
    lost=$(($(field sessions_lost "$1") + $(field baskets_lost "$1")))
    detail "the client: $(field served "$1") answers, $(field failed "$1") attempts without one; longest silence $silence ms (lease: $lease ms)"
    sed -n 's/^failure=/        /p' <<<"$1" | sed 's/$/, and tried again/'
    [ "$silence" -le "$worst" ] || worst=$silence
    if [ -n "$moves" ]; then detail "A VISITOR CHANGED ITS BACKEND: $moves"; broken=1; fi
    if [ "$lost" -ne 0 ]; then detail "SESSIONS OR BASKETS WERE LOST: $lost"; broken=1; fi
    [ "$silence" -le 2000 ] || broken=1
    [ -n "$moves" ] || [ "$lost" -ne 0 ] || detail "every visitor kept its session, its basket and its backend"
}

try() { # try kill|pause|disconnect SERVICE WORDS
    step "$3"
    report >/dev/null
    hurt_it "$1" "$2"
    sleep 3
    local seen; seen=$(report)
    said "$seen"
    detail "now $(vip_owner) owns the VIP and $(raft_leader) leads"
    report >/dev/null
    heal_it "$1" "$2"
    until_true 60 "$2 is ready again" healthy "$2"
    sleep 1
    seen=$(report)
    detail "$2 is back; longest silence meanwhile $(field silence_ms "$seen") ms"
}

everybody_answers() { ! ask node list | grep -q unreachable; }

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
hurt_it kill "$web"
sleep 3
seen=$(report)
sed -n 's/^move=/    /p' <<<"$seen"
detail "the client: $(field served "$seen") answers, $(field failed "$seen") without one; longest silence $(field silence_ms "$seen") ms (health checks, not leases)"
lost=$(($(field sessions_lost "$seen") + $(field baskets_lost "$seen")))
if [ "$lost" -eq 0 ]; then detail "no session and no basket was lost"; else detail "LOST: $lost"; broken=1; fi
heal_it kill "$web"

step "A fourth node joins by one command: docker-compose up -d node-4"
compose up -d --no-build node-4 >/dev/null 2>&1
until_true 60 "node-4 is ready" healthy node-4
# Who asks a node that was restarted over a connection from before learns only then that it is dead.
until_true 20 "every node answers" everybody_answers
ask node list | sed 's/^/    | /'

step "Down, without -v, and up again: the cluster is the one it was."
compose --profile grow down -t 10 >/dev/null 2>&1
compose up -d --no-build >/dev/null 2>&1
compose up -d --no-build node-4 >/dev/null 2>&1
for service in "${nodes[@]}" witness node-4; do until_true 90 "$service is ready" healthy "$service"; done
until_true 60 "visitors are served" visitors_are_served
until_true 20 "every node answers" everybody_answers
ask cluster status | sed 's/^/    | /'

if [ "$broken" -eq 0 ]; then
    step "The promises held. The longest silence after the loss of a node was $worst ms."
else
    step "A PROMISE WAS BROKEN."
    exit 1
fi
