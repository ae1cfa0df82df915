// SPDX-License-Identifier: GPL-2.0
/*
 * Stand-in for a subnet manager: it sits at LID vhca_sm_lid, QP1, and answers
 * the SA queries that ib_core and IPoIB make (ClassPortInfo, PathRecord,
 * MCMemberRecord, ServiceRecord). Also the answers a port gives to SMP and PMA
 * Gets, which is where sysfs port counters come from.
 */
#include "vhca.h"
#include <linux/slab.h>
#include <rdma/ib_smi.h>
#include <rdma/ib_pma.h>

#define SA_OK			0
#define SA_NO_RESOURCES		0x0100
#define SA_REQ_INVALID		0x0200
#define SA_NO_RECORDS		0x0300
#define SA_BAD_METHOD_ATTR	0x000c

#define IPOIB_QKEY	0x0b1b
#define RATE_100G	IB_RATE_100_GBPS
#define PKT_LIFE	18

static unsigned int sa_delay_ms;
module_param(sa_delay_ms, uint, 0644);
MODULE_PARM_DESC(sa_delay_ms, "extra time the SA takes over each answer");

static unsigned int sa_drop_every;
module_param(sa_drop_every, uint, 0644);
MODULE_PARM_DESC(sa_drop_every, "lose every n-th SA query (0: none)");

struct mc_rec {			/* MCMemberRecord on the wire */
	u8 mgid[16];
	u8 port_gid[16];
	__be32 qkey;
	__be16 mlid;
	u8 mtu;
	u8 tclass;
	__be16 pkey;
	u8 rate;
	u8 life;
	__be32 sl_flow_hop;
	u8 scope_join;
	u8 proxy;
	u8 resv[2];
} __packed;

struct path_rec {		/* PathRecord on the wire */
	__be64 service_id;
	u8 dgid[16];
	u8 sgid[16];
	__be16 dlid;
	__be16 slid;
	__be32 flow_hop;
	u8 tclass;
	u8 rev_numb;
	__be16 pkey;
	__be16 qos_sl;
	u8 mtu;
	u8 rate;
	u8 life;
	u8 pref;
	u8 resv[6];
} __packed;

struct mc_member {
	struct list_head list;
	u8 gid[16];
	u8 join;
};

struct mc_group {
	struct list_head list;
	struct list_head members;
	bool permanent;
	struct mc_rec rec;	/* port_gid and join state unused */
};

struct sa_job {
	struct delayed_work work;
	u16 slid, pkey;
	u32 src_qpn;
	struct ib_sa_mad mad;
};

static LIST_HEAD(groups);
static DEFINE_MUTEX(groups_lock);
static struct workqueue_struct *sa_wq;
static u16 next_mlid = VHCA_MCAST_LID;
static atomic_t sa_count, sa_pending;

/* ------------------------------------------------------------ port table -- */

/* Copy out what the SA must know of the port that has this GUID or LID. */
static bool port_find(u16 lid, const u8 *gid, struct vhca_port_view *v)
{
	u64 guid = gid ? get_unaligned_be64(gid + 8) : 0;
	struct vhca_dev *d;
	bool found = false;
	int i;

	if (gid && !guid)
		return false;
	rcu_read_lock();
	for (i = 1; i < VHCA_MAX_LID && !found; i++) {
		d = rcu_dereference(vhca_lids[i]);
		if (!d || !vhca_active(d) || (gid ? d->port_guid != guid : i != lid))
			continue;
		v->lid = d->lid;
		v->guid = d->port_guid;
		memcpy(v->pkeys, d->pkeys, sizeof(v->pkeys));
		found = true;
	}
	rcu_read_unlock();
	return found || vhca_link_port(lid, guid, v);
}

static bool port_has_pkey(const struct vhca_port_view *v, u16 pkey)
{
	int i;

	for (i = 0; i < VHCA_NPKEYS; i++)
		if (vhca_pkey_match(v->pkeys[i], pkey | 0x8000))
			return true;
	return false;
}

/* ------------------------------------------------------ multicast groups -- */

static struct mc_group *group_find(const u8 *mgid)
{
	struct mc_group *g;

	list_for_each_entry(g, &groups, list)
		if (!memcmp(g->rec.mgid, mgid, 16))
			return g;
	return NULL;
}

