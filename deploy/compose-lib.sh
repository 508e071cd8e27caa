# What the scripts that run the compose cluster share: an engine, a project of their own, and its end. To be sourced.
#
# Whatever happens - success, failure, Ctrl-C - containers, networks and volumes of the project are removed, and an engine
# that was started here is stopped. Images stay, as after any build.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export COMPOSE_PROJECT_NAME=${1:?name of the project}
export COMPOSE_IGNORE_ORPHANS=1 BALLAST_EVERY_MS=${BALLAST_EVERY_MS:-10}
nodes=(node-1 node-2 node-3)
engine= engine_log= engine_chains= came_up= heard=
compose_files=(-f docker-compose.yml ${BALLAST_COMPOSE_OVERRIDE:+-f "$BALLAST_COMPOSE_OVERRIDE"})

exec 3>&1 4>&2
step() { printf '\n* %s\n' "$*"; }
detail() { printf '    %s\n' "$*"; }
fail() { printf '\n%s: %s\n' "$COMPOSE_PROJECT_NAME" "$*" >&2; exit 1; }

# --- the engine ---

need_docker() {
    scripts/setup.sh compose
    # Compose v2 where it is there, 1.29 otherwise.
    if docker compose version >/dev/null 2>&1; then compose_command=(docker compose); else compose_command=(docker-compose); fi
    docker info >/dev/null 2>&1 && return
    [ -z "${DOCKER_HOST:-}" ] || fail "no engine answers at DOCKER_HOST=$DOCKER_HOST"
    [ "$(id -u)" -eq 0 ] || fail "Docker's engine does not answer; run this as root or as one of the group docker, and start it (systemctl start docker)"
    if pgrep -x dockerd >/dev/null; then fail "dockerd runs and does not answer; look at its log"; fi
    command -v dockerd >/dev/null || fail "there is no engine here: install docker.io, or set DOCKER_HOST"
    engine_log=$(mktemp "${TMPDIR:-/tmp}/ballast-dockerd.XXXXXX")
    detail "the engine does not run; it is started for as long as this takes"
    # The cluster talks to itself alone, so the engine needs no bridge of its own and forwards nothing; what it puts into
    # iptables is taken out again. A session of its own, so that Ctrl-C does not reach it before its containers are gone.
    engine_chains=$(iptables-save | grep -c '^:DOCKER' || true)
    setsid dockerd --bridge=none --ip-forward=false --userland-proxy=false >"$engine_log" 2>&1 &
    engine=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 15 "$engine_log" >&2
    fail "Docker's engine does not start here"
}

# Takes the engine's chains out of iptables, what leads there, and what is about bridges of its networks. What others put
# there stays, meanwhile too.
remove_chains() {
    iptables-save | grep -vE '^:DOCKER|^-A DOCKER| -j DOCKER| br-[0-9a-f]{12}( |$)' | iptables-restore
}

stop_engine() {
    [ -n "$engine" ] || return 0
    kill "$engine" 2>/dev/null || true
    for _ in $(seq 60); do kill -0 "$engine" 2>/dev/null || break; sleep 0.5; done
    wait "$engine" 2>/dev/null || true
    # An engine that ran here before left its chains for the next one.
    [ "$engine_chains" -gt 0 ] || remove_chains || true
    umount /run/docker/netns/default 2>/dev/null || true
    rm -f "$engine_log"
}

# --- the project ---

compose() { "${compose_command[@]}" "${compose_files[@]}" "$@"; }
container() { docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter "label=com.docker.compose.service=$1"; }
inside() { local service=$1; shift; docker exec "$(container "$service")" "$@"; }

