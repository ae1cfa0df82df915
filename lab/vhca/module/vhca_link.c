// SPDX-License-Identifier: GPL-2.0
/*
 * One fabric over several kernels: what is addressed to a LID that is not
 * here goes out of an Ethernet device as raw frames, and every other vhca on
 * that segment picks out what is for its own LIDs. Each kernel tells the
 * others its ports every second, so that the one that runs the SA can answer
 * for all of them.
 *
 * UD packets travel as they are. RC and UC requests travel one segment at a
 * time, each answered before the next is sent and repeated when no answer
 * comes; an answer to a request seen before is given again, not done again.
 */
#include "vhca.h"
#include <linux/if_ether.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>

#define ETH_P_VHCA	0x88b6		/* IEEE local experimental 2 */
#define SEG_MAX		16384
#define RTO_MS		200
#define TRIES		25

static char *link = "";
module_param(link, charp, 0444);
MODULE_PARM_DESC(link, "Ethernet device that joins this fabric with other machines'");

static unsigned int link_drop_every;
module_param(link_drop_every, uint, 0644);
MODULE_PARM_DESC(link_drop_every, "lose every n-th frame that comes in (0: none)");

enum { L_UD = 1, L_REQ, L_RSP, L_PORTS };
enum { R_OK, R_RNR, R_INV, R_ACCESS, R_OP, R_NOQP };

struct lhdr {
	u8 type, op, status, sl;
	u8 grh, imm_set, solicited, uc;
	__be16 slid, dlid, pkey, resv;
	__be32 src_qpn, dst_qpn;
	__be32 seq, off, total, seg;
	__be32 key;			/* Q_Key or R_Key */
	__be32 imm;
	__be64 addr, cmp, swap;
} __packed;

struct lport { __be16 lid; __be16 pkeys[VHCA_NPKEYS]; __be64 guid; } __packed;

struct rport { struct vhca_port_view v; unsigned long seen; };

static struct net_device *ndev;
static struct sk_buff_head txq, rxq;
static struct workqueue_struct *link_wq;
static struct rport rports[VHCA_MAX_LID];
static DEFINE_SPINLOCK(rports_lock);
static void tx_fn(struct work_struct *w);
static void rx_fn(struct work_struct *w);
static void hello_fn(struct work_struct *w);
static DECLARE_WORK(tx_work, tx_fn);
static DECLARE_WORK(rx_work, rx_fn);
static DECLARE_DELAYED_WORK(hello_work, hello_fn);

bool vhca_link_on(void) { return ndev; }

/* ---------------------------------------------------------------- frames -- */

static struct lhdr *frame_new(struct sk_buff **skbp, u32 datalen, u8 **data)
{
	u32 len = sizeof(struct lhdr) + datalen;
	struct sk_buff *skb = alloc_skb(LL_RESERVED_SPACE(ndev) + max(len, 64u), GFP_ATOMIC);
	struct lhdr *h;

	if (!skb)
		return NULL;
	skb_reserve(skb, LL_RESERVED_SPACE(ndev));
	h = skb_put_zero(skb, len);
	*data = (u8 *)(h + 1);
	*skbp = skb;
	return h;
}

/* May be called with interrupts off, which transmission may not. */
static void frame_send(struct sk_buff *skb)
{
	skb->dev = ndev;
	skb->protocol = htons(ETH_P_VHCA);
	skb_queue_tail(&txq, skb);
	queue_work(link_wq, &tx_work);
}

static void tx_fn(struct work_struct *w)
{
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&txq))) {
		skb_reset_network_header(skb);
		if (dev_hard_header(skb, ndev, ETH_P_VHCA, ndev->broadcast,
				    ndev->dev_addr, skb->len) < 0)
			kfree_skb(skb);
		else
			dev_queue_xmit(skb);
	}
}

static int link_rcv(struct sk_buff *skb, struct net_device *dev,
		    struct packet_type *pt, struct net_device *orig)
{
	static atomic_t count;