static struct mc_group *group_add(const struct mc_rec *r)
{
	struct mc_group *g = kzalloc(sizeof(*g), GFP_KERNEL);

	if (!g)
		return NULL;
	INIT_LIST_HEAD(&g->members);
	g->rec = *r;
	g->rec.mlid = cpu_to_be16(next_mlid);
	if (++next_mlid == 0xfffe)
		next_mlid = VHCA_MCAST_LID + 0x100;
	list_add_tail(&g->list, &groups);
	return g;
}

static void group_put(struct mc_group *g)
{
	struct mc_member *m, *n;

	if (g->permanent)
		return;
	list_for_each_entry_safe(m, n, &g->members, list)
		kfree(m);
	list_del(&g->list);
	kfree(g);
}

static struct mc_member *member_find(struct mc_group *g, const u8 *gid)
{
	struct mc_member *m;

	list_for_each_entry(m, &g->members, list)
		if (!memcmp(m->gid, gid, 16))
			return m;
	return NULL;
}

static void answer_group(struct mc_rec *out, const struct mc_group *g,
			 const u8 *port_gid, u8 join)
{
	*out = g->rec;
	memcpy(out->port_gid, port_gid, 16);
	out->scope_join = (g->rec.scope_join & 0xf0) | (join & 0xf);
}

static u16 mc_join(struct sa_job *j, struct mc_rec *r)
{
	const ib_sa_comp_mask need = IB_SA_MCMEMBER_REC_QKEY |
		IB_SA_MCMEMBER_REC_PKEY | IB_SA_MCMEMBER_REC_SL |
		IB_SA_MCMEMBER_REC_FLOW_LABEL | IB_SA_MCMEMBER_REC_TRAFFIC_CLASS;
	ib_sa_comp_mask mask = j->mad.sa_hdr.comp_mask;
	u8 join = r->scope_join & 0xf;
	struct vhca_port_view v;
	struct mc_member *m;
	struct mc_group *g;
	struct mc_rec c;

	if (!port_find(j->slid, NULL, &v) || !join)
		return SA_REQ_INVALID;
	g = group_find(r->mgid);
	if (!g) {
		/* Only a full member that gives all parameters may create. */
		if ((mask & need) != need || !(join & 1))
			return SA_REQ_INVALID;
		if (!port_has_pkey(&v, be16_to_cpu(r->pkey)))
			return SA_REQ_INVALID;
		c = *r;
		if (!(mask & IB_SA_MCMEMBER_REC_MTU))
			c.mtu = VHCA_MC_MTU;
		c.mtu = 2 << 6 | (c.mtu & 0x3f);
		if (!(mask & IB_SA_MCMEMBER_REC_RATE))
			c.rate = RATE_100G;
		c.rate = 2 << 6 | (c.rate & 0x3f);
		if (!(mask & IB_SA_MCMEMBER_REC_PACKET_LIFE_TIME))
			c.life = PKT_LIFE;
		c.life = 2 << 6 | (c.life & 0x3f);
		if (!(mask & IB_SA_MCMEMBER_REC_SCOPE))
			c.scope_join = 0x20;
		if (!memchr_inv(c.mgid, 0, 16)) {	/* SA picks the MGID */
			static const u8 pfx[4] = { 0xff, 0x12, 0xa0, 0x1b };

			memcpy(c.mgid, pfx, 4);
			put_unaligned_be64(v.guid, c.mgid + 4);
			put_unaligned_be32(next_mlid, c.mgid + 12);
		}
		g = group_add(&c);
		if (!g)
			return SA_NO_RESOURCES;
	} else if (!port_has_pkey(&v, be16_to_cpu(g->rec.pkey))) {
		return SA_REQ_INVALID;
	} else if ((mask & IB_SA_MCMEMBER_REC_QKEY) && r->qkey != g->rec.qkey) {
		return SA_REQ_INVALID;
	}
	m = member_find(g, r->port_gid);
	if (!m) {
		m = kzalloc(sizeof(*m), GFP_KERNEL);
		if (!m)
			return SA_NO_RESOURCES;
		memcpy(m->gid, r->port_gid, 16);
		list_add_tail(&m->list, &g->members);
	}
	m->join |= join;
	answer_group(r, g, m->gid, m->join);
	return SA_OK;
}

