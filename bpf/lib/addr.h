/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One form for addresses of both families: IPv6 as it is, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). So there is one
 * set of maps and one way through the programs; only what reads and writes headers asks for the family. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define IPV4_MARK	bpf_htonl(0xffff)
#define IPV4_PREFIX_LEN 96 /* of ::ffff:0:0, under which all IPv4 addresses are */

struct addr {
	__be32 w[4]; /* all zeros: no address */
};

static __always_inline void addr_set_ipv4(struct addr *addr, __be32 ip)
{
	addr->w[0] = 0;
	addr->w[1] = 0;
	addr->w[2] = IPV4_MARK;
	addr->w[3] = ip;
}

static __always_inline bool addr_is_ipv4(const struct addr *addr)
{
	return !(addr->w[0] | addr->w[1] | (addr->w[2] ^ IPV4_MARK));
}

static __always_inline bool addr_is_set(const struct addr *addr)
{
	return addr->w[0] | addr->w[1] | addr->w[2] | addr->w[3];
}

static __always_inline __u32 addr_differs(const struct addr *one, const struct addr *other)
{
	return (one->w[0] ^ other->w[0]) | (one->w[1] ^ other->w[1]) | (one->w[2] ^ other->w[2]) |
	       (one->w[3] ^ other->w[3]);
}

static __always_inline bool addr_equal(const struct addr *one, const struct addr *other)
{
	return !addr_differs(one, other);
}

/* Some total order; that of memory, not of numbers. */
static __always_inline bool addr_less(const struct addr *one, const struct addr *other)
{
	for (int i = 0; i < 3; i++)
		if (one->w[i] != other->w[i])
			return one->w[i] < other->w[i];
	return one->w[3] < other->w[3];
}
