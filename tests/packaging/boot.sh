#!/bin/sh
# Boots systemd as the first process in its own namespaces, from a read-only tree:
#
#     unshare --mount --pid --fork --kill-child --cgroup --net --ipc --uts boot.sh TREE SCRATCH HS100D UNIT
#
# TREE is `/`, or the root of a Debian as debootstrap makes it. SCRATCH is an empty folder. The only network is loopback.
set -eu
tree=$1 scratch=$2 program=$3 unit=$4

mount --make-rprivate /
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root" "$scratch/library"
# If the program needs a newer C library than the tree has, it uses that of this machine.
if [ "$tree" != / ]; then
    ldd "$program" | grep -o '/[^ ]*' | xargs -I{} cp -L {} "$scratch/library"
fi
mount -t overlay -o "lowerdir=$tree,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
root=$scratch/root

mkdir -p "$root/usr/bin" "$root/opt" "$root/etc/systemd/system"
rm -rf "$root/etc/hs100d" "$root/var/lib/hs100d" "$root/var/lib/private/hs100d" "$root/var/log/journal"
: >"$root/etc/fstab"
for service in systemd-sysctl systemd-modules-load modprobe@ systemd-remount-fs; do
    ln -sf /dev/null "$root/etc/systemd/system/$service.service"
done
cp "$program" "$root/usr/bin/hs100d"
if [ "$tree" = / ]; then
    cp "$unit" "$root/etc/systemd/system/hs100d.service"
else
    cp -r "$scratch/library" "$root/opt/hs100d"
    start="/opt/hs100d/ld-linux-x86-64.so.2 --library-path /opt/hs100d /usr/bin/hs100d"
    sed "s#^ExecStart=/usr/bin/hs100d#ExecStart=$start#" "$unit" >"$root/etc/systemd/system/hs100d.service"
fi

mount -t proc proc "$root/proc"
# Kernel settings are read-only.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

cd "$root"
mkdir -p run/old
pivot_root . run/old
umount -l /run/old
# systemd shares its mounts with its services, except in what it takes for a container.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$(ls /usr/lib/systemd/systemd /lib/systemd/systemd 2>/dev/null | head -n 1)" \
    --show-status=no --unit=sysinit.target
