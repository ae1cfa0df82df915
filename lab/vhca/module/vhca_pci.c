// SPDX-License-Identifier: GPL-2.0
/*
 * A PCI root bus made of memory. Function 0 is a PF with a PCIe and an SR-IOV
 * capability and no BARs at all (so the kernel has no MMIO to place); VF n
 * answers at devfn n + 1 while the PF's VF Enable bit is set.
 */
#include "vhca.h"

#define PCIE_CAP	0x60
#define SRIOV_CAP	0x100

static void put16(u8 *c, int at, u16 v) { c[at] = v; c[at + 1] = v >> 8; }
static void put32(u8 *c, int at, u32 v) { put16(c, at, v); put16(c, at + 2, v >> 16); }
static u16 get16(const u8 *c, int at) { return c[at] | c[at + 1] << 8; }

static struct vhca_card *bus_card(struct pci_bus *bus)
{
	return container_of((struct pci_sysdata *)bus->sysdata, struct vhca_card, sd);
}

/* VF number answering at devfn, or -1 */
static int devfn_vf(struct vhca_card *card, unsigned int devfn)
{
	if (!(get16(card->cfg, SRIOV_CAP + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE))
		return -1;
	if (devfn == 0 || devfn > get16(card->cfg, SRIOV_CAP + PCI_SRIOV_NUM_VF))
		return -1;
	return devfn - 1;
}

static u8 cfg_get(struct vhca_card *card, int vf, int at)
{
	if (vf < 0)
		return card->cfg[at];
	if (at == PCI_COMMAND || at == PCI_COMMAND + 1)
		return card->vfcmd[vf] >> (8 * (at - PCI_COMMAND));
	return card->vfcfg[at];
}

static int vhca_cfg_read(struct pci_bus *bus, unsigned int devfn, int where,
			 int size, u32 *val)
{
	struct vhca_card *card = bus_card(bus);
	int vf = devfn ? devfn_vf(card, devfn) : -1;
	int i;

	*val = ~0u;
	if (bus->number != card->busnr || (devfn && vf < 0) ||
	    where + size > PCI_CFG_SPACE_EXP_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	*val = 0;
	for (i = 0; i < size; i++)
		*val |= (u32)cfg_get(card, vf, where + i) << (8 * i);
	return PCIBIOS_SUCCESSFUL;
}

static int vhca_cfg_write(struct pci_bus *bus, unsigned int devfn, int where,
			  int size, u32 val)
{
	struct vhca_card *card = bus_card(bus);
	int vf = devfn ? devfn_vf(card, devfn) : -1;
	int i;

	if (bus->number != card->busnr || (devfn && vf < 0) ||
	    where + size > PCI_CFG_SPACE_EXP_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (i = 0; i < size; i++, val >>= 8) {
		int at = where + i;

		if (vf < 0) {
			card->cfg[at] = (card->cfg[at] & ~card->wmask[at]) |
					((u8)val & card->wmask[at]);
		} else if (at == PCI_COMMAND) {	/* VFs: Bus Master only */
			card->vfcmd[vf] = (u8)val & PCI_COMMAND_MASTER;
		}
	}
	return PCIBIOS_SUCCESSFUL;
}

struct pci_ops vhca_pci_ops = { .read = vhca_cfg_read, .write = vhca_cfg_write };

static void cfg_common(u8 *c, bool vf)
{
	put16(c, PCI_VENDOR_ID, vf ? 0xffff : PCI_VENDOR_ID_MELLANOX);
	put16(c, PCI_DEVICE_ID, vf ? 0xffff : 0x1017);
	put16(c, PCI_STATUS, PCI_STATUS_CAP_LIST);
	put32(c, PCI_CLASS_REVISION, 0x02070000);	/* InfiniBand controller */
	put16(c, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID_MELLANOX);
	put16(c, PCI_SUBSYSTEM_ID, 0x0008);
	c[PCI_CAPABILITY_LIST] = PCIE_CAP;
	c[PCIE_CAP] = PCI_CAP_ID_EXP;
	put16(c, PCIE_CAP + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_ENDPOINT << 4);
	put32(c, PCIE_CAP + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR | 1);
	if (!vf) {	/* VF link fields read as zero */
		put32(c, PCIE_CAP + PCI_EXP_LNKCAP, 3 | 16 << 4); /* 8 GT/s x16 */
		put16(c, PCIE_CAP + PCI_EXP_LNKSTA, 3 | 16 << 4);
	}
}

static void cfg_fill(struct vhca_card *card, int total_vfs)
{
	u8 *c = card->cfg, *w = card->wmask;

	cfg_common(c, false);
	cfg_common(card->vfcfg, true);
	put16(w, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
	      PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
	      PCI_COMMAND_INTX_DISABLE);
	w[PCI_CACHE_LINE_SIZE] = 0xff;
	w[PCI_INTERRUPT_LINE] = 0xff;
	put16(w, PCIE_CAP + PCI_EXP_DEVCTL, 0x7fff);
	if (!total_vfs)
		return;
	card->sriov_pos = SRIOV_CAP;
	put32(c, SRIOV_CAP, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	put16(c, SRIOV_CAP + PCI_SRIOV_INITIAL_VF, total_vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_TOTAL_VF, total_vfs);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_OFFSET, 1);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_STRIDE, 1);
	put16(c, SRIOV_CAP + PCI_SRIOV_VF_DID, 0x1018);
	put32(c, SRIOV_CAP + PCI_SRIOV_SUP_PGSIZE, 0x553);
	put32(c, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 1);
	put16(w, SRIOV_CAP + PCI_SRIOV_CTRL, PCI_SRIOV_CTRL_VFE |
	      PCI_SRIOV_CTRL_MSE | PCI_SRIOV_CTRL_ARI);
	put16(w, SRIOV_CAP + PCI_SRIOV_NUM_VF, 0xffff);
	put32(w, SRIOV_CAP + PCI_SRIOV_SYS_PGSIZE, 0x553);
}

int vhca_card_plug(struct vhca_card *card, int total_vfs, int domain)
{
	struct resource_entry *e;
	LIST_HEAD(res);

	cfg_fill(card, total_vfs);
	card->sd.domain = domain;
	card->sd.node = 0;

	/* The only window this host bridge has is its one bus number. */
	e = resource_list_create_entry(NULL, 0);
	if (!e)
		return -ENOMEM;
	e->res->name = "vhca bus";
	e->res->start = e->res->end = card->busnr;
	e->res->flags = IORESOURCE_BUS;
	resource_list_add_tail(e, &res);

	pci_lock_rescan_remove();
	card->bus = pci_scan_root_bus(NULL, card->busnr, &vhca_pci_ops, &card->sd, &res);
	if (card->bus)
		pci_bus_add_devices(card->bus);
	pci_unlock_rescan_remove();
	if (!card->bus) {
		pci_free_resource_list(&res);
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
