#!/bin/sh
# Process 1 of the guest, from the initramfs: mounts the machine's files as root, then hands over to guest.sh.
# Runs in busybox. Whatever fails ends the guest without an exit status, which the harness reports as lost.

/bin/busybox --install -s /bin
export PATH=/bin

fail() {
    echo "init: $*" >/dev/console
    reboot -f
}

transport=trans=virtio,version=9p2000.L,msize=512000
# Writable for tests, empty at every boot. Paths below them are those of the guest, not of the machine.
scratch="/tmp /run /var/tmp"

for module in /modules/*.ko; do
    insmod "$module" || fail "cannot load $module"
done

# cache=loose: the machine's files are taken not to change while the guest runs.
mount -t 9p -o "ro,cache=loose,$transport" machine /lower || fail "cannot mount the machine's files"
mount -t 9p -o "ro,cache=loose,$transport" root /root || fail "cannot mount the root"
mount -t 9p -o "rw,cache=none,$transport" exchange /exchange || fail "cannot mount the exchange directory"
for directory in $scratch; do
    mount -t tmpfs -o mode=1777 tmpfs "/root$directory" || fail "cannot make $directory writable"
done

# Directories of the machine that the guest needs and its root lacks: the scratch ones hide them (the source tree or the
# cache may be in /tmp), or it is another root.
while read -r kept; do
    mkdir -p "/root$kept"
    if [ -z "$(ls -A "/root$kept")" ]; then
        mount --bind "/lower$kept" "/root$kept" || fail "cannot bring in $kept"
    fi
done </exchange/keep

mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/run/dolphin-vm/exchange
# As udev has it: without it 5.10 does not run programs by their descriptor (fexecve, so runc), since TOMOYO, which is
# on in Debian's, looks them up there.
ln -s /proc/self/fd /root/dev/fd
mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
mount -t bpf bpf /root/sys/fs/bpf || fail "no BPF file system"
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup || fail "no cgroup2"
mount -t tracefs tracefs /root/sys/kernel/tracing || fail "no tracefs"
mount --move /exchange /root/run/dolphin-vm/exchange
ip link set lo up

# By process 1 itself, not a child: the kernel's own helpers (modprobe) take their root from it.
. /root/run/dolphin-vm/exchange/settings
exec switch_root /root /bin/sh "$guest_script"
