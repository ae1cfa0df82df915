// SPDX-License-Identifier: GPL-2.0
/*
 * The ib_device of a function that is bound to the driver: its attributes, its
 * port's state, VF administration through the PF's device, registration.
 */
#include "vhca.h"
#include <linux/if_link.h>
#include <linux/moduleparam.h>

#define FIRMWARE_MAJOR	16
#define FIRMWARE_MINOR	35
#define FIRMWARE_SUB	2000
#define MELLANOX_OUI	0x02c9
#define MAX_QPS		16384
#define MAX_SGES	30
#define MAX_READS	16		/* RDMA READs and atomics in flight on a QP */

static char *ibname = "mlx5_%d";
module_param(ibname, charp, 0444);
MODULE_PARM_DESC(ibname, "name template of the RDMA devices (mlx5_%d)");

static struct vhca_dev *rdi_to_vhca(struct rvt_dev_info *rdi)
{
	return container_of(rdi, struct vhca_dev, rdi);
}

void vhca_dev_event(struct vhca_dev *d, enum ib_event_type type)
{
	struct ib_event event = {
		.device = &d->rdi.ibdev, .element.port_num = 1, .event = type,
	};

	ib_dispatch_event(&event);
}

/* ------------------------------------------------------------------ port -- */

static enum ib_port_state port_state(struct vhca_dev *d)
{
	if (vhca_active(d))
		return IB_PORT_ACTIVE;
	/* A port without a GUID of its own is none a subnet manager can bring up. */
	return d->up ? IB_PORT_INIT : IB_PORT_DOWN;
}

