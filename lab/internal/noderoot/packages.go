// SPDX-License-Identifier: Apache-2.0

package noderoot

// nodePackages make a machine's root: what a Kubernetes node and a person who looks at its
// InfiniBand card need.
var nodePackages = []string{
	"bash", "base-files", "busybox-static", "coreutils", "findutils", "gawk", "grep", "hostname", "jq", "less",
	"libc-bin", "mount", "netbase",
	"procps", "sed", "tar", "udev", "util-linux",
	"conntrack", "curl", "ethtool", "iproute2", "iputils-ping", "nftables", "tcpdump",
	"kmod", "pciutils", "pci.ids",
	"ibverbs-providers", "ibverbs-utils", "infiniband-diags", "rdma-core",
	"containerd", "containernetworking-plugins", "dropbear-bin", "runc",
}

// cniPlugins are those of containernetworking-plugins that a machine has.
var cniPlugins = []string{"bridge", "host-local", "ipvlan", "loopback", "macvlan", "portmap", "ptp", "static", "tuning",
	"vlan"}

// testPackages make the image that the guide's pods run: the guide names it, and uses ping, rdma
// and ib_read_lat in it.
var testPackages = []string{
	"bash", "busybox-static", "coreutils", "curl", "grep", "iproute2", "iputils-ping", "procps",
	"ibverbs-providers", "ibverbs-utils", "infiniband-diags", "perftest", "rdmacm-utils",
}

// nodePrunes are parts of those packages that no machine uses: documentation, and perl, which only
// helper scripts want.
var nodePrunes = []string{
	"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
	"usr/share/perl*",
	"usr/share/bash-completion", "usr/share/zsh", "usr/lib/x86_64-linux-gnu/perl*", "usr/lib/x86_64-linux-gnu/gconv",
	"usr/lib/udev/hwdb.d",
	"etc/init.d", "etc/cron.*", "usr/lib/systemd/system",
}

// bootModules are loaded by the initramfs, in this order, to find the root. ext4 asks for crc32c by
// its function, not by a module's name.
var bootModules = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4"}

// nodeModules are patterns of modules that a machine may load later; what they depend on comes with them.
var nodeModules = []string{
	"virtio_net", "virtio_rng", "overlay", "fuse", "9p", "9pnet_virtio",
	"bridge", "br_netfilter", "veth", "dummy", "macvlan", "ipvlan", "vxlan", "bonding", "8021q", "vrf", "tun",
	// not xt_ipvs: kube-proxy would find IPVS and clean it up
	"nf_*", "nft_*", "xt_[a-hj-zA-Z]*", "x_tables", "ip_set*",
	"cls_*", "act_*", "sch_*", "tcp_diag", "udp_diag", "inet_diag", "af_packet",
	"ib_core", "ib_uverbs", "ib_umad", "rdma_cm", "rdma_ucm", "ib_cm", "ib_ipoib", "iw_cm", "rdmavt", "rdma_rxe",
}
