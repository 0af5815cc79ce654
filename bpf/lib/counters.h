/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet is counted, by what became of it and its direction. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct metric_value {
	__u64 packets;
	__u64 bytes;
};

/* key: reason and direction. value: packets and bytes on this CPU.
 * written by: every program. read by: the agent. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32); /* reason * 2 + direction; the kernel wants an integer here */
	__type(value, struct metric_value);
} metrics SEC(".maps");

static __always_inline void count(__u32 reason, __u32 direction, __u64 bytes)
{
	__u32 key = reason * 2 + (direction & 1);
	struct metric_value *value = bpf_map_lookup_elem(&metrics, &key);

	if (value) {
		value->packets++;
		value->bytes += bytes;
	}
}
