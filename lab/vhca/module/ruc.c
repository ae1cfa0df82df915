// SPDX-License-Identifier: GPL-2.0
/*
 * RC and UC messages between ports of this kernel: memory copies from QP to QP.
 * Also what requests to other machines have in common with these: retries, and
 * what a refusal means to either side.
 */
#include "vhca.h"

#define UNREACHABLE_TIMER	24	/* RNR timer code: about 40 ms */
#define ENDLESS_RETRIES		7

/* One message on its way. */
struct message {
	struct rvt_qp *from, *to;
	struct rvt_swqe *wqe;
	struct rvt_sge_state local;	/* the sender's memory */
	struct ib_wc wc;		/* what the receiver is told, if it gave a receive */
};

/* ------------------------------------------ what refusals mean, both paths -- */

static bool is_rc(struct rvt_qp *qp)
{
	return qp->ibqp.qp_type == IB_QPT_RC;
}

/* The requester's completion status. */
enum ib_wc_status vhca_nak_status(enum vhca_ack nak)
{
	switch (nak) {
	case VHCA_ACK:
		return IB_WC_SUCCESS;
	case VHCA_NAK_RNR:
		return IB_WC_RNR_RETRY_EXC_ERR;
	case VHCA_NAK_INVALID:
		return IB_WC_REM_INV_REQ_ERR;
	case VHCA_NAK_ACCESS:
		return IB_WC_REM_ACCESS_ERR;
	case VHCA_NAK_OPERATION:
		return IB_WC_REM_OP_ERR;
	case VHCA_NAK_NO_QP:
		break;
	}
	return IB_WC_RETRY_EXC_ERR;
}

/* Put the responder's QP into error for a request it refused. r_lock held. */
void vhca_responder_error(struct rvt_qp *qp, enum vhca_ack nak)
{
	rvt_rc_error(qp, nak == VHCA_NAK_ACCESS ? IB_WC_LOC_PROT_ERR : IB_WC_LOC_QP_OP_ERR);
}

/* The receiver was not ready: again after its timer, or no more. */
enum ib_wc_status vhca_rnr_retry(struct rvt_qp *qp)
{
	if (!qp->s_rnr_retry)
		return IB_WC_RNR_RETRY_EXC_ERR;
	if (qp->s_rnr_retry_cnt < ENDLESS_RETRIES)
		qp->s_rnr_retry--;
	return VHCA_WAIT;
}

/* No peer, or not yet: what the transport timer would do. */
static enum ib_wc_status no_peer(struct rvt_qp *qp, u8 *timer)
{
	if (!is_rc(qp))
		return IB_WC_SUCCESS;
	if (!qp->s_retry)
		return IB_WC_RETRY_EXC_ERR;
	qp->s_retry--;
	*timer = UNREACHABLE_TIMER;
	return VHCA_WAIT;
}

/* The first message in tells a QP in RTR that its peer is there. r_lock held. */
void vhca_established(struct rvt_qp *qp, unsigned long *flags)
{
	if (qp->state != IB_QPS_RTR || (qp->r_flags & RVT_R_COMM_EST))
		return;
	spin_unlock_irqrestore(&qp->r_lock, *flags);
	rvt_comm_est(qp);
	spin_lock_irqsave(&qp->r_lock, *flags);
}

/* ------------------------------------------------ at the responder, r_lock -- */

static void copy_sges(struct rvt_qp *qp, struct rvt_sge_state *to, bool release_to,
		      struct rvt_sge_state *from, bool release_from, u32 len, bool last)
{
	while (len) {
		u32 n = rvt_get_sge_length(&from->sge, len);

		rvt_copy_sge(qp, to, from->sge.vaddr, n, release_to, last);
		rvt_update_sge(from, n, release_from);
		len -= n;
	}
}

static enum vhca_ack take_receive(struct rvt_qp *qp, bool wr_id_only)
{
	int ret = rvt_get_rwqe(qp, wr_id_only);

	return ret < 0 ? VHCA_NAK_OPERATION : ret ? VHCA_ACK : VHCA_NAK_RNR;
}

static enum vhca_ack do_send(struct message *m)
{
	struct ib_send_wr *wr = &m->wqe->wr;
	enum vhca_ack ack = take_receive(m->to, false);

