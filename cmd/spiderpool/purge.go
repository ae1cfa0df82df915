// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/podresources"
	"spidernet.io/spiderpool/internal/purge"
	"spidernet.io/spiderpool/internal/settings"
)

func newPurge() *cobra.Command {
	var (
		o       purge.Options
		yes, no bool
	)
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "after an uninstallation, leave this node as it was found",
		Long: "Removes the virtual functions that the agent made, its records, sockets and device-info files, and " +
			"the CNI plugins and configuration. " +
			"Without --yes it only says what it would do. It refuses while the agent runs or pods use any of it. It " +
			"can be repeated.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Do, o.Out = yes && !no, cmd.OutOrStdout()
			o.Plugins = wantedPlugins{rdma: true, ibSRIOV: true, ipoib: true}.names(true)
			return runPurge(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&yes, "yes", false, "do it")
	flags.BoolVar(&no, "dry-run", false, "only say what would be done, also with --yes")
	flags.StringVar(&o.Root, "root", "/host", "where the node's root directory is mounted")
	flags.StringVar(&o.Ledger, "ledger", "/var/lib/spidernet/ledger.db", "file of the node's records, on the node")
	flags.StringVar(&o.Socket, "socket", settings.DefaultSocket, "the agent's socket, on the node")
	flags.StringVar(&o.BinDir, "cni-bin-dir", "/opt/cni/bin", "directory of the CNI plugins, on the node")
	flags.StringVar(&o.ConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of the CNI configurations, on the node")
	flags.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's directory, on the node")
	flags.IntVar(&o.HostTable, "host-table", v2beta1.DefaultHostRuleTable,
		"table of the node's routes to pods (hostRuleTable of the SpiderCoordinator)")
	addResourcePrefix(flags, &o.ResourcePrefix)
	return cmd
}

func runPurge(ctx context.Context, o purge.Options) error {
	kernel, err := host.New(host.Options{})
	if err != nil {
		return err
	}
	defer kernel.Close()
	kubelet := podresources.New(o.Root + o.KubeletDir + "/pod-resources/kubelet.sock")
	defer kubelet.Close()
	o.Kernel = kernel
	o.Allocated = func(ctx context.Context) (map[string]string, error) {
		return kubelet.Holders(ctx, o.ResourcePrefix+"/")
	}
	if err := purge.Run(ctx, o); err != nil {
		return fmt.Errorf("purging the node: %w", err)
	}
	return nil
}
