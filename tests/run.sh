#!/usr/bin/env bash
# Installs what is missing and passes all tests: pure crates, services against a real Postgres, drivers against a real libvirt, and
# the lifecycle of real guests on the lab. Needs root on Debian 12. Arguments go to `cargo test`, such as `-p understudy-netplan`.
set -euo pipefail
cd "$(dirname "$0")/.."

labs() { ip netns list 2>/dev/null | sed -n 's/^uslab-\([a-z0-9]*\)-.*/\1/p' | sort -u; }

deploy/lab/install.sh
# Labs that somebody else has on this machine are left alone.
others=$(labs)
# The lifecycle tests start the programs of other crates.
cargo build --quiet --workspace --bins

run=(cargo test --quiet --no-fail-fast)
kinds=(--lib --bins --tests)
status=0
if [[ $# -gt 0 ]]; then
    "${run[@]}" "${kinds[@]}" "$@" || status=$?
else
    "${run[@]}" "${kinds[@]}" --workspace --no-run
    # Guests in labs mostly wait, so the other tests run beside them, on what processor time they leave; but for those of job-tracker, which
    # judge times, and come by themselves. Each part is selected from the whole workspace: with fewer packages cargo would build
    # dependencies anew, with other features.
    others_said=$(mktemp)
    nice -n 10 "${run[@]}" "${kinds[@]}" --workspace --exclude understudy-lifecycle-tests --exclude understudy-job-tracker \
        >"$others_said" 2>&1 &
    beside=$!
    "${run[@]}" --workspace --test faults --test main_job --test main_job_simulated || status=$?
    wait "$beside" || status=$?
    "${run[@]}" --workspace --lib --test tracker --test example_config || status=$?
    cat "$others_said"
    rm "$others_said"
fi

crates/pg/stop-test-postgres.sh
# A test takes its lab down whatever way it ends, unless it was killed.
mapfile -t left < <(comm -13 <(echo "$others") <(labs))
if [[ ${#left[@]} -gt 0 ]]; then deploy/lab/down.sh "${left[@]}"; fi
exit $status
