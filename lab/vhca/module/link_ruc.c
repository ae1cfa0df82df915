// SPDX-License-Identifier: GPL-2.0
/*
 * RC and UC messages to and from other machines. A message travels one segment
 * at a time, each answered before the next is sent and repeated when no answer
 * comes; a request seen before is answered again, not done again.
 */
#include "link.h"
#include <linux/slab.h>

#define ANSWER_TIMEOUT_MS	200
#define TRIES			75	/* 15 s: machines may be slow */

static bool is_atomic(u32 op)
{
	return op == IB_WR_ATOMIC_CMP_AND_SWP || op == IB_WR_ATOMIC_FETCH_AND_ADD;
}

static bool is_send(u32 op)
{
	return op == IB_WR_SEND || op == IB_WR_SEND_WITH_IMM || op == IB_WR_SEND_WITH_INV;
}

/* Data of these travels with the answer, of all others with the request. */
static bool data_comes_back(u32 op)
{
	return op == IB_WR_RDMA_READ || is_atomic(op);
}

/* ------------------------------------------------------------- requester -- */

static void fill_remote_address(struct link_header *h, struct rvt_swqe *wqe, u32 offset)
{
	u32 op = wqe->wr.opcode;

	if (is_atomic(op)) {
		h->address = cpu_to_be64(wqe->atomic_wr.remote_addr);
		h->key = cpu_to_be32(wqe->atomic_wr.rkey);
		h->compare_add = cpu_to_be64(wqe->atomic_wr.compare_add);
		h->swap = cpu_to_be64(wqe->atomic_wr.swap);
	} else if (!is_send(op)) {
		h->address = cpu_to_be64(wqe->rdma_wr.remote_addr + offset);
		h->key = cpu_to_be32(wqe->rdma_wr.rkey);
	}
}

static void send_request(struct rvt_qp *qp, struct rvt_swqe *wqe)
{
	u32 room = vhca_link_netdev()->mtu - sizeof(struct link_header);
	struct vhca_dev *d = qp_to_vhca(qp);
	struct vhca_qp *q = qp->priv;
	u32 op = wqe->wr.opcode;
	u32 segment = min3(wqe->length - q->offset, room, (u32)LINK_SEGMENT_MAX);
	struct link_header *h;
	struct sk_buff *skb;
	u8 *data;

	h = vhca_link_frame(FRAME_REQUEST, data_comes_back(op) ? 0 : segment, &skb, &data);
	if (!h)
		return;			/* as if lost */
	h->op = op;
	h->uc = qp->ibqp.qp_type == IB_QPT_UC;
	h->fabric = d->fabric;
	h->slid = cpu_to_be16(d->lid);
	h->dlid = cpu_to_be16(rdma_ah_get_dlid(&qp->remote_ah_attr));
	h->sl = rdma_ah_get_sl(&qp->remote_ah_attr);
	h->pkey = cpu_to_be16(d->pkeys[qp->s_pkey_index]);
	h->src_qpn = cpu_to_be32(qp->ibqp.qp_num);
	h->dst_qpn = cpu_to_be32(qp->remote_qpn);
	h->seq = cpu_to_be32(q->seq);
	h->offset = cpu_to_be32(q->offset);
	h->total = cpu_to_be32(wqe->length);
	h->segment = cpu_to_be32(segment);
	h->solicited = !!(wqe->wr.send_flags & IB_SEND_SOLICITED);
	h->imm = wqe->wr.ex.imm_data;	/* or the R_Key to invalidate */
	fill_remote_address(h, wqe, q->offset);
	if (!data_comes_back(op))
		vhca_copy_from_wqe(wqe, q->offset, data, segment);
	q->segment = segment;
	vhca_link_send(skb);
}

/* A segment was done at the other side. Returns whether the message is complete. */
static bool segment_done(struct rvt_qp *qp, struct rvt_swqe *wqe)
{
	struct vhca_qp *q = qp->priv;
	struct rvt_sge_state ss;

	if (q->answer_data && q->answer_len) {
		vhca_wqe_sges(wqe, &ss);
		rvt_skip_sge(&ss, q->offset, false);
		rvt_copy_sge(qp, &ss, q->answer_data, q->answer_len, false, false);
	}
	kfree(q->answer_data);
	q->answer_data = NULL;
	q->offset += q->segment;
	q->tries = TRIES;
	qp->s_rnr_retry = qp->s_rnr_retry_cnt;
	return q->offset >= wqe->length;
}

static enum ib_wc_status finish(struct rvt_qp *qp, enum ib_wc_status status)
{
	struct vhca_qp *q = qp->priv;