	if ((link_drop_every && !(atomic_inc_return(&count) % link_drop_every)) ||
	    dev != ndev || skb_linearize(skb) || skb->len < sizeof(struct lhdr)) {
		kfree_skb(skb);
		return NET_RX_DROP;
	}
	skb_queue_tail(&rxq, skb);
	queue_work(link_wq, &rx_work);
	return NET_RX_SUCCESS;
}

static struct packet_type link_pt = {
	.type = cpu_to_be16(ETH_P_VHCA), .func = link_rcv,
};

/* ----------------------------------------------------------- other ports -- */

bool vhca_link_port(u16 lid, u64 guid, struct vhca_port_view *v)
{
	bool found = false;
	unsigned long f;
	int i;

	if (!ndev)
		return false;
	spin_lock_irqsave(&rports_lock, f);
	for (i = guid ? 1 : lid; i < VHCA_MAX_LID && !found; i++) {
		if (!guid && i != lid)
			break;
		if (!rports[i].v.lid || time_after(jiffies, rports[i].seen + 5 * HZ) ||
		    (guid && rports[i].v.guid != guid))
			continue;
		*v = rports[i].v;
		found = true;
	}
	spin_unlock_irqrestore(&rports_lock, f);
	return found;
}

static void hello_fn(struct work_struct *w)
{
	struct vhca_dev *d;
	struct sk_buff *skb;
	struct lport *p;
	struct lhdr *h;
	int i, k, n = 0;
	u8 *data;

	h = frame_new(&skb, 16 * sizeof(*p), &data);
	if (h) {
		h->type = L_PORTS;
		p = (void *)data;
		rcu_read_lock();
		for (i = 1; i < VHCA_MAX_LID; i++) {
			d = rcu_dereference(vhca_lids[i]);
			if (!d || !vhca_active(d))
				continue;
			p->lid = cpu_to_be16(d->lid);
			p->guid = cpu_to_be64(d->port_guid);
			for (k = 0; k < VHCA_NPKEYS; k++)
				p->pkeys[k] = cpu_to_be16(d->pkeys[k]);
			p++;
			if (++n < 16)
				continue;
			h->total = cpu_to_be32(n);	/* full: send, go on */
			frame_send(skb);
			n = 0;
			h = frame_new(&skb, 16 * sizeof(*p), &data);
			if (!h)
				break;
			h->type = L_PORTS;
			p = (void *)data;
		}
		rcu_read_unlock();
		if (h) {
			h->total = cpu_to_be32(n);
			frame_send(skb);
		}
	}
	queue_delayed_work(link_wq, &hello_work, HZ);
}

void vhca_link_hello(void)
{
	if (ndev)
		mod_delayed_work(link_wq, &hello_work, 0);
}

static void ports_rx(struct lhdr *h, u8 *data, u32 len)
{
	u32 i, k, n = be32_to_cpu(h->total);
	struct lport *p = (void *)data;

	if (n * sizeof(*p) > len)
		return;
	spin_lock_irq(&rports_lock);
	for (i = 0; i < n; i++, p++) {
		u16 lid = be16_to_cpu(p->lid);

		if (!lid || lid >= VHCA_MAX_LID)
			continue;
		rports[lid].v.lid = lid;
		rports[lid].v.guid = be64_to_cpu(p->guid);
		for (k = 0; k < VHCA_NPKEYS; k++)
			rports[lid].v.pkeys[k] = be16_to_cpu(p->pkeys[k]);
		rports[lid].seen = jiffies;
	}
	spin_unlock_irq(&rports_lock);
}

/* -------------------------------------------------------------------- UD -- */

