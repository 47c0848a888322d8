/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that were refused because of what they are: what an skb that is being freed says of itself. */
#ifndef DOLPHIN_MALFORMED_BPF_H
#define DOLPHIN_MALFORMED_BPF_H

#include "event.bpf.h"
#include "packet.bpf.h"

/* Why, in the words of probes/items.py; each is one counter of the kernel or a part of one. */
enum error {
	ERROR_NONE,
	ERROR_HEADER,
	ERROR_CHECKSUM,
	ERROR_LENGTH,
	ERROR_ADDRESS,
	ERROR_PROTOCOL,
	ERROR_NO_ROUTE,
	ERROR_HOP_LIMIT,
	ERROR_SYN,
};

/* A reason by its name, as kernels number them differently. Where one lacks it the program does not load. */
#define IS_REASON(reason, name) ((reason) == bpf_core_enum_value(enum skb_drop_reason, SKB_DROP_REASON_##name))

#define NOT_IP -1

/* By what the device said: the version in the header may be what is wrong. */
static __always_inline int family_of_packet(struct sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return FAMILY_IPV4;
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : NOT_IP;
}

/* Whether IP has it: what is at its front is the network header. */
static __always_inline bool is_at_network(struct sk_buff *skb)
{
	return !offset_from_data(skb, skb->network_header);
}

/* Whether a transport protocol has it, or IPv6 looks at an extension header. */
static __always_inline bool is_at_transport(struct sk_buff *skb)
{
	return !offset_from_data(skb, skb->transport_header) && skb->transport_header != skb->network_header;
}

/* Its route, or NULL; the lowest bits say how it is held. */
static __always_inline struct dst_entry *route_of(struct sk_buff *skb)
{
	return (void *)(skb->_skb_refdst & ~7ul);
}

/* The pod that a socket is in; anything may be passed here. */
static __always_inline struct pod pod_of_socket(const struct sock *sk, u32 kinds)
{
	struct net *net = (void *)read_word(&sk->__sk_common.skc_net.net);

	return pod_numbered(read_word(&net->ns.inum), kinds);
}

/* The pod whose namespace IP has the packet in. */
static __always_inline struct pod pod_of_packet(struct sk_buff *skb, u32 kinds)
{
	struct net_device *dev = skb->dev;

	if (!dev)
		return (struct pod){};
	return pod_of(dev->nd_net.net, kinds);
}

/* The protocol whose header is at the front of an IPv6 packet that is_at_transport. */
static __always_inline u32 protocol_at_front(struct sk_buff *skb)
{
	void *network = skb->head + skb->network_header;
	u32 front = skb->transport_header - skb->network_header;
	u32 protocol = ipv6_next_header(read_word(network));
	u32 offset = IPV6_HEADER;

	for (u32 i = 0; i < IPV6_EXTENSIONS; i++) {
		if (offset >= front || !is_extension(protocol))
			break;

		u64 extension = read_word(network + offset);

		offset += protocol == IPPROTO_FRAGMENT ? 8 : ((extension >> 8 & 0xFF) + 1) * 8;
		protocol = extension & 0xFF;
	}
	return offset == front ? protocol : IPPROTO_MAX;
}

#endif
