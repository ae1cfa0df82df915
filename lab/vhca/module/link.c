// SPDX-License-Identifier: GPL-2.0
/*
 * One fabric over several kernels: what is addressed to a LID that is not
 * here goes out of an Ethernet device as raw frames, and every other vhca on
 * that segment picks out what is for its own LIDs. Each kernel tells the
 * others its ports every second, so that the one that runs the subnet
 * administrator can answer for all of them. UD packets travel as they are;
 * link_ruc.c has the rest.
 */
#include "link.h"
#include <linux/if_ether.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>

#define ETH_P_VHCA		0x88b6		/* IEEE local experimental 2 */
#define MTU_MIN			(VHCA_UD_MTU + VHCA_GRH_LEN + sizeof(struct link_header))
#define FRAME_MIN		64
#define PORTS_PER_FRAME		16
#define PORT_LIFETIME		(5 * HZ)	/* after its last announcement */

static char *link = "";
module_param(link, charp, 0444);
MODULE_PARM_DESC(link, "Ethernet device that joins this fabric with other machines'");

static unsigned int link_drop_every;
module_param(link_drop_every, uint, 0644);
MODULE_PARM_DESC(link_drop_every, "lose every n-th frame that comes in (0: none)");

struct announced_port {
	__be16 lid;
	__be16 pkeys[VHCA_PKEYS];
	__be64 guid;
	u8 fabric;
} __packed;

struct far_port {
	struct vhca_port_view view;	/* LID 0: never heard of */
	unsigned long seen;		/* jiffies */
};

static struct net_device *netdev;
static struct sk_buff_head tx_frames, rx_frames;
static struct workqueue_struct *link_queue;
static struct far_port far_ports[VHCA_MAX_LID];
static DEFINE_SPINLOCK(far_ports_lock);

static void transmit(struct work_struct *w);
static void receive(struct work_struct *w);
static void announce(struct work_struct *w);
static DECLARE_WORK(transmit_work, transmit);
static DECLARE_WORK(receive_work, receive);
static DECLARE_DELAYED_WORK(announce_work, announce);

bool vhca_link_on(void)
{
	return netdev;
}

struct net_device *vhca_link_netdev(void)
{
	return netdev;
}

/* ---------------------------------------------------------------- frames -- */

struct link_header *vhca_link_frame(enum link_frame type, u32 len, struct sk_buff **skb, u8 **data)
{
	u32 room = LL_RESERVED_SPACE(netdev), size = sizeof(struct link_header) + len;
	struct link_header *h;

	*skb = alloc_skb(room + max_t(u32, size, FRAME_MIN), GFP_ATOMIC);
	if (!*skb)
		return NULL;
	skb_reserve(*skb, room);
	h = skb_put_zero(*skb, size);
	h->type = type;
	*data = (u8 *)(h + 1);
	return h;
}

/* May be called with interrupts off, which transmission may not. */
void vhca_link_send(struct sk_buff *skb)
{
	skb->dev = netdev;
	skb->protocol = htons(ETH_P_VHCA);
	skb_queue_tail(&tx_frames, skb);
	queue_work(link_queue, &transmit_work);
}

static void transmit(struct work_struct *w)
{
	struct sk_buff *skb;

	while ((skb = skb_dequeue(&tx_frames))) {
		skb_reset_network_header(skb);
		if (dev_hard_header(skb, netdev, ETH_P_VHCA, netdev->broadcast,
				    netdev->dev_addr, skb->len) < 0)
			kfree_skb(skb);
		else
			dev_queue_xmit(skb);
	}
}

static int packet_rcv(struct sk_buff *skb, struct net_device *dev,
		      struct packet_type *type, struct net_device *orig)
{
	static atomic_t count;

	if ((link_drop_every && !(atomic_inc_return(&count) % link_drop_every)) ||
	    dev != netdev || skb_linearize(skb) || skb->len < sizeof(struct link_header)) {
		kfree_skb(skb);
		return NET_RX_DROP;
	}
	skb_queue_tail(&rx_frames, skb);
	queue_work(link_queue, &receive_work);
	return NET_RX_SUCCESS;
}

