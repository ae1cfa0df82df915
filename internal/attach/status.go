// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/util/workqueue"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/nad"
)

// statusWriters is how many annotations are written at once; statusTimeout bounds one.
const (
	statusWriters = 4
	statusTimeout = 10 * time.Second
)

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
		return nil
	})
}

// attached is the content of the status; nil while something is not done.
func (s *Service) attached(sb ledger.Sandbox) ([]nad.Attached, error) {
	var out []nad.Attached
	holds := s.holdsDefault(sb)
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
		one := nad.Attached{Network: a.Network, Interface: a.IfName, Default: a.Default || a.DefaultRoute ||
			holds[a.IfName], Result: res}
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

// holdsDefault are the interfaces of a pod of several networks that have its default routes now:
// the pod, its networks and the cluster may all say which, and this is what came of it.
func (s *Service) holdsDefault(sb ledger.Sandbox) map[string]bool {
	if len(sb.Attachments) < 2 {
		return nil
	}
	ns, holds := host.NS(sb.NetNS), map[string]bool{}
	routes, err := s.Kernel.Routes(ns, 0)
	for _, r := range routes {
		if r.Dst.Bits() != 0 {
			continue
		}
		l, linkErr := s.Kernel.LinkByIndex(ns, r.Index)
		err = errors.Join(err, linkErr)
		holds[l.Name] = true
	}
	if err != nil && !errors.Is(err, host.ErrNSGone) {
		s.Log.Warn("could not see which interface has the pod's default route", "sandbox", sb.ContainerID, "error", err)
	}
	return holds
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
