// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Options say what the steps run on.
type Options struct {
	Nodes []string // the lab's nodes
	// Install is the helm command that installs the product, with what the lab adds to the guide's.
	Install string
}

// Steps are the steps of the guide, both parts.
func Steps(o Options) ([]Step, error) {
	b := builder{guide: ParseGuide(guideText), Options: o}
	b.cards()
	b.install()
	b.virtualFunctions()
	b.networks(PartSRIOV, "ib-sriov")
	b.rememberDevices()
	b.application(PartSRIOV, "ib-sriov")
	b.rdma()
	b.networkStatus()
	b.ping("ib-sriov")
	b.readLatency()
	b.nodeAndServices()
	b.giveBack("ib-sriov")
	b.networks(PartIPoIB, "ipoib")
	b.application(PartIPoIB, "ipoib")
	b.ping("ipoib")
	b.giveBack("ipoib")
	return b.steps, b.err
}

type builder struct {
	Options
	guide Guide
	steps []Step
	err   error
}

func (b *builder) add(s Step) { b.steps = append(b.steps, s) }

func (b *builder) promise(part, pattern string) string {
	text, err := b.guide.Promise(part, pattern)
	if err != nil && b.err == nil {
		b.err = err
	}
	return text
}

func (b *builder) script(part, pattern string) string {
	text, err := b.guide.Script(part, pattern)
	if err != nil && b.err == nil {
		b.err = err
	}
	return text
}

// onNodes adds a step that runs a command on every node, whose output must satisfy same.
func (b *builder) onNodes(title, command, promise string, same func(here string) error) {
	b.add(Step{Title: title, Command: command, Promise: promise, Do: func(ctx context.Context, w *Walk) (string,
		error) {
		var all []string
		for _, n := range b.Nodes {
			here, err := w.Node(ctx, n, command)
			here = strings.TrimSpace(here)
			all = append(all, n+": "+here)
			if err != nil {
				return strings.Join(all, "\n"), fmt.Errorf("on %s: %w", n, err)
			}
			if err := same(here); err != nil {
				return strings.Join(all, "\n"), fmt.Errorf("on %s: %w", n, err)
			}
		}
		return strings.Join(all, "\n"), nil
	}})
}

func equals(want string) func(string) error {
	return func(here string) error {
		if here != want {
			return fmt.Errorf("want %q", want)
		}
		return nil
	}
}

func matches(pattern string) func(string) error {
	re := regexp.MustCompile(pattern)
	return func(here string) error {
		if !re.MatchString(here) {
			return fmt.Errorf("want a match of %s", pattern)
		}
		return nil
	}
}

// linkActive matches `rdma link` of one active InfiniBand device; the LIDs are the fabric's choice.
const linkActive = `^link mlx5_\d+/1 subnet_prefix fe80:0000:0000:0000 lid \d+ sm_lid \d+ lmc 0 state ACTIVE physical_state LINK_UP\s*$`

func (b *builder) cards() {
	lspci := b.promise(PartSRIOV, "lspci")
	b.onNodes("An InfiniBand card in each node", "lspci -nn | grep Infiniband | head -1", lspci, equals(lspci))
	b.onNodes("Its RDMA device is active", "rdma link show mlx5_0/1", b.promise(PartSRIOV, "rdma link"),
		matches(linkActive))
	b.onNodes("Its link layer is InfiniBand", `ibstat mlx5_0 | grep "Link layer"`, b.promise(PartSRIOV, "ibstat"),
		equals("Link layer: InfiniBand"))
	mode := b.promise(PartSRIOV, "rdma system$")
	b.onNodes("The RDMA subsystem is exclusive", "rdma system", mode, equals(mode))
	b.onNodes("The IPoIB interface of the card", "ip a show ibs5f0", b.promise(PartIPoIB, "ip a show"),
		func(here string) error {
			for _, want := range []string{"link/infiniband", "altname ibp134s0f0", "inet 172.91.0.", "mtu 2044",
				"LOWER_UP"} {
				if !strings.Contains(here, want) {
					return fmt.Errorf("want %q in it", want)
				}
			}
			return nil
		})
}

func (b *builder) install() {
	b.add(Step{Title: "Install with Helm", Command: b.Install,
		Promise: b.promise(PartSRIOV, "get pod -n kube-system"),
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if out, err := w.Shell(ctx, b.Install); err != nil {
				return out, err
			}
			return w.poll(ctx, func() (bool, string, error) {
				out, err := w.Shell(ctx, "kubectl get pod -n kube-system --no-headers")
				return podsAsPromised(out, len(b.Nodes)), out, err
			})
		}})
}

