// SPDX-License-Identifier: GPL-2.0
/*
 * What a port answers to Gets of subnet management (SMP) and of performance
 * management (PMA), which is where sysfs port counters come from.
 */
#include "vhca.h"
#include <rdma/ib_smi.h>
#include <rdma/ib_pma.h>

#define BAD_METHOD_ATTR	0x000c
#define PMA_DATA_OFFSET	40	/* performance MADs carry data at byte 64 */

static void node_info(struct vhca_dev *d, struct ib_node_info *info)
{
	info->base_version = IB_MGMT_BASE_VERSION;
	info->class_version = 1;
	info->node_type = 1;			/* channel adapter */
	info->num_ports = 1;
	info->sys_guid = d->rdi.dparms.props.sys_image_guid;
	info->node_guid = cpu_to_be64(d->node_guid);
	info->port_guid = cpu_to_be64(d->port_guid);
	info->partition_cap = cpu_to_be16(VHCA_PKEYS);
	info->device_id = cpu_to_be16(d->pdev->device);
	info->local_port_num = 1;
	info->vendor_id[1] = 0x02;
	info->vendor_id[2] = 0xc9;
}

static void port_info(struct vhca_dev *d, struct ib_port_info *info)
{
	u8 state = vhca_active(d) ? IB_PORT_ACTIVE : d->up ? IB_PORT_INIT : IB_PORT_DOWN;
	u8 physical = d->up ? IB_PORT_PHYS_STATE_LINK_UP : IB_PORT_PHYS_STATE_POLLING;

	info->gid_prefix = d->ibp.gid_prefix;
	info->lid = cpu_to_be16(d->lid);
	info->sm_lid = cpu_to_be16(vhca_sm_lid);
	info->cap_mask = cpu_to_be32(d->ibp.port_cap_flags);
	info->local_port_num = 1;
	info->link_width_enabled = info->link_width_supported = IB_WIDTH_1X | IB_WIDTH_4X;
	info->link_width_active = IB_WIDTH_4X;
	info->linkspeed_portstate = 1 << 4 | state;
	info->portphysstate_linkdown = physical << 4 | IB_PORT_PHYS_STATE_POLLING;
	info->linkspeedactive_enabled = 1 << 4 | 1;
	info->neighbormtu_mastersmsl = IB_MTU_4096 << 4;
	info->vlcap_inittype = 4 << 4;
	info->inittypereply_mtucap = IB_MTU_4096;
}

static bool smp_get(struct vhca_dev *d, const struct ib_smp *in, struct ib_smp *out)
{
	__be16 *pkeys = (void *)out->data;
	int i;

	memset(out->data, 0, sizeof(out->data));
	switch (in->attr_id) {
	case IB_SMP_ATTR_NODE_DESC:
		memcpy(out->data, d->rdi.ibdev.node_desc, IB_DEVICE_NODE_DESC_MAX);
		return true;
	case IB_SMP_ATTR_NODE_INFO:
		node_info(d, (void *)out->data);
		return true;
	case IB_SMP_ATTR_GUID_INFO:
		*(__be64 *)out->data = cpu_to_be64(d->port_guid);
		return true;
	case IB_SMP_ATTR_PKEY_TABLE:
		if (be32_to_cpu(in->attr_mod))	/* the table has one block */
			return true;
		for (i = 0; i < VHCA_PKEYS; i++)
			pkeys[i] = cpu_to_be16(d->pkeys[i]);
		return true;
	case IB_SMP_ATTR_PORT_INFO:
		port_info(d, (void *)out->data);
		return true;
	}
	return false;
}

/* Counters of bytes are kept by InfiniBand in units of four. */
static u64 words(const atomic64_t *bytes)
{
	return atomic64_read(bytes) / 4;
}

static __be32 saturate32(u64 v)
{
	return cpu_to_be32(min_t(u64, v, U32_MAX));
}

static void port_counters(struct vhca_dev *d, struct ib_pma_portcounters *c)
{
	c->port_select = 1;
	c->port_xmit_data = saturate32(words(&d->tx_bytes));
	c->port_rcv_data = saturate32(words(&d->rx_bytes));
	c->port_xmit_packets = saturate32(atomic64_read(&d->tx_packets));
	c->port_rcv_packets = saturate32(atomic64_read(&d->rx_packets));
	c->port_xmit_discards = cpu_to_be16(min_t(u64, atomic64_read(&d->drops), U16_MAX));
	c->port_rcv_constraint_errors = min_t(u64, atomic64_read(&d->pkey_drops), U8_MAX);
}

static void port_counters_ext(struct vhca_dev *d, struct ib_pma_portcounters_ext *c)
{
	c->port_select = 1;
	c->port_xmit_data = cpu_to_be64(words(&d->tx_bytes));
	c->port_rcv_data = cpu_to_be64(words(&d->rx_bytes));
	c->port_xmit_packets = cpu_to_be64(atomic64_read(&d->tx_packets));
	c->port_rcv_packets = cpu_to_be64(atomic64_read(&d->rx_packets));
	c->port_unicast_xmit_packets = c->port_xmit_packets;
	c->port_unicast_rcv_packets = c->port_rcv_packets;
}

static bool pma_get(struct vhca_dev *d, const struct ib_mad *in, struct ib_mad *out)
{
	void *data = out->data + PMA_DATA_OFFSET;
	struct ib_class_port_info *info = data;

	memset(out->data, 0, sizeof(out->data));
	switch (in->mad_hdr.attr_id) {
	case IB_PMA_CLASS_PORT_INFO:
		info->base_version = 1;
		info->class_version = 1;
		info->capability_mask = IB_PMA_CLASS_CAP_EXT_WIDTH;
		return true;
	case IB_PMA_PORT_COUNTERS:
		port_counters(d, data);
		return true;
	case IB_PMA_PORT_COUNTERS_EXT:
		port_counters_ext(d, data);
		return true;
	}
	return false;
}

int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port,
		     const struct ib_wc *wc, const struct ib_grh *grh,
		     const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index)
{
	u8 class = in->mad_hdr.mgmt_class;
	bool smp = class == IB_MGMT_CLASS_SUBN_LID_ROUTED ||
		   class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE;
	struct vhca_dev *d = to_vhca(ibdev);
	bool known;

	if ((!smp && class != IB_MGMT_CLASS_PERF_MGMT) ||
	    in->mad_hdr.method != IB_MGMT_METHOD_GET)
		return IB_MAD_RESULT_SUCCESS;
	*out = *in;
	known = smp ? smp_get(d, (const void *)in, (void *)out) : pma_get(d, in, out);
	out->mad_hdr.method = IB_MGMT_METHOD_GET_RESP;
	out->mad_hdr.status = known ? 0 : cpu_to_be16(BAD_METHOD_ATTR);
	if (class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE)
		out->mad_hdr.status |= IB_SMP_DIRECTION;
	return IB_MAD_RESULT_SUCCESS | IB_MAD_RESULT_REPLY;
}
