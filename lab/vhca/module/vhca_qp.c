// SPDX-License-Identifier: GPL-2.0
/*
 * Data path. rdmavt keeps the queues; this file is what a wire and a remote
 * HCA would be: it takes work requests off one QP and completes them on
 * another, whichever vhca port of this kernel the destination LID names.
 *
 * A UD message is first copied into a struct vhca_pkt, then switched, so that
 * multicast, the SA and (later) a link to another machine see one packet form.
 * RC and UC messages are memory copies from QP to QP.
 */
#include "vhca.h"
#include <linux/slab.h>

struct vhca_dev __rcu *vhca_lids[VHCA_MAX_LID];

static struct workqueue_struct *send_wq;

/* ------------------------------------------------------------ switching -- */

static struct vhca_dev *lid_dev(u16 lid)
{
	return lid < VHCA_MAX_LID ? rcu_dereference(vhca_lids[lid]) : NULL;
}

static int pkey_find(struct vhca_dev *d, u16 pkey)
{
	int i;

	for (i = 0; i < VHCA_NPKEYS; i++)
		if (vhca_pkey_match(d->pkeys[i], pkey))
			return i;
	return -1;
}

/* Hand a packet to one QP. Losing it is legal: this is UD. */
static void ud_deliver(struct vhca_dev *d, struct rvt_qp *qp, struct vhca_pkt *p)
{
	u32 qpn = qp->ibqp.qp_num;
	unsigned long flags;
	int pkey_idx = 0;
	struct ib_wc wc;
	int ret;

	if (qpn == 1)
		pkey_idx = pkey_find(d, p->pkey);
	else if (qpn > 1)
		pkey_idx = vhca_pkey_match(d->pkeys[qp->s_pkey_index], p->pkey) ?
			   qp->s_pkey_index : -1;
	if (pkey_idx < 0) {
		atomic64_inc(&d->pkey_drops);
		d->ibp.pkey_violations++;
		return;
	}

	spin_lock_irqsave(&qp->r_lock, flags);
	if (!(ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) ||
	    qp->allowed_ops != IB_OPCODE_UD)
		goto drop;
	if (qpn && p->qkey != (qpn == 1 ? IB_QP1_QKEY : qp->qkey)) {
		d->ibp.qkey_violations++;
		goto drop;
	}
	/* A receive taken for a packet that did not fit serves the next one. */
	if (qp->r_flags & RVT_R_REUSE_SGE) {
		qp->r_flags &= ~RVT_R_REUSE_SGE;
	} else {
		ret = rvt_get_rwqe(qp, false);
		if (ret < 0)
			rvt_rc_error(qp, IB_WC_LOC_QP_OP_ERR);
		if (ret <= 0)
			goto drop;
	}
	if (p->len + sizeof(p->grh) > qp->r_len) {
		qp->r_flags |= RVT_R_REUSE_SGE;
		goto drop;
	}
	/* The first 40 bytes of a UD receive belong to the GRH, sent or not. */
	if (p->has_grh)
		rvt_copy_sge(qp, &qp->r_sge, &p->grh, sizeof(p->grh), true, false);
	else
		rvt_skip_sge(&qp->r_sge, sizeof(p->grh), true);
	rvt_copy_sge(qp, &qp->r_sge, p->data, p->len, true, false);
	rvt_put_ss(&qp->r_sge);
	if (!test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags))
		goto out;

	memset(&wc, 0, sizeof(wc));
	wc.wr_id = qp->r_wr_id;
	wc.status = IB_WC_SUCCESS;
	wc.opcode = IB_WC_RECV;
	wc.qp = &qp->ibqp;
	wc.byte_len = p->len + sizeof(p->grh);
	wc.src_qp = p->src_qpn;
	wc.slid = p->slid;
	wc.sl = p->sl;
	wc.port_num = 1;
	wc.pkey_index = pkey_idx;
	if (p->has_grh)
		wc.wc_flags |= IB_WC_GRH;
	if (p->has_imm) {
		wc.wc_flags |= IB_WC_WITH_IMM;
		wc.ex.imm_data = p->imm;
	}
	atomic64_inc(&d->rx_pkts);
	atomic64_add(p->len, &d->rx_bytes);
	rvt_recv_cq(qp, &wc, p->solicited);
	goto out;
drop:
	atomic64_inc(&d->drops);
out:
	spin_unlock_irqrestore(&qp->r_lock, flags);
}

