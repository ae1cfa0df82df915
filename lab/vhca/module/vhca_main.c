// SPDX-License-Identifier: GPL-2.0
/*
 * Module life cycle, the PCI driver and the ib_device of each function.
 */
#include "vhca.h"
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/if_link.h>

/* ------------------------------------------------------------ parameters -- */

unsigned int vhca_sm_lid = 1;
module_param_named(sm_lid, vhca_sm_lid, uint, 0444);
MODULE_PARM_DESC(sm_lid, "LID of the subnet manager stand-in (1)");

bool vhca_sm = true;
module_param_named(sm, vhca_sm, bool, 0444);
MODULE_PARM_DESC(sm, "run the subnet manager stand-in here (one machine per fabric)");

static int cards = 1;
module_param(cards, int, 0444);
MODULE_PARM_DESC(cards, "number of cards, each on a root bus of its own (1)");

static int bus = 0x86;
module_param(bus, int, 0444);
MODULE_PARM_DESC(bus, "bus number of the first card (0x86)");

static int domain;
module_param(domain, int, 0444);
MODULE_PARM_DESC(domain, "PCI domain of the cards (0)");

static int total_vfs = 16;
module_param(total_vfs, int, 0444);
MODULE_PARM_DESC(total_vfs, "TotalVFs of each card, 0 for no SR-IOV (16)");

static unsigned int lid_base = 2;
module_param(lid_base, uint, 0444);
MODULE_PARM_DESC(lid_base, "LID of the first PF; VF n has lid_base + n + 1 (2)");

static ulong guid_base = 0xe8ebd3030093ae10ul;
module_param(guid_base, ulong, 0444);
MODULE_PARM_DESC(guid_base, "node and port GUID of the first PF");

static char *vf_guid = "zero";
module_param(vf_guid, charp, 0444);
MODULE_PARM_DESC(vf_guid, "VF GUIDs before any is set: zero (as mlx5) or auto");

static char *vf_state = "auto";
module_param(vf_state, charp, 0444);
MODULE_PARM_DESC(vf_state, "VF link state before any is set: auto, enable, disable");

static char *guid_apply = "rebind";
module_param(guid_apply, charp, 0444);
MODULE_PARM_DESC(guid_apply, "a VF's new GUID shows at its next rebind (as mlx5) or now");

u16 vhca_pkeys[VHCA_NPKEYS] = { 0xffff };
module_param_array_named(pkeys, vhca_pkeys, ushort, NULL, 0444);
MODULE_PARM_DESC(pkeys, "P_Key table that every port starts with (0xffff)");

static char *ibname = "mlx5_%d";
module_param(ibname, charp, 0444);
MODULE_PARM_DESC(ibname, "name template of the RDMA devices (mlx5_%d)");

DEFINE_MUTEX(vhca_mutex);
struct vhca_card *vhca_cards[VHCA_MAX_CARDS];

/* ------------------------------------------------------------ link state -- */

static bool fn_link(struct vhca_fn *fn)
{
	if (!fn->idx)
		return fn->card->cable;
	switch (fn->policy) {
	case IFLA_VF_LINK_STATE_ENABLE:
		return true;
	case IFLA_VF_LINK_STATE_DISABLE:
		return false;
	default:
		return fn->card->cable;
	}
}

static void dev_event(struct vhca_dev *d, enum ib_event_type type)
{
	struct ib_event ev = {
		.device = &d->rdi.ibdev, .element.port_num = 1, .event = type,
	};

	ib_dispatch_event(&ev);
}

static void fn_link_update(struct vhca_fn *fn)	/* vhca_mutex held */
{
	struct vhca_dev *d = fn->dev;
	bool up = fn_link(fn);

	if (!d || d->up == up)
		return;
	d->up = up;
	vhca_link_hello();
	dev_event(d, up ? IB_EVENT_PORT_ACTIVE : IB_EVENT_PORT_ERR);
}

/* ----------------------------------------------------- ib_device methods -- */

static int query_port_state(struct rvt_dev_info *rdi, u32 port,
			    struct ib_port_attr *a)
{
	struct vhca_dev *d = container_of(rdi, struct vhca_dev, rdi);