	if (ack)
		return ack;
	if (m->wqe->length > m->to->r_len)
		return VHCA_NAK_INVALID;
	if (wr->opcode == IB_WR_SEND_WITH_IMM) {
		m->wc.wc_flags = IB_WC_WITH_IMM;
		m->wc.ex.imm_data = wr->ex.imm_data;
	} else if (wr->opcode == IB_WR_SEND_WITH_INV &&
		   !rvt_invalidate_rkey(m->to, wr->ex.invalidate_rkey)) {
		m->wc.wc_flags = IB_WC_WITH_INVALIDATE;
		m->wc.ex.invalidate_rkey = wr->ex.invalidate_rkey;
	}
	m->wc.opcode = IB_WC_RECV;
	copy_sges(m->to, &m->to->r_sge, true, &m->local, false, m->wqe->length, false);
	rvt_put_ss(&m->to->r_sge);
	return VHCA_ACK;
}

static void one_sge(struct rvt_sge_state *ss, u32 len)
{
	ss->sg_list = NULL;
	ss->num_sge = 1;
	ss->total_len = len;
}

static enum vhca_ack do_write(struct message *m)
{
	struct ib_rdma_wr *wr = &m->wqe->rdma_wr;
	struct rvt_sge_state remote;
	u32 len = m->wqe->length;
	enum vhca_ack ack;

	if (!(m->to->qp_access_flags & IB_ACCESS_REMOTE_WRITE))
		return VHCA_NAK_INVALID;
	if (m->wqe->wr.opcode == IB_WR_RDMA_WRITE_WITH_IMM) {
		m->wc.wc_flags = IB_WC_WITH_IMM;
		m->wc.ex.imm_data = m->wqe->wr.ex.imm_data;
		m->wc.opcode = IB_WC_RECV_RDMA_WITH_IMM;
		ack = take_receive(m->to, true);
		if (ack)
			return ack;
	}
	if (!len)
		return VHCA_ACK;
	one_sge(&remote, len);
	if (!rvt_rkey_ok(m->to, &remote.sge, len, wr->remote_addr, wr->rkey,
			 IB_ACCESS_REMOTE_WRITE))
		return VHCA_NAK_ACCESS;
	/* Pollers watch the last bytes of a user buffer: write them last. */
	copy_sges(m->to, &remote, true, &m->local, false, len, rvt_is_user_qp(m->to));
	return VHCA_ACK;
}

static enum vhca_ack do_read(struct message *m)
{
	struct ib_rdma_wr *wr = &m->wqe->rdma_wr;
	struct rvt_sge_state remote;
	u32 len = m->wqe->length;

	if (!(m->to->qp_access_flags & IB_ACCESS_REMOTE_READ))
		return VHCA_NAK_INVALID;
	if (!len)
		return VHCA_ACK;
	one_sge(&remote, len);
	if (!rvt_rkey_ok(m->to, &remote.sge, len, wr->remote_addr, wr->rkey,
			 IB_ACCESS_REMOTE_READ))
		return VHCA_NAK_ACCESS;
	copy_sges(m->from, &m->local, false, &remote, true, len, false);
	return VHCA_ACK;
}

static enum vhca_ack do_atomic(struct message *m)
{
	struct ib_atomic_wr *wr = &m->wqe->atomic_wr;
	struct rvt_sge_state remote;
	atomic64_t *target;
	u64 *result = m->local.sge.vaddr;

	if (!(m->to->qp_access_flags & IB_ACCESS_REMOTE_ATOMIC) || (wr->remote_addr & 7))
		return VHCA_NAK_INVALID;
	one_sge(&remote, sizeof(u64));
	if (!rvt_rkey_ok(m->to, &remote.sge, sizeof(u64), wr->remote_addr, wr->rkey,
			 IB_ACCESS_REMOTE_ATOMIC))
		return VHCA_NAK_ACCESS;
	target = (atomic64_t *)remote.sge.vaddr;
	if (m->wqe->wr.opcode == IB_WR_ATOMIC_FETCH_AND_ADD)
		*result = atomic64_fetch_add(wr->compare_add, target);
	else
		*result = atomic64_cmpxchg(target, wr->compare_add, wr->swap);
	rvt_put_mr(remote.sge.mr);
	return VHCA_ACK;
}

static enum vhca_ack execute(struct message *m)
{
	switch (m->wqe->wr.opcode) {
	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
		return do_write(m);
	case IB_WR_RDMA_READ:
		return do_read(m);
	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		return do_atomic(m);
	default:		/* the sends: qp.c lets nothing else through */
		return do_send(m);
	}
}