static u16 mc_leave(struct mc_rec *r)
{
	struct mc_group *g = group_find(r->mgid);
	struct mc_member *m = g ? member_find(g, r->port_gid) : NULL;
	u8 gone = r->scope_join & 0xf;
	u8 gid[16];

	if (!m || (m->join & gone) != gone || !gone)
		return SA_REQ_INVALID;
	memcpy(gid, m->gid, 16);
	m->join &= ~gone;
	answer_group(r, g, gid, m->join ? m->join : gone);
	if (!m->join) {
		list_del(&m->list);
		kfree(m);
	}
	if (list_empty(&g->members))
		group_put(g);
	return SA_OK;
}

/* A port left without a word (driver unbound): forget its memberships. */
void vhca_sa_port_gone(u64 port_guid)
{
	struct mc_member *m, *mn;
	struct mc_group *g, *gn;

	mutex_lock(&groups_lock);
	list_for_each_entry_safe(g, gn, &groups, list) {
		list_for_each_entry_safe(m, mn, &g->members, list)
			if (get_unaligned_be64(m->gid + 8) == port_guid) {
				list_del(&m->list);
				kfree(m);
			}
		if (list_empty(&g->members))
			group_put(g);
	}
	mutex_unlock(&groups_lock);
}

/* ----------------------------------------------------------------- paths -- */

static u16 path_query(struct sa_job *j, struct path_rec *r)
{
	ib_sa_comp_mask mask = j->mad.sa_hdr.comp_mask;
	struct vhca_port_view src, dst;
	struct mc_group *g;
	u16 pkey = 0;
	int i, k;

	if ((mask & IB_SA_PATH_REC_SGID) ? !port_find(0, r->sgid, &src) :
	    !port_find((mask & IB_SA_PATH_REC_SLID) ? be16_to_cpu(r->slid) : j->slid,
		       NULL, &src))
		return SA_NO_RECORDS;
	if ((mask & IB_SA_PATH_REC_DGID) && r->dgid[0] == 0xff) {
		mutex_lock(&groups_lock);
		g = group_find(r->dgid);
		if (g) {
			dst = src;
			dst.lid = be16_to_cpu(g->rec.mlid);
			pkey = be16_to_cpu(g->rec.pkey);
		}
		mutex_unlock(&groups_lock);
		if (!g)
			return SA_NO_RECORDS;
	} else if ((mask & IB_SA_PATH_REC_DGID) ? !port_find(0, r->dgid, &dst) :
		   (mask & IB_SA_PATH_REC_DLID) ?
		   !port_find(be16_to_cpu(r->dlid), NULL, &dst) : true) {
		return SA_NO_RECORDS;
	}
	/* The partition: as asked, else the first that both ends share. */
	for (i = 0; i < VHCA_NPKEYS && !pkey; i++)
		for (k = 0; k < VHCA_NPKEYS && !pkey; k++)
			if (vhca_pkey_match(src.pkeys[i], dst.pkeys[k]) &&
			    (!(mask & IB_SA_PATH_REC_PKEY) ||
			     ((be16_to_cpu(r->pkey) ^ src.pkeys[i]) & 0x7fff) == 0))
				pkey = src.pkeys[i];
	if (!pkey)
		return SA_NO_RECORDS;

	put_unaligned_be64(0xfe80000000000000ull, r->sgid);
	put_unaligned_be64(src.guid, r->sgid + 8);
	if (r->dgid[0] != 0xff) {
		put_unaligned_be64(0xfe80000000000000ull, r->dgid);
		put_unaligned_be64(dst.guid, r->dgid + 8);
	}
	r->slid = cpu_to_be16(src.lid);
	r->dlid = cpu_to_be16(dst.lid);
	r->flow_hop = 0;
	r->tclass = 0;
	r->rev_numb = 0x80 | 1;
	r->pkey = cpu_to_be16(pkey);
	r->qos_sl = 0;
	r->mtu = 2 << 6 | IB_MTU_4096;
	r->rate = 2 << 6 | RATE_100G;
	r->life = 2 << 6 | PKT_LIFE;
	r->pref = 0;
	return SA_OK;
}