	/* A port without a GUID of its own is none the SM can bring up. */
	a->state = vhca_active(d) ? IB_PORT_ACTIVE :
		   d->up ? IB_PORT_INIT : IB_PORT_DOWN;
	a->phys_state = d->up ? IB_PORT_PHYS_STATE_LINK_UP :
				IB_PORT_PHYS_STATE_POLLING;
	a->lid = vhca_active(d) ? d->lid : 0;
	a->lmc = 0;
	a->gid_tbl_len = 1;
	a->max_mtu = IB_MTU_4096;
	a->active_mtu = IB_MTU_4096;
	a->max_vl_num = 4;
	a->active_width = IB_WIDTH_4X;
	a->active_speed = IB_SPEED_EDR;
	return 0;
}

static int get_guid_be(struct rvt_dev_info *rdi, struct rvt_ibport *ibp,
		       int index, __be64 *guid)
{
	struct vhca_dev *d = container_of(rdi, struct vhca_dev, rdi);

	if (index)
		return -EINVAL;
	*guid = cpu_to_be64(d->port_guid);
	return 0;
}

static int shut_down_port(struct rvt_dev_info *rdi, u32 port) { return 0; }
static void cap_mask_chg(struct rvt_dev_info *rdi, u32 port) {}

static struct pci_dev *get_pci_dev(struct rvt_dev_info *rdi)
{
	return container_of(rdi, struct vhca_dev, rdi)->pdev;
}

static int modify_device(struct ib_device *ibdev, int mask,
			 struct ib_device_modify *m)
{
	if (mask & ~IB_DEVICE_MODIFY_NODE_DESC)
		return -EOPNOTSUPP;
	if (mask & IB_DEVICE_MODIFY_NODE_DESC)
		memcpy(ibdev->node_desc, m->node_desc, IB_DEVICE_NODE_DESC_MAX);
	return 0;
}

/* Present so that "rdma dev set DEV netns" and unbinding in use are allowed. */
static void disassociate_ucontext(struct ib_ucontext *ctx) {}

static void get_dev_fw_str(struct ib_device *ibdev, char *str)
{
	snprintf(str, IB_FW_VERSION_NAME_MAX, "16.35.2000");
}

/*
 * rdmavt's user queues are mapped with a pointer to the ucontext, which
 * rdmavt still follows when the mapping goes away. No rdmavt driver until now
 * could lose the ucontext first; one that allows disassociation can. So after
 * rdmavt's mmap point it at a context that lives as long as the device, and
 * let each mapping hold the device and this module.
 */
static int (*rvt_mmap_fn)(struct ib_ucontext *ctx, struct vm_area_struct *vma);
static const struct vm_operations_struct *rvt_vm_ops;

static void map_open(struct vm_area_struct *vma)
{
	struct rvt_mmap_info *ip = vma->vm_private_data;

	__module_get(THIS_MODULE);
	get_device(&ip->context->device->dev);
	rvt_vm_ops->open(vma);
}

static void map_close(struct vm_area_struct *vma)
{
	struct rvt_mmap_info *ip = vma->vm_private_data;
	struct ib_device *ibdev = ip->context->device;

	rvt_vm_ops->close(vma);
	put_device(&ibdev->dev);
	module_put(THIS_MODULE);
}

static const struct vm_operations_struct map_ops = {
	.open = map_open, .close = map_close,
};

static int vhca_mmap(struct ib_ucontext *ctx, struct vm_area_struct *vma)
{
	struct vhca_dev *d = to_vdev(ctx->device);
	struct rvt_mmap_info *ip;
	int ret = rvt_mmap_fn(ctx, vma);

	if (ret)
		return ret;
	ip = vma->vm_private_data;
	ip->context = &d->map_ctx;
	rvt_vm_ops = vma->vm_ops;
	vma->vm_ops = &map_ops;
	__module_get(THIS_MODULE);
	get_device(&ctx->device->dev);
	return 0;
}

/* VF administration through the PF */
static struct vhca_fn *vf_fn(struct ib_device *ibdev, int vf)
{
	struct vhca_dev *d = to_vdev(ibdev);

	if (d->fn->idx || vf < 0 || vf >= pci_num_vf(d->pdev))
		return NULL;
	return &d->fn->card->fn[vf + 1];
}

static int set_vf_link_state(struct ib_device *ibdev, int vf, u32 port, int state)
{
	struct vhca_fn *fn = vf_fn(ibdev, vf);

	if (!fn || state < IFLA_VF_LINK_STATE_AUTO || state > IFLA_VF_LINK_STATE_DISABLE)
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	fn->policy = state;
	fn_link_update(fn);
	mutex_unlock(&vhca_mutex);
	return 0;
}

