// SPDX-License-Identifier: GPL-2.0
/*
 * What rdmavt wants of a driver for queue pairs, and the engine that runs their
 * send queues. rdmavt keeps the queues; switch.c and ruc.c are what a wire and
 * a remote HCA would be.
 */
#include "vhca.h"
#include <linux/slab.h>

static struct workqueue_struct *send_queue;

/* ------------------------------------------------------- work requests -- */

/* The scatter list of a work request; the request keeps its MR references. */
void vhca_wqe_sges(struct rvt_swqe *wqe, struct rvt_sge_state *ss)
{
	ss->sge = wqe->sg_list[0];
	ss->sg_list = wqe->sg_list + 1;
	ss->num_sge = wqe->wr.num_sge;
	ss->total_len = wqe->length;
}

void vhca_copy_from_wqe(struct rvt_swqe *wqe, u32 offset, u8 *to, u32 len)
{
	struct rvt_sge_state ss;
	u32 n;

	if (!len)
		return;
	vhca_wqe_sges(wqe, &ss);
	rvt_skip_sge(&ss, offset, false);
	for (; len; len -= n, to += n) {
		n = rvt_get_sge_length(&ss.sge, len);
		memcpy(to, ss.sge.vaddr, n);
		rvt_update_sge(&ss, n, false);
	}
}

/* ---------------------------------------------------------- send engine -- */

static void last_wqe_event(struct rvt_qp *qp)
{
	struct ib_event event = {
		.device = qp->ibqp.device,
		.element.qp = &qp->ibqp,
		.event = IB_EVENT_QP_LAST_WQE_REACHED,
	};

	if (qp->ibqp.event_handler)
		qp->ibqp.event_handler(&event, qp->ibqp.qp_context);
}

/* One attempt to send, with both locks dropped: delivery takes other QPs' locks. */
static enum ib_wc_status attempt(struct rvt_qp *qp, struct rvt_swqe *wqe,
				 unsigned long *flags, u8 *timer)
{
	enum ib_wc_status status;

	if (qp->s_last == qp->s_cur)
		qp->s_cur = rvt_qp_swqe_incr(qp, qp->s_cur);
	spin_unlock(&qp->s_lock);
	spin_unlock_irqrestore(&qp->r_lock, *flags);
	if (qp->allowed_ops == IB_OPCODE_UD)
		status = vhca_ud_send(qp, wqe);
	else
		status = vhca_ruc_send(qp, wqe, timer);
	spin_lock_irqsave(&qp->r_lock, *flags);
	spin_lock(&qp->s_lock);
	return status;
}

static bool state_allows(struct rvt_qp *qp, int what)
{
	return ib_rvt_state_ops[qp->state] & what;
}

/*
 * A message is not through yet. Returns true when the queue must rest until
 * somebody calls again, false when it can go on at once: because the answer
 * came while the locks were dropped, or the QP left RTS and wants a flush.
 */
static bool must_rest(struct rvt_qp *qp, enum ib_wc_status status, u8 timer)
{
	struct vhca_qp *q = qp->priv;

	if (status == VHCA_PENDING) {
		if (q->state == REQUEST_ANSWERED || !state_allows(qp, RVT_PROCESS_NEXT_SEND_OK))
			return false;
		qp->s_flags |= RVT_S_WAIT_ACK;
		return true;
	}
	if (!state_allows(qp, RVT_PROCESS_RECV_OK))
		return false;
	rvt_add_rnr_timer(qp, timer << 24);
	return true;
}

