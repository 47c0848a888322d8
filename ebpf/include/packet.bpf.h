/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a packet's headers say: its flow, and of TCP what this agent counts. */
#ifndef DOLPHIN_PACKET_BPF_H
#define DOLPHIN_PACKET_BPF_H

#include "kernel.bpf.h"
#include "ports.bpf.h"
#include "wire.bpf.h"

#define IPV4_HEADER      20
#define IPV4_OFFSET_MASK 0xFF1F /* of frag_off, in network order: later fragments */
#define IPV6_HEADER      40
#define IPV6_EXTENSIONS  6 /* headers followed at most */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#ifndef IPPROTO_HOPOPTS /* enumerators of netinet/in.h, macros in the kernel */
#define IPPROTO_HOPOPTS  0
#define IPPROTO_ROUTING  43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_DSTOPTS  60
#define IPPROTO_ICMPV6   58
#endif
#define IPPROTO_UDP_LITE 136

struct packet {
	u64 key[IPV6_KEY];   /* of the flow; the first word without slot and record */
	bool tcp;            /* the next ones say something of TCP only */
	bool begins_segment; /* false: a later fragment, whose segment its first one counts */
	u8 flags;
	u32 payload; /* of the whole skb, merged or not */
	const void *transport;
};

/* Bytes of an skb from its network header on. */
struct length {
	u32 whole;
	u32 linear; /* of them at the beginning, where they can be read */
};

/* Where the transport header is and what it is. */
struct transport {
	u32 offset; /* from the network header */
	u32 protocol;
	u32 ports;   /* as they lie in memory; meaningless where the header is hidden or has none */
	bool later;  /* fragment: it has no header, the first one has */
	bool hidden; /* a later fragment, or in no place that is cheap to read */
};

/* Of those that are not TCP. */
static __always_inline bool has_ports(u32 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP || protocol == IPPROTO_UDP_LITE;
}

/* The shortest header with ports: of UDP packets that segmentation offload made, no more may be in one piece. */
static __always_inline u32 header_size(u32 protocol)
{
	return protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
}

/* In the order of a flow's key. `ports` are those of a header, as they lie in memory. */
static __always_inline u32 own_first(u32 ports, enum direction direction)
{
	ports = bpf_ntohl(ports);
	return direction == INCOMING ? ports << 16 | ports >> 16 : ports;
}

/* Of a packet whose transport header is not hidden. */
static __always_inline u32 tcp_sequence(struct packet *packet)
{
	return bpf_ntohl(read_word(packet->transport) >> 32);
}

/* The ports to keep of a packet that tells who the service is; 0 of any other. A SYN asks for a service that has yet to
 * answer; a reset with sequence number 0 answers a SYN to a port where nobody listens (RFC 9293, 3.10.7.1). */
static __always_inline u32 told_service(struct packet *packet, enum direction direction)
{
	bool answers = packet->flags & TCP_ACK;

	if (!(packet->flags & (TCP_SYN | TCP_RST)))
		return 0;
	if (!(packet->flags & TCP_SYN) && (!answers || tcp_sequence(packet)))
		return 0;
	return answers == (direction == INCOMING) ? KEEP_REMOTE : KEEP_LOCAL;
}

/* A TCP header's word of flags, which is `offset` bytes behind the network header. `words` are those that the latter
 * was read with. */
static __always_inline u64 tcp_control(const u64 *words, const void *network, u32 offset, enum family family)
{
#ifndef RDONLY_CAST
	if (family == FAMILY_IPV4 && offset == IPV4_HEADER)
		return words[3] >> 32 | words[4] << 32;
	if (family == FAMILY_IPV6 && offset == IPV6_HEADER)
		return words[6];
#endif
	return read_word(network + offset + TCP_CONTROL);
}

static __always_inline u32 difference(u32 length, u32 headers)
{
	return length > headers ? length - headers : 0;
}

/* The ports for a flow's key of what is not TCP. */
static __always_inline u32 key_ports(struct transport at, enum direction direction)
{
	u32 ports = own_first(at.ports, direction);

	return flow_config.fold_ports ? fold_by_number(ports) : ports;
}

/* Ports and TCP's fields. `length` is the skb's from the network header on. */
static __always_inline void read_transport(struct packet *packet, struct transport at, const void *network,
					   const u64 *words, u32 length, enum family family, enum direction direction)
{
	u32 ports;

	packet->key[0] = at.protocol;
	packet->tcp = at.protocol == IPPROTO_TCP;
	if (packet->tcp) {
		packet->begins_segment = !at.hidden;
		packet->flags = 0;
		if (at.hidden) {
			packet->payload = difference(length, at.offset);
			return;
		}
		packet->transport = network + at.offset;

		u64 control = tcp_control(words, network, at.offset, family);
		u32 keep = 0;

		packet->flags = control >> 40;
		packet->payload = difference(length, at.offset + tcp_header_size(control));
		ports = own_first(at.ports, direction);
		if (flow_config.fold_ports) {
			keep = told_service(packet, direction);
			ports = keep ? ports & keep : fold_tcp(packet->key, family, ports);
		}
	} else {
		if (at.hidden || !has_ports(at.protocol))
			return;
		ports = key_ports(at, direction);
	}
	packet->key[0] |= (u64)ports << 32;
}

#define EXTENSIONS                                                                                                     \
	(1ull << IPPROTO_HOPOPTS | 1ull << IPPROTO_ROUTING | 1ull << IPPROTO_FRAGMENT | 1ull << IPPROTO_DSTOPTS)

