/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Masquerade: what a pod opens towards the outside leaves with the node's address.
 *
 *     pod:sport ─▶ peer   ─[policy, ct]─▶  node:port ─▶ peer          masquerade, after the verdict
 *     pod:sport ◀─ peer   ◀─[ct, policy]─  node:port ◀─ peer          unmasquerade, before the verdict
 *
 * 1. So policy and the connection table know the pod's own address and port alone.
 * 2. A mapping is two rows, one for each way. The row of a way that is gone is written again by the next packet out.
 * 3. The port follows from the ends by hashing, so a mapping of which only the way back is left is found again.
 * 4. A port is another's as long as that one's connection is in the connection table; there is no time-out here.
 * 5. ICMP errors about a mapped connection are translated with what they quote, either way.
 * 6. What belongs to a connection that was opened from outside leaves as it is: it came to the pod's own address.
 * Fragments never come here (read_l3): later ones have no ports. What is to remember the ports of first fragments does
 * so by the pod's own ends on the way out and by the peer's and the node's on the way in.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "endpoints.h"
#include "ipcache.h"
#include "packet.h"
#include "settings.h"

struct nat_key {
	struct addr
		src; /* as the packet has them where it comes in: of the pod and its peer, of the peer and the node */
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

struct ipmasq_value {
	__u32 exempt; /* 1 */
};

/* key: prefix. value: packets to there leave as they are.
 * written by: the agent. read by: masquerade. full: the agent's write fails; what has no row is masqueraded. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ipcache_key);
	__type(value, struct ipmasq_value);
} ipmasq SEC(".maps");

#define NAT_TRIES 32
#define NOT_NAT	  -1 /* no drop reason: nothing to translate */

/* linux/bpf.h has it since 6.16: the checksum of a whole IPv6 packet stays, whatever its addresses (CHECKSUM_COMPLETE).
 */
#define L4_CSUM_IPV6 (1ULL << 7)

/* Where something of an IP packet is from the start of the frame, and what is to be there. */
struct rewrite {
	struct addr from;
	struct addr to;
	__be16 from_port;
	__be16 to_port;
	__u8 protocol;
	__u8 source; /* 1: the source is changed; 0: the destination */
	__u32 ip_offset;
	__u32 l4_offset;
};

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

static __always_inline bool masquerades(const struct addr *ip)
{
	return underlay_ifindex && (addr_is_ipv4(ip) ? masquerade_ipv4 : masquerade_ipv6);
}

static __always_inline void node_ip_like(const struct addr *ip, struct addr *node)
{
	bool is_ipv4 = addr_is_ipv4(ip);

	for (int i = 0; i < 4; i++)
		node->w[i] = is_ipv4 ? node_ipv4.w[i] : node_ipv6.w[i];
}

static __always_inline bool is_exempt(const struct addr *ip)
{
	struct ipcache_key key = ipcache_key_of(ip);

	return masquerade_exempts && bpf_map_lookup_elem(&ipmasq, &key);
}

/* What is neither of the cluster nor exempt. */
static __always_inline bool is_masqueraded(const struct addr *dst, __u32 identity)
{
	if (!masquerades(dst) || (!is_world(identity) && identity >> 24 != IDENTITY_SCOPE_CIDR))
		return false;
	return !is_exempt(dst);
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

/* Takes the first port of the wanted state, with the row of the way back. Two CPUs that take a stale one at the same
 * moment may both get it, which is why it is the last that is tried. */
__noinline int nat_take_port(struct __sk_buff *skb, struct mapping *m, int wanted)
{
	__u32 place;

	if (!m || !m->count)
		return false;
	place = m->hash % m->count;
	for (int i = 0; i < NAT_TRIES; i++) {
		if (i >= m->count)
			break;
		m->in.dst_port = bpf_htons(m->first + (place + i) % m->count);
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

/* Finds the mapping of a packet or makes one; its port is then in m->to. Returns 0 or a drop reason. */
static __always_inline int find_mapping(struct __sk_buff *skb, const struct packet *p, struct mapping *m)
{
	begin_mapping(m, p);
	if (nat_held(m))
		return 0;
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

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline __u32 ip_address_offset(const struct rewrite *r)
{
	if (addr_is_ipv4(&r->from))
		return r->ip_offset + (r->source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	return r->ip_offset + (r->source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
}

static __always_inline __u32 port_offset(const struct rewrite *r)
{
	if (is_icmp(r->protocol))
		return r->l4_offset + 4; /* id */
	return r->l4_offset + (r->source ? 0 : 2);
}

/* 0: has none that covers what is changed. */
static __always_inline __u32 checksum_offset(const struct rewrite *r)
{
	switch (r->protocol) {
	case IPPROTO_TCP:
		return r->l4_offset + offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return r->l4_offset + 6;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return r->l4_offset + 2;
	}
	return 0;
}

/* Zero is "no checksum" in UDP over IPv4 and stays. */
static __always_inline __u64 checksum_flags(const struct rewrite *r)
{
	return r->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/* The address in the checksum of what is within. `pseudo`: BPF_F_PSEUDO_HDR, 0 in what an ICMP error quotes. */
static __always_inline int mend_for_address(struct __sk_buff *skb, const struct rewrite *r, __u32 offset, __u64 pseudo)
{
	__u64 flags = checksum_flags(r) | pseudo;
	__s64 diff;

	if (addr_is_ipv4(&r->from)) {
		if (r->protocol == IPPROTO_ICMP)
			return 0;
		return bpf_l4_csum_replace(skb, offset, r->from.w[3], r->to.w[3], flags | 4);
	}
	diff = bpf_csum_diff((__be32 *)r->from.w, sizeof(r->from.w), (__be32 *)r->to.w, sizeof(r->to.w), 0);
	if (pseudo && !bpf_l4_csum_replace(skb, offset, 0, diff, flags | L4_CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(skb, offset, 0, diff, flags);
}

static __always_inline int write_address(struct __sk_buff *skb, const struct rewrite *r)
{
	__u32 check = r->ip_offset + offsetof(struct iphdr, check);

	if (!addr_is_ipv4(&r->from))
		return bpf_skb_store_bytes(skb, ip_address_offset(r), r->to.w, sizeof(r->to.w), 0);
	if (bpf_l3_csum_replace(skb, check, r->from.w[3], r->to.w[3], 4))
		return -1;
	return bpf_skb_store_bytes(skb, ip_address_offset(r), &r->to.w[3], sizeof(r->to.w[3]), 0);
}

/* One address and, but in ICMP errors, one port of the packet itself. Returns 0 or a drop reason. */
__noinline int rewrite_packet(struct __sk_buff *skb, const struct rewrite *r, bool has_port)
{
	__u32 checksum;

	if (!r)
		return DROP_WRITE_ERROR;
	checksum = checksum_offset(r);
	if (checksum && mend_for_address(skb, r, checksum, BPF_F_PSEUDO_HDR))
		return DROP_WRITE_ERROR;
	if (write_address(skb, r))
		return DROP_WRITE_ERROR;
	if (!has_port || r->from_port == r->to_port)
		return 0;
	if (checksum && bpf_l4_csum_replace(skb, checksum, r->from_port, r->to_port, checksum_flags(r) | 2))
		return DROP_WRITE_ERROR;
	if (bpf_skb_store_bytes(skb, port_offset(r), &r->to_port, sizeof(r->to_port), 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/* The checksum within the packet that the error quotes, if that much of it is quoted. */
static __always_inline int mend_quoted_checksum(struct __sk_buff *skb, const struct rewrite *r, __u32 icmp_checksum)
{
	__u32 checksum = checksum_offset(r);
	__be16 before, after;

	if (!checksum || bpf_skb_load_bytes(skb, checksum, &before, sizeof(before)))
		return 0;
	if (mend_for_address(skb, r, checksum, 0) ||
	    bpf_l4_csum_replace(skb, checksum, r->from_port, r->to_port, checksum_flags(r) | 2))
		return -1;
	if (bpf_skb_load_bytes(skb, checksum, &after, sizeof(after)))
		return -1;
	return bpf_l4_csum_replace(skb, icmp_checksum, before, after, 2);
}

/* The same end in what an ICMP error quotes: an address, a port, checksums, and that of the error itself, which is over
 * all of it. Of IPv4 the header's own checksum makes up for the address. */
__noinline int rewrite_quoted(struct __sk_buff *skb, const struct rewrite *r, __u32 icmp_checksum)
{
	__s64 diff;

	if (!r || mend_quoted_checksum(skb, r, icmp_checksum) || write_address(skb, r))
		return DROP_WRITE_ERROR;
	if (!addr_is_ipv4(&r->from)) {
		diff = bpf_csum_diff((__be32 *)r->from.w, sizeof(r->from.w), (__be32 *)r->to.w, sizeof(r->to.w), 0);
		if (bpf_l4_csum_replace(skb, icmp_checksum, 0, diff, 0))
			return DROP_WRITE_ERROR;
	}
	if (r->from_port == r->to_port)
		return 0;
	if (bpf_skb_store_bytes(skb, port_offset(r), &r->to_port, sizeof(r->to_port), 0) ||
	    bpf_l4_csum_replace(skb, icmp_checksum, r->from_port, r->to_port, 2))
		return DROP_WRITE_ERROR;
	return 0;
}

/* Key of the row that translates what `quoted` is the answer to. */
static __always_inline void key_of_quoted(struct nat_key *key, const struct quoted *quoted, __u8 direction)
{
	key->src = quoted->dst;
	key->dst = quoted->src;
	key->src_port = quoted->dst_port;
	key->dst_port = quoted->src_port;
	key->protocol = quoted->protocol;
	key->direction = direction;
}

static __always_inline bool is_endpoint(const struct addr *ip, __u16 endpoint_id)
{
	const struct endpoint_value *endpoint = bpf_map_lookup_elem(&endpoints, ip);

	return endpoint && endpoint->endpoint_id == endpoint_id;
}

/* Of the packet's own source or destination. */
static __always_inline void begin_rewrite(struct rewrite *r, const struct packet *p, const struct nat_value *to,
					  bool source)
{
	r->from = source ? p->src : p->dst;
	r->to = to->ip;
	r->from_port = source ? p->src_port : p->dst_port;
	r->to_port = to->port;
	r->protocol = p->protocol;
	r->source = source;
	r->ip_offset = ETH_HLEN;
	r->l4_offset = p->l4_offset;
}

/* An ICMP error with what it quotes. Out, of an endpoint about a reply to it; in, to the node about what left with its
 * address. Returns 0, NOT_NAT or a drop reason. */
__noinline int translate_error(struct __sk_buff *skb, struct packet *p, bool out)
{
	struct mapping *m = bpf_map_lookup_elem(&mapping_draft, &(__u32){0});
	const struct nat_value *held;
	struct quoted *quoted;
	struct rewrite *r;
	int reason;

	if (!p || !m)
		return NOT_NAT;
	quoted = &m->quoted;
	r = &m->rewrite;
	if (!read_quoted(skb, p, quoted))
		return NOT_NAT;
	if (addr_differs(out ? &quoted->dst : &quoted->src, out ? &p->src : &p->dst))
		return NOT_NAT;
	key_of_quoted(&m->in, quoted, out ? EGRESS : INGRESS);
	held = bpf_map_lookup_elem(&snat, &m->in);
	if (!held || !is_endpoint(out ? &p->src : &held->ip, held->endpoint_id))
		return NOT_NAT;
	begin_rewrite(r, p, held, out);
	r->from_port = out ? quoted->dst_port : quoted->src_port;
	if (!out)
		p->dst = r->to;
	reason = rewrite_packet(skb, r, false);
	if (reason)
		return reason;
	r->source = !out;
	r->protocol = quoted->protocol;
	r->ip_offset = p->l4_offset + ICMP_HEADER_LEN;
	r->l4_offset = quoted->l4_offset;
	return rewrite_quoted(skb, r, p->l4_offset + 2);
}

/* A packet of a pod to the outside, which may pass. `p` stays what policy has seen. Returns 0 or a drop reason. */
__noinline int masquerade(struct __sk_buff *skb, struct packet *p)
{
	struct mapping *m = bpf_map_lookup_elem(&mapping_draft, &(__u32){0});
	int reason;

	if (!p || !m)
		return DROP_NO_MAPPING_FOR_NAT_MASQUERADE;
	if (p->ct_state == CT_REPLY)
		return 0;
	if (p->icmp_error) {
		reason = translate_error(skb, p, true);
		if (reason != NOT_NAT)
			return reason;
		return p->ct_state == CT_RELATED ? 0 : DROP_UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE;
	}
	if (!p->tracked)
		return DROP_UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE;
	if (p->echo == ECHO_REPLY)
		return DROP_NO_MAPPING_FOR_NAT_MASQUERADE;
	reason = find_mapping(skb, p, m);
	if (reason)
		return reason;
	begin_rewrite(&m->rewrite, p, &m->to, true);
	return rewrite_packet(skb, &m->rewrite, true);
}

/* Whether there may be a mapping for what comes to this port: most of what comes to a node is for itself. */
static __always_inline bool is_nat_port(const struct packet *p)
{
	__u16 port = bpf_ntohs(p->dst_port);

	return p->protocol == IPPROTO_SCTP || (port >= masquerade_port_min && port <= masquerade_port_max);
}

/* A packet to the node's address; after it `p` is the packet to the endpoint. Returns 0, NOT_NAT or a drop reason. */
__noinline int unmasquerade(struct __sk_buff *skb, struct packet *p)
{
	struct mapping *m = bpf_map_lookup_elem(&mapping_draft, &(__u32){0});
	const struct nat_value *held;
	struct nat_key *key;

	if (!p || !m)
		return NOT_NAT;
	if (p->icmp_error)
		return translate_error(skb, p, false);
	if (!p->tracked || !is_nat_port(p))
		return NOT_NAT;
	key = &m->in;
	key->src = p->src;
	key->dst = p->dst;
	key->src_port = p->src_port;
	key->dst_port = p->dst_port;
	key->protocol = p->protocol;
	key->direction = INGRESS;
	held = bpf_map_lookup_elem(&snat, key);
	if (!held || !is_endpoint(&held->ip, held->endpoint_id))
		return NOT_NAT;
	begin_rewrite(&m->rewrite, p, held, false);
	p->dst = m->rewrite.to;
	p->dst_port = m->rewrite.to_port;
	if (!p->echo)
		p->policy_port = p->dst_port;
	return rewrite_packet(skb, &m->rewrite, true);
}
