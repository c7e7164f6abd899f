#!/bin/sh
# In a fresh Debian 12: the package is installed, used, installed again, removed and purged. Ends at the first failure.
set -eu
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin

step() { echo "-- $*"; }
fail() { echo "error: $*" >&2; exit 1; }
# Everything on the disk but what dpkg and man-db write about themselves.
everything() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache/man \
        -o -path /root \) -prune -o -print | sort
    find /run -xdev -name '*plywood*' | sort
}

step lintian
lintian --fail-on error,warning --allow-root /root/plywood.deb

everything >/tmp.before
mv /tmp.before /root/before

step install
dpkg -i /root/plywood.deb
[ "$(stat -c %a:%U /usr/bin/plywood)" = 755:root ] || fail "the program's mode or owner is wrong"
for link in multi-user.target.wants/plywood.service sockets.target.wants/plywood.socket; do
    [ -L "/etc/systemd/system/$link" ] || fail "$link is not enabled"
done

step the units
systemd-analyze verify plywood.service plywood.socket 2>/root/verify || { cat /root/verify >&2; fail "systemd-analyze refuses them"; }
! grep -i plywood /root/verify || fail "systemd-analyze complains"

step version, doctor, configuration
plywood version
plywood doctor
plywood config show >/root/config
grep -q '/run/plywood' /root/config || fail "config show does not know the run directory"

step manual, completions
for page in plywood plywood-serve plywood-image-import; do
    man "$page" | grep -q NAME || fail "no manual page $page"
done
bash -c '. /usr/share/bash-completion/completions/plywood && complete -p plywood' >/dev/null || fail "bash cannot complete"

step a container, without the daemon
mkdir -p /root/tree/bin
cp /bin/busybox /root/tree/bin/sh
tar -C /root/tree -cf /root/layer.tar .
plywood image import --ref trial:1 /root/layer.tar
[ "$(plywood run trial:1 -- /bin/sh -c 'echo it runs')" = "it runs" ] || fail "the container did not run"

step the daemon
plywood serve 2>/root/serve.log &
daemon=$!
tries=0
until [ -S /run/plywood/plywood.sock ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat /root/serve.log >&2; fail "the daemon did not start"; }
    sleep 0.1
done
[ "$(stat -c %a:%U /run/plywood/plywood.sock)" = 600:root ] || fail "the socket is open to others"
plywood image list | grep -q trial:1 || fail "the daemon does not know the image"
plywood snapshot prepare --parent trial:1 left-over >/dev/null
plywood mount trial:1 /mnt
kill $daemon
wait $daemon || fail "the daemon ended with $?"
[ -x /mnt/bin/sh ] || fail "the mount went away with the daemon"

step install again, with a changed configuration
echo '# mine' >>/etc/plywood/config.toml
dpkg -i /root/plywood.deb
grep -q '# mine' /etc/plywood/config.toml || fail "the configuration was overwritten"

step remove
dpkg -r plywood
[ ! -e /usr/bin/plywood ] || fail "the program is still there"
grep -q '# mine' /etc/plywood/config.toml || fail "the configuration is gone"
[ -d /var/lib/plywood/layers ] || fail "the store is gone"
[ -x /mnt/bin/sh ] || fail "the mount is gone"

step purge
dpkg -P plywood
umount /mnt
everything >/root/after
diff /root/before /root/after || fail "something was left"
