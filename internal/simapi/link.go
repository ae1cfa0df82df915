// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Link decides what becomes of what passes between one process and the server.
// It is asked from many goroutines at once, and answers at once.
type Link interface {
	// Request decides about a request before it leaves.
	Request(ctx context.Context, call Call) Fate
	// Watch decides about the next event of a kind that waits for this process, and about its first list.
	Watch(kind schema.GroupVersionKind) Delivery
}

// Call is a request. Object is what is sent or read into, nil for a list, and must not be changed.
type Call struct {
	Client string
	Verb   Verb
	Kind   schema.GroupVersionKind
	Key    client.ObjectKey
	Object client.Object
}

// Fate is what becomes of a request; the zero value is that it is done and
// answered at once. When the caller's context ends during a delay, the caller
// gets its error at once: the server has not seen a request that was still on
// its way, but see Late, and has done one whose answer was.
type Fate struct {
	// Before is how long the request is on its way.
	Before time.Duration
	// Lost: after Before the caller gets a timeout, and the server does not see the request.
	Lost bool
	// Late: a request that did not arrive while its caller waited is done all the same, this long
	// after the caller gave up.
	Late time.Duration
	// Err is the server's answer in place of doing what was asked. The caller sees it at once:
	// client-go would try some again.
	Err error
	// After is how long the answer is on its way.
	After time.Duration
	// AnswerLost: after After the caller gets a timeout in place of the answer.
	AnswerLost bool
}

// Delivery is what becomes of an event; the zero value is that it arrives at once.
type Delivery struct {
	// Delay is how long after the change its event arrives, but never before an earlier one.
	Delay time.Duration
	// Down: nothing arrives now. The link is asked again after this long.
	Down time.Duration
	// Relist: the watch has broken and its history is lost. A list taken now and shown after Delay
	// takes its place, so that handlers see only the difference from what they know.
	Relist bool
}

// LinkFuncs makes a Link of functions; one that is nil does no harm.
type LinkFuncs struct {
	OnRequest func(ctx context.Context, call Call) Fate
	OnWatch   func(kind schema.GroupVersionKind) Delivery
}

// Request asks OnRequest.
func (l LinkFuncs) Request(ctx context.Context, call Call) Fate {
	if l.OnRequest == nil {
		return Fate{}
	}
	return l.OnRequest(ctx, call)
}

// Watch asks OnWatch.
func (l LinkFuncs) Watch(kind schema.GroupVersionKind) Delivery {
	if l.OnWatch == nil {
		return Delivery{}
	}
	return l.OnWatch(kind)
}

// send takes a request to the server and its answer back. The function does
// what is asked; it may run after send has returned, when nobody waits for it.
func (c *Client) send(ctx context.Context, k *kind, call Call, serve func() error) error {
	call.Client, call.Kind = c.name, k.gvk
	if err := ctx.Err(); err != nil {
		return unanswered(call, err)
	}
	fate := c.link.Request(ctx, call)
	arrive := func() error {
		c.server.count(c.name, call.Verb, k)
		if fate.Err != nil {
			return fate.Err
		}
		return serve()
	}
	err := sleep(ctx, fate.Before)
	if err == nil && fate.Lost {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		if fate.Late > 0 {
			time.AfterFunc(fate.Late, func() { _ = arrive() }) // nobody is there to be told
		}
		return unanswered(call, err)
	}
	answer := arrive()
	if err := sleep(ctx, fate.After); err != nil {
		return unanswered(call, err)
	}
	if fate.AnswerLost {
		return unanswered(call, os.ErrDeadlineExceeded)
	}
	return answer
}

// unanswered is the error of a caller who does not know what became of the
// request. Like that of an HTTP client it is a net.Error and wraps the cause.
func unanswered(call Call, cause error) error {
	return &url.Error{Op: string(call.Verb), URL: fmt.Sprintf("simapi://%s/%s", call.Kind.Kind, call.Key), Err: cause}
}

// sleep returns early, with the context's error, when the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
