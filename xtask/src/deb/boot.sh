#!/bin/sh
# Boots the root in $1 with its own systemd, which runs /root/booted.sh and ends. All is in namespaces that end with it.
set -eu
root=$1
name=plywood-trial

# systemd wants cgroups of its own: version 2, or version 1 with its named hierarchy.
cgroups=$(findmnt -rno TARGET -t cgroup2; findmnt -rno TARGET -t cgroup -O name=systemd || true)
cat >"$root/etc/systemd/system/trial.service" <<UNIT
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'sh /root/booted.sh >/root/log 2>&1; echo \$\$? >/root/result; systemctl exit 0'
UNIT
mkdir -p "$root/etc/systemd/system/basic.target.wants"
ln -sf ../trial.service "$root/etc/systemd/system/basic.target.wants/trial.service"
(
    for cgroup in $cgroups; do
        mkdir -p "$cgroup/$name"
        sh -c 'echo $PPID >"$1"' sh "$cgroup/$name/cgroup.procs"
    done
    exec timeout --signal=KILL 300 unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net \
        --propagation private sh -ec '
        mount --bind "$1" "$1"
        cd "$1"
        mount -t proc proc proc
        mount --bind -o ro proc/sys proc/sys
        mount -t sysfs -o ro sysfs sys
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            mount -t cgroup2 cgroup2 sys/fs/cgroup
        else
            mount -t tmpfs -o mode=0755 tmpfs sys/fs/cgroup
            mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
            mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
            mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
        fi
        mount -t tmpfs -o mode=0755 tmpfs run
        mount -t tmpfs -o mode=0755 tmpfs dev
        mkdir dev/pts dev/shm
        for node in null zero full random urandom tty; do cp -a "/dev/$node" dev/; done
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        hostname trial
        exec setpriv --bounding-set=-sys_boot,-sys_module,-sys_time \
            env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            chroot . /lib/systemd/systemd --log-target=console --show-status=false
    ' boot "$root"
) || true
for cgroup in $cgroups; do
    find "$cgroup/$name" -depth -type d -exec rmdir {} + || true
done
cat "$root/root/log"
[ "$(cat "$root/root/result")" = 0 ]
