// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* UDP datagrams that a pod receives, as InDatagrams, InErrors, NoPorts and IgnoredMulti count them together.
 *
 * Where receive.bpf.c counts IP, and for the same reasons: what is forwarded is taken back.
 */
#include "device.bpf.h"
#include "udp.bpf.h"

#define WANTED ALL_OF(KIND_UDP_RECEIVE)

/* skb->data points at the IP header here; skb->network_header is not set yet where the last rung runs. */
static __always_inline int received(struct sk_buff *skb, struct net *net, enum family family)
{
	struct pod pod = pod_of(net, WANTED);
	struct datagrams seen;

	if (!pod.wants || packet_type(skb) == PACKET_OTHERHOST)
		return 0;
	if (read_datagrams(skb, (u64)skb->data - (u64)skb->head, skb->len, &seen, family, INCOMING))
		account_datagrams(pod, KIND_UDP_RECEIVE, RECORD_RECEIVED, family, &seen);
	return 0;
}

SEC("fentry/ip_rcv_core")
int BPF_PROG(udp4_rcv, struct sk_buff *skb, struct net *net)
{
	return received(skb, net, FAMILY_IPV4);
}

SEC("fentry/ip6_rcv_core")
int BPF_PROG(udp6_rcv, struct sk_buff *skb, struct net_device *dev, struct net *net)
{
	return received(skb, net, FAMILY_IPV6);
}

static __always_inline int forwarded(struct sk_buff *skb, enum family family)
{
	struct pod pod = pod_of(skb->dev->nd_net.net, WANTED);
	struct datagrams seen;

	if (!pod.wants || packet_type(skb) != PACKET_HOST)
		return 0;
	if (!read_datagrams(skb, skb->network_header, skb->len, &seen, family, INCOMING))
		return 0;
	seen.count = -seen.count;
	seen.payload = -seen.payload;
	account_datagrams(pod, KIND_UDP_RECEIVE, RECORD_RECEIVED, family, &seen);
	return 0;
}

SEC("fentry/ip_forward")
int BPF_PROG(udp4_forward, struct sk_buff *skb)
{
	return forwarded(skb, FAMILY_IPV4);
}

SEC("fentry/ip6_forward")
int BPF_PROG(udp6_forward, struct sk_buff *skb)
{
	return forwarded(skb, FAMILY_IPV6);
}

/* For kernels that refuse fentry; see netif_receive in receive.bpf.c. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(udp_netif, struct sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return received(skb, skb->dev->nd_net.net, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return received(skb, skb->dev->nd_net.net, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
