/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reading a packet. Headers may lie outside the linear part of the skb (GRO, vxlan), so they are pulled when short. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "addr.h"
#include "reasons.h"

#define INGRESS 0
#define EGRESS	1

/* Of src_local and dst_local. */
#define LOCAL	      1 /* an endpoint of this node, whose policy counts */
#define LOCAL_AUDITED 2 /* what its policy refuses passes all the same */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* linux/icmp.h pulls in the C library's headers for the host. */
#define ICMP_ECHOREPLY	   0
#define ICMP_DEST_UNREACH  3
#define ICMP_ECHO	   8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_HEADER_LEN	   8

#define IP_FRAGMENT_BITS 0x3fff /* more-fragments and offset */

/* One packet and what has been learned about it so far; on the stack of the program. */
struct packet {
	struct addr src;
	struct addr dst;
	__be16 src_port; /* ICMP echo: the id at the end that asks, 0 at the end that answers */
	__be16 dst_port;
	__be16 policy_port; /* what policy calls the port: dst_port, or the ICMP type */
	__u8 protocol;
	__u8 tcp_flags;
	__u32 l4_offset;
	__u32 src_identity;
	__u32 dst_identity;
	__u16 endpoint_id; /* the local endpoint at which the packet was seen */
	__u8 direction;	   /* of the verdict: as seen by that endpoint */
	__u8 src_local;	   /* LOCAL, whose egress policy counts; with it maybe LOCAL_AUDITED */
	__u8 dst_local;	   /* the same of ingress */
	__u8 tracked;	   /* 1: belongs into the connection table */
	__u8 icmp_error;   /* 1: an ICMP error about another packet */
};

static __always_inline bool is_ipv4(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP);
}

/* Makes `length` bytes from the start of the frame readable; false when the packet is not as long. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 length)
{
	if ((void *)(long)skb->data + length <= (void *)(long)skb->data_end)
		return true;
	return !bpf_skb_pull_data(skb, length);
}

/* Addresses and protocol. Returns 0 or a drop reason. */
static __always_inline int read_l3(struct __sk_buff *skb, struct packet *p)
{
	const struct iphdr *ip;
	void *data;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return DROP_INVALID_PACKET;
	data = (void *)(long)skb->data;
	if (data + ETH_HLEN + sizeof(*ip) > (void *)(long)skb->data_end)
		return DROP_INVALID_PACKET;
	ip = data + ETH_HLEN;
	if (ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	addr_set_ipv4(&p->src, ip->saddr);
	addr_set_ipv4(&p->dst, ip->daddr);
	p->protocol = ip->protocol;
	p->l4_offset = ETH_HLEN + ip->ihl * 4;
	/* Later fragments have no ports, and a first fragment alone is of no use. All drop until a map remembers the
	 * ports of first fragments; pods that send large datagrams have to keep to their MTU. */
	if (ip->frag_off & bpf_htons(IP_FRAGMENT_BITS))
		return DROP_FRAGMENT;
	return 0;
}

static __always_inline void read_icmp(struct packet *p, const __u8 *l4)
{
	__u8 type = l4[0];

	p->policy_port = bpf_htons(type);
	p->icmp_error = type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
	if (type != ICMP_ECHO && type != ICMP_ECHOREPLY)
		return;
	p->tracked = 1;
	if (type == ICMP_ECHO)
		p->src_port = *(const __be16 *)(l4 + 4);
	else
		p->dst_port = *(const __be16 *)(l4 + 4);
}

/* Ports, flags, ICMP type; after read_l3. Returns 0 or a drop reason. */
static __always_inline int read_l4(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = p->l4_offset & 0x7f; /* the verifier needs the bound; the value is at most 74 */
	__u32 length = p->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : 8;
	const __u8 *l4;

	if (!readable(skb, offset + length))
		return DROP_CT_INVALID_HEADER;
	l4 = (const __u8 *)(long)skb->data + offset;
	if (l4 + 8 > (const __u8 *)(long)skb->data_end)
		return DROP_CT_INVALID_HEADER;
	if (p->protocol == IPPROTO_ICMP) {
		read_icmp(p, l4);
		return 0;
	}
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_SCTP)
		return DROP_CT_UNKNOWN_L4;
	p->tracked = 1;
	p->src_port = *(const __be16 *)l4;
	p->dst_port = *(const __be16 *)(l4 + 2);
	p->policy_port = p->dst_port;
	if (p->protocol == IPPROTO_TCP) {
		if (l4 + sizeof(struct tcphdr) > (const __u8 *)(long)skb->data_end)
			return DROP_CT_INVALID_HEADER;
		p->tcp_flags = l4[13];
	}
	return 0;
}
