#!/bin/sh
# Under the systemd of a fresh Debian 12: the package's units start, reload, restart and stop the daemon.
set -eu
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

step() { echo "-- systemd: $*"; }
fail() {
    echo "error: $*"
    journalctl --no-pager -u plywood.service -u plywood.socket | tail -n 30
    exit 1
}
process() { systemctl show --property MainPID --value plywood.service; }
# Up to ten seconds, for what systemd does in its own time.
until_active() {
    for _ in $(seq 100); do
        ! systemctl is-active --quiet plywood.service || [ "$(process)" = "${1-0}" ] || return 0
        sleep 0.1
    done
    fail "the daemon is not active"
}

step install
dpkg -i /root/plywood.deb
until_active
systemctl is-active --quiet plywood.socket || fail "the socket is not active"
[ "$(stat -c %a:%U /run/plywood/plywood.sock)" = 600:root ] || fail "the socket is open to others"

step reload
first=$(process)
sed -i 's/^#level = .*/level = "debug"/' /etc/plywood/config.toml
systemctl reload plywood
tar -C /root/tree -cf /root/layer.tar .
plywood image import --ref trial:1 /root/layer.tar
[ "$(process)" = "$first" ] || fail "a reload started another daemon"
journalctl -u plywood.service | grep -q DEBUG || fail "the reload did not change the log"

step a container
[ "$(plywood run trial:1 -- /bin/sh -c 'echo it runs')" = "it runs" ] || fail "the container did not run"
plywood mount trial:1 /mnt

step kill
kill -9 "$first"
until_active "$first"
plywood image list | grep -q trial:1 || fail "the next daemon does not know the image"

step upgrade
second=$(process)
dpkg --force-confold -i /root/plywood.deb
until_active "$second"
[ -x /mnt/bin/sh ] || fail "the mount went away with the daemon"

step stop, and a call
systemctl stop plywood.service
plywood image list | grep -q trial:1 || fail "the socket did not start the daemon"
systemctl is-active --quiet plywood.service || fail "the command did not ask the daemon"

step a configuration that makes no sense
echo 'nonsense = 1' >>/etc/plywood/config.toml
! systemctl restart plywood.service || fail "nonsense was taken"
sleep 2
systemctl is-failed --quiet plywood.service || fail "the daemon is tried again and again"
sed -i '$d' /etc/plywood/config.toml
systemctl restart plywood.service || fail "it does not start any more"

step remove
dpkg -r plywood
! grep -l '^plywood$' /proc/[0-9]*/comm || fail "the daemon still runs"
[ -x /mnt/bin/sh ] || fail "the mount went away with the package"
umount /mnt
dpkg -P plywood
[ ! -e /var/lib/plywood ] || fail "the store is still there"