// podsAsPromised tells whether the list of pods in kube-system is the guide's.
func podsAsPromised(list string, nodes int) bool {
	count := func(pattern string) int { return len(regexp.MustCompile("(?m)"+pattern).FindAllString(list, -1)) }
	return count(`^spiderpool-agent-\S+ +1/1 +Running`) == nodes &&
		count(`^spiderpool-controller-\S+ +1/1 +Running`) == 1 &&
		count(`^spiderpool-sriov-operator-\S+ +1/1 +Running`) == 1 &&
		count(`^spiderpool-init +0/1 +Completed`) == 1
}

func (b *builder) virtualFunctions() {
	policy := b.script(PartSRIOV, "SriovNetworkNodePolicy")
	const query = `kubectl get no -o json | jq -r '[.items[] | {name:.metadata.name, allocable:.status.allocatable}]'`
	b.add(Step{Title: "12 VFs on every node", Command: policy + query,
		Promise: `"spidernet.io/mellanoxibsriov": "12"`,
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.apply(ctx, policy); err != nil {
				return "", err
			}
			return w.poll(ctx, func() (bool, string, error) {
				out, err := w.Shell(ctx, query)
				if err != nil {
					return false, "", err
				}
				return allocatable(out, "spidernet.io/mellanoxibsriov", "12", b.Nodes)
			})
		}})
	b.onNodes("Every VF has a valid GUID of its own",
		`ip link show ibs5f0 | grep -o 'NODE_GUID [0-9a-f:]*' | grep -v -e 00:00:00:00:00:00:00:00 -e ff:ff:ff:ff:ff:ff:ff:ff | sort -u | wc -l`,
		"12 different GUIDs, none of them zero", equals("12"))
}

// apply runs a script that pipes a manifest into kubectl.
func (w *Walk) apply(ctx context.Context, script string) error {
	if out, err := w.Shell(ctx, script); err != nil {
		return fmt.Errorf("applying the guide's manifest: %w\n%s", err, out)
	}
	return nil
}

func allocatable(out, resource, want string, nodes []string) (bool, string, error) {
	var list []struct {
		Name      string
		Allocable map[string]string
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return false, "", fmt.Errorf("reading the nodes: %w", err)
	}
	done := len(list) == len(nodes)
	var state []string
	for _, n := range list {
		state = append(state, fmt.Sprintf("%s: %q: %q", n.Name, resource, n.Allocable[resource]))
		done = done && n.Allocable[resource] == want
	}
	return done, strings.Join(state, "\n"), nil
}

func (b *builder) networks(part, network string) {
	script := b.script(part, "SpiderMultusConfig")
	b.add(Step{Title: "The network " + network + " and its addresses", Command: script,
		Promise: "a NetworkAttachmentDefinition kube-system/" + network + ", a pool of 21 addresses",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			applied, err := w.Shell(ctx, script+"\n")
			if err != nil {
				return applied, fmt.Errorf("applying the guide's manifest: %w", err)
			}
			state, err := w.poll(ctx, func() (bool, string, error) {
				nad, err := w.Shell(ctx, "kubectl -n kube-system get network-attachment-definition "+network+
					" -o jsonpath='{.spec.config}'")
				if err != nil {
					return false, "", err
				}
				pool, err := w.Shell(ctx, "kubectl get spiderippool v4-91 --no-headers")
				return strings.Contains(nad, `"type":"`+network+`"`) && regexp.MustCompile(`\s21\s`).MatchString(pool),
					nad + "\n" + strings.TrimSpace(pool), err
			})
			return strings.TrimSpace(applied) + "\n" + state, err
		}})
}

// devices prints what a node has of links and RDMA devices, without those of the primary network.
const devices = `ip -o link show | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | grep -v -e ^veth -e ^cni0$ | sort; rdma dev show | sed 's/^[0-9]*: \([^:]*\):.*/\1/' | sort`

