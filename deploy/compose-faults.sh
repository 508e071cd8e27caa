#!/usr/bin/env bash
# Kills, pauses and disconnects containers of the compose cluster, each kind ROUNDS times for each target, under a client
# that goes through the VIP, and says how long it heard nobody and what it kept.
#
#   ROUNDS=20                                  times each
#   TARGETS="owner leader node witness web"    whom: the owner of the VIP, the Raft leader, a node that is neither,
#                                              the witness, a backend
#   KINDS="kill pause disconnect"
#   BALLAST_COMPOSE_OVERRIDE=deploy/compose.ebpf-sysadmin.yml    the strict fence
#   OUTPUT=FILE                                a line of JSON for each round
#
# Exits 0 only if nobody lost a session, a basket, or a backend that was there, if each silence ended within two seconds, and
# if every round was measured.
. "$(dirname "$0")/compose-lib.sh" ballast-faults

rounds=${ROUNDS:-20}
kinds=${KINDS:-kill pause disconnect}
targets=${TARGETS:-owner leader node witness web}
for one in $kinds; do
    case $one in kill | pause | disconnect) ;; *) fail "KINDS: no fault is called $one; there are kill, pause, disconnect" ;; esac
done
for one in $targets; do
    case $one in owner | leader | node | witness | web) ;; *) fail "TARGETS: there is no $one; there are owner, leader, node, witness, web" ;; esac
done
case $rounds in '' | *[!0-9]* | 0*) fail "ROUNDS: $rounds is no number of rounds" ;; esac
results=${OUTPUT:-$heard.results}
skipped=()
: >"$results"

need_docker
free_network
deploy/image.sh "${1:-target/release}"
bring_up
detail "the cluster is up; fence: $(ask node list -o wide | grep -oE 'ebpf|nftables|none' | sort -u | paste -sd,)"

# Nodes that neither own the VIP nor lead; the leader, preferably where it does not own the VIP.
pick() {
    local owner leader node
    owner=$(vip_owner) leader=$(raft_leader)
    case $1 in
    owner) echo "$owner" ;;
    leader)
        if [ "$owner" = "$leader" ]; then
            ask cluster transfer-leader >/dev/null || true
            for _ in $(seq 50); do
                leader=$(raft_leader)
                [ -z "$leader" ] || [ "$leader" = "$owner" ] || break
                sleep 0.1
            done
        fi
        echo "$leader" ;;
    node) for node in "${nodes[@]}"; do [ "$node" = "$owner" ] || [ "$node" = "$leader" ] || { echo "$node"; return; }; done ;;
    witness) echo witness ;;
    web) report | sed -n 's/^visitor=1 backend=\([^ ]*\).*/\1/p' ;;
    esac
}

# Why `pick` found nobody.
nobody() {
    case $1 in
    owner) echo "nobody owns the VIP" ;;
    leader) echo "nobody leads" ;;
    node) echo "every node owns the VIP or leads" ;;
    web) echo "nobody serves visitor 1" ;;
    *) echo "there is no such target" ;;
    esac
}

settled() {
    local service
    for service in "${nodes[@]}" witness; do healthy "$service" || return 1; done
    [ -n "$(vip_owner)" ] && [ -n "$(raft_leader)" ] && visitors_are_served
}

for kind in $kinds; do
    for target in $targets; do
        for round in $(seq "$rounds"); do
            until_true 90 "the cluster is whole again" settled
            sleep 1
            service=$(pick "$target")
            if [ -z "$service" ]; then
                skipped+=("$kind $target $round: $(nobody "$target")")
                detail "${skipped[-1]}"
                continue
            fi
            also=
            [ "$service" != "$(vip_owner)" ] || also+=owner
            [ "$service" != "$(raft_leader)" ] || also+=leader
            report >/dev/null
            before=$(<"$heard")
            hurt_it "$kind" "$service"
            sleep 3
            during=$(report)
            heal_it "$kind" "$service"
            case $service in web*) sleep 2 ;; *) until_true 90 "$service is ready again" healthy "$service" ;; esac
            sleep 1
            after=$(report)
            : >"$heard"
            python3 - "$kind" "$target" "$round" "$service" "$also" "$before" "$during" "$after" >>"$results" <<'PY'
