// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a pod hands to a device: IP packets and TCP segments sent, retransmissions among them, and the first SYN of a
 * connection.
 *
 * net_dev_queue fires with bottom halves off, so that no run is ever skipped by the recursion guard; functions further
 * up (ip_output, __tcp_transmit_skb, tcp_connect) run in process context and lose events on preemptible kernels.
 */
#include "device.bpf.h"
#include "packet.bpf.h"

#define TCP_SYN_SENT 2
#define SOCK_STREAM  1

#define PER_SOCKET (COUNTED(KIND_TCP_RETRANS) | COUNTED(KIND_TCP_OPEN_OUTBOUND))
#define SENT_KINDS                                                                                                     \
	(ALL_OF(KIND_IP_SEND) | ALL_OF(KIND_TCP_SEND) | ALL_OF(KIND_TCP_RETRANS) | COUNTED(KIND_TCP_OPEN_OUTBOUND))

static const struct kinds kinds = {KIND_IP_SEND, KIND_TCP_SEND, RECORD_SENT};

static __always_inline bool before(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

/* The pod's own TCP socket behind a packet. Not the sender's socket still attached to a packet at the other end of a
 * veth pair, not a request or TIME_WAIT socket (neither retransmits through here), not a raw or control socket. */
static __always_inline struct tcp_sock *tcp_sock_of(struct sk_buff *skb, struct net *net)
{
	struct sock *sk = skb->sk;

	if (!sk || sk->__sk_common.skc_net.net != net)
		return NULL;
#ifdef RDONLY_CAST
	u8 sk_state = sk->__sk_common.skc_state;

	if (sk_state == TCP_TIME_WAIT || sk_state == TCP_NEW_SYN_RECV || sk->sk_type != SOCK_STREAM)
		return NULL;
	return sk->sk_protocol == IPPROTO_TCP ? rdonly_cast(sk, struct tcp_sock) : NULL;
#else
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp && sk->sk_type == SOCK_STREAM ? tp : NULL;
#endif
}

static __always_inline bool is_opening(struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.sk.__sk_common.skc_state == TCP_SYN_SENT;
}

static __always_inline bool is_retransmission(struct packet *packet, struct tcp_sock *tp)
{
	/* A SYN is one: the caller has seen total_retrans. The SYN-ACKs of an open socket (TCP Fast Open, simultaneous
	 * open) are tcp_retransmit_synack's. */
	if (packet->flags & TCP_SYN)
		return is_opening(tp) && !(packet->flags & TCP_ACK);
	/* A bare ACK occupies no sequence space. */
	return (packet->payload || packet->flags & TCP_FIN) && before(tcp_sequence(packet), tp->snd_nxt);
}

static __always_inline void retransmitted(struct pod pod, enum family family, struct packet *packet, u32 packets)
{
	if (pod.wants & PER_FLOW(KIND_TCP_RETRANS)) {
		u64 word = packet->key[0];

		packet->key[0] |= key_word(0, pod.slot, RECORD_RETRANSMITTED, 0);

		struct traffic *traffic = traffic_of(packet->key, family);

		packet->key[0] = word;
		if (traffic) {
			traffic->packets += packets;
			return;
		}
	}
	count(pod.slot, KIND_TCP_RETRANS, family, packets, 0);
}

static __always_inline int sent(struct sk_buff *skb, struct net_device *dev, struct net *net, struct pod pod,
				enum family family)
{
	if (is_of_another_device(skb, dev))
		return 0;

	u32 network = skb->network_header;
	u32 skipped = offset_from_data(skb, network);
	u32 length = skb->len - skipped;
	struct wire wire = {1, length};

	/* qdisc_skb_cb.pkt_len, set just before: the length on the wire, so it differs only where packets are merged.
	 */
	if (*(u32 *)&skb->cb[0] != skb->len && gso_size_of(skb))
		wire = unmerged(skb, network, length, family);

	if (pod.wants == COUNTED(KIND_IP_SEND)) {
		count(pod.slot, KIND_IP_SEND, family, wire.packets, wire.bytes);
		return 0;
	}

	struct tcp_sock *tp = pod.wants & PER_SOCKET ? tcp_sock_of(skb, net) : NULL;
	/* Raised before a retransmission leaves (__tcp_retransmit_skb), so 0 means that a packet is none. */
	bool retransmits = tp && tp->total_retrans;
	bool opening = tp && is_opening(tp);

	if (!(pod.wants & (PER_FLOW(KIND_IP_SEND) | COUNTED(KIND_TCP_SEND))) && !retransmits && !opening) {
		if (pod.wants & COUNTED(KIND_IP_SEND))
			count(pod.slot, KIND_IP_SEND, family, wire.packets, wire.bytes);
		return 0;
	}

	struct packet packet;
	read_packet(&packet, skb->head + network, (struct length){length, length - skb->data_len}, family, OUTGOING);

	if (packet.tcp) {
		if (retransmits && pod.wants & COUNTED(KIND_TCP_RETRANS) && is_retransmission(&packet, tp))
			retransmitted(pod, family, &packet, wire.packets);
		if (opening && !retransmits && pod.wants & COUNTED(KIND_TCP_OPEN_OUTBOUND) &&
		    (packet.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			count(pod.slot, KIND_TCP_OPEN_OUTBOUND, family, 1, 0);
		/* What came in on another device is forwarded: TCP in this namespace did not send it. */
		if (skb->skb_iif)
			pod.wants &= ~ALL_OF(KIND_TCP_SEND);
	}
	account(pod, family, kinds, &packet, wire);
	return 0;
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue, struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	struct net *net = dev->nd_net.net;
	struct pod pod = pod_of(net, SENT_KINDS);

	if (!pod.wants)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return sent(skb, dev, net, pod, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return sent(skb, dev, net, pod, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
