/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vhca: a virtual InfiniBand HCA, for testing InfiniBand software without
 * hardware. See NOTES.md next to the source folder.
 *
 *   vhca_main.c  module life cycle, PCI driver, one ib_device per function
 *   vhca_pci.c   software PCI root bus answering config space from memory
 *   vhca_qp.c    data path: UD/UC/RC between all vhca ports (the "switch")
 *   vhca_link.c  the same fabric on other machines, over Ethernet frames
 *   vhca_sa.c    subnet manager/administrator stand-in, SMP/PMA answers
 */
#ifndef VHCA_H
#define VHCA_H

#include <linux/pci.h>
#include <linux/workqueue.h>
#include <rdma/ib_verbs.h>
#include <rdma/ib_mad.h>
#include <rdma/ib_sa.h>
#include <rdma/rdma_vt.h>
#include <rdma/rdmavt_qp.h>

#define VHCA_MAX_VFS	127		/* devfn 1..127, stays on one bus */
#define VHCA_MAX_CARDS	4
#define VHCA_NPKEYS	16
#define VHCA_MAX_LID	4096
#define VHCA_MCAST_LID	0xc000
#define VHCA_UD_MTU	4096
#define VHCA_MC_MTU	IB_MTU_2048	/* what opensm gives by default */

struct vhca_card;
struct vhca_dev;

/* What the "firmware" knows of one PCI function, bound to a driver or not. */
struct vhca_fn {
	struct vhca_card *card;
	int idx;			/* 0: PF, n + 1: VF n */
	u16 lid;
	u64 node_guid, port_guid;	/* host order; admin's value */
	int policy;			/* IFLA_VF_LINK_STATE_* */
	u16 pkeys[VHCA_NPKEYS];
	struct vhca_dev *dev;		/* bound ib_device or NULL; vhca_mutex */
};

/* One card: a root bus of its own with one PF and up to VHCA_MAX_VFS VFs. */
struct vhca_card {
	int num;
	int busnr;
	struct pci_sysdata sd;
	struct pci_bus *bus;
	u8 cfg[PCI_CFG_SPACE_EXP_SIZE];
	u8 wmask[PCI_CFG_SPACE_EXP_SIZE];
	u8 vfcfg[PCI_CFG_SPACE_EXP_SIZE];
	u16 vfcmd[VHCA_MAX_VFS];
	int sriov_pos;
	bool cable;			/* is the PF's physical link up? */
	struct vhca_fn fn[VHCA_MAX_VFS + 1];
};

struct vhca_dev {
	struct rvt_dev_info rdi;	/* first: container_of by rdmavt */
	struct rvt_ibport ibp;
	struct vhca_fn *fn;
	struct pci_dev *pdev;
	u16 lid;
	u64 node_guid, port_guid;	/* latched when the driver bound */
	u16 pkeys[VHCA_NPKEYS];
	bool up;
	struct ib_ucontext map_ctx;	/* what user mappings point at */
	atomic64_t tx_pkts, tx_bytes, rx_pkts, rx_bytes, drops, pkey_drops;
};

static inline struct vhca_dev *to_vdev(struct ib_device *ibdev)
{
	return container_of(ibdev, struct vhca_dev, rdi.ibdev);
}

static inline struct vhca_dev *qp_vdev(struct rvt_qp *qp)
{
	return to_vdev(qp->ibqp.device);
}

/* Has link, and a GUID by which the SM could know it. */
static inline bool vhca_active(struct vhca_dev *d)
{
	return d->up && d->port_guid && d->port_guid != ~0ull;
}

/* A UD packet on the wire. */
struct vhca_pkt {
	u16 slid, dlid, pkey;
	u8 sl;
	bool has_grh, has_imm, solicited;
	u32 src_qpn, dst_qpn, qkey;
	__be32 imm;
	struct ib_grh grh;
	u32 len;
	u8 data[];
};

/* Two P_Keys talk when they name one partition and one is a full member. */
static inline bool vhca_pkey_match(u16 a, u16 b)
{
	return (a & 0x7fff) && (a & 0x7fff) == (b & 0x7fff) && ((a | b) & 0x8000);
}

extern struct vhca_dev __rcu *vhca_lids[VHCA_MAX_LID];
extern struct mutex vhca_mutex;
extern struct vhca_card *vhca_cards[VHCA_MAX_CARDS];
extern unsigned int vhca_sm_lid;
extern bool vhca_sm;
extern u16 vhca_pkeys[VHCA_NPKEYS];

/* What the SA must know of a port. */
struct vhca_port_view { u16 lid; u64 guid; u16 pkeys[VHCA_NPKEYS]; };

/* A QP's private part. The link fields: a message to or from another machine. */
enum { Q_IDLE, Q_SEND, Q_WAITING, Q_REPLIED };

struct vhca_qp {
	struct rvt_qp *qp;
	struct work_struct work;
	struct delayed_work rto;
	/* requester; s_lock, or the owner of RVT_S_BUSY */
	int state;
	u32 seq, off, seg, tries;
	u8 status, rnr;
	u8 *reply;
	u32 reply_len;
	/* responder; r_lock */
	bool r_done;
	u32 r_seq, r_off, r_len;
	u64 r_atomic;
};

/* Besides completion statuses, what a send step can say. */
#define VHCA_WAIT	((enum ib_wc_status)-1)	/* again after the RNR timer */
#define VHCA_PENDING	((enum ib_wc_status)-2)	/* again when the link calls */

/* vhca_pci.c */
extern struct pci_ops vhca_pci_ops;
int vhca_card_plug(struct vhca_card *card, int total_vfs, int domain);
void vhca_card_unplug(struct vhca_card *card);

/* vhca_qp.c */
int vhca_qp_init(void);
void vhca_qp_exit(void);
void vhca_qp_set_ops(struct rvt_dev_info *rdi);
void vhca_switch(struct vhca_pkt *p);	/* caller holds rcu_read_lock */
void vhca_switch_local(struct vhca_pkt *p);

/* vhca_link.c */
int vhca_link_init(void);
void vhca_link_exit(void);
bool vhca_link_on(void);
void vhca_link_hello(void);
void vhca_link_ud(const struct vhca_pkt *p);
bool vhca_link_port(u16 lid, u64 guid, struct vhca_port_view *v);
enum ib_wc_status vhca_link_ruc(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer);

/* vhca_sa.c */
int vhca_sa_init(void);
void vhca_sa_exit(void);
void vhca_sa_rx(const struct vhca_pkt *p);
void vhca_sa_port_gone(u64 port_guid);
int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port,
		     const struct ib_wc *wc, const struct ib_grh *grh,
		     const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index);
#endif