static int get_vf_config(struct ib_device *ibdev, int vf, u32 port,
			 struct ifla_vf_info *ivf)
{
	struct vhca_fn *fn = vf_fn(ibdev, vf);

	if (!fn)
		return -EINVAL;
	memset(ivf, 0, sizeof(*ivf));
	ivf->linkstate = fn->policy;
	return 0;
}

static int get_vf_guid(struct ib_device *ibdev, int vf, u32 port,
		       struct ifla_vf_guid *node, struct ifla_vf_guid *pguid)
{
	struct vhca_fn *fn = vf_fn(ibdev, vf);

	if (!fn)
		return -EINVAL;
	node->vf = pguid->vf = vf;
	node->guid = fn->node_guid;
	pguid->guid = fn->port_guid;
	return 0;
}

static int set_vf_guid(struct ib_device *ibdev, int vf, u32 port, u64 guid, int type)
{
	struct vhca_fn *fn = vf_fn(ibdev, vf);

	if (!fn)
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	if (type == IFLA_VF_IB_NODE_GUID)
		fn->node_guid = guid;
	else
		fn->port_guid = guid;
	if (fn->dev && !strcmp(guid_apply, "now")) {
		fn->dev->node_guid = fn->node_guid;
		fn->dev->port_guid = fn->port_guid;
		fn->dev->rdi.ibdev.node_guid = cpu_to_be64(fn->node_guid);
		dev_event(fn->dev, IB_EVENT_GID_CHANGE);
	}
	mutex_unlock(&vhca_mutex);
	return 0;
}

/* sysfs of the ib_device */
static ssize_t hw_rev_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "0\n");
}
static DEVICE_ATTR_RO(hw_rev);

static ssize_t hca_type_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct vhca_dev *d = to_vdev(container_of(dev, struct ib_device, dev));

	return sysfs_emit(buf, "MT%d\n", d->pdev->device);
}
static DEVICE_ATTR_RO(hca_type);

static ssize_t board_id_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "VHCA000000008\n");
}
static DEVICE_ATTR_RO(board_id);

static struct attribute *ib_attrs[] = {
	&dev_attr_hw_rev.attr, &dev_attr_hca_type.attr, &dev_attr_board_id.attr, NULL
};
static const struct attribute_group ib_group = { .attrs = ib_attrs };
static const struct attribute_group *port_groups[] = { NULL };

static const struct ib_device_ops vhca_ops = {
	.owner = THIS_MODULE,
	/* rdmavt's user ABI, which rdma-core's hfi1verbs provider speaks */
	.driver_id = RDMA_DRIVER_HFI1,
	.device_group = &ib_group,
	.port_groups = port_groups,
	.modify_device = modify_device,
	.process_mad = vhca_process_mad,
	.get_dev_fw_str = get_dev_fw_str,
	.disassociate_ucontext = disassociate_ucontext,
};

static const struct ib_device_ops vhca_pf_ops = {
	.set_vf_link_state = set_vf_link_state,
	.get_vf_config = get_vf_config,
	.get_vf_guid = get_vf_guid,
	.set_vf_guid = set_vf_guid,
};

/* ------------------------------------------------- bringing a device up -- */

