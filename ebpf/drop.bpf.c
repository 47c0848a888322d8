// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets that the kernel drops, with its reason: those of a pod, in its namespace or on their way between it and the
 * node's. Nothing runs for a packet that is not dropped.
 *
 * The tracepoint fires wherever a packet is freed, in any context. Of the packet only what is checked here can be
 * relied on: skb->dev shares its place with what UDP (dev_scratch), TCP and reassembly (rbnode) keep there, so it is
 * followed as any number would be.
 */
#include "address.bpf.h"
#include "device.bpf.h"
#include "event.bpf.h"
#include "packet.bpf.h"

#define WANTED (ALL_OF(KIND_IP_DROP) | ALL_OF(KIND_TCP_DROP))

/* From 6.18 on the first namespaces have numbers of their own, just before all others. */
#define NETNS_INITIAL 0xEFFFFFF0u
#define AF_PACKET     17
#define NETNS_LIKELY  (1u << 24)   /* no node has had more */
#define MAC_UNSET     0xFFFF       /* skb->mac_header */
#define IS_LOCATION   (1ull << 63) /* a reason that is the address of code, since the kernel gave none */
#define LOCATION_FIN  (1ull << 62) /* taken out of such an address: of a TCP segment with FIN */
#define SKB_DST_NOREF 1ull         /* a flag in skb->_skb_refdst */

#define IS_REASON(reason, name)                                                                                        \
	(bpf_core_enum_value_exists(enum skb_drop_reason, name) &&                                                     \
	 (reason) == bpf_core_enum_value(enum skb_drop_reason, name))

struct loss {
	u64 reason;          /* enum skb_drop_reason, or IS_LOCATION */
	u64 packets;         /* that the skb stands for */
	const void *header;  /* of IP */
	u32 network, length; /* where it is, from skb->head; bytes from there on */
	enum family family;
	bool by_device; /* skb->dev is one */
};

/* Addresses of the kernel are negative; what else is kept in their place is not, nor is it followed. */
static __always_inline bool is_address(const void *pointer)
{
	return (s64)pointer < 0;
}

/* 0 unless it can be that of a namespace. */
static __always_inline u32 likely(u32 number)
{
	return number - NETNS_INITIAL < NETNS_LIKELY ? number : 0;
}

static __always_inline u32 number_of_device(struct net_device *dev)
{
	if (!is_address(dev))
		return 0;

	struct net *net = dev->nd_net.net;

	return is_address(net) ? likely(net->ns.inum) : 0;
}

/* The same where the verifier knows of no type: of the struct net * at an address. */
static __always_inline u32 number_at(const void *place)
{
	struct net *net = (void *)read_word(place);

	return is_address(net) ? likely(read_word(&net->ns.inum)) : 0;
}

/* A packet socket's own copy (tcpdump) that it has not read, which is not the packet. It has no device any more. */
static __always_inline bool is_copy(struct sk_buff *skb)
{
	struct sock *sk = (void *)read_word(&skb->sk);

	return is_address(sk) && (u16)read_word(&sk->__sk_common.skc_family) == AF_PACKET;
}

/* Where a packet without a device is: with its socket, or where its route is. 0: nothing says it. */
static __noinline u32 number_elsewhere(struct sk_buff *skb)
{
	struct sock *sk = (void *)read_word(&skb->sk);
	u32 number = is_address(sk) ? number_at(&sk->__sk_common.skc_net.net) : 0;

	if (number)
		return number;

	struct dst_entry *route = (void *)(read_word(&skb->_skb_refdst) & ~SKB_DST_NOREF);
	struct net_device *dev = is_address(route) ? (void *)read_word(&route->dev) : NULL;

	return is_address(dev) ? number_at(&dev->nd_net.net) : 0;
}

/* A packet that was merged into another one (frag_list) is freed with it, always without a reason, whether or not that
 * one is dropped; which stands for all of them. Its own headers are behind it. TCP has no device any more when it has
 * read a header of its own. */
static __always_inline bool is_part(struct sk_buff *skb, const struct loss *loss)
{
	return loss->by_device && loss->reason & IS_LOCATION &&
	       (s32)offset_from_data(skb, skb->transport_header) <= -(s32)sizeof(struct tcphdr);
}

/* An echo's reply is for a socket of the kind that asks without privileges; of others, each has a copy by then. */
static __always_inline bool is_echo_reply(const struct loss *loss, u8 protocol)
{
	return IS_REASON(loss->reason, SKB_DROP_REASON_NO_SOCKET) &&
	       (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6);
}

