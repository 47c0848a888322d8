// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Smoothed round-trip times of TCP connections, sampled at most once per round trip and connection. */
#include "kernel.bpf.h"
#include "tcp.bpf.h"

#define FIRST_OCTAVE 4  /* 16 us */
#define LAST_OCTAVE  26 /* 67 s */

/* Takes one step of log2_of. The barrier keeps it a branch: computing both outcomes takes twice the instructions. */
#define HALVE(bits)                                                                                                    \
	if (value >= 1u << (bits)) {                                                                                   \
		barrier();                                                                                             \
		log += (bits);                                                                                         \
		value >>= (bits);                                                                                      \
	}

static __always_inline u32 log2_of(u32 value)
{
	u32 log = 0;

	HALVE(16)
	HALVE(8)
	HALVE(4)
	HALVE(2)
	return log + (value >> 1);
}

/* Bucket 0: up to 16 us; bucket i: above 2^(4 + (i - 1) / 4) us up to 2^(4 + i / 4) us; the last one: above 2^26 us.
 * These are the buckets of an OpenTelemetry exponential histogram of scale 2, upper bounds included. */
static __always_inline u32 bucket_of(u32 us)
{
	/* Odd, so that it never lies on a bound: an upper bound belongs to the bucket below it. */
	u32 doubled = 2 * us - 1;
	u32 log = log2_of(doubled);
	u32 octave = log - 1;

	if (us <= 1u << FIRST_OCTAVE)
		return 0;
	if (octave >= LAST_OCTAVE)
		return (LAST_OCTAVE - FIRST_OCTAVE) * 4 + 1;

	u32 mantissa = (u64)doubled << 16 >> log; /* 65536 to 131071; below: 2^(1/4), 2^(2/4) and 2^(3/4) times 65536 */
	u32 quarter = (mantissa > 77935) + (mantissa > 92681) + (mantissa > 110217);

	return (octave - FIRST_OCTAVE) * 4 + quarter + 1;
}

static __always_inline int add_rtt(struct sock *sk, u32 slot, u32 us, enum family family)
{
	u64 key[IPV6_KEY];
	u32 ports = socket_key(&sk->__sk_common, family, slot, RECORD_RTT, key);

	if (flow_config.fold_ports)
		ports = fold_tcp(key, family, ports);
	key[0] |= (u64)ports << 32 | (u64)bucket_of(us) << BUCKET_SHIFT;
	if (!add_sample(key, family, us))
		__sync_fetch_and_add(&state.no_sample, 1);
	return 0;
}

/* tcp_probe fires for every segment received in ESTABLISHED, before the segment is processed. The kernel takes an RTT
 * sample when the acknowledgement passes rtt_seq (tcp_rcv_rtt_measure, tcp_ack); testing the same, with snd_una to
 * leave out repeats, gives one sample per round trip without any state of our own. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(tcp_probe, struct sock *sk, struct sk_buff *skb)
{
	struct pod pod = pod_of(sk->__sk_common.skc_net.net, COUNTED(KIND_TCP_RTT));

	if (!pod.wants)
		return 0;

#ifdef RDONLY_CAST
	struct tcp_sock *tp = rdonly_cast(sk, struct tcp_sock);
#else
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
#endif
	u32 ack = ((struct tcp_skb_cb *)&skb->cb[0])->ack_seq;

	if (!after(ack, tp->rtt_seq) || !after(ack, tp->snd_una))
		return 0;

	u32 us = tp->srtt_us >> 3;
	if (!us)
		return 0;

	return family_of(&sk->__sk_common) == FAMILY_IPV4 ? add_rtt(sk, pod.slot, us, FAMILY_IPV4)
							  : add_rtt(sk, pod.slot, us, FAMILY_IPV6);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
