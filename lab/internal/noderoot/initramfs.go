// SPDX-License-Identifier: Apache-2.0

package noderoot

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// writeInitramfs packs busybox, the modules that find the disk, and lab/guest/initramfs-init. It is
// not compressed: unpacking under emulation takes longer than reading.
func writeInitramfs(file string, p Parts) error {
	modules, err := moduleFiles(p.Packages, bootModules...)
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("making the initramfs: %w", err)
	}
	defer out.Close()
	a := archive{w: cpio.NewWriter(out)}
	for _, d := range []string{"bin", "dev", "modules", "proc", "root"} {
		a.dir(d)
	}
	a.copy("init", filepath.Join(p.Guest, "initramfs-init"))
	a.copy("bin/busybox", filepath.Join(p.Packages.Node(), "bin/busybox"))
	var order strings.Builder
	for _, m := range modules {
		a.copy("modules/"+path.Base(m), filepath.Join(p.Packages.modules(), m))
		fmt.Fprintln(&order, path.Base(m))
	}
	a.file("modules/order", 0o644, []byte(order.String()))
	if a.err == nil {
		a.err = a.w.Close()
	}
	if a.err != nil {
		return fmt.Errorf("packing the initramfs: %w", a.err)
	}
	return nil
}

// archive writes a cpio archive and keeps the first error.
type archive struct {
	w   *cpio.Writer
	err error
}

func (a *archive) dir(name string) { a.entry(name, cpio.TypeDir|0o755, nil) }

func (a *archive) copy(name, from string) {
	b, err := os.ReadFile(from)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.file(name, 0o755, b)
}

func (a *archive) file(name string, mode cpio.FileMode, b []byte) {
	a.entry(name, cpio.TypeReg|mode, b)
}

func (a *archive) entry(name string, mode cpio.FileMode, b []byte) {
	if a.err != nil {
		return
	}
	if a.err = a.w.WriteHeader(&cpio.Header{Name: name, Mode: mode, Size: int64(len(b))}); a.err == nil {
		_, a.err = a.w.Write(b)
	}
}
