/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is fixed when the programs are loaded. The loader writes these before the verifier runs, so a branch on a
 * setting that is off costs nothing. Every object carries all of them, used or not. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "addr.h"

/* The addresses that this node is known by: as a destination they are the stack's, as a source they are identity
 * `host`. Zeros: none of that family. */
const volatile struct addr node_ipv4 = {};
const volatile struct addr node_ipv6 = {};
/* Device towards the world and, where there is no tunnel, other nodes. 0: leave such packets to the stack. */
const volatile __u32 underlay_ifindex = 0;
/* Collect-metadata vxlan device. 0: no overlay, tunnel endpoints are ignored. */
const volatile __u32 tunnel_ifindex = 0;
/* UDP port of that device, on this node and all others; closed to pods. 0: none. */
const volatile __u32 tunnel_port = 0;

/* What pods open towards the outside leaves with the node's address of that family (nat.h), from a port of this range.
 */
const volatile __u32 masquerade_ipv4 = 0;
const volatile __u32 masquerade_ipv6 = 0;
const volatile __u32 masquerade_port_min = 10000;
const volatile __u32 masquerade_port_max = 29999;
/* 1: but for what `ipmasq` has rows of. */
const volatile __u32 masquerade_exempts = 0;

/* Lives of connections, in ticks of the coarse clock (see clock_ticks). */
const volatile __u32 ct_life_tcp = 8000;
const volatile __u32 ct_life_syn = 60;
const volatile __u32 ct_life_closing = 10;
const volatile __u32 ct_life_other = 60;

/* Which programs between sockets these are (socket.h). */
const volatile __u32 sockops_version = 0;

/* 1: write a record for each new connection (drops are always recorded). */
const volatile __u32 record_connections = 1;
/* The reader is woken when this much waits in the ring; below it the reader's own timer must do. */
const volatile __u32 wakeup_bytes = 65536;

/* Seconds would take a division for each packet; a tick is 2^30 ns, 1.07 s. */
#define TICK_SHIFT 30

static __always_inline bool is_node_ip(const struct addr *ip)
{
	struct addr ipv4 = {.w = {node_ipv4.w[0], node_ipv4.w[1], node_ipv4.w[2], node_ipv4.w[3]}};
	struct addr ipv6 = {.w = {node_ipv6.w[0], node_ipv6.w[1], node_ipv6.w[2], node_ipv6.w[3]}};

	return addr_is_set(ip) && addr_equal(ip, addr_is_ipv4(ip) ? &ipv4 : &ipv6);
}

static __always_inline __u32 clock_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}
