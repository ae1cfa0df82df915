// SPDX-License-Identifier: GPL-2.0
/*
 * Stand-in for a subnet manager: it sits at LID vhca_sm_lid, QP1, and answers
 * the subnet administration queries that ib_core and IPoIB make: ClassPortInfo,
 * PathRecord, MCMemberRecord, ServiceRecord. It may share its LID with a port:
 * it takes only such queries, and leaves everything else to that port.
 */
#include "vhca.h"
#include <linux/delay.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

#define SA_OK			0
#define SA_NO_RESOURCES		0x0100
#define SA_REQ_INVALID		0x0200
#define SA_NO_RECORDS		0x0300
#define SA_BAD_METHOD_ATTR	0x000c

#define ATTR_CLASS_PORT_INFO	0x0001
#define IPOIB_QKEY		0x0b1b
#define PACKET_LIFETIME		18
#define RESPONSE_TIME		16
#define EXACTLY(v)		(2 << 6 | ((v) & 0x3f))	/* selector and value in one byte */
#define JOIN_FULL		1
#define JOIN_STATES		0xf
#define SCOPE_LINK_LOCAL	0x20

unsigned int vhca_sm_lid = 1;
module_param_named(sm_lid, vhca_sm_lid, uint, 0444);
MODULE_PARM_DESC(sm_lid, "LID of the subnet manager stand-in (1); may be a port's");

static bool sm = true;
module_param(sm, bool, 0444);
MODULE_PARM_DESC(sm, "run the subnet manager stand-in here (one machine per fabric)");

static unsigned int sa_delay_ms;
module_param(sa_delay_ms, uint, 0644);
MODULE_PARM_DESC(sa_delay_ms, "extra time the subnet administrator takes over each answer");

static unsigned int sa_drop_every;
module_param(sa_drop_every, uint, 0644);
MODULE_PARM_DESC(sa_drop_every, "lose every n-th query (0: none)");

struct multicast_record {	/* MCMemberRecord on the wire */
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

struct path_record {		/* PathRecord on the wire */
	__be64 service_id;
	u8 dgid[16];
	u8 sgid[16];
	__be16 dlid;
	__be16 slid;
	__be32 flow_hop;
	u8 tclass;
	u8 reversible_numb_path;
	__be16 pkey;
	__be16 qos_sl;
	u8 mtu;
	u8 rate;
	u8 life;
	u8 preference;
	u8 resv[6];
} __packed;

struct member {
	struct list_head list;
	u8 gid[16];
	u8 join;
};

struct group {
	struct list_head list;
	struct list_head members;
	bool permanent;
	struct multicast_record record;	/* port_gid and join state unused */
};

/* A query and, once it is worked on, its answer. */
struct query {
	struct delayed_work work;
	u8 fabric;
	u16 slid, pkey;
	u32 src_qpn;
	struct ib_sa_mad mad;
};

/*
 * Groups are common to all fabrics of this kernel. That shows in nothing but
 * their parameters: switch.c delivers within the sender's fabric only.
 */
static LIST_HEAD(groups);
static DEFINE_MUTEX(groups_lock);
static u16 next_mlid = VHCA_MCAST_LID;

static struct workqueue_struct *query_queue;
static atomic_t query_count, queries_pending;

bool vhca_sa_here(u16 lid)
{
	return sm && lid == vhca_sm_lid;
}

/* ----------------------------------------------------------------- ports -- */

/* Find a port, here or elsewhere, by its GUID, or when that is 0 by its LID. */
static bool port_find(u8 fabric, u16 lid, u64 guid, struct vhca_port_view *v)
{
	struct vhca_dev *d;
	bool found = false;
	int i;

	rcu_read_lock();
	for (i = 1; i < VHCA_MAX_LID && !found; i++) {
		d = vhca_port_at(fabric, i);
		if (!d || !vhca_active(d) || (guid ? d->port_guid != guid : i != lid))
			continue;
		v->fabric = fabric;
		v->lid = d->lid;
		v->guid = d->port_guid;
		memcpy(v->pkeys, d->pkeys, sizeof(v->pkeys));
		found = true;
	}
	rcu_read_unlock();
	return found || vhca_link_find_port(fabric, lid, guid, v);
}

static bool port_by_gid(u8 fabric, const u8 *gid, struct vhca_port_view *v)
{
	u64 guid = get_unaligned_be64(gid + 8);

	return guid && port_find(fabric, 0, guid, v);
}

static bool port_by_lid(u8 fabric, u16 lid, struct vhca_port_view *v)
{
	return port_find(fabric, lid, 0, v);
}

static bool port_has_pkey(const struct vhca_port_view *v, __be16 pkey)
{
	int i;

	for (i = 0; i < VHCA_PKEYS; i++)
		if (vhca_pkey_match(v->pkeys[i], be16_to_cpu(pkey) | 0x8000))
			return true;
	return false;
}

/* -------------------------------------------- multicast, groups_lock held -- */

static struct group *group_find(const u8 *mgid)
{
	struct group *g;