void vhca_link_ud(const struct vhca_pkt *p)
{
	struct sk_buff *skb;
	struct lhdr *h;
	u8 *data;

	if (!ndev)
		return;
	h = frame_new(&skb, p->len + (p->has_grh ? 40 : 0), &data);
	if (!h)
		return;
	h->type = L_UD;
	h->slid = cpu_to_be16(p->slid);
	h->dlid = cpu_to_be16(p->dlid);
	h->pkey = cpu_to_be16(p->pkey);
	h->sl = p->sl;
	h->solicited = p->solicited;
	h->src_qpn = cpu_to_be32(p->src_qpn);
	h->dst_qpn = cpu_to_be32(p->dst_qpn);
	h->key = cpu_to_be32(p->qkey);
	h->imm_set = p->has_imm;
	h->imm = p->imm;
	h->total = cpu_to_be32(p->len);
	if (p->has_grh) {
		h->grh = 1;
		memcpy(data, &p->grh, 40);
		data += 40;
	}
	memcpy(data, p->data, p->len);
	frame_send(skb);
}

static void ud_rx(struct lhdr *h, u8 *data, u32 len)
{
	u32 n = be32_to_cpu(h->total);
	struct vhca_pkt *p;

	if (n > VHCA_UD_MTU || n + (h->grh ? 40 : 0) > len)
		return;
	p = kzalloc(struct_size(p, data, n), GFP_KERNEL);
	if (!p)
		return;
	p->slid = be16_to_cpu(h->slid);
	p->dlid = be16_to_cpu(h->dlid);
	p->pkey = be16_to_cpu(h->pkey);
	p->sl = h->sl;
	p->solicited = h->solicited;
	p->src_qpn = be32_to_cpu(h->src_qpn);
	p->dst_qpn = be32_to_cpu(h->dst_qpn);
	p->qkey = be32_to_cpu(h->key);
	p->has_imm = h->imm_set;
	p->imm = h->imm;
	p->len = n;
	if (h->grh) {
		p->has_grh = true;
		memcpy(&p->grh, data, 40);
		data += 40;
	}
	memcpy(p->data, data, n);
	rcu_read_lock();
	vhca_switch_local(p);
	rcu_read_unlock();
	kfree(p);
}

/* ------------------------------------------------------ RC/UC, requester -- */

static u32 seg_max(void)
{
	return min_t(u32, SEG_MAX, ndev->mtu - sizeof(struct lhdr));
}

static void req_send(struct rvt_qp *qp, struct rvt_swqe *wqe, struct vhca_qp *q)
{
	struct vhca_dev *d = qp_vdev(qp);
	u32 op = wqe->wr.opcode, left, n, seg = min(wqe->length - q->off, seg_max());
	bool has_data = op != IB_WR_RDMA_READ && op != IB_WR_ATOMIC_CMP_AND_SWP &&
			op != IB_WR_ATOMIC_FETCH_AND_ADD;
	struct rvt_sge_state ss;
	struct sk_buff *skb;
	struct lhdr *h;
	u8 *to;

	h = frame_new(&skb, has_data ? seg : 0, &to);
	if (!h)
		return;			/* as if lost */
	h->type = L_REQ;
	h->op = op;
	h->uc = qp->ibqp.qp_type == IB_QPT_UC;
	h->slid = cpu_to_be16(d->lid);
	h->dlid = cpu_to_be16(rdma_ah_get_dlid(&qp->remote_ah_attr));
	h->sl = rdma_ah_get_sl(&qp->remote_ah_attr);
	h->pkey = cpu_to_be16(d->pkeys[qp->s_pkey_index]);
	h->src_qpn = cpu_to_be32(qp->ibqp.qp_num);
	h->dst_qpn = cpu_to_be32(qp->remote_qpn);
	h->seq = cpu_to_be32(q->seq);
	h->off = cpu_to_be32(q->off);
	h->total = cpu_to_be32(wqe->length);
	h->seg = cpu_to_be32(seg);
	h->solicited = !!(wqe->wr.send_flags & IB_SEND_SOLICITED);
	h->imm = wqe->wr.ex.imm_data;	/* or the R_Key to invalidate */
	if (op == IB_WR_ATOMIC_CMP_AND_SWP || op == IB_WR_ATOMIC_FETCH_AND_ADD) {
		h->addr = cpu_to_be64(wqe->atomic_wr.remote_addr);
		h->key = cpu_to_be32(wqe->atomic_wr.rkey);
		h->cmp = cpu_to_be64(wqe->atomic_wr.compare_add);
		h->swap = cpu_to_be64(wqe->atomic_wr.swap);
	} else if (op != IB_WR_SEND && op != IB_WR_SEND_WITH_IMM &&
		   op != IB_WR_SEND_WITH_INV) {
		h->addr = cpu_to_be64(wqe->rdma_wr.remote_addr + q->off);
		h->key = cpu_to_be32(wqe->rdma_wr.rkey);
	}
	if (has_data && seg) {
		ss.sge = wqe->sg_list[0];
		ss.sg_list = wqe->sg_list + 1;
		ss.num_sge = wqe->wr.num_sge;
		rvt_skip_sge(&ss, q->off, false);
		for (left = seg; left; left -= n, to += n) {
			n = rvt_get_sge_length(&ss.sge, left);
			memcpy(to, ss.sge.vaddr, n);
			rvt_update_sge(&ss, n, false);
		}
	}
	q->seg = seg;
	frame_send(skb);
}