/* -------------------------------------------------------------- SA agent -- */

static u16 sa_answer(struct sa_job *j)
{
	struct ib_mad_hdr *h = &j->mad.mad_hdr;
	struct ib_class_port_info *cpi = (void *)j->mad.data;
	u16 st = SA_BAD_METHOD_ATTR;
	struct mc_group *g;

	switch (be16_to_cpu(h->attr_id)) {
	case 0x0001:		/* ClassPortInfo */
		memset(cpi, 0, sizeof(*cpi));
		cpi->base_version = IB_MGMT_BASE_VERSION;
		cpi->class_version = IB_SA_CLASS_VERSION;
		cpi->cap_mask2_resp_time = cpu_to_be32(
			IB_SA_CAP_MASK2_SENDONLY_FULL_MEM_SUPPORT <<
			IB_CLASS_PORT_INFO_RESP_TIME_FIELD_SIZE | 16);
		st = SA_OK;
		break;
	case IB_SA_ATTR_PATH_REC:
		if (h->method == IB_MGMT_METHOD_GET)
			st = path_query(j, (void *)j->mad.data);
		break;
	case IB_SA_ATTR_MC_MEMBER_REC:
		mutex_lock(&groups_lock);
		if (h->method == IB_MGMT_METHOD_SET) {
			st = mc_join(j, (void *)j->mad.data);
		} else if (h->method == IB_SA_METHOD_DELETE) {
			st = mc_leave((void *)j->mad.data);
		} else if (h->method == IB_MGMT_METHOD_GET) {
			struct mc_rec *r = (void *)j->mad.data;

			g = group_find(r->mgid);
			if (g)
				answer_group(r, g, r->port_gid, 1);
			st = g ? SA_OK : SA_NO_RECORDS;
		}
		mutex_unlock(&groups_lock);
		break;
	case IB_SA_ATTR_SERVICE_REC:
		if (h->method != IB_SA_METHOD_GET_TABLE)
			st = h->method == IB_MGMT_METHOD_GET ? SA_NO_RECORDS : SA_OK;
		break;
	}
	return st;
}

static void sa_work(struct work_struct *w)
{
	struct sa_job *j = container_of(to_delayed_work(w), struct sa_job, work);
	struct ib_mad_hdr *h = &j->mad.mad_hdr;
	struct vhca_pkt *p;
	u16 st;

	st = sa_answer(j);
	pr_debug("vhca: SA %#x attr %#x from LID %u: status %#x\n",
		 h->method, be16_to_cpu(h->attr_id), j->slid, st);
	h->method = h->method == IB_SA_METHOD_DELETE ? IB_SA_METHOD_DELETE_RESP :
		    h->method | IB_MGMT_METHOD_RESP;
	if (h->method == (IB_MGMT_METHOD_SET | IB_MGMT_METHOD_RESP))
		h->method = IB_MGMT_METHOD_GET_RESP;
	h->status = cpu_to_be16(st);
	memset(&j->mad.rmpp_hdr, 0, sizeof(j->mad.rmpp_hdr));

	p = kzalloc(struct_size(p, data, sizeof(j->mad)), GFP_KERNEL);
	if (p) {
		p->slid = vhca_sm_lid;
		p->dlid = j->slid;
		p->src_qpn = 1;
		p->dst_qpn = j->src_qpn;
		p->qkey = IB_QP1_QKEY;
		p->pkey = j->pkey;
		p->len = sizeof(j->mad);
		memcpy(p->data, &j->mad, sizeof(j->mad));
		rcu_read_lock();
		vhca_switch(p);
		rcu_read_unlock();
		kfree(p);
	}
	kfree(j);
	atomic_dec(&sa_pending);
}

void vhca_sa_rx(const struct vhca_pkt *p)
{
	const struct ib_sa_mad *mad = (const void *)p->data;
	struct sa_job *j;

	if (p->len < sizeof(*mad) || p->dst_qpn != 1 ||
	    mad->mad_hdr.mgmt_class != IB_MGMT_CLASS_SUBN_ADM ||
	    (mad->mad_hdr.method & IB_MGMT_METHOD_RESP))
		return;
	if (sa_drop_every && !(atomic_inc_return(&sa_count) % sa_drop_every))
		return;
	j = kmalloc(sizeof(*j), GFP_ATOMIC);
	if (!j)
		return;
	INIT_DELAYED_WORK(&j->work, sa_work);
	j->slid = p->slid;
	j->pkey = p->pkey;
	j->src_qpn = p->src_qpn;
	memcpy(&j->mad, mad, sizeof(*mad));
	atomic_inc(&sa_pending);
	queue_delayed_work(sa_wq, &j->work, msecs_to_jiffies(sa_delay_ms));
}

