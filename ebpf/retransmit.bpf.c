// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP retransmissions that transmit.bpf.c does not see, or cannot when its program does not load. */
#include "tcp.bpf.h"

#define RETRANS_KINDS (COUNTED(KIND_TCP_RETRANS) | PER_FLOW(KIND_TCP_RETRANS))

/* Some of these run in process context, so a flow's are kept with the samples. */
static __always_inline int retransmitted(struct sock_common *common, struct pod pod, u32 keep, u64 segments)
{
	enum family family = family_of(common);
	u64 key[IPV6_KEY];

	if (pod.wants & PER_FLOW(KIND_TCP_RETRANS)) {
		u32 ports = socket_key(common, family, pod.slot, RECORD_RETRANSMITTED, key);

		if (flow_config.fold_ports)
			ports = keep ? ports & keep : fold_tcp(key, family, ports);
		key[0] |= (u64)ports << 32;
		/* A sample counts once; its sum says how many segments it stood for. */
		if (add_sample(key, family, segments))
			return 0;
	}
	count_atomic(pod.slot, KIND_TCP_RETRANS, family, segments);
	return 0;
}

/* SYN-ACKs belong to request sockets, which net_dev_queue cannot tell from first ones. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack, struct sock *sk, struct request_sock *req)
{
	struct pod pod = pod_of(sk->__sk_common.skc_net.net, RETRANS_KINDS);

	return pod.wants ? retransmitted(&req->__req_common, pod, KEEP_LOCAL, 1) : 0;
}

static __always_inline int segments_retransmitted(struct sock *sk, struct sk_buff *skb)
{
	struct pod pod = pod_of(sk->__sk_common.skc_net.net, RETRANS_KINDS);

	if (!pod.wants)
		return 0;

	u16 segs = ((struct tcp_skb_cb *)&skb->cb[0])->tcp_gso_segs;

	return retransmitted(&sk->__sk_common, pod, 0, segs ?: 1);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb, struct sock *sk, struct sk_buff *skb)
{
	return segments_retransmitted(sk, skb);
}

/* From 6.15 the tracepoint also fires for retransmissions that failed and says so in a third argument. A program that
 * reads it does not load on older kernels, so it stands first on the ladder. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_err, struct sock *sk, struct sk_buff *skb, int err)
{
	return err ? 0 : segments_retransmitted(sk, skb);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