static void mc_deliver(struct vhca_dev *d, struct vhca_pkt *p)
{
	struct rvt_mcast *mc = rvt_mcast_find(&d->ibp, &p->grh.dgid, p->dlid);
	struct rvt_mcast_qp *m;

	if (!mc)
		return;
	list_for_each_entry_rcu(m, &mc->qp_list, list)
		ud_deliver(d, m->qp, p);
	if (atomic_dec_return(&mc->refcount) <= 1)
		wake_up(&mc->wait);
}

/* Deliver to the ports of this kernel. */
void vhca_switch_local(struct vhca_pkt *p)
{
	struct vhca_dev *d;
	struct rvt_qp *qp;
	int lid;

	if (p->dlid >= VHCA_MCAST_LID) {
		if (!p->has_grh)
			return;
		for (lid = 1; lid < VHCA_MAX_LID; lid++) {
			d = rcu_dereference(vhca_lids[lid]);
			if (d && vhca_active(d))
				mc_deliver(d, p);
		}
		return;
	}
	if (vhca_sm && p->dlid == vhca_sm_lid && p->dst_qpn <= 1) {
		vhca_sa_rx(p);
		return;
	}
	d = lid_dev(p->dlid);
	if (!d || (!vhca_active(d) && p->dst_qpn))
		return;
	qp = rvt_lookup_qpn(&d->rdi, &d->ibp, p->dst_qpn);
	if (qp)
		ud_deliver(d, qp, p);
}

void vhca_switch(struct vhca_pkt *p)
{
	if (p->dlid >= VHCA_MCAST_LID ||
	    !((vhca_sm && p->dlid == vhca_sm_lid) || lid_dev(p->dlid)))
		vhca_link_ud(p);
	vhca_switch_local(p);
}

/* --------------------------------------------------------------- UD send -- */

static enum ib_wc_status ud_send(struct rvt_qp *qp, struct rvt_swqe *wqe)
{
	struct rdma_ah_attr *ah = rvt_get_swqe_ah_attr(wqe);
	struct vhca_dev *d = qp_vdev(qp);
	struct rvt_sge_state ss;
	struct vhca_pkt *p;
	u32 left, n;
	u8 *to;

	if (wqe->length > VHCA_UD_MTU)
		return IB_WC_LOC_LEN_ERR;
	if (!vhca_active(d) && qp->ibqp.qp_num)
		return IB_WC_SUCCESS;		/* no link: lost on the wire */
	p = kzalloc(struct_size(p, data, wqe->length), GFP_ATOMIC);
	if (!p)
		return IB_WC_SUCCESS;

	p->slid = d->lid;
	p->dlid = rdma_ah_get_dlid(ah);
	p->sl = rdma_ah_get_sl(ah);
	p->src_qpn = qp->ibqp.qp_num;
	p->dst_qpn = rvt_get_swqe_remote_qpn(wqe);
	p->qkey = rvt_get_swqe_remote_qkey(wqe);
	if ((s32)p->qkey < 0)			/* privileged: the QP's own */
		p->qkey = qp->ibqp.qp_num > 1 ? qp->qkey : IB_QP1_QKEY;
	p->pkey = d->pkeys[qp->ibqp.qp_num == 1 ?
			   rvt_get_swqe_pkey_index(wqe) % VHCA_NPKEYS :
			   qp->s_pkey_index % VHCA_NPKEYS];
	p->solicited = wqe->wr.send_flags & IB_SEND_SOLICITED;
	if (wqe->wr.opcode == IB_WR_SEND_WITH_IMM) {
		p->has_imm = true;
		p->imm = wqe->wr.ex.imm_data;
	}
	if (rdma_ah_get_ah_flags(ah) & IB_AH_GRH) {
		const struct ib_global_route *g = rdma_ah_read_grh(ah);

		p->has_grh = true;
		p->grh.version_tclass_flow =
			cpu_to_be32(6u << 28 | g->traffic_class << 20 | g->flow_label);
		p->grh.paylen = cpu_to_be16(wqe->length + 12 + 8 + 4);
		p->grh.next_hdr = 0x1b;
		p->grh.hop_limit = g->hop_limit;
		p->grh.sgid.global.subnet_prefix = d->ibp.gid_prefix;
		p->grh.sgid.global.interface_id = cpu_to_be64(d->port_guid);
		p->grh.dgid = g->dgid;
	}

