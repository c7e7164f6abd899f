#!/bin/sh
# In a fresh Debian 12: an older package is installed and upgraded; the package is used, removed and purged. Ends at the
# first failure.
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

everything >/root/before

step an older version, its configuration changed by the administrator
dpkg-deb -R /root/plywood.deb /root/older
sed -i 's/^Version: .*/Version: 0.0.1/' /root/older/DEBIAN/control
echo '# from an older version' >>/root/older/etc/plywood/config.toml
dpkg-deb -b /root/older /root/older.deb >/dev/null
dpkg -i /root/older.deb
echo '# mine' >>/etc/plywood/config.toml

step upgrade
dpkg --force-confdef --force-confold -i /root/plywood.deb
[ "$(tail -n 1 /etc/plywood/config.toml)" = '# mine' ] || fail "the configuration was overwritten"
[ -f /etc/plywood/config.toml.dpkg-dist ] || fail "the new configuration is not beside the changed one"

step a fresh installation
dpkg -P plywood
everything >/root/after
diff /root/before /root/after || fail "something was left"
dpkg -i /root/plywood.deb
[ -z "$(dpkg --verify plywood)" ] || fail "files differ from the package's"
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
plywood config show >/root/config 2>/root/complaints
[ ! -s /root/complaints ] || { cat /root/complaints >&2; fail "the configuration is complained about"; }
grep -q '/run/plywood' /root/config || fail "config show does not know the run directory"
! grep -v '^KEY' /root/config | grep -qv 'default$' || fail "the packaged configuration is not the default one"
sed 's/^# *level = .*/level = "debug"/' /etc/plywood/config.toml >/root/debug.toml
plywood config show --config /root/debug.toml | grep -q '"debug".*/root/debug.toml' ||
    fail "what the packaged configuration names is not taken in"

step manual
pages=0
for page in $(dpkg -L plywood | grep '^/usr/share/man/.'); do
    [ -f "$page" ] || continue
    pages=$((pages + 1))
    lexgrog "$page" >/dev/null || fail "$page has no name and purpose"
    complaints=$(man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null)
    [ -z "$complaints" ] || fail "man: $complaints"
    # Breaks beside blank lines are the generator's.
    complaints=$(mandoc -Tlint -W warning "$page" | grep -v 'skipping paragraph macro' || true)
    [ -z "$complaints" ] || fail "$complaints"
done
for page in plywood plywood-serve plywood-image-import; do
    man "$page" | grep -q NAME || fail "no manual page $page"
done
echo "$pages pages"

step completions
bash -c '. /usr/share/bash-completion/completions/plywood && complete -p plywood' >/dev/null || fail "bash cannot complete"
zsh -fc 'autoload -U compinit && compinit -u -D && [[ $_comps[plywood] = _plywood ]]' || fail "zsh cannot complete"
fish -c 'complete -C "plywood ser"' | grep -q '^serve' || fail "fish cannot complete"

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
plywood snapshot prepare left-over >/dev/null
plywood mount trial:1 /mnt
kill $daemon
wait $daemon || fail "the daemon ended with $?"
[ -x /mnt/bin/sh ] || fail "the mount went away with the daemon"

step remove
echo '# mine' >>/etc/plywood/config.toml
dpkg -r plywood
[ ! -e /usr/bin/plywood ] || fail "the program is still there"
grep -q '# mine' /etc/plywood/config.toml || fail "the configuration is gone"
[ -d /var/lib/plywood/layers ] || fail "the store is gone"
[ -x /mnt/bin/sh ] || fail "the mount is gone"

step purge beside something that is in use
dpkg -P plywood 2>&1 | tee /root/purge
grep -q '/var/lib/plywood stays' /root/purge || fail "nobody is told that the store stays"
[ -d /var/lib/plywood/layers ] || fail "the store is gone"
[ -x /mnt/bin/sh ] || fail "the mount is gone"

step purge
umount /mnt
dpkg -i /root/plywood.deb
dpkg -P plywood
everything >/root/after
diff /root/before /root/after || fail "something was left"