	list_for_each_entry(g, &groups, list)
		if (!memcmp(g->record.mgid, mgid, sizeof(g->record.mgid)))
			return g;
	return NULL;
}

static struct group *group_add(const struct multicast_record *r)
{
	struct group *g = kzalloc(sizeof(*g), GFP_KERNEL);

	if (!g)
		return NULL;
	INIT_LIST_HEAD(&g->members);
	g->record = *r;
	g->record.mlid = cpu_to_be16(next_mlid);
	if (++next_mlid == 0xfffe)		/* the last one but the permissive LID */
		next_mlid = VHCA_MCAST_LID + 0x100;
	list_add_tail(&g->list, &groups);
	return g;
}

static void group_free(struct group *g)
{
	struct member *m, *next;

	list_for_each_entry_safe(m, next, &g->members, list)
		kfree(m);
	list_del(&g->list);
	kfree(g);
}

static void group_free_if_empty(struct group *g)
{
	if (list_empty(&g->members) && !g->permanent)
		group_free(g);
}

static struct member *member_find(struct group *g, const u8 *gid)
{
	struct member *m;

	list_for_each_entry(m, &g->members, list)
		if (!memcmp(m->gid, gid, sizeof(m->gid)))
			return m;
	return NULL;
}

static struct member *member_add(struct group *g, const u8 *gid)
{
	struct member *m = kzalloc(sizeof(*m), GFP_KERNEL);

