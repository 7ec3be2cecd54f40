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

selection=("$@")
[[ ${#selection[@]} -gt 0 ]] || selection=(--workspace)
status=0
cargo test --quiet --no-fail-fast --lib --bins --tests "${selection[@]}" || status=$?

crates/pg/stop-test-postgres.sh
# A test takes its lab down whatever way it ends, unless it was killed.
mapfile -t left < <(comm -13 <(echo "$others") <(labs))
if [[ ${#left[@]} -gt 0 ]]; then deploy/lab/down.sh "${left[@]}"; fi
exit $status
