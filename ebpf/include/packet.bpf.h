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
#endif
#define IPPROTO_UDP_LITE 136

enum direction { INCOMING, OUTGOING };

struct packet {
	u64 key[IPV6_KEY]; /* of the flow; the first word without slot and record */
	u32 seq;           /* TCP only, as the next ones */
	u32 payload;       /* of the whole skb, merged or not */
	bool tcp;
	bool begins_segment; /* false: a later fragment, whose segment its first one counts */
	u8 flags;
};

/* Where the transport header is and what it is. */
struct transport {
	u32 offset; /* from the network header */
	u32 protocol;
	bool hidden; /* a later fragment, or in no place that is cheap to read: no ports */
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

static __always_inline u32 swap_halves(u32 ports)
{
	return ports << 16 | ports >> 16;
}

/* The ports to keep of a packet that tells who the service is; 0 of any other. A SYN asks for a service that has yet to
 * answer; a reset with sequence number 0 answers a SYN to a port where nobody listens (RFC 9293, 3.10.7.1). */
static __always_inline u32 told_service(u32 flags, u32 seq, enum direction direction)
{
	bool answers = flags & TCP_ACK;

	if (flags & TCP_SYN || (flags & TCP_RST && answers && !seq))
		return answers == (direction == INCOMING) ? KEEP_REMOTE : KEEP_LOCAL;
	return 0;
}

/* The first two words of a TCP header: ports and sequence number; acknowledgement, data offset and flags. `words` are
 * those that the network header was read with. */
static __always_inline void read_tcp(u64 *tcp, const u64 *words, const void *network, u32 offset, enum family family)
{
#ifndef RDONLY_CAST
	if (family == FAMILY_IPV4 && offset == IPV4_HEADER) {
		tcp[0] = words[2] >> 32 | words[3] << 32;
		tcp[1] = words[3] >> 32 | words[4] << 32;
		return;
	}
	if (family == FAMILY_IPV6 && offset == IPV6_HEADER) {
		tcp[0] = words[5];
		tcp[1] = words[6];
		return;
	}
#endif
	read_two_words(tcp, network + offset);
}

/* Ports and TCP's fields. `length` is the skb's from the network header on. */
static __always_inline void read_transport(struct packet *packet, struct transport at, const void *network,
					   const u64 *words, u32 ports, u32 length, enum family family,
					   enum direction direction)
{
	packet->tcp = false;
	packet->key[0] = at.protocol;
	if (at.protocol == IPPROTO_TCP) {
		u64 tcp[2] = {};

		packet->tcp = true;
		packet->begins_segment = !at.hidden;
		packet->payload = length > at.offset ? length - at.offset : 0;
		packet->flags = 0;
		if (at.hidden)
			return;
		read_tcp(tcp, words, network, at.offset, family);

		u32 header = (tcp[1] >> 36 & 0xF) << 2;

		packet->seq = tcp[0] >> 32;
		packet->flags = tcp[1] >> 40;
		packet->payload = packet->payload > header ? packet->payload - header : 0;
		if (direction == INCOMING)
			ports = swap_halves(ports);
		if (flow_config.fold_ports) {
			u32 keep = told_service(packet->flags, packet->seq, direction);

			ports = keep ? ports & keep : fold_tcp(packet->key, family, ports);
		}
		packet->key[0] = (u64)ports << 32 | IPPROTO_TCP;
		return;
	}
	if (at.hidden || !has_ports(at.protocol))
		return;
	if (direction == INCOMING)
		ports = swap_halves(ports);
	if (flow_config.fold_ports)
		ports = fold_by_number(ports);
	packet->key[0] |= (u64)ports << 32;
}

#define EXTENSIONS                                                                                                     \
	(1ull << IPPROTO_HOPOPTS | 1ull << IPPROTO_ROUTING | 1ull << IPPROTO_FRAGMENT | 1ull << IPPROTO_DSTOPTS)

static __always_inline bool is_extension(u32 protocol)
{
	return protocol < 64 && EXTENSIONS >> protocol & 1;
}

static __always_inline void read_ipv4(struct packet *packet, const void *network, u32 length, u32 linear,
				      enum direction direction)
{
	u64 words[5] = {};

	read_words(words, network, 3, 2);

	u64 source = words[1] >> 32, destination = (u32)words[2];
	u32 ports = words[2] >> 32;
	struct transport at = {
	    .offset = (words[0] & 0xF) << 2,
	    .protocol = words[1] >> 8 & 0xFF,
	    .hidden = words[0] >> 48 & IPV4_OFFSET_MASK,
	};