	if (!m)
		return NULL;
	memcpy(m->gid, gid, sizeof(m->gid));
	list_add_tail(&m->list, &g->members);
	return m;
}

static void member_drop(struct member *m)
{
	list_del(&m->list);
	kfree(m);
}

static void fill_answer(struct multicast_record *out, const struct group *g,
			const u8 *port_gid, u8 join)
{
	u8 gid[16];

	memcpy(gid, port_gid, sizeof(gid));	/* it may lie in *out */
	*out = g->record;
	memcpy(out->port_gid, gid, sizeof(gid));
	out->scope_join = (g->record.scope_join & ~JOIN_STATES) | (join & JOIN_STATES);
}

/* A group that the creator names no MGID for gets one made of its GUID. */
static void pick_mgid(struct multicast_record *r, u64 guid)
{
	static const u8 prefix[4] = { 0xff, 0x12, 0xa0, 0x1b };

	memcpy(r->mgid, prefix, sizeof(prefix));
	put_unaligned_be64(guid, r->mgid + 4);
	put_unaligned_be32(next_mlid, r->mgid + 12);
}

static u16 group_create(const struct multicast_record *wanted, ib_sa_comp_mask mask,
			const struct vhca_port_view *creator, struct group **g)
{
	const ib_sa_comp_mask need = IB_SA_MCMEMBER_REC_QKEY |
		IB_SA_MCMEMBER_REC_PKEY | IB_SA_MCMEMBER_REC_SL |
		IB_SA_MCMEMBER_REC_FLOW_LABEL | IB_SA_MCMEMBER_REC_TRAFFIC_CLASS;
	struct multicast_record r = *wanted;

	/* Only a full member that gives all parameters may create. */
	if ((mask & need) != need || !(r.scope_join & JOIN_FULL) ||
	    !port_has_pkey(creator, r.pkey))
		return SA_REQ_INVALID;
	r.mtu = EXACTLY(mask & IB_SA_MCMEMBER_REC_MTU ? r.mtu : IB_MTU_2048);
	r.rate = EXACTLY(mask & IB_SA_MCMEMBER_REC_RATE ? r.rate : IB_RATE_100_GBPS);
	r.life = EXACTLY(mask & IB_SA_MCMEMBER_REC_PACKET_LIFE_TIME ? r.life : PACKET_LIFETIME);
	if (!(mask & IB_SA_MCMEMBER_REC_SCOPE))
		r.scope_join = SCOPE_LINK_LOCAL;
	if (!memchr_inv(r.mgid, 0, sizeof(r.mgid)))
		pick_mgid(&r, creator->guid);
	*g = group_add(&r);
	return *g ? SA_OK : SA_NO_RESOURCES;
}

static u16 multicast_join(struct query *q, struct multicast_record *r)
{
	ib_sa_comp_mask mask = q->mad.sa_hdr.comp_mask;
	u8 join = r->scope_join & JOIN_STATES;
	struct vhca_port_view port;
	struct member *m;
	struct group *g;
	u16 status;

	if (!port_by_lid(q->fabric, q->slid, &port) || !join)
		return SA_REQ_INVALID;
	g = group_find(r->mgid);
	if (!g) {
		status = group_create(r, mask, &port, &g);
		if (status)
			return status;
	} else if (!port_has_pkey(&port, g->record.pkey) ||
		   ((mask & IB_SA_MCMEMBER_REC_QKEY) && r->qkey != g->record.qkey)) {
		return SA_REQ_INVALID;
	}
	m = member_find(g, r->port_gid) ?: member_add(g, r->port_gid);
	if (!m) {
		group_free_if_empty(g);
		return SA_NO_RESOURCES;
	}
	m->join |= join;
	fill_answer(r, g, m->gid, m->join);
	return SA_OK;
}

static u16 multicast_leave(struct multicast_record *r)
{
	struct group *g = group_find(r->mgid);
	struct member *m = g ? member_find(g, r->port_gid) : NULL;
	u8 leave = r->scope_join & JOIN_STATES;

	if (!m || !leave || (m->join & leave) != leave)
		return SA_REQ_INVALID;
	m->join &= ~leave;
	fill_answer(r, g, m->gid, m->join ? m->join : leave);
	if (!m->join)
		member_drop(m);
	group_free_if_empty(g);
	return SA_OK;
}

static u16 multicast_get(struct multicast_record *r)
{
	struct group *g = group_find(r->mgid);

	if (!g)
		return SA_NO_RECORDS;
	fill_answer(r, g, r->port_gid, JOIN_FULL);
	return SA_OK;
}

static u16 multicast_query(struct query *q)
{
	struct multicast_record *r = (void *)q->mad.data;
	u16 status = SA_BAD_METHOD_ATTR;

	mutex_lock(&groups_lock);
	switch (q->mad.mad_hdr.method) {
	case IB_MGMT_METHOD_SET:
		status = multicast_join(q, r);
		break;
	case IB_SA_METHOD_DELETE:
		status = multicast_leave(r);
		break;
	case IB_MGMT_METHOD_GET:
		status = multicast_get(r);
		break;
	}
	mutex_unlock(&groups_lock);
	return status;
}

/* A port left without a word (driver unbound): forget its memberships. */
void vhca_sa_port_gone(u64 port_guid)
{
	struct member *m, *next_member;
	struct group *g, *next_group;

	mutex_lock(&groups_lock);
	list_for_each_entry_safe(g, next_group, &groups, list) {
		list_for_each_entry_safe(m, next_member, &g->members, list)
			if (get_unaligned_be64(m->gid + 8) == port_guid)
				member_drop(m);
		group_free_if_empty(g);
	}
	mutex_unlock(&groups_lock);
}

/* ----------------------------------------------------------------- paths -- */

static bool path_source(struct query *q, const struct path_record *r, struct vhca_port_view *v)
{
	ib_sa_comp_mask mask = q->mad.sa_hdr.comp_mask;

	if (mask & IB_SA_PATH_REC_SGID)
		return port_by_gid(q->fabric, r->sgid, v);
	if (mask & IB_SA_PATH_REC_SLID)
		return port_by_lid(q->fabric, be16_to_cpu(r->slid), v);
	return port_by_lid(q->fabric, q->slid, v);
}

/* A group as destination: a port at its LID that has its P_Key alone. */
static bool path_group(const u8 *mgid, struct vhca_port_view *v)
{
	struct group *g;

	mutex_lock(&groups_lock);
	g = group_find(mgid);
	if (g) {
		memset(v, 0, sizeof(*v));
		v->lid = be16_to_cpu(g->record.mlid);
		v->pkeys[0] = be16_to_cpu(g->record.pkey) | 0x8000;
	}
	mutex_unlock(&groups_lock);
	return g;
}

static bool is_multicast(const u8 *gid)
{
	return gid[0] == 0xff;
}

static bool path_destination(struct query *q, const struct path_record *r,
			     struct vhca_port_view *v)
{
	ib_sa_comp_mask mask = q->mad.sa_hdr.comp_mask;