static void fill_props(struct vhca_dev *d)
{
	struct rvt_driver_params *p = &d->rdi.dparms;
	struct ib_device_attr *a = &p->props;

	a->fw_ver = 16ull << 32 | 35 << 16 | 2000;
	a->device_cap_flags = IB_DEVICE_BAD_PKEY_CNTR | IB_DEVICE_BAD_QKEY_CNTR |
		IB_DEVICE_SYS_IMAGE_GUID | IB_DEVICE_RC_RNR_NAK_GEN |
		IB_DEVICE_PORT_ACTIVE_EVENT | IB_DEVICE_SRQ_RESIZE |
		IB_DEVICE_MEM_MGT_EXTENSIONS;
	if (d->fn->idx)
		a->kernel_cap_flags = IBK_VIRTUAL_FUNCTION;
	a->sys_image_guid = cpu_to_be64(d->fn->card->fn[0].node_guid);
	a->page_size_cap = PAGE_SIZE;
	a->vendor_id = 0x02c9;
	a->vendor_part_id = d->pdev->device;
	a->max_mr_size = ~0ull;
	a->max_qp = 16384;
	a->max_qp_wr = 16383;
	a->max_send_sge = a->max_recv_sge = a->max_sge_rd = 30;
	a->max_cq = 16384;
	a->max_cqe = 0x2ffff;
	a->max_ah = 65535;
	a->max_pd = 16384;
	a->max_qp_rd_atom = a->max_qp_init_rd_atom = 16;
	a->max_res_rd_atom = 16 * 16384;
	a->max_srq = 1024;
	a->max_srq_wr = 16383;
	a->max_srq_sge = 30;
	a->atomic_cap = IB_ATOMIC_GLOB;
	a->max_pkeys = VHCA_NPKEYS;
	a->max_mcast_grp = 16384;
	a->max_mcast_qp_attach = 64;
	a->max_total_mcast_qp_attach = 16384 * 64;
	a->max_fast_reg_page_list_len = 256;

	p->lkey_table_size = 13;
	p->qp_table_size = 256;
	p->qpn_start = 0x1000 + d->fn->idx * 0x40;	/* look like hardware's */
	p->qpn_inc = 1;
	p->qpn_res_start = p->qpn_res_end = 2;	/* makes rdmavt allot the bitmap */
	p->nports = 1;
	p->npkeys = VHCA_NPKEYS;
	p->node = 0;
	p->psn_mask = p->psn_modify_mask = 0xffffff;
	p->psn_shift = 8;
	p->core_cap_flags = RDMA_CORE_PORT_IBA_IB;
	p->max_mad_size = IB_MGMT_MAD_SIZE;
	p->max_rdma_atomic = 16;
	p->reserved_operations = 1;
}

static int vhca_dev_add(struct vhca_fn *fn, struct pci_dev *pdev)
{
	struct rvt_dev_info *rdi = rvt_alloc_device(sizeof(struct vhca_dev), 1);
	struct ib_mad_agent *agent;
	struct ib_device *ibdev;
	struct vhca_dev *d;
	int ret;

	if (!rdi)
		return -ENOMEM;
	d = container_of(rdi, struct vhca_dev, rdi);
	ibdev = &rdi->ibdev;
	d->fn = fn;
	d->pdev = pdev;
	d->lid = fn->lid;
	d->map_ctx.device = ibdev;
	mutex_lock(&vhca_mutex);
	d->node_guid = fn->node_guid;
	d->port_guid = fn->port_guid;
	d->up = fn_link(fn);
	mutex_unlock(&vhca_mutex);
	memcpy(d->pkeys, fn->pkeys, sizeof(d->pkeys));

	d->ibp.gid_prefix = cpu_to_be64(0xfe80000000000000ull);
	d->ibp.sm_lid = vhca_sm_lid;
	d->ibp.subnet_timeout = 18;
	d->ibp.port_cap_flags = IB_PORT_AUTO_MIGR_SUP | IB_PORT_CM_SUP |
		IB_PORT_CLIENT_REG_SUP | IB_PORT_SYS_IMAGE_GUID_SUP;
	fill_props(d);
	rvt_init_port(rdi, &d->ibp, 0, d->pkeys);

	rdi->driver_f.get_pci_dev = get_pci_dev;
	rdi->driver_f.query_port_state = query_port_state;
	rdi->driver_f.get_guid_be = get_guid_be;
	rdi->driver_f.shut_down_port = shut_down_port;
	rdi->driver_f.cap_mask_chg = cap_mask_chg;
	vhca_qp_set_ops(rdi);

	/*
	 * rdmavt hands the device's current name to ib_register_device(),
	 * which fills in a %d itself: the lowest free number, as mlx5 gets.
	 */
	dev_set_name(&ibdev->dev, "%s", ibname);
	ibdev->dev.parent = &pdev->dev;
	ibdev->node_guid = cpu_to_be64(d->node_guid);
	ibdev->phys_port_cnt = 1;
	ibdev->num_comp_vectors = num_online_cpus();
	snprintf(ibdev->node_desc, sizeof(ibdev->node_desc), "vhca %s", pci_name(pdev));
	ib_set_device_ops(ibdev, &vhca_ops);
	if (!fn->idx)
		ib_set_device_ops(ibdev, &vhca_pf_ops);

	rcu_assign_pointer(vhca_lids[d->lid], d);	/* ULPs send at once */
	vhca_link_hello();
	ret = rvt_register_device(rdi);
	if (ret) {
		RCU_INIT_POINTER(vhca_lids[d->lid], NULL);
		synchronize_rcu();
		rvt_dealloc_device(rdi);
		return ret;
	}

	/*
	 * rdmavt keeps a QP0 MAD agent for traps, outside of ib_core's client
	 * scheme. It would dangle once "rdma dev set netns" takes ib_mad off
	 * the device and puts it back, and nothing here sends traps.
	 */
	rvt_mmap_fn = rvt_mmap_fn ?: ibdev->ops.mmap;
	ibdev->ops.mmap = vhca_mmap;
	agent = d->ibp.send_agent;
	d->ibp.send_agent = NULL;
	if (agent)
		ib_unregister_mad_agent(agent);

	pci_set_drvdata(pdev, d);
	mutex_lock(&vhca_mutex);
	fn->dev = d;
	fn_link_update(fn);
	vhca_link_hello();
	mutex_unlock(&vhca_mutex);
	return 0;
}