func (b *builder) rememberDevices() {
	b.add(Step{Title: "What the nodes own before any pod", Command: devices,
		Promise: "12 VF interfaces and 13 RDMA devices",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			var state []string
			for _, n := range b.Nodes {
				out, err := w.Node(ctx, n, devices)
				if err != nil {
					return "", err
				}
				w.before[n] = out
				// A lab may have more cards than the guide's: each function of any has a link and a device.
				vfs, links, rdma := strings.Count(out, "ibs5f0v"), strings.Count(out, "ibs"),
					strings.Count(out, "mlx5_")
				if vfs != 12 || rdma != links {
					return out,
						fmt.Errorf(
							"%s has %d VF interfaces of the card, and %d RDMA devices to %d InfiniBand interfaces", n,
							vfs, rdma, links)
				}
				state = append(state, n+": "+strings.Join(strings.Fields(out), " "))
			}
			return strings.Join(state, "\n"), nil
		}})
}

func (b *builder) application(part, app string) {
	script := b.script(part, "kind: DaemonSet")
	list := "kubectl get pod -l app=" + app + " -o wide --no-headers"
	b.add(Step{Title: "Pods on " + app, Command: script,
		Promise: "one pod on each node, Running, each with an address of the pool",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.apply(ctx, script); err != nil {
				return "", err
			}
			return w.poll(ctx, func() (bool, string, error) {
				out, err := w.Shell(ctx, list)
				if err != nil {
					return false, "", err
				}
				w.pods[app] = runningPods(out)
				return len(w.pods[app]) == len(b.Nodes), out, nil
			})
		}})
	command := "kubectl logs POD # ls -l /dev/infiniband /sys/class/net"
	want, not := []string{"rdma_cm", "uverbs", "eth0", "veth0"}, []string{"umad", "issm"}
	promise := "/dev/infiniband holds its uverbsN and rdma_cm; /sys/class/net holds eth0, lo, veth0"
	if app == "ipoib" {
		want, not = []string{"eth0", "veth0"}, []string{"uverbs", "rdma_cm"}
		promise = "/sys/class/net holds eth0, lo, veth0; no RDMA device"
	}
	b.add(Step{Title: "What a pod on " + app + " sees", Command: command, Promise: promise,
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.needPods(app, len(b.Nodes)); err != nil {
				return "", err
			}
			return w.poll(ctx, func() (bool, string, error) {
				var out string
				for _, p := range w.pods[app] {
					text, err := w.Shell(ctx, "kubectl logs "+p.Name)
					out = text
					if err == nil {
						err = contains(text, want, not)
					}
					if err != nil {
						return false, out, fmt.Errorf("pod %s: %w", p.Name, err)
					}
				}
				return true, out, nil
			})
		}})
}

func contains(text string, want, not []string) error {
	for _, s := range want {
		if !strings.Contains(text, s) {
			return fmt.Errorf("want %q in it", s)
		}
	}
	for _, s := range not {
		if strings.Contains(text, s) {
			return fmt.Errorf("%q must not be in it", s)
		}
	}
	return nil
}

// runningPods reads `kubectl get pod -o wide --no-headers`: those that are 1/1 Running with an
// address of the guide's pool.
func runningPods(list string) []podRef {
	re := regexp.MustCompile(`(?m)^(\S+) +1/1 +Running +\S+(?: +\(.*?\))? +\S+ +(172\.91\.0\.1\d\d) +(\S+)`)
	var pods []podRef
	for _, m := range re.FindAllStringSubmatch(list, -1) {
		pods = append(pods, podRef{Name: m[1], IP: m[2], Node: m[3]})
	}
	slices.SortFunc(pods, func(a, b podRef) int { return strings.Compare(a.Node, b.Node) })
	return pods
}

func (b *builder) rdma() {
	b.add(Step{Title: "Each pod has its own RDMA device and no other", Command: "kubectl exec POD -- rdma link",
		Promise: b.promise(PartSRIOV, "rdma link"),
		Do: func(ctx context.Context, w *Walk) (string, error) {
			var all []string
			for _, p := range w.pods["ib-sriov"] {
				out, err := w.Shell(ctx, "kubectl exec "+p.Name+" -- rdma link")
				out = strings.TrimSpace(out)
				all = append(all, p.Name+": "+out)
				if err != nil {
					return strings.Join(all, "\n"), err
				}
				if err := matches(linkActive)(out); err != nil {
					return strings.Join(all, "\n"), fmt.Errorf("pod %s: %w", p.Name, err)
				}
			}
			return strings.Join(all, "\n"), w.needPods("ib-sriov", len(b.Nodes))
		}})
}