/* --------------------------------------------------- what a port answers -- */

static bool smp_get(struct vhca_dev *d, const struct ib_smp *in, struct ib_smp *out)
{
	u32 mod = be32_to_cpu(in->attr_mod);
	struct ib_node_info *ni = (void *)out->data;
	struct ib_port_info *pi = (void *)out->data;
	__be16 *pk = (void *)out->data;
	int i;

	memset(out->data, 0, sizeof(out->data));
	switch (in->attr_id) {
	case IB_SMP_ATTR_NODE_DESC:
		memcpy(out->data, d->rdi.ibdev.node_desc, 64);
		return true;
	case IB_SMP_ATTR_NODE_INFO:
		ni->base_version = IB_MGMT_BASE_VERSION;
		ni->class_version = 1;
		ni->node_type = 1;
		ni->num_ports = 1;
		ni->sys_guid = d->rdi.dparms.props.sys_image_guid;
		ni->node_guid = cpu_to_be64(d->node_guid);
		ni->port_guid = cpu_to_be64(d->port_guid);
		ni->partition_cap = cpu_to_be16(VHCA_NPKEYS);
		ni->device_id = cpu_to_be16(d->pdev->device);
		ni->local_port_num = 1;
		ni->vendor_id[1] = 0x02;
		ni->vendor_id[2] = 0xc9;
		return true;
	case IB_SMP_ATTR_GUID_INFO:
		*(__be64 *)out->data = cpu_to_be64(d->port_guid);
		return true;
	case IB_SMP_ATTR_PKEY_TABLE:
		for (i = 0; !mod && i < VHCA_NPKEYS; i++)
			pk[i] = cpu_to_be16(d->pkeys[i]);
		return true;
	case IB_SMP_ATTR_PORT_INFO:
		pi->gid_prefix = d->ibp.gid_prefix;
		pi->lid = cpu_to_be16(d->lid);
		pi->sm_lid = cpu_to_be16(vhca_sm_lid);
		pi->cap_mask = cpu_to_be32(d->ibp.port_cap_flags);
		pi->local_port_num = 1;
		pi->link_width_enabled = pi->link_width_supported = 3;
		pi->link_width_active = 2;
		pi->linkspeed_portstate = 1 << 4 | (vhca_active(d) ? 4 : d->up ? 2 : 1);
		pi->portphysstate_linkdown = (d->up ? 5 : 2) << 4 | 2;
		pi->linkspeedactive_enabled = 1 << 4 | 1;
		pi->neighbormtu_mastersmsl = IB_MTU_4096 << 4;
		pi->vlcap_inittype = 4 << 4;
		pi->inittypereply_mtucap = IB_MTU_4096;
		return true;
	}
	return false;
}

