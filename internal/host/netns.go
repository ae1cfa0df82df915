// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// where names a namespace in messages.
func (ns NS) where() string {
	if ns == NodeNS {
		return "the node's network namespace"
	}
	return "network namespace " + string(ns)
}

// openNSFile opens a path that must be a network namespace. A path that is
// left over as a plain file, as a namespace's mount point is after its
// unmount, counts as gone.
func openNSFile(path string) (*os.File, error) {
	fd, err := openPath(path)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("statfs %s: %w", path, err)
	}
	kind := -1
	if st.Type == unix.NSFS_MAGIC {
		// NS_GET_NSTYPE, ioctl_nsfs(2)
		if kind, err = unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil {
			f.Close()
			return nil, fmt.Errorf("asking for the kind of namespace %s: %w", path, err)
		}
	}
	if kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("%s is not a network namespace any more: %w", path, ErrNSGone)
	}
	return f, nil
}

// open returns a file descriptor of a namespace, which the caller closes.
func (h *Host) open(ns NS) (*os.File, error) {
	if ns != NodeNS {
		return openNSFile(string(ns))
	}
	fd, err := h.openFD(ns)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "node"), nil
}

// in runs do on a thread that is in the namespace: sockets that do opens, and /proc/sys/net as it
// reads it, belong there. do must not start goroutines that do so. A panic of do is the caller's,
// as it is without a thread of its own.
func (h *Host) in(ns NS, do func() error) error {
	if ns == NodeNS && !h.away {
		return do() // every thread that other goroutines can run on is there
	}
	fd, err := h.openFD(ns)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fault any
	done := make(chan error)
	go func() {
		defer close(done)
		defer func() { fault = recover() }() // the thread is still locked then, and ends with this goroutine
		done <- onThread(fd, ns, do)
	}()
	err = <-done
	<-done
	if fault != nil {
		panic(fault)
	}
	return err
}

// openFD is open without a look at what it opened: setns(2) refuses what is not a network namespace.
func (h *Host) openFD(ns NS) (fd int, err error) {
	if ns != NodeNS {
		return openPath(string(ns))
	}
	if fd, err = unix.FcntlInt(h.node.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return -1, fmt.Errorf("duplicating the node's network namespace: %w", err)
	}
	return fd, nil
}

// openPath opens a path that should be a namespace; ErrNSGone when there is nothing.
func openPath(path string) (int, error) {
	fd, err := openRead(path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, fmt.Errorf("%s does not exist: %w", path, ErrNSGone)
	}
	return fd, err
}

// openRead opens a file that nobody waits for: os.Open would ask the runtime's poller whether it can.
func openRead(path string) (fd int, err error) {
	err = again(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// onThread enters the namespace, runs do, and leaves. When it cannot leave,
// the thread stays locked to the ending goroutine, so that the runtime ends it.
func onThread(fd int, ns NS, do func() error) error {
	runtime.LockOSThread()
	origin, err := openRead("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("opening the thread's network namespace: %w", err)
	}
	defer unix.Close(origin)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("%s is not a network namespace any more: %w", ns, ErrNSGone)
		}
		return fmt.Errorf("entering %s: %w", ns.where(), err)
	}
	err = do()
	if unix.Setns(origin, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// NSExists tells whether the path still is a network namespace. Only a path that surely is none
// counts as gone: what hangs on the answer is whether a pod's networks are taken down, and a
// process that is out of file descriptors sees none.
func (h *Host) NSExists(ns NS) bool {
	f, err := h.open(ns)
	if err != nil {
		return !errors.Is(err, ErrNSGone)
	}
	f.Close()
	return true
}

// withSysfs runs do with a sysfs as the namespace sees it. Entries of network
// and RDMA devices are tagged with a namespace, and a sysfs shows those of the
// one that it was mounted from. For other namespaces than the node's we mount
// one that is attached nowhere (fsopen(2), fsmount(2); Linux 5.2) and vanishes
// with its file descriptor, so no thread has to leave its mount namespace.
func (h *Host) withSysfs(ns NS, do func(sysfs) error) error {
	if ns == NodeNS {
		return do(h.sys())
	}
	var mount int
	err := h.in(ns, func() (err error) {
		mount, err = mountSysfs()
		return err
	})
	if err != nil {
		return fmt.Errorf("mounting a sysfs of %s: %w", ns.where(), err)
	}
	defer unix.Close(mount)
	return do(sysfs(fmt.Sprintf("/proc/self/fd/%d", mount)))
}

func mountSysfs() (int, error) {
	fsfd, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", kernelError(err))
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, fmt.Errorf("fsconfig: %w", err)
	}
	mount, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return mount, nil
}
