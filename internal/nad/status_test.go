// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

func result(t *testing.T, text string) *types100.Result {
	t.Helper()
	r, err := create.Create("1.1.0", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out, err := types100.NewResultFromResult(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStatus(t *testing.T) {
	pci := &cncfv1.DeviceInfo{Type: cncfv1.DeviceInfoTypePCI, Version: cncfv1.DeviceInfoVersion,
		Pci: &cncfv1.PciDevice{PciAddress: "0000:86:00.1", RdmaDevice: "mlx5_1", PfPciAddress: "0000:86:00.0"}}
	//nolint:lll // the lines of a raw string
	text, err := FormatStatus(Status([]Attached{
		{
			Network: "kube-system/ib-sriov", Interface: "eth0", Default: true, Device: pci,
			Result: result(t, `{"cniVersion":"1.1.0",
				"interfaces":[{"name":"veth1","mac":"02:00:00:00:00:01"},{"name":"eth0","sandbox":"/ns","mtu":2044,"mac":"00:00:10:49:fe:80:00:00:00:00:00:00:e8:eb:d3:03:00:93:ae:11"}],
				"ips":[{"address":"172.91.0.100/16","gateway":"172.91.0.1","interface":1},{"address":"10.0.0.1/24","interface":0},{"address":"fd00:91::100/64","gateway":"fd00:91::1","interface":1}],
				"routes":[{"dst":"0.0.0.0/0","gw":"172.91.0.1"},{"dst":"::/0"},{"dst":"10.0.0.0/8","gw":"172.91.0.9"}],"dns":{"nameservers":["10.96.0.10"],"search":["a"]}}`),
		},
		{Network: "bridge", Interface: "net1",
			Result: result(t,
				`{"cniVersion":"1.1.0","interfaces":[{"name":"net1","sandbox":"/ns"}],"ips":[{"address":"10.0.0.2/24"}]}`)},
		{Network: "app/none", Interface: "net2"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "network-status.json", text+"\n")
}
