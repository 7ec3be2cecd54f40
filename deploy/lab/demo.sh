#!/usr/bin/env bash
# The main job from beginning to end on a lab of two sites, on this machine: installs what is missing, builds, tells the story
# and checks every claim, takes the lab down. Ends with 0 only when every claim held.
#
#   --keep        leave the lab running and say how to use it
#   --simulated   the same story without root and without a hypervisor; it shows the flow, not that machines come up
set -euo pipefail
cd "$(dirname "$0")/../.."

arguments=()
simulated=
for argument in "$@"; do
    case $argument in
    --keep) arguments+=(--keep) ;;
    --simulated) simulated=yes ;;
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "demo: unknown argument $argument (see --help)" >&2
        exit 2
        ;;
    esac
done

if [[ -n $simulated ]]; then
    command -v cargo >/dev/null || {
        echo "demo: cargo was not found; install Rust (https://rustup.rs)" >&2
        exit 1
    }
    # The agent has both drivers, and is linked with libvirt's library whichever it uses.
    pkg-config --exists libvirt 2>/dev/null || {
        echo "demo: building needs libvirt's library and headers; on Debian: apt-get install libvirt-dev pkg-config gcc" >&2
        exit 1
    }
    cargo build --quiet --workspace --bins
    exec target/debug/understudy-lab simulated ${arguments[@]+"${arguments[@]}"}
fi

deploy/lab/install.sh || {
    echo "demo: this machine cannot run the lab as it is (see above); 'deploy/lab/demo.sh --simulated' needs none of it" >&2
    exit 1
}
cargo build --quiet --workspace --bins
target/debug/understudy-lab preflight || {
    echo "demo: 'deploy/lab/demo.sh --simulated' tells the same story without all that" >&2
    exit 1
}
# What an earlier demonstration may have left behind.
deploy/lab/down.sh demo
exec target/debug/understudy-lab demo ${arguments[@]+"${arguments[@]}"}