	q->state = REQUEST_IDLE;
	return qp->ibqp.qp_type == IB_QPT_RC ? status : IB_WC_SUCCESS;
}

static void await_answer(struct vhca_qp *q)
{
	mod_delayed_work(system_wq, &q->answer_timeout, msecs_to_jiffies(ANSWER_TIMEOUT_MS));
}

/*
 * One step of a message to another machine. VHCA_PENDING: an answer or the
 * timeout will call again; VHCA_WAIT: call again after the RNR timer.
 */
enum ib_wc_status vhca_link_ruc_send(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer)
{
	struct vhca_qp *q = qp->priv;

	switch (q->state) {
	case REQUEST_IDLE:
		q->seq++;
		q->offset = 0;
		q->tries = TRIES;
		break;
	case REQUEST_SEND:		/* again after the RNR timer */
		break;
	case REQUEST_WAITING:		/* nobody answered */
		if (!--q->tries)
			return finish(qp, IB_WC_RETRY_EXC_ERR);
		break;
	case REQUEST_ANSWERED:
		if (q->answer == VHCA_NAK_RNR) {
			enum ib_wc_status status = vhca_rnr_retry(qp);

			if (status != VHCA_WAIT)
				return finish(qp, status);
			*timer = q->answer_rnr_timer;
			q->state = REQUEST_SEND;
			return VHCA_WAIT;
		}
		if (q->answer != VHCA_ACK)
			return finish(qp, vhca_nak_status(q->answer));
		if (segment_done(qp, wqe))
			return finish(qp, IB_WC_SUCCESS);
		break;
	}
	/* An answer can come before send_request() is back: so the state first. */
	q->state = REQUEST_WAITING;
	send_request(qp, wqe);
	await_answer(q);
	return VHCA_PENDING;
}

/* Keep an answer for the send engine. s_lock held. Returns whether it was kept. */
static bool keep_answer(struct vhca_qp *q, struct link_header *h, u8 *data, u32 len)
{
	u32 n = be32_to_cpu(h->segment);

	if (q->state != REQUEST_WAITING || q->seq != be32_to_cpu(h->seq) ||
	    q->offset != be32_to_cpu(h->offset) || n > len)
		return false;
	if (h->status == VHCA_NAK_NO_QP)	/* or not yet: let the timeout run */
		return false;
	kfree(q->answer_data);
	q->answer_data = n ? kmemdup(data, n, GFP_ATOMIC) : NULL;
	if (n && !q->answer_data)
		return false;
	q->answer = h->status;
	q->answer_rnr_timer = h->rnr_timer;
	q->answer_len = n;
	q->state = REQUEST_ANSWERED;
	return true;
}

void vhca_link_answer(struct link_header *h, u8 *data, u32 len)
{
	struct vhca_dev *d;
	unsigned long flags;
	struct rvt_qp *qp;
	struct vhca_qp *q;

	rcu_read_lock();
	d = vhca_port_at(h->fabric, be16_to_cpu(h->dlid));
	qp = d ? rvt_lookup_qpn(&d->rdi, &d->ibp, be32_to_cpu(h->dst_qpn)) : NULL;
	if (qp && qp->allowed_ops != IB_OPCODE_UD) {
		q = qp->priv;
		spin_lock_irqsave(&qp->s_lock, flags);
		if (keep_answer(q, h, data, len)) {
			cancel_delayed_work(&q->answer_timeout);
			qp->s_flags &= ~RVT_S_WAIT_ACK;
			d->rdi.driver_f.schedule_send(qp);
		}
		spin_unlock_irqrestore(&qp->s_lock, flags);
	}
	rcu_read_unlock();
}

/* --------------------------------------------------- responder, r_lock held -- */

/* A request segment in the host's byte order, and where its answer goes. */
struct request {
	struct rvt_qp *qp;
	struct link_header *h;
	u8 *data;		/* of a request that brings some */
	u8 *out;		/* room for what goes back */
	u32 out_len;
	u32 op, offset, segment, total, key;
	u64 address;
};

static bool last_segment(struct request *r)
{
	return r->offset + r->segment >= r->total;
}

static enum vhca_ack take_receive(struct rvt_qp *qp, bool wr_id_only)
{
	int ret = rvt_get_rwqe(qp, wr_id_only);

	return ret < 0 ? VHCA_NAK_OPERATION : ret ? VHCA_ACK : VHCA_NAK_RNR;
}