/*
 * One step of a message to another machine. VHCA_PENDING: an answer or the
 * timer will call again; VHCA_WAIT: call again after the RNR timer.
 */
enum ib_wc_status vhca_link_ruc(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer)
{
	struct vhca_qp *q = qp->priv;
	struct rvt_sge_state ss;
	enum ib_wc_status st;

	if (q->state == Q_IDLE) {
		q->seq++;
		q->off = 0;
		q->tries = TRIES;
		q->state = Q_SEND;
	}
	if (q->state == Q_REPLIED) {
		switch (q->status) {
		case R_OK:
			if (q->reply && q->reply_len) {
				ss.sge = wqe->sg_list[0];
				ss.sg_list = wqe->sg_list + 1;
				ss.num_sge = wqe->wr.num_sge;
				rvt_skip_sge(&ss, q->off, false);
				rvt_copy_sge(qp, &ss, q->reply, q->reply_len, false, false);
			}
			kfree(q->reply);
			q->reply = NULL;
			q->off += q->seg;
			q->tries = TRIES;
			qp->s_rnr_retry = qp->s_rnr_retry_cnt;
			q->state = Q_SEND;
			if (q->off >= wqe->length) {
				q->state = Q_IDLE;
				return IB_WC_SUCCESS;
			}
			break;
		case R_RNR:
			if (!qp->s_rnr_retry) {
				st = IB_WC_RNR_RETRY_EXC_ERR;
				goto failed;
			}
			if (qp->s_rnr_retry_cnt < 7)
				qp->s_rnr_retry--;
			*timer = q->rnr;
			q->state = Q_SEND;
			return VHCA_WAIT;
		case R_INV:
			st = IB_WC_REM_INV_REQ_ERR;
			goto failed;
		case R_ACCESS:
			st = IB_WC_REM_ACCESS_ERR;
			goto failed;
		case R_OP:
			st = IB_WC_REM_OP_ERR;
			goto failed;
		default:		/* no such QP (yet): let the timer run */
			q->state = Q_WAITING;
			goto arm;
		}
	} else if (q->state == Q_WAITING) {	/* nobody answered */
		if (!--q->tries) {
			st = IB_WC_RETRY_EXC_ERR;
			goto failed;
		}
		q->state = Q_SEND;
	}
	/* A reply can come before we are back: so the state first. */
	q->state = Q_WAITING;
	req_send(qp, wqe, q);
arm:
	mod_delayed_work(system_wq, &q->rto, msecs_to_jiffies(RTO_MS));
	return VHCA_PENDING;
failed:
	q->state = Q_IDLE;
	return qp->ibqp.qp_type == IB_QPT_RC ? st : IB_WC_SUCCESS;
}

