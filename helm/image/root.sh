#!/bin/sh
# Lays out the image's root for TARGETARCH: Debian packages, unpacked, and the agent with what it imports. Nothing of it
# is run, so that any machine can build for any other.
#
#     helm/image/root.sh DIRECTORY        from the source tree, in Debian 12, as root, with what the Dockerfile installs
set -eu
root=$1
source=$(pwd)
python=python3.11
case ${TARGETARCH:=} in
amd64) machine=x86_64 ;;
arm64) machine=aarch64 ;;
*) echo "TARGETARCH \"$TARGETARCH\": allowed: amd64, arm64" >&2; exit 1 ;;
esac
work=$(mktemp -d)

packages() {
	dpkg --add-architecture "$TARGETARCH"
	apt-get -q -q update
	cd "$work"
	sed "/^#/d; s/\$/:$TARGETARCH/" "$source/helm/image/packages" | xargs apt-get -q -q -o APT::Sandbox::User=root download
	mkdir -p "$root/var/lib/dpkg"
	for package in *.deb; do
		dpkg-deb -x "$package" "$root"
		# As dpkg writes it: what scanners of images read.
		{ dpkg-deb -f "$package"; echo "Status: install ok installed"; echo; } >> "$root/var/lib/dpkg/status"
	done
	cd "$source"
	ln -s "$python" "$root/usr/bin/python3"
	echo "hosts: files dns" > "$root/etc/nsswitch.conf"
	echo "root:x:0:0:root:/:/usr/sbin/nologin" > "$root/etc/passwd"
	echo "root:x:0:" > "$root/etc/group"
}

agent() {
	site="$root/usr/local/lib/$python/dist-packages"
	ARCH=$machine $python -m pip wheel --quiet --no-deps --wheel-dir "$work" .
	$python -m pip install --quiet --root-user-action=ignore --no-compile --target "$site" --only-binary=:all: \
		--implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
		--platform "linux_$machine" --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" \
		--platform "manylinux_2_28_$machine" "$work"/dolphin_agent-*.whl
	mv "$site/bin/dolphin-agent" "$root/usr/bin/"
	rm -r "$site/bin"
}

# What nothing here can use. Licences stay.
prune() {
	find "$root/usr/share" -type f ! -name copyright -delete
	find "$root/usr/share" -type l -delete
	find "$root" -type d -path "*-linux-gnu/gconv" -exec rm -r {} +
	cd "$root/usr/lib/$python"
	rm -r pydoc_data test
	# Their libraries are not in helm/image/packages.
	rm lib-dynload/_crypt.* lib-dynload/_curses* lib-dynload/_dbm.* lib-dynload/_sqlite3.* lib-dynload/nis.* \
		lib-dynload/readline.*
	cd "$source"
	find "$root/usr/local" -type d -name tests -prune -exec rm -r {} +
	find "$root/usr/local" -name "*.so" -exec llvm-strip -g {} +
}

packages
agent
prune
# The root is read-only, so this is when bytecode can be written, and its sources do not change.
$python -m compileall -q -s "$root" --invalidation-mode unchecked-hash "$root/usr/lib/$python" "$root/usr/local/lib"
find "$root" -type d -empty -path "*/usr/share/*" -delete
mkdir -p "$root/proc" "$root/sys" "$root/dev"
chmod -R a-w "$root"
rm -r "$work"