static int query_port_state(struct rvt_dev_info *rdi, u32 port, struct ib_port_attr *a)
{
	struct vhca_dev *d = rdi_to_vhca(rdi);

	a->state = port_state(d);
	a->phys_state = d->up ? IB_PORT_PHYS_STATE_LINK_UP : IB_PORT_PHYS_STATE_POLLING;
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

static int get_guid_be(struct rvt_dev_info *rdi, struct rvt_ibport *ibp, int index, __be64 *guid)
{
	if (index)
		return -EINVAL;
	*guid = cpu_to_be64(rdi_to_vhca(rdi)->port_guid);
	return 0;
}

static struct pci_dev *get_pci_dev(struct rvt_dev_info *rdi)
{
	return rdi_to_vhca(rdi)->pdev;
}

/* rdmavt wants these two; a port here has nothing to do for them. */
static int shut_down_port(struct rvt_dev_info *rdi, u32 port) { return 0; }
static void cap_mask_chg(struct rvt_dev_info *rdi, u32 port) {}

static int modify_device(struct ib_device *ibdev, int mask, struct ib_device_modify *m)
{
	if (mask & ~IB_DEVICE_MODIFY_NODE_DESC)
		return -EOPNOTSUPP;
	if (mask & IB_DEVICE_MODIFY_NODE_DESC)
		memcpy(ibdev->node_desc, m->node_desc, IB_DEVICE_NODE_DESC_MAX);
	return 0;
}

static void get_dev_fw_str(struct ib_device *ibdev, char *str)
{
	snprintf(str, IB_FW_VERSION_NAME_MAX, "%d.%d.%d",
		 FIRMWARE_MAJOR, FIRMWARE_MINOR, FIRMWARE_SUB);
}

/* --------------------------------------------------------- user mappings -- */

/*
 * rdmavt's user queues are mapped with a pointer to the ucontext, which
 * rdmavt still follows when the mapping goes away. No rdmavt driver until now
 * could lose the ucontext first; one that allows disassociation can. So after
 * rdmavt's mmap point it at a context that lives as long as the device, and
 * let each mapping hold the device and this module.
 */
static int (*rvt_mmap_op)(struct ib_ucontext *context, struct vm_area_struct *vma);
static const struct vm_operations_struct *rvt_vm_ops;

static void map_hold(struct ib_device *ibdev)
{
	__module_get(THIS_MODULE);
	get_device(&ibdev->dev);
}

static void map_open(struct vm_area_struct *vma)
{
	struct rvt_mmap_info *map = vma->vm_private_data;

	map_hold(map->context->device);
	rvt_vm_ops->open(vma);
}

static void map_close(struct vm_area_struct *vma)
{
	struct rvt_mmap_info *map = vma->vm_private_data;
	struct ib_device *ibdev = map->context->device;

	rvt_vm_ops->close(vma);			/* may free map */
	put_device(&ibdev->dev);
	module_put(THIS_MODULE);
}

static const struct vm_operations_struct map_ops = { .open = map_open, .close = map_close };

static int vhca_mmap(struct ib_ucontext *context, struct vm_area_struct *vma)
{
	struct rvt_mmap_info *map;
	int ret = rvt_mmap_op(context, vma);

	if (ret)
		return ret;
	map = vma->vm_private_data;
	map->context = &to_vhca(context->device)->map_context;
	rvt_vm_ops = vma->vm_ops;
	vma->vm_ops = &map_ops;
	map_hold(context->device);
	return 0;
}

/* Present so that "rdma dev set DEV netns" and unbinding in use are allowed. */
static void disassociate_ucontext(struct ib_ucontext *context) {}

/* ----------------------------------------- VF administration, PF's device -- */

static struct vhca_function *vf_function(struct ib_device *ibdev, int vf)
{
	struct vhca_dev *d = to_vhca(ibdev);

	if (vf < 0 || vf >= pci_num_vf(d->pdev))
		return NULL;
	return &d->function->card->functions[vf + 1];
}

static int set_vf_link_state(struct ib_device *ibdev, int vf, u32 port, int state)
{
	struct vhca_function *fn = vf_function(ibdev, vf);

	if (!fn || state < IFLA_VF_LINK_STATE_AUTO || state > IFLA_VF_LINK_STATE_DISABLE)
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	fn->link_policy = state;
	vhca_function_update_link(fn);
	mutex_unlock(&vhca_mutex);
	return 0;
}

static int get_vf_config(struct ib_device *ibdev, int vf, u32 port, struct ifla_vf_info *info)
{
	struct vhca_function *fn = vf_function(ibdev, vf);

	if (!fn)
		return -EINVAL;
	memset(info, 0, sizeof(*info));
	info->linkstate = fn->link_policy;
	return 0;
}

static int get_vf_guid(struct ib_device *ibdev, int vf, u32 port,
		       struct ifla_vf_guid *node, struct ifla_vf_guid *port_guid)
{
	struct vhca_function *fn = vf_function(ibdev, vf);

	if (!fn)
		return -EINVAL;
	node->vf = port_guid->vf = vf;
	node->guid = fn->node_guid;
	port_guid->guid = fn->port_guid;
	return 0;
}

static int set_vf_guid(struct ib_device *ibdev, int vf, u32 port, u64 guid, int type)
{
	struct vhca_function *fn = vf_function(ibdev, vf);

	if (!fn)
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	vhca_function_set_guid(fn, guid, type == IFLA_VF_IB_NODE_GUID);
	mutex_unlock(&vhca_mutex);
	return 0;
}

/* ----------------------------------------------------------------- sysfs -- */

static ssize_t hw_rev_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "0\n");
}
static DEVICE_ATTR_RO(hw_rev);

static ssize_t hca_type_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct vhca_dev *d = to_vhca(container_of(dev, struct ib_device, dev));

	return sysfs_emit(buf, "MT%d\n", d->pdev->device);
}
static DEVICE_ATTR_RO(hca_type);

static ssize_t board_id_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "VHCA000000008\n");
}
static DEVICE_ATTR_RO(board_id);

static struct attribute *device_attrs[] = {
	&dev_attr_hw_rev.attr, &dev_attr_hca_type.attr, &dev_attr_board_id.attr, NULL
};
static const struct attribute_group device_group = { .attrs = device_attrs };
static const struct attribute_group *port_groups[] = { NULL };

/* ---------------------------------------------------------- registration -- */

