// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// resubscribeWait is the time until a subscription that could not be made is tried again.
const resubscribeWait = time.Second

// LinkChanges tells when the netdev of a PCI function in the node's namespace came, went, or
// changed its administrative state or its carrier; that of an IPoIB netdev which is up follows its
// port. One signal may stand for many changes, and now and then for none. The channel closes when
// ctx ends.
//
// A pod's links make many messages, so only what may be a card's counts. When the kernel drops
// messages, because too many came at once (ENOBUFS, netlink(7)), what was lost may have been a
// change: that is a signal, too.
func (h *Host) LinkChanges(ctx context.Context) (<-chan struct{}, error) {
	return h.linkChanges(ctx, func(l rawLink) bool {
		return l.PCI != "" || !saysParentDevice() && l.mayBePCI()
	})
}

// linkChanges is LinkChanges for the links that counts says.
func (h *Host) linkChanges(ctx context.Context, counts func(rawLink) bool) (<-chan struct{}, error) {
	socket, err := h.subscribeLinks()
	if err != nil {
		return nil, err
	}
	changes := make(chan struct{}, 1)
	go func() {
		defer close(changes)
		h.watchLinks(ctx, socket, counts, changes)
	}()
	return changes, nil
}

// watchLinks signals until ctx ends, on one socket after the other.
func (h *Host) watchLinks(ctx context.Context, socket *nl.NetlinkSocket, counts func(rawLink) bool,
	changes chan<- struct{}) {
	signal := func() {
		select {
		case changes <- struct{}{}:
		default: // one is waiting already
		}
	}
	for socket != nil {
		receiveLinks(ctx, socket, linkTally{counts: counts, known: map[int]linkState{}}, signal)
		if socket = h.resubscribeLinks(ctx); socket != nil {
			signal() // only now: what changes from here on is told
		}
	}
}

func (h *Host) subscribeLinks() (socket *nl.NetlinkSocket, err error) {
	err = h.in(NodeNS, func() error {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to link changes in %s: %w", NodeNS.where(), kernelError(err))
	}
	return socket, nil
}

// resubscribeLinks tries until it succeeds; nil when ctx ends.
func (h *Host) resubscribeLinks(ctx context.Context) *nl.NetlinkSocket {
	for ctx.Err() == nil {
		if socket, err := h.subscribeLinks(); err == nil {
			return socket
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribeWait):
		}
	}
	return nil
}

// receiveLinks signals changes until ctx ends or the socket fails, and closes the socket.
func receiveLinks(ctx context.Context, socket *nl.NetlinkSocket, tally linkTally, signal func()) {
	stop := context.AfterFunc(ctx, socket.Close) // ends Receive
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	for {
		messages, from, err := socket.Receive()
		if err != nil {
			return
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range messages {
			if l, ok := readLinkMessage(m.Header.Type, m.Data); ok && tally.changed(m.Header.Type == unix.RTM_DELLINK,
				l) {
				signal()
			}
		}
	}
}

// readLinkMessage reads RTM_NEWLINK and RTM_DELLINK. Those of family AF_BRIDGE tell of a bridge's
// port, not of the link.
func readLinkMessage(kind uint16, data []byte) (rawLink, bool) {
	if kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK || len(data) < unix.SizeofIfInfomsg ||
		data[0] != unix.AF_UNSPEC {
		return rawLink{}, false
	}
	l, err := deserializeLink(data)
	if err != nil {
		return rawLink{}, false
	}
	return readLink(NodeNS, l), true
}

// linkState is what counts of a link.
type linkState struct{ up, carrier bool }

// linkTally keeps what is known of links and tells changes from the rest.
type linkTally struct {
	counts func(rawLink) bool
	known  map[int]linkState // by index
}

// changed takes in one message. The first of a link is a change: it may be new.
func (t linkTally) changed(deleted bool, l rawLink) bool {
	old, known := t.known[l.Index]
	if !known && !t.counts(l) {
		return false
	}
	if deleted {
		delete(t.known, l.Index)
		return true
	}
	now := linkState{l.Up, l.Carrier}
	t.known[l.Index] = now
	return !known || old != now
}
