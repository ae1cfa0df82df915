// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MarkReplies makes connections that enter through a link be marked, and their
// replies carry the mark, whether they leave from this namespace or pass through it:
//
//	table inet spiderpool_LINK {
//		chain prerouting { type filter hook prerouting priority mangle;
//			iifname "LINK" ct direction original ct mark set MARK
//			iifname != "LINK" ct direction reply ct mark MARK meta mark set MARK
//		}
//		chain output { type route hook output priority mangle;
//			ct direction reply ct mark MARK meta mark set MARK
//		}
//	}
//
// A second call replaces the first. The table dies with its namespace. It needs nf_tables and
// nft_ct (Linux 5.2).
func (h *Host) MarkReplies(ns NS, link string, mark uint32) error {
	err := h.in(ns, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		markTable(c, link, mark)
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("marking replies to what enters through %s with 0x%x in %s (nf_tables, nft_ct): %w", link,
			mark, ns.where(), kernelError(err))
	}
	return nil
}

// markTable queues the table above; the kernel takes it as one transaction.
func markTable(c *nftables.Conn, link string, mark uint32) {
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "spiderpool_" + link})
	c.FlushTable(t)
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook,
			Priority: nftables.ChainPriorityMangle})
	}
	pre := chain("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting)
	out := chain("output", nftables.ChainTypeRoute, nftables.ChainHookOutput)
	add := func(to *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: to, Exprs: all})
	}
	value := binaryutil.NativeEndian.PutUint32(mark)
	setMark := []expr.Any{
		&expr.Immediate{Register: 1, Data: value},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
	hasMark := []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
	add(pre, enters(link, expr.CmpOpEq), direction(0), []expr.Any{
		&expr.Immediate{Register: 1, Data: value},
		&expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: 1},
	})
	add(pre, enters(link, expr.CmpOpNeq), direction(1), hasMark, setMark)
	add(out, direction(1), hasMark, setMark)
}

func enters(link string, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: name},
	}
}

// direction matches IP_CT_DIR_ORIGINAL (0) or IP_CT_DIR_REPLY (1).
func direction(d byte) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{d}},
	}
}
