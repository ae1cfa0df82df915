// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// The names of the two Deployments, of their Leases and of their PodDisruptionBudgets.
var controllers = []string{"spiderpool-controller", "spiderpool-sriov-operator"}

const (
	// takeoverLimit is how long after the leader's node died the other replica must hold the Lease.
	takeoverLimit = 15 * time.Second
	// outageFor is how long the node is dead: admission has to work in all of it.
	outageFor = 50 * time.Second
	// refusalLimit is how long no write of a pool may be admitted. The API server picks an endpoint
	// of the Service by chance; a call to the dead one fails after the webhook's timeout, and the
	// next may find the living one.
	refusalLimit = 30 * time.Second
)

// admitPool asks a controller's webhook about a pool, as the API server does: by the name in the
// certificate, with the certificate authority of the webhook's configuration.
//
//nolint:lll // the lines of a raw string
const admitPool = `ca=$(mktemp); trap 'rm -f $ca' EXIT; echo %[1]s | base64 -d >$ca
curl -sS --max-time 20 --cacert $ca --resolve spiderpool-controller.kube-system.svc:5722:%[2]s -H 'Content-Type: application/json' \
  --data-binary @- https://spiderpool-controller.kube-system.svc:5722/validate-spiderpool-spidernet-io-v2beta1-spiderippool <<'END'
{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"e2e","operation":"CREATE","name":"e2e-bad",
"kind":{"group":"spiderpool.spidernet.io","version":"v2beta1","kind":"SpiderIPPool"},
"resource":{"group":"spiderpool.spidernet.io","version":"v2beta1","resource":"spiderippools"},"userInfo":{"username":"e2e"},
"object":{"apiVersion":"spiderpool.spidernet.io/v2beta1","kind":"SpiderIPPool","metadata":{"name":"e2e-bad"},
"spec":{"subnet":"172.96.0.0/16","ips":["172.97.0.1"]}}}}
END`

// TestTwoControllers runs two replicas of both Deployments, stops the node of their leaders without
// a word, and watches who leads and whether objects are admitted.
func TestTwoControllers(t *testing.T) {
	onlyLong(t)
	setReplicas(t, 2)
	t.Cleanup(func() { setReplicas(t, 1) })
	for _, name := range controllers {
		eventually(t, podLimit, func() string { return differs("nodes of "+name, nodesOf(t, name), topology.Names()) })
		eventually(t, podLimit, func() string {
			allowed := shell(t, "kubectl -n kube-system get poddisruptionbudget "+name+
				" -o jsonpath='{.status.expectedPods} {.status.disruptionsAllowed}'")
			return differs("pods, and allowed disruptions, of the budget of "+name, allowed, "2 1")
		})
	}
	ca := strings.TrimSpace(shell(t,
		"kubectl get validatingwebhookconfiguration spiderpool-controller -o "+
			"jsonpath='{.webhooks[0].clientConfig.caBundle}'"))
	for _, n := range topology.Nodes() {
		if answer := node(t, topology.Names()[0], fmt.Sprintf(admitPool, ca, n.Address)); !strings.Contains(answer,
			`"allowed":false`) || !strings.Contains(answer, "172.97.0.1") {
			t.Errorf("the webhook on %s, asked about a pool with a wrong address, answers %s", n.Name, answer)
		}
	}

	dead := leadersOnOneNode(t)
	apply(t, pool("e2e-takeover", "  subnet: 172.96.0.0/16\n  ips: [172.96.0.10-172.96.0.20]\n"))
	t.Cleanup(func() { shell(t, "kubectl delete --ignore-not-found spiderippool e2e-takeover") })
	before := map[string]string{}
	for _, name := range controllers {
		before[name] = holder(t, name)
	}
	writes := writing(t, "e2e-takeover")
	if err := laboratory.Pause(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	t.Cleanup(func() { resume(t, dead) }) // also if this test ends early
	for _, name := range controllers {
		eventually(t, outageFor, func() string {
			if holder(t, name) == before[name] {
				return "the dead node's replica still leads " + name
			}
			return ""
		})
		took := time.Since(died)
		t.Logf("%s: the other replica leads %s after the leader's node died", name, took.Round(100*time.Millisecond))
		if took > takeoverLimit {
			t.Errorf("%s: the Lease changed hands after %s, expected at most %s", name, took, takeoverLimit)
		}
	}
	time.Sleep(time.Until(died.Add(outageFor)))
	admitted := writes()
	resume(t, dead)
	checkAdmission(t, admitted, died)

	for _, name := range controllers { // the old leader notices that it leads no longer
		eventually(t, podLimit, func() string { return differs("nodes of "+name, nodesOf(t, name), topology.Names()) })
		if now := holder(t, name); now == before[name] {
			t.Errorf("%s: the replica that was dead leads again under its old identity", name)
		}
	}
}

// setReplicas changes the release as a user would. Helm waits until all replicas are ready.
func setReplicas(t *testing.T, n int) {
	t.Helper()
	upgrade(t, fmt.Sprintf("--set spiderpoolController.replicas=%[1]d,sriov.replicas=%[1]d", n))
}

// nodesOf are the nodes of a Deployment's ready pods.
func nodesOf(t *testing.T, deployment string) []string {
	t.Helper()
	const ready = `{range .items[?(@.metadata.ownerReferences[0].kind=="ReplicaSet")]}{.metadata.name}{" "}{.spec.nodeName}{" "}` +
		`{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`
	var nodes []string
	for line := range strings.Lines(shell(t, "kubectl -n kube-system get pods -o jsonpath='"+ready+"'")) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], deployment+"-") && f[2] == "True" {
			nodes = append(nodes, f[1])
		}
	}
	slices.Sort(nodes)
	return nodes
}