/* Run the queue dry. Both locks held. Returns whether to tell of the last request. */
static bool run_queue(struct rvt_qp *qp, unsigned long *flags)
{
	bool last = false, ud = qp->allowed_ops == IB_OPCODE_UD;
	enum ib_wc_status status;
	struct rvt_swqe *wqe;
	u8 timer = 0;

	while (qp->s_last != smp_load_acquire(&qp->s_head)) {
		wqe = rvt_get_swqe_ptr(qp, qp->s_last);
		if (state_allows(qp, RVT_PROCESS_NEXT_SEND_OK)) {
			status = attempt(qp, wqe, flags, &timer);
			if (status == VHCA_PENDING || status == VHCA_WAIT) {
				if (must_rest(qp, status, timer))
					break;
				continue;
			}
		} else if (state_allows(qp, RVT_FLUSH_SEND)) {
			status = IB_WC_WR_FLUSH_ERR;
		} else {
			break;
		}
		if (!state_allows(qp, RVT_PROCESS_OR_FLUSH_SEND))
			break;			/* reset meanwhile */
		rvt_send_complete(qp, wqe, status);
		if (status != IB_WC_SUCCESS && status != IB_WC_WR_FLUSH_ERR && !ud)
			last |= rvt_error_qp(qp, IB_WC_WR_FLUSH_ERR);
	}
	return last;
}

/* RVT_S_BUSY makes this single threaded per QP. */
static void do_send(struct rvt_qp *qp)
{
	bool last = false;
	unsigned long flags;

	rcu_read_lock();
	spin_lock_irqsave(&qp->r_lock, flags);
	spin_lock(&qp->s_lock);
	if (!(qp->s_flags & (RVT_S_BUSY | RVT_S_ANY_WAIT)) &&
	    state_allows(qp, RVT_PROCESS_OR_FLUSH_SEND)) {
		qp->s_flags |= RVT_S_BUSY;
		last = run_queue(qp, &flags);
		qp->s_flags &= ~RVT_S_BUSY;
	}
	spin_unlock(&qp->s_lock);
	spin_unlock_irqrestore(&qp->r_lock, flags);
	if (last)
		last_wqe_event(qp);
	rcu_read_unlock();
}

static void send_work(struct work_struct *w)
{
	do_send(container_of(w, struct vhca_qp, send_work)->qp);
}

static void answer_timeout(struct work_struct *w)
{
	struct vhca_qp *q = container_of(to_delayed_work(w), struct vhca_qp, answer_timeout);
	unsigned long flags;

	spin_lock_irqsave(&q->qp->s_lock, flags);
	q->qp->s_flags &= ~RVT_S_WAIT_ACK;
	spin_unlock_irqrestore(&q->qp->s_lock, flags);
	do_send(q->qp);
}

static bool schedule_send(struct rvt_qp *qp)
{
	struct vhca_qp *q = qp->priv;

	return queue_work(send_queue, &q->send_work);
}

/* -------------------------------------------------------- life of a QP -- */

static void *qp_priv_alloc(struct rvt_dev_info *rdi, struct rvt_qp *qp)
{
	struct vhca_qp *q = kzalloc(sizeof(*q), GFP_KERNEL);

	if (!q)
		return ERR_PTR(-ENOMEM);
	q->qp = qp;
	INIT_WORK(&q->send_work, send_work);
	INIT_DELAYED_WORK(&q->answer_timeout, answer_timeout);
	return q;
}

static void qp_priv_free(struct rvt_dev_info *rdi, struct rvt_qp *qp)
{
	struct vhca_qp *q = qp->priv;

	if (!q)
		return;
	cancel_delayed_work_sync(&q->answer_timeout);
	kfree(q->answer_data);
	kfree(q);
	qp->priv = NULL;
}

static void qp_stop(struct rvt_qp *qp)
{
	struct vhca_qp *q = qp->priv;

	cancel_delayed_work_sync(&q->answer_timeout);
	cancel_work_sync(&q->send_work);
}

/* After RESET neither side remembers messages of before. */
static void qp_forget(struct rvt_qp *qp)
{
	struct vhca_qp *q = qp->priv;

	q->state = REQUEST_IDLE;
	q->seq = 0;
	q->done = false;
}

/*
 * rdmavt would never give QP0 and QP1 back, and then a device moved to
 * another netns (which makes ib_core open its MAD ports anew) has none. Number
 * QPs here instead, out of the first bitmap page, which rdmavt clears for us
 * when a QP goes away, whatever its number.
 */