static void rsp_rx(struct lhdr *h, u8 *data, u32 len)
{
	struct vhca_dev *d;
	struct vhca_qp *q;
	struct rvt_qp *qp;
	unsigned long f;
	bool kick = false;

	rcu_read_lock();
	d = rcu_dereference(vhca_lids[be16_to_cpu(h->dlid) % VHCA_MAX_LID]);
	qp = d ? rvt_lookup_qpn(&d->rdi, &d->ibp, be32_to_cpu(h->dst_qpn)) : NULL;
	if (qp && qp->allowed_ops != IB_OPCODE_UD) {
		q = qp->priv;
		spin_lock_irqsave(&qp->s_lock, f);
		if (q->state == Q_WAITING && q->seq == be32_to_cpu(h->seq) &&
		    q->off == be32_to_cpu(h->off) && be32_to_cpu(h->seg) <= len) {
			q->status = h->status;
			q->rnr = h->sl;
			q->reply_len = be32_to_cpu(h->seg);
			kfree(q->reply);
			q->reply = q->reply_len ? kmemdup(data, q->reply_len, GFP_ATOMIC) : NULL;
			if (q->reply || !q->reply_len) {
				if (h->status != R_NOQP)
					cancel_delayed_work(&q->rto);
				if (h->status != R_NOQP) {
					q->state = Q_REPLIED;
					qp->s_flags &= ~RVT_S_WAIT_ACK;
					kick = true;
				}
			}
		}
		if (kick)
			qp_vdev(qp)->rdi.driver_f.schedule_send(qp);
		spin_unlock_irqrestore(&qp->s_lock, f);
	}
	rcu_read_unlock();
}

/* ------------------------------------------------------ RC/UC, responder -- */

static void recv_done(struct rvt_qp *qp, struct lhdr *h, enum ib_wc_opcode op, int flags)
{
	struct ib_wc wc = {};

	if (!test_and_clear_bit(RVT_R_WRID_VALID, &qp->r_aflags))
		return;
	wc.wr_id = qp->r_wr_id;
	wc.status = IB_WC_SUCCESS;
	wc.opcode = op;
	wc.byte_len = be32_to_cpu(h->total);
	wc.qp = &qp->ibqp;
	wc.src_qp = qp->remote_qpn;
	wc.slid = be16_to_cpu(h->slid);
	wc.sl = h->sl;
	wc.port_num = 1;
	wc.wc_flags = flags;
	wc.ex.imm_data = h->imm;
	rvt_recv_cq(qp, &wc, h->solicited);
}

