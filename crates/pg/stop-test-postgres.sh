#!/bin/sh
# Stops and removes the Postgres that `TestDatabase` shares between test processes of this user.
set -eu
directory="${TMPDIR:-/tmp}/understudy-test-postgres-$(id -u)"
pid="$directory/data/postmaster.pid"
if [ -f "$pid" ]; then
    kill -INT "$(head -n 1 "$pid")" 2>/dev/null || true
    # Postgres removes the file as the last thing it does.
    for _ in $(seq 100); do
        [ -f "$pid" ] || break
        sleep 0.1
    done
fi
rm -rf -- "$directory"