	/* Gather without releasing: the WQE keeps its MR references. */
	ss.sge = wqe->sg_list[0];
	ss.sg_list = wqe->sg_list + 1;
	ss.num_sge = wqe->wr.num_sge;
	to = p->data;
	for (left = p->len = wqe->length; left; left -= n, to += n) {
		n = rvt_get_sge_length(&ss.sge, left);
		memcpy(to, ss.sge.vaddr, n);
		rvt_update_sge(&ss, n, false);
	}
	atomic64_inc(&d->tx_pkts);
	atomic64_add(p->len, &d->tx_bytes);
	vhca_switch(p);
	kfree(p);
	return IB_WC_SUCCESS;
}

/* ----------------------------------------------------------- RC/UC send -- */

static void sge_move(struct rvt_qp *qp, struct rvt_sge_state *dst, bool rel_dst,
		     struct rvt_sge_state *src, bool rel_src, u32 len, bool last)
{
	while (len) {
		u32 n = rvt_get_sge_length(&src->sge, len);

		rvt_copy_sge(qp, dst, src->sge.vaddr, n, rel_dst, last);
		rvt_update_sge(src, n, rel_src);
		len -= n;
	}
}

/* Ask for another attempt after a while; the caller puts the timer on. */
static enum ib_wc_status try_again(u8 *budget, u8 max, u8 *timer, u8 wait,
				   enum ib_wc_status failed)
{
	if (!*budget)
		return failed;
	if (max < 7)
		--*budget;
	*timer = wait;
	return VHCA_WAIT;
}

static enum ib_wc_status ruc_send(struct rvt_qp *sqp, struct rvt_swqe *wqe, u8 *timer)
{
	bool rc = sqp->ibqp.qp_type == IB_QPT_RC;
	enum ib_wc_status st = IB_WC_SUCCESS, rst = IB_WC_LOC_QP_OP_ERR;
	struct vhca_dev *sd = qp_vdev(sqp), *d;
	struct rvt_sge_state local, remote;
	struct rvt_qp *qp = NULL;
	u32 len = wqe->length;
	unsigned long flags;
	struct ib_wc wc;
	atomic64_t *at;
	int ret;
	u8 dummy;

	/* Local operations need no peer. */
	if (wqe->wr.opcode == IB_WR_REG_MR)
		return IB_WC_SUCCESS;
	if (wqe->wr.opcode == IB_WR_LOCAL_INV) {
		if (!(wqe->wr.send_flags & RVT_SEND_COMPLETION_ONLY)) {
			if (rvt_invalidate_rkey(sqp, wqe->wr.ex.invalidate_rkey))
				st = IB_WC_LOC_PROT_ERR;
			atomic_dec(&sqp->local_ops_pending);
		}
		return st;
	}

	d = lid_dev(rdma_ah_get_dlid(&sqp->remote_ah_attr));
	if (!d && vhca_link_on() && vhca_active(sd))
		return vhca_link_ruc(sqp, wqe, timer);
	if (d && vhca_active(d) && vhca_active(sd))
		qp = rvt_lookup_qpn(&d->rdi, &d->ibp, sqp->remote_qpn);
	if (!qp)
		goto unreachable;
	spin_lock_irqsave(&qp->r_lock, flags);
	if (!(ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) ||
	    qp->ibqp.qp_type != sqp->ibqp.qp_type ||
	    qp->remote_qpn != sqp->ibqp.qp_num ||
	    !vhca_pkey_match(sd->pkeys[sqp->s_pkey_index], d->pkeys[qp->s_pkey_index])) {
		spin_unlock_irqrestore(&qp->r_lock, flags);
		goto unreachable;
	}

	if (qp->state == IB_QPS_RTR && !(qp->r_flags & RVT_R_COMM_EST)) {
		spin_unlock_irqrestore(&qp->r_lock, flags);
		rvt_comm_est(qp);
		spin_lock_irqsave(&qp->r_lock, flags);
	}

	memset(&wc, 0, sizeof(wc));
	local.sge = wqe->sg_list[0];
	local.sg_list = wqe->sg_list + 1;
	local.num_sge = wqe->wr.num_sge;
	local.total_len = len;
	remote.sg_list = NULL;
	remote.num_sge = 1;
	remote.total_len = len;

