// SPDX-License-Identifier: GPL-2.0
/*
 * Which port has which LID, and UD packets between ports. A UD message is first
 * copied into a struct vhca_packet, so that unicast, multicast, the subnet
 * administrator and other machines all see one form. Losing one is legal.
 */
#include "vhca.h"
#include <linux/slab.h>

/* LIDs are unique over all fabrics of this kernel: one table serves them all. */
struct vhca_dev __rcu *vhca_ports[VHCA_MAX_LID];

struct vhca_dev *vhca_port_at(u8 fabric, u16 lid)
{
	struct vhca_dev *d = lid < VHCA_MAX_LID ? rcu_dereference(vhca_ports[lid]) : NULL;

	return d && d->fabric == fabric ? d : NULL;
}

/* -------------------------------------------------------------- receiving -- */

static int pkey_find(struct vhca_dev *d, u16 pkey)
{
	int i;

	for (i = 0; i < VHCA_PKEYS; i++)
		if (vhca_pkey_match(d->pkeys[i], pkey))
			return i;
	return -1;
}

/* The P_Key index by which a QP gets this packet, or -1: it does not. */
static int receive_pkey(struct vhca_dev *d, struct rvt_qp *qp, const struct vhca_packet *p)
{
	if (qp->ibqp.qp_num == 0)		/* subnet management has none */
		return 0;
	if (qp->ibqp.qp_num == 1)		/* any of the port's */
		return pkey_find(d, p->pkey);
	return vhca_pkey_match(d->pkeys[qp->s_pkey_index], p->pkey) ? qp->s_pkey_index : -1;
}

static bool qkey_ok(struct vhca_dev *d, struct rvt_qp *qp, const struct vhca_packet *p)
{
	u32 qpn = qp->ibqp.qp_num;

	if (qpn == 0 || p->qkey == (qpn == 1 ? IB_QP1_QKEY : qp->qkey))
		return true;
	d->ibp.qkey_violations++;
	return false;
}

/* Take a posted receive that the packet fits into. r_lock held. */
static bool take_receive(struct rvt_qp *qp, const struct vhca_packet *p)
{
	int ret;

	/* One taken for a packet that did not fit serves the next packet. */
	if (qp->r_flags & RVT_R_REUSE_SGE) {
		qp->r_flags &= ~RVT_R_REUSE_SGE;
	} else {
		ret = rvt_get_rwqe(qp, false);
		if (ret < 0)
			rvt_rc_error(qp, IB_WC_LOC_QP_OP_ERR);
		if (ret <= 0)
			return false;
	}
	if (p->len + VHCA_GRH_LEN > qp->r_len) {
		qp->r_flags |= RVT_R_REUSE_SGE;
		return false;
	}
	return true;
}

static void complete_receive(struct rvt_qp *qp, const struct vhca_packet *p, int pkey_index)
{
	struct ib_wc wc = {
		.wr_id = qp->r_wr_id,
		.status = IB_WC_SUCCESS,
		.opcode = IB_WC_RECV,
		.qp = &qp->ibqp,
		.byte_len = p->len + VHCA_GRH_LEN,
		.src_qp = p->src_qpn,
		.slid = p->slid,
		.sl = p->sl,
		.port_num = 1,
		.pkey_index = pkey_index,
	};

	if (p->has_grh)
		wc.wc_flags |= IB_WC_GRH;
	if (p->has_imm) {
		wc.wc_flags |= IB_WC_WITH_IMM;
		wc.ex.imm_data = p->imm;
	}
	rvt_recv_cq(qp, &wc, p->solicited);
}

/* Hand a packet to one QP. */
static void deliver(struct vhca_dev *d, struct rvt_qp *qp, const struct vhca_packet *p)
{
	int pkey_index = receive_pkey(d, qp, p);
	unsigned long flags;

	if (pkey_index < 0) {
		atomic64_inc(&d->pkey_drops);
		d->ibp.pkey_violations++;
		return;
	}
	spin_lock_irqsave(&qp->r_lock, flags);
	if (!(ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) ||
	    qp->allowed_ops != IB_OPCODE_UD || !qkey_ok(d, qp, p) || !take_receive(qp, p)) {
		atomic64_inc(&d->drops);
		goto unlock;
	}
	/* The first 40 bytes of a UD receive belong to the GRH, sent or not. */
	if (p->has_grh)
		rvt_copy_sge(qp, &qp->r_sge, (void *)&p->grh, VHCA_GRH_LEN, true, false);
	else
		rvt_skip_sge(&qp->r_sge, VHCA_GRH_LEN, true);
	rvt_copy_sge(qp, &qp->r_sge, (void *)p->data, p->len, true, false);
	rvt_put_ss(&qp->r_sge);
	if (test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags)) {
		atomic64_inc(&d->rx_packets);
		atomic64_add(p->len, &d->rx_bytes);
		complete_receive(qp, p, pkey_index);
	}
unlock:
	spin_unlock_irqrestore(&qp->r_lock, flags);
}

