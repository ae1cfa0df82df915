// SPDX-License-Identifier: GPL-2.0
/*
 * A PCI root bus made of memory. Function 0 is a PF with a PCIe and an SR-IOV
 * capability and no BARs at all, so that the kernel has no MMIO to place; VF n
 * answers at devfn n + 1 while the PF's VF Enable bit is set.
 */
#include "vhca.h"

#define PCIE_CAP	0x60
#define SRIOV_CAP	0x100
#define SRIOV_PAGES	0x553		/* page sizes that every SR-IOV device must know */

static void put16(u8 *config, int at, u16 v)
{
	config[at] = v;
	config[at + 1] = v >> 8;
}

static void put32(u8 *config, int at, u32 v)
{
	put16(config, at, v);
	put16(config, at + 2, v >> 16);
}

static u16 get16(const u8 *config, int at)
{
	return config[at] | config[at + 1] << 8;
}

struct vhca_card *vhca_bus_to_card(struct pci_bus *bus)
{
	return container_of((struct pci_sysdata *)bus->sysdata, struct vhca_card, sysdata);
}

/* -------------------------------------------------------- configuration -- */

static bool vf_answers(struct vhca_card *card, unsigned int devfn)
{
	return (get16(card->config, SRIOV_CAP + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE) &&
	       devfn <= get16(card->config, SRIOV_CAP + PCI_SRIOV_NUM_VF);
}

static bool answers(struct vhca_card *card, struct pci_bus *bus, unsigned int devfn, int end)
{
	return bus->number == card->bus_number && end <= PCI_CFG_SPACE_EXP_SIZE &&
	       (devfn == 0 || vf_answers(card, devfn));
}

static u8 config_get(struct vhca_card *card, unsigned int devfn, int at)
{
	if (devfn == 0)
		return card->config[at];
	if (at == PCI_COMMAND || at == PCI_COMMAND + 1)
		return card->vf_command[devfn - 1] >> (8 * (at - PCI_COMMAND));
	return card->vf_config[at];
}

static void config_set(struct vhca_card *card, unsigned int devfn, int at, u8 v)
{
	u8 mask = card->writable[at];

	if (devfn == 0)
		card->config[at] = (card->config[at] & ~mask) | (v & mask);
	else if (at == PCI_COMMAND)	/* a VF's only bit is Bus Master */
		card->vf_command[devfn - 1] = v & PCI_COMMAND_MASTER;
}

static int config_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *val)
{
	struct vhca_card *card = vhca_bus_to_card(bus);
	int i;

	*val = ~0u;
	if (!answers(card, bus, devfn, where + size))
		return PCIBIOS_DEVICE_NOT_FOUND;
	*val = 0;
	for (i = 0; i < size; i++)
		*val |= (u32)config_get(card, devfn, where + i) << (8 * i);
	return PCIBIOS_SUCCESSFUL;
}

static int config_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 val)
{
	struct vhca_card *card = vhca_bus_to_card(bus);
	int i;

	if (!answers(card, bus, devfn, where + size))
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (i = 0; i < size; i++, val >>= 8)
		config_set(card, devfn, where + i, val);
	return PCIBIOS_SUCCESSFUL;
}

struct pci_ops vhca_pci_ops = { .read = config_read, .write = config_write };

static void config_fill_common(u8 *c)
{
	put16(c, PCI_STATUS, PCI_STATUS_CAP_LIST);
	put32(c, PCI_CLASS_REVISION, 0x02070000);	/* InfiniBand controller */
	put16(c, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID_MELLANOX);
	put16(c, PCI_SUBSYSTEM_ID, 0x0008);
	c[PCI_CAPABILITY_LIST] = PCIE_CAP;
	c[PCIE_CAP] = PCI_CAP_ID_EXP;
	put16(c, PCIE_CAP + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	put32(c, PCIE_CAP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR | 1);
}

/* A VF takes its device id from the PF's SR-IOV capability; its link fields are 0. */
static void config_fill_vf(u8 *c)
{
	config_fill_common(c);
	put16(c, PCI_VENDOR_ID, 0xffff);
	put16(c, PCI_DEVICE_ID, 0xffff);
}

static void config_fill_pf(u8 *c, u8 *writable)
{
	const u16 link = 3 | 16 << 4;			/* 8 GT/s, 16 lanes */

	config_fill_common(c);
	put16(c, PCI_VENDOR_ID, PCI_VENDOR_ID_MELLANOX);
	put16(c, PCI_DEVICE_ID, VHCA_PF_DEVICE_ID);
	put32(c, PCIE_CAP + PCI_EXP_LNKCAP, link);
	put16(c, PCIE_CAP + PCI_EXP_LNKSTA, link);
	put16(writable, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
	      PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
	      PCI_COMMAND_INTX_DISABLE);
	writable[PCI_CACHE_LINE_SIZE] = 0xff;
	writable[PCI_INTERRUPT_LINE] = 0xff;
	put16(writable, PCIE_CAP + PCI_EXP_DEVCTL, 0x7fff);
}

static void config_fill_sriov(u8 *c, u8 *writable, int total_vfs)
{
	put32(c, SRIOV_CAP, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	put16(c, SRIOV_CAP + PCI_SRIOV_INITIAL_VF, total_vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_TOTAL_VF, total_vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_OFFSET, 1);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_STRIDE, 1);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_DID, VHCA_VF_DEVICE_ID);
	put32(c, SRIOV_CAP + PCI_SRIOV_SUP_PGSIZE, SRIOV_PAGES);
	put32(c, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 1);
	put16(writable, SRIOV_CAP + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE |
	      PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI);
	put16(writable, SRIOV_CAP + PCI_SRIOV_NUM_VF, 0xffff);
	put32(writable, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, SRIOV_PAGES);
}

/* ------------------------------------------------------------------- bus -- */

int vhca_card_plug(struct vhca_card *card, int total_vfs, int domain)
{
	struct resource_entry *number;
	LIST_HEAD(resources);

	config_fill_pf(card->config, card->writable);
	config_fill_vf(card->vf_config);
	if (total_vfs)
		config_fill_sriov(card->config, card->writable, total_vfs);
	card->sysdata.domain = domain;
	card->sysdata.node = 0;

	/* The only window this host bridge has is its one bus number. */
	number = resource_list_create_entry(NULL, 0);
	if (!number)
		return -ENOMEM;
	number->res->name = "vhca bus";
	number->res->start = number->res->end = card->bus_number;
	number->res->flags = IORESOURCE_BUS;
	resource_list_add_tail(number, &resources);

	pci_lock_rescan_remove();
	card->bus = pci_scan_root_bus(NULL, card->bus_number, &vhca_pci_ops,
				      &card->sysdata, &resources);
	if (card->bus)
		pci_bus_add_devices(card->bus);
	pci_unlock_rescan_remove();
	if (!card->bus) {
		pci_free_resource_list(&resources);
		return -ENODEV;
	}
	return 0;
}

void vhca_card_unplug(struct vhca_card *card)
{
	if (!card->bus)
		return;
	pci_lock_rescan_remove();
	pci_stop_root_bus(card->bus);
	pci_remove_root_bus(card->bus);
	pci_unlock_rescan_remove();
	card->bus = NULL;
}