static void complete_receive(struct request *r, enum ib_wc_opcode opcode, int flags)
{
	struct rvt_qp *qp = r->qp;
	struct ib_wc wc = {
		.wr_id = qp->r_wr_id,
		.status = IB_WC_SUCCESS,
		.opcode = opcode,
		.byte_len = r->total,
		.qp = &qp->ibqp,
		.src_qp = qp->remote_qpn,
		.slid = be16_to_cpu(r->h->slid),
		.sl = r->h->sl,
		.port_num = 1,
		.wc_flags = flags,
		.ex.imm_data = r->h->imm,
	};

	if (test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags))
		rvt_recv_cq(qp, &wc, r->h->solicited);
}

static enum vhca_ack do_send(struct request *r)
{
	enum vhca_ack ack;
	int flags = 0;

	if (!r->offset) {
		ack = take_receive(r->qp, false);
		if (ack)
			return ack;
		if (r->total > r->qp->r_len)
			return VHCA_NAK_INVALID;
	}
	rvt_copy_sge(r->qp, &r->qp->r_sge, r->data, r->segment, true, false);
	if (!last_segment(r))
		return VHCA_ACK;
	rvt_put_ss(&r->qp->r_sge);
	if (r->op == IB_WR_SEND_WITH_IMM)
		flags = IB_WC_WITH_IMM;
	else if (r->op == IB_WR_SEND_WITH_INV &&
		 !rvt_invalidate_rkey(r->qp, (__force u32)r->h->imm))
		flags = IB_WC_WITH_INVALIDATE;
	complete_receive(r, IB_WC_RECV, flags);
	return VHCA_ACK;
}

static enum vhca_ack do_write(struct request *r)
{
	struct rvt_sge_state ss = { .num_sge = 1, .total_len = r->segment };
	bool wants_receive = r->op == IB_WR_RDMA_WRITE_WITH_IMM && last_segment(r);
	enum vhca_ack ack;

	if (!(r->qp->qp_access_flags & IB_ACCESS_REMOTE_WRITE))
		return VHCA_NAK_INVALID;
	if (wants_receive) {
		ack = take_receive(r->qp, true);
		if (ack)
			return ack;
	}
	if (r->segment) {
		if (!rvt_rkey_ok(r->qp, &ss.sge, r->segment, r->address, r->key,
				 IB_ACCESS_REMOTE_WRITE))
			return VHCA_NAK_ACCESS;
		rvt_copy_sge(r->qp, &ss, r->data, r->segment, true, rvt_is_user_qp(r->qp));
	}
	if (wants_receive)
		complete_receive(r, IB_WC_RECV_RDMA_WITH_IMM, IB_WC_WITH_IMM);
	return VHCA_ACK;
}

static enum vhca_ack do_read(struct request *r)
{
	struct rvt_sge_state ss = { .num_sge = 1, .total_len = r->segment };
	u32 left, n;
	u8 *to = r->out;

	if (!(r->qp->qp_access_flags & IB_ACCESS_REMOTE_READ))
		return VHCA_NAK_INVALID;
	if (r->segment && !rvt_rkey_ok(r->qp, &ss.sge, r->segment, r->address, r->key,
				       IB_ACCESS_REMOTE_READ))
		return VHCA_NAK_ACCESS;
	for (left = r->segment; left; left -= n, to += n) {
		n = rvt_get_sge_length(&ss.sge, left);
		memcpy(to, ss.sge.vaddr, n);
		rvt_update_sge(&ss, n, true);
	}
	r->out_len = r->segment;
	return VHCA_ACK;
}

static enum vhca_ack do_atomic(struct request *r)
{
	u64 compare_add = be64_to_cpu(r->h->compare_add), old;
	struct rvt_sge_state ss = { .num_sge = 1 };
	atomic64_t *target;

	if (!(r->qp->qp_access_flags & IB_ACCESS_REMOTE_ATOMIC) || (r->address & 7))
		return VHCA_NAK_INVALID;
	if (!rvt_rkey_ok(r->qp, &ss.sge, sizeof(u64), r->address, r->key,
			 IB_ACCESS_REMOTE_ATOMIC))
		return VHCA_NAK_ACCESS;
	target = (atomic64_t *)ss.sge.vaddr;
	if (r->op == IB_WR_ATOMIC_FETCH_AND_ADD)
		old = atomic64_fetch_add(compare_add, target);
	else
		old = atomic64_cmpxchg(target, compare_add, be64_to_cpu(r->h->swap));
	rvt_put_mr(ss.sge.mr);
	memcpy(r->out, &old, sizeof(old));
	r->out_len = sizeof(old);
	return VHCA_ACK;
}