static void vhca_dev_del(struct vhca_dev *d)
{
	mutex_lock(&vhca_mutex);
	d->fn->dev = NULL;
	mutex_unlock(&vhca_mutex);
	rvt_unregister_device(&d->rdi);
	RCU_INIT_POINTER(vhca_lids[d->lid], NULL);
	synchronize_rcu();
	vhca_sa_port_gone(d->port_guid);
	rvt_dealloc_device(&d->rdi);
}

/* ------------------------------------------------------------ PCI driver -- */

static struct vhca_fn *pdev_fn(struct pci_dev *pdev)
{
	struct vhca_card *card =
		container_of((struct pci_sysdata *)pdev->bus->sysdata, struct vhca_card, sd);

	return &card->fn[pdev->devfn];		/* VF offset and stride are 1 */
}

static int vhca_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret;

	if (pdev->bus->ops != &vhca_pci_ops)
		return -ENODEV;			/* a real card: not ours */
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	pci_set_master(pdev);
	ret = vhca_dev_add(pdev_fn(pdev), pdev);
	if (ret)
		pci_disable_device(pdev);
	return ret;
}

static void fn_reset(struct vhca_fn *fn)
{
	struct vhca_card *card = fn->card;
	u64 auto_guid = guid_base + ((u64)card->num << 16) + fn->idx;
	bool has = !fn->idx || !strcmp(vf_guid, "auto");

	fn->node_guid = fn->port_guid = has ? auto_guid : 0;
	fn->policy = !strcmp(vf_state, "enable") ? IFLA_VF_LINK_STATE_ENABLE :
		     !strcmp(vf_state, "disable") ? IFLA_VF_LINK_STATE_DISABLE :
		     IFLA_VF_LINK_STATE_AUTO;
	memcpy(fn->pkeys, vhca_pkeys, sizeof(fn->pkeys));
}

static int vhca_sriov_configure(struct pci_dev *pdev, int num)
{
	struct vhca_fn *fn = pdev_fn(pdev);
	int i, ret;

	if (!num) {
		if (pci_vfs_assigned(pdev))
			return -EPERM;
		pci_disable_sriov(pdev);
		return 0;
	}
	for (i = 1; i <= num; i++)
		fn_reset(fn + i);
	ret = pci_enable_sriov(pdev, num);
	return ret ? ret : num;
}

static void vhca_remove(struct pci_dev *pdev)
{
	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	vhca_dev_del(pci_get_drvdata(pdev));
	pci_disable_device(pdev);
}

/* Knobs that a real fabric's administrator has: the cable, the partitions. */
static ssize_t vhca_cable_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "%d\n", pdev_fn(to_pci_dev(dev))->card->cable);
}

static ssize_t vhca_cable_store(struct device *dev, struct device_attribute *a,
				const char *buf, size_t n)
{
	struct vhca_card *card = pdev_fn(to_pci_dev(dev))->card;
	bool on;
	int i;

	if (kstrtobool(buf, &on))
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	card->cable = on;
	for (i = 0; i <= VHCA_MAX_VFS; i++)
		fn_link_update(&card->fn[i]);
	mutex_unlock(&vhca_mutex);
	return n;
}
static DEVICE_ATTR_RW(vhca_cable);