static bool pma_get(struct vhca_dev *d, const struct ib_mad *in, struct ib_mad *out)
{
	const int off = 40;		/* performance MADs carry data at byte 64 */
	u64 tb = atomic64_read(&d->tx_bytes) / 4, rb = atomic64_read(&d->rx_bytes) / 4;
	u64 tp = atomic64_read(&d->tx_pkts), rp = atomic64_read(&d->rx_pkts);
	struct ib_class_port_info *cpi = (void *)(out->data + off);
	struct ib_pma_portcounters *pc = (void *)(out->data + off);
	struct ib_pma_portcounters_ext *px = (void *)(out->data + off);

	memset(out->data, 0, sizeof(out->data));
	switch (in->mad_hdr.attr_id) {
	case IB_PMA_CLASS_PORT_INFO:
		cpi->base_version = 1;
		cpi->class_version = 1;
		cpi->capability_mask = IB_PMA_CLASS_CAP_EXT_WIDTH;
		return true;
	case IB_PMA_PORT_COUNTERS:
		pc->port_select = 1;
		pc->port_xmit_data = cpu_to_be32(min_t(u64, tb, U32_MAX));
		pc->port_rcv_data = cpu_to_be32(min_t(u64, rb, U32_MAX));
		pc->port_xmit_packets = cpu_to_be32(min_t(u64, tp, U32_MAX));
		pc->port_rcv_packets = cpu_to_be32(min_t(u64, rp, U32_MAX));
		pc->port_xmit_discards = cpu_to_be16(
			min_t(u64, atomic64_read(&d->drops), U16_MAX));
		pc->port_rcv_constraint_errors =
			min_t(u64, atomic64_read(&d->pkey_drops), U8_MAX);
		return true;
	case IB_PMA_PORT_COUNTERS_EXT:
		px->port_select = 1;
		px->port_xmit_data = cpu_to_be64(tb);
		px->port_rcv_data = cpu_to_be64(rb);
		px->port_xmit_packets = cpu_to_be64(tp);
		px->port_rcv_packets = cpu_to_be64(rp);
		px->port_unicast_xmit_packets = cpu_to_be64(tp);
		px->port_unicast_rcv_packets = cpu_to_be64(rp);
		return true;
	}
	return false;
}

int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port,
		     const struct ib_wc *wc, const struct ib_grh *grh,
		     const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index)
{
	struct vhca_dev *d = to_vdev(ibdev);
	bool smp = in->mad_hdr.mgmt_class == IB_MGMT_CLASS_SUBN_LID_ROUTED ||
		   in->mad_hdr.mgmt_class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE;
	bool ok;

	if (!smp && in->mad_hdr.mgmt_class != IB_MGMT_CLASS_PERF_MGMT)
		return IB_MAD_RESULT_SUCCESS;
	if (in->mad_hdr.method != IB_MGMT_METHOD_GET)
		return IB_MAD_RESULT_SUCCESS;
	*out = *in;
	ok = smp ? smp_get(d, (const void *)in, (void *)out) : pma_get(d, in, out);
	out->mad_hdr.method = IB_MGMT_METHOD_GET_RESP;
	out->mad_hdr.status = ok ? 0 : cpu_to_be16(SA_BAD_METHOD_ATTR);
	if (in->mad_hdr.mgmt_class == IB_MGMT_CLASS_SUBN_DIRECTED_ROUTE)
		out->mad_hdr.status |= IB_SMP_DIRECTION;
	return IB_MAD_RESULT_SUCCESS | IB_MAD_RESULT_REPLY;
}

/* ------------------------------------------------------------ life cycle -- */

int vhca_sa_init(void)
{
	static const u8 pfx[16] = { 0xff, 0x12, 0x40, 0x1b, 0, 0, 0, 0,
				    0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };
	struct mc_rec r;
	int i;

	sa_wq = alloc_ordered_workqueue("vhca_sa", 0);
	if (!sa_wq)
		return -ENOMEM;
	/* Each partition has its IPv4 broadcast group, as opensm's ipoib flag does. */
	for (i = 0; i < VHCA_NPKEYS; i++) {
		struct mc_group *g;

		if (!vhca_pkeys[i])
			continue;
		memset(&r, 0, sizeof(r));
		memcpy(r.mgid, pfx, 16);
		r.pkey = cpu_to_be16(vhca_pkeys[i] | 0x8000);
		memcpy(r.mgid + 4, &r.pkey, 2);
		if (group_find(r.mgid))
			continue;
		r.qkey = cpu_to_be32(IPOIB_QKEY);
		r.mtu = 2 << 6 | VHCA_MC_MTU;
		r.rate = 2 << 6 | IB_RATE_10_GBPS;
		r.life = 2 << 6 | PKT_LIFE;
		r.scope_join = 0x20;
		g = group_add(&r);
		if (g)
			g->permanent = true;
	}
	return 0;
}

void vhca_sa_exit(void)
{
	struct mc_group *g, *n;

	while (atomic_read(&sa_pending))	/* delayed answers still to come */
		msleep(10);
	destroy_workqueue(sa_wq);
	list_for_each_entry_safe(g, n, &groups, list) {
		g->permanent = false;
		group_put(g);
	}
}
