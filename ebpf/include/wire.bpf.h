/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets and bytes as they are on the wire.
 *
 * GRO merges received packets and GSO sends merged ones; such an skb counts as the packets it stands for, each with
 * its own headers. gso_segs says how many, except on packets from tap and virtio devices (SKB_GSO_DODGY, or no
 * gso_segs at all), where it follows from gso_size.
 */
#ifndef DOLPHIN_WIRE_BPF_H
#define DOLPHIN_WIRE_BPF_H

#include "state.bpf.h"

#define ETH_P_IP   0x0800
#define ETH_P_IPV6 0x86DD

#define IPV6_NEXT_HOP_BY_HOP 0
#define IPV6_JUMBO_HEADER    8

struct gso {
	u16 size; /* payload bytes per packet; 0: not merged */
	u16 segs; /* packets; 0: not said */
};

/* Reads gso_size and gso_segs at once; they are neighbours in struct skb_shared_info on every kernel.
 *
 * bpf_rdonly_cast (6.2) would spare the helper call, but libbpf 1.1 refuses an object that names it where the kernel
 * lacks it and the agent lacks CAP_SYS_ADMIN, weak or not. */
static __always_inline struct gso gso_of(struct sk_buff *skb)
{
	struct skb_shared_info *info = (void *)(skb->head + skb->end);
	struct gso gso = {};

	bpf_probe_read_kernel(&gso, sizeof(gso), &info->gso_size);
	return gso;
}

/* Distance from skb->data to an offset kept in the skb. Newer verifiers type skb->head as memory and refuse 32-bit
 * arithmetic on it, so the subtraction is done on 64-bit scalars and kept apart from what follows. */
static __always_inline u32 offset_from_data(struct sk_buff *skb, u32 offset)
{
	u64 distance = (u64)(skb->head + offset) - (u64)skb->data;

	asm volatile("" : "+r"(distance));
	return (u32)distance;
}

/* Returns the packets that a merged skb stands for and turns *bytes, its length from the network header on, into
 * theirs. `network` is the offset of the network header from skb->head. */
static __always_inline u32 unmerge(struct sk_buff *skb, struct gso gso, u32 network, enum family family, u32 *bytes)
{
	struct skb_shared_info *info = (void *)(skb->head + skb->end);
	u32 type = BPF_CORE_READ(info, gso_type);
	u32 transport =
	    BPF_CORE_READ_BITFIELD(skb, encapsulation) ? skb->inner_transport_header : skb->transport_header;
	u32 headers = transport - network;
	u32 segs = gso.segs;
	u8 byte = 0;

	if (type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		bpf_probe_read_kernel(&byte, 1, skb->head + transport + 12); /* data offset, in 32-bit words */
		headers += byte >> 4 << 2;
	} else if (type & SKB_GSO_UDP_L4) {
		headers += sizeof(struct udphdr);
	} else if (type & SKB_GSO_SCTP) {
		headers += sizeof(struct sctphdr);
	}

	if ((!segs || type & SKB_GSO_DODGY) && *bytes > headers)
		segs = (*bytes - headers + gso.size - 1) / gso.size;

	/* BIG TCP before 6.18 marks IPv6 packets above 64 KB with a hop-by-hop header that never reaches the wire. */
	if (family == FAMILY_IPV6 && *bytes > 65535) {
		bpf_probe_read_kernel(&byte, 1, skb->head + network + offsetof(struct ipv6hdr, nexthdr));
		if (byte == IPV6_NEXT_HOP_BY_HOP) {
			headers -= IPV6_JUMBO_HEADER;
			*bytes -= IPV6_JUMBO_HEADER;
		}
	}

	if (segs > 1)
		*bytes += (segs - 1) * headers;
	return segs ?: 1;
}

#endif