static enum vhca_ack execute(struct request *r)
{
	if (is_send(r->op))
		return do_send(r);
	if (r->op == IB_WR_RDMA_WRITE || r->op == IB_WR_RDMA_WRITE_WITH_IMM)
		return do_write(r);
	if (r->op == IB_WR_RDMA_READ)
		return do_read(r);
	if (is_atomic(r->op))
		return do_atomic(r);
	return VHCA_NAK_INVALID;
}

/* Is this QP the one that the sender is connected to? */
static bool connected(struct request *r)
{
	struct rvt_qp *qp = r->qp;

	return (ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) &&
	       qp->ibqp.qp_type == (r->h->uc ? IB_QPT_UC : IB_QPT_RC) &&
	       qp->remote_qpn == be32_to_cpu(r->h->src_qpn) &&
	       vhca_pkey_match(qp_to_vhca(qp)->pkeys[qp->s_pkey_index],
			       be16_to_cpu(r->h->pkey));
}

/* Done already, and the answer got lost. A READ may as well be done again. */
static bool repeated(struct request *r)
{
	struct vhca_qp *q = r->qp->priv;

	return q->done && q->done_seq == be32_to_cpu(r->h->seq) &&
	       q->done_offset == r->offset && r->op != IB_WR_RDMA_READ;
}

static void remember(struct request *r)
{
	struct vhca_qp *q = r->qp->priv;

	q->done = true;
	q->done_seq = be32_to_cpu(r->h->seq);
	q->done_offset = r->offset;
	q->done_len = is_atomic(r->op) ? r->out_len : 0;
	if (q->done_len)
		memcpy(&q->done_atomic, r->out, sizeof(q->done_atomic));
}

static void answer_again(struct request *r)
{
	struct vhca_qp *q = r->qp->priv;

	r->out_len = q->done_len;
	if (q->done_len)
		memcpy(r->out, &q->done_atomic, sizeof(q->done_atomic));
}

static enum vhca_ack respond(struct request *r, unsigned long *flags)
{
	struct vhca_dev *d = qp_to_vhca(r->qp);
	enum vhca_ack ack;

	if (!connected(r))
		return VHCA_NAK_NO_QP;
	vhca_established(r->qp, flags);
	if (repeated(r)) {
		answer_again(r);
		return VHCA_ACK;
	}
	ack = execute(r);
	if (ack == VHCA_ACK) {
		remember(r);
		atomic64_inc(&d->rx_packets);
		atomic64_add(r->segment, &d->rx_bytes);
	} else if (ack != VHCA_NAK_RNR && !r->h->uc) {
		vhca_responder_error(r->qp, ack);
	}
	return ack;
}

/* ---------------------------------------------------- responder, no locks -- */

static void send_answer(struct request *r, struct vhca_dev *d)
{
	enum vhca_ack ack = VHCA_NAK_NO_QP;
	struct link_header *h = r->h, *a;
	unsigned long flags;
	struct sk_buff *skb;

	a = vhca_link_frame(FRAME_ANSWER, data_comes_back(r->op) ?
			    max_t(u32, r->segment, sizeof(u64)) : 0, &skb, &r->out);
	if (!a)
		return;
	r->qp = rvt_lookup_qpn(&d->rdi, &d->ibp, be32_to_cpu(h->dst_qpn));
	if (r->qp) {
		spin_lock_irqsave(&r->qp->r_lock, flags);
		ack = respond(r, &flags);
		a->rnr_timer = r->qp->r_min_rnr_timer;
		spin_unlock_irqrestore(&r->qp->r_lock, flags);
	}
	a->status = ack;
	a->fabric = h->fabric;
	a->slid = h->dlid;
	a->dlid = h->slid;
	a->src_qpn = h->dst_qpn;
	a->dst_qpn = h->src_qpn;
	a->seq = h->seq;
	a->offset = h->offset;
	a->segment = cpu_to_be32(ack == VHCA_ACK ? r->out_len : 0);
	vhca_link_send(skb);
}

void vhca_link_request(struct link_header *h, u8 *data, u32 len)
{
	struct request r = {
		.h = h,
		.data = data,
		.op = h->op,
		.offset = be32_to_cpu(h->offset),
		.segment = be32_to_cpu(h->segment),
		.total = be32_to_cpu(h->total),
		.key = be32_to_cpu(h->key),
		.address = be64_to_cpu(h->address),
	};
	struct vhca_dev *d;

	if (r.segment > LINK_SEGMENT_MAX || (!data_comes_back(r.op) && r.segment > len))
		return;
	rcu_read_lock();
	d = vhca_port_at(h->fabric, be16_to_cpu(h->dlid));
	if (d && vhca_active(d))
		send_answer(&r, d);
	rcu_read_unlock();
}
