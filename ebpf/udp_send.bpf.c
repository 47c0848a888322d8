// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* UDP datagrams that a pod hands to a device, as OutDatagrams counts them; where transmit.bpf.c counts IP. */
#include "device.bpf.h"
#include "udp.bpf.h"

static __always_inline int sent(struct sk_buff *skb, struct pod pod, enum family family)
{
	struct datagrams seen;
	u32 network = skb->network_header;

	/* What came in on another device is forwarded: UDP in this namespace did not send it. */
	if (skb->skb_iif || is_of_another_device(skb, skb->dev))
		return 0;
	if (read_datagrams(skb, network, skb->len - offset_from_data(skb, network), &seen, family, OUTGOING))
		account_datagrams(pod, KIND_UDP_SEND, RECORD_SENT, family, &seen);
	return 0;
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(udp_dev_queue, struct sk_buff *skb)
{
	struct pod pod = pod_of(skb->dev->nd_net.net, ALL_OF(KIND_UDP_SEND));

	if (!pod.wants)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return sent(skb, pod, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return sent(skb, pod, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