# The first network that no route of this machine is for, but one for a large part of the world.
free_network() {
    [ -z "${BALLAST_NET:-}" ] || return 0
    BALLAST_NET=$(ip -4 -o route show | python3 -c '
import ipaddress, sys
routes = [line.split()[0] for line in sys.stdin if line[:1].isdigit()]
routes = [net for net in (ipaddress.ip_network(route, False) for route in routes) if net.prefixlen >= 8]
nets = ["172.30.87", "172.28.87", "192.168.187", "10.187.87"]
free = [net for net in nets if not any(ipaddress.ip_network(net + ".0/24").overlaps(route) for route in routes)]
print(*free[:1])')
    [ -n "$BALLAST_NET" ] || fail "name three free numbers of a network with BALLAST_NET, for example BALLAST_NET=10.1.2"
    export BALLAST_NET
}

ours=(--filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
leftovers() { docker ps -aq "${ours[@]}"; docker volume ls -q "${ours[@]}"; docker network ls -q "${ours[@]}"; }

remove() {
    # By hand rather than by Compose: this also works when Compose was interrupted, when something is paused or taken off
    # the network, and does not wait for anyone to drain.
    local found
    found=$(docker ps -q --filter status=paused "${ours[@]}"); [ -z "$found" ] || docker unpause $found
    found=$(docker ps -aq "${ours[@]}"); [ -z "$found" ] || docker rm -fv $found
    found=$(docker volume ls -q "${ours[@]}"); [ -z "$found" ] || docker volume rm -f $found
    found=$(docker network ls -q "${ours[@]}"); [ -z "$found" ] || docker network rm $found
} >/dev/null

show_logs() {
    {
        echo; echo "--- what the nodes say"
        for node in "${nodes[@]}"; do
            inside "$node" ballastctl cluster status --consistency stale 2>&1 | sed "s/^/$node | /" || true
        done
        for service in setup "${nodes[@]}" witness client; do
            echo "--- the end of the log of $service"
            docker logs --tail 25 "$(container "$service")" 2>&1 || true
        done
    } >&2
}

finish() {
    local code=$?
    finishing=yes
    # A signal may come while a function's output goes elsewhere.
    exec >&3 2>&4
    trap - EXIT
    sleep 0.1
    trap '' INT TERM
    if [ -n "$came_up" ]; then
        [ "$code" -eq 0 ] || [ -n "$interrupted" ] || [ "$code" -ge 128 ] || show_logs || true
        step "Everything is brought down."
        remove || true
        local left
        left=$(leftovers)
        if [ -z "$left" ]; then
            detail "no container, network or volume is left"
        else
            detail "LEFT BEHIND: $left"
            [ "$code" -ne 0 ] || code=1
        fi
    fi
    stop_engine
    rm -f "$heard" "$heard.results"
    exit "$code"
}
trap finish EXIT
# A command that was interrupted may end the script before its own trap is looked at.
interrupted= finishing=
trap 'interrupted=yes; [ -n "$finishing" ] || exit 130' INT TERM

# Waits until a command succeeds.
until_true() {
    local seconds=$1 what=$2 last=$((SECONDS + $1)); shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $last ] || fail "$what did not come true within $seconds s"
        sleep 0.2
    done
}

healthy() { timeout 5 docker exec "$(container "$1")" ballastctl healthcheck; }
shop_is_open() { [ "$(docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$(container setup)")" = "exited 0" ]; }
visitors_are_served() { [ "$(report | sed -n 's/^served=//p')" -gt 20 ]; }

bring_up() {
    came_up=yes
    remove
    local said
    said=$(compose up -d --no-build 2>&1) || { echo "$said" >&2; fail "the containers do not start"; }
    for service in "${nodes[@]}" witness; do until_true 90 "$service is ready" healthy "$service"; done
    until_true 90 "the shop is open" shop_is_open
    until_true 60 "visitors are served" visitors_are_served
    : >"$heard"
}

# --- asking ---

# The first node that answers and is not out of reach.
ask() {
    local node
    for node in "${nodes[@]}"; do
        [ "$node" != "${hurt:-}" ] || continue
        timeout 10 docker exec "$(container "$node")" ballastctl "$@" 2>/dev/null && return 0
    done
    return 1
}
vip_owner() { ask vip list -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["owner_name"] or "")'; }
raft_leader() { ask cluster status -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)["leader_name"] or "")'; }

# What the client saw since it was asked last. All that it says is in $heard until it is judged, so that no report is lost
# that was taken for something else.
heard=$(mktemp "${TMPDIR:-/tmp}/ballast-heard.XXXXXX")
report() { inside client ballast-shop report | tee -a "$heard"; }
field() { sed -n "s/^$1=//p" <<<"$2"; }

# --- faults ---

address() { docker inspect -f "{{(index .NetworkSettings.Networks \"${COMPOSE_PROJECT_NAME}_site\").IPAddress}}" "$(container "$1")"; }

# hurt_it kill|pause|disconnect SERVICE, and heal_it likewise.
hurt_it() {
    hurt=$2
    case $1 in
    kill) docker kill "$(container "$2")" ;;
    pause) docker pause "$(container "$2")" ;;
    disconnect) lost_address=$(address "$2"); docker network disconnect "${COMPOSE_PROJECT_NAME}_site" "$(container "$2")" ;;
    esac >/dev/null
}
heal_it() {
    case $1 in
    kill) docker start "$(container "$2")" ;;
    pause) docker unpause "$(container "$2")" ;;
    disconnect) docker network connect --ip "$lost_address" --alias "$2" "${COMPOSE_PROJECT_NAME}_site" "$(container "$2")" ;;
    esac >/dev/null
    hurt=
}
