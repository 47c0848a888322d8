#!/bin/sh
# Process 1 of the guest once the machine's files are its root: runs the job and brings its exit status out.

base=/run/dolphin-vm
# Sets modules, the directory below which the modules of this kernel are, busybox, and line, that of the job's output.
. "$base/exchange/settings"

# The kernel loads modules on demand through this; everybody else's modprobe obeys MODPROBE_OPTIONS.
printf '#!/bin/sh\nexec /usr/sbin/modprobe -d "%s" "$@"\n' "$modules" >"$base/modprobe"
chmod 755 "$base/modprobe"
echo "$base/modprobe" >/proc/sys/kernel/modprobe
# Asked for by every test; loading them here keeps their time out of the tests' own.
"$base/modprobe" -a veth sch_netem

echo dolphin >/proc/sys/kernel/hostname
# The job's output has a serial line of its own: what it prints is never taken for the kernel's words.
# Through a pipe: on a terminal programs would draw and colour. The status is renamed when complete, as half a
# status is none.
stty -F "/dev/$line" raw -echo
{
    setsid /bin/sh "$base/exchange/job" </dev/null 2>&1
    echo $? >"$base/exchange/status.new"
} | cat >"/dev/$line"
mv "$base/exchange/status.new" "$base/exchange/status"
"$busybox" reboot -f