static void complete_receive(struct message *m)
{
	struct rvt_qp *qp = m->to;
	struct ib_wc *wc = &m->wc;

	if (!test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags))
		return;
	wc->wr_id = qp->r_wr_id;
	wc->status = IB_WC_SUCCESS;
	wc->byte_len = m->wqe->length;
	wc->qp = &qp->ibqp;
	wc->src_qp = qp->remote_qpn;
	wc->slid = qp_to_vhca(m->from)->lid;
	wc->sl = rdma_ah_get_sl(&m->from->remote_ah_attr);
	wc->port_num = 1;
	rvt_recv_cq(qp, wc, m->wqe->wr.send_flags & IB_SEND_SOLICITED);
}

/* --------------------------------------------------------- at the requester -- */

static enum ib_wc_status local_operation(struct rvt_qp *qp, struct rvt_swqe *wqe)
{
	enum ib_wc_status status = IB_WC_SUCCESS;

	if (wqe->wr.opcode == IB_WR_LOCAL_INV &&
	    !(wqe->wr.send_flags & RVT_SEND_COMPLETION_ONLY)) {
		if (rvt_invalidate_rkey(qp, wqe->wr.ex.invalidate_rkey))
			status = IB_WC_LOC_PROT_ERR;
		atomic_dec(&qp->local_ops_pending);
	}
	return status;			/* IB_WR_REG_MR: done when it was posted */
}

/* Is this QP the one that the sender is connected to? r_lock held. */
static bool connected(struct rvt_qp *to, struct rvt_qp *from)
{
	struct vhca_dev *near = qp_to_vhca(from), *far = qp_to_vhca(to);

	return (ib_rvt_state_ops[to->state] & RVT_PROCESS_RECV_OK) &&
	       to->ibqp.qp_type == from->ibqp.qp_type &&
	       to->remote_qpn == from->ibqp.qp_num &&
	       vhca_pkey_match(near->pkeys[from->s_pkey_index], far->pkeys[to->s_pkey_index]);
}

static void count(struct vhca_dev *near, struct vhca_dev *far, u32 len)
{
	atomic64_inc(&near->tx_packets);
	atomic64_add(len, &near->tx_bytes);
	atomic64_inc(&far->rx_packets);
	atomic64_add(len, &far->rx_bytes);
}

static enum ib_wc_status answered(struct rvt_qp *qp, enum vhca_ack ack)
{
	if (ack == VHCA_ACK) {
		qp->s_rnr_retry = qp->s_rnr_retry_cnt;
		qp->s_retry = qp->s_retry_cnt;
		return IB_WC_SUCCESS;
	}
	if (!is_rc(qp))
		return IB_WC_SUCCESS;		/* UC: lost, and nobody says so */
	return ack == VHCA_NAK_RNR ? vhca_rnr_retry(qp) : vhca_nak_status(ack);
}

static enum ib_wc_status send_here(struct rvt_qp *from, struct rvt_qp *to,
				   struct rvt_swqe *wqe, u8 *timer)
{
	struct message m = { .from = from, .to = to, .wqe = wqe };
	unsigned long flags;
	enum vhca_ack ack;

	spin_lock_irqsave(&to->r_lock, flags);
	if (!connected(to, from)) {
		spin_unlock_irqrestore(&to->r_lock, flags);
		return no_peer(from, timer);
	}
	vhca_established(to, &flags);
	vhca_wqe_sges(wqe, &m.local);
	ack = execute(&m);
	if (ack == VHCA_ACK) {
		count(qp_to_vhca(from), qp_to_vhca(to), wqe->length);
		complete_receive(&m);
	} else if (ack == VHCA_NAK_RNR) {
		*timer = to->r_min_rnr_timer;
	} else if (is_rc(from)) {
		vhca_responder_error(to, ack);
	}
	spin_unlock_irqrestore(&to->r_lock, flags);
	return answered(from, ack);
}

/* One attempt to send a message, wherever its destination is. */
enum ib_wc_status vhca_ruc_send(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer)
{
	struct vhca_dev *near = qp_to_vhca(qp), *far;
	struct rvt_qp *to = NULL;

	if (wqe->wr.opcode == IB_WR_REG_MR || wqe->wr.opcode == IB_WR_LOCAL_INV)
		return local_operation(qp, wqe);
	far = vhca_port_at(near->fabric, rdma_ah_get_dlid(&qp->remote_ah_attr));
	if (!far && vhca_link_on() && vhca_active(near))
		return vhca_link_ruc_send(qp, wqe, timer);
	if (far && vhca_active(far) && vhca_active(near))
		to = rvt_lookup_qpn(&far->rdi, &far->ibp, qp->remote_qpn);
	return to ? send_here(qp, to, wqe, timer) : no_peer(qp, timer);
}
