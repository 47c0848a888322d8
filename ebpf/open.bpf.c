// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* New TCP connections: inbound as PassiveOpens counts them, and the lower rungs for outbound ones, whose first choice
 * is the SYN seen by transmit.bpf.c. */
#include "tcp.bpf.h"

static __always_inline int opened(struct sock_common *common, enum kind kind)
{
	struct pod pod = pod_of(common->skc_net.net, COUNTED(kind));

	if (pod.wants)
		count_atomic(pod.slot, kind, family_of(common), 1);
	return 0;
}

/* Where PassiveOpens is raised, once per child created; in softirq, so that no run is skipped. */
SEC("fexit/tcp_create_openreq_child")
int BPF_PROG(tcp_create_child, struct sock *sk, struct request_sock *req, struct sk_buff *skb, struct sock *child)
{
	return child ? opened(&child->__sk_common, KIND_TCP_OPEN_INBOUND) : 0;
}

/* For kernels that refuse fexit: children that never become established are missing. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state_in, struct sock *sk, int old_state, int new_state)
{
	if (old_state != TCP_SYN_RECV || new_state != TCP_ESTABLISHED)
		return 0;
	return opened(&sk->__sk_common, KIND_TCP_OPEN_INBOUND);
}

/* Where ActiveOpens is raised, but in process context: a preempted run makes others on its CPU be skipped. */
SEC("fexit/tcp_connect")
int BPF_PROG(tcp_connect, struct sock *sk, int ret)
{
	return ret ? 0 : opened(&sk->__sk_common, KIND_TCP_OPEN_OUTBOUND);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state_out, struct sock *sk, int old_state, int new_state)
{
	if (old_state != TCP_CLOSE || new_state != TCP_SYN_SENT)
		return 0;
	return opened(&sk->__sk_common, KIND_TCP_OPEN_OUTBOUND);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
