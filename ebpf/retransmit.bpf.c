// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP retransmissions that transmit.bpf.c does not see, or cannot when its program does not load. */
#include "tcp.bpf.h"

/* SYN-ACKs belong to request sockets, which net_dev_queue cannot tell from first ones. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack, struct sock *sk, struct request_sock *req)
{
	u32 slot = slot_of(sk->__sk_common.skc_net.net);

	if (slot && wants(slot, KIND_TCP_RETRANS))
		count_atomic(slot, KIND_TCP_RETRANS, family_of(&req->__req_common), 1);
	return 0;
}

static __always_inline int retransmitted(struct sock *sk, struct sk_buff *skb)
{
	u32 slot = slot_of(sk->__sk_common.skc_net.net);

	if (!slot || !wants(slot, KIND_TCP_RETRANS))
		return 0;

	struct tcp_skb_cb *cb = (void *)&skb->cb[0];
	u16 segs = BPF_CORE_READ(cb, tcp_gso_segs);

	count_atomic(slot, KIND_TCP_RETRANS, family_of(&sk->__sk_common), segs ?: 1);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb, struct sock *sk, struct sk_buff *skb)
{
	return retransmitted(sk, skb);
}

/* From 6.15 the tracepoint also fires for retransmissions that failed and says so in a third argument. A program that
 * reads it does not load on older kernels, so it stands first on the ladder. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_err, struct sock *sk, struct sk_buff *skb, int err)
{
	return err ? 0 : retransmitted(sk, skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
