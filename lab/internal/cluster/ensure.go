// SPDX-License-Identifier: Apache-2.0

package cluster

import "context"

// Ensure is Up for those who need a lab and do not mind if it is up already. With Preload it brings
// the present product there in either case.
func (l Lab) Ensure(ctx context.Context, o Options, command []string) error {
	_, up, err := l.Layout.Load()
	if err != nil {
		return err
	}
	switch {
	case up && o.Preload:
		return l.LoadImage(ctx)
	case up:
		return nil
	}
	return l.Up(ctx, o, command)
}
