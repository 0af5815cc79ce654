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
 * 6. What belongs to a connection that was opened from outside leaves as it is: it came to the pod's own address. But
 * where there is a mapping it came by that, of a connection that was forgotten and that the other end went on with.
 * 7. A later fragment has the ports of its first (fragments.h) and gets its address; there is nothing else to write.
 */
#pragma once

#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "ct.h"
#include "endpoints.h"
#include "ipcache.h"
#include "nat.h"
#include "packet.h"
#include "rewrite.h"
#include "settings.h"

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

static __always_inline bool masquerades(const struct addr *ip)
{
	return underlay_ifindex && (addr_is_ipv4(ip) ? masquerade_ipv4 : masquerade_ipv6);
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
	r->protocol = p->fragment == FRAGMENT_LATER ? 0 : p->protocol;
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
	if (p->ct_state == CT_REPLY && p->echo)
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
		return reason == NOT_NAT ? 0 : reason;
	begin_rewrite(&m->rewrite, p, &m->to, true);
	return rewrite_packet(skb, &m->rewrite, p->fragment != FRAGMENT_LATER);
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
	if (p->fragment == FRAGMENT_FIRST)
		remember_first(p);
	p->dst = m->rewrite.to;
	p->dst_port = m->rewrite.to_port;
	if (!p->echo)
		p->policy_port = p->dst_port;
	return rewrite_packet(skb, &m->rewrite, p->fragment != FRAGMENT_LATER);
}
