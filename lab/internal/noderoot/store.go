// SPDX-License-Identifier: Apache-2.0

package noderoot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/tree"
)

// storeSize is the size of the disk for containers that a machine sees; the file is sparse.
const storeSize = 8 << 30

// seedConfig is the least that imports images: the machine's own configuration adds CRI, which
// needs more of a host.
const seedConfig = `version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
`

// Store returns the path of a disk for /var/lib/containerd that holds the images of the given
// docker-archive files.
func Store(ctx context.Context, c cache.Dir, p Packages, guest string, images ...string) (string, error) {
	seed := filepath.Join(guest, "seed-store")
	key := cache.NewKey("1", p.Dir, seedConfig).Tree(seed).Tree(images...)
	dir, err := c.Get("store", key, func(dir string) error {
		root := filepath.Join(dir, "root")
		if err := prepareSeeding(root, p, seed, images); err != nil {
			return err
		}
		if err := seedStore(ctx, root, images); err != nil {
			return fmt.Errorf("importing images on the host: %w", err)
		}
		if err := makeDisk(ctx, filepath.Join(dir, "store.ext4"), filepath.Join(root, "var/lib/containerd"),
			storeSize); err != nil {
			return err
		}
		return removeMapped(ctx, root)
	})
	return filepath.Join(dir, "store.ext4"), err
}

func prepareSeeding(root string, p Packages, seed string, images []string) error {
	if err := tree.Link(p.Node(), root); err != nil {
		return err
	}
	for _, d := range []string{"proc", "dev", "sys", "run", "tmp", "images", "var/lib/containerd"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("making a place to import images: %w", err)
		}
	}
	if err := tree.Write(filepath.Join(root, "etc/containerd/seed.toml"), 0o644,
		strings.NewReader(seedConfig)); err != nil {
		return err
	}
	for i, file := range images {
		if err := tree.CopyFile(file, filepath.Join(root, "images", fmt.Sprint(i))); err != nil {
			return err
		}
	}
	return tree.CopyFile(seed, filepath.Join(root, "seed-store"))
}

// enterScript mounts what containerd needs below its argument and goes there.
const enterScript = `set -e
cd "$1"; shift
mount --make-rprivate /
mount --rbind /dev dev
mount --rbind /proc proc
mount -t tmpfs run run
mount -t tmpfs tmp tmp
exec chroot . "$@"`

func seedStore(ctx context.Context, root string, images []string) error {
	argv := []string{"unshare"}
	if os.Geteuid() != 0 {
		argv = append(argv, "--map-root-user")
	}
	argv = append(argv, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enterScript, "sh", root,
		"/seed-store")
	for i := range images {
		argv = append(argv, fmt.Sprintf("/images/%d", i))
	}
	return run(ctx, argv...)
}

// removeMapped removes a tree that a mapped root wrote: the invoking user owns it all, but some
// directories are closed even to their owner.
func removeMapped(ctx context.Context, root string) error {
	if err := run(ctx, "chmod", "-R", "u+rwX", root); err != nil {
		return err
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("clearing up after importing images: %w", err)
	}
	return nil
}
