// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Connections that others tried to open to the pod and did not get. All of it happens in softirq. */
#include "failure.bpf.h"
#include "kernel.bpf.h"
#include "packet.bpf.h"

static __always_inline int refused(struct sock *sk, enum family family, enum failure failure)
{
	struct pod pod = pod_of(sk->__sk_common.skc_net.net, FAILED);

	return pod.wants ? failed(pod, family, INCOMING, failure) : 0;
}

/* An AF_INET6 listener gets IPv4 too. */
static __always_inline enum family family_of_packet(struct sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : FAMILY_IPV4;
}

/* sk_acceptq_is_full of the kernel: one more than the program asked for has room. */
static __always_inline bool is_full(struct sock *listener)
{
	return listener->sk_ack_backlog > listener->sk_max_ack_backlog;
}

static __always_inline u8 flags_of(struct sk_buff *skb)
{
	return ((struct tcp_skb_cb *)&skb->cb[0])->tcp_flags;
}

/* Still waits to be acknowledged. */
static __always_inline bool is_waiting(struct request_sock *req)
{
	return req->__req_common.skc_nulls_node.pprev;
}

/* Where AttemptFails is raised for a half-open connection: by a reset, or a SYN where there should be none, if its
 * sequence number is right, which ends the request. Of the register with the flag `fastopen`, only the lowest byte
 * means anything (5.10 leaves half of a pointer in the others). */
SEC("fexit/tcp_check_req")
int BPF_PROG(tcp_check_req, struct sock *sk, struct sk_buff *skb, struct request_sock *req, u8 fastopen)
{
	u8 flags = flags_of(skb);

	if (!(flags & (TCP_RST | TCP_SYN)) || fastopen || is_waiting(req))
		return 0;
	return refused(sk, family_of_packet(skb), FAILURE_RESET);
}

/* A SYN that finds the accept queue full. */
SEC("fentry/tcp_conn_request")
int BPF_PROG(tcp_conn_request, void *request_ops, void *family_ops, struct sock *sk, struct sk_buff *skb)
{
	return is_full(sk) ? refused(sk, family_of_packet(skb), FAILURE_LISTEN_OVERFLOW) : 0;
}

/* An acknowledgement of a SYN-ACK, or of a SYN cookie, that finds it full. */
SEC("fentry/tcp_v4_syn_recv_sock")
int BPF_PROG(syn_recv4, struct sock *sk, struct sk_buff *skb)
{
	return is_full(sk) ? refused(sk, FAMILY_IPV4, FAILURE_LISTEN_OVERFLOW) : 0;
}

/* It calls the other one for IPv4. */
SEC("fentry/tcp_v6_syn_recv_sock")
int BPF_PROG(syn_recv6, struct sock *sk, struct sk_buff *skb)
{
	if (!is_full(sk) || family_of_packet(skb) == FAMILY_IPV4)
		return 0;
	return refused(sk, FAMILY_IPV6, FAILURE_LISTEN_OVERFLOW);
}

/* The same where those two have more arguments than the kernel can pass on. The request goes on waiting, as it does for
 * an acknowledgement that the kernel has no use for: those are included while the queue is full. */
SEC("fexit/tcp_check_req")
int BPF_PROG(ack_overflow, struct sock *sk, struct sk_buff *skb, struct request_sock *req, u8 fastopen)
{
	if ((flags_of(skb) & (TCP_RST | TCP_SYN | TCP_ACK)) != TCP_ACK)
		return 0;
	if (!is_full(sk) || fastopen || !is_waiting(req))
		return 0;
	return refused(sk, family_of_packet(skb), FAILURE_LISTEN_OVERFLOW);
}

SEC("fentry/tcp_get_cookie_sock")
int BPF_PROG(cookie_overflow, struct sock *sk, struct sk_buff *skb)
{
	return is_full(sk) ? refused(sk, family_of_packet(skb), FAILURE_LISTEN_OVERFLOW) : 0;
}

/* A half-open connection's timer. Unless it is set again, the request is over, and may be freed already; its memory is
 * not used for anything else meanwhile (SLAB_TYPESAFE_BY_RCU). Where nobody listens any more, that is why. */
SEC("fexit/reqsk_timer_handler")
int BPF_PROG(request_timer, struct timer_list *timer)
{
	if (timer->entry.pprev)
		return 0;

	const void *request = (void *)timer - bpf_core_field_offset(struct request_sock, rsk_timer);
	const void *net = (void *)read_word(request + bpf_core_field_offset(struct sock_common, skc_net));
	struct pod pod = pod_numbered(read_word(net + bpf_core_field_offset(struct net, ns.inum)), FAILED);

	if (!pod.wants)
		return 0;

	const void *listener = (void *)read_word(request + bpf_core_field_offset(struct sock_common, skc_listener));
	const void *family = request + bpf_core_field_offset(struct sock_common, skc_family);
	const void *daddr = request + bpf_core_field_offset(struct sock_common, skc_v6_daddr);
	u8 listener_state = read_word(listener + bpf_core_field_offset(struct sock_common, skc_state));

	if (listener_state != TCP_LISTEN)
		return 0;
	/* Of IPv4, the address is a mapped one, as in family_of. */
	if ((u16)read_word(family) != AF_INET6 || (!read_word(daddr) && (u32)read_word(daddr + 8) == bpf_htonl(0xFFFF)))
		return failed(pod, FAMILY_IPV4, INCOMING, FAILURE_TIMEOUT);
	return failed(pod, FAMILY_IPV6, INCOMING, FAILURE_TIMEOUT);
}

/* The TCP header whose cookie was found wrong last, on each CPU: SYNPROXY asks too, and has no socket. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} wrong_cookie SEC(".maps");

static __always_inline int checked(const void *tcp, int mss)
{
	u32 zero = 0;
	u64 *wrong = bpf_map_lookup_elem(&wrong_cookie, &zero);

	if (wrong)
		*wrong = mss ? 0 : (u64)tcp;
	return 0;
}

static __always_inline int listener_checked(struct sock *sk, struct sk_buff *skb, enum family family)
{
	u32 zero = 0;
	u64 *wrong = bpf_map_lookup_elem(&wrong_cookie, &zero);

	if (!wrong || *wrong != (u64)(skb->head + skb->transport_header))
		return 0;
	*wrong = 0;
	return refused(sk, family, FAILURE_COOKIE);
}

SEC("fexit/cookie_v4_check")
int BPF_PROG(cookie_v4_check, struct sock *sk, struct sk_buff *skb)
{
	return listener_checked(sk, skb, FAMILY_IPV4);
}

SEC("fexit/cookie_v6_check")
int BPF_PROG(cookie_v6_check, struct sock *sk, struct sk_buff *skb)
{
	return listener_checked(sk, skb, FAMILY_IPV6);
}

SEC("fexit/__cookie_v4_check")
int BPF_PROG(check4, const void *ip, const void *tcp, int mss)
{
	return checked(tcp, mss);
}

SEC("fexit/__cookie_v6_check")
int BPF_PROG(check6, const void *ip, const void *tcp, int mss)
{
	return checked(tcp, mss);
}

/* Until 6.7 there was a third argument. A program that reads what is behind it does not load on newer kernels, so these
 * stand first on the ladder. */
SEC("fexit/__cookie_v4_check")
int BPF_PROG(check4_cookie, const void *ip, const void *tcp, u32 cookie, int mss)
{
	return checked(tcp, mss);
}

SEC("fexit/__cookie_v6_check")
int BPF_PROG(check6_cookie, const void *ip, const void *tcp, u32 cookie, int mss)
{
	return checked(tcp, mss);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