static void deliver_multicast(struct vhca_dev *d, const struct vhca_packet *p)
{
	union ib_gid mgid = p->grh.dgid;
	struct rvt_mcast *group = rvt_mcast_find(&d->ibp, &mgid, p->dlid);
	struct rvt_mcast_qp *member;

	if (!group)
		return;
	list_for_each_entry_rcu(member, &group->qp_list, list)
		deliver(d, member->qp, p);
	if (atomic_dec_return(&group->refcount) <= 1)
		wake_up(&group->wait);
}

/* -------------------------------------------------------------- switching -- */

static void switch_multicast(const struct vhca_packet *p)
{
	struct vhca_dev *d;
	int lid;

	if (!p->has_grh)
		return;
	for (lid = 1; lid < VHCA_MAX_LID; lid++) {
		d = vhca_port_at(p->fabric, lid);
		if (d && vhca_active(d))
			deliver_multicast(d, p);
	}
}

/* Deliver to the ports of this kernel. */
void vhca_switch_local(const struct vhca_packet *p)
{
	struct vhca_dev *d;
	struct rvt_qp *qp;

	if (p->dlid >= VHCA_MCAST_LID) {
		switch_multicast(p);
		return;
	}
	if (vhca_sa_take(p))
		return;
	d = vhca_port_at(p->fabric, p->dlid);
	if (!d || (!vhca_active(d) && p->dst_qpn))
		return;
	qp = rvt_lookup_qpn(&d->rdi, &d->ibp, p->dst_qpn);
	if (qp)
		deliver(d, qp, p);
}

/* Deliver wherever the destination is. */
void vhca_switch(const struct vhca_packet *p)
{
	if (p->dlid >= VHCA_MCAST_LID ||
	    !(vhca_sa_here(p->dlid) || vhca_port_at(p->fabric, p->dlid)))
		vhca_link_send_ud(p);
	vhca_switch_local(p);
}

/* ---------------------------------------------------------------- sending -- */

static void fill_addresses(struct vhca_packet *p, struct vhca_dev *d, struct rvt_qp *qp,
			   struct rvt_swqe *wqe)
{
	struct rdma_ah_attr *ah = rvt_get_swqe_ah_attr(wqe);
	u32 qpn = qp->ibqp.qp_num;
	u16 pkey_index = qpn == 1 ? rvt_get_swqe_pkey_index(wqe) : qp->s_pkey_index;

	p->fabric = d->fabric;
	p->slid = d->lid;
	p->dlid = rdma_ah_get_dlid(ah);
	p->sl = rdma_ah_get_sl(ah);
	p->pkey = d->pkeys[pkey_index % VHCA_PKEYS];
	p->src_qpn = qpn;
	p->dst_qpn = rvt_get_swqe_remote_qpn(wqe);
	p->qkey = rvt_get_swqe_remote_qkey(wqe);
	if ((s32)p->qkey < 0)			/* high bit set: use the QP's own */
		p->qkey = qpn > 1 ? qp->qkey : IB_QP1_QKEY;
}

static void fill_grh(struct vhca_packet *p, struct vhca_dev *d, struct rdma_ah_attr *ah)
{
	const struct ib_global_route *route = rdma_ah_read_grh(ah);
	const int bth_deth_icrc = 12 + 8 + 4;

	p->has_grh = true;
	p->grh.version_tclass_flow =
		cpu_to_be32(6u << 28 | route->traffic_class << 20 | route->flow_label);
	p->grh.paylen = cpu_to_be16(p->len + bth_deth_icrc);
	p->grh.next_hdr = 0x1b;
	p->grh.hop_limit = route->hop_limit;
	p->grh.sgid.global.subnet_prefix = d->ibp.gid_prefix;
	p->grh.sgid.global.interface_id = cpu_to_be64(d->port_guid);
	p->grh.dgid = route->dgid;
}

enum ib_wc_status vhca_ud_send(struct rvt_qp *qp, struct rvt_swqe *wqe)
{
	struct rdma_ah_attr *ah = rvt_get_swqe_ah_attr(wqe);
	struct vhca_dev *d = qp_to_vhca(qp);
	struct vhca_packet *p;

	if (wqe->length > VHCA_UD_MTU)
		return IB_WC_LOC_LEN_ERR;
	if (!vhca_active(d) && qp->ibqp.qp_num)
		return IB_WC_SUCCESS;		/* no link: lost on the wire */
	p = kzalloc(struct_size(p, data, wqe->length), GFP_ATOMIC);
	if (!p)
		return IB_WC_SUCCESS;

	fill_addresses(p, d, qp, wqe);
	p->len = wqe->length;
	p->solicited = wqe->wr.send_flags & IB_SEND_SOLICITED;
	if (wqe->wr.opcode == IB_WR_SEND_WITH_IMM) {
		p->has_imm = true;
		p->imm = wqe->wr.ex.imm_data;
	}
	if (rdma_ah_get_ah_flags(ah) & IB_AH_GRH)
		fill_grh(p, d, ah);
	vhca_copy_from_wqe(wqe, 0, p->data, p->len);
	atomic64_inc(&d->tx_packets);
	atomic64_add(p->len, &d->tx_bytes);
	vhca_switch(p);
	kfree(p);
	return IB_WC_SUCCESS;
}
