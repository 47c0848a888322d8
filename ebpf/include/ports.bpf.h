/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which of a flow's two ports says what the flow is: the other one is folded, that is stored as 0, so that a client and
 * a service are one flow however many connections they make.
 *
 * Both ends of a flow, and every node, must fold alike. A port that answered a SYN is a service's and is kept. Where
 * that is not known, the higher port is folded if it is 32768 or more. Only what that rule gets wrong needs to be
 * remembered: services on high ports, and those with clients on low ones (service.bpf.c).
 */
#ifndef DOLPHIN_PORTS_BPF_H
#define DOLPHIN_PORTS_BPF_H

#include "flow.bpf.h"

/* Two ports, the pod's own in the upper half. */
#define KEEP_LOCAL    0xFFFF0000u
#define KEEP_REMOTE   0x0000FFFFu
#define ANY_EPHEMERAL 0x80008000u

#define MAX_SERVICES 8192

struct service {
	u64 address[2]; /* an IPv4 address in the first four bytes, then zeros */
	u32 port;
	u32 family;
};

/* When it is full, the service longest unused falls back to the rule. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SERVICES);
	__type(key, struct service);
	__type(value, u32);
} services SEC(".maps");

/* The word of state.services that has a port's bit. */
static __always_inline u64 *service_word(u32 port)
{
	/* The verifier loses the bound of a byte swap, and the compiler would leave out the mask as it knows it. */
	asm volatile("" : "+r"(port));
	return &state.services[(port >> 6) & (PORT_WORDS - 1)];
}

static __always_inline bool may_be_service(u16 port)
{
	return *service_word(port) >> (port & 63) & 1;
}

static __always_inline bool is_service(const u64 *address, enum family family, u16 port)
{
	struct service key = {.port = port, .family = family};

	if (!may_be_service(port))
		return false;
	key.address[0] = address[0];
	if (family == FAMILY_IPV6)
		key.address[1] = address[1];
	return bpf_map_lookup_elem(&services, &key);
}

/* The ends of a TCP flow whose ports answered a SYN, as a mask; 0 when neither is known to, or both are. `key` has the
 * addresses from its second word on. */
static __always_inline u32 known_service(const u64 *key, enum family family, u32 ports)
{
	u64 local[2], remote[2];

	if (family == FAMILY_IPV4) {
		local[0] = (u32)key[1];
		remote[0] = key[1] >> 32;
	} else {
		local[0] = key[1];
		local[1] = key[2];
		remote[0] = key[3];
		remote[1] = key[4];
	}

	bool here = is_service(local, family, ports >> 16);
	bool there = is_service(remote, family, ports);

	return here == there ? 0 : here ? KEEP_LOCAL : KEEP_REMOTE;
}

static __always_inline u32 fold_by_number(u32 ports)
{
	u32 local = ports >> 16, remote = ports & KEEP_REMOTE;

	if (!(ports & ANY_EPHEMERAL) || local == remote)
		return ports;
	return local > remote ? remote : ports & KEEP_LOCAL;
}

static __always_inline u32 fold_tcp(const u64 *key, enum family family, u32 ports)
{
	u32 keep = state.services_known ? known_service(key, family, ports) : 0;

	return keep ? ports & keep : fold_by_number(ports);
}

#endif
