// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kinds tells which of our errors an errno amounts to.
var kinds = map[unix.Errno]error{
	unix.ENODEV: ErrNotFound, unix.ENOENT: ErrNotFound, unix.ENXIO: ErrNotFound, unix.ESRCH: ErrNotFound,
	unix.EADDRNOTAVAIL: ErrNotFound,
	unix.EEXIST:        ErrExists, unix.ENOTUNIQ: ErrExists,
	unix.EBUSY:      ErrBusy,
	unix.EOPNOTSUPP: ErrUnsupported, unix.EPROTONOSUPPORT: ErrUnsupported, unix.EAFNOSUPPORT: ErrUnsupported,
	unix.ENOSYS: ErrUnsupported,
}

// kernelError makes an error of the kernel one that callers can tell apart, and leaves others alone.
func kernelError(err error) error {
	var errno unix.Errno
	var noLink netlink.LinkNotFoundError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &noLink), errors.Is(err, fs.ErrNotExist) && !errors.As(err, &errno):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.As(err, &errno) && kinds[errno] != nil:
		return fmt.Errorf("%w: %w", kinds[errno], err)
	}
	return err
}
