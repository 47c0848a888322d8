/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every object shares: which namespaces are pods, what is wanted of each, and where counts go.
 *
 * Each ebpf/<name>.bpf.c becomes one object that the agent loads on its own, so that a hook the kernel refuses takes
 * nothing else down. The maps here are created once, by state.bpf.o, and handed to every other object before it
 * loads; that is why .bss holds exactly one variable and why its layout is mirrored, and tested, in
 * src/dolphin_agent/bpf/layouts.py.
 */
#ifndef DOLPHIN_STATE_BPF_H
#define DOLPHIN_STATE_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define SLOTS          512 /* pods at a time; slot 0 means "not a pod of ours". A power of two */
#define NETNS_NUMBERS  65536
#define NETNS_FIRST    0xF0000000u /* the kernel's PROC_DYNAMIC_FIRST: namespace numbers count up from here */
#define PORT_WORDS     1024        /* 65536 ports, one bit each */
#define CPU_PARTITIONS 2           /* one is written, the other one drained */
#define FAMILIES       2
#define KINDS          10 /* those that a pod has counters of; the others are events, see event.bpf.h */
#define FIRST_KINDS    8
#define ALL_KINDS      16

enum family { FAMILY_IPV4, FAMILY_IPV6 };

enum direction { INCOMING, OUTGOING };

/* What is counted. */
enum kind {
	KIND_IP_RECEIVE,
	KIND_IP_SEND,
	KIND_TCP_RECEIVE,
	KIND_TCP_SEND,
	KIND_TCP_RETRANS,
	KIND_TCP_OPEN_INBOUND,
	KIND_TCP_OPEN_OUTBOUND,
	KIND_TCP_RTT,
	KIND_UDP_RECEIVE,
	KIND_UDP_SEND,
	KIND_TCP_CONNECT_FAIL,
	KIND_IP_DROP,
	KIND_TCP_DROP,
	KIND_IP_ERROR,
	KIND_TCP_ERROR,
};

/* What a pod wants: the lower half of the word has a bit for each kind counted, the upper half one for each kind that
 * is counted per flow. A kind in the upper half is in the lower one too. */
#define COUNTED(kind)  (1u << (kind))
#define PER_FLOW(kind) (1u << (16 + (kind)))
#define ALL_OF(kind)   (COUNTED(kind) | PER_FLOW(kind))
#define ANY_PER_FLOW   (~0u << 16)

/* What is to be done for a network namespace; all zeros: nothing. User space changes `wants` alone, so that a namespace
 * that dies meanwhile (netns_exit.bpf.c) keeps slot 0, which nobody reads, and never counts as the pod again. */
struct watched {
	u32 wants;
	u32 slot;
};

/* The large arrays come last: offsets above 32767 do not fit into a load. */
struct agent_state {
	u32 active;                            /* which partition of a CPU is written; stored by user space only */
	u32 services_known;                    /* whether any bit below is set */
	u64 no_partition;                      /* events on a CPU without a partition: lost, and reported as such */
	u64 no_sample;                         /* RTT samples that found their table full or in use: lost, likewise */
	u64 no_event[ALL_KINDS];               /* events that found their table full: lost, likewise */
	u32 node;                              /* number of the node's own namespace; 0: not known */
	u64 services[PORT_WORDS];              /* ports that some service listens on; `services` has the addresses */
	struct watched watched[NETNS_NUMBERS]; /* by namespace number - NETNS_FIRST */
};

struct counter {
	u64 packets; /* packets on the wire, segments, datagrams, or connections: what the kind counts */
	u64 bytes;
};

/* One per CPU and buffer: what is not counted per flow, or found no room there. Programs at places where bottom halves
 * are off are the only writers of their CPU's active partition and cannot interrupt each other, so plain stores lose
 * nothing there.
 *
 * In two maps, so that sizes are powers of two: 5.10 shifts in one instruction, and multiplies in five or more. */
struct partition {
	struct counter pod[SLOTS][FIRST_KINDS][FAMILIES];
};

struct more_partition {
	struct counter pod[SLOTS][KINDS - FIRST_KINDS][FAMILIES];
};

struct agent_state state;

#define PARTITIONS(name, partition)                                                                                    \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, CPU_PARTITIONS); /* times the possible CPUs, set before load */                    \
		__type(key, u32);                                                                                      \
		__type(value, partition);                                                                              \
	} name SEC(".maps")

PARTITIONS(partitions, struct partition);
PARTITIONS(more_partitions, struct more_partition);

/* Namespaces whose number is beyond the array: only nodes with more than ~1,200 of them have any. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SLOTS);
	__type(key, u32);
	__type(value, struct watched);
} watched_overflow SEC(".maps");

/* A namespace as one event sees it. */
struct pod {
	u32 wants; /* the bits that were asked for */
	u32 slot;
};

/* Not inlined: the number need not be in memory for all others. */
static __noinline struct watched *watched_beyond(u32 index)
{
	u32 number = index + NETNS_FIRST;

	return bpf_map_lookup_elem(&watched_overflow, &number);
}

/* Wants of a namespace, by its number, among `kinds`, a set of COUNTED and PER_FLOW bits. One load tells most packets
 * of other namespaces, and those of pods that want none of it. */
static __always_inline struct pod pod_numbered(u32 number, u32 kinds)
{
	u32 index = number - NETNS_FIRST;
	struct watched *watched;

	if (index < NETNS_NUMBERS) {
		watched = &state.watched[index];
	} else {
		watched = watched_beyond(index);
		if (!watched)
			return (struct pod){};
	}

	u32 wants = watched->wants & kinds;
	return (struct pod){wants, wants ? watched->slot & (SLOTS - 1) : 0};
}

static __always_inline struct pod pod_of(struct net *net, u32 kinds)
{
	return pod_numbered(net->ns.inum, kinds);
}

/* Index of this CPU's element, in the buffer that is written now, of a map with one element per CPU and buffer. */
static __always_inline u32 active_index(void)
{
	return bpf_get_smp_processor_id() * CPU_PARTITIONS + *(volatile u32 *)&state.active;
}

static __always_inline struct counter *counter_of(u32 slot, enum kind kind, enum family family)
{
	u32 index = active_index();

	slot &= SLOTS - 1;
	family &= FAMILIES - 1;
	if (kind < FIRST_KINDS) {
		struct partition *partition = bpf_map_lookup_elem(&partitions, &index);

		if (partition)
			return &partition->pod[slot][kind][family];
	} else {
		struct more_partition *partition = bpf_map_lookup_elem(&more_partitions, &index);

		if (partition)
			return &partition->pod[slot][kind - FIRST_KINDS][family];
	}
	__sync_fetch_and_add(&state.no_partition, 1);
	return NULL;
}

/* For programs that run with bottom halves off. */
static __always_inline void count(u32 slot, enum kind kind, enum family family, u64 packets, u64 bytes)
{
	struct counter *counter = counter_of(slot, kind, family);

	if (counter) {
		counter->packets += packets;
		counter->bytes += bytes;
	}
}

/* For programs that a softirq may interrupt half-way: the addition is one instruction. */
static __always_inline void count_atomic(u32 slot, enum kind kind, enum family family, u64 packets)
{
	struct counter *counter = counter_of(slot, kind, family);

	if (counter)
		__sync_fetch_and_add(&counter->packets, packets);
}

#endif
