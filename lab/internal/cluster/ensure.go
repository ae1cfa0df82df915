package cluster

import "context"

// Ensure is Up for those who need a lab and do not mind if it is up already; then it brings the present product there.
func (l Lab) Ensure(ctx context.Context, o Options, command []string) error {
	_, up, err := l.Layout.Load()
	if err != nil {
		return err
	}
	if up {
		return l.LoadImage(ctx)
	}
	return l.Up(ctx, o, command)
}
