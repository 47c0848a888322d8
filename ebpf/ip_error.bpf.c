// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets that a pod's IP refused for what they are, as InHdrErrors, InTruncatedPkts, InAddrErrors, InUnknownProtos and
 * InNoRoutes count them.
 *
 * No program is on the path of a packet that is all right. Where IP frees a packet, the kernel says why (from 6.0 on),
 * or the packet is judged once more as the kernel did. What IP answers by ICMP is counted where it does that, since
 * such a packet looks like many that are dropped for other reasons.
 */
#include "device.bpf.h"
#include "malformed.bpf.h"

#define WANTED ALL_OF(KIND_IP_ERROR)

#define ICMP_UNREACHABLE       3
#define ICMP_UNKNOWN_PROTOCOL  2
#define ICMP_TIME_EXCEEDED     11
#define ICMP_PARAMETER_PROBLEM 12

#define ICMPV6_TIME_EXCEEDED     3
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMPV6_UNKNOWN_HEADER    1

#define PACKET_BROADCAST 1
#define PACKET_MULTICAST 2
#define PACKET_LOOPBACK  5
#define IFF_LOOPBACK     (1 << 3)

#define ROUTING_TYPE_2 2 /* the one that IPv6 acts upon; 3 and 4 are for those who route by it */
#define ROUTING_TYPE_4 4

#define RTF_REJECT  0x0200
#define RTF_ANYCAST 0x00100000
#define RTF_LOCAL   0x80000000

#define EAGAIN       11
#define EACCES       13
#define ENETUNREACH  101
#define EHOSTUNREACH 113

static __always_inline int add_error(struct pod pod, enum family family, enum error error)
{
	if (error)
		count_event(pod.slot, KIND_IP_ERROR, family, INCOMING, error, 1);
	return 0;
}

/* Whether the one's complement sum over an IPv4 header is what it must be. `words` are its first 24 bytes. */
static __always_inline bool has_right_sum(const void *header, const u64 *words, u32 size)
{
	u64 sum = (u32)words[0] + (words[0] >> 32) + (u32)words[1] + (words[1] >> 32) + (u32)words[2];

	for (u32 at = IPV4_HEADER; at < 60; at += 4) {
		if (at >= size)
			break;
		sum += (u32)read_word(header + at);
	}
	sum = (sum >> 32) + (u32)sum;
	sum = (sum >> 16) + (sum & 0xFFFF);
	sum = (sum >> 16) + (sum & 0xFFFF);
	sum = (sum >> 16) + (sum & 0xFFFF);
	return sum == 0xFFFF;
}

/* What ip_rcv_core finds wrong, in its order. */
static __always_inline enum error judge_ipv4(struct sk_buff *skb)
{
	void *header = skb->head + skb->network_header;
	u64 words[3] = {};
	u32 length = skb->len;

	if (length < IPV4_HEADER)
		return ERROR_HEADER;
	read_words(words, header, 3, 0);

	u32 version = words[0] >> 4 & 0xF;
	u32 size = (words[0] & 0xF) << 2;
	u32 total = bpf_ntohs(words[0] >> 16);

	if (version != 4 || size < IPV4_HEADER || length < size)
		return ERROR_HEADER;
	if (!has_right_sum(header, words, size))
		return ERROR_CHECKSUM;
	if (!total && gso_size_of(skb)) /* BIG TCP */
		return ERROR_NONE;
	if (length < total)
		return ERROR_LENGTH;
	return total < size ? ERROR_HEADER : ERROR_NONE;
}

static __always_inline bool is_loopback6(const u64 *address)
{
	return !address[0] && address[1] == bpf_cpu_to_be64(1);
}

static __always_inline bool is_multicast6(const u64 *address)
{
	return (address[0] & 0xFF) == 0xFF;
}

/* The hop-by-hop options are the only header that IPv6 looks at before it routes: having found them right, it moves on.
 */
static __always_inline bool is_at_options(struct sk_buff *skb, const u64 *words)
{
	return ipv6_next_header(words[0]) == IPPROTO_HOPOPTS &&
	       (u32)skb->transport_header - skb->network_header == IPV6_HEADER;
}