	switch (wqe->wr.opcode) {
	case IB_WR_SEND:
	case IB_WR_SEND_WITH_IMM:
	case IB_WR_SEND_WITH_INV:
		ret = rvt_get_rwqe(qp, false);
		if (ret < 0)
			goto rem_op;
		if (!ret)
			goto rnr;
		if (len > qp->r_len)
			goto inv_req;
		if (wqe->wr.opcode == IB_WR_SEND_WITH_IMM) {
			wc.wc_flags = IB_WC_WITH_IMM;
			wc.ex.imm_data = wqe->wr.ex.imm_data;
		} else if (wqe->wr.opcode == IB_WR_SEND_WITH_INV &&
			   !rvt_invalidate_rkey(qp, wqe->wr.ex.invalidate_rkey)) {
			wc.wc_flags = IB_WC_WITH_INVALIDATE;
			wc.ex.invalidate_rkey = wqe->wr.ex.invalidate_rkey;
		}
		wc.opcode = IB_WC_RECV;
		sge_move(qp, &qp->r_sge, true, &local, false, len, false);
		rvt_put_ss(&qp->r_sge);
		break;

	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_WRITE))
			goto inv_req;
		if (wqe->wr.opcode == IB_WR_RDMA_WRITE_WITH_IMM) {
			wc.wc_flags = IB_WC_WITH_IMM;
			wc.ex.imm_data = wqe->wr.ex.imm_data;
			wc.opcode = IB_WC_RECV_RDMA_WITH_IMM;
			ret = rvt_get_rwqe(qp, true);
			if (ret < 0)
				goto rem_op;
			if (!ret)
				goto rnr;
		}
		if (!len)
			break;
		if (!rvt_rkey_ok(qp, &remote.sge, len, wqe->rdma_wr.remote_addr,
				 wqe->rdma_wr.rkey, IB_ACCESS_REMOTE_WRITE))
			goto access;
		/* Pollers watch the last bytes of a user buffer: write them last. */
		sge_move(qp, &remote, true, &local, false, len, rvt_is_user_qp(qp));
		break;

	case IB_WR_RDMA_READ:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_READ))
			goto inv_req;
		if (!len)
			break;
		if (!rvt_rkey_ok(qp, &remote.sge, len, wqe->rdma_wr.remote_addr,
				 wqe->rdma_wr.rkey, IB_ACCESS_REMOTE_READ))
			goto access;
		sge_move(sqp, &local, false, &remote, true, len, false);
		break;

	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_ATOMIC) ||
		    (wqe->atomic_wr.remote_addr & 7))
			goto inv_req;
		if (!rvt_rkey_ok(qp, &remote.sge, sizeof(u64),
				 wqe->atomic_wr.remote_addr, wqe->atomic_wr.rkey,
				 IB_ACCESS_REMOTE_ATOMIC))
			goto access;
		at = (atomic64_t *)remote.sge.vaddr;
		*(u64 *)local.sge.vaddr =
			wqe->wr.opcode == IB_WR_ATOMIC_FETCH_AND_ADD ?
			atomic64_fetch_add(wqe->atomic_wr.compare_add, at) :
			atomic64_cmpxchg(at, wqe->atomic_wr.compare_add,
					 wqe->atomic_wr.swap);
		rvt_put_mr(remote.sge.mr);
		break;

	default:
		spin_unlock_irqrestore(&qp->r_lock, flags);
		return IB_WC_LOC_QP_OP_ERR;
	}

	atomic64_inc(&sd->tx_pkts);
	atomic64_add(len, &sd->tx_bytes);
	atomic64_inc(&d->rx_pkts);
	atomic64_add(len, &d->rx_bytes);
	if (test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags)) {
		wc.wr_id = qp->r_wr_id;
		wc.status = IB_WC_SUCCESS;
		wc.byte_len = len;
		wc.qp = &qp->ibqp;
		wc.src_qp = qp->remote_qpn;
		wc.slid = sd->lid;
		wc.sl = rdma_ah_get_sl(&sqp->remote_ah_attr);
		wc.port_num = 1;
		rvt_recv_cq(qp, &wc, wqe->wr.send_flags & IB_SEND_SOLICITED);
	}
	spin_unlock_irqrestore(&qp->r_lock, flags);
	sqp->s_rnr_retry = sqp->s_rnr_retry_cnt;
	sqp->s_retry = sqp->s_retry_cnt;
	return IB_WC_SUCCESS;

