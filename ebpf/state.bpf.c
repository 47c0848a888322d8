// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Creates the shared maps; no programs. Every other object gets these maps before it loads. */
#include "state.bpf.h"

/* Keeps the enums in the object's BTF, where tests/bpf/test_layouts.py compares them with Python's. */
const volatile enum kind kinds;
const volatile enum family families;

char LICENSE[] SEC("license") = "Dual BSD/GPL";
