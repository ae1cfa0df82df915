// SPDX-License-Identifier: GPL-2.0
/*
 * PCI driver of the functions on a vhca bus: binding, SR-IOV, and two sysfs
 * files for what a real fabric's administrator has in hand: vhca_cable (of the
 * PF) and vhca_pkeys (of each port).
 */
#include "vhca.h"

static struct vhca_function *pci_function(struct pci_dev *pdev)
{
	/* VF offset and stride are 1: devfn is the function's index. */
	return &vhca_bus_to_card(pdev->bus)->functions[pdev->devfn];
}

static struct vhca_function *sysfs_function(struct device *dev)
{
	return pci_function(to_pci_dev(dev));
}

/* --------------------------------------------------------------- binding -- */

static int vhca_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vhca_dev *d;
	int ret;

	if (pdev->bus->ops != &vhca_pci_ops)
		return -ENODEV;			/* a real card: not ours */
	ret = pci_enable_device(pdev);
	if (ret)
		return ret;
	pci_set_master(pdev);
	d = vhca_dev_add(pci_function(pdev), pdev);
	if (IS_ERR(d)) {
		pci_disable_device(pdev);
		return PTR_ERR(d);
	}
	pci_set_drvdata(pdev, d);
	return 0;
}

static void vhca_remove(struct pci_dev *pdev)
{
	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	vhca_dev_del(pci_get_drvdata(pdev));
	pci_disable_device(pdev);
}

static int vhca_sriov_configure(struct pci_dev *pdev, int num)
{
	struct vhca_function *pf = pci_function(pdev);
	int i, ret;

	if (!num) {
		if (pci_vfs_assigned(pdev))
			return -EPERM;
		pci_disable_sriov(pdev);
		return 0;
	}
	for (i = 1; i <= num; i++)
		vhca_function_reset(pf + i);
	ret = pci_enable_sriov(pdev, num);
	return ret ? ret : num;
}

/* ----------------------------------------------------------------- sysfs -- */

static ssize_t vhca_cable_show(struct device *dev, struct device_attribute *a, char *buf)
{
	return sysfs_emit(buf, "%d\n", sysfs_function(dev)->card->cable);
}

static ssize_t vhca_cable_store(struct device *dev, struct device_attribute *a,
				const char *buf, size_t n)
{
	struct vhca_card *card = sysfs_function(dev)->card;
	bool on;
	int i;

	if (kstrtobool(buf, &on))
		return -EINVAL;
	mutex_lock(&vhca_mutex);
	card->cable = on;
	for (i = 0; i <= VHCA_MAX_VFS; i++)
		vhca_function_update_link(&card->functions[i]);
	mutex_unlock(&vhca_mutex);
	return n;
}
static DEVICE_ATTR_RW(vhca_cable);

static ssize_t vhca_pkeys_show(struct device *dev, struct device_attribute *a, char *buf)
{
	struct vhca_function *fn = sysfs_function(dev);
	int i, at = 0;

	for (i = 0; i < VHCA_PKEYS; i++)
		if (fn->pkeys[i])
			at += sysfs_emit_at(buf, at, "%s0x%04x", at ? " " : "", fn->pkeys[i]);
	return at + sysfs_emit_at(buf, at, "\n");
}

static ssize_t vhca_pkeys_store(struct device *dev, struct device_attribute *a,
				const char *buf, size_t n)
{
	u16 pkeys[VHCA_PKEYS] = {};
	const char *at = buf;
	int i, used, pkey;

	for (i = 0; i < VHCA_PKEYS && sscanf(at, " %i%n", &pkey, &used) == 1; i++, at += used) {
		if (pkey < 0 || pkey > 0xffff)
			return -EINVAL;
		pkeys[i] = pkey;
	}
	mutex_lock(&vhca_mutex);
	vhca_function_set_pkeys(sysfs_function(dev), pkeys);
	mutex_unlock(&vhca_mutex);
	return n;
}
static DEVICE_ATTR_RW(vhca_pkeys);

static struct attribute *vhca_attrs[] = {
	&dev_attr_vhca_cable.attr, &dev_attr_vhca_pkeys.attr, NULL
};
ATTRIBUTE_GROUPS(vhca);

static const struct pci_device_id vhca_ids[] = {
	{ PCI_VDEVICE(MELLANOX, VHCA_PF_DEVICE_ID) },
	{ PCI_VDEVICE(MELLANOX, VHCA_VF_DEVICE_ID) },
	{}
};

/* Named as the driver that users of such a card see; no module of that name is loaded. */
struct pci_driver vhca_driver = {
	.name = "mlx5_core",
	.id_table = vhca_ids,
	.probe = vhca_probe,
	.remove = vhca_remove,
	.sriov_configure = vhca_sriov_configure,
	.dev_groups = vhca_groups,
};