import json, re, sys
kind, target, round_, service, also, before, during, after = sys.argv[1:]
def figures(text):
    one = {k: int(v) for k, v in re.findall(r"^(\w+)=(\d+)$", text, re.M)}
    one["failures"] = re.findall(r"^failure=(.*)$", text, re.M)
    return one
# What was kept is judged by all that was heard since the last round, before the fault as well.
heard = "\n".join((before, during, after))
lost = lambda what: sum(map(int, re.findall(rf"^{what}_lost=(\d+)$", heard, re.M)))
moves = lambda text: re.findall(r"^move=(.*)$", text, re.M)
wrong = moves(before) + [m for m in moves(during) + moves(after) if f": {service} >" not in m]
during, after = figures(during), figures(after)
print(json.dumps({"kind": kind, "target": target, "round": int(round_), "service": service, "owns": "owner" in also, "leads": "leader" in also, "load": float(open("/proc/loadavg").read().split()[0]),
    "silence_ms": during["silence_ms"], "silence_after_ms": after["silence_ms"], "served": during["served"],
    "failed": during["failed"], "failures": during["failures"], "failed_after": after["failed"],
    "sessions_lost": lost("sessions"), "baskets_lost": lost("baskets"),
    "moved": moves(heard), "moved_without_need": len(wrong)}))
PY
            tail -n 1 "$results" | python3 -c 'import json, sys
r = json.loads(sys.stdin.read())
r["also"] = "".join(word for word, is_so in (("owns ", r["owns"]), ("leads ", r["leads"])) if is_so)
print("    {kind:10} {target:8} {round:3} {service:8} {also}silence {silence_ms:5} ms, {silence_after_ms:4} ms while it came back; {failed:3} attempts failed; moved without need {moved_without_need}; lost {sessions_lost} sessions, {baskets_lost} baskets".format(**r))'
        done
    done
done

code=0
step "What the client saw, in ms of silence:"
python3 - "$results" <<'PY' || code=1
import json, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
print("    | fault | rounds | median | worst | rounds <= 200 ms | worst on return | moved without need | sessions lost | baskets lost |")
print("    |---|---|---|---|---|---|---|---|---|")
# The loss of an owner that also leads is another thing: the next owner may have to wait for an election.
name = lambda r: f"{r['kind']} {r['target']}" + (" that owns and leads" if r["owns"] and r["leads"] else "")
for key in sorted({name(r) for r in rows}, key=[name(r) for r in rows].index):
    of = [r for r in rows if name(r) == key]
    silence = [r["silence_ms"] for r in of]
    total = lambda field: sum(r[field] for r in of)
    print(f"    | {key} | {len(of)} | {statistics.median(silence):.0f} | {max(silence)} | {sum(s <= 200 for s in silence)} "
          f"| {max(r['silence_after_ms'] for r in of)} | {total('moved_without_need')} | {total('sessions_lost')} | {total('baskets_lost')} |")
lost = sum(r["moved_without_need"] + r["sessions_lost"] + r["baskets_lost"] for r in rows)
late = [f"{name(r)}, round {r['round']}" for r in rows if max(r["silence_ms"], r["silence_after_ms"]) > 2000]
if late:
    print("    NOBODY ANSWERED FOR MORE THAN TWO SECONDS:", "; ".join(late))
sys.exit(1 if lost or late else 0)
PY
planned=$((rounds * $(wc -w <<<"$kinds") * $(wc -w <<<"$targets")))
measured=$(wc -l <"$results")
if [ "$measured" -lt "$planned" ]; then
    step "ONLY $measured OF $planned ROUNDS WERE MEASURED; not these:"
    printf '    %s\n' "${skipped[@]}"
    code=1
fi
exit "$code"
