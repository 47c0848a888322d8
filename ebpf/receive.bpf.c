// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets that a pod receives: IP as the kernel's In{NoECT,ECT1,ECT0,CE}Pkts and InOctets count them, TCP as InSegs.
 *
 * One program per packet answers both items. It runs where IP takes the packet in; TCP segments that the pod forwards
 * are taken back where it does so. What is dropped in between was received all the same.
 */
#include "device.bpf.h"
#include "packet.bpf.h"

static const struct kinds kinds = {KIND_IP_RECEIVE, KIND_TCP_RECEIVE, RECORD_RECEIVED};

/* skb->data points at the IP header here; skb->network_header is not set yet where the last rung runs. */
static __always_inline int received(struct sk_buff *skb, struct net *net, enum family family)
{
	struct pod pod = pod_of(net, ALL_OF(KIND_IP_RECEIVE) | ALL_OF(KIND_TCP_RECEIVE));

	if (!pod.wants)
		return 0;

	u32 type = packet_type(skb);
	/* Seen on a promiscuous device, meant for another host: the kernel counts it nowhere. */
	if (type == PACKET_OTHERHOST)
		return 0;

	u32 length = skb->len;
	u32 merged = gso_size_of(skb);

	if (!merged && pod.wants == COUNTED(KIND_IP_RECEIVE)) {
		count(pod.slot, KIND_IP_RECEIVE, family, 1, length);
		return 0;
	}

	void *network = skb->data;
	struct wire wire = {1, length};

	if (merged)
		wire = unmerged(skb, (u64)network - (u64)skb->head, length, family);

	if (pod.wants == COUNTED(KIND_IP_RECEIVE)) {
		count(pod.slot, KIND_IP_RECEIVE, family, wire.packets, wire.bytes);
		return 0;
	}
	if (type != PACKET_HOST)
		pod.wants &= ~ALL_OF(KIND_TCP_RECEIVE); /* TCP ignores multicast and broadcast */

	struct packet packet;
	read_packet(&packet, network, (struct length){length, length - skb->data_len}, family, INCOMING);
	account(pod, family, kinds, &packet, wire);
	return 0;
}

/* ip_rcv_core and not ip_rcv: lists of packets (GRO_NORMAL batches) reach only the former. */
SEC("fentry/ip_rcv_core")
int BPF_PROG(ip_rcv_core, struct sk_buff *skb, struct net *net)
{
	return received(skb, net, FAMILY_IPV4);
}

SEC("fentry/ip6_rcv_core")
int BPF_PROG(ip6_rcv_core, struct sk_buff *skb, struct net_device *dev, struct net *net)
{
	return received(skb, net, FAMILY_IPV6);
}

/* Takes back the TCP segments of a packet that `received` counted and the pod is about to forward. */
static __always_inline int forwarded(struct sk_buff *skb, enum family family)
{
	struct pod pod = pod_of(skb->dev->nd_net.net, ALL_OF(KIND_TCP_RECEIVE));

	if (!pod.wants || packet_type(skb) != PACKET_HOST)
		return 0;

	struct packet packet;
	u32 length = skb->len;
	u32 network = skb->network_header;

	read_packet(&packet, skb->head + network, (struct length){length, length - skb->data_len}, family, INCOMING);
	if (!packet.tcp)
		return 0;

	u64 segments = gso_size_of(skb) ? unmerged(skb, network, length, family).packets : 1;
	struct traffic seen = {0, 0, packet.begins_segment ? -segments : 0, -(u64)packet.payload};

	account_kinds(pod, family, kinds, packet.key, &seen, true);
	return 0;
}

SEC("fentry/ip_forward")
int BPF_PROG(ip_forward, struct sk_buff *skb)
{
	return forwarded(skb, FAMILY_IPV4);
}

SEC("fentry/ip6_forward")
int BPF_PROG(ip6_forward, struct sk_buff *skb)
{
	return forwarded(skb, FAMILY_IPV6);
}

/* For kernels that refuse fentry. Fires once per device a packet passes, and before tc and netfilter ingress: stacked
 * devices in a pod count twice, packets dropped at ingress count although IP never saw them, TCP that is forwarded
 * counts. */
SEC("tp_btf/netif_receive_skb")
int BPF_PROG(netif_receive, struct sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return received(skb, skb->dev->nd_net.net, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return received(skb, skb->dev->nd_net.net, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
