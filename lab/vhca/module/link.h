/* SPDX-License-Identifier: GPL-2.0 */
/* The frames that machines of one fabric exchange: link.c and link_ruc.c only. */
#ifndef VHCA_LINK_H
#define VHCA_LINK_H

#include "vhca.h"
#include <linux/netdevice.h>

#define LINK_SEGMENT_MAX	16384	/* bytes of a message in one frame */

enum link_frame { FRAME_UD = 1, FRAME_REQUEST, FRAME_ANSWER, FRAME_PORTS };

/* Every frame starts with this; what a field is for depends on the type. */
struct link_header {
	u8 type;		/* enum link_frame */
	u8 op;			/* request: enum ib_wr_opcode */
	u8 status;		/* answer: enum vhca_ack */
	u8 sl;
	u8 has_grh, has_imm, solicited, uc;
	__be16 slid, dlid, pkey;
	u8 fabric, rnr_timer;
	__be32 src_qpn, dst_qpn;
	__be32 seq, offset;	/* which message, where in it */
	__be32 total;		/* message length, or number of ports */
	__be32 segment;		/* length of the piece at offset */
	__be32 key;		/* Q_Key or R_Key */
	__be32 imm;
	__be64 address, compare_add, swap;
} __packed;

struct net_device *vhca_link_netdev(void);
struct link_header *vhca_link_frame(enum link_frame type, u32 len, struct sk_buff **skb, u8 **data);
void vhca_link_send(struct sk_buff *skb);

/* link_ruc.c: frames that came in */
void vhca_link_request(struct link_header *h, u8 *data, u32 len);
void vhca_link_answer(struct link_header *h, u8 *data, u32 len);
#endif
