// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The networks and the pool are the run's own, so that the guide's few addresses are not what is
// measured. A network with a VF names the VF itself and no resource: then nobody asks the kubelet,
// which knows nothing of these pods.

// manifestPool is in the range that RFC 2544 gives to benchmarks.
const manifestPool = `apiVersion: spiderpool.spidernet.io/v2beta1
kind: SpiderIPPool
metadata:
  name: %[1]s
  labels: {%[2]s: %[3]q}
spec:
  subnet: 198.19.0.0/16
  gateway: 198.19.0.1
  ips: [198.19.1.1-198.19.8.250]
`

const manifestNetwork = `---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: %s
  namespace: kube-system
  labels: {%s: %q}
spec:
  config: '%s'
`

func (r runner) objectName(what string) string { return "bench-" + r.ID + "-" + what }

// networks is the manifest of the pool, of a network for IPoIB children, and of one for each VF.
func (r runner) networks(vfs []string, isolate bool) string {
	pool := r.objectName("pool")
	ipam := map[string]any{"type": "spiderpool", "default_ipv4_ippool": []string{pool}}
	var b strings.Builder
	fmt.Fprintf(&b, manifestPool, pool, runLabel, r.ID)
	network := func(what string, main map[string]any) {
		name := r.objectName(what)
		main["ipam"] = ipam
		fmt.Fprintf(&b, manifestNetwork, name, runLabel, r.ID, conflist(name, main))
	}
	network("ipoib", map[string]any{"type": "ipoib", "master": r.Many.Master})
	for i, pci := range vfs {
		main := map[string]any{"type": "ib-sriov", "deviceID": pci}
		if isolate {
			main["rdmaIsolation"] = true
		}
		network(vfName(i), main)
	}
	return b.String()
}

func vfName(i int) string { return fmt.Sprintf("vf%d", i) }

// conflist is a configuration as a SpiderMultusConfig's is: the plugin, then the coordinator.
func conflist(name string, main map[string]any) string {
	list := map[string]any{"cniVersion": "0.3.1", "name": name,
		"plugins": []any{main, map[string]any{"type": "coordinator"}}}
	text, _ := json.Marshal(list) // texts and lists of them can be encoded
	return string(text)
}

func (r runner) makeNetworks(ctx context.Context, vfs []string, isolate bool) error {
	if _, err := r.lab.Shell(ctx, "kubectl apply -f - >/dev/null <<'EOF'\n"+r.networks(vfs,
		isolate)+"EOF"); err != nil {
		return fmt.Errorf("making the networks of this run: %w", err)
	}
	return nil
}

// removeNetworks works when ctx has ended. The pool stays until the agent has given its addresses back.
func (r runner) removeNetworks(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	script := fmt.Sprintf(
		`kubectl -n kube-system delete network-attachment-definitions -l %[1]s=%[2]s --ignore-not-found
networks=$?
kubectl delete spiderippools -l %[1]s=%[2]s --ignore-not-found --timeout=90s && exit $networks`, runLabel, r.ID)
	if _, err := r.lab.Shell(ctx, script); err != nil {
		return fmt.Errorf("removing the networks of this run: %w", err)
	}
	return nil
}

// benchPod is a pod that exists for the API server and the agent alone.
type benchPod struct {
	name     string
	networks []string // by the names of their objects
	bound    bool
}

// benchPods are so many pods of a case. Pods of one round have VFs of their own, which those of the
// next round have again.
func (r runner) benchPods(batch string, c *Case, number int, bound bool) []benchPod {
	var pods []benchPod
	vfs := count(c.Networks, "ib-sriov")
	for i := range number {
		p := benchPod{name: r.objectName(fmt.Sprintf("%s-%d", batch, i)), bound: bound}
		vf := i % c.AtOnce * vfs
		for _, kind := range c.Networks {
			what := kind
			if kind == "ib-sriov" {
				what = vfName(vf)
				vf++
			}
			p.networks = append(p.networks, "kube-system/"+r.objectName(what))
		}
		pods = append(pods, p)
	}
	return pods
}

// manifestPod asks for a scheduler that nobody is, so that no kubelet runs it.
const manifestPod = `---
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: default
  labels: {%[2]s: %[3]q}
  annotations:
    v1.multus-cni.io/default-network: %[4]s%[5]s
spec:
  schedulerName: nobody
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers: [{name: none, image: localhost/lab/none:1, imagePullPolicy: Never}]%[6]s
`

// manifestBound gives the pod to the node. The kubelet makes no sandbox before all volumes are there.
const manifestBound = `
  nodeName: %s
  volumes: [{name: never, configMap: {name: bench-no-such-configmap}}]`

func (p benchPod) manifest(node, id string) string {
	var more, bound string
	if len(p.networks) > 1 {
		more = "\n    k8s.v1.cni.cncf.io/networks: " + strings.Join(p.networks[1:], ",")
	}
	if p.bound {
		bound = fmt.Sprintf(manifestBound, node)
	}
	return fmt.Sprintf(manifestPod, p.name, runLabel, id, p.networks[0], more, bound)
}

// makePods makes them and returns the list that attachbench wants.
func (r runner) makePods(ctx context.Context, pods []benchPod) (string, error) {
	var b strings.Builder
	for _, p := range pods {
		b.WriteString(p.manifest(r.Node, r.ID))
	}
	script := fmt.Sprintf(`set -e
kubectl apply -f - >/dev/null <<'EOF'
%sEOF
kubectl -n default get pods -l %s=%s -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}'`,
		b.String(), runLabel, r.ID)
	text, err := r.lab.Shell(ctx, script)
	if err != nil {
		return "", fmt.Errorf("making %d pods for nobody to run: %w", len(pods), err)
	}
	if pods[0].bound {
		if err := pause(ctx, boundSettle); err != nil {
			return "", err
		}
	}
	return podList(pods, text)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// podList puts the pods, whose order says which are in one round, together with their UIDs, which
// come in the API server's order.
func podList(pods []benchPod, text string) (string, error) {
	uids := map[string]string{}
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 {
			uids[words[0]] = words[1]
		}
	}
	type pod struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
	}
	var list []pod
	for _, p := range pods {
		if uids[p.name] == "" {
			return "", fmt.Errorf("the API server lists no UID of pod %s, which was just made", p.name)
		}
		list = append(list, pod{"default", p.name, uids[p.name]})
	}
	out, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("encoding the list of pods: %w", err)
	}
	return string(out), nil
}
