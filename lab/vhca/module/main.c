// SPDX-License-Identifier: GPL-2.0
/*
 * Module life cycle: which cards there are, on which bus and which fabric.
 */
#include "vhca.h"
#include <linux/module.h>
#include <linux/slab.h>

static int cards = 1;
module_param(cards, int, 0444);
MODULE_PARM_DESC(cards, "number of cards, each on a root bus of its own (1)");

static int fabrics = 1;
module_param(fabrics, int, 0444);
MODULE_PARM_DESC(fabrics, "number of fabrics, card n is on fabric n modulo this (1)");

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
MODULE_PARM_DESC(lid_base, "LID of the first PF; its VF n has lid_base + n + 1 (2)");

DEFINE_MUTEX(vhca_mutex);

static struct vhca_card *all_cards[VHCA_MAX_CARDS];

static int parameters_check(void)
{
	if (cards < 1 || cards > VHCA_MAX_CARDS || total_vfs < 0 || total_vfs > VHCA_MAX_VFS) {
		pr_err("vhca: cards must be 1 to %d and total_vfs 0 to %d\n",
		       VHCA_MAX_CARDS, VHCA_MAX_VFS);
		return -EINVAL;
	}
	if (fabrics < 1 || fabrics > VHCA_MAX_CARDS) {
		pr_err("vhca: fabrics must be 1 to %d\n", VHCA_MAX_CARDS);
		return -EINVAL;
	}
	/* A card's function beyond its TotalVFs has a LID too, that nobody uses. */
	if (!lid_base || lid_base + cards * (VHCA_MAX_VFS + 1) >= VHCA_MAX_LID) {
		pr_err("vhca: lid_base must be 1 to %d\n",
		       VHCA_MAX_LID - cards * (VHCA_MAX_VFS + 1) - 1);
		return -EINVAL;
	}
	return 0;
}

static int card_add(int number)
{
	struct vhca_card *card = kzalloc(sizeof(*card), GFP_KERNEL);
	int i;

	if (!card)
		return -ENOMEM;
	all_cards[number] = card;
	card->number = number;
	card->bus_number = bus + number;
	card->fabric = number % fabrics;
	card->cable = true;
	for (i = 0; i <= VHCA_MAX_VFS; i++) {
		struct vhca_function *fn = &card->functions[i];

		fn->card = card;
		fn->index = i;
		fn->lid = lid_base + number * (total_vfs + 1) + i;
		vhca_function_reset(fn);
	}
	return vhca_card_plug(card, total_vfs, domain);
}

static void cards_drop(void)
{
	int i;

	for (i = cards; i--; ) {
		if (!all_cards[i])
			continue;
		vhca_card_unplug(all_cards[i]);
		kfree(all_cards[i]);
		all_cards[i] = NULL;
	}
}

static int __init vhca_init(void)
{
	int i, ret;

	ret = parameters_check();
	if (ret)
		return ret;
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
		ret = card_add(i);
		if (ret)
			goto no_card;
	}
	return 0;

no_card:
	cards_drop();
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
	cards_drop();
	pci_unregister_driver(&vhca_driver);
	vhca_link_exit();
	vhca_sa_exit();
	vhca_qp_exit();
}

module_init(vhca_init);
module_exit(vhca_exit);
MODULE_DESCRIPTION("virtual InfiniBand HCA with SR-IOV, for testing");
MODULE_LICENSE("GPL");