/* What ip6_rcv_core finds wrong, in its order. */
static __always_inline enum error judge_ipv6(struct sk_buff *skb, struct net_device *dev)
{
	u64 words[6] = {};
	u64 *source = &words[1], *destination = &words[3];
	u32 type = packet_type(skb);
	u32 length = skb->len;

	if (length < IPV6_HEADER)
		return ERROR_HEADER;
	read_words(words, skb->head + skb->network_header, 6, 0);

	u32 scope = destination[0] >> 8 & 0xF;
	u32 payload = bpf_ntohs(words[0] >> 32);
	bool local = dev->flags & IFF_LOOPBACK;

	if ((words[0] >> 4 & 0xF) != 6)
		return ERROR_HEADER;
	if (!local && (is_loopback6(source) || is_loopback6(destination)))
		return ERROR_HEADER;
	if (is_multicast6(source))
		return ERROR_HEADER;
	if (is_multicast6(destination)) {
		if (!scope || (scope == 1 && !local && type != PACKET_LOOPBACK))
			return ERROR_HEADER;
	} else if (type == PACKET_BROADCAST || type == PACKET_MULTICAST) {
		if (dev->ip6_ptr->cnf.drop_unicast_in_l2_multicast)
			return ERROR_HEADER;
	}
	if (!payload && ipv6_next_header(words[0]) == IPPROTO_HOPOPTS)
		return is_at_options(skb, words) ? ERROR_HEADER : ERROR_NONE;
	if (length < payload + IPV6_HEADER)
		return ERROR_LENGTH;
	return is_at_options(skb, words) ? ERROR_HEADER : ERROR_NONE;
}

/* What the handlers of extension headers find wrong. Fragments are left to icmp6_send: what waits for others, or comes
 * twice, looks the same. */
static __always_inline enum error judge_extension(struct sk_buff *skb)
{
	u32 protocol = protocol_at_front(skb);

	if (protocol == IPPROTO_DSTOPTS)
		return ERROR_HEADER;
	if (protocol != IPPROTO_ROUTING)
		return ERROR_NONE;

	u64 header = read_word(skb->data);
	u32 blocks = header >> 8 & 0xFF, type = header >> 16 & 0xFF, left = header >> 24 & 0xFF;

	if (skb->len < 8 || skb->len < (blocks + 1) * 8)
		return ERROR_HEADER;
	if (packet_type(skb) != PACKET_HOST)
		return ERROR_ADDRESS;
	if ((read_word(skb->head + skb->network_header + 24) & 0xFF) == 0xFF)
		return ERROR_ADDRESS;
	if (type > ROUTING_TYPE_2 && type <= ROUTING_TYPE_4)
		return ERROR_NONE;
	if (type == ROUTING_TYPE_2 && (!left || (blocks == 2 && left == 1)))
		return ERROR_ADDRESS;
	return ERROR_HEADER;
}

/* What is wrong with a packet that IPv6 freed for a reason that it has many of. */
static __always_inline enum error judge_by_reason6(struct sk_buff *skb, enum skb_drop_reason reason)
{
	u64 first, *words = &first;

	if (is_at_transport(skb))
		return judge_extension(skb);
	if (!is_at_network(skb))
		return ERROR_NONE;

	first = read_word(skb->head + skb->network_header);
	if (IS_REASON(reason, PKT_TOO_SMALL))
		return first >> 32 & 0xFFFF || ipv6_next_header(first) != IPPROTO_HOPOPTS ? ERROR_LENGTH : ERROR_HEADER;
	if (IS_REASON(reason, NOT_SPECIFIED))
		return is_at_options(skb, words) ? ERROR_HEADER : ERROR_NONE;
	if (IS_REASON(reason, IP_INHDR) && route_of(skb) && first >> 56 <= 1)
		return ERROR_NONE; /* the hop limit, see icmp6_send */
	return ERROR_HEADER;
}