static __always_inline bool is_extension(u32 protocol)
{
	return protocol < 64 && EXTENSIONS >> protocol & 1;
}

#define IPV4_WORDS 5
#define IPV6_WORDS 7

/* The addresses for a flow's key; `words` are for who reads on. */
static __always_inline struct transport read_ipv4(u64 *key, u64 *words, const void *network, struct length length,
						  enum direction direction)
{
	read_words(words, network, 3, IPV4_WORDS - 3);

	u64 source = words[1] >> 32, destination = (u32)words[2];
	struct transport at = {
	    .offset = (words[0] & 0xF) << 2,
	    .protocol = words[1] >> 8 & 0xFF,
	    .ports = words[2] >> 32,
	    .later = words[0] >> 48 & IPV4_OFFSET_MASK,
	};

	at.hidden = at.later;
	key[1] = direction == INCOMING ? source << 32 | destination : destination << 32 | source;
	if (at.offset != IPV4_HEADER) /* options */
		at.ports = read_word(network + at.offset);
	if (length.linear < length.whole && length.linear < at.offset + header_size(at.protocol))
		at.hidden = true;
	return at;
}

/* Follows extension headers up to the transport header. */
static __always_inline struct transport skip_extensions(const void *network, u32 protocol)
{
	struct transport at = {.offset = IPV6_HEADER, .protocol = protocol};

	for (u32 i = 0; i < IPV6_EXTENSIONS; i++) {
		if (!is_extension(at.protocol))
			break;

		u64 extension = read_word(network + at.offset);

		if (at.protocol == IPPROTO_FRAGMENT) {
			at.later = extension >> 16 & 0xF8FF; /* the offset, in network order, without its flags */
			at.offset += 8;
		} else {
			at.offset += ((extension >> 8 & 0xFF) + 1) * 8;
		}
		at.protocol = extension & 0xFF;
		if (at.later)
			break;
	}
	at.hidden = at.later;
	return at;
}

static __always_inline struct transport read_ipv6(u64 *key, u64 *words, const void *network, struct length length,
						  enum direction direction)
{
	read_words(words, network, 6, IPV6_WORDS - 6);

	struct transport at = {.offset = IPV6_HEADER, .protocol = ipv6_next_header(words[0]), .ports = words[5]};

	/* The verifier would not follow a choice between addresses to load from, which clang makes of one of words. */
	if (!__builtin_constant_p(direction))
		asm volatile("" : "+r"(words[1]), "+r"(words[2]), "+r"(words[3]), "+r"(words[4]));

	if (direction == INCOMING) {
		key[1] = words[3];
		key[2] = words[4];
		key[3] = words[1];
		key[4] = words[2];
	} else {
		key[1] = words[1];
		key[2] = words[2];
		key[3] = words[3];
		key[4] = words[4];
	}
	if (is_extension(at.protocol)) {
		at = skip_extensions(network, at.protocol);
		at.ports = read_word(network + at.offset);
	}
	if (length.linear < length.whole && length.linear < at.offset + header_size(at.protocol))
		at.hidden = true;
	return at;
}

/* `network` points at the IP header, `length` counts from there. */
static __always_inline void read_packet(struct packet *packet, const void *network, struct length length,
					enum family family, enum direction direction)
{
	if (family == FAMILY_IPV4) {
		u64 words[IPV4_WORDS] = {};
		struct transport at = read_ipv4(packet->key, words, network, length, direction);

		read_transport(packet, at, network, words, length.whole, family, direction);
	} else {
		u64 words[IPV6_WORDS] = {};
		struct transport at = read_ipv6(packet->key, words, network, length, direction);

		read_transport(packet, at, network, words, length.whole, family, direction);
	}
}

/* Which kinds a direction's traffic is counted as. */
struct kinds {
	enum kind ip, tcp;
	enum record record;
};

/* Counts a packet per flow or per pod, as the pod wants each of its two kinds. `seen` holds the numbers for both; a
 * kind that is not wanted is left out. */
static __always_inline void account_kinds(struct pod pod, enum family family, struct kinds kinds, u64 *key,
					  struct traffic *seen, const bool tcp)
{
	struct traffic *traffic = NULL;

	if (pod.wants & (PER_FLOW(kinds.ip) | (tcp ? PER_FLOW(kinds.tcp) : 0))) {
		key[0] |= key_word(0, pod.slot, kinds.record, 0);
		traffic = traffic_of(key, family);
	}
	if (traffic && pod.wants & PER_FLOW(kinds.ip)) {
		traffic->packets += seen->packets;
		traffic->bytes += seen->bytes;
	} else if (pod.wants & COUNTED(kinds.ip)) {
		count(pod.slot, kinds.ip, family, seen->packets, seen->bytes);
	}
	if (!tcp)
		return;
	if (traffic && pod.wants & PER_FLOW(kinds.tcp)) {
		traffic->segments += seen->segments;
		traffic->payload += seen->payload;
	} else if (pod.wants & COUNTED(kinds.tcp)) {
		count(pod.slot, kinds.tcp, family, seen->segments, seen->payload);
	}
}

static __always_inline void account(struct pod pod, enum family family, struct kinds kinds, struct packet *packet,
				    struct wire wire)
{
	struct traffic seen = {.packets = wire.packets, .bytes = wire.bytes};

	if (packet->tcp) {
		seen.segments = packet->begins_segment ? wire.packets : 0;
		seen.payload = packet->payload;
		account_kinds(pod, family, kinds, packet->key, &seen, true);
	} else {
		account_kinds(pod, family, kinds, packet->key, &seen, false);
	}
}

#endif
