/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Facts about TCP sockets for hooks that have no packet to look at. */
#ifndef DOLPHIN_TCP_BPF_H
#define DOLPHIN_TCP_BPF_H

#include "state.bpf.h"

#define AF_INET6 10

/* The family of a socket's packets: an AF_INET6 socket with a v4-mapped peer sends IPv4. */
static __always_inline enum family family_of(struct sock_common *common)
{
	if (common->skc_family != AF_INET6)
		return FAMILY_IPV4;

	__be32 *daddr = common->skc_v6_daddr.in6_u.u6_addr32;
	bool mapped = !daddr[0] && !daddr[1] && daddr[2] == bpf_htonl(0xFFFF);

	return mapped ? FAMILY_IPV4 : FAMILY_IPV6;
}

#endif