/* Do one request segment. r_lock held. Returns R_*; *out gets READ data. */
static u8 req_exec(struct vhca_dev *d, struct rvt_qp *qp, struct lhdr *h,
		   u8 *data, u8 *out, u32 *out_len)
{
	u32 off = be32_to_cpu(h->off), seg = be32_to_cpu(h->seg), n;
	u32 total = be32_to_cpu(h->total), left;
	u64 addr = be64_to_cpu(h->addr), cmp = be64_to_cpu(h->cmp), old;
	bool lastseg = off + seg >= total;
	u32 key = be32_to_cpu(h->key);
	struct rvt_sge_state ss = { .num_sge = 1, .total_len = seg };
	atomic64_t *at;
	int ret, flags = 0;

	switch (h->op) {
	case IB_WR_SEND:
	case IB_WR_SEND_WITH_IMM:
	case IB_WR_SEND_WITH_INV:
		if (!off) {
			ret = rvt_get_rwqe(qp, false);
			if (ret < 0)
				return R_OP;
			if (!ret)
				return R_RNR;
			if (total > qp->r_len)
				return R_INV;
		}
		rvt_copy_sge(qp, &qp->r_sge, data, seg, true, false);
		if (!lastseg)
			return R_OK;
		rvt_put_ss(&qp->r_sge);
		if (h->op == IB_WR_SEND_WITH_IMM)
			flags = IB_WC_WITH_IMM;
		if (h->op == IB_WR_SEND_WITH_INV &&
		    !rvt_invalidate_rkey(qp, (__force u32)h->imm))
			flags = IB_WC_WITH_INVALIDATE;
		recv_done(qp, h, IB_WC_RECV, flags);
		return R_OK;

	case IB_WR_RDMA_WRITE:
	case IB_WR_RDMA_WRITE_WITH_IMM:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_WRITE))
			return R_INV;
		if (h->op == IB_WR_RDMA_WRITE_WITH_IMM && lastseg) {
			ret = rvt_get_rwqe(qp, true);
			if (ret < 0)
				return R_OP;
			if (!ret)
				return R_RNR;
		}
		if (seg) {
			if (!rvt_rkey_ok(qp, &ss.sge, seg, addr, key, IB_ACCESS_REMOTE_WRITE))
				return R_ACCESS;
			rvt_copy_sge(qp, &ss, data, seg, true, rvt_is_user_qp(qp));
		}
		if (h->op == IB_WR_RDMA_WRITE_WITH_IMM && lastseg)
			recv_done(qp, h, IB_WC_RECV_RDMA_WITH_IMM, IB_WC_WITH_IMM);
		return R_OK;

	case IB_WR_RDMA_READ:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_READ))
			return R_INV;
		if (seg && !rvt_rkey_ok(qp, &ss.sge, seg, addr, key, IB_ACCESS_REMOTE_READ))
			return R_ACCESS;
		for (left = seg; left; left -= n, out += n) {
			n = rvt_get_sge_length(&ss.sge, left);
			memcpy(out, ss.sge.vaddr, n);
			rvt_update_sge(&ss, n, true);
		}
		*out_len = seg;
		return R_OK;

	case IB_WR_ATOMIC_CMP_AND_SWP:
	case IB_WR_ATOMIC_FETCH_AND_ADD:
		if (!(qp->qp_access_flags & IB_ACCESS_REMOTE_ATOMIC) || (addr & 7))
			return R_INV;
		if (!rvt_rkey_ok(qp, &ss.sge, 8, addr, key, IB_ACCESS_REMOTE_ATOMIC))
			return R_ACCESS;
		at = (atomic64_t *)ss.sge.vaddr;
		old = h->op == IB_WR_ATOMIC_FETCH_AND_ADD ? atomic64_fetch_add(cmp, at) :
		      atomic64_cmpxchg(at, cmp, be64_to_cpu(h->swap));
		rvt_put_mr(ss.sge.mr);
		memcpy(out, &old, 8);
		*out_len = 8;
		return R_OK;
	}
	return R_INV;
}

