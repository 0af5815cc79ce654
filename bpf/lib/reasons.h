/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why a packet was dropped. The numbers are Hubble's (flow.proto, DropReason), so its tools name them rightly. */
#pragma once

enum drop_reason {
	FORWARDED = 0,	  /* not a drop; the number under which forwarded packets are counted */
	RECORDS_LOST = 1, /* not a packet; records that found the ring full are counted here */
	AUDITED = 2,	  /* not a drop; what passes by audit mode alone is counted here, too */
	DROP_INVALID_SOURCE_MAC = 130,
	DROP_INVALID_SOURCE_IP = 132,
	DROP_POLICY_DENIED = 133, /* nothing allows it */
	DROP_INVALID_PACKET = 134,
	DROP_CT_INVALID_HEADER = 135,
	DROP_CT_UNKNOWN_L4 = 137,
	DROP_UNSUPPORTED_L3 = 139,
	DROP_WRITE_ERROR = 141,
	DROP_NO_TUNNEL_KEY = 147,
	DROP_UNROUTABLE_IP = 151,
	DROP_NO_LOCAL_ENDPOINT = 152,
	DROP_CT_INSERTION = 155,
	DROP_INVALID_EXTHDR = 156,
	DROP_FRAGMENT = 157,				    /* malformed, or too long for its way */
	DROP_NO_POLICY = 165,				    /* the subject has no row yet (I9) */
	DROP_NO_MAPPING_FOR_NAT_MASQUERADE = 167,	    /* no port of the range is free towards this peer */
	DROP_UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE = 168, /* has no port that could tell its replies */
	DROP_ENCAPSULATION = 170,			    /* a pod that speaks to the nodes' tunnel itself */
	DROP_NO_FIRST_FRAGMENT = 175,			    /* a later fragment whose first has not passed */
	DROP_FORBIDDEN_ICMPV6 = 176,			    /* what stays on a link: router and group messages */
	DROP_POLICY_DENY = 181,				    /* a deny rule */
	DROP_VLAN_FILTERED = 182,
	DROP_INVALID_VNI = 183,
};
