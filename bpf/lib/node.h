/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The addresses of this node: those that it is known by (settings.h), and whatever else its devices have: of a second
 * network, a virtual one, that of a DNS cache on each node. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "addr.h"
#include "settings.h"

struct node_address {
	struct addr ip;
};

/* key: above. value: 1. written by: the agent. read by: every program, of what is neither an endpoint's nor the address
 * that the node is known by. full: the agent's write fails, and the address is `world`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct node_address);
	__type(value, __u32);
} node_addresses SEC(".maps");

static __always_inline bool is_own_ip(const struct addr *ip)
{
	struct node_address key = {.ip = *ip};

	return is_node_ip(ip) || bpf_map_lookup_elem(&node_addresses, &key);
}
