// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Names the functions that addresses are in, as the kernel itself does in a backtrace: /proc/kallsyms shows addresses
 * to those with CAP_SYSLOG only. Runs when user space reads the iterator. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define ASKED 32 /* addresses at a time */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ASKED);
	__type(key, u32);
	__type(value, u64);
} asked SEC(".maps");

SEC("iter/bpf_map")
int name_symbols(struct bpf_iter__bpf_map *context)
{
	struct seq_file *out = context->meta->seq;

	if (context->map)
		return 0;
	/* After the last one: once. */
	for (u32 index = 0; index < ASKED; index++) {
		u32 key = index;
		u64 *address = bpf_map_lookup_elem(&asked, &key);

		if (!address || !*address)
			break;
		BPF_SEQ_PRINTF(out, "%pB\n", *address);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
