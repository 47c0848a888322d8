// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Learns which TCP ports are services', from connections of pods that anything is counted per flow of.
 *
 * Only those are kept that the rule by number would get wrong (ports.bpf.h). A scan teaches nothing: a closed port
 * answers no SYN.
 */
#include "tcp.bpf.h"

static __always_inline int learn(const u64 *address, enum family family, u16 port, u16 client)
{
	struct service key = {.address = {address[0], address[1]}, .port = port, .family = family};
	u32 one = 1;

	if (port < EPHEMERAL_FIRST && client >= EPHEMERAL_FIRST)
		return 0;
	if (!bpf_map_lookup_elem(&services, &key) && bpf_map_update_elem(&services, &key, &one, BPF_ANY))
		return 0;
	/* Two CPUs at once may lose one's bit (5.10 has no atomic OR): the next connection sets it again. */
	if (!may_be_service(port))
		*service_word(port) |= 1ull << (port & 63);
	state.services_known = 1;
	return 0;
}

/* The address at one end of a flow whose key is known. */
static __always_inline void address_of(const u64 *key, enum family family, bool local, u64 *address)
{
	if (family == FAMILY_IPV4) {
		address[0] = local ? (u32)key[1] : key[1] >> 32;
		address[1] = 0;
	} else {
		address[0] = local ? key[1] : key[3];
		address[1] = local ? key[2] : key[4];
	}
}

static __always_inline int opened(struct sock_common *common, struct net *net, bool local)
{
	struct pod pod = pod_of(net, ANY_PER_FLOW);
	u64 key[IPV6_KEY], address[2];

	if (!pod.wants)
		return 0;

	enum family family = family_of(common);
	u32 ports = socket_key(common, family, pod.slot, 0, key);

	address_of(key, family, local, address);
	return local ? learn(address, family, ports >> 16, ports) : learn(address, family, ports, ports >> 16);
}

/* The server's end, before its SYN-ACK leaves; in softirq. */
SEC("fentry/tcp_make_synack")
int BPF_PROG(tcp_make_synack, struct sock *sk, struct dst_entry *dst, struct request_sock *req)
{
	return opened(&req->__req_common, sk->__sk_common.skc_net.net, true);
}

/* The client's end, before it acknowledges the SYN-ACK. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(service_remote, struct sock *sk, int old_state, int new_state)
{
	if (old_state != TCP_SYN_SENT || new_state != TCP_ESTABLISHED)
		return 0;
	return opened(&sk->__sk_common, sk->__sk_common.skc_net.net, false);
}

/* The server's end where fentry is refused: the first connection's handshake is folded by number. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(service_local, struct sock *sk, int old_state, int new_state)
{
	if (old_state != TCP_SYN_RECV || new_state != TCP_ESTABLISHED)
		return 0;
	return opened(&sk->__sk_common, sk->__sk_common.skc_net.net, true);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