	packet->key[1] = direction == INCOMING ? source << 32 | destination : destination << 32 | source;
	if (at.offset != IPV4_HEADER) /* options */
		bpf_probe_read_kernel(&ports, sizeof(ports), network + at.offset);
	if (linear < length && linear < at.offset + header_size(at.protocol))
		at.hidden = true;
	read_transport(packet, at, network, words, ports, length, FAMILY_IPV4, direction);
}

/* Follows extension headers up to the transport header. */
static __always_inline struct transport skip_extensions(const void *network, u32 protocol)
{
	struct transport at = {.offset = IPV6_HEADER, .protocol = protocol};

	for (u32 i = 0; i < IPV6_EXTENSIONS; i++) {
		u8 extension[4] = {};

		if (!is_extension(at.protocol))
			break;
		bpf_probe_read_kernel(extension, sizeof(extension), network + at.offset);
		if (at.protocol == IPPROTO_FRAGMENT) {
			at.hidden = extension[2] || extension[3] & 0xF8;
			at.offset += 8;
		} else {
			at.offset += (extension[1] + 1) * 8;
		}
		at.protocol = extension[0];
		if (at.hidden)
			break;
	}
	return at;
}

static __always_inline void read_ipv6(struct packet *packet, const void *network, u32 length, u32 linear,
				      enum direction direction)
{
	u64 words[7] = {};

	read_words(words, network, 6, 1);

	struct transport at = {.offset = IPV6_HEADER, .protocol = words[0] >> 48 & 0xFF};
	u32 ports = words[5];

	if (direction == INCOMING) {
		packet->key[1] = words[3];
		packet->key[2] = words[4];
		packet->key[3] = words[1];
		packet->key[4] = words[2];
	} else {
		packet->key[1] = words[1];
		packet->key[2] = words[2];
		packet->key[3] = words[3];
		packet->key[4] = words[4];
	}
	if (is_extension(at.protocol)) {
		at = skip_extensions(network, at.protocol);
		bpf_probe_read_kernel(&ports, sizeof(ports), network + at.offset);
	}
	if (linear < length && linear < at.offset + header_size(at.protocol))
		at.hidden = true;
	read_transport(packet, at, network, words, ports, length, FAMILY_IPV6, direction);
}

/* `network` points at the IP header, `length` counts from there; `linear` of it can be read. */
static __always_inline void read_packet(struct packet *packet, const void *network, u32 length, u32 linear,
					enum family family, enum direction direction)
{
	if (family == FAMILY_IPV4)
		read_ipv4(packet, network, length, linear, direction);
	else
		read_ipv6(packet, network, length, linear, direction);
}

/* Which kinds a direction's traffic is counted as. */
struct kinds {
	enum kind ip, tcp;
	enum record record;
};

/* Counts a packet per flow or per pod, as `want` says for each of its two kinds. `seen` holds the numbers for both; a
 * kind that is not wanted is left out. */
static __always_inline void account_kinds(u32 slot, u32 want, enum family family, struct kinds kinds, u64 *key,
					  struct traffic *seen, const bool tcp)
{
	u32 flows = PER_FLOW(kinds.ip) | (tcp ? PER_FLOW(kinds.tcp) : 0);

	if (want & flows) {
		key[0] |= key_word(0, slot, kinds.record, 0);

		struct traffic *traffic = traffic_of(key, family);

		if (traffic) {
			if (want & PER_FLOW(kinds.ip)) {
				traffic->packets += seen->packets;
				traffic->bytes += seen->bytes;
				want &= ~COUNTED(kinds.ip);
			}
			if (tcp && want & PER_FLOW(kinds.tcp)) {
				traffic->segments += seen->segments;
				traffic->payload += seen->payload;
				want &= ~COUNTED(kinds.tcp);
			}
		}
	}
	if (want & COUNTED(kinds.ip))
		count(slot, kinds.ip, family, seen->packets, seen->bytes);
	if (tcp && want & COUNTED(kinds.tcp))
		count(slot, kinds.tcp, family, seen->segments, seen->payload);
}

static __always_inline void account(u32 slot, u32 want, enum family family, struct kinds kinds, struct packet *packet,
				    struct wire wire)
{
	struct traffic seen = {.packets = wire.packets, .bytes = wire.bytes};

	if (packet->tcp) {
		seen.segments = packet->begins_segment ? wire.packets : 0;
		seen.payload = packet->payload;
		account_kinds(slot, want, family, kinds, packet->key, &seen, true);
	} else {
		account_kinds(slot, want, family, kinds, packet->key, &seen, false);
	}
}

#endif
