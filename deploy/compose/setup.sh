#!/bin/sh
# Applies the shop's document to a cluster that has none yet. One that has keeps what its operator made of it.
set -eu
# To the first process of a container a signal does nothing that it does not ask for.
trap 'exit 143' TERM
trap 'exit 130' INT
admin=/var/lib/ballast-admin
ctl() { ballastctl --server "$BALLAST_NODES" --ca "$admin/ca.pem" --cert "$admin/admin.pem" --cert-key "$admin/admin.key" "$@"; }

tries=0
until [ -e "$admin/admin.pem" ] && ctl node list 2>/dev/null | grep -q witness; do
    tries=$((tries + 1))
    [ "$tries" -lt 120 ] || { echo "setup: the cluster does not form" >&2; exit 1; }
    sleep 1
done
# A witness is for voting; which nodes came first should not matter.
ctl node promote witness --message "compose: a witness is for voting"
code=0
sed "s/NET/$BALLAST_NET/g" /site/shop.yaml | ctl apply -f - --expect 0 --wait --message "compose: the shop" || code=$?
case $code in
0) echo "setup: the shop is open" ;;
4) echo "setup: the cluster has a document already, which stays" ;;
*) exit "$code" ;;
esac
