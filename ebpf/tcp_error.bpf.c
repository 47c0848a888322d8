// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP segments that a pod refused for what they are, as InErrs and InCsumErrors count them: with a wrong checksum, with
 * a header that ends before it begins, and SYNs inside a connection.
 *
 * No program is on the path of a segment that is all right. On kernels before 6.11 there is one on that of segments
 * which find their socket in use, and on those before 6.0 one where the kernel adds segments up by itself.
 */
#include "device.bpf.h"
#include "malformed.bpf.h"

#define WANTED ALL_OF(KIND_TCP_ERROR)

#define TCP_STATE_ESTABLISHED 1
#define CHECKSUM_COMPLETE     2

static __always_inline int add_error(struct pod pod, struct sk_buff *skb, enum error error)
{
	if (pod.wants && error)
		count_event(pod.slot, KIND_TCP_ERROR,
			    skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : FAMILY_IPV4, INCOMING, error, 1);
	return 0;
}

static __always_inline bool is_tcp(struct sk_buff *skb)
{
	int family = family_of_packet(skb);

	if (family == NOT_IP || !is_at_transport(skb))
		return false;
	if (family == FAMILY_IPV6)
		return protocol_at_front(skb) == IPPROTO_TCP;
	return (read_word(skb->head + skb->network_header + 8) >> 8 & 0xFF) == IPPROTO_TCP;
}

static __always_inline u64 control_of(struct sk_buff *skb)
{
	return read_word(skb->head + skb->transport_header + TCP_CONTROL);
}

/* Shorter than the shortest one, by its own account. */
static __always_inline bool has_short_header(struct sk_buff *skb)
{
	return skb->len >= sizeof(struct tcphdr) && tcp_header_size(control_of(skb)) < sizeof(struct tcphdr);
}

/* Whether the checksum was computed, and wrong: the kernel notes both. */
static __always_inline bool has_wrong_sum(struct sk_buff *skb)
{
	return BPF_CORE_READ_BITFIELD(skb, ip_summed) == CHECKSUM_COMPLETE &&
	       BPF_CORE_READ_BITFIELD(skb, csum_complete_sw) && !BPF_CORE_READ_BITFIELD(skb, csum_valid);
}

static __always_inline bool is_established(const struct sock *sk)
{
	return (u8)read_word((void *)&sk->__sk_common.skc_state) == TCP_STATE_ESTABLISHED;
}

/* TCP takes the device off a segment once it has a socket for it; the route stays until it is queued. */
static __always_inline struct pod pod_of_segment(struct sk_buff *skb)
{
	struct dst_entry *route;
	struct net_device *dev;
	struct net *net;

	if (skb->dev)
		return pod_of_packet(skb, WANTED);
	route = route_of(skb);
	if (!route)
		return (struct pod){};
	dev = (void *)read_word(&route->dev);
	net = (void *)read_word(&dev->nd_net.net);
	return pod_numbered(read_word(&net->ns.inum), WANTED);
}

/* The fourth argument, from 6.11 on, is the socket that a segment was for. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(tcp_refused_sk, struct sk_buff *skb, void *location, enum skb_drop_reason reason, struct sock *sk)
{
	bool small = IS_REASON(reason, PKT_TOO_SMALL), syn = IS_REASON(reason, TCP_INVALID_SYN);
	struct pod pod;

	if (!small && !syn && !IS_REASON(reason, TCP_CSUM))
		return 0;
	pod = sk ? pod_of_socket(sk, WANTED) : pod_of_packet(skb, WANTED);
	if (!pod.wants)
		return 0;
	if (small)
		return is_tcp(skb) && has_short_header(skb) ? add_error(pod, skb, ERROR_HEADER) : 0;
	if (syn)
		return sk && is_established(sk) ? add_error(pod, skb, ERROR_SYN) : 0;
	return add_error(pod, skb, ERROR_CHECKSUM);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(tcp_refused_why, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	bool small = IS_REASON(reason, PKT_TOO_SMALL);
	struct pod pod;

	if (!small && !IS_REASON(reason, TCP_CSUM))
		return 0;
	pod = pod_of_segment(skb);
	if (!pod.wants)
		return 0;
	if (small)
		return is_tcp(skb) && has_short_header(skb) ? add_error(pod, skb, ERROR_HEADER) : 0;
	return add_error(pod, skb, ERROR_CHECKSUM);
}

/* On its way to a SYN that is refused, which is freed right after: its pod if it is inside a connection. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} challenged SEC(".maps");

SEC("fentry/tcp_send_challenge_ack")
int BPF_PROG(tcp_challenge, struct sock *sk)
{
	u32 zero = 0, *slot = bpf_map_lookup_elem(&challenged, &zero);

	if (slot)
		*slot = is_established(sk) ? pod_of(sk->__sk_common.skc_net.net, WANTED).slot : 0;
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(tcp_syn, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	u32 zero = 0, *slot;

	if (!IS_REASON(reason, TCP_INVALID_SYN))
		return 0;
	slot = bpf_map_lookup_elem(&challenged, &zero);
	if (!slot || !*slot)
		return 0;
	return add_error((struct pod){WANTED, *slot}, skb, ERROR_SYN);
}

/* A segment that finds its socket in use loses its route before its checksum is looked at. */
SEC("fexit/tcp_add_backlog")
int BPF_PROG(tcp_backlog_why, struct sock *sk, struct sk_buff *skb, enum skb_drop_reason *reason, bool refused)
{
	if (!refused || !has_wrong_sum(skb))
		return 0;
	return add_error(pod_of(sk->__sk_common.skc_net.net, WANTED), skb, ERROR_CHECKSUM);
}

/* For kernels that do not say why; most of what a connection refuses, these free without a trace. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(tcp_refused, struct sk_buff *skb, void *location)
{
	struct pod pod;

	if (!skb->dev || !is_at_transport(skb) || packet_type(skb) != PACKET_HOST)
		return 0;
	pod = pod_of_segment(skb);
	if (!pod.wants || !is_tcp(skb) || !has_short_header(skb))
		return 0;
	return add_error(pod, skb, ERROR_HEADER);
}

/* Runs where the kernel adds a packet up itself, as no device has vouched for its checksum. Netfilter does so too, but
 * with the packet at its network header. */
SEC("fexit/__skb_checksum_complete")
int BPF_PROG(tcp_checksum, struct sk_buff *skb, u16 sum)
{
	struct pod pod;

	if (!sum || !is_at_transport(skb))
		return 0;
	pod = pod_of_segment(skb);
	if (!pod.wants || !is_tcp(skb))
		return 0;
	return add_error(pod, skb, ERROR_CHECKSUM);
}

SEC("fexit/tcp_add_backlog")
int BPF_PROG(tcp_backlog, struct sock *sk, struct sk_buff *skb, bool refused)
{
	if (!refused || !has_wrong_sum(skb))
		return 0;
	return add_error(pod_of(sk->__sk_common.skc_net.net, WANTED), skb, ERROR_CHECKSUM);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