func (b *builder) networkStatus() {
	const query = `kubectl get pod %s -o jsonpath='{.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}'`
	b.add(Step{Title: "The pod's annotation tells its network and device", Command: fmt.Sprintf(query, "POD"),
		Promise: "name kube-system/ib-sriov, interface eth0, the pod's address, the VF's PCI address and RDMA device",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.needPods("ib-sriov", len(b.Nodes)); err != nil {
				return "", err
			}
			p := w.pods["ib-sriov"][0]
			return w.poll(ctx, func() (bool, string, error) {
				out, err := w.Shell(ctx, fmt.Sprintf(query, p.Name))
				if err == nil {
					err = contains(out, []string{`"kube-system/ib-sriov"`, `"eth0"`, p.IP, `"pci-address": "0000:86:0`,
						`"rdma-device": "mlx5_`}, nil)
				}
				return err == nil, out, err
			})
		}})
}

func (w *Walk) needPods(app string, n int) error {
	if got := len(w.pods[app]); got != n {
		return fmt.Errorf("%d pods of %s are running, want %d", got, app, n)
	}
	return nil
}

func (b *builder) ping(app string) {
	b.add(Step{Title: "ping between nodes on " + app, Command: "kubectl exec POD -- ping -c 3 PEER",
		Promise: "64 bytes from PEER: icmp_seq=1 ttl=64",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.needPods(app, len(b.Nodes)); err != nil {
				return "", err
			}
			from, to := w.pods[app][0], w.pods[app][1]
			out, err := w.Shell(ctx, "kubectl exec "+from.Name+" -- ping -c 3 -W 5 "+to.IP)
			if err != nil {
				return out, err
			}
			return out, matches(`(?m)^64 bytes from ` + regexp.QuoteMeta(to.IP) + `: icmp_seq=\d+ ttl=64 `)(out)
		}})
}

func (b *builder) readLatency() {
	b.add(Step{Title: "ib_read_lat between nodes",
		Command: "kubectl exec PEER -- ib_read_lat &\nkubectl exec POD -- ib_read_lat PEER",
		Promise: "RDMA reads succeed: a line of latencies",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.needPods("ib-sriov", len(b.Nodes)); err != nil {
				return "", err
			}
			client, server := w.pods["ib-sriov"][0], w.pods["ib-sriov"][1]
			out, err := w.Shell(ctx, readLatencyScript(client, server))
			if err != nil {
				return out, err
			}
			return latencyTable(out), matches(`(?m)^ *2 +1000 +[\d.]+ +[\d.]+`)(out)
		}})
}

// readLatencyScript starts a server in one pod, waits until it listens, and runs the client in the other.
func readLatencyScript(client, server podRef) string {
	//nolint:lll // the lines of a raw string
	return fmt.Sprintf(`
kubectl exec %[1]s -- timeout 120 ib_read_lat >/dev/null 2>&1 &
server=$!
for i in $(seq 60); do kubectl exec %[1]s -- grep -q :4853 /proc/net/tcp /proc/net/tcp6 && break; sleep 0.5; done # 18515, the port it listens on
kubectl exec %[2]s -- timeout 120 ib_read_lat %[3]s
rc=$?
wait $server
exit $rc
`, server.Name, client.Name, server.IP)
}

func latencyTable(out string) string {
	if i := strings.Index(out, " #bytes"); i >= 0 {
		return strings.TrimRight(out[i:], "-\n ")
	}
	return out
}

func (b *builder) nodeAndServices() {
	b.add(Step{Title: "Probes and Services reach an ib-sriov pod, and it reaches them", Command: servicePods,
		Promise: "a readiness probe over the pod's address, a ClusterIP both ways",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if err := w.apply(ctx, servicePods); err != nil {
				return "", err
			}
			defer w.Shell(context.WithoutCancel(ctx),
				"kubectl delete --wait=false pod/web-ib pod/web service/web-ib "+
					"service/web") //nolint:errcheck // best effort; the step that gives back notices
			state, err := w.poll(ctx, func() (bool, string, error) {
				out, err := w.Shell(ctx, "kubectl get pod web-ib web -o wide --no-headers")
				return strings.Count(out, "1/1") == 2, out, err
			})
			if err != nil {
				return state, err
			}
			for _, c := range [][2]string{{"web-ib", "web"}, {"web", "web-ib"}} {
				script := fmt.Sprintf(fetch, c[0], c[1])
				out, err := w.Shell(ctx, script)
				if err != nil || strings.TrimSpace(out) != c[1] {
					return state, fmt.Errorf("%s does not reach Service %s: %q, %w", c[0], c[1], out, err)
				}
				state += fmt.Sprintf("\n%s -> ClusterIP of %s: %s", c[0], c[1], strings.TrimSpace(out))
			}
			return state, nil
		}})
}

