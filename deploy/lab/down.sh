#!/usr/bin/env bash
# Takes labs down: `down.sh` all of them, `down.sh ID...` only those. Needs nothing but bash and iproute2, trusts no
# pidfile, and may be run at any time: after a crash half way, twice, or when there is no lab at all.
#
#   processes    those in a network namespace of the lab, or started by it (marked in their environment)
#   namespaces   uslab-ID-*, and those that agents made for test networks
#   mounts       below the lab's directory
#   files        the lab's directory
#
# Everything of a lab is found by its id, so that labs of other ids are left alone.
set -uo pipefail

base=${UNDERSTUDY_LAB_ROOT:-/var/lib/understudy-lab}
[[ $EUID -eq 0 ]] || {
    echo "down: only root can take a lab down" >&2
    exit 1
}

lab_namespaces() { ip netns list 2>/dev/null | awk -v prefix="uslab-$1-" 'index($1, prefix) == 1 {print $1}'; }

# This script and those who called it carry the lab's mark perhaps, but must not die of it.
is_caller() {
    local pid=$$
    while [[ $pid -gt 1 ]]; do
        [[ $pid -ne $1 ]] || return 0
        pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null) || return 1
        [[ -n $pid ]] || return 1
    done
    return 1
}

# Prints the inode of a process's network namespace, and whether its environment has the lab's mark, for each process.
marked_networks() {
    local id=$1 directory network
    for directory in /proc/[0-9]*; do
        network=$(readlink "$directory/ns/net" 2>/dev/null) || continue
        network=${network//[^0-9]/}
        if grep -qzx "UNDERSTUDY_LAB_OWNED=$id" "$directory/environ" 2>/dev/null; then
            echo "${directory#/proc/} $network marked"
        else
            echo "${directory#/proc/} $network -"
        fi
    done
}

# A program that clears its environment is known by its network. A network may have lost its name already; then it is
# known by the marked processes in it, except where that is the network of this script: somebody may have entered it.
lab_processes() {
    local id=$1 name pid network mark all own
    declare -A ours=()
    all=$(marked_networks "$id")
    own=$(readlink /proc/self/ns/net)
    for name in $(lab_namespaces "$id"); do
        network=$(stat -L -c %i "/run/netns/$name" 2>/dev/null) && ours[$network]=yes
    done
    while read -r pid network mark; do
        [[ $mark != marked || $network == "${own//[^0-9]/}" ]] || ours[$network]=yes
    done <<<"$all"
    while read -r pid network mark; do
        if [[ $mark == marked || -n ${ours[$network]:-} ]] && ! is_caller "$pid"; then echo "$pid"; fi
    done <<<"$all"
}

kill_processes() {
    local id=$1 pids deadline=$((SECONDS + 20))
    # Again until none is left: one of them may have started another while being looked for.
    while pids=$(lab_processes "$id"); [[ -n $pids ]]; do
        # shellcheck disable=SC2086 # a list of numbers
        kill -KILL $pids 2>/dev/null
        [[ $SECONDS -lt $deadline ]] || {
            echo "down: these processes of lab $id do not die:" $pids >&2
            return 1
        }
        sleep 0.05
    done
}

unmount_below() {
    local directory=$1 mounted
    awk -v below="$directory/" 'index($5, below) == 1 {print $5}' /proc/self/mountinfo | sort -r |
        while read -r mounted; do umount -l "$(printf '%b' "$mounted")"; done
}

# Killed outright, Postgres would leave a segment of shared memory behind; told to quit at once, it takes it along.
stop_postgres() {
    local id=$1 pid deadline=$((SECONDS + 5))
    pid=$(head -n 1 "$base/$id/control/pg/data/postmaster.pid" 2>/dev/null) || return 0
    lab_processes "$id" | grep -qx "$pid" || return 0
    kill -QUIT "$pid" 2>/dev/null
    while [[ -d /proc/$pid && $SECONDS -lt $deadline ]]; do sleep 0.05; done
}

# Where an agent of the lab keeps what its driver knows is the last part of the names of its test networks' namespaces, as the beginning
# of a UUID of version 5 (name space OID).
test_namespaces() {
    local id=$1 state oid='\x6b\xa7\xb8\x12\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8' digest
    for state in "$base/$id"/*/agent; do
        [[ -d $state ]] || continue
        digest=$({ printf '%b' "$oid" && printf '%s' "$state/hypervisor"; } | sha1sum | cut -c 1-8)
        ip netns list 2>/dev/null | awk -v host="$digest" '$1 ~ "^understudy-u[tp]-[0-9a-f]*-" host "$" {print $1}'
    done
}

down() {
    local id=$1 name failed=0
    stop_postgres "$id"
    kill_processes "$id" || failed=1
    for name in $(lab_namespaces "$id") $(test_namespaces "$id"); do ip netns delete "$name" || failed=1; done
    unmount_below "$base/$id"
    rm -rf --one-file-system "${base:?}/$id" || failed=1
    return $failed
}

if [[ $# -gt 0 ]]; then
    ids=("$@")
else
    mapfile -t ids < <(
        {
            [[ ! -d $base ]] || find "$base" -mindepth 1 -maxdepth 1 -type d -printf '%f\n'
            ip netns list 2>/dev/null | sed -n 's/^uslab-\([a-z0-9]*\)-.*/\1/p'
        } | sort -u
    )
fi

status=0
for id in "${ids[@]}"; do
    [[ $id =~ ^[a-z0-9]{1,12}$ ]] || {
        echo "down: $id is not the id of a lab (1 to 12 of a-z, 0-9)" >&2
        status=1
        continue
    }
    down "$id" || status=1
done
[[ ! -d $base ]] || rmdir --ignore-fail-on-non-empty "$base"
exit $status
