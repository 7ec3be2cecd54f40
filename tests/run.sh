#!/usr/bin/env bash
# Installs what is missing and passes all tests: pure crates, services against a real Postgres, drivers against a real libvirt, and
# the lifecycle of real guests on the lab. Needs root on Debian 12. Arguments go to `cargo test`, such as `-p understudy-netplan`.
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/lab/install.sh
# What an earlier run that was killed may have left behind.
deploy/lab/down.sh
# The lifecycle tests start the programs of other crates.
cargo build --quiet --workspace --bins

selection=("$@")
[[ ${#selection[@]} -gt 0 ]] || selection=(--workspace)
status=0
cargo test --quiet --no-fail-fast --lib --bins --tests "${selection[@]}" || status=$?
crates/pg/stop-test-postgres.sh
deploy/lab/down.sh
exit $status
