// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* IP packets that a pod receives, as the kernel's In{NoECT,ECT1,ECT0,CE}Pkts and InOctets count them. */
#include "wire.bpf.h"

#define PACKET_OTHERHOST 3

static __always_inline int received(struct sk_buff *skb, struct net *net, u32 network, enum family family)
{
	u32 slot = slot_of(net);

	if (!slot || !wants(slot, KIND_IP_RECEIVE))
		return 0;
	/* Seen on a promiscuous device, meant for another host: the kernel counts it nowhere. */
	if (BPF_CORE_READ_BITFIELD(skb, pkt_type) == PACKET_OTHERHOST)
		return 0;

	struct partition *partition = active_partition();
	if (!partition)
		return 0;

	u32 bytes = skb->len;
	struct gso gso = gso_of(skb);
	u32 packets = gso.size ? unmerge(skb, gso, network, family, &bytes) : 1;

	count(partition, slot, KIND_IP_RECEIVE, family, packets, bytes);
	return 0;
}

/* ip_rcv_core and not ip_rcv: lists of packets (GRO_NORMAL batches) reach only the former. */
SEC("fentry/ip_rcv_core")
int BPF_PROG(ip_rcv_core, struct sk_buff *skb, struct net *net)
{
	return received(skb, net, skb->network_header, FAMILY_IPV4);
}

SEC("fentry/ip6_rcv_core")
int BPF_PROG(ip6_rcv_core, struct sk_buff *skb, struct net_device *dev, struct net *net)
{
	return received(skb, net, skb->network_header, FAMILY_IPV6);
}

/* For kernels that refuse fentry. Fires once per device a packet passes, and before tc and netfilter ingress: stacked
 * devices in a pod count twice, packets dropped at ingress count although IP never saw them. skb->network_header is
 * not set yet; skb->data points at it. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(netif_receive_skb, struct sk_buff *skb)
{
	u32 network = (u64)skb->data - (u64)skb->head;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return received(skb, skb->dev->nd_net.net, network, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return received(skb, skb->dev->nd_net.net, network, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