static __always_inline bool is_version(const struct loss *loss, const u64 *words)
{
	return (words[0] >> 4 & 0xF) == (loss->family == FAMILY_IPV4 ? 4 : 6);
}

/* What a packet is counted as, or KINDS: as nothing. One of TCP is one of IP too, so that it is counted once. */
static __always_inline u32 kind_of(struct sk_buff *skb, const struct loss *loss, u32 wants, u8 protocol)
{
	bool tcp = protocol == IPPROTO_TCP;

	if (is_echo_reply(loss, protocol) || (tcp && is_part(skb, loss)))
		return KINDS;
	if (tcp && wants & COUNTED(KIND_TCP_DROP))
		return KIND_TCP_DROP;
	return wants & COUNTED(KIND_IP_DROP) ? KIND_IP_DROP : KINDS;
}

static __always_inline u64 packets_of(struct sk_buff *skb, const struct loss *loss)
{
	/* By way of skb->head, which has been read. */
	struct skb_shared_info *info = (void *)loss->header - loss->network + skb->end;

	return gso_size_in(info) ? unmerged(skb, loss->network, loss->length, loss->family).packets : 1;
}

/* Counts a packet for its flow. */
static __noinline int credit_flow(struct sk_buff *skb, const struct loss *loss, u32 wants, u32 slot,
				  enum direction direction)
{
	struct length length = {loss->length, loss->length - skb->data_len};
	const void *network = loss->header;
	u64 words[IPV6_WORDS] = {}, reason = loss->reason;
	struct packet packet = {};

	if (loss->family == FAMILY_IPV4) {
		struct transport at = read_ipv4(packet.key, words, network, length, direction);

		read_transport(&packet, at, network, words, length.whole, FAMILY_IPV4, direction);
	} else {
		struct transport at = read_ipv6(packet.key, words, network, length, direction);

		read_transport(&packet, at, network, words, length.whole, FAMILY_IPV6, direction);
	}

	u32 kind = kind_of(skb, loss, wants, packet.key[0]);

	if (kind == KINDS || !is_version(loss, words))
		return 0;
	if (reason & IS_LOCATION && packet.tcp && packet.flags & TCP_FIN)
		reason &= ~LOCATION_FIN;
	count_flow_event(slot, kind, loss->family, direction, reason, packet.key, loss->packets);
	return 0;
}

/* Counts a packet for a pod. */
static __noinline int credit_pod(struct sk_buff *skb, const struct loss *loss, u32 wants, u32 slot,
				 enum direction direction)
{
	const void *network = loss->header;
	u64 words[IPV6_WORDS], reason = loss->reason;
	struct transport at;

	/* Up to TCP's flags, where they are asked for. */
	if (reason & IS_LOCATION)
		read_words(words, network, 3, loss->family == FAMILY_IPV4 ? IPV4_WORDS - 3 : IPV6_WORDS - 3);
	else
		read_words(words, network, 3, 0);
	if (loss->family == FAMILY_IPV4) {
		at.protocol = words[1] >> 8 & 0xFF;
		at.offset = (words[0] & 0xF) << 2;
	} else {
		at.protocol = ipv6_next_header(words[0]);
		at.offset = IPV6_HEADER;
		if (is_extension(at.protocol))
			at = skip_extensions(network, at.protocol);
	}

	u32 kind = kind_of(skb, loss, wants, at.protocol);

	if (kind == KINDS || !is_version(loss, words))
		return 0;
	if (reason & IS_LOCATION && at.protocol == IPPROTO_TCP &&
	    tcp_control(words, network, at.offset, loss->family) >> 40 & TCP_FIN)
		reason &= ~LOCATION_FIN;
	count_event(slot, kind, loss->family, direction, reason, loss->packets);
	return 0;
}

static __always_inline int credit(struct sk_buff *skb, struct loss *loss, struct pod pod, enum direction direction)
{
	loss->packets = packets_of(skb, loss);
	if (pod.wants & (PER_FLOW(KIND_IP_DROP) | PER_FLOW(KIND_TCP_DROP)))
		return credit_flow(skb, loss, pod.wants, pod.slot, direction);
	return credit_pod(skb, loss, pod.wants, pod.slot, direction);
}

static __always_inline struct address ipv4_address(u64 address)
{
	return (struct address){{0, address << 32 | IPV4_MAPPED}};
}