static __always_inline enum error judge_by_reason4(struct sk_buff *skb, enum skb_drop_reason reason)
{
	if (!is_at_network(skb))
		return ERROR_NONE;
	if (IS_REASON(reason, IP_CSUM))
		return ERROR_CHECKSUM;
	if (IS_REASON(reason, PKT_TOO_SMALL))
		return ERROR_LENGTH;
	/* With a route it is right as far as ip_rcv_core looks: see icmp_send. */
	return IS_REASON(reason, IP_INHDR) && !route_of(skb) ? ERROR_HEADER : ERROR_NONE;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(ip_refused_why, struct sk_buff *skb, void *location, enum skb_drop_reason reason)
{
	bool address = IS_REASON(reason, IP_INADDRERRORS), route = IS_REASON(reason, IP_INNOROUTES);

	if (!address && !route && !IS_REASON(reason, NOT_SPECIFIED) && !IS_REASON(reason, IP_INHDR) &&
	    !IS_REASON(reason, IP_CSUM) && !IS_REASON(reason, PKT_TOO_SMALL) && !IS_REASON(reason, UNHANDLED_PROTO) &&
	    !IS_REASON(reason, UNICAST_IN_L2_MULTICAST))
		return 0;

	int family = family_of_packet(skb);

	if (family == NOT_IP || (family == FAMILY_IPV4 && IS_REASON(reason, NOT_SPECIFIED)))
		return 0;

	struct pod pod = pod_of_packet(skb, WANTED);

	if (!pod.wants)
		return 0;
	if (address || route) /* multicast that nobody joined is at the transport header, and not among the errors */
		return is_at_network(skb) ? add_error(pod, family, address ? ERROR_ADDRESS : ERROR_NO_ROUTE) : 0;
	if (family == FAMILY_IPV4)
		return add_error(pod, family, judge_by_reason4(skb, reason));
	return add_error(pod, family, judge_by_reason6(skb, reason));
}

/* What ip_error finds: with a route that says why there is none. */
static __always_inline enum error judge_route4(struct sk_buff *skb, struct net_device *dev)
{
	struct rtable *route = (void *)route_of(skb);

	if (!(u8)read_word(&route->rt_is_input))
		return ERROR_NONE;

	u16 error = read_word(&route->dst.error);

	if (error == EHOSTUNREACH)
		return dev->ip_ptr->cnf.data[0] ? ERROR_NONE : ERROR_ADDRESS; /* forwarding is the first setting */
	return error == ENETUNREACH ? ERROR_NO_ROUTE : ERROR_NONE;
}

/* What ip6_forward finds, and ip6_pkt_drop. */
static __always_inline enum error judge_route6(struct sk_buff *skb, struct net_device *dev)
{
	struct rt6_info *route = (void *)route_of(skb);
	u64 words[6] = {};
	u64 *source = &words[1], *destination = &words[3];

	if (!skb->skb_iif)
		return ERROR_NONE;
	read_words(words, skb->head + skb->network_header, 6, 0);

	s16 error = -(s16)read_word(&route->dst.error);

	if (error) {
		if (error != ENETUNREACH && error != EHOSTUNREACH && error != EACCES && error != EAGAIN)
			return ERROR_NONE;
		return destination[0] || destination[1] ? ERROR_NO_ROUTE : ERROR_ADDRESS;
	}
	if (is_multicast6(destination))
		return ERROR_NONE;
	if ((u32)read_word(&route->rt6i_flags) & (RTF_LOCAL | RTF_ANYCAST | RTF_REJECT))
		return ERROR_NONE;
	if (!dev->nd_net.net->ipv6.devconf_all->forwarding)
		return ERROR_ADDRESS;
	if (words[0] >> 56 <= 1 || (void *)read_word(&route->dst.dev) == (void *)dev)
		return ERROR_NONE;

	bool none = !source[0] && !source[1];
	bool link_local = (source[0] & 0xC0FF) == 0x80FE;

	return none || link_local || is_loopback6(source) ? ERROR_ADDRESS : ERROR_NONE;
}

/* For kernels that do not say why. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(ip_refused, struct sk_buff *skb, void *location)
{
	int family = family_of_packet(skb);

	if (family == NOT_IP)
		return 0;
	if (!is_at_network(skb) && (family == FAMILY_IPV4 || !is_at_transport(skb)))
		return 0;

	struct pod pod = pod_of_packet(skb, WANTED);
	enum error error;

	if (!pod.wants || packet_type(skb) == PACKET_OTHERHOST)
		return 0;
	if (!is_at_network(skb))
		return add_error(pod, family, judge_extension(skb));

	struct net_device *dev = skb->dev;

	/* What has a route was right before, and may have been changed since. */
	if (route_of(skb))
		error = family == FAMILY_IPV4 ? judge_route4(skb, dev) : judge_route6(skb, dev);
	else
		error = family == FAMILY_IPV4 ? judge_ipv4(skb) : judge_ipv6(skb, dev);
	return add_error(pod, family, error);
}

/* What a packet is answered with says what was wrong; only those that IP refuses are. */
SEC("fentry/__icmp_send")
int BPF_PROG(icmp_send, struct sk_buff *skb, int type, int code)
{
	enum error error;

	if (type == ICMP_TIME_EXCEEDED && !code)
		error = ERROR_HOP_LIMIT;
	else if (type == ICMP_PARAMETER_PROBLEM && !code)
		error = ERROR_HEADER;
	else if (type == ICMP_UNREACHABLE && code == ICMP_UNKNOWN_PROTOCOL && is_at_transport(skb))
		error = ERROR_PROTOCOL; /* and not what a rule rejects with */
	else
		return 0;

	struct pod pod = pod_of_packet(skb, WANTED);

	return pod.wants ? add_error(pod, FAMILY_IPV4, error) : 0;
}

SEC("fentry/icmp6_send")
int BPF_PROG(icmp6_send, struct sk_buff *skb, u8 type, u8 code)
{
	enum error error;

	if (type == ICMPV6_TIME_EXCEEDED && !code)
		error = ERROR_HOP_LIMIT;
	else if (type == ICMPV6_PARAMETER_PROBLEM)
		error = code == ICMPV6_UNKNOWN_HEADER ? ERROR_PROTOCOL : ERROR_HEADER;
	else
		return 0;

	struct pod pod = pod_of_packet(skb, WANTED);

	if (!pod.wants)
		return 0;
	/* All other headers are judged where the packet is freed. */
	if (error == ERROR_HEADER && (!is_at_transport(skb) || protocol_at_front(skb) != IPPROTO_FRAGMENT))
		return 0;
	return add_error(pod, FAMILY_IPV6, error);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
