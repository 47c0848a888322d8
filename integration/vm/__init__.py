"""Boots Debian's stock kernels under QEMU's emulation, with this machine's files as root."""