static struct packet_type vhca_packet_type = {
	.type = cpu_to_be16(ETH_P_VHCA), .func = packet_rcv,
};

/* ----------------------------------------------------------- other ports -- */

static bool far_port_is(struct far_port *p, u8 fabric, u16 lid, u64 guid)
{
	return p->view.lid && p->view.fabric == fabric &&
	       (guid ? p->view.guid == guid : p->view.lid == lid) &&
	       time_before_eq(jiffies, p->seen + PORT_LIFETIME);
}

/* Find a port of another machine by its GUID, or when that is 0 by its LID. */
bool vhca_link_find_port(u8 fabric, u16 lid, u64 guid, struct vhca_port_view *v)
{
	unsigned long flags;
	bool found = false;
	int i;

	if (!netdev)
		return false;
	spin_lock_irqsave(&far_ports_lock, flags);
	for (i = 1; i < VHCA_MAX_LID && !found; i++) {
		found = far_port_is(&far_ports[i], fabric, lid, guid);
		if (found)
			*v = far_ports[i].view;
	}
	spin_unlock_irqrestore(&far_ports_lock, flags);
	return found;
}

static void announced_port_fill(struct announced_port *p, struct vhca_dev *d)
{
	int i;

	p->lid = cpu_to_be16(d->lid);
	p->guid = cpu_to_be64(d->port_guid);
	p->fabric = d->fabric;
	for (i = 0; i < VHCA_PKEYS; i++)
		p->pkeys[i] = cpu_to_be16(d->pkeys[i]);
}

/* Announce the active ports from *lid on, as many as a frame holds. */
static void announce_some(int *lid)
{
	struct announced_port *ports;
	struct link_header *h;
	struct sk_buff *skb;
	struct vhca_dev *d;
	int n = 0;
	u8 *data;

	h = vhca_link_frame(FRAME_PORTS, PORTS_PER_FRAME * sizeof(*ports), &skb, &data);
	if (!h) {
		*lid = VHCA_MAX_LID;		/* next second, then */
		return;
	}
	ports = (struct announced_port *)data;
	rcu_read_lock();
	for (; *lid < VHCA_MAX_LID && n < PORTS_PER_FRAME; ++*lid) {
		d = rcu_dereference(vhca_ports[*lid]);
		if (d && vhca_active(d))
			announced_port_fill(&ports[n++], d);
	}
	rcu_read_unlock();
	h->total = cpu_to_be32(n);
	vhca_link_send(skb);
}

static void announce(struct work_struct *w)
{
	int lid = 1;

	while (lid < VHCA_MAX_LID)
		announce_some(&lid);
	queue_delayed_work(link_queue, &announce_work, HZ);
}

/* Something about a port changed: tell now. */
void vhca_link_announce(void)
{
	if (netdev)
		mod_delayed_work(link_queue, &announce_work, 0);
}

static void far_port_update(const struct announced_port *p)
{
	u16 lid = be16_to_cpu(p->lid);
	struct far_port *far;
	int i;

	if (!lid || lid >= VHCA_MAX_LID)
		return;
	far = &far_ports[lid];
	far->view.lid = lid;
	far->view.fabric = p->fabric;
	far->view.guid = be64_to_cpu(p->guid);
	for (i = 0; i < VHCA_PKEYS; i++)
		far->view.pkeys[i] = be16_to_cpu(p->pkeys[i]);
	far->seen = jiffies;
}

static void receive_ports(struct link_header *h, u8 *data, u32 len)
{
	const struct announced_port *ports = (void *)data;
	u32 i, n = be32_to_cpu(h->total);

	if (n > len / sizeof(*ports))
		return;
	spin_lock_irq(&far_ports_lock);
	for (i = 0; i < n; i++)
		far_port_update(&ports[i]);
	spin_unlock_irq(&far_ports_lock);
}

/* -------------------------------------------------------------------- UD -- */

