/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which of the packets that pass a device are the pod's. */
#ifndef DOLPHIN_DEVICE_BPF_H
#define DOLPHIN_DEVICE_BPF_H

#include "kernel.bpf.h"

#define PACKET_HOST      0
#define PACKET_OTHERHOST 3

#define IFF_SLAVE (1 << 11)
#define ETH_ALEN  6
#define NO_UPPER  1 /* net_device.upper_level of a device that carries no other */

/* Of a packet received: for this host, for several, or for another one. */
static __always_inline u32 packet_type(struct sk_buff *skb)
{
	return *(u8 *)&skb->__pkt_type_offset & 7; /* a bit field's first bits; on big-endian machines its last ones */
}

/* In 5.10 and 6.1 a bit says whether vlan_tci holds a tag; later the tag and its protocol together are zero or not. */
struct sk_buff___vlan_bit {
	u8 vlan_present : 1;
};

static __always_inline bool has_vlan_tag(struct sk_buff *skb)
{
	struct sk_buff___vlan_bit *old = (void *)skb;

	if (bpf_core_field_exists(old->vlan_present))
		return BPF_CORE_READ_BITFIELD(old, vlan_present);
	return skb->vlan_all;
}

/* A device that carries others (a VLAN's, a macvlan's, a port of a bridge or bond) is handed their packets after they
 * have been counted there, and frames that IP in this namespace never sees. What is sent on the device itself has no
 * tag and the device's own address. */
static __always_inline bool is_of_another_device(struct sk_buff *skb, struct net_device *dev)
{
	if (dev->upper_level == NO_UPPER)
		return false;
	if (BPF_CORE_READ_BITFIELD(dev, priv_flags) & (IFF_BRIDGE_PORT | IFF_OVS_DATAPATH | IFF_TEAM_PORT))
		return true;
	if (dev->flags & IFF_SLAVE || has_vlan_tag(skb))
		return true;
	return (read_word(skb->data + ETH_ALEN) ^ read_word(dev->dev_addr)) << 16;
}

#endif