static void req_rx(struct lhdr *h, u8 *data, u32 len)
{
	u32 seg = be32_to_cpu(h->seg), out_len = 0;
	u8 status = R_NOQP, *out;
	struct sk_buff *skb;
	struct vhca_dev *d;
	struct rvt_qp *qp;
	struct vhca_qp *q;
	struct lhdr *r;
	unsigned long f;
	bool dup, back = h->op == IB_WR_RDMA_READ ||
			 h->op == IB_WR_ATOMIC_CMP_AND_SWP ||
			 h->op == IB_WR_ATOMIC_FETCH_AND_ADD;

	if (seg > SEG_MAX || (!back && seg > len))
		return;
	rcu_read_lock();
	d = rcu_dereference(vhca_lids[be16_to_cpu(h->dlid) % VHCA_MAX_LID]);
	if (!d || d->lid != be16_to_cpu(h->dlid) || !vhca_active(d))
		goto unlock;			/* not ours */
	r = frame_new(&skb, back ? max(seg, 8u) : 0, &out);
	if (!r)
		goto unlock;
	qp = rvt_lookup_qpn(&d->rdi, &d->ibp, be32_to_cpu(h->dst_qpn));
	if (qp) {
		q = qp->priv;
		spin_lock_irqsave(&qp->r_lock, f);
		if ((ib_rvt_state_ops[qp->state] & RVT_PROCESS_RECV_OK) &&
		    qp->ibqp.qp_type == (h->uc ? IB_QPT_UC : IB_QPT_RC) &&
		    qp->remote_qpn == be32_to_cpu(h->src_qpn) &&
		    vhca_pkey_match(d->pkeys[qp->s_pkey_index], be16_to_cpu(h->pkey))) {
			if (qp->state == IB_QPS_RTR && !(qp->r_flags & RVT_R_COMM_EST)) {
				spin_unlock_irqrestore(&qp->r_lock, f);
				rvt_comm_est(qp);
				spin_lock_irqsave(&qp->r_lock, f);
			}
			dup = q->r_done && q->r_seq == be32_to_cpu(h->seq) &&
			      q->r_off == be32_to_cpu(h->off);
			if (dup && h->op != IB_WR_RDMA_READ) {
				status = R_OK;
				out_len = q->r_len;
				if (out_len)
					memcpy(out, &q->r_atomic, 8);
			} else {
				status = req_exec(d, qp, h, data, out, &out_len);
				if (status == R_OK) {
					q->r_done = true;
					q->r_seq = be32_to_cpu(h->seq);
					q->r_off = be32_to_cpu(h->off);
					q->r_len = h->op == IB_WR_RDMA_READ ? 0 : out_len;
					if (q->r_len)
						memcpy(&q->r_atomic, out, 8);
					atomic64_inc(&d->rx_pkts);
					atomic64_add(seg, &d->rx_bytes);
				} else if (status != R_RNR && !h->uc) {
					rvt_rc_error(qp, status == R_ACCESS ?
						     IB_WC_LOC_PROT_ERR : IB_WC_LOC_QP_OP_ERR);
				}
			}
		}
		r->sl = qp->r_min_rnr_timer;
		spin_unlock_irqrestore(&qp->r_lock, f);
	}
	r->type = L_RSP;
	r->status = status;
	r->slid = h->dlid;
	r->dlid = h->slid;
	r->src_qpn = h->dst_qpn;
	r->dst_qpn = h->src_qpn;
	r->seq = h->seq;
	r->off = h->off;
	r->seg = cpu_to_be32(status == R_OK ? out_len : 0);
	frame_send(skb);
unlock:
	rcu_read_unlock();
}

static void rx_fn(struct work_struct *w)
{
	struct sk_buff *skb;
	struct lhdr *h;
	u8 *data;
	u32 len;

	while ((skb = skb_dequeue(&rxq))) {
		h = (void *)skb->data;
		data = (u8 *)(h + 1);
		len = skb->len - sizeof(*h);
		switch (h->type) {
		case L_UD: ud_rx(h, data, len); break;
		case L_REQ: req_rx(h, data, len); break;
		case L_RSP: rsp_rx(h, data, len); break;
		case L_PORTS: ports_rx(h, data, len); break;
		}
		kfree_skb(skb);
	}
}

/* ------------------------------------------------------------ life cycle -- */

int vhca_link_init(void)
{
	if (!*link)
		return 0;
	skb_queue_head_init(&txq);
	skb_queue_head_init(&rxq);
	link_wq = alloc_workqueue("vhca_link", WQ_HIGHPRI, 0);
	if (!link_wq)
		return -ENOMEM;
	ndev = dev_get_by_name(&init_net, link);
	if (!ndev || ndev->mtu < VHCA_UD_MTU + sizeof(struct lhdr) + 40) {
		pr_err("vhca: link %s is missing, or its MTU is below %zu\n", link,
		       VHCA_UD_MTU + sizeof(struct lhdr) + 40);
		if (ndev)
			dev_put(ndev);
		ndev = NULL;
		destroy_workqueue(link_wq);
		return -ENODEV;
	}
	dev_add_pack(&link_pt);
	queue_delayed_work(link_wq, &hello_work, 0);
	return 0;
}

void vhca_link_exit(void)
{
	if (!ndev)
		return;
	dev_remove_pack(&link_pt);
	cancel_delayed_work_sync(&hello_work);
	cancel_work_sync(&rx_work);
	cancel_work_sync(&tx_work);
	skb_queue_purge(&rxq);
	skb_queue_purge(&txq);
	destroy_workqueue(link_wq);
	dev_put(ndev);
	ndev = NULL;
}
