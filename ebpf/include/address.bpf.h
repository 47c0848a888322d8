/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose a packet is by its addresses, where its namespace does not say it: in the node's own one, all pods' pass. */
#ifndef DOLPHIN_ADDRESS_BPF_H
#define DOLPHIN_ADDRESS_BPF_H

#include "state.bpf.h"

#define ADDRESSES   (2 * SLOTS) /* one of each family */
#define IPV4_MAPPED 0xFFFF0000u /* ::ffff:0:0/96: the second half of an address, as it is in memory */

struct address {
	u64 words[2]; /* an IPv4 address is ::ffff:a.b.c.d */
};

/* Address -> number of the pod's namespace, so that what is forgotten of the namespace is forgotten here. Empty unless
 * somebody wants what is looked up here. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES);
	__type(key, struct address);
	__type(value, u32);
} addresses SEC(".maps");

/* The pod that has an address, and what it wants among `kinds`. */
static __always_inline struct pod pod_at(const struct address *address, u32 kinds)
{
	u32 *number = bpf_map_lookup_elem(&addresses, address);

	return number ? pod_numbered(*number, kinds) : (struct pod){};
}

#endif
