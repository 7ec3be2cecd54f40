#!/usr/bin/env bash
# Installs what the lab needs on Debian 12: packages, and a guest kernel unpacked into a cache. Run again it finds
# everything in place and is done in a moment. Nothing is started and no service is needed afterwards.
set -euo pipefail

cache=${UNDERSTUDY_LAB_CACHE:-/var/cache/understudy-lab}
rust_minimum=1.95
packages=(
    qemu-system-x86 qemu-utils libvirt-daemon-system libvirt-clients libvirt-dev dnsmasq-base
    iproute2 nftables iptables iputils-ping ethtool procps kmod tini
    busybox-static cpio syslinux mtools dosfstools fdisk e2fsprogs xfsprogs strace qemu-guest-agent
    postgresql bind9 bind9-dnsutils pkg-config gcc libc6-dev curl ca-certificates
)
# Insertion order; the guest's init follows it.
modules=(
    virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
    failover net_failover virtio_net evdev button virtio_console
)

say() { printf 'install: %s\n' "$*"; }
fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

check_rust() {
    local version
    version=$(cargo --version 2>/dev/null | awk '{print $2}') || true
    [[ -n $version ]] || fail "cargo was not found. Install Rust $rust_minimum or later (https://rustup.rs) and put ~/.cargo/bin on the PATH."
    [[ $(printf '%s\n' "$rust_minimum" "$version" | sort -V | head -n 1) == "$rust_minimum" ]] ||
        fail "cargo $version is too old; Rust $rust_minimum or later is needed. With rustup: rustup update stable."
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | head -n 1) == installed ]]; }

# A newer qemu-utils from backports makes apt choose between qemu-img and the emulator; both are pinned to the version
# in which both are to be had.
pinned() {
    local version
    case $1 in
    qemu-system-x86 | qemu-utils)
        version=$(apt-cache policy qemu-system-x86 | awk '/Candidate:/ {print $2}')
        echo "$1=$version"
        ;;
    *) echo "$1" ;;
    esac
}

install_packages() {
    local missing=() wanted=() package
    for package in "${packages[@]}"; do
        installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    [[ $EUID -eq 0 ]] || fail "these packages are missing and only root can install them: ${missing[*]}"
    command -v apt-get >/dev/null || fail "apt-get was not found; on this system install by hand: ${missing[*]}"
    say "missing: ${missing[*]}"
    apt-get update -qq
    case " ${missing[*]} " in
    *" qemu-"*) missing+=(qemu-system-x86 qemu-utils) ;;
    esac
    for package in "${missing[@]}"; do wanted+=("$(pinned "$package")"); done
    # Run level 1 keeps the packages' scripts from starting daemons, except under systemd. The lab runs its own and does
    # not mind others.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --allow-downgrades \
        "${wanted[@]}" >/dev/null
}

# Prints the package that the current cloud kernel is in; nothing while apt has no lists.
kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ && !seen++ {print $2}' || true; }

install_kernel() {
    local package work name wanted
    wanted=$(printf '%s\n' "${modules[@]}")
    # A kernel that was unpacked when the list was shorter is unpacked anew.
    [[ ! -e $cache/kernel/vmlinuz || $(cat "$cache/kernel/modules/order") != "$wanted" ]] || return 0
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/unpack.XXXXXX")
    # shellcheck disable=SC2064 # the directory of now is meant
    trap "rm -rf '$work'" EXIT
    package=$(kernel_package)
    if [[ -z $package ]]; then
        apt-get update -qq
        package=$(kernel_package)
    fi
    [[ -n $package ]] || fail "no guest kernel: apt knows no linux-image-cloud-amd64 (Debian 12 main is needed in the sources)"
    say "guest kernel: $package"
    # apt drops its rights for downloads and would complain about a directory of root's.
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    dpkg -x "$work"/*.deb "$work/root"
    mkdir -p "$work/kernel/modules"
    cp "$work"/root/boot/vmlinuz-* "$work/kernel/vmlinuz"
    for name in "${modules[@]}"; do
        find "$work/root/lib/modules" -name "$name.ko" -exec cp {} "$work/kernel/modules/" \;
        [[ -e $work/kernel/modules/$name.ko ]] || fail "$package has no module $name"
    done
    printf '%s\n' "$wanted" >"$work/kernel/modules/order"
    chmod -R go+rX "$work/kernel"
    # The directory appears whole or not at all, so that an interrupted run is simply run again.
    [[ ! -e $cache/kernel ]] || mv -T "$cache/kernel" "$work/before"
    mv -T "$work/kernel" "$cache/kernel"
}

check_rust
install_packages
install_kernel
say "everything is in place"
