// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/util/workqueue"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/attach/netstatus"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/nad"
)

// statusWriters is how many annotations are written at once; statusTimeout bounds one.
const (
	statusWriters = 4
	statusTimeout = 10 * time.Second
)

// settleTries is how many times a status waits for what it says to be final: about three seconds, since
// the time between them doubles. A port without a link may never have it.
const settleTries = 6

// statusQueue writes network-status annotations behind the calls. What is to be written is read
// from the ledger, so an agent that starts again goes on where the one before it ended.
type statusQueue struct {
	service *Service
	queue   workqueue.TypedRateLimitingInterface[string] // container IDs
}

func newStatusQueue(s *Service) *statusQueue {
	limit := workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 30*time.Second)
	return &statusQueue{service: s, queue: workqueue.NewTypedRateLimitingQueue(limit)}
}

func (q *statusQueue) enqueue(containerID string) { q.queue.Add(containerID) }

func (q *statusQueue) run(ctx context.Context) {
	done := make(chan struct{}, statusWriters)
	for range statusWriters {
		go func() {
			defer func() { done <- struct{}{} }()
			for q.next(ctx) {
			}
		}()
	}
	<-ctx.Done()
	q.queue.ShutDown()
	for range statusWriters {
		<-done
	}
}

func (q *statusQueue) next(ctx context.Context) bool {
	id, stop := q.queue.Get()
	if stop {
		return false
	}
	defer q.queue.Done(id)
	sb, _ := q.service.Ledger.Sandbox(id)
	if q.queue.NumRequeues(id) < settleTries && !netstatus.Settled(q.service.Kernel, sb) {
		q.queue.AddRateLimited(id)
		return true
	}
	if err := q.service.writeStatus(ctx, id); err != nil && ctx.Err() == nil {
		q.service.Log.Warn("could not write a pod's network-status yet", "sandbox", id, "error", err)
		q.queue.AddRateLimited(id)
		return true
	}
	q.queue.Forget(id)
	return true
}

// writeStatus writes the network-status of one sandbox's pod, once.
func (s *Service) writeStatus(ctx context.Context, containerID string) error {
	began := time.Now()
	sb, ok := s.Ledger.Sandbox(containerID)
	if !ok || !sb.StatusPending {
		return nil
	}
	attached, err := s.attached(sb)
	if err != nil || attached == nil {
		return err
	}
	text, err := nad.FormatStatus(nad.Status(attached))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := s.Addresses.Settle(ctx, sb.Pod.UID); err != nil {
		return fmt.Errorf("have the API server show the addresses of pod %s/%s: %w", sb.Pod.Namespace, sb.Pod.Name, err)
	}
	if err := s.Status.WriteStatus(ctx, sb.Pod, text); err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("write the network-status of pod %s/%s: %w", sb.Pod.Namespace, sb.Pod.Name, err)
	}
	took := time.Since(began)
	s.timings.add(Timing{Verb: "ADD", Plugin: "network-status", NetworkType: typeOf(sb), Sandbox: containerID,
		Pod:   sb.Pod.Namespace + "/" + sb.Pod.Name,
		Began: began, Total: took, Phases: []cni.Phase{{Name: cni.PhaseStatus, Duration: took}}})
	return s.Ledger.UpdateSandbox(containerID, func(sb *ledger.Sandbox) error {
		sb.StatusPending = false
		return netstatus.Record(sb, attached)
	})
}

// attached is the content of the status; nil while something is not done.
func (s *Service) attached(sb ledger.Sandbox) ([]nad.Attached, error) {
	var out []nad.Attached
	for _, a := range sb.Attachments {
		if len(a.Direct) > 0 {
			continue
		}
		if unfinished(a) {
			return nil, nil
		}
		res, err := recordedResult(a)
		if err != nil {
			return nil, err
		}
		netstatus.Observe(s.Kernel, sb, a, res)
		// one network alone is the default one, whichever has the pod's default route (Network
		// Custom Resource De-facto Standard, "Network Attachment Status Annotation", "default")
		one := nad.Attached{Network: a.Network, Interface: a.IfName, Default: a.Default, Result: res}
		if a.NAD != "" {
			one.Network = a.NAD
		}
		if one.Device, err = s.deviceInfo(sb, a); err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// correctStatus has the network-status of a pod written again when what it says has changed.
func (s *Service) correctStatus(sb ledger.Sandbox) error {
	stale, err := netstatus.Stale(s.Kernel, sb)
	if err != nil || !stale || sb.Pod.Name == "" || sb.StatusPending {
		return err
	}
	err = s.Ledger.UpdateSandbox(sb.ContainerID, func(sb *ledger.Sandbox) error {
		sb.StatusPending = true
		return nil
	})
	if err == nil {
		s.status.enqueue(sb.ContainerID)
	}
	return err
}

func (s *Service) deviceInfo(sb ledger.Sandbox, a ledger.Attachment) (*cncfv1.DeviceInfo, error) {
	if a.DeviceID == "" {
		return nil, nil
	}
	pci := &cncfv1.PciDevice{PciAddress: a.DeviceID}
	known := false
	for plugin := range a.State {
		r, ok := s.runner.Plugins[plugin].(cni.DeviceReporter)
		if !ok {
			continue
		}
		var err error
		st := state{draft: s.draft(sb.ContainerID), network: a.Network, ifname: a.IfName, plugin: plugin}
		if pci.PfPciAddress, pci.RdmaDevice, err = r.Device(st); err != nil {
			return nil, err
		}
		known = true
	}
	if !known {
		if info := s.readDeviceInfo(a); info != nil {
			return info, nil
		}
	}
	return &cncfv1.DeviceInfo{Type: cncfv1.DeviceInfoTypePCI, Version: cncfv1.DeviceInfoVersion, Pci: pci}, nil
}
