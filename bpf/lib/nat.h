/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Mappings of masquerade (masquerade.h): which port of the node stands for which of a pod, towards one peer. */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "endpoints.h"
#include "ipcache.h"
#include "packet.h"
#include "rewrite.h"
#include "settings.h"

struct nat_key {
	struct addr src; /* both as the packet has them where it comes in */
	struct addr dst;
	__be16 src_port; /* as in struct packet */
	__be16 dst_port;
	__u8 protocol;
	__u8 direction; /* EGRESS: the source is translated; INGRESS: the destination */
	__u8 pad[2];
};

struct nat_value {
	struct addr ip; /* what takes its place: the node's address, the pod's */
	__be16 port;
	__u16 endpoint_id; /* whose mapping it is; the next endpoint with its address makes one of its own */
};

/* key, value: above. written by: the programs alone. read by: the programs; the agent for display.
 * full: the least recently used row goes, and comes again with the next packet out. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct nat_key);
	__type(value, struct nat_value);
} snat SEC(".maps");

#define NAT_TRIES 128
#define NOT_NAT	  -1 /* no drop reason: nothing to translate */

/* Both rows of a mapping, and what is at hand while it is found or applied. */
struct mapping {
	struct nat_key out;
	struct nat_value to;
	struct nat_key in;
	struct nat_value back;
	__u32 hash;
	__u16 first; /* the ports that it may have; of the host's byte order */
	__u16 count;
	struct rewrite rewrite;
	struct quoted quoted;
	struct ct_key connection;
	struct bpf_sock_tuple tuple;
};

/* key: 0. value: a mapping that is in hand; programs do not interrupt one another on a CPU, and have no stack for it.
 * written by, read by: masquerade, unmasquerade. full: cannot be. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mapping);
} mapping_draft SEC(".maps");

enum port_state {
	PORT_FREE,
	PORT_OURS,  /* the way back is there already */
	PORT_STALE, /* another's whose connection is no more */
	PORT_TAKEN,
};

static __always_inline void node_ip_like(const struct addr *ip, struct addr *node)
{
	bool is_ipv4 = addr_is_ipv4(ip);

	for (int i = 0; i < 4; i++)
		node->w[i] = is_ipv4 ? node_ipv4.w[i] : node_ipv6.w[i];
}

static __always_inline bool nat_value_equal(const struct nat_value *one, const struct nat_value *other)
{
	return addr_equal(&one->ip, &other->ip) && one->port == other->port && one->endpoint_id == other->endpoint_id;
}

static __always_inline __u32 nat_hash(const struct nat_key *key)
{
	const __u32 *words = (const __u32 *)key;
	__u32 hash = 0;

	for (int i = 0; i < 10; i++) {
		hash = (hash ^ words[i]) * 0x85ebca6b;
		hash ^= hash >> 15;
	}
	return hash;
}

/* Whether the connection of a mapping is in the table of connections. */
static __always_inline bool is_live(struct mapping *m, const struct nat_value *back)
{
	const struct nat_key *in = &m->in;
	const struct ct_entry *entry;

	ct_key_of(&m->connection, &back->ip, &in->src, back->port, in->src_port, in->protocol);
	entry = bpf_map_lookup_elem(&ct, &m->connection);
	return entry && entry->expires > clock_ticks();
}