void vhca_link_send_ud(const struct vhca_packet *p)
{
	struct link_header *h;
	struct sk_buff *skb;
	u8 *data;

	if (!netdev)
		return;
	h = vhca_link_frame(FRAME_UD, p->len + (p->has_grh ? VHCA_GRH_LEN : 0), &skb, &data);
	if (!h)
		return;
	h->fabric = p->fabric;
	h->slid = cpu_to_be16(p->slid);
	h->dlid = cpu_to_be16(p->dlid);
	h->pkey = cpu_to_be16(p->pkey);
	h->sl = p->sl;
	h->solicited = p->solicited;
	h->src_qpn = cpu_to_be32(p->src_qpn);
	h->dst_qpn = cpu_to_be32(p->dst_qpn);
	h->key = cpu_to_be32(p->qkey);
	h->has_imm = p->has_imm;
	h->imm = p->imm;
	h->total = cpu_to_be32(p->len);
	h->has_grh = p->has_grh;
	if (p->has_grh) {
		memcpy(data, &p->grh, VHCA_GRH_LEN);
		data += VHCA_GRH_LEN;
	}
	memcpy(data, p->data, p->len);
	vhca_link_send(skb);
}

static void receive_ud(struct link_header *h, u8 *data, u32 len)
{
	u32 n = be32_to_cpu(h->total);
	struct vhca_packet *p;

	if (n > VHCA_UD_MTU || n + (h->has_grh ? VHCA_GRH_LEN : 0) > len)
		return;
	p = kzalloc(struct_size(p, data, n), GFP_KERNEL);
	if (!p)
		return;
	p->fabric = h->fabric;
	p->slid = be16_to_cpu(h->slid);
	p->dlid = be16_to_cpu(h->dlid);
	p->pkey = be16_to_cpu(h->pkey);
	p->sl = h->sl;
	p->solicited = h->solicited;
	p->src_qpn = be32_to_cpu(h->src_qpn);
	p->dst_qpn = be32_to_cpu(h->dst_qpn);
	p->qkey = be32_to_cpu(h->key);
	p->has_imm = h->has_imm;
	p->imm = h->imm;
	p->len = n;
	p->has_grh = h->has_grh;
	if (p->has_grh) {
		memcpy(&p->grh, data, VHCA_GRH_LEN);
		data += VHCA_GRH_LEN;
	}
	memcpy(p->data, data, n);
	rcu_read_lock();
	vhca_switch_local(p);
	rcu_read_unlock();
	kfree(p);
}

/* ------------------------------------------------------------ life cycle -- */

static void receive(struct work_struct *w)
{
	struct link_header *h;
	struct sk_buff *skb;
	u8 *data;
	u32 len;

	while ((skb = skb_dequeue(&rx_frames))) {
		h = (struct link_header *)skb->data;
		data = (u8 *)(h + 1);
		len = skb->len - sizeof(*h);
		switch (h->type) {
		case FRAME_UD:
			receive_ud(h, data, len);
			break;
		case FRAME_REQUEST:
			vhca_link_request(h, data, len);
			break;
		case FRAME_ANSWER:
			vhca_link_answer(h, data, len);
			break;
		case FRAME_PORTS:
			receive_ports(h, data, len);
			break;
		}
		kfree_skb(skb);
	}
}

int vhca_link_init(void)
{
	if (!*link)
		return 0;
	skb_queue_head_init(&tx_frames);
	skb_queue_head_init(&rx_frames);
	link_queue = alloc_workqueue("vhca_link", WQ_HIGHPRI, 0);
	if (!link_queue)
		return -ENOMEM;
	netdev = dev_get_by_name(&init_net, link);
	if (!netdev || netdev->mtu < MTU_MIN) {
		pr_err("vhca: link %s is missing, or its MTU is below %zu\n", link, MTU_MIN);
		if (netdev)
			dev_put(netdev);
		netdev = NULL;
		destroy_workqueue(link_queue);
		return -ENODEV;
	}
	dev_add_pack(&vhca_packet_type);
	queue_delayed_work(link_queue, &announce_work, 0);
	return 0;
}

void vhca_link_exit(void)
{
	if (!netdev)
		return;
	dev_remove_pack(&vhca_packet_type);
	cancel_delayed_work_sync(&announce_work);
	cancel_work_sync(&receive_work);
	cancel_work_sync(&transmit_work);
	skb_queue_purge(&rx_frames);
	skb_queue_purge(&tx_frames);
	destroy_workqueue(link_queue);
	dev_put(netdev);
	netdev = NULL;
}
