// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What the agent's programs are compared with: doing nothing on the same hooks, and the obvious way to count flows. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define PODS  256
#define FLOWS 10240

SEC("fentry/ip_rcv_core")
int BPF_PROG(empty_receive, struct sk_buff *skb, struct net *net)
{
	return 0;
}

SEC("tp_btf/net_dev_queue")
int BPF_PROG(empty_send, struct sk_buff *skb)
{
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(empty_probe, struct sock *sk, struct sk_buff *skb)
{
	return 0;
}

struct flow {
	u32 netns;
	u32 local[4]; /* as wide as IPv6 needs; an IPv4 address is in the first */
	u32 remote[4];
	u16 local_port;
	u16 remote_port;
	u8 protocol;
	u8 direction;
	u16 unused;
};

_Static_assert(sizeof(struct flow) == 44, "no padding, which would be part of the key");

struct traffic {
	u64 packets;
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PODS);
	__type(key, u32); /* a namespace's number */
	__type(value, u32);
} pods SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct flow);
	__type(value, struct traffic);
} flows SEC(".maps");

SEC("fentry/ip_rcv_core")
int BPF_PROG(naive_flows, struct sk_buff *skb, struct net *net)
{
	void *header = skb->head + skb->network_header;
	struct flow flow = {.netns = net->ns.inum};
	struct traffic first = {.packets = 1, .bytes = skb->len};
	struct traffic *traffic;
	struct iphdr ip;
	u16 ports[2];

	if (!bpf_map_lookup_elem(&pods, &flow.netns))
		return 0;
	if (bpf_probe_read_kernel(&ip, sizeof(ip), header))
		return 0;
	if (bpf_probe_read_kernel(ports, sizeof(ports), header + ip.ihl * 4))
		return 0;

	flow.local[0] = ip.daddr;
	flow.remote[0] = ip.saddr;
	flow.local_port = ports[1];
	flow.remote_port = ports[0];
	flow.protocol = ip.protocol;

	traffic = bpf_map_lookup_elem(&flows, &flow);
	if (traffic) {
		traffic->packets++;
		traffic->bytes += skb->len;
	} else {
		bpf_map_update_elem(&flows, &flow, &first, BPF_NOEXIST);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