/* Whether replies to this port would be for a socket of the node, be it one that listens. */
static __always_inline bool used_by_node(struct __sk_buff *skb, struct mapping *m)
{
	const struct nat_key *in = &m->in;
	struct bpf_sock_tuple *tuple = &m->tuple;
	struct bpf_sock *sock;
	__u32 size;

	if (addr_is_ipv4(&in->dst)) {
		size = sizeof(tuple->ipv4);
		tuple->ipv4.saddr = in->src.w[3];
		tuple->ipv4.daddr = in->dst.w[3];
		tuple->ipv4.sport = in->src_port;
		tuple->ipv4.dport = in->dst_port;
	} else {
		size = sizeof(tuple->ipv6);
		__builtin_memcpy(tuple->ipv6.saddr, in->src.w, sizeof(tuple->ipv6.saddr));
		__builtin_memcpy(tuple->ipv6.daddr, in->dst.w, sizeof(tuple->ipv6.daddr));
		tuple->ipv6.sport = in->src_port;
		tuple->ipv6.dport = in->dst_port;
	}
	if (in->protocol == IPPROTO_TCP)
		sock = bpf_skc_lookup_tcp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (in->protocol == IPPROTO_UDP)
		sock = bpf_sk_lookup_udp(skb, tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (!sock)
		return false;
	bpf_sk_release(sock);
	return true;
}

/* Of the port in m->in. Global, as all that follows, so that the verifier goes through it once. */
__noinline int port_state(struct __sk_buff *skb, struct mapping *m)
{
	const struct nat_value *held;

	if (!m)
		return PORT_TAKEN;
	held = bpf_map_lookup_elem(&snat, &m->in);
	if (!held)
		return used_by_node(skb, m) ? PORT_TAKEN : PORT_FREE;
	if (nat_value_equal(held, &m->back))
		return PORT_OURS;
	return is_live(m, held) ? PORT_TAKEN : PORT_STALE;
}

/* Which of the range is tried at turn `i`: of a short one each once, of others any, as ports that are tried side by
 * side come to be taken side by side. */
static __always_inline __u32 nat_place(const struct mapping *m, __u32 i)
{
	__u32 place = m->hash + i;

	if (m->count > NAT_TRIES) {
		place = m->hash + i * 0x9e3779b1;
		place = (place ^ place >> 15) * 0x85ebca6b;
		place ^= place >> 13;
	}
	return place % m->count;
}

/* Takes the first port of the wanted state, with the row of the way back. Two CPUs that take a stale one at the same
 * moment may both get it, which is why it is the last that is tried. */
__noinline int nat_take_port(struct __sk_buff *skb, struct mapping *m, int wanted)
{
	if (!m || !m->count)
		return false;
	for (int i = 0; i < NAT_TRIES; i++) {
		if (i >= m->count)
			break;
		m->in.dst_port = bpf_htons(m->first + nat_place(m, i));
		if (port_state(skb, m) != wanted)
			continue;
		if (wanted == PORT_OURS)
			return true;
		if (!bpf_map_update_elem(&snat, &m->in, &m->back, wanted == PORT_FREE ? BPF_NOEXIST : BPF_ANY))
			return true;
	}
	return false;
}

static __always_inline void begin_mapping(struct mapping *m, const struct packet *p)
{
	__builtin_memset(m, 0, sizeof(*m));
	m->out.src = p->src;
	m->out.dst = p->dst;
	m->out.src_port = p->src_port;
	m->out.dst_port = p->dst_port;
	m->out.protocol = p->protocol;
	m->out.direction = EGRESS;
	node_ip_like(&p->src, &m->to.ip);
	m->to.endpoint_id = p->endpoint_id;
	m->in.src = p->dst;
	m->in.dst = m->to.ip;
	m->in.src_port = p->dst_port;
	m->in.protocol = p->protocol;
	m->in.direction = INGRESS;
	m->back.ip = p->src;
	m->back.port = p->src_port;
	m->back.endpoint_id = p->endpoint_id;
}

/* The mapping as it is in the map, with the way back put there again where that is gone. */
static __always_inline bool nat_held(struct mapping *m)
{
	const struct nat_value *held = bpf_map_lookup_elem(&snat, &m->out);
	const struct nat_value *back;

	if (!held || held->endpoint_id != m->to.endpoint_id || addr_differs(&held->ip, &m->to.ip))
		return false;
	m->to.port = held->port;
	m->in.dst_port = held->port;
	back = bpf_map_lookup_elem(&snat, &m->in);
	if (back)
		return nat_value_equal(back, &m->back);
	return !bpf_map_update_elem(&snat, &m->in, &m->back, BPF_NOEXIST);
}

/* Finds the mapping of a packet or makes one, for a reply only the former; its port is then in m->to. Returns 0,
 * NOT_NAT or a drop reason. */
static __always_inline int find_mapping(struct __sk_buff *skb, const struct packet *p, struct mapping *m)
{
	begin_mapping(m, p);
	if (nat_held(m))
		return 0;
	if (p->ct_state == CT_REPLY)
		return NOT_NAT;
	if (p->protocol == IPPROTO_SCTP) { /* its checksum is over the ports and too long to mend */
		m->first = bpf_ntohs(p->src_port);
		m->count = 1;
	} else {
		m->hash = nat_hash(&m->out);
		m->first = masquerade_port_min;
		m->count = masquerade_port_max - masquerade_port_min + 1;
	}
	if (!(p->ct_state != CT_NEW && nat_take_port(skb, m, PORT_OURS)) && !nat_take_port(skb, m, PORT_FREE) &&
	    !nat_take_port(skb, m, PORT_STALE))
		return DROP_NO_MAPPING_FOR_NAT_MASQUERADE;
	m->to.port = m->in.dst_port;
	if (bpf_map_update_elem(&snat, &m->out, &m->to, BPF_ANY))
		return DROP_NO_MAPPING_FOR_NAT_MASQUERADE;
	return 0;
}