rnr:
	*timer = qp->r_min_rnr_timer;
	spin_unlock_irqrestore(&qp->r_lock, flags);
	if (!rc)
		return IB_WC_SUCCESS;
	return try_again(&sqp->s_rnr_retry, sqp->s_rnr_retry_cnt, &dummy, 0,
			 IB_WC_RNR_RETRY_EXC_ERR);
unreachable:
	/* No peer (yet): what the transport timer would do, ~40 ms a try. */
	if (!rc)
		return IB_WC_SUCCESS;
	return try_again(&sqp->s_retry, 0, timer, 24, IB_WC_RETRY_EXC_ERR);
rem_op:
	st = IB_WC_REM_OP_ERR;
	goto rem_err;
inv_req:
	st = rc ? IB_WC_REM_INV_REQ_ERR : IB_WC_SUCCESS;
	goto rem_err;
access:
	st = rc ? IB_WC_REM_ACCESS_ERR : IB_WC_SUCCESS;
	rst = IB_WC_LOC_PROT_ERR;
rem_err:
	if (rc)
		rvt_rc_error(qp, rst);
	spin_unlock_irqrestore(&qp->r_lock, flags);
	return st;
}

/* ---------------------------------------------------------- send engine -- */

static void last_wqe_event(struct rvt_qp *qp)
{
	struct ib_event ev = {
		.device = qp->ibqp.device,
		.element.qp = &qp->ibqp,
		.event = IB_EVENT_QP_LAST_WQE_REACHED,
	};

	if (qp->ibqp.event_handler)
		qp->ibqp.event_handler(&ev, qp->ibqp.qp_context);
}

/*
 * Run a QP's send queue dry. RVT_S_BUSY makes this single threaded per QP;
 * both QP locks are dropped while a message is being delivered.
 */
static void do_send(struct rvt_qp *qp)
{
	bool ud = qp->allowed_ops == IB_OPCODE_UD, last = false;
	enum ib_wc_status st;
	struct rvt_swqe *wqe;
	unsigned long flags;
	u8 timer = 0;

	rcu_read_lock();
	spin_lock_irqsave(&qp->r_lock, flags);
	spin_lock(&qp->s_lock);
	if ((qp->s_flags & (RVT_S_BUSY | RVT_S_ANY_WAIT)) ||
	    !(ib_rvt_state_ops[qp->state] & RVT_PROCESS_OR_FLUSH_SEND))
		goto out;
	qp->s_flags |= RVT_S_BUSY;
	while (qp->s_last != smp_load_acquire(&qp->s_head)) {
		wqe = rvt_get_swqe_ptr(qp, qp->s_last);
		if (ib_rvt_state_ops[qp->state] & RVT_PROCESS_NEXT_SEND_OK) {
			if (qp->s_last == qp->s_cur)
				qp->s_cur = rvt_qp_swqe_incr(qp, qp->s_cur);
			spin_unlock(&qp->s_lock);
			spin_unlock_irqrestore(&qp->r_lock, flags);
			st = ud ? ud_send(qp, wqe) : ruc_send(qp, wqe, &timer);
			spin_lock_irqsave(&qp->r_lock, flags);
			spin_lock(&qp->s_lock);
			if (st == VHCA_PENDING) {
				struct vhca_qp *q = qp->priv;

				if (q->state == Q_REPLIED ||
				    !(ib_rvt_state_ops[qp->state] & RVT_PROCESS_NEXT_SEND_OK))
					continue;	/* already, or flush */
				qp->s_flags |= RVT_S_WAIT_ACK;
				break;
			}
			if (st == VHCA_WAIT) {
				if (ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) {
					rvt_add_rnr_timer(qp, timer << 24);
					break;
				}
				continue;	/* flushed meanwhile */
			}
		} else if (ib_rvt_state_ops[qp->state] & RVT_FLUSH_SEND) {
			st = IB_WC_WR_FLUSH_ERR;
		} else {
			break;
		}
		if (!(ib_rvt_state_ops[qp->state] & RVT_PROCESS_OR_FLUSH_SEND))
			break;			/* reset meanwhile */
		rvt_send_complete(qp, wqe, st);
		if (st != IB_WC_SUCCESS && st != IB_WC_WR_FLUSH_ERR && !ud)
			last |= rvt_error_qp(qp, IB_WC_WR_FLUSH_ERR);
	}
	qp->s_flags &= ~RVT_S_BUSY;
out:
	spin_unlock(&qp->s_lock);
	spin_unlock_irqrestore(&qp->r_lock, flags);
	if (last)
		last_wqe_event(qp);
	rcu_read_unlock();
}

