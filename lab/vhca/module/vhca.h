/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vhca: a virtual InfiniBand HCA with SR-IOV, for testing InfiniBand software
 * without hardware. README.md says what it is like and what not.
 *
 *   main.c      module life cycle: which cards there are
 *   pci.c       a PCI root bus that answers config space from memory
 *   driver.c    PCI driver of the functions on that bus, and their sysfs knobs
 *   function.c  what a card's firmware knows of each function: GUIDs, P_Keys, link
 *   device.c    the ib_device of a function that is bound to the driver
 *   qp.c        rdmavt's driver callbacks and the engine that runs send queues
 *   switch.c    which port has which LID; UD packets between ports
 *   ruc.c       RC and UC messages between ports of this kernel
 *   link.c      the same fabric on other machines, over Ethernet frames
 *   link_ruc.c  RC and UC messages to and from other machines
 *   sa.c        stand-in for the subnet manager: path, multicast, service records
 *   mad.c       what a port answers to subnet and performance management
 *
 * Locks: vhca_mutex guards what an administrator changes (struct vhca_function)
 * and the pointer from a function to its device; RCU guards vhca_ports.
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

#define VHCA_PF_DEVICE_ID	0x1017		/* ConnectX-5 */
#define VHCA_VF_DEVICE_ID	0x1018
#define VHCA_MAX_VFS	127		/* devfn 1 to 127: all on the card's one bus */
#define VHCA_MAX_CARDS	4
#define VHCA_PKEYS	16		/* entries in a port's P_Key table */
#define VHCA_MAX_LID	4096
#define VHCA_MCAST_LID	0xc000		/* first multicast LID */
#define VHCA_UD_MTU	4096
#define VHCA_GRH_LEN	40
#define VHCA_GID_PREFIX	0xfe80000000000000ull

struct vhca_card;
struct vhca_dev;

/* What the firmware knows of one PCI function, bound to a driver or not. */
struct vhca_function {
	struct vhca_card *card;
	int index;			/* 0: PF, n + 1: VF n */
	u16 lid;
	u64 node_guid, port_guid;	/* host order; as the administrator set them */
	int link_policy;		/* IFLA_VF_LINK_STATE_* */
	u16 pkeys[VHCA_PKEYS];
	struct vhca_dev *dev;		/* bound device or NULL */
};

/* One card: a root bus of its own with one PF and up to VHCA_MAX_VFS VFs. */
struct vhca_card {
	int number;
	int bus_number;
	u8 fabric;			/* ports of two fabrics never meet */
	bool cable;			/* is the PF's physical link up? */
	struct pci_sysdata sysdata;
	struct pci_bus *bus;
	u8 config[PCI_CFG_SPACE_EXP_SIZE];	/* the PF's */
	u8 writable[PCI_CFG_SPACE_EXP_SIZE];	/* mask of its bits that a write changes */
	u8 vf_config[PCI_CFG_SPACE_EXP_SIZE];	/* every VF's, but for the command register */
	u16 vf_command[VHCA_MAX_VFS];
	struct vhca_function functions[VHCA_MAX_VFS + 1];
};

struct vhca_dev {
	struct rvt_dev_info rdi;	/* rdmavt frees the whole by it: first */
	struct rvt_ibport ibp;
	struct vhca_function *function;
	struct pci_dev *pdev;
	u8 fabric;
	u16 lid;
	u64 node_guid, port_guid;	/* taken from the function when it was bound */
	u16 pkeys[VHCA_PKEYS];
	bool up;
	struct ib_ucontext map_context;	/* what user mappings point at, see device.c */
	atomic64_t tx_packets, tx_bytes, rx_packets, rx_bytes, drops, pkey_drops;
};

static inline struct vhca_dev *to_vhca(struct ib_device *ibdev)
{
	return container_of(ibdev, struct vhca_dev, rdi.ibdev);
}

static inline struct vhca_dev *qp_to_vhca(struct rvt_qp *qp)
{
	return to_vhca(qp->ibqp.device);
}

/* Has link, and a GUID by which a subnet manager could know it. */
static inline bool vhca_active(struct vhca_dev *d)
{
	return d->up && d->port_guid && d->port_guid != ~0ull;
}

/* Two P_Keys talk when they name one partition and one is a full member. */
static inline bool vhca_pkey_match(u16 a, u16 b)
{
	return (a & 0x7fff) && (a & 0x7fff) == (b & 0x7fff) && ((a | b) & 0x8000);
}

/* A UD packet on the wire. */
struct vhca_packet {
	u8 fabric;
	u16 slid, dlid, pkey;
	u8 sl;
	bool has_grh, has_imm, solicited;
	u32 src_qpn, dst_qpn, qkey;
	__be32 imm;
	struct ib_grh grh;
	u32 len;
	u8 data[];
};

/* What the subnet administrator must know of a port, here or elsewhere. */
struct vhca_port_view {
	u8 fabric;
	u16 lid;
	u64 guid;
	u16 pkeys[VHCA_PKEYS];
};

