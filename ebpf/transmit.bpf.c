// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a pod hands to a device: IP packets and TCP segments sent, retransmissions among them, and the first SYN of a
 * connection.
 *
 * net_dev_queue fires with bottom halves off, so that no run is ever skipped by the recursion guard; functions further
 * up (ip_output, __tcp_transmit_skb, tcp_connect) run in process context and lose events on preemptible kernels.
 */
#include "packet.bpf.h"

#define TCP_SYN_SENT 2
#define SOCK_STREAM  1
#define IFF_SLAVE    (1 << 11)
#define NO_UPPER     1 /* net_device.upper_level of a device that carries no other */

#define ALL_OF(kind) (COUNTED(kind) | PER_FLOW(kind))
#define PER_SOCKET   (COUNTED(KIND_TCP_RETRANS) | COUNTED(KIND_TCP_OPEN_OUTBOUND))
#define SENT_KINDS                                                                                                     \
	(ALL_OF(KIND_IP_SEND) | ALL_OF(KIND_TCP_SEND) | ALL_OF(KIND_TCP_RETRANS) | COUNTED(KIND_TCP_OPEN_OUTBOUND))

static const struct kinds kinds = {KIND_IP_SEND, KIND_TCP_SEND, RECORD_SENT};

static __always_inline bool before(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

/* In 5.10 and 6.1 a bit says whether vlan_tci holds a tag; later the tag and its protocol together are zero or not. */
struct sk_buff___vlan_bit {
	u8 vlan_present : 1;
};

static __always_inline bool has_vlan_tag(struct sk_buff *skb)
{
	struct sk_buff___vlan_bit *old = (void *)skb;

	if (bpf_core_field_exists(old->vlan_present))
		return BPF_CORE_READ_BITFIELD_PROBED(old, vlan_present);
	return BPF_CORE_READ(skb, vlan_all);
}

/* A device that carries others (a VLAN's, a macvlan's, a port of a bridge or bond) is handed their packets after they
 * have been counted there, and frames that IP in this namespace never sees. What is sent on the device itself has no
 * tag and the device's own address. */
static __always_inline bool is_of_another_device(struct sk_buff *skb, struct net_device *dev)
{
	u8 source[6] = {}, own[6] = {};

	if (BPF_CORE_READ_BITFIELD_PROBED(dev, priv_flags) & (IFF_BRIDGE_PORT | IFF_OVS_DATAPATH | IFF_TEAM_PORT))
		return true;
	if (dev->flags & IFF_SLAVE || has_vlan_tag(skb))
		return true;
	bpf_probe_read_kernel(source, sizeof(source), skb->data + sizeof(own));
	bpf_probe_read_kernel(own, sizeof(own), dev->dev_addr);
	return *(u32 *)source != *(u32 *)own || *(u16 *)&source[4] != *(u16 *)&own[4];
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

/* Raised before a retransmission leaves (__tcp_retransmit_skb), so 0 means that a packet is none. */
static __always_inline u32 total_retrans(struct sock *sk)
{
#ifdef RDONLY_CAST
	return rdonly_cast(sk, struct tcp_sock)->total_retrans;
#else
	return BPF_CORE_READ((struct tcp_sock *)sk, total_retrans);
#endif
}

static __always_inline bool is_retransmission(struct packet *packet, struct sock *sk)
{
	/* A SYN is one: the caller has seen total_retrans. The SYN-ACKs of an open socket (TCP Fast Open, simultaneous
	 * open) are tcp_retransmit_synack's. */
	if (packet->flags & TCP_SYN)
		return sk->__sk_common.skc_state == TCP_SYN_SENT && !(packet->flags & TCP_ACK);
	/* A bare ACK occupies no sequence space. */
	return (packet->payload || packet->flags & TCP_FIN) &&
	       before(bpf_ntohl(packet->seq), BPF_CORE_READ((struct tcp_sock *)sk, snd_nxt));
}

static __always_inline void retransmitted(u32 slot, u32 want, enum family family, struct packet *packet, u32 packets)
{
	if (want & PER_FLOW(KIND_TCP_RETRANS)) {
		u64 word = packet->key[0];

		packet->key[0] |= key_word(0, slot, RECORD_RETRANSMITTED, 0);

		struct traffic *traffic = traffic_of(packet->key, family);

		packet->key[0] = word;
		if (traffic) {
			traffic->packets += packets;
			return;
		}
	}
	count(slot, KIND_TCP_RETRANS, family, packets, 0);
}

static __always_inline int sent(struct sk_buff *skb, struct net_device *dev, struct net *net, u32 slot,
				enum family family)
{
	u32 want = wants_of(slot) & SENT_KINDS;
	if (!want || (dev->upper_level != NO_UPPER && is_of_another_device(skb, dev)))
		return 0;

	u32 network = skb->network_header;
	u32 skipped = offset_from_data(skb, network);
	u32 length = skb->len - skipped;
	struct wire wire = {1, length};

	/* qdisc_skb_cb.pkt_len, set just before: the length on the wire, so it differs only where packets are merged.
	 */
	if (*(u32 *)&skb->cb[0] != skb->len && gso_size_of(skb))
		wire = unmerged(skb, network, length, family);

	if (want == COUNTED(KIND_IP_SEND)) {
		count(slot, KIND_IP_SEND, family, wire.packets, wire.bytes);
		return 0;
	}

	struct sock *sk = want & PER_SOCKET ? tcp_sock_of(skb, net) : NULL;
	bool retransmits = sk && total_retrans(sk);
	bool opening = sk && sk->__sk_common.skc_state == TCP_SYN_SENT;

	if (!(want & (PER_FLOW(KIND_IP_SEND) | COUNTED(KIND_TCP_SEND))) && !retransmits && !opening) {
		if (want & COUNTED(KIND_IP_SEND))
			count(slot, KIND_IP_SEND, family, wire.packets, wire.bytes);
		return 0;
	}

	struct packet packet;
	read_packet(&packet, skb->head + network, length, length - skb->data_len, family, OUTGOING);

	if (packet.tcp) {
		if (retransmits && want & COUNTED(KIND_TCP_RETRANS) && is_retransmission(&packet, sk))
			retransmitted(slot, want, family, &packet, wire.packets);
		if (opening && !retransmits && want & COUNTED(KIND_TCP_OPEN_OUTBOUND) &&
		    (packet.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			count(slot, KIND_TCP_OPEN_OUTBOUND, family, 1, 0);
		/* What came in on another device is forwarded: TCP in this namespace did not send it. */
		if (skb->skb_iif)
			want &= ~ALL_OF(KIND_TCP_SEND);
	}
	account(slot, want, family, kinds, &packet, wire);
	return 0;
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(net_dev_queue, struct sk_buff *skb)
{
	struct net_device *dev = skb->dev;
	struct net *net = dev->nd_net.net;
	u32 slot = slot_of(net);

	if (!slot)
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return sent(skb, dev, net, slot, FAMILY_IPV4);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return sent(skb, dev, net, slot, FAMILY_IPV6);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
