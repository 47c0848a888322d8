/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tables of flows: one element per CPU and buffer, each an open-addressed hash table that user space drains whole.
 *
 *   flows4, flows6      traffic and retransmissions; written only where bottom halves are off, so by plain stores
 *   samples4, samples6  RTT samples, and what else is counted where a softirq may interrupt the program
 *
 * Nothing is ever deleted in place: user space flips state.active, waits a grace period, reads the quiet buffer and
 * clears it. A full table costs detail, never a total: what finds no room is counted per pod.
 */
#ifndef DOLPHIN_FLOW_BPF_H
#define DOLPHIN_FLOW_BPF_H

#include "state.bpf.h"

#define PROBES          16
#define IPV4_KEY        2
#define IPV6_KEY        5
#define BUCKET_SHIFT    25
#define EPHEMERAL_FIRST 32768 /* 0x8000, see ANY_EPHEMERAL */

#define VALUE_SIZE_UNSET 64 /* replaced before load */

/* What an entry says of its flow. */
enum record { RECORD_RECEIVED, RECORD_SENT, RECORD_RETRANSMITTED, RECORD_RTT };

/* Set at load, so that the verifier knows the sizes. */
struct table_size {
	u32 mask;  /* entries - 1 */
	u32 shift; /* 64 - log2(entries) */
};

struct flow_config {
	u64 factors[IPV6_KEY]; /* odd and random, so that no pod can aim at collisions */
	struct table_size flows4, flows6, samples4, samples6;
	u32 fold_ports;
};

const volatile struct flow_config flow_config SEC(".rodata.config");

struct flow_table {
	u32 used; /* entries taken since the table was cleared */
	u32 busy; /* a program that can be interrupted is at work here */
	u64 spare[7];
};

/* A key's first word: protocol, record << 8, slot << 16, bucket << BUCKET_SHIFT, ports << 32; not zero, as slots begin
 * at 1. The addresses follow as they are in the packet, the pod's own first whatever the direction; of the ports, the
 * pod's own is the upper half. */
struct traffic {
	u64 packets, bytes;    /* IP: on the wire */
	u64 segments, payload; /* of TCP or UDP, as the key says; both may fall, see receive.bpf.c */
};

struct flow_sample {
	u64 count, sum;
};

struct flow4 {
	u64 key[IPV4_KEY];
	struct traffic traffic;
};

struct flow6 {
	u64 key[IPV6_KEY];
	struct traffic traffic;
};

struct sample4 {
	u64 key[IPV4_KEY];
	struct flow_sample sample;
};

struct sample6 {
	u64 key[IPV6_KEY];
	struct flow_sample sample;
};

#define FLOW_TABLE(name)                                                                                               \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, CPU_PARTITIONS);                                                                   \
		__uint(key_size, sizeof(u32));                                                                         \
		__uint(value_size, VALUE_SIZE_UNSET);                                                                  \
	} name SEC(".maps")

FLOW_TABLE(flows4);
FLOW_TABLE(flows6);
FLOW_TABLE(samples4);
FLOW_TABLE(samples6);

static __always_inline struct flow_table *active_table(void *map)
{
	u32 index = active_index();

	return bpf_map_lookup_elem(map, &index);
}

/* The entry of a key, new if there is none; returns what follows its key, or NULL when no place is free near where it
 * belongs. The slot is the TOP bits of the sum: the middle ones do not depend on a key's upper bits, so that
 * neighbouring ports would collide. No loop over the words: clang would leave it one, and keep the key in memory. */
static __always_inline void *entry_of(struct flow_table *table, const u64 *key, const bool v6, const u32 size, u32 mask,
				      u32 shift)
{
	const volatile u64 *factors = flow_config.factors;
	u64 sum = key[0] * factors[0] + key[1] * factors[1];

	if (v6)
		sum += key[2] * factors[2] + key[3] * factors[3] + key[4] * factors[4];

	u64 at = sum >> shift;

	for (u32 probe = 0; probe < PROBES; probe++, at++) {
		u64 *entry = (void *)(table + 1) + (at & mask) * size;
		u64 first = entry[0];

		if (first == key[0]) {
			if (entry[1] == key[1] &&
			    (!v6 || (entry[2] == key[2] && entry[3] == key[3] && entry[4] == key[4])))
				return entry + (v6 ? IPV6_KEY : IPV4_KEY);
		} else if (!first) {
			entry[0] = key[0];
			entry[1] = key[1];
			if (v6) {
				entry[2] = key[2];
				entry[3] = key[3];
				entry[4] = key[4];
			}
			table->used++;
			return entry + (v6 ? IPV6_KEY : IPV4_KEY);
		}
	}
	return NULL;
}

/* Where a flow's traffic is added up; only with bottom halves off. */
static __always_inline struct traffic *traffic_of(const u64 *key, enum family family)
{
	bool v6 = family == FAMILY_IPV6;
	struct flow_table *table = v6 ? active_table(&flows6) : active_table(&flows4);

	if (!table)
		return NULL;
	return v6 ? entry_of(table, key, true, sizeof(struct flow6), flow_config.flows6.mask, flow_config.flows6.shift)
		  : entry_of(table, key, false, sizeof(struct flow4), flow_config.flows4.mask,
			     flow_config.flows4.shift);
}

/* Adds one sample of `value`; anywhere. False when there is no room or the program interrupted one that was at work
 * on this CPU's table (5.10 does not skip nested runs, and no kernel skips those of another program). */
static __always_inline bool add_sample(const u64 *key, enum family family, u64 value)
{
	bool v6 = family == FAMILY_IPV6;
	struct flow_table *table = v6 ? active_table(&samples6) : active_table(&samples4);
	struct flow_sample *sample;

	if (!table || table->busy)
		return false;
	*(volatile u32 *)&table->busy = 1;
	barrier();
	sample = v6 ? entry_of(table, key, true, sizeof(struct sample6), flow_config.samples6.mask,
			       flow_config.samples6.shift)
		    : entry_of(table, key, false, sizeof(struct sample4), flow_config.samples4.mask,
			       flow_config.samples4.shift);
	if (sample) {
		sample->count++;
		sample->sum += value;
	}
	barrier();
	*(volatile u32 *)&table->busy = 0;
	return sample;
}

static __always_inline u64 key_word(u32 ports, u32 slot, enum record record, u32 protocol)
{
	return (u64)ports << 32 | slot << 16 | record << 8 | protocol;
}

#endif
