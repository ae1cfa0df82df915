// SPDX-License-Identifier: Apache-2.0

// Command kubenode is the Kubernetes part of a machine, kubelet and kube-proxy, in one binary. The
// name it is started by, or else its first argument, says which.
//
// It is apart from command kube because a program's packages are all initialized when it starts,
// and under emulation those of the control plane cost every start five seconds.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	name := filepath.Base(os.Args[0])
	if name == "kubenode" && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	switch name {
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	}
	fmt.Fprintln(os.Stderr, "kubenode: start it as, or with a first argument of, kubelet or kube-proxy")
	os.Exit(2)
}
