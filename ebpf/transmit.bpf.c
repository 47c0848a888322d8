// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a pod hands to a device: IP packets sent, TCP retransmissions among them, and the first SYN of a connection.
 *
 * net_dev_queue fires with bottom halves off, so that no run is ever skipped by the recursion guard; functions further
 * up (ip_output, __tcp_transmit_skb, tcp_connect) run in process context and lose events on preemptible kernels.
 */
#include "wire.bpf.h"

#define TCP_SYN_SENT 2
#define SOCK_STREAM  1

static __always_inline bool before(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

/* The pod's own TCP socket behind a packet. Not the sender's socket still attached to a packet at the other end of a
 * veth pair, not a request or TIME_WAIT socket (neither retransmits through here), not a raw or control socket. */
static __always_inline struct sock *tcp_sock_of(struct sk_buff *skb, struct net *net)
{
	struct sock *sk = skb->sk;

	if (!sk || sk->__sk_common.skc_net.net != net)
		return NULL;

	u8 sk_state = sk->__sk_common.skc_state;
	if (sk_state == TCP_TIME_WAIT || sk_state == TCP_NEW_SYN_RECV)
		return NULL;
	return sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP ? sk : NULL;
}

/* `bytes` is the skb's own length from the network header on, before any unmerging. */
static __always_inline void tcp_sent(struct partition *partition, struct sk_buff *skb, struct sock *sk, u32 slot,
				     enum family family, u32 packets, u32 bytes)
{
	/* Raised before a retransmission leaves (__tcp_retransmit_skb), so 0 means that this packet is none. */
	bool retransmits = BPF_CORE_READ((struct tcp_sock *)sk, total_retrans);
	bool opening = sk->__sk_common.skc_state == TCP_SYN_SENT;
	u32 transport = skb->transport_header;
	struct tcphdr tcp = {};

	if (!retransmits && !opening)
		return;
	if (bpf_probe_read_kernel(&tcp, sizeof(tcp), skb->head + transport))
		return;

	if (tcp.syn) {
		/* The SYN-ACKs of an open socket (TCP Fast Open, simultaneous open) are tcp_retransmit_synack's. */
		if (!opening || tcp.ack)
			return;
		if (!retransmits && wants(slot, KIND_TCP_OPEN_OUTBOUND))
			count(partition, slot, KIND_TCP_OPEN_OUTBOUND, family, 1, 0);
		if (retransmits && wants(slot, KIND_TCP_RETRANS))
			count(partition, slot, KIND_TCP_RETRANS, family, packets, 0);
		return;
	}

	u32 headers = transport - skb->network_header + tcp.doff * 4;
	bool carries = bytes > headers || tcp.fin; /* a bare ACK occupies no sequence space */

	if (retransmits && carries && wants(slot, KIND_TCP_RETRANS) &&
	    before(bpf_ntohl(tcp.seq), BPF_CORE_READ((struct tcp_sock *)sk, snd_nxt)))
		count(partition, slot, KIND_TCP_RETRANS, family, packets, 0);
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue, struct sk_buff *skb)
{
	struct net *net = skb->dev->nd_net.net;
	u32 slot = slot_of(net);
	enum family family;

	if (!slot)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		family = FAMILY_IPV4;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		family = FAMILY_IPV6;
	else
		return 0;

	struct partition *partition = active_partition();
	if (!partition)
		return 0;

	u32 network = skb->network_header;
	u32 length = skb->len - offset_from_data(skb, network);
	u32 bytes = length, packets = 1;

	/* qdisc_skb_cb.pkt_len, set just before: the length on the wire, so it differs only where packets are merged.
	 */
	if (*(u32 *)&skb->cb[0] != skb->len) {
		struct gso gso = gso_of(skb);

		if (gso.size)
			packets = unmerge(skb, gso, network, family, &bytes);
	}

	if (wants(slot, KIND_IP_SEND))
		count(partition, slot, KIND_IP_SEND, family, packets, bytes);

	if (wants(slot, KIND_TCP_RETRANS) || wants(slot, KIND_TCP_OPEN_OUTBOUND)) {
		struct sock *sk = tcp_sock_of(skb, net);

		if (sk)
			tcp_sent(partition, skb, sk, slot, family, packets, length);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
