/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rare events with a reason, such as a drop or a failed connection: counted by it, per pod or per flow.
 *
 * There are more reasons than a pod could have counters of, and few of them happen: so they are in two hash tables, one
 * written and one drained, with one entry for what was really seen. Any program may count here, wherever it runs: what
 * is there is added to by one instruction, and what is new is inserted with interrupts off, by the kernel.
 */
#ifndef DOLPHIN_EVENT_BPF_H
#define DOLPHIN_EVENT_BPF_H

#include "ports.bpf.h"

#define EVENTS      4096 /* in each table: 0.5 MiB, allocated beforehand, as tracing programs need it */
#define FLOW_EVENTS 3072 /* beyond, only entries of pods are new: a flood of flows never costs a pod's total */
#define IS_FLOW     1    /* in flow[0] */

/* What happened: every byte counts, also those that a compiler would leave between the members. All zeros from `flow`
 * on, and no protocol: to the pod. Else flow[0] is IS_FLOW with ports << 32, and the addresses follow as in the key of
 * flow.bpf.h. */
struct event {
	u32 slot;
	u8 kind, family, direction, protocol;
	u64 reason; /* of a meaning that its kind gives it */
	u64 flow[IPV6_KEY];
};

/* How often it did. The key is a sum over it, as the kernel takes as long to hash the whole as for all the rest. */
struct events {
	struct event event;
	u64 packets;
};

#define EVENT_TABLE(name)                                                                                              \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(max_entries, EVENTS);                                                                           \
		__type(key, u64);                                                                                      \
		__type(value, struct events);                                                                          \
	} name SEC(".maps")

EVENT_TABLE(events0);
EVENT_TABLE(events1);

/* Differences in a word's upper bits alone must not stay there. */
static __always_inline u64 folded(u64 word)
{
	return word ^ word >> 32;
}

/* Two events may have the same only by chance: the factors are random, so that no pod can aim at it. */
static __always_inline u64 digest_of(const struct event *event)
{
	const volatile u64 *factors = flow_config.factors;
	const u64 *words = (const void *)event;
	u64 sum = (folded(words[0]) * factors[0] ^ words[1]) * factors[1];

	if (event->flow[0])
		sum += folded(event->flow[0]) * factors[0] + folded(event->flow[1]) * factors[1] +
		       folded(event->flow[2]) * factors[2] + folded(event->flow[3]) * factors[3] +
		       folded(event->flow[4]) * factors[4];
	return sum;
}

static __always_inline bool same_event(const struct event *one, const struct event *other)
{
	const u64 *a = (const void *)one, *b = (const void *)other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5] &&
	       a[6] == b[6];
}

/* Apart for each map, so that the kernel calls what it knows then. */
static __always_inline struct events *events_of(u32 active, const u64 *key)
{
	if (active) {
		barrier();
		return bpf_map_lookup_elem(&events1, key);
	}
	return bpf_map_lookup_elem(&events0, key);
}

/* Adds to an entry, which is a new one only where there are fewer than `limit`; false: there was no room. */
static __noinline bool add_event(const struct event *event, u64 packets, u32 limit)
{
	u32 active = *(volatile u32 *)&state.active & (CPU_PARTITIONS - 1);
	u64 key = digest_of(event);
	struct events *found = events_of(active, &key);

	if (!found) {
		if (state.events[active] >= limit)
			return false;

		struct events first = {*event, packets};
		void *map = active ? (void *)&events1 : (void *)&events0;

		if (!bpf_map_update_elem(map, &key, &first, BPF_NOEXIST)) {
			__sync_fetch_and_add(&state.events[active], 1);
			return true;
		}
		/* Another CPU was quicker, or there is no room. */
		found = events_of(active, &key);
	}
	if (!found || !same_event(&found->event, event))
		return false;
	__sync_fetch_and_add(&found->packets, packets);
	return true;
}

/* Counts per pod. */
static __always_inline void count_event(u32 slot, enum kind kind, enum family family, enum direction direction,
					u64 reason, u64 packets)
{
	struct event event = {.slot = slot, .kind = kind, .family = family, .direction = direction, .reason = reason};

	if (!add_event(&event, packets, EVENTS))
		__sync_fetch_and_add(&state.no_event[kind & (ALL_KINDS - 1)], packets);
}

/* Counts per flow, or per pod where there is no room: in either case once, as user space adds the flows up. `key` is a
 * flow's as in flow.bpf.h, its first word with ports, folded already, and protocol; of IPv4, two words of it. */
static __always_inline void count_flow_event(u32 slot, enum kind kind, enum family family, enum direction direction,
					     u64 reason, const u64 *key, u64 packets)
{
	struct event event = {.slot = slot, .kind = kind, .family = family, .direction = direction, .reason = reason};

	event.protocol = key[0];
	event.flow[0] = key[0] >> 32 << 32 | IS_FLOW;
	event.flow[1] = key[1];
	if (family == FAMILY_IPV6) {
		event.flow[2] = key[2];
		event.flow[3] = key[3];
		event.flow[4] = key[4];
	}
	if (!add_event(&event, packets, FLOW_EVENTS))
		count_event(slot, kind, family, direction, reason, packets);
}

#endif