/* Counts for the pods that a packet came from and was for, by its addresses. One whose place is not known has been
 * received, if it was not part of a datagram that was put together again: its parts are freed with it, without a
 * reason. */
static __noinline int credit_by_address(struct sk_buff *skb, struct loss *loss, bool on_node)
{
	const void *network = loss->header;
	struct address source, destination;
	u64 words[6];
	bool fragment;

	read_words(words, network, 6, 0);
	if (!is_version(loss, words))
		return 0;
	if (loss->family == FAMILY_IPV4) {
		fragment = words[0] >> 48 & IPV4_OFFSET_MASK;
		source = ipv4_address(words[1] >> 32);
		destination = ipv4_address((u32)words[2]);
	} else {
		fragment = ipv6_next_header(words[0]) == IPPROTO_FRAGMENT;
		source = (struct address){{words[1], words[2]}};
		destination = (struct address){{words[3], words[4]}};
	}
	if (!on_node && fragment && loss->reason & IS_LOCATION)
		return 0;

	struct pod pod = pod_at(&destination, WANTED);

	if (pod.wants)
		credit(skb, loss, pod, INCOMING);
	if (!on_node)
		return 0;
	pod = pod_at(&source, WANTED);
	return pod.wants ? credit(skb, loss, pod, OUTGOING) : 0;
}

static __always_inline int dropped(struct sk_buff *skb, u64 reason, struct sock *receiver)
{
	struct loss loss = {.reason = reason};
	struct pod pod = {};
	u16 protocol = skb->protocol;
	u32 number;

	if (protocol != bpf_htons(ETH_P_IP) && protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	loss.family = protocol == bpf_htons(ETH_P_IP) ? FAMILY_IPV4 : FAMILY_IPV6;

	if (receiver) {
		number = receiver->__sk_common.skc_net.net->ns.inum;
	} else {
		number = number_of_device(skb->dev);
		loss.by_device = number;
		if (!number) {
			if (is_copy(skb))
				return 0;
			number = number_elsewhere(skb);
		}
	}
	/* In the node's own namespace, and where nobody knows, it is anyone's. */
	if (number && number != state.node) {
		pod = pod_numbered(number, WANTED);
		if (!pod.wants)
			return 0;
	}

	const void *head = skb->head, *data = skb->data;
	bool fresh = !receiver && !skb->skb_iif; /* has not been received yet */
	u32 mac = fresh && loss.by_device ? skb->mac_header : MAC_UNSET;
	bool arrives = mac != MAC_UNSET && (s32)distance(data, head + mac) < 0;
	bool leaves = fresh && !arrives;

	/* The IP header's place is not noted yet of what was dropped between its device and IP. */
	loss.network = arrives ? distance(head, data) : skb->network_header;
	loss.header = head + loss.network;
	loss.length = skb->len - distance(data, loss.header);
	if (!pod.wants)
		return credit_by_address(skb, &loss, number);
	/* Seen on a promiscuous device, meant for another host. */
	if (!leaves && packet_type(skb) == PACKET_OTHERHOST)
		return 0;
	return credit(skb, &loss, pod, leaves ? OUTGOING : INCOMING);
}

/* Some kernels trace here what was not dropped; a copy for a packet socket is not the packet; and what is meant for
 * another host is nobody's here. */
static __always_inline bool is_drop(u32 reason)
{
	return !IS_REASON(reason, SKB_CONSUMED) && !IS_REASON(reason, SKB_DROP_REASON_PACKET_SOCK_ERROR) &&
	       !IS_REASON(reason, SKB_DROP_REASON_OTHERHOST);
}

/* From 6.11 on, with the socket that was to receive the packet. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_sk, struct sk_buff *skb, void *location, u32 reason, struct sock *receiver)
{
	if (!is_drop(reason))
		return 0;

	bool reasonless = IS_REASON(reason, SKB_DROP_REASON_NOT_SPECIFIED);

	/* A socket in TIME_WAIT has answered, and frees what it has handled. */
	if (reasonless && receiver && receiver->__sk_common.skc_state == TCP_TIME_WAIT)
		return 0;
	return dropped(skb, reasonless ? (u64)location : reason, receiver);
}

/* From 5.17 on. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb_why, struct sk_buff *skb, void *location, u32 reason)
{
	if (!is_drop(reason))
		return 0;
	return dropped(skb, IS_REASON(reason, SKB_DROP_REASON_NOT_SPECIFIED) ? (u64)location : reason, NULL);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, struct sk_buff *skb, void *location)
{
	return dropped(skb, (u64)location, NULL);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