// fetch gets the page of a Service's ClusterIP from within a pod.
const fetch = `ip=$(kubectl get service %[2]s -o jsonpath='{.spec.clusterIP}')
kubectl exec %[1]s -- timeout 20 bash -c "exec 3<>/dev/tcp/$ip/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3"`

// servicePods are an ib-sriov pod and an ordinary pod, each a web server behind a Service and a
// readiness probe.
const servicePods = `cat <<EOF | kubectl apply -f -
apiVersion: v1
kind: Pod
metadata:
  name: web-ib
  labels: {app: web-ib}
  annotations: {v1.multus-cni.io/default-network: kube-system/ib-sriov}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: 10-20-1-10}
  containers:
  - name: web
    image: docker.io/mellanox/rping-test
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir /www && echo web-ib >/www/index.html && exec busybox httpd -f -p 80 -h /www"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1, timeoutSeconds: 5}
    resources: {limits: {spidernet.io/mellanoxibsriov: 1}}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: 10-20-1-20}
  containers:
  - name: web
    image: docker.io/mellanox/rping-test
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "mkdir /www && echo web >/www/index.html && exec busybox httpd -f -p 80 -h /www"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: web-ib}
spec: {selector: {app: web-ib}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
EOF
`

func (b *builder) giveBack(app string) {
	// The guide's container does not listen to the signal to end; a short grace period spares half
	// a minute of waiting.
	command := fmt.Sprintf(
		"kubectl delete daemonset %[1]s --cascade=orphan && kubectl delete pod -l app=%[1]s --grace-period=2 "+
			"--timeout=90s", app)
	b.add(Step{Title: "Deleting the pods of " + app + " gives everything back", Command: command,
		Promise: "VF interfaces and RDMA devices on the node under their old names, all addresses free, no record",
		Do: func(ctx context.Context, w *Walk) (string, error) {
			if out, err := w.Shell(ctx, command); err != nil {
				return out, err
			}
			return w.poll(ctx, func() (bool, string, error) { return b.allBack(ctx, w) })
		}})
}

// allBack compares each node with what it owned before any pod, and counts records and the leases
// that pods have: those without a pod are what a node holds ready.
func (b *builder) allBack(ctx context.Context, w *Walk) (bool, string, error) {
	var differ []string
	for _, n := range b.Nodes {
		now, err := w.Node(ctx, n, devices)
		if err != nil {
			return false, "", err
		}
		if now != w.before[n] {
			differ = append(differ, fmt.Sprintf("%s: had %s; has %s", n, strings.Fields(w.before[n]),
				strings.Fields(now)))
		}
		records, err := w.Node(ctx, n, "curl -sf http://127.0.0.1:5710/v1/node/sandboxes")
		if err != nil {
			return false, "", fmt.Errorf("asking the agent on %s for its records: %w", n, err)
		}
		if ib := regexp.MustCompile(`"type": ?"(ib-sriov|ipoib)"`).FindString(records); ib != "" {
			differ = append(differ, n+": the agent still has a record of "+ib)
		}
	}
	used, err := w.Shell(ctx,
		"kubectl get spiderippool v4-91 -o jsonpath='{.status.allocatedIPCount}'; echo; kubectl get spideripleases "+
			"-o jsonpath='{.items[*].spec.pod.uid}' | wc -w")
	if err != nil {
		return false, "", err
	}
	if strings.Join(strings.Fields(used), " ") != "0 0" {
		differ = append(differ,
			"addresses in the pool's status, leases of pods: "+strings.Join(strings.Fields(used), ", "))
	}
	if len(differ) > 0 {
		return false, strings.Join(differ, "\n"), nil
	}
	return true, "every node has what it had; 0 addresses in use; no record of an InfiniBand interface", nil
}

// Install is the guide's helm command with what this lab needs beside it: --install because there
// is no release yet, the chart of this repository, and the image that was built here.
func Install(image string) string {
	repository, tag, _ := strings.Cut(image, ":")
	registry, repository, _ := strings.Cut(repository, "/")
	return fmt.Sprintf(
		`helm upgrade --install spiderpool charts/spiderpool --namespace kube-system --reuse-values --set sriov.install=true \
  --set image.registry=%s,image.repository=%s,image.tag=%s --wait --timeout 4m`, registry, repository, tag)
}
