// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"spidernet.io/spiderpool/internal/agent"
	"spidernet.io/spiderpool/internal/cniinstall"
	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/sriov"
)

// wantedPlugins says which plugins the agent installs, by the switches of the chart.
type wantedPlugins struct{ rdma, ibSRIOV, ipoib bool }

func (w wantedPlugins) names(meta bool) []string {
	names := []string{"spiderpool", "coordinator"} // what our networks cannot do without
	for _, p := range []struct {
		name string
		on   bool
	}{{cniinstall.PluginType, meta}, {"rdma", w.rdma}, {"ib-sriov", w.ibSRIOV}, {"ipoib", w.ipoib}} {
		if p.on {
			names = append(names, p.name)
		}
	}
	return names
}

func newAgent() *cobra.Command {
	var (
		o    agent.Options
		c    common
		e    endpoints
		w    wantedPlugins
		conf string
		pick string
	)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "run this node: answer the container runtime, keep and advertise virtual functions",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Node == "" {
				return errors.New(
					"the node's name is missing: give --node or set NODE_NAME (the chart does, from the pod's " +
						"spec.nodeName)")
			}
			var err error
			if o.Prefer, err = sriov.ParsePreference(pick); err != nil {
				return fmt.Errorf("--preferred-allocation or SPIDERPOOL_PREFERRED_ALLOCATION: %w", err)
			}
			o.Namespace, o.HealthAddress, o.MetricsAddress = c.namespace, e.healthAddress(), e.metricsAddress()
			o.Install.Plugins = w.names(o.Install.Meta)
			return runAgent(cmd.Context(), o, c, conf)
		},
	}
	flags := cmd.Flags()
	c.add(flags)
	e.add(flags, 5710, 5711)
	addSettings(flags, &conf)
	addResourcePrefix(flags, &o.ResourcePrefix)
	flags.StringVar(&o.Node, "node", "", "name of this node")
	env(flags, "node", "NODE_NAME")
	flags.StringVar(&o.Ledger, "ledger", "/var/lib/spidernet/ledger.db", "file of the node's records")
	flags.StringVar(&o.Root, "root", "/host", "where the node's root directory is mounted")
	flags.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's directory")
	flags.StringVar(&o.ClusterNetwork, "cluster-network", "",
		"network of pods that name none; empty takes the node's first CNI configuration")
	env(flags, "cluster-network", "MULTUS_CLUSTER_NETWORK")
	flags.BoolVar(&o.SRIOV, "sriov", false, "make, configure and advertise virtual functions")
	env(flags, "sriov", "SPIDERPOOL_SRIOV_ENABLED")
	flags.StringVar(&pick, "preferred-allocation", string(sriov.Spread),
		"which free virtual functions a pod gets: spread over the cards, pack, or empty for the kubelet's own choice")
	env(flags, "preferred-allocation", "SPIDERPOOL_PREFERRED_ALLOCATION")
	flags.BoolVar(&o.Umad, "umad", false, "give pods the management device (umadN) of their virtual functions too")
	env(flags, "umad", "SPIDERPOOL_UMAD")
	addInstall(flags, &o.Install, &w)
	return cmd
}

// addInstall adds the flags that say what is put on the node.
func addInstall(flags *pflag.FlagSet, i *agent.Install, w *wantedPlugins) {
	flags.StringVar(&i.Shim, "shim", "/usr/bin/spiderpool-cni", "the CNI shim to install")
	flags.StringVar(&i.BinDir, "cni-bin-dir", "/opt/cni/bin", "directory of the node's CNI plugins")
	flags.StringVar(&i.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of the node's CNI configurations")
	for _, f := range []struct {
		to              *bool
		name, env, help string
		value           bool
	}{
		{&i.Meta, "install-multus", "INSTALL_MULTUS", "serve as the node's meta plugin", true},
		{&w.rdma, "install-rdma", "INSTALL_RDMA_PLUGIN", "install the plugin rdma", true},
		{&w.ibSRIOV, "install-ib-sriov", "INSTALL_IB_SRIOV_PLUGIN", "install the plugin ib-sriov", true},
		{&w.ipoib, "install-ipoib", "INSTALL_IPOIB_PLUGIN", "install the plugin ipoib", true},
		{&i.RemoveOnStop, "uninstall-on-stop", "UNINSTALL_ON_STOP",
			"remove everything from the node when the agent stops", false},
	} {
		flags.BoolVar(f.to, f.name, f.value, f.help)
		env(flags, f.name, f.env)
	}
}

func runAgent(ctx context.Context, o agent.Options, c common, conf string) (err error) {
	if o.Log, o.Config, err = c.start(); err != nil {
		return err
	}
	if o.Settings, err = settings.Load(conf); err != nil {
		return err
	}
	return agent.Run(ctx, o)
}
