/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Facts about TCP sockets for hooks that have no packet to look at. */
#ifndef DOLPHIN_TCP_BPF_H
#define DOLPHIN_TCP_BPF_H

#include "ports.bpf.h"

#define AF_INET6 10

static __always_inline bool after(u32 a, u32 b)
{
	return (s32)(b - a) < 0;
}

/* The family of a socket's packets: an AF_INET6 socket with a v4-mapped peer sends IPv4. */
static __always_inline enum family family_of(struct sock_common *common)
{
	if (common->skc_family != AF_INET6)
		return FAMILY_IPV4;

	__be32 *daddr = common->skc_v6_daddr.in6_u.u6_addr32;
	bool mapped = !daddr[0] && !daddr[1] && daddr[2] == bpf_htonl(0xFFFF);

	return mapped ? FAMILY_IPV4 : FAMILY_IPV6;
}

static __always_inline u64 two_words(const __be32 *words)
{
	return (u64)words[1] << 32 | words[0];
}

/* The key of a socket's flow, request sockets included, its first word still without ports. Returns the ports. */
static __always_inline u32 socket_key(struct sock_common *common, enum family family, u32 slot, enum record record,
				      u64 *key)
{
	if (family == FAMILY_IPV4) {
		key[1] = (u64)common->skc_daddr << 32 | common->skc_rcv_saddr;
	} else {
		key[1] = two_words(&common->skc_v6_rcv_saddr.in6_u.u6_addr32[0]);
		key[2] = two_words(&common->skc_v6_rcv_saddr.in6_u.u6_addr32[2]);
		key[3] = two_words(&common->skc_v6_daddr.in6_u.u6_addr32[0]);
		key[4] = two_words(&common->skc_v6_daddr.in6_u.u6_addr32[2]);
	}
	key[0] = key_word(0, slot, record, IPPROTO_TCP);
	return (u32)common->skc_num << 16 | bpf_ntohs(common->skc_dport);
}

#endif