	if (mask & IB_SA_PATH_REC_DGID)
		return is_multicast(r->dgid) ? path_group(r->dgid, v) :
					       port_by_gid(q->fabric, r->dgid, v);
	return (mask & IB_SA_PATH_REC_DLID) &&
	       port_by_lid(q->fabric, be16_to_cpu(r->dlid), v);
}

/* The source's P_Key for a partition both are in: the one asked for, or the first. */
static u16 common_pkey(const struct vhca_port_view *a, const struct vhca_port_view *b,
		       bool asked, u16 partition)
{
	int i, k;

	for (i = 0; i < VHCA_PKEYS; i++)
		for (k = 0; k < VHCA_PKEYS; k++)
			if (vhca_pkey_match(a->pkeys[i], b->pkeys[k]) &&
			    (!asked || !((partition ^ a->pkeys[i]) & 0x7fff)))
				return a->pkeys[i];
	return 0;
}

static void fill_gid(u8 *gid, u64 guid)
{
	put_unaligned_be64(VHCA_GID_PREFIX, gid);
	put_unaligned_be64(guid, gid + 8);
}

static u16 path_query(struct query *q)
{
	bool asked = q->mad.sa_hdr.comp_mask & IB_SA_PATH_REC_PKEY;
	struct path_record *r = (void *)q->mad.data;
	struct vhca_port_view source, destination;
	u16 pkey;

	if (q->mad.mad_hdr.method != IB_MGMT_METHOD_GET)
		return SA_BAD_METHOD_ATTR;
	if (!path_source(q, r, &source) || !path_destination(q, r, &destination))
		return SA_NO_RECORDS;
	pkey = common_pkey(&source, &destination, asked, be16_to_cpu(r->pkey));
	if (!pkey)
		return SA_NO_RECORDS;

	fill_gid(r->sgid, source.guid);
	if (!is_multicast(r->dgid))
		fill_gid(r->dgid, destination.guid);
	r->slid = cpu_to_be16(source.lid);
	r->dlid = cpu_to_be16(destination.lid);
	r->flow_hop = 0;
	r->tclass = 0;
	r->reversible_numb_path = 0x80 | 1;
	r->pkey = cpu_to_be16(pkey);
	r->qos_sl = 0;
	r->mtu = EXACTLY(IB_MTU_4096);
	r->rate = EXACTLY(IB_RATE_100_GBPS);
	r->life = EXACTLY(PACKET_LIFETIME);
	r->preference = 0;
	return SA_OK;
}

/* --------------------------------------------------------------- queries -- */

static u16 class_port_info(struct query *q)
{
	struct ib_class_port_info *info = (void *)q->mad.data;

	memset(info, 0, sizeof(*info));
	info->base_version = IB_MGMT_BASE_VERSION;
	info->class_version = IB_SA_CLASS_VERSION;
	info->cap_mask2_resp_time = cpu_to_be32(
		IB_SA_CAP_MASK2_SENDONLY_FULL_MEM_SUPPORT <<
		IB_CLASS_PORT_INFO_RESP_TIME_FIELD_SIZE | RESPONSE_TIME);
	return SA_OK;
}

/* Services are taken note of by nobody, and none is ever found. */
static u16 service_query(struct query *q)
{
	switch (q->mad.mad_hdr.method) {
	case IB_SA_METHOD_GET_TABLE:
		return SA_BAD_METHOD_ATTR;
	case IB_MGMT_METHOD_GET:
		return SA_NO_RECORDS;
	default:
		return SA_OK;
	}
}

static u16 query_answer(struct query *q)
{
	switch (be16_to_cpu(q->mad.mad_hdr.attr_id)) {
	case ATTR_CLASS_PORT_INFO:
		return class_port_info(q);
	case IB_SA_ATTR_PATH_REC:
		return path_query(q);
	case IB_SA_ATTR_MC_MEMBER_REC:
		return multicast_query(q);
	case IB_SA_ATTR_SERVICE_REC:
		return service_query(q);
	default:
		return SA_BAD_METHOD_ATTR;
	}
}

static u8 answer_method(u8 method)
{
	switch (method) {
	case IB_SA_METHOD_DELETE:
		return IB_SA_METHOD_DELETE_RESP;
	case IB_MGMT_METHOD_SET:
		return IB_MGMT_METHOD_GET_RESP;
	default:
		return method | IB_MGMT_METHOD_RESP;
	}
}

static void query_reply(struct query *q)
{
	struct vhca_packet *p = kzalloc(struct_size(p, data, sizeof(q->mad)), GFP_KERNEL);

	if (!p)
		return;			/* as if lost */
	p->fabric = q->fabric;
	p->slid = vhca_sm_lid;
	p->dlid = q->slid;
	p->src_qpn = 1;
	p->dst_qpn = q->src_qpn;
	p->qkey = IB_QP1_QKEY;
	p->pkey = q->pkey;
	p->len = sizeof(q->mad);
	memcpy(p->data, &q->mad, sizeof(q->mad));
	rcu_read_lock();
	vhca_switch(p);
	rcu_read_unlock();
	kfree(p);
}

static void query_work(struct work_struct *w)
{
	struct query *q = container_of(to_delayed_work(w), struct query, work);
	struct ib_mad_hdr *h = &q->mad.mad_hdr;
	u16 status = query_answer(q);

	pr_debug("vhca: SA method %#x attribute %#x from LID %u: status %#x\n",
		 h->method, be16_to_cpu(h->attr_id), q->slid, status);
	h->method = answer_method(h->method);
	h->status = cpu_to_be16(status);
	memset(&q->mad.rmpp_hdr, 0, sizeof(q->mad.rmpp_hdr));
	query_reply(q);
	kfree(q);
	atomic_dec(&queries_pending);
}

/* Take a packet that is a query for the subnet administrator. */
bool vhca_sa_take(const struct vhca_packet *p)
{
	const struct ib_sa_mad *mad = (const void *)p->data;
	struct query *q;

	if (!vhca_sa_here(p->dlid) || p->dst_qpn != 1 || p->len < sizeof(*mad) ||
	    mad->mad_hdr.mgmt_class != IB_MGMT_CLASS_SUBN_ADM ||
	    (mad->mad_hdr.method & IB_MGMT_METHOD_RESP))
		return false;
	if (sa_drop_every && !(atomic_inc_return(&query_count) % sa_drop_every))
		return true;
	q = kmalloc(sizeof(*q), GFP_ATOMIC);
	if (!q)
		return true;
	INIT_DELAYED_WORK(&q->work, query_work);
	q->fabric = p->fabric;
	q->slid = p->slid;
	q->pkey = p->pkey;
	q->src_qpn = p->src_qpn;
	memcpy(&q->mad, mad, sizeof(*mad));
	atomic_inc(&queries_pending);
	queue_delayed_work(query_queue, &q->work, msecs_to_jiffies(sa_delay_ms));
	return true;
}

/* ------------------------------------------------------------ life cycle -- */

/* A partition's IPv4 broadcast group, as opensm's "ipoib" flag makes it. */
static void broadcast_group_add(u16 pkey)
{
	struct multicast_record r = {
		.mgid = { 0xff, 0x12, 0x40, 0x1b, [12] = 0xff, 0xff, 0xff, 0xff },
		.qkey = cpu_to_be32(IPOIB_QKEY),
		.pkey = cpu_to_be16(pkey | 0x8000),
		.mtu = EXACTLY(IB_MTU_2048),
		.rate = EXACTLY(IB_RATE_10_GBPS),
		.life = EXACTLY(PACKET_LIFETIME),
		.scope_join = SCOPE_LINK_LOCAL,
	};
	struct group *g;

	memcpy(r.mgid + 4, &r.pkey, sizeof(r.pkey));
	if (group_find(r.mgid))
		return;
	g = group_add(&r);
	if (g)
		g->permanent = true;
}

int vhca_sa_init(void)
{
	int i;

	query_queue = alloc_ordered_workqueue("vhca_sa", 0);
	if (!query_queue)
		return -ENOMEM;
	for (i = 0; i < VHCA_PKEYS; i++)
		if (vhca_default_pkeys[i])
			broadcast_group_add(vhca_default_pkeys[i]);
	return 0;
}

void vhca_sa_exit(void)
{
	struct group *g, *next;

	while (atomic_read(&queries_pending))	/* delayed answers still to come */
		msleep(10);
	destroy_workqueue(query_queue);
	list_for_each_entry_safe(g, next, &groups, list)
		group_free(g);
}
