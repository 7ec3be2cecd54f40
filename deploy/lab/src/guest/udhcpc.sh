#!/bin/busybox sh
# Called by udhcpc: puts the leased address on the interface and leaves it where the HTTP page finds it.
export PATH=/bin
case $1 in
deconfig)
    ip address flush dev "$interface"
    rm -f /run/address
    ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    [ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
    echo "$ip" >/run/address
    # Neighbours that asked in vain, or knew the machine elsewhere before it moved, need not wait for their next question.
    echo "understudy-lab-guest: address $ip, $(cut -d ' ' -f 1 /proc/uptime) s after boot" >/dev/console
    arping -q -U -c 1 -I "$interface" "$ip"
    ;;
esac
