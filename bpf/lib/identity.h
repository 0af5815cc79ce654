/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose address is it: this node's, an endpoint's of this node, one the ipcache knows, or the world's. */
#pragma once

#include "endpoints.h"
#include "ipcache.h"
#include "node.h"

static __always_inline __u32 identity_of(const struct addr *ip)
{
	struct endpoint_value endpoint;

	if (is_own_ip(ip))
		return IDENTITY_HOST;
	if (find_endpoint(ip, &endpoint))
		return endpoint.identity;
	return find_ipcache(ip).identity;
}
