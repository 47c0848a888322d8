/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UDP datagrams, for programs of their own: who asks for nothing of UDP pays nothing for those who do. A flow's entry
 * is the same as that of IP; of its numbers, UDP has those that TCP has otherwise. */
#ifndef DOLPHIN_UDP_BPF_H
#define DOLPHIN_UDP_BPF_H

#include "packet.bpf.h"

struct datagrams {
	u64 key[IPV6_KEY];  /* of the flow, without slot and record */
	u64 count, payload; /* on the wire, whatever is merged; both may be negated */
};

/* What an skb of `length` bytes from `network` on, an offset from skb->head, has of UDP; false: nothing.
 *
 * What is sent in fragments is one datagram, which the first one counts, and so is a merged packet that is to become
 * fragments (UFO, from a virtual machine). */
static __always_inline bool read_datagrams(struct sk_buff *skb, u32 network, u32 length, struct datagrams *seen,
					   enum family family, enum direction direction)
{
	u64 words[IPV6_WORDS] = {};
	struct length bytes = {length, length - skb->data_len};
	struct wire wire = {1, length};
	void *header = skb->head + network;
	struct transport at = family == FAMILY_IPV4 ? read_ipv4(seen->key, words, header, bytes, direction)
						    : read_ipv6(seen->key, words, header, bytes, direction);

	if (at.protocol != IPPROTO_UDP)
		return false;
	seen->key[0] = IPPROTO_UDP;
	if (!at.hidden)
		seen->key[0] |= (u64)key_ports(at, direction) << 32;
	seen->count = !at.later;
	if (gso_size_of(skb)) {
		wire = unmerged(skb, network, length, family);
		if (!(gso_of(skb).type & SKB_GSO_UDP))
			seen->count = wire.packets;
	}
	seen->payload = wire.bytes - wire.packets * at.offset - seen->count * sizeof(struct udphdr);
	return true;
}

/* Per flow, where the pod wants that and there is room, else per pod; only with bottom halves off. */
static __always_inline void account_datagrams(struct pod pod, enum kind kind, enum record record, enum family family,
					      struct datagrams *seen)
{
	struct traffic *traffic = NULL;

	if (pod.wants & PER_FLOW(kind)) {
		seen->key[0] |= key_word(0, pod.slot, record, 0);
		traffic = traffic_of(seen->key, family);
	}
	if (traffic) {
		traffic->segments += seen->count;
		traffic->payload += seen->payload;
	} else {
		count(pod.slot, kind, family, seen->count, seen->payload);
	}
}

#endif