// holder is who has the Lease of a Deployment's leader.
func holder(t *testing.T, lease string) string {
	t.Helper()
	client, err := laboratory.Layout.Client()
	if err != nil {
		t.Fatal(err)
	}
	l, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), lease, metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil {
		t.Fatalf("the Lease %s has no holder: %v", lease, err)
	}
	return *l.Spec.HolderIdentity
}

// nodeOfHolder is the node of an identity, which begins with a pod's or a node's name.
func nodeOfHolder(t *testing.T, identity string) topology.Node {
	t.Helper()
	name, _, _ := strings.Cut(identity, "_")
	if n, err := topology.Find(name); err == nil {
		return n
	}
	n, err := topology.Find(strings.TrimSpace(shell(t, "kubectl -n kube-system get pod "+name+
		" -o jsonpath='{.spec.nodeName}'")))
	if err != nil {
		t.Fatalf("the Lease's holder %q: %v", identity, err)
	}
	return n
}

// leadersOnOneNode has both leaders on one node, by the end of the one that is elsewhere: its Lease
// goes to the other replica.
func leadersOnOneNode(t *testing.T) topology.Node {
	t.Helper()
	at := nodeOfHolder(t, holder(t, controllers[0]))
	if n := nodeOfHolder(t, holder(t, controllers[1])); n.Name != at.Name {
		shell(t, "kubectl -n kube-system delete pod --timeout=120s --field-selector spec.nodeName="+n.Name+
			" -l app.kubernetes.io/component=sriov-operator")
		eventually(t, podLimit, func() string {
			return differs("node of the leader of "+controllers[1], nodeOfHolder(t, holder(t, controllers[1])).Name,
				at.Name)
		})
		eventually(t, podLimit, func() string {
			return differs("nodes of "+controllers[1], nodesOf(t, controllers[1]), topology.Names())
		})
	}
	return at
}

// writing changes a pool again and again until the function that it returns is called, which returns
// when each change that was admitted was answered.
func writing(t *testing.T, name string) (stop func() []time.Time) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	admitted := []time.Time{time.Now()}
	running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			script := fmt.Sprintf(
				`kubectl patch spiderippool %s --type merge -p '{"metadata":{"annotations":{"e2e/tick":"%d"}}}'`, name,
				i)
			if _, err := term.Shell(context.WithoutCancel(ctx), script); err == nil {
				admitted = append(admitted, time.Now())
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	end := func() []time.Time {
		cancel()
		running.Wait()
		return admitted
	}
	t.Cleanup(func() { end() })
	return end
}

// checkAdmission looks for the longest time in which no write was admitted.
func checkAdmission(t *testing.T, admitted []time.Time, died time.Time) {
	t.Helper()
	var longest time.Duration
	during := 0
	for i := 1; i < len(admitted); i++ {
		longest = max(longest, admitted[i].Sub(admitted[i-1]))
		if admitted[i].After(died) {
			during++
		}
	}
	t.Logf("%d writes were admitted while the node was dead for %s; the longest time without one: %s", during,
		outageFor, longest.Round(100*time.Millisecond))
	if last := died.Add(outageFor).Sub(admitted[len(admitted)-1]); max(longest, last) > refusalLimit || during == 0 {
		t.Errorf("%d writes admitted, none for %s, none at the end for %s: expected one at least every %s", during,
			longest, last, refusalLimit)
	}
}

// resume has a node go on, and waits until the cluster counts on it again.
func resume(t *testing.T, n topology.Node) {
	t.Helper()
	if err := laboratory.Resume(context.WithoutCancel(t.Context()), n); err != nil {
		t.Fatal(err)
	}
	shell(t, "kubectl wait --for=condition=Ready --timeout=120s node/"+n.Name)
}
