// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Connections that the pod tried to open and did not get, by what its program is told. */
#include "failure.bpf.h"
#include "kernel.bpf.h"

/* errno.h: the same numbers on x86 and arm64 */
#define ECONNABORTED 103
#define ECONNRESET   104
#define ETIMEDOUT    110
#define ECONNREFUSED 111
#define EHOSTUNREACH 113

static __always_inline struct tcp_sock *tcp_sock_of(struct sock *sk)
{
#ifdef RDONLY_CAST
	return rdonly_cast(sk, struct tcp_sock);
#else
	return bpf_skc_to_tcp_sock(sk);
#endif
}

/* The reason that was told last, on each CPU, of a connection of a pod that was opening. Before 6.10 the kernel tells
 * it just before it closes the socket, and a program that asks at once (SO_ERROR) has taken it away by then. What is
 * told is taken back as that socket closes, since a later one may lie at the same address. */
struct told {
	u64 socket;
	u64 error;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct told);
} last_told SEC(".maps");

static __always_inline struct told *told_here(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&last_told, &zero);
}

SEC("fentry/sock_def_error_report")
int BPF_PROG(error_report, struct sock *sk)
{
	u8 tcp_state = sk->__sk_common.skc_state;
	struct told *told;

	if (tcp_state != TCP_SYN_SENT && tcp_state != TCP_SYN_RECV)
		return 0;
	if (!pod_of(sk->__sk_common.skc_net.net, FAILED).wants)
		return 0;
	told = told_here();
	if (told) {
		told->socket = (u64)sk;
		/* Gone already where the program was just looking, as it does when the neighbour's answer stays out and
		 * the SYN that has waited for it is freed. */
		told->error = sk->sk_err ?: EHOSTUNREACH;
	}
	return 0;
}

static __always_inline int error_of(struct sock *sk)
{
	struct told *told = told_here();
	int error = sk->sk_err;

	if (told && told->socket == (u64)sk) {
		told->socket = 0;
		error = error ?: (int)told->error;
	}
	return error;
}

/* A router's answer, or that of the pod's own kernel for a neighbour that does not answer, has one of many errors. */
static __always_inline enum failure failure_of(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return FAILURE_REFUSED;
	case ECONNRESET:
		return FAILURE_RESET;
	case ETIMEDOUT:
		return FAILURE_TIMEOUT;
	case 0:
	case ECONNABORTED:
		return FAILURE_ABORTED;
	default:
		return FAILURE_UNREACHABLE;
	}
}

/* The kernel says why just before the socket is closed, and says nothing where the program itself gives up. `alone`:
 * no other program counts what failed before anything was sent. */
static __always_inline int closed(struct sock *sk, int old_state, int new_state, const bool alone)
{
	if (new_state != TCP_CLOSE || (old_state != TCP_SYN_SENT && old_state != TCP_SYN_RECV))
		return 0;

	struct pod pod = pod_of(sk->__sk_common.skc_net.net, FAILED);

	if (!pod.wants)
		return 0;

	int error = error_of(sk);

	/* MPTCP and SCTP have such states too. */
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;

	struct tcp_sock *tp = tcp_sock_of(sk);
	if (!tp)
		return 0;

	enum failure failure = failure_of(error);
	enum direction direction = OUTGOING;

	if (old_state == TCP_SYN_RECV) {
		/* TCP Fast Open's, or one whose SYN crossed the other end's. A child that is dropped as it is made has
		 * no error. */
		if (!error)
			return 0;
		if (tp->fastopen_rsk)
			direction = INCOMING;
	} else if (!error && !tp->segs_out) {
		if (!alone)
			return 0;
		failure = FAILURE_LOCAL;
	}
	return failed(pod, family_of(&sk->__sk_common), direction, failure);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connect_closed, struct sock *sk, int old_state, int new_state)
{
	return closed(sk, old_state, new_state, false);
}

/* For kernels that refuse fexit. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connect_alone, struct sock *sk, int old_state, int new_state)
{
	return closed(sk, old_state, new_state, true);
}

static __always_inline int refused_here(struct sock *sk)
{
	struct pod pod = pod_of(sk->__sk_common.skc_net.net, FAILED);

	return pod.wants ? failed(pod, family_of(&sk->__sk_common), OUTGOING, FAILURE_LOCAL) : 0;
}

/* Nothing was sent: no route, no port, no permission. An AF_INET6 socket comes here for IPv4, out of tcp_v6_connect. */
SEC("fexit/tcp_v4_connect")
int BPF_PROG(tcp_v4_connect, struct sock *sk, void *address, int length, int ret)
{
	return ret >= 0 || sk->__sk_common.skc_family == AF_INET6 ? 0 : refused_here(sk);
}

SEC("fexit/tcp_v6_connect")
int BPF_PROG(tcp_v6_connect, struct sock *sk, void *address, int length, int ret)
{
	return ret >= 0 ? 0 : refused_here(sk);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