static ssize_t vhca_pkeys_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct vhca_fn *fn = pdev_fn(to_pci_dev(dev));
	int i, at = 0;

	for (i = 0; i < VHCA_NPKEYS; i++)
		if (fn->pkeys[i])
			at += sysfs_emit_at(buf, at, "%s0x%04x", at ? " " : "", fn->pkeys[i]);
	return at + sysfs_emit_at(buf, at, "\n");
}

static ssize_t vhca_pkeys_store(struct device *dev, struct device_attribute *a,
				const char *buf, size_t n)
{
	struct vhca_fn *fn = pdev_fn(to_pci_dev(dev));
	u16 keys[VHCA_NPKEYS] = {};
	int i = 0, used;
	unsigned int v;

	for (; i < VHCA_NPKEYS && sscanf(buf, " %i%n", &v, &used) == 1; buf += used)
		keys[i++] = v;
	mutex_lock(&vhca_mutex);
	memcpy(fn->pkeys, keys, sizeof(keys));
	if (fn->dev) {
		memcpy(fn->dev->pkeys, keys, sizeof(keys));
		dev_event(fn->dev, IB_EVENT_PKEY_CHANGE);
	}
	mutex_unlock(&vhca_mutex);
	return n;
}
static DEVICE_ATTR_RW(vhca_pkeys);

static struct attribute *pci_attrs[] = {
	&dev_attr_vhca_cable.attr, &dev_attr_vhca_pkeys.attr, NULL
};
ATTRIBUTE_GROUPS(pci);

static const struct pci_device_id vhca_ids[] = {
	{ PCI_VDEVICE(MELLANOX, 0x1017) },
	{ PCI_VDEVICE(MELLANOX, 0x1018) },
	{}
};

static struct pci_driver vhca_driver = {
	.name = "mlx5_core",
	.id_table = vhca_ids,
	.probe = vhca_probe,
	.remove = vhca_remove,
	.sriov_configure = vhca_sriov_configure,
	.dev_groups = pci_groups,
};

/* ---------------------------------------------------------------- module -- */

static void drop_cards(void)
{
	int i;

	for (i = cards; i--; ) {
		if (!vhca_cards[i])
			continue;
		vhca_card_unplug(vhca_cards[i]);
		kfree(vhca_cards[i]);
		vhca_cards[i] = NULL;
	}
}

static int __init vhca_init(void)
{
	struct vhca_card *card;
	int i, k, ret;

	if (cards < 1 || cards > VHCA_MAX_CARDS || total_vfs < 0 ||
	    total_vfs > VHCA_MAX_VFS ||
	    lid_base + cards * (VHCA_MAX_VFS + 1) >= VHCA_MAX_LID)
		return -EINVAL;
	ret = vhca_qp_init();
	if (ret)
		return ret;
	ret = vhca_sa_init();
	if (ret)
		goto no_sa;
	ret = vhca_link_init();
	if (ret)
		goto no_link;
	ret = pci_register_driver(&vhca_driver);
	if (ret)
		goto no_driver;
	for (i = 0; i < cards; i++) {
		card = kzalloc(sizeof(*card), GFP_KERNEL);
		if (!card) {
			ret = -ENOMEM;
			goto no_card;
		}
		vhca_cards[i] = card;
		card->num = i;
		card->busnr = bus + i;
		card->cable = true;
		for (k = 0; k <= VHCA_MAX_VFS; k++) {
			card->fn[k].card = card;
			card->fn[k].idx = k;
			card->fn[k].lid = lid_base + i * (total_vfs + 1) + k;
			fn_reset(&card->fn[k]);
		}
		ret = vhca_card_plug(card, total_vfs, domain);
		if (ret)
			goto no_card;
	}
	return 0;

no_card:
	drop_cards();
	pci_unregister_driver(&vhca_driver);
no_driver:
	vhca_link_exit();
no_link:
	vhca_sa_exit();
no_sa:
	vhca_qp_exit();
	return ret;
}

static void __exit vhca_exit(void)
{
	drop_cards();
	pci_unregister_driver(&vhca_driver);
	vhca_link_exit();
	vhca_sa_exit();
	vhca_qp_exit();
}

module_init(vhca_init);
module_exit(vhca_exit);
MODULE_DESCRIPTION("virtual InfiniBand HCA with SR-IOV, for testing");
MODULE_LICENSE("GPL");