static void send_work(struct work_struct *w)
{
	do_send(container_of(w, struct vhca_qp, work)->qp);
}

static void rto_work(struct work_struct *w)	/* no answer over the link */
{
	struct vhca_qp *q = container_of(to_delayed_work(w), struct vhca_qp, rto);
	unsigned long flags;

	spin_lock_irqsave(&q->qp->s_lock, flags);
	q->qp->s_flags &= ~RVT_S_WAIT_ACK;
	spin_unlock_irqrestore(&q->qp->s_lock, flags);
	do_send(q->qp);
}

static bool schedule_send(struct rvt_qp *qp)
{
	struct vhca_qp *priv = qp->priv;

	return queue_work(send_wq, &priv->work);
}

static void *qp_priv_alloc(struct rvt_dev_info *rdi, struct rvt_qp *qp)
{
	struct vhca_qp *priv = kzalloc(sizeof(*priv), GFP_KERNEL);

	if (!priv)
		return ERR_PTR(-ENOMEM);
	priv->qp = qp;
	INIT_WORK(&priv->work, send_work);
	INIT_DELAYED_WORK(&priv->rto, rto_work);
	return priv;
}

static void qp_priv_free(struct rvt_dev_info *rdi, struct rvt_qp *qp)
{
	struct vhca_qp *priv = qp->priv;

	if (!priv)
		return;
	cancel_delayed_work_sync(&priv->rto);
	kfree(priv->reply);
	kfree(priv);
	qp->priv = NULL;
}

static void qp_stop(struct rvt_qp *qp)
{
	struct vhca_qp *priv = qp->priv;

	cancel_delayed_work_sync(&priv->rto);
	cancel_work_sync(&priv->work);
}

/* After RESET neither side remembers messages of before. */
static void qp_forget(struct rvt_qp *qp)
{
	struct vhca_qp *q = qp->priv;

	q->state = Q_IDLE;
	q->seq = 0;
	q->r_done = false;
}

static void qp_nop(struct rvt_qp *qp) {}
static void qp_restart_nop(struct rvt_qp *qp, u32 psn, int wait) {}
static unsigned int qp_free_all(struct rvt_dev_info *rdi) { return 0; }

static int pmtu_from_attr(struct rvt_dev_info *rdi, struct rvt_qp *qp,
			  struct ib_qp_attr *attr)
{
	return attr->path_mtu;
}

static u32 mtu_from_qp(struct rvt_dev_info *rdi, struct rvt_qp *qp, u32 pmtu)
{
	return ib_mtu_enum_to_int(pmtu);
}

static int mtu_to_path_mtu(u32 mtu)
{
	return ib_mtu_int_to_enum(mtu);
}

static void notify_new_ah(struct ib_device *ibdev, struct rdma_ah_attr *attr,
			  struct rvt_ah *ah)
{
	ah->log_pmtu = 12;
}

/*
 * rdmavt would never give QP0 and QP1 back, and then a device moved to
 * another netns (which makes ib_core open its MAD ports anew) has none. Number
 * QPs here instead, out of the first bitmap page, which rdmavt clears for us
 * when a QP goes away, whatever its number.
 */
static int alloc_qpn(struct rvt_dev_info *rdi, struct rvt_qpn_table *qpt,
		     enum ib_qp_type type, u32 port)
{
	unsigned long *map = qpt->map[0].page;
	u32 n, tries;

	if (type == IB_QPT_SMI || type == IB_QPT_GSI) {
		n = type == IB_QPT_GSI;
		return test_and_set_bit(n, map) ? -EINVAL : n;
	}
	spin_lock(&qpt->lock);
	n = qpt->last;
	for (tries = 0; tries < RVT_BITS_PER_PAGE; tries++) {
		if (++n >= RVT_BITS_PER_PAGE)
			n = 2;
		if (!test_and_set_bit(n, map)) {
			qpt->last = n;
			spin_unlock(&qpt->lock);
			return n;
		}
	}
	spin_unlock(&qpt->lock);
	return -ENOMEM;
}

static int comp_cpu(struct rvt_dev_info *rdi, int vec)
{
	return cpumask_local_spread(vec, NUMA_NO_NODE);
}

#define ALL_QPT (BIT(IB_QPT_UD) | BIT(IB_QPT_SMI) | BIT(IB_QPT_GSI) | \
		 BIT(IB_QPT_UC) | BIT(IB_QPT_RC))

