/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading kernel memory that the verifier does not let a program load from directly.
 *
 * bpf_rdonly_cast (6.2) makes such memory loadable without a helper call, which costs a tenth of a probe read and is
 * allowed under lockdown=confidentiality too, so that only this file may call bpf_probe_read_kernel. libbpf 1.1 refuses
 * an object that names it where the kernel lacks it and the agent lacks CAP_SYS_ADMIN, weak or not; so each source is
 * built twice, and the agent takes <name>.cast.bpf.o where the kernel has the function.
 */
#ifndef DOLPHIN_KERNEL_BPF_H
#define DOLPHIN_KERNEL_BPF_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#ifdef RDONLY_CAST
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __ksym;
#define rdonly_cast(pointer, type) ((type *)bpf_rdonly_cast(pointer, bpf_core_type_id_kernel(type)))
#endif

/* Copies the first `count` 8-byte words, 3 or 6, from any kernel address. Memory that is not there reads as zero.
 *
 * A probe read costs the same for a few words more, so it takes `more` as well, for what may be asked for later. */
static __always_inline void read_words(u64 *words, const void *from, const u32 count, const u32 more)
{
#ifdef RDONLY_CAST
	/* Any kernel struct that begins with six 8-byte numbers would do: the verifier only checks that each load is
	 * one whole member. */
	struct rusage *raw = rdonly_cast(from, struct rusage);

	words[0] = raw->ru_utime.tv_sec;
	words[1] = raw->ru_utime.tv_usec;
	words[2] = raw->ru_stime.tv_sec;
	if (count > 3) {
		words[3] = raw->ru_stime.tv_usec;
		words[4] = raw->ru_maxrss;
		words[5] = raw->ru_ixrss;
	}
#else
	bpf_probe_read_kernel(words, (count + more) * sizeof(u64), from);
#endif
}

/* The 8-byte word at an address. */
static __always_inline u64 read_word(const void *from)
{
#ifdef RDONLY_CAST
	return rdonly_cast(from, struct rusage)->ru_utime.tv_sec;
#else
	u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), from);
	return word;
#endif
}

#endif
