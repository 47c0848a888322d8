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
#include "kernel.bpf.h"

#define ETH_P_IP   0x0800
#define ETH_P_IPV6 0x86DD

#define IPV6_NEXT_HOP_BY_HOP 0
#define IPV6_JUMBO_HEADER    8

/* Of a TCP header, the word that begins with the acknowledgement number and ends with data offset, flags and window. */
#define TCP_CONTROL 8

static __always_inline u32 tcp_header_size(u64 control)
{
	return (control >> 36 & 0xF) << 2; /* the data offset counts 32-bit words */
}

/* Of an IPv6 header's first word. */
static __always_inline u32 ipv6_next_header(u64 word)
{
	return word >> 48 & 0xFF;
}

/* What segmentation offload notes of an skb. */
struct gso {
	u32 size; /* payload bytes of each packet that it stands for; 0 where it stands for itself */
	u32 segs; /* packets; 0: not said */
	u32 type;
};

static __always_inline struct skb_shared_info *shared_info(struct sk_buff *skb)
{
	return (void *)(skb->head + skb->end);
}

static __always_inline u32 gso_size_in(struct skb_shared_info *info)
{
#ifdef RDONLY_CAST
	return rdonly_cast(info, struct skb_shared_info)->gso_size;
#else
	return BPF_CORE_READ(info, gso_size);
#endif
}

static __always_inline u32 gso_size_of(struct sk_buff *skb)
{
	return gso_size_in(shared_info(skb));
}

static __always_inline struct gso gso_of(struct sk_buff *skb)
{
#ifdef RDONLY_CAST
	struct skb_shared_info *info = rdonly_cast(shared_info(skb), struct skb_shared_info);

	return (struct gso){info->gso_size, info->gso_segs, info->gso_type};
#else
	struct skb_shared_info *info = shared_info(skb);
	u32 type = bpf_core_field_offset(struct skb_shared_info, gso_type) -
		   bpf_core_field_offset(struct skb_shared_info, gso_size);
	u64 raw[4] = {};

	/* gso_segs follows gso_size, and gso_type is not far, on every kernel: one read for the three. */
	read_words(raw, &info->gso_size, 3, 1);
	return (struct gso){(u16)raw[0], (u16)(raw[0] >> 16), *(u32 *)((void *)raw + (type & 28))};
#endif
}

/* Bytes from one address of an skb's buffer to another one. Newer verifiers type skb->head as memory and refuse 32-bit
 * arithmetic on it, so the subtraction is done on 64-bit scalars and kept apart from what follows. */
static __always_inline u32 distance(const void *from, const void *to)
{
	u64 bytes = (u64)to - (u64)from;

	asm volatile("" : "+r"(bytes));
	return (u32)bytes;
}

/* From skb->data to an offset kept in the skb. */
static __always_inline u32 offset_from_data(struct sk_buff *skb, u32 offset)
{
	return distance(skb->data, skb->head + offset);
}

/* Packets that an skb stands for, and all their bytes from the network header on. */
struct wire {
	u32 packets, bytes;
};

/* The same for an skb of `length` bytes that is known to be merged. `network` is the offset of its network header from
 * skb->head. Not inlined: what is rare must not cost registers where packets are not merged. */
static __noinline u64 unmerge(struct sk_buff *skb, u32 network, u32 length, bool v6)
{
	struct gso gso = gso_of(skb);
	u32 segs = gso.segs;
	u32 transport =
	    BPF_CORE_READ_BITFIELD(skb, encapsulation) ? skb->inner_transport_header : skb->transport_header;
	u32 headers = transport - network;

	if (gso.type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) {
		headers += tcp_header_size(read_word(skb->head + transport + TCP_CONTROL));
	} else if (gso.type & SKB_GSO_UDP_L4) {
		headers += sizeof(struct udphdr);
	} else if (gso.type & SKB_GSO_SCTP) {
		headers += sizeof(struct sctphdr);
	}

	if ((!segs || gso.type & SKB_GSO_DODGY) && gso.size && length > headers)
		segs = (length - headers + gso.size - 1) / gso.size;

	/* BIG TCP before 6.18 marks IPv6 packets above 64 KB with a hop-by-hop header that never reaches the wire. */
	if (v6 && length > 65535 && ipv6_next_header(read_word(skb->head + network)) == IPV6_NEXT_HOP_BY_HOP) {
		headers -= IPV6_JUMBO_HEADER;
		length -= IPV6_JUMBO_HEADER;
	}

	if (segs > 1)
		length += (segs - 1) * headers;
	return (u64)(segs ?: 1) << 32 | length;
}

static __always_inline struct wire unmerged(struct sk_buff *skb, u32 network, u32 length, enum family family)
{
	u64 both = unmerge(skb, network, length, family == FAMILY_IPV6);

	return (struct wire){.packets = both >> 32, .bytes = both};
}

#endif