static const struct ib_device_ops vhca_ops = {
	.owner = THIS_MODULE,
	/* rdmavt's user ABI, which rdma-core's hfi1verbs provider speaks */
	.driver_id = RDMA_DRIVER_HFI1,
	.device_group = &device_group,
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

static void fill_attributes(struct vhca_dev *d, struct ib_device_attr *a)
{
	struct vhca_function *fn = d->function;

	a->fw_ver = (u64)FIRMWARE_MAJOR << 32 | FIRMWARE_MINOR << 16 | FIRMWARE_SUB;
	a->device_cap_flags = IB_DEVICE_BAD_PKEY_CNTR | IB_DEVICE_BAD_QKEY_CNTR |
		IB_DEVICE_SYS_IMAGE_GUID | IB_DEVICE_RC_RNR_NAK_GEN |
		IB_DEVICE_PORT_ACTIVE_EVENT | IB_DEVICE_SRQ_RESIZE |
		IB_DEVICE_MEM_MGT_EXTENSIONS;
	if (fn->index)
		a->kernel_cap_flags = IBK_VIRTUAL_FUNCTION;
	a->sys_image_guid = cpu_to_be64(fn->card->functions[0].node_guid);
	a->page_size_cap = PAGE_SIZE;
	a->vendor_id = MELLANOX_OUI;
	a->vendor_part_id = d->pdev->device;
	a->max_mr_size = ~0ull;
	a->max_qp = MAX_QPS;
	a->max_qp_wr = 16383;
	a->max_send_sge = a->max_recv_sge = a->max_sge_rd = MAX_SGES;
	a->max_cq = 16384;
	a->max_cqe = 0x2ffff;
	a->max_ah = 65535;
	a->max_pd = 16384;
	a->max_qp_rd_atom = a->max_qp_init_rd_atom = MAX_READS;
	a->max_res_rd_atom = MAX_READS * MAX_QPS;
	a->max_srq = 1024;
	a->max_srq_wr = 16383;
	a->max_srq_sge = MAX_SGES;
	a->atomic_cap = IB_ATOMIC_GLOB;
	a->max_pkeys = VHCA_PKEYS;
	a->max_mcast_grp = 16384;
	a->max_mcast_qp_attach = 64;
	a->max_total_mcast_qp_attach = 16384 * 64;
	a->max_fast_reg_page_list_len = 256;
}

static void fill_rdmavt_parameters(struct vhca_dev *d)
{
	struct rvt_driver_params *p = &d->rdi.dparms;

	fill_attributes(d, &p->props);
	p->lkey_table_size = 13;
	p->qp_table_size = 256;
	p->qpn_start = 0x1000 + d->function->index * 0x40;	/* look like hardware's */
	p->qpn_inc = 1;
	p->qpn_res_start = p->qpn_res_end = 2;	/* makes rdmavt allot the bitmap */
	p->nports = 1;
	p->npkeys = VHCA_PKEYS;
	p->node = 0;
	p->psn_mask = p->psn_modify_mask = 0xffffff;
	p->psn_shift = 8;
	p->core_cap_flags = RDMA_CORE_PORT_IBA_IB;
	p->max_mad_size = IB_MGMT_MAD_SIZE;
	p->max_rdma_atomic = MAX_READS;
	p->reserved_operations = 1;
}

static void fill_port(struct vhca_dev *d)
{
	d->ibp.gid_prefix = cpu_to_be64(VHCA_GID_PREFIX);
	d->ibp.sm_lid = vhca_sm_lid;
	d->ibp.subnet_timeout = 18;
	d->ibp.port_cap_flags = IB_PORT_AUTO_MIGR_SUP | IB_PORT_CM_SUP |
		IB_PORT_CLIENT_REG_SUP | IB_PORT_SYS_IMAGE_GUID_SUP;
	rvt_init_port(&d->rdi, &d->ibp, 0, d->pkeys);
}

static void fill_ib_device(struct vhca_dev *d)
{
	struct ib_device *ibdev = &d->rdi.ibdev;

	/*
	 * rdmavt hands the device's current name to ib_register_device(),
	 * which fills in a %d itself: the lowest free number, as mlx5 gets.
	 */
	dev_set_name(&ibdev->dev, "%s", ibname);
	ibdev->dev.parent = &d->pdev->dev;
	ibdev->node_guid = cpu_to_be64(d->node_guid);
	ibdev->phys_port_cnt = 1;
	ibdev->num_comp_vectors = num_online_cpus();
	snprintf(ibdev->node_desc, sizeof(ibdev->node_desc), "vhca %s", pci_name(d->pdev));
	ib_set_device_ops(ibdev, &vhca_ops);
	if (!d->function->index)
		ib_set_device_ops(ibdev, &vhca_pf_ops);
}

static void fill_rdmavt_callbacks(struct rvt_dev_info *rdi)
{
	rdi->driver_f.get_pci_dev = get_pci_dev;
	rdi->driver_f.query_port_state = query_port_state;
	rdi->driver_f.get_guid_be = get_guid_be;
	rdi->driver_f.shut_down_port = shut_down_port;
	rdi->driver_f.cap_mask_chg = cap_mask_chg;
	vhca_qp_set_ops(rdi);
}

/*
 * rdmavt keeps a QP0 MAD agent for traps, outside of ib_core's client scheme.
 * It would dangle once "rdma dev set DEV netns" takes ib_mad off the device
 * and puts it back, and nothing here sends traps.
 */
static void drop_trap_agent(struct vhca_dev *d)
{
	struct ib_mad_agent *agent = d->ibp.send_agent;

	d->ibp.send_agent = NULL;
	if (agent)
		ib_unregister_mad_agent(agent);
}

static void port_remove(struct vhca_dev *d)
{
	RCU_INIT_POINTER(vhca_ports[d->lid], NULL);
	synchronize_rcu();
}

struct vhca_dev *vhca_dev_add(struct vhca_function *fn, struct pci_dev *pdev)
{
	struct rvt_dev_info *rdi = rvt_alloc_device(sizeof(struct vhca_dev), 1);
	struct vhca_dev *d;
	int ret;

	if (!rdi)
		return ERR_PTR(-ENOMEM);
	d = rdi_to_vhca(rdi);
	d->function = fn;
	d->pdev = pdev;
	d->lid = fn->lid;
	d->fabric = fn->card->fabric;
	d->map_context.device = &rdi->ibdev;
	mutex_lock(&vhca_mutex);
	d->node_guid = fn->node_guid;
	d->port_guid = fn->port_guid;
	d->up = vhca_function_link(fn);
	memcpy(d->pkeys, fn->pkeys, sizeof(d->pkeys));
	mutex_unlock(&vhca_mutex);
	fill_rdmavt_parameters(d);
	fill_port(d);
	fill_rdmavt_callbacks(rdi);
	fill_ib_device(d);

	/* Kernel users send while they are told of the device: so the port first. */
	rcu_assign_pointer(vhca_ports[d->lid], d);
	vhca_link_announce();
	ret = rvt_register_device(rdi);
	if (ret) {
		port_remove(d);
		rvt_dealloc_device(rdi);
		return ERR_PTR(ret);
	}
	if (!rvt_mmap_op)
		rvt_mmap_op = rdi->ibdev.ops.mmap;	/* the same for every device */
	rdi->ibdev.ops.mmap = vhca_mmap;
	drop_trap_agent(d);

	mutex_lock(&vhca_mutex);
	fn->dev = d;
	vhca_function_update_link(fn);		/* it may have changed meanwhile */
	vhca_link_announce();
	mutex_unlock(&vhca_mutex);
	return d;
}

void vhca_dev_del(struct vhca_dev *d)
{
	mutex_lock(&vhca_mutex);
	d->function->dev = NULL;
	mutex_unlock(&vhca_mutex);
	rvt_unregister_device(&d->rdi);
	port_remove(d);
	vhca_sa_port_gone(d->port_guid);
	rvt_dealloc_device(&d->rdi);
}
