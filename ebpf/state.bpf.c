// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Creates the shared maps; no programs. Every other object gets these maps before it loads. */
#include "address.bpf.h"
#include "failure.bpf.h"

/* Keep the types in the object's BTF, where tests/bpf/test_layouts.py compares them with Python's. */
const volatile enum kind kinds SEC(".rodata.types");
const volatile enum family families SEC(".rodata.types");
const volatile enum record records SEC(".rodata.types");
const volatile enum direction directions SEC(".rodata.types");
const volatile enum failure failures SEC(".rodata.types");
const struct flow4 *const volatile flow4 SEC(".rodata.types");
const struct flow6 *const volatile flow6 SEC(".rodata.types");
const struct sample4 *const volatile sample4 SEC(".rodata.types");
const struct sample6 *const volatile sample6 SEC(".rodata.types");
const struct flow_table *const volatile flow_table SEC(".rodata.types");
const struct event *const volatile event SEC(".rodata.types");
const struct events *const volatile events SEC(".rodata.types");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