static int alloc_qpn(struct rvt_dev_info *rdi, struct rvt_qpn_table *table,
		     enum ib_qp_type type, u32 port)
{
	unsigned long *map = table->map[0].page;
	u32 n, tries;

	if (type == IB_QPT_SMI || type == IB_QPT_GSI) {
		n = type == IB_QPT_GSI;
		return test_and_set_bit(n, map) ? -EINVAL : n;
	}
	spin_lock(&table->lock);
	n = table->last;
	for (tries = 0; tries < RVT_BITS_PER_PAGE; tries++) {
		if (++n >= RVT_BITS_PER_PAGE)
			n = 2;
		if (!test_and_set_bit(n, map)) {
			table->last = n;
			spin_unlock(&table->lock);
			return n;
		}
	}
	spin_unlock(&table->lock);
	return -ENOMEM;
}

/* ---------------------------------- what rdmavt insists on, but is trivial -- */

static void qp_nop(struct rvt_qp *qp) {}
static void qp_restart_nop(struct rvt_qp *qp, u32 psn, int wait) {}
static unsigned int qp_free_all(struct rvt_dev_info *rdi) { return 0; }

static int pmtu_from_attr(struct rvt_dev_info *rdi, struct rvt_qp *qp, struct ib_qp_attr *attr)
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

static void notify_new_ah(struct ib_device *ibdev, struct rdma_ah_attr *attr, struct rvt_ah *ah)
{
	ah->log_pmtu = ilog2(VHCA_UD_MTU);
}

static int completion_cpu(struct rvt_dev_info *rdi, int vector)
{
	return cpumask_local_spread(vector, NUMA_NO_NODE);
}

/* ---------------------------------------------------------- operations -- */

#define RC	BIT(IB_QPT_RC)
#define UC_RC	(BIT(IB_QPT_UC) | RC)
#define ALL	(BIT(IB_QPT_UD) | BIT(IB_QPT_SMI) | BIT(IB_QPT_GSI) | UC_RC)
#define ATOMIC	(RVT_OPERATION_ATOMIC | RVT_OPERATION_ATOMIC_SGE)

static const struct rvt_operation_params post_parms[RVT_OPERATION_MAX] = {
	[IB_WR_SEND] = { sizeof(struct ib_send_wr), ALL },
	[IB_WR_SEND_WITH_IMM] = { sizeof(struct ib_send_wr), ALL },
	[IB_WR_SEND_WITH_INV] = { sizeof(struct ib_send_wr), RC },
	[IB_WR_RDMA_WRITE] = { sizeof(struct ib_rdma_wr), UC_RC },
	[IB_WR_RDMA_WRITE_WITH_IMM] = { sizeof(struct ib_rdma_wr), UC_RC },
	[IB_WR_RDMA_READ] = { sizeof(struct ib_rdma_wr), RC, RVT_OPERATION_ATOMIC },
	[IB_WR_ATOMIC_CMP_AND_SWP] = { sizeof(struct ib_atomic_wr), RC, ATOMIC },
	[IB_WR_ATOMIC_FETCH_AND_ADD] = { sizeof(struct ib_atomic_wr), RC, ATOMIC },
	[IB_WR_LOCAL_INV] = { sizeof(struct ib_send_wr), UC_RC, RVT_OPERATION_LOCAL },
	[IB_WR_REG_MR] = { sizeof(struct ib_reg_wr), UC_RC, RVT_OPERATION_LOCAL },
};

/* rdmavt's header declares such a table, but rdmavt does not export it. */
static const enum ib_wc_opcode completion_opcode[RVT_OPERATION_MAX] = {
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
	rdi->wc_opcode = completion_opcode;
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
	f->comp_vect_cpu_lookup = completion_cpu;
	f->alloc_qpn = alloc_qpn;
}

int vhca_qp_init(void)
{
	send_queue = alloc_workqueue("vhca_send", WQ_MEM_RECLAIM, 0);
	return send_queue ? 0 : -ENOMEM;
}

void vhca_qp_exit(void)
{
	destroy_workqueue(send_queue);
}