/* A responder's verdict on an RC or UC request. Goes over the link: append only. */
enum vhca_ack {
	VHCA_ACK,
	VHCA_NAK_RNR,
	VHCA_NAK_INVALID,
	VHCA_NAK_ACCESS,
	VHCA_NAK_OPERATION,
	VHCA_NAK_NO_QP,
};

/* How far a message to another machine is. */
enum vhca_request_state { REQUEST_IDLE, REQUEST_SEND, REQUEST_WAITING, REQUEST_ANSWERED };

/* A QP's private part; all but the first two for messages between machines. */
struct vhca_qp {
	struct rvt_qp *qp;
	struct work_struct send_work;
	struct delayed_work answer_timeout;
	/* requester: under s_lock, or owned by whoever set RVT_S_BUSY */
	enum vhca_request_state state;
	u32 seq;		/* counts messages */
	u32 offset, segment;	/* of the piece on its way */
	u32 tries;
	u8 answer;		/* enum vhca_ack */
	u8 answer_rnr_timer;
	u8 *answer_data;
	u32 answer_len;
	/* responder: under r_lock; the last request done, to answer it again */
	bool done;
	u32 done_seq, done_offset, done_len;
	u64 done_atomic;
};

/* Besides completion statuses, what one step of sending can say. */
#define VHCA_WAIT	((enum ib_wc_status)-1)	/* again after the RNR timer */
#define VHCA_PENDING	((enum ib_wc_status)-2)	/* again when the link calls */

/* main.c */
extern struct mutex vhca_mutex;

/* pci.c */
extern struct pci_ops vhca_pci_ops;
struct vhca_card *vhca_bus_to_card(struct pci_bus *bus);
int vhca_card_plug(struct vhca_card *card, int total_vfs, int domain);
void vhca_card_unplug(struct vhca_card *card);

/* driver.c */
extern struct pci_driver vhca_driver;

/* function.c; the caller holds vhca_mutex unless said otherwise */
extern u16 vhca_default_pkeys[VHCA_PKEYS];
void vhca_function_reset(struct vhca_function *fn);	/* any context */
bool vhca_function_link(const struct vhca_function *fn);
void vhca_function_update_link(struct vhca_function *fn);
void vhca_function_set_guid(struct vhca_function *fn, u64 guid, bool node);
void vhca_function_set_pkeys(struct vhca_function *fn, const u16 *pkeys);

/* device.c */
struct vhca_dev *vhca_dev_add(struct vhca_function *fn, struct pci_dev *pdev);
void vhca_dev_del(struct vhca_dev *d);
void vhca_dev_event(struct vhca_dev *d, enum ib_event_type type);

/* qp.c */
int vhca_qp_init(void);
void vhca_qp_exit(void);
void vhca_qp_set_ops(struct rvt_dev_info *rdi);
void vhca_copy_from_wqe(struct rvt_swqe *wqe, u32 offset, u8 *to, u32 len);
void vhca_wqe_sges(struct rvt_swqe *wqe, struct rvt_sge_state *ss);

/* switch.c; the caller holds rcu_read_lock */
extern struct vhca_dev __rcu *vhca_ports[VHCA_MAX_LID];
struct vhca_dev *vhca_port_at(u8 fabric, u16 lid);
void vhca_switch(const struct vhca_packet *p);
void vhca_switch_local(const struct vhca_packet *p);
enum ib_wc_status vhca_ud_send(struct rvt_qp *qp, struct rvt_swqe *wqe);

/* ruc.c */
enum ib_wc_status vhca_ruc_send(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer);
enum ib_wc_status vhca_nak_status(enum vhca_ack nak);
enum ib_wc_status vhca_rnr_retry(struct rvt_qp *qp);
void vhca_responder_error(struct rvt_qp *qp, enum vhca_ack nak);
void vhca_established(struct rvt_qp *qp, unsigned long *flags);

/* link.c */
int vhca_link_init(void);
void vhca_link_exit(void);
bool vhca_link_on(void);
void vhca_link_announce(void);
void vhca_link_send_ud(const struct vhca_packet *p);
bool vhca_link_find_port(u8 fabric, u16 lid, u64 guid, struct vhca_port_view *v);

/* link_ruc.c */
enum ib_wc_status vhca_link_ruc_send(struct rvt_qp *qp, struct rvt_swqe *wqe, u8 *timer);

/* sa.c */
extern unsigned int vhca_sm_lid;
int vhca_sa_init(void);
void vhca_sa_exit(void);
bool vhca_sa_here(u16 lid);
bool vhca_sa_take(const struct vhca_packet *p);
void vhca_sa_port_gone(u64 port_guid);

/* mad.c */
int vhca_process_mad(struct ib_device *ibdev, int flags, u32 port,
		     const struct ib_wc *wc, const struct ib_grh *grh,
		     const struct ib_mad *in, struct ib_mad *out,
		     size_t *out_size, u16 *out_pkey_index);
#endif