static const struct rvt_operation_params post_parms[RVT_OPERATION_MAX] = {
	[IB_WR_SEND] = { sizeof(struct ib_send_wr), ALL_QPT },
	[IB_WR_SEND_WITH_IMM] = { sizeof(struct ib_send_wr), ALL_QPT },
	[IB_WR_SEND_WITH_INV] = { sizeof(struct ib_send_wr), BIT(IB_QPT_RC) },
	[IB_WR_RDMA_WRITE] = { sizeof(struct ib_rdma_wr),
			       BIT(IB_QPT_UC) | BIT(IB_QPT_RC) },
	[IB_WR_RDMA_WRITE_WITH_IMM] = { sizeof(struct ib_rdma_wr),
					BIT(IB_QPT_UC) | BIT(IB_QPT_RC) },
	[IB_WR_RDMA_READ] = { sizeof(struct ib_rdma_wr), BIT(IB_QPT_RC),
			      RVT_OPERATION_ATOMIC },
	[IB_WR_ATOMIC_CMP_AND_SWP] = { sizeof(struct ib_atomic_wr), BIT(IB_QPT_RC),
			RVT_OPERATION_ATOMIC | RVT_OPERATION_ATOMIC_SGE },
	[IB_WR_ATOMIC_FETCH_AND_ADD] = { sizeof(struct ib_atomic_wr), BIT(IB_QPT_RC),
			RVT_OPERATION_ATOMIC | RVT_OPERATION_ATOMIC_SGE },
	[IB_WR_LOCAL_INV] = { sizeof(struct ib_send_wr),
			      BIT(IB_QPT_UC) | BIT(IB_QPT_RC), RVT_OPERATION_LOCAL },
	[IB_WR_REG_MR] = { sizeof(struct ib_reg_wr),
			   BIT(IB_QPT_UC) | BIT(IB_QPT_RC), RVT_OPERATION_LOCAL },
};

/* Not exported by rdmavt although its header declares one. */
static const enum ib_wc_opcode wc_opcode[RVT_OPERATION_MAX] = {
	[IB_WR_RDMA_WRITE] = IB_WC_RDMA_WRITE,
	[IB_WR_RDMA_WRITE_WITH_IMM] = IB_WC_RDMA_WRITE,
	[IB_WR_SEND] = IB_WC_SEND,
	[IB_WR_SEND_WITH_IMM] = IB_WC_SEND,
	[IB_WR_RDMA_READ] = IB_WC_RDMA_READ,
	[IB_WR_ATOMIC_CMP_AND_SWP] = IB_WC_COMP_SWAP,
	[IB_WR_ATOMIC_FETCH_AND_ADD] = IB_WC_FETCH_ADD,
	[IB_WR_SEND_WITH_INV] = IB_WC_SEND,
	[IB_WR_LOCAL_INV] = IB_WC_LOCAL_INV,
	[IB_WR_REG_MR] = IB_WC_REG_MR,
};

void vhca_qp_set_ops(struct rvt_dev_info *rdi)
{
	struct rvt_driver_provided *f = &rdi->driver_f;

	rdi->post_parms = post_parms;
	rdi->wc_opcode = wc_opcode;
	f->schedule_send = schedule_send;
	f->schedule_send_no_lock = schedule_send;
	f->do_send = do_send;
	f->qp_priv_alloc = qp_priv_alloc;
	f->qp_priv_free = qp_priv_free;
	f->free_all_qps = qp_free_all;
	f->notify_qp_reset = qp_forget;
	f->notify_restart_rc = qp_restart_nop;
	f->notify_error_qp = qp_nop;
	f->flush_qp_waiters = qp_nop;
	f->stop_send_queue = qp_stop;
	f->quiesce_qp = qp_stop;
	f->get_pmtu_from_attr = pmtu_from_attr;
	f->mtu_from_qp = mtu_from_qp;
	f->mtu_to_path_mtu = mtu_to_path_mtu;
	f->notify_new_ah = notify_new_ah;
	f->comp_vect_cpu_lookup = comp_cpu;
	f->alloc_qpn = alloc_qpn;
}

int vhca_qp_init(void)
{
	send_wq = alloc_workqueue("vhca_send", WQ_MEM_RECLAIM, 0);
	return send_wq ? 0 : -ENOMEM;
}

void vhca_qp_exit(void)
{
	destroy_workqueue(send_wq);
}
