// SPDX-License-Identifier: GPL-2.0
/*
 * What a card's firmware knows of each function, whether a driver is bound to
 * it or not: GUIDs, link policy, P_Keys, and what a change of them means to the
 * device that is bound.
 */
#include "vhca.h"
#include <linux/if_link.h>
#include <linux/moduleparam.h>

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
MODULE_PARM_DESC(guid_apply, "a bound VF's new GUID shows at its next rebind (as mlx5) or now");

u16 vhca_default_pkeys[VHCA_PKEYS] = { 0xffff };
module_param_array_named(pkeys, vhca_default_pkeys, ushort, NULL, 0444);
MODULE_PARM_DESC(pkeys, "P_Key table that every port starts with (0xffff)");

static int default_policy(void)
{
	if (!strcmp(vf_state, "enable"))
		return IFLA_VF_LINK_STATE_ENABLE;
	if (!strcmp(vf_state, "disable"))
		return IFLA_VF_LINK_STATE_DISABLE;
	return IFLA_VF_LINK_STATE_AUTO;
}

/* As after power on, or for a VF as when it is made. */
void vhca_function_reset(struct vhca_function *fn)
{
	u64 guid = guid_base + ((u64)fn->card->number << 16) + fn->index;
	bool has_guid = fn->index == 0 || !strcmp(vf_guid, "auto");

	fn->node_guid = fn->port_guid = has_guid ? guid : 0;
	fn->link_policy = default_policy();
	memcpy(fn->pkeys, vhca_default_pkeys, sizeof(fn->pkeys));
}

bool vhca_function_link(const struct vhca_function *fn)
{
	if (fn->index && fn->link_policy == IFLA_VF_LINK_STATE_ENABLE)
		return true;
	if (fn->index && fn->link_policy == IFLA_VF_LINK_STATE_DISABLE)
		return false;
	return fn->card->cable;
}

void vhca_function_update_link(struct vhca_function *fn)
{
	struct vhca_dev *d = fn->dev;
	bool up = vhca_function_link(fn);

	if (!d || d->up == up)
		return;
	d->up = up;
	vhca_link_announce();
	vhca_dev_event(d, up ? IB_EVENT_PORT_ACTIVE : IB_EVENT_PORT_ERR);
}

void vhca_function_set_guid(struct vhca_function *fn, u64 guid, bool node)
{
	struct vhca_dev *d = fn->dev;

	if (node)
		fn->node_guid = guid;
	else
		fn->port_guid = guid;
	if (!d || strcmp(guid_apply, "now"))
		return;
	d->node_guid = fn->node_guid;
	d->port_guid = fn->port_guid;
	d->rdi.ibdev.node_guid = cpu_to_be64(fn->node_guid);
	vhca_dev_event(d, IB_EVENT_GID_CHANGE);
}

void vhca_function_set_pkeys(struct vhca_function *fn, const u16 *pkeys)
{
	memcpy(fn->pkeys, pkeys, sizeof(fn->pkeys));
	if (!fn->dev)
		return;
	memcpy(fn->dev->pkeys, pkeys, sizeof(fn->dev->pkeys));
	vhca_dev_event(fn->dev, IB_EVENT_PKEY_CHANGE);
}
