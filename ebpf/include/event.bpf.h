/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rare events with a reason, such as a drop or a failed connection: counted by it, per pod or per flow.
 *
 * There are more reasons than a pod could have counters of, and few of them happen: so they are in open-addressed hash
 * tables like those of flow.bpf.h, with an entry for what was really seen, but in one for all CPUs, as any program may
 * count here, wherever it runs. Flows have tables of their own: a flood of them never costs a pod's total.
 */
#ifndef DOLPHIN_EVENT_BPF_H
#define DOLPHIN_EVENT_BPF_H

#include "ports.bpf.h"

#define EVENTS       4096 /* entries of each table: a power of two */
#define EVENTS_SHIFT 52   /* leaves the bits of an entry's place */
#define EVENT_PROBES 4    /* each costs the verifier as much as all the rest of the search */
#define EVENT_GROUPS 2    /* with a table in each buffer: of pods, of flows */

/* What happened: every byte counts, also those that a compiler would leave between the members. All zeros from `flow`
 * on, and no protocol: to the pod. Else the key of flow.bpf.h, its first word with ports and protocol alone. */
struct event {
	u32 slot;
	u8 kind, family, direction, protocol;
	u64 reason; /* of a meaning that its kind gives it */
	u64 flow[IPV6_KEY];
};

/* How often it did. */
struct events {
	struct event event;
	u64 packets;
	u64 digest; /* of `event`, odd; 0: not filled yet */
	u64 claims; /* of those that found it empty: the first one fills it */
};

struct event_table {
	struct flow_table table;
	struct events entries[EVENTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, EVENT_GROUPS *CPU_PARTITIONS);
	__type(key, u32);
	__type(value, struct event_table);
} event_tables SEC(".maps");

/* The first word of struct event. */
static __always_inline u64 what(u32 slot, enum kind kind, enum family family, enum direction direction, u8 protocol)
{
	return slot | (u64)kind << 32 | (u64)family << 40 | (u64)direction << 48 | (u64)protocol << 56;
}

static __always_inline bool is_ipv6(u64 what)
{
	return what >> 40 & 0xFF;
}

/* Differences in a word's upper bits alone must not stay there. */
static __always_inline u64 folded(u64 word)
{
	return word ^ word >> 32;
}

/* Two events may have the same only by chance, as the factors are random: differences in two words can only make up for
 * each other where they are in the uppermost bit of both, and of those that differ from one flow of a pod to the next,
 * all but one are folded. */
static __always_inline u64 digest_of(u64 what, u64 reason, const u64 *key)
{
	const volatile u64 *factors = flow_config.factors;
	u64 sum = (what * factors[0] ^ reason) * factors[1];

	if (!key)
		return sum;
	sum += folded(key[0]) * factors[0] + key[1] * factors[1];
	if (is_ipv6(what))
		sum += key[2] * factors[2] + folded(key[3]) * factors[3] + key[4] * factors[4];
	return sum;
}

/* Whether an entry is one of this event, if it is one of a flow where this is. Without a branch for each word, or the
 * verifier has too many ways to follow. */
static __always_inline bool is_of(const struct events *entry, u64 what, u64 reason, const u64 *key)
{
	const u64 *words = (const void *)&entry->event;
	u64 differences = (words[0] ^ what) | (words[1] ^ reason);

	if (key)
		differences |= (words[2] ^ key[0]) | (words[3] ^ key[1]);
	if (key && is_ipv6(what))
		differences |= (words[4] ^ key[2]) | (words[5] ^ key[3]) | (words[6] ^ key[4]);
	return !differences;
}

static __always_inline void fill(struct events *entry, u64 what, u64 reason, const u64 *key)
{
	u64 *words = (void *)&entry->event;

	words[0] = what;
	words[1] = reason;
	if (key) {
		words[2] = key[0];
		words[3] = key[1];
	}
	if (key && is_ipv6(what)) {
		words[4] = key[2];
		words[5] = key[3];
		words[6] = key[4];
	}
}

/* Takes an empty entry; false: another program was quicker. Of those that come at once, all but the first read a higher
 * number, since each reads after it has added. (Compare-and-swap is not for 5.10.) None is first where the number was
 * raised again before it was read: then the entry stays empty until it is cleared. */
static __always_inline bool claim(struct events *entry)
{
	__sync_fetch_and_add(&entry->claims, 1);
	barrier();
	return *(volatile u64 *)&entry->claims == 1;
}

/* Adds to an entry, new if there is none. `key`: of the flow, as struct event has it; NULL: to count per pod. False: no
 * place was free near where it belongs; by chance, another event has its digest; or it is being filled by a CPU whose
 * stores are seen in another order. While an entry is being filled nobody finds it, so that there may be two for the
 * same event: user space adds them up. */
static __always_inline bool add_event(u64 what, u64 reason, const u64 *key, u64 packets, u64 salt)
{
	u32 index = (key ? CPU_PARTITIONS : 0) + *(volatile u32 *)&state.active;
	struct event_table *table = bpf_map_lookup_elem(&event_tables, &index);
	u64 digest = (digest_of(what, reason, key) ^ salt) | 1;
	u32 at = digest >> EVENTS_SHIFT, step = digest >> 32 | 1;
	struct events *entry;

	if (!table)
		return false;
	for (u32 probe = 0; probe < EVENT_PROBES; probe++, at += step) {
		entry = &table->entries[at & (EVENTS - 1)];
		if (entry->claims ? entry->digest == digest : claim(entry))
			goto found;
	}
	return false;

found:
	if (entry->digest != digest) {
		fill(entry, what, reason, key);
		barrier();
		entry->digest = digest;
		__sync_fetch_and_add(&table->table.used, 1);
	} else if (!is_of(entry, what, reason, key)) {
		return false;
	}
	__sync_fetch_and_add(&entry->packets, packets);
	return true;
}

/* Counts per pod. What finds no room is tried in other places before it is lost. Not inlined: most programs count in
 * several places. */
static __noinline int count_what(u64 what, u64 reason, u64 packets)
{
	for (u32 attempt = 0; attempt < 2; attempt++)
		if (add_event(what, reason, NULL, packets, attempt ? flow_config.factors[2] : 0))
			return 0;
	__sync_fetch_and_add(&state.no_event[what >> 32 & (ALL_KINDS - 1)], packets);
	return 0;
}

static __always_inline void count_event(u32 slot, enum kind kind, enum family family, enum direction direction,
					u64 reason, u64 packets)
{
	count_what(what(slot, kind, family, direction, 0), reason, packets);
}

/* Counts per flow, or per pod where there is no room: in either case once, as user space adds the flows up. */
static __always_inline void count_flow_event(u32 slot, enum kind kind, enum family family, enum direction direction,
					     u64 reason, const u64 *key, u64 packets)
{
	if (!add_event(what(slot, kind, family, direction, key[0]), reason, key, packets, 0))
		count_event(slot, kind, family, direction, reason, packets);
}

#endif
