// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Forgets a pod's namespace while it dies, before its number can be given to another one. */
#include "state.bpf.h"

SEC("fentry/tcp_sk_exit")
int BPF_PROG(tcp_sk_exit, struct net *net)
{
	u32 number = net->ns.inum;
	u32 index = number - NETNS_FIRST;

	if (index < NETNS_NUMBERS)
		*(volatile u64 *)&state.watched[index] = 0;
	else
		bpf_map_delete_elem(&watched_overflow, &number);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
