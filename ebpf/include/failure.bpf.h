/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections that came to nothing, at either end. */
#ifndef DOLPHIN_FAILURE_BPF_H
#define DOLPHIN_FAILURE_BPF_H

#include "event.bpf.h"
#include "tcp.bpf.h"

#define FAILED COUNTED(KIND_TCP_CONNECT_FAIL)

/* Why, under the names that users see. */
enum failure {
	FAILURE_REFUSED,
	FAILURE_RESET,
	FAILURE_TIMEOUT,
	FAILURE_UNREACHABLE,
	FAILURE_LOCAL,
	FAILURE_ABORTED,
	FAILURE_LISTEN_OVERFLOW,
	FAILURE_COOKIE,
};

static __always_inline int failed(struct pod pod, enum family family, enum direction direction, enum failure failure)
{
	count_event(pod.slot, KIND_TCP_CONNECT_FAIL, family, direction, failure, 1);
	return 0;
}

#endif
